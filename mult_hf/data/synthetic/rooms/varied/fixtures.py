"""Parts of the building and things on its walls: pillars, beams, pipes, wall shelves, sockets, clocks, coats on hooks."""

import numpy as np

from .. import meshes
from ..materials import grey
from ..meshes import rotation, translation
from . import shapes
from .builder import VariedBuilder


def add_structure(builder: VariedBuilder) -> None:
    """Sometimes a pillar at a wall, beams or a duct under the ceiling; call it before the furniture."""
    rng, plan, height = builder.rng, builder.plan, builder.height
    if builder.chance(0.3):
        width, depth = rng.uniform(0.2, 0.5, 2)
        frame = plan.place_at_wall(rng, width, depth, tall=depth, gap=0.0)
        if frame is not None:
            builder.bench("wall", frame).box((0, depth / 2, height / 2), (width / 2, depth / 2, height / 2), builder.palette.white)
    if builder.chance(0.2):
        for x in np.arange(0.6, plan.width - 0.3, rng.uniform(0.8, 1.6)):
            beam = builder.palette.wood if rng.random() < 0.5 else builder.palette.white
            builder.bench("ceiling").box((x, plan.depth / 2, height - 0.06), (0.06, plan.depth / 2, 0.07), beam)
    elif builder.chance(0.2):
        duct = builder.bench("unlabelled")
        y, radius = rng.uniform(0.3, plan.depth - 0.3), rng.uniform(0.03, 0.14)
        duct.rod((0, y, height - radius - 0.03), (plan.width, y, height - radius - 0.03), radius, builder.palette.metal)


def add_wall_things(builder: VariedBuilder) -> None:
    """Shelves, sockets, a clock, coats: where the walls are free; call it after the furniture."""
    for _ in range(builder.rng.integers(0, 3)):
        _wall_shelf(builder)
    for _ in range(builder.rng.integers(1, 6)):
        _socket(builder)
    if builder.chance(0.25):
        _clock(builder)
    if builder.chance(0.3):
        _coats(builder)


def _free_wall(builder: VariedBuilder, width: float) -> np.ndarray | None:
    """A frame in the middle of a free stretch of wall, which is then taken."""
    rng, plan = builder.rng, builder.plan
    for _ in range(10):
        wall = int(rng.integers(4))
        along = rng.uniform(width / 2 + 0.05, plan.wall_length(wall) - width / 2 - 0.05)
        if plan.wall_is_free(wall, along, width):
            plan.block_wall(wall, along, width)
            return plan.wall_frame(wall, along)
    return None


def _wall_shelf(builder: VariedBuilder) -> None:
    """One to three boards on brackets."""
    rng, width, depth = builder.rng, builder.rng.uniform(0.5, 1.2), builder.rng.uniform(0.16, 0.28)
    frame = _free_wall(builder, width)
    if frame is None:
        return
    bench, material = builder.bench("cabinet", frame), builder.palette.wood if rng.random() < 0.6 else builder.palette.white
    for index in range(rng.integers(1, 4)):
        z = rng.uniform(1.15, 1.25) + 0.36 * index
        if z > builder.height - 0.3:
            break
        bench.box((0, depth / 2, z), (width / 2, depth / 2, 0.011), material)
        for x in (-0.4 * width, 0.4 * width):
            bench.box((x, 0.35 * depth, z - 0.05), (0.006, 0.35 * depth, 0.04), builder.palette.metal)
        builder.support("shelf", frame @ translation(0, depth / 2, z + 0.0115), width - 0.04, depth - 0.02, 0.32)


def _socket(builder: VariedBuilder) -> None:
    """One or two sockets above the skirting or a switch; no class. They need no free wall."""
    rng, plan = builder.rng, builder.plan
    wall = int(rng.integers(4))
    frame = plan.wall_frame(wall, rng.uniform(0.2, plan.wall_length(wall) - 0.2))
    z = rng.choice([0.28, 1.05, 1.1])
    for index in range(rng.integers(1, 3)):
        bench = builder.bench("unlabelled", frame)
        bench.cushion((0.075 * index, 0.004, z), (0.037, 0.005, 0.037), builder.palette.white, 0.004)
        bench.rod((0.075 * index, 0.008, z), (0.075 * index, 0.0098, z), 0.018, grey(0.5, 0.4))


def _clock(builder: VariedBuilder) -> None:
    """A round clock; no class."""
    frame = _free_wall(builder, 0.35)
    if frame is None:
        return
    rng = builder.rng
    bench = builder.bench("unlabelled", frame @ translation(0, 0, rng.uniform(1.7, 2.1)))
    bench.rod((0, 0, 0), (0, 0.03, 0), 0.15, builder.palette.dark)
    bench.rod((0, 0.028, 0), (0, 0.032, 0), 0.135, builder.palette.white)
    for length, width in ((0.08, 0.006), (0.115, 0.004)):
        hand = builder.bench("unlabelled", bench.frame @ translation(0, 0.034, 0) @ rotation("y", rng.uniform(0, 360)))
        hand.box((0, 0, length / 2), (width, 0.001, length / 2), builder.palette.dark)


def _coats(builder: VariedBuilder) -> None:
    """A rail with hooks and one to four garments or bags; no class."""
    rng, width = builder.rng, 0.8
    frame = _free_wall(builder, width)
    if frame is None:
        return
    bench, z = builder.bench("unlabelled", frame), rng.uniform(1.5, 1.75)
    bench.box((0, 0.012, z), (width / 2, 0.012, 0.04), builder.palette.second_wood)
    for x in np.linspace(-0.3, 0.3, 4):
        bench.rod((x, 0.02, z), (x, 0.07, z + 0.02), 0.006, builder.palette.metal)
        if rng.random() < 0.6:
            half = np.array([rng.uniform(0.1, 0.19), 0.07, rng.uniform(0.2, 0.5)])
            garment = shapes.crumpled(half, rng, rng.uniform(0.15, 0.35))
            bench.add(garment.transformed(meshes.translation(x, 0.1, z - half[2])), builder.varied_palette.some("cloth", rng))
