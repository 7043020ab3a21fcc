"""Proves that a metric is one number, however its images are shared out, ordered, merged or stored on the way."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mult_hf.metrics import MultiTaskMetrics
from mult_hf.metrics.table import METRICS, STATISTICS
from mult_hf.model.tasks import TaskSpec
from support.refusals import refusal
from support.strategies import cases, seeded

SPECS = {
    "classes": TaskSpec(name="classes", kind="classification", channels=4),
    "number": TaskSpec(name="number", kind="regression", channels=1),
    "vector": TaskSpec(name="vector", kind="regression", channels=3),
}
# Every metric of the table, on the kinds of tasks that it applies to.
SPECS = {
    task: TaskSpec(**{**spec.to_dict(), "encoding": spec.encoding, "metrics": tuple(
        name for name, metric in METRICS.items() if STATISTICS[metric.statistics].fits(spec)
    )})
    for task, spec in SPECS.items()
}  # fmt: skip


@st.composite
def images(draw, most=5):
    """Predictions and targets of some images of several sizes, partly unknown, some with tasks missing."""
    found = []
    for _ in range(draw(st.integers(1, most))):
        size, rng = (draw(st.integers(1, 9)), draw(st.integers(1, 9))), draw(seeded(lambda rng: rng))
        unknown = rng.random(size) < draw(st.sampled_from([0.0, 0.3, 1.0]))
        prediction = {"classes": rng.integers(0, 4, size), "number": 3 * rng.random(size) - 0.5, "vector": rng.normal(size=(3, *size))}
        target = {
            "classes": np.where(unknown, 255, rng.integers(0, 4, size)),
            "number": np.where(unknown, np.nan, 3 * rng.random(size) - 0.5),
            "vector": np.where(unknown, np.nan, rng.normal(size=(3, *size))),
        }
        kept = draw(st.sets(st.sampled_from(sorted(SPECS)), min_size=1))
        found.append(tuple({task: torch.from_numpy(maps[task]) for task in sorted(kept)} for maps in (prediction, target)))
    return found


def measured(some):
    metrics = MultiTaskMetrics(SPECS)
    for prediction, target in some:
        metrics.update(prediction, target)
    return metrics


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), name  # float64 sums in another order


@cases(2)
@given(images(), st.randoms(use_true_random=False))
def test_any_partition_of_the_images_gives_the_same_numbers(some, random):
    whole = measured(some).compute()
    shuffled = random.sample(some, len(some))
    cuts = sorted(random.choices(range(len(some) + 1), k=2))
    parts = [measured(shuffled[start:stop]) for start, stop in zip([0, *cuts], [*cuts, len(some)])]
    merged, stored = MultiTaskMetrics(SPECS), MultiTaskMetrics(SPECS)
    for part in parts:
        merged.merge(part)
        stored.merge_state(part.state())
    assert_same(merged.compute(), whole)
    assert_same(stored.compute(), whole)


@given(images(1))
def test_a_perfect_prediction_has_no_error(some):
    ((prediction, target),) = some
    perfect = {task: torch.where(target[task].isnan(), prediction[task], target[task]) if task != "classes" else
               torch.where(target[task] == 255, prediction[task], target[task]) for task in target}  # fmt: skip
    metrics = MultiTaskMetrics(SPECS)
    metrics.update(perfect, target)
    values = {name: value for name, value in metrics.compute().items() if not math.isnan(value)}
    for name in ("classes/mean_iou", "classes/pixel_accuracy"):
        assert values.get(name, 1) == 1
    for name in ("number/mae", "number/rmse", "vector/mae", "vector/mean_angle"):
        assert values.get(name, 0) == pytest.approx(0, abs=1e-6)


@given(st.sampled_from(sorted(SPECS)), st.lists(st.integers(1, 5), max_size=5), st.lists(st.integers(1, 5), max_size=5))
def test_maps_of_any_other_shape_are_refused(task, first, second):
    """A batch taken for an image would be averaged over the wrong axis."""
    spec = SPECS[task]
    shapes = [(4, 5)] if spec.is_classification else [(4, 5), (1, 4, 5)] if spec.channels == 1 else [(3, 4, 5)]
    dtype = torch.int64 if spec.is_classification else torch.float32
    message = refusal(lambda: measured([({task: torch.zeros(first, dtype=dtype)}, {task: torch.zeros(second, dtype=dtype)})]))
    fits = [len(shape) in {len(each) for each in shapes} and (len(shape) == 2 or shape[0] == spec.channels) for shape in (first, second)]
    same = first[-2:] == second[-2:]
    assert bool(message) == (not (all(fits) and same))
