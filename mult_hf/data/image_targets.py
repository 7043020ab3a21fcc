"""Edges and keypoints of a batch of images on any device: the definitions of `mult_hf.data.derive` as tensor operations.

All resizing and smoothing is linear and separable, so each is a product with one matrix per axis. The results equal those of `derive`
up to rounding.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

DEFINED_AT = 512
"""Shorter image side in pixels that the widths below refer to, as in `derive`."""

EDGES_SIGMA, EDGES_GAIN = 3.0, 4.0
KEYPOINTS_GAIN = 20.0
KEYPOINTS_SIGMAS = tuple(float(sigma) for sigma in torch.linspace(1, 30, 10, dtype=torch.float64))

GREY = (0.299, 0.587, 0.114)
"""ITU-R 601 weights of red, green and blue."""


def edges2d(images: Tensor) -> Tensor:
    """Texture edges of images as a target in [0, 1]; see [`derive.edges2d`][mult_hf.data.derive.edges2d].

    Args:
        images: (batch, 3, height, width) in [0, 1]; they are rounded to 256 levels first, like stored images.

    Returns:
        `Tensor`: (batch, 1, height, width) float32.
    """
    grey = _grey_at_defined_size(images)
    height, width = grey.shape[-2:]
    smooth = _along_axes(grey, _smoothing(height), _smoothing(width))
    # Sobel's filters as in scikit-image: differences over two pixels, weights 1, 2, 1 over 4, the image reflected at its border.
    padded = functional.pad(smooth[:, None], (1, 1, 1, 1), mode="replicate")
    across = padded[..., 2:] - padded[..., :-2]
    down = padded[..., 2:, :] - padded[..., :-2, :]
    across = (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 4
    down = (down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]) / 4
    magnitude = torch.sqrt((across**2 + down**2) / 2)[:, 0]
    return _averaged_to(magnitude, images.shape[-2:]).mul(EDGES_GAIN).clamp(0, 1)


def keypoints2d(images: Tensor) -> Tensor:
    """Corner-like points of images as a target in [0, 1]; see [`derive.keypoints2d`][mult_hf.data.derive.keypoints2d].

    Args:
        images: (batch, 3, height, width) in [0, 1]; they are rounded to 256 levels first, like stored images.

    Returns:
        `Tensor`: (batch, 1, height, width) float32.
    """
    grey = _grey_at_defined_size(images)
    integral = grey.double().cumsum(-1).cumsum(-2)  # float32 would lose the small boxes
    response = torch.zeros_like(integral)
    for sigma in KEYPOINTS_SIGMAS:
        torch.maximum(response, _hessian_determinant(integral, sigma), out=response)
    return _averaged_to(response.float(), images.shape[-2:]).mul(KEYPOINTS_GAIN).clamp(0, 1)


IMAGE_TARGETS: dict[str, Callable[[Tensor], Tensor]] = {"edges2d": edges2d, "keypoints2d": keypoints2d}
"""Functions of the tasks that the image alone defines."""


def _hessian_determinant(integral: Tensor, sigma: float) -> Tensor:
    """Determinant of the Hessian from box filters, as `skimage.feature.hessian_matrix_det(approximate=True)` computes it (SURF).

    Args:
        integral: (batch, height, width) float64, sums over all pixels above and to the left, the pixel itself included.
        sigma: scale in pixels.
    """
    size = int(3 * sigma)
    third, long = size // 3, 2 * (size // 3) - 1
    half, sixth = (size - 1) // 2, third // 2

    def box(down: int, right: int, height: int, width: int) -> Tensor:
        return _box_sums(integral, (down, height), (right, width))

    mixed = box(1, -third, third, third) + box(-third, 1, third, third) - box(-third, -third, third, third) - box(1, 1, third, third)
    across = box(1 - third, -half, long, size) - 3 * box(1 - third, -sixth, long, third)
    down = box(-half, 1 - third, size, long) - 3 * box(-sixth, 1 - third, third, long)
    return (across * down - 0.81 * mixed**2) / size**4


def _box_sums(integral: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """Sums over a box at every pixel: (offset, length) along each axis; corners beyond the image are moved to its border."""

    def corners(length: int, box: tuple[int, int]) -> tuple[Tensor, Tensor]:
        first = (torch.arange(length, device=integral.device) + box[0]).clamp(0, length - 1)
        return first, (first + box[1]).clamp(0, length - 1)

    (top, bottom), (left, right) = (corners(length, box) for length, box in zip(integral.shape[-2:], (rows, columns), strict=True))
    heights = integral.index_select(-2, bottom) - integral.index_select(-2, top)
    return (heights.index_select(-1, right) - heights.index_select(-1, left)).clamp_(min=0)


def _grey_at_defined_size(images: Tensor) -> Tensor:
    """Grey images (batch, height, width) with a shorter side of `DEFINED_AT` pixels."""
    levels = images.clamp(0, 1).mul(255).round().div(255)
    grey = torch.einsum("bchw,c->bhw", levels, levels.new_tensor(GREY))
    height, width = grey.shape[-2:]
    scale = DEFINED_AT / min(height, width)
    size = (round(height * scale), round(width * scale))
    # With antialiasing, the kernel is Pillow's.
    return functional.interpolate(grey[:, None], size, mode="bicubic", antialias=True)[:, 0]


def _averaged_to(response: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Resize (batch, height, width) to (batch, 1, *size): means over areas, or linear interpolation when enlarging."""
    height, width = response.shape[-2:]
    if size[0] > height:
        return functional.interpolate(response[:, None], tuple(size), mode="bilinear", antialias=True)
    return _along_axes(response, _areas(height, size[0]), _areas(width, size[1]))[:, None]


def _along_axes(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Multiply (batch, height, width) by one matrix per axis."""
    return rows.to(values) @ values @ columns.to(values).T


@lru_cache(maxsize=16)
def _smoothing(length: int) -> Tensor:
    """(length, length): Gaussian means that ignore what is beyond the border, cut off at 4 sigma as in SciPy."""
    offsets = torch.arange(length, dtype=torch.float64)[:, None] - torch.arange(length, dtype=torch.float64)
    weights = torch.exp(-(offsets**2) / (2 * EDGES_SIGMA**2)) * (offsets.abs() <= math.floor(4 * EDGES_SIGMA + 0.5))
    return weights / weights.sum(1, keepdim=True)


@lru_cache(maxsize=16)
def _areas(length: int, new: int) -> Tensor:
    """(new, length): means over the pixels whose centres are in equal parts of an axis, as Pillow's `BOX`."""
    scale = length / new
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * scale
    offsets = (torch.arange(length, dtype=torch.float64) + 0.5 - centres[:, None]) / scale
    inside = ((offsets > -0.5) & (offsets <= 0.5)).double()
    return inside / inside.sum(1, keepdim=True)


__all__ = ["IMAGE_TARGETS", "edges2d", "keypoints2d"]
