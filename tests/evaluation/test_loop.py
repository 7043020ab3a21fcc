"""Proves that the evaluation loop measures at the labels' size, gives one result for any split, and has valid intervals of differences."""

import logging
import math
import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import IterableDataset

import mult_hf.evaluation.loop as evaluation_module
from mult_hf import IGNORE_INDEX, LabelEncoding, MulTImageProcessor, TaskSpec
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.evaluation.baseline import constant_baseline
from mult_hf.evaluation.comparison import Difference, bootstrap_differences
from mult_hf.evaluation.compatibility import measured_specs
from mult_hf.evaluation.loop import evaluate
from mult_hf.evaluation.report import results_table
from mult_hf.metrics import MultiTaskMetrics
from support.tables import unpadded

NAN = math.nan
SPECS = {
    "classes": TaskSpec(name="classes", kind="classification", channels=3, class_names=("floor", "wall", "door")),
    "distance": TaskSpec(name="distance", kind="regression", channels=1, unit="m", metrics=("rmse", "mae")),
    "direction": TaskSpec(name="direction", kind="regression", channels=3, activation="unit_vector", metrics=("mean_angle",)),
}


def black_image(size=8):
    return np.zeros((size, size, 3), np.uint8)


def collator_for(*tasks, size=8):
    """A processor whose model has inputs of `size` pixels."""
    return MultiTaskCollator(MulTImageProcessor(size={"height": size, "width": size}, tasks=[SPECS[task] for task in tasks]))


def constant(task, *values, size=8):
    """A predictor that predicts the same value everywhere."""
    return lambda pixel_values: {task: torch.tensor(values).view(1, -1, 1, 1).expand(len(pixel_values), -1, size, size)}


