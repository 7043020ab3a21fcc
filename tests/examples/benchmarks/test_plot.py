"""The plot of the benchmark has a panel per group that was run."""

import importlib
import json
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
RESULTS = {
    "pixels": {"256 x 256": [0.1, 0.2, 0.3], "512 x 512": [0.8]},
    "tasks": {"1 of 8 tasks": [0.1], "6 of 8 tasks": "not run"},
    "forward": {"torch, float32": [0.4], "openvino, float32": [0.3], "onnx, float32": "not run: pip install x"},
    "memory": {"MulT": [500.0]},
}


@pytest.fixture
def benchmark(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "examples/benchmarks"))
    return importlib.import_module("plot")


def test_each_group_that_was_run_has_its_panel(benchmark):
    pixels, tasks, runtimes = benchmark.plot(RESULTS).axes
    assert pixels.lines[0].get_xydata().tolist() == [[0.065536, 0.2], [0.262144, 0.8]]
    assert pixels.lines[1].get_ydata().tolist() == pytest.approx([0.2, 0.8]), "equal time per pixel"
    assert tasks.lines[0].get_xydata().tolist() == [[1, 100]]
    assert [bar.get_width() for bar in runtimes.patches] == [1, pytest.approx(0.75)]


def test_the_plot_is_saved(benchmark, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"results": RESULTS}))
    benchmark.main([str(tmp_path / "results.json"), str(tmp_path / "plot.png")])
    with Image.open(tmp_path / "plot.png") as image:
        assert image.size == (1300, 800)


def test_results_without_any_group_of_the_plot_are_refused(benchmark):
    with pytest.raises(ValueError, match="no rows of pixels, tasks, forward, forward-swin-tiny"):
        benchmark.plot({"limit": {"product": [0.1]}, "pixels": {"256 x 256": "not run"}})
