"""Proves for all metrics that sums are additive over any split and ignore unknown pixels; also tests the constant baseline."""

import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mult_hf import IGNORE_INDEX, TaskSpec, registered_tasks
from mult_hf.metrics import METRICS, STATISTICS, MultiTaskMetrics, constant_predictions, metrics_of, multi_task_gain

NAN = math.nan
# Task whose maps test a metric, by its statistics; all other metrics are tested on distances.
TESTED_ON = {"confusion": "classes", "angles": "direction", "boundaries_0.0075": "outline", "boundaries_0.011": "outline"}
SPECS = {
    "classes": TaskSpec(name="classes", kind="classification", channels=5),
    "distance": TaskSpec(name="distance", kind="regression", channels=1, unit="m"),
    "direction": TaskSpec(name="direction", kind="regression", channels=3),
    "outline": TaskSpec(name="outline", kind="regression", channels=1),
}
SPECS = {
    task: replace(spec, metrics=tuple(name for name, metric in METRICS.items() if TESTED_ON.get(metric.statistics, "distance") == task))
    for task, spec in SPECS.items()
}
NAMES = [f"{task}/{metric}" for task, spec in SPECS.items() for metric in spec.metrics]
# What looks at an image as a whole; a part of it is another image.
WHOLE_IMAGE = {name for name in STATISTICS if name.startswith("boundaries") or name.endswith("median_scaled")}


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
        outline = torch.zeros(1, *shape)
        outline[..., 1::3] = 1  # upright lines
        targets = {
            "classes": torch.randint(0, 4, shape, generator=generator).masked_fill(unknown, IGNORE_INDEX),  # class 4 never occurs
            "distance": distance.masked_fill(unknown, NAN),
            "direction": direction.masked_fill(unknown, NAN),
            "outline": outline.masked_fill(unknown, NAN),
        }
        predictions = {
            "classes": torch.randint(0, 4, shape, generator=generator),
            "distance": (distance + 0.8 * noise[:1]).clamp(min=0.1),
            "direction": direction + noise[1:],
            "outline": (0.3 * outline + 0.7 * torch.rand((1, *shape), generator=generator)),
        }
        images.append((predictions, targets))
    return images


def measured(images: list) -> dict[str, float]:
    metrics = MultiTaskMetrics(SPECS)
    for predictions, targets in images:
        metrics.update(predictions, targets)
    return metrics.compute()


