"""Proves that metrics take arrays as tensors, and refuse class ids that are fractions."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from mult_hf import TaskSpec
from mult_hf.metrics import MultiTaskMetrics, metrics_of

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


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "uint32", ">i4", "uint64"])
def test_class_ids_of_every_integer_type_are_counted(dtype):
    ids = np.array([[0, 1], [2, 2]])
    metrics = MultiTaskMetrics(SPECS)
    metrics.update({"classes": torch.tensor([[0, 1], [2, 1]])}, {"classes": ids.astype(dtype)})
    metrics.update({"classes": ids.astype(dtype)}, {"classes": torch.from_numpy(ids)})
    assert metrics.compute()["classes/pixel_accuracy"] == 7 / 8


def test_distances_of_another_byte_order_are_counted():
    metrics = MultiTaskMetrics(SPECS)
    metrics.update({"distance": np.full((2, 2), 3.0, ">f4")}, {"distance": np.ones((2, 2), ">f8")})
    assert metrics.compute()["distance/mae"] == 2


def test_a_class_map_of_nan_logits_is_named_as_such():
    """`post_process` gives 255 there."""
    prediction = torch.tensor([[0, 255], [1, 255]])
    target = torch.tensor([[0, 1], [1, 255]])
    with pytest.raises(ValueError, match="classes: the prediction is 255, which stands for logits of NaN, at 1 known pixels"):
        MultiTaskMetrics(SPECS).update({"classes": prediction}, {"classes": target})


@pytest.mark.parametrize(("prediction", "target", "has"), [(np.nan, 1.0, True), (1.0, np.nan, False), (2.0, 1.0, True)])
def test_a_task_has_labels_where_a_pixel_is_known_whatever_is_predicted_there(prediction, target, has):
    metrics = MultiTaskMetrics(SPECS)
    assert not metrics.has_labels("distance")
    metrics.update({"distance": torch.full((2, 2), prediction)}, {"distance": torch.full((2, 2), target)})
    assert metrics.has_labels("distance") is has


def test_perfect_predictions_below_a_thousandth_have_no_logarithmic_error():
    """Inverse depth, for example; the limit of 1 mm is for metres."""
    spec = TaskSpec(name="disparity", kind="regression", channels=1, unit="1/m", metrics=("log_rmse", "silog"))
    metrics, values = MultiTaskMetrics({"disparity": spec}), torch.tensor([[0.0005, 0.002]])
    metrics.update({"disparity": values}, {"disparity": values})
    assert list(metrics.compute().values()) == [0, 0]
    for prediction in (0.0, -5.0, 1e-9, 0.0002):
        worse = MultiTaskMetrics({"disparity": spec})
        worse.update({"disparity": torch.full((1, 2), prediction)}, {"disparity": values})
        assert all(value > 0.5 for value in worse.compute().values()), "far below the target, which is no perfect prediction"


@pytest.mark.parametrize("values", [(0.0, 255.0), (-1.0, 1.0)])
def test_boundary_metrics_are_refused_for_values_that_are_no_probabilities(values):
    spec = TaskSpec(name="edges", kind="regression", channels=1, value_range=values, metrics=("mae", "ods_f_0.0075"))
    message = "the metric 'ods_f_0.0075', which takes values for probabilities from 0 to 1, and its values run from"
    with pytest.raises(ValueError, match=re.escape(message)):
        metrics_of(spec)
    assert "ods_f_0.0075" in metrics_of(replace(spec, value_range=(0.0, 1.0)))
