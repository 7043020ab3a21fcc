"""Collects the parts of one room while shell and furniture are added."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from . import meshes
from .floorplan import FloorPlan
from .materials import Material, Palette
from .meshes import Mesh, Vector

CLASS_NAMES = (
    "unlabelled", "wall", "floor", "ceiling", "window", "door", "bed", "sofa", "chair", "table", "cabinet", "book", "picture",
    "lamp", "plant", "rug", "curtain", "tv",
)  # fmt: skip
"""Names of the stored class ids, from 0: things without a class are "unlabelled", which tasks decode as unknown."""


@dataclass(frozen=True, eq=False)
class Part:
    """One mesh of a room.

    Args:
        class_name: one of `CLASS_NAMES`.
        mesh: the mesh in room axes.
        material: its surface; light sources without one do not reflect.
        emission: (3,) or (height, width, 3) emitted linear radiance; `None` if the part emits no light.
    """

    class_name: str
    mesh: Mesh
    material: Material | None
    emission: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Room:
    """A room ready to be rendered; its axes are those of `floorplan`.

    Args:
        kind: name of its layout, for example "bedroom".
        plan: its size and the places that are taken.
        height: height of the ceiling, metres.
        parts: meshes, one per pair of class and material, and one per light.
    """

    kind: str
    plan: FloorPlan
    height: float
    parts: list[Part] = field(repr=False)


class RoomBuilder:
    """A room under construction, to which shell, furniture and layouts add parts.

    Args:
        rng: the room's random number generator.
        width: along x, metres.
        depth: along y, metres.
        height: height of the ceiling, metres.
    """

    def __init__(self, rng: np.random.Generator, width: float, depth: float, height: float) -> None:
        self.rng = rng
        self.height = height
        self.plan = FloorPlan(width, depth)
        self.palette = Palette(rng)
        self._lights: list[Part] = []
        self._groups: dict[tuple[str, Material], list[Mesh]] = {}

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return bool(self.rng.random() < probability)

    def bench(self, class_name: str, frame: np.ndarray = meshes.IDENTITY) -> "Bench":
        """A [`Bench`] that adds parts of one class, given in the axes of a (4, 4) frame."""
        if class_name not in CLASS_NAMES:
            raise ValueError(f"class {class_name!r} is not one of {', '.join(CLASS_NAMES)}")
        return Bench(self, class_name, frame)

    def add(self, class_name: str, mesh: Mesh, material: Material) -> None:
        """Add a mesh in room axes."""
        self._groups.setdefault((class_name, material), []).append(mesh)

    def add_light(self, part: Part) -> None:
        """Add a light-emitting part in room axes."""
        self._lights.append(part)

    def finish(self, kind: str) -> Room:
        """The room with all parts added so far; parts with the same class and material become one mesh."""
        solid = [Part(name, meshes.merge(group), material) for (name, material), group in self._groups.items()]
        return Room(kind, self.plan, self.height, solid + self._lights)


@dataclass(frozen=True)
class Bench:
    """Adds shapes of one class in the axes of one frame; created by [`RoomBuilder.bench`]. All lengths are in metres."""

    builder: RoomBuilder
    class_name: str
    frame: np.ndarray

    def add(self, mesh: Mesh, material: Material) -> None:
        """Any mesh."""
        self.builder.add(self.class_name, mesh.transformed(self.frame), material)

    def box(self, centre: Vector, half_size: Vector, material: Material) -> None:
        """A box with sharp edges."""
        self.add(meshes.box(half_size).transformed(meshes.translation(*centre)), material)

    def cushion(self, centre: Vector, half_size: Vector, material: Material, radius: float, tilt: float = 0.0, turn: float = 0.0) -> None:
        """A box with rounded edges, tilted about x, then rotated about z, in degrees."""
        pose = meshes.translation(*centre) @ meshes.rotation("z", turn) @ meshes.rotation("x", tilt)
        self.add(meshes.box(half_size, radius).transformed(pose), material)

    def rod(self, start: Vector, end: Vector, radius: float, material: Material) -> None:
        """A closed cylinder between two points."""
        self.add(meshes.cylinder(start, end, radius), material)

    def ball(self, centre: Vector, radii: Vector, material: Material) -> None:
        """An ellipsoid."""
        self.add(meshes.ellipsoid(radii).transformed(meshes.translation(*centre)), material)

    def light(self, mesh: Mesh, emission: Sequence[float] | np.ndarray, material: Material | None = None) -> None:
        """A light-emitting mesh; `emission` is linear radiance, (3,) or a texture (height, width, 3) over its uv."""
        self.builder.add_light(Part(self.class_name, mesh.transformed(self.frame), material, np.asarray(emission, float)))
