"""Proves that stored predictions read back within the stated precision, and that a directory never mixes or loses predictions."""

import os

import numpy as np
import pytest
import torch
from datasets import load_dataset
from PIL import ExifTags, Image

from mult_hf import MULT_TASKS, TaskSpec, registered_tasks
from mult_hf.data.files import UNFINISHED
from mult_hf.inference.digests import digest
from mult_hf.inference.locations import whole_output
from mult_hf.inference.output import PredictionDirectory
from mult_hf.inference.sources import SourceRecord
from mult_hf.inference.stored_maps import load_stored_forms, precision, read_map, stored_form, write_map
from mult_hf.model.cameras import film_equivalent

OTHERS = [
    TaskSpec(name="curvature", kind="regression", channels=2, unit="1/m"),
    TaskSpec(name="height", kind="regression", channels=1, unit="m"),  # of unknown range
    TaskSpec(name="flow", kind="regression", channels=2, unit="px", value_range=(-50.0, 50.0)),
    TaskSpec(name="color", kind="regression", channels=3, unit="[0, 1]", value_range=(0.0, 1.0)),
    TaskSpec(name="materials", kind="classification", channels=255),
]
SPECS = [*(registered_tasks()[task] for task in MULT_TASKS), *OTHERS]
SETTINGS = {"weights": "0123", "names_below": "~/images", "image_size": None, "tile": None, "flip": False}


def random_prediction(spec, size=(7, 9)):
    """As from `post_process`, with both ends of the range, or beyond any range where there is none."""
    generator = torch.Generator().manual_seed(0)
    if spec.is_classification:
        classes = torch.randint(spec.channels, size, generator=generator)
        classes[0, :2] = torch.tensor([0, spec.channels - 1])
        return classes
    low, high = spec.value_range or (-1e4, 1e4)
    values = torch.rand(spec.channels, *size, generator=generator) * (high - low) + low
    values[:, 0, 0], values[:, 0, 1] = low, high
    return values[0] if spec.channels == 1 else values


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_tasks_file_reads_back_within_the_stated_precision(spec, tmp_path):
    """Only with the entry in the card, as another user would read it."""
    directory = PredictionDirectory(tmp_path, {spec.name: spec})
    directory.claim("me/mult", SETTINGS, overwrite=False)
    prediction = random_prediction(spec)
    path = directory.map_path(spec.name, "a/x.jpg")
    write_map(path, prediction, directory.stored[spec.name])
    entry = load_stored_forms(tmp_path)[spec.name]
    read = read_map(str(path), entry)
    assert read.shape == (prediction.shape if spec.is_classification or spec.channels > 1 else (1, *prediction.shape))
    error = np.abs(read.reshape(prediction.shape).astype(np.float64) - prediction.double().numpy())
    rounding = 1e-6 * np.abs(prediction.numpy()).max()
    assert error.max() <= precision(entry) + (0 if spec.is_classification else rounding)
    assert entry == directory.stored[spec.name]


def test_the_stored_form_follows_from_kind_channels_and_range():
    forms = {spec.name: (stored_form(spec).encoding.dtype, precision(stored_form(spec))) for spec in SPECS}
    assert forms["segmentation"] == ("uint8", 0.0)
    assert forms["depth"] == ("uint16", pytest.approx(10 / 65534 / 2)), "0.08 mm"
    assert forms["normals"] == ("uint8", pytest.approx(2 / 254 / 2))
    assert forms["curvature"] == forms["height"] == forms["flow"] == ("float32", 0.0)


def test_unknown_pixels_are_read_back_as_unknown(tmp_path):
    for spec in SPECS:
        prediction = random_prediction(spec)
        prediction[..., -1] = 255 if spec.is_classification else torch.nan
        path = PredictionDirectory(tmp_path, {spec.name: spec}).map_path(spec.name, "x")
        write_map(path, prediction, stored_form(spec))
        read = read_map(path, stored_form(spec))
        unknown = read == 255 if spec.is_classification else np.isnan(read)
        assert unknown[..., -1].all(), spec.name
        assert not unknown[..., :-1].any(), spec.name


def test_depth_is_a_16_bit_png_that_any_reader_opens(tmp_path):
    spec = registered_tasks()["depth"]
    write_map(tmp_path / "depth.png", torch.full((2, 3), 2.5), stored_form(spec))
    with Image.open(tmp_path / "depth.png") as file:
        assert (file.format, file.mode) == ("PNG", "I;16")
        stored = np.asarray(file)
    assert (stored == 16384).all(), "2.5 m of 10 m are 65534 / 4 steps"


