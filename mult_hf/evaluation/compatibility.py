"""Reject data in which a model's task has another meaning."""

from collections.abc import Mapping
from dataclasses import replace

from mult_hf.model.entry_fields import refusal
from mult_hf.model.tasks import TaskSpec
from mult_hf.model.units import normalised_unit

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
        Entries by name in the model's order, for the image processor of a [`MultiTaskCollator`].

    Raises:
        ValueError: if they share no task, or a shared task differs in classes, unit or axes.
    """
    shared = [task for task in model_specs if task in data_specs]
    if not shared:
        raise refusal(f"the model has tasks {list(model_specs)} and the data {list(data_specs)}; they need at least one in common")
    for task in shared:
        check_compatible(model_specs[task], data_specs[task])
    return {
        task: replace(model_specs[task], **{field: getattr(data_specs[task], field) for field in ("encoding", "resample", "metrics")})
        for task in shared
    }


def check_compatible(model: TaskSpec, data: TaskSpec) -> None:
    """Reject a task that has different meanings in a model and a data set.

    Raises:
        ValueError: if it differs in classes, unit or axes.
    """
    for field in _MEANING:
        ours, theirs = (spec.flip_signs if field == "horizontal_flip_signs" else getattr(spec, field) for spec in (model, data))
        if ours == theirs or (field == "unit" and normalised_unit(model.unit) == normalised_unit(data.unit)):
            continue
        where = ""
        if isinstance(ours, tuple) and len(ours) == len(theirs):
            number = next(i for i in range(len(ours)) if ours[i] != theirs[i])
            where = f" (first at {number}: {ours[number]!r} and {theirs[number]!r})"
        raise ValueError(
            f"{model.name}: {field} is {ours!r} for the model and {theirs!r} for the data{where}; numbers would be meaningless. "
            "Correct the entry in the data set's card, map the labels, or leave the task out"
        )


__all__ = ["measured_specs", "check_compatible"]
