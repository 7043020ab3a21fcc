"""From a model's predictions to classes, metres and unit vectors at the size of the image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .activations import activation_function, activation_of
from .resizing import Strip, class_map, strips
from .tasks import TaskSpec


def _clamped(strip: Strip, spec: TaskSpec) -> Tensor:
    return strip.values if spec.value_range is None else strip.values.clamp(*spec.value_range)


_CANCELLED = 1e-3
"""Length of a resized vector, relative to the nearest predicted one, below which its direction is only rounding error."""


_NORMAL_LENGTHS = (1e-15, 1e15)
"""Lengths whose squares float32 holds in full precision."""


def _unit_vectors(strip: Strip, spec: TaskSpec) -> Tensor:
    """Normalise vectors to length 1. Where opposite vectors cancel out, use the nearest predicted one, or NaN if it has no direction."""
    resized, nearest = strip.values, strip.nearest
    lengths, cancelled_below = _lengths(resized), _CANCELLED * _lengths(nearest)
    shortest, longest = _NORMAL_LENGTHS
    if bool(((lengths > cancelled_below) & (lengths > shortest) & (lengths < longest)).all()):  # false for NaN too
        return resized / lengths
    vectors = torch.where(resized.norm(dim=0) <= _CANCELLED * nearest.norm(dim=0), nearest, resized)
    largest = vectors.abs().amax(dim=0)
    vectors = F.normalize(vectors / largest, dim=0)  # tiny and huge vectors have a direction too
    return torch.where((largest > 0) & largest.isfinite(), vectors, torch.nan)


def _lengths(vectors: Tensor) -> Tensor:
    """Lengths of (channels, rows, width) vectors; much faster on a CPU than `norm`, but wrong where squares under- or overflow."""
    return vectors.square().sum(dim=0).sqrt()


def resized(prediction: Tensor, size: tuple[int, int] | None) -> Tensor:
    """One (channels, height, width) prediction at a size, float32; by default its own."""
    prediction = prediction.float()
    if size is None or tuple(prediction.shape[-2:]) == size:
        return prediction
    return F.interpolate(prediction[None], size=size, mode="bilinear", align_corners=False)[0]


def finish(
    prediction: Tensor, spec: TaskSpec, size: tuple[int, int] | None, factor: float = 1.0, *, return_scores: bool = False
) -> dict[str, Tensor]:
    """Convert one image's prediction to its size and unit.

    Args:
        prediction: (channels, height, width), in the model's own output space.
        spec: the task's entry.
        size: height and width; by default the prediction's own.
        factor: the prediction is this many times the true value, as with a canonical camera, see [`canonical_factor`].
        return_scores: whether to add class probabilities.

    Returns:
        `"prediction"` as from the image processor's `post_process`, and, if asked for, `"scores"` of a classification.

    Raises:
        ValueError: if the prediction has another number of channels than the entry, or there is no such activation.
    """
    if len(prediction) != spec.channels:
        raise ValueError(
            f"{spec.name}: the prediction has {len(prediction)} channels, its entry {spec.channels}; pass tasks=model.config.tasks"
        )
    prediction = prediction.float()
    if size is None:
        size = (prediction.shape[-2], prediction.shape[-1])
    if spec.is_classification:
        scores = {"scores": resized(prediction, size).softmax(dim=0)} if return_scores else {}
        return {"prediction": class_map(prediction, size), **scores}
    if factor != 1:  # first, because the entry's range is that of true values
        prediction = prediction / factor
    finished = prediction.new_empty(spec.channels, *size)
    activation_function(spec)  # raises if there is none, of which nothing would be known here
    restored = _unit_vectors if activation_of(spec).gives_unit_vectors else _clamped
    for strip in strips(prediction, size):
        finished[:, strip.rows] = restored(strip, spec)
    return {"prediction": finished[0] if spec.channels == 1 else finished}


__all__ = ["finish", "resized"]
