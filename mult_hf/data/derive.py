"""Derive maps from others: edges and keypoints from the image, reshading and normals from the geometry.

These functions supply tasks that a data set lacks. The definitions are Taskonomy's (Zamir et al., CVPR 2018, supplementary
material; https://github.com/StanfordVL/taskonomy/tree/master/data), reconstructed from its published samples.

Coordinates: the centre of the top left pixel is at (0.5, 0.5), and the principal point defaults to (width / 2, height / 2).
Camera axes are x right, y up, z towards the viewer.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

try:
    from .filters import highest_hessian_determinant, smoothed_slopes
except ImportError as error:
    raise ImportError(f'mult_hf.data.derive needs scipy ({error}); install it with: pip install "mult-hf[data]"') from error

EDGES_GAIN = 4.0
"""Scales [`edges2d`] to [0, 1]: magnitudes of at least 0.25 become 1, the usual clamp for Taskonomy."""

KEYPOINTS_GAIN = 20.0
"""Scales [`keypoints2d`] to [0, 1]; its highest values are about 0.02 to 0.05."""

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey image (ITU-R 601)."""

DEFINED_AT = 512
"""Shorter image side in pixels that the widths below refer to: the side of Taskonomy's images."""

EDGES_SIGMA = 3.0
"""Sigma of the smoothing before the edge filter, in pixels of an image of side `DEFINED_AT`."""

KEYPOINTS_SIGMAS = tuple(float(sigma) for sigma in np.linspace(1, 30, 10))
"""Scales of the corner filter, in pixels of an image of side `DEFINED_AT`."""

LIGHT = 2 * 0.8
"""Strength of the reshading light times the albedo of the untextured surface."""

LIGHT_FALLOFF = 8.0
"""Squared distance, in square metres, at which the reshading light falls to half."""

ROUGHNESS = 0.001
"""Second difference of the inverse depth, as a share of it, that still counts as a plane: the rounding of 16-bit depth."""


def edges2d(rgb: np.ndarray) -> np.ndarray:
    """Magnitude of texture edges: Sobel magnitude of the smoothed grey image (Taskonomy's `edge_texture`).

    Steps: convert to grey in [0, 1] (ITU-R 601 weights), smooth with a Gaussian of sigma 3 that ignores pixels beyond the border
    (it is divided by the smoothed mask of the image), and apply `skimage.filters.sobel`. On Taskonomy's samples the correlation
    with its maps is 1.0000.

    The sigma is defined for a shorter side of 512 pixels. Other images are resized to that size (bicubic) and filtered, and the
    response is averaged back to the original size. So a map means the same at every size: the change of grey over 1/512 of the
    shorter side.

    Args:
        rgb: (height, width, 3) uint8.

    Returns:
        `np.ndarray`: (height, width) float32, at least 0, not scaled; `heat_map(response, EDGES_GAIN)` is the target.

    Raises:
        ValueError: if `rgb` has another shape or type.
    """
    grey, size = _grey(rgb), defined_size(rgb.shape[:2])
    if min(grey.shape) > DEFINED_AT:  # a small image is enlarged by the filter itself
        grey = _resized(grey, size)
    return _averaged_to(smoothed_slopes(torch.from_numpy(grey), size, EDGES_SIGMA).numpy(), rgb.shape[:2])


def keypoints2d(rgb: np.ndarray) -> np.ndarray:
    """Strength of corner-like points: the highest Hessian determinant over ten scales (Taskonomy's `keypoints2d`).

    The maximum over `numpy.linspace(1, 30, 10)` of `skimage.feature.hessian_matrix_det(grey, sigma, approximate=True)`, the
    box-filter approximation of SURF (Bay et al., ECCV 2006). On Taskonomy's samples the correlation is 0.9999. Sizes other
    than 512 pixels are treated as in [`edges2d`]; the determinant is normalised by scale, so values keep their meaning.

    Args:
        rgb: (height, width, 3) uint8.

    Returns:
        `np.ndarray`: (height, width) float32, at least 0 (0 where the point is a saddle at every scale), not scaled;
            `heat_map(response, KEYPOINTS_GAIN)` is the target.

    Raises:
        ValueError: if `rgb` has another shape or type.
    """
    grey = _resized(_grey(rgb), defined_size(rgb.shape[:2]))
    response = highest_hessian_determinant(torch.from_numpy(grey), KEYPOINTS_SIGMAS).numpy()
    return _averaged_to(np.maximum(response, 0), rgb.shape[:2])


