"""Colours of several maps have one scale: that of the truths, as far as these are known."""

import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from mult_hf import MulTImageProcessor, TaskSpec
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.evaluation.cards import eval_results
from mult_hf.evaluation.comparison import bootstrap_differences, gain_over
from mult_hf.evaluation.loop import Evaluation
from mult_hf.evaluation.report import (
    common_limits,
    comparison_table,
    example_images,
    number,
    tasks_with_nan,
    tasks_without_label,
    unmeasured_tasks,
)

UNKNOWN = np.full((1, 4, 4), np.nan)


def constant(value):
    return np.full((1, 4, 4), value)


@pytest.mark.parametrize(
    ("truths", "limits"),
    [
        ([constant(2.0), constant(5.0)], (2.0, 5.0)),
        ([constant(2.0), UNKNOWN], (2.0, 2.0)),
        ([UNKNOWN, UNKNOWN], (7.0, 8.0)),
    ],
)
def test_unknown_truths_do_not_stretch_the_scale_and_predictions_replace_them_if_none_is_known(truths, limits):
    assert common_limits(truths, [constant(7.0), constant(8.0)]) == limits


def test_a_truth_that_is_unknown_everywhere_has_no_picture(tiny_model):
    """Painted in the colour of unknown pixels it was taken for a prediction."""
    model = tiny_model(tasks=["depth"])
    collator = MultiTaskCollator(MulTImageProcessor(size={"height": 32, "width": 32}, tasks=["depth"]))
    depth = Image.fromarray(np.full((32, 32), 1024, np.uint16))
    rows = [{"image": Image.new("RGB", (32, 32)), "depth": each} for each in (depth, None)]
    known, unknown = example_images(model, rows, collator, 2)
    assert known.truths["depth"].size == unknown.predictions["depth"].size == (32, 32)
    assert unknown.truths == {"depth": None}


# --- numbers

DISTANCE = TaskSpec(name="distance", kind="regression", channels=1, metrics=("mae",))
HEIGHT = TaskSpec(name="height", kind="regression", channels=1, metrics=("mae",))
SPECS = {"distance": DISTANCE, "height": HEIGHT}


def test_a_task_whose_predictions_are_nan_is_not_taken_for_one_without_labels():
    evaluation = Evaluation(SPECS)
    nan, known = torch.full((2, 2), math.nan), torch.ones(2, 2)
    evaluation.update(0, "image", {"distance": nan, "height": known}, {"distance": known, "height": nan})
    assert (tasks_without_label(evaluation), tasks_with_nan(evaluation)) == (["height"], ["distance"])
    assert unmeasured_tasks("net", [*SPECS], [*SPECS], evaluation) == [
        "Not measured for net (without a known pixel in this split): height.",
        "Not measured for net (predictions of known pixels are NaN): distance.",
    ]


@pytest.mark.parametrize(("images", "verdict"), [(1, "unknown: 1 image with labels"), (5, "unknown: 5 images with labels"), (6, "ours")])
def test_no_model_is_called_better_on_so_few_images_that_chance_may_decide(images, verdict):
    """Six that agree have a chance of 2 of 64; a further image without labels changes nothing."""
    ours, theirs = Evaluation(SPECS), Evaluation(SPECS)
    for row in range(images + 1):
        target = torch.ones(2, 2) if row else torch.full((2, 2), math.nan)
        for evaluation, error in ((ours, 1.0), (theirs, 2.0)):
            evaluation.update(row, f"image {row}", {"distance": target + error}, {"distance": target})
    table = comparison_table(["ours", "theirs"], bootstrap_differences(ours, theirs, resamples=50), ours, 0.95)
    assert re.search(rf"\| distance +\| mae +\| -1 +\| -1 to -1 +\| {verdict} +\|", table)


def test_a_metric_that_leaves_out_every_pixel_is_not_said_to_be_of_nan_predictions():
    """Targets of 0 have no relative error, and an edge map without edges no boundaries."""
    specs = {
        "depth": TaskSpec(name="depth", kind="regression", channels=1, value_range=(0.0, 9.0), metrics=("abs_rel", "rmse")),
        "edges": TaskSpec(name="edges", kind="regression", channels=1, value_range=(0.0, 1.0), metrics=("ods_f_0.0075", "mae")),
    }
    evaluation, nothing = Evaluation(specs), torch.zeros(8, 8)
    evaluation.update(0, "image", {"depth": nothing + 1, "edges": nothing}, {"depth": nothing, "edges": nothing})
    assert (tasks_with_nan(evaluation), tasks_without_label(evaluation)) == ([], [])
    values = evaluation.compute()
    assert math.isnan(values["edges/ods_f_0.0075"]), "premise"
    baseline = {"depth/abs_rel": math.nan, "edges/ods_f_0.0075": 0.0, "height/mae": 2.0}
    assert gain_over({**values, "height/mae": 1.0}, baseline, {**specs, "height": HEIGHT}) == 50


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_that_fails_in_one_task_has_no_gain(value):
    """Without that task, its gain would be 50 %, and its weights perhaps the best ones of a run."""
    baseline = {"distance/mae": 1.0, "height/mae": 2.0}
    assert gain_over({"distance/mae": 1.0, "height/mae": 1.0}, baseline, SPECS) == 25
    assert math.isnan(gain_over({"distance/mae": value, "height/mae": 1.0}, baseline, SPECS))
    assert gain_over({"height/mae": 1.0}, baseline, SPECS) == 50, "a task that was not measured does not count"
    assert gain_over({"distance/mae": math.nan, "height/mae": 1.0}, {**baseline, "distance/mae": math.nan}, SPECS) == 50, "no label"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0.0000"), (0.0012, "0.0012"), (4.123e-5, "4.12e-05"), (-1e-6, "-1e-06"), (12.34567, "12.3457"), (math.nan, "-")],
)
def test_small_numbers_keep_three_digits(value, shown):
    assert number(value) == shown


def test_small_numbers_keep_five_digits_in_a_card():
    found = eval_results({"distance/mae": 1.2345678e-6, "height/mae": 12.3456789}, SPECS, "data", "test", {})
    assert [each.metric_value for each in found] == [1.2346e-6, 12.34568]
