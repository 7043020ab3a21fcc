"""Proves that requests predicted together get their own answers."""

import asyncio
import threading

import numpy as np
import pytest
import torch

from mult_hf.serving.batching import Batcher, Prediction, Query, predict_together


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


def number_of(query):
    return int(query.pixel_values[0, 0, 0])


class Recorder:
    """Answers each query with its own number, and records the batches; the first call lasts until `go` is set."""

    def __init__(self):
        self.batches, self.go = [], threading.Event()

    def __call__(self, queries):
        """Predict."""
        self.batches.append([number_of(query) for query in queries])
        assert self.go.wait(60)
        return [Prediction({"0": np.full((1, 1, 1, 1), number_of(query))}, len(queries)) for query in queries]


async def until(reached):
    while not reached():
        await asyncio.sleep(0.001)


def test_queries_that_arrive_while_the_model_is_busy_form_full_batches():
    """However slowly they arrive: a batch is not closed before the model is free."""
    recorder = Recorder()

    async def main():
        batcher = Batcher(recorder, size=4, wait=0.0)
        answers = [asyncio.create_task(batcher(query(0, (1, 1))))]
        await until(lambda: recorder.batches)
        for number in range(1, 10):
            answers.append(asyncio.create_task(batcher(query(number, (1, 1)))))
            await asyncio.sleep(0.005)
        recorder.go.set()
        return await asyncio.gather(*answers)

    answers = asyncio.run(main())
    assert recorder.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]
    assert [answer.maps["0"].item() for answer in answers] == [*range(10)]
    assert [answer.images for answer in answers] == [1, 4, 4, 4, 4, 4, 4, 4, 4, 1]


def test_a_query_waits_for_others_while_the_model_is_free():
    recorder = Recorder()
    recorder.go.set()

    async def main():
        batcher = Batcher(recorder, size=3, wait=60.0)
        answers = []
        for number in range(3):
            answers.append(asyncio.create_task(batcher(query(number, (1, 1)))))
            await asyncio.sleep(0.01)
        await asyncio.gather(*answers)

    asyncio.run(main())
    assert recorder.batches == [[0, 1, 2]], "a full batch does not wait any longer"


def test_a_cancelled_query_is_not_predicted():
    recorder = Recorder()

    async def main():
        batcher = Batcher(recorder, size=4, wait=0.0)
        first = asyncio.create_task(batcher(query(0, (1, 1))))
        await until(lambda: recorder.batches)
        gone, kept = (asyncio.create_task(batcher(query(number, (1, 1)))) for number in (1, 2))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0.01)
        recorder.go.set()
        return await asyncio.gather(first, kept)

    asyncio.run(main())
    assert recorder.batches == [[0], [2]]


def test_a_batch_that_fails_as_a_whole_answers_all_and_the_next_one_is_predicted():
    calls = []

    def function(queries):
        calls.append(len(queries))
        if len(calls) == 1:
            raise RuntimeError("no memory")
        return [Prediction(images=len(queries)) for _ in queries]

    async def main():
        batcher = Batcher(function, size=2, wait=60.0)
        failed = await asyncio.gather(*(batcher(query(number, (1, 1))) for number in range(2)))
        return failed, await asyncio.gather(*(batcher(query(number, (1, 1))) for number in range(2)))

    failed, predicted = asyncio.run(main())
    assert [answer.error for answer in failed] == ["no memory"] * 2
    assert [(answer.error, answer.images) for answer in predicted] == [("", 2)] * 2
