"""The table of all benchmarks times the rows of a group in turns, and says which rows were not run."""

import importlib
import json
from pathlib import Path

import pytest

from support.tables import unpadded

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def benchmark(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "examples/benchmarks"))
    return importlib.import_module("table")


def test_rows_are_timed_in_turns_after_a_warm_up(benchmark):
    order = []
    rows = {name: lambda arguments, name=name: lambda: order.append(name) for name in ("one", "other")}
    results = benchmark.measure(rows, benchmark.TableArguments(repeats=2))
    assert order == ["one", "other"] * 3
    assert [len(seconds) for seconds in results.values()] == [2, 2]


def test_a_row_that_lacks_a_package_says_so_and_the_others_are_timed(benchmark):
    def without_package(arguments):
        raise ImportError("pip install x")

    results = benchmark.measure({"a": without_package, "b": lambda arguments: lambda: None}, benchmark.TableArguments(repeats=1))
    assert results["a"] == "not run: pip install x"
    assert len(results["b"]) == 1


def test_times_are_multiples_of_the_groups_first_row_that_was_run(benchmark):
    results = {"g": {"a": "not run", "b": [0.2, 0.1, 0.3], "c": [0.4]}, "h": {"d": "not run"}}
    text = unpadded(benchmark.table(results, benchmark.Clock("cpu", 1)))
    assert text.splitlines()[2:] == [
        "| g | a | not run | - |",
        "| g | b | 200.0 | 1.00 |",
        "| g | c | 400.0 | 2.00 |",
        "| h | d | not run | - |",
    ]


def test_the_command_saves_every_row_and_runs_only_the_chosen_groups(benchmark, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark, "MATMUL_SIDE", 64)
    output = tmp_path / "table.json"
    benchmark.main(["--groups", "limit", "--repeats", "1", "--output", str(output)])
    results = json.loads(output.read_text())["results"]
    assert {group: set(rows) for group, rows in results.items()} == {group: set(rows) for group, rows in benchmark.GROUPS.items()}
    (seconds,) = results.pop("limit").values()
    assert len(seconds) == 1
    assert {row for rows in results.values() for row in rows.values()} == {"not run"}
    assert "| training | MulT | not run | - |" in unpadded(capsys.readouterr().out)


@pytest.mark.slow
def test_each_kind_of_row_runs(benchmark, monkeypatch):
    """With the network at its smallest size; rows of other runtimes are those of the benchmark of runtimes."""
    small = {"preset": "small", "image_size": 32, "batch_sizes": [1]}
    arguments = benchmark.TableArguments(repeats=1)
    rows = {**benchmark.trainings(small), "pixels": lambda arguments: benchmark.of_size(arguments, 32)}
    rows |= {name: row for name, row in benchmark.forwards(small).items() if name.startswith(("torch, ", "one ", "six "))}
    monkeypatch.setattr(benchmark, "SMALL", small)
    one_task = benchmark.GROUPS["one-task"]
    rows |= {**benchmark.GROUPS["tasks"], **{name: row for name, row in one_task.items() if not name.startswith("MulT")}}
    results = benchmark.measure(rows, arguments)
    assert [title for title, seconds in results.items() if isinstance(seconds, str)] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": ["speed"]}, r"--groups has \['speed'\]; choose from limit, forward"),
        ({"device": "tpu"}, "--device is tpu; give cpu or cuda"),
        ({"repeats": 0}, "--repeats is 0; it must be at least 1"),
    ],
)
def test_settings_that_measure_nothing_are_refused(benchmark, options, message):
    with pytest.raises(ValueError, match=message):
        benchmark.TableArguments(**options)
