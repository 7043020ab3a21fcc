"""Proves that prediction reads images from a store, and writes maps to it, over S3's protocol."""

import fsspec
import numpy as np
import pytest
from PIL import Image

from mult_hf import MulTImageProcessor
from mult_hf.cli.main import main
from mult_hf.inference.locations import location
from mult_hf.inference.object_store import ObjectSource, find_objects
from mult_hf.inference.stored_maps import load_stored_forms, read_map
from support.s3_store import s3_store, upload

TASKS = ["depth", "normals"]


@pytest.fixture(scope="module")
def store():
    with s3_store() as url:
        yield url


@pytest.fixture
def images(tmp_path, store):
    """Images on a disk, and a URL below which the store has the same."""
    directory = tmp_path / "images"
    for number, name in enumerate(("a/x.png", "b/x.png", "b/y.png")):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(directory / name)
    return directory, upload(directory, f"{store}/{tmp_path.name}/images")


@pytest.fixture
def flags(tiny_model, tmp_path):
    """The command with a tiny model."""
    tiny_model(tasks=TASKS).save_pretrained(tmp_path / "model")
    MulTImageProcessor(size={"height": 40, "width": 40}, tasks=TASKS).save_pretrained(tmp_path / "model")
    return ["predict", "--model", str(tmp_path / "model"), "--cpu_threads", "1", "--no_panels"]


def predicted(capsys):
    return capsys.readouterr().out.splitlines()[-1].partition(": ")[2]


def test_maps_in_the_store_are_those_on_disk(images, flags, tmp_path, capsys):
    directory, url = images
    output = url.replace("/images", "/maps")
    assert main([*flags, "--inputs", str(directory), "--output_dir", str(tmp_path / "disk")]) == 0
    assert main([*flags, "--inputs", url, "--output_dir", output, "--keep_images"]) == 0
    assert predicted(capsys) == "3 predicted, 0 predicted before, 0 failed"
    entries = load_stored_forms(output)
    for task in TASKS:
        for name in ("a/x.png", "b/x.png", "b/y.png"):
            on_disk = read_map(tmp_path / "disk/maps" / task / f"{name}.png", entries[task])
            # The same images in the same batches, so nothing rounds otherwise.
            np.testing.assert_array_equal(read_map(location(output, "maps", task, f"{name}.png"), entries[task]), on_disk)
    lines = location(output, "metadata.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert '"image_file_name": "images/a/x.png.png"' in lines[0]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_an_interrupted_run_continues_in_the_store(images, flags, capsys, workers):
    """A map that is missing, or an image whose contents changed, is predicted again; nothing else is."""
    directory, url = images
    output = url.replace("/images", f"/maps{workers}")
    argv = [*flags, "--inputs", url, "--output_dir", output, "--num_workers", workers]
    assert main([*argv[:-1], "0"]) == 0
    location(output, "maps", "normals", "b/y.png.png").unlink()
    Image.new("RGB", (50, 40), "red").save(directory / "a/x.png")
    upload(directory, url)
    capsys.readouterr()
    assert main(argv) == 0
    assert predicted(capsys) == "2 predicted, 1 predicted before, 0 failed"
    assert main([*flags, "--inputs", url, "--output_dir", output, "--flip"]) == 2, "other settings are refused"
    assert "contains predictions that differ in ['flip']" in capsys.readouterr().err
    assert main([*argv, "--flip", "--overwrite"]) == 0
    assert predicted(capsys) == "3 predicted, 0 predicted before, 0 failed"


def test_an_object_has_the_same_stamp_whether_its_folder_was_listed_or_not(images):
    """Otherwise a resumed run would read every image again: fsspec describes an object differently after a listing."""
    _, url = images
    fsspec.filesystem("s3").invalidate_cache()
    alone = [image.record() for name in ("a/x.png", "b/x.png", "b/y.png") for image in ObjectSource(find_objects([f"{url}/{name}"]))]
    fsspec.filesystem("s3").invalidate_cache()
    assert [image.record() for image in ObjectSource(find_objects([url]))] == alone


def test_markers_of_folders_are_no_images(images):
    """Consoles of object stores create empty objects whose names end in a slash."""
    _, url = images
    fsspec.filesystem("s3").call_s3("put_object", Bucket="bucket", Key=f"{url.removeprefix('s3://bucket/')}/a/", Body=b"")
    fsspec.filesystem("s3").invalidate_cache()
    found = find_objects([url])
    assert len(found.urls) == 3
    assert not found.ignored


@pytest.mark.parametrize("flag", ["--inputs", "--output_dir"])
def test_a_store_that_cannot_be_used_is_named_on_one_line(images, flags, capsys, monkeypatch, flag):
    directory, url = images
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # which would be asked for credentials
    fsspec.filesystem("s3").clear_instance_cache()
    inputs, output = (url, "unused") if flag == "--inputs" else (str(directory), f"{url}/maps")
    assert main([*flags, "--inputs", inputs, "--output_dir", output]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"mult-hf predict: error: {url}")
    assert "check the credentials, the store's address, and the network" in error
    fsspec.filesystem("s3").clear_instance_cache()


def test_the_folder_of_another_program_is_left_alone(images, flags, capsys):
    _, url = images
    assert main([*flags, "--inputs", url, "--output_dir", url]) == 2
    assert "contains files that are not predictions; give a new or empty --output_dir" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.nightly
def test_processes_on_ray_read_from_the_store_and_write_to_it(images, flags, capsys):
    pytest.importorskip("ray")
    _, url = images
    argv = [*flags, "--inputs", url, "--output_dir", url.replace("/images", "/on_ray"), "--engine", "ray", "--ray_workers", "2"]
    assert main(argv) == 0
    assert predicted(capsys) == "3 predicted, 0 predicted before, 0 failed"
    assert main(argv) == 0
    assert predicted(capsys) == "0 predicted, 3 predicted before, 0 failed"
