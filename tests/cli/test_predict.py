"""Proves that `mult-hf predict` writes the model's predictions once, despite failures and interruptions, with any number of processes."""

import json
import os
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as Feature
from PIL import Image

from mult_hf import MulTForMultiTaskDensePrediction, MulTImageProcessor, TaskSpec
from mult_hf.cli import predict as script
from mult_hf.inference.directory_lock import HOLDER_FILE, LOCK_FILE, exclusive_run
from mult_hf.inference.predictor import TestTimeAugmentation, predict
from mult_hf.inference.scale import ViewSize
from mult_hf.inference.stored_maps import load_stored_forms, precision, read_map
from mult_hf.inference.tiling import tiled
from support.forked import run_together, start
from support.pictures import save_images

SIZE = 40
TASKS = ["segmentation", "depth", "normals", {"name": "curvature", "kind": "regression", "channels": 2}]  # the last is of no module
PICTURES = str(Path(__file__).parents[2] / "docs/images")


@pytest.fixture
def model(shallow_model, tmp_path):
    model = shallow_model(tasks=TASKS)
    model.save_pretrained(tmp_path / "model")
    MulTImageProcessor(size={"height": SIZE, "width": SIZE}, tasks=model.config.tasks).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def images(tmp_path):
    return save_images(tmp_path / "images", "a/x.png", "b/x.png", "b/x.jpg")


@pytest.fixture
def run(model, tmp_path, capsys):
    """Run the command in this process; returns its exit status and output."""

    def start(*flags, output="out"):
        words = ["--model", model, "--output_dir", tmp_path / output, "--cpu_threads", 1, *flags]
        status = script.main([*map(str, words)])
        return status, capsys.readouterr().out

    return start


