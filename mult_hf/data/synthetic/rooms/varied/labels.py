"""Depth, normal and class of a pixel from nine rays; all three belong to one surface, the one that covers most of the pixel.

With one ray per pixel, objects as thin as a pixel cause speckles: neighbouring pixels hit a book's edge or the gap next to it by
chance. Means would mix near and far. So each pixel takes the medoid of its rays: the ray whose class, depth and normal differ least
from those of the others. Depth, normal and class are those of this ray, and the depth is extrapolated along the tangent plane to the
pixel's centre, where the map is defined.
"""

import numpy as np

RAYS = 3
"""Rays along each side of a pixel; odd, so that one goes through its centre."""

SAME_SURFACE = 0.03
"""Relative difference of depth from which two rays count as hits of different surfaces."""

ALIKE = 0.995
"""Cosine between two normals above which they count as equal."""

STEEPEST = 0.15
"""Cosine between ray and normal below which depth is not extrapolated to the centre."""

CENTRE_BONUS = 0.05
"""Advantage of rays near the centre, in units of the differences' sum, which settles ties."""


def split_pixels(buffer: np.ndarray) -> np.ndarray:
    """(rows x RAYS, columns x RAYS, ...) to (RAYS x RAYS, rows, columns, ...)."""
    rows, columns = buffer.shape[0] // RAYS, buffer.shape[1] // RAYS
    blocks = buffer.reshape(rows, RAYS, columns, RAYS, *buffer.shape[2:])
    return np.moveaxis(blocks, (1, 3), (0, 1)).reshape(RAYS * RAYS, rows, columns, *buffer.shape[2:])


def medoid(classes: np.ndarray, depth: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Index of the ray of each pixel that differs least from the others.

    Args:
        classes: (rays, height, width) ids.
        depth: (rays, height, width) metres, NaN where a ray hit nothing.
        normals: (rays, height, width, 3) unit vectors.

    Returns:
        `np.ndarray`: (height, width) indices of rays.
    """
    rays = len(classes)
    log_depth = np.log(np.where(np.isfinite(depth) & (depth > 0), depth, 1e-3)).astype(np.float32)
    normals = normals.astype(np.float32)
    total = np.zeros(classes.shape, np.float32)
    for first in range(rays):
        for second in range(first + 1, rays):
            difference = np.minimum(np.abs(log_depth[first] - log_depth[second]) / SAME_SURFACE, 1)
            cosine = np.einsum("hwc,hwc->hw", normals[first], normals[second])
            difference += np.minimum(1 - cosine, 1) + (classes[first] != classes[second])
            total[first] += difference
            total[second] += difference
    offset = np.abs(np.arange(RAYS) - RAYS // 2)
    total += CENTRE_BONUS * np.add.outer(offset, offset).reshape(-1, 1, 1)
    return total.argmin(axis=0)


def choose_rays(classes: np.ndarray, depth: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Like [`medoid`], but computed only where the rays of a pixel differ; elsewhere it is the middle ray."""
    middle = len(classes) // 2
    differ = (classes != classes[middle]).any(0) | ((normals * normals[middle]).sum(-1) < ALIKE).any(0)
    # "not less" also holds for NaN.
    differ |= ~(np.abs(depth / depth[middle] - 1) < SAME_SURFACE / 4).all(0)
    chosen = np.full(differ.shape, middle)
    chosen[differ] = medoid(*(each[:, differ][:, None] for each in (classes, depth, normals)))[0]
    return chosen


def at_centre(points: np.ndarray, normals: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Depth at the pixels' centres of the tangent planes at other points of the pixels.

    Args:
        points: (height, width, 3) in camera axes, metres.
        normals: (height, width, 3) unit vectors, camera axes.
        rays: (height, width, 3) through the centres, of depth 1 (z is -1).

    Returns:
        `np.ndarray`: (height, width) metres; the points' own depth if the surface is seen at a grazing angle.
    """
    own = -points[..., 2]
    cosine = -(normals * rays).sum(-1) / np.linalg.norm(rays, axis=-1)
    carried = (points * normals).sum(-1) / np.where(cosine > STEEPEST, (rays * normals).sum(-1), -1)
    # Depth changes little within a pixel of a plane; where it changes more, the surface is not a plane.
    fits = (cosine > STEEPEST) & (np.abs(carried / own - 1) < SAME_SURFACE)
    return np.where(fits, carried, own)


def centre_rays(size: int, focal: float) -> np.ndarray:
    """(size, size, 3) rays of depth 1 through the pixel centres, camera axes."""
    slope = (np.arange(size) + 0.5 - size / 2) / focal
    right, down = np.meshgrid(slope, slope)
    return np.stack([right, -down, -np.ones_like(right)], -1)
