"""Proves that `mult-hf COMMAND` runs each command with its own flags, reports errors in one line, and works from an installed wheel."""

import importlib
import importlib.metadata
import os
import subprocess
import sys
import textwrap
import types
import zipfile
from pathlib import Path

import pytest
from huggingface_hub.errors import HTTPError
from tqdm.auto import tqdm

import mult_hf
from mult_hf.cli import main as module
from mult_hf.cli.errors import CommandError
from mult_hf.cli.main import COMMANDS, main
from mult_hf.training.loop import TrainingLoop
from support.training_runs import TINY, new_accelerate_state

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def command(monkeypatch):
    """Add a command `render moon` with a given result to the table; returns the argument lists that it received."""

    def install(result):
        def run(argv):
            calls.append(argv)
            if isinstance(result, BaseException):
                raise result
            return result

        monkeypatch.setitem(sys.modules, "moon", types.SimpleNamespace(main=run))
        return calls

    calls = []
    monkeypatch.setitem(COMMANDS, "render moon", module.Command("moon", "for tests"))
    return install


# --- dispatch


def test_a_command_gets_the_arguments_after_its_name(command):
    calls = command(None)
    assert main(["render", "moon", "out", "--size", "64"]) == 0
    assert calls == [["out", "--size", "64"]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "7"}),
    ],
)
def test_waiting_threads_check_a_few_times_and_sleep_unless_the_environment_says_otherwise(command, monkeypatch, given, expected):
    """OpenMP reads it when torch is loaded, which `mult-hf` leaves to the command."""
    command(None)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.setenv(name, given[name]) if name in given else monkeypatch.delenv(name)
    main(["render", "moon"])
    assert {name: os.environ[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ} == expected


@pytest.mark.parametrize("program", ["import examples.train", "from mult_hf.cli.main import main; main(['train', '--version'])"])
def test_threads_learn_how_to_wait_before_torch_is_loaded(program):
    """OpenMP reads its variables once, so a program that imports torch first has set them for nothing."""
    code = textwrap.dedent("""
        import os, sys
        sys.argv = ["mult-hf"]
        class Finder:
            def find_spec(self, name, *_):
                if name == "torch":
                    print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"), flush=True)
                    os._exit(0)
        sys.meta_path.insert(0, Finder())
    """)
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    command = [sys.executable, "-c", code + program]
    done = subprocess.run(command, capture_output=True, text=True, env={**environment, "PYTHONPATH": str(ROOT)}, cwd=ROOT, check=True)
    assert done.stdout.split() == ["PASSIVE", "1000"]


def test_the_command_line_of_the_process_is_the_default(command, monkeypatch):
    calls = command(None)
    monkeypatch.setattr(sys, "argv", ["anything.py", "render", "moon", "out"])
    main()
    assert calls == [["out"]]


def test_the_exit_status_is_that_of_the_command(command):
    command(1)
    assert main(["render", "moon"]) == 1


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    for name, entry in COMMANDS.items():
        assert f"\n  {name:14}{entry.summary}" in printed


def test_help_of_a_kind_of_command_lists_its_commands(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["render", "--help"])
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: mult-hf render KIND [-h]")
    assert "render rooms" in printed
    assert "render doom" in printed
    assert "predict" not in printed


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert (exit_.value.code, capsys.readouterr().out) == (0, f"mult-hf {mult_hf.__version__}\n")


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["paint"]])
def test_help_and_version_and_misspelt_commands_answer_without_importing_torch(argv):
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "mult_hf", *argv], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == (2 if argv == ["paint"] else 0)
    assert "mult_hf.cli.main\n" in done.stderr, "the report of imports"
    assert " torch\n" not in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_is_a_module_whose_help_shows_its_name(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        importlib.import_module(COMMANDS[name].module).main(["--help"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: mult-hf {name} [-h]")


@pytest.mark.slow
def test_commands_are_imported_when_they_run_and_the_first_ones_need_no_extra_beyond_train():
    """README's first command installs this extra alone. The others' libraries are blocked, as if they were not installed."""
    blocked = (
        "av gradio h5py matplotlib mitsuba omg onnx onnxruntime openvino prometheus_client python_multipart ray scipy skimage sklearn timm"
    )
    blocked = [*blocked.split(), "torchdata", "torchjd", "trimesh", "vizdoom"]
    script = f"""
        import sys
        sys.modules.update(dict.fromkeys({blocked}))  # importing one raises ImportError
        import mult_hf
        before = set(sys.modules)
        import mult_hf.cli.main
        print(*set(sys.modules) - before)
        import mult_hf.cli.train, mult_hf.cli.predict, mult_hf.cli.evaluate, mult_hf.cli.check
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) - set(sys.stdlib_module_names) == {"mult_hf.cli", "mult_hf.cli.main", "mult_hf.cli.errors"}


# --- errors


def test_inputs_after_a_flag_are_refused_with_where_they_stand(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "--output_dir", "maps", "photo.jpg"])
    assert "photo.jpg; inputs stand before all flags, or after --inputs; mult-hf predict --help" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predikt"], "unknown command 'predikt'; choose from: predict, train"),
        (["render"], "unknown command 'render'; choose from: render rooms, render doom; mult-hf --help"),
        (["-x"], "the command comes before its flags, but -x came first; choose from: predict, train"),
        (["--model", "m", "predict"], "the command comes before its flags, but --model came first; choose from: predict, train"),
        (["render", "sun"], "unknown command 'render sun'; choose from"),
        (["predcit", "photo.jpg"], "unknown command 'predcit'; choose from"),
        (["predcit", "photo.jpg"], "convert (did you mean predict?); mult-hf"),
        (["render", "romos"], "(did you mean render rooms?)"),
        (["xyz"], "convert; mult-hf --help shows"),
        ([], "required: COMMAND; choose from: predict, train"),
    ],
)
def test_an_unknown_command_is_refused(capsys, words, message):
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mult-hf: error: ")
    assert message in line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("--size is 8;\n  give 32"), "error: --size is 8; give 32"),
        (FileNotFoundError(2, "No such file or directory", "x.png"), "error: [Errno 2] No such file or directory: 'x.png'"),
        (ImportError('pip install "mult-hf[demo]"'), 'error: pip install "mult-hf[demo]"'),
        (CommandError("no variant runs"), "error: no variant runs"),
        (
            ValueError("Class validation error for validator 'validate_tasks':\n    ValueError: 'x' is not one of the tasks"),
            "error: 'x' is not one of the tasks",
        ),
        (ValueError(), "error: ValueError"),
        (HTTPError("Name or service not known"), "error: Name or service not known"),  # the Hub cannot be reached
    ],
)
def test_a_user_error_gives_one_line_and_status_2(command, capsys, error, line):
    command(error)
    assert main(["render", "moon"]) == 2
    assert capsys.readouterr().err == f"mult-hf render moon: {line}\n"


@pytest.mark.parametrize(
    "words", [["--debug", "render", "moon", "out"], ["render", "moon", "--debug", "out"], ["render", "moon", "out", "--debug"]]
)
def test_debug_shows_the_traceback_and_is_not_passed_to_commands(command, capsys, words):
    calls = command(ValueError("x" * 1000))
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert "Traceback (most recent call last)" in printed
    assert printed.endswith(f"error: {'x' * 1000}\n"), "all of the message"
    assert calls == [["out"]]


def test_a_long_message_is_truncated_and_names_the_flag_that_shows_it_in_full(command, capsys):
    command(ValueError(f"--size is {'x' * 1000}; give 32"))
    main(["render", "moon"])
    (line,) = capsys.readouterr().err.splitlines()
    assert 490 <= len(line.partition("error: ")[2]) <= 500
    assert "error: --size is xxx" in line
    assert line.endswith("xxx; give 32 (--debug shows it all)"), "the remedy is at the end"


def on_screen(text):
    """The lines that a terminal shows."""
    lines, column = [""], 0
    for character in text:
        if character == "\n":
            lines, column = [*lines, ""], 0
        elif character == "\r":
            column = 0
        else:
            lines[-1] = lines[-1][:column].ljust(column) + character + lines[-1][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize("error", [ValueError("the disk is full"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("is_closed", [True, False])
def test_a_message_beside_a_progress_bar_has_a_line_of_its_own(monkeypatch, capsys, error, is_closed):
    bars = []

    def run(argv):
        bar = tqdm(total=10, desc="training")
        bar.update(3)
        if is_closed:
            bar.close()
        bars.append(bar)  # as the error's traceback keeps it alive
        raise error

    monkeypatch.setitem(sys.modules, "moon", types.SimpleNamespace(main=run))
    monkeypatch.setitem(COMMANDS, "render moon", module.Command("moon", "for tests"))
    main(["render", "moon"])
    shown = on_screen(capsys.readouterr().err)
    bars[0].close()
    assert "mult-hf render moon: " + ("interrupted" if isinstance(error, KeyboardInterrupt) else "error: the disk is full") in shown
    assert not is_closed or any(line.startswith("training:  30%") for line in shown), "premise: there was a bar"


def test_an_error_during_training_has_a_line_of_its_own(capsys, data, tmp_path, monkeypatch):
    def fails(*_):
        raise FloatingPointError("step 1: depth is nan")

    monkeypatch.setattr(TrainingLoop, "take_step", fails)
    new_accelerate_state()
    assert main(["train", "--dataset", str(data), *TINY, "--output_dir", str(tmp_path)]) == 2
    shown = on_screen(capsys.readouterr().err)
    assert "mult-hf train: error: step 1: depth is nan" in shown
    assert any(line.startswith("training:   0%") for line in shown), "premise: there was a bar"


def test_a_bug_keeps_its_traceback(command):
    command(AttributeError("no such thing"))
    with pytest.raises(AttributeError):
        main(["render", "moon"])


def test_an_interrupt_gives_one_line_and_status_130(command, capsys):
    command(KeyboardInterrupt())
    assert main(["render", "moon"]) == 130
    assert capsys.readouterr().err == "mult-hf render moon: interrupted\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_flag_is_refused_in_one_line(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*name.split(), "--no_such_flag"])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mult-hf {name}: error: ")


@pytest.mark.slow
def test_a_real_process_ends_with_the_status_and_one_line(tmp_path):
    """A real run on a directory that is not a data set."""
    finished = subprocess.run([sys.executable, "-m", "mult_hf", "check", str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert finished.returncode == 2
    assert finished.stderr.splitlines()[-1].startswith("mult-hf check: error: ")
    assert "has no README.md" in finished.stderr
    assert "Traceback" not in finished.stderr


# --- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout."""
    pytest.importorskip("hatchling", reason="builds the wheel: pip install hatchling")
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = directory.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Unpack the wheel, as pip does; returns a function that runs Python with it, outside of the checkout."""
    directory = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory / "site")

    def run(*words):
        environment = {**os.environ, "PYTHONPATH": str(directory / "site"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=directory, env=environment)

    return run


def test_the_wheel_contains_only_the_package_and_the_card_template(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (points,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("entry_points.txt"))
    assert "mult-hf = mult_hf.cli.main:main" in points
    assert {name.split("/")[0] for name in names} == {"mult_hf"}
    assert "mult_hf/model_card.md" in names
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mult_hf").rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    assert files <= names
    assert names - files == {"mult_hf/model_card.md"}


def test_the_declared_command_is_main():
    (entry,) = importlib.metadata.EntryPoints((importlib.metadata.EntryPoint("mult-hf", "mult_hf.cli.main:main", "console_scripts"),))
    assert entry.load() is main


@pytest.mark.slow
def test_an_installed_wheel_shows_the_help_of_every_command_and_predicts_with_its_own_model(installed):
    """In one process, because importing torch takes longer than everything else."""
    argv = [
        "predict",
        "--inputs",
        str(ROOT / "docs/images/living-room.jpg"),
        "--tasks",
        "depth",
        "--output_dir",
        "out",
        "--image_size",
        "64",
    ]
    script = f"""
import mult_hf
from mult_hf.cli.main import main
assert "/site/" in mult_hf.__file__, mult_hf.__file__
for name in {list(COMMANDS)}:
    try:
        main([*name.split(), "--help"])
    except SystemExit as exit:
        assert exit.code in (0, None), name
assert main({argv}) == 0
"""
    finished = installed("-c", script)
    assert finished.returncode == 0, finished.stderr
    for name in COMMANDS:
        assert f"usage: mult-hf {name} [-h]" in finished.stdout
    assert finished.stdout.splitlines()[-1] == "written to out: 1 predicted, 0 predicted before, 0 failed"
