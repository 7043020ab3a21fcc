"""How far the predictions of an image and of its mirror image agree: a confidence that needs no training."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .tasks import TaskSpec


def mirrored_back(prediction: Tensor, spec: TaskSpec) -> Tensor:
    """Convert the prediction (..., channels, height, width) of a mirrored image to one of the image itself.

    Args:
        prediction: in the model's own output space.
        spec: the task's entry, whose flip signs change channels such as the x of a normal.
    """
    return prediction.flip(-1) * prediction.new_tensor(spec.flip_signs).view(-1, 1, 1)


def to_average(prediction: Tensor, spec: TaskSpec) -> Tensor:
    """Convert a (batch, channels, height, width) prediction to values to average: class probabilities; other tasks are unchanged."""
    return prediction.softmax(dim=1) if spec.is_classification else prediction


def agreement(prediction: Tensor, of_mirrored: Tensor, spec: TaskSpec, size: tuple[int, int] | None = None) -> Tensor:
    """Agreement of two predictions per pixel: 1 where they are equal, 0 where they differ as much as possible.

    For classes it is 1 minus the total variation distance of the two distributions. For values it is 1 minus their Euclidean distance over
    the length of the task's `value_range`, or, if the task has none, of the range of the two predictions. Only the ranking of pixels within
    a task is meaningful: half a metre of depth is a small fraction of ten metres.

    Args:
        prediction: of the image, (channels, height, width), in the model's own output space.
        of_mirrored: of the mirrored image, as the model returns it.
        spec: the task's entry.
        size: height and width of the result; by default those of the predictions.

    Returns:
        (height, width), float32; NaN where a prediction is not finite.
    """
    one, other = (to_average(each.float()[None], spec)[0] for each in (prediction, mirrored_back(of_mirrored, spec)))
    if spec.is_classification:
        distance = (one - other).abs().sum(dim=0) / 2
    else:
        low, high = spec.value_range or _range(torch.stack([one, other]))
        distance = (one - other).norm(dim=0) / max(high - low, torch.finfo(torch.float32).tiny)
    agreed = (1 - distance).clamp(0, 1)
    if size is None or tuple(agreed.shape) == tuple(size):
        return agreed
    return F.interpolate(agreed[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]


def _range(values: Tensor) -> tuple[float, float]:
    """The lowest and the highest of the finite values; (0, 0) if there are none."""
    known = values[values.isfinite()]
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)


__all__ = ["agreement", "mirrored_back", "to_average"]