def metric_of_one_image(task: str, prediction: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    metrics = MultiTaskMetrics({task: SPECS[task]})
    metrics.update({task: prediction}, {task: target})
    return {name.split("/")[1]: value for name, value in metrics.compute().items()}


def test_every_metric_of_the_table_is_tested_here():
    assert {name.split("/")[1] for name in NAMES} == set(METRICS)


def test_better_predictions_have_better_values_in_every_metric():
    images = random_images()
    noisy = measured(images)
    perfect = measured([({task: target.nan_to_num() for task, target in targets.items()}, targets) for _, targets in images])
    assert [name for name in NAMES if not MultiTaskMetrics(SPECS).is_better(name, perfect[name], noisy[name])] == []


def test_many_pixels_do_not_lose_small_errors():
    # Added up in float32, a million errors of 0.1 are off by about one percent when summed one after the other.
    metrics = MultiTaskMetrics(SPECS)
    for _ in range(300):
        metrics.update({"distance": torch.full((1, 64, 64), 1.1)}, {"distance": torch.ones(1, 64, 64)})
    assert metrics.compute()["distance/mae"] == pytest.approx(float(np.float32(1.1)) - 1, rel=1e-9)


def test_sums_are_float64_and_need_the_same_memory_for_any_number_of_images():
    images = random_images()
    few, many = MultiTaskMetrics(SPECS), MultiTaskMetrics(SPECS)
    few.update(*images[0])
    for image in images:
        many.update(*image)
    assert set(few.sums) == set(many.sums) == {f"{task}/{m.statistics}" for task in SPECS for m in few.metrics[task].values()}
    assert all(value.dtype == torch.float64 and value.shape == few.state()[name].shape for name, value in many.state().items())


def test_statistics_of_several_metrics_are_computed_once_per_image(monkeypatch):
    calls = []
    for name, statistic in STATISTICS.items():
        count = lambda *maps, name=name, count=statistic.count: calls.append(name) or count(*maps)  # noqa: E731
        monkeypatch.setitem(STATISTICS, name, replace(statistic, count=count))
    measured(random_images(1))
    assert sorted(calls) == sorted(STATISTICS)


def test_no_gradients_are_kept():
    predictions, targets = random_images(1)[0]
    metrics = MultiTaskMetrics(SPECS)
    metrics.update({**predictions, "distance": predictions["distance"].requires_grad_()}, targets)
    assert not any(value.requires_grad for value in metrics.state().values())


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
        together.merge(process)
    assert together.compute() == pytest.approx(measured(images), rel=1e-12)


@pytest.mark.parametrize("column", range(1, 8))
def test_an_image_may_be_cut_anywhere_unless_a_metric_looks_at_whole_images(column):
    predictions, targets = random_images(1)[0]
    left = tuple({task: values[..., :column] for task, values in maps.items()} for maps in (predictions, targets))
    right = tuple({task: values[..., column:] for task, values in maps.items()} for maps in (predictions, targets))
    cut, whole = measured([left, right]), measured([(predictions, targets)])
    names = [name for name in NAMES if METRICS[name.split("/")[1]].statistics not in WHOLE_IMAGE]
    assert len(names) > 15
    assert {name: cut[name] for name in names} == pytest.approx({name: whole[name] for name in names}, rel=1e-12)


def test_a_mean_over_images_would_be_a_different_number():
    images = random_images()
    per_image = [measured([image])["distance/rmse"] for image in images]
    assert abs(np.mean(per_image) - measured(images)["distance/rmse"]) > 1e-4  # so the two tests above can fail


def test_merging_does_not_change_the_merged_object():
    first, second = MultiTaskMetrics(SPECS), MultiTaskMetrics(SPECS)
    first.update(*random_images(1)[0])
    state = {name: value.clone() for name, value in first.state().items()}
    second.merge(first)
    second.merge(first)
    assert all(torch.equal(first.state()[name], value) for name, value in state.items())
    assert all(torch.equal(second.state()[name], 2 * value) for name, value in state.items())


def test_a_state_of_plain_tensors_is_merged_like_its_metrics():
    first, second, third = MultiTaskMetrics(SPECS), MultiTaskMetrics(SPECS), MultiTaskMetrics(SPECS)
    first.update(*random_images(1)[0])
    assert all(isinstance(value, torch.Tensor) for value in first.state().values())
    for _ in range(2):
        second.merge(first)
        third.merge_state(first.state())
    assert second.compute() == third.compute()
    assert second.sums.keys() == third.sums.keys()


def test_a_state_of_other_tasks_is_refused():
    metrics = MultiTaskMetrics({"distance": SPECS["distance"]})
    with pytest.raises(ValueError, match=r"sums \['height/errors'\]; allowed for these tasks: distance/errors"):
        metrics.merge_state({"height/errors/count": torch.zeros(())})


def test_sums_survive_being_sent_to_another_process():
    metrics = MultiTaskMetrics(SPECS)
    metrics.update(*random_images(1)[0])
    sent = pickle.loads(pickle.dumps(metrics.sums))
    assert MultiTaskMetrics(SPECS, sent).compute() == metrics.compute()
    assert {type(sums) for sums in sent.values()} == {type(sums) for sums in metrics.sums.values()}


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
            "outline": predictions["outline"].masked_fill(unknown, 1.0),
        }
        changed.append((wrong, targets))
    assert measured(changed) == measured(images)


