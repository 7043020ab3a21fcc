"""Types of the fields of task entries: each value is converted to its type, or refused with the field's name.

Entries come from YAML and JSON files that people write by hand. Each function here takes a field's name and its value, returns the
value in the form that the entry stores, and raises a ValueError that states what was given and what is allowed. A single value in place of
a list is refused: `metrics: mae` would be read as three letters.
"""

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import numpy as np

Field = Callable[[str, Any], Any]
"""(name of the field, value) -> value."""


def set_fields(entry: Any, what: str, fields: Mapping[str, Field]) -> None:
    """Convert the fields of a frozen dataclass to their types.

    Args:
        entry: the dataclass.
        what: names it in messages, e.g. "task 'depth'".
        fields: the type of each field by its name.

    Raises:
        ValueError: on a value of a wrong type, naming entry and field.
    """
    for name, field in fields.items():
        try:
            object.__setattr__(entry, name, field(name, getattr(entry, name)))
        except ValueError as error:
            raise refusal(f"{what} has {error}") from None


def refusal(message: str, longest: int = 500) -> ValueError:
    """An error with the whole message, or only both ends of a long one, because values may have any length."""
    if len(message) > longest:
        half = (longest - len(" ... ")) // 2
        message = f"{message[:half]} ... {message[-half:]}"
    return ValueError(message)


def optional(field: Field) -> Field:
    """The same type, or None."""
    return lambda name, value: None if value is None else field(name, value)


def text(name: str, value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise ValueError(f"{name} {_shown(value)}; give text, in quotes where YAML reads it as something else")
    return value


def number(name: str, value: Any) -> float:
    """A finite number; an integer stays one."""
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_finite(value):
        raise ValueError(f"{name} {_shown(value)}; give a finite number{_meant(value)}")
    return value


def _meant(value: Any) -> str:
    """The number that a text such as `1 / 255` or `1e-3` means, which YAML does not read as one."""
    if not isinstance(value, str):
        return ""
    dividend, slash, divisor = value.partition("/")
    try:
        meant = float(dividend) / (float(divisor) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        return ""
    return f", in YAML {Decimal(repr(meant)):f}" if 1e-15 < abs(meant) < 1e15 else ""


def integer(name: str, value: Any) -> int:
    """An integer, without a decimal point."""
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} {_shown(value)}; give an integer")
    return value


def _list_of(field: Field, words: str) -> Field:
    def read(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)) and not (isinstance(value, np.ndarray) and value.ndim == 1):
            raise ValueError(f"{name} {_shown(value)}; give a list of {words}, also where it has one item")
        return tuple(field(f"{name} with the item", item) for item in value)

    return read


texts = _list_of(text, "text")
numbers = _list_of(number, "numbers")
integers = _list_of(integer, "integers")


def number_or_numbers(name: str, value: Any) -> float | tuple[float, ...]:
    """One finite number, or a list of them."""
    return numbers(name, value) if isinstance(value, (list, tuple, np.ndarray)) else number(name, value)


def _plain(value: Any) -> Any:
    """A numpy scalar as Python's own, which JSON can hold."""
    return value.item() if isinstance(value, np.generic) else value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that is too large for a float
        return False


def _shown(value: Any, longest: int = 80) -> str:
    shown = repr(value)
    return f"{shown if len(shown) <= longest else shown[:longest] + '...'} ({type(value).__name__})"


__all__ = [
    "Field",
    "integer",
    "integers",
    "number",
    "number_or_numbers",
    "numbers",
    "optional",
    "refusal",
    "set_fields",
    "text",
    "texts",
]
