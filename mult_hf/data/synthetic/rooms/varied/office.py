"""Office furniture. Frames as in `seating`: x to the side, y towards the person, z up, the origin on the floor at the back."""

import numpy as np

from .. import textures
from ..floorplan import Rectangle
from ..materials import Material, grey
from ..meshes import rotation, translation
from . import objects, prints, shapes
from .builder import Support, VariedBuilder
from .palette import Finish


def swivel_chair(builder: VariedBuilder, frame: np.ndarray, cloth: Material) -> None:
    """An office chair about the frame's origin on five castors, its back towards -y, with or without arms."""
    rng, bench = builder.rng, builder.bench("chair", frame)
    seat, dark = rng.uniform(0.42, 0.54), builder.palette.dark if rng.random() < 0.7 else grey(0.6, 0.3)
    for angle in np.arange(5) * 72.0 + rng.uniform(0, 72):
        x, y = 0.29 * np.cos(np.radians(angle)), 0.29 * np.sin(np.radians(angle))
        bench.rod((0, 0, 0.1), (x, y, 0.07), 0.018, dark)
        bench.ball((x, y, 0.03), (0.025, 0.025, 0.03), dark)
    bench.rod((0, 0, 0.08), (0, 0, seat - 0.04), 0.028, dark)
    bench.cushion((0, 0, seat), (0.24, 0.235, 0.045), cloth, 0.04)
    height, lean = rng.uniform(0.22, 0.36), rng.uniform(4, 14)
    back = builder.bench("chair", frame @ translation(0, -0.24, seat + 0.1) @ rotation("x", lean))
    back.box((0, -0.02, 0.02), (0.035, 0.012, 0.14), dark)
    back.cushion((0, 0, 0.04 + height), (rng.uniform(0.19, 0.23), 0.035, height), cloth, 0.033)
    if rng.random() < 0.65:
        for side in (-1, 1):
            bench.box((side * 0.27, -0.02, seat + 0.09), (0.015, 0.02, 0.11), dark)
            bench.cushion((side * 0.27, 0.0, seat + 0.21), (0.035, 0.13, 0.015), dark, 0.014)


def workplace(builder: VariedBuilder, frame: np.ndarray, width: float, depth: float) -> None:
    """A desk with its back at the frame's origin: monitors, keyboard, drawers below, chair in front of it."""
    rng, palette = builder.rng, builder.palette
    height = rng.uniform(0.7, 0.78)
    bench = builder.bench("table", frame)
    bench.box((0, depth / 2, height - 0.014), (width / 2, depth / 2, 0.014), palette.wood)
    _legs(builder, frame, width, depth, height)
    has_drawers = rng.random() < 0.6
    if has_drawers:
        x = rng.choice([-1, 1]) * (width / 2 - 0.27)
        _drawers(builder, frame @ translation(x, 0.1), palette.furniture)
    top = frame @ translation(0, depth / 2, height)
    place = builder.support("desk", top, width - 0.04, depth - 0.04, 0.9)
    _screens(builder, place)
    builder.support("under", frame @ translation(0, depth / 2), width - 0.9 if has_drawers else width - 0.2, depth - 0.1, height - 0.1)
    if rng.random() < 0.85:
        where = translation(rng.uniform(-0.25, 0.25), depth + rng.uniform(0.05, 0.5)) @ rotation("z", 180 + rng.normal(0, 35))
        swivel_chair(builder, frame @ where, palette.second_fabric if rng.random() < 0.7 else palette.fabric)


def _legs(builder: VariedBuilder, frame: np.ndarray, width: float, depth: float, height: float) -> None:
    """Panels, four legs or two T-shaped feet."""
    rng, bench = builder.rng, builder.bench("table", frame)
    kind, material = rng.integers(3), builder.palette.metal if rng.random() < 0.6 else builder.palette.second_wood
    for side in (-1, 1):
        x = side * (width / 2 - 0.06)
        if kind == 0:
            bench.box((x, depth / 2, height / 2 - 0.02), (0.013, depth / 2 - 0.03, height / 2 - 0.02), material)
        elif kind == 1:
            for y in (0.05, depth - 0.05):
                bench.rod((x, y, 0), (x, y, height - 0.02), 0.025, material)
        else:
            bench.box((x, depth / 2, 0.02), (0.035, depth / 2 - 0.04, 0.02), material)
            bench.box((x, depth / 2 - 0.08, height / 2 - 0.01), (0.03, 0.045, height / 2 - 0.02), material)


def _drawers(builder: VariedBuilder, frame: np.ndarray, material: Material) -> None:
    """A pedestal of three drawers with handles."""
    bench = builder.bench("cabinet", frame)
    bench.box((0, 0.28, 0.3), (0.21, 0.27, 0.28), material)
    for z in (0.13, 0.31, 0.49):
        bench.box((0, 0.553, z), (0.2, 0.008, 0.083), material)
        bench.box((0, 0.57, z + 0.05), (0.06, 0.009, 0.005), builder.palette.metal)