def test_a_vector_with_one_unknown_channel_does_not_count():
    prediction, target = torch.eye(3)[:, :2].reshape(3, 1, 2), torch.eye(3)[:, [1, 1]].reshape(3, 1, 2)
    target[1, 0, 0] = NAN  # the other pixel is right
    assert metric_of_one_image("direction", prediction, target)["mean_angle"] == 0


def test_a_metric_is_nan_before_the_first_image():
    values = MultiTaskMetrics(SPECS).compute()
    assert list(values) == NAMES
    assert all(math.isnan(value) for value in values.values())


def test_a_metric_is_nan_without_known_pixels():
    predictions, targets = random_images(1)[0]
    nothing = {task: torch.full_like(target, NAN if target.is_floating_point() else IGNORE_INDEX) for task, target in targets.items()}
    values = measured([(predictions, nothing)])
    assert list(values) == NAMES
    assert all(math.isnan(value) for value in values.values())


def test_an_image_without_known_pixels_changes_nothing():
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


def test_a_prediction_of_one_channel_may_lack_the_channel_axis():
    predictions, targets = random_images(1)[0]
    with_axis = measured([(predictions, targets)])
    assert measured([({**predictions, "distance": predictions["distance"][0]}, targets)]) == with_axis


def test_better_is_larger_for_shares_and_smaller_for_errors():
    metrics = MultiTaskMetrics(SPECS)
    larger_wins = {name.split("/")[1] for name in NAMES if metrics.is_better(name, 2.0, than=1.0)}
    smaller_wins = {name.split("/")[1] for name in NAMES if metrics.is_better(name, 1.0, than=2.0)}
    shares = ("mean_iou", "pixel_accuracy", "mean_accuracy", "delta", "within", "ods_f", "ois_f", "boundary_ap")
    assert larger_wins == {name for name in METRICS if name.startswith(shares)}
    assert smaller_wins == set(METRICS) - larger_wins
    assert not any(metrics.is_better(name, 1.0, than=1.0) for name in NAMES)


def test_tables_use_the_title_and_format_of_a_metric():
    unit_of = replace(SPECS["distance"], unit="m")
    shown = {name: (METRICS[name].title(unit_of), METRICS[name].format(0.12345)) for name in ("mean_iou", "rmse", "abs_rel", "mean_angle")}
    assert shown == {
        "mean_iou": ("mIoU (%) ↑", "12.35"),
        "rmse": ("RMSE (m) ↓", "0.1235"),
        "abs_rel": ("AbsRel ↓", "0.1235"),
        "mean_angle": ("mean angle (degrees) ↓", "0.12"),
    }
    assert METRICS["rmse"].direction == "lower"
    assert METRICS["mean_iou"].direction == "higher"
    assert len({metric.label for metric in METRICS.values()}) == len(METRICS)
    assert METRICS["rmse"].format(NAN) == "nan"


def test_every_registered_task_names_metrics_that_exist():
    for spec in registered_tasks().values():
        assert list(metrics_of(spec)) == list(spec.metrics)


# Refusals.


def test_an_unknown_metric_is_refused():
    spec = replace(SPECS["distance"], metrics=("rmse", "rmsle"))
    with pytest.raises(ValueError, match=r"'distance' has metrics .*, unknown are \['rmsle'\]; allowed: mae, rmse, log_rmse, "):
        metrics_of(spec)
    with pytest.raises(ValueError, match="'distance' has metrics"):
        MultiTaskMetrics({"distance": spec})


@pytest.mark.parametrize("task", SPECS)
def test_maps_of_different_sizes_are_refused_with_the_tasks_name(task):
    predictions, targets = random_images(1, size=8)[0]
    cut = targets[task][..., :1]  # one column would broadcast
    with pytest.raises(ValueError, match=rf"{task}: prediction has shape \(.*8, 8\), target \(.*8, 1\)"):
        measured([({task: predictions[task]}, {task: cut})])


