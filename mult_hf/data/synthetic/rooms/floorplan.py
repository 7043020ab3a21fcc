"""Positions of furniture: rectangles on the floor that must not overlap, and frames along the walls.

Room axes are in metres: x along wall 0, y away from it, z up, with the origin in a corner of the floor. Walls are numbered 0 to 3
counter-clockwise as seen from above. A wall's frame has x along the wall, y into the room, z up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .meshes import rotation, translation


@dataclass(frozen=True)
class Rectangle:
    """An axis-aligned rectangle on the floor plan, in metres."""

    left: float
    near: float
    right: float
    far: float

    def overlaps(self, other: "Rectangle", gap: float = 0.0) -> bool:
        """Whether the two rectangles are less than `gap` metres apart."""
        apart = (
            self.right + gap <= other.left or other.right + gap <= self.left or self.far + gap <= other.near or other.far + gap <= self.near
        )
        return not apart

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) in metres."""
        return (self.left + self.right) / 2, (self.near + self.far) / 2

    @classmethod
    def around(cls, x: float, y: float, width: float, depth: float) -> "Rectangle":
        """The rectangle with a given centre, width and depth."""
        return cls(x - width / 2, y - depth / 2, x + width / 2, y + depth / 2)


class FloorPlan:
    """Occupied parts of a room's floor and walls.

    Args:
        width: size of the room along x, metres.
        depth: size of the room along y, metres.
    """

    def __init__(self, width: float, depth: float) -> None:
        self.width = width
        self.depth = depth
        self.taken: list[Rectangle] = []
        self.blocked_walls: list[Rectangle] = []

    def wall_length(self, wall: int) -> float:
        """Length of a wall from corner to corner, metres."""
        return self.width if wall % 2 == 0 else self.depth

    def wall_frame(self, wall: int, along: float = 0.0) -> np.ndarray:
        """(4, 4) matrix from a wall's frame to room axes; its origin is `along` metres from the wall's first corner."""
        corners = ((along, 0), (self.width, along), (self.width - along, self.depth), (0, self.depth - along))
        return translation(*corners[wall]) @ rotation("z", 90 * wall)

    def at_wall(self, wall: int, along: float, width: float, depth: float) -> Rectangle:
        """The rectangle of an object of given width and depth whose back is centred at `along` on the wall."""
        corners = np.array([[-width / 2, 0, 0, 1], [width / 2, depth, 0, 1]]) @ self.wall_frame(wall, along).T
        (left, near), (right, far) = corners[:, :2].min(0), corners[:, :2].max(0)
        return Rectangle(left, near, right, far)

    def is_free(self, place: Rectangle, gap: float = 0.06) -> bool:
        """Whether nothing stands within `gap` metres of a place."""
        return not any(place.overlaps(other, gap) for other in self.taken)

    def take(self, place: Rectangle) -> bool:
        """Take a place if it is free; returns whether it was free."""
        free = self.is_free(place)
        if free:
            self.taken.append(place)
        return free

    def block_wall(self, wall: int, along: float, width: float, depth: float = 0.1) -> None:
        """Reserve a stretch of wall (a window, a door, a wardrobe) that pictures and tall furniture must avoid."""
        self.blocked_walls.append(self.at_wall(wall, along, width, depth))

    def wall_is_free(self, wall: int, along: float, width: float) -> bool:
        """Whether a stretch of wall is neither blocked nor hidden by tall furniture."""
        strip = self.at_wall(wall, along, width, 0.1)
        return not any(strip.overlaps(other, 0.05) for other in self.blocked_walls)

    def place_at_wall(
        self,
        rng: np.random.Generator,
        width: float,
        depth: float,
        *,
        tall: float = 0.0,
        walls: Sequence[int] = (0, 1, 2, 3),
        gap: float = 0.03,
        tries: int = 40,
    ) -> np.ndarray | None:
        """Find a free place at a wall and take it.

        Args:
            rng: random number generator for the attempts.
            width: size along the wall, metres.
            depth: size into the room that must be free, metres.
            tall: depth in metres of an object that hides the wall; 0 for low objects, which may stand under windows.
            walls: walls to try.
            gap: distance between wall and object, metres.
            tries: attempts before giving up.

        Returns:
            `np.ndarray`: (4, 4) frame with its origin at the middle of the object's back, or `None` if no place is free.
        """
        for _ in range(tries):
            wall = int(rng.choice(walls))
            margin = width / 2 + 0.05
            along = rng.uniform(margin, max(margin, self.wall_length(wall) - margin))
            fits = 2 * margin <= self.wall_length(wall)
            if not fits or (tall and not self.wall_is_free(wall, along, width)):
                continue
            if self.take(self.at_wall(wall, along, width, depth + gap)):
                if tall:
                    self.block_wall(wall, along, width, tall)
                return self.wall_frame(wall, along) @ translation(0, gap)
        return None
