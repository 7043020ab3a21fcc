"""Proves that the training script runs from data to a directory that a user can load, also with a task nobody has heard of."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from huggingface_hub import ModelCard
from PIL import Image as PILImage
from transformers import pipeline

from mult_hf import MULT_TASKS, MulTForMultiTaskDensePrediction

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "--embed_dim",
    "8",
    "--depths",
    "1",
    "1",
    "1",
    "1",
    "--window_size",
    "4",
    "--max_steps",
    "2",
    "--batch_size",
    "2",
    "--panel_rows",
    "1",
]


def run_training(output_dir, *flags, check=True):
    """Run the script in a process of its own, as `accelerate launch` does on one machine without accelerators."""
    command = [sys.executable, str(ROOT / "examples/train.py"), "--output_dir", str(output_dir), *TINY, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=check, env=environment)


def write_data(directory, columns, entries, count=4, size=64):
    """A data set of random maps in the package's schema: parquet files and a card that says how they are stored."""
    rng = np.random.default_rng(0)
    features = Features({"image": Image(), **{name: Image() for name in columns}, "note": Value("string")})
    for split in ("train", "validation"):
        rows = {"image": [PILImage.fromarray(rng.integers(0, 255, (size, size, 3), np.uint8)) for _ in range(count)], "note": ["x"] * count}
        for name, make in columns.items():
            rows[name] = [make(rng, size) for _ in range(count)]
        directory.mkdir(exist_ok=True)
        Dataset.from_dict(rows, features=features).to_parquet(str(directory / f"{split}-00000-of-00001.parquet"))
    (directory / "README.md").write_text(f"---\nmult_tasks: {json.dumps(entries)}\n---\nRandom maps.\n")
    return directory


def depth_picture(rng, size):
    return PILImage.fromarray(rng.integers(500, 2500, (size, size)).astype(np.uint16))


def curvature_picture(rng, size):
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained") / "mult-test"
    result = run_training(directory)
    return directory, result.stdout


@pytest.mark.slow
def test_the_script_trains_on_the_shipped_sample_and_prints_both_predictors(trained):
    directory, printed = trained
    numbers = json.loads((directory / "metrics.json").read_text())
    assert {name.split("/")[0] for name in numbers["model"]} == set(MULT_TASKS)
    assert numbers["model"].keys() == numbers["trivial"].keys()
    assert all(np.isfinite(value) for value in [*numbers["model"].values(), *numbers["trivial"].values()])
    for name, value in numbers["trivial"].items():
        task, metric = name.split("/")
        assert f"| {task} | {metric}" in printed
        assert f"{value:.4f}" in printed


@pytest.mark.slow
def test_the_result_works_in_the_pipeline(trained):
    directory, _ = trained
    image = PILImage.new("RGB", (90, 70), "gray")
    maps = pipeline("multitask-vision", model=str(directory))(image)
    assert list(maps) == list(MULT_TASKS)
    assert maps["depth"]["prediction"].shape == (70, 90)
    assert maps["depth"]["image"].size == (90, 70)


@pytest.mark.slow
def test_the_card_is_filled_and_its_metadata_valid(trained):
    directory, _ = trained
    card = ModelCard.load(directory / "README.md")
    numbers = json.loads((directory / "metrics.json").read_text())
    assert card.data.library_name == "transformers"
    assert {result.metric_name: result.metric_value for result in card.data.eval_results} == {
        name: round(value, 5) for name, value in numbers["model"].items()
    }
    assert "{{" not in card.text
    assert "panel.png" in card.text
    with PILImage.open(directory / "panel.png") as panel:
        assert panel.width > panel.height, "a photo and six tasks side by side, one row of predictions and one of truth"


@pytest.mark.slow
def test_a_seventh_task_is_one_entry_and_one_column(tmp_path):
    """Trains, evaluates, saves, loads and shows in the pipeline; no file of the package knows it."""
    data = write_data(tmp_path / "data", {"depth": depth_picture, "principal_curvature": curvature_picture}, [DEPTH, CURVATURE])
    printed = run_training(tmp_path / "model", "--dataset", str(data)).stdout
    assert "| principal_curvature | mae" in printed
    model = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path / "model")
    assert model.task_names == ["depth", "principal_curvature"]
    maps = pipeline("multitask-vision", model=str(tmp_path / "model"))(PILImage.new("RGB", (80, 64)))
    assert maps["principal_curvature"]["prediction"].shape == (2, 64, 80)


@pytest.mark.slow
def test_a_task_without_a_column_is_unknown_and_harms_nothing(tmp_path):
    """The card promises two tasks and the files hold one: the other is all unknown, its loss 0, its metric NaN."""
    data = write_data(tmp_path / "data", {"depth": depth_picture}, [DEPTH, CURVATURE])
    run_training(tmp_path / "model", "--dataset", str(data))
    numbers = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert np.isfinite(numbers["model"]["depth/rmse"])
    assert np.isnan(numbers["model"]["principal_curvature/mae"])


@pytest.mark.slow
def test_tasks_that_the_data_lacks_are_refused(tmp_path):
    result = run_training(tmp_path / "model", "--tasks", "depth", "smell", check=False)
    assert result.returncode != 0
    assert "--tasks has ['smell']" in result.stderr


@pytest.mark.slow
def test_a_data_set_without_a_card_is_refused(tmp_path):
    data = write_data(tmp_path / "data", {"depth": depth_picture}, [DEPTH])
    (data / "README.md").unlink()
    result = run_training(tmp_path / "model", "--dataset", str(data), check=False)
    assert result.returncode != 0
    assert "has no README.md" in result.stderr
