"""The benchmark of what a user waits for measures each case of each checkout in a process of its own."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from support.tables import unpadded

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "examples/benchmarks/end_to_end.py"


@pytest.fixture(scope="module")
def benchmark():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("benchmark_end_to_end", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark_end_to_end"] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["benchmark_end_to_end"]


@pytest.mark.nightly
@pytest.mark.slow
def test_the_command_prints_seconds_and_memory_of_each_case(benchmark, tmp_path, capsys):
    output = tmp_path / "results.json"
    benchmark.main(["--megapixels", "0.03", "--repeats", "1", "--cases", "nothing looked at", "--output", str(output)])
    printed = capsys.readouterr().out
    rows = [line for line in unpadded(printed).splitlines() if line.startswith(("| pipeline", "| mult-hf"))]
    assert [row.split(" | ")[0] for row in rows] == ["| pipeline, nothing looked at"]
    (table,) = json.loads(output.read_text())["tables"]
    for by_checkout in table["runs"].values():
        ((run,),) = by_checkout.values()
        assert 0 < run["seconds"] < 60
        assert 100 < run["peak_mib"] < 10_000


def test_images_have_the_megapixels_asked_for_and_the_small_one_comes_first(benchmark, tmp_path):
    small, *large = benchmark.make_images(tmp_path, 0.3, 2)
    assert Image.open(small).size == benchmark.SMALL[::-1]
    assert len(large) == 2
    for path in large:
        width, height = Image.open(path).size
        assert width * height == pytest.approx(0.3e6, rel=0.01)
        assert width / height == pytest.approx(4 / 3, rel=0.01)


def test_a_case_that_a_checkout_cannot_run_has_no_number(benchmark, capsys, tmp_path):
    """Such as one of a module that came later; its reason is printed."""
    (tmp_path / "mult_hf").mkdir()
    (tmp_path / "mult_hf/__init__.py").write_text("raise ImportError('older than the benchmark')")
    assert benchmark.measure(tmp_path, "mult-hf predict", []) is None
    assert "ImportError: older than the benchmark" in capsys.readouterr().out
    assert benchmark.cells([]) == ("-", "-")


def test_a_row_is_the_median_of_seconds_and_the_highest_peak(benchmark):
    runs = [{"seconds": seconds, "peak_mib": peak} for seconds, peak in ((3.0, 700.0), (1.0, 900.0), (2.0, 800.0))]
    assert benchmark.cells(runs) == ("2.00", "900")


def test_cases_are_chosen_by_name_or_by_parts_of_it(benchmark):
    assert benchmark.BenchmarkArguments(cases=["mult-hf predict"]).names == ["mult-hf predict"]
    assert benchmark.BenchmarkArguments(cases=["--tile"]).names == ["mult-hf predict --tile 1024", "mult-hf predict --tile 512"]


@pytest.mark.parametrize(
    ("flags", "message"), [({"megapixels": []}, "at least one number"), ({"cases": ["train"]}, "give names, or parts of them: pipeline")]
)
def test_settings_that_measure_nothing_are_refused(benchmark, flags, message):
    with pytest.raises(ValueError, match=message):
        benchmark.BenchmarkArguments(**flags)
