"""Small objects: each function puts one at a frame's origin, standing on z = 0 with its back towards -y.

Objects without a class are "unlabelled".
"""

import numpy as np

from .. import meshes
from ..builder import Bench
from ..materials import Material, grey, plain
from ..meshes import rotation, translation
from ..textures import colour_of
from . import prints, shapes
from .builder import VariedBuilder
from .palette import Finish


def _loose(builder: VariedBuilder, frame: np.ndarray) -> Bench:
    return builder.bench("unlabelled", frame)


def _printed(bench: Bench, half: tuple[float, float], height: float, material: Material) -> None:
    """A printed face that looks up."""
    corner, first, second = [-half[0], -half[1], height], [2 * half[0], 0, 0], [0, 2 * half[1], 0]
    bench.add(meshes.quad(corner, first, second, unit_uv=(1, 1)), material)


def _cover(builder: VariedBuilder) -> Material:
    books = builder.varied_palette.books
    return books[builder.clutter_rng.integers(len(books))]


def _some(builder: VariedBuilder, kind: str) -> Material:
    return builder.varied_palette.some(kind, builder.clutter_rng)


def book_stack(builder: VariedBuilder, frame: np.ndarray) -> None:
    """One to six books, turned a little each."""
    rng, z = builder.clutter_rng, 0.0
    for _ in range(rng.integers(1, 7)):
        half = np.array([rng.uniform(0.07, 0.12), rng.uniform(0.1, 0.15), rng.uniform(0.006, 0.022)])
        x, y = rng.uniform(-0.015, 0.015, 2)
        place = frame @ translation(x, y, z) @ rotation("z", rng.normal(0, 12))
        bench = builder.bench("book", place)
        bench.box((0, 0, half[2]), half, _cover(builder))
        if half[2] > 0.012:
            bench.box((0.004, 0, half[2]), (half[0], half[1] - 0.003, half[2] - 0.003), builder.varied_palette.white)
        z += 2 * half[2]


