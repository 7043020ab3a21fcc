"""Proves that edges and keypoints of a batch on any device are those of `mult_hf.data.derive`."""

import numpy as np
import pytest
import torch
from skimage.data import coffee

from mult_hf.data import derive
from mult_hf.data.benchmarks.reader import DERIVATIONS
from mult_hf.data.image_targets import IMAGE_TARGETS

REFERENCES = {"edges2d": (derive.edges2d, derive.EDGES_GAIN), "keypoints2d": (derive.keypoints2d, derive.KEYPOINTS_GAIN)}
ROUNDING = 1e-5  # float32 sums in another order, times a gain of up to 20


@pytest.mark.parametrize("task", sorted(REFERENCES))
@pytest.mark.parametrize("size", [(64, 64), (96, 144), (200, 130), (560, 600)], ids=str)
def test_targets_of_a_batch_are_those_of_each_image(task, size):
    function, gain = REFERENCES[task]
    photograph = np.tile(coffee(), (2, 2, 1))[100 : 100 + size[0], 150 : 150 + size[1]]  # the cup
    images = np.stack([photograph, photograph[:, ::-1]])
    found = IMAGE_TARGETS[task](torch.from_numpy(images.copy()).permute(0, 3, 1, 2) / 255)
    assert found.shape == (2, 1, *size)
    for image, target in zip(images, found, strict=True):
        expected = derive.heat_map(function(image), gain)
        assert expected.max() > 0.05, "premise: there is something to see"
        np.testing.assert_allclose(target[0].numpy(), expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("task", sorted(REFERENCES))
def test_the_size_at_which_targets_are_defined_is_stated_once(task, monkeypatch):
    monkeypatch.setattr(derive, "DEFINED_AT", 256)
    function, gain = REFERENCES[task]
    photograph = np.ascontiguousarray(coffee()[100:196, 150:294])
    found = IMAGE_TARGETS[task](torch.from_numpy(photograph)[None].permute(0, 3, 1, 2) / 255)
    np.testing.assert_allclose(found[0].numpy()[0], derive.heat_map(function(photograph), gain), rtol=0, atol=ROUNDING)


def test_every_task_that_readers_derive_from_the_image_alone_is_here():
    assert set(IMAGE_TARGETS) == {task for task, (inputs, _) in DERIVATIONS.items() if inputs == ("image",)}
