"""Proves that every command line ends with status 0 or 1 and a result, or with status 2 and one line that says why."""

import contextlib
import io
import shutil
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mult_hf.cli import train
from mult_hf.cli.check import CheckArguments
from mult_hf.cli.evaluate import EvaluationArguments
from mult_hf.cli.main import main
from mult_hf.cli.predict import PredictionArguments
from mult_hf.cli.train import TrainFlags
from support.strategies import cases
from support.training_runs import new_accelerate_state

WORDS = st.sampled_from(
    [
        *("", "0", "1", "2", "-1", "1.5", "nan", "inf", "-inf", "1e400", "99999999999999999999", "²", "32", "33", "128"),
        *("[]", "{}", "[[", "null", "no", "yes", "none", "é", "a b", "-", "-x", "--", "\n", "x" * 600, "abc", "cosine", "latest"),
        *("depth", "depth,normals", "normals", "self", "encoder", "self+skip", "float16"),
        *("missing/directory", "README.md", ".", "..", "*", "image.png", "broken.png", "model", "maps"),
    ]
)
NEVER_MANY = ("num_workers", "cpu_threads", "log_with", "push_to_hub", "resamples", "scales")  # processes, networks, memory, minutes
KINDS = {"predict": PredictionArguments, "train": TrainFlags, "evaluate": EvaluationArguments, "check": CheckArguments}


@pytest.fixture(scope="module")
def place(checkpoint, data, tmp_path_factory):
    """A directory with everything that right command lines name."""
    directory = tmp_path_factory.mktemp("place")
    (directory / "model").symlink_to(checkpoint)
    (directory / "maps").symlink_to(data)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)).save(directory / "image.png")
    (directory / "broken.png").write_bytes((directory / "image.png").read_bytes()[:100])
    return directory


FILES = ("model", "maps", "image.png", "broken.png")
RIGHT = {
    "predict": {"model": ["model"], "inputs": ["image.png"], "output_dir": ["out"], "cpu_threads": ["1"]},
    "train": {"dataset": ["maps"], "embed_dim": ["8"], "depths": ["1"] * 4, "window_size": ["4"], "output_dir": ["run"]},
    "evaluate": {"model": ["model"], "dataset": ["maps"], "max_samples": ["1"], "output_dir": ["results"], "cpu_threads": ["1"],
                 "resamples": ["2"]},
    "check": {"samples": ["2"]},
}  # fmt: skip


@st.composite
def command_lines(draw, command):
    """A right command line with up to two flags added, changed or left out, or something that is no flag."""
    flags = {**RIGHT[command]}
    names = [each.name for each in fields(KINDS[command]) if each.name not in (*NEVER_MANY, "data")]
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(names))
        if draw(st.integers(0, 4)):
            flags[name] = draw(st.lists(WORDS, max_size=3 if draw(st.booleans()) else 1))
        else:
            flags.pop(name, None)
    argv = [word for name, values in flags.items() for word in (f"--{name}", *values)]
    argv = [draw(st.sampled_from(["maps", "maps", "maps", "model", "image.png", "nothing"])), *argv] if command == "check" else argv
    if not draw(st.integers(0, 9)):
        argv.insert(draw(st.integers(0, len(argv))), draw(WORDS))
    return [command, *argv]


def run(argv):
    """(status, lines on stderr) of a command in this process."""
    new_accelerate_state()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(argv)
        except SystemExit as error:
            status = error.code
    return status, err.getvalue().splitlines()


def assert_ends_well(argv, place):
    for left in place.iterdir():  # by an earlier command line
        if left.name not in FILES:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    status, lines = run(argv)
    assert status in (0, 1, 2), status
    if status == 2:
        assert lines[-1].startswith("mult-hf"), "one line, after whatever libraries warn of"
        assert sum(line.startswith("mult-hf") for line in lines) == 1
        assert ": error: " in lines[-1]
        assert len(lines[-1]) < 700, "500 characters, and the names of program and command"


@pytest.fixture
def in_place(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(train, "train", lambda *arguments, **keywords: None)  # everything up to the first step
    return place


@cases(2)
@given(command_lines("train"))
def test_train(in_place, argv):
    assert_ends_well(argv, in_place)


@given(command_lines("predict"))
def test_predict(in_place, argv):
    assert_ends_well(argv, in_place)


@cases(0.5)
@given(command_lines("evaluate"))
def test_evaluate(in_place, argv):
    assert_ends_well(argv, in_place)


@cases(0.5)
@given(command_lines("check"))
def test_check(in_place, argv):
    assert_ends_well(argv, in_place)


@given(
    st.lists(
        st.one_of(WORDS, st.sampled_from(["render", "rooms", "doom", "convert", "taskonomy", "export", "demo", "--debug"])), max_size=2
    )
)
def test_commands_that_do_not_exist(in_place, argv):
    if [word for word in argv if word != "--debug"][:1] not in (["demo"], ["export"]):  # which need no more words to run
        assert_ends_well(argv, in_place)
