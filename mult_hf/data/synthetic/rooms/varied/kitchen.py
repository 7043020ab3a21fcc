"""Kitchen furniture: units of 0.6 m side by side along a wall, in the frame of `cabinets`; appliances count as cabinets."""

import numpy as np

from .. import cabinets, meshes
from ..materials import Material, grey
from ..meshes import rotation, translation
from . import shapes
from .builder import VariedBuilder
from .palette import VariedPalette

UNIT = 0.6
"""Usual width of a unit, metres."""

BASE_DEPTH, WALL_DEPTH = 0.58, 0.34
"""Of base and wall units, metres."""


def run(builder: VariedBuilder, frame: np.ndarray, width: float, kinds: list[str], has_wall_units: bool) -> None:
    """A run of units under one worktop.

    Args:
        builder: the room.
        frame: (4, 4), its origin on the floor in the middle of the run's back.
        width: metres.
        kinds: kinds of the units from left to right: `"drawers"`, `"doors"`, `"sink"`, `"stove"` or `"machine"`.
        has_wall_units: whether there are cabinets above it.
    """
    rng, palette = builder.rng, builder.palette
    worktop = palette.new_worktop() if isinstance(palette, VariedPalette) else palette.second_wood
    height, unit = rng.uniform(0.86, 0.94), width / len(kinds)
    bench = builder.bench("cabinet", frame)
    bench.box((0, 0.27, 0.05), (width / 2, 0.24, 0.05), palette.dark)
    bench.box((0, BASE_DEPTH / 2, (height + 0.06) / 2), (width / 2, BASE_DEPTH / 2, (height - 0.14) / 2), palette.furniture)
    bench.box((0, 0.305, height - 0.019), (width / 2 + 0.01, 0.305, 0.019), worktop)
    for index, kind in enumerate(kinds):
        place = frame @ translation(-width / 2 + (index + 0.5) * unit, 0)
        UNITS[kind](builder, place, unit, height)
        if kind in ("drawers", "doors", "machine"):
            builder.support("worktop", place @ translation(0, 0.3, height), unit, 0.56, 0.45)
        else:  # a strip behind hob and sink, and what stands in them
            builder.support("worktop", place @ translation(0, 0.09, height), unit, 0.15, 0.4)
            if rng.random() < 0.4:
                builder.support("worktop", place @ translation(0, 0.34, height + 0.012), unit - 0.1, 0.34, 0.25)
    _splashback(builder, frame, width, height)
    if has_wall_units:
        _wall_units(builder, frame, width, kinds)


def _fronts(
    builder: VariedBuilder, frame: np.ndarray, width: float, span: tuple[float, float], grid: tuple[int, int], material: Material
) -> None:
    """Doors or drawers with bars, knobs or without handles, in the frame's xz plane."""
    rng, (bottom, top), (columns, rows) = builder.rng, span, grid
    bench, handle = builder.bench("cabinet", frame), builder.handles
    for column, row in np.ndindex(columns, rows):
        half_width, half_height = width / columns / 2 - 0.004, (top - bottom) / rows / 2 - 0.004
        x, z = -width / 2 + (column + 0.5) * width / columns, bottom + (row + 0.5) * (top - bottom) / rows
        is_ajar = rows == 1 and rng.random() < 0.06
        if is_ajar:
            hinge = frame @ translation(x - half_width, 0.008, z) @ rotation("z", rng.uniform(10, 80))
            builder.bench("cabinet", hinge).box((half_width, 0, 0), (half_width, 0.009, half_height), material)
            continue
        bench.box((x, 0.008, z), (half_width, 0.009, half_height), material)
        edge = z + (half_height - 0.05 if bottom < 1 else -half_height + 0.05)
        if handle == "bars" and rows > 1:
            bench.rod((x - 0.6 * half_width, 0.045, edge), (x + 0.6 * half_width, 0.045, edge), 0.006, builder.palette.metal)
        elif handle == "bars":
            side = x + (half_width - 0.04) * (1 if column % 2 == 0 else -1)
            bench.rod((side, 0.045, edge - 0.12), (side, 0.045, edge + 0.04), 0.006, builder.palette.metal)
        elif handle == "knobs":
            bench.ball((x, 0.03, edge), (0.015, 0.013, 0.015), builder.palette.metal)


def _drawers(builder: VariedBuilder, frame: np.ndarray, width: float, height: float) -> None:
    _fronts(
        builder,
        frame @ translation(0, BASE_DEPTH),
        width,
        (0.1, height - 0.045),
        (1, int(builder.rng.integers(2, 5))),
        builder.palette.furniture,
    )


