"""Proves that a dataclass defines a command line: flags, positional arguments, a file of flags, and one-line errors."""

import json
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Literal

import pytest

from mult_hf.cli.arguments import check_bounds, flag, parse_arguments, positional
from mult_hf.cli.predict import with_inputs_named


@dataclass
class Arguments:
    """For tests."""

    root: Path = positional("where", metavar="ROOT")
    output_dir: Path = positional("where to")
    config: Path | None = flag(None, "file")
    size: int = flag(128, "pixels")
    mode: str = flag("fast", "how", choices=("fast", "exact"))
    names: list[str] = flag(["a"], "which")
    panels: bool = flag(True, "draw panels")

    def __post_init__(self) -> None:
        check_bounds(self, {1: ["size"]})


def parse(*argv):
    return parse_arguments(Arguments, argv, "For tests.", prog="mult-hf test")


def test_positional_arguments_come_in_the_order_of_the_fields_and_flags_anywhere():
    assert parse("in", "--size", "64", "out") == Arguments(Path("in"), Path("out"), size=64)


def test_an_abbreviation_of_a_flag_with_two_spellings_is_not_ambiguous(capsys):
    kind = make_dataclass("kind", [("image_size", int, flag(1, "pixels")), ("image_dir", str, flag("a", "folder"))])
    assert parse_arguments(kind, ["--image_s", "3"], "For tests.").image_size == 3
    assert parse_arguments(kind, ["--image-s", "3"], "For tests.").image_size == 3
    with pytest.raises(SystemExit):
        parse_arguments(kind, ["--image", "3"], "For tests.")
    assert "ambiguous option: --image could match --image_size, --image_dir;" in capsys.readouterr().err


def test_flags_of_the_file_come_before_those_of_the_command_line(tmp_path):
    (tmp_path / "flags.yaml").write_text("size: 32\nmode: exact\n")
    arguments = parse("in", "out", "--config", str(tmp_path / "flags.yaml"), "--size", "48")
    assert (arguments.size, arguments.mode) == (48, "exact")


def test_a_file_cannot_set_positional_arguments(tmp_path):
    (tmp_path / "flags.yaml").write_text("root: elsewhere\n")
    with pytest.raises(ValueError, match=r"has \['root'\]; expected flags by name: size, mode, names, panels"):
        parse("in", "out", "--config", str(tmp_path / "flags.yaml"))


def test_help_of_a_negated_flag_names_the_flag_that_it_switches_off(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    lines = " ".join(capsys.readouterr().out.split())
    assert "--no_panels switch off --panels" in lines
    assert lines.count("draw panels") == 1
    assert not parse("in", "out", "--no_panels").panels


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["in"], "the following arguments are required: output_dir"),
        (["in", "out", "--size", "big"], "argument --size: invalid int value: 'big'"),
        (["in", "s3://bucket/out"], "argument output_dir: s3://bucket/out is a URL; give a path on this machine, and copy its files"),
        (["in", "out", "--config", "s3://bucket/flags.yaml"], "argument --config: s3://bucket/flags.yaml is a URL"),
        (["in", "out", "--mode", "slow"], "argument --mode: invalid choice: 'slow'"),
        (["in", "out", "--colour", "red"], "unrecognized arguments: --colour red; mult-hf"),
        (
            ["in", "out", "--siez", "8", "--mdoe=fast"],
            "unrecognized arguments: --siez 8 --mdoe=fast (did you mean --size, --mode?); mult-hf",
        ),
        (["", "out"], "the argument is empty; give a value"),
        (["in", ""], "the argument after in is empty; give a value, or leave the flag out"),
        (["in", "out", "--mode", ""], "the argument after --mode is empty"),
        (["in", "out", "--mode="], "the argument after out is empty"),
        (["in", "out", "--names", "a", ""], "the argument after a is empty"),
        (["in", "out", "--names", "a", "--names", "b"], "--names is given 2 times; list all values after one --names"),
        (["in", "out", "--nam=a", "--names", "b"], "--names is given 2 times"),
    ],
)
def test_invalid_arguments_give_one_line_and_status_2(capsys, argv, message):
    with pytest.raises(SystemExit) as exit_:
        parse(*argv)
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mult-hf test: error: {message}")
    assert line.endswith("mult-hf test --help shows what is allowed")


