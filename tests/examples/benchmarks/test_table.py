"""The table of all benchmarks times the rows of a group in turns, and says which rows were not run."""

import importlib
import json
from pathlib import Path

import pytest
from transformers.initialization import no_init_weights

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


def test_a_row_that_fails_says_why_and_the_command_returns_1(benchmark, monkeypatch, capsys):
    def failing(arguments):
        raise RuntimeError("no compiler\nin detail")

    monkeypatch.setattr(benchmark, "GROUPS", {"g": {"a": failing, "b": lambda arguments: lambda: None}})
    assert benchmark.main(["--repeats", "1"]) == 1
    assert "| g | a | failed: RuntimeError: no compiler | - |" in unpadded(capsys.readouterr().out)


def test_a_failed_prediction_is_no_time(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "PREDICTED_IMAGES", 1)
    monkeypatch.setattr(benchmark, "predict_images", lambda argv: 1)
    rows = {"a": lambda arguments: benchmark.predict_many(arguments, "torch", "float32")}
    assert "mult-hf predict --runtime torch" in benchmark.measure(rows, benchmark.TableArguments(repeats=1))["a"]


def test_times_are_multiples_of_the_groups_first_row_that_was_run(benchmark):
    results = {"g": {"a": "not run", "b": [0.2, 0.1, 0.3], "c": [0.4]}, "h": {"d": "not run"}}
    text = unpadded(benchmark.table(results, benchmark.Clock("cpu", 1)))
    assert text.splitlines()[2:] == [
        "| g | a | not run | - |",
        "| g | b | 200.0 | 1.00 |",
        "| g | c | 400.0 | 2.00 |",
        "| h | d | not run | - |",
    ]


def test_a_group_ends_after_its_time_but_every_row_is_timed_once(benchmark):
    rows = dict.fromkeys(("one", "other"), lambda arguments: lambda: None)
    results = benchmark.measure(rows, benchmark.TableArguments(repeats=1000, seconds_per_group=0))
    assert [len(seconds) for seconds in results.values()] == [1, 1]


def test_memory_is_measured_once_and_shown_in_mib(benchmark):
    rows = {"a": lambda arguments: lambda: 300.2, "b": lambda arguments: lambda: 150.1}
    results = benchmark.measure(rows, benchmark.TableArguments(), memory=True)
    text = unpadded(benchmark.table({"memory": results}, benchmark.Clock("cpu", 1)))
    assert text.splitlines()[2:] == ["| memory | a | 300 MiB | 1.00 |", "| memory | b | 150 MiB | 0.50 |"]


def test_the_command_saves_every_row_and_runs_only_the_chosen_groups(benchmark, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark, "MATMUL_SIDE", 64)
    output = tmp_path / "table.json"
    assert benchmark.main(["--groups", "limit", "--repeats", "1", "--output", str(output)]) == 0
    results = json.loads(output.read_text())["results"]
    assert {group: set(rows) for group, rows in results.items()} == {group: set(rows) for group, rows in benchmark.GROUPS.items()}
    (seconds,) = results.pop("limit").values()
    assert len(seconds) == 1
    assert {row for rows in results.values() for row in rows.values()} == {"not run"}
    assert "| training | MulT | not run | - |" in unpadded(capsys.readouterr().out)


@pytest.mark.nightly
@pytest.mark.slow
def test_each_kind_of_row_runs(benchmark, monkeypatch):
    """With the network at its smallest size; rows of other runtimes are those of the benchmark of runtimes."""
    small = {"preset": "small", "image_size": 32, "batch_sizes": [1], "tasks": ["depth", "normals", "edges2d"]}
    arguments = benchmark.TableArguments(repeats=1)
    rows = {**benchmark.trainings(small), "pixels": lambda arguments: benchmark.of_network(arguments, "small", 32)}
    rows |= {name: row for name, row in benchmark.forwards(small).items() if name.startswith(("torch, ", "one ", "six "))}
    monkeypatch.setattr(benchmark, "SMALL", small)
    rows |= benchmark.GROUPS["tasks"]
    results = benchmark.measure(rows, arguments)
    with no_init_weights():  # which takes most of the time of these two, and no part in that of a forward pass
        one_task = {name: row for name, row in benchmark.GROUPS["one-task"].items() if not name.startswith("MulT")}
        results |= benchmark.measure(one_task, arguments)
    assert [title for title, seconds in results.items() if isinstance(seconds, str)] == []
    sizes = benchmark.measure(benchmark.memories(small), arguments, memory=True)
    assert sizes["MulT, gradient checkpointing"][0] < sizes["MulT"][0] < sizes["six networks of one task"][0]


@pytest.mark.slow
def test_predicting_many_images_is_a_row_per_runtime(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "PREDICTED_IMAGES", 2)
    monkeypatch.setattr(benchmark, "PREDICTED_SIDE", 48)
    assert set(benchmark.GROUPS["predict"]) == {f"{runtime}, {dtype}" for runtime, dtype in benchmark.CHOICES}
    action = benchmark.predict_many(benchmark.TableArguments(), "torch", "float32")
    action()
    action()  # the same command can run again; a failed one raises


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
