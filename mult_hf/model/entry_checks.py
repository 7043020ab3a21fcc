"""Checks of a task entry whose fields have the right types: values that are not allowed, and fields that do not fit each other."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .activations import ACTIVATIONS, Activation

if TYPE_CHECKING:
    from .tasks import TaskSpec

MAX_CLASSES = 255
"""Ids are stored in 8 bits, and 255 means unknown."""

RESAMPLINGS = ("nearest", "bilinear")

CLASS_METRICS = ("mean_iou", "mean_iou_all_classes", "pixel_accuracy", "mean_accuracy")
"""Metrics of classes in the package's table of metrics, which is not saved with checkpoints; all others are metrics of numbers."""


OF_CLASSES: dict[str, tuple[str, ...]] = {"loss": ("cross_entropy",), "activation": ()}
OF_NUMBERS: dict[str, tuple[str, ...]] = {
    "loss": ("l1", "rotate_l1", "silog", "cosine", "balanced_binary_cross_entropy"),
    "activation": tuple(name for name in ACTIVATIONS if name != "identity"),
}
"""Losses and activations of the package that fit one kind of task. Those that a program adds to its tables are not checked."""

_NAMES = {"loss": (*OF_CLASSES["loss"], *OF_NUMBERS["loss"]), "activation": tuple(ACTIVATIONS)}

OF_VECTORS = ("unit_vector", "cosine")
"""Activations and losses of directions, which a single number does not have."""


def _check_resample(spec: "TaskSpec") -> str | None:
    return None if spec.resample in RESAMPLINGS else f"has resample {spec.resample!r}; allowed: {', '.join(RESAMPLINGS)}"


def _check_channels(spec: "TaskSpec") -> str | None:
    fewest, most = (2, MAX_CLASSES) if spec.is_classification else (1, float("inf"))
    if fewest <= spec.channels <= most:
        return None
    return f"has {spec.channels} channels; a regression needs at least 1, a classification 2 to {MAX_CLASSES}"


def _check_weight(spec: "TaskSpec") -> str | None:
    return None if spec.weight >= 0 else f"has weight {spec.weight}; weights are at least 0"


def _check_class_names(spec: "TaskSpec") -> str | None:
    if len(spec.class_names) not in (0, spec.channels):
        return f"has {len(spec.class_names)} class names for {spec.channels} channels; give one per class"
    if spec.class_names and not spec.is_classification:
        return f"is a {spec.kind} and has class_names {list(spec.class_names)}; leave them out, or give kind classification"
    repeated = sorted({name for name in spec.class_names if spec.class_names.count(name) > 1})
    if repeated:
        return f"has class_names {repeated} more than once; results per class need different names"
    return None


def _check_flip_signs(spec: "TaskSpec") -> str | None:
    if len(spec.horizontal_flip_signs) not in (0, spec.channels):
        return f"has {len(spec.horizontal_flip_signs)} flip signs for {spec.channels} channels; give one per channel"
    if not set(spec.horizontal_flip_signs) <= {1, -1}:
        return f"has horizontal_flip_signs {spec.horizontal_flip_signs}; give 1 or -1 per channel"
    return None


def _check_rotated_channels(spec: "TaskSpec") -> str | None:
    pair = set(spec.rotated_channels)
    if not pair or (len(spec.rotated_channels) == len(pair) == 2 and pair <= set(range(spec.channels))):
        return None
    return f"has rotated_channels {spec.rotated_channels}; give two below {spec.channels}: right, up"


def _check_geometry_of_classes(spec: "TaskSpec") -> str | None:
    if not spec.is_classification or not (spec.zoom_exponent or spec.rotated_channels or -1 in spec.horizontal_flip_signs):
        return None
    return (
        "holds classes, which neither zoom nor turn nor change their sign; drop zoom_exponent, rotated_channels and horizontal_flip_signs"
    )


def _check_numbers_of_classes(spec: "TaskSpec") -> str | None:
    if not spec.is_classification or spec.value_range is None:
        return None
    return f"is a classification and has value_range {spec.value_range}, which is for numbers; leave it out"


def _is_of_vectors(name: str) -> bool:
    """Whether a loss or an activation, also of a program, is one of directions."""
    activation = ACTIVATIONS.get(name)
    return name in OF_VECTORS or (isinstance(activation, Activation) and activation.gives_unit_vectors)


