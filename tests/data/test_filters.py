"""Proves that the fast filters agree with the functions of scikit-image and scipy that define them."""

import numpy as np
import pytest
import torch

pytest.importorskip("skimage")

from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.feature import hessian_matrix_det
from skimage.filters import sobel

from mult_hf.data import filters
from mult_hf.data.filters import highest_hessian_determinant, smoothed_slopes

SIGMAS = (1.0, 4.2, 7.5, 30.0)
"""Scales whose boxes have sides of 3, 12, 22 and 90 pixels: even and odd ones."""


@pytest.fixture
def grey():
    """Texture and noise; like an enlarged image it overshoots 0 and 1, which the clipping of box sums depends on."""
    generator = np.random.default_rng(0)
    texture = generator.random((100, 2), np.float32) @ generator.random((2, 140), np.float32)
    return texture + 0.3 * generator.random((100, 140), np.float32) - 0.4


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("band", [16, 100])  # a box reaches over several bands, or all rows are one
def test_a_determinant_equals_scikit_images(grey, sigma, band, monkeypatch):
    monkeypatch.setattr(filters, "BAND", band)
    expected = hessian_matrix_det(grey, sigma, approximate=True)
    assert grey.min() < -0.1
    assert np.abs(expected).max() > 1e-6
    # Both differ by the rounding of float64 sums.
    np.testing.assert_allclose(highest_hessian_determinant(torch.from_numpy(grey), [sigma]).numpy(), expected, rtol=0, atol=1e-12)


def test_the_highest_determinant_is_that_of_any_scale(grey):
    expected = np.max([hessian_matrix_det(grey, sigma, approximate=True) for sigma in SIGMAS], axis=0)
    np.testing.assert_allclose(highest_hessian_determinant(torch.from_numpy(grey), SIGMAS).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(100, 140), (233, 326)], ids=["own size", "enlarged"])
def test_smoothed_slopes_equal_the_three_filters_one_after_the_other(grey, size):
    resized = np.asarray(Image.fromarray(grey).resize(size[::-1], Image.Resampling.BICUBIC))
    smooth = gaussian_filter(resized, 3.0, mode="constant") / gaussian_filter(np.ones_like(resized), 3.0, mode="constant")
    # float32 sums of about 30 products of values up to 1.
    np.testing.assert_allclose(smoothed_slopes(torch.from_numpy(grey), size, 3.0).numpy(), sobel(smooth), rtol=0, atol=1e-6)