def heat_map(response: np.ndarray, gain: float) -> np.ndarray:
    """Scale a response to a [0, 1] target: `clip(response * gain, 0, 1)`; NaN stays NaN.

    Args:
        response: any shape, as [`edges2d`] or [`keypoints2d`] return it.
        gain: `EDGES_GAIN` or `KEYPOINTS_GAIN`. Use the same for every image, so that values stay comparable.

    Returns:
        `np.ndarray`: float32 of the same shape.
    """
    return np.clip(np.asarray(response, np.float32) * np.float32(gain), 0, 1)


def reshading(depth: np.ndarray, normals: np.ndarray, focal: float, principal_point: tuple[float, float] | None = None) -> np.ndarray:
    """Shading of the untextured geometry by a point light at the camera, without shadows (Taskonomy's `reshading`).

    `clip(2 * 0.8 * cos(theta) * 8 / (8 + r^2), 0, 1)` with the distance r in metres and the angle theta between the normal
    and the ray to the camera. On Taskonomy's samples the correlation is 0.997.

    Args:
        depth: (height, width) metres along the optical axis; unknown where NaN or not positive.
        normals: (3, height, width) unit vectors in camera axes, NaN where unknown.
        focal: focal length in pixels.
        principal_point: (x, y) in pixels from the top left corner; defaults to the image's centre.

    Returns:
        `np.ndarray`: (height, width) float32 in [0, 1], NaN where depth or normal is unknown.

    Raises:
        ValueError: if the shapes do not match or the focal length is not positive.
    """
    depth = _checked_depth(depth)
    if normals.shape != (3, *depth.shape):
        raise ValueError(f"normals have shape {normals.shape}, depth {depth.shape}; expected {(3, *depth.shape)}")
    right, down = _ray_slopes(depth.shape, focal, principal_point)
    slant_squared = right**2 + down**2 + 1  # (height, width), squared length of the ray that reaches depth 1
    to_camera = np.stack([-right, down, np.ones_like(right)]) / np.sqrt(slant_squared)  # (3, height, width), unit vectors
    cosine = (normals * to_camera).sum(axis=0)
    shade = LIGHT * cosine * LIGHT_FALLOFF / (LIGHT_FALLOFF + slant_squared * depth**2)
    return np.clip(shade, 0, 1).astype(np.float32)


def normals_from_depth(depth: np.ndarray, focal: float, principal_point: tuple[float, float] | None = None) -> np.ndarray:
    """Surface normals of a depth map: exact on planes, and not blurred across depth steps.

    The inverse depth q of a plane is linear in the image, so its slopes give the normal without discretisation error: if x and y
    are the ray's slopes to the right and downwards, the normal points along (-dq/dx, dq/dy, q - x dq/dx - y dq/dy).
    Each slope is a weighted mean of the differences to the two neighbours. If the inverse depth bends on one side (a depth step,
    a crease), that side's weight falls with the square of the second difference, as in WENO schemes (Jiang and Shu 1996). Second
    differences below `ROUGHNESS` have equal weight, so that rounded depth does not turn walls towards the camera.

    Args:
        depth: (height, width) metres along the optical axis; unknown where NaN or not positive.
        focal: focal length in pixels.
        principal_point: (x, y) in pixels from the top left corner; defaults to the image's centre.

    Returns:
        `np.ndarray`: (3, height, width) float32 unit vectors in camera axes (x right, y up, z towards the viewer), NaN where
            the depth is unknown, or has no known neighbour in its row or no known neighbour in its column.

    Raises:
        ValueError: if the depth is not two-dimensional or the focal length is not positive.
    """
    inverse_depth = 1 / _checked_depth(depth)
    right, down = _ray_slopes(inverse_depth.shape, focal, principal_point)
    slope_right = _slope(inverse_depth, axis=1) * focal
    slope_down = _slope(inverse_depth, axis=0) * focal
    towards = inverse_depth - right * slope_right - down * slope_down
    normals = np.stack([-slope_right, slope_down, towards])
    return (normals / np.linalg.norm(normals, axis=0)).astype(np.float32)