def test_a_prediction_with_another_number_of_channels_is_refused_with_the_tasks_name():
    with pytest.raises(ValueError, match="distance: "):
        measured([({"distance": torch.rand(3, 4, 4)}, {"distance": torch.rand(1, 4, 4)})])


@pytest.mark.parametrize("task", SPECS)
def test_a_batch_instead_of_an_image_is_refused_with_the_tasks_name(task):
    predictions, targets = random_images(1)[0]
    batch = [{task: torch.stack([maps[task]] * 4)} for maps in (predictions, targets)]
    with pytest.raises(ValueError, match=rf"{task}: prediction has shape \(4, .*8, 8\).* one by one"):
        measured([batch])


def test_a_batch_of_depth_maps_without_channels_is_refused():
    """(4, 8, 8) would look like one image with four channels."""
    maps = torch.rand(4, 8, 8)
    with pytest.raises(ValueError, match=r"distance: prediction has shape \(4, 8, 8\), but one image's map is \(height, width\) or \(1,"):
        measured([({"distance": maps}, {"distance": maps})])


def test_logits_instead_of_class_ids_are_refused():
    with pytest.raises(ValueError, match=r"classes: prediction has shape \(5, 4, 4\), but one image's map is class ids"):
        measured([({"classes": torch.rand(5, 4, 4)}, {"classes": torch.zeros(4, 4).long()})])


@pytest.mark.parametrize(
    ("task", "metric", "message"),
    [
        ("distance", "mean_iou", r"'distance' is a regression and has metrics \['mean_iou'\]; mean_iou, .* are for classification"),
        ("classes", "rmse", r"'classes' is a classification and has metrics \['rmse'\]; .* all others for regression"),
        ("distance", "mean_angle", "'mean_angle', which is for regression with 2 or more channels; choose from: mae, rmse"),
        ("direction", "ods_f_0.0075", "'ods_f_0.0075', which is for regression with one channel"),
    ],
)
def test_a_metric_for_another_kind_of_task_is_refused_by_its_name(task, metric, message):
    with pytest.raises(ValueError, match=message):
        MultiTaskMetrics({task: replace(SPECS[task], metrics=(metric,))})


@pytest.mark.parametrize(("predicted", "true"), [(5, 0), (255, 0), (0, 5), (0, 7), (-1, 1)])
def test_an_unknown_class_is_refused_and_not_counted_as_another(predicted, true):
    with pytest.raises(ValueError, match=r"^classes: "):
        measured([({"classes": torch.tensor([[predicted, 0]])}, {"classes": torch.tensor([[true, 0]])})])


# The constant baseline.


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


@pytest.mark.parametrize(
    ("others", "expected"),
    [((1.0, 0.0), (1.0, 0.0)), (None, (1.0, 0.0))],
    ids=["the mean direction of all pixels", "any direction if all cancel out"],
)
def test_the_constant_direction_has_length_1_where_opposite_directions_cancel_out(others, expected):
    """A vector of length 0 becomes NaN in post-processing, and would make the baseline of the whole data set NaN."""
    spec = TaskSpec(name="flow", kind="regression", channels=2, activation="unit_vector", metrics=("mean_angle",))
    directions = torch.tensor([[0.0, 1.0], [0.0, -1.0]])  # of one pixel in two images
    other = directions if others is None else torch.tensor([others] * 2)
    targets = torch.stack([directions, other], dim=-1)[:, :, None]  # (images, channels, 1, 2)
    (constant,) = constant_predictions({"flow": targets}, {"flow": spec}).values()
    torch.testing.assert_close(constant[:, 0, 0], torch.tensor(expected))
    torch.testing.assert_close(constant.norm(dim=0), torch.ones(1, 2))


