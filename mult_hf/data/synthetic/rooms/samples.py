"""Render a view of a room, derive its maps, and encode it as one row of the data set."""

from typing import Any

import datasets
import numpy as np

from mult_hf.data.synthetic.camera import GeometryMaps
from mult_hf.data.synthetic.rows import derived_targets, image_cell, map_cells
from mult_hf.model.tasks import resolve_tasks

from .builder import CLASS_NAMES, Room
from .layouts import build_room
from .rendering import RoomScene, develop
from .settings import RoomsSettings
from .viewpoints import RoomCamera, rank_cameras

TASK_ENTRIES: tuple[dict[str, Any], ...] = (
    {"name": "segmentation", "class_names": list(CLASS_NAMES[1:]), "encoding": {"dtype": "uint8", "offset": -1.0, "unknown": [0]}},
    {"name": "depth", "encoding": {"dtype": "uint16", "scale": 1 / 512, "unknown": [0]}},
    {"name": "normals", "encoding": {"dtype": "uint8", "scale": 1 / 127.5, "offset": -1.0}},
    {"name": "keypoints2d", "encoding": {"dtype": "uint8", "scale": 1 / 255}},
    {"name": "edges2d", "encoding": {"dtype": "uint8", "scale": 1 / 255}},
    {"name": "reshading", "encoding": {"dtype": "uint8", "scale": 1 / 255}},
)
"""Encodings of this data set's tasks; written to its card under `mult_tasks`."""

TASKS = resolve_tasks(TASK_ENTRIES)

FEATURES = datasets.Features(
    {
        "room": datasets.Value("int32"),
        "view": datasets.Value("int32"),
        "room_kind": datasets.Value("string"),
        "field_of_view": datasets.Value("float32"),
        "focal_length": datasets.Value("float32"),
        "principal_point": datasets.List(datasets.Value("float32"), length=2),
        "image": datasets.Image(),
        **{name: datasets.Image() for name in TASKS},
    }
)
"""Columns: identity of the view, its intrinsics in pixels and degrees, the image, one map per task."""

PREVIEW_SIZE = 48


def render_room(settings: RoomsSettings, seed: int) -> list[dict[str, Any]]:
    """Render all rows of a seed's room; call [`variants.activate`] in this process first.

    Args:
        settings: settings of the data set.
        seed: seed of the room.

    Returns:
        `list[dict]`: one row per view, with the columns of `FEATURES`.

    Raises:
        RuntimeError: if every camera has a pixel without a surface, which the closed shell should prevent.
    """
    room = build_room(seed)
    scene = RoomScene(room)
    return [render_view(scene, room, settings, seed, view) for view in range(settings.views)]


def render_view(scene: RoomScene, room: Room, settings: RoomsSettings, seed: int, view: int) -> dict[str, Any]:
    """Render one row. It depends only on the room's seed, the view's number, the size and the samples, not on other views."""
    rng = np.random.default_rng([seed, view])
    camera, geometry = _choose_camera(scene, room, settings.size, rng)
    radiance = scene.colour(camera, settings.size, settings.samples_per_pixel, seed=int(rng.integers(2**31)))
    image, rgb = image_cell(develop(radiance, rng))
    focal = camera.focal_length(settings.size)
    return {
        "room": seed,
        "view": view,
        "room_kind": room.kind,
        "field_of_view": camera.field_of_view,
        "focal_length": focal,
        "principal_point": [settings.size / 2, settings.size / 2],
        "image": image,
        **map_cells(view_targets(rgb, geometry, focal), TASKS),
    }


def view_targets(rgb: np.ndarray, geometry: GeometryMaps, focal: float) -> dict[str, np.ndarray]:
    """The six targets of a view.

    Args:
        rgb: (height, width, 3) uint8, the image as it is stored.
        geometry: geometry maps of the same view.
        focal: focal length in pixels.

    Returns:
        `dict`: the target of each task in the shape that `TaskSpec.decode` gives.
    """
    return {
        # Class 0, "unlabelled", wraps around to 255 in the unsigned 8-bit ids, which means unknown.
        "segmentation": geometry.classes.astype(np.uint8) - np.uint8(1),
        "depth": geometry.depth[None],
        "normals": geometry.normals,
        **derived_targets(rgb, geometry.depth, geometry.normals, focal),
    }


def _choose_camera(scene: RoomScene, room: Room, size: int, rng: np.random.Generator) -> tuple[RoomCamera, GeometryMaps]:
    """The best-ranked camera of which every pixel shows a surface, and its geometry maps."""

    def preview(camera: RoomCamera) -> tuple[np.ndarray, np.ndarray]:
        geometry = scene.geometry(camera, PREVIEW_SIZE)
        return geometry.classes, geometry.depth

    for camera in rank_cameras(room, rng, preview):
        geometry = scene.geometry(camera, size)
        if np.isfinite(geometry.depth).all():
            return camera, geometry
    raise RuntimeError(f"every view of this {room.kind} has a hole; please report the room's seed and the size {size}")
