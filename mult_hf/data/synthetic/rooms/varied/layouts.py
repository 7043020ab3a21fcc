"""Kinds of varied rooms: their furniture, and the surfaces for small objects."""

from collections.abc import Callable

import numpy as np

from .. import cabinets, decor, seating
from ..floorplan import Rectangle
from ..meshes import rotation, translation
from ..shell import build_shell
from . import fixtures, furniture, kitchen, lighting, office
from .builder import VariedBuilder, VariedRoom
from .clutter import scatter
from .groups import stream


def build_room(seed: int, groups: tuple[str, ...]) -> VariedRoom:
    """Build the room of a seed: the same on every machine with the same version of numpy.

    Args:
        seed: at least 0.
        groups: names of the groups of `groups.GROUPS` that vary.

    Returns:
        [`VariedRoom`]: furnished, in metres.
    """
    rng = stream(seed, "shape")
    kind = str(rng.choice(list(LAYOUTS), p=[WEIGHTS[name] for name in LAYOUTS]))
    return build_kind(kind, seed, groups, rng)


def build_kind(kind: str, seed: int, groups: tuple[str, ...], rng: np.random.Generator) -> VariedRoom:
    """A room of a kind of `LAYOUTS`; `rng` is the stream of its shape."""
    shortest, longest = SIDES[kind]
    width, depth = rng.uniform(shortest, longest, 2)
    builder = VariedBuilder(seed, groups, width, depth, float(rng.uniform(2.3, 3.3)), rng)
    # The two shells draw different numbers of random values; furniture must not depend on this.
    builder.rng = stream(seed, "shell")
    (lighting.build_shell if "light" in groups else build_shell)(builder)
    builder.rng = rng
    fixtures.add_structure(builder)
    if kind in ("living_room", "bedroom", "study", "dining_room") and builder.chance(0.6):
        decor.rug(builder)
    LAYOUTS[kind](builder)
    _add_common_things(builder, kind)
    fixtures.add_wall_things(builder)
    decor.pictures(builder)
    if "light" in groups:
        lighting.add_sun(builder)
    if "clutter" in groups:
        builder.support("floor", translation(width / 2, depth / 2), width - 0.3, depth - 0.3, 1.2)
        scatter(builder)
    return builder.finish(kind)


def _living_room(builder: VariedBuilder) -> None:
    """Sofa, perhaps an armchair, a television set, a low table in the middle."""
    rng, palette = builder.rng, builder.palette
    sofa = builder.plan.place_at_wall(rng, 2.0, 0.95)
    if sofa is not None:
        seating.sofa(builder, sofa, 1.0, palette.fabric, palette.second_fabric)
    for _ in range(rng.integers(0, 3)):
        armchair = builder.plan.place_at_wall(rng, 1.0, 0.95)
        if armchair is not None:
            cloth = palette.fabric if builder.chance(0.6) else palette.second_fabric
            seating.sofa(builder, armchair @ translation(0, 0.1) @ rotation("z", rng.normal(0, 8)), 0.48, cloth, palette.second_fabric)
    stand = builder.plan.place_at_wall(rng, 1.5, 0.45, tall=0.45)
    if stand is not None:
        cabinets.television_stand(builder, stand)
        builder.support("top", stand @ translation(0, 0.32, 0.48), 1.3, 0.16, 0.3)
    x, y = builder.plan.width / 2 + rng.normal(0, 0.2), builder.plan.depth / 2 + rng.normal(0, 0.2)
    if builder.plan.take(Rectangle.around(x, y, 1.2, 0.9)):
        height = rng.uniform(0.36, 0.48)
        _table(builder, translation(x, y) @ rotation("z", rng.normal(0, 6)), 1.05, 0.6, height)


def _bedroom(builder: VariedBuilder) -> None:
    """A bed with nightstands, or a narrow one without if the room is small."""
    rng, width = builder.rng, builder.rng.choice([1.0, 1.5, 1.7])
    frame = builder.plan.place_at_wall(rng, width + 1.0, 2.15)
    has_sides = frame is not None
    if frame is None:
        width, frame = 1.0, builder.plan.place_at_wall(rng, 1.1, 2.1)
    if frame is None:
        return
    seating.bed(builder, frame, width)
    for side in (-1, 1):
        if has_sides and builder.chance(0.8):
            place = frame @ translation(side * (width / 2 + 0.27), 0)
            cabinets.nightstand(builder, place)
            builder.support("top", place @ translation(0.08, 0.24, 0.5), 0.24, 0.3, 0.4)
    _storage(builder, rng.uniform(0.9, 1.6))


