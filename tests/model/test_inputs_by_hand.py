"""Proves that images and label maps become the inputs and targets that a calculation by hand gives."""

import math

import numpy as np
import pytest
import torch

from mult_hf.model.images import read_image, resize_label


def test_transparent_pixels_are_put_on_white():
    """Black at opacity 0, 51/255 and 1 is white, a light grey of 204, and black."""
    rgba = np.zeros((4, 1, 5), np.uint8)
    rgba[3, 0] = [0, 51, 255, 255, 255]
    assert read_image(rgba)[0, 0].tolist() == [255, 204, 0, 0, 0]


@pytest.mark.parametrize(("highest", "stored"), [(65535, [0, 257, 65535]), (1.0, [0.0, 1 / 255, 1.0]), (255.0, [0.0, 1.0, 255.0])])
def test_images_of_16_bits_and_floats_are_scaled_to_8_bits(highest, stored):
    image = np.array([stored] * 8, np.uint16 if highest == 65535 else np.float32)
    assert read_image(image)[0, 0].tolist() == [0, 1, 255]


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ([1.0, 3.0, 5.0, 7.0], 4.0),
        ([1.0, math.nan, 5.0, 6.0], 4.0),
        ([1.0, math.nan, math.nan, 7.0], 4.0),
        ([math.nan, math.nan, math.nan, 7.0], math.nan),  # less than half of the weight is known
    ],
)
def test_a_smaller_heat_map_has_the_means_of_known_pixels(pixels, expected):
    """Two by two pixels to one: with antialiasing the filter weighs the four alike."""
    found = resize_label(torch.tensor(pixels).view(1, 2, 2), (1, 1), "bilinear").item()
    assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("size", "expected"), [(2, [1, 3]), (1, [2]), (8, [0, 0, 1, 1, 2, 2, 3, 3])])
def test_nearest_resizing_takes_the_pixel_at_the_centre_of_the_new_one(size, expected):
    """Centres on the line between two pixels belong to the second one."""
    assert resize_label(torch.tensor([[0, 1, 2, 3]]), (1, size), "nearest")[0].tolist() == expected
