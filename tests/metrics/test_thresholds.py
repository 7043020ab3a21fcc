"""Proves on which side of a threshold a pixel counts: angles, ratios of depth, strengths and distances of boundaries."""

import math

import pytest
import torch

from mult_hf import TaskSpec
from mult_hf.metrics import MultiTaskMetrics


def measure(metric, prediction, target, **fields):
    spec = TaskSpec(name="map", kind="regression", channels=len(target), metrics=(metric,), **fields)
    metrics = MultiTaskMetrics({"map": spec})
    metrics.update({"map": prediction}, {"map": target})
    return metrics.compute()[f"map/{metric}"]


@pytest.mark.parametrize("threshold", [11.25, 22.5, 30.0])
def test_an_angle_counts_up_to_the_threshold_and_not_beyond(threshold):
    """Angles are counted in bins of 0.01 degrees: half a bin below the threshold counts, half a bin above does not."""
    for angle, expected in ((threshold - 0.005, 1.0), (threshold + 0.005, 0.0)):
        turned = torch.tensor([math.sin(math.radians(angle)), 0.0, math.cos(math.radians(angle))], dtype=torch.float64)
        prediction, target = turned.view(3, 1, 1).expand(3, 2, 2), torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1).expand(3, 2, 2)
        assert measure(f"within_{threshold:g}", prediction, target) == expected, angle


@pytest.mark.parametrize(("depth", "expected"), [(1.24, 1.0), (1.25, 0.0), (0.81, 1.0), (0.8, 0.0)])
def test_depth_is_within_a_factor_only_below_it(depth, expected):
    """Eigen et al. count ratios below 1.25, so neither 1.25 nor 0.8 of a metre counts where one is true."""
    assert measure("delta1", torch.full((1, 2, 2), depth, dtype=torch.float64), torch.ones(1, 2, 2)) == expected


def boundary_lines(column):
    """A vertical line of one pixel in a map of 30 x 40 pixels, whose diagonal is 50."""
    lines = torch.zeros(1, 30, 40)
    lines[..., column] = 1
    return lines


def test_a_boundary_pixel_is_predicted_where_its_strength_reaches_the_threshold():
    """A strength of 0.01, the lowest threshold, is a boundary; a lower one is not."""
    target = boundary_lines(20)
    lowest = torch.tensor(0.01, dtype=torch.float32).nextafter(torch.tensor(1.0))  # the threshold itself is no float32 number
    assert measure("ods_f_0.011", target * lowest, target) == 1
    assert measure("ods_f_0.011", target * 0.0099, target) == 0
    counts = MultiTaskMetrics({"map": TaskSpec(name="map", kind="regression", channels=1, metrics=("ods_f_0.011",))})
    counts.update({"map": target * 0.5}, {"map": target})  # a half is a float32 number, and a threshold
    (sums,) = counts.sums.values()
    assert sums.predicted[:50].tolist() == [30] * 50, "thresholds 0.01 to 0.50"
    assert sums.predicted[50:99].tolist() == [0] * 49


def test_a_boundary_pixel_is_matched_up_to_the_tolerance_and_not_beyond():
    """The tolerance is a share of the diagonal: 0.011 of the 500 pixels of a map of 300 x 400 is 5.5 pixels."""
    target = torch.zeros(1, 300, 400)
    target[..., 200] = 1
    for shift, expected in ((5, 1.0), (6, 0.0)):
        assert measure("ods_f_0.011", target.roll(shift, -1), target) == expected, shift
