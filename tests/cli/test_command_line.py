"""Proves that `mult-hf COMMAND` runs the same code as the scripts and modules, from a checkout and from a wheel."""

import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mult_hf import __main__ as command_line
from mult_hf.cli.arguments import program_name

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ran(monkeypatch):
    """What would be run, with which words."""
    calls = []
    monkeypatch.setattr(sys, "argv", ["mult-hf"])
    monkeypatch.setattr(command_line.runpy, "run_path", lambda path, run_name: calls.append((path, run_name, sys.argv[1:])))
    monkeypatch.setattr(command_line.runpy, "run_module", lambda name, run_name, alter_sys: calls.append((name, run_name, sys.argv[1:])))
    return calls


@pytest.mark.parametrize(
    ("command", "script"),
    [("predict", "predict"), ("train", "train"), ("evaluate", "evaluate"), ("export", "export"), ("demo", "app")],
)
def test_a_script_gets_the_words_behind_its_name(ran, command, script):
    command_line.main([command, "--model", "me/mult", "--help"])
    assert ran == [(str(ROOT / "examples" / f"{script}.py"), "__main__", ["--model", "me/mult", "--help"])]


@pytest.mark.parametrize(
    ("words", "module"),
    [
        (["check"], "mult_hf.data.check"),
        (["render", "rooms"], "mult_hf.data.synthetic.rooms"),
        (["render", "doom"], "mult_hf.data.synthetic.doom"),
    ],
)
def test_a_tool_for_data_gets_the_words_behind_its_name(ran, words, module):
    command_line.main([*words, "out", "--samples", "3"])
    assert ran == [(module, "__main__", ["out", "--samples", "3"])]


def test_the_words_of_the_command_line_are_taken_by_default(ran, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mult-hf", "check", "my-rooms"])
    command_line.main()
    assert ran == [("mult_hf.data.check", "__main__", ["my-rooms"])]


def test_help_lists_every_command(ran, capsys):
    with pytest.raises(SystemExit) as exit_:
        command_line.main(["--help"])
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    for name in ("predict", "train", "evaluate", "export", "demo", "check", "render rooms", "render doom"):
        assert f"\n  {name} " in printed
    assert not ran


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predikt"], "there is no command 'predikt'; choose from: predict, train"),
        (["render"], "'render'; choose from"),
        (["render", "moon"], "'render moon'"),
        ([], "required: COMMAND"),
    ],
)
def test_a_command_that_does_not_exist_is_refused(ran, capsys, words, message):
    with pytest.raises(SystemExit) as exit_:
        command_line.main(words)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
    assert not ran


def test_the_exit_status_is_that_of_what_runs(tmp_path):
    """Really run: a directory that is no data set."""
    finished = subprocess.run([sys.executable, "-m", "mult_hf", "check", str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert finished.returncode == 1
    assert "has no README.md" in finished.stderr


@pytest.mark.parametrize("command", ["predict", "train", "evaluate", "check", "render rooms", "render doom"])
def test_usage_lines_show_the_command_that_was_typed(capsys, command):
    """Really run, up to their help."""
    with pytest.raises(SystemExit):
        command_line.main([*command.split(), "--help"])
    assert capsys.readouterr().out.startswith(f"usage: mult-hf {command} [-h]")
    assert program_name("check.py") == "check.py", "and only while it runs"


def test_an_installed_script_goes_before_one_of_a_folder_beside_the_package(monkeypatch, tmp_path):
    """In site-packages, `examples` beside the package is somebody else's."""
    for folder in ("examples", "mult_hf/examples"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "train.py").write_text("")
    monkeypatch.setattr(command_line, "PACKAGE", tmp_path / "mult_hf")
    assert command_line.script_path("train") == tmp_path / "mult_hf/examples/train.py"
    with pytest.raises(ValueError, match=r"predict\.py is at none of .*; install mult-hf again"):
        command_line.script_path("predict")


def test_the_command_is_declared():
    assert '\n[project.scripts]\nmult-hf = "mult_hf.__main__:main"\n' in (ROOT / "pyproject.toml").read_text()
    (entry,) = importlib.metadata.EntryPoints((importlib.metadata.EntryPoint("mult-hf", "mult_hf.__main__:main", "console_scripts"),))
    assert entry.load() is command_line.main


def test_the_wheel_holds_what_the_commands_run_and_what_the_scripts_look_for(tmp_path):
    """The scripts find data and card template from where they lie: `parents[2]` of the script is the package there."""
    pytest.importorskip("hatchling")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (points,) = (archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    assert "mult-hf = mult_hf.__main__:main" in points
    for name, _ in command_line.SCRIPTS.values():
        assert f"mult_hf/examples/{name}.py" in names
        source = (ROOT / "examples" / f"{name}.py").read_text()
        assert ("ROOT" in source) == ("ROOT = Path(__file__).resolve().parents[2]" in source), "they look from the folder above theirs"
    assert {"mult_hf/model_card.md", "mult_hf/examples/data/rooms-sample/README.md", "mult_hf/examples/app.js"} <= names
    assert {"mult_hf/docs/images/living-room.jpg", "mult_hf/docs/images/coffee.jpg"} <= names, "the photos that the demo offers"
    assert any(name.startswith("mult_hf/examples/data/rooms-sample/train-") for name in names)
    assert not any(name.startswith(("tests/", "examples/", "docs/")) for name in names)
