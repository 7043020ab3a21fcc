"""Proves that targets which follow from the image are those of each view, and that unknown stays unknown."""

import numpy as np
import pytest
import torch
from skimage.data import coffee

from mult_hf.data.augmentations import RandomAugmentation
from mult_hf.data.derive import EDGES_GAIN, KEYPOINTS_GAIN, edges2d, heat_map, keypoints2d
from mult_hf.data.view_targets import TargetsOfViews
from mult_hf.model.tasks import resolve_tasks

TASKS = resolve_tasks(["depth", "edges2d", "keypoints2d"])
VIEWS = RandomAugmentation(tasks=TASKS, size=(64, 64), zoom=(1.2, 1.5), brightness=0.5, contrast=0.5, blur=1.0, gamma=0.5)


def sample(stored=torch.nan):
    """A photograph of 96 x 144 pixels with depth, and maps of edges and keypoints with one value."""
    image = torch.from_numpy(coffee()[::4, ::4][:96, :144].copy()).permute(2, 0, 1) / 255
    maps = {task: torch.full((1, 96, 144), stored) for task in ("edges2d", "keypoints2d")}
    return {"pixel_values": image, "labels": {"depth": torch.ones(1, 96, 144), **maps}}


def test_targets_are_those_of_the_view():
    view = TargetsOfViews(VIEWS, ["edges2d", "keypoints2d"])(sample(), torch.Generator().manual_seed(1))
    image = (view["pixel_values"] * 255).round().byte().permute(1, 2, 0).numpy()
    for task, function, gain in (("edges2d", edges2d, EDGES_GAIN), ("keypoints2d", keypoints2d, KEYPOINTS_GAIN)):
        expected = heat_map(function(image), gain)
        np.testing.assert_allclose(view["labels"][task][0].numpy(), expected, rtol=0, atol=1e-5)  # float32 sums, times a gain of up to 20
        assert view["labels"][task].max() > 0.05, "premise: there is something to see"
    plain = VIEWS(sample(), torch.Generator().manual_seed(1))
    assert torch.equal(view["pixel_values"], plain["pixel_values"])
    torch.testing.assert_close(view["labels"]["depth"], plain["labels"]["depth"], rtol=0, atol=0, equal_nan=True)


def test_a_view_at_half_the_brightness_has_half_the_edges():
    """Which the stored map would not have."""
    options = {"flip": 0.0, "zoom": (1.0, 1.0), "degrees": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "brightness": 0.0}
    as_it_is = TargetsOfViews(RandomAugmentation(tasks=TASKS, **options), ["edges2d"])
    dark = {**sample(), "pixel_values": sample()["pixel_values"] / 2}
    whole, half = (as_it_is(each)["labels"]["edges2d"] for each in (sample(), dark))
    unclipped = whole < 0.9
    torch.testing.assert_close(half[unclipped], whole[unclipped] / 2, rtol=0, atol=4 / 255)  # of 8-bit rounding, times the gain


def test_what_is_beyond_the_image_stays_unknown():
    wide = RandomAugmentation(tasks=TASKS, size=(96, 144), zoom=(0.5, 0.5), degrees=0.0)
    view = TargetsOfViews(wide, ["edges2d"])(sample(stored=0.3), torch.Generator().manual_seed(0))
    unknown = view["labels"]["depth"].isnan()
    assert unknown.any()
    assert torch.equal(view["labels"]["edges2d"].isnan(), unknown)


def test_a_share_of_the_views_is_computed():
    some = TargetsOfViews(VIEWS, ["edges2d"], share=0.25)
    computed = [not some(sample(0.5), torch.Generator().manual_seed(seed))["labels"]["edges2d"].isnan().all() for seed in range(60)]
    assert 5 <= sum(computed) <= 27  # 15 expected; outside of this in fewer than one of 1,000 series


def test_tasks_that_the_image_does_not_define_are_refused():
    with pytest.raises(ValueError, match=r"the image alone does not define \['depth'\]; choose from: edges2d, keypoints2d"):
        TargetsOfViews(VIEWS, ["depth"])
    with pytest.raises(ValueError, match="share is 0; it must be above 0"):
        TargetsOfViews(VIEWS, ["edges2d"], share=0)
