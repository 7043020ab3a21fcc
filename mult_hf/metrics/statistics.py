"""Statistics: functions (prediction, target, spec) of one image -> named float64 sums, each used by several metrics.

Class ids are (height, width), with 255 for unknown; other maps are (channels, height, width), with NaN for unknown. A pixel is known
if all channels of its target are finite. Everything is computed in float64 on the device of the maps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mult_hf.model.losses import SHORTEST
from mult_hf.model.tasks import IGNORE_INDEX, TaskSpec

from .sums import CountedSums, Sums

Statistics = Callable[[Tensor, Tensor, TaskSpec], Sums]

SMALLEST_PREDICTION = 1e-3
"""Smallest prediction in logarithms, in the task's unit; smaller ones, also zero and negative, are replaced by it, or for a target below
it by this share of the target. Evaluations of depth commonly clamp at this 1 mm (Godard et al., arXiv 1806.01260, `evaluate_depth.py`)."""

DEGREES_PER_BIN = 0.01
"""Width of the bins of the histogram of angles."""

BINS = round(180 / DEGREES_PER_BIN)


def image_map(values: Tensor, spec: TaskSpec, role: str) -> Tensor:
    """Convert one image's map to the input of statistics: class ids (height, width), other maps (channels, height, width).

    Args:
        values: (height, width), or (channels, height, width). The axis of a single channel may be missing.
        spec: the task's entry.
        role: name of the map in messages.

    Raises:
        ValueError: if the map has another number of axes or channels, for example a batch of images.
    """
    shape = tuple(values.shape)
    if spec.is_classification:
        fits, allowed = len(shape) == 2, "class ids (height, width)"
    elif spec.channels == 1:
        fits, allowed = len(shape) == 2 or (len(shape) == 3 and shape[0] == 1), "(height, width) or (1, height, width)"
    else:
        fits, allowed = len(shape) == 3 and shape[0] == spec.channels, f"({spec.channels}, height, width)"
    if not fits:
        raise ValueError(
            f"{spec.name}: {role} has shape {shape}, but one image's map is {allowed}; pass the images of a batch one by one, "
            "and class ids instead of logits"
        )
    return values[None] if len(shape) == 2 and not spec.is_classification else values


@dataclass(frozen=True)
class ConfusionMatrix(Sums):
    """Counts of pixels.

    Args:
        counts: (true classes, predicted classes).
    """

    counts: Tensor


def confusion(prediction: Tensor, target: Tensor, spec: TaskSpec) -> ConfusionMatrix:
    """Count the known pixels by true and predicted class."""
    known = target != IGNORE_INDEX
    pairs = target[known].long() * spec.channels + prediction[known].long()
    return ConfusionMatrix(torch.bincount(pairs, minlength=spec.channels**2).reshape(spec.channels, -1).double())


def _known_values(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the known pixels: (channels, pixels)."""
    known = torch.isfinite(target).all(dim=0)
    return prediction[:, known].double(), target[:, known].double()


@dataclass(frozen=True)
class ErrorSums(CountedSums):
    """Sums over known numbers of e = prediction - target.

    Args:
        count: number of known numbers.
        absolute: sum of |e|.
        squared: sum of e^2.
    """

    absolute: Tensor
    squared: Tensor


def errors(prediction: Tensor, target: Tensor, spec: TaskSpec) -> ErrorSums:
    """Sum absolute and squared errors."""
    prediction, target = _known_values(prediction, target)
    error = (prediction - target).abs()
    return ErrorSums(count=_count(error), absolute=error.sum(), squared=error.square().sum())


def _count(values: Tensor) -> Tensor:
    """Number of elements of a tensor, as a tensor of its type on its device."""
    return values.new_tensor(values.numel())


@dataclass(frozen=True)
class RatioSums(CountedSums):
    """Sums over known numbers with a target above 0 of e = prediction - target and d = log prediction - log target.

    Args:
        count: number of these numbers.
        relative: sum of |e| / target.
        squared_relative: sum of e^2 / target.
        log: sum of d.
        squared_log: sum of d^2.
        within_1: number of predictions that differ from the target by a factor below 1.25.
        within_2: the same for 1.25^2.
        within_3: the same for 1.25^3.
    """

    relative: Tensor
    squared_relative: Tensor
    log: Tensor
    squared_log: Tensor
    within_1: Tensor
    within_2: Tensor
    within_3: Tensor