def write_image(directory, name, side=40):
    image = Image.new("RGB", (side, side), (200, 100, 0))
    directory.write(name, image, {task: random_prediction(spec, (side, side)) for task, spec in directory.specs.items()})


def files_in(directory):
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def test_a_kept_image_states_the_focal_length_of_its_file_and_nothing_else(tmp_path):
    """For example not the place."""
    image, exif = Image.new("RGB", (40, 40)), Image.Exif()
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 28
    image.info["exif"] = exif.tobytes()
    PredictionDirectory(tmp_path, {}, panels=False, keep_images=True).write("x", image, {})
    with Image.open(tmp_path / "images/x.png") as kept:
        assert film_equivalent(kept) == 28
        assert [*kept.getexif()] == [ExifTags.IFD.Exif]


@pytest.mark.parametrize(("name", "reason"), [("bad\udcff.jpg", "is not UTF-8"), ("back\\slash.jpg", "contains a backslash")])
def test_a_name_that_a_data_set_cannot_list_is_refused_with_kept_images_only(tmp_path, name, reason):
    """One line with it would make the other rows unreadable."""
    specs = {SPECS[0].name: SPECS[0]}
    assert not PredictionDirectory(tmp_path, specs).is_finished(name)
    with pytest.raises(ValueError, match=f"metadata.jsonl cannot list it, because its name {reason}; rename the image"):
        PredictionDirectory(tmp_path, specs, keep_images=True).is_finished(name)


@pytest.mark.parametrize("name", ["Küche 2.jpg", "a b#?%20", "日本/x"])
def test_other_names_are_listed(tmp_path, name):
    assert not PredictionDirectory(tmp_path, {SPECS[0].name: SPECS[0]}, keep_images=True).is_finished(name)


