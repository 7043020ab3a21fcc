"""examples/tools/calibrate.py moves the predictions of the chosen tasks towards their median, and changes nothing else."""

from pathlib import Path

import pytest
import torch

from examples.tools import calibrate
from mult_hf import MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.data.schema import load_rows

SAMPLE = str(Path(__file__).resolve().parents[3] / "examples/data/rooms-sample")


@pytest.fixture
def model_path(shallow_model, tmp_path):
    """A small model with two regressions and a classification, and its processor."""
    tasks = ["depth", "normals", "segmentation"]
    shallow_model(tasks=tasks).save_pretrained(tmp_path / "model")
    MulTImageProcessor(size={"height": 64, "width": 64}, tasks=tasks).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_outputs_of_the_last_layer_move_towards_their_median_by_the_factor(model_path, tmp_path):
    flags = ["--dataset", SAMPLE, "--split", "test", "--tasks", "depth", "--factor", "0.5"]
    calibrate.main(["--model", model_path, *flags, "--output_dir", str(tmp_path / "calibrated")])
    rows = load_rows(SAMPLE, split="test")
    pixel_values = MulTImageProcessor.from_pretrained(model_path)(rows[0]["image"], return_tensors="pt")["pixel_values"]
    before, after = (MulTForMultiTaskDensePrediction.from_pretrained(path).eval() for path in (model_path, tmp_path / "calibrated"))
    centre = calibrate.median_outputs(before, MulTImageProcessor.from_pretrained(model_path), rows, ["depth"])["depth"]
    with torch.no_grad():
        old, new = (model(pixel_values).predictions for model in (before, after))
    # Depth is ten times the sigmoid of the last layer's outputs (its entry's range is 0 to 10 m).
    logits, moved = (torch.logit(maps["depth"].double() / 10) for maps in (old, new))
    assert logits.std() > 1e-4, "premise: they differ"
    torch.testing.assert_close(moved, centre + 0.5 * (logits - centre), rtol=1e-4, atol=1e-4)  # float32 inside the network
    for task in ("normals", "segmentation"):
        torch.testing.assert_close(new[task], old[task])


def test_classes_are_refused(model_path, tmp_path):
    with pytest.raises(ValueError, match=r"--tasks has \['segmentation'\]; the model's regressions are depth, normals"):
        calibrate.main(["--model", model_path, "--dataset", SAMPLE, "--tasks", "segmentation", "--output_dir", str(tmp_path / "out")])
