"""Runs of `mult-hf train` for tests: on a small model and a small data set, in this process or in others."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from safetensors.torch import load_file

from mult_hf.cli.train import main
from mult_hf.training.loop import TrainingLoop
from mult_hf.training.progress import JsonLinesLog

ROOT = Path(__file__).resolve().parents[2]
TWO_STAGES = ["--depths", "1", "1"]
SMALL = "--embed_dim 8 --window_size 4 --batch_size 2 --panel_rows 1 --cpu_threads 1 --max_steps 2 --logging_steps 1".split()
TINY = [*SMALL, *TWO_STAGES]


def new_accelerate_state():
    """Forget the accelerator of an earlier run, as a new process would."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def train(output_dir, *flags):
    """Run the command in this process; the last occurrence of a repeated flag counts, and `--depths` replaces the usual two stages."""
    new_accelerate_state()
    threads = torch.get_num_threads()
    try:
        main([*(SMALL if "--depths" in flags else TINY), "--output_dir", str(output_dir), *map(str, flags)])
    finally:
        torch.set_num_threads(threads)
    return output_dir


class Interruption(BaseException):
    """Stops a run where no error handling would."""


def interrupted(monkeypatch, after_steps, output_dir, *flags):
    """Run the command as [`train`], and stop it before a step, as a kill would."""
    take_step = TrainingLoop.take_step

    def stop(self, *arguments):
        if self.progress.step == after_steps:
            raise Interruption
        return take_step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "take_step", stop)
        with pytest.raises(Interruption):
            train(output_dir, *flags)


def weights(directory):
    return load_file(directory / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def comparable_log(directory):
    """The log without times."""
    return [{k: v for k, v in entry.items() if k != "seconds_per_step"} for entry in JsonLinesLog(directory / "log.jsonl").entries()]


def assert_close_to(expected, found):
    """Weights, metrics and losses of two runs are equal up to rounding: sums over processes have another order."""
    for name, value in weights(expected).items():
        torch.testing.assert_close(weights(found)[name], value, atol=1e-3, rtol=1e-2)
    wanted, got = (json.loads((directory / "metrics.json").read_text())["model"] for directory in (expected, found))
    assert got == pytest.approx(wanted, rel=1e-3)
    assert log(found, "loss/depth") == pytest.approx(log(expected, "loss/depth"), rel=1e-3)


def log(directory, key):
    """The values of a key in the log, by step."""
    return {entry["step"]: entry[key] for entry in JsonLinesLog(directory / "log.jsonl").entries() if key in entry}


def write_data(directory, columns, entries, count=4, size=64):
    """Write a data set of random maps in the package's schema: Parquet files, and a card with their encodings."""
    rng = np.random.default_rng(0)
    features = Features({"image": Image(), **{name: Image() for name in columns}, "note": Value("string")})
    for split in ("train", "validation"):
        notes = [f"{split} image {number}" for number in range(count)]
        rows = {"image": [PILImage.fromarray(rng.integers(0, 255, (size, size, 3), np.uint8)) for _ in notes], "note": notes}
        for name, make in columns.items():
            rows[name] = [make(rng, size) for _ in range(count)]
        directory.mkdir(exist_ok=True)
        Dataset.from_dict(rows, features=features).to_parquet(str(directory / f"{split}-00000-of-00001.parquet"))
    (directory / "README.md").write_text(f"---\nmult_tasks: {json.dumps(entries)}\n---\nRandom maps.\n")
    return directory


def depth_map(rng, size):
    return PILImage.fromarray(rng.integers(500, 2500, (size, size)).astype(np.uint16))


def sparse_depth_map(rng, size):
    """A map that is known below a random row, or none at all."""
    depth = rng.integers(500, 2500, (size, size)).astype(np.uint16)
    depth[: rng.integers(0, size)] = 0
    return None if rng.random() < 0.3 else PILImage.fromarray(depth)


def curvature_map(rng, size):
    return PILImage.fromarray(rng.integers(100, 155, (size, size, 3), np.uint8))


DEPTH = {"name": "depth", "encoding": {"dtype": "uint16", "scale": 1 / 512, "unknown": [0, 65535]}}
CURVATURE = {
    "name": "principal_curvature",
    "kind": "regression",
    "channels": 2,
    "unit": "1/m",
    "colormap": "vectors",
    "encoding": {"dtype": "uint8", "scale": 1 / 127.0, "offset": -1.0, "channels": [0, 1]},
}


def write_shards(directory):
    """Write a data set in six files per split, of one row each or more."""
    for part in range(6):
        columns = {"depth": depth_map, "principal_curvature": curvature_map}
        source = write_data(directory / f"part{part}", columns, [DEPTH, CURVATURE], count=1 + part % 3)
        (directory / "maps").mkdir(exist_ok=True)
        for split in ("train", "validation"):
            shutil.copy(source / f"{split}-00000-of-00001.parquet", directory / f"maps/{split}-{part:05d}-of-00006.parquet")
        shutil.copy(source / "README.md", directory / "maps")
    return directory / "maps"


def environment(**values):
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **values}
