"""Proves that metrics of classes, depth and directions equal those of scikit-learn and textbooks, also for unusual pixels."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    jaccard_score,
    mean_absolute_error,
    mean_absolute_percentage_error,
    recall_score,
    root_mean_squared_error,
)

from mult_hf import IGNORE_INDEX, TaskSpec
from mult_hf.metrics import METRICS, MultiTaskMetrics
from mult_hf.metrics.table import DEPTH_METRICS, MEDIAN_SCALED_DEPTH_METRICS, NORMALS_METRICS, SEGMENTATION_METRICS

NAN = math.nan
CLASSES = TaskSpec(name="map", kind="classification", channels=5, metrics=tuple(SEGMENTATION_METRICS), class_names=tuple("abcde"))
NUMBERS = TaskSpec(name="map", kind="regression", channels=1, metrics=("mae", *DEPTH_METRICS, *MEDIAN_SCALED_DEPTH_METRICS))
VECTORS = TaskSpec(name="map", kind="regression", channels=3, metrics=("mae", "rmse", *NORMALS_METRICS))


def measured(spec: TaskSpec, *images: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
    """Metrics of images given as (prediction, target)."""
    metrics = MultiTaskMetrics({"map": spec})
    for prediction, target in images:
        metrics.update({"map": prediction}, {"map": target})
    return {name.split("/")[1]: value for name, value in metrics.compute().items()}


def row(*values: float) -> torch.Tensor:
    """One channel of one row of pixels: (1, 1, pixels)."""
    return torch.tensor([[values]], dtype=torch.float32)


def vectors(*values: tuple[float, float, float]) -> torch.Tensor:
    """(3, 1, pixels)."""
    return torch.tensor(values, dtype=torch.float32).T[:, None]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# Classes.


def random_classes() -> tuple[torch.Tensor, torch.Tensor]:
    """Prediction and target (8, 9): class 3 is never true, class 4 occurs nowhere, some pixels are unknown."""
    prediction, target = (random(8, 9, seed=0) * 4).long(), (random(8, 9, seed=1) * 3).long()
    return prediction, target.masked_fill(random(8, 9, seed=2) < 0.3, IGNORE_INDEX)


def known_classes() -> tuple[np.ndarray, np.ndarray]:
    prediction, target = random_classes()
    return target[target != IGNORE_INDEX].numpy(), prediction[target != IGNORE_INDEX].numpy()


def test_the_confusion_matrix_equals_scikit_learns():
    metrics = MultiTaskMetrics({"map": CLASSES})
    prediction, target = random_classes()
    metrics.update({"map": prediction}, {"map": target})
    np.testing.assert_array_equal(metrics.sums["map/confusion"].counts, confusion_matrix(*known_classes(), labels=range(5)))


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_segmentation_metrics_equal_scikit_learns():
    values = measured(CLASSES, random_classes())
    assert values["mean_iou"] == pytest.approx(jaccard_score(*known_classes(), average="macro"))
    all_classes = jaccard_score(*known_classes(), average="macro", labels=range(5), zero_division=0)
    assert values["mean_iou_all_classes"] == pytest.approx(all_classes)
    assert all_classes < values["mean_iou"]  # premise: the conventions differ here
    assert values["pixel_accuracy"] == pytest.approx(accuracy_score(*known_classes()))
    assert values["mean_accuracy"] == pytest.approx(balanced_accuracy_score(*known_classes()))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_narrow_class_ids_do_not_overflow(dtype):
    spec = TaskSpec(name="map", kind="classification", channels=200, metrics=("pixel_accuracy",))
    ids = torch.tensor([[150, 199]])
    assert measured(spec, (ids.to(dtype), ids.to(dtype))) == {"pixel_accuracy": 1}


def test_classes_that_never_occur_are_skipped_or_count_as_zero():
    # Class 0: 1 hit, union 2. Class 1: 1 hit, union 3. Class 2: predicted once, never there: 0 of 1. Classes 3 and 4 never occur.
    values = measured(CLASSES, (torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 0, 1, 1]])))
    assert values["mean_iou"] == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    assert values["mean_iou_all_classes"] == pytest.approx((1 / 2 + 1 / 3 + 0 + 0 + 0) / 5)
    assert values["mean_accuracy"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert values["pixel_accuracy"] == pytest.approx(2 / 4)


def test_the_table_of_classes_is_scikit_learns_and_has_their_names():
    metrics = MultiTaskMetrics({"map": CLASSES})
    prediction, target = random_classes()
    metrics.update({"map": prediction}, {"map": target})
    table = metrics.per_class("map")
    assert [line["class"] for line in table] == list("abcde")
    iou = [line["iou"] for line in table]
    assert iou[:4] == pytest.approx(jaccard_score(*known_classes(), average=None, labels=range(4)))
    assert math.isnan(iou[4])
    assert [line["accuracy"] for line in table][:3] == pytest.approx(recall_score(*known_classes(), average=None, labels=range(3)))
    assert math.isnan(table[3]["accuracy"])
    assert [line["pixels"] for line in table] == [(target == class_id).sum() for class_id in range(5)]


def test_the_table_of_classes_without_names_has_ids_and_of_other_tasks_is_refused():
    nameless = TaskSpec(name="map", kind="classification", channels=2)
    (first, _) = MultiTaskMetrics({"map": nameless}).per_class("map")
    assert first["class"] == "0"
    assert first["pixels"] == 0
    with pytest.raises(ValueError, match=r"map: its metrics .* do not count classes"):
        MultiTaskMetrics({"map": VECTORS}).per_class("map")


# Numbers and depth.


def random_depths() -> tuple[torch.Tensor, torch.Tensor]:
    """Prediction and target (1, 9, 9), all known and positive, up to a factor of two apart."""
    target = 1 + 4 * random(1, 9, 9)
    return target * torch.exp(1.4 * (random(1, 9, 9, seed=1) - 0.5)), target


def test_errors_of_numbers_are_scikit_learns_and_the_textbook_formulas():
    values = measured(NUMBERS, random_depths())
    prediction, target = (maps.double().numpy().ravel() for maps in random_depths())
    assert values["rmse"] == pytest.approx(root_mean_squared_error(target, prediction))
    assert values["mae"] == pytest.approx(mean_absolute_error(target, prediction))
    assert values["log_rmse"] == pytest.approx(root_mean_squared_error(np.log(target), np.log(prediction)))
    assert values["abs_rel"] == pytest.approx(mean_absolute_percentage_error(target, prediction))
    assert values["sq_rel"] == pytest.approx(np.mean((prediction - target) ** 2 / target))
    assert values["silog"] == pytest.approx(100 * np.std(np.log(prediction) - np.log(target)))
    factor = np.maximum(prediction / target, target / prediction)
    shares = [values[f"delta{power}"] for power in (1, 2, 3)]
    assert shares == pytest.approx([np.mean(factor < 1.25**power) for power in (1, 2, 3)])
    assert 0.2 < shares[0] < shares[1] < shares[2] < 1  # premise: the shares differ


def test_rmse_takes_the_root_after_the_mean():
    values = measured(NUMBERS, (row(1, 2), row(2, 9)))
    assert values["rmse"] == pytest.approx(math.sqrt((1 + 49) / 2))
    assert values["mae"] == pytest.approx((1 + 7) / 2)


def test_delta_counts_factors_below_a_quarter_in_both_directions_and_not_the_quarter_itself():
    assert measured(NUMBERS, (row(1.24, 1.26, 1.25, 0.81, 0.79), torch.ones(1, 1, 5)))["delta1"] == pytest.approx(2 / 5)


def test_predictions_of_zero_or_less_count_as_a_millimetre_in_logarithms_and_as_they_are_elsewhere():
    values = measured(NUMBERS, (row(-1, 0, 1e-3), row(1, 1, 1)))
    assert values["log_rmse"] == pytest.approx(math.log(1000), rel=1e-6)
    assert values["abs_rel"] == pytest.approx((2 + 1 + 0.999) / 3)
    assert values["delta3"] == 0


def test_targets_of_zero_or_less_are_unknown_only_to_ratios_and_logarithms():
    values = measured(NUMBERS, (row(1, 2, 3), row(1, 0, -1)))
    assert values["rmse"] == pytest.approx(math.sqrt((0 + 4 + 16) / 3))
    assert all(values[name] == 0 for name in ("abs_rel", "sq_rel", "log_rmse", "silog"))
    assert all(values[name] == 1 for name in ("delta1", "delta2", "delta3"))


@pytest.mark.parametrize("name", ["mae", "rmse", "log_rmse", "abs_rel", "sq_rel", "silog"])
def test_a_nan_prediction_makes_errors_nan_where_the_target_is_known(name):
    assert math.isnan(measured(NUMBERS, (row(1, NAN), row(1, 1)))[name])
    assert measured(NUMBERS, (row(1, NAN), row(1, NAN)))[name] == 0


def test_silog_is_the_spread_of_logarithms_and_ignores_a_common_factor():
    images = (row(1, math.e), row(1, 1)), (row(1, 1), row(1, 1))  # differences of logarithms: 0, 1, 0, 0
    assert measured(NUMBERS, *images)["silog"] == pytest.approx(100 * math.sqrt(1 / 4 - (1 / 4) ** 2))
    times_seven = [(7 * prediction, target) for prediction, target in images]
    assert measured(NUMBERS, *times_seven)["silog"] == pytest.approx(measured(NUMBERS, *images)["silog"])


def test_median_scaling_is_numpys_median_per_image():
    prediction, target = random_depths()
    (second,) = (target.flip(-1) + 0.5,)
    scaled = [p * float(np.median(t.numpy()) / np.median(p.numpy())) for p, t in ((prediction, target), (second, target))]
    by_hand = measured(NUMBERS, *((p, target) for p in scaled))
    values = measured(NUMBERS, (prediction, target), (second, target))
    assert [values[f"{name}_median_scaled"] for name in DEPTH_METRICS] == pytest.approx([by_hand[name] for name in DEPTH_METRICS], rel=1e-6)


def test_median_scaling_removes_each_images_own_factor():
    prediction, target = random_depths()
    values = measured(NUMBERS, (prediction, target), (prediction, target))
    others = measured(NUMBERS, (3 * prediction, target), (0.1 * prediction, target))
    assert others["rmse"] != pytest.approx(values["rmse"])
    names = list(MEDIAN_SCALED_DEPTH_METRICS)
    assert [others[name] for name in names] == pytest.approx([values[name] for name in names], rel=1e-6)


def test_the_median_of_an_even_number_is_between_the_middle_ones_and_of_known_positive_targets():
    prediction, target = row(1, 1, 3, 9, 100, 100), row(2, 2, 2, 2, 0, NAN)  # medians 2 and 2: the factor is 1
    assert measured(NUMBERS, (prediction, target))["abs_rel_median_scaled"] == measured(NUMBERS, (prediction, target))["abs_rel"] > 0


def test_an_image_whose_median_prediction_is_not_positive_is_not_scaled():
    values = measured(NUMBERS, (row(-1, -2, 3), row(1, 2, 3)))
    assert all(values[f"{name}_median_scaled"] == values[name] for name in DEPTH_METRICS)
    assert all(math.isfinite(value) for value in values.values())


# Directions.


def random_vectors(count: int = 1001) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.nn.functional.normalize(torch.randn(3, 1, count, generator=generator), dim=0)
    return target + 0.4 * torch.randn(3, 1, count, generator=generator), target


def test_angles_are_the_textbook_formulas():
    prediction, target = (maps.double().numpy()[:, 0] for maps in random_vectors())
    cosine = (prediction * target).sum(axis=0) / np.linalg.norm(prediction, axis=0) / np.linalg.norm(target, axis=0)
    angles = np.degrees(np.arccos(cosine))
    values = measured(VECTORS, random_vectors())
    assert values["mean_angle"] == pytest.approx(np.mean(angles), rel=1e-6)
    assert values["rmse_angle"] == pytest.approx(np.sqrt(np.mean(angles**2)), rel=1e-6)
    assert values["median_angle"] == pytest.approx(stats.scoreatpercentile(angles, 50), abs=0.005)
    shares = [values[f"within_{degrees}"] for degrees in ("11.25", "22.5", "30")]
    assert shares == pytest.approx([np.mean(angles < degrees) for degrees in (11.25, 22.5, 30)])
    assert values["mae"] == pytest.approx(np.abs(prediction - target).mean(), rel=1e-6)
    assert values["rmse"] == pytest.approx(np.sqrt(np.square(prediction - target).mean()), rel=1e-6)


def test_angles_are_in_degrees_and_do_not_depend_on_lengths():
    target = vectors(*[(0, 0, 1)] * 4)
    prediction = vectors((0, 0, 3), (0, 2, 2), (0.5, 0, 0), (0, 0, -1))
    for pixel, degrees in enumerate((0, 45, 90, 180)):
        values = measured(VECTORS, (prediction[..., pixel : pixel + 1], target[..., pixel : pixel + 1]))
        assert values["mean_angle"] == pytest.approx(degrees, abs=1e-6)
        assert values["median_angle"] == pytest.approx(degrees, abs=0.0051)  # the bin's middle
    values = measured(VECTORS, (prediction, target))
    assert values["mean_angle"] == pytest.approx((0 + 45 + 90 + 180) / 4)
    assert values["rmse_angle"] == pytest.approx(math.sqrt((45**2 + 90**2 + 180**2) / 4))


def test_mean_angle_resolves_a_thousandth_of_a_degree_in_float32():
    radians = torch.deg2rad(torch.tensor(0.001))
    assert torch.cos(radians) == 1  # premise: the arc cosine would say 0
    prediction = torch.stack([torch.sin(radians), torch.tensor(0.0), torch.cos(radians)])[:, None, None]
    assert measured(VECTORS, (prediction, vectors((0, 0, 1))))["mean_angle"] == pytest.approx(0.001, rel=1e-4)


def test_a_prediction_of_length_zero_is_ninety_degrees_off_and_a_target_of_length_zero_is_unknown():
    values = measured(VECTORS, (vectors((0, 0, 0), (1, 0, 0)), vectors((0, 0, 1), (0, 0, 0))))
    assert values["mean_angle"] == pytest.approx(90)
    assert values["within_30"] == 0


def test_a_nan_direction_makes_the_mean_nan_and_is_within_no_angle():
    values = measured(VECTORS, (vectors((NAN, 0, 1), (0, 0, 1)), vectors((0, 0, 1), (0, 0, 1))))
    assert math.isnan(values["mean_angle"])
    assert values["within_30"] == 0.5


def test_every_depth_metric_exists_with_median_scaling():
    assert {f"{name}_median_scaled" for name in DEPTH_METRICS} <= set(METRICS)
