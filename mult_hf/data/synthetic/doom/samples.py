"""Encode a view as one row of the data set, in the encodings of the task entries."""

from typing import Any

import datasets
import numpy as np

from mult_hf.data.synthetic.rows import derived_targets, image_cell, map_cells
from mult_hf.model.tasks import resolve_tasks

from .raycasting import CLASS_NAMES
from .views import View

DEPTH_SCALE = 1 / 512
"""Metres per step of the 16-bit depth maps."""

FARTHEST = 65534 * DEPTH_SCALE
"""Metres; larger distances do not fit into 16 bits and are stored as unknown."""

BRIGHTEST_SHADE = 254 / 255
"""Full light is stored one step below 255, which means unknown in the reshading."""

TASK_ENTRIES: tuple[dict[str, Any], ...] = (
    {
        "name": "segmentation",
        "class_names": list(CLASS_NAMES),
        "encoding": {"dtype": "uint8", "offset": -1.0, "unknown": [0]},
    },
    {
        "name": "depth",
        "value_range": [0.0, 64.0],
        "encoding": {"dtype": "uint16", "scale": DEPTH_SCALE, "unknown": [0, 65535]},
    },
    {
        "name": "normals",
        "encoding": {"dtype": "uint8", "scale": 1 / 127.5, "offset": -1.0, "unknown": [128]},
    },
    {"name": "keypoints2d", "encoding": {"dtype": "uint8", "scale": 1 / 255}},
    {"name": "edges2d", "encoding": {"dtype": "uint8", "scale": 1 / 255}},
    {"name": "reshading", "encoding": {"dtype": "uint8", "scale": 1 / 255, "unknown": [255]}},
)
"""The card's `mult_tasks` record: fields in which this domain's tasks differ from the registered ones."""

TASKS = resolve_tasks(TASK_ENTRIES)

FEATURES = datasets.Features(
    {
        "level": datasets.Value("string"),
        "view": datasets.Value("int32"),
        "field_of_view": datasets.Value("float32"),
        "image": datasets.Image(),
        **{name: datasets.Image() for name in TASKS},
    }
)


def encode_sample(level: str, number: int, view: View) -> dict[str, Any]:
    """Convert a view to a row of the data set.

    Edges and keypoints are derived from the image after JPEG compression, as users load it.

    Args:
        level: name of the level.
        number: number of the view in its level, from 0.
        view: the view.

    Returns:
        `dict`: a value for each of `FEATURES`.
    """
    image, decoded = image_cell(view.image)
    derived = derived_targets(decoded, view.depth, view.normals, view.camera.focal)
    targets = {
        **derived,
        "segmentation": view.classes,
        "depth": np.where(view.depth <= FARTHEST, view.depth, np.nan)[None],
        "normals": view.normals,
        "reshading": np.minimum(derived["reshading"], BRIGHTEST_SHADE),
    }
    own = {"level": level, "view": number, "field_of_view": view.camera.field_of_view}
    return {**own, "image": image, **map_cells(targets, TASKS)}
