"""The benchmark of runtimes compares each of them with PyTorch in float32."""

import importlib
import json
from pathlib import Path

import pytest

from mult_hf import ROOMS_TINY_CHECKPOINT
from support.tables import unpadded

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def benchmark():
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples/benchmarks"))
        yield importlib.import_module("runtimes")


def test_the_table_has_a_row_per_runtime_and_type_of_numbers(benchmark, tmp_path, capsys):
    output = tmp_path / "results.json"
    flags = ["--image_size", "32", "--batch_size", "1", "--runtimes", "torch", "--repeats", "2", "--output", str(output)]
    benchmark.main(flags)
    rows = [line.strip("| ").split(" | ") for line in unpadded(capsys.readouterr().out).splitlines() if line.startswith("| torch")]
    assert [row[:2] for row in rows] == [["torch", "float32"], ["torch", "bfloat16"]]
    assert rows[0][3:] == ["1.00", "0"], "the reference is as fast as itself, and equal"
    half = json.loads(output.read_text())["results"][1]
    assert len(half["seconds"]) == 2
    assert 0 < half["largest_difference"] < 1, "it has the same weights"


def test_pytorch_in_float32_is_always_measured_and_comes_first(benchmark):
    assert benchmark.BenchmarkArguments(runtimes=["openvino"]).candidates[0] == ("torch", "float32")


def test_an_unknown_runtime_is_refused(benchmark):
    with pytest.raises(ValueError, match=r"--runtimes has \['tensorrt'\]; choose from torch, onnx, openvino"):
        benchmark.BenchmarkArguments(runtimes=["tensorrt"])


def test_a_dataset_needs_a_trained_model(benchmark):
    with pytest.raises(ValueError, match="--dataset is rooms, but random weights have no accuracy; give a trained model with --model"):
        benchmark.BenchmarkArguments(dataset="rooms")


def test_a_dataset_that_cannot_be_read_is_refused_before_anything_is_measured(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "measure", lambda *arguments: pytest.fail("measured first"))
    with pytest.raises(ValueError, match="nowhere is not a local directory"):
        benchmark.main(["--model", str(ROOMS_TINY_CHECKPOINT), "--runtimes", "torch", "--dataset", str(tmp_path / "nowhere")])


@pytest.mark.slow
def test_the_accuracy_of_each_runtime_is_measured_against_pytorch_in_float32(benchmark, capsys):
    """On a few rows of the sample in the repository, with the shipped checkpoint."""
    flags = ["--model", ROOMS_TINY_CHECKPOINT, "--dataset", str(ROOT / "examples/data/rooms-sample"), "--max_samples", "2"]
    benchmark.main([*flags, "--runtimes", "torch", "--repeats", "1", "--batch_size", "1", "--cpu_threads", "1"])
    losses = unpadded(capsys.readouterr().out).rpartition("Loss against torch float32")[2]
    rows = {line.split(" | ")[0].strip("| "): line for line in losses.splitlines() if line.endswith("% |")}
    assert {"segmentation", "depth", "normals"} <= rows.keys()
    assert not all(line.endswith("| +0.00 % |") for line in rows.values()), "premise: bfloat16 changes something"
