"""Dataclass fields that become flags, and checks of their values."""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, field, fields
from typing import Any

from mult_hf.model.entry_fields import refusal

MAX_WORKERS = 256
"""Largest number of processes that read data; larger numbers are typing errors, and starting so many takes minutes."""


def flag(default: Any, help_text: str, **keywords: Any) -> Any:
    """A dataclass field that becomes a flag.

    Args:
        default: default value; lists are copied.
        help_text: text for `--help`.
        keywords: keywords of `argparse.ArgumentParser.add_argument`, such as `choices`, `nargs` and `metavar`.
    """
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata={"help": help_text, **keywords})
    return field(default=default, metadata={"help": help_text, **keywords})


def check_bounds(arguments: Any, at_least: Mapping[float, Sequence[str]], at_most: Mapping[float, Sequence[str]] | None = None) -> None:
    """Reject numbers that are too small or too large, NaN and infinity.

    Args:
        arguments: a dataclass of flags; values of None are skipped, and of a list every item is checked.
        at_least: smallest allowed value -> names of its flags.
        at_most: largest allowed value -> names of its flags.

    Raises:
        ValueError: if a number is too small or NaN; the message names the flag, its value and the limit.
    """
    bounds = {name: [least, math.inf] for least, names in at_least.items() for name in names}
    for most, names in (at_most or {}).items():
        for name in names:
            bounds.setdefault(name, [-math.inf, most])[1] = most
    for name, (least, most) in bounds.items():
        value = getattr(arguments, name)
        if all(each is None or (least <= each <= most and math.isfinite(each)) for each in (value if isinstance(value, list) else [value])):
            continue
        limits = [f"at least {least}"] * (least > -math.inf) + [f"at most {most}" if most < math.inf else "finite"]
        raise ValueError(f"--{name} is {value}; it must be {' and '.join(limits)}")


def check_mutually_exclusive(arguments: Any, owner: str, names: Sequence[str]) -> None:
    """Reject flags that have no effect if another one is given.

    Args:
        arguments: a dataclass of flags.
        owner: name of the other flag, which is None by default.
        names: names of the flags that have no effect with it.

    Raises:
        ValueError: if both are given.
    """
    defaults = {each.name: each.default if each.default_factory is MISSING else each.default_factory() for each in fields(arguments)}
    idle = [f"--{name} {getattr(arguments, name)}" for name in names if getattr(arguments, name) != defaults[name]]
    if getattr(arguments, owner) is not None and idle:
        raise refusal(f"--{owner} {getattr(arguments, owner)} replaces these settings; remove {', '.join(idle)}")


def json_object(name: str, text: str) -> dict[str, Any]:
    """Parse the value of a flag that takes a JSON object.

    Raises:
        ValueError: if the text is not a JSON object.
    """
    with suppress(json.JSONDecodeError, TypeError):  # a program may give something else than text
        values = json.loads(text)
        if isinstance(values, dict):
            return values
    raise ValueError(f"--{name} is {text!r}; give a JSON object such as " """'{"period": 24}'""")


__all__ = ["MAX_WORKERS", "check_bounds", "check_mutually_exclusive", "flag", "json_object"]
