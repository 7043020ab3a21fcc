"""Metrics from sums per room are those of the package, and the bootstrap draws rooms, the same ones for all."""

import numpy as np
import pytest
import torch

from examples.study import rooms
from mult_hf import MULT_TASKS
from mult_hf.evaluation.loop import Evaluation
from mult_hf.metrics import METRICS
from mult_hf.model.tasks import IGNORE_INDEX, resolve_tasks

IMAGES, ROOMS = 7, [5, 5, 2, 9, 2, 9, 9]


def random_map(spec, generator):
    if spec.is_classification:
        return torch.randint(0, 5, (8, 8), generator=generator)
    return torch.rand(spec.channels, 8, 8, generator=generator)


@pytest.fixture(scope="module")
def evaluation():
    """Random predictions of all tasks, some pixels unknown."""
    generator = torch.Generator().manual_seed(0)
    found = Evaluation(resolve_tasks(MULT_TASKS))
    for number in range(IMAGES):
        predictions, targets = {}, {}
        for task, spec in found.specs.items():
            predictions[task], targets[task] = random_map(spec, generator), random_map(spec, generator)
            targets[task][..., :2] = IGNORE_INDEX if spec.is_classification else torch.nan
        found.update(number, f"image {number}", predictions, targets)
    return found


def test_metrics_over_all_rooms_are_those_of_the_package(evaluation):
    sums, expected = rooms.from_json(rooms.to_json(rooms.sums_by_room(evaluation, ROOMS))), evaluation.compute()
    for task, spec in evaluation.specs.items():
        assert rooms.value(rooms.headline(spec), sums[task]) == pytest.approx(expected[f"{task}/{spec.metrics[0]}"], rel=1e-6), task


def test_every_room_has_the_sums_of_its_own_views(evaluation):
    sums = rooms.sums_by_room(evaluation, ROOMS)["depth"]
    views = evaluation.stacked()["depth/errors"]
    assert sums["squared"].shape == (3,)
    assert sums["squared"][1] == pytest.approx(float(views.squared[[0, 1]].sum())), "room 5 comes second in ascending order"


def test_one_room_drawn_twice_counts_twice(evaluation):
    sums = rooms.sums_by_room(evaluation, ROOMS)["normals"]
    draws = np.array([[2.0, 0.0, 1.0]])
    by_hand = (2 * sums["angle"][0] + sums["angle"][2]) / (2 * sums["count"][0] + sums["count"][2])
    assert rooms.resampled("mean_angle", sums, draws) == pytest.approx([by_hand])


def test_every_resample_has_as_many_rooms_as_there_are():
    draws = rooms.draw_rooms(10, 1000)
    assert (draws.sum(axis=1) == 10).all()
    assert draws.mean() == pytest.approx(1.0)
    assert draws.std() == pytest.approx(np.sqrt(0.9), rel=0.05), "a multinomial count of 10 draws with probability 1/10"


def test_views_of_one_room_make_no_interval_narrower(evaluation):
    """Six copies of every view are no more evidence than one."""
    once = {"count": np.ones(40), "absolute": np.random.default_rng(0).random(40)}
    often = {name: 6 * values for name, values in once.items()}
    draws = rooms.draw_rooms(40, 500)
    assert rooms.interval(rooms.resampled("mae", once, draws)) == pytest.approx(rooms.interval(rooms.resampled("mae", often, draws)))


def test_a_class_that_never_occurs_does_not_count():
    sums = {"both": np.array([[4, 0, 0]]), "true": np.array([[4, 4, 0]]), "predicted": np.array([[8, 0, 0]])}
    assert rooms.value("mean_iou", {name: values.astype(float) for name, values in sums.items()}) == pytest.approx((0.5 + 0) / 2)


def test_a_headline_without_sums_is_refused():
    spec = next(iter(resolve_tasks([{"name": "depth", "metrics": ["abs_rel"]}]).values()))
    assert "abs_rel" in METRICS
    with pytest.raises(ValueError, match="the headline of depth is 'abs_rel'; sums per room are kept for mean_iou"):
        rooms.headline(spec)