def _doors(builder: VariedBuilder, frame: np.ndarray, width: float, height: float) -> None:
    columns = 2 if width > 0.65 else 1
    _fronts(builder, frame @ translation(0, BASE_DEPTH), width, (0.1, height - 0.045), (columns, 1), builder.palette.furniture)


def _sink(builder: VariedBuilder, frame: np.ndarray, width: float, height: float) -> None:
    """A basin with a rim and a tap, let into the worktop as far as a solid worktop allows; basin and tap have no class."""
    rng, palette = builder.rng, builder.palette
    _doors(builder, frame, width, height)
    steel = builder.varied_palette.some("steel", builder.rng) if rng.random() < 0.75 else palette.white
    bench = builder.bench("unlabelled", frame @ translation(0, 0.34, height))
    half_width, half_depth = min(0.5 * width - 0.04, 0.3), 0.19
    # The worktop is solid: the basin stands on it as a frame of low walls around a dark, polished bottom.
    bench.box((0, 0, 0.002), (half_width, half_depth, 0.002), grey(0.3, 0.2))
    for side in (-1, 1):
        bench.cushion((side * half_width, 0, 0.008), (0.02, half_depth + 0.02, 0.009), steel, 0.008)
        bench.cushion((0, side * half_depth, 0.008), (half_width + 0.02, 0.02, 0.009), steel, 0.008)
    bench.rod((0, 0, 0.004), (0, 0, 0.0065), 0.03, palette.metal)
    x, reach, top = rng.uniform(-0.1, 0.1), rng.uniform(0.14, 0.22), rng.uniform(0.14, 0.32)
    rise = [[x, -half_depth - 0.045, 0], [x, -half_depth - 0.045, 0.8 * top]]
    spout = [[x, -half_depth, top], [x, -half_depth + 0.6 * reach, top], [x, -half_depth + reach, 0.85 * top]]
    bench.add(shapes.tube(np.array([*rise, *spout]), 0.012, 10), palette.metal)
    bench.ball((x, -half_depth - 0.045, 0.035), (0.025, 0.025, 0.035), palette.metal)


def _stove(builder: VariedBuilder, frame: np.ndarray, width: float, height: float) -> None:
    """An oven with a dark window under a hob of plates or burners; the hob has no class."""
    rng, palette = builder.rng, builder.palette
    body = (
        builder.varied_palette.some("steel", builder.rng) if rng.random() < 0.5 else palette.white if rng.random() < 0.5 else palette.dark
    )
    oven = builder.bench("cabinet", frame @ translation(0, BASE_DEPTH))
    oven.box((0, 0.012, 0.48), (width / 2 - 0.004, 0.014, 0.35), body)
    oven.box((0, 0.028, 0.45), (width / 2 - 0.06, 0.003, 0.2), palette.screen)
    oven.rod((-width / 2 + 0.05, 0.065, 0.71), (width / 2 - 0.05, 0.065, 0.71), 0.01, palette.metal)
    for x in np.linspace(-0.2, 0.2, 5):
        oven.rod((x, 0.02, 0.78), (x, 0.05, 0.78), 0.018, palette.dark)
    hob = builder.bench("unlabelled", frame @ translation(0, 0.31, height))
    hob.box((0, 0, 0.004), (0.285, 0.25, 0.005), palette.screen if rng.random() < 0.6 else body)
    has_burners = rng.random() < 0.4
    for x in (-0.14, 0.14):
        for y in (-0.115, 0.115):
            radius = rng.uniform(0.07, 0.1)
            hob.rod((x, y, 0.008), (x, y, 0.012), radius, grey(0.2, 0.3))
            if has_burners:
                hob.rod((x, y, 0.01), (x, y, 0.022), 0.4 * radius, grey(0.1, 0.4))
                for end in ((radius, 0), (0, radius)):
                    hob.rod((x - end[0], y - end[1], 0.03), (x + end[0], y + end[1], 0.03), 0.005, palette.dark)


def _machine(builder: VariedBuilder, frame: np.ndarray, width: float, height: float) -> None:
    """A dish-washer or washing machine."""
    bench, rng = builder.bench("cabinet", frame @ translation(0, BASE_DEPTH)), builder.rng
    body = builder.varied_palette.some("steel", rng) if rng.random() < 0.4 else builder.palette.white
    bench.box((0, 0.01, 0.47), (width / 2 - 0.004, 0.012, 0.37), body)
    bench.box((0, 0.024, 0.79), (width / 2 - 0.02, 0.004, 0.03), builder.palette.dark)
    if rng.random() < 0.4:
        bench.rod((0, 0.02, 0.45), (0, 0.04, 0.45), 0.19, builder.palette.metal)
        bench.rod((0, 0.035, 0.45), (0, 0.048, 0.45), 0.15, builder.palette.screen)


