"""Proves that both image processors turn any usual photo into the same numbers, stored maps into targets, and predictions back."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from transformers import AutoImageProcessor

from mult_hf import LabelEncoding, MulTDensePredictionOutput, MulTImageProcessor, MulTImageProcessorPil, TaskSpec
from mult_hf.model.image_processing_base import MulTBatchFeature
from mult_hf.model.images import resize_label

IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
EXACT = 1e-6  # pixel values in [0, 1]
GREY_LEVEL = 1 / 255
HALF_PRECISION = 0.51 * GREY_LEVEL  # bfloat16 holds [0, 1] in steps of at most 1/256
PHOTO = np.zeros((8, 9, 3), np.uint8)
TWO_NUMBERS = {"name": "principal_curvature", "kind": "regression", "channels": 2}


@pytest.fixture(params=[MulTImageProcessor, MulTImageProcessorPil], ids=["torchvision", "pil"])
def processor_class(request):
    return request.param


@pytest.fixture
def values(processor_class):
    """Pixel values in [0, 1] of one photo: neither resized nor normalised."""
    processor = processor_class(do_resize=False, do_normalize=False)
    return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]


@pytest.fixture(scope="module")
def rgb():
    """A small colour photo (6, 9, 3) that holds every grey level's extremes."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    pixels[0, 0], pixels[0, 1] = 0, 255
    return pixels


def expected(pixels):
    """(height, width, 3) bytes -> (3, height, width) in [0, 1]."""
    return torch.from_numpy(np.moveaxis(pixels, -1, 0).astype(np.float32)) / 255


def assert_same(result, wanted, tolerance=EXACT):
    assert result.shape == wanted.shape
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, wanted, atol=tolerance, rtol=0)


# Photos


@pytest.mark.parametrize("size", [{"height": 64, "width": 96}, {"shortest_edge": 50}], ids=["fixed", "aspect"])
@pytest.mark.parametrize(
    "form", [Image.fromarray, np.asarray, lambda array: torch.from_numpy(array).permute(2, 0, 1)], ids=["pil", "numpy", "torch"]
)
def test_both_backends_give_the_same_pixels_within_one_grey_level(size, form):
    photo = np.ascontiguousarray(load_sample_image("china.jpg")[:, :401])  # 427 x 401: no multiple of anything
    one, other = (cls(size=size)(form(photo), return_tensors="pt")["pixel_values"] for cls in (MulTImageProcessor, MulTImageProcessorPil))
    height = 64 if "height" in size else 53  # 427 * 50 / 401
    assert one.shape == other.shape == (1, 3, height, 96 if "width" in size else 50)
    difference = (one - other).abs() * IMAGENET_STD / GREY_LEVEL  # in grey levels
    assert difference.max() < 1.001
    assert difference.mean() < 0.1


def test_pixels_are_normalised_by_imagenets_mean_and_deviation(processor_class):
    photo = np.zeros((32, 32, 3), np.uint8)
    photo[:, 16:] = 255
    pixels = processor_class(do_resize=False)(photo, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(pixels[:, 0, 0], torch.tensor([(0 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0 - 0.406) / 0.225]))
    torch.testing.assert_close(pixels[:, 0, 31], torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]))


LAYOUTS = {
    "colours last": (lambda pixels: pixels, lambda wanted: wanted),
    "colours first": (lambda pixels: np.moveaxis(pixels, -1, 0), lambda wanted: wanted),
    "grey": (lambda pixels: pixels[..., 0], lambda wanted: wanted[:1].expand(3, -1, -1)),
    "one channel last": (lambda pixels: pixels[..., :1], lambda wanted: wanted[:1].expand(3, -1, -1)),
    "one channel first": (lambda pixels: pixels[None, ..., 0], lambda wanted: wanted[:1].expand(3, -1, -1)),
}
# What is done to bytes, and how near the pixel values in [0, 1] must then be to these bytes.
NUMBERS = {
    "uint8": (lambda pixels: pixels, EXACT),
    "int64 of 16 bits": (lambda pixels: pixels.astype(np.int64) * 257, EXACT),
    "uint16 of 16 bits": (lambda pixels: pixels.astype(np.uint16) * 257, EXACT),
    "big-endian uint16": (lambda pixels: (pixels.astype(np.uint16) * 257).astype(">u2"), EXACT),
    "int32 of 16 bits": (lambda pixels: pixels.astype(np.int32) * 257, EXACT),
    "uint32 of 16 bits": (lambda pixels: pixels.astype(np.uint32) * 257, EXACT),
    "float32 to 1": (lambda pixels: (pixels / 255).astype(np.float32), EXACT),
    "float64 to 1": (lambda pixels: pixels / 255, EXACT),
    "big-endian float32": (lambda pixels: (pixels / 255).astype(">f4"), EXACT),
    "float16 to 1": (lambda pixels: (pixels / 255).astype(np.float16), HALF_PRECISION),
    "float32 to 255": (lambda pixels: pixels.astype(np.float32), EXACT),
    "not contiguous": (lambda pixels: np.repeat(pixels, 2, axis=0)[::2], EXACT),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("numbers", NUMBERS)
def test_arrays_of_any_layout_and_type_give_the_same_pixels(values, rgb, layout, numbers):
    (arrange, rearrange), (convert, tolerance) = LAYOUTS[layout], NUMBERS[numbers]
    assert_same(values(convert(arrange(rgb))), rearrange(expected(rgb)), tolerance)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "uint16", "float16", "bfloat16", "float32", "float64"])
