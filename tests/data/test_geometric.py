"""Proves the effect of flips, quarter turns and zooms on a sample, pixel by pixel, and the smoothing of reduced images."""

import math

import pytest
import torch

from mult_hf import TaskSpec
from mult_hf.data.geometric import horizontal_flip, rotate_zoom_crop

TASKS = {
    "depth": TaskSpec(name="depth", kind="regression", channels=1, zoom_exponent=-1.0),
    "arrow": TaskSpec(name="arrow", kind="regression", channels=2, horizontal_flip_signs=(-1.0, 1.0), rotated_channels=(0, 1)),
}


def sample():
    """Two by two pixels of depth 1, 2, 3, 4, with an arrow to the right and one upwards in the top row and nothing known below."""
    arrows = torch.full((2, 2, 2), torch.nan)
    arrows[:, 0, 0], arrows[:, 0, 1] = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    depth = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    return {
        "pixel_values": depth.expand(3, -1, -1) / 4,
        "labels": {"depth": depth, "arrow": arrows},
        "focal": 5.0,
        "principal_point": (0.5, 1.0),
    }


def arrow_at(changed, row, column):
    return changed["labels"]["arrow"][:, row, column].tolist()


def test_a_flip_mirrors_pixels_maps_and_the_principal_point_and_negates_the_x_of_vectors():
    flipped = horizontal_flip(sample(), TASKS)
    assert flipped["labels"]["depth"][0].tolist() == [[2, 1], [4, 3]]
    assert flipped["pixel_values"][0].tolist() == [[0.5, 0.25], [1, 0.75]]
    assert (arrow_at(flipped, 0, 1), arrow_at(flipped, 0, 0)) == ([-1, 0], [0, 1])
    assert flipped["principal_point"] == (1.5, 1.0), "half a pixel from the left border becomes half a pixel from the right one"


def test_a_flip_negates_the_x_of_vectors_whose_entry_leaves_the_signs_to_their_default():
    default = {**TASKS, "arrow": TaskSpec(name="arrow", kind="regression", channels=2, rotated_channels=(0, 1))}
    flipped = horizontal_flip(sample(), default)
    assert (arrow_at(flipped, 0, 1), arrow_at(flipped, 0, 0)) == ([-1, 0], [0, 1])
    assert flipped["labels"]["depth"][0].tolist() == [[2, 1], [4, 3]]


def test_a_counter_clockwise_quarter_turn_rotates_pixels_and_vectors():
    """The top right pixel moves to the top left; a vector to the right then points upwards, and an upward one to the left."""
    turned = rotate_zoom_crop({**sample(), "principal_point": None}, TASKS, (2, 2), degrees=90)
    assert turned["labels"]["depth"][0].tolist() == [[2, 4], [1, 3]]
    assert arrow_at(turned, 1, 0) == pytest.approx([0, 1], abs=1e-6)
    assert arrow_at(turned, 0, 0) == pytest.approx([-1, 0], abs=1e-6)


def test_a_zoom_by_two_halves_depth_and_doubles_the_focal_length():
    zoomed = rotate_zoom_crop(sample(), TASKS, (4, 4), zoom=2)
    assert zoomed["labels"]["depth"][0].tolist() == [[0.5, 0.5, 1, 1]] * 2 + [[1.5, 1.5, 2, 2]] * 2
    assert arrow_at(zoomed, 0, 0) == [1, 0], "directions stay"
    assert (zoomed["focal"], zoomed["principal_point"]) == (10.0, (1.0, 2.0))


def test_a_window_takes_its_corner_from_the_magnified_image():
    window = rotate_zoom_crop(sample(), TASKS, (2, 2), zoom=2, corner=(1, 2))
    assert window["labels"]["depth"][0].tolist() == [[1.5, 2], [1.5, 2]]
    assert window["principal_point"] == (0.0, 0.0)


@pytest.mark.parametrize("zoom", [0.5, 0.25])
def test_a_reduced_image_is_smoothed_enough_against_aliasing(zoom):
    """A wave keeps exp(-2 (pi sigma / period)^2) of its height, with sigma = sqrt(1 / zoom^2 - 1) / 2 pixels of the original."""
    period, side = 32, 256
    wave = 0.5 + 0.4 * torch.cos(2 * math.pi * (torch.arange(side) + 0.5) / period)
    sample = {"pixel_values": wave.expand(3, side, side).contiguous(), "labels": {}}
    small = rotate_zoom_crop(sample, {}, (round(side * zoom), round(side * zoom)), zoom=zoom)["pixel_values"]
    places = (torch.arange(small.shape[-1]) + 0.5) / zoom  # in pixels of the original
    sigma = math.sqrt(zoom**-2 - 1) / 2
    between_pixels = math.cos(math.pi / period)  # pixels' centres lie between those of the original, which are averaged two by two
    height = 0.4 * math.exp(-2 * (math.pi * sigma / period) ** 2) * between_pixels
    expected = 0.5 + height * torch.cos(2 * math.pi * places / period)
    inside = slice(8, -8)
    torch.testing.assert_close(small[0, small.shape[1] // 2, inside], expected[inside], rtol=0, atol=2e-3)
