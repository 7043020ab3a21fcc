"""Checks of an image processor's fields: sizes, and numbers per colour."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from operator import index
from typing import Any

import numpy as np
from torch import Tensor

from .entry_fields import refusal

_ABOVE = {"image_mean": -math.inf, "image_std": 0.0, "rescale_factor": 0.0}


def checked_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a processor, or keywords of its call, in Python's own types, which JSON can hold.

    Args:
        given: values by field; numbers and arrays of numpy and torch are converted.

    Raises:
        ValueError: on a switch that is not True or False, a number that would make pixels infinite, or an impossible size.
    """
    values = {name: _in_python(value) for name, value in given.items()}
    for name, value in values.items():
        if name.startswith("do_") and value is not None and not isinstance(value, bool):
            raise refusal(f"{name} is {value!r} ({type(value).__name__}); give True or False")
    for name in values.keys() & _ABOVE.keys():
        check_numbers(name, values[name], above=_ABOVE[name])
        values[name] = [*map(float, values[name])] if isinstance(values[name], (list, tuple)) else values[name]
    if values.get("size") is not None:
        values["size"] = checked_size(values["size"])
    return values


def _in_python(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_in_python(item) for item in value] if isinstance(value, list) else tuple(map(_in_python, value))
    return value.tolist() if isinstance(value, (np.generic, np.ndarray, Tensor)) else value


def check_numbers(name: str, value: Any, above: float) -> None:
    """Refuse factors (one, or one per colour) that would make pixels infinite or NaN; None is allowed, for processors without this step."""
    numbers = value if isinstance(value, (list, tuple)) else np.ravel(value)
    if value is not None and (
        len(numbers) not in (1, 3) or not all(isinstance(number, Real) and above < float(number) < math.inf for number in numbers)
    ):
        limit = "" if above == -math.inf else f" above {above:g}"
        raise refusal(f"{name} is {value!r}; give a finite number{limit}, or one per colour")


MAX_SIDE = 16_384
"""Largest side of `pixel_values` in pixels; larger values are typing errors."""

MAX_ASPECT = 32
"""Largest longer side of an image over its shorter one where images keep their aspect ratio. One row of pixels, resized to a shorter side
of 256, would fill the memory: a small file stops the process."""

_SIDES = ("height", "width", "shortest_edge", "max_height", "max_width")


def checked_size(size: Any) -> Any:
    """A size in the forms that transformers takes, with whole numbers of Python, which JSON can hold.

    Raises:
        ValueError: on anything that is no whole number of pixels, at least 1 and at most [`MAX_SIDE`].
    """
    if isinstance(size, Mapping):
        # `longest_edge` and numbers of pixels are limits, and may be beyond any image.
        limits = {side: MAX_SIDE if side in _SIDES else None for side in size}
        return {side: length if length is None else _whole(length, size, limits[side]) for side, length in size.items()}
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return tuple(_whole(length, size, MAX_SIDE) for length in size)
    if hasattr(size, "shortest_edge"):  # transformers' own `SizeDict`
        return size
    return _whole(size, size, MAX_SIDE)


def check_aspect(image_size: Sequence[int], size: Any, what: str) -> None:
    """Refuse an image that would become far larger than others because its shorter side is resized to a fixed length.

    Args:
        image_size: (height, width) of the image in pixels.
        size: the processor's, as transformers' `SizeDict`.
        what: name of the image for messages.

    Raises:
        ValueError: if only `shortest_edge` is set, and the longer side is over [`MAX_ASPECT`] times the shorter one.
    """
    if size is None or not size.shortest_edge or size.longest_edge or max(image_size) <= MAX_ASPECT * min(image_size):
        return
    height, width = image_size
    raise ValueError(
        f"{what} has {height} x {width} pixels, and its shorter side is resized to {size.shortest_edge}: the longer one may be at most "
        f"{MAX_ASPECT} times as long; crop the image, or set a size with height and width"
    )


def _whole(length: Any, size: Any, limit: int | None) -> int:
    try:
        whole = 0 if isinstance(length, (bool, np.bool_)) else index(length)
    except TypeError:
        whole = 0
    if whole < 1 or (limit is not None and whole > limit):
        raise refusal(
            f"size is {size!r}; give whole numbers of pixels from 1 to {MAX_SIDE}, such as {{'height': 224, 'width': 224}} or "
            f"{{'shortest_edge': 224}}"
        )
    return whole


__all__ = ["MAX_ASPECT", "MAX_SIDE", "check_aspect", "checked_fields", "checked_size"]
