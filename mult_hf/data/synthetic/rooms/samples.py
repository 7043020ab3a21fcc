"""One view of a room as one row of the data set: rendered, derived, encoded."""

import io
from typing import Any

import numpy as np
from PIL import Image

from mult_hf.data.derive import EDGES_GAIN, KEYPOINTS_GAIN, edges2d, heat_map, keypoints2d, reshading
from mult_hf.model.tasks import resolve_tasks

from .builder import CLASS_NAMES, Room
from .camera import Camera, rank_cameras
from .layouts import build_room
from .rendering import Geometry, RoomScene, develop
from .settings import RoomsSettings

TASK_ENTRIES: tuple[dict[str, Any], ...] = (
    {"name": "segmentation", "class_names": list(CLASS_NAMES[1:]), "encoding": {"dtype": "uint8", "offset": -1.0, "unknown": [0]}},
    {"name": "depth", "encoding": {"dtype": "uint16", "scale": 1 / 512, "unknown": [0]}},
    {"name": "normals", "encoding": {"dtype": "uint8", "scale": 1 / 127.5, "offset": -1.0}},
    {"name": "keypoints2d", "encoding": {"dtype": "uint8", "scale": 1 / 255}},
    {"name": "edges2d", "encoding": {"dtype": "uint8", "scale": 1 / 255}},
    {"name": "reshading", "encoding": {"dtype": "uint8", "scale": 1 / 255}},
)
"""How this data set stores each task; written to its card under `mult_tasks`."""

JPEG_QUALITY = 92
PREVIEW_SIZE = 48


def render_room(settings: RoomsSettings, seed: int) -> list[dict[str, Any]]:
    """All rows of the room of a seed; [`variants.activate`] must have been called in this process.

    Args:
        settings: of the data set.
        seed: of the room.

    Returns:
        `list[dict]`: one row a view, in the columns of `writing.columns`.

    Raises:
        RuntimeError: if no camera sees a closed room, which the shell makes impossible.
    """
    room = build_room(seed)
    scene = RoomScene(room)
    return [render_view(scene, room, settings, seed, view) for view in range(settings.views)]


def render_view(scene: RoomScene, room: Room, settings: RoomsSettings, seed: int, view: int) -> dict[str, Any]:
    """One row. It depends on the room's seed, the view's number, the size and the samples alone, not on the other views."""
    rng = np.random.default_rng([seed, view])
    camera, geometry = _choose_camera(scene, room, settings.size, rng)
    radiance = scene.colour(camera, settings.size, settings.samples_per_pixel, seed=int(rng.integers(2**31)))
    photograph = _jpeg(develop(radiance, rng))
    # Edges and keypoints are those of the picture that the network gets, with its compression.
    rgb = np.asarray(Image.open(io.BytesIO(photograph)))
    focal = camera.focal_length(settings.size)
    maps = derive_maps(rgb, geometry, focal)
    return {
        "room": seed,
        "view": view,
        "room_kind": room.kind,
        "field_of_view": camera.field_of_view,
        "focal_length": focal,
        "principal_point": [settings.size / 2, settings.size / 2],
        "image": _cell(photograph),
        **{name: _cell(_png(spec.encode(maps[name]))) for name, spec in resolve_tasks(TASK_ENTRIES).items()},
    }


def derive_maps(rgb: np.ndarray, geometry: Geometry, focal: float) -> dict[str, np.ndarray]:
    """The six targets of a view.

    Args:
        rgb: (height, width, 3) uint8, the picture as it is stored.
        geometry: of the same view.
        focal: focal length in pixels.

    Returns:
        `dict`: the target of each task in the shape that `TaskSpec.decode` gives.
    """
    return {
        # Class 0, "unlabelled", becomes 255 in the unsigned 8-bit ids: not known.
        "segmentation": geometry.classes.astype(np.uint8) - np.uint8(1),
        "depth": geometry.depth[None],
        "normals": geometry.normals,
        "keypoints2d": heat_map(keypoints2d(rgb), KEYPOINTS_GAIN)[None],
        "edges2d": heat_map(edges2d(rgb), EDGES_GAIN)[None],
        "reshading": reshading(geometry.depth, geometry.normals, focal)[None],
    }


def _choose_camera(scene: RoomScene, room: Room, size: int, rng: np.random.Generator) -> tuple[Camera, Geometry]:
    """The most interesting camera whose every pixel meets a surface, and what it sees."""

    def preview(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        geometry = scene.geometry(camera, PREVIEW_SIZE)
        return geometry.classes, geometry.depth

    for camera in rank_cameras(room, rng, preview):
        geometry = scene.geometry(camera, size)
        if np.isfinite(geometry.depth).all():
            return camera, geometry
    raise RuntimeError(f"no camera sees a closed {room.kind}; please report the room's seed and the size {size}")


def _jpeg(rgb: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def _png(stored: np.ndarray) -> bytes:
    """(channels, height, width) of 1 or 3 channels, 8 or 16 bit."""
    buffer = io.BytesIO()
    Image.fromarray(stored[0] if len(stored) == 1 else np.moveaxis(stored, 0, -1)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _cell(encoded: bytes) -> dict[str, Any]:
    """What the `datasets` library stores for an image."""
    return {"bytes": encoded, "path": None}
