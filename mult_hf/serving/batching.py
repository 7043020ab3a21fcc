"""Predict the images of several requests in one batch, and return each request's own maps."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

TaskPredictor = Callable[[Tensor, Sequence[str]], Mapping[str, Tensor]]
"""Function of `pixel_values` (batch, 3, height, width) and names of tasks; returns per task (batch, channels, height, width)."""


@dataclass(frozen=True)
class Query:
    """The model's input for one request.

    Args:
        pixel_values: (3, height, width), float32.
        tasks: names of the tasks to predict.
    """

    pixel_values: np.ndarray
    tasks: Sequence[str]


@dataclass(frozen=True)
class Prediction:
    """The model's output for one request.

    Args:
        maps: per task (1, channels, height, width), float32.
        images: number of images in its batch.
        error: reason why there are no maps; empty if there are.
    """

    maps: dict[str, np.ndarray] = field(default_factory=dict)
    images: int = 0
    error: str = ""


def predict_together(predictor: TaskPredictor, queries: Sequence[Query]) -> list[Prediction]:
    """Predict images of equal size together, each batch with all tasks that any of its queries asks for.

    Args:
        predictor: the model.
        queries: inputs of any sizes.

    Returns:
        One prediction per query, in the same order, with the tasks that it asks for. A query that also fails alone has an `error`.
    """
    numbers_by_shape: dict[tuple[int, ...], list[int]] = {}
    for number, query in enumerate(queries):
        numbers_by_shape.setdefault(query.pixel_values.shape, []).append(number)
    predictions: dict[int, Prediction] = {}
    for numbers in numbers_by_shape.values():
        predictions.update(zip(numbers, _predict(predictor, [queries[number] for number in numbers])))
    return [predictions[number] for number in range(len(queries))]


def _predict(predictor: TaskPredictor, queries: Sequence[Query]) -> list[Prediction]:
    """Predict queries of one shape together; if that fails, one by one, because one image may fit into memory where several do not."""
    tasks = list(dict.fromkeys(task for query in queries for task in query.tasks))
    try:
        maps = predictor(torch.from_numpy(np.stack([query.pixel_values for query in queries])), tasks)
        arrays = {task: values.float().cpu().numpy() for task, values in maps.items()}
    except Exception as error:
        if len(queries) > 1:
            return [prediction for query in queries for prediction in _predict(predictor, [query])]
        return [Prediction(error=str(error) or type(error).__name__)]
    return [
        Prediction({task: arrays[task][number : number + 1] for task in query.tasks}, len(queries)) for number, query in enumerate(queries)
    ]


class Batcher:
    """Calls a function with the queries that have arrived since its last call, one call at a time.

    A batch is closed only when the function is free, so that batches grow with the load.

    Args:
        function: returns one prediction per query; called in a thread of its own.
        size: largest number of queries per call.
        wait: seconds that a query waits for others while the function is free.
    """

    def __init__(self, function: Callable[[Sequence[Query]], list[Prediction]], size: int, wait: float) -> None:
        self.function, self.size, self.wait = function, size, wait
        self._waiting: deque[tuple[Query, asyncio.Future[Prediction]]] = deque()
        self._arrived = asyncio.Event()
        # One thread, which keeps its memory from batch to batch.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._calls: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Number of queries that wait to be predicted."""
        return sum(not answer.done() for _, answer in self._waiting)

    async def __call__(self, query: Query) -> Prediction:
        """Predict a query together with others; a query that is cancelled while it waits is not predicted."""
        if self._calls is None:
            self._calls = asyncio.create_task(self._call_repeatedly())
        answer: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        self._waiting.append((query, answer))
        self._arrived.set()
        return await answer

    async def _call_repeatedly(self) -> None:
        while True:
            await self._wait_for_queries()
            waiting = [(query, answer) for query, answer in self._waiting if not answer.done()]
            batch, rest = waiting[: self.size], waiting[self.size :]
            self._waiting = deque(rest)
            if batch:
                await self._answer(batch)

    async def _wait_for_queries(self) -> None:
        """Wait for a query, and then until a batch is full or the waiting time is over."""
        loop = asyncio.get_running_loop()
        deadline = None if not self._waiting else loop.time() + self.wait
        while len(self._waiting) < self.size and (deadline is None or loop.time() < deadline):
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), None if deadline is None else deadline - loop.time())
            except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
                return
            deadline = deadline or loop.time() + self.wait

    async def _answer(self, batch: Sequence[tuple[Query, "asyncio.Future[Prediction]"]]) -> None:
        try:
            predictions = await asyncio.get_running_loop().run_in_executor(self._thread, self.function, [query for query, _ in batch])
        except Exception as error:
            predictions = [Prediction(error=str(error) or type(error).__name__)] * len(batch)
        for (_, answer), prediction in zip(batch, predictions, strict=True):
            if not answer.done():  # its request may have been cancelled
                answer.set_result(prediction)


__all__ = ["Batcher", "Prediction", "Query", "TaskPredictor", "predict_together"]
