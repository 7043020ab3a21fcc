"""Losses as pure functions of a prediction and a target in which some pixels may be unknown.

Every function takes `prediction` (batch, channels, height, width) and `target` of the same shape with NaN where it is
unknown (for class ids: (batch, height, width) int64 with 255), and returns a scalar: the mean over known pixels. Where
nothing is known the loss is 0 and its gradient is 0, never NaN, so partially labelled batches need no special case.

Low-precision predictions are raised to float32 first. The formulas are MulT's (arXiv 2205.08303, section 3.4) and those
named at each function.
"""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .entry_checks import names_that_fit
from .entry_fields import refusal
from .tasks import IGNORE_INDEX, TaskSpec
from .tensors import check_dense

RANGES: dict[str, tuple[float, float]] = {"silog": (0.0, math.inf), "balanced_binary_cross_entropy": (0.0, 1.0)}
"""Lowest and highest value that a loss is defined for, where there is a limit."""

SHORTEST = 1e-12
"""Vectors of at most this length have no direction."""

_SMALLEST = 1e-6  # lower limit of metres and probabilities before a logarithm or a root


def _prepare(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Raise the precision, find the known pixels, and clean the target before any arithmetic.

    Returns:
        prediction and target (batch, channels, height, width) and known (batch, 1, height, width) bool; the target equals
        the prediction where it is unknown.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction has shape {tuple(prediction.shape)} and target {tuple(target.shape)}; they must be equal")
    prediction = prediction.float() if prediction.itemsize < 4 else prediction
    known = torch.isfinite(target).all(dim=1, keepdim=True)  # a pixel counts when all its channels are known
    return prediction, torch.where(known, target.to(prediction.dtype), prediction.detach()), known


def _may_check(target: Tensor) -> bool:
    """Whether to look at values: on other devices that would synchronise at every step, and it would split a compiled graph."""
    return target.device.type == "cpu" and not torch.compiler.is_compiling()


def _mean_over_known(values: Tensor, known: Tensor) -> Tensor:
    """Mean of `values` (batch, channels, height, width) over known pixels and channels; 0 if there are none."""
    return (values * known).sum() / (known.sum() * values.shape[1]).clamp(min=1)


def cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of logits (batch, classes, height, width) and class ids (batch, height, width), 255 being unknown.

    Unlike `F.cross_entropy(..., reduction="mean")` it is 0, not NaN, where every pixel is unknown.
    """
    if target.shape != prediction.shape[:1] + prediction.shape[2:]:
        raise ValueError(
            f"logits have shape {tuple(prediction.shape)} and class ids {tuple(target.shape)}; expected (batch, height, width) ids"
        )
    if target.is_floating_point() or target.dtype == torch.bool:
        raise ValueError(f"class ids are {target.dtype}; expected integers")
    target = target.long()
    if _may_check(target):
        wrong = target[(target != IGNORE_INDEX) & ((target < 0) | (target >= prediction.shape[1]))]
        if len(wrong):
            raise ValueError(
                f"class ids have {wrong.unique().tolist()[:5]}; allowed are 0 to {prediction.shape[1] - 1}, and {IGNORE_INDEX}"
            )
    prediction = prediction.float() if prediction.itemsize < 4 else prediction
    total = F.cross_entropy(prediction, target, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (target != IGNORE_INDEX).sum().clamp(min=1)


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error over known pixels and channels."""
    prediction, target, known = _prepare(prediction, target)
    return _mean_over_known((prediction - target).abs(), known)


def rotate_l1(prediction: Tensor, target: Tensor) -> Tensor:
    """L1 that tolerates a shift of one pixel: the "rotate loss" of Standley et al. (arXiv 1905.07553, released code).

    The target loses a border of one pixel; the nine crops of the prediction that are shifted by -1, 0 or +1 in each
    direction are compared with it. Per image the smallest of the nine mean errors counts. The means are over known pixels
    (the released code divides by all), and the batch mean is over images that have any.

    Raises:
        ValueError: if the map is smaller than 3 x 3.
    """
    height, width = prediction.shape[-2:]
    if min(height, width) < 3:
        raise ValueError(f"rotate_l1 needs maps of at least 3 x 3 pixels, got {height} x {width}")
    prediction, target, known = _prepare(prediction, target)
    target, known = target[..., 1:-1, 1:-1], known[..., 1:-1, 1:-1]
    totals = []
    for top in range(3):
        for left in range(3):
            crop = prediction[..., top : top + height - 2, left : left + width - 2]
            totals.append(((crop - target).abs() * known).sum(dim=(1, 2, 3)))  # (batch,)
    pixels = known.sum(dim=(1, 2, 3))  # (batch,)
    errors = torch.stack(totals).amin(dim=0) / (pixels * prediction.shape[1]).clamp(min=1)
    return errors.sum() / (pixels > 0).sum().clamp(min=1)


def silog(prediction: Tensor, target: Tensor) -> Tensor:
    """Scale-invariant logarithmic error, `10 * sqrt(mean(d^2) - 0.85 * mean(d)^2)` with `d = log prediction - log target`.

    Eigen et al. (arXiv 1406.2283, equation 4) with the weights of BTS (arXiv 1907.10326, equation 4). Targets of 0 or
    less count as unknown.
    """
    prediction, target, known = _prepare(prediction, torch.where(target > 0, target, torch.nan))
    difference = prediction.clamp(min=_SMALLEST).log() - target.clamp(min=_SMALLEST).log()
    mean_square = _mean_over_known(difference.square(), known)
    variance = mean_square - 0.85 * _mean_over_known(difference, known).square()
    return 10 * variance.clamp(min=_SMALLEST**2).sqrt() * known.any()  # the clamp keeps the gradient of the root finite at 0


def cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """One minus the cosine of the angle between predicted and true vectors, over known pixels; 0 to 2.

    Targets of length 0 have no direction and count as unknown, as in the metrics.
    """
    directed = target.float().norm(dim=1, keepdim=True) > SHORTEST
    prediction, target, known = _prepare(prediction, torch.where(directed, target, torch.nan))
    return _mean_over_known(1 - F.cosine_similarity(prediction, target, dim=1, eps=_SMALLEST).unsqueeze(1), known)


def balanced_binary_cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of probabilities in [0, 1] that weighs edge and non-edge pixels equally.

    Holistically-nested edge detection (arXiv 1504.06375, equation 2): with `b` the share of non-edge mass among known
    pixels, edges weigh `b` and the rest `1 - b`. Soft targets split their weight.

    Raises:
        ValueError: if a target is beyond [0, 1] (on CPUs): the loss would have no lower limit.
    """
    prediction, target, known = _prepare(prediction, target)
    low, high = RANGES["balanced_binary_cross_entropy"]
    if _may_check(target) and bool((wrong := ((target < low) | (target > high)) & known).any()):
        raise ValueError(
            f"targets have values from {target[wrong].min().item():g} to {target[wrong].max().item():g}; balanced_binary_cross_entropy is "
            f"defined from {low:g} to {high:g}; scale them by the entry's encoding, for example 1/255 for 8-bit maps"
        )
    probability = prediction.clamp(_SMALLEST, 1 - _SMALLEST)
    non_edge = _mean_over_known(1 - target.detach(), known)
    edges, others = target * probability.log(), (1 - target) * (1 - probability).log()
    return _mean_over_known(-non_edge * edges - (1 - non_edge) * others, known)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "l1": l1,
    "rotate_l1": rotate_l1,
    "silog": silog,
    "cosine": cosine,
    "balanced_binary_cross_entropy": balanced_binary_cross_entropy,
}
"""Loss functions by the name that a task's entry uses."""


def count_labels(loss: str, target: Tensor) -> Tensor:
    """How many labels a loss averages over: known pixels, or for `rotate_l1` the images that have any.

    Means of batches with different numbers of labels, weighted by these numbers, are the mean over all their labels. (`silog` and
    `balanced_binary_cross_entropy` are no plain means: each batch removes its own error of scale, and has its own share of edges.)

    Args:
        loss: name of the loss; one that is not the package's is taken for a mean over known pixels.
        target: as for the loss.

    Returns:
        `Tensor`: scalar int64 on the target's device.
    """
    if target.ndim == 3 and not target.is_floating_point():  # class ids
        return (target != IGNORE_INDEX).sum()
    target = target.unsqueeze(1) if target.ndim == 3 else target  # one channel may come without its axis
    known = torch.isfinite(target).all(dim=1)  # (batch, height, width)
    return _COUNTED.get(loss, lambda target, known: known)(target, known).sum()


_COUNTED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "rotate_l1": lambda target, known: known[:, 1:-1, 1:-1].flatten(1).any(dim=1),
    "silog": lambda target, known: known & (target > 0).all(dim=1),
    "cosine": lambda target, known: known & (target.float().square().sum(dim=1) > SHORTEST**2),
}
"""Which labels a loss averages over, where these are not all known pixels: from target and known pixels, (batch, height, width) bool."""


