"""Correlation of errors between tasks, from sums that add up over images and processes."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from tabulate import tabulate
from torch import Tensor

from mult_hf.model.entry_fields import refusal
from mult_hf.model.tasks import IGNORE_INDEX, TaskSpec

from .maps import matching_maps
from .statistics import SHORTEST, angle_between
from .sums import Sums
from .table import metrics_of

PixelError = Callable[[Tensor, Tensor], Tensor]


def _wrong_class(prediction: Tensor, target: Tensor) -> Tensor:
    return torch.where(target == IGNORE_INDEX, float("nan"), (prediction != target).double())


def _angle(prediction: Tensor, target: Tensor) -> Tensor:
    known = torch.isfinite(target).all(dim=0) & (target.square().sum(dim=0).sqrt() > SHORTEST)
    return torch.where(known, angle_between(prediction.double(), target.double()), float("nan"))


def _distance(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction.double() - target.double()).square().sum(dim=0).sqrt()


# Error functions by the statistics of a task's headline metric; all other statistics use absolute differences.
_PIXEL_ERRORS: dict[str, PixelError] = {"confusion": _wrong_class, "angles": _angle}


def pixel_error(prediction: Tensor, target: Tensor, spec: TaskSpec) -> Tensor:
    """Error of a prediction at each pixel, as used by the task's headline metric.

    Args:
        prediction: one image's map as from `post_process`, (height, width) or (channels, height, width).
        target: the target in the same shape, optionally with an axis for a single channel; NaN or 255 where unknown.
        spec: the task's entry.

    Returns:
        `Tensor`: (height, width) float64, NaN where the target is unknown or the prediction is NaN. The error is 0 or 1 for
        classes, the angle in degrees for vectors measured by angles, and otherwise the absolute difference in the task's unit
        (the Euclidean distance over several channels).

    Raises:
        ValueError: if a map is not that of a single image, or the sizes differ; the message names the task.
    """
    prediction, target = matching_maps(prediction, target, spec)
    headline = next(iter(metrics_of(spec).values()))
    return _PIXEL_ERRORS.get(headline.statistics, _distance)(prediction, target)


@dataclass(frozen=True)
class PairSums(Sums):
    """Sums over the pixels at which both tasks i and j are known, each (tasks, tasks).

    Args:
        count: number of these pixels.
        error: sum of the errors of i.
        squared: sum of their squares.
        product: sum of the products of both errors.
    """

    count: Tensor
    error: Tensor
    squared: Tensor
    product: Tensor


class ErrorCorrelation:
    """Correlation between the errors of each pair of tasks, over pixels and in constant memory.

    Args:
        specs: the tasks' entries by name.

    Attributes:
        sums: [`PairSums`], float64 on the CPU.
    """

    def __init__(self, specs: Mapping[str, TaskSpec]) -> None:
        self.specs = dict(specs)
        zeros = torch.zeros(len(specs), len(specs), dtype=torch.float64)
        self.sums = PairSums(zeros, zeros, zeros, zeros)

    def merge(self, other: "ErrorCorrelation") -> None:
        """Add the sums of another object.

        Raises:
            ValueError: if it has other tasks, or the same tasks in another order.
        """
        if list(self.specs) != list(other.specs):
            raise refusal(f"the tasks are {list(self.specs)} here and {list(other.specs)} in the other; use the same tasks and order")
        self.sums += other.sums

    @torch.no_grad()
    def update(self, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Add one image; tasks without a prediction or target are unknown in it.

        Args:
            predictions: maps per task, see [`pixel_error`].
            targets: targets per task.

        Raises:
            ValueError: if a prediction and its target, or two tasks, have different sizes.
        """
        errors = {
            task: pixel_error(predictions[task], targets[task], spec).cpu()
            for task, spec in self.specs.items()
            if task in predictions and targets.get(task) is not None
        }
        sizes = {task: tuple(error.shape) for task, error in errors.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"errors are compared pixel by pixel, but the tasks' maps have sizes {sizes}; use tasks of one size")
        if not errors:
            return
        nothing = torch.full_like(next(iter(errors.values())), float("nan"))
        error = torch.stack([errors.get(task, nothing).flatten() for task in self.specs])  # (tasks, pixels)
        known = torch.isfinite(error)
        error, known = error.masked_fill(~known, 0), known.double()
        self.sums += PairSums(known @ known.T, error @ known.T, error.square() @ known.T, error @ error.T)

    def compute(self) -> Tensor:
        """Pearson's correlation of each pair of tasks, (tasks, tasks) float64.

        NaN if no pixel is known in both tasks, or one of the errors is the same at all such pixels.
        """
        sums = self.sums
        covariance = sums.product * sums.count - sums.error * sums.error.T
        spread = sums.squared * sums.count - sums.error.square()
        # The variance of equal numbers may be slightly above 0 because of rounding.
        spread = torch.where(spread > 1e-12 * sums.squared * sums.count, spread, float("nan"))
        return covariance / (spread * spread.T).sqrt()


def correlation_table(correlation: Tensor, tasks: list[str]) -> str:
    """Markdown table with a row and a column per task; a dash where the correlation is unknown."""
    rows = [
        [task, *("-" if math.isnan(value) else f"{value:.2f}" for value in row)]
        for task, row in zip(tasks, correlation.tolist(), strict=True)
    ]
    return tabulate(rows, ["", *tasks], tablefmt="github", disable_numparse=True)
