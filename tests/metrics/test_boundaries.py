"""Proves that boundaries are scored by the BSDS protocol: known answers for drawn lines, and other libraries' matching and thinning."""

import builtins
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from skimage.morphology import thin as thin_of_skimage

from mult_hf import TaskSpec
from mult_hf.metrics import MultiTaskMetrics
from mult_hf.metrics.boundaries import _matched, _reach, boundary_counts, thin
from mult_hf.metrics.table import BOUNDARY_METRICS

SPEC = TaskSpec(name="map", kind="regression", channels=1, metrics=tuple(BOUNDARY_METRICS))
SIZE = 100  # 0.0075 of the diagonal are 1.06 pixels, 0.011 are 1.56


def lines(*columns: int, strength: float = 1.0) -> torch.Tensor:
    """(1, 100, 100) with upright lines."""
    drawn = torch.zeros(1, SIZE, SIZE)
    drawn[..., list(columns)] = strength
    return drawn


def measured(*images: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
    metrics = MultiTaskMetrics({"map": SPEC})
    for prediction, target in images:
        metrics.update({"map": prediction}, {"map": target})
    return {name.split("/")[1]: value for name, value in metrics.compute().items()}


# Known answers.


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_the_true_lines_score_one_at_any_strength(strength):
    assert measured((lines(20, 50, strength=strength), lines(20, 50))) == pytest.approx(dict.fromkeys(BOUNDARY_METRICS, 1.0))


def test_a_shift_within_the_tolerance_scores_one_and_beyond_it_zero():
    assert measured((lines(21, 51), lines(20, 50))) == pytest.approx(dict.fromkeys(BOUNDARY_METRICS, 1.0))
    assert measured((lines(22, 52), lines(20, 50))) == dict.fromkeys(BOUNDARY_METRICS, 0.0)


def test_the_wider_tolerance_reaches_diagonal_neighbours():
    prediction, target = torch.zeros(1, SIZE, SIZE), torch.zeros(1, SIZE, SIZE)
    prediction[0, 10, 10] = target[0, 11, 11] = 1
    values = measured((prediction, target))
    assert values["ods_f_0.0075"] == 0
    assert values["ods_f_0.011"] == 1


def test_a_line_drawn_twice_is_matched_once():
    values = measured((lines(19, 21), lines(20)))  # both are within the tolerance: precision 1/2, recall 1
    assert values["ods_f_0.0075"] == values["ois_f_0.0075"] == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert values["boundary_ap_0.0075"] == pytest.approx(0.5)


def test_a_broad_line_is_thinned_before_it_is_matched():
    values = measured((lines(19, 20, 21), lines(20)))
    assert values["ods_f_0.0075"] > 0.97  # thinning shortens the ends
    assert values["boundary_ap_0.0075"] > 0.97


def test_half_of_the_lines_give_a_recall_of_one_half():
    values = measured((lines(20), lines(20, 50)))
    assert values["ods_f_0.011"] == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert values["boundary_ap_0.011"] == pytest.approx(51 / 101)  # recalls 0 to 0.50 have precision 1, the others 0


def test_the_data_set_has_one_threshold_and_each_image_its_own():
    # Right lines are strong in one image and weak in the other, wrong ones weaker still: no threshold serves both.
    strong = lines(20, strength=0.9) + lines(50, strength=0.6), lines(20)
    weak = lines(20, strength=0.5) + lines(50, strength=0.2), lines(20)
    values = measured(strong, weak)
    assert values["ois_f_0.0075"] == pytest.approx(1)
    # From 0.21 to 0.50 two of three lines are right and all are found; above, one of two true ones is found and half or all is right.
    assert values["ods_f_0.0075"] == pytest.approx(2 * (2 / 3) / (2 / 3 + 1))


def test_average_precision_interpolates_the_curve():
    # Recall 1/2 at precision 1 (threshold above 0.5), recall 1 at precision 2/3: the mean of 51 ones and 50 steps down to 2/3.
    prediction = lines(20, strength=0.9) + lines(50, 80, strength=0.5)
    curve = [1.0] * 51 + [1 - (step / 50) / 3 for step in range(1, 51)]
    assert measured((prediction, lines(20, 50)))["boundary_ap_0.0075"] == pytest.approx(np.mean(curve))


def test_between_two_thresholds_precision_and_recall_are_interpolated():
    prediction = lines(20, strength=0.9) + lines(30, 40, 50, 60, strength=0.5)  # precision 1, recall 1/2; then 2/5 and 1
    share = np.linspace(0, 1, 100)
    precision, recall = share + (1 - share) * 2 / 5, share / 2 + (1 - share)
    best = (2 * precision * recall / (precision + recall)).max()
    assert best > max(2 / 3, 4 / 7)  # premise: it lies between
    assert measured((prediction, lines(20, 60)))["ods_f_0.0075"] == pytest.approx(best)


def test_with_no_true_or_no_predicted_pixel_the_score_is_zero_and_with_neither_it_is_nan():
    nothing = lines()
    assert measured((lines(20), nothing)) == dict.fromkeys(BOUNDARY_METRICS, 0.0)
    assert measured((nothing, lines(20))) == dict.fromkeys(BOUNDARY_METRICS, 0.0)
    assert all(math.isnan(value) for value in measured((nothing, nothing)).values())


def test_predictions_count_in_an_image_without_boundaries():
    values = measured((lines(20), lines(20)), (lines(20), lines()))
    assert values["ods_f_0.0075"] == values["ois_f_0.0075"] == pytest.approx(2 * 0.5 / 1.5)


def test_predictions_at_unknown_pixels_do_not_affect_thinning():
    target, prediction = lines(20), lines(20, strength=0.8)
    target[..., 21:30] = math.nan
    wrong = prediction.clone()
    wrong[..., 21:30] = 0.9  # seen, it would merge with the line
    assert measured((wrong, target)) == measured((prediction, target)) == pytest.approx(dict.fromkeys(BOUNDARY_METRICS, 1.0))


# Comparison with other implementations.


def blobs(seed: int) -> np.ndarray:
    """A boolean map of random size, smoothness and density."""
    generator = np.random.default_rng(seed)
    noise = gaussian_filter(generator.standard_normal(generator.integers(1, 40, size=2)), generator.uniform(0, 3))
    return noise > generator.uniform(-0.1, 0.1)


def test_thinning_equals_scikit_images():
    assert all(np.array_equal(thin(blobs(seed)), thin_of_skimage(blobs(seed))) for seed in range(100))


def matched_by_minimum_cost(prediction: np.ndarray, truth: np.ndarray, max_dist: float) -> int:
    """The benchmark's problem by another solver: distances, and 100 times the tolerance for each pixel that is left over.

    Each pixel has an outlier of its own on the other side, and outliers may pair up at that price, as in `match.cc`.
    """
    radius = max_dist * np.hypot(*truth.shape)
    first, second = np.argwhere(prediction), np.argwhere(truth)
    distance = np.hypot(*(first[:, None] - second).transpose(2, 0, 1))
    outlier = 100 * radius
    cost = np.full((len(first) + len(second),) * 2, outlier)
    cost[: len(first), : len(second)] = np.where(distance <= radius, distance, 1e6)
    rows, columns = linear_sum_assignment(cost)
    return np.count_nonzero((rows < len(first)) & (columns < len(second)) & (cost[rows, columns] < outlier))


@pytest.mark.parametrize("seed", range(20))
def test_the_number_of_matches_is_that_of_the_minimum_cost(seed):
    generator = np.random.default_rng(seed)
    shape = generator.integers(10, 30, size=2)
    prediction, truth = (generator.random(shape) < generator.uniform(0.02, 0.3) for _ in range(2))
    max_dist = generator.uniform(0.03, 0.15)
    graph = _reach(truth, max_dist)[np.flatnonzero(prediction)]
    assert _matched(graph) == matched_by_minimum_cost(prediction, truth, max_dist)


def test_counts_at_each_threshold_equal_those_of_the_other_solver():
    generator = np.random.default_rng(0)
    strength = gaussian_filter(generator.random((30, 40)), 1.5)
    strength = (strength - strength.min()) / np.ptp(strength)
    truth = thin_of_skimage(gaussian_filter(generator.random((30, 40)), 2) > 0.5)
    counts = boundary_counts(torch.tensor(strength)[None], torch.tensor(truth)[None].double(), SPEC, max_dist=0.05)
    for row in range(4, 99, 10):
        predicted = thin_of_skimage(strength >= (row + 1) / 100)
        found = [value[row].item() for value in counts.tensors().values()]
        assert found == [matched_by_minimum_cost(predicted, truth, 0.05), predicted.sum(), truth.sum()]
    assert 0 < counts.matched[50] < counts.predicted[50]  # premise: some are matched, some are not
    f = 2 * counts.matched[:99] / (counts.predicted[:99] + counts.true[:99])
    best = int(f.argmax())
    assert counts.at_own_thresholds.tensors() == counts[best : best + 1].tensors()


# Refusals.


def test_maps_of_several_channels_are_refused():
    with pytest.raises(ValueError, match=r"'map' .* has the metric 'ods_f_0\.0075', which is for regression with one channel"):
        MultiTaskMetrics({"map": replace(SPEC, channels=2)})
    with pytest.raises(ValueError, match="map: boundaries need maps of one channel, got 2"):
        boundary_counts(torch.rand(2, 4, 4), torch.zeros(2, 4, 4), SPEC, max_dist=0.0075)


def test_without_scipy_the_error_names_the_extra(monkeypatch):
    load = builtins.__import__

    def without_scipy(name, *rest):
        if name.startswith("scipy"):
            raise ImportError(name)
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_scipy)
    with pytest.raises(ImportError, match=r"boundary metrics need scipy.*mult-hf\[data\]"):
        measured((lines(20), lines(20)))
