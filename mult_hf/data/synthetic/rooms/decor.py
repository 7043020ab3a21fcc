"""Small objects: standing lamps, plants, books, vases, plates, rugs, pictures, stools, television sets."""

import numpy as np

from . import meshes, textures
from .builder import RoomBuilder
from .floorplan import Rectangle
from .materials import Material, grey, plain, room_colour
from .meshes import rotation, scaling, translation

LEAVES = 46


def lamp_shade(builder: RoomBuilder, frame: np.ndarray, bottom: float, radius: float, height: float) -> None:
    """A conical shade, lit more often than not."""
    bench = builder.bench("lamp", frame)
    mesh = meshes.surface_of_revolution([1.1 * radius, 0.8 * radius], [bottom, bottom + height], 28)
    if builder.chance(0.65):
        bench.light(mesh, [3.0, 2.2, 1.3], builder.palette.white)
    else:
        bench.add(mesh, builder.palette.new_fabric((0, 0.5), (0.6, 0.9)))


def table_lamp(builder: RoomBuilder, frame: np.ndarray) -> None:
    """A lamp that stands at the frame's origin."""
    bench = builder.bench("lamp", frame)
    bench.rod((0, 0, 0), (0, 0, 0.02), 0.07, builder.palette.second_wood)
    bench.rod((0, 0, 0.01), (0, 0, 0.25), 0.014, builder.palette.second_wood)
    lamp_shade(builder, frame, 0.22, 0.13, 0.18)


def floor_lamp(builder: RoomBuilder) -> None:
    """A standing lamp at a wall, if there is space."""
    frame = builder.plan.place_at_wall(builder.rng, 0.45, 0.45, gap=0.08)
    if frame is None:
        return
    frame, height = frame @ translation(0, 0.22), builder.rng.uniform(1.3, 1.6)
    bench, metal = builder.bench("lamp", frame), grey(builder.rng.uniform(0.05, 0.7), 0.25)
    bench.rod((0, 0, 0), (0, 0, 0.02), 0.14, metal)
    bench.rod((0, 0, 0.01), (0, 0, height), 0.012, metal)
    lamp_shade(builder, frame, height - 0.05, 0.19, 0.26)


def plant(builder: RoomBuilder) -> None:
    """A potted plant at a wall, bushy or with a stem, if there is space."""
    rng = builder.rng
    frame = builder.plan.place_at_wall(rng, 0.6, 0.6, gap=0.1)
    if frame is None:
        return
    frame, height = frame @ translation(0, 0.3), rng.uniform(0.7, 1.6)
    bench, pot = builder.bench("plant", frame), 0.26 * height
    bench.rod((0, 0, 0), (0, 0, pot), 0.13 * height, Material(room_colour(rng, (0.05, 0.7)), 0.4))
    greens = [Material(textures.colour_of(rng.uniform(0.22, 0.4), rng.uniform(0.4, 0.8), rng.uniform(0.2, 0.55))) for _ in range(3)]
    has_stem = builder.chance(0.5)
    if has_stem:
        bench.rod((0, 0, pot - 0.02), (0, 0, 0.62 * height), 0.02, plain(0.3, 0.2, 0.1))
    leaf = meshes.disk(1.0, 10)
    for index in range(LEAVES):
        start = height * (rng.uniform(0.45, 0.72) if has_stem else 0.25)
        length = height * rng.uniform(0.16, 0.42)
        pose = translation(0, 0, start) @ rotation("z", rng.uniform(0, 360)) @ rotation("y", -rng.uniform(10, 85))
        pose = pose @ translation(length / 2 + 0.02, 0) @ rotation("x", rng.uniform(-50, 50))
        bench.add(leaf.transformed(pose @ scaling(length / 2, length * rng.uniform(0.09, 0.2), 1)), greens[index % 3])


def books(builder: RoomBuilder, frame: np.ndarray, width: float, depth: float, height: float) -> None:
    """A row of standing books from the frame's origin along x, with gaps; `height` is that of the tallest."""
    rng, bench = builder.rng, builder.bench("book", frame)
    x = 0.0
    while x < width - 0.05:
        if builder.chance(0.1):
            x += rng.uniform(0.05, 0.2)
            continue
        thickness, tall = rng.uniform(0.015, 0.05), height * rng.uniform(0.6, 0.95)
        cover = builder.palette.books[rng.integers(len(builder.palette.books))]
        bench.box((x + thickness / 2, 0, tall / 2), (thickness / 2 - 0.001, depth / 2, tall / 2), cover)
        x += thickness


