"""Camera positions in a varied room: at the height of standing and seated people, under the ceiling, and close to objects."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..builder import CLASS_NAMES
from ..viewpoints import RoomCamera
from .builder import Support, VariedRoom

CANDIDATES = 4
"""Number of proposals of one style, of which the best is used."""

STYLES = {"standing": 0.36, "seated": 0.14, "looking_down": 0.26, "ceiling": 0.08, "close_up": 0.16}
"""Share of each style of camera position."""

MARGIN = 0.12
"""Minimum distance of the camera from walls, floor and ceiling, in metres."""

NEAREST = 0.15
"""Minimum distance of any pixel, in metres; closer views are rejected."""


@dataclass(frozen=True, eq=False)
class HeldCamera(RoomCamera):
    """A pinhole camera with roll.

    Args:
        roll: degrees, positive if the camera leans to its left.
    """

    roll: float = 0.0

    @property
    def axes(self) -> np.ndarray:
        """(3, 3): the camera's axes as rows (x right, y up, z towards the viewer) in room axes."""
        right, upward, backward = super().axes
        cosine, sine = np.cos(np.radians(self.roll)), np.sin(np.radians(self.roll))
        return np.stack([cosine * right + sine * upward, cosine * upward - sine * right, backward])

    @property
    def up(self) -> np.ndarray:
        """(3,): the direction that is upwards in the image."""
        return self.axes[1]


@dataclass(frozen=True, eq=False)
class Preview:
    """A small preview of a view.

    Args:
        classes: (height, width) ids of `CLASS_NAMES`.
        depth: (height, width) metres; NaN where a ray hit nothing.
        behind: share of the pixels that show the back of a surface, as from inside a cabinet.
    """

    classes: np.ndarray
    depth: np.ndarray
    behind: float


def propose(room: VariedRoom, rng: np.random.Generator, style: str) -> HeldCamera:
    """Propose a camera of a style. It may be inside a cabinet, which its preview shows.

    Args:
        room: the room.
        rng: random number generator for the choices.
        style: one of `STYLES`.

    Returns:
        [`HeldCamera`]: within the room, with a horizontal field of view of 35 to 95 degrees.
    """
    position, target = _POSES[style](room, rng)
    field_of_view = rng.uniform(38, 70) if rng.random() < 0.75 else rng.uniform(35, 95)  # of most phones and video cameras, or any
    roll = rng.uniform(-25, 25) if rng.random() < 0.06 else np.clip(rng.normal(0, 3.5), -12, 12)
    return HeldCamera(_inside(room, position), target, float(field_of_view), float(roll))


def _inside(room: VariedRoom, position: np.ndarray) -> np.ndarray:
    size = np.array([room.plan.width, room.plan.depth, room.height])
    return np.clip(position, MARGIN, size - MARGIN)


def _direction(azimuth: float, pitch: float) -> np.ndarray:
    """(3,) unit vector; angles in degrees, the pitch positive upwards."""
    azimuth, pitch = np.radians([azimuth, pitch])
    return np.array([np.cos(pitch) * np.cos(azimuth), np.cos(pitch) * np.sin(azimuth), np.sin(pitch)])


def _on_foot(room: VariedRoom, rng: np.random.Generator, heights: tuple[float, float], pitches: tuple[float, float]) -> tuple:
    """A place above the floor, looking at a piece of furniture, a flat surface or any point of the room."""
    plan = room.plan
    position = np.array([rng.uniform(0.2, plan.width - 0.2), rng.uniform(0.2, plan.depth - 0.2), rng.uniform(*heights)])
    if plan.taken and rng.random() < 0.75:
        aim = np.array(plan.taken[rng.integers(len(plan.taken))].centre) + rng.uniform(-0.5, 0.5, 2)
    else:
        aim = rng.uniform(0, [plan.width, plan.depth])
    azimuth = np.degrees(np.arctan2(*(aim - position[:2])[::-1]))
    return position, position + _direction(azimuth, rng.uniform(*pitches))


