"""Storage of a rendered view: JPEG for the image, PNG for its maps, in the encodings of the task entries."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from mult_hf.data.derive import EDGES_GAIN, KEYPOINTS_GAIN, edges2d, heat_map, keypoints2d, reshading
from mult_hf.model.tasks import TaskSpec

JPEG_QUALITY = 92

Cell = dict[str, Any]
"""The form in which `datasets` stores an image: the bytes of its file, and no path."""


def image_cell(rgb: np.ndarray) -> tuple[Cell, np.ndarray]:
    """Compress an image.

    Args:
        rgb: (height, width, 3) uint8.

    Returns:
        `tuple`: the cell, and the decoded JPEG, (height, width, 3) uint8. Edges and keypoints are derived from the decoded
            image, because this is the network's input.
    """
    jpeg = _encoded(rgb, "JPEG", quality=JPEG_QUALITY)
    return _cell(jpeg), np.asarray(Image.open(io.BytesIO(jpeg)))


def map_cell(stored: np.ndarray) -> Cell:
    """Compress a stored map losslessly.

    Args:
        stored: (1 or 3, height, width) uint8 or uint16, as `TaskSpec.encode` returns it.
    """
    return _cell(_encoded(stored[0] if len(stored) == 1 else np.moveaxis(stored, 0, -1), "PNG"))


def map_cells(targets: Mapping[str, np.ndarray], specs: Mapping[str, TaskSpec]) -> dict[str, Cell]:
    """Cells of all tasks.

    Args:
        targets: by task, in the shape that `TaskSpec.decode` returns.
        specs: by task, with the encodings of the data set.
    """
    return {name: map_cell(spec.encode(targets[name])) for name, spec in specs.items()}


def derived_targets(image: np.ndarray, depth: np.ndarray, normals: np.ndarray, focal: float) -> dict[str, np.ndarray]:
    """Targets derived from the image and the geometry, each (1, height, width).

    Args:
        image: (height, width, 3) uint8, as decoded from its JPEG.
        depth: (height, width) metres, NaN where unknown.
        normals: (3, height, width) unit vectors, NaN where unknown.
        focal: focal length in pixels.
    """
    return {
        "keypoints2d": heat_map(keypoints2d(image), KEYPOINTS_GAIN)[None],
        "edges2d": heat_map(edges2d(image), EDGES_GAIN)[None],
        "reshading": reshading(depth, normals, focal)[None],
    }


def _encoded(image: np.ndarray, file_format: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, file_format, optimize=True, **options)
    return buffer.getvalue()


def _cell(encoded: bytes) -> Cell:
    return {"bytes": encoded, "path": None}
