"""Proves that the benchmark of data preparation runs as documented, on images and maps that keep their meaning at every size."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mult_hf.model.tasks import resolve_tasks
from support.forked import run_script

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def program():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("benchmark_data", ROOT / "examples/benchmarks/data.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark_data"] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["benchmark_data"]


def test_the_command_prints_a_row_for_each_size_and_step_and_the_number_of_threads(tmp_path):
    argv = ["--sizes", 32, 48, "--batch_size", 2, "--batches", 3]
    printed, status = run_script(ROOT / "examples/benchmarks/data.py", *argv, output=tmp_path / "output.txt")
    assert status == 0, printed
    assert "3 batches of 2 samples, 1 process, 1 torch thread(s)" in printed
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if re.match(r"\| \d", line)]
    steps = ["MulT's processor, 6 maps", "the same with augmentation, 6 maps", "DPT's processor, 1 map(s)"]
    assert [row[:2] for row in rows] == [[size, step] for size in ("32", "48") for step in steps]
    assert all(float(figure) > 0 for row in rows for figure in row[2:])
    stages = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if re.match(r"\| (read|dec|prep|all)", line)
    ]
    per_size = [f"{step}{size} pixels" for step in ("preparing at ", "all, ") for size in (32, 48)]
    assert [row[0] for row in stages] == ["reading", "decoding", *per_size]
    times = {row[0]: float(row[1]) for row in stages}
    assert times["all, 48 pixels"] == pytest.approx(times["reading"] + times["decoding"] + times["preparing at 48 pixels"], abs=0.02)
    assert float(stages[-1][3]) == pytest.approx(60 * times["all, 48 pixels"] / 1000, abs=0.1), "cores for 60 images per second"


def test_a_batch_is_prepared_once_before_and_once_for_each_measurement(program):
    seen = []
    cpu, wall = program.measure(seen.append, [{"image": None}], batches=4)
    assert seen == [[{"image": None}]] * 5
    assert min(cpu, wall) >= 0


def test_resizing_for_the_benchmark_creates_no_new_map_values(program):
    stored = np.random.default_rng(0).choice([3, 700, 65535], (16, 16)).astype(np.uint16)
    row = {"image": Image.new("RGB", (16, 16)), "depth": Image.fromarray(stored), "normals": None, "room": 3}
    larger = program.resized(row, 40, resolve_tasks(["depth", "normals"]))
    assert larger.keys() == {"image", "depth"}, "a null cell stays away"
    assert larger["image"].size == larger["depth"].size == (40, 40)
    assert set(np.unique(np.asarray(larger["depth"]))) == {3, 700, 65535}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sizes", "0"], r"--sizes is \[0\]"),
        (["--batches", "0"], "--batches is 0"),
        (["--gpu_images_per_second", "0"], "--gpu_images_per_second is 0"),
    ],
)
def test_empty_measurements_are_refused(program, flags, message):
    with pytest.raises(ValueError, match=message):
        program.main(flags)
