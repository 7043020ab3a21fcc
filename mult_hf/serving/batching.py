"""Predict requests of several clients in one batch, and give each its own answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

TaskPredictor = Callable[[Tensor, Sequence[str]], Mapping[str, Tensor]]
"""`pixel_values` (batch, 3, height, width) and names of tasks -> per task (batch, channels, height, width)."""


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
        images: number of images that were predicted together.
        error: why there are no maps; empty otherwise.
    """

    maps: dict[str, np.ndarray] = field(default_factory=dict)
    images: int = 0
    error: str = ""


def predict_together(predictor: TaskPredictor, queries: Sequence[Query]) -> list[Prediction]:
    """Predict images of equal size together, with all tasks that one of them asks for.

    Args:
        predictor: the model.
        queries: inputs of any sizes.

    Returns:
        One prediction per query, in the same order, with the tasks that it asks for. A query that fails by itself has an `error`.
    """
    numbers_by_shape: dict[tuple[int, ...], list[int]] = {}
    for number, query in enumerate(queries):
        numbers_by_shape.setdefault(query.pixel_values.shape, []).append(number)
    predictions: dict[int, Prediction] = {}
    for numbers in numbers_by_shape.values():
        predictions.update(zip(numbers, _predict(predictor, [queries[number] for number in numbers])))
    return [predictions[number] for number in range(len(queries))]


def _predict(predictor: TaskPredictor, queries: Sequence[Query]) -> list[Prediction]:
    """Predict queries of one shape; if that fails, each by itself, as one image may fit into memory where several do not."""
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


__all__ = ["Prediction", "Query", "TaskPredictor", "predict_together"]