def test_tensors_of_any_layout_and_type_give_the_same_pixels(values, rgb, layout, dtype):
    arrange, rearrange = LAYOUTS[layout]
    pixels, dtype = torch.from_numpy(np.ascontiguousarray(arrange(rgb))), getattr(torch, dtype)
    white = 1 if dtype.is_floating_point else 255 if dtype == torch.uint8 else 65535
    photo = (pixels / 255 * white).to(dtype) if dtype.is_floating_point else (pixels.int() * (white // 255)).to(dtype)
    assert_same(values(photo), rearrange(expected(rgb)), HALF_PRECISION if dtype in (torch.float16, torch.bfloat16) else EXACT)


def test_a_tensor_that_needs_a_gradient_is_read(values, rgb):
    photo = (torch.from_numpy(rgb).permute(2, 0, 1) / 255).requires_grad_()
    assert_same(values(photo).detach(), expected(rgb))


def test_black_and_white_arrays_are_read(values):
    assert_same(values(np.array([[True, False], [False, False]])), torch.tensor([[1.0, 0], [0, 0]]).expand(3, 2, 2))


TRANSPARENT = {
    "picture": Image.fromarray,
    "array": lambda rgba: rgba,
    "float array": lambda rgba: (rgba / 255).astype(np.float32),
    "16-bit array": lambda rgba: rgba.astype(np.uint16) * 257,
    "tensor": lambda rgba: torch.from_numpy(rgba).permute(2, 0, 1),
    "float tensor": lambda rgba: torch.from_numpy(rgba / 255).permute(2, 0, 1),
}


@pytest.mark.parametrize("form", TRANSPARENT)
def test_transparent_pixels_are_seen_on_white(values, form):
    rgba = np.zeros((5, 6, 4), np.uint8)
    rgba[...] = 100, 0, 255, 0  # invisible, whatever its colour
    rgba[1] = 100, 0, 255, 255  # opaque
    rgba[2] = 100, 0, 255, 51  # a fifth: 0.2 * colour + 0.8 * 255
    result = values(TRANSPARENT[form](rgba))[:, :, 0] * 255
    wanted = torch.tensor([[255.0, 255, 255], [100, 0, 255], [224, 204, 255]])
    torch.testing.assert_close(result[:, :3].T, wanted, atol=1.001, rtol=0)


def test_grey_and_cmyk_pictures_are_converted_to_colours(values, rgb):
    picture = Image.fromarray(rgb)
    grey = np.asarray(picture.convert("L"))
    assert_same(values(picture.convert("L")), expected(np.repeat(grey[..., None], 3, axis=-1)))
    assert picture.convert("CMYK").getbands() == ("C", "M", "Y", "K")
    assert_same(values(picture.convert("CMYK")), expected(rgb))


def test_palette_pictures_are_seen_in_their_colours(values):
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    wanted = np.array([[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]], np.uint8)
    assert_same(values(picture), expected(wanted))
    picture.info["transparency"] = 2  # this palette entry is invisible: white
    wanted[1, 0] = 255
    assert_same(values(picture), expected(wanted))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_pictures_are_scaled_and_not_cut_off(values, rgb, tmp_path, suffix):
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(rgb[..., 0].astype(np.uint16) * 257).save(path)
    with Image.open(path) as picture:
        assert picture.mode.startswith("I")  # 16 bits arrive
        assert_same(values(picture), expected(np.repeat(rgb[..., :1], 3, axis=-1)))
    assert_same(values(str(path)), expected(np.repeat(rgb[..., :1], 3, axis=-1)))


# The EXIF tag 274 says how the camera was held; the numbers are the standard's.
@pytest.mark.parametrize(
    ("orientation", "turn"),
    [(1, lambda p: p), (3, lambda p: np.rot90(p, 2)), (6, lambda p: np.rot90(p, -1)), (8, np.rot90), (2, np.fliplr)],
)
def test_photos_are_turned_as_their_exif_says(values, rgb, tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(rgb).save(path, exif=exif)
    assert_same(values(path), expected(turn(rgb).copy()))
    assert_same(values(Image.open(path)), expected(turn(rgb).copy()))


def test_paths_pictures_arrays_and_tensors_mix_in_one_batch(processor_class, rgb, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(rgb).save(path)
    photos = [str(path), path, Image.open(path), rgb, torch.from_numpy(rgb).permute(2, 0, 1), np.repeat(np.repeat(rgb, 2, 0), 2, 1)]
    batch = processor_class(size={"height": 32, "width": 40})(photos, return_tensors="pt")["pixel_values"]
    assert batch.shape == (6, 3, 32, 40)
    assert all(torch.equal(batch[0], pixels) for pixels in batch[1:5])


def test_an_array_of_four_axes_is_several_photos(processor_class, rgb):
    processor = processor_class(size={"height": 32, "width": 32})
    both = processor(np.stack([rgb, rgb[::-1]]), return_tensors="pt")["pixel_values"]
    assert torch.equal(both, processor([rgb, rgb[::-1]], return_tensors="pt")["pixel_values"])
    assert not torch.equal(both[0], both[1])


# Photos that are refused, by name


def half_of(suffix):
    def write(path):
        whole = path.with_name(f"whole.{suffix}")
        Image.fromarray(load_sample_image("china.jpg")).save(whole)
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])

    return write


BROKEN_FILES = {
    "truncated jpg": (half_of("jpg"), "broken"),
    "truncated png": (half_of("png"), "broken"),
    "text": (lambda path: path.write_text("not a photo"), "cannot be read as an image"),
    "no byte": (lambda path: path.write_bytes(b""), "cannot be read as an image"),
    "directory": (lambda path: path.mkdir(), "cannot be read as an image"),
    "missing": (lambda path: None, "does not exist"),
}


@pytest.mark.parametrize("kind", BROKEN_FILES)
@pytest.mark.parametrize("as_type", [str, Path])
def test_a_file_that_is_no_whole_photo_is_refused_by_name(processor_class, tmp_path, kind, as_type):
    write, reason = BROKEN_FILES[kind]
    path = tmp_path / "holiday_17.jpg"
    write(path)
    with pytest.raises(ValueError, match=rf"holiday_17\.jpg.*{reason}"):
        processor_class()(as_type(path), return_tensors="pt")


def test_the_broken_photo_among_good_ones_is_named(processor_class, rgb, tmp_path):
    half_of("png")(tmp_path / "holiday_17.png")
    with pytest.raises(ValueError, match=r"holiday_17\.png is broken"):
        processor_class()([rgb, Image.open(tmp_path / "holiday_17.png")], return_tensors="pt")


@pytest.mark.parametrize(
    "empty",
    [Image.new("RGB", (0, 5)), np.zeros((0, 5, 3), np.uint8), np.zeros((5, 0), np.uint8), torch.zeros(3, 0, 4)],
    ids=["picture", "array", "grey array", "tensor"],
)
def test_a_photo_without_pixels_is_refused(processor_class, empty):
    with pytest.raises(ValueError, match="is empty"):
        processor_class()(empty, return_tensors="pt")


@pytest.mark.parametrize(
    ("photo", "said"),
    [
        (np.zeros((5, 6, 2), np.uint8), r"\(5, 6, 2\)"),
        (np.full((5, 6, 3), np.nan, np.float32), "nan"),
        (np.full((5, 6, 3), 300.0), "300"),
        (np.full((5, 6, 3), -1, np.int16), "-1"),
        (np.full((5, 6, 3), 70000), "70000"),
        (torch.zeros(3, 5, 6, dtype=torch.complex64), "complex64"),
    ],
    ids=["two channels", "nan", "beyond 255", "negative", "beyond 16 bits", "complex"],
)
def test_values_that_are_no_colours_are_refused_with_the_value(processor_class, photo, said):
    with pytest.raises(ValueError, match=said):
        processor_class()(photo, return_tensors="pt")


@pytest.mark.parametrize("thing", [5, None, b"abc", {}])
def test_things_that_are_no_photos_are_refused(processor_class, thing):
    with pytest.raises((ValueError, TypeError)):
        processor_class()(thing, return_tensors="pt")


# Label maps to targets


@pytest.fixture
def targets(processor_class):
    """Targets of one photo that is resized to the size that its stored maps have."""

    def make(height, width, label_maps, **kwargs):
        processor = processor_class(size={"height": height, "width": width}, **kwargs)
        labels = processor(PHOTO, label_maps=label_maps, return_tensors="pt")["labels"]
        return {task: target[0] for task, target in labels.items()}

    return make


def test_stored_depth_becomes_metres(targets):
    stored = np.array([[512, 1280, 0], [65535, 8192, 8193]], np.uint16)  # 512 a metre; 0, 65535 and beyond 16 m not known
    depth = targets(2, 3, {"depth": stored})["depth"]
    assert depth.shape == (1, 2, 3)
    assert depth.dtype == torch.float32
    torch.testing.assert_close(depth[0], torch.tensor([[1, 2.5, np.nan], [np.nan, 16, np.nan]]), equal_nan=True)


def test_stored_classes_become_ids_with_255_unknown(targets):
    classes = targets(2, 2, {"segmentation": np.array([[0, 1], [17, 2]], np.uint8)})["segmentation"]  # 0: unlabelled
    assert classes.dtype == torch.int64
    assert classes.tolist() == [[255, 0], [16, 1]]


def test_stored_normals_become_x_right_y_up_z_towards_the_viewer(targets):
    stored = np.full((5, 6, 3), 127, np.uint8)  # Taskonomy: x right, y down, z into the scene, 127 is zero
    stored[0, 0, 0] = stored[0, 1, 1] = stored[0, 2, 2] = 254
    normals = targets(5, 6, {"normals": stored})["normals"]
    assert normals.shape == (3, 5, 6)
    one = 127 / 127.5
    torch.testing.assert_close(normals[:, 0, :3].T, torch.tensor([[one, 0, 0], [0, -one, 0], [0, 0, -one]]))
    assert normals[:, 0, 3].isnan().all(), "grey is no vector but a hole of the scan"


def test_stored_heat_maps_become_fractions(targets):
    shading = np.full((5, 6, 3), 9, np.uint8)
    shading[:, ::2, 0], shading[:, 1::2, 0] = 51, 255  # the first of three stored channels holds the map
    edges = np.tile(np.array([0, 65535], np.uint16), (5, 3))
    maps = targets(5, 6, {"edges2d": edges, "reshading": shading})
    torch.testing.assert_close(maps["edges2d"], torch.tensor([0.0, 1.0]).repeat(1, 5, 3))
    torch.testing.assert_close(maps["reshading"], torch.tensor([0.2, 1.0]).repeat(1, 5, 3))


@pytest.mark.parametrize(
    "form",
    [
        lambda s: s,
        lambda s: s[None],
        lambda s: s[..., None],
        lambda s: torch.from_numpy(s.astype(np.int32)),
        Image.fromarray,
        lambda s: Image.fromarray(s.astype(np.int32)),
    ],
    ids=["array", "channel first", "channel last", "tensor widened to 32 bits", "16-bit picture", "32-bit picture"],
)
def test_a_stored_map_may_be_a_picture_an_array_or_a_tensor(targets, form):
    stored = (512 * np.arange(1, 31, dtype=np.uint16) % 8192).reshape(5, 6)
    wanted = targets(5, 6, {"depth": stored})["depth"]
    assert torch.isfinite(wanted).any()
    torch.testing.assert_close(targets(5, 6, {"depth": form(stored)})["depth"], wanted, equal_nan=True)


def test_ids_of_a_palette_picture_are_read_not_its_colours(targets):
    picture = Image.fromarray(np.array([[1, 2], [3, 4]], np.uint8)).convert("P")
    picture.putpalette([200, 100, 50] * 256)
    assert targets(2, 2, {"segmentation": picture})["segmentation"].tolist() == [[0, 1], [2, 3]]


def test_a_data_set_states_its_own_encoding(targets):
    millimetres = {"name": "depth", "encoding": {"dtype": "uint16", "scale": 0.001, "unknown": [0]}}
    depth = targets(1, 2, {"depth": np.array([[2500, 0]], np.uint16)}, tasks=[millimetres])["depth"]
    torch.testing.assert_close(depth, torch.tensor([[[2.5, np.nan]]]), equal_nan=True)


# As transformers' processors of segmentation models take them

ANIMALS = {"name": "animals", "kind": "classification", "class_names": ["cat", "dog", "hen"]}
STORED = np.array([[0, 1, 2], [3, 255, 1]], np.uint8)


@pytest.mark.parametrize("form", [np.asarray, Image.fromarray, torch.from_numpy, lambda stored: [stored]])
def test_segmentation_maps_are_those_of_the_one_classification(processor_class, form):
    processor = processor_class(
        size={"height": 2, "width": 3}, tasks=["depth", {**ANIMALS, "encoding": {"dtype": "uint8", "unknown": [3, 255]}}]
    )
    image = np.zeros((2, 3, 3), np.uint8)
    labels = processor(image, form(STORED), return_tensors="pt")["labels"]
    assert {task: target.tolist() for task, target in labels.items()} == {"animals": [[[0, 1, 2], [255, 255, 1]]]}
    depth = np.full((2, 3), 1024, np.uint16)
    both = processor(image, segmentation_maps=form(STORED), label_maps={"depth": depth}, return_tensors="pt")["labels"]
    assert both["animals"].tolist() == labels["animals"].tolist()
    assert (both["depth"] == 2).all()


@pytest.mark.parametrize(
    ("tasks", "given", "said"),
    [
        (["depth"], {"segmentation_maps": STORED}, r"0 of the tasks \['depth'\] classify: \[\]"),
        (["segmentation", ANIMALS], {"segmentation_maps": STORED}, r"2 of the tasks .* classify: \['segmentation', 'animals'\]"),
        ([ANIMALS], {"segmentation_maps": STORED, "label_maps": {"animals": STORED}}, "maps of 'animals' came both as"),
        ([ANIMALS], {"segmentation_maps": {"animals": STORED}}, r"mapping of \['animals'\]; pass maps by task as label_maps="),
    ],
)
def test_segmentation_maps_that_no_one_task_can_take_are_refused(processor_class, tasks, given, said):
    with pytest.raises(ValueError, match=said):
        processor_class(size={"height": 2, "width": 3}, tasks=tasks)(np.zeros((2, 3, 3), np.uint8), **given)


@pytest.mark.parametrize("entry", [ANIMALS, {"name": "segmentation", "class_names": ["cat", "dog", "hen"]}])
@pytest.mark.parametrize("when", ["made", "called", "saved"])
def test_reduced_labels_lose_the_leading_class_in_both_arguments(processor_class, entry, when, tmp_path):
    """As SegFormer's: 0 and 255 become 255, all others lose 1; the registered encoding does so already and is not applied twice."""
    reduce = {"do_reduce_labels": True}
    processor = processor_class(size={"height": 2, "width": 3}, tasks=[entry, "depth"], **(reduce if when != "called" else {}))
    if when == "saved":
        processor.save_pretrained(tmp_path)
        processor = processor_class.from_pretrained(tmp_path)
    image, call = np.zeros((2, 3, 3), np.uint8), {"return_tensors": "pt", **(reduce if when == "called" else {})}
    depth = np.full((2, 3), 1024, np.uint16)
    wanted = [[[255, 0, 1], [2, 255, 0]]]
    assert processor(image, STORED, **call)["labels"][entry["name"]].tolist() == wanted
    labels = processor(image, label_maps={entry["name"]: STORED, "depth": depth}, **call)["labels"]
    assert labels[entry["name"]].tolist() == wanted
    assert (labels["depth"] == 2).all(), "other tasks are not reduced"


def test_labels_are_not_reduced_by_default(processor_class):
    processor = processor_class(size={"height": 2, "width": 3}, tasks=[{**ANIMALS, "channels": 4, "class_names": []}])
    assert processor.to_dict()["do_reduce_labels"] is False
    assert processor(np.zeros((2, 3, 3), np.uint8), STORED, return_tensors="pt")["labels"]["animals"].tolist() == [[[0, 1, 2], [3, 255, 1]]]


def test_reading_images_as_other_than_rgb_is_refused(processor_class):
    with pytest.raises(ValueError, match="do_convert_rgb is False"):
        processor_class()(PHOTO, do_convert_rgb=False)
    with pytest.raises(ValueError, match="do_convert_rgb is False"):
        processor_class(do_convert_rgb=False)(PHOTO)


def test_a_photo_without_a_map_has_an_unknown_target(processor_class, rgb):
    processor = processor_class(size={"height": 4, "width": 5})
    stored = {"depth": [np.full((6, 9), 512, np.uint16), None], "segmentation": [None, np.ones((6, 9), np.uint8)], "normals": [None, None]}
    labels = processor([rgb, rgb], label_maps=stored, return_tensors="pt")["labels"]
    assert {task: tuple(target.shape) for task, target in labels.items()} == {
        "depth": (2, 1, 4, 5),
        "segmentation": (2, 4, 5),
        "normals": (2, 3, 4, 5),
    }
    assert (labels["depth"][0] == 1).all()
    assert labels["depth"][1].isnan().all()
    assert (labels["segmentation"][0] == 255).all()
    assert (labels["segmentation"][1] == 0).all()
    assert labels["normals"].isnan().all()


def test_maps_follow_photos_of_different_sizes(processor_class):
    processor = processor_class(size={"shortest_edge": 32})
    photo = np.zeros((64, 96, 3), np.uint8)
    batch = processor(photo, label_maps={"depth": np.full((128, 192), 512, np.uint16)}, return_tensors="pt")
    assert batch["pixel_values"].shape[-2:] == batch["labels"]["depth"].shape[-2:] == (32, 48)


@pytest.mark.parametrize(("task", "stored_type", "low", "high"), [("segmentation", np.uint8, 1, 17), ("reshading", np.uint8, 0, 255)])
def test_maps_stay_aligned_with_their_photo(processor_class, task, stored_type, low, high):
    right = np.arange(96) >= 36  # the right part of the photo is white, and of the map high
    photo = np.repeat(np.tile(right, (64, 1))[..., None], 3, axis=-1).astype(np.uint8) * 255
    processor = processor_class(size={"height": 32, "width": 64}, do_normalize=False)
    batch = processor(photo, label_maps={task: np.where(np.tile(right, (64, 1)), high, low).astype(stored_type)}, return_tensors="pt")
    white = batch["pixel_values"][0, 0, 0] > 0.5
    target = batch["labels"][task].reshape(32, 64)[0]
    assert white.sum() == 40  # 60 of 96 columns, in 64
    assert torch.equal(target > target.float().mean(), white)


def test_nearest_takes_the_pixel_in_the_middle():
    row = torch.arange(6).reshape(1, 6)
    assert resize_label(row, (1, 2), "nearest").tolist() == [[1, 4]]
    assert resize_label(row, (1, 12), "nearest").tolist() == [[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]]


@pytest.mark.parametrize(
    ("known", "wanted"),
    [([1.0, 2, 3, 6], 3.0), ([1.0, 2, 3, np.nan], 2.0), ([1.0, 3, np.nan, np.nan], 2.0), ([1.0, *[np.nan] * 3], np.nan)],
)
def test_bilinear_is_the_mean_of_known_pixels_and_unknown_below_one_half(known, wanted):
    target = torch.tensor(known).reshape(1, 2, 2)
    torch.testing.assert_close(resize_label(target, (1, 1), "bilinear"), torch.tensor([[[wanted]]]), equal_nan=True)


@pytest.mark.parametrize("resample", ["nearest", "bilinear"])
@pytest.mark.parametrize("size", [(5, 7), (16, 16), (40, 31), (97, 131)])
def test_resizing_never_mixes_known_and_unknown(resample, size):
    unknown = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0)) < 0.4
    target = torch.where(unknown, torch.nan, 2.5).repeat(3, 1, 1)
    resized = resize_label(target, size, resample)
    assert resized.shape == (3, *size)
    known = resized.isfinite()
    assert 0 < known.sum() < known.numel()
    torch.testing.assert_close(resized[known], torch.full_like(resized[known], 2.5))
    assert torch.equal(known[0], known[1])  # a pixel is known in all channels or in none


