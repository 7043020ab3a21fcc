"""Kinds of rooms: one furnishing function per kind, listed in a table."""

from collections.abc import Callable

import numpy as np

from . import cabinets, decor, seating
from .builder import Room, RoomBuilder
from .floorplan import Rectangle
from .meshes import rotation, translation
from .shell import build_shell

SHORTEST_SIDE, LONGEST_SIDE = 3.4, 6.4
"""Metres."""


def build_room(seed: int) -> Room:
    """Build the room of a seed: the same on every machine with the same version of numpy.

    Args:
        seed: at least 0.

    Returns:
        [`Room`]: furnished, in metres.
    """
    rng = np.random.default_rng(seed)
    kind = str(rng.choice(list(LAYOUTS)))
    width, depth = rng.uniform(SHORTEST_SIDE, LONGEST_SIDE, 2)
    builder = RoomBuilder(rng, width, depth, height=rng.uniform(2.4, 3.0))
    build_shell(builder)
    if builder.chance(0.7):
        decor.rug(builder)
    LAYOUTS[kind](builder)
    _add_common_things(builder, kind)
    decor.pictures(builder)
    return builder.finish(kind)


def _living_room(builder: RoomBuilder) -> None:
    """Sofa, perhaps an armchair, a television set, a low table in the middle."""
    rng, palette = builder.rng, builder.palette
    sofa = builder.plan.place_at_wall(rng, 2.0, 0.95)
    if sofa is not None:
        seating.sofa(builder, sofa, 1.0, palette.fabric, palette.second_fabric)
    armchair = builder.plan.place_at_wall(rng, 1.0, 0.95) if builder.chance(0.6) else None
    if armchair is not None:
        cloth = palette.fabric if builder.chance(0.6) else palette.second_fabric
        seating.sofa(builder, armchair, 0.48, cloth, palette.second_fabric)
    stand = builder.plan.place_at_wall(rng, 1.5, 0.45, tall=0.45)
    if stand is not None:
        cabinets.television_stand(builder, stand)
    x, y = builder.plan.width / 2, builder.plan.depth / 2
    if builder.plan.take(Rectangle.around(x, y, 1.1, 0.7)):
        height = rng.uniform(0.36, 0.45)
        seating.table(builder, translation(x, y), 1.05, 0.6, height)
        decor.vase(builder, translation(x + 0.2, y, height))


def _bedroom(builder: RoomBuilder) -> None:
    """A bed with nightstands, or in a small room a narrow bed without."""
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
            cabinets.nightstand(builder, frame @ translation(side * (width / 2 + 0.27), 0))
    _place(builder, cabinets.wardrobe, rng.uniform(0.9, 1.6), 0.6, tall=0.6)


def _dining_room(builder: RoomBuilder) -> None:
    """A table with chairs in the middle."""
    _dining_table(builder, builder.rng.uniform(1.2, 1.9), builder.rng.uniform(0.8, 1.0))
    _place(builder, cabinets.cupboard, builder.rng.uniform(0.9, 1.6), 0.5)


def _study(builder: RoomBuilder) -> None:
    """A desk with screen, books, lamp and chair, and a bookshelf."""
    rng, width, depth = builder.rng, builder.rng.uniform(1.1, 1.5), 0.65
    frame = builder.plan.place_at_wall(rng, width, 1.35)
    if frame is not None:
        seating.desk(builder, frame, width, depth)
        top = frame @ translation(0, 0, 0.748)
        decor.screen(builder, top @ translation(0, 0.17), 0.3, 0.18)
        decor.books(builder, top @ translation(width / 2 - 0.4, 0.15), 0.35, 0.18, 0.26)
        place = translation(rng.uniform(-0.1, 0.1), depth + 0.3) @ rotation("z", 180 + rng.uniform(-40, 40))
        seating.chair(builder, frame @ place, builder.palette.second_fabric, builder.palette.second_wood)
        if builder.chance(0.7):
            decor.table_lamp(builder, top @ translation(-width / 2 + 0.18, 0.2))
    _place(builder, cabinets.bookshelf, rng.uniform(0.7, 1.2), 0.32, tall=0.32)


