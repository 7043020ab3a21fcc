"""Proves that both image processors turn any usual image into the same pixel values, and refuse files and values that are not images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from mult_hf import MulTImageProcessor, MulTImageProcessorPil

IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


EXACT = 1e-6  # pixel values in [0, 1]


GREY_LEVEL = 1 / 255


HALF_PRECISION = 0.51 * GREY_LEVEL  # bfloat16 holds [0, 1] in steps of at most 1/256


@pytest.fixture
def values(processor_class):
    """Pixel values in [0, 1] of one image: neither resized nor normalised."""
    processor = processor_class(do_resize=False, do_normalize=False)
    return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]


def expected(pixels):
    """(height, width, 3) bytes -> (3, height, width) in [0, 1]."""
    return torch.from_numpy(np.moveaxis(pixels, -1, 0).astype(np.float32)) / 255


def assert_same(result, wanted, tolerance=EXACT):
    assert result.shape == wanted.shape
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize("size", [{"height": 64, "width": 96}, {"shortest_edge": 50}], ids=["fixed", "aspect"])
@pytest.mark.parametrize(
    "form", [Image.fromarray, np.asarray, lambda array: torch.from_numpy(array).permute(2, 0, 1)], ids=["pil", "numpy", "torch"]
)
def test_both_backends_give_the_same_pixels_within_one_grey_level(size, form):
    image = np.ascontiguousarray(load_sample_image("china.jpg")[:, :401])  # 427 x 401: not a multiple of the output size
    one, other = (cls(size=size)(form(image), return_tensors="pt")["pixel_values"] for cls in (MulTImageProcessor, MulTImageProcessorPil))
    height = 64 if "height" in size else 53  # 427 * 50 / 401
    assert one.shape == other.shape == (1, 3, height, 96 if "width" in size else 50)
    difference = (one - other).abs() * IMAGENET_STD / GREY_LEVEL  # in grey levels
    assert difference.max() < 1.001
    assert difference.mean() < 0.1


def test_pixels_are_normalised_by_imagenets_mean_and_deviation(processor_class):
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 16:] = 255
    pixels = processor_class(do_resize=False)(image, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(pixels[:, 0, 0], torch.tensor([(0 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0 - 0.406) / 0.225]))
    torch.testing.assert_close(pixels[:, 0, 31], torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]))


LAYOUTS = {
    "colours last": (lambda pixels: pixels, lambda wanted: wanted),
    "colours first": (lambda pixels: np.moveaxis(pixels, -1, 0), lambda wanted: wanted),
    "grey": (lambda pixels: pixels[..., 0], lambda wanted: wanted[:1].expand(3, -1, -1)),
    "one channel last": (lambda pixels: pixels[..., :1], lambda wanted: wanted[:1].expand(3, -1, -1)),
    "one channel first": (lambda pixels: pixels[None, ..., 0], lambda wanted: wanted[:1].expand(3, -1, -1)),
}


# Conversions of bytes, and the tolerance of the resulting pixel values in [0, 1].
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
    image = (pixels / 255 * white).to(dtype) if dtype.is_floating_point else (pixels.int() * (white // 255)).to(dtype)
    assert_same(values(image), rearrange(expected(rgb)), HALF_PRECISION if dtype in (torch.float16, torch.bfloat16) else EXACT)


def test_a_tensor_that_needs_a_gradient_is_read(values, rgb):
    image = (torch.from_numpy(rgb).permute(2, 0, 1) / 255).requires_grad_()
    assert_same(values(image).detach(), expected(rgb))


def test_black_and_white_arrays_are_read(values):
    assert_same(values(np.array([[True, False], [False, False]])), torch.tensor([[1.0, 0], [0, 0]]).expand(3, 2, 2))


TRANSPARENT = {
    "image": Image.fromarray,
    "array": lambda rgba: rgba,
    "float array": lambda rgba: (rgba / 255).astype(np.float32),
    "16-bit array": lambda rgba: rgba.astype(np.uint16) * 257,
    "tensor": lambda rgba: torch.from_numpy(rgba).permute(2, 0, 1),
    "float tensor": lambda rgba: torch.from_numpy(rgba / 255).permute(2, 0, 1),
}


@pytest.mark.parametrize("form", TRANSPARENT)
def test_transparent_pixels_of_any_form_are_put_on_white(values, form):
    rgba = np.zeros((5, 6, 4), np.uint8)
    rgba[...] = 100, 0, 255, 0  # invisible, whatever its colour
    rgba[1] = 100, 0, 255, 255  # opaque
    rgba[2] = 100, 0, 255, 51  # a fifth: 0.2 * colour + 0.8 * 255
    result = values(TRANSPARENT[form](rgba))[:, :, 0] * 255
    wanted = torch.tensor([[255.0, 255, 255], [100, 0, 255], [224, 204, 255]])
    torch.testing.assert_close(result[:, :3].T, wanted, atol=1.001, rtol=0)


def test_grey_and_cmyk_images_are_converted_to_colours(values, rgb):
    image = Image.fromarray(rgb)
    grey = np.asarray(image.convert("L"))
    assert_same(values(image.convert("L")), expected(np.repeat(grey[..., None], 3, axis=-1)))
    assert image.convert("CMYK").getbands() == ("C", "M", "Y", "K")
    assert_same(values(image.convert("CMYK")), expected(rgb))


def test_palette_images_are_read_with_their_colours(values):
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    wanted = np.array([[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]], np.uint8)
    assert_same(values(image), expected(wanted))
    image.info["transparency"] = 2  # this palette entry is invisible: white
    wanted[1, 0] = 255
    assert_same(values(image), expected(wanted))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_images_are_scaled_and_not_cut_off(values, rgb, tmp_path, suffix):
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(rgb[..., 0].astype(np.uint16) * 257).save(path)
    with Image.open(path) as image:
        assert image.mode.startswith("I")  # the file is read as 16 bits
        assert_same(values(image), expected(np.repeat(rgb[..., :1], 3, axis=-1)))
    assert_same(values(str(path)), expected(np.repeat(rgb[..., :1], 3, axis=-1)))


# EXIF tag 274 is the orientation; the numbers are those of the standard.
@pytest.mark.parametrize(
    ("orientation", "turn"),
    [(1, lambda p: p), (3, lambda p: np.rot90(p, 2)), (6, lambda p: np.rot90(p, -1)), (8, np.rot90), (2, np.fliplr)],
)
def test_images_are_turned_by_their_exif_orientation(values, rgb, tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(rgb).save(path, exif=exif)
    assert_same(values(path), expected(turn(rgb).copy()))
    assert_same(values(Image.open(path)), expected(turn(rgb).copy()))


def test_paths_images_arrays_and_tensors_can_be_mixed_in_one_batch(processor_class, rgb, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(rgb).save(path)
    images = [str(path), path, Image.open(path), rgb, torch.from_numpy(rgb).permute(2, 0, 1), np.repeat(np.repeat(rgb, 2, 0), 2, 1)]
    batch = processor_class(size={"height": 32, "width": 40})(images, return_tensors="pt")["pixel_values"]
    assert batch.shape == (6, 3, 32, 40)
    assert all(torch.equal(batch[0], pixels) for pixels in batch[1:5])


def test_an_array_with_four_axes_is_a_batch_of_images(processor_class, rgb):
    processor = processor_class(size={"height": 32, "width": 32})
    both = processor(np.stack([rgb, rgb[::-1]]), return_tensors="pt")["pixel_values"]
    assert torch.equal(both, processor([rgb, rgb[::-1]], return_tensors="pt")["pixel_values"])
    assert not torch.equal(both[0], both[1])


def half_of(suffix):
    def write(path):
        whole = path.with_name(f"whole.{suffix}")
        Image.fromarray(load_sample_image("china.jpg")).save(whole)
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])

    return write


BROKEN_FILES = {
    "truncated jpg": (half_of("jpg"), "broken"),
    "truncated png": (half_of("png"), "broken"),
    "text": (lambda path: path.write_text("not an image"), "cannot be read as an image"),
    "no byte": (lambda path: path.write_bytes(b""), "cannot be read as an image"),
    "directory": (lambda path: path.mkdir(), "is a folder; give the path of one image"),
    "missing": (lambda path: None, "does not exist"),
}


@pytest.mark.parametrize("kind", BROKEN_FILES)
@pytest.mark.parametrize("as_type", [str, Path])
def test_the_error_names_a_file_that_is_not_a_complete_image(processor_class, tmp_path, kind, as_type):
    write, reason = BROKEN_FILES[kind]
    path = tmp_path / "holiday_17.jpg"
    write(path)
    with pytest.raises(ValueError, match=rf"holiday_17\.jpg.*{reason}"):
        processor_class()(as_type(path), return_tensors="pt")


def test_the_broken_image_among_good_ones_is_named(processor_class, rgb, tmp_path):
    half_of("png")(tmp_path / "holiday_17.png")
    with pytest.raises(ValueError, match=r"holiday_17\.png is broken"):
        processor_class()([rgb, Image.open(tmp_path / "holiday_17.png")], return_tensors="pt")


@pytest.mark.parametrize(
    "empty",
    [Image.new("RGB", (0, 5)), np.zeros((0, 5, 3), np.uint8), np.zeros((5, 0), np.uint8), torch.zeros(3, 0, 4)],
    ids=["image", "array", "grey array", "tensor"],
)
def test_an_image_without_pixels_is_refused(processor_class, empty):
    with pytest.raises(ValueError, match="is empty"):
        processor_class()(empty, return_tensors="pt")


@pytest.mark.parametrize(
    ("image", "said"),
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
def test_the_error_for_invalid_colours_states_the_value(processor_class, image, said):
    with pytest.raises(ValueError, match=said):
        processor_class()(image, return_tensors="pt")


@pytest.mark.parametrize("thing", [5, None, b"abc", {}])
def test_objects_that_are_not_images_are_refused(processor_class, thing):
    with pytest.raises((ValueError, TypeError)):
        processor_class()(thing, return_tensors="pt")
