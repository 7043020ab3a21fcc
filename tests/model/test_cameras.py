"""Proves that values are learnt for a canonical camera and returned for the image's own, whose focal length is given, read or assumed."""

import math
from io import BytesIO

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import ExifTags, Image

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor, MulTImageProcessorPil, MultiTaskVisionPipeline
from mult_hf.data.augmentations import RandomAugmentation
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.image_column import Image as ImageColumn
from mult_hf.evaluation.loop import evaluate
from mult_hf.inference.run import prepare
from mult_hf.model.alignment import orientation as stored_orientation
from mult_hf.model.alignment import upright_size
from mult_hf.model.cameras import (
    LEAST_PIXELS,
    MOST_PIXELS,
    check_focal_length,
    exif_focal_length,
    find_focal_length,
    listed_focal_lengths,
)
from mult_hf.model.images import read_image
from mult_hf.training.trainer_metrics import TrainerMetrics
from support.models import TINY_SWIN

CANONICAL = 50.0
CURVATURE = {"name": "curvature", "kind": "regression", "channels": 1, "zoom_exponent": 1.0}  # 1 / m: the inverse of a length
SIZE = {"height": 32, "width": 48}


def photograph(height=64, width=96):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))


def with_equivalent(image, millimetres):
    """An image whose EXIF states the 35 mm equivalent of its focal length."""
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = millimetres
    image = image.copy()
    image.info["exif"] = exif.tobytes()
    return image


@pytest.fixture(params=[MulTImageProcessor, MulTImageProcessorPil])
def processor(request):
    return request.param(size=SIZE, tasks=["depth", CURVATURE, "normals"], canonical_focal_length=CANONICAL)


def labels(processor, **kwargs):
    """Targets of 2 m and a curvature of 3 / m in an image of 64 x 96 pixels that becomes 32 x 48."""
    maps = {"depth": np.full((64, 96), 1024, np.uint16), "curvature": np.full((64, 96), 3, np.float32)}
    return processor(photograph(), label_maps=maps, return_tensors="pt", **kwargs)["labels"]


def test_targets_are_those_of_the_canonical_camera(processor):
    """120 pixels of the image are 60 of the input, 1.2 times the canonical focal length: things look 1.2 times as near."""
    found = labels(processor, focal_length=120.0)
    assert found["depth"].unique().item() == pytest.approx(2 / 1.2)
    assert found["curvature"].unique().item() == pytest.approx(3 * 1.2)


def test_predictions_are_those_of_the_images_camera(processor):
    """What goes in as a target comes out as it was, at the size of the image and at any other one."""
    found = labels(processor, focal_length=120.0)
    outputs = {"depth": found["depth"], "curvature": found["curvature"]}
    for factor in (1, 3):
        (maps,) = processor.post_process(outputs, [(64 * factor, 96 * factor)], focal_length=120.0 * factor)
        torch.testing.assert_close(maps["depth"]["prediction"], torch.full((64 * factor, 96 * factor), 2.0))
        torch.testing.assert_close(maps["curvature"]["prediction"], torch.full((64 * factor, 96 * factor), 3.0))
    (alone,) = processor.post_process_depth_estimation({"depth": found["depth"]}, [(64, 96)], focal_length=[120.0])
    torch.testing.assert_close(alone["predicted_depth"], torch.full((64, 96), 2.0))
    (of_input,) = processor.post_process({"depth": found["depth"]}, focal_length=60.0)
    torch.testing.assert_close(of_input["depth"]["prediction"], torch.full((32, 48), 2.0))


def test_metres_stay_within_the_range_of_the_task(processor):
    (maps,) = processor.post_process({"depth": torch.full((1, 1, 32, 48), 9.0)}, focal_length=10 * CANONICAL)
    assert maps["depth"]["prediction"].max() == 10, "90 m through the long lens, of a task that ends at 10 m"
    (maps,) = processor.post_process({"depth": torch.full((1, 1, 32, 48), 12.0)}, focal_length=CANONICAL / 2)
    assert maps["depth"]["prediction"].unique().item() == 6, "the range is that of metres, not of the canonical camera's values"