def _kitchen(builder: RoomBuilder) -> None:
    """A row of units, a refrigerator, and a small table with chairs if it fits."""
    rng = builder.rng
    for width in (rng.uniform(2.2, 2.8), 1.7, 1.2):
        frame = builder.plan.place_at_wall(rng, width, 1.1, tall=0.6)
        if frame is not None:
            cabinets.kitchen_run(builder, frame, width)
            break
    frame = builder.plan.place_at_wall(rng, 0.66, 0.9, tall=0.6)
    if frame is not None:
        cabinets.refrigerator(builder, frame)
    _dining_table(builder, rng.uniform(0.9, 1.3), rng.uniform(0.7, 0.9))


LAYOUTS: dict[str, Callable[[RoomBuilder], None]] = {
    "living_room": _living_room,
    "bedroom": _bedroom,
    "dining_room": _dining_room,
    "study": _study,
    "kitchen": _kitchen,
}
"""Furnishing function of each kind of room."""

_FURTHER_STORAGE = {
    "kitchen": (cabinets.cupboard,),
    "dining_room": (cabinets.bookshelf, cabinets.cupboard),
    "bedroom": (cabinets.bookshelf, cabinets.cupboard),
    "living_room": (cabinets.bookshelf, cabinets.cupboard, cabinets.bookshelf),
    "study": (cabinets.bookshelf, cabinets.cupboard, cabinets.wardrobe),
}


def _place(builder: RoomBuilder, furniture: Callable[..., None], width: float, depth: float, tall: float = 0.0) -> None:
    """Put a piece of furniture at a wall, if there is space."""
    frame = builder.plan.place_at_wall(builder.rng, width, depth, tall=tall)
    if frame is not None:
        furniture(builder, frame, width, depth)


def _dining_table(builder: RoomBuilder, width: float, depth: float) -> None:
    """A table with chairs in the middle of the room, or nearby if the middle is taken."""
    rng, plan = builder.rng, builder.plan
    for spread in (0.0, 0.3, 0.6, 0.9, 1.2):
        x, y = plan.width / 2 + spread * rng.uniform(-1, 1), plan.depth / 2 + spread * rng.uniform(-1, 1)
        quarter_turn = builder.chance(0.5)
        size = (depth + 1.0, width + 0.5) if quarter_turn else (width + 0.5, depth + 1.0)
        if plan.take(Rectangle.around(x, y, *size)):
            frame = translation(x, y) @ rotation("z", 90 * quarter_turn + rng.uniform(-8, 8))
            seating.table_with_chairs(builder, frame, width, depth)
            decor.vase(builder, frame @ translation(rng.uniform(-0.3, 0.3), 0, 0.74))
            decor.plates(builder, frame @ translation(0, 0, 0.74), width / 2 - 0.2, 0.2)
            return


def _add_common_things(builder: RoomBuilder, kind: str) -> None:
    """Add things that any room may have: more storage, plants, a lamp, a chair, stools."""
    rng, palette = builder.rng, builder.palette
    for furniture in _FURTHER_STORAGE[kind]:
        if builder.chance(0.75):
            tall = 0.0 if furniture is cabinets.cupboard else 0.6
            depth = {cabinets.bookshelf: 0.32, cabinets.cupboard: 0.5, cabinets.wardrobe: 0.6}[furniture]
            _place(builder, furniture, rng.uniform(0.7, 1.4), depth, tall)
    for _ in range(rng.integers(0, 3)):
        decor.plant(builder)
    if builder.chance(0.6):
        decor.floor_lamp(builder)
    frame = builder.plan.place_at_wall(rng, 0.6, 0.6, gap=0.05) if builder.chance(0.4) else None
    if frame is not None:
        turned = frame @ translation(0, 0.3) @ rotation("z", rng.uniform(-20, 20))
        seating.chair(builder, turned, palette.fabric, palette.wood)
    for _ in range(rng.integers(0, 4)):
        decor.stool(builder)
