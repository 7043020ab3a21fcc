"""Dataclass fields that become flags, and checks of their values."""

import json
import operator
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, field, fields
from typing import Any


def flag(default: Any, help_text: str, **keywords: Any) -> Any:
    """A dataclass field that becomes a flag.

    Args:
        default: its value if it is not given; lists are copied.
        help_text: for `--help`.
        keywords: of `argparse.ArgumentParser.add_argument`, such as `choices`, `nargs` and `metavar`.
    """
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata={"help": help_text, **keywords})
    return field(default=default, metadata={"help": help_text, **keywords})


def check_bounds(arguments: Any, at_least: Mapping[float, Sequence[str]], at_most: Mapping[float, Sequence[str]] | None = None) -> None:
    """Refuse numbers that are too small or too large, and NaN.

    Args:
        arguments: a dataclass of flags; values of None are skipped, and of a list every item is checked.
        at_least: smallest allowed value -> names of the flags that it holds for.
        at_most: the same with the largest allowed value.

    Raises:
        ValueError: with the flag, its value, and what is allowed.
    """
    for bounds, fits, words in ((at_least, operator.ge, "at least"), (at_most or {}, operator.le, "at most")):
        for bound, names in bounds.items():
            for name in names:
                value = getattr(arguments, name)
                if not all(each is None or fits(each, bound) for each in (value if isinstance(value, list) else [value])):
                    raise ValueError(f"--{name} is {value}; it must be {words} {bound}")


def check_mutually_exclusive(arguments: Any, owner: str, names: Sequence[str]) -> None:
    """Refuse flags that have no effect when another one is given.

    Args:
        arguments: a dataclass of flags.
        owner: name of a flag that is None by default.
        names: names of the flags that have no effect with it.

    Raises:
        ValueError: if both are given.
    """
    defaults = {each.name: each.default if each.default_factory is MISSING else each.default_factory() for each in fields(arguments)}
    idle = [f"--{name} {getattr(arguments, name)}" for name in names if getattr(arguments, name) != defaults[name]]
    if getattr(arguments, owner) is not None and idle:
        raise ValueError(f"--{owner} {getattr(arguments, owner)} brings its own; drop {', '.join(idle)}")


def json_object(name: str, text: str) -> dict[str, Any]:
    """The value of a flag that takes a JSON object.

    Raises:
        ValueError: if the text is anything else.
    """
    with suppress(json.JSONDecodeError):
        values = json.loads(text)
        if isinstance(values, dict):
            return values
    raise ValueError(f"--{name} is {text!r}; give a JSON object such as " """'{"period": 24}'""")


__all__ = ["check_bounds", "check_mutually_exclusive", "flag", "json_object"]