@pytest.mark.parametrize("at", range(4))
def test_an_interrupted_write_is_not_finished_and_leaves_no_partial_file(tmp_path, monkeypatch, at):
    """For each of its four files, whichever is being renamed."""
    directory = PredictionDirectory(tmp_path, {spec.name: spec for spec in (SPECS[0], SPECS[1])}, panels=True, keep_images=True)
    moves = []

    def replace(source, target):
        if len(moves) == at:
            raise KeyboardInterrupt
        moves.append(target)
        os.rename(source, target)

    monkeypatch.setattr("mult_hf.data.files.os.replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_image(directory, "x")
    monkeypatch.undo()
    assert not directory.is_finished("x")
    assert [name for name in files_in(tmp_path) if not name.endswith(UNFINISHED)] == sorted(
        path.relative_to(tmp_path).as_posix() for path in moves
    )
    write_image(directory, "x")
    assert directory.is_finished("x")
    assert not [name for name in files_in(tmp_path) if name.endswith(UNFINISHED)]


def test_an_unfinished_file_does_not_have_its_final_name(tmp_path):
    (tmp_path / "x").write_text("old")
    with whole_output(tmp_path / "x") as unfinished:
        unfinished.write_text("new")
        assert (tmp_path / "x").read_text() == "old"
    assert (tmp_path / "x").read_text() == "new"


def test_files_are_on_disk_before_they_are_renamed(tmp_path, monkeypatch):
    """Otherwise a power cut may leave an empty file under a final name, which then counts as finished."""
    steps = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr("mult_hf.data.files.os.fsync", lambda file: (steps.append("sync"), sync(file)))
    monkeypatch.setattr("mult_hf.data.files.os.replace", lambda *paths: (steps.append("replace"), replace(*paths)))
    with whole_output(tmp_path / "x") as unfinished:
        unfinished.write_text("new")
    assert steps[:2] == ["sync", "replace"]


@pytest.mark.parametrize("spoil", [lambda whole: b"", lambda whole: whole[:-1], lambda whole: whole[:100], lambda whole: bytes(len(whole))])
@pytest.mark.parametrize("kind", ["PNG", "NPZ", "JPEG"])
def test_a_file_without_its_end_is_not_finished(tmp_path, kind, spoil):
    """As an interrupted copy of the directory, or a full disk, leaves it."""
    curvature = OTHERS[0]
    directory = PredictionDirectory(tmp_path, {"depth": registered_tasks()["depth"], "curvature": curvature}, panels=True)
    write_image(directory, "x")
    assert directory.is_finished("x")
    paths = {"PNG": directory.map_path("depth", "x"), "NPZ": directory.map_path("curvature", "x"), "JPEG": directory.panel_path("x")}
    paths[kind].write_bytes(spoil(paths[kind].read_bytes()))
    assert not directory.is_finished("x")


@pytest.fixture
def recorded(tmp_path):
    """A directory with one image, predicted from the contents `digest` at the time `stamp`."""
    directory = PredictionDirectory(tmp_path, {"depth": registered_tasks()["depth"]}, panels=False)
    directory.write("a/x", Image.new("RGB", (4, 3)), {"depth": torch.ones(1, 3, 4)}, SourceRecord("digest", "stamp"))
    return directory


def unread():
    raise AssertionError("the contents were read")


def test_an_image_counts_as_predicted_if_size_and_times_of_its_file_are_unchanged(recorded):
    assert recorded.is_predicted("a/x", lambda: "stamp", unread)


def test_with_other_times_the_contents_are_compared_and_read_once(recorded):
    assert not recorded.is_predicted("a/x", lambda: "later", lambda: "other")
    assert recorded.is_predicted("a/x", lambda: "later", lambda: "digest")
    assert recorded.is_predicted("a/x", lambda: "later", unread), "the new times were recorded"


def test_without_times_the_contents_are_compared(recorded):
    recorded.write("a/x", Image.new("RGB", (4, 3)), {"depth": torch.ones(1, 3, 4)}, SourceRecord("digest"))
    assert recorded.is_predicted("a/x", str, lambda: "digest")
    assert not recorded.is_predicted("a/x", str, lambda: "other")


@pytest.mark.parametrize("contents", [None, b"", b"\xff", b"one\ntwo\nthree"], ids=["missing", "empty", "no text", "more lines"])
def test_a_broken_or_missing_record_means_not_predicted(recorded, contents):
    path = recorded.source_path("a/x")
    path.unlink() if contents is None else path.write_bytes(contents)
    assert not recorded.is_predicted("a/x", lambda: "later", lambda: "digest")


def test_an_interrupted_write_leaves_no_record(recorded, monkeypatch):
    """Otherwise the new image's map and the old image's other files would count as one result."""
    monkeypatch.setattr("mult_hf.inference.output.write_map", lambda *_: unread())
    with pytest.raises(AssertionError):
        recorded.write("a/x", Image.new("RGB", (4, 3)), {"depth": torch.ones(1, 3, 4)}, SourceRecord("new", "stamp"))
    assert not recorded.is_predicted("a/x", lambda: "stamp", lambda: "digest")


def test_finished_means_every_requested_file(tmp_path):
    specs = {"depth": registered_tasks()["depth"]}
    write_image(PredictionDirectory(tmp_path, specs, panels=False), "x")
    assert PredictionDirectory(tmp_path, specs, panels=False).is_finished("x")
    assert not PredictionDirectory(tmp_path, specs, panels=True).is_finished("x")
    assert not PredictionDirectory(tmp_path, specs, panels=False, keep_images=True).is_finished("x")


@pytest.mark.parametrize("size", [(2000, 1), (1, 2000), (300, 40), (1, 70_000), (70_000, 1)])  # a JPEG has at most 65,535 rows
def test_images_of_any_shape_have_a_panel(tmp_path, size):
    directory = PredictionDirectory(tmp_path, {"depth": registered_tasks()["depth"]})
    directory.write("x", Image.new("RGB", size), {"depth": torch.ones(size[::-1])})
    with Image.open(directory.panel_path("x")) as panel:
        assert max(panel.size) <= 2500


# --- ownership of the directory


def test_the_same_run_continues_and_another_one_is_refused(tmp_path):
    specs = {"depth": registered_tasks()["depth"]}
    directory = PredictionDirectory(tmp_path / "out", specs)
    directory.claim("me/mult", SETTINGS, overwrite=False)
    write_image(directory, "x")
    before = files_in(tmp_path)
    directory.claim("/moved/to/mult", SETTINGS, overwrite=False)
    with pytest.raises(ValueError, match=r"differ in \['tile'\] \(tile: None there, 512 now\); give .*--overwrite"):
        directory.claim("me/mult", {**SETTINGS, "tile": 512}, overwrite=False)
    with pytest.raises(ValueError, match=r"differ in \['tasks'\] \(tasks: \['depth'\] there, \['edges2d'\] now\); give"):
        PredictionDirectory(tmp_path / "out", {"edges2d": registered_tasks()["edges2d"]}).claim("me/mult", SETTINGS, overwrite=False)
    assert files_in(tmp_path) == before


def test_overwriting_removes_every_earlier_result(tmp_path):
    specs = {"depth": registered_tasks()["depth"]}
    directory = PredictionDirectory(tmp_path / "out", specs, keep_images=True)
    directory.claim("me/mult", SETTINGS, overwrite=True)
    write_image(directory, "x")
    directory.write_metadata()
    (tmp_path / "out/notes.txt").write_text("mine")
    directory.claim("me/mult", {**SETTINGS, "flip": True}, overwrite=True)
    assert files_in(tmp_path / "out") == ["README.md", "notes.txt"]
    directory.claim("me/mult", {**SETTINGS, "flip": True}, overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_with_other_contents_is_never_changed(tmp_path, overwrite):
    (tmp_path / "README.md").write_text("# My images\n")
    (tmp_path / "maps").mkdir()
    with pytest.raises(ValueError, match="contains files that are not predictions"):
        PredictionDirectory(tmp_path, {"depth": registered_tasks()["depth"]}).claim("me/mult", SETTINGS, overwrite=overwrite)
    assert (tmp_path / "README.md").read_text() == "# My images\n"


def test_a_directory_is_claimed_after_an_interruption_of_its_very_first_file(tmp_path):
    with whole_output(tmp_path / "README.md") as unfinished:
        unfinished.write_text("---\nmult")
    (tmp_path / "README.md").rename(unfinished)  # what `kill -9` leaves behind
    PredictionDirectory(tmp_path, {"depth": registered_tasks()["depth"]}).claim("me/mult", SETTINGS, overwrite=False)
    assert files_in(tmp_path) == ["README.md"]


def test_with_its_images_a_directory_is_a_data_set_of_the_schema(tmp_path):
    """Read with `datasets` only; tasks in NPZ files have no column."""
    specs = {spec.name: spec for spec in SPECS}
    directory = PredictionDirectory(tmp_path / "out", specs, keep_images=True)
    directory.claim("me/mult", SETTINGS, overwrite=False)
    for name in ("a/x.jpg", "b/x.jpg"):
        write_image(directory, name)
    write_image(PredictionDirectory(tmp_path / "out", {"depth": specs["depth"]}, keep_images=True), "unfinished.jpg")
    directory.write_metadata()
    rows = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["id"][:] == ["a/x.jpg", "b/x.jpg"]
    assert set(rows.column_names) == {"id", "image", *MULT_TASKS, "color", "materials"}
    entries = load_stored_forms(tmp_path / "out")
    for task in set(rows.column_names) - {"id", "image"}:
        decoded = entries[task].decode(np.asarray(rows[0][task]))
        assert np.array_equal(decoded, read_map(directory.map_path(task, "a/x.jpg"), entries[task]))


def test_a_changed_data_set_or_another_of_its_name_is_not_read_from_an_old_copy(tmp_path):
    """`datasets` would take its copy of the first one for both others."""
    specs = {"depth": registered_tasks()["depth"]}

    def load(directory):
        return load_dataset(str(directory), split="train", cache_dir=str(tmp_path / "cache"))["id"][:]

    first = PredictionDirectory(tmp_path / "a/out", specs, keep_images=True)
    first.claim("me/mult", SETTINGS, overwrite=False)
    write_image(first, "x")
    first.write_metadata()
    assert load(first.directory) == ["x"]
    write_image(first, "y")
    first.write_metadata()
    assert load(first.directory) == ["x", "y"]
    first.claim("me/mult", SETTINGS, overwrite=False)
    second = PredictionDirectory(tmp_path / "b/out", specs, keep_images=True)
    second.claim("me/mult", {**SETTINGS, "weights": "4567"}, overwrite=False)
    write_image(second, "x")
    second.write_metadata()
    assert load(second.directory) == ["x"]


def test_any_changed_weight_changes_the_digest():
    model = torch.nn.Linear(3, 2).to(torch.bfloat16)
    before = digest(model)
    assert digest(model) == before
    with torch.no_grad():
        model.bias[1] += 1
    assert digest(model) != before


def test_the_same_weights_under_other_names_have_another_digest():
    weights = torch.nn.Linear(3, 2)
    assert digest(torch.nn.ModuleDict({"depth": weights})) != digest(torch.nn.ModuleDict({"normals": weights}))