def vase(builder: RoomBuilder, frame: np.ndarray) -> None:
    """A vase at the frame's origin; it has no class."""
    bench, size, glaze = builder.bench("unlabelled", frame), builder.rng.uniform(0.04, 0.08), builder.palette.new_glaze()
    bench.ball((0, 0, 1.4 * size), (size, size, 1.4 * size), glaze)
    bench.rod((0, 0, 2 * size), (0, 0, 3.4 * size), 0.45 * size, glaze)


def plates(builder: RoomBuilder, frame: np.ndarray, half_width: float, half_depth: float) -> None:
    """Up to three plates on a table top whose centre is the frame's origin; they have no class."""
    bench = builder.bench("unlabelled", frame)
    for _ in range(builder.rng.integers(0, 4)):
        x, y = builder.rng.uniform(-half_width, half_width), builder.rng.uniform(-half_depth, half_depth)
        bench.rod((x, y, 0), (x, y, 0.02), 0.11, builder.palette.white)


def rug(builder: RoomBuilder) -> None:
    """A rug near the middle of the floor; furniture may stand on it."""
    rng, half_width, half_depth = builder.rng, builder.rng.uniform(0.8, 1.4), builder.rng.uniform(0.6, 1.1)
    x, y = builder.plan.width / 2 + rng.uniform(-0.3, 0.3), builder.plan.depth / 2 + rng.uniform(-0.3, 0.3)
    bench = builder.bench("rug", translation(x, y, 0.006) @ rotation("z", rng.choice([0, 90]) + rng.uniform(-6, 6)))
    material = builder.palette.new_rug()
    bench.box((0, 0, 0), (half_width, half_depth, 0.005), Material(material.albedo.mean((0, 1))))
    corner, first, second = [-half_width, -half_depth, 0.006], [2 * half_width, 0, 0], [0, 2 * half_depth, 0]
    bench.add(meshes.quad(corner, first, second, unit_uv=(1, 1)), material)


def pictures(builder: RoomBuilder) -> None:
    """Framed pictures at eye height where walls are free; call it last."""
    rng, plan, palette = builder.rng, builder.plan, builder.palette
    hung: list[Rectangle] = []
    for _ in range(rng.integers(4, 12)):
        wall, half_width, half_height = int(rng.integers(4)), rng.uniform(0.18, 0.5), rng.uniform(0.18, 0.4)
        along, height = rng.uniform(half_width + 0.2, plan.wall_length(wall) - half_width - 0.2), rng.uniform(1.45, 1.7)
        strip = plan.at_wall(wall, along, 2 * half_width + 0.05, 0.1)
        if any(strip.overlaps(other, 0.05) for other in hung) or not plan.wall_is_free(wall, along, 2 * half_width):
            continue
        hung.append(strip)
        bench = builder.bench("picture", plan.wall_frame(wall, along))
        frame = (palette.wood, palette.white, palette.dark)[rng.integers(3)]
        bench.box((0, 0.015, height), (half_width + 0.025, 0.014, half_height + 0.025), frame)
        corner, across, down = (-half_width, 0.031, height + half_height), (2 * half_width, 0, 0), (0, 0, -2 * half_height)
        bench.add(meshes.quad(corner, across, down, unit_uv=(1, 1)), Material(textures.art(rng)))


def stool(builder: RoomBuilder) -> None:
    """A pouffe or a cardboard box at a wall, if there is space; it has no class."""
    frame = builder.plan.place_at_wall(builder.rng, 0.55, 0.55, gap=0.05)
    if frame is None:
        return
    half = builder.rng.uniform(0.14, 0.24, 3)
    cloth = builder.palette.new_fabric() if builder.chance(0.5) else plain(0.62, 0.46, 0.3)
    edge, turn = builder.rng.uniform(0.005, 0.08), builder.rng.uniform(-30, 30)
    builder.bench("unlabelled", frame).cushion((0, 0.27, half[2]), half, cloth, edge, turn=turn)


def screen(builder: RoomBuilder, frame: np.ndarray, half_width: float, half_height: float) -> None:
    """A monitor or television set whose foot is at the frame's origin; it faces +y."""
    bench, palette = builder.bench("tv", frame), builder.palette
    bench.box((0, 0, 0.09 + half_height), (half_width, 0.015, half_height), palette.screen)
    bench.box((0, 0, 0.05), (0.025, 0.012, 0.05), palette.dark)
    bench.box((0, 0, 0.006), (0.35 * half_width, 0.09, 0.006), palette.dark)
