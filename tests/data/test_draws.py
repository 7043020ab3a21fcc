"""Proves the distributions of `RandomAugmentation`'s random values; each bound is six standard errors of its share."""

import pytest
import torch

from mult_hf import TaskSpec
from mult_hf.data.augmentations import RandomAugmentation

DRAWS = 1000
TOLERANCE = 0.1  # six times 0.5 / sqrt(1000)
TASKS = {
    "depth": TaskSpec(name="depth", kind="regression", channels=1, zoom_exponent=-1.0),
    "arrow": TaskSpec(name="arrow", kind="regression", channels=2, rotated_channels=(0, 1)),
}
STILL = dict.fromkeys(("flip", "degrees", "brightness", "contrast", "saturation", "hue"), 0.0)


def draw(pixel_values=None, **ranges):
    """Views of a scene of depth 1 whose arrows point to the right."""
    augmentation = RandomAugmentation(tasks=TASKS, **{**STILL, "zoom": (1.0, 1.0), **ranges})
    labels = {"depth": torch.ones(1, 8, 8), "arrow": torch.tensor([1.0, 0.0]).view(2, 1, 1).expand(2, 8, 8)}
    sample = {"pixel_values": torch.zeros(3, 8, 8) if pixel_values is None else pixel_values, "labels": labels}
    generator = torch.Generator().manual_seed(0)
    return [augmentation(sample, generator) for _ in range(DRAWS)]


def test_zooms_are_uniform_on_a_logarithmic_scale():
    """From 1 to 16, half of the zooms are below 4, the middle of the logarithms."""
    zooms = torch.tensor([1 / view["labels"]["depth"].nan_to_num().max().item() for view in draw(zoom=(1.0, 16.0))])
    assert 1 <= zooms.min() < 1.2
    assert 14 < zooms.max() <= 16
    assert (zooms < 4).float().mean().item() == pytest.approx(0.5, abs=TOLERANCE)


def test_rotations_are_symmetric():
    up = torch.stack([view["labels"]["arrow"][1, 4, 4] for view in draw(degrees=30.0)])
    angles = torch.rad2deg(torch.asin(up))
    assert angles.abs().max() <= 30 + 1e-3
    assert (angles > 0).float().mean().item() == pytest.approx(0.5, abs=TOLERANCE)
    assert (angles.abs() < 15).float().mean().item() == pytest.approx(0.5, abs=TOLERANCE)


@pytest.mark.parametrize("change", ["blur", "noise"])
def test_half_of_the_images_are_unchanged(change):
    stripes = torch.full((3, 8, 8), 0.25)
    stripes[..., ::2] = 0.75
    same = [torch.equal(view["pixel_values"], stripes) for view in draw(stripes, **{change: 1.0})]
    assert sum(same) / DRAWS == pytest.approx(0.5, abs=TOLERANCE)


def test_flips_have_the_requested_probability():
    ramp = torch.linspace(0, 1, 8).expand(3, 8, 8)
    flipped = [view["pixel_values"][0, 0, 0] > view["pixel_values"][0, 0, -1] for view in draw(ramp, flip=0.25)]
    assert sum(flipped) / DRAWS == pytest.approx(0.25, abs=TOLERANCE)
