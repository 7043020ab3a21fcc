"""Proves that metrics take arrays as tensors, and refuse class ids that are fractions."""

import numpy as np
import pytest
import torch

from mult_hf import TaskSpec
from mult_hf.metrics import MultiTaskMetrics

SPECS = {
    "classes": TaskSpec(name="classes", kind="classification", channels=3),
    "distance": TaskSpec(name="distance", kind="regression", channels=1, metrics=("mae",)),
}


def test_arrays_count_as_tensors_do():
    rng = np.random.default_rng(0)
    maps = [{"classes": rng.integers(0, 3, (8, 9)), "distance": rng.random((1, 8, 9), np.float32)} for _ in range(2)]
    of_arrays, of_tensors = MultiTaskMetrics(SPECS), MultiTaskMetrics(SPECS)
    of_arrays.update(*maps)
    of_tensors.update(*({task: torch.from_numpy(values) for task, values in each.items()} for each in maps))
    assert of_arrays.compute() == of_tensors.compute()


def test_maps_of_several_images_or_of_other_tasks_are_refused():
    metrics, maps = MultiTaskMetrics(SPECS), {"distance": torch.zeros(1, 4, 4)}
    with pytest.raises(ValueError, match="predictions is a list; pass the maps of one image by task"):
        metrics.update([maps], [maps])
    with pytest.raises(ValueError, match=r"there are maps of \['depth'\], but these metrics are for \['classes', 'distance'\]"):
        metrics.update({"depth": maps["distance"]}, {"depth": maps["distance"]})
    metrics.update({"depth": maps["distance"], **maps}, maps)
    assert metrics.compute()["distance/mae"] == 0


@pytest.mark.parametrize("role", ["prediction", "target"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_class_ids_that_are_floats_are_refused(role, dtype):
    """Probabilities in place of ids would all be cut off to class 0."""
    maps = [torch.zeros(4, 4, dtype=torch.long)] * 2
    maps[role == "target"] = torch.rand(4, 4).to(dtype)
    with pytest.raises(ValueError, match=rf"classes: {role} has class ids of {dtype}; expected integers"):
        MultiTaskMetrics(SPECS).update(*({"classes": each} for each in maps))
