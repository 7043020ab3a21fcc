"""What flips, quarter turns and zooms do to a sample, pixel by pixel."""

import pytest
import torch

from mult_hf import TaskSpec
from mult_hf.data.augmentations import horizontal_flip, rotate_zoom_crop

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


def test_a_flip_mirrors_pixels_maps_and_the_principal_point_and_turns_arrows_to_the_right_into_arrows_to_the_left():
    flipped = horizontal_flip(sample(), TASKS)
    assert flipped["labels"]["depth"][0].tolist() == [[2, 1], [4, 3]]
    assert flipped["pixel_values"][0].tolist() == [[0.5, 0.25], [1, 0.75]]
    assert (arrow_at(flipped, 0, 1), arrow_at(flipped, 0, 0)) == ([-1, 0], [0, 1])
    assert flipped["principal_point"] == (1.5, 1.0), "half a pixel from the left border becomes half a pixel from the right one"


def test_a_quarter_turn_counter_clockwise_turns_the_pixels_and_the_arrows():
    """The top right pixel comes to the top left; an arrow to the right points upwards, one upwards to the left."""
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
