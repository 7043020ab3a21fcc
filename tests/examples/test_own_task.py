"""Proves that examples/own_task.py trains, saves and predicts a task that no file of the package contains."""

import json

import numpy as np
import pytest
from PIL import Image

from examples import own_task
from mult_hf import MULT_TASKS, MulTForMultiTaskDensePrediction
from mult_hf.model.tasks import resolve_tasks
from support.tables import unpadded
from support.training_runs import new_accelerate_state


@pytest.mark.slow
def test_a_seventh_task_is_trained_saved_and_predicted(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="occlusion"):  # premise: the package has no such task
        resolve_tasks(["occlusion"])
    monkeypatch.setattr("mult_hf.data.cores.available_cores", lambda: 1)  # of several threads; test machines are shared
    new_accelerate_state()
    own_task.main(["--output_dir", str(tmp_path), "--max_steps", "2", "--rows", "3", "--batch_size", "2"])
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    for predictor in ("model", "constant_baseline"):
        assert 0 < numbers[predictor]["occlusion/mae"] < 1
    assert MulTForMultiTaskDensePrediction.from_pretrained(tmp_path).task_names == [*MULT_TASKS, "occlusion"]
    with Image.open(tmp_path / "occlusion.png") as image:
        assert image.size == (128, 128)
    assert "| occlusion | Jump of depth" in unpadded((tmp_path / "README.md").read_text())


def test_the_derived_column_marks_jumps_of_depth_and_unknown_pixels():
    """Two planes at 1 and 2 units, as 16-bit depth: the slope of the logarithm at the step is log(2) / 2 per pixel, which saturates."""
    depth = np.full((6, 8), 512, np.uint16)
    depth[:, 4:] = 1024
    depth[0, 0] = 0
    stored = np.asarray(own_task.with_occlusion({"depth": Image.fromarray(depth)})["occlusion"])
    assert stored.dtype == np.uint8
    assert stored[0, 0] == 255
    assert (stored[2:, 3:5] == 254).all()
    assert (stored[2:, [0, 1, 2, 5, 6, 7]] == 0).all()