def losses_of(spec: TaskSpec) -> list[str]:
    """Names of the losses that fit a task and are defined for its values."""
    return [name for name in names_that_fit(spec, "loss", LOSSES) if _is_defined(name, spec)]


def _is_defined(loss: str, spec: TaskSpec) -> bool:
    return stays_within(spec, RANGES.get(loss, (-math.inf, math.inf)))


def stays_within(spec: TaskSpec, limits: tuple[float, float]) -> bool:
    """Whether all values of a task, as far as its entry limits them, are between the lowest and the highest of some limits."""
    (lowest, highest), (low, high) = limits, spec.final_range
    return not (math.isfinite(low) and low < lowest) and not (math.isfinite(high) and high > highest)


def loss_function(spec: TaskSpec) -> Callable[[Tensor, Tensor], Tensor]:
    """The function that a task's entry names.

    Raises:
        ValueError: if there is no such loss.
    """
    if spec.loss not in LOSSES:
        raise ValueError(f"task {spec.name!r} has loss {spec.loss!r}; allowed: {', '.join(losses_of(spec))}")
    return LOSSES[spec.loss]


def check_loss(spec: TaskSpec) -> None:
    """Refuse a loss that is not defined for a task's values, as far as its entry limits them: it would ignore those beyond.

    Raises:
        ValueError: naming both ranges.
    """
    if not _is_defined(spec.loss, spec):
        (lowest, highest), (low, high) = RANGES[spec.loss], spec.final_range
        raise refusal(
            f"task {spec.name!r} has loss {spec.loss!r}, which is for values from {lowest:g} to {highest:g}, and its values run from "
            f"{low:g} to {high:g}; give another loss ({', '.join(losses_of(spec))}), or a value_range within"
        )


