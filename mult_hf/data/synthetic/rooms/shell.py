"""The empty room: floor, ceiling, walls with windows and a door, and the ceiling lamp.

No ray can escape the shell: windows are closed by a light-emitting image of the outdoors.
"""

from dataclasses import dataclass

import numpy as np

from . import meshes, textures
from .builder import RoomBuilder
from .materials import DISPLAY_GAMMA, Material, grey
from .meshes import IDENTITY

REVEAL = 0.13
"""Depth of a window's opening in metres, from the wall's face to the pane."""

OVERLAP = 0.01
"""Overlap of trim with the surface behind it in metres, so that no two faces are coplanar."""


@dataclass(frozen=True)
class Opening:
    """A window's hole in a wall, in the wall's frame, metres."""

    left: float
    right: float
    bottom: float
    top: float

    @property
    def centre(self) -> float:
        """Middle along the wall."""
        return (self.left + self.right) / 2

    @property
    def half_width(self) -> float:
        """Half of the width."""
        return (self.right - self.left) / 2


def build_shell(builder: RoomBuilder) -> None:
    """Add floor, ceiling, the main lamp and four walls, of which one or two have windows and one has a door."""
    rng, palette = builder.rng, builder.palette
    width, depth, height = builder.plan.width, builder.plan.depth, builder.height
    builder.add("floor", meshes.quad([0, 0, 0], [width, 0, 0], [0, depth, 0]), palette.new_floor())
    ceiling = Material(textures.plaster(rng, [0.88] * 3), repeat=2.0)
    builder.add("ceiling", meshes.quad([0, 0, height], [0, depth, 0], [width, 0, 0]), ceiling)
    order = [int(wall) for wall in rng.permutation(4)]
    windowed, door_wall = order[: rng.integers(1, 3)], order[2]
    materials, view = palette.new_walls(), textures.outdoors(rng) ** DISPLAY_GAMMA * rng.uniform(1.5, 6)
    for wall in range(4):
        openings = _choose_openings(builder, wall) if wall in windowed else []
        build_wall(builder, wall, openings, materials[wall])
        for opening in openings:
            build_window(builder, wall, opening, view)
    build_door(builder, door_wall)
    build_ceiling_lamp(builder)


def _choose_openings(builder: RoomBuilder, wall: int) -> list[Opening]:
    """One window, or two side by side of the same height."""
    rng, length = builder.rng, builder.plan.wall_length(wall)
    count = 1 if length < 4 or builder.chance(0.5) else 2
    bottom, top = rng.uniform(0.5, 1.0), rng.uniform(1.95, 2.2)
    openings = []
    for index in range(count):
        width = min(rng.uniform(0.9, 1.8), length / count - 0.9)
        centre = length * (index + 0.5) / count + rng.uniform(-0.2, 0.2)
        openings.append(Opening(centre - width / 2, centre + width / 2, bottom, top))
    return openings


def build_wall(builder: RoomBuilder, wall: int, openings: list[Opening], material: Material) -> None:
    """The wall around its openings, and a skirting board."""
    length, height, bench = builder.plan.wall_length(wall), builder.height, builder.bench("wall", builder.plan.wall_frame(wall))

    def patch(left: float, right: float, bottom: float, top: float) -> None:
        mesh = meshes.quad([left, 0, bottom], [0, 0, top - bottom], [right - left, 0, 0])
        # The texture continues from patch to patch, upright.
        bench.add(meshes.Mesh(mesh.vertices, mesh.faces, mesh.normals, mesh.vertices[:, [0, 2]]), material)

    starts = [0.0] + [opening.right for opening in openings]
    ends = [opening.left for opening in openings] + [length]
    for left, right in zip(starts, ends, strict=True):
        patch(left, right, 0, height)
    for opening in openings:
        patch(opening.left, opening.right, 0, opening.bottom)
        patch(opening.left, opening.right, opening.top, height)
    bench.box((length / 2, 0.008, 0.045), (length / 2, 0.008 + OVERLAP, 0.045 + OVERLAP), builder.palette.trim)


