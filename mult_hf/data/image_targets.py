"""Edges and keypoints of a batch of images on any device, as `mult_hf.data.derive` computes those of one image."""

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

from .derive import EDGES_GAIN, EDGES_SIGMA, GREY, KEYPOINTS_GAIN, KEYPOINTS_SIGMAS, averaging, defined_size
from .filters import highest_hessian_determinant, resized, smoothed_slopes


def edges2d(images: Tensor) -> Tensor:
    """Texture edges of images as a target in [0, 1]; see [`derive.edges2d`][mult_hf.data.derive.edges2d].

    Args:
        images: (batch, 3, height, width) in [0, 1]; they are rounded to 256 levels first, like stored images.

    Returns:
        `Tensor`: (batch, 1, height, width) float32.
    """
    response = smoothed_slopes(_grey(images), defined_size(images.shape[-2:]), EDGES_SIGMA)
    return _averaged_to(response, images).mul(EDGES_GAIN).clamp(0, 1)


def keypoints2d(images: Tensor) -> Tensor:
    """Corner-like points of images as a target in [0, 1]; see [`derive.keypoints2d`][mult_hf.data.derive.keypoints2d].

    Args:
        images: (batch, 3, height, width) in [0, 1]; they are rounded to 256 levels first, like stored images.

    Returns:
        `Tensor`: (batch, 1, height, width) float32.
    """
    grey = resized(_grey(images), defined_size(images.shape[-2:]), Image.Resampling.BICUBIC)
    response = highest_hessian_determinant(grey, KEYPOINTS_SIGMAS).clamp(min=0).float()
    return _averaged_to(response, images).mul(KEYPOINTS_GAIN).clamp(0, 1)


IMAGE_TARGETS: dict[str, Callable[[Tensor], Tensor]] = {function.__name__: function for function in (edges2d, keypoints2d)}
"""By task that the image alone defines: function of images (batch, 3, height, width) -> targets (batch, 1, height, width)."""


def _grey(images: Tensor) -> Tensor:
    """Grey images (batch, height, width), after rounding to the 256 levels of a stored image."""
    levels = images.float().clamp(0, 1).mul(255).round().div(255)
    return torch.einsum("bchw,c->bhw", levels, levels.new_tensor(GREY))


def _averaged_to(response: Tensor, images: Tensor) -> Tensor:
    """Resize a response (batch, height, width) to the size of the images: (batch, 1, height, width)."""
    size = images.shape[-2:]
    return resized(response, size, averaging(response.shape[1], size[0]))[:, None]


__all__ = ["IMAGE_TARGETS"]
