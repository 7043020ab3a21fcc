"""Correlation of errors between tasks, from sums that add up over images and processes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mult_hf.model.tasks import IGNORE_INDEX, TaskSpec

from .statistics import SHORTEST, angle_between, image_map
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


# By the statistics that a task's headline metric is made of; every other one is of numbers.
_PIXEL_ERRORS: dict[str, PixelError] = {"confusion": _wrong_class, "angles": _angle}


def pixel_error(prediction: Tensor, target: Tensor, spec: TaskSpec) -> Tensor:
    """Error of a prediction at each pixel, of the kind that its task's headline metric is made of.

    Args:
        prediction: of one image as `post_process` returns it, (height, width) or (channels, height, width).
        target: of the same shape, or with an axis of one channel more; NaN or 255 where not known.
        spec: the task.

    Returns:
        `Tensor`: (height, width) float64, NaN where not known: 0 or 1 for classes, the angle in degrees for vectors that are measured
        by angles, else the absolute difference (over several channels the Euclidean distance) in the task's unit. A prediction
        that is not a number gives NaN, too.

    Raises:
        ValueError: if a map is not one image's, or the sizes differ; the message names the task.
    """
    prediction, target = image_map(prediction, spec, "prediction"), image_map(target, spec, "target")
    if prediction.shape != target.shape:
        raise ValueError(f"{spec.name}: prediction has shape {tuple(prediction.shape)}, target {tuple(target.shape)}; they must be equal")
    headline = next(iter(metrics_of(spec).values()))
    return _PIXEL_ERRORS.get(headline.statistics, _distance)(prediction, target)


@dataclass(frozen=True)
class PairSums(Sums):
    """Sums over the pixels at which both tasks i and j are known, each (tasks, tasks).

    Args:
        count: of these pixels.
        error: errors of i.
        squared: their squares.
        product: products of both errors.
    """

    count: Tensor
    error: Tensor
    squared: Tensor
    product: Tensor


class ErrorCorrelation:
    """Correlation over pixels of the errors of each pair of tasks, in constant memory.

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
            ValueError: if it collected other tasks, or in another order.
        """
        if list(self.specs) != list(other.specs):
            raise ValueError(f"these are sums of {list(self.specs)}, those of {list(other.specs)}; collect the same tasks in one order")
        self.sums += other.sums

    @torch.no_grad()
    def update(self, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Add one image; tasks without a prediction or target are not known in it.

        Args:
            predictions: per task, see [`pixel_error`].
            targets: per task.

        Raises:
            ValueError: if a prediction and its target, or two tasks, have different sizes.
        """
        errors = {
            task: pixel_error(predictions[task].cpu(), targets[task].cpu(), spec)
            for task, spec in self.specs.items()
            if task in predictions and task in targets
        }
        sizes = {task: tuple(error.shape) for task, error in errors.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"errors are compared pixel by pixel, but the tasks have maps of {sizes}; leave out those of another size")
        if not errors:
            return
        nothing = torch.full_like(next(iter(errors.values())), float("nan"))
        error = torch.stack([errors.get(task, nothing).flatten() for task in self.specs])  # (tasks, pixels)
        known = torch.isfinite(error)
        error, known = error.masked_fill(~known, 0), known.double()
        self.sums += PairSums(known @ known.T, error @ known.T, error.square() @ known.T, error @ error.T)

    def compute(self) -> Tensor:
        """Pearson's correlation of each pair, (tasks, tasks) float64.

        NaN where no pixel is known in both tasks, or where one of the errors is the same at all such pixels.
        """
        sums = self.sums
        covariance = sums.product * sums.count - sums.error * sums.error.T
        spread = sums.squared * sums.count - sums.error.square()
        # Rounding errors of equal numbers are not variance.
        spread = torch.where(spread > 1e-12 * sums.squared * sums.count, spread, float("nan"))
        return covariance / (spread * spread.T).sqrt()


def correlation_table(correlation: Tensor, tasks: list[str]) -> str:
    """Markdown table with a row and a column per task; a dash where the correlation is not known."""
    lines = [f"| | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
    for task, row in zip(tasks, correlation.tolist(), strict=True):
        lines.append(f"| {task} | {' | '.join('-' if value != value else f'{value:.2f}' for value in row)} |")
    return "\n".join(lines)