def random_rows(count=7, size=8):
    """Rows of three tasks with a third of the pixels unknown."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        unknown = rng.random((size, size)) < 1 / 3
        direction = rng.normal(size=(size, size, 3)).astype(np.float32)
        rows.append(
            {
                "image": rng.integers(0, 255, (size, size, 3), np.uint8),
                "classes": np.where(unknown, IGNORE_INDEX, rng.integers(0, 3, (size, size))),
                "distance": np.where(unknown, NAN, rng.uniform(1, 5, (size, size))).astype(np.float32),
                "direction": direction / np.linalg.norm(direction, axis=-1, keepdims=True),
            }
        )
    return rows


def depends_on_every_pixel(pixel_values):
    """A predictor of all three tasks that depends on every pixel."""
    return {"classes": pixel_values, "distance": 2 + pixel_values.mean(dim=1, keepdim=True), "direction": pixel_values}


def measured(rows, predictor=depends_on_every_pixel, tasks=tuple(SPECS), size=8, **kwargs):
    return evaluate({"it": predictor}, rows, collator_for(*tasks, size=size), Accelerator(), progress=False, **kwargs)["it"]


# --- numbers


def test_errors_of_known_size_have_the_value_computed_by_hand():
    """2 m against 3 m in three quarters, with the rest unknown; then 2 m against 4 m: the RMSE is sqrt((48 + 4 * 64) / 112)."""
    distance = np.full((8, 8), 3.0, np.float32)
    distance[:4, :4] = NAN
    rows = [{"image": black_image(), "distance": distance}, {"image": black_image(), "distance": np.full((8, 8), 4.0, np.float32)}]
    result = measured(rows, constant("distance", 2.0), ["distance"])
    assert result.compute()["distance/mae"] == pytest.approx((48 * 1 + 64 * 2) / 112)
    assert result.compute()["distance/rmse"] == pytest.approx(math.sqrt((48 * 1 + 64 * 4) / 112))
    assert [result.of_image(number)["distance/mae"] for number in (0, 1)] == [1.0, 2.0]


@pytest.mark.parametrize("size", [3, 8, 20])
def test_labels_are_never_resampled_for_any_input_size(size):
    """One of 64 pixels is 64 m off: the mean error is 1 m. At another size that pixel would be lost, or count more than once."""
    distance = np.zeros((8, 8), np.float32)
    distance[5, 2] = 64.0
    rows = [{"image": black_image(), "distance": distance}]
    result = measured(rows, constant("distance", 0.0, size=size), ["distance"], size=size)
    assert result.compute()["distance/mae"] == 1.0


def test_maps_of_another_size_than_the_image_are_measured_at_their_own_size():
    rows = [{"image": black_image(8), "distance": np.eye(3, dtype=np.float32), "classes": np.zeros((5, 5), np.uint8)}]
    predictor = lambda pixels: {**constant("distance", 0.0)(pixels), **constant("classes", 1.0, 0.0, 0.0)(pixels)}  # noqa: E731
    result = measured(rows, predictor, ["distance", "classes"])
    assert result.compute()["distance/mae"] == pytest.approx(1 / 3)
    assert result.compute()["classes/pixel_accuracy"] == 1.0


def test_a_task_without_labels_is_unknown_and_does_not_affect_others():
    rows = [{"image": black_image(), "distance": np.ones((8, 8), np.float32), "classes": None}]
    predictor = lambda pixels: {**constant("distance", 1.0)(pixels), **constant("classes", 1.0, 0.0, 0.0)(pixels)}  # noqa: E731
    values = measured(rows, predictor, ["distance", "classes"]).compute()
    assert values["distance/mae"] == 0.0
    assert math.isnan(values["classes/mean_iou"])


@pytest.mark.parametrize("keywords", [{"batch_size": 1}, {"batch_size": 4}, {"batch_size": 50}, {"num_workers": 2}, {"per_image": False}])
def test_the_results_do_not_depend_on_batches_and_workers(keywords):
    rows = random_rows()
    assert measured(rows, **keywords).compute() == pytest.approx(measured(rows, batch_size=3).compute(), rel=1e-12)


def test_several_predictors_in_one_pass_have_the_same_results_as_alone():
    rows, collator = random_rows(), collator_for(*SPECS)
    predictors = {"a": depends_on_every_pixel, "b": lambda pixels: depends_on_every_pixel(-pixels)}
    together = evaluate(predictors, rows, collator, Accelerator(), progress=False)
    assert together["a"].compute() != together["b"].compute()
    for name, predictor in predictors.items():
        assert together[name].compute() == measured(rows, predictor).compute()


def test_images_are_named_by_their_id_or_else_by_their_row():
    rows = [{"image": black_image(), "distance": None, "id": "kitchen_7"}, {"image": black_image(), "distance": None}]
    assert measured(rows, constant("distance", 1.0), ["distance"]).names == ["kitchen_7", "row 1"]


# --- several processes


class Sent(Exception):
    """Stops a process when it has sent everything."""


def evaluate_in(processes, rows, monkeypatch, **keywords):
    """Run several processes one after another; returns each one's result after the exchange, and its number of predictor calls."""
    sent, calls = [], [0] * processes

    def run(rank, exchange):
        def predictor(pixel_values):
            calls[rank] += 1
            return depends_on_every_pixel(pixel_values)

        monkeypatch.setattr(evaluation_module, "gather_object", exchange)
        accelerator = SimpleNamespace(process_index=rank, num_processes=processes, device="cpu", is_main_process=rank == 0)
        return evaluate({"it": predictor}, rows, collator_for(*SPECS), accelerator, progress=False, **keywords)["it"]

    def send(own):
        sent.extend(own)
        raise Sent

    for rank in range(processes):
        with pytest.raises(Sent):
            run(rank, send)
    counted = list(calls)
    return [run(rank, lambda own: sent) for rank in range(processes)], counted


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_any_number_of_processes_returns_the_same_bits_in_the_same_order(processes, monkeypatch):
    rows = [{**row, "id": f"image {number}"} for number, row in enumerate(random_rows(7))]
    alone = measured(rows, batch_size=2)
    for result in evaluate_in(processes, rows, monkeypatch, batch_size=2)[0]:
        assert result.names == alone.names
        assert result.compute() == alone.compute()
        for name, sums in alone.stacked().items():
            assert all(torch.equal(getattr(result.stacked()[name], field), values) for field, values in sums.tensors().items())


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_every_process_calls_the_predictor_equally_often(processes, monkeypatch):
    """As required by models with sharded weights: 4 batches are 2, 2 and 1 calls."""
    _, calls = evaluate_in(processes, random_rows(7), monkeypatch, batch_size=2)
    assert calls == [math.ceil(4 / processes)] * processes