def _screens(builder: VariedBuilder, place: Support) -> None:
    """Zero to two monitors at the back of a desk, and a keyboard in front of them."""
    rng = builder.rng
    count = int(rng.choice(3, p=(0.12, 0.5, 0.38)))
    middle = rng.uniform(-0.2, 0.2) * (place.width - 1.0)
    for index in range(count):
        x, y = middle + (index - (count - 1) / 2) * 0.62, -place.depth / 2 + rng.uniform(0.12, 0.22)
        turn = rotation("z", (index - (count - 1) / 2) * -rng.uniform(10, 40) + rng.normal(0, 6))
        objects.monitor(builder, place.frame @ translation(x, y) @ turn)
        place.taken.append(Rectangle.around(x, y, 0.5, 0.2))
    if count:
        x, y = middle + rng.uniform(-0.08, 0.08), rng.uniform(-0.05, 0.5) * place.depth / 2
        objects.keyboard(builder, place.frame @ translation(x, y) @ rotation("z", rng.normal(0, 6)))
        place.taken.append(Rectangle.around(x + 0.04, y, 0.55, 0.18))


def partition(builder: VariedBuilder, frame: np.ndarray, width: float, height: float) -> None:
    """A low cloth screen between desks; it has no class."""
    bench = builder.bench("unlabelled", frame)
    bench.box((0, 0, height / 2 + 0.03), (width / 2, 0.02, height / 2 - 0.03), builder.palette.fabric)
    bench.box((0, 0, height + 0.01), (width / 2 + 0.005, 0.025, 0.012), builder.palette.metal)


def shelf(builder: VariedBuilder, frame: np.ndarray, width: float, depth: float) -> None:
    """An open shelf of boards for clutter, in any height; its back stands at the frame's origin."""
    rng, bench, material = builder.rng, builder.bench("cabinet", frame), builder.palette.furniture
    height = rng.choice([rng.uniform(0.75, 1.2), rng.uniform(1.5, 2.2)])
    rows = int(height / rng.uniform(0.34, 0.42))
    step = (height - 0.05) / rows
    for side in (-1, 1):
        bench.box((side * (width / 2 - 0.01), depth / 2, height / 2), (0.01, depth / 2, height / 2), material)
    if rng.random() < 0.7:
        bench.box((0, 0.005, height / 2), (width / 2 - 0.02, 0.005, height / 2), material)
    for row in range(rows + 1):
        z = 0.03 + step * row
        bench.box((0, depth / 2, z), (width / 2 - 0.02, depth / 2 - 0.003, 0.011), material)
        place = frame @ translation(0, depth / 2, z + 0.0115)
        builder.support("shelf" if row < rows else "top", place, width - 0.06, depth - 0.03, step - 0.03 if row < rows else 0.5)


def whiteboard(builder: VariedBuilder) -> None:
    """A board with notes where a wall is free; it has no class."""
    rng, plan = builder.rng, builder.plan
    for _ in range(20):
        wall, half_width = int(rng.integers(4)), rng.uniform(0.5, 1.1)
        if plan.wall_length(wall) < 2 * half_width + 0.5:
            continue
        along = rng.uniform(half_width + 0.2, plan.wall_length(wall) - half_width - 0.2)
        if plan.wall_is_free(wall, along, 2 * half_width):
            break
    else:
        return
    half_height = rng.uniform(0.4, 0.6)
    z = max(rng.uniform(1.4, 1.6), half_height + 0.8)
    bench = builder.bench("unlabelled", plan.wall_frame(wall, along))
    bench.box((0, 0.012, z), (half_width, 0.011, half_height), builder.palette.metal)
    face = shapes.front_quad(0.0, 0.0245, z, half_width - 0.02, half_height - 0.02)
    bench.add(face, Finish(prints.whiteboard(builder.clutter_rng), 0.12, 0.5))
    bench.box((0, 0.04, z - half_height), (0.6 * half_width, 0.03, 0.006), builder.palette.metal)
    plan.block_wall(wall, along, 2 * half_width + 0.1)


def posters(builder: VariedBuilder) -> None:
    """Sheets and posters without frames, also beside each other, where walls are free."""
    rng, plan = builder.rng, builder.plan
    for _ in range(rng.integers(0, 5)):
        wall, half_width = int(rng.integers(4)), rng.choice([0.105, 0.21, 0.3, 0.42])
        length = plan.wall_length(wall)
        along = rng.uniform(half_width + 0.1, length - half_width - 0.1)
        if not plan.wall_is_free(wall, along, 2 * half_width):
            continue
        z, half_height = rng.uniform(1.2, 1.8), half_width * rng.choice([0.71, 1.41])
        texture = (prints.page, prints.cover, textures.art)[rng.integers(3)](builder.clutter_rng)
        bench = builder.bench("picture", plan.wall_frame(wall, along) @ translation(0, 0, z) @ rotation("y", rng.normal(0, 2)))
        bench.add(shapes.front_quad(0.0, 0.004, 0.0, half_width, half_height), Material(texture))
        plan.block_wall(wall, along, 2 * half_width)


def radiator(builder: VariedBuilder, frame: np.ndarray, width: float) -> None:
    """A ribbed radiator at a wall; it has no class."""
    bench, white = builder.bench("unlabelled", frame), builder.palette.white
    for x in np.arange(-width / 2, width / 2, 0.06):
        bench.cushion((x, 0.06, 0.36), (0.024, 0.035, 0.25), white, 0.02)
    bench.rod((-width / 2 - 0.06, 0.06, 0.15), (width / 2, 0.06, 0.15), 0.011, white)
    bench.add(shapes.tube([[-width / 2 - 0.06, 0.06, 0.15], [-width / 2 - 0.06, 0.06, 0.05], [-width / 2 - 0.06, 0.03, 0.0]], 0.011), white)
