"""Proves that a failed input, wherever it fails, does not affect the others."""

import errno
import math
import threading
import weakref
from functools import partial

import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import ExifTags, Image

from mult_hf import MulTImageProcessor, registered_tasks
from mult_hf.inference import run as module
from mult_hf.inference.errors import ExportError, MissingMemoryError
from mult_hf.inference.output import PredictionDirectory
from mult_hf.inference.run import PredictionRun, prepare
from mult_hf.inference.sources import InputImage, RowSource
from mult_hf.inference.stored_maps import read_map

SPECS = {"depth": registered_tasks()["depth"]}
ROWS = Features({"image": ImageFeature(), "focal_length": Value("float64")})


class Images:
    """Grey images by name, 40 x 36; `broken` ones cannot be read."""

    def __init__(self, *names, broken=()):
        self.names, self.broken = names, broken

    def read(self, name):
        """A grey image with ten times its position as its value."""
        if name in self.broken:
            raise OSError(f"{name} is truncated")
        return Image.new("RGB", (40, 36), (10 * self.names.index(name),) * 3)

    def __iter__(self):
        return (InputImage(name, partial(self.read, name), partial(str, name)) for name in self.names)

    def __len__(self):
        return len(self.names)


def two_metres(pixel_values):
    return {"depth": torch.full((len(pixel_values), 1, *pixel_values.shape[-2:]), 2.0)}


@pytest.fixture
def run(tmp_path):
    """Make a run with this predictor that writes to `tmp_path`."""

    def make(predictor=two_metres, batch_size=2, **kwargs):
        processor = MulTImageProcessor(do_resize=False, tasks=list(SPECS.values()))
        return PredictionRun(predictor, processor, PredictionDirectory(tmp_path, SPECS, **kwargs), batch_size)

    return make


def written(directory):
    return sorted(path.name.removesuffix(".png") for path in directory.glob("maps/depth/*") if path.is_file())


def test_every_image_is_done_skipped_or_failed_with_its_reason(run, tmp_path):
    run()(Images("b"))
    outcomes = run()(Images("a", "b", "c", "d", broken={"c"}))
    assert (outcomes.done, outcomes.skipped, outcomes.failed) == (2, 1, [("c", "c is truncated")])
    assert written(tmp_path) == ["a", "b", "d"]