def test_without_images_several_processes_agree_to_rounding(monkeypatch):
    rows = random_rows(7)
    alone = measured(rows, batch_size=2)
    for result in evaluate_in(3, rows, monkeypatch, batch_size=2, per_image=False)[0]:
        assert result.compute() == pytest.approx(alone.compute(), rel=1e-12)
        assert result.names == [f"row {number}" for number in range(7)]


def test_duplicate_rows_and_different_kinds_of_results_are_refused():
    rows = random_rows(2)
    twice, totals = measured(rows), measured(rows, per_image=False)
    with pytest.raises(ValueError, match=r"rows \[0, 1\] were measured twice"):
        twice.merge(measured(rows))
    with pytest.raises(ValueError, match="per_image is True here and False in the other"):
        twice.merge(totals)


def test_without_images_memory_does_not_grow_with_their_number():
    few, many = (measured(random_rows(count), per_image=False) for count in (1, 6))
    sizes = [{name: tuple(value.shape) for name, value in result.metrics.state().items()} for result in (few, many)]
    assert sizes[0] == sizes[1]
    assert len(pickle.dumps(many)) - len(pickle.dumps(few)) < 500, "the names of five rows"


# --- the worst images


def test_worst_images_are_sorted_in_either_direction_without_unknown_ones():
    """Errors of 1, 3 and 2 m and an image without distance; shares of right pixels 1, 1/2, 1/4 and unknown."""
    rows = [{"image": black_image(), "distance": np.full((8, 8), error, np.float32)} for error in (1, 3, 2, NAN)]
    for row, wrong in zip(rows, (0, 32, 48, 0)):
        row["classes"] = (np.arange(64) < wrong).reshape(8, 8) * 1
    rows[3]["classes"] = None
    predictor = lambda pixels: {**constant("distance", 0.0)(pixels), **constant("classes", 1.0, 0.0, 0.0)(pixels)}  # noqa: E731
    worst = measured(rows, predictor, ["distance", "classes"]).worst(2)
    assert worst["distance/rmse"] == [(1, 3.0), (2, 2.0)]
    assert worst["classes/mean_iou"] == [(2, pytest.approx(0.125)), (1, pytest.approx(0.25))]  # the mean of two classes, one at 0


# --- differences


def test_the_interval_equals_that_of_a_plain_loop_over_the_same_resamples():
    rows, resamples = random_rows(6), 25
    a, b = measured(rows), measured(rows, lambda pixels: depends_on_every_pixel(1 - pixels))
    generator, drawn = np.random.default_rng(3), []
    for _ in range(resamples):
        images = generator.integers(6, size=6)
        values = []
        for result in (a, b):
            metrics = MultiTaskMetrics(SPECS)
            for image in images:
                metrics.merge(result.metrics_of_image(image))
            values.append(metrics.compute())
        drawn.append({name: values[0][name] - values[1][name] for name in values[0]})
    for name, (difference, low, high) in bootstrap_differences(a, b, resamples=resamples, confidence=0.8, seed=3).items():
        assert difference == pytest.approx(a.compute()[name] - b.compute()[name])
        assert (low, high) == pytest.approx(tuple(np.quantile([each[name] for each in drawn], [0.1, 0.9])))


def test_the_interval_is_as_wide_as_the_spread_of_a_mean():
    """Differences of 400 images are drawn from a normal distribution: 95 % are within 1.96 standard errors of their mean."""
    errors = np.random.default_rng(0).normal(2.0, 0.5, 400)
    rows = [{"image": black_image(2), "distance": np.full((2, 2), error, np.float32)} for error in errors]
    a, b = (measured(rows, constant("distance", value), ["distance"]) for value in (0.0, 100.0))
    difference, low, high = bootstrap_differences(a, b, resamples=2000)["distance/mae"]
    mean, spread = (errors - (100 - errors)).mean(), 1.96 * (2 * errors).std() / 20
    assert difference == pytest.approx(mean, abs=1e-3)
    assert (low, high) == pytest.approx((mean - spread, mean + spread), abs=0.1 * spread)


