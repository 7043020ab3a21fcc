"""Windows, lamps and sun of the varied rooms."""

import numpy as np

from .. import meshes, shell, textures
from ..builder import Bench
from ..materials import DISPLAY_GAMMA, Material, grey
from ..meshes import IDENTITY, rotation, translation
from . import prints
from .builder import Sun, VariedBuilder

_KELVIN = (2000, 2700, 3000, 4000, 5000, 6500, 8000, 10000)
_BLACK_BODY = np.array(
    [[1, 0.26, 0.01], [1, 0.4, 0.1], [1, 0.46, 0.15], [1, 0.62, 0.38], [1, 0.78, 0.62], [1, 0.95, 0.98], [0.77, 0.82, 1], [0.6, 0.71, 1]]
)

DAYLIGHT = (0.3, 9.0)
"""Lowest and highest radiance of a white object outside; a wall lit by lamps has about 0.3."""

NO_LAMP = 0.25
"""Share of the rooms with daylight whose lamps are off."""


def black_body(kelvin: float) -> np.ndarray:
    """(3,) linear sRGB of a black body, its strongest channel 1 (tabulated, interpolated; good to a few hundredths)."""
    return np.array([np.interp(kelvin, _KELVIN, channel) for channel in _BLACK_BODY.T])


def build_shell(builder: VariedBuilder) -> None:
    """Put floor, ceiling, walls with none to three windowed ones, a door, and lamps under the ceiling into a room."""
    rng, light, palette = builder.rng, builder.light_rng, builder.palette
    width, depth, height = builder.plan.width, builder.plan.depth, builder.height
    builder.add("floor", meshes.quad([0, 0, 0], [width, 0, 0], [0, depth, 0]), palette.new_floor())
    white = Material(textures.plaster(rng, [rng.uniform(0.72, 0.92)] * 3), repeat=2.0)
    ceiling = _ceiling_tiles(rng) if rng.random() < 0.3 else white
    builder.add("ceiling", meshes.quad([0, 0, height], [0, depth, 0], [width, 0, 0]), ceiling)
    order = [int(wall) for wall in rng.permutation(4)]
    windowed, door_wall = order[: rng.choice(4, p=(0.12, 0.4, 0.33, 0.15))], order[3]
    picture, brightness = prints.outside(light)
    daylight = brightness * np.exp(light.uniform(*np.log(DAYLIGHT)))
    tint = black_body(light.uniform(4800, 9000))
    view = picture**DISPLAY_GAMMA * daylight * tint
    materials = palette.new_walls()
    for wall in range(4):
        openings = _choose_openings(builder, wall) if wall in windowed else []
        shell.build_wall(builder, wall, openings, materials[wall])
        for opening in openings:
            shell.build_window(builder, wall, opening, view)
            builder.windows.append((wall, opening))
            if light.random() < 0.25:
                _blind(builder, wall, opening)
    shell.build_door(builder, door_wall)
    is_day = bool(builder.windows) and daylight > 0.8
    builder.is_sunny = is_day and bool(light.random() < 0.55)
    _lamps(builder, is_on=not (is_day and light.random() < NO_LAMP))


def _ceiling_tiles(rng: np.random.Generator) -> Material:
    """Office ceiling: pale square boards with small holes and dark joints."""
    board = textures.noise(rng, 128, 24, 3)
    texture = np.full((128, 128, 3), rng.uniform(0.75, 0.9)) * (1 - 0.25 * (board > 0.62))[..., None]
    texture[:2] = texture[:, :2] = 0.45
    return Material(texture, repeat=0.6)


