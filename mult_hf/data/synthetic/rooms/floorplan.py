"""Where things stand: rectangles on the floor that must not overlap, and frames along the walls.

Room axes are metres: x along wall 0, y away from it, z up, the origin in a corner of the floor. Walls are numbered 0 to 3
counter-clockwise from above. A wall's frame has x along the wall, y into the room, z up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .meshes import rotation, translation


@dataclass(frozen=True)
class Rectangle:
    """An upright rectangle on the floor plan, in metres."""

    left: float
    near: float
    right: float
    far: float

    def overlaps(self, other: "Rectangle", gap: float = 0.0) -> bool:
        """Whether the two come closer than `gap` metres to each other."""
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
        """The rectangle of a width and depth about a point."""
        return cls(x - width / 2, y - depth / 2, x + width / 2, y + depth / 2)


class FloorPlan:
    """What is taken of a room's floor and of its walls.

    Args:
        width: of the room along x, metres.
        depth: of the room along y, metres.
    """

    def __init__(self, width: float, depth: float) -> None:
        self.width = width
        self.depth = depth
        self.taken: list[Rectangle] = []
        self.blocked_walls: list[Rectangle] = []

    def wall_length(self, wall: int) -> float:
        """Metres from corner to corner."""
        return self.width if wall % 2 == 0 else self.depth

    def wall_frame(self, wall: int, along: float = 0.0) -> np.ndarray:
        """(4, 4) matrix from the frame of a wall, its origin `along` metres from the wall's first corner, to the room."""
        corners = ((along, 0), (self.width, along), (self.width - along, self.depth), (0, self.depth - along))
        return translation(*corners[wall]) @ rotation("z", 90 * wall)

    def at_wall(self, wall: int, along: float, width: float, depth: float) -> Rectangle:
        """The floor that a thing of that width and depth takes whose back centre stands at the wall."""
        corners = np.array([[-width / 2, 0, 0, 1], [width / 2, depth, 0, 1]]) @ self.wall_frame(wall, along).T
        (left, near), (right, far) = corners[:, :2].min(0), corners[:, :2].max(0)
        return Rectangle(left, near, right, far)

    def is_free(self, place: Rectangle, gap: float = 0.06) -> bool:
        """Whether nothing stands within `gap` metres of a place."""
        return not any(place.overlaps(other, gap) for other in self.taken)

    def take(self, place: Rectangle) -> bool:
        """Take a place if it is free and say whether it was."""
        free = self.is_free(place)
        if free:
            self.taken.append(place)
        return free

    def block_wall(self, wall: int, along: float, width: float, depth: float = 0.1) -> None:
        """Keep pictures and tall furniture away from a stretch of wall (a window, a door, a wardrobe)."""
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
        """Find a free place with its back to a wall and take it.

        Args:
            rng: source of the attempts.
            width: along the wall, metres.
            depth: into the room, metres, kept free.
            tall: depth in metres of what hides the wall behind it; 0 for low things, which may stand under windows.
            walls: which walls are tried.
            gap: metres between the wall and the thing.
            tries: attempts before giving up.

        Returns:
            `np.ndarray`: (4, 4) frame with its origin at the middle of the thing's back, or `None` where nothing is free.
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
