"""Proves that memory does not grow with the number of pipeline calls, and that the benchmark of it reports growth."""

from pathlib import Path

import numpy as np
import pytest

from examples.benchmarks.memory import FORMS, MemoryArguments, main, measure
from mult_hf.model.images import read_image
from support.forked import run_script

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.nightly
@pytest.mark.slow
def test_memory_does_not_grow_over_40_pipeline_calls(tmp_path):
    """In a process of its own. Every map of one call, leaked, would be about 5 MiB, so 36 calls 180; the allocator varies by some 20."""
    argv = ["--calls", 40, "--limit_mib", 100]
    printed, status = run_script(ROOT / "examples/benchmarks/memory.py", *argv, output=tmp_path / "output.txt")
    assert status == 0, printed
    rows = [line for line in printed.splitlines() if line.startswith("| ")][1:]
    assert [row.split("|")[1].strip() for row in rows] == [str(4 * row) for row in range(11)]


def test_the_benchmark_measures_after_every_tenth_of_the_calls(monkeypatch):
    """Not with the memory of this process, which other tests have filled and from which the system takes back pages."""
    kept = []
    monkeypatch.setattr("examples.benchmarks.memory.resident_mib", lambda: float(len(kept)))
    measured = measure(lambda images: kept.append(images), MemoryArguments(calls=40, sizes=2, largest_side=32))
    assert measured == [(calls, float(calls)) for calls in range(4, 41, 4)]


def test_growth_beyond_the_limit_ends_with_status_1(monkeypatch, capsys):
    grown = iter([100.0, *(110.0 + 7 * tenth for tenth in range(10))])
    monkeypatch.setattr("examples.benchmarks.memory.resident_mib", lambda: next(grown))
    monkeypatch.setattr("examples.benchmarks.memory.pipeline", lambda *args, **kwargs: lambda images, **kwargs: None)
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)
    assert main(["--calls", "10", "--largest_side", "32", "--limit_mib", "62.5"]) == 1
    assert "+63.0 MiB after the first 1 calls; the limit is 62.5" in capsys.readouterr().out


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