def ratios(prediction: Tensor, target: Tensor, spec: TaskSpec) -> RatioSums:
    """Sum relative and logarithmic errors.

    A prediction of 0 or less is not within any factor, and has the logarithm of [`SMALLEST_PREDICTION`].
    """
    prediction, target = _known_values(prediction, target)
    positive = (target > 0).all(dim=0)
    prediction, target = prediction[:, positive], target[:, positive]
    error = (prediction - target).abs()
    smallest = torch.where(target < SMALLEST_PREDICTION, SMALLEST_PREDICTION * target, SMALLEST_PREDICTION)
    log_error = torch.maximum(prediction, smallest).log() - target.log()
    low, high = torch.minimum(prediction, target), torch.maximum(prediction, target)
    return RatioSums(
        count=_count(error),
        relative=(error / target).sum(),
        squared_relative=(error.square() / target).sum(),
        log=log_error.sum(),
        squared_log=log_error.square().sum(),
        **{f"within_{power}": (high < 1.25**power * low).double().sum() for power in (1, 2, 3)},
    )


def median_scaled(statistics: Statistics) -> Statistics:
    """The same statistics, with each image's prediction multiplied by median target / median prediction.

    Medians are taken over the image's known pixels with a target above 0 (Zhou et al., arXiv 1704.07813). An image whose median
    prediction is not above 0 is not scaled.
    """

    def scaled(prediction: Tensor, target: Tensor, spec: TaskSpec) -> Sums:
        known_prediction, known_target = _known_values(prediction, target)
        positive = known_target > 0
        median = _median(known_prediction[positive])
        factor = _median(known_target[positive]) / median if median > 0 else torch.ones_like(median)
        return statistics(prediction.double() * factor, target, spec)

    return scaled


def _median(values: Tensor) -> Tensor:
    """Median: the middle value, or the mean of the two middle values; NaN if there are none."""
    if not len(values):
        return values.new_tensor(float("nan"))
    lower, upper = (values.kthvalue(rank).values for rank in ((len(values) + 1) // 2, len(values) // 2 + 1))
    return (lower + upper) / 2


def _length(vectors: Tensor) -> Tensor:
    """Length of each vector in (channels, ...); several times as fast as `torch.linalg.vector_norm` over the first axis."""
    return vectors.square().sum(dim=0).sqrt()


def angle_between(prediction: Tensor, target: Tensor) -> Tensor:
    """Angle of each pair of vectors in degrees: (channels, ...) twice -> (...); 90 degrees where one has length 0."""
    prediction, target = (values / _length(values).clamp(min=SHORTEST) for values in (prediction, target))
    return torch.rad2deg(2 * torch.atan2(_length(prediction - target), _length(prediction + target)))


@dataclass(frozen=True)
class AngleSums(CountedSums):
    """Sums over known pixels of angles in degrees.

    Args:
        count: number of pixels.
        angle: sum of the angles.
        squared: sum of their squares.
        histogram: ([`BINS`],) counts of angles from 0 to 180 degrees.
    """

    angle: Tensor
    squared: Tensor
    histogram: Tensor


def angles(prediction: Tensor, target: Tensor, spec: TaskSpec) -> AngleSums:
    """Sum and count the angles between vectors.

    Computed from sine and cosine, because the cosine alone cannot resolve angles below 0.03 degrees. A target of length 0 has no
    direction and counts as unknown; a prediction of length 0 is 90 degrees off; a NaN falls into the last bin.
    """
    prediction, target = _known_values(prediction, target)
    directed = _length(target) > SHORTEST
    angle = angle_between(prediction[:, directed], target[:, directed])
    bins = (angle.nan_to_num(180) / DEGREES_PER_BIN).long().clamp(max=BINS - 1)
    histogram = torch.bincount(bins, minlength=BINS).double()
    return AngleSums(count=_count(angle), angle=angle.sum(), squared=angle.square().sum(), histogram=histogram)
