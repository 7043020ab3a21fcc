"""Proves that metrics agree with scikit-learn and the textbook formulas, add up over any split, and never see unknown pixels."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, mean_absolute_error, root_mean_squared_error

from mult_hf import IGNORE_INDEX, TaskSpec, registered_tasks
from mult_hf.metrics import METRICS, MultiTaskMetrics, constant_predictions, metrics_of

NAN = math.nan
SPECS = {
    "classes": TaskSpec(name="classes", kind="classification", channels=5, metrics=("mean_iou", "pixel_accuracy")),
    "distance": TaskSpec(name="distance", kind="regression", channels=1, metrics=("rmse", "delta1", "mae")),
    "direction": TaskSpec(name="direction", kind="regression", channels=3, metrics=("mean_angle", "rmse", "mae")),
}
NAMES = [f"{task}/{metric}" for task, spec in SPECS.items() for metric in spec.metrics]


def random_images(count: int = 5, size: int = 8) -> list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    """Predictions and targets of several images; a third of the pixels is unknown, each image's share being another."""
    generator = torch.Generator().manual_seed(0)
    images = []
    for number in range(count):
        shape = (size, size + number)
        unknown = torch.rand(shape, generator=generator) < (number + 1) / (2 * count)
        distance = 1 + 4 * torch.rand((1, *shape), generator=generator)
        direction = torch.nn.functional.normalize(torch.randn((3, *shape), generator=generator), dim=0)
        noise = torch.randn((4, *shape), generator=generator)
        targets = {
            "classes": torch.randint(0, 4, shape, generator=generator).masked_fill(unknown, IGNORE_INDEX),  # class 4 never occurs
            "distance": distance.masked_fill(unknown, NAN),
            "direction": direction.masked_fill(unknown, NAN),
        }
        predictions = {
            "classes": torch.randint(0, 4, shape, generator=generator),
            "distance": (distance + 0.8 * noise[:1]).clamp(min=0.1),
            "direction": direction + noise[1:],
        }
        images.append((predictions, targets))
    return images


def measured(images: list) -> dict[str, float]:
    metrics = MultiTaskMetrics(SPECS)
    for predictions, targets in images:
        metrics.update(predictions, targets)
    return metrics.compute()


