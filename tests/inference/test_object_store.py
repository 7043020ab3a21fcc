"""Proves that images in an object store are found, named and read like files."""

import io

import fsspec
import numpy as np
import pytest
from PIL import Image

from mult_hf import MulTImageProcessor
from mult_hf.cli.predict import main
from mult_hf.inference.object_store import ObjectSource, find_objects

TASKS = ["depth", "normals"]


def put(name, value=0, content=None):
    if content is None:
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(value).integers(0, 255, (40, 50, 3), np.uint8)).save(file, "PNG")
        content = file.getvalue()
    with fsspec.open(f"memory://bucket/{name}", "wb") as file:
        file.write(content)


@pytest.fixture(autouse=True)
def store():
    """A store in memory."""
    put("images/a/x.png", 1)
    put("images/b/x.png", 2)
    put("images/b/notes.txt", content=b"text")
    yield
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (["memory://bucket/images"], ["a/x.png", "b/x.png"]),
        (["memory://bucket/images/*/x.png"], ["a/x.png", "b/x.png"]),
        (["memory://bucket/images/b/*"], ["x.png"]),
        (["memory://bucket/images/b", "memory://bucket/images/a/x.png"], ["a/x.png", "b/x.png"]),
        (["memory://bucket/images/b/notes.txt"], ["notes.txt"]),
    ],
)
def test_images_are_named_below_the_folder_that_all_inputs_share(inputs, names):
    source = ObjectSource(find_objects(inputs))
    assert [image.name for image in source] == names
    assert [image.name for part in source.parts() for image in source.part([part])] == names


def test_other_files_in_folders_are_counted():
    assert find_objects(["memory://bucket/images"]).ignored == {".txt": 1}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["memory://bucket/nothing"], "memory://bucket/nothing does not exist; give URLs of images"),
        (["memory://bucket/images", "local.png"], "--inputs has paths and URLs; give either"),
        (["unknown://bucket"], "Protocol not known: unknown"),
    ],
)
def test_inputs_that_are_not_found_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        find_objects(inputs)


def test_a_changed_object_has_another_record():
    before = [image.record() for image in ObjectSource(find_objects(["memory://bucket/images"]))]
    put("images/a/x.png", 3)
    after = [image.record() for image in ObjectSource(find_objects(["memory://bucket/images"]))]
    assert before[0].digest != after[0].digest
    assert before[0].stamp != after[0].stamp
    assert before[1] == after[1]


def test_predictions_are_those_of_the_same_files_on_disk(tiny_model, tmp_path, capsys):
    tiny_model(tasks=TASKS).save_pretrained(tmp_path / "model")
    MulTImageProcessor(size={"height": 40, "width": 40}, tasks=TASKS).save_pretrained(tmp_path / "model")
    put("images/broken.png", content=b"no image")
    fsspec.filesystem("memory").get("/bucket/images", str(tmp_path / "images"), recursive=True)
    flags = ["--model", str(tmp_path / "model"), "--cpu_threads", "1", "--no_panels"]
    reports = []
    for inputs, output in (("memory://bucket/images", "store"), (str(tmp_path / "images"), "disk")):
        assert main([*flags, "--inputs", inputs, "--output_dir", str(tmp_path / output)]) == 1
        reports.append(capsys.readouterr().out.splitlines()[-1].partition(": ")[2])
    assert reports == ["2 predicted, 0 predicted before, 1 failed"] * 2
    for name in ("a/x.png", "b/x.png"):
        for task in TASKS:
            # The same images in the same batches, so nothing rounds otherwise.
            stored, expected = ((tmp_path / output / "maps" / task / f"{name}.png").read_bytes() for output in ("store", "disk"))
            assert stored == expected
    assert main([*flags, "--inputs", "memory://bucket/images", "--output_dir", str(tmp_path / "store")]) == 1
    assert "0 predicted, 2 predicted before, 1 failed" in capsys.readouterr().out


def test_maps_are_written_to_a_store_and_found_there_by_a_second_run(tiny_model, tmp_path, capsys):
    pytest.importorskip("upath")
    tiny_model(tasks=TASKS).save_pretrained(tmp_path / "model")
    MulTImageProcessor(size={"height": 40, "width": 40}, tasks=TASKS).save_pretrained(tmp_path / "model")
    flags = ["--model", str(tmp_path / "model"), "--cpu_threads", "1", "--inputs", "memory://bucket/images"]
    for output in (str(tmp_path / "disk"), "memory://bucket/maps"):
        assert main([*flags, "--output_dir", output]) == 0
        assert main([*flags, "--output_dir", output]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == f"written to {output}: 0 predicted, 2 predicted before, 0 failed"
    files = {path.relative_to(tmp_path / "disk").as_posix() for path in (tmp_path / "disk").rglob("*") if path.is_file()}
    stored = {path.removeprefix("/bucket/maps/") for path in fsspec.filesystem("memory").find("/bucket/maps")}
    assert stored == files - {".run.lock"}
