"""Chairs, tables and plants that the first version lacks; frames as in `seating`."""

import numpy as np

from .. import meshes, seating
from ..materials import Material, plain
from ..meshes import rotation, translation
from ..textures import colour_of
from . import shapes
from .builder import VariedBuilder


def cantilever_chair(builder: VariedBuilder, frame: np.ndarray, cloth: Material, steel: Material) -> None:
    """A chair on two bent tubes without back legs, its back towards -y."""
    rng, bench = builder.rng, builder.bench("chair", frame)
    half, height, radius = rng.uniform(0.2, 0.23), rng.uniform(0.43, 0.46), 0.0125
    for x in (-half, half):
        corners = [
            [x, -0.22, 0.02],
            [x, 0.2, 0.02],
            [x, 0.24, 0.06],
            [x, 0.23, height - 0.06],
            [x, 0.18, height - 0.02],
            [x, -0.2, height - 0.03],
        ]
        bench.add(shapes.tube(np.array([*corners, [x, -0.25, height + 0.03], [x, -0.3, height + 0.4]]), radius, 8), steel)
    bench.rod((-half, -0.22, 0.02), (half, -0.22, 0.02), radius, steel)
    bench.cushion((0, 0, height), (half - 0.01, 0.21, 0.02), cloth, 0.018)
    back = builder.bench("chair", frame @ translation(0, -0.275, height + 0.29) @ rotation("x", 8))
    back.cushion((0, 0, 0), (half - 0.01, 0.016, 0.12), cloth, 0.014)


def table_with_chairs(builder: VariedBuilder, frame: np.ndarray, width: float, depth: float, height: float) -> None:
    """A dining table with chairs of one kind along its two long sides, some pushed back or turned; width runs along x."""
    rng, palette = builder.rng, builder.palette
    seating.table(builder, frame, width, depth, height)
    is_cantilever = rng.random() < 0.4
    for side in (-1, 1):
        for x in np.linspace(-width / 2 + 0.35, width / 2 - 0.35, 2 if width < 1.6 else 3):
            place = translation(x + rng.uniform(-0.08, 0.08), side * (depth / 2 + rng.uniform(0.02, 0.3)))
            turn = rotation("z", (180 if side > 0 else 0) + rng.normal(0, 14))
            if is_cantilever:
                cantilever_chair(builder, frame @ place @ turn, palette.second_fabric, palette.metal)
            else:
                seating.chair(builder, frame @ place @ turn, palette.second_fabric, palette.second_wood)


def palm(builder: VariedBuilder) -> None:
    """A tall plant of one to four stems with tufts of long, drooping leaves, where there is room."""
    rng = builder.rng
    frame = builder.plan.place_at_wall(rng, 0.7, 0.7, gap=0.1)
    if frame is None:
        return
    bench = builder.bench("plant", frame @ translation(0, 0.35))
    pot = rng.uniform(0.25, 0.5)
    bench.add(shapes.vessel(rng.uniform(0.15, 0.22), pot, 0.01, base=rng.uniform(0.7, 1)), builder.varied_palette.some("glaze", rng))
    bench.add(meshes.disk(0.14).transformed(translation(0, 0, 0.9 * pot)), plain(0.1, 0.07, 0.05))
    hue = rng.uniform(0.22, 0.38)
    greens = [Material(colour_of(hue, rng.uniform(0.4, 0.8), value)) for value in rng.uniform(0.06, 0.45, 3)]
    for _ in range(rng.integers(1, 5)):
        foot, top = rng.uniform(-0.08, 0.08, 2), rng.uniform(0.5, min(1.9, builder.height - 0.6))
        tip = np.array([*(foot + rng.uniform(-0.1, 0.1, 2)), max(top, pot + 0.1)])
        bench.rod((*foot, 0.85 * pot), tip, rng.uniform(0.01, 0.03), plain(0.25, 0.19, 0.12))
        for index in range(rng.integers(18, 45)):
            start = translation(tip[0], tip[1], tip[2] - rng.uniform(0, 0.25))
            pose = start @ rotation("z", rng.uniform(0, 360))
            bench.add(_leaf(rng.uniform(0.2, 0.5), rng.uniform(0.012, 0.04), rng.uniform(20, 80)).transformed(pose), greens[index % 3])


def _leaf(length: float, half_width: float, rise: float) -> meshes.Mesh:
    """A strip from the origin along x that rises at an angle in degrees and bends down by twice of it."""
    share = np.linspace(0, 1, 6)
    slope = np.radians(rise) * (1 - 2 * share)
    x = np.concatenate([[0], np.cumsum(np.cos(slope[:-1]))]) * length / 5
    z = np.concatenate([[0], np.cumsum(np.sin(slope[:-1]))]) * length / 5
    width = half_width * np.array([0.4, 0.9, 1.0, 0.85, 0.5, 0.05])
    vertices = np.stack([np.stack([x, side * width, z], 1) for side in (-1, 1)])  # (2, 6, 3)
    normals = np.stack([-np.sin(slope), np.zeros(6), np.cos(slope)], 1)
    index = np.arange(5)
    faces = np.concatenate([np.stack([index, index + 1, index + 7], 1), np.stack([index, index + 7, index + 6], 1)])
    return meshes.Mesh(vertices.reshape(-1, 3), faces, np.tile(normals, (2, 1)), vertices.reshape(-1, 3)[:, :2])