UNITS = {"drawers": _drawers, "doors": _doors, "sink": _sink, "stove": _stove, "machine": _machine}
"""What stands under the worktop."""


def _splashback(builder: VariedBuilder, frame: np.ndarray, width: float, height: float) -> None:
    """The wall between worktop and wall units, tiled as a rule; it counts as wall."""
    palette = builder.palette
    material = palette.new_splashback() if isinstance(palette, VariedPalette) else palette.white
    mesh = meshes.quad([-width / 2, 0.004, height], [0, 0, 0.55], [width, 0, 0])
    bench = builder.bench("wall", frame @ translation(0, -0.03))
    bench.add(meshes.Mesh(mesh.vertices, mesh.faces, mesh.normals, mesh.vertices[:, [0, 2]]), material)


def _wall_units(builder: VariedBuilder, frame: np.ndarray, width: float, kinds: list[str]) -> None:
    """Cabinets above the units, a hood above the stove, open shelves here and there."""
    rng, unit = builder.rng, width / len(kinds)
    bottom, top = rng.uniform(1.38, 1.5), rng.uniform(1.95, 2.2)
    material = builder.palette.furniture if rng.random() < 0.75 else builder.palette.second_wood
    for index, kind in enumerate(kinds):
        place = frame @ translation(-width / 2 + (index + 0.5) * unit, 0)
        bench = builder.bench("cabinet", place)
        if kind == "stove":
            _hood(builder, place, unit, bottom)
        elif rng.random() < 0.15:
            bench.box((0, WALL_DEPTH / 2, bottom), (unit / 2, WALL_DEPTH / 2, 0.012), material)
            bench.box((0, WALL_DEPTH / 2, bottom + 0.33), (unit / 2, WALL_DEPTH / 2, 0.012), material)
            for z in (bottom, bottom + 0.33):
                builder.support("shelf", place @ translation(0, WALL_DEPTH / 2, z + 0.0125), unit - 0.04, WALL_DEPTH - 0.04, 0.3)
        else:
            bench.box((0, WALL_DEPTH / 2, (bottom + top) / 2), (unit / 2, WALL_DEPTH / 2, (top - bottom) / 2), material)
            _fronts(builder, place @ translation(0, WALL_DEPTH), unit, (bottom, top), (2 if unit > 0.65 else 1, 1), material)


def _hood(builder: VariedBuilder, frame: np.ndarray, width: float, bottom: float) -> None:
    """An extractor hood with a chimney up to the ceiling; it has no class."""
    steel, height = builder.varied_palette.some("steel", builder.rng), builder.height
    bench = builder.bench("unlabelled", frame)
    bench.box((0, 0.24, bottom + 0.12), (width / 2, 0.24, 0.03), steel)
    bench.box((0, 0.2, bottom + 0.2), (0.7 * width / 2, 0.18, 0.05), steel)
    bench.box((0, 0.14, (bottom + height) / 2 + 0.1), (0.15, 0.13, (height - bottom) / 2 - 0.105), steel)


def refrigerator(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A refrigerator of the first version, often with things on it and notes at its door."""
    cabinets.refrigerator(builder, frame)
    rng, bench = builder.clutter_rng, builder.bench("unlabelled", frame)
    if "clutter" not in builder.groups:
        return
    for _ in range(rng.integers(0, 7)):
        x, z, size = rng.uniform(-0.22, 0.1), rng.uniform(0.95, 1.6), rng.uniform(0.03, 0.08)
        bench.add(shapes.front_quad(x, 0.633, z, size, 1.3 * size), builder.varied_palette.some("page", rng))


def island(builder: VariedBuilder, frame: np.ndarray, width: float) -> None:
    """A block of drawers and doors under a worktop that stands free; its middle is at the frame's origin."""
    rng, palette = builder.rng, builder.palette
    worktop = palette.new_worktop() if isinstance(palette, VariedPalette) else palette.second_wood
    bench = builder.bench("cabinet", frame)
    bench.box((0, 0, 0.45), (width / 2, 0.33, 0.43), palette.furniture)
    bench.box((0, 0, 0.9), (width / 2 + 0.06, 0.42, 0.02), worktop)
    for turn in (0, 180):
        face = frame @ rotation("z", turn) @ translation(0, 0.33)
        _fronts(builder, face, width, (0.1, 0.86), (max(2, round(width / UNIT)), int(rng.integers(1, 4))), palette.furniture)
    builder.support("worktop", frame @ translation(0, 0, 0.92), width, 0.8, 0.9)
