"""The room under construction, with the flat surfaces on which small objects may lie."""

from dataclasses import dataclass, field

import numpy as np

from ..builder import Room, RoomBuilder
from ..floorplan import Rectangle
from ..materials import Palette
from ..shell import Opening
from .groups import stream
from .palette import VariedPalette


@dataclass(frozen=True, eq=False)
class Support:
    """A flat surface for small objects.

    Args:
        kind: what usually lies there: `"desk"`, `"table"`, `"worktop"`, `"shelf"`, `"top"` (of furniture) or `"floor"`.
        frame: (4, 4), its origin in the middle of the place, x along its width, z up.
        width: metres.
        depth: metres.
        headroom: free height above it, metres.
        taken: rectangles of the objects on it, in the frame's axes.
    """

    kind: str
    frame: np.ndarray
    width: float
    depth: float
    headroom: float = 1.0
    taken: list[Rectangle] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Sun:
    """Sunlight through a window, as from a projector at the pane.

    Args:
        position: (3,) metres.
        target: (3,) metres, where the middle of the patch lies.
        strength: irradiance at 1 m.
    """

    position: np.ndarray
    target: np.ndarray
    strength: float


@dataclass(frozen=True, eq=False)
class VariedRoom(Room):
    """A room, and the places that its cameras aim at.

    Args:
        supports: flat surfaces.
        sun: the patch of sunlight, if there is one.
    """

    supports: tuple[Support, ...] = ()
    sun: Sun | None = None


class VariedBuilder(RoomBuilder):
    """A varied room under construction, to which shell, furniture and layouts add parts.

    Args:
        seed: of the room.
        groups: what varies, see `groups.GROUPS`.
        width: along x, metres.
        depth: along y, metres.
        height: of the ceiling, metres.
        rng: the stream of the room's shape.
    """

    def __init__(self, seed: int, groups: tuple[str, ...], width: float, depth: float, height: float, rng: np.random.Generator) -> None:
        super().__init__(rng, width, depth, height)
        material_rng = stream(seed, "materials")
        self.palette = VariedPalette(material_rng) if "materials" in groups else Palette(material_rng)
        self.varied_palette = self.palette if isinstance(self.palette, VariedPalette) else VariedPalette(stream(seed, "materials", 0))
        self.groups = groups
        self.light_rng = stream(seed, "light")
        self.clutter_rng = stream(seed, "clutter")
        self.supports: list[Support] = []
        self.sun: Sun | None = None
        self.is_sunny = False
        self.windows: list[tuple[int, Opening]] = []
        self.handles = "bars"

    def support(self, kind: str, frame: np.ndarray, width: float, depth: float, headroom: float = 1.0) -> Support:
        """Record a flat surface; objects are added later."""
        place = Support(kind, frame, width, depth, headroom)
        self.supports.append(place)
        return place

    def finish(self, kind: str) -> VariedRoom:
        """The room with all parts added so far; parts with the same class and material become one mesh."""
        room = super().finish(kind)
        return VariedRoom(room.kind, room.plan, room.height, room.parts, tuple(self.supports), self.sun)
