"""Choice of camera positions in a room."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mult_hf.data.synthetic.camera import focal_length

from .builder import CLASS_NAMES, Room
from .floorplan import Rectangle

CANDIDATES = 8
"""Number of proposals, of which the best is used; a preview takes a few milliseconds."""

CLEARANCE = 0.3
"""Minimum distance of the camera from walls and furniture, in metres."""


@dataclass(frozen=True, eq=False)
class RoomCamera:
    """A pinhole camera without roll, for square images.

    Args:
        position: (3,) metres, room axes.
        target: (3,) metres, the point in the middle of the image.
        field_of_view: horizontal, degrees.
    """

    position: np.ndarray
    target: np.ndarray
    field_of_view: float

    @property
    def axes(self) -> np.ndarray:
        """(3, 3): the camera's axes as rows (x right, y up, z towards the viewer) in room axes."""
        backward = self.position - self.target
        backward = backward / np.linalg.norm(backward)
        right = np.cross([0.0, 0.0, 1.0], backward)
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(backward, right), backward])

    @property
    def up(self) -> np.ndarray:
        """(3,): the direction that is upwards in the image as far as the viewing direction allows."""
        return np.array([0.0, 0.0, 1.0])

    def focal_length(self, size: int) -> float:
        """Focal length in pixels of an image that is `size` pixels wide."""
        return focal_length(self.field_of_view, size)


def propose(room: Room, rng: np.random.Generator, tries: int = 400) -> RoomCamera:
    """Propose a camera above free floor that looks at furniture or at the middle of the room.

    Args:
        room: the room.
        rng: random number generator for the choices.
        tries: attempts before falling back to a corner of the room.

    Returns:
        [`RoomCamera`]: 0.8 to 1.9 m high, with a field of view of 50 to 85 degrees.
    """
    plan = room.plan
    for _ in range(tries):
        x, y = rng.uniform(CLEARANCE, plan.width - CLEARANCE), rng.uniform(CLEARANCE, plan.depth - CLEARANCE)
        if not plan.is_free(Rectangle.around(x, y, 2 * CLEARANCE, 2 * CLEARANCE), gap=0.0):
            continue
        aim_at_furniture = plan.taken and rng.random() < 0.7
        middle = plan.taken[rng.integers(len(plan.taken))].centre if aim_at_furniture else (plan.width / 2, plan.depth / 2)
        target = np.array([*(middle + rng.uniform(-0.4, 0.4, 2)), rng.uniform(0.5, 1.35)])
        if np.hypot(target[0] - x, target[1] - y) >= 1.6:
            return RoomCamera(np.array([x, y, rng.uniform(0.8, 1.9)]), target, rng.uniform(50, 85))
    return RoomCamera(np.array([CLEARANCE, CLEARANCE, 1.6]), np.array([plan.width, plan.depth, 0.8]), 70.0)


def interest(classes: np.ndarray, depth: np.ndarray) -> float:
    """Score of a view: the number of classes, reduced if one class or a bare wall dominates or the view is blocked.

    Args:
        classes: (height, width) ids of `CLASS_NAMES`.
        depth: (height, width) metres; NaN where a ray hit nothing.

    Returns:
        `float`: higher is better; minus infinity if a ray hit nothing.
    """
    if not np.isfinite(depth).all():
        return -np.inf
    share = np.bincount(classes.ravel(), minlength=len(CLASS_NAMES)) / classes.size
    seen = float((share[1:] > 0.01).sum() + 0.5 * (share[1:] > 0.04).sum())
    monotony = 6 * max(0.0, share.max() - 0.5) + 6 * max(0.0, share[CLASS_NAMES.index("wall")] - 0.45)
    return seen - monotony - 20 * float((depth < 0.5).mean()) - (8 if np.percentile(depth, 60) < 1.4 else 0)


def rank_cameras(room: Room, rng: np.random.Generator, preview: Callable[[RoomCamera], tuple[np.ndarray, np.ndarray]]) -> list[RoomCamera]:
    """Proposals for one view, the most interesting first.

    Args:
        room: the room.
        rng: random number generator for the proposals.
        preview: returns a camera's small class map and depth map.

    Returns:
        `list[RoomCamera]`: list of length `CANDIDATES`.
    """
    cameras = [propose(room, rng) for _ in range(CANDIDATES)]
    return sorted(cameras, key=lambda camera: interest(*preview(camera)), reverse=True)