def test_difficulty_common_to_both_does_not_widen_the_interval():
    """The same images are drawn for both: one predictor is 1 m worse on every image, although the errors vary much more."""
    rows = [{"image": black_image(), "distance": np.full((8, 8), value, np.float32)} for value in (1, 5, 9, 20)]
    a, b = (measured(rows, constant("distance", value), ["distance"]) for value in (-1.0, 0.0))
    assert a.of_image(3)["distance/mae"] - a.of_image(0)["distance/mae"] == 19, "the premise: images differ by far more"
    assert bootstrap_differences(a, b)["distance/mae"] == pytest.approx(Difference(1.0, 1.0, 1.0))


def test_resamples_without_known_pixels_are_left_out():
    """One of three images has labels, so resamples without it (8 of 27) have no result."""
    rows = [{"image": black_image(), "distance": np.full((8, 8), value, np.float32)} for value in (NAN, 2.0, NAN)]
    a, b = (measured(rows, constant("distance", value), ["distance"]) for value in (0.0, 1.0))
    assert bootstrap_differences(a, b)["distance/mae"] == (1.0, 1.0, 1.0)
    rows = [rows[0]]
    nothing = measured(rows, constant("distance", 0.0), ["distance"])
    assert all(math.isnan(value) for value in bootstrap_differences(nothing, nothing)["distance/mae"])


def test_predictors_are_compared_on_the_same_images_and_shared_metrics_only():
    rows = random_rows(4)
    a, b = measured(rows), measured(rows, tasks=["distance"])
    assert list(bootstrap_differences(a, b, resamples=5)) == ["distance/rmse", "distance/mae"]
    with pytest.raises(ValueError, match=r"the first has 4 images, .* the second 3"):
        bootstrap_differences(a, measured(rows[:3]))


@pytest.mark.parametrize("keywords", [{"resamples": 0}, {"confidence": 1.0}, {"confidence": 0.0}])
def test_invalid_bootstrap_settings_are_refused(keywords):
    a = measured(random_rows(2))
    with pytest.raises(ValueError, match=r"resamples is .* and confidence"):
        bootstrap_differences(a, a, **keywords)


def test_images_without_kept_statistics_cannot_be_ranked_or_resampled():
    totals = measured(random_rows(3), per_image=False)
    for use in (lambda: totals.worst(1), lambda: bootstrap_differences(totals, totals)):
        with pytest.raises(ValueError, match="3 images were not kept; evaluate with per_image=True"):
            use()


# --- baseline and table


def test_the_constant_baseline_predicts_the_mean_and_the_most_frequent_class_of_training_images():
    rows = [
        {"image": black_image(), "distance": np.full((8, 8), d, np.float32), "classes": np.full((8, 8), c)}
        for d, c in ((1, 2), (2, 2), (6, 0))
    ]
    predicted = constant_baseline(rows, collator_for("distance", "classes"))(torch.zeros(2, 3, 8, 8))
    assert torch.equal(predicted["distance"], torch.full((2, 1, 8, 8), 3.0))
    assert (predicted["classes"].argmax(dim=1) == 2).all()
    result = measured(rows, constant_baseline(rows, collator_for("distance", "classes")), ["distance", "classes"])
    assert result.compute()["classes/pixel_accuracy"] == pytest.approx(2 / 3)
    assert result.compute()["distance/mae"] == pytest.approx((2 + 1 + 3) / 3)


def test_labels_that_are_unknown_everywhere_are_named_before_training_or_measuring(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("mult_hf"), "propagate", True)
    rows = [{"image": black_image(), "distance": None, "classes": np.full((8, 8), known)} for known in (255, 1)]
    with caplog.at_level("WARNING"):
        constant_baseline(rows, collator_for("distance", "classes"))
    assert "none of the rows that were read has a known label of distance; run mult-hf check" in caplog.text
    assert "classes has class 1 only in the rows that were read; run mult-hf check" in caplog.text
    with pytest.raises(ValueError, match="no row has a known label of distance, classes; run mult-hf check on the data set"):
        constant_baseline(rows[:1], collator_for("distance", "classes"))


