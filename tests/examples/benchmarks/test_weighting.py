"""Proves that the benchmark of task weightings measures every requested method and prints a table."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.tables import unpadded

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.nightly
@pytest.mark.slow
def test_the_benchmark_prints_a_row_per_method():
    command = [sys.executable, str(ROOT / "examples/benchmarks/weighting.py"), "--methods", "fixed", "upgrad"]
    command += ["--steps", "2", "--warmup_steps", "1", "--batch_size", "1", "--image_size", "32", "--embed_dim", "8"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert "1 images of 32 x 32 pixels, median of 2 steps" in printed
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) x \| (\d+) \| ([+-]\d+) \|$", unpadded(printed), re.MULTILINE)
    assert [row[0] for row in rows] == ["fixed", "upgrad"]
    fixed, upgrad = ([float(value) for value in row[1:]] for row in rows)
    assert fixed[1] == 1
    assert fixed[3] == 0
    assert min(fixed[0], upgrad[0]) > 0
    assert min(fixed[2], upgrad[2]) > 100, "MiB of a process that has loaded torch"


def test_an_unknown_method_is_refused_before_any_run(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples/benchmarks"))
    benchmark = importlib.import_module("weighting")
    with pytest.raises(ValueError, match=r"--methods is \['fixed', 'gradnrom'\]; choose at least one of fixed, "):
        benchmark.main(["--methods", "fixed", "gradnrom"])
