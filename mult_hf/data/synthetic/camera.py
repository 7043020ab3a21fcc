"""The pinhole camera of the rendered domains and the exact maps it sees.

Camera axes are x right, y up, z towards the viewer. The principal point is the image's centre; a pixel's centre is half a pixel
from its corner.
"""

from dataclasses import dataclass

import numpy as np


def focal_length(field_of_view: float, width: int) -> float:
    """Focal length in pixels.

    Args:
        field_of_view: degrees from the left to the right border of the image.
        width: of the image in pixels.

    Examples:
        >>> round(focal_length(90.0, 128), 6)
        64.0
    """
    return float(width / 2 / np.tan(np.deg2rad(field_of_view) / 2))


@dataclass(frozen=True, eq=False)
class GeometryMaps:
    """What the rays through the pixel centres meet, without colour.

    Args:
        depth: (height, width) along the optical axis; NaN where a ray meets no surface. Rooms are in metres, Doom's levels in map
            units.
        normals: (3, height, width) unit vectors in camera axes, on the visible side.
        classes: (height, width) uint8 ids of the domain's classes.
    """

    depth: np.ndarray
    normals: np.ndarray
    classes: np.ndarray
