"""What is added up: functions (prediction, target, spec) of one image -> float64 sums, each read by several metrics.

Class ids are (height, width), with 255 unknown; other maps (channels, height, width), with NaN unknown. A pixel is known if all
channels of its target are finite. Everything is computed in float64, on the device of the maps.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mult_hf.model.tasks import IGNORE_INDEX, TaskSpec

Statistics = Callable[[Tensor, Tensor, TaskSpec], Tensor]

SMALLEST_PREDICTION = 1e-3
"""Smaller predictions, zero and negative ones too, count as this one where a logarithm is taken, in the task's unit: the 1 mm at
which evaluations of depth commonly clamp (Godard et al., arXiv 1806.01260, `evaluate_depth.py`)."""

DEGREES_PER_BIN = 0.01
"""Width of the bins that angles are counted in."""

SHORTEST = 1e-12
"""Vectors that are not longer have no direction."""

BINS = round(180 / DEGREES_PER_BIN)


def confusion(prediction: Tensor, target: Tensor, spec: TaskSpec) -> Tensor:
    """(classes, classes) counts of pixels, rows being the truth."""
    known = target != IGNORE_INDEX
    pairs = target[known].long() * spec.channels + prediction[known].long()
    return torch.bincount(pairs, minlength=spec.channels**2).reshape(spec.channels, -1).double()


def _known_values(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the known pixels: (channels, pixels)."""
    known = torch.isfinite(target).all(dim=0)
    return prediction[:, known].double(), target[:, known].double()


def errors(prediction: Tensor, target: Tensor, spec: TaskSpec) -> Tensor:
    """Count of known numbers, sum of absolute errors, sum of squared errors."""
    prediction, target = _known_values(prediction, target)
    error = (prediction - target).abs()
    return torch.stack([torch.ones_like(error).sum(), error.sum(), error.square().sum()])


def ratios(prediction: Tensor, target: Tensor, spec: TaskSpec) -> Tensor:
    """Sums over known pixels with a target above 0, e = prediction - target, d = log prediction - log target.

    Count; sums of |e| / target, e^2 / target, d, d^2; how many differ by a factor below 1.25, 1.25^2, 1.25^3. A prediction of 0
    or less is within no factor, and has the logarithm of [`SMALLEST_PREDICTION`].
    """
    prediction, target = _known_values(prediction, target)
    positive = (target > 0).all(dim=0)
    prediction, target = prediction[:, positive], target[:, positive]
    error = (prediction - target).abs()
    log_error = prediction.clamp(min=SMALLEST_PREDICTION).log() - target.log()
    low, high = torch.minimum(prediction, target), torch.maximum(prediction, target)
    terms = [torch.ones_like(error), error / target, error.square() / target, log_error, log_error.square()]
    terms += [(high < 1.25**power * low).double() for power in (1, 2, 3)]
    return torch.stack(terms).flatten(1).sum(dim=1)


def median_scaled(statistics: Statistics) -> Statistics:
    """The same sums after each image's prediction was multiplied by median target / median prediction.

    Medians are over the image's known pixels with a target above 0 (Zhou et al., arXiv 1704.07813). Where the median
    prediction is not above 0 there is no such factor, and the image is taken as it is.
    """

    def scaled(prediction: Tensor, target: Tensor, spec: TaskSpec) -> Tensor:
        known_prediction, known_target = _known_values(prediction, target)
        positive = known_target > 0
        median = _median(known_prediction[positive])
        factor = _median(known_target[positive]) / median if median > 0 else 1.0
        return statistics(prediction.double() * factor, target, spec)

    return scaled


def _median(values: Tensor) -> Tensor:
    """Mean of the two middle values of a row (of the middle one, if their number is odd); NaN without any."""
    if not len(values):
        return values.new_tensor(float("nan"))
    lower, upper = (values.kthvalue(rank).values for rank in ((len(values) + 1) // 2, len(values) // 2 + 1))
    return (lower + upper) / 2


def _length(vectors: Tensor) -> Tensor:
    """Of each vector of (channels, ...); several times as fast as `torch.linalg.vector_norm` over the first axis."""
    return vectors.square().sum(dim=0).sqrt()


def angle_between(prediction: Tensor, target: Tensor) -> Tensor:
    """Angle of each pair of vectors in degrees: (channels, ...) twice -> (...); 90 degrees where one has length 0."""
    prediction, target = (values / _length(values).clamp(min=SHORTEST) for values in (prediction, target))
    return torch.rad2deg(2 * torch.atan2(_length(prediction - target), _length(prediction + target)))


def angles(prediction: Tensor, target: Tensor, spec: TaskSpec) -> Tensor:
    """Angles between vectors in degrees: count, sum, sum of squares, then counts in [`BINS`] bins from 0 to 180 degrees.

    From the sine too, because the cosine alone is blind to angles below 0.03 degrees. A target of length 0 has no direction and
    counts as unknown; a prediction of length 0 is 90 degrees off; one that is not a number falls into the last bin.
    """
    prediction, target = _known_values(prediction, target)
    directed = _length(target) > SHORTEST
    angle = angle_between(prediction[:, directed], target[:, directed])
    bins = (angle.nan_to_num(180) / DEGREES_PER_BIN).long().clamp(max=BINS - 1)
    sums = torch.stack([torch.ones_like(angle).sum(), angle.sum(), angle.square().sum()])
    return torch.cat([sums, torch.bincount(bins, minlength=BINS).double()])
