"""Proves that `mult-hf predict` gives depth in metres for the focal length that is known, or for the field of view that is assumed."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from mult_hf import MulTImageProcessor
from mult_hf.cli import predict as script
from mult_hf.data.schema import card_header, load_rows
from mult_hf.inference.output import SETTINGS_KEY
from mult_hf.inference.stored_maps import load_stored_forms, read_map
from support.pictures import save_images


@pytest.fixture
def model(shallow_model, tmp_path):
    """A model with a canonical camera."""
    model = shallow_model(tasks=["segmentation", "depth", "normals"])
    model.save_pretrained(tmp_path / "model")
    MulTImageProcessor(size={"shortest_edge": 40}, tasks=model.config.tasks, canonical_focal_length=100.0).save_pretrained(
        tmp_path / "model"
    )
    return tmp_path / "model"


@pytest.fixture
def images(tmp_path):
    return save_images(tmp_path / "images", "a/x.png", "b/x.png", "b/x.jpg")


@pytest.fixture
def run(model, tmp_path, capsys):
    """Run the command in this process; returns its exit status and output."""

    def start(*flags, output="out"):
        words = ["--model", model, "--output_dir", tmp_path / output, "--cpu_threads", 1, *flags]
        return script.main([*map(str, words)]), capsys.readouterr().out

    return start


def test_the_card_states_the_size_and_the_field_of_view(run, images, tmp_path):
    run("--inputs", images)
    settings = card_header(tmp_path / "out/README.md")[SETTINGS_KEY]
    assert (settings["image_size"], settings["assumed_field_of_view"]) == ({"shortest_edge": 40}, 60.0)


def test_the_field_of_view_of_images_without_a_focal_length_changes_metres_in_proportion(run, images, tmp_path):
    maps = {}
    for name, flags in {"assumed": [], "given": ["--field_of_view", 40]}.items():
        assert run("--inputs", images, "--tasks", "depth", *flags, output=name)[0] == 0
        maps[name] = read_map(tmp_path / name / "maps/depth/a/x.png.png", load_stored_forms(tmp_path / name)["depth"])
    within = maps["given"] < 9.9  # the task's range ends at 10 m
    assert within.mean() > 0.5, "premise"
    expected = np.tan(np.radians(60 / 2)) / np.tan(np.radians(40 / 2)) * maps["assumed"]
    np.testing.assert_allclose(maps["given"][within], expected[within], rtol=0.01)  # stored in steps


@pytest.mark.parametrize(
    ("flags", "degrees"), [([], 60), (["--tasks", "depth", "--field_of_view", 75], 75), (["--tasks", "normals"], None)]
)
def test_images_whose_metres_assume_a_camera_are_counted(run, images, flags, degrees):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 28
    with Image.open(images / "b/x.jpg") as image:
        image.save(images / "b/x.jpg", exif=exif)
    _, printed = run("--inputs", images, *flags)
    note = f"note for 2 images: no focal length is known; metres assume a field of view of {degrees} degrees, see --field_of_view"
    assert (note in printed) == ("no focal length" in printed) == (degrees is not None)


def test_kept_images_state_the_focal_length_of_their_metres(run, model, images, tmp_path):
    """Otherwise a model that is trained on these pseudo-labels would learn them for an assumed lens."""
    processor = MulTImageProcessor.from_pretrained(model)
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "secret"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 28
    Image.open(images / "b/x.jpg").save(images / "b/x.jpg", exif=exif)
    assert run("--inputs", images, "--tasks", "depth", "--field_of_view", 40, "--keep_images", "--max_side", 48)[0] == 0
    found = {row["id"]: row["image"] for row in load_rows(tmp_path / "out", split="train")}
    lengths = {name: processor.focal_length_of(image, (image.height, image.width)).pixels for name, image in found.items()}
    given, stated = 48 / 2 / np.tan(np.radians(40 / 2)), 28 / np.hypot(36, 24) * np.hypot(48, 40)
    assert lengths == pytest.approx({"a/x.png": given, "b/x.jpg": stated, "b/x.png": given})
    assert ExifTags.Base.Make not in found["b/x.jpg"].getexif()


@pytest.mark.parametrize("degrees", [0, 180, -40])
def test_an_impossible_field_of_view_is_refused(run, images, degrees):
    with pytest.raises(ValueError, match=f"--field_of_view is {degrees}; give degrees above 0 and below 180"):
        run("--inputs", images, "--field_of_view", degrees)


def test_a_field_of_view_is_refused_for_a_model_without_a_canonical_camera(run, model, images):
    MulTImageProcessor.from_pretrained(model, canonical_focal_length=None, assumed_field_of_view=None).save_pretrained(model)
    with pytest.raises(ValueError, match=r"--field_of_view is 40, but .* has no canonical camera"):
        run("--inputs", images, "--field_of_view", 40)


def test_predictions_for_another_field_of_view_are_not_mixed_into_a_directory(run, images):
    assert run("--inputs", images)[0] == 0
    with pytest.raises(ValueError, match=r"assumed_field_of_view: 60\.0 there, 40\.0 now"):
        run("--inputs", images, "--field_of_view", 40)


def test_a_field_of_view_without_effect_on_the_tasks_is_refused(run, images):
    with pytest.raises(ValueError, match="--field_of_view is 40, but the focal length has no effect on segmentation, normals; remove it"):
        run("--inputs", images, "--field_of_view", 40, "--tasks", "normals", "segmentation")
