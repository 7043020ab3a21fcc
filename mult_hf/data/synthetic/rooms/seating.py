"""Seats, beds, tables and desks. Frames: x to the side, y towards the person in front, z up, the origin on the floor."""

import numpy as np

from .builder import RoomBuilder
from .materials import Material
from .meshes import rotation, translation


def chair(builder: RoomBuilder, frame: np.ndarray, seat: Material, legs: Material) -> None:
    """A chair centred at the frame's origin with its back towards -y, cushioned or with slats."""
    rng, bench = builder.rng, builder.bench("chair", frame)
    half, height = rng.uniform(0.2, 0.24), rng.uniform(0.43, 0.47)
    bench.cushion((0, 0, height), (half, half, 0.035), seat, 0.03)
    for x in (-half + 0.03, half - 0.03):
        for y in (-half + 0.03, half - 0.03):
            bench.box((x, y, height / 2 - 0.01), (0.02, 0.02, height / 2 - 0.01), legs)
        bench.box((x, -half + 0.02, height + 0.22), (0.02, 0.02, 0.24), legs)
    if builder.palette.furniture is builder.palette.wood:
        bench.cushion((0, -half + 0.02, height + 0.36), (half - 0.02, 0.018, 0.13), seat, 0.015)
        return
    for z in (0.16, 0.28, 0.4):
        bench.box((0, -half + 0.02, height + z), (half - 0.03, 0.012, 0.03), legs)


def table(builder: RoomBuilder, frame: np.ndarray, width: float, depth: float, height: float) -> None:
    """A table centred at the frame's origin: with four legs, or sometimes round on one foot if it is nearly square."""
    bench, top, legs = builder.bench("table", frame), builder.palette.wood, builder.palette.second_wood
    if abs(width - depth) < 0.35 and builder.chance(0.4):
        bench.rod((0, 0, height - 0.035), (0, 0, height), max(width, depth) / 2, top)
        bench.rod((0, 0, 0), (0, 0, height - 0.03), 0.05, legs)
        bench.rod((0, 0, 0), (0, 0, 0.03), 0.3, legs)
        return
    bench.box((0, 0, height - 0.02), (width / 2, depth / 2, 0.02), top)
    for x in (-width / 2 + 0.05, width / 2 - 0.05):
        for y in (-depth / 2 + 0.05, depth / 2 - 0.05):
            bench.box((x, y, height / 2 - 0.02), (0.028, 0.028, height / 2 - 0.02), legs)


def table_with_chairs(builder: RoomBuilder, frame: np.ndarray, width: float, depth: float) -> None:
    """A dining table with chairs along its two long sides; its width is along the frame's x."""
    rng, height = builder.rng, 0.74
    table(builder, frame, width, depth, height)
    for side in (-1, 1):
        for x in np.linspace(-width / 2 + 0.35, width / 2 - 0.35, 2 if width < 1.6 else 3):
            place = translation(x + rng.uniform(-0.04, 0.04), side * (depth / 2 + rng.uniform(0.05, 0.25)))
            turn = rotation("z", (180 if side > 0 else 0) + rng.uniform(-12, 12))
            chair(builder, frame @ place @ turn, builder.palette.second_fabric, builder.palette.second_wood)


def sofa(builder: RoomBuilder, frame: np.ndarray, half_width: float, cloth: Material, cushions: Material) -> None:
    """A sofa, or an armchair if narrow, with its back at the frame's origin: base, back, arms, seats, loose cushions."""
    rng, bench = builder.rng, builder.bench("sofa", frame)
    seat, back, arm = rng.uniform(0.38, 0.44), rng.uniform(0.78, 0.95), rng.uniform(0.1, 0.14)
    bench.cushion((0, 0.47, seat / 2), (half_width, 0.45, seat / 2), cloth, 0.05)
    bench.cushion((0, 0.12, back / 2), (half_width, 0.12, back / 2), cloth, 0.07)
    for side in (-1, 1):
        bench.cushion((side * (half_width - arm), 0.47, 0.3), (arm, 0.46, 0.3), cloth, 0.08)
    inner, places = half_width - 2 * arm, max(1, round(2 * half_width / 0.7))
    for index in range(places):
        x = -inner + (2 * index + 1) * inner / places
        bench.cushion((x, 0.56, seat + 0.06), (inner / places - 0.006, 0.36, 0.075), cloth, 0.06)
        bench.cushion((x, 0.3, seat + 0.3), (inner / places - 0.02, 0.09, 0.2), cloth, 0.08, tilt=14)
    for _ in range(rng.integers(0, 4)):
        x, turn = rng.uniform(-1, 1) * max(inner - 0.2, 0.01), rng.uniform(-25, 25)
        bench.cushion((x, 0.47, seat + 0.28), (0.2, 0.07, 0.2), cushions, 0.065, tilt=25, turn=turn)


def bed(builder: RoomBuilder, frame: np.ndarray, width: float) -> None:
    """A bed with its head at the frame's origin: frame, mattress, duvet, pillows, sometimes a throw."""
    rng, palette, bench = builder.rng, builder.palette, builder.bench("bed", frame)
    bench.box((0, 1.05, 0.16), (width / 2, 1.02, 0.14), palette.wood)
    bench.box((0, 0.04, 0.5), (width / 2 + 0.03, 0.035, rng.uniform(0.45, 0.5)), palette.wood)
    bench.cushion((0, 1.05, 0.4), (width / 2 - 0.01, 0.99, 0.12), palette.white, 0.06)
    bench.cushion((0, 1.32, 0.43), (width / 2 + 0.03, 0.74, 0.125), palette.fabric, 0.07)
    pillows = 1 if width < 1.3 else 2
    for index in range(pillows):
        half, x = min(0.34, width / pillows / 2 - 0.04), (index - (pillows - 1) / 2) * width / pillows
        cloth = palette.white if builder.chance(0.6) else palette.second_fabric
        bench.cushion((x, 0.3, 0.58), (half, 0.2, 0.07), cloth, 0.065, tilt=-18, turn=rng.uniform(-6, 6))
    if builder.chance(0.6):
        bench.cushion((0, 1.75, 0.47), (width / 2 + 0.04, 0.3, 0.105), palette.second_fabric, 0.06)


def desk(builder: RoomBuilder, frame: np.ndarray, width: float, depth: float) -> None:
    """A desk with its back at the frame's origin: top, a drawer unit, a side panel."""
    bench, palette = builder.bench("table", frame), builder.palette
    bench.box((0, depth / 2, 0.73), (width / 2, depth / 2, 0.018), palette.wood)
    bench.box((-width / 2 + 0.2, depth / 2, 0.356), (0.2, depth / 2 - 0.03, 0.356), palette.second_wood)
    for z in (0.14, 0.36, 0.58):
        bench.box((-width / 2 + 0.2, depth - 0.028, z), (0.18, 0.008, 0.09), palette.wood)
    bench.box((width / 2 - 0.03, depth / 2, 0.356), (0.02, depth / 2 - 0.03, 0.356), palette.second_wood)
