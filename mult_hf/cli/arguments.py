"""Command lines from dataclasses: each field is a flag, and a key of the configuration file that `--config` names."""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import field, fields
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from transformers import HfArgumentParser

from mult_hf.model.entry_fields import refusal
from mult_hf.training.fields import MAX_WORKERS, check_bounds, check_mutually_exclusive, flag, json_object

from .errors import OneLineParser, refusing_urls

Arguments = TypeVar("Arguments")

MOST_FLAGS_OF_A_USAGE = 24
"""Spellings of flags, one or two each, up to which the first lines of a command's help list them all."""

_NEGATIVE_NUMBER = re.compile(r"-\d+$|-\d*\.\d+$")
"""What argparse takes for a value although it starts with a dash."""


def positional(help_text: str, **keywords: Any) -> Any:
    """A dataclass field that becomes a required positional argument; `keywords` as for [`flag`]."""
    return field(metadata={"help": help_text, "positional": True, **keywords})


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help with one spelling of each flag, `--a_flag` (it is also taken as `--a-flag`), and without defaults of None."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        shown = ", ".join(dict.fromkeys(_underscored(name) for name in action.option_strings))
        if action.nargs == 0:
            return shown
        values = "[{yes,no}]" if action.const is True else self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{shown} {values}"

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.nargs == 0 else super()._get_help_string(action)


class CommandParser(OneLineParser, HfArgumentParser):
    """`HfArgumentParser` with positional arguments, one-line errors, and flags in groups.

    A dataclass may have `HELP_GROUPS`, the titles of groups by the field that each one starts with, and `BARE_WORDS`, what to say of words
    that belong to no flag.
    """

    def __init__(self, kind: Any, **keywords: Any) -> None:
        self.flags: set[str] = set()  # before they are added, which is done by:
        self.list_flags: list[str] = []
        self._titles = {name: title for base in reversed(kind.__mro__) for name, title in vars(base).get("HELP_GROUPS", {}).items()}
        self._group: argparse._ActionsContainer | None = None
        self.bare_words = getattr(kind, "BARE_WORDS", "")
        super().__init__(kind, formatter_class=HelpFormatter, **keywords)
        if len(self.flags) > MOST_FLAGS_OF_A_USAGE:
            places = [action.dest for action in self._get_positional_actions()]
            self.usage = " ".join(["%(prog)s", "[-h]", *places, "[--FLAG VALUE ...]"])

    def add_argument(self, *names: str, positional: bool = False, **keywords: Any) -> argparse.Action:
        """Add a flag, or a positional argument with the flag's name."""
        if keywords.get("action") == "store_false":  # HfArgumentParser repeats the help of --NAME for its complement --no_NAME
            keywords["help"] = f"switch off --{keywords['dest']}"
        self.flags.update(names)
        if keywords.get("nargs") in ("+", "*"):
            self.list_flags.append(names[0])
        if title := self._titles.pop(keywords.get("dest") or names[0].removeprefix("--"), None):
            self._group = self.add_argument_group(title)
        if not positional and self._group is not None:
            return self._group.add_argument(*names, **refusing_urls(keywords))
        if not positional:
            return super().add_argument(*names, **keywords)
        keywords.pop("required", None)
        return super().add_argument(names[0].removeprefix("--"), **keywords)

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        """What an abbreviation may stand for: a flag once, although it has two spellings, `--output_dir` and `--output-dir`."""
        by_flag: dict[int, Any] = {}
        for match in super()._get_option_tuples(option_string):
            by_flag.setdefault(id(match[0]), match)
        return list(by_flag.values())

    def check_repetition(self, argv: Sequence[str]) -> None:
        """Exit with a one-line message if a list is given in several parts, of which argparse would silently use the last."""
        given = [_underscored(word.split("=")[0]) for word in argv if re.match("--.", word)]
        flags = {_underscored(flag) for flag in self.flags}
        for name in self.list_flags:
            own = _underscored(name)
            times = sum(word == own or (own.startswith(word) and word not in flags) for word in given)  # or abbreviated
            if times > 1:
                self.error(f"{name} is given {times} times; list all values after one {name}")