def known_values(images: list, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and target of all known pixels of all images in one row: (pixels,) or (channels, pixels)."""
    pairs = [(predictions[task].numpy(), targets[task].numpy()) for predictions, targets in images]
    unknown = [target == IGNORE_INDEX if target.ndim == 2 else np.isnan(target[0]) for _, target in pairs]
    return tuple(np.concatenate([pair[side][..., ~mask] for pair, mask in zip(pairs, unknown)], axis=-1) for side in (0, 1))


def metric_of_one_image(task: str, prediction: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    metrics = MultiTaskMetrics({task: SPECS[task]})
    metrics.update({task: prediction}, {task: target})
    return {name.split("/")[1]: value for name, value in metrics.compute().items()}


# Parity.


def test_the_confusion_matrix_is_scikit_learns():
    images = random_images()
    metrics = MultiTaskMetrics(SPECS)
    for image in images:
        metrics.update(*image)
    prediction, target = known_values(images, "classes")
    np.testing.assert_array_equal(metrics.sums["classes/mean_iou"], confusion_matrix(target, prediction, labels=range(5)))


def test_mean_iou_and_accuracy_are_scikit_learns():
    images = random_images()
    prediction, target = known_values(images, "classes")
    values = measured(images)
    assert values["classes/mean_iou"] == pytest.approx(jaccard_score(target, prediction, average="macro"))
    assert values["classes/pixel_accuracy"] == pytest.approx(accuracy_score(target, prediction))


def test_errors_of_numbers_are_the_textbook_formulas():
    images = random_images()
    prediction, target = (values[0] for values in known_values(images, "distance"))
    values = measured(images)
    assert values["distance/rmse"] == pytest.approx(root_mean_squared_error(target, prediction), rel=1e-6)
    assert values["distance/mae"] == pytest.approx(mean_absolute_error(target, prediction), rel=1e-6)
    assert values["distance/delta1"] == pytest.approx(np.mean(np.maximum(prediction / target, target / prediction) < 1.25))
    assert 0.2 < values["distance/delta1"] < 0.8  # premise: both answers occur


def test_errors_of_vectors_are_the_textbook_formulas():
    images = random_images()
    prediction, target = (values.astype(np.float64) for values in known_values(images, "direction"))
    cosine = (prediction * target).sum(axis=0) / np.linalg.norm(prediction, axis=0) / np.linalg.norm(target, axis=0)
    values = measured(images)
    assert values["direction/mean_angle"] == pytest.approx(np.degrees(np.arccos(cosine)).mean(), rel=1e-6)
    assert values["direction/mae"] == pytest.approx(np.abs(prediction - target).mean(), rel=1e-6)
    assert values["direction/rmse"] == pytest.approx(np.sqrt(np.square(prediction - target).mean()), rel=1e-6)


# Values by hand.


def test_mean_iou_is_the_mean_over_classes_that_occur():
    # Class 0: 1 hit, union 2. Class 1: 1 hit, union 3. Class 2: predicted once, never there: 0 of 1. Classes 3 and 4 never occur.
    prediction, target = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 0, 1, 1]])
    assert metric_of_one_image("classes", prediction, target)["mean_iou"] == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    assert metric_of_one_image("classes", prediction, target)["pixel_accuracy"] == pytest.approx(2 / 4)


def test_rmse_takes_the_root_after_the_mean():
    values = metric_of_one_image("distance", torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[2.0, 9.0]]]))
    assert values["rmse"] == pytest.approx(math.sqrt((1 + 49) / 2))
    assert values["mae"] == pytest.approx((1 + 7) / 2)


def test_delta1_counts_factors_below_a_quarter_in_both_directions_and_not_the_quarter_itself():
    prediction = torch.tensor([[[1.24, 1.26, 1.25, 0.81, 0.79, 0.8, 0.0, -1.0]]])
    within = metric_of_one_image("distance", prediction[..., :5], torch.ones(1, 1, 5))["delta1"]
    assert within == pytest.approx(2 / 5)
    assert metric_of_one_image("distance", prediction[..., 6:], torch.ones(1, 1, 2))["delta1"] == 0


def test_delta1_skips_targets_of_zero_which_have_no_factor():
    assert metric_of_one_image("distance", torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[1.0, 0.0]]]))["delta1"] == 1


def test_mean_angle_is_in_degrees_and_does_not_depend_on_lengths():
    target = torch.tensor([[0.0, 0.0, 1.0]] * 4).T[:, None]
    prediction = torch.tensor([[0.0, 0.0, 3.0], [0.0, 2.0, 2.0], [0.5, 0.0, 0.0], [0.0, 0.0, -1.0]]).T[:, None]
    for pixel, degrees in enumerate((0, 45, 90, 180)):
        one = metric_of_one_image("direction", prediction[..., pixel : pixel + 1], target[..., pixel : pixel + 1])
        assert one["mean_angle"] == pytest.approx(degrees, abs=1e-6)
    assert metric_of_one_image("direction", prediction, target)["mean_angle"] == pytest.approx((0 + 45 + 90 + 180) / 4)


def test_mean_angle_sees_a_thousandth_of_a_degree_in_float32():
    radians = torch.deg2rad(torch.tensor(0.001))
    assert torch.cos(radians) == 1  # premise: the arc cosine would say 0
    prediction = torch.stack([torch.sin(radians), torch.tensor(0.0), torch.cos(radians)])[:, None, None]
    value = metric_of_one_image("direction", prediction, torch.tensor([0.0, 0.0, 1.0])[:, None, None])["mean_angle"]
    assert value == pytest.approx(0.001, rel=1e-4)


def test_many_pixels_do_not_lose_small_errors():
    # Added up in float32, a million errors of 0.1 are off by about one percent when summed one after the other.
    metrics = MultiTaskMetrics(SPECS)
    for _ in range(300):
        metrics.update({"distance": torch.full((1, 64, 64), 1.1)}, {"distance": torch.ones(1, 64, 64)})
    assert metrics.compute()["distance/mae"] == pytest.approx(float(np.float32(1.1)) - 1, rel=1e-9)
    assert all(sums.dtype == torch.float64 for sums in metrics.sums.values())


# Additivity: any split gives the same number.


@pytest.mark.parametrize("seed", range(5))
def test_images_may_be_spread_over_processes_in_any_way(seed):
    images = random_images()
    generator = np.random.default_rng(seed)
    processes = [MultiTaskMetrics(SPECS) for _ in range(3)]
    for number in generator.permutation(len(images)):
        processes[generator.integers(3)].update(*images[number])
    together = MultiTaskMetrics(SPECS)
    for process in processes:
        together.merge(process.sums)
    assert together.compute() == pytest.approx(measured(images), rel=1e-12)


@pytest.mark.parametrize("column", range(1, 8))
def test_an_image_may_be_cut_anywhere(column):
    predictions, targets = random_images(1)[0]
    left = tuple({task: values[..., :column] for task, values in maps.items()} for maps in (predictions, targets))
    right = tuple({task: values[..., column:] for task, values in maps.items()} for maps in (predictions, targets))
    assert measured([left, right]) == pytest.approx(measured([(predictions, targets)]), rel=1e-12)


def test_a_mean_over_images_would_be_another_number():
    images = random_images()
    per_image = [measured([image])["distance/rmse"] for image in images]
    assert abs(np.mean(per_image) - measured(images)["distance/rmse"]) > 1e-4  # so the two tests above can fail


def test_merging_does_not_change_what_is_merged():
    first, second = MultiTaskMetrics(SPECS), MultiTaskMetrics(SPECS)
    first.update(*random_images(1)[0])
    sums = {name: value.clone() for name, value in first.sums.items()}
    second.merge(first.sums)
    second.merge(first.sums)
    assert all(torch.equal(first.sums[name], value) for name, value in sums.items())
    assert all(torch.equal(second.sums[name], 2 * value) for name, value in sums.items())


# Unknown pixels.


def test_unknown_pixels_never_count():
    images = random_images()
    changed = []
    for predictions, targets in images:
        unknown = targets["classes"] == IGNORE_INDEX
        assert unknown.any()
        assert torch.equal(unknown, targets["distance"][0].isnan())
        wrong = {
            "classes": predictions["classes"].masked_fill(unknown, 4),
            "distance": predictions["distance"].masked_fill(unknown, 1e6),
            "direction": predictions["direction"].masked_fill(unknown, NAN),
        }
        changed.append((wrong, targets))
    assert measured(changed) == measured(images)


def test_a_vector_with_one_unknown_channel_does_not_count():
    prediction, target = torch.ones(3, 1, 2), torch.ones(3, 1, 2)
    target[1, 0, 0], prediction[:, 0, 0] = NAN, 100.0
    assert metric_of_one_image("direction", prediction, target)["mae"] == 0


def test_a_metric_is_nan_before_anything_came():
    values = MultiTaskMetrics(SPECS).compute()
    assert list(values) == NAMES
    assert all(math.isnan(value) for value in values.values())


def test_a_metric_is_nan_where_nothing_was_known():
    predictions, targets = random_images(1)[0]
    nothing = {task: torch.full_like(target, NAN if target.is_floating_point() else IGNORE_INDEX) for task, target in targets.items()}
    values = measured([(predictions, nothing)])
    assert list(values) == NAMES
    assert all(math.isnan(value) for value in values.values())


def test_an_image_of_which_nothing_is_known_changes_nothing():
    images = random_images()
    predictions, targets = images[0]
    nothing = {task: torch.full_like(target, NAN if target.is_floating_point() else IGNORE_INDEX) for task, target in targets.items()}
    assert measured([*images, (predictions, nothing)]) == measured(images)


def test_a_task_without_target_or_prediction_is_left_out():
    predictions, targets = random_images(1)[0]
    del predictions["classes"], targets["distance"]
    values = measured([(predictions, targets)])
    assert math.isnan(values["classes/mean_iou"])
    assert math.isnan(values["distance/rmse"])
    assert values["direction/mean_angle"] > 0


# Interface.


def test_a_prediction_of_one_channel_may_come_without_the_channel_axis():
    predictions, targets = random_images(1)[0]
    with_axis = measured([(predictions, targets)])
    assert measured([({**predictions, "distance": predictions["distance"][0]}, targets)]) == with_axis


def test_better_is_larger_for_shares_and_smaller_for_errors():
    metrics = MultiTaskMetrics(SPECS)
    larger_wins = {name for name in NAMES if metrics.is_better(name, 2.0, than=1.0)}
    smaller_wins = {name for name in NAMES if metrics.is_better(name, 1.0, than=2.0)}
    assert larger_wins == {"classes/mean_iou", "classes/pixel_accuracy", "distance/delta1"}
    assert smaller_wins == set(NAMES) - larger_wins
    assert not any(metrics.is_better(name, 1.0, than=1.0) for name in NAMES)


def test_every_registered_task_names_metrics_that_exist():
    for spec in registered_tasks().values():
        assert list(metrics_of(spec)) == list(spec.metrics)


# Refusals.


def test_an_unknown_metric_is_refused():
    spec = replace(SPECS["distance"], metrics=("rmse", "rmsle"))
    with pytest.raises(ValueError, match=r"'distance' has metrics .*; allowed: mean_iou, pixel_accuracy, mae"):
        metrics_of(spec)
    with pytest.raises(ValueError, match="'distance' has metrics"):
        MultiTaskMetrics({"distance": spec})


@pytest.mark.parametrize("task", SPECS)
def test_maps_of_different_sizes_are_refused_by_the_tasks_name(task):
    predictions, targets = random_images(1, size=8)[0]
    cut = targets[task][..., :1]  # one column would broadcast
    with pytest.raises(ValueError, match=rf"{task}: prediction has shape \(.*8, 8\), target \(.*8, 1\)"):
        measured([({task: predictions[task]}, {task: cut})])


def test_a_prediction_of_another_number_of_channels_is_refused_by_the_tasks_name():
    with pytest.raises(ValueError, match="distance: "):
        measured([({"distance": torch.rand(3, 4, 4)}, {"distance": torch.rand(1, 4, 4)})])


@pytest.mark.parametrize(("predicted", "true"), [(5, 0), (255, 0), (0, 5), (0, 7), (-1, 1)])
def test_a_class_that_the_task_does_not_have_is_refused_rather_than_counted_as_another(predicted, true):
    with pytest.raises(ValueError, match=r"^classes: "):
        measured([({"classes": torch.tensor([[predicted, 0]])}, {"classes": torch.tensor([[true, 0]])})])


# The trivial predictor.


def constant(task: str, metric: str, targets: torch.Tensor) -> torch.Tensor:
    return constant_predictions({task: targets}, {task: replace(SPECS[task], metrics=(metric,))})[task]


def test_the_constant_class_is_the_most_frequent_one_of_each_pixel():
    targets = torch.tensor([[[1, 0, 2]], [[1, 3, 2]], [[0, 3, IGNORE_INDEX]], [[2, 3, IGNORE_INDEX]]])  # (images, height, width)
    for metric in ("mean_iou", "pixel_accuracy"):
        assert constant("classes", metric, targets).tolist() == [[1, 3, 2]]


def test_the_constant_class_of_a_pixel_that_is_never_known_is_the_most_frequent_of_all():
    targets = torch.tensor([[[IGNORE_INDEX, 3, 3]], [[IGNORE_INDEX, 3, 0]]])
    assert constant("classes", "mean_iou", targets)[0, :2].tolist() == [3, 3]


def test_the_constant_number_is_the_mean_for_squares_and_the_median_for_absolute_errors():
    targets = torch.tensor([[1.0, 5.0], [2.0, NAN], [9.0, NAN]])[:, None, None]  # (images, channels, height, width)
    assert constant("distance", "rmse", targets).tolist() == [[[4, 5]]]
    assert constant("distance", "delta1", targets).tolist() == [[[4, 5]]]
    assert constant("distance", "mae", targets).tolist() == [[[2, 5]]]


def test_the_constant_number_of_a_pixel_that_is_never_known_is_the_mean_of_all_known_ones():
    targets = torch.tensor([[NAN, 1.0, 2.0], [NAN, 1.0, 4.0]])[:, None, None]
    for metric in ("rmse", "mae"):
        assert constant("distance", metric, targets)[0, 0, 0].item() == pytest.approx((1 + 1 + 2 + 4) / 4)


def test_the_constant_direction_is_that_of_the_mean_vector():
    targets = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [NAN, NAN, NAN]])[:, :, None, None]
    expected = torch.tensor([0, math.sqrt(0.5), math.sqrt(0.5)])
    torch.testing.assert_close(constant("direction", "mean_angle", targets).flatten(), expected)


def test_the_constant_direction_of_a_pixel_that_is_never_known_is_the_mean_direction_of_each_channel():
    targets = torch.tensor([[NAN, 0.0, 1.0], [NAN, 0.0, 0.0], [NAN, 1.0, 0.0]])[None, :, None]  # one image of three pixels
    value = constant("direction", "mean_angle", targets)[:, 0, 0]
    torch.testing.assert_close(value, torch.tensor([math.sqrt(0.5), 0, math.sqrt(0.5)]))


def test_the_headline_metric_chooses_the_constant():
    targets = {"distance": torch.tensor([1.0, 2.0, 9.0]).view(3, 1, 1, 1)}
    for metrics, expected in ((("rmse", "mae"), 4), (("mae", "rmse"), 2)):
        specs = {"distance": replace(SPECS["distance"], metrics=metrics)}
        assert constant_predictions(targets, specs)["distance"].item() == expected


@pytest.mark.parametrize("metric", ["rmse", "mae"])
def test_no_other_constant_beats_the_trivial_predictor_on_its_own_images(metric):
    targets = 1 + 4 * torch.rand(5, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    spec = {"distance": replace(SPECS["distance"], metrics=(metric,))}

    def error(prediction: torch.Tensor) -> float:
        metrics = MultiTaskMetrics(spec)
        for target in targets:
            metrics.update({"distance": prediction}, {"distance": target})
        return metrics.compute()[f"distance/{metric}"]

    best = constant("distance", metric, targets)
    for seed in range(10):
        assert error(best) < error(best + 0.1 * torch.randn(best.shape, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_a_constant_can_be_measured_like_any_prediction(metric):
    task = {"mean_iou": "classes", "pixel_accuracy": "classes", "mean_angle": "direction"}.get(metric, "distance")
    stack = torch.stack([targets[task][..., :8] for _, targets in random_images()])
    metrics = MultiTaskMetrics({task: replace(SPECS[task], metrics=(metric,))})
    for target in stack:
        metrics.update({task: constant(task, metric, stack)}, {task: target})
    assert 0 < metrics.compute()[f"{task}/{metric}"] < 180
