"""Proves that memory does not grow with the number of pipeline calls, and that the benchmark of it detects growth."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from examples.benchmarks.memory import FORMS, MemoryArguments, measure
from mult_hf.model.images import read_image

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, str(ROOT / "examples/benchmarks/memory.py")]


@pytest.mark.slow
def test_memory_does_not_grow_over_150_pipeline_calls():
    """In a process of its own. Every map of one call, leaked, would be about 5 MiB, so 135 calls 700; the allocator varies by some 20."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    finished = subprocess.run([*COMMAND, "--calls", "150", "--limit_mib", "100"], capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    rows = [line for line in finished.stdout.splitlines() if line.startswith("| ")][1:]
    assert [row.split("|")[1].strip() for row in rows] == [str(15 * row) for row in range(11)]


def test_the_benchmark_measures_what_calls_keep():
    kept = []
    measured = measure(lambda images: kept.append(np.ones(2**18)), MemoryArguments(calls=200, sizes=2))  # 2 MiB each
    assert [calls for calls, _ in measured] == list(range(20, 201, 20))
    assert measured[-1][1] - measured[0][1] > 200


def test_the_benchmark_gives_the_pipeline_every_form_of_one_image():
    array = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for form in FORMS:
        read = read_image(form(array))
        pixels = np.asarray(read)
        assert np.array_equal(pixels if pixels.shape == array.shape else np.moveaxis(pixels, 0, -1), array)


@pytest.mark.parametrize(("keywords", "message"), [({"calls": 5}, "--calls is 5"), ({"limit_mib": float("nan")}, "--limit_mib is nan")])
def test_measurements_without_meaning_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        MemoryArguments(**keywords)