@pytest.mark.parametrize("size", [(5, 7), (40, 31)])
def test_resizing_classes_invents_no_class(size):
    classes = torch.tensor([0, 9, 255])[torch.randint(3, (16, 16), generator=torch.Generator().manual_seed(0))]
    for resample in ("nearest", "bilinear"):  # ids are never averaged, whatever the entry says
        resized = resize_label(classes, size, resample)
        assert resized.dtype == torch.int64
        assert set(resized.unique().tolist()) == {0, 9, 255}


def test_resizing_does_not_let_extreme_unknown_values_in():
    """Unknown depth is stored as 65535 = 128 m: averaged before decoding it would be seen in the target."""
    stored = np.full((32, 32), 512, np.uint16)
    stored[:, 10:20] = 65535
    smooth = {"name": "depth", "resample": "bilinear"}
    labels = MulTImageProcessor(size={"height": 13, "width": 11}, tasks=[smooth])(
        np.zeros((32, 32, 3), np.uint8), label_maps={"depth": stored}, return_tensors="pt"
    )["labels"]["depth"]
    assert labels.isnan().any()
    assert torch.equal(labels[labels.isfinite()], torch.ones_like(labels[labels.isfinite()]))


@pytest.mark.parametrize(
    ("label_maps", "said"),
    [
        ({"depth": np.ones((4, 4), np.uint8)}, "depth: the stored map is uint8.*reads uint16"),
        ({"depth": np.full((4, 4), 70000)}, "70000.*reads uint16"),
        (
            {"segmentation": np.full((4, 4), 255, np.uint8)},
            "segmentation: 16 pixels have class 254, which the file stores as 255; classes run from 0 to 16",
        ),
        ({"normals": np.ones((4, 4), np.uint8)}, "normals: the stored map has 1 channels.* 3"),
        ({"depth": [None, None]}, "2 maps for 1 images"),
        ({"dpeth": None}, "'dpeth'.*tasks are"),
        ({"depth": "map.png"}, "PIL image, an array or a tensor, got str"),
    ],
    ids=["8 bits for 16", "beyond 16 bits", "wrong class", "wrong channels", "wrong number", "unknown task", "path"],
)
def test_a_map_that_does_not_fit_its_task_is_refused(processor_class, label_maps, said):
    with pytest.raises(ValueError, match=said):
        processor_class(size={"height": 4, "width": 4})(PHOTO, label_maps=label_maps, return_tensors="pt")


