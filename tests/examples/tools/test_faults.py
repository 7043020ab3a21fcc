"""Proves that the fault injector disturbs real runs, and says so if something was lost."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from examples.tools.faults import COLUMNS, FAULTS, FaultArguments, Try, programs, row
from support.training_runs import ROOT, environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits the files of another process")


@pytest.mark.nightly
@pytest.mark.slow
def test_two_faults_in_training_lose_no_step_for_good():
    """Really run, as a process: the runs are forked from it."""
    command = [sys.executable, str(ROOT / "examples/tools/faults.py"), "--faults", "stop", "fill", "--programs", "train"]
    finished = subprocess.run(
        [*command, "--repeats", "2", "--max_steps", "4"], capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=300
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in finished.stdout.splitlines()]
    assert table[0] == list(COLUMNS)
    assert [line[:3] for line in table[2:]] == [["stop", "train", "2"], ["fill", "train", "2"]]
    assert all(line[-1] == "2 of 2" for line in table[2:])


def test_a_row_of_the_table_shows_the_worst_of_its_tries():
    program = programs(Path("work"), 8)["train"]
    tries = [Try(0, "a | b", True), Try(3, "", True)]
    assert row("kill", program, tries) == ["kill", "train", "2", "0 to 3 of 8 steps done again", "a | b", "2 of 2"]
    assert row("kill", program, [replace(tries[0], equal=False)])[3:] == ["0 to 0 of 8 steps done again, **results**", "a | b", "0 of 1"]


def test_work_that_is_not_safe_is_counted_from_the_log_and_the_checkpoints(tmp_path):
    program = programs(Path("work"), 8)["train"]
    (tmp_path / "checkpoints/checkpoint-00000002").mkdir(parents=True)
    (tmp_path / "checkpoints/checkpoint-00000004.partial").mkdir()
    (tmp_path / "log.jsonl").write_text('{"step": 1, "seconds_per_step": 2}\n{"step": 3, "loss": 1}\n{"st')
    assert [path.name for path in tmp_path.glob(program.safe)] == ["checkpoint-00000002"]
    assert program.reached(tmp_path) == 3
    assert program.result(tmp_path) == [{"step": 1}, {"step": 3, "loss": 1}]


@pytest.mark.parametrize(("keywords", "message"), [({"faults": ["burn"]}, "--faults has"), ({"programs": ["fly"]}, "--programs has"),
                                                  ({"repeats": 0}, "--repeats is 0")])  # fmt: skip
def test_invalid_arguments_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        FaultArguments(**keywords)
    assert FaultArguments().faults == list(FAULTS)