def _above(room: VariedRoom, rng: np.random.Generator, distances: tuple[float, float], pitches: tuple[float, float], kinds: tuple) -> tuple:
    """A place at a distance from a point on or just above a flat surface, looking at it."""
    places = [place for place in room.supports if place.kind in kinds] or [_middle_of_floor(room)]
    areas = np.array([place.width * place.depth for place in places]) ** 0.5
    place = places[rng.choice(len(places), p=areas / areas.sum())]
    x, y = rng.uniform(-0.5, 0.5, 2) * (place.width, place.depth)
    target = (place.frame @ [x, y, rng.uniform(0, 0.2), 1])[:3]
    # From the open side: the frame's +y, give or take a right angle.
    facing = np.degrees(np.arctan2(place.frame[1, 1], place.frame[0, 1]))
    direction = _direction(facing + rng.uniform(-80, 80), -rng.uniform(*pitches))
    return target + rng.uniform(*distances) * direction, target


def _middle_of_floor(room: VariedRoom) -> Support:
    frame = np.eye(4)
    frame[:2, 3] = room.plan.width / 2, room.plan.depth / 2
    return Support("floor", frame, room.plan.width / 2, room.plan.depth / 2)


_FLAT = ("desk", "worktop", "table")
_POSES: dict[str, Callable[[VariedRoom, np.random.Generator], tuple[np.ndarray, np.ndarray]]] = {
    "standing": lambda room, rng: _on_foot(room, rng, (1.3, 1.85), (-38, 4)),
    "seated": lambda room, rng: _on_foot(room, rng, (0.6, 1.3), (-28, 10)),
    "looking_down": lambda room, rng: _above(room, rng, (0.6, 2.2), (-65, -15), _FLAT),
    "ceiling": lambda room, rng: _on_foot(room, rng, (room.height - 0.35, room.height - 0.12), (-65, -20)),
    "close_up": lambda room, rng: _above(room, rng, (0.35, 1.1), (-60, 8), (*_FLAT, "shelf", "top", "under", "floor")),
}
"""Position and target of each style."""


def appeal(view: Preview) -> float:
    """Score of a view: higher with many classes and depth steps, lower for a single flat object or a blocked lens.

    Returns:
        `float`: minus infinity if a ray hit nothing, a pixel is nearer than `NEAREST`, or the camera is inside an object.
    """
    depth = view.depth
    if not np.isfinite(depth).all() or depth.min() < NEAREST or view.behind > 0.25:
        return -np.inf
    share = np.bincount(view.classes.ravel(), minlength=len(CLASS_NAMES)) / view.classes.size
    inverse = 1 / depth
    relief = np.mean([(np.abs(np.diff(inverse, axis=axis)) / inverse.max() > 0.03).mean() for axis in (0, 1)])
    blocked = max(0.0, float((depth < 0.3).mean()) - 0.15) + max(0.0, share[CLASS_NAMES.index("wall")] - 0.5) + max(0.0, share.max() - 0.75)
    return float(0.4 * (share[1:] > 0.01).sum() + 8 * min(relief, 0.25) - 10 * blocked)


def rank_cameras(room: VariedRoom, rng: np.random.Generator, preview: Callable[[HeldCamera], Preview]) -> list[HeldCamera]:
    """Proposed cameras for one view, the best first.

    Args:
        room: the room.
        rng: random number generator for the proposals.
        preview: function that returns the preview of a camera.

    Returns:
        `list[HeldCamera]`: not empty; all of one style, unless no camera of that style fits this room.
    """
    style = str(rng.choice(list(STYLES), p=list(STYLES.values())))
    for each in (style, *["standing"] * 20):
        cameras = [propose(room, rng, each) for _ in range(CANDIDATES)]
        scores = np.array([appeal(preview(camera)) for camera in cameras])
        if np.isfinite(scores).any():
            return [cameras[index] for index in np.argsort(-scores) if np.isfinite(scores[index])]
    raise RuntimeError(f"no camera finds a place in this {room.kind}; please report the room's seed")