def test_the_wrong_map_of_a_batch_is_named(processor_class, tmp_path):
    Image.fromarray(np.full((4, 4), 99, np.uint8)).save(tmp_path / "room_7.png")
    maps = [np.ones((4, 4), np.uint8), Image.open(tmp_path / "room_7.png")]
    with pytest.raises(ValueError, match=r"label map 1 of .*room_7\.png"):
        processor_class(size={"height": 4, "width": 4})([PHOTO] * 2, label_maps={"segmentation": maps})


@pytest.mark.parametrize("kwargs", [{"do_center_crop": True, "crop_size": 2}, {"do_pad": True}])
def test_maps_are_not_silently_left_out_of_a_crop_or_padding(processor_class, kwargs):
    with pytest.raises(ValueError, match="would shift predictions against their images"):
        processor_class()(PHOTO, label_maps={"depth": None}, **kwargs)


def test_labels_come_as_the_caller_wants_them(processor_class, rgb):
    processor = processor_class(size={"height": 4, "width": 5})
    kinds = {kind: processor([rgb], label_maps={"depth": [None]}, return_tensors=kind)["labels"]["depth"] for kind in (None, "pt", "np")}
    assert isinstance(kinds[None], list)
    assert isinstance(kinds["pt"], torch.Tensor)
    assert isinstance(kinds["np"], np.ndarray)
    assert kinds[None][0].shape == (1, 4, 5)
    assert kinds["np"].shape == (1, 1, 4, 5)


