"""Proves that an image of any form is read as the RGB that its file shows, or refused by name."""

import io

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from mult_hf.model.images import read_image
from support.refusals import refusal
from support.strategies import DTYPES, FILE_FORMATS, SIZES, cases, encoded, image_arrays, image_files, pil_images, spoilt_bytes, write

SIDEWAYS = (5, 6, 7, 8)


@cases(2)
@given(pil_images())
def test_an_image_of_any_mode_is_read_upright_and_reading_it_again_changes_nothing(image):
    upright = image.size[::-1] if image.getexif().get(274) in SIDEWAYS else image.size
    try:
        read = read_image(image)
    except ValueError:
        # Whole numbers up to 255 may be 8 bits or a dark 16-bit image, floats up to 2 in [0, 1] or [0, 255].
        assert np.array(image).max() <= {"I": 255, "F": 2}[image.mode]
        return
    assert (read.mode, read.size) == ("RGB", upright)
    assert np.array_equal(np.array(read_image(read)), np.array(read))


@cases(2)
@given(image_arrays())
def test_an_array_is_read_by_its_type_or_refused(array):
    """The values are those of an independent rule per type."""
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[-1] in (1, 3, 4):
        assert "its channels may be the first axis or the last" in refusal(lambda: read_image(array))
        return
    if refusal(lambda: read_image(array)):
        low, high = array.min(), array.max()
        either = array.dtype.itemsize > 1 if array.dtype.kind in "iu" else 1 < high < 2
        assert low < 0 or high > 255 or either, "an image of 8 bits or in [0, 1] is no reason to refuse"
        return
    read = read_image(array)
    assert read.dtype == np.uint8
    assert read.shape[0] == 3
    assert sorted(read.shape[1:]) == sorted(side for side, keep in zip(array.shape, _is_side(array)) if keep)
    if array.shape[0] == 4 or array.shape[-1] == 4:
        return  # opacity, tested by example
    scale = 255 if array.dtype.kind == "b" or (array.dtype.kind == "f" and array.max() <= 1) else 1
    if array.dtype.kind in "iu" and array.dtype.itemsize > 1:
        scale = 255 / 65535
    expected = np.sort((array.astype(np.float64) * scale).ravel())
    channels = 1 if array.ndim == 2 else array.shape[0] if array.shape[0] in (1, 3, 4) else array.shape[-1]
    found = np.sort(read[:channels].astype(float).ravel())
    np.testing.assert_allclose(found, expected, atol=0.51)  # rounding to whole numbers


def _is_side(array):
    """Which axes are height and width."""
    if array.ndim == 2:
        return (True, True)
    return (False, True, True) if array.shape[0] in (1, 3, 4) else (True, True, False)


@given(image_arrays(dtypes=[name for name in DTYPES if name not in ("uint32", "uint64") and not name.startswith(">")]))
def test_a_tensor_is_read_as_the_array_of_its_values(array):
    tensor = torch.from_numpy(array.copy())
    assert bool(refusal(lambda: read_image(array))) == bool(refusal(lambda: read_image(tensor)))
    if not refusal(lambda: read_image(array)):
        assert np.array_equal(read_image(tensor).numpy(), read_image(array))


@given(SIZES, st.integers(0, 2**32 - 1))
def test_where_the_channels_lie_does_not_change_the_image(size, seed):
    last = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    first = np.ascontiguousarray(np.moveaxis(last, -1, 0))
    assert np.array_equal(read_image(last, channels_last=True), read_image(first, channels_last=False))
    assume(not {*size} & {1, 3, 4})
    assert np.array_equal(read_image(last), read_image(first))


@cases(2)
@given(pil_images(("RGB", "L")), st.sampled_from(FILE_FORMATS))
def test_the_image_in_a_file_does_not_depend_on_the_form_of_its_bytes(tmp_path, image, file_format):
    content = encoded(image, file_format)
    path = write(tmp_path / "image.any", content)
    expected = np.array(read_image(Image.open(io.BytesIO(content))))
    for form in (content, bytearray(content), io.BytesIO(content), path, str(path), {"bytes": content, "path": None}):
        assert np.array_equal(np.array(read_image(form)), expected)


@cases(4)
@given(spoilt_bytes(image_files))
def test_a_spoilt_file_is_an_image_or_refused(content):
    refusal(lambda: read_image(content))


CELLS = st.dictionaries(st.sampled_from(["bytes", "path", "x"]), st.one_of(st.none(), st.text(), st.binary()))
NO_IMAGES = [
    *(np.array(["a", "b"]), np.array([[object()]]), np.zeros((2, 2), complex), np.zeros((0, 5)), np.zeros(()), np.zeros(7)),
    *(np.zeros((2, 2, 2, 2)), np.full((4, 5), np.nan), np.array([["2020-01-01"]], "M8[D]"), np.zeros((2, 2), [("a", "u1")])),
    *(torch.zeros(0, 3), torch.zeros(3), torch.zeros(2, 2, dtype=torch.complex64), "x" * 4000),
]


@cases(2)
@given(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=40), st.binary(max_size=40), CELLS),
        *(st.sampled_from(NO_IMAGES), st.lists(st.integers(), max_size=3)),
    )
)
def test_a_value_that_is_not_an_image_is_refused(junk):
    if isinstance(junk, str) and junk.startswith(("http", "data:")):
        return
    assert refusal(lambda: read_image(junk)), "no image came out of it"


@pytest.mark.parametrize("mode", ["LAB", "La"])
def test_the_error_names_an_image_mode_that_pillow_cannot_convert(mode):
    message = refusal(lambda: read_image(Image.new(mode, (3, 2))))
    assert message is None or message.endswith("convert it to RGB beforehand")