def multi_task_loss(
    predictions: Mapping[str, Tensor], labels: Mapping[str, Tensor | None], specs: Mapping[str, TaskSpec]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of the losses of all predicted tasks that have labels (MulT, equation 5).

    Args:
        predictions: per task (batch, channels, height, width).
        labels: per task the target; `None` or a missing key means that the batch has no labels for it.
        specs: the task entries, for loss names and weights.

    Returns:
        the weighted sum (scalar) and each task's own, unweighted loss (scalars).

    Raises:
        ValueError: if there are labels for a task that the model does not have, or for none of the predicted tasks, or if shapes
            differ; the message names the task.
    """
    if not isinstance(labels, Mapping):
        raise refusal(f"labels is a {type(labels).__name__}; expected a dictionary of tensors by task, for tasks {list(specs)}")
    unknown = sorted(set(labels) - set(specs))
    if unknown:
        raise refusal(f"labels for {unknown}, but the model's tasks are {list(specs)}; remove them or add the tasks")
    losses = {}
    for task, prediction in predictions.items():
        target = labels.get(task)
        if target is None:
            continue
        if not isinstance(target, Tensor):
            raise ValueError(f"{task}: the label is a {type(target).__name__}; expected a tensor")
        check_dense(target, f"{task}: the label")
        if not specs[task].is_classification and target.ndim == 3 and prediction.shape[1] == 1:
            target = target.unsqueeze(1)  # one channel may come without its axis
        try:
            losses[task] = loss_function(specs[task])(prediction, target)
        except ValueError as error:
            raise ValueError(f"{task}: {error}") from None
    if not losses:
        raise refusal(f"labels has {list(labels)}, which is no label for any predicted task {list(predictions)}")
    total = torch.stack([specs[task].weight * loss for task, loss in losses.items()]).sum()
    return total, losses