def test_a_batch_moves_and_casts_its_nested_labels(processor_class, rgb):
    processor = processor_class(size={"height": 4, "width": 5})
    batch = processor(rgb, label_maps={"depth": None, "segmentation": None}, return_tensors="pt")
    assert isinstance(batch, MulTBatchFeature)
    assert batch["labels"]["depth"].device.type == "cpu"
    cast = batch.to(torch.bfloat16)
    assert cast["pixel_values"].dtype == cast["labels"]["depth"].dtype == torch.bfloat16
    assert cast["labels"]["segmentation"].dtype == torch.int64
    moved = batch.to("meta")
    assert {tensor.device.type for tensor in [moved["pixel_values"], *moved["labels"].values()]} == {"meta"}


# Predictions back to units


def finished(predictions, target_sizes=None, tasks=None, **kwargs):
    return MulTImageProcessorPil(tasks=tasks).post_process(predictions, target_sizes, **kwargs)


def test_logits_become_class_ids_and_scores():
    logits = torch.zeros(1, 3, 1, 2)
    logits[0, 2, 0, 0], logits[0, 1, 0, 1] = np.log(2), np.log(6)
    (image,) = finished({"segmentation": logits}, tasks=[{"name": "segmentation", "class_names": ["a", "b", "c"]}], return_scores=True)
    assert image["segmentation"]["prediction"].tolist() == [[2, 1]]
    assert image["segmentation"]["prediction"].dtype == torch.int64
    torch.testing.assert_close(image["segmentation"]["scores"][:, 0].T, torch.tensor([[0.25, 0.25, 0.5], [0.125, 0.75, 0.125]]))