def test_help_shows_names_choices_and_defaults(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    printed = capsys.readouterr().out
    for text in ("usage: mult-hf test [-h]", "ROOT", "{fast,exact}", "(default: 128)"):
        assert text in printed


def test_help_shows_one_spelling_of_a_flag_and_only_defaults_that_are_values(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    printed = capsys.readouterr().out
    assert "--no-panels" not in printed
    assert "--panels [{yes,no}]" in printed
    assert "None" not in printed


def test_help_of_many_flags_has_groups_and_a_short_usage(capsys):
    kind = make_dataclass(
        "Many",
        [(f"flag_{number}", int, flag(number, "a number")) for number in range(20)],
        namespace={"HELP_GROUPS": {"flag_3": "some of them", "flag_10": "the others"}},
    )
    with pytest.raises(SystemExit):
        parse_arguments(kind, ["--help"], "For tests.", prog="mult-hf many")
    printed = capsys.readouterr().out
    assert printed.startswith("usage: mult-hf many [-h] [--FLAG VALUE ...]\n")
    places = [
        printed.index(text) for text in ("--flag_2", "some of them:", "--flag_3", "--flag_9", "the others:", "--flag_10", "--flag_19")
    ]
    assert places == sorted(places)
    assert parse_arguments(kind, ["--flag-10", "7"], "For tests.").flag_10 == 7


def test_a_group_may_start_with_a_switch_and_a_subclass_may_rename_it(capsys):
    base = make_dataclass("Base", [("panels", bool, flag(True, "draw"))], namespace={"HELP_GROUPS": {"panels": "old name"}})
    kind = make_dataclass("Kind", [], bases=(base,), namespace={"HELP_GROUPS": {"panels": "new name"}})
    with pytest.raises(SystemExit):
        parse_arguments(kind, ["--help"], "For tests.")
    printed = capsys.readouterr().out
    assert printed.count("new name:") == 1
    assert "old name" not in printed


def test_an_arguments_file_next_to_the_program_is_not_read(tmp_path, monkeypatch):
    """`HfArgumentParser` would read `PROGRAM.args` from the folder of the running program."""
    (tmp_path / "program.args").write_text("--size 32")
    monkeypatch.setattr("sys.argv", [str(tmp_path / "program.py")])
    assert parse("in", "out").size == 128


def arguments_class():
    fields = [
        ("config", Path | None, flag(None, "file")),
        ("steps", int, flag(3, "steps")),
        ("tasks", list[str], flag(["a"], "tasks")),
        ("deep", bool, flag(False, "deep")),
        ("options", str, flag("{}", "JSON")),
    ]
    return make_dataclass("Flags", fields)


def test_yaml_booleans_become_text_again(tmp_path):
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


def test_a_list_on_the_command_line_replaces_that_of_the_file_and_a_repeated_number_the_one_before(tmp_path):
    (tmp_path / "flags.yaml").write_text("tasks: [a, b]\nsteps: 1\n")
    parsed = parse_arguments(
        arguments_class(), ["--config", str(tmp_path / "flags.yaml"), "--tasks", "c", "--steps", "2", "--steps", "3"], ""
    )
    assert (parsed.tasks, parsed.steps) == (["c"], 3)


def test_a_flag_whose_name_begins_another_is_no_repetition_of_it():
    kind = make_dataclass("Flags", [("decoder", str, flag("a", "")), ("decoder_heads", list[int], flag([1], ""))])
    parsed = parse_arguments(kind, ["--decoder", "b", "--decoder_heads", "2", "3"], "")
    assert (parsed.decoder, parsed.decoder_heads) == ("b", [2, 3])
    for first, second in (("--decoder_h", "--decoder_heads"), ("--decoder-heads", "--decoder-heads"), ("--decoder-h", "--decoder_heads=3")):
        with pytest.raises(SystemExit):
            parse_arguments(kind, [first, "2", second, *([] if "=" in second else ["3"])], "")


@pytest.mark.parametrize("text", ["tasks: [a, --deep]", "tasks: [-a.jpg]", "tasks: [-1e-3]"])
def test_a_value_in_a_list_of_the_file_never_becomes_a_flag(tmp_path, text):
    (tmp_path / "flags.yaml").write_text(f"{text}\n")
    with pytest.raises(
        ValueError, match=r"flags.yaml has '-.*' in the list tasks, where it would be read as a flag; start a path with \./"
    ):
        parse_arguments(arguments_class(), ["--config", str(tmp_path / "flags.yaml")], "")


@pytest.mark.parametrize("value", ["--deep", "-", "-a b", "-1.0e-5", "-1", "a=b"])
def test_a_single_value_of_the_file_may_start_with_anything(tmp_path, value):
    (tmp_path / "flags.yaml").write_text(f"tasks: '{value}'\noptions: '{value}'\n")
    parsed = parse_arguments(arguments_class(), ["--config", str(tmp_path / "flags.yaml")], "")
    assert (parsed.tasks, parsed.options, parsed.deep) == ([value], value, False)


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_flags_come_from_the_file_and_then_from_the_command_line(tmp_path, ending):
    file = tmp_path / f"flags.{ending}"
    file.write_text(json.dumps({"steps": 5, "tasks": ["b", "c"], "deep": True, "options": {"x": 1}}))
    parsed = parse_arguments(arguments_class(), ["--config", str(file), "--steps", "7"], "")
    assert (parsed.steps, parsed.tasks, parsed.deep, json.loads(parsed.options)) == (7, ["b", "c"], True, {"x": 1})


@pytest.mark.parametrize("text", ["steps: 100\ndeep: yes\nsteps: 200\n", '{"steps": 100, "steps": 200}'])
def test_a_repeated_key_is_refused(tmp_path, text):
    """YAML and JSON take the last one without a word."""
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"c.yaml cannot be read: it has \['steps'\] more than once"):
        parse_arguments(arguments_class(), ["--config", str(tmp_path / "c.yaml")], "")


def test_a_key_that_is_not_a_flag_is_refused(tmp_path):
    file = tmp_path / "flags.yaml"
    file.write_text("stepz: 5\n")
    with pytest.raises(ValueError, match=r"flags.yaml has \['stepz'\]; expected flags by name: steps, tasks"):
        parse_arguments(arguments_class(), ["--config", str(file)], "")


def test_a_file_without_flags_is_refused(tmp_path):
    file = tmp_path / "flags.yaml"
    file.write_text("- 5\n")
    with pytest.raises(ValueError, match="has list; expected flags by name"):
        parse_arguments(arguments_class(), ["--config", str(file)], "")


def test_default_lists_are_not_shared_between_runs():
    first, second = (parse_arguments(arguments_class(), [], "") for _ in range(2))
    first.tasks.append("b")
    assert second.tasks == ["a"]


@pytest.mark.parametrize("flag", ["--inputs", "--inp", "--inputs=b.png"])
def test_inputs_in_two_places_are_refused_and_not_half_used(flag):
    with pytest.raises(ValueError, match=r"before the flags, a\.png, and after --inputs; give them in one place"):
        with_inputs_named(["a.png", flag, "b.png"])