def contents(directory):
    """The files of a directory except those of the lock."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name not in (LOCK_FILE, HOLDER_FILE)]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def assert_predicted(directory, name, path, model_directory, augmentation=None, **size):
    """The stored maps of an image equal the results of processor, model and `post_process`, within their precision."""
    model = MulTForMultiTaskDensePrediction.from_pretrained(model_directory).eval()
    processor = MulTImageProcessor.from_pretrained(model_directory, **size)
    image = Image.open(path)
    outputs = predict(model, processor(image, return_tensors="pt")["pixel_values"], augmentation)
    (maps,) = processor.post_process(outputs, [(image.height, image.width)])
    for task, entry in load_stored_forms(directory).items():
        (stored,) = (directory / "maps" / task).glob(f"{name}.*")
        read = read_map(stored, entry)
        expected = maps[task]["prediction"].numpy().reshape(read.shape)
        np.testing.assert_allclose(read, expected, atol=precision(entry) + 1e-5, rtol=1e-4)


def assert_same_maps(directory, other, names=None):
    """The stored maps of two directories agree, or those of the given images.

    Rounding depends on the CPU and on the other images of a batch, so numbers may differ by a step of their encoding and by float32's
    rounding (1e-4 of values around 1), and classes at pixels where two are equally likely.
    """
    entries = load_stored_forms(directory)
    assert entries.keys() == load_stored_forms(other).keys()
    for task, entry in entries.items():
        paths = sorted(path for path in (directory / "maps" / task).rglob("*") if path.is_file())
        paths = [path for path in paths if names is None or path.relative_to(directory / "maps" / task).as_posix()[:-4] in names]
        assert paths, "premise: there is something to compare"
        for path in paths:
            read, expected = read_map(path, entry), read_map(other / path.relative_to(directory), entry)
            if entry.is_classification:
                assert (read != expected).mean() < 0.01
            else:
                np.testing.assert_allclose(read, expected, atol=2 * precision(entry) + 1e-4, rtol=1e-4)


# --- written files


def test_every_image_has_the_maps_of_the_model_at_its_own_size(run, images, model, tmp_path):
    """Also an unregistered task; files with equal stems do not collide."""
    status, _ = run("--inputs", images, "--batch_size", 2)
    assert status == 0
    for name in ("a/x.png", "b/x.png", "b/x.jpg"):
        assert_predicted(tmp_path / "out", name, images / name, model)
        with Image.open(tmp_path / "out/panels" / f"{name}.jpg") as panel:
            assert panel.width > 5 * 200, "the image and four maps"
    assert len(contents(tmp_path / "out")) == 1 + 3 * 6, "the card; four maps, a panel and the record per image"


def test_the_mirrored_image_is_averaged_in(run, images, model, tmp_path):
    run("--inputs", images / "a", "--flip")
    assert_predicted(tmp_path / "out", "x.png", images / "a/x.png", model, TestTimeAugmentation(flip=True))


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["48"], {"size": {"height": 48, "width": 48}}),
        (["48", "72"], {"size": {"height": 48, "width": 72}}),
        (["own"], {"do_resize": False}),
    ],
)
def test_the_model_sees_images_at_the_requested_size(run, images, model, tmp_path, words, size):
    run("--inputs", images / "a", "--image_size", *words)
    assert_predicted(tmp_path / "out", "x.png", images / "a/x.png", model, **size)


def test_the_model_sees_images_of_several_sizes_unchanged(run, model, tmp_path):
    folder = save_images(tmp_path / "images", "1.png", "3.png", size=(60, 50))
    save_images(folder, "2.png", "4.png", size=(44, 70))
    run("--inputs", folder, "--image_size", "own", "--batch_size", 2)
    for number in range(1, 5):
        assert_predicted(tmp_path / "out", f"{number}.png", folder / f"{number}.png", model, do_resize=False)


def test_an_image_smaller_than_a_tile_is_predicted_as_without_tiles_and_a_larger_one_in_tiles_of_the_models_size(run, model, tmp_path):
    """Also one that is smaller than the model takes: it is enlarged."""
    folder = save_images(tmp_path / "images", "small.png", size=(60, 50))
    save_images(folder, "large.png", size=(200, 90))
    save_images(folder, "thin.png", size=(20, 300))
    status, printed = run("--inputs", folder, "--tile", 64)
    assert status == 0
    assert "note" not in printed
    loaded = MulTForMultiTaskDensePrediction.from_pretrained(model).eval()
    processor = MulTImageProcessor.from_pretrained(model, do_resize=False)
    predictor = tiled(partial(predict, loaded), loaded.config.task_specs, 64, ViewSize(SIZE, SIZE))
    for name in ("small.png", "large.png", "thin.png"):
        image = Image.open(folder / name)
        (maps,) = processor.post_process(predictor(processor(image, return_tensors="pt")["pixel_values"]), [(image.height, image.width)])
        entry = load_stored_forms(tmp_path / "out")["depth"]
        depth = read_map(tmp_path / "out/maps/depth" / f"{name}.png", entry)
        np.testing.assert_allclose(depth[0], maps["depth"]["prediction"], atol=precision(entry) + 1e-4)
    # 8 bits of a resized image differ from resized numbers of it by half a grey level.
    run("--inputs", folder / "small.png", output="plain")
    entry = load_stored_forms(tmp_path / "plain")["depth"]
    plain, small = (read_map(tmp_path / out / "maps/depth/small.png.png", entry) for out in ("plain", "out"))
    np.testing.assert_allclose(small, plain, atol=0.05)


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        (
            ["--image_size", "own"],
            "1 image: objects appear 3.8 times as large as in the training images (150 x 150 pixels, trained on",
        ),
        (["--image_size", "own", "--tile", "64"], "1 image: objects appear 3.8 times as large"),
        (
            ["--image_size", "80"],
            "2 images: objects appear 2 times as large as in the training images (80 x 80 pixels, trained on 40",
        ),
        (["--tile", "32"], "1 image: tiles magnify objects 4.7 times, and more than 3 times does not help"),
        (["--tile", "64"], None),
        (["--image_size", "44"], None),
        ([], None),
    ],
)
def test_a_scale_far_from_the_training_images_is_said_once(run, tmp_path, flags, note):
    """The model was trained on 40 x 40 pixels."""
    folder = save_images(tmp_path / "images", "small.png", size=(50, 44))
    save_images(folder, "large.png", size=(150, 150))
    status, printed = run("--inputs", folder, "--no_panels", "--tasks", "depth", *flags)
    assert status == 0
    notes = [line for line in printed.splitlines() if line.startswith("note")]
    assert len(notes) == (note is not None)
    assert not notes or notes[0].startswith(f"note for {note}")
    assert not notes or notes[0].endswith(("leave --image_size out", "give a larger --tile"))


def test_a_processor_that_keeps_the_aspect_ratio_is_taken(run, model, tmp_path):
    MulTImageProcessor.from_pretrained(model, size={"shortest_edge": SIZE}).save_pretrained(model)
    folder = save_images(tmp_path / "images", "a.png", size=(120, 60))
    assert run("--inputs", folder)[0] == 0
    assert_predicted(tmp_path / "out", "a.png", folder / "a.png", model)
    assert run("--inputs", folder, "--tile", 64, output="tiles")[0] == 0


def test_only_requested_tasks_are_written(run, images, tmp_path):
    run("--inputs", images, "--tasks", "depth", "--no_panels")
    assert {name.split("/")[1] for name in contents(tmp_path / "out") if name.startswith("maps/")} == {"depth"}


def test_predictions_for_a_data_set_form_a_data_set(run, images, tmp_path):
    """A second run uses the images that the first run kept."""
    run("--inputs", images, "--keep_images")
    status, _ = run("--dataset", tmp_path / "out", "--split", "train", output="again")
    assert status == 0
    names = [name for name in contents(tmp_path / "again") if name.startswith("maps/depth")]
    assert sorted(names) == [f"maps/depth/00000{n}-{text}.png" for n, text in enumerate(("a_x.png", "b_x.jpg", "b_x.png"))]
    entry = load_stored_forms(tmp_path / "out")["depth"]
    first, again = (read_map(tmp_path / name, entry) for name in ("out/maps/depth/a/x.png.png", "again/maps/depth/000000-a_x.png.png"))
    np.testing.assert_allclose(again, first, atol=2 * precision(entry) + 1e-4)


def test_frames_of_a_video_are_predicted(run, tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height = 64, 48
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    status, _ = run("--inputs", tmp_path / "clip.mp4", "--frame_step", 2, "--tasks", "depth", "--no_panels")
    assert status == 0
    frames = ("000000", "000002")
    expected = {*(f"maps/depth/clip.mp4/{frame}.png" for frame in frames), *(f"sources/clip.mp4/{frame}.txt" for frame in frames)}
    assert set(contents(tmp_path / "out")) == {"README.md", *expected}


# --- failures


def test_broken_images_are_listed_at_the_end_and_the_others_are_predicted(run, images, tmp_path):
    whole = (images / "b/x.png").read_bytes()
    (images / "b/cut.png").write_bytes(whole[: len(whole) // 2])
    (images / "words.jpg").write_text("not an image")
    (images / "empty.png").write_bytes(b"")
    status, printed = run("--inputs", images)
    assert status == 1
    lines = printed.splitlines()
    assert [line.split(":")[1].strip() for line in lines[:-1]] == ["b/cut.png", "empty.png", "words.jpg"]
    assert all(line.startswith("not predicted: ") for line in lines[:-1])
    assert lines[-1].endswith("3 predicted, 0 predicted before, 3 failed")
    assert len([name for name in contents(tmp_path / "out") if name.startswith("maps/depth/")]) == 3


def test_odd_inputs_succeed_or_fail_with_a_reason_also_in_the_next_run(run, tmp_path, monkeypatch):
    """Each of these once stopped the whole run."""
    monkeypatch.setitem(sys.modules, "av", None)
    folder = save_images(tmp_path / "images", "good.png", "blocked.png", f"{'n' * 248}.png")
    Image.new("RGB", (1, 70_000)).save(folder / "column.png")
    (folder / "clip.mp4").write_bytes(b"any")
    Path(os.fsdecode(os.fsencode(folder / "undecodable") + b"\xff.png")).write_text("not an image")
    run("--inputs", folder / "good.png")
    (tmp_path / "out/maps/depth/blocked.png.png").mkdir(parents=True)
    for _ in range(2):
        status, printed = run("--inputs", folder)
        assert status == 1
        *failed, summary = printed.splitlines()
        reasons = dict(line.removeprefix("not predicted: ").split(": ", 1) for line in failed)
        assert sorted(reasons) == sorted(["blocked.png", "clip.mp4", f"{'n' * 248}.png", "undecodable\\udcff.png"])
        assert "is a folder, but a file must be written there; move the folder away" in reasons["blocked.png"]
        assert 'pip install "mult-hf[video]"' in reasons["clip.mp4"]
        assert "at most 255 are allowed" in reasons[f"{'n' * 248}.png"]
        assert summary.endswith("4 failed")
    assert (tmp_path / "out/panels/column.png.jpg").is_file()
    assert (tmp_path / "out/panels/good.png.jpg").is_file()


def test_a_failed_input_is_one_line_whatever_its_name(run, tmp_path):
    folder = save_images(tmp_path / "images", "good.png")
    (folder / "two\nlines\t.png").write_text("no image")
    (folder / "snow \N{SNOWMAN}.png").write_text("no image")
    status, printed = run("--inputs", folder)
    assert status == 1
    first, second, _ = sorted(printed.splitlines())
    assert first.startswith("not predicted: snow \N{SNOWMAN}.png: ")
    assert second.startswith("not predicted: two\\nlines\\t.png: ")


def test_an_image_that_is_too_small_for_the_model_is_listed(run, tmp_path):
    folder = save_images(tmp_path / "images", "tiny.png", size=(31, 60))
    status, printed = run("--inputs", folder, "--image_size", "own")
    assert status == 1
    assert "31 x 60 pixels are too few; the model needs 32 per side; set --image_size" in printed
    assert run("--inputs", folder, output="resized")[0] == 0


def test_inputs_may_stand_before_all_flags(model, tmp_path):
    folder = save_images(tmp_path / "images", "a.png", "b.png")
    assert script.main([*map(str, [folder / "a.png", folder / "b.png", "--model", model, "--output_dir", tmp_path / "out"])]) == 0
    assert {path.name for path in (tmp_path / "out/panels").iterdir()} == {"a.png.jpg", "b.png.jpg"}


@pytest.mark.parametrize(("flags", "pictures"), [([], True), (["--no_panels"], False)])
def test_the_command_says_where_maps_and_pictures_lie_and_what_the_model_knows(model, tmp_path, capsys, flags, pictures):
    out = tmp_path / "out"
    (model / "README.md").write_text("---\nmult_trained_on: rooms\n---\n")
    script.main([*map(str, [save_images(tmp_path / "images", "a.png"), "--model", model, "--output_dir", out, *flags])])
    assert f"maps are under {out}/maps/TASK/" in (said := capsys.readouterr().err)
    assert ("panels/" in said) == pictures == (out / "panels").exists()
    assert "the model was trained on rooms; expect less of other scenes" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--inputs is None, --dataset is None; give one of the two: `mult-hf predict photo.jpg`"),
        (["--inputs", "x", "--dataset", "y"], "give one of the two"),
        (["--inputs", "x", "--image_size", "31"], r"--image_size is \['31'\]; give a side"),
        (["--inputs", "x", "--image_size", "big"], r"--image_size is \['big'\]; give a side"),
        (["--inputs", "x", "--frame_step", "0"], "--frame_step is 0; it must be at least 1"),
        (
            ["--inputs", PICTURES, "--tasks", "dept"],
            r"--tasks has \['dept'\]; .* has \['segmentation', 'depth'",
        ),
        (["--inputs", "no/such/file", "--model", "no/such/model"], "no/such/file does not exist"),  # said before a model is loaded
    ],
)
def test_invalid_flags_are_refused(run, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        run(*flags)
    assert not (tmp_path / "out").exists()


# --- repeated runs


def test_only_new_and_missing_images_are_predicted_in_a_second_run(run, images, tmp_path):
    run("--inputs", images)
    shutil.copytree(tmp_path / "out", tmp_path / "first")
    before = contents(tmp_path / "out")
    times = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before}
    (tmp_path / "out/maps/depth/b/x.png.png").unlink()
    save_images(images, "a/y.png")
    status, _ = run("--inputs", images)
    assert status == 0
    after = contents(tmp_path / "out")
    assert after.keys() - before.keys() == {name.replace("b/x.png", "a/y.png") for name in before if "b/x.png" in name}
    kept = [name for name in before if "b/x.png" not in name]
    assert len(kept) == 13
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in kept} == {name: times[name] for name in kept}
    assert_same_maps(tmp_path / "out", tmp_path / "first", names=["b/x.png"])  # predicted in a batch of two now, of three before


def test_another_image_under_the_name_of_an_earlier_one_is_predicted(run, images, tmp_path):
    """Of another size, of the same size, and a renamed one; also where the times are those of before."""
    run("--inputs", images)
    before = contents(tmp_path / "out")
    save_images(tmp_path / "new", "1.png", "2.png", "3.png", "4.png", size=(60, 50))
    times = (images / "b/x.png").stat()
    shutil.copy(tmp_path / "new/4.png", images / "b/x.png")
    os.utime(images / "b/x.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    Image.new("RGB", (33, 70)).save(images / "b/x.jpg")
    status, printed = run("--inputs", images)
    assert status == 0
    assert "2 predicted, 1 predicted before, 0 failed" in printed
    after = contents(tmp_path / "out")
    assert after["maps/depth/b/x.png.png"] != before["maps/depth/b/x.png.png"]
    assert Image.open(tmp_path / "out/maps/depth/b/x.jpg.png").size == (33, 70)
    assert {name for name in after if after[name] != before[name]} == {name for name in after if "b/x" in name}
    assert "0 predicted, 3 predicted before" in run("--inputs", images)[1]


def test_an_image_that_was_only_touched_is_not_predicted_again(run, images, tmp_path):
    run("--inputs", images)
    os.utime(images / "a/x.png", (1, 1))
    shutil.copytree(images, tmp_path / "moved")
    shutil.rmtree(images)
    shutil.copytree(tmp_path / "moved", images)
    assert "0 predicted, 3 predicted before" in run("--inputs", images)[1]


def test_another_image_in_a_row_of_a_data_set_is_predicted(run, tmp_path):
    def write(*colours):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        (tmp_path / "data").mkdir()
        rows = Dataset.from_dict(
            {"image": [Image.new("RGB", (40, 40), colour) for colour in colours]}, features=Features({"image": Feature()})
        )
        rows.to_parquet(str(tmp_path / "data/test-00000-of-00001.parquet"))

    flags = ["--dataset", tmp_path / "data", "--split", "test"]
    write("red", "blue")
    assert "2 predicted, 0 predicted before" in run(*flags)[1]
    assert "0 predicted, 2 predicted before" in run(*flags)[1]
    write("red", "green")
    assert "1 predicted, 1 predicted before" in run(*flags)[1]


def test_other_weights_are_refused_without_overwrite(run, images, model, tmp_path):
    run("--inputs", images)
    before = contents(tmp_path / "out")
    trained = MulTForMultiTaskDensePrediction.from_pretrained(model)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.1)
    trained.save_pretrained(model)
    with pytest.raises(ValueError, match=r"differ in \['weights'\].*--overwrite"):
        run("--inputs", images)
    assert contents(tmp_path / "out") == before
    run("--inputs", images, "--overwrite")
    after = contents(tmp_path / "out")
    assert after.keys() == before.keys()
    assert after["maps/normals/a/x.png.png"] != before["maps/normals/a/x.png.png"]


def test_predictions_of_another_preprocessing_or_configuration_are_not_mixed_in(run, images, model, tmp_path):
    """A copy of the model elsewhere is the same model."""
    run("--inputs", images, "--no_panels")
    shutil.copytree(model, tmp_path / "copy")
    assert run("--inputs", images, "--no_panels", "--model", tmp_path / "copy")[0] == 0
    for file, key, value in (("preprocessor_config.json", "image_mean", [0.0, 0.0, 0.0]), ("config.json", "layer_norm_eps", 0.001)):
        changed = json.loads((model / file).read_text())
        (tmp_path / "copy" / file).write_text(json.dumps({**changed, key: value}))
        with pytest.raises(ValueError, match=r"differ in \['(preprocessing|configuration)'\].*--overwrite"):
            run("--inputs", images, "--no_panels", "--model", tmp_path / "copy")
        (tmp_path / "copy" / file).write_text(json.dumps(changed))


@pytest.mark.parametrize("flags", [["--flip"], ["--tile", "64"], ["--image_size", "own"], ["--tasks", "depth"], ["--max_side", "30"]])
def test_results_with_other_settings_are_not_mixed_in(run, images, flags):
    run("--inputs", images, "--no_panels")
    with pytest.raises(ValueError, match=r"contains predictions that differ in .*--overwrite"):
        run("--inputs", images, "--no_panels", *flags)


def test_images_of_another_folder_do_not_count_as_finished(run, images):
    run("--inputs", images / "a")
    with pytest.raises(ValueError, match=r"differ in \['names_below'\]"):
        run("--inputs", images / "b")


@pytest.mark.parametrize("flags", [[], ["--overwrite"]], ids=["continuing", "overwriting"])
def test_a_second_run_in_one_directory_is_refused_and_changes_nothing(run, images, tmp_path, flags):
    run("--inputs", images)
    with exclusive_run(tmp_path / "out"):
        before = contents(tmp_path / "out")
        with pytest.raises(ValueError, match=f"another run is writing to .*out: process {os.getpid()} on "):
            run("--inputs", images, *flags)
        assert contents(tmp_path / "out") == before
    assert run("--inputs", images, *flags)[0] == 0


def test_results_in_the_input_folder_are_not_used_as_images(run, images):
    for _ in range(2):
        assert run("--inputs", images, output="images/out")[0] == 0
    assert len([name for name in contents(images / "out") if name.startswith("panels/")]) == 3


@pytest.mark.slow
def test_a_run_killed_at_any_moment_continues_to_the_same_files(run, model, tmp_path):
    """Kill -9 while images are being written."""
    folder = save_images(tmp_path / "images", *(f"{number:03d}.png" for number in range(80)))
    argv = ["--model", model, "--output_dir", tmp_path / "killed", "--cpu_threads", 1, "--inputs", folder]
    process = start(script.main, [*map(str, argv)], output=tmp_path / "output.txt")
    while len(list((tmp_path / "killed").glob("panels/*.jpg"))) < 10:
        assert process.is_alive(), (tmp_path / "output.txt").read_text()
        time.sleep(0.01)
    process.kill()
    process.join()
    # The record is written last: an image that was killed before it is predicted again.
    done = [tmp_path / "killed/panels" / f"{path.stem}.jpg" for path in (tmp_path / "killed").glob("sources/*.txt")]
    assert 9 <= len(done) < 80, "the premise: it was killed on its way"
    times = {path: path.stat().st_mtime_ns for path in done}
    assert run("--inputs", folder, output="killed")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in done} == times
    run("--inputs", folder, output="whole")
    assert contents(tmp_path / "killed").keys() == contents(tmp_path / "whole").keys()
    assert_same_maps(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_write_each_file_once_and_list_every_broken_image(run, model, tmp_path):
    folder = save_images(tmp_path / "images", *(f"{number:03d}.png" for number in range(11)))
    for name in ("004", "007"):
        (folder / f"{name}.png").write_text("not an image")
    flags = ["--inputs", folder, "--keep_images"]
    argv = ["--model", model, "--output_dir", tmp_path / "two", "--cpu_threads", 1, *flags]
    cpu = {"ACCELERATE_USE_CPU": "true"}  # as `accelerate launch --cpu` sets it
    printed, statuses = run_together(script.main, [*map(str, argv)], output=tmp_path / "output.txt", environment=cpu)
    assert statuses == [1, 1], printed
    assert printed.count("not predicted: 004.png") == printed.count("not predicted: 007.png") == printed.count("written to") == 1
    run(*flags, output="one")
    assert contents(tmp_path / "two").keys() == contents(tmp_path / "one").keys()
    assert_same_maps(tmp_path / "two", tmp_path / "one")
    assert contents(tmp_path / "two")["metadata.jsonl"] == contents(tmp_path / "one")["metadata.jsonl"]


def test_an_unregistered_task_is_stored_according_to_its_entry(model):
    """The premise of the tests above."""
    assert TaskSpec.from_dict(TASKS[-1]) in MulTForMultiTaskDensePrediction.from_pretrained(model).config.task_specs.values()