def test_scores_are_left_out_unless_asked_for():
    (image,) = finished({"segmentation": torch.zeros(1, 17, 2, 2)})
    assert list(image["segmentation"]) == ["prediction"]


def test_depth_stays_metres_and_maps_stay_in_their_range():
    (image,) = finished({"depth": torch.tensor([[[[2.5, 12.0]]]]), "edges2d": torch.tensor([[[[-0.25, 0.5, 1.5]]]])})
    assert image["depth"]["prediction"].tolist() == [[2.5, 10.0]]
    assert image["edges2d"]["prediction"].tolist() == [[0.0, 0.5, 1.0]]


def test_normals_are_unit_vectors_again_after_resizing():
    right, viewer = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0])
    prediction = torch.stack([right, viewer], dim=-1).reshape(1, 3, 1, 2)
    (image,) = finished({"normals": prediction}, [(1, 4)])
    normals = image["normals"]["prediction"]
    assert normals.shape == (3, 1, 4)
    torch.testing.assert_close(normals.norm(dim=0), torch.ones(1, 4))
    torch.testing.assert_close(normals[:, 0, 1], torch.tensor([3.0, 0, 1]) / 10**0.5)  # three parts of one, one of the other
    torch.testing.assert_close(normals[:, 0, 0], right)


def test_each_image_gets_its_own_size_and_unknown_tasks_keep_their_channels():
    predictions = {"depth": torch.ones(2, 1, 4, 4), "principal_curvature": torch.ones(2, 2, 4, 4)}
    first, second = finished(predictions, [(3, 5), torch.Size([8, 2])], tasks=["depth", TWO_NUMBERS])
    assert [first[task]["prediction"].shape for task in predictions] == [(3, 5), (2, 3, 5)]
    assert [second[task]["prediction"].shape for task in predictions] == [(8, 2), (2, 8, 2)]
    first, _ = finished(predictions, tasks=["depth", TWO_NUMBERS])
    assert first["depth"]["prediction"].shape == (4, 4)