def test_a_task_without_a_column_is_no_mistake_of_the_data(caplog, monkeypatch):
    """As those of a model's frozen tasks, while others train (docs/own-task.md)."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("mult_hf"), "propagate", True)
    rows = [{"image": black_image(), "classes": np.full((8, 8), number)} for number in (0, 1)]
    with caplog.at_level("WARNING"):
        constant_baseline(rows, collator_for("distance", "classes"))
    assert caplog.text == ""
    with pytest.raises(ValueError, match="no row has a known label of distance, classes"):
        constant_baseline([{"image": black_image()}], collator_for("distance", "classes"))


@pytest.mark.parametrize(("canonical", "share"), [(None, None), (16.0, "100.0%")])
def test_values_that_no_prediction_can_have_are_named_before_training(caplog, monkeypatch, canonical, share):
    """7 m, seen through a lens of 8 pixels, are 14 m for a canonical camera with 16, and predictions end at 10."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("mult_hf"), "propagate", True)
    processor = MulTImageProcessor(size={"height": 8, "width": 8}, tasks=["depth"], canonical_focal_length=canonical)
    rows = [{"image": black_image(), "depth": np.full((8, 8), 7 * 512, np.uint16), "focal_length": 8.0}]
    with caplog.at_level("WARNING"):
        constant_baseline(rows, MultiTaskCollator(processor))
    assert ("beyond [0, 10]" in caplog.text) == (share is not None), caplog.text
    assert share is None or f"depth: {share} of the values in the rows that were read" in caplog.text
    assert ("canonical camera" in caplog.text) == (canonical is not None)


@pytest.mark.parametrize(
    ("activation", "limit"),
    [
        ("identity", "the range that predictions are clipped to"),
        ("sigmoid", "the only values that it can predict, so they cannot be learnt"),
    ],
)
def test_values_beyond_the_range_of_an_own_task_are_named_before_training(caplog, monkeypatch, activation, limit):
    monkeypatch.setattr(logging.getLogger("mult_hf"), "propagate", True)
    entry = {"name": "heat", "kind": "regression", "channels": 1, "value_range": [0.0, 5.0], "activation": activation}
    collator = MultiTaskCollator(MulTImageProcessor(size={"height": 8, "width": 8}, tasks=[entry]))
    for values, is_named in (([[1.0, 9.0]], True), ([[1.0, 4.0]], False)):
        caplog.clear()
        rows = [{"image": black_image(), "heat": np.tile(np.array(values, np.float32), (8, 4))}]
        with caplog.at_level("WARNING"):
            constant_baseline(rows, collator)
        warning = f"heat: 50.0% of the values in the rows that were read are beyond [0, 5], {limit}; run mult-hf check"
        assert (warning in caplog.text) == is_named
        assert "canonical" not in caplog.text


def test_selected_rows_are_named_by_their_numbers_in_the_data_set():
    rows = random_rows(2)
    found = measured(rows, lambda pixel_values: {"distance": torch.ones(len(pixel_values), 1, 8, 8)}, ["distance"], numbers=[3, 7])
    assert found.names == ["row 3", "row 7"]
    rows[1]["distance"] = rows[1]["distance"][:, :3]
    with pytest.raises(ValueError, match="distance of row 7: the map has"):
        measured(rows, lambda pixel_values: {"distance": torch.ones(len(pixel_values), 1, 8, 8)}, ["distance"], numbers=[3, 7])


def test_the_constant_baseline_reads_no_more_images_than_allowed():
    read = []

    class Rows(list):
        def __getitem__(self, number):
            read.append(number)
            return super().__getitem__(number)

    constant_baseline(Rows(random_rows(9)), collator_for("distance"), max_images=3)
    assert read == [0, 4, 8]