def _slope(inverse_depth: np.ndarray, axis: int) -> np.ndarray:
    """Change of the inverse depth per pixel along an axis, mostly from the straighter side; NaN where no side is known."""
    ends = [(1, 1) if a == axis else (0, 0) for a in range(inverse_depth.ndim)]
    change = np.diff(np.pad(inverse_depth, ends, constant_values=np.nan), axis=axis)
    sides = np.stack([np.delete(change, -1, axis), np.delete(change, 0, axis)])  # (2, height, width): from the previous pixel, to the next
    beyond = np.stack([np.roll(sides[0], 1, axis), np.roll(sides[1], -1, axis)])  # the same differences, one pixel further out
    bend = np.where(np.isnan(beyond), inverse_depth, sides - beyond)  # unknown beyond: lowest weight
    weights = np.where(np.isnan(sides), 0, 1 / (bend**2 + (ROUGHNESS * inverse_depth) ** 2))
    total = weights.sum(axis=0)
    slope = (weights * np.nan_to_num(sides)).sum(axis=0) / np.where(total > 0, total, 1)
    return np.where(total > 0, slope, np.nan)


def check_focal_length(focal: float) -> None:
    """Refuse what is no focal length in pixels.

    Raises:
        ValueError: if it is not positive, or not finite.
    """
    if not 0 < focal < math.inf:
        kind = "finite" if focal == math.inf else "positive"
        raise ValueError(f"focal length {focal} is not {kind}; give it in pixels, for example width / 2 for a 90 degree field of view")


def _ray_slopes(size: tuple[int, int], focal: float, principal_point: tuple[float, float] | None) -> tuple[np.ndarray, np.ndarray]:
    """Slopes of each pixel's ray to the right and downwards, per unit of depth: two maps (height, width)."""
    check_focal_length(focal)
    height, width = size
    centre_x, centre_y = principal_point if principal_point is not None else (width / 2, height / 2)
    right, down = np.meshgrid((np.arange(width) + 0.5 - centre_x) / focal, (np.arange(height) + 0.5 - centre_y) / focal)
    return right, down


def _checked_depth(depth: np.ndarray) -> np.ndarray:
    """The depth as float64 with NaN where it is unknown."""
    if depth.ndim != 2:
        raise ValueError(f"depth has shape {depth.shape}; expected (height, width) in metres")
    depth = depth.astype(np.float64)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.nan)


def _grey(rgb: np.ndarray) -> np.ndarray:
    """The grey image in [0, 1]."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"the image is {rgb.dtype} of shape {rgb.shape}; expected uint8 (height, width, 3)")
    return (rgb @ np.array(GREY) / 255).astype(np.float32)


def defined_size(size: Sequence[int]) -> tuple[int, int]:
    """Height and width of an image of another (height, width) at a shorter side of `DEFINED_AT` pixels."""
    height, width = size
    scale = DEFINED_AT / min(height, width)
    return round(height * scale), round(width * scale)


def _resized(grey: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return np.array(Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC))


def _averaged_to(response: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a response to an image of this (height, width), see [`averaging`]."""
    height, width = size
    return np.asarray(Image.fromarray(response.astype(np.float32)).resize((width, height), averaging(response.shape[0], height)))


def averaging(height: int, new: int) -> Image.Resampling:
    """How a response is resized to an image: each pixel is the mean of its area (linear interpolation when enlarging).

    Args:
        height: of the response in pixels.
        new: height of the image.
    """
    return Image.Resampling.BOX if new <= height else Image.Resampling.BILINEAR