def test_images_of_a_batch_are_not_swapped():
    first, second = finished({"depth": torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)}, [(2, 2), (2, 2)])
    torch.testing.assert_close(first["depth"]["prediction"], torch.full((2, 2), 1.0))
    torch.testing.assert_close(second["depth"]["prediction"], torch.full((2, 2), 2.0))


def test_half_precision_predictions_become_float32():
    (image,) = finished({"depth": torch.ones(1, 1, 2, 2, dtype=torch.bfloat16)})
    assert image["depth"]["prediction"].dtype == torch.float32


@pytest.mark.parametrize("processor", [MulTImageProcessor(), MulTImageProcessorPil()], ids=["torchvision", "pil"])
def test_the_names_that_transformers_gives_return_what_it_returns(processor):
    predictions = {
        "segmentation": torch.eye(17)[3].reshape(1, 17, 1, 1).expand(1, 17, 4, 4),
        "depth": torch.full((1, 1, 4, 4), 2.0),
        "normals": torch.tensor([0.0, 0, 1]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4),
    }
    outputs = MulTDensePredictionOutput(predictions=predictions)
    (classes,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[(2, 3)])
    (both,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[(2, 3)], return_segmentation_scores=True)
    assert torch.equal(both.segmentation, classes)
    torch.testing.assert_close(both.segmentation_scores, torch.eye(17)[3].reshape(17, 1, 1).expand(17, 2, 3))  # logits
    (depth,) = processor.post_process_depth_estimation(outputs, target_sizes=[(2, 3)])
    (normals,) = processor.post_process_normal_estimation(outputs, target_sizes=[(2, 3)])
    assert torch.equal(classes, torch.full((2, 3), 3))
    assert torch.equal(depth["predicted_depth"], torch.full((2, 3), 2.0))
    torch.testing.assert_close(normals["normals"], torch.tensor([0.0, 0, 1]).reshape(3, 1, 1).expand(3, 2, 3))


def test_what_cannot_be_post_processed_is_refused():
    with pytest.raises(ValueError, match="1 sizes for 2 images"):
        finished({"depth": torch.ones(2, 1, 4, 4)}, [(4, 4)])
    with pytest.raises(ValueError, match="task 'principal_curvature'"):
        finished({"principal_curvature": torch.ones(1, 2, 4, 4)})
    with pytest.raises(ValueError, match="0 tasks for 'depth-estimation'"):
        MulTImageProcessorPil().post_process_depth_estimation({"normals": torch.ones(1, 3, 4, 4)})


