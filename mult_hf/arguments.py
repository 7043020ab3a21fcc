"""Command lines from dataclasses, with a configuration file before the flags; what the scripts in `examples/` share."""

import json
from collections.abc import Sequence
from dataclasses import field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from transformers import HfArgumentParser

Arguments = TypeVar("Arguments")


def flag(default: Any, help_text: str) -> Any:
    """A dataclass field that becomes a flag of this default and help; lists are copied."""
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata={"help": help_text})
    return field(default=default, metadata={"help": help_text})


def parse_arguments(kind: type[Arguments], words: Sequence[str], description: str) -> Arguments:
    """Read a command line, after the file that `--config` names, if the dataclass has such a field.

    Args:
        kind: dataclass whose fields are the flags.
        words: of the command line, without the program's name.
        description: for `--help`.

    Raises:
        ValueError: if the file has a key that is no flag.
    """
    parser = HfArgumentParser(kind, description=description)
    (arguments,) = parser.parse_args_into_dataclasses([*words])
    config: Path | None = getattr(arguments, "config", None)
    if config is None:
        return arguments
    values = yaml.safe_load(config.read_text())  # JSON is YAML, too
    allowed = [f.name for f in fields(kind) if f.name != "config"]
    if not isinstance(values, dict) or set(values) - set(allowed):
        given = sorted(set(values) - set(allowed)) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"{config} has {given}; expected flags by name: {', '.join(allowed)}")
    in_file = [word for key, value in values.items() if value is not None for word in as_words(key, value)]
    return parser.parse_args_into_dataclasses([*in_file, *words])[0]


def as_words(key: str, value: Any) -> list[str]:
    """What an entry of a configuration file is on the command line, so that both are checked in one way.

    Example:
        >>> as_words("tasks", ["depth", "normals"]), as_words("weighting_options", {"period": 24})
        (['--tasks', 'depth', 'normals'], ['--weighting_options', '{"period": 24}'])
    """
    values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
    return [f"--{key}", *map(str, values)]


__all__ = ["as_words", "flag", "parse_arguments"]