def _dining_room(builder: VariedBuilder) -> None:
    """A table with chairs in the middle."""
    _dining_table(builder, builder.rng.uniform(1.2, 2.1), builder.rng.uniform(0.8, 1.0))


def _study(builder: VariedBuilder) -> None:
    """One workplace and shelves."""
    _workplaces(builder, 1)
    for _ in range(builder.rng.integers(1, 3)):
        _shelf(builder)


def _office(builder: VariedBuilder) -> None:
    """Desks in an island in the middle and along the walls, shelves, a whiteboard."""
    rng = builder.rng
    if builder.chance(0.6):
        _desk_island(builder)
    _workplaces(builder, int(rng.integers(1, 5)))
    office.whiteboard(builder)
    for _ in range(rng.integers(1, 4)):
        _shelf(builder)


def _workplaces(builder: VariedBuilder, count: int) -> None:
    """Desks at walls, with their backs or sides against the wall."""
    rng = builder.rng
    for _ in range(count):
        width, depth = rng.uniform(1.1, 1.8), rng.uniform(0.65, 0.85)
        if builder.chance(0.25):
            frame = builder.plan.place_at_wall(rng, depth + 0.9, width + 0.1)
            if frame is not None:
                office.workplace(
                    builder, frame @ translation(-0.45, width / 2) @ rotation("z", -90) @ translation(0, -depth / 2), width, depth
                )
            continue
        frame = builder.plan.place_at_wall(rng, width + 0.05, depth + 0.75)
        if frame is not None:
            office.workplace(builder, frame, width, depth)


def _desk_island(builder: VariedBuilder) -> None:
    """Two rows of one or two desks back to back, in half of the rooms with a low screen between them."""
    rng, plan = builder.rng, builder.plan
    width, depth, columns = rng.uniform(1.3, 1.7), rng.uniform(0.7, 0.85), int(rng.integers(1, 3))
    is_turned = builder.chance(0.5)
    while columns:
        size = (columns * width + 0.1, 2 * depth + 1.5)
        x, y = plan.width / 2 + rng.normal(0, 0.2), plan.depth / 2 + rng.normal(0, 0.2)
        if plan.take(Rectangle.around(x, y, *(size[::-1] if is_turned else size))):
            break
        columns -= 1
    if not columns:
        return
    frame = translation(x, y) @ rotation("z", 90.0 * is_turned + rng.normal(0, 1))
    for turn in (0, 180):
        for column in range(columns):
            place = rotation("z", turn) @ translation((column - (columns - 1) / 2) * width, 0.03)
            office.workplace(builder, frame @ place, width - 0.01, depth)
    if builder.chance(0.5):
        office.partition(builder, frame, columns * width, rng.uniform(1.0, 1.35))


def _kitchen(builder: VariedBuilder) -> None:
    """One or two runs of units, a refrigerator, and an island or a table if it fits."""
    rng, plan = builder.rng, builder.plan
    builder.handles = str(rng.choice(["bars", "knobs", "none"]))
    kinds = ["sink", "stove", "machine", "doors", "drawers", "doors"]
    for count in (rng.integers(4, 7), 4, 3, 3, 2):
        width = count * rng.uniform(0.55, 0.65)
        # Low under windows, otherwise with wall units.
        has_wall_units = builder.chance(0.65)
        frame = plan.place_at_wall(rng, width, 1.0, tall=0.6 if has_wall_units else 0.0, tries=120)
        if frame is not None:
            kitchen.run(builder, frame, width, list(rng.permutation(kinds[:count])), has_wall_units)
            break
    frame = plan.place_at_wall(rng, 0.66, 0.9, tall=0.6)
    if frame is not None:
        kitchen.refrigerator(builder, frame)
    for _ in range(rng.integers(0, 3)):
        count = int(rng.integers(1, 4))
        frame = plan.place_at_wall(rng, count * 0.6, 1.0, tall=0.6)
        if frame is not None:
            kitchen.run(builder, frame, count * 0.6, list(rng.choice(["doors", "drawers"], count)), builder.chance(0.6))
    if builder.chance(0.3) and plan.take(Rectangle.around(plan.width / 2, plan.depth / 2, 2.0, 1.6)):
        kitchen.island(builder, translation(plan.width / 2, plan.depth / 2) @ rotation("z", rng.choice([0, 180])), 1.5)
    else:
        _dining_table(builder, rng.uniform(0.9, 1.4), rng.uniform(0.7, 0.9))


