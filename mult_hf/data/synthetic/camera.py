"""Pinhole camera of the rendered domains, and exact geometry maps of a view.

Camera axes are x right, y up, z towards the viewer. The principal point is the image's centre; the centre of the top left pixel
is at (0.5, 0.5).
"""

from dataclasses import dataclass

import numpy as np


def focal_length(field_of_view: float, width: int) -> float:
    """Focal length in pixels.

    Args:
        field_of_view: horizontal field of view in degrees.
        width: width of the image in pixels.

    Examples:
        >>> round(focal_length(90.0, 128), 6)
        64.0
    """
    return float(width / 2 / np.tan(np.deg2rad(field_of_view) / 2))


@dataclass(frozen=True, eq=False)
class GeometryMaps:
    """Geometry and classes of the surfaces that the rays through the pixel centres hit.

    Args:
        depth: (height, width) along the optical axis; NaN where a ray hits no surface. In metres for Rooms, in map units for Doom.
        normals: (3, height, width) unit vectors in camera axes, on the visible side.
        classes: (height, width) uint8 ids of the domain's classes.
    """

    depth: np.ndarray
    normals: np.ndarray
    classes: np.ndarray
