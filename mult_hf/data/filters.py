"""Filters of scikit-image and Pillow for grey images, in batches and on any device, several times faster."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import correlate1d, gaussian_filter1d
from torch import Tensor
from torch.nn import functional

SOBEL_SLOPE, SOBEL_MEAN = (-1, 0, 1), (0.25, 0.5, 0.25)
"""The two factors of `skimage.filters.sobel`'s kernel: along the slope, and across it."""

BAND = 128
"""Rows that are filtered at a time on a CPU, so that they stay in its cache."""


def resized(values: Tensor, size: Sequence[int], method: Image.Resampling) -> Tensor:
    """Resize images as Pillow does, with one product per axis.

    Args:
        values: (..., height, width) float32.
        size: (height, width) of the result.
        method: Pillow's resampling filter.

    Returns:
        `Tensor`: (..., *size) float32.
    """
    down, right = (torch.from_numpy(_resizing(length, new, method)).to(values) for length, new in zip(values.shape[-2:], size))
    return down @ values @ right.T


@lru_cache(maxsize=32)
def _resizing(length: int, new: int, method: Image.Resampling) -> np.ndarray:
    """The matrix (new, length) float32 that resizes an axis: resizing is linear, so its columns are the resized unit vectors."""
    return np.array(Image.fromarray(np.eye(length, dtype=np.float32)).resize((length, new), method))


def smoothed_slopes(grey: Tensor, size: Sequence[int], sigma: float) -> Tensor:
    """Sobel magnitude of images that are first resized (bicubic) and smoothed with a Gaussian that ignores pixels beyond the border.

    Resizing, smoothing and both slopes are linear and separable, so one matrix product per axis computes each slope.

    Args:
        grey: (..., height, width) float32.
        size: (height, width) of the resized images.
        sigma: standard deviation of the Gaussian, in pixels of the resized images.

    Returns:
        `Tensor`: (..., *size) float32; equals `skimage.filters.sobel` of the smoothed images up to rounding.
    """
    (slope_down, mean_down), (slope_right, mean_right) = (
        (torch.from_numpy(matrix).to(grey) for matrix in _slope_and_mean(length, new, sigma)) for length, new in zip(grey.shape[-2:], size)
    )
    down = slope_down @ grey @ mean_right.T
    right = mean_down @ grey @ slope_right.T
    return torch.sqrt((down * down + right * right) / 2)


@lru_cache(maxsize=16)
def _slope_and_mean(length: int, new: int, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Two matrices (new, length) float32 that resize an axis, smooth it, and take its Sobel slope or mean."""
    enlarged = _resizing(length, new, Image.Resampling.BICUBIC).astype(np.float64)
    smooth = gaussian_filter1d(enlarged, sigma, axis=0, mode="constant")
    smooth /= gaussian_filter1d(np.ones((new, 1)), sigma, axis=0, mode="constant")
    slope, mean = (correlate1d(smooth, weights, axis=0, mode="reflect") for weights in (SOBEL_SLOPE, SOBEL_MEAN))
    return slope.astype(np.float32), mean.astype(np.float32)


def highest_hessian_determinant(grey: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Maximum over scales of `skimage.feature.hessian_matrix_det(grey, sigma, approximate=True)`.

    Box sums are differences of one integral image. As in scikit-image, they are at least 0, and a box whose corner lies beyond the
    border starts at the border.

    Args:
        grey: (..., height, width) float32, larger than the largest box, `3 * max(sigmas)` pixels.
        sigmas: the scales, in pixels.

    Returns:
        `Tensor`: (..., height, width) float64.
    """
    reach = int(3 * max(sigmas)) + 1
    images = grey.reshape(-1, *grey.shape[-2:])
    integral = images.double().cumsum(1).cumsum(2)  # float32 would lose small boxes
    integral = functional.pad(integral, (0, reach, 0, reach), mode="replicate")  # boxes end at the border
    highest = torch.full_like(images, -torch.inf, dtype=torch.float64)
    rows = BAND if grey.device.type == "cpu" else images.shape[1]
    for top in range(0, images.shape[1], rows):
        band = highest[:, top : top + rows]
        for sigma in sigmas:
            torch.maximum(band, _hessian_determinant(integral, top, band.shape[1:], sigma), out=band)
    return highest.view(grey.shape)


def _hessian_determinant(integral: Tensor, top: int, size: Sequence[int], sigma: float) -> Tensor:
    """The determinants (batch, *size) from row `top` on, from second derivatives by boxes (Bay et al., ECCV 2006, figure 2)."""
    height, width = size
    whole = int(3 * sigma)
    lobe, middle = whole // 3, (whole - 1) // 2
    long = 2 * lobe - 1
    corners = _sums(_sums(integral, 1, lobe, top - lobe, height + lobe + 1), 2, lobe, -lobe, width + lobe + 1).clamp_(min=0)
    diagonals = corners[:, :height] - corners[:, lobe + 1 :]
    mixed = diagonals[..., lobe + 1 :] - diagonals[..., :width]
    strips = _sums(integral, 1, long, top - lobe + 1, height)
    across = _sums(strips, 2, whole, -middle, width).clamp_(min=0)
    across.sub_(_sums(strips, 2, lobe, -(lobe // 2), width).clamp_(min=0), alpha=3)
    along = _sums(_sums(integral, 1, whole, top - middle, height), 2, long, 1 - lobe, width).clamp_(min=0)
    along.sub_(_sums(_sums(integral, 1, lobe, top - lobe // 2, height), 2, long, 1 - lobe, width).clamp_(min=0), alpha=3)
    return along.mul_(across).addcmul_(mixed, mixed, value=-0.81).mul_(whole**-4.0)


def _sums(integral: Tensor, axis: int, length: int, first: int, count: int) -> Tensor:
    """Sums over intervals of one axis, as differences of an integral along it.

    Args:
        integral: (batch, height, width) with its last value repeated at the end of the axis.
        axis: 1 or 2.
        length: of the intervals.
        first: start of the first interval; one that would start before the border starts there.
        count: number of intervals, one after each position.
    """
    before = min(max(-first, 0), count - 1)
    start, inside = max(first, 0), count - before
    ends, starts = integral.narrow(axis, start + length, inside), integral.narrow(axis, start, inside)
    if not before:
        return ends - starts
    shape = list(integral.shape)
    shape[axis] = count
    sums = integral.new_empty(shape)
    torch.sub(ends, starts, out=sums.narrow(axis, before, inside))
    sums.narrow(axis, 0, before).copy_(sums.narrow(axis, before, 1).expand_as(sums.narrow(axis, 0, before)))
    return sums


__all__ = ["highest_hessian_determinant", "resized", "smoothed_slopes"]