def open_book(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A book that lies open."""
    rng, bench = builder.clutter_rng, builder.bench("book", frame)
    for side in (-1, 1):
        tilt = bench.frame @ translation(side * 0.085, 0, 0.013) @ rotation("y", side * rng.uniform(2, 7))
        leaf = builder.bench("book", tilt)
        leaf.box((0, 0, -0.005), (0.083, 0.115, 0.006), builder.varied_palette.white)
        _printed(leaf, (0.082, 0.114), 0.0013, _some(builder, "page"))


def papers(builder: VariedBuilder, frame: np.ndarray) -> None:
    """Sheets of paper, one over the other."""
    rng = builder.clutter_rng
    sheet = _some(builder, "page")
    for index in range(rng.integers(1, 6)):
        x, y = rng.normal(0, 0.03, 2)
        place = frame @ translation(x, y, 0.0015 * (index + 1)) @ rotation("z", rng.normal(0, 14))
        _printed(_loose(builder, place), (0.105, 0.1485), 0.0, sheet if rng.random() < 0.6 else builder.varied_palette.white)


def paper_pile(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A pile of paper or magazines."""
    rng, bench = builder.clutter_rng, _loose(builder, frame)
    height = rng.uniform(0.01, 0.09)
    bench.box((0, 0, height / 2), (0.105, 0.148, height / 2), builder.varied_palette.white)
    _printed(bench, (0.104, 0.147), height + 0.0012, _some(builder, "page"))


def carton(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A cardboard box, closed or with open flaps, sometimes with another on it."""
    rng, z = builder.clutter_rng, 0.0
    brown = Finish(np.array([0.6, 0.46, 0.31]) * rng.uniform(0.7, 1.15), 0.8, 0.1)
    for _ in range(1 + (rng.random() < 0.35)):
        half = np.array([rng.uniform(0.09, 0.19), rng.uniform(0.08, 0.15), rng.uniform(0.05, 0.16)])
        bench = _loose(builder, frame @ translation(0, 0, z) @ rotation("z", rng.normal(0, 10)))
        bench.box((0, 0, half[2]), half, brown)
        if rng.random() < 0.5:
            bench.box((0, 0, 2 * half[2] + 0.0006), (half[0], 0.025, 0.0008), grey(0.65, 0.3))
        elif rng.random() < 0.5:
            for side in (-1, 1):
                flap = bench.frame @ translation(side * half[0], 0, 2 * half[2]) @ rotation("y", side * rng.uniform(-50, 60))
                _loose(builder, flap).box((side * 0.05, 0, 0), (0.05, half[1], 0.002), brown)
        z += 2 * half[2]


def package(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A printed package, upright, lying or leaning."""
    rng = builder.clutter_rng
    half = rng.uniform((0.03, 0.02, 0.05), (0.1, 0.05, 0.14))
    lean = rotation("x", rng.choice([0, 0, 90, rng.uniform(5, 25)]))
    lift = half[1] if lean[2, 2] < 0.1 else half[2]
    _loose(builder, frame @ translation(0, 0, lift) @ lean).box((0, 0, 0), half, _cover(builder))


def bottle(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A bottle, flask or can with a label."""
    rng = builder.clutter_rng
    radius, height = rng.uniform(0.025, 0.045), rng.uniform(0.11, 0.32)
    neck = radius * rng.choice([0.35, 0.4, 0.85])
    bench, palette = _loose(builder, frame), builder.varied_palette
    body = Finish(colour_of(rng.random(), rng.uniform(0, 0.8), rng.uniform(0.06, 0.9)), rng.uniform(0.05, 0.3), 0.6)
    bench.add(shapes.bottle(radius, height, neck), body)
    if rng.random() < 0.6:
        bench.add(shapes.turned([(radius * 1.01, 0.2 * height), (radius * 1.01, 0.5 * height)]), _cover(builder))
    bench.rod((0, 0, 0.985 * height), (0, 0, 1.03 * height), 1.1 * neck, _some(builder, "plastic") if rng.random() < 0.3 else palette.dark)


def cup(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A mug with a handle, or a glass-like tumbler, sometimes full."""
    rng, bench = builder.clutter_rng, _loose(builder, frame)
    radius, height = rng.uniform(0.035, 0.048), rng.uniform(0.07, 0.12)
    glaze = _some(builder, "glaze") if rng.random() < 0.6 else builder.varied_palette.white
    bench.add(shapes.vessel(radius, height, base=rng.uniform(0.7, 1)), glaze)
    if rng.random() < 0.7:
        bench.add(shapes.tube(shapes.arc((radius - 0.004, 0, height / 2), 0.32 * height, -85, 85, 7), 0.005), glaze)
    if rng.random() < 0.5:
        bench.add(meshes.disk(0.85 * radius).transformed(translation(0, 0, 0.75 * height)), plain(0.16, 0.09, 0.05, 0.2))


def bowl(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A bowl, sometimes with fruit."""
    rng, bench = builder.clutter_rng, _loose(builder, frame)
    radius, height = rng.uniform(0.07, 0.14), rng.uniform(0.045, 0.09)
    bench.add(shapes.vessel(radius, height, base=rng.uniform(0.35, 0.6)), _some(builder, "glaze"))
    if rng.random() < 0.4:
        skin = Finish(colour_of(rng.uniform(0, 0.3), 0.85, rng.uniform(0.4, 0.9)), 0.4, 0.4)
        for angle in np.arange(rng.integers(2, 6)) * 2.1:
            bench.ball((0.45 * radius * np.cos(angle), 0.45 * radius * np.sin(angle), height), (0.036,) * 3, skin)


def plates(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A stack of plates."""
    rng, bench = builder.clutter_rng, _loose(builder, frame)
    radius = rng.uniform(0.08, 0.13)
    glaze = builder.varied_palette.white if rng.random() < 0.6 else _some(builder, "glaze")
    for index in range(rng.integers(1, 8)):
        x, y = rng.normal(0, 0.003, 2)
        bench.add(shapes.vessel(radius, 0.018, 0.003, base=0.6).transformed(translation(x, y, 0.009 * index)), glaze)


def pot(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A pot with a lid or a pan with a handle."""
    rng, bench = builder.clutter_rng, _loose(builder, frame)
    radius, is_pan = rng.uniform(0.09, 0.13), rng.random() < 0.5
    height = 0.045 if is_pan else rng.uniform(0.08, 0.16)
    steel, dark = _some(builder, "metal"), builder.varied_palette.dark
    bench.add(shapes.vessel(radius, height, base=0.93), dark if is_pan and rng.random() < 0.6 else steel)
    if is_pan:
        bench.rod((radius, 0, 0.7 * height), (radius + 0.17, 0, 1.1 * height), 0.01, dark)
        return
    for side in (-1, 1):
        bench.box((side * (radius + 0.012), 0, 0.75 * height), (0.014, 0.03, 0.006), dark)
    if rng.random() < 0.6:
        bench.add(shapes.turned([(radius * 1.02, height), (radius * 0.9, height + 0.012), (0, height + 0.022)]), steel)
        bench.ball((0, 0, height + 0.03), (0.016, 0.016, 0.012), dark)


def kettle(builder: VariedBuilder, frame: np.ndarray) -> None:
    """An electric kettle or a coffee pot."""
    rng, bench = builder.clutter_rng, _loose(builder, frame)
    radius, height = rng.uniform(0.065, 0.085), rng.uniform(0.17, 0.23)
    body = _some(builder, "metal") if rng.random() < 0.5 else _some(builder, "plastic")
    bench.add(
        shapes.turned(
            [(0, 0), (radius, 0.004), (radius, 0.03), (0.75 * radius, height), (0.3 * radius, height + 0.02), (0, height + 0.022)]
        ),
        body,
    )
    bench.add(shapes.tube(shapes.arc((0.8 * radius, 0, 0.55 * height), 0.36 * height, -85, 80, 8), 0.011), builder.varied_palette.dark)
    bench.rod((-0.7 * radius, 0, 0.75 * height), (-1.35 * radius, 0, 0.95 * height), 0.013, body)


def appliance(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A toaster, microwave oven or coffee machine: a rounded box with a dark window and knobs."""
    rng, palette = builder.clutter_rng, builder.varied_palette
    half = rng.choice([[0.14, 0.09, 0.095], [0.24, 0.17, 0.14], [0.11, 0.15, 0.17]]) * rng.uniform(0.85, 1.15)
    bench = _loose(builder, frame)
    body = _some(builder, "steel") if rng.random() < 0.4 else _some(builder, "plastic")
    bench.cushion((0, 0, half[2] + 0.005), half, body, 0.02)
    bench.box((-0.15 * half[0], half[1], half[2]), (0.7 * half[0], 0.004, 0.6 * half[2]), palette.screen)
    for z in (0.6, 1.0, 1.4):
        bench.rod((0.8 * half[0], half[1] - 0.002, z * half[2]), (0.8 * half[0], half[1] + 0.014, z * half[2]), 0.013, palette.metal)


def paper_roll(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A roll of kitchen paper that stands."""
    bench = _loose(builder, frame)
    bench.rod((0, 0, 0), (0, 0, 0.24), builder.clutter_rng.uniform(0.035, 0.06), builder.varied_palette.white)
    bench.rod((0, 0, 0), (0, 0, 0.29), 0.008, builder.varied_palette.metal)


def board(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A cutting board or tray, flat or leaning back."""
    rng = builder.clutter_rng
    lean = rng.random() < 0.5
    pose = translation(0, -0.04, 0.002) @ rotation("x", rng.uniform(75, 84)) if lean else rotation("z", rng.uniform(0, 360))
    wood = builder.varied_palette.second_wood if rng.random() < 0.5 else builder.varied_palette.wood
    width, depth = rng.uniform(0.09, 0.15), rng.uniform(0.12, 0.18)
    _loose(builder, frame @ pose).box((0, depth if lean else 0, 0.009), (width, depth, 0.008), wood)


def utensils(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A jar or cup with pens or spoons that stick out."""
    rng, bench = builder.clutter_rng, _loose(builder, frame)
    height = rng.uniform(0.09, 0.15)
    bench.add(shapes.vessel(0.042, height, base=0.95), _some(builder, "glaze"))
    for _ in range(rng.integers(2, 8)):
        lean, angle = rng.uniform(0.01, 0.07), rng.uniform(0, 2 * np.pi)
        tip = np.array([lean * np.cos(angle), lean * np.sin(angle), height * rng.uniform(1.25, 1.9)])
        bench.rod(
            (0, 0, 0.01), tip, rng.uniform(0.003, 0.006), builder.varied_palette.second_wood if rng.random() < 0.4 else _cover(builder)
        )


def dish_rack(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A wire rack with plates that stand in it."""
    rng, bench, wire = builder.clutter_rng, _loose(builder, frame), builder.varied_palette.metal
    for z in (0.02, 0.09):
        for y in (-0.14, 0.14):
            bench.rod((-0.2, y, z), (0.2, y, z), 0.003, wire)
        for x in (-0.2, 0.2):
            bench.rod((x, -0.14, z), (x, 0.14, z), 0.003, wire)
    for x in np.linspace(-0.2, 0.2, 9):
        bench.rod((x, -0.14, 0.02), (x, 0.14, 0.02), 0.002, wire)
        if rng.random() < 0.5:
            plate = meshes.cylinder((0, 0, 0), (0.007, 0, 0), rng.uniform(0.07, 0.12))
            bench.add(plate.transformed(translation(x, 0, 0.13) @ rotation("y", rng.uniform(-18, 18))), builder.varied_palette.white)


def monitor(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A monitor on its foot; what it shows may shine."""
    rng, dark = builder.clutter_rng, builder.varied_palette.dark if builder.clutter_rng.random() < 0.7 else grey(0.7, 0.4)
    half_width = rng.uniform(0.2, 0.34)
    half_height, foot = half_width * rng.choice([0.56, 0.62, 0.75]), rng.uniform(0.06, 0.16)
    bench = builder.bench("tv", frame)
    bench.box((0, -0.02, 0.5 * (foot + half_height)), (0.03, 0.012, 0.5 * (foot + half_height)), dark)
    bench.box((0, 0, 0.006), (0.5 * half_width, 0.1, 0.006), dark)
    tilted = frame @ translation(0, 0.01, foot + half_height) @ rotation("x", rng.uniform(-4, 12))
    panel(builder, tilted, half_width, half_height, dark)


def panel(builder: VariedBuilder, frame: np.ndarray, half_width: float, half_height: float, case: Material) -> None:
    """A screen about the frame's origin that looks to +y."""
    rng, bench = builder.clutter_rng, builder.bench("tv", frame)
    bench.box((0, 0, 0), (half_width, 0.018, half_height), case)
    rim = rng.uniform(0.006, 0.02)
    picture, width, height = prints.screen(rng), half_width - rim, half_height - rim
    face = shapes.front_quad(0.0, 0.0192, 0.0, width, height)
    if picture.mean() > 0.06 and rng.random() < 0.8:
        bench.light(face, picture**2.2 * rng.uniform(0.15, 1.2), builder.varied_palette.screen)
    else:
        bench.add(face, Finish(0.5 * picture, 0.12, 0.5))


def laptop(builder: VariedBuilder, frame: np.ndarray) -> None:
    """An open laptop computer; its lid is a screen."""
    rng = builder.clutter_rng
    case = grey(rng.choice([0.1, 0.6, 0.8]), 0.35)
    half_width, half_depth = rng.uniform(0.15, 0.19), rng.uniform(0.105, 0.125)
    bench = _loose(builder, frame)
    bench.box((0, 0.05, 0.009), (half_width, half_depth, 0.009), case)
    _printed(bench, (0.9 * half_width, 0.5 * half_depth), 0.0195, _some(builder, "keys"))
    lid = frame @ translation(0, 0.05 - half_depth, 0.018) @ rotation("x", rng.uniform(5, 40)) @ translation(0, 0, half_depth)
    panel(builder, lid, half_width, half_depth, case)


def keyboard(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A keyboard, usually with a mouse and its cable."""
    rng, bench = builder.clutter_rng, _loose(builder, frame)
    half_width = rng.choice([0.15, 0.22])
    body = builder.varied_palette.dark
    bench.box((0, 0, 0.009), (half_width, 0.068, 0.009), body)
    _printed(bench, (half_width - 0.003, 0.064), 0.0195, _some(builder, "keys"))
    if rng.random() < 0.8:
        x, y = half_width + rng.uniform(0.06, 0.13), rng.uniform(-0.04, 0.03)
        bench.ball((x, y, 0.014), (0.03, 0.052, 0.02), body if rng.random() < 0.7 else builder.varied_palette.white)
        bench.add(
            shapes.tube([[x, y - 0.05, 0.008], [x - 0.03, y - 0.12, 0.004], [x - 0.1, y - 0.2, 0.004], [x - 0.15, y - 0.26, 0.004]], 0.002),
            body,
        )


def phone(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A mobile telephone, a remote control or a wallet."""
    half = builder.clutter_rng.uniform((0.022, 0.06, 0.004), (0.045, 0.085, 0.011))
    _loose(builder, frame).cushion((0, 0, half[2]), half, builder.varied_palette.dark, 0.004)


def desk_telephone(builder: VariedBuilder, frame: np.ndarray) -> None:
    """An office telephone with its receiver."""
    bench, case = _loose(builder, frame), builder.varied_palette.dark
    bench.add(meshes.box((0.09, 0.1, 0.015)).transformed(translation(0, 0, 0.035) @ rotation("x", -14)), case)
    bench.cushion((-0.06, 0, 0.075), (0.022, 0.1, 0.016), case, 0.014, tilt=-14)
    bench.box((0.03, -0.05, 0.066), (0.04, 0.02, 0.004), grey(0.45, 0.3))


def cables(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A tangle of one to three cables that lie."""
    rng = builder.clutter_rng
    for _ in range(rng.integers(1, 4)):
        path = np.cumsum(rng.normal(0, 0.06, (12, 2)) + rng.normal(0, 0.03, 2), axis=0)
        path = path - path.mean(0)
        smooth = np.stack([np.interp(np.linspace(0, 11, 34), np.arange(12), column) for column in path.T], 1)
        for _ in range(6):  # rounds the bends
            smooth[1:-1] = (smooth[:-2] + smooth[1:-1] + smooth[2:]) / 3
        radius = rng.uniform(0.002, 0.004)
        points = np.concatenate([np.clip(smooth, -0.28, 0.28), np.full((34, 1), radius + 0.001)], 1)
        _loose(builder, frame).add(shapes.tube(points, radius), builder.varied_palette.dark if rng.random() < 0.6 else grey(0.8, 0.5))


def bag(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A rucksack or bag that stands or slumps, with a strap."""
    rng, cloth = builder.clutter_rng, _some(builder, "cloth")
    half = rng.uniform((0.12, 0.08, 0.12), (0.2, 0.13, 0.22))
    place = frame @ translation(0, 0, 0.95 * half[2]) @ rotation("x", rng.uniform(-15, 10))
    bench = _loose(builder, place)
    bench.add(shapes.crumpled(half, rng, rng.uniform(0.05, 0.2)), cloth)
    bench.add(shapes.crumpled(0.6 * half, rng, 0.1).transformed(translation(0, 0.7 * half[1], -0.25 * half[2])), cloth)
    bench.add(shapes.tube(shapes.arc((0, 0, 0.9 * half[2]), 0.06, -10, 190, 9), 0.011), builder.varied_palette.dark)


def cloth_heap(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A garment, towel or cushion thrown down."""
    rng = builder.clutter_rng
    half = rng.uniform((0.1, 0.08, 0.02), (0.22, 0.18, 0.06))
    _loose(builder, frame @ translation(0, 0, 0.9 * half[2])).add(
        shapes.crumpled(half, rng, rng.uniform(0.2, 0.5)), _some(builder, "cloth")
    )


def bin_(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A waste-paper basket or bucket."""
    rng = builder.clutter_rng
    height = rng.uniform(0.25, 0.45)
    _loose(builder, frame).add(shapes.vessel(0.42 * height, height, 0.005, base=rng.uniform(0.7, 1)), _some(builder, "plastic"))


def tower(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A computer's case that stands on the floor."""
    rng, bench = builder.clutter_rng, _loose(builder, frame)
    half = np.array([0.09, 0.2, 0.21]) * rng.uniform(0.85, 1.1)
    bench.box((0, 0, half[2] + 0.01), half, builder.varied_palette.dark)
    bench.box((0, half[1], 1.3 * half[2]), (0.8 * half[0], 0.003, 0.3 * half[2]), grey(0.4, 0.3))


def shoes(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A pair of shoes."""
    rng, material = builder.clutter_rng, _some(builder, "cloth")
    for side in (-1, 1):
        bench = _loose(builder, frame @ translation(side * 0.07, rng.uniform(-0.05, 0.05)) @ rotation("z", rng.normal(0, 15)))
        bench.cushion((0, 0, 0.03), (0.045, 0.14, 0.03), material, 0.028)
        bench.cushion((0, -0.06, 0.07), (0.04, 0.07, 0.045), material, 0.035)


def pot_plant(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A small plant in a pot."""
    rng, bench = builder.clutter_rng, builder.bench("plant", frame)
    size = rng.uniform(0.1, 0.28)
    bench.add(shapes.vessel(0.32 * size, 0.5 * size, base=0.75), _some(builder, "glaze"))
    bench.add(meshes.disk(0.29 * size).transformed(translation(0, 0, 0.42 * size)), plain(0.15, 0.1, 0.06))
    greens = [Material(colour_of(rng.uniform(0.2, 0.42), rng.uniform(0.3, 0.8), rng.uniform(0.15, 0.6))) for _ in range(2)]
    leaf = meshes.disk(1.0, 8)
    for index in range(rng.integers(12, 30)):
        length = size * rng.uniform(0.4, 1.1)
        pose = translation(0, 0, 0.45 * size) @ rotation("z", rng.uniform(0, 360)) @ rotation("y", -rng.uniform(15, 88))
        pose = pose @ translation(length / 2 + 0.01, 0) @ rotation("x", rng.uniform(-40, 40))
        bench.add(leaf.transformed(pose @ meshes.scaling(length / 2, length * rng.uniform(0.08, 0.3), 1)), greens[index % 2])


def binders(builder: VariedBuilder, frame: np.ndarray) -> None:
    """A row of binders, some leaning."""
    rng = builder.clutter_rng
    x, colour = -0.16, builder.varied_palette.books[rng.integers(8)]
    while x < 0.13:
        thickness = rng.choice([0.025, 0.038])
        lean = rotation("y", rng.uniform(4, 14)) if rng.random() < 0.12 else np.eye(4)
        cover = colour if rng.random() < 0.7 else _cover(builder)
        spine = builder.bench("book", frame @ translation(x + thickness, 0, 0) @ lean)
        spine.box((0, 0, 0.158), (thickness, 0.135, 0.158), cover)
        spine.box((0, 0.1355, 0.2), (0.6 * thickness, 0.0006, 0.06), builder.varied_palette.white)
        x += 2 * thickness + 0.002