def test_without_a_canonical_camera_the_focal_length_has_no_effect():
    processor = MulTImageProcessor(size=SIZE, tasks=["depth", CURVATURE, "normals"])
    assert processor.canonical_focal_length is None
    assert labels(processor, focal_length=120.0)["depth"].unique().item() == 2.0
    (maps,) = processor.post_process({"depth": torch.full((1, 1, 32, 48), 2.0)}, focal_length=7.0)
    assert maps["depth"]["prediction"].unique().item() == 2.0


def test_a_focal_length_is_given_or_else_read_or_else_assumed():
    """26 mm on the diagonal of 43.27 mm, and 60 degrees across 96 pixels."""
    image = with_equivalent(photograph(), 26)
    assert find_focal_length(image, (64, 96), 70) == (70.0, "given")
    pixels, source = find_focal_length(image, (64, 96))
    assert (pixels, source) == (pytest.approx(26 / math.hypot(36, 24) * math.hypot(64, 96)), "EXIF")
    assert find_focal_length(photograph(), (64, 96)) == (pytest.approx(48 / math.tan(math.radians(30))), "assumed")
    assert find_focal_length(photograph(), (96, 64), field_of_view=90.0) == (pytest.approx(48), "assumed"), "the longer side counts"


FILES = [("JPEG", "RGB"), ("TIFF", "RGB"), ("TIFF", "L"), ("PNG", "RGBA"), ("PNG", "I;16"), ("WEBP", "RGBA"), ("AVIF", "LA")]


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("kind", "mode"), FILES)
def test_a_file_that_was_read_states_the_same_focal_length(kind, mode, orientation):
    """Pillow's conversions to upright RGB lose the EXIF of TIFF files, and of those with transparency or 16 bits."""
    values = np.full((64, 96), 1000, np.uint16)
    image = Image.fromarray(values) if mode == "I;16" else photograph().convert(mode)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 28
    exif[ExifTags.IFD.Exif] = exif.get_ifd(ExifTags.IFD.Exif)  # otherwise not written to TIFF files
    file = BytesIO()
    image.save(file, kind, exif=exif)
    expected = pytest.approx(28 / math.hypot(36, 24) * math.hypot(64, 96))
    assert exif_focal_length(Image.open(file)) == expected, "premise"
    once = read_image(file.getvalue())
    assert once.size == ((96, 64) if orientation == 1 else (64, 96))
    assert [exif_focal_length(each) for each in (once, read_image(once))] == [expected] * 2
    decoded = [ImageColumn(mode=mode).decode_example({"bytes": file.getvalue(), "path": None}) for mode in (None, "RGB")]
    assert [exif_focal_length(each) for each in decoded] == [expected] * 2
    assert [stored_orientation(each) for each in decoded] == [orientation] * 2, "that its labels must have, too"
    assert upright_size(file.getvalue()) == upright_size(decoded[0]) == (once.height, once.width)


@pytest.mark.parametrize("value", [0, "broken", float("nan")])
def test_exif_that_states_no_focal_length_is_left_out(value, monkeypatch):
    image = photograph()
    monkeypatch.setattr(Image.Exif, "get_ifd", lambda self, tag: {ExifTags.Base.FocalLengthIn35mmFilm: value})
    assert exif_focal_length(image) is None
    assert exif_focal_length(np.zeros((4, 4, 3), np.uint8)) is None


@pytest.mark.parametrize("wrong", [0, -1.0, float("nan"), "50", True])
def test_an_impossible_focal_length_is_refused(processor, wrong):
    with pytest.raises(ValueError, match=r"focal_length is .*; give a number of pixels from 0.01 to 100,000,000"):
        labels(processor, focal_length=wrong)
    with pytest.raises(ValueError, match=r"canonical_focal_length is .*; give a number of pixels from 0.01 to 100,000,000"):
        MulTImageProcessor(canonical_focal_length=wrong)
    rows = [{"image": photograph(), "focal_length": wrong}]
    with pytest.raises(ValueError, match=r"focal_length of row 0 of the batch is .*; give a number of pixels from 0.01 to 100,000,000"):
        MultiTaskCollator(processor)(rows)


def test_other_impossible_settings_are_refused(processor):
    with pytest.raises(ValueError, match=r"focal_length has 2 values for 1 images"):
        labels(processor, focal_length=[50.0, 60.0])
    with pytest.raises(ValueError, match=r"assumed_field_of_view is 180; give degrees between 0 and 180"):
        MulTImageProcessor(assumed_field_of_view=180)