def _underscored(flag: str) -> str:
    """One spelling of a flag: `--image-size` is `--image_size`, too."""
    return f"{flag[:2]}{flag[2:].replace('-', '_')}"


def parse_arguments(kind: type[Arguments], argv: Sequence[str], description: str, prog: str | None = None) -> Arguments:
    """Parse a command line. If the dataclass has a field `config`, the file given by `--config` is read first.

    Args:
        kind: dataclass whose fields are the flags.
        argv: the command line without the program's name.
        description: description for `--help`.
        prog: name of the program in messages, such as `"mult-hf predict"`; the running file's name by default.

    Raises:
        ValueError: if the configuration file does not exist, is not YAML, or has a key that is not a flag; or if `kind` raises it.
        SystemExit: with status 2 after a one-line message, if the command line has invalid flags or values.
    """
    parser = CommandParser(cast(Any, kind), prog=prog, description=description)
    config: Path | None = getattr(parser.parse_args([*argv]), "config", None)
    parser.check_repetition(argv)
    in_file = [] if config is None else _config_argv(config, kind)
    return parser.parse_args_into_dataclasses([*in_file, *argv], look_for_args_file=False)[0]


def _config_argv(config: Path, kind: type) -> list[str]:
    """The entries of a configuration file as a command line."""
    values = _read(config)
    allowed = [each.name for each in fields(kind) if each.name != "config" and not each.metadata.get("positional")]
    if not isinstance(values, dict) or set(values) - set(allowed):
        given = sorted(map(str, set(values) - set(allowed))) if isinstance(values, dict) else type(values).__name__
        raise refusal(f"{config} has {given}; expected flags by name: {', '.join(allowed)}")
    words: list[str] = []
    for key, value in values.items():
        flag, *given = as_argv(key, value)
        if value is not None and not isinstance(value, list):
            words.append(f"{flag}={given[0]}")  # whatever it starts with
        elif value is not None:
            if dashed := [word for word in given if word.startswith("-") and not _NEGATIVE_NUMBER.match(word)]:
                raise refusal(
                    f"{config} has {dashed[0]!r} in the list {key}, where it would be read as a flag; start a path with ./, and write "
                    "a number without an exponent"
                )
            words += [flag, *given]
    return words


class _EachKeyOnce(yaml.SafeLoader):
    """The safe loader, which makes plain values only; refuses a repeated key, where YAML would silently use the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        repeated = sorted({str(key) for key in keys if keys.count(key) > 1 and key != "<<"})
        if repeated:
            raise ValueError(f"it has {repeated} more than once")
        return super().construct_mapping(node, deep)


def _read(config: Path) -> Any:
    """The values of a YAML file; JSON is valid YAML."""
    try:
        return _EachKeyOnce(config.read_text(encoding="utf-8")).get_single_data()
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise refusal(f"--config {config} cannot be read: {error}; give a YAML or JSON file of flags") from error


def as_argv(key: str, value: Any) -> list[str]:
    """Convert an entry of a configuration file to command-line arguments, so that both are checked in the same way.

    Examples:
        >>> as_argv("tasks", ["depth", "normals"]), as_argv("weighting_options", {"period": 24})
        (['--tasks', 'depth', 'normals'], ['--weighting_options', '{"period": 24}'])
    """
    return [f"--{key}", *map(_as_word, value if isinstance(value, list) else [value])]


def _as_word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"  # as text they work for switches, and for choices such as `no`, which YAML reads as false
    return json.dumps(value) if isinstance(value, dict) else str(value)


__all__ = [
    "MAX_WORKERS",
    "CommandParser",
    "as_argv",
    "check_bounds",
    "check_mutually_exclusive",
    "flag",
    "json_object",
    "parse_arguments",
    "positional",
]
