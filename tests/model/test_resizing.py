"""Resizing in strips gives what torch's bilinear resizing gives, and the class map is the arg-max of resized logits."""

import pytest
import torch
import torch.nn.functional as F

from mult_hf import IGNORE_INDEX
from mult_hf.model import resizing
from mult_hf.model.resizing import bounded_size, class_map, strips

SIZES = [(8, 11), (16, 22), (37, 5), (3, 70), (1, 1), (100, 90), (8, 90), (90, 11)]


def interpolated(maps, size):
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def random_maps(channels, height=8, width=11):
    return torch.randn(channels, height, width, generator=torch.Generator().manual_seed(channels))


@pytest.fixture(params=[(1, 1), (1, 2), (50, 3), (10**6, 16)], ids=["one row per band", "two rows per band", "some rows", "one strip"])
def strip_values(request, monkeypatch):
    values, strips_of_a_band = request.param
    monkeypatch.setattr(resizing, "STRIP_VALUES", values)
    monkeypatch.setattr(resizing, "STRIPS_OF_A_BAND", strips_of_a_band)


@pytest.mark.usefixtures("strip_values")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_strips_are_the_rows_of_the_resized_map(channels, size):
    """1e-5 of values around 1: positions in float32, whose last digits depend on the order of operations."""
    maps = random_maps(channels)
    parts = list(strips(maps, size))
    assert [row for part in parts for row in range(size[0])[part.rows]] == [*range(size[0])]
    torch.testing.assert_close(torch.cat([part.values for part in parts], dim=1), interpolated(maps, size), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("strip_values")
@pytest.mark.parametrize("size", SIZES)
def test_the_nearest_pixels_of_strips_are_those_of_nearest_exact(size):
    maps = random_maps(3)
    nearest = torch.cat([part.nearest for part in strips(maps, size)], dim=1)
    assert torch.equal(nearest, F.interpolate(maps[None], size=size, mode="nearest-exact")[0])


def test_a_map_that_has_the_size_is_not_changed():
    maps = random_maps(2)
    maps[0, 3, 4] = torch.nan
    (part,) = strips(maps, (8, 11))
    assert torch.equal(part.values.nan_to_num(7), maps.nan_to_num(7))


def test_a_constant_keeps_its_value_to_the_last_bit():
    """0.1 is no binary fraction: weights whose sum is not exactly 1 would show."""
    (part,) = strips(torch.full((1, 3, 5), 0.1), (20, 31))
    assert torch.equal(part.values, torch.full((1, 20, 31), 0.1))


def smooth_logits(classes):
    """Large regions of one class with smooth boundaries, as networks predict them."""
    return F.interpolate(random_maps(classes, 4, 5)[None], size=(24, 33), mode="bicubic")[0]


@pytest.mark.parametrize("make", [smooth_logits, random_maps], ids=["regions", "noise"])
@pytest.mark.parametrize("classes", [2, 18])
@pytest.mark.parametrize("size", [(300, 411), (25, 34), (48, 33), (11, 9), (500, 8)])
def test_each_pixel_has_the_class_of_the_largest_resized_logit(monkeypatch, make, classes, size):
    """But where the two largest differ by 1e-4 at most, and so by rounding: less than one pixel in 10,000."""
    monkeypatch.setattr(resizing, "_FEW_VALUES", 0)
    logits = make(classes)
    expected = interpolated(logits, size)
    found = class_map(logits, size)
    assert found.dtype == torch.int64
    other = found != expected.argmax(dim=0)
    assert other.float().mean() <= 1e-4
    first, second = expected[:, other].topk(2, dim=0).values
    assert ((first - second) < 1e-4).all()


def test_a_class_that_leads_between_pixels_only_is_found(monkeypatch):
    """Between logits (10, 0, 9) and (0, 10, 9) the third class leads from 1/10 to 9/10, though it leads at no pixel."""
    monkeypatch.setattr(resizing, "_FEW_VALUES", 0)
    logits = torch.tensor([[10.0, 0.0], [0.0, 10.0], [9.0, 9.0]])[:, None]  # (classes, 1 row, 2 columns)
    assert class_map(logits, (1, 8))[0].tolist() == [0, 0, 2, 2, 2, 2, 1, 1]


@pytest.mark.parametrize("few_values", [0, 2**22], ids=["along boundaries", "at once"])
def test_a_pixel_next_to_a_logit_that_is_not_a_number_has_no_class(monkeypatch, few_values):
    """The pixels that the broken logit contributes to, and no others; a NaN in any class makes the largest one unknown."""
    monkeypatch.setattr(resizing, "_FEW_VALUES", few_values)
    logits = smooth_logits(4)
    logits[2, 10, 20] = torch.nan
    expected = interpolated(logits, (300, 411))
    found = class_map(logits, (300, 411))
    broken = expected.isnan().any(dim=0)
    assert 0 < broken.sum() < 1500, "premise"
    assert torch.equal(found == IGNORE_INDEX, broken)


@pytest.mark.parametrize("size", [(48, 33), (300, 411)])
def test_a_class_that_is_ruled_out_by_minus_infinity_hides_no_other(monkeypatch, size):
    """A mean with a weight of 0 for minus infinity is no number, whatever the other classes say."""
    logits = smooth_logits(4)
    without = class_map(logits[:3], size)
    logits[3] = -torch.inf
    for few_values in (0, 2**22):
        monkeypatch.setattr(resizing, "_FEW_VALUES", few_values)
        assert (class_map(logits, size) != without).float().mean() <= 1e-4


def test_large_and_small_maps_take_the_same_classes(monkeypatch):
    logits = smooth_logits(5)
    assert resizing._FEW_VALUES > 5 * 120 * 160, "premise: at once"
    at_once = class_map(logits, (120, 160))
    monkeypatch.setattr(resizing, "_FEW_VALUES", 0)
    assert (class_map(logits, (120, 160)) != at_once).float().mean() <= 1e-4


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [((3000, 4000), 1024, (768, 1024)), ((4000, 3000), 1000, (1000, 750)), ((480, 640), 640, (480, 640)), ((480, 640), None, (480, 640)),
     ((1, 5000), 100, (1, 100))],
)  # fmt: skip
def test_the_longer_side_of_a_bounded_size_is_at_most_the_limit(size, max_side, expected):
    assert bounded_size(size, max_side) == expected
