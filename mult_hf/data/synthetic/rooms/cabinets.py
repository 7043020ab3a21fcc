"""All kinds of cabinets. Frames: x along the wall, y into the room, z up, the origin on the floor at the middle of the back."""

import numpy as np

from . import decor
from .builder import RoomBuilder
from .materials import Material, grey
from .meshes import translation

WORKTOP = 0.9
"""Height of a kitchen worktop's upper face, in metres."""


def bookshelf(builder: RoomBuilder, frame: np.ndarray, width: float, depth: float) -> None:
    """An open shelf with books on most boards and vases on the others."""
    rng, bench, material, board = builder.rng, builder.bench("cabinet", frame), builder.palette.furniture, 0.012
    height = rng.uniform(1.2, 2.1)
    rows = int(height / 0.36)
    step = (height - 0.06) / rows
    for side in (-1, 1):
        bench.box((side * (width / 2 - board), depth / 2, height / 2), (board, depth / 2, height / 2), material)
    bench.box((0, 0.006, height / 2), (width / 2 - 2 * board, 0.006, height / 2), material)
    for row in range(rows + 1):
        z = 0.04 + step * row
        bench.box((0, depth / 2, z), (width / 2 - 2 * board, depth / 2 - 0.003, board), material)
        if row == rows:
            break
        if builder.chance(0.8):
            shelf = frame @ translation(-width / 2 + 0.04, depth / 2, z + board)
            decor.books(builder, shelf, (width - 0.08) * rng.uniform(0.4, 1), 0.65 * depth, step - 0.05)
        else:
            decor.vase(builder, frame @ translation(rng.uniform(-width / 3, width / 3), depth / 2, z + board))


def fronts(
    builder: RoomBuilder, frame: np.ndarray, width: float, span: tuple[float, float], grid: tuple[int, int], material: Material
) -> None:
    """A grid of doors or drawers with knobs, on a face in the frame's xz plane that faces +y.

    Args:
        builder: the room.
        frame: (4, 4), its origin below the middle of the face.
        width: width of the face, metres.
        span: heights of its lower and upper end, metres.
        grid: columns and rows.
        material: material of the fronts.
    """
    (bottom, top), (columns, rows) = span, grid
    bench, metal = builder.bench("cabinet", frame), builder.palette.metal
    half_width, half_height = width / columns / 2 - 0.012, (top - bottom) / rows / 2 - 0.012
    for column, row in np.ndindex(columns, rows):
        x, z = -width / 2 + (column + 0.5) * width / columns, bottom + (row + 0.5) * (top - bottom) / rows
        bench.box((x, 0.006, z), (half_width, 0.01, half_height), material)
        bench.ball((x, 0.025, z), (0.014, 0.014, 0.014), metal)


def cupboard(builder: RoomBuilder, frame: np.ndarray, width: float, depth: float) -> None:
    """A low cupboard with doors or drawers and some objects on it."""
    rng, bench, palette = builder.rng, builder.bench("cabinet", frame), builder.palette
    height = rng.uniform(0.7, 0.95)
    bench.box((0, depth / 2, height / 2), (width / 2, depth / 2, height / 2), palette.furniture)
    bench.box((0, depth / 2, height + 0.012), (width / 2 + 0.015, depth / 2 + 0.015, 0.0125), palette.second_wood)
    grid = (max(2, int(width / 0.45)), int(rng.integers(1, 4)))
    fronts(builder, frame @ translation(0, depth), width, (0.05, height), grid, palette.furniture)
    top = frame @ translation(0, depth / 2, height + 0.0245)
    if builder.chance(0.5):
        decor.vase(builder, top @ translation(rng.uniform(0, width / 5), 0))
    if builder.chance(0.5):
        decor.books(builder, top @ translation(-width / 2 + 0.05, 0), 0.4 * width, 0.4 * depth, 0.25)
    if builder.chance(0.4):
        decor.table_lamp(builder, top @ translation(width / 2 - 0.16, 0))


def wardrobe(builder: RoomBuilder, frame: np.ndarray, width: float, depth: float) -> None:
    """A tall cabinet with pairs of doors."""
    rng, bench, palette = builder.rng, builder.bench("cabinet", frame), builder.palette
    height, doors, handle = rng.uniform(1.85, 2.2), max(2, round(width / 0.5)), grey(0.6, 0.2)
    bench.box((0, depth / 2, height / 2), (width / 2, depth / 2, height / 2), palette.furniture)
    for index in range(doors):
        x = -width / 2 + (index + 0.5) * width / doors
        bench.box((x, depth + 0.007, height / 2 + 0.02), (width / doors / 2 - 0.008, 0.01, height / 2 - 0.05), palette.furniture)
        knob = x + (width / doors / 2 - 0.05) * (1 if index % 2 == 0 else -1)
        bench.box((knob, depth + 0.025, height / 2), (0.008, 0.012, 0.1), handle)