def _choose_openings(builder: VariedBuilder, wall: int) -> list[shell.Opening]:
    """One to three windows beside each other of one height, from a slit under the ceiling to nearly the floor."""
    rng, length = builder.rng, builder.plan.wall_length(wall)
    count = min(int(rng.integers(1, 4)), max(1, int(length // 1.6)))
    top = min(rng.uniform(1.9, 2.5), builder.height - 0.3)
    bottom = rng.choice([rng.uniform(0.15, 0.5), rng.uniform(0.7, 1.1), rng.uniform(0.9, 1.3)])
    openings = []
    for index in range(count):
        width = min(rng.uniform(0.6, 2.4), length / count - 0.7)
        centre = length * (index + 0.5) / count + rng.uniform(-0.1, 0.1)
        openings.append(shell.Opening(centre - width / 2, centre + width / 2, float(bottom), float(top)))
    return openings


def _blind(builder: VariedBuilder, wall: int, opening: shell.Opening) -> None:
    """A roller blind or slats in front of the upper part of a window."""
    rng, drop = builder.light_rng, builder.light_rng.uniform(0.2, 0.95) * (opening.top - opening.bottom)
    bench = builder.bench("curtain", builder.plan.wall_frame(wall))
    cloth = builder.palette.white if rng.random() < 0.6 else builder.palette.fabric
    if rng.random() < 0.5:
        bench.box((opening.centre, -0.012, opening.top - drop / 2), (opening.half_width - 0.01, 0.002, drop / 2), cloth)
        return
    tilt = rotation("x", rng.uniform(10, 60))
    for z in np.arange(opening.top - 0.02, opening.top - drop, -0.05):
        slat = meshes.box((opening.half_width - 0.01, 0.0225, 0.0012)).transformed(translation(opening.centre, -0.0, z) @ tilt)
        bench.add(slat, cloth)


def _lamps(builder: VariedBuilder, is_on: bool) -> None:
    """Panels in a grid, tubes, spots, or one to three globes under the ceiling; total power and colour temperature vary."""
    rng, plan = builder.light_rng, builder.plan
    colour = black_body(rng.choice([rng.uniform(2600, 3300), rng.uniform(3500, 6500)]))
    power = colour * np.exp(rng.uniform(np.log(1.2), np.log(7))) * plan.width * plan.depth / 16
    bench = builder.bench("lamp", IDENTITY)
    kind = rng.random()
    if kind < 0.45:
        half = ((0.3, 0.3), (0.6, 0.15), (0.75, 0.06), (0.6, 0.3))[rng.integers(4)]
        places = _grid(builder, 2.4)
        for x, y in places:
            _panel(bench, builder, (x, y), half, power / len(places) / (4 * half[0] * half[1]) if is_on else None)
    elif kind < 0.65:
        places = _grid(builder, 1.5)[:8]
        for x, y in places:
            _spot(bench, builder, (x, y), 0.6 * power / len(places) / (np.pi * 0.05**2) if is_on else None)
    elif kind < 0.75 and is_on:
        shell.build_ceiling_lamp(builder)
    else:
        for _ in range(rng.integers(1, 4)):
            x, y = plan.width * rng.uniform(0.25, 0.75), plan.depth * rng.uniform(0.25, 0.75)
            _pendant(bench, builder, (x, y), 0.6 * power if is_on else None)


def _grid(builder: VariedBuilder, spacing: float) -> list[tuple[float, float]]:
    """Places for lamps in rows, about `spacing` metres apart."""
    plan = builder.plan
    columns, rows = max(1, round(plan.width / spacing)), max(1, round(plan.depth / spacing))
    return [((column + 0.5) * plan.width / columns, (row + 0.5) * plan.depth / rows) for row in range(rows) for column in range(columns)]


def _shine(bench: Bench, mesh: meshes.Mesh, radiance: np.ndarray | None, material: Material) -> None:
    """A lamp's face, which shines unless `radiance` is `None`."""
    if radiance is None:
        bench.add(mesh, material)
    else:
        bench.light(mesh, radiance, material)


def _panel(
    bench: Bench, builder: VariedBuilder, place: tuple[float, float], half: tuple[float, float], radiance: np.ndarray | None
) -> None:
    (x, y), z = place, builder.height - 0.02
    face = meshes.quad([x - half[0], y + half[1], z - 0.0105], [2 * half[0], 0, 0], [0, -2 * half[1], 0])
    _shine(bench, face, radiance, grey(0.9))
    bench.box((x, y, z), (half[0] + 0.02, half[1] + 0.02, 0.01), builder.palette.white)


def _spot(bench: Bench, builder: VariedBuilder, place: tuple[float, float], radiance: np.ndarray | None) -> None:
    (x, y), z = place, builder.height
    face = meshes.disk(0.05, 16).transformed(translation(x, y, z - 0.016) @ rotation("x", 180))
    _shine(bench, face, radiance, grey(0.9))
    bench.rod((x, y, z), (x, y, z - 0.015), 0.06, builder.palette.metal)


def _pendant(bench: Bench, builder: VariedBuilder, place: tuple[float, float], power: np.ndarray | None) -> None:
    """A globe or a cone on a cord."""
    rng, (x, y), height = builder.light_rng, place, builder.height
    drop, radius = rng.uniform(0.3, 1.0), rng.uniform(0.09, 0.2)
    z = max(height - drop, 1.9)
    bench.rod((x, y, z), (x, y, height), 0.006, grey(0.1))
    if rng.random() < 0.5:
        globe = meshes.ellipsoid([radius] * 3).transformed(translation(x, y, z - 0.9 * radius))
        _shine(bench, globe, None if power is None else power / (4 * np.pi * radius**2), grey(0.9))
        return
    cone = meshes.surface_of_revolution([1.4 * radius, 0.3 * radius], [z - radius, z + 0.02], 28)
    bench.add(cone.transformed(translation(x, y)), builder.palette.second_wood)
    bulb = meshes.ellipsoid([0.05] * 3).transformed(translation(x, y, z - 0.5 * radius))
    _shine(bench, bulb, None if power is None else power / (4 * np.pi * 0.05**2), grey(0.9))


def add_sun(builder: VariedBuilder) -> None:
    """On sunny days, add a patch of sunlight through one of the windows."""
    rng = builder.light_rng
    if not builder.is_sunny:
        return
    wall, opening = builder.windows[rng.integers(len(builder.windows))]
    frame = builder.plan.wall_frame(wall)
    z = 0.5 * (opening.top + opening.bottom)
    position = frame @ [opening.centre, 0.25, z + 0.15, 1]
    target = frame @ [opening.centre + rng.uniform(-1.2, 1.2), rng.uniform(0.8, 2.2), rng.uniform(0, 0.8), 1]
    builder.sun = Sun(position[:3], target[:3], float(rng.uniform(6, 40)))
