"""Proves that requests predicted together get their own answers."""

import numpy as np
import pytest
import torch

from mult_hf.serving.batching import Query, predict_together


def mean_of_each(pixel_values, tasks):
    """Per task the image's mean, plus ten times the number of the task."""
    means = pixel_values.mean(dim=(1, 2, 3), keepdim=True)
    return {task: means + 10 * int(task) for task in tasks}


def query(value, size, *tasks):
    return Query(np.full((3, *size), value, np.float32), tasks)


def test_queries_of_mixed_sizes_and_tasks_get_their_own_answers_in_their_order():
    queries = [query(1, (32, 32), "0"), query(2, (40, 32), "1"), query(3, (32, 32), "1", "0"), query(4, (40, 32), "1")]
    answers = predict_together(mean_of_each, queries)
    assert [{task: maps.item() for task, maps in answer.maps.items()} for answer in answers] == [
        {"0": 1},
        {"1": 12},
        {"1": 13, "0": 3},
        {"1": 14},
    ]
    assert [answer.images for answer in answers] == [2, 2, 2, 2], "premise: pairs are predicted together"
    assert answers[0].maps["0"].shape == (1, 1, 1, 1)


@pytest.mark.parametrize("value", [1, 2, 3])
def test_a_query_that_fails_does_not_affect_its_batch(value):
    def fails_at(pixel_values, tasks):
        if (pixel_values == value).any():
            raise RuntimeError("out of memory")
        return mean_of_each(pixel_values, tasks)

    answers = predict_together(fails_at, [query(number, (32, 32), "0") for number in (1, 2, 3)])
    assert [answer.error for answer in answers] == ["out of memory" if number == value else "" for number in (1, 2, 3)]
    assert [answer.maps["0"].item() for answer in answers if not answer.error] == [number for number in (1, 2, 3) if number != value]


def test_half_precision_is_answered_as_float32():
    (answer,) = predict_together(lambda pixels, tasks: {"0": torch.ones(1, 1, 2, 2, dtype=torch.bfloat16)}, [query(1, (32, 32), "0")])
    assert answer.maps["0"].dtype == np.float32
