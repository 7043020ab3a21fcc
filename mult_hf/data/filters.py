"""Filters of a grey image that [`mult_hf.data.derive`] needs, several times faster than scikit-image's with the same result."""

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
"""Rows that are filtered at a time, so that they stay in the processor's cache."""


def smoothed_slopes(grey: np.ndarray, size: tuple[int, int], sigma: float) -> np.ndarray:
    """Sobel magnitude of an image that was resized (bicubic) and smoothed with a Gaussian that ignores pixels beyond the border.

    All three steps are linear and separable, so that one product with a matrix per axis computes them.

    Args:
        grey: (height, width) float32.
        size: height and width of the resized image.
        sigma: of the Gaussian, in pixels of the resized image.

    Returns:
        `np.ndarray`: float32 of that size; equals `skimage.filters.sobel` of the smoothed image up to rounding.
    """
    (slope_down, mean_down), (slope_right, mean_right) = (
        _slope_and_mean(length, resized, sigma) for length, resized in zip(grey.shape, size)
    )
    down = slope_down @ grey @ mean_right.T  # (resized height, resized width)
    right = mean_down @ grey @ slope_right.T
    return np.sqrt((down * down + right * right) / 2)


@lru_cache(maxsize=16)
def _slope_and_mean(length: int, resized: int, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Two matrices (resized, length) float32 that resize an axis, smooth it, and take its Sobel slope or mean."""
    # Filtering the unit vectors gives the matrix of a linear filter.
    enlarged = np.asarray(Image.fromarray(np.eye(length, dtype=np.float32)).resize((length, resized), Image.Resampling.BICUBIC), np.float64)
    smooth = gaussian_filter1d(enlarged, sigma, axis=0, mode="constant")
    smooth /= gaussian_filter1d(np.ones((resized, 1)), sigma, axis=0, mode="constant")
    slope, mean = (correlate1d(smooth, weights, axis=0, mode="reflect") for weights in (SOBEL_SLOPE, SOBEL_MEAN))
    return slope.astype(np.float32), mean.astype(np.float32)


def highest_hessian_determinant(grey: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
    """The maximum over scales of `skimage.feature.hessian_matrix_det(grey, sigma, approximate=True)`.

    Box sums are differences of one integral image. As in scikit-image, they are at least 0, and a box whose corner lies beyond the
    border starts at the border.

    Args:
        grey: (height, width) float32, larger than the boxes.
        sigmas: the scales, in pixels.

    Returns:
        `np.ndarray`: (height, width) float64.
    """
    reach = int(3 * max(sigmas)) + 1
    integral = torch.from_numpy(grey).double().cumsum(0).cumsum(1)
    integral = functional.pad(integral[None], (0, reach, 0, reach), mode="replicate")[0]  # boxes end at the border
    highest = torch.full(grey.shape, -torch.inf, dtype=torch.float64)
    for top in range(0, len(grey), BAND):
        band = highest[top : top + BAND]
        for sigma in sigmas:
            torch.maximum(band, _hessian_determinant(integral, top, band.shape, sigma), out=band)
    return highest.numpy()


def _hessian_determinant(integral: Tensor, top: int, size: tuple[int, int], sigma: float) -> Tensor:
    """The determinant (height, width) from row `top` on, from second derivatives by boxes (Bay et al., ECCV 2006, figure 2)."""
    height, width = size
    whole = int(3 * sigma)
    lobe, middle = whole // 3, (whole - 1) // 2
    long = 2 * lobe - 1
    corners = _sums(_sums(integral, 0, lobe, top - lobe, height + lobe + 1), 1, lobe, -lobe, width + lobe + 1).clamp_(min=0)
    diagonals = corners[:height] - corners[lobe + 1 :]
    mixed = diagonals[:, lobe + 1 :] - diagonals[:, :width]
    strips = _sums(integral, 0, long, top - lobe + 1, height)
    across = _sums(strips, 1, whole, -middle, width).clamp_(min=0)
    across.sub_(_sums(strips, 1, lobe, -(lobe // 2), width).clamp_(min=0), alpha=3)
    along = _sums(_sums(integral, 0, whole, top - middle, height), 1, long, 1 - lobe, width).clamp_(min=0)
    along.sub_(_sums(_sums(integral, 0, lobe, top - lobe // 2, height), 1, long, 1 - lobe, width).clamp_(min=0), alpha=3)
    return along.mul_(across).addcmul_(mixed, mixed, value=-0.81).mul_(whole**-4.0)


def _sums(integral: Tensor, axis: int, length: int, first: int, count: int) -> Tensor:
    """Sums over intervals of one axis, as differences of an integral along it.

    Args:
        integral: with its last value repeated at the end of the axis.
        axis: 0 or 1.
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


__all__ = ["highest_hessian_determinant", "smoothed_slopes"]
