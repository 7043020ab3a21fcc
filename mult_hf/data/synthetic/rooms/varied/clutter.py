"""Put small objects on every flat surface of a room, in varying numbers."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .. import decor
from ..floorplan import Rectangle
from ..meshes import rotation, translation
from . import objects
from .builder import Support, VariedBuilder

DENSITY = {"desk": 18.0, "table": 12.0, "worktop": 15.0, "shelf": 14.0, "top": 12.0, "floor": 1.2, "under": 4.0}
"""Objects per square metre of each kind of surface, in a room of average tidiness."""

MESSINESS_SPREAD = 0.7
"""Standard deviation of the logarithm of a room's untidiness."""

MOST_THINGS = 140
"""Largest number of objects in one room; more take long to load."""

TRIES = 6
"""Attempts to place an object before it is left out."""


@dataclass(frozen=True)
class Kind:
    """A kind of small object.

    Args:
        put: function that puts one at a frame's origin.
        width: width of the space that it takes, metres.
        depth: depth of that space, metres.
        height: largest height that it needs, metres.
        weights: relative frequency by the kind of `Support`.
        faces_front: whether it faces the front, instead of a random direction.
    """

    put: Callable[[VariedBuilder, np.ndarray], None]
    width: float
    depth: float
    height: float
    weights: dict[str, float]
    faces_front: bool = False


KINDS = (
    Kind(objects.book_stack, 0.26, 0.32, 0.26, {"desk": 3, "table": 2, "shelf": 3, "top": 2, "worktop": 0.4, "floor": 0.5}),
    Kind(objects.open_book, 0.36, 0.26, 0.05, {"desk": 1, "table": 1, "top": 0.3}),
    Kind(objects.papers, 0.28, 0.36, 0.01, {"desk": 4, "table": 2, "top": 1, "worktop": 0.5, "floor": 0.3}),
    Kind(objects.paper_pile, 0.23, 0.31, 0.1, {"desk": 2, "shelf": 2, "table": 0.6, "top": 1, "floor": 0.3}),
    Kind(objects.carton, 0.4, 0.32, 0.66, {"floor": 4, "top": 2, "shelf": 1, "desk": 0.4, "worktop": 0.3, "under": 2}),
    Kind(objects.package, 0.2, 0.12, 0.3, {"desk": 1, "shelf": 4, "worktop": 4, "table": 1, "top": 2}),
    Kind(objects.bottle, 0.1, 0.1, 0.34, {"desk": 2, "worktop": 6, "table": 3, "shelf": 2, "top": 1, "floor": 0.3}),
    Kind(objects.cup, 0.12, 0.1, 0.13, {"desk": 3, "worktop": 4, "table": 4, "shelf": 1, "top": 1}),
    Kind(objects.bowl, 0.27, 0.27, 0.13, {"worktop": 2, "table": 2, "shelf": 1, "top": 0.6}),
    Kind(objects.plates, 0.26, 0.26, 0.09, {"worktop": 2, "table": 2, "shelf": 1}),
    Kind(objects.pot, 0.3, 0.28, 0.2, {"worktop": 3, "shelf": 0.5}),
    Kind(objects.kettle, 0.22, 0.18, 0.26, {"worktop": 2, "desk": 0.1}),
    Kind(objects.appliance, 0.5, 0.38, 0.38, {"worktop": 2, "top": 0.5, "desk": 0.2}, faces_front=True),
    Kind(objects.paper_roll, 0.12, 0.12, 0.3, {"worktop": 1.5}),
    Kind(objects.board, 0.3, 0.3, 0.36, {"worktop": 1.5, "table": 0.5}, faces_front=True),
    Kind(objects.utensils, 0.12, 0.12, 0.28, {"desk": 2, "worktop": 2, "shelf": 0.5, "table": 0.3}),
    Kind(objects.dish_rack, 0.44, 0.3, 0.28, {"worktop": 0.7}, faces_front=True),
    Kind(objects.laptop, 0.4, 0.36, 0.3, {"desk": 1, "table": 0.7}, faces_front=True),
    Kind(objects.keyboard, 0.56, 0.2, 0.05, {"desk": 0.5}, faces_front=True),
    Kind(objects.phone, 0.1, 0.18, 0.03, {"desk": 2, "table": 2, "top": 1, "worktop": 0.5}),
    Kind(objects.desk_telephone, 0.2, 0.22, 0.12, {"desk": 1}, faces_front=True),
    Kind(objects.cables, 0.5, 0.5, 0.02, {"desk": 1.5, "floor": 1, "under": 4}),
    Kind(objects.bag, 0.42, 0.32, 0.5, {"floor": 2, "table": 0.3, "under": 2, "desk": 0.2}),
    Kind(objects.cloth_heap, 0.44, 0.36, 0.14, {"floor": 1, "table": 0.6, "top": 1, "worktop": 0.8, "desk": 0.4}),
    Kind(objects.bin_, 0.4, 0.4, 0.46, {"floor": 1.5, "under": 2}),
    Kind(objects.tower, 0.22, 0.44, 0.5, {"under": 4, "floor": 0.5}, faces_front=True),
    Kind(objects.shoes, 0.32, 0.34, 0.13, {"floor": 1.5}),
    Kind(objects.pot_plant, 0.34, 0.34, 0.5, {"desk": 0.8, "top": 1.5, "shelf": 0.8, "table": 0.8, "worktop": 0.5}),
    Kind(objects.binders, 0.36, 0.28, 0.34, {"shelf": 3, "top": 1, "desk": 0.6}, faces_front=True),
    Kind(decor.table_lamp, 0.28, 0.28, 0.42, {"desk": 0.5, "top": 1}),
)
"""What may lie about."""


def scatter(builder: VariedBuilder) -> None:
    """Put small objects on all recorded surfaces of the room; call it last."""
    rng = builder.clutter_rng
    messiness = np.exp(rng.normal(0, MESSINESS_SPREAD))
    order = rng.permutation(len(builder.supports))
    left = MOST_THINGS
    for place in (builder.supports[index] for index in order):
        wanted = messiness * DENSITY[place.kind] * place.width * place.depth * rng.uniform(0.4, 1.6)
        for _ in range(min(left, rng.poisson(wanted))):
            left -= _put_one(builder, place)


def _put_one(builder: VariedBuilder, place: Support) -> bool:
    """Try to put one object there; returns whether there was space."""
    rng = builder.clutter_rng
    fitting = [kind for kind in KINDS if place.kind in kind.weights and kind.height <= place.headroom]
    weights = np.array([kind.weights[place.kind] for kind in fitting])
    kind = fitting[rng.choice(len(fitting), p=weights / weights.sum())]
    for _ in range(TRIES):
        turn = rng.normal(0, 8) if kind.faces_front else rng.uniform(0, 360)
        cosine, sine = abs(np.cos(np.radians(turn))), abs(np.sin(np.radians(turn)))
        width, depth = kind.width * cosine + kind.depth * sine, kind.width * sine + kind.depth * cosine
        if width > place.width or depth > place.depth:
            continue
        x, y = (rng.uniform(-1, 1) * (size - taken) / 2 for size, taken in ((place.width, width), (place.depth, depth)))
        spot = Rectangle.around(x, y, width, depth)
        if any(spot.overlaps(other) for other in place.taken):
            continue
        across, along = place.frame[:2, 3] + (x, y)
        if place.kind == "floor" and not builder.plan.is_free(Rectangle.around(across, along, width, depth), 0.02):
            continue
        place.taken.append(spot)
        kind.put(builder, place.frame @ translation(x, y) @ rotation("z", turn))
        return True
    return False
