"""Metrics from sums per room, and their paired bootstrap by room.

Views of one room resemble each other, so they are no independent samples; rooms are. The sums of a test are therefore kept per room,
small enough to be committed as JSON, and everything that is reported follows from them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mult_hf.evaluation.loop import Evaluation
from mult_hf.metrics import Sums
from mult_hf.metrics.statistics import AngleSums, ConfusionMatrix, ErrorSums
from mult_hf.metrics.table import metrics_of
from mult_hf.model.tasks import TaskSpec

RoomSums = dict[str, np.ndarray]
"""Sums of one task by name: (rooms,) each, or (rooms, classes)."""


def _mean(field: str) -> Callable[[RoomSums], np.ndarray]:
    return lambda sums: sums[field] / sums["count"]


def _mean_iou(sums: RoomSums) -> np.ndarray:
    union = sums["true"] + sums["predicted"] - sums["both"]  # (..., classes)
    iou = np.divide(sums["both"], union, out=np.full(union.shape, np.nan), where=union > 0)
    return np.nanmean(iou, axis=-1)  # classes in neither prediction nor truth do not count


VALUES: dict[str, Callable[[RoomSums], np.ndarray]] = {
    "mean_iou": _mean_iou,
    "mae": _mean("absolute"),
    "rmse": lambda sums: np.sqrt(_mean("squared")(sums)),
    "mean_angle": _mean("angle"),
}
"""Headline metrics by name, from sums that may have further axes in front; equal to those of `mult_hf.metrics`."""

COMPACT: dict[type[Sums], Callable[[Any], dict[str, Any]]] = {
    ConfusionMatrix: lambda sums: {
        "both": sums.counts.diagonal(dim1=-2, dim2=-1),
        "true": sums.counts.sum(dim=-1),
        "predicted": sums.counts.sum(dim=-2),
    },
    ErrorSums: lambda sums: sums.tensors(),
    AngleSums: lambda sums: {"count": sums.count, "angle": sums.angle},
}
"""What is kept of a statistic's sums (images, ...)."""


def headline(spec: TaskSpec) -> str:
    """Name of a task's first metric.

    Raises:
        ValueError: if it cannot be computed from sums per room.
    """
    name = spec.metrics[0]
    if name not in VALUES:
        raise ValueError(f"the headline of {spec.name} is {name!r}; sums per room are kept for {', '.join(VALUES)}")
    return name


def sums_by_room(evaluation: Evaluation, rooms: Sequence[Any]) -> dict[str, RoomSums]:
    """Sums of every task's headline metric per room.

    Args:
        evaluation: of a predictor, with the statistics of every image.
        rooms: the room of each image, or whatever else is drawn again as a whole, in order of the rows.

    Returns:
        by task the sums, with rooms in ascending order.
    """
    order = np.unique(rooms)
    member = (np.asarray(rooms)[None, :] == order[:, None]).astype(np.float64)  # (rooms, images)
    stacked, result = evaluation.stacked(), {}
    for task, spec in evaluation.specs.items():
        metric = metrics_of(spec)[headline(spec)]
        sums = stacked[f"{task}/{metric.statistics}"]
        result[task] = {name: np.tensordot(member, values.numpy(), axes=1) for name, values in COMPACT[type(sums)](sums).items()}
    return result


def to_json(sums: Mapping[str, RoomSums]) -> dict[str, Any]:
    """Plain lists."""
    return compact({task: {name: values.tolist() for name, values in named.items()} for task, named in sums.items()})


def compact(value: Any) -> Any:
    """Plain values with every float rounded to eight significant digits; whole numbers become integers."""
    if isinstance(value, dict):
        return {key: compact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [compact(item) for item in value]
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    return int(value) if value.is_integer() else float(f"{value:.8g}")


def from_json(sums: Mapping[str, Any]) -> dict[str, RoomSums]:
    """The inverse of [`to_json`], up to its rounding."""
    return {task: {name: np.asarray(values, np.float64) for name, values in named.items()} for task, named in sums.items()}


def value(metric: str, sums: RoomSums) -> float:
    """A metric over all rooms."""
    return float(VALUES[metric]({name: values.sum(axis=0) for name, values in sums.items()}))


def draw_rooms(rooms: int, resamples: int, seed: int = 0) -> np.ndarray:
    """How often each room is drawn in each resample: (resamples, rooms)."""
    return np.random.default_rng(seed).multinomial(rooms, np.full(rooms, 1 / rooms), size=resamples).astype(np.float64)


def resampled(metric: str, sums: RoomSums, draws: np.ndarray) -> np.ndarray:
    """A metric in each resample: (resamples,).

    Args:
        metric: its name.
        sums: per room.
        draws: of [`draw_rooms`]; the same ones for everything that is compared.
    """
    return VALUES[metric]({name: np.tensordot(draws, values, axes=1) for name, values in sums.items()})


def interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile interval of resampled numbers (Efron and Tibshirani 1993, chapter 13)."""
    share = (1 - confidence) / 2
    low, high = np.nanquantile(values, [share, 1 - share])
    return float(low), float(high)