def nightstand(builder: RoomBuilder, frame: np.ndarray) -> None:
    """A small cabinet beside a bed, its back at the frame's origin, usually with a lamp."""
    bench, palette = builder.bench("cabinet", frame), builder.palette
    bench.box((0, 0.2, 0.25), (0.21, 0.2, 0.25), palette.wood)
    fronts(builder, frame @ translation(0, 0.4), 0.4, (0.05, 0.48), (1, 2), palette.second_wood)
    if builder.chance(0.7):
        decor.table_lamp(builder, frame @ translation(0, 0.2, 0.5))


def television_stand(builder: RoomBuilder, frame: np.ndarray) -> None:
    """A low cabinet with two doors and a television set on it."""
    rng, bench, palette = builder.rng, builder.bench("cabinet", frame), builder.palette
    bench.box((0, 0.22, 0.24), (0.72, 0.2, 0.24), palette.furniture)
    fronts(builder, frame @ translation(0, 0.42), 1.4, (0.06, 0.46), (2, 1), palette.second_wood)
    half_width = rng.uniform(0.45, 0.62)
    decor.screen(builder, frame @ translation(0, 0.2, 0.48), half_width, 0.56 * half_width)


def kitchen_run(builder: RoomBuilder, frame: np.ndarray, width: float) -> None:
    """Base units under a worktop with hob and sink, wall units above, 0.6 m deep."""
    rng, bench, palette = builder.rng, builder.bench("cabinet", frame), builder.palette
    columns = max(2, round(width / 0.55))
    bench.box((0, 0.27, 0.05), (width / 2, 0.25, 0.05), palette.dark)
    bench.box((0, 0.29, WORKTOP / 2 + 0.03), (width / 2, 0.29, WORKTOP / 2 - 0.07), palette.furniture)
    bench.box((0, 0.3, WORKTOP - 0.02), (width / 2 + 0.01, 0.3, 0.02), palette.second_wood)
    fronts(builder, frame @ translation(0, 0.58), width, (0.1, WORKTOP - 0.04), (columns, int(rng.integers(1, 3))), palette.furniture)
    bench.box((0, 0.16, 1.75), (width / 2, 0.16, 0.32), palette.furniture)
    fronts(builder, frame @ translation(0, 0.32), width, (1.43, 2.07), (columns, 1), palette.furniture)
    _worktop_things(builder, frame @ translation(0, 0, WORKTOP), width)


def _worktop_things(builder: RoomBuilder, frame: np.ndarray, width: float) -> None:
    """Hob, sink with a tap, and jars; none of them has a class."""
    rng, bench, palette = builder.rng, builder.bench("unlabelled", frame), builder.palette
    side = rng.choice([-1, 1]) * width / 4
    bench.box((side, 0.3, 0.003), (0.26, 0.24, 0.004), palette.screen)
    for x in (-0.12, 0.12):
        for y in (0.19, 0.41):
            bench.rod((side + x, y, 0.006), (side + x, y, 0.009), 0.08, grey(0.25, 0.3))
    bench.box((-side, 0.32, 0.002), (0.24, 0.19, 0.003), grey(0.55, 0.25))
    bench.rod((-side, 0.08, 0), (-side, 0.08, 0.26), 0.014, palette.metal)
    bench.rod((-side, 0.07, 0.26), (-side, 0.26, 0.24), 0.011, palette.metal)
    for _ in range(rng.integers(1, 4)):
        decor.vase(builder, frame @ translation(rng.uniform(-0.1, 0.1) * width, rng.uniform(0.1, 0.2)))


def refrigerator(builder: RoomBuilder, frame: np.ndarray) -> None:
    """A tall white or steel cabinet with two doors; it counts as a cabinet."""
    rng, bench = builder.rng, builder.bench("cabinet", frame)
    body = grey(rng.uniform(0.5, 0.85), 0.35)
    split, height = rng.uniform(0.6, 0.8), rng.uniform(1.7, 1.9)
    bench.box((0, 0.3, height / 2), (0.3, 0.28, height / 2), body)
    for bottom, top in ((0.06, split - 0.006), (split + 0.006, height)):
        bench.cushion((0, 0.6, (bottom + top) / 2), (0.3, 0.03, (top - bottom) / 2), body, 0.012)
    for bottom in (split - 0.35, split + 0.05):
        bench.box((0.24, 0.64, bottom + 0.15), (0.012, 0.015, 0.15), builder.palette.metal)