def test_the_canonical_camera_is_saved(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = type(processor).from_pretrained(tmp_path)
    assert (loaded.canonical_focal_length, loaded.assumed_field_of_view) == (CANONICAL, 60.0)
    assert not {"canonical_focal_length", "assumed_field_of_view"} & type(processor)(size=SIZE).to_dict().keys(), "nothing without one"


def row(**columns):
    return {"image": photograph(), "depth": Image.fromarray(np.full((64, 96), 1024, np.uint16)), **columns}


def test_rows_bring_their_focal_lengths(processor):
    batch = MultiTaskCollator(processor)([row(focal_length=120.0), row(focal_length=None), row()])
    assumed = 48 / math.tan(math.radians(30)) / 2
    assert [each.unique().item() for each in batch["labels"]["depth"]] == pytest.approx([2 / 1.2, *[2 * CANONICAL / assumed] * 2])


def test_a_magnified_view_is_that_of_a_longer_lens(processor):
    """The canonical depth of a view that is twice as large is that of a camera of twice the focal length."""
    options = {"flip": 0.0, "degrees": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    twice = RandomAugmentation(tasks=processor.task_specs, zoom=(2.0, 2.0), **options)
    magnified = MultiTaskCollator(processor, augment=twice)([row(focal_length=120.0)])["labels"]["depth"]
    longer = MultiTaskCollator(processor)([row(focal_length=240.0)])["labels"]["depth"]
    torch.testing.assert_close(magnified, longer)


def test_errors_are_measured_in_metres_of_each_rows_camera():
    """A predictor that is right for the canonical camera has no error, whatever the camera and the size of the labels."""
    processor = MulTImageProcessor(size=SIZE, tasks=["depth"], canonical_focal_length=CANONICAL)
    small = Image.fromarray(np.full((32, 48), 1024, np.uint16))
    rows = [row(focal_length=120.0), {**row(focal_length=80.0), "depth": small}, row()]
    collator = MultiTaskCollator(processor)
    answers = iter(collator(rows)["labels"]["depth"].split(1))
    found = evaluate({"right": lambda _: {"depth": next(answers)}}, rows, collator, Accelerator(), batch_size=1, progress=False)
    assert found["right"].compute()["depth/rmse"] == pytest.approx(0, abs=1e-6)
    answers = iter(collator(rows)["labels"]["depth"].split(1))
    larger = {"larger": lambda _: {"depth": torch.nn.functional.interpolate(next(answers), scale_factor=2) / 2}}
    found = evaluate(larger, rows, collator, Accelerator(), batch_size=1, progress=False)
    assert found["larger"].compute()["depth/rmse"] == pytest.approx(0, abs=1e-6), "of a predictor that enlarges its maps, as tiles do"
    plain = MultiTaskCollator(MulTImageProcessor(size=SIZE, tasks=["depth"]))
    assert plain.focal_lengths(rows, (32, 48)) is None


def test_the_trainers_metrics_compare_values_of_the_canonical_camera():
    processor = MulTImageProcessor(size=SIZE, tasks=["depth"], canonical_focal_length=CANONICAL)
    targets = {"depth": torch.full((2, 1, 32, 48), 3.0)}
    sums = TrainerMetrics(processor).sums_of_images(targets, targets)
    assert sums["depth/errors/squared"].tolist() == [0.0, 0.0]


@pytest.fixture(scope="module")
def predict():
    """A pipeline that predicts some depth for a canonical camera."""
    torch.manual_seed(0)
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=dict(TINY_SWIN), tasks=["depth", "normals"])).eval()
    return MultiTaskVisionPipeline(model, MulTImageProcessor(size=SIZE, tasks=["depth", "normals"], canonical_focal_length=CANONICAL))


