"""Overlapping tiles are blended pixel by pixel, by weights that fall from a tile's middle to its edges."""

import pytest
import torch

from mult_hf import TaskSpec
from mult_hf.inference.tiling import tiled

SPECS = {"height": TaskSpec(name="height", kind="regression", channels=1)}


def number_of_the_tile():
    """A predictor that says 0 for the first tile it sees, 1 for the second, and so on."""
    seen = iter(range(100))
    return lambda tiles: {"height": torch.full((len(tiles), 1, *tiles.shape[-2:]), float(next(seen)))}


def test_between_two_tiles_the_prediction_passes_evenly_from_one_to_the_other():
    """Two tiles of 64 pixels over 96: in the 32 that both have, weights 32 ... 1 and 1 ... 32 have the sum 33."""
    found = tiled(number_of_the_tile(), SPECS, tile=64)(torch.zeros(1, 3, 64, 96))["height"][0, 0]
    expected = torch.cat([torch.zeros(32), torch.arange(1, 33) / 33, torch.ones(32)])
    torch.testing.assert_close(found, expected.expand(64, -1))


@pytest.mark.parametrize("size", [(64, 64), (40, 64), (40, 50)])
def test_an_image_that_fits_a_tile_is_seen_as_it_is(size):
    found = tiled(lambda tiles: {"height": tiles[:, :1]}, SPECS, tile=64)(pixels := torch.rand(1, 3, *size))["height"]
    torch.testing.assert_close(found, pixels[:, :1])


def test_neighbouring_tiles_share_at_least_a_quarter_of_their_side():
    """128 pixels would be two tiles of 64 without any overlap; with 16 pixels of it at least they are three."""
    sizes = []
    tiled(lambda tiles: (sizes.append(tuple(tiles.shape[-2:])), {"height": tiles[:, :1]})[1], SPECS, tile=64)(torch.zeros(1, 3, 64, 128))
    assert sizes == [(64, 64)] * 3
