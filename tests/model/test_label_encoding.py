"""Proves that a stored map is read as its encoding declares: which values are unknown, and which axis is the channel axis."""

import numpy as np
import pytest
from PIL import Image

from mult_hf import LabelEncoding, TaskSpec, registered_tasks


@pytest.mark.parametrize("declared", ["float16", "float32", "float64"])
@pytest.mark.parametrize("stored", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [0.1, -9999.9, 1 / 3, 0.0])
def test_an_unknown_value_is_recognised_in_floats_of_any_width(declared, stored, value):
    """0.1 in an entry is a float64; a float32 file contains the nearest float32, which a library may have widened."""
    encoding = LabelEncoding(dtype=declared, unknown=(value,))
    narrow = np.array([[value, 5.0]], min(np.dtype(declared), np.dtype(stored), key=lambda dtype: dtype.itemsize))
    for written in (narrow, np.array([[value, 5.0]])):
        target = encoding.decode(written.astype(stored))
        assert np.isnan(target[0, 0, 0])
        assert target[0, 0, 1] == 5


def test_a_value_next_to_an_unknown_value_stays_known():
    stored = np.array([[np.nextafter(np.float32(0.1), np.float32(1))]])
    assert not np.isnan(LabelEncoding(unknown=(0.1,)).decode(stored)).any()


def test_a_float_map_without_unknown_value_stores_nan_and_reads_it_back():
    target = np.array([[[1.5, np.nan]]], np.float32)
    encoding = LabelEncoding()
    np.testing.assert_array_equal(encoding.decode(encoding.encode(target)), target)


# The channel axis.


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_the_declared_channels_determine_the_axis_or_the_map_is_refused(rows, channels):
    spec = TaskSpec(name="t", kind="regression", channels=channels)
    stored = np.arange(channels * rows * 7, dtype=np.float32).reshape(channels, rows, 7)
    np.testing.assert_array_equal(spec.decode(stored), stored)  # 7 columns are never the channels
    last = np.moveaxis(stored, 0, -1)
    if rows == channels:
        with pytest.raises(ValueError, match=r"t: a stored map of shape .* may have its channels first or last"):
            spec.decode(last)
    else:
        np.testing.assert_array_equal(spec.decode(last), stored)


def test_a_colour_image_of_three_rows_is_not_read_with_mixed_axes():
    with pytest.raises(ValueError, match=r"normals: a stored map of shape \(3, 60, 3\)"):
        registered_tasks()["normals"].decode(np.zeros((3, 60, 3), np.uint8))


def test_one_channel_of_a_map_with_opacity_is_read_in_either_layout():
    spec = registered_tasks()["reshading"]  # reads channel 0
    stored = np.arange(4 * 6 * 7, dtype=np.uint8).reshape(4, 6, 7)
    expected = stored[:1] / np.float32(255)
    np.testing.assert_allclose(spec.decode(stored), expected, atol=1e-6)
    np.testing.assert_allclose(spec.decode(np.moveaxis(stored, 0, -1)), expected, atol=1e-6)
    with pytest.raises(ValueError, match="first or last"):
        spec.decode(np.zeros((3, 60, 4), np.uint8))


def test_a_mask_of_1_bit_holds_classes_0_and_1():
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:] = True
    spec = TaskSpec(name="foreground", kind="classification", channels=2)
    assert np.array_equal(spec.decode(mask), mask.astype(np.int64))
    assert np.array_equal(spec.decode(np.asarray(Image.fromarray(mask))), mask.astype(np.int64)), "as Pillow reads a 1-bit PNG"
    with pytest.raises(ValueError, match="the stored map is bool"):
        TaskSpec(name="depth", kind="regression", channels=1, encoding=LabelEncoding(dtype="uint16")).decode(mask)