def test_the_table_marks_the_best_value_of_each_row_and_names_the_direction():
    rows = [{"image": black_image(), "distance": np.ones((8, 8), np.float32), "classes": np.full((8, 8), 1)}]
    far = lambda pixels: {**constant("distance", 3.0)(pixels), **constant("classes", 0.0, 1.0, 0.0)(pixels)}  # noqa: E731
    near = lambda pixels: {**constant("distance", 1.5)(pixels), **constant("classes", 1.0, 0.0, 0.0)(pixels)}  # noqa: E731
    collator = collator_for("classes", "distance")
    table = results_table(evaluate({"far": far, "near": near}, rows, collator, Accelerator(), progress=False))
    assert unpadded(table).splitlines() == [
        "| task | metric | far | near |",
        "|---|---|---|---|",
        "| classes | mean_iou (higher is better) | **1.0000** | 0.0000 |",
        "| classes | pixel_accuracy (higher is better) | **1.0000** | 0.0000 |",
        "| distance | rmse (lower is better) | 2.0000 | **0.5000** |",
        "| distance | mae (lower is better) | 2.0000 | **0.5000** |",
    ]


def test_unknown_values_are_dashes_and_a_single_column_has_no_bold():
    rows = [{"image": black_image(), "distance": np.ones((8, 8), np.float32), "classes": None}]
    table = unpadded(results_table({"one": measured(rows, depends_on_every_pixel, ["classes", "distance"])}))
    assert "| classes | mean_iou (higher is better) | - |" in table
    assert "**" not in table


# --- agreement of model and data


def test_the_data_define_labels_and_metrics_and_the_model_its_outputs():
    model = {"distance": replace(SPECS["distance"], value_range=(0.0, 10.0), activation="sigmoid"), "direction": SPECS["direction"]}
    millimetres = LabelEncoding(dtype="uint16", scale=0.001)
    data = {"distance": replace(SPECS["distance"], value_range=(0.0, 80.0), encoding=millimetres, metrics=("delta1",)), **SPECS}
    data["distance"] = replace(data["distance"], encoding=millimetres, metrics=("delta1",))
    specs = measured_specs(model, data)
    assert list(specs) == ["distance", "direction"]
    assert (specs["distance"].encoding, specs["distance"].metrics) == (millimetres, ("delta1",))
    assert (specs["distance"].value_range, specs["distance"].activation) == ((0.0, 10.0), "sigmoid")


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("classes", {"class_names": ("floor", "door", "wall")}, r"class_names .* \(first at 1: 'wall' and 'door'\)"),
        ("classes", {"class_names": ()}, r"class_names is \('floor', .* for the model and \(\) for the data"),
        ("classes", {"class_names": ("a", "b"), "channels": 2}, "channels is 3 for the model and 2 for the data"),
        ("distance", {"unit": "mm"}, "unit is 'm' for the model and 'mm' for the data"),
        ("distance", {"zoom_exponent": -1.0}, "zoom_exponent is 0.0 for the model and -1.0 for the data"),
        ("direction", {"horizontal_flip_signs": (-1.0, 1.0, 1.0)}, r"horizontal_flip_signs is \(1.0, 1.0, 1.0\) for the model"),
    ],
)
def test_a_task_with_two_meanings_is_refused(task, change, message):
    with pytest.raises(ValueError, match=f"{task}: {message}.*numbers would be meaningless"):
        measured_specs(SPECS, {**SPECS, task: replace(SPECS[task], **change)})


def test_a_model_and_data_without_a_shared_task_are_refused():
    with pytest.raises(ValueError, match=r"model has tasks \['classes'\] and the data \['distance'\]; they need at least one in common"):
        measured_specs({"classes": SPECS["classes"]}, {"distance": SPECS["distance"]})


# --- refusals of the loop


def test_an_empty_data_set_is_refused():
    with pytest.raises(ValueError, match="0 rows; choose another split"):
        measured([])


def test_a_stream_is_refused_with_a_remedy():
    stream = IterableDataset.from_generator(lambda: iter(random_rows(1)))
    with pytest.raises(ValueError, match=r"IterableDataset has no length.*from_list\(list\(stream.decode\(False\).take"):
        measured(stream)


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(ValueError, match="batch_size is 0"):
        measured(random_rows(1), batch_size=0)
