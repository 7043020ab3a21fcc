"""Reject data in which a model's task has another meaning."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from transformers.utils import logging

from mult_hf.model.activations import activation_of
from mult_hf.model.entry_fields import refusal
from mult_hf.model.tasks import TaskSpec
from mult_hf.model.units import normalised_unit

logger = logging.get_logger(__name__)

# Fields that define the meaning of a task's values; results are meaningless if model and data differ in one of them.
_MEANING = ("kind", "channels", "unit", "class_names", "horizontal_flip_signs", "rotated_channels", "zoom_exponent")


def measured_specs(model_specs: Mapping[str, TaskSpec], data_specs: Mapping[str, TaskSpec]) -> dict[str, TaskSpec]:
    """Specs of the tasks that a model and a data set share, for measuring the model on the data set.

    The data set defines how stored maps are read and which metrics are computed (`encoding`, `resample`, `metrics`). The model
    defines how predictions are post-processed (`activation`, `value_range`).

    Args:
        model_specs: the model's entries by name.
        data_specs: the data set's entries by name.

    Returns:
        Entries by name in the model's order, for the image processor of a [`MultiTaskCollator`]. Another range is warned of.

    Raises:
        ValueError: if they share no task, or a shared task differs in classes, unit or axes.
    """
    shared = [task for task in model_specs if task in data_specs]
    if not shared:
        raise refusal(f"the model has tasks {list(model_specs)} and the data {list(data_specs)}; they need at least one in common")
    for task in shared:
        check_compatible(model_specs[task], data_specs[task])
        ours, theirs = model_specs[task], data_specs[task]
        if ours.final_range != theirs.final_range and not activation_of(ours).gives_unit_vectors:
            logger.warning_once(
                f"{task}: the model has the range {range_text(ours)} and the data {range_text(theirs)}; if their numbers have another "
                "scale, correct the entry in the data set's card"
            )
    return {
        task: replace(model_specs[task], **{field: getattr(data_specs[task], field) for field in ("encoding", "resample", "metrics")})
        for task in shared
    }


def check_compatible(model: TaskSpec, data: TaskSpec) -> None:
    """Reject a task that has different meanings in a model and a data set.

    Raises:
        ValueError: if it differs in classes, unit or axes.
    """
    for field, ours, theirs in _differences(model, data, _MEANING):
        where = ""
        if isinstance(ours, tuple) and len(ours) == len(theirs):
            number = next(i for i in range(len(ours)) if ours[i] != theirs[i])
            where = f" (first at {number}: {ours[number]!r} and {theirs[number]!r})"
        raise ValueError(
            f"{model.name}: {field} is {ours!r} for the model and {theirs!r} for the data{where}; numbers would be meaningless. "
            "Correct the entry in the data set's card, map the labels, or leave the task out"
        )


def check_same_entries(model: Mapping[str, TaskSpec], processor: Mapping[str, TaskSpec]) -> None:
    """Reject a processor that would make targets of another meaning or range than those that the model is trained for.

    Args:
        model: the model's entries by name; its heads and losses are made from them.
        processor: the processor's, from which targets, metrics and finished maps are made.

    Raises:
        ValueError: naming the task, the field and both values.
    """
    if set(processor) != set(model):
        raise refusal(f"the processor has the tasks {list(processor)} and the model {list(model)}; build both from the same entries")
    for task, own in model.items():
        for field, ours, theirs in _differences(own, processor[task], (*_MEANING, "activation", "value_range", "loss")):
            if field == "class_names" and not (ours and theirs):  # names that one of them lacks change no number
                continue
            raise refusal(f"{task}: {field} is {ours!r} for the model and {theirs!r} for the processor; build both from the same entries")


def range_text(spec: TaskSpec) -> str:
    """The values of a task in words: "from 0 to 10 m"."""
    low, high = spec.final_range
    return f"from {low:g} to {high:g} {spec.unit}".rstrip() if math.isfinite(low) or math.isfinite(high) else "of all numbers"


def _differences(first: TaskSpec, second: TaskSpec, fields: Iterable[str]) -> Iterator[tuple[str, Any, Any]]:
    """The fields in which two entries differ, with both values; two spellings of a unit are the same."""
    for field in fields:
        values: list[Any] = [spec.flip_signs if field == "horizontal_flip_signs" else getattr(spec, field) for spec in (first, second)]
        ours, theirs = values
        if ours != theirs and not (field == "unit" and normalised_unit(ours) == normalised_unit(theirs)):
            yield field, ours, theirs


__all__ = ["check_compatible", "check_same_entries", "measured_specs", "range_text"]