def test_a_failing_export_ends_the_run_and_keeps_the_maps_that_were_predicted(run, tmp_path, monkeypatch):
    """Their files are written while the next batch is predicted; here that takes longer."""
    write, failed = PredictionDirectory.write, threading.Event()

    def write_late(*arguments):
        failed.wait(5)
        write(*arguments)

    def cannot_be_exported_again(pixel_values):
        if (pixel_values == expected).flatten(1).all(dim=1).any():
            failed.set()
            raise ExportError("the cache cannot be written")
        return two_metres(pixel_values)

    monkeypatch.setattr(PredictionDirectory, "write", write_late)
    made = run(cannot_be_exported_again)
    expected = made.processor(Image.new("RGB", (40, 36), (20,) * 3), return_tensors="pt")["pixel_values"][0]
    with pytest.raises(ExportError, match="the cache cannot be written"):
        made(Images("a", "b", "c", "d"))
    assert written(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("error", [MissingMemoryError("not enough memory"), RuntimeError("not enough memory")])
def test_memory_that_is_missing_for_one_size_fails_its_images_only(run, tmp_path, error):

    class Sizes(Images):
        def read(self, name):
            return Image.new("RGB", (160, 160) if name.startswith("large") else (64, 64))

    def only_small(pixel_values):
        if pixel_values.shape[-1] == 160:
            raise error
        return two_metres(pixel_values)

    outcomes = run(only_small)(Sizes("a", "large 1", "b", "large 2", "c"))
    assert (outcomes.done, sorted(outcomes.failed)) == (3, [("large 1", "not enough memory"), ("large 2", "not enough memory")])
    assert written(tmp_path) == ["a", "b", "c"]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_prediction_failure_for_one_image_does_not_affect_its_batch(run, tmp_path, batch_size):
    def out_of_memory_at_20(pixel_values):
        if (pixel_values == expected).flatten(1).all(dim=1).any():
            raise RuntimeError("out of memory")
        return two_metres(pixel_values)

    made = run(out_of_memory_at_20, batch_size)
    expected = made.processor(Image.new("RGB", (40, 36), (20,) * 3), return_tensors="pt")["pixel_values"][0]
    outcomes = made(Images("a", "b", "c", "d"))
    assert (outcomes.done, outcomes.failed) == (3, [("c", "out of memory")])
    assert written(tmp_path) == ["a", "b", "d"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_prediction_that_is_not_finite_fails_its_image(run, tmp_path, value):
    """It would be written as a map of unknown pixels, and a NaN among logits as the first class."""

    def overflowing_at_20(pixel_values):
        predictions = two_metres(pixel_values)
        predictions["depth"][(pixel_values == expected).flatten(1).all(dim=1), ..., 0, 0] = value
        return predictions

    made = run(overflowing_at_20, 2)
    expected = made.processor(Image.new("RGB", (40, 36), (20,) * 3), return_tensors="pt")["pixel_values"][0]
    outcomes = made(Images("a", "b", "c", "d"))
    ((name, reason),) = outcomes.failed
    assert (outcomes.done, name) == (3, "c")
    assert reason.startswith("the model's prediction of depth is not finite")
    assert written(tmp_path) == ["a", "b", "d"]


def test_a_folder_instead_of_a_file_fails_one_image(run, tmp_path):
    (tmp_path / "maps/depth/b.png/inside").mkdir(parents=True)
    outcomes = run()(Images("a", "b", "c"))
    ((name, reason),) = outcomes.failed
    assert name == "b"
    assert "maps/depth/b.png is a folder, but a file must be written there; move the folder away" in reason
    assert written(tmp_path) == ["a", "c"]
    assert not list(tmp_path.rglob("*.unfinished"))


def test_a_file_instead_of_a_folder_fails_one_image(run, tmp_path):
    """The map of an image `x` without suffix is where the folder `x.png` of another image's map is to be."""
    outcomes = run()(Images("x", "x.png/y", "z"))
    assert [name for name, _ in outcomes.failed] == ["x.png/y"]
    assert written(tmp_path) == ["x", "z"]


@pytest.mark.parametrize("length", [246, 251, 252, 255])
def test_an_image_is_predicted_if_its_file_names_are_short_enough(run, tmp_path, length):
    """A map's name is 4 bytes longer, and 255 are allowed; the temporary file's name imposes no other limit."""
    outcomes = run()(Images("a", "n" * length))
    assert outcomes.done + len(outcomes.failed) == 2
    assert bool(outcomes.failed) == (length + 4 > 255)
    if outcomes.failed:
        assert f"names of {length + 4} bytes, but at most 255 are allowed; rename the image" in outcomes.failed[0].reason


def test_file_names_are_limited_in_bytes_not_characters(run):
    outcomes = run()(Images("\N{SNOWMAN}" * 84))
    assert "names of 256 bytes" in outcomes.failed[0].reason


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_ends_the_run(run, monkeypatch, code):
    def full(*arguments, **keywords):
        raise OSError(code, "disk")

    monkeypatch.setattr("mult_hf.inference.output.write_map", full)
    with pytest.raises(OSError, match="disk") as raised:
        run()(Images("a", "b"))
    assert raised.value.errno == code


def test_an_image_too_small_for_the_model_is_refused_with_its_size(run):
    with pytest.raises(ValueError, match="31 x 60 pixels are too few; the model needs 32 per side; set --image_size"):
        prepare(run().processor, "x", Image.new("RGB", (31, 60)))


def test_files_are_written_while_the_next_batch_is_predicted(run, monkeypatch):
    """Writing the first image's files waits until the prediction of the second image has begun."""
    made, second_began, waited = run(batch_size=1), threading.Event(), {}
    write, predicted = made.directory.write, []

    def waits(name, *arguments):
        waited[name] = second_began.wait(timeout=60)
        write(name, *arguments)

    def predictor(pixel_values):
        predicted.append(pixel_values)
        if len(predicted) == 2:
            second_began.set()
        return two_metres(pixel_values)

    monkeypatch.setattr(made.directory, "write", waits)
    made.predictor = predictor
    assert made(Images("a", "b")).done == 2
    assert waited == {"a": True, "b": True}


def test_finished_maps_are_in_memory_one_at_a_time(tmp_path, monkeypatch):
    specs = {task: registered_tasks()[task] for task in ("depth", "edges2d", "keypoints2d", "reshading")}
    processor = MulTImageProcessor(do_resize=False, tasks=list(specs.values()))
    made = PredictionRun(lambda pixels: dict.fromkeys(specs, pixels[:, :1].sigmoid()), processor, PredictionDirectory(tmp_path, specs), 2)
    finished, alive, counts = module._finished, [], []

    def counted(*arguments):
        maps = finished(*arguments)
        alive.append(weakref.ref(maps))
        counts.append(sum(each() is not None for each in alive))
        return maps

    monkeypatch.setattr(module, "_finished", counted)
    assert made(Images("a", "b", "c")).done == 3
    assert len(counts) == 12
    assert max(counts) <= 2, "the one that is being made, and the one before it"


@pytest.mark.parametrize(("keep_images", "size"), [(False, (240, 216)), (True, (40, 36))])
def test_an_image_that_waits_is_as_small_as_its_files_allow(run, keep_images, size):
    """Without a copy of the image among the files, all that is needed of it is its place in the panel."""
    made = run(keep_images=keep_images)
    (waiting,) = (made._read(image) for image in Images("a"))
    assert (waiting.image.size, waiting.size) == (size, (36, 40))


def test_maps_and_kept_images_are_as_large_as_max_side_allows(run, tmp_path):
    run(max_side=20, keep_images=True)(Images("a"))
    assert [Image.open(tmp_path / path).size for path in ("maps/depth/a.png", "images/a.png")] == [(20, 18)] * 2


@pytest.mark.parametrize(("canonical", "focal_length", "metres"), [(100.0, 50.0, 1.0), (100.0, 200.0, 4.0), (None, 50.0, 2.0)])
def test_depth_is_that_of_the_rows_focal_length(run, tmp_path, canonical, focal_length, metres):
    """The column of a data set that training and evaluation read, too; a processor without a canonical camera needs none."""
    made = run()
    made.processor = MulTImageProcessor(do_resize=False, tasks=list(SPECS.values()), canonical_focal_length=canonical)
    images, focal_lengths = [Image.new("RGB", (40, 36))] * 2, [focal_length, 0.0 if canonical else None]
    outcomes = made(RowSource(Dataset.from_dict({"image": images, "focal_length": focal_lengths}, features=ROWS)))
    (path, *others) = sorted(tmp_path.glob("maps/depth/*.png"))
    assert read_map(path, made.directory.stored["depth"]) == pytest.approx(metres, abs=1e-3), "stored in steps of 0.15 mm"
    if canonical is not None:
        assert (len(others), [each.name for each in outcomes.failed]) == (0, ["000001"])
        assert outcomes.failed[0].reason.startswith("focal_length is 0.0; give a number of pixels from 0.01 to")


@pytest.mark.parametrize("max_side", [None, 20])
def test_depth_is_that_of_the_lens_in_the_files_exif_at_any_size_of_the_maps(run, tmp_path, max_side):
    """Of 50 mm; the canonical focal length is twice that."""
    made, exif = run(max_side=max_side), Image.Exif()
    canonical = 2 * 50 / math.hypot(36, 24) * math.hypot(40, 36)
    made.processor = MulTImageProcessor(do_resize=False, tasks=list(SPECS.values()), canonical_focal_length=canonical)
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 50
    image = Image.new("RGB", (40, 36))
    image.info["exif"] = exif.tobytes()
    assert made([InputImage("a", lambda: image, lambda: "a")]).failed == []
    depth = read_map(tmp_path / "maps/depth/a.png", made.directory.stored["depth"])
    assert depth.shape[-2:] == ((36, 40) if max_side is None else (18, 20))
    assert depth == pytest.approx(1.0, abs=1e-3), "2 m of the canonical camera; stored in steps of 0.15 mm"
