"""Proves that both image processors resize alike, and each image in a batch as alone."""

import numpy as np
import pytest
import torch
from transformers.image_utils import PILImageResampling

from mult_hf import MulTImageProcessor, MulTImageProcessorPil


@pytest.mark.parametrize("seed", range(8))
def test_noise_of_any_size_differs_by_at_most_one_grey_level_between_backends(seed):
    """Pillow rounds after each axis, torchvision's kernel for 8 bits too: two roundings each can add up to two grey levels."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*rng.integers(65, 200, 2), 3)).astype(np.uint8)
    keywords = {"size": {"height": 64, "width": int(rng.integers(40, 300))}, "do_normalize": False, "do_rescale": False}
    kinds = (MulTImageProcessor, MulTImageProcessorPil)
    one, other = (cls(**keywords)(image, return_tensors="pt")["pixel_values"].float() for cls in kinds)
    assert one.shape == other.shape
    assert 0 < (one - other).abs().max() <= 1
    assert (one - other).mean().abs() < 0.1, "rounded, not cut off, which would be half a level on average"


@pytest.mark.parametrize("resample", ["NEAREST", "LANCZOS", "BILINEAR", "BICUBIC"])
def test_every_filter_gives_8_bits(resample):
    image = np.random.default_rng(0).integers(0, 2, (90, 70, 3)).astype(np.uint8) * 255  # so that filters overshoot
    processor = MulTImageProcessor(
        size={"height": 64, "width": 48}, resample=PILImageResampling[resample], do_normalize=False, do_rescale=False, tasks=["depth"]
    )
    pixels = processor(image, return_tensors="pt")["pixel_values"].float()
    assert pixels.shape == (1, 3, 64, 48)
    assert 0 <= pixels.min() < pixels.max() <= 255
    assert torch.equal(pixels, pixels.round())


@pytest.mark.parametrize("resample", ["BOX", "HAMMING"])
def test_a_filter_that_torchvision_lacks_is_refused(resample):
    keywords = {"size": {"height": 64, "width": 48}, "resample": PILImageResampling[resample]}
    with pytest.raises(ValueError, match="which torchvision lacks; give BILINEAR or BICUBIC, or use MulTImageProcessorPil"):
        MulTImageProcessor(**keywords)(np.zeros((90, 70, 3), np.uint8))
    assert MulTImageProcessorPil(**keywords)(np.zeros((90, 70, 3), np.uint8))["pixel_values"][0].shape == (3, 64, 48)


def test_images_resized_in_a_batch_are_those_resized_alone():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (90, 70, 3)).astype(np.uint8) for _ in range(3)]
    processor = MulTImageProcessor(size={"height": 64, "width": 48})
    together = processor(images, return_tensors="pt")["pixel_values"]
    for image, pixels in zip(images, together):
        assert torch.equal(processor(image, return_tensors="pt")["pixel_values"][0], pixels)
