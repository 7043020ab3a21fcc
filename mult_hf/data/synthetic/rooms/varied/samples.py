"""Render a view of a varied room as one row of the data set; columns and encodings are those of the first version."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mult_hf.data.synthetic.camera import GeometryMaps
from mult_hf.data.synthetic.rows import image_cell, map_cells

from ..samples import TASKS, view_targets
from ..settings import RoomsSettings
from ..viewpoints import RoomCamera
from ..viewpoints import rank_cameras as rank_plain_cameras
from .builder import VariedRoom
from .groups import stream
from .layouts import build_room
from .rendering import VariedScene
from .sensor import photograph
from .viewpoints import rank_cameras

PREVIEW_SIZE = 40


def render_room(settings: RoomsSettings, seed: int) -> list[dict[str, Any]]:
    """Render all rows of a seed's varied room; call [`variants.activate`] in this process first.

    Args:
        settings: settings of the data set.
        seed: seed of the room.

    Returns:
        `list[dict]`: one row per view, with the columns of `samples.FEATURES`.

    Raises:
        RuntimeError: if there is no place for a camera.
    """
    room = build_room(seed, settings.groups)
    scene = VariedScene(room)
    return [render_view(scene, room, settings, seed, view) for view in range(settings.views)]


def render_view(scene: VariedScene, room: VariedRoom, settings: RoomsSettings, seed: int, view: int) -> dict[str, Any]:
    """Render one row. It depends only on the room's seed, the groups, the view's number, the size and the samples."""
    camera, geometry = _choose_camera(scene, room, settings, stream(seed, "cameras", view))
    paths = int(stream(seed, "paths", view).integers(2**31))
    radiance = scene.colour(camera, settings.size, settings.samples_per_pixel, seed=paths)
    developed = photograph(radiance, settings.groups, stream(seed, "light", view), stream(seed, "sensor", view))
    image, rgb = image_cell(developed)
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


def _choose_camera(
    scene: VariedScene, room: VariedRoom, settings: RoomsSettings, rng: np.random.Generator
) -> tuple[RoomCamera, GeometryMaps]:
    """The best camera of which every pixel shows a surface, and its geometry maps."""
    if "cameras" in settings.groups:
        cameras: Sequence[RoomCamera] = rank_cameras(room, rng, lambda camera: scene.preview(camera, PREVIEW_SIZE))
    else:

        def plain_preview(camera: RoomCamera) -> tuple[np.ndarray, np.ndarray]:
            seen = scene.preview(camera, PREVIEW_SIZE)
            return seen.classes, seen.depth

        cameras = rank_plain_cameras(room, rng, plain_preview)
    for camera in cameras:
        geometry = scene.geometry(camera, settings.size)
        if np.isfinite(geometry.depth).all():
            return camera, geometry
    raise RuntimeError(f"no camera sees a closed {room.kind}; please report the room's seed and the size {settings.size}")
