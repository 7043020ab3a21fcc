"""Command lines from dataclasses, with a configuration file before the flags; what the scripts in `examples/` share."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import MISSING, field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from transformers import HfArgumentParser

Arguments = TypeVar("Arguments")

COMMAND: ContextVar[str | None] = ContextVar("COMMAND", default=None)
"""The `mult-hf COMMAND` that is running a script or a module, whose own name the user has never typed."""


def program_name(otherwise: str | None = None) -> str | None:
    """What a usage line calls the program: the command that runs it, or else this name; None leaves the choice to argparse."""
    return COMMAND.get() or otherwise


def flag(default: Any, help_text: str) -> Any:
    """A dataclass field that becomes a flag of this default and help; lists are copied."""
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata={"help": help_text})
    return field(default=default, metadata={"help": help_text})


def check_bounds(arguments: Any, at_least: Mapping[float, Sequence[str]]) -> None:
    """Refuse numbers that are too small, or none.

    Args:
        arguments: a dataclass of flags; those that are None are not looked at.
        at_least: for each smallest value the flags that have it.

    Raises:
        ValueError: with the flag, its value, and what is allowed.
    """
    for least, names in at_least.items():
        for name in names:
            value = getattr(arguments, name)
            if value is not None and not value >= least:
                raise ValueError(f"--{name} is {value}; it must be at least {least}")


def check_mutually_exclusive(arguments: Any, owner: str, names: Sequence[str]) -> None:
    """Refuse flags that have no effect beside another one.

    Args:
        arguments: a dataclass of flags.
        owner: name of a flag that is None by default.
        names: of flags that do nothing where that one is given.

    Raises:
        ValueError: if both are given.
    """
    defaults = {each.name: each.default if each.default_factory is MISSING else each.default_factory() for each in fields(arguments)}
    idle = [f"--{name} {getattr(arguments, name)}" for name in names if getattr(arguments, name) != defaults[name]]
    if getattr(arguments, owner) is not None and idle:
        raise ValueError(f"--{owner} {getattr(arguments, owner)} brings its own; drop {', '.join(idle)}")


def json_object(name: str, text: str) -> dict[str, Any]:
    """What a flag holds that takes a JSON object.

    Raises:
        ValueError: if it holds something else.
    """
    with suppress(json.JSONDecodeError):
        values = json.loads(text)
        if isinstance(values, dict):
            return values
    raise ValueError(f"--{name} is {text!r}; give a JSON object such as " """'{"period": 24}'""")


def parse_arguments(kind: type[Arguments], argv: Sequence[str], description: str, prog: str | None = None) -> Arguments:
    """Read a command line, after the file that `--config` names, if the dataclass has such a field.

    Args:
        kind: dataclass whose fields are the flags.
        argv: of the command line, without the program's name.
        description: for `--help`.
        prog: name of the program in messages, such as `"mult-hf train"`; the running command or file by default.

    Raises:
        ValueError: if the file is not there, is no YAML, or has a key that is no flag.
    """
    parser = HfArgumentParser(kind, prog=prog or program_name(), description=description)
    config: Path | None = getattr(parser.parse_args([*argv]), "config", None)
    if config is None:
        return parser.parse_args_into_dataclasses([*argv])[0]
    values = _read(config)
    allowed = [f.name for f in fields(kind) if f.name != "config"]
    if not isinstance(values, dict) or set(values) - set(allowed):
        given = sorted(map(str, set(values) - set(allowed))) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"{config} has {given}; expected flags by name: {', '.join(allowed)}")
    in_file = [word for key, value in values.items() if value is not None for word in as_words(key, value)]
    return parser.parse_args_into_dataclasses([*in_file, *argv])[0]


def _read(config: Path) -> Any:
    """The values of a YAML file, which JSON is, too."""
    try:
        return yaml.safe_load(config.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"--config {config} cannot be read: {error}") from error


def as_words(key: str, value: Any) -> list[str]:
    """What an entry of a configuration file is on the command line, so that both are checked in one way.

    Examples:
        >>> as_words("tasks", ["depth", "normals"]), as_words("weighting_options", {"period": 24})
        (['--tasks', 'depth', 'normals'], ['--weighting_options', '{"period": 24}'])
    """
    return [f"--{key}", *map(_as_word, value if isinstance(value, list) else [value])]


def _as_word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"  # as words they fit switches, and choices of which YAML takes `no` for false
    return json.dumps(value) if isinstance(value, dict) else str(value)


__all__ = ["as_words", "check_bounds", "flag", "json_object", "parse_arguments", "check_mutually_exclusive"]