LAYOUTS: dict[str, Callable[[VariedBuilder], None]] = {
    "office": _office,
    "kitchen": _kitchen,
    "living_room": _living_room,
    "bedroom": _bedroom,
    "dining_room": _dining_room,
    "study": _study,
}
"""Furnishing function of each kind of room."""

WEIGHTS = {"office": 0.28, "kitchen": 0.26, "living_room": 0.14, "bedroom": 0.11, "dining_room": 0.09, "study": 0.12}
"""Share of each kind."""

SIDES = {
    "office": (3.2, 8.0), "kitchen": (2.6, 5.5), "living_room": (3.4, 6.8), "bedroom": (2.8, 5.2), "dining_room": (3.2, 6.0),
    "study": (2.4, 4.8),
}  # fmt: skip
"""Shortest and longest side of each kind, metres."""


def _table(builder: VariedBuilder, frame: np.ndarray, width: float, depth: float, height: float) -> None:
    seating.table(builder, frame, width, depth, height)
    builder.support("table", frame @ translation(0, 0, height), 0.8 * width, 0.8 * depth)


def _storage(builder: VariedBuilder, width: float) -> None:
    frame = builder.plan.place_at_wall(builder.rng, width, 0.6, tall=0.6)
    if frame is not None:
        cabinets.wardrobe(builder, frame, width, 0.6)


def _cupboard(builder: VariedBuilder) -> None:
    width = builder.rng.uniform(0.7, 1.4)
    frame = builder.plan.place_at_wall(builder.rng, width, 0.5)
    if frame is not None:
        cabinets.cupboard(builder, frame, width, 0.5)


def _bookshelf(builder: VariedBuilder) -> None:
    width = builder.rng.uniform(0.7, 1.4)
    frame = builder.plan.place_at_wall(builder.rng, width, 0.32, tall=0.32)
    if frame is not None:
        cabinets.bookshelf(builder, frame, width, 0.32)


def _shelf(builder: VariedBuilder) -> None:
    width, depth = builder.rng.uniform(0.6, 1.6), builder.rng.uniform(0.3, 0.45)
    frame = builder.plan.place_at_wall(builder.rng, width, depth, tall=depth)
    if frame is not None:
        office.shelf(builder, frame, width, depth)


def _dining_table(builder: VariedBuilder, width: float, depth: float) -> None:
    """A table with chairs in the middle of the room, or next to it if the middle is taken."""
    rng, plan = builder.rng, builder.plan
    for spread in (0.0, 0.3, 0.6, 0.9, 1.2):
        x, y = plan.width / 2 + spread * rng.uniform(-1, 1), plan.depth / 2 + spread * rng.uniform(-1, 1)
        is_turned = builder.chance(0.5)
        size = (depth + 1.0, width + 0.5) if is_turned else (width + 0.5, depth + 1.0)
        if plan.take(Rectangle.around(x, y, *size)):
            frame = translation(x, y) @ rotation("z", 90 * is_turned + rng.uniform(-8, 8))
            furniture.table_with_chairs(builder, frame, width, depth, 0.74)
            builder.support("table", frame @ translation(0, 0, 0.74), 0.8 * width, 0.8 * depth)
            return


def _add_common_things(builder: VariedBuilder, kind: str) -> None:
    """Add things that any room may have: more storage, plants, a lamp, chairs, a radiator, posters."""
    rng = builder.rng
    kinds_of_storage = (_cupboard, _bookshelf, _shelf)
    for number in rng.permutation(3)[: rng.integers(0, 4)]:
        kinds_of_storage[number](builder)
    for _ in range(rng.integers(0, 3)):
        (decor.plant if builder.chance(0.4) else furniture.palm)(builder)
    if builder.chance(0.5):
        decor.floor_lamp(builder)
    frame = builder.plan.place_at_wall(rng, 0.7, 0.7, gap=0.05) if builder.chance(0.5) else None
    if frame is not None:
        turned = frame @ translation(0, 0.33) @ rotation("z", rng.uniform(-30, 30))
        if kind in ("office", "study"):
            office.swivel_chair(builder, turned, builder.palette.fabric)
        else:
            seating.chair(builder, turned, builder.palette.fabric, builder.palette.wood)
    width = rng.uniform(0.6, 1.4)
    frame = builder.plan.place_at_wall(rng, width + 0.2, 0.15) if builder.chance(0.5) else None
    if frame is not None:
        office.radiator(builder, frame, width)
    for _ in range(rng.integers(0, 3)):
        decor.stool(builder)
    office.posters(builder)