def test_post_processing_is_the_inverse_of_reading_a_map(processor_class):
    """Stored maps, as targets, taken for perfect predictions, post-processed and encoded, are the stored maps."""
    random = np.random.default_rng(0)
    directions = random.normal(size=(3, 8, 12))
    directions /= np.linalg.norm(directions, axis=0)
    processor = processor_class(size={"height": 8, "width": 12}, tasks=["segmentation", "depth", "normals", "edges2d", TWO_NUMBERS])
    specs = processor.task_specs
    stored = {
        "segmentation": random.integers(1, 18, (1, 8, 12)).astype(np.uint8),
        "depth": random.integers(1, 5120, (1, 8, 12)).astype(np.uint16),
        "normals": specs["normals"].encode(directions),
        "edges2d": random.integers(0, 65536, (1, 8, 12)).astype(np.uint16),
        "principal_curvature": random.normal(size=(2, 8, 12)).astype(np.float32),
    }
    labels = processor(np.zeros((8, 12, 3), np.uint8), label_maps=stored, return_tensors="pt")["labels"]
    predictions = dict(labels, segmentation=torch.nn.functional.one_hot(labels["segmentation"], 17).permute(0, 3, 1, 2) * 5.0)
    (image,) = processor.post_process(predictions, [(8, 12)])
    for task, maps in image.items():
        target = maps["prediction"].numpy().reshape((8, 12) if task == "segmentation" else (-1, 8, 12))
        difference = specs[task].encode(target).astype(np.float64) - stored[task]
        assert np.abs(difference).max() <= (1 if task == "normals" else 0), task  # stored normals are unit vectors up to rounding


# Saving and loading


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_a_saved_processor_loads_for_both_backends(processor_class, backend, tmp_path, rgb):
    far = TaskSpec(name="depth", kind="regression", channels=1, value_range=(0, 80), encoding=LabelEncoding(dtype="uint16", scale=1 / 256))
    saved = processor_class(size={"height": 40, "width": 64}, image_mean=[0.5, 0.4, 0.3], tasks=[far, TWO_NUMBERS])
    saved.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    assert type(loaded) is {"torchvision": MulTImageProcessor, "pil": MulTImageProcessorPil}[backend]
    assert loaded.task_specs == saved.task_specs
    assert loaded.task_specs["depth"].encoding.scale == 1 / 256
    assert loaded.to_dict() == saved.to_dict()
    one, other = (p(rgb, label_maps={"depth": np.full((6, 9), 256, np.uint16)}, return_tensors="pt") for p in (saved, loaded))
    torch.testing.assert_close(one["pixel_values"], other["pixel_values"], atol=1.001 * GREY_LEVEL / 0.224, rtol=0)
    assert (other["labels"]["depth"] == 1).all()


def test_the_saved_directory_holds_the_code_of_both_backends(processor_class, tmp_path):
    """Remote code is looked up by the file names that the saved configuration gives, whichever backend saved it."""
    saved = processor_class()
    saved.save_pretrained(tmp_path)
    named = saved.to_dict()["auto_map"]["AutoImageProcessor"]
    assert set(named) == {"torchvision", "pil"}
    assert {f"{reference.split('.')[0]}.py" for reference in named.values()} <= {path.name for path in tmp_path.iterdir()}


WITHOUT_TORCHVISION = """
import importlib, sys, types
sys.modules["torchvision"] = None  # `import torchvision` fails, and looking for it finds nothing
package = types.ModuleType("remote_code")  # a folder of files without __init__.py, as transformers makes of remote code
package.__path__ = [sys.argv[1]]
sys.modules["remote_code"] = package
pil = importlib.import_module("remote_code.image_processing_pil_mult")
import numpy as np
photo, depth = (np.load(path) for path in sys.argv[2:4])
batch = pil.MulTImageProcessorPil(size={"height": 32, "width": 40})(photo, label_maps={"depth": depth}, return_tensors="np")
assert "mult_hf" not in sys.modules
np.savez(sys.argv[4], pixel_values=batch["pixel_values"], depth=batch["labels"]["depth"])
"""


def test_the_pil_file_works_where_torchvision_is_missing(tmp_path, rgb):
    depth = np.random.default_rng(0).integers(0, 5120, (6, 9)).astype(np.uint16)
    np.save(tmp_path / "photo.npy", rgb)
    np.save(tmp_path / "depth.npy", depth)
    files = Path(importlib.util.find_spec("mult_hf.model").origin).parent
    arguments = [files, *(tmp_path / name for name in ("photo.npy", "depth.npy", "result.npz"))]
    run = subprocess.run([sys.executable, "-c", WITHOUT_TORCHVISION, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    here = MulTImageProcessorPil(size={"height": 32, "width": 40})(rgb, label_maps={"depth": depth}, return_tensors="np")
    there = np.load(tmp_path / "result.npz")
    np.testing.assert_array_equal(there["pixel_values"], here["pixel_values"])
    np.testing.assert_array_equal(there["depth"], here["labels"]["depth"])