def test_the_constant_direction_of_a_pixel_that_is_never_known_is_the_mean_direction_of_each_channel():
    targets = torch.tensor([[NAN, 0.0, 1.0], [NAN, 0.0, 0.0], [NAN, 1.0, 0.0]])[None, :, None]  # one image of three pixels
    value = constant("direction", "mean_angle", targets)[:, 0, 0]
    torch.testing.assert_close(value, torch.tensor([math.sqrt(0.5), 0, math.sqrt(0.5)]))


def test_the_headline_metric_determines_the_constant():
    targets = {"distance": torch.tensor([1.0, 2.0, 9.0]).view(3, 1, 1, 1)}
    for metrics, expected in ((("rmse", "mae"), 4), (("mae", "rmse"), 2)):
        specs = {"distance": replace(SPECS["distance"], metrics=metrics)}
        assert constant_predictions(targets, specs)["distance"].item() == expected


@pytest.mark.parametrize("metric", ["rmse", "mae"])
def test_no_other_constant_beats_the_constant_baseline_on_its_own_images(metric):
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


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_can_be_measured_like_any_prediction(name):
    task, metric = name.split("/")
    stack = torch.stack([targets[task][..., :8] for _, targets in random_images()])
    metrics = MultiTaskMetrics({task: replace(SPECS[task], metrics=(metric,))})
    for target in stack:
        metrics.update({task: constant(task, metric, stack)}, {task: target})
    assert math.isfinite(metrics.compute()[name])


# Multi-task gain.

TWO = {
    "classes": replace(SPECS["classes"], metrics=("mean_iou", "pixel_accuracy")),
    "distance": replace(SPECS["distance"], metrics=("rmse",)),
}


def test_the_gain_is_the_mean_relative_difference_of_headlines_and_positive_for_the_better():
    together = {"classes/mean_iou": 0.44, "classes/pixel_accuracy": 0.1, "distance/rmse": 0.6}
    alone = {"classes/mean_iou": 0.40, "classes/pixel_accuracy": 0.9, "distance/rmse": 0.5}
    assert multi_task_gain(together, alone, TWO) == pytest.approx((10 - 20) / 2)  # mIoU 10 % up, RMSE 20 % up
    assert multi_task_gain(together, alone, {"distance": TWO["distance"]}) == pytest.approx(-20)
    assert multi_task_gain(alone, alone, TWO) == 0


@pytest.mark.parametrize(
    ("iou", "rmse", "iou_before", "rmse_before", "message"),
    [
        (None, 1.0, 0.5, 1.0, r"classes/mean_iou is missing among \['distance/rmse'\] in the values"),
        (0.5, 1.0, 0.5, None, r"distance/rmse is missing among \['classes/mean_iou'\] in the reference"),
        (0.5, NAN, 0.5, 1.0, r"distance/rmse is NaN or infinite \(nan\) in the values"),
        (0.5, 1.0, 0.5, math.inf, r"distance/rmse is NaN or infinite \(inf\) in the reference"),
        (0.5, 1.0, 0.0, 1.0, r"classes/mean_iou is 0 in the reference"),
    ],
)
def test_a_gain_without_both_numbers_of_each_task_is_refused(iou, rmse, iou_before, rmse_before, message):
    together, alone = (
        {name: value for name, value in (("classes/mean_iou", first), ("distance/rmse", second)) if value is not None}
        for first, second in ((iou, rmse), (iou_before, rmse_before))
    )
    with pytest.raises(ValueError, match=message):
        multi_task_gain(together, alone, TWO)


def test_a_gain_over_no_task_is_refused():
    with pytest.raises(ValueError, match=r"specs is \{\}; pass at least one"):
        multi_task_gain({}, {}, {})


def test_the_documentation_lists_every_metric():
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    assert "with the suffix `_median_scaled`" in text
    assert "the same with `_0.011`" in text
    names = {name.removesuffix("_median_scaled").replace("_0.011", "_0.0075") for name in METRICS}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
