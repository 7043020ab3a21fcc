"""Proves that metrics take arrays as tensors, and refuse class ids that are fractions."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from mult_hf import TaskSpec
from mult_hf.metrics import MultiTaskMetrics, metrics_of
from mult_hf.metrics.accumulator import constant_predictions
from mult_hf.metrics.correlation import ErrorCorrelation

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


@pytest.mark.parametrize("order", [("distance", "classes"), ("classes", "distance")])
def test_an_image_with_a_wrong_map_of_one_task_is_not_counted_for_another(order):
    metrics = MultiTaskMetrics(SPECS)
    maps = {"distance": torch.zeros(4, 4), "classes": torch.zeros(4, 4, dtype=torch.long)}
    targets = {**maps, order[1]: maps[order[1]][:2]}
    with pytest.raises(ValueError, match=rf"{order[1]}: prediction has shape"):
        metrics.update({task: maps[task] for task in order}, {task: targets[task] for task in order})
    assert not metrics.sums


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.ones(4, 4) + 1j, "distance: target is torch.complex64; expected real numbers"),
        (torch.ones(4, 4).to_sparse(), r"distance: target has the layout torch.sparse_coo; .*to_dense"),
        ("depth.png", "distance: target is a str, not a tensor or an array of numbers"),
    ],
)
def test_maps_that_are_no_plain_numbers_are_refused(values, message):
    for collect in (MultiTaskMetrics(SPECS), ErrorCorrelation(SPECS)):
        with pytest.raises(ValueError, match=message):
            collect.update({"distance": torch.ones(4, 4)}, {"distance": values})


def test_none_is_no_target_as_for_the_model():
    for collect in (MultiTaskMetrics(SPECS), ErrorCorrelation(SPECS)):
        collect.update({"distance": torch.ones(4, 4)}, {"distance": None})
    assert math.isnan(collect.compute()[0, 0])


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="this platform has no longer floats")
def test_longer_floats_than_torch_has_are_counted():
    metrics = MultiTaskMetrics(SPECS)
    metrics.update({"distance": np.full((2, 2), 3, np.longdouble)}, {"distance": np.ones((2, 2), np.longdouble)})
    assert metrics.compute()["distance/mae"] == 2


def test_infinite_targets_are_unknown_to_the_constant_baseline_as_to_the_metrics():
    stack = torch.tensor([math.inf, 1.0, 2.0, -math.inf, math.nan]).view(5, 1, 1, 1)
    assert constant_predictions({"distance": stack}, SPECS)["distance"].item() == 1.0, "the lower of two middle values"
    specs = {"normals": replace(SPECS["distance"], name="normals", channels=3, metrics=("mean_angle",))}
    stack = torch.tensor([[1.0, 0, 0], [math.inf, 0, 1], [1, 0, 0]]).view(3, 3, 1, 1)
    assert constant_predictions({"normals": stack}, specs)["normals"].flatten().tolist() == [1, 0, 0], "one channel makes a pixel unknown"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"classes/confusion/counts": torch.zeros(1, 1)}, r"the state of classes/confusion has the shapes .*\(1, 1\).*; are the classes"),
        ({"distance/errors/count": torch.zeros(())}, r"the state of distance/errors has \['count'\]; expected \["),
    ],
)
@pytest.mark.parametrize("empty", [False, True])
def test_a_state_of_other_sums_is_refused_and_adds_nothing(state, message, empty):
    metrics = MultiTaskMetrics(SPECS)
    maps = {"distance": torch.zeros(4, 4), "classes": torch.zeros(4, 4, dtype=torch.long)}
    metrics.update(maps, maps)
    before = metrics.state()
    if empty:
        metrics.sums, before = {}, {}
    with pytest.raises(ValueError, match=message):
        metrics.merge_state({**before, **state} if "classes/confusion/counts" in state else state)
    assert all(torch.equal(value, before[name]) for name, value in metrics.state().items())


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
