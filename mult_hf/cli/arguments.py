"""Command lines from dataclasses, with a configuration file before the flags; what the scripts in `examples/` share."""

import json
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from transformers import HfArgumentParser

from mult_hf.training.fields import check_bounds, check_mutually_exclusive, flag, json_object

Arguments = TypeVar("Arguments")

COMMAND: ContextVar[str | None] = ContextVar("COMMAND", default=None)
"""The `mult-hf COMMAND` that is running a script or a module, whose own name the user has never typed."""


def program_name(otherwise: str | None = None) -> str | None:
    """What a usage line calls the program: the command that runs it, or else this name; None leaves the choice to argparse."""
    return COMMAND.get() or otherwise


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