def build_window(builder: RoomBuilder, wall: int, opening: Opening, view: np.ndarray) -> None:
    """The view outside, the opening's sides, a frame with bars, a sill, and often curtains."""
    rng, trim, frame = builder.rng, builder.palette.trim, builder.plan.wall_frame(wall)
    middle, half_width = opening.centre, opening.half_width
    half_height, centre = (opening.top - opening.bottom) / 2, (opening.top + opening.bottom) / 2
    builder.plan.block_wall(wall, middle, 2 * half_width + 0.2)
    window, lining = builder.bench("window", frame), builder.bench("wall", frame)
    pane = meshes.quad([opening.left, -REVEAL, opening.top], [2 * half_width, 0, 0], [0, 0, -2 * half_height], unit_uv=(1, 1))
    start = rng.integers(view.shape[1] // 2)
    window.light(pane, view[:, start : start + view.shape[1] // 2])
    # From behind the pane to just in front of the wall's face, so that no ray passes between them.
    half_depth, white = (REVEAL + OVERLAP) / 2 + 0.001, builder.palette.white
    for x in (opening.left - OVERLAP, opening.right + OVERLAP):
        lining.box((x, 0.002 - half_depth, centre), (OVERLAP, half_depth, half_height + 2 * OVERLAP), white)
    for z in (opening.bottom - OVERLAP, opening.top + OVERLAP):
        lining.box((middle, 0.001 - half_depth, z), (half_width, half_depth, OVERLAP), white)
    uprights = (-half_width + 0.035, 0.0, half_width - 0.035) if half_width > 0.4 else (-half_width + 0.035, half_width - 0.035)
    for x in uprights:
        window.box((middle + x, -0.06, centre), (0.035, 0.03, half_height), trim)
    bars = (opening.bottom + 0.035, opening.top - 0.035) + ((centre,) if builder.chance(0.4) else ())
    for z in bars:
        window.box((middle, -0.06, z), (half_width, 0.028, 0.035), trim)
    window.box((middle, 0.05, opening.bottom - 0.014), (half_width + 0.06, 0.1, 0.015), trim)
    if builder.chance(0.6):
        _hang_curtains(builder, wall, opening)


def _hang_curtains(builder: RoomBuilder, wall: int, opening: Opening) -> None:
    """A pair of curtains on a rod, drawn aside."""
    rng, bench = builder.rng, builder.bench("curtain", builder.plan.wall_frame(wall))
    cloth, rod_height, length = builder.palette.new_fabric((0.05, 0.6), (0.35, 0.9)), opening.top + 0.16, builder.plan.wall_length(wall)
    left, right = max(opening.left - 0.35, 0.03), min(opening.right + 0.35, length - 0.03)
    bench.rod((left, 0.11, rod_height), (right, 0.11, rod_height), 0.014, builder.palette.dark)
    width, waves = rng.uniform(0.3, 0.5), rng.uniform(4, 7)
    sheet = meshes.wavy_sheet(width, rod_height - 0.04, waves, 0.025)
    for x in (left, right - width):
        bench.add(sheet.transformed(meshes.translation(x, 0.11, 0.03)), cloth)
    builder.plan.block_wall(wall, opening.centre, right - left)


def build_door(builder: RoomBuilder, wall: int) -> None:
    """A closed door with two panels, a frame and a knob; the floor in front of it stays free."""
    rng, palette, plan = builder.rng, builder.palette, builder.plan
    width, height, length = rng.uniform(0.8, 0.95), rng.uniform(1.98, 2.1), plan.wall_length(wall)
    along = rng.uniform(0.7, length - 0.7)
    plan.taken.append(plan.at_wall(wall, along, width + 0.15, 0.75))
    plan.block_wall(wall, along, width + 0.2)
    leaf = palette.white if builder.chance(0.5) else palette.wood
    bench = builder.bench("door", plan.wall_frame(wall, along))
    bench.box((0, 0.02, height / 2), (width / 2, 0.02, height / 2), leaf)
    for z in (0.27 * height, 0.72 * height):
        bench.cushion((0, 0.042, z), (width / 2 - 0.12, 0.012, 0.17 * height), leaf, 0.008)
    for side in (-1, 1):
        bench.box((side * (width / 2 + 0.04), 0.03, height / 2), (0.04, 0.032, height / 2 + OVERLAP), palette.trim)
    bench.box((0, 0.03, height + 0.04), (width / 2 + 0.08, 0.033, 0.04), palette.trim)
    bench.ball((width / 2 - 0.08, 0.08, 1.0), (0.03, 0.03, 0.03), palette.metal)


def build_ceiling_lamp(builder: RoomBuilder) -> None:
    """A flat panel under the ceiling, or a globe on a cord; warm white, with varying strength."""
    rng, height = builder.rng, builder.height
    x, y = builder.plan.width / 2 + rng.uniform(-0.4, 0.4), builder.plan.depth / 2 + rng.uniform(-0.4, 0.4)
    warm_white = np.array([1, rng.uniform(0.78, 0.95), rng.uniform(0.55, 0.85)]) * rng.uniform(0.6, 1.3)
    bench = builder.bench("lamp", IDENTITY)
    if builder.chance(0.45):
        radius = rng.uniform(0.18, 0.4)
        face = meshes.disk(radius).transformed(meshes.translation(x, y, height - 0.07) @ meshes.rotation("x", 180))
        bench.light(face, 1.26 * warm_white / radius**2, builder.palette.white)
        bench.rod((x, y, height), (x, y, height - 0.069), 1.04 * radius, builder.palette.white)
        return
    radius = rng.uniform(0.1, 0.2)
    drop = rng.uniform(0.35, 0.6)
    globe = meshes.ellipsoid([radius] * 3).transformed(meshes.translation(x, y, height - drop))
    bench.light(globe, 0.34 * warm_white / radius**2)
    bench.rod((x, y, height - drop + 0.9 * radius), (x, y, height), 0.008, grey(0.1))
