"""Proves that flags come from a file and then from the command line."""

import json
from dataclasses import make_dataclass
from pathlib import Path
from typing import Literal

import pytest

from mult_hf.cli.arguments import flag, parse_arguments


def arguments_class():
    fields = [
        ("config", Path | None, flag(None, "file")),
        ("steps", int, flag(3, "steps")),
        ("tasks", list[str], flag(["a"], "tasks")),
        ("deep", bool, flag(False, "deep")),
        ("options", str, flag("{}", "JSON")),
    ]
    return make_dataclass("Flags", fields)


def test_values_that_yaml_reads_as_booleans_are_words_again(tmp_path):
    """`mixed_precision: no` is a choice of its flag, `deep: no` a switch."""
    (tmp_path / "flags.yaml").write_text("precision: no\ndeep: yes\n")
    kind = make_dataclass(
        "Flags",
        [("config", Path | None, flag(None, "")), ("precision", Literal["no", "bf16"], flag("bf16", "")), ("deep", bool, flag(False, ""))],
    )
    parsed = parse_arguments(kind, ["--config", str(tmp_path / "flags.yaml")], "")
    assert (parsed.precision, parsed.deep) == ("no", True)


@pytest.mark.parametrize(("name", "text"), [("broken", "steps: [1,\n"), ("missing", None)])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, text):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"--config .*{name} cannot be read"):
        parse_arguments(arguments_class(), ["--config", str(tmp_path / name)], "")


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_flags_come_from_the_file_and_then_from_the_command_line(tmp_path, ending):
    file = tmp_path / f"flags.{ending}"
    file.write_text(json.dumps({"steps": 5, "tasks": ["b", "c"], "deep": True, "options": {"x": 1}}))
    parsed = parse_arguments(arguments_class(), ["--config", str(file), "--steps", "7"], "")
    assert (parsed.steps, parsed.tasks, parsed.deep, json.loads(parsed.options)) == (7, ["b", "c"], True, {"x": 1})


def test_a_key_that_is_no_flag_is_refused(tmp_path):
    file = tmp_path / "flags.yaml"
    file.write_text("stepz: 5\n")
    with pytest.raises(ValueError, match=r"flags.yaml has \['stepz'\]; expected flags by name: steps, tasks"):
        parse_arguments(arguments_class(), ["--config", str(file)], "")


def test_a_file_that_holds_no_flags_is_refused(tmp_path):
    file = tmp_path / "flags.yaml"
    file.write_text("- 5\n")
    with pytest.raises(ValueError, match="has list; expected flags by name"):
        parse_arguments(arguments_class(), ["--config", str(file)], "")


def test_lists_of_two_runs_are_two_lists():
    first, second = (parse_arguments(arguments_class(), [], "") for _ in range(2))
    first.tasks.append("b")
    assert second.tasks == ["a"]