def test_the_pipeline_reads_the_file_and_says_what_it_took(predict, tmp_path):
    with_equivalent(photograph(), 26).save(tmp_path / "phone.jpg", exif=with_equivalent(photograph(), 26).info["exif"])
    photograph().save(tmp_path / "plain.jpg")
    paths = [str(tmp_path / "phone.jpg"), str(tmp_path / "plain.jpg")]
    phone, plain = predict(paths, batch_size=2)
    stated = 26 / math.hypot(36, 24) * math.hypot(64, 96)
    assert phone["depth"]["focal_length"] == (pytest.approx(stated), "EXIF")
    assert plain["depth"]["focal_length"] == (pytest.approx(48 / math.tan(math.radians(30))), "assumed")
    assert "focal_length" not in phone["normals"], "directions do not depend on it"
    given = predict(paths[1], focal_length=stated)
    assert given["depth"]["focal_length"] == (stated, "given")
    torch.testing.assert_close(given["depth"]["prediction"], phone["depth"]["prediction"])
    ratio = plain["depth"]["prediction"] / given["depth"]["prediction"]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 48 / math.tan(math.radians(30)) / stated))
    of_row = predict({"image": paths[1], "focal_length": stated})
    torch.testing.assert_close(of_row["depth"]["prediction"], phone["depth"]["prediction"])


def test_a_null_cell_takes_the_focal_length_of_the_call_like_a_missing_column(predict):
    rows = [{"image": photograph(), "focal_length": None}, {"image": photograph()}, {"image": photograph(), "focal_length": 80.0}]
    found = [maps["depth"]["focal_length"] for maps in predict(rows, focal_length=90.0)]
    assert found == [(90.0, "given"), (90.0, "given"), (80.0, "given")]


def test_the_pipeline_refuses_a_focal_length_that_has_no_effect(predict):
    """As `mult-hf predict` and `mult-hf serve` do. A row may have one, because data sets are for all models."""
    without = MultiTaskVisionPipeline(predict.model, MulTImageProcessor(size=SIZE, tasks=["depth", "normals"]))
    assert without.image_processor.canonical_focal_length is None, "premise"
    with pytest.raises(ValueError, match=r"focal_length is 90\.0, but the model has no canonical camera: .*; leave it out"):
        without(photograph(), focal_length=90.0)
    assert "focal_length" not in without({"image": photograph(), "focal_length": 90.0})["depth"]


@pytest.mark.parametrize("smaller", [{"target_size": (32, 48)}, {"max_side": 48}])
def test_the_size_of_the_maps_does_not_change_metres(predict, smaller):
    whole = predict(photograph(), focal_length=90.0)["depth"]["prediction"]
    small = predict(photograph(), focal_length=90.0, **smaller)["depth"]["prediction"]
    assert small.shape == (32, 48)
    assert small.mean() == pytest.approx(whole.mean().item(), rel=1e-2)  # other pixels are averaged


def test_focal_lengths_of_several_images_belong_to_their_rows(predict):
    image = Image.new("RGB", (60, 40))
    with pytest.raises(
        ValueError, match=r'focal_length is \[30.0, 60.0\], .*; for several, pass each image as \{"image": image, "focal_length"'
    ):
        predict([image, image], focal_length=[30.0, 60.0])
    near, far = predict([{"image": image, "focal_length": 30.0}, {"image": image, "focal_length": 60.0}])
    assert far["depth"]["prediction"].mean() > near["depth"]["prediction"].mean()


@pytest.mark.parametrize("pixels", [5e-324, 1e-30, 0.001, 1e9, 1e300, 10**400, math.inf, math.nan, 0, -50, True, "50"])
def test_focal_lengths_that_no_image_has_are_refused(pixels, processor):
    """The smallest would divide by zero, and the largest give NaN."""
    with pytest.raises(ValueError, match=r"focal_length is .*; give a number of pixels from 0.01 to 100,000,000, or None"):
        labels(processor, focal_length=pixels)


@pytest.mark.parametrize(("millimetres", "believed"), [(1, False), (3, True), (26, True), (3000, True), (65535, False)])
def test_an_equivalent_that_no_lens_has_counts_as_not_stated(millimetres, believed):
    image = with_equivalent(photograph(), millimetres)
    assert (exif_focal_length(image) is not None) == believed
    assert find_focal_length(image, (64, 96)).source == ("EXIF" if believed else "assumed")


@pytest.mark.parametrize(
    "function",
    [check_focal_length, find_focal_length, listed_focal_lengths, MulTImageProcessor.focal_length_of, prepare],
    ids=lambda f: f.__name__,
)
def test_the_docs_state_the_focal_lengths_that_are_allowed(function):
    words = " ".join(function.__doc__.split())
    assert f"from {LEAST_PIXELS} " in words
    assert f"to {MOST_PIXELS:,}" in words
