"""Rows and tasks of a run: one data set, or a mixture of several."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from datasets import Dataset

from mult_hf.data.mixing import merge_tasks, mix_datasets
from mult_hf.data.schema import FOCAL_LENGTH, load_rows, load_task_specs
from mult_hf.model.tasks import TaskSpec

from .arguments import DataArguments


@dataclass(frozen=True)
class TrainingData:
    """What a run trains and is evaluated on.

    Args:
        specs: entries of the tasks of the model: those of every data set.
        training_rows: rows to train on.
        validation_rows: rows of the first data set to evaluate on.
        baseline_rows: training rows of the first data set, for the constant baseline.
        tasks_by_source: for a mixture, the entries of each data set by its name, with its own encodings.
    """

    specs: dict[str, TaskSpec]
    training_rows: Dataset
    validation_rows: Dataset
    baseline_rows: Dataset
    tasks_by_source: Mapping[str, Mapping[str, TaskSpec]] | None = None


def load_data(arguments: DataArguments, seed: int = 0) -> TrainingData:
    """Load the data set, and those to mix with it.

    The first data set is the one that is evaluated. A task that a data set lacks is unknown in all of its rows.

    Args:
        arguments: of the data.
        seed: of the order in which a mixture is drawn.

    Raises:
        ValueError: if a data set cannot be read, lacks every task, or defines a task differently from another.
    """
    first, others = cast(str, arguments.dataset), arguments.mix_with or []
    training_rows, validation_rows = (load_rows(first, split=split) for split in (arguments.train_split, arguments.validation_split))
    if not others:
        specs = load_task_specs(first, arguments.tasks)
        return TrainingData(specs, training_rows, validation_rows, baseline_rows=training_rows)
    entries = {name: load_task_specs(name) for name in (first, *others)}
    merged = merge_tasks(entries)
    unknown = sorted(set(arguments.tasks or []) - set(merged))
    if unknown:
        raise ValueError(f"--tasks has {unknown}; the data sets have {list(merged)}")
    specs = {task: spec for task, spec in merged.items() if arguments.tasks is None or task in arguments.tasks}
    sources = {first: training_rows, **{name: load_rows(name, split=arguments.train_split) for name in others}}
    weights = None if arguments.mix_weights is None else dict(zip(sources, arguments.mix_weights))
    mixed = mix_datasets(sources, weights, columns=["image", FOCAL_LENGTH, *specs], seed=seed)
    return TrainingData(specs, mixed, validation_rows, baseline_rows=training_rows, tasks_by_source=entries)


__all__ = ["TrainingData", "load_data"]