def names_that_fit(spec: "TaskSpec", field: str, names: Iterable[str]) -> list[str]:
    """Those names of losses or activations that fit a task's kind and number of channels.

    Args:
        spec: the entry.
        field: `"loss"` or `"activation"`.
        names: names to choose from.
    """
    others = (OF_NUMBERS if spec.is_classification else OF_CLASSES)[field]
    return [name for name in names if name not in others and (spec.channels > 1 or not _is_of_vectors(name))]


def _check_loss_and_activation(spec: "TaskSpec") -> str | None:
    other = OF_NUMBERS if spec.is_classification else OF_CLASSES
    for field in ("loss", "activation"):
        if getattr(spec, field) in other[field]:
            kind = "regression" if spec.is_classification else "classification"
            allowed = ", ".join(names_that_fit(spec, field, _NAMES[field]))
            return f"is a {spec.kind} and has {field} {getattr(spec, field)!r}, which is for {kind}; choose from: {allowed}"
    return None


def _check_vectors(spec: "TaskSpec") -> str | None:
    of_vectors = [field for field in ("activation", "loss") if _is_of_vectors(getattr(spec, field))]
    if not of_vectors or spec.channels > 1:
        return None
    named = ", ".join(getattr(spec, field) for field in of_vectors)
    allowed = "; ".join(f"{field}: {', '.join(names_that_fit(spec, field, _NAMES[field]))}" for field in of_vectors)
    return f"has one channel and {named}, for vectors of 2 or more channels; give more channels, or choose from {allowed}"


def _check_mirrored_range(spec: "TaskSpec") -> str | None:
    low, high = spec.final_range
    if spec.is_classification or -1 not in spec.flip_signs or low < 0 < high:
        return None
    largest = max(abs(low), abs(high))
    source = "horizontal_flip_signs" if spec.horizontal_flip_signs else "rotated_channels"
    return (
        f"has {source} {list(getattr(spec, source))} and values from {low:g} to {high:g}, of which none may have the "
        f"other sign; drop the {source.split('_')[-1]}, or give a value_range such as [{-largest:g}, {largest:g}]"
    )


def _check_value_range(spec: "TaskSpec") -> str | None:
    low, high = spec.value_range if spec.value_range is not None and len(spec.value_range) == 2 else (0.0, 0.0)
    if spec.value_range is None or (low < high and math.isfinite(float(high) - float(low))):
        return None
    return f"has value range {spec.value_range}; give two numbers, the smaller one first, with a finite difference"


def _check_range_of_activation(spec: "TaskSpec") -> str | None:
    low, high = spec.final_range
    if spec.is_classification or low < high:
        return None
    lowest, highest = spec.head_range
    return f"has value_range {spec.value_range}, and {spec.activation} gives values from {lowest:g} to {highest:g}; give a range among them"


def _check_metrics(spec: "TaskSpec") -> str | None:
    if len(set(spec.metrics)) < len(spec.metrics):
        return f"has metrics {list(spec.metrics)}; give each once"
    wrong = [name for name in spec.metrics if (name in CLASS_METRICS) != spec.is_classification]
    if not wrong:
        return None
    kinds = f"{', '.join(CLASS_METRICS)} are for classification, all others for regression"
    return f"is a {spec.kind} and has metrics {wrong}; {kinds}"


def _check_encoding_channels(spec: "TaskSpec") -> str | None:
    stored, needed = spec.encoding.number_of_channels(), 1 if spec.is_classification else spec.channels
    if stored in (None, needed):
        return None
    return (
        f"has {needed} channels in its maps, and its encoding has channels {spec.encoding.channels}, scale {spec.encoding.scale} and "
        f"offset {spec.encoding.offset}; give one of each per channel"
    )


ENTRY_CHECKS = (
    _check_resample,
    _check_channels,
    _check_weight,
    _check_class_names,
    _check_flip_signs,
    _check_rotated_channels,
    _check_geometry_of_classes,
    _check_numbers_of_classes,
    _check_loss_and_activation,
    _check_vectors,
    _check_value_range,
    _check_range_of_activation,
    _check_mirrored_range,
    _check_metrics,
    _check_encoding_channels,
)
"""Functions that return what is wrong with a combination of fields, or None."""
