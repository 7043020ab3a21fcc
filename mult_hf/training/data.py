"""Rows and tasks of a run: one data set, or a mixture of several, stored or streamed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from datasets import Dataset, IterableDataset

from mult_hf.data.check import check_rows
from mult_hf.data.mixing import merge_tasks, mix_datasets
from mult_hf.data.schema import FOCAL_LENGTH, load_rows, load_task_entries, load_task_specs
from mult_hf.data.streaming import first_rows, open_stream, streams_by_default
from mult_hf.model.tasks import TaskSpec

from .arguments import DataArguments
from .distributed import is_first_process, print_once
from .loop import BASELINE_ROWS

CHECKED_ROWS = 32
"""Rows of each split in which mistakes are looked for before training."""


@dataclass(frozen=True)
class TrainingData:
    """What a run trains and is evaluated on.

    Args:
        specs: entries of the tasks of the model: those of every data set.
        training_rows: rows to train on.
        validation_rows: rows of the first data set to evaluate on.
        baseline_rows: training rows of the first data set, for the constant baseline; the first ones of streamed rows.
        tasks_by_source: for a mixture, the entries of each data set by its name, with its own encodings.
        contents: of streamed rows: a description of their files, with which a resumed run detects changes.
        without_focal_length: data sets of a mixture whose training rows have no column `focal_length`, where others have it.
    """

    specs: dict[str, TaskSpec]
    training_rows: Dataset | IterableDataset
    validation_rows: Dataset
    baseline_rows: Dataset
    tasks_by_source: Mapping[str, Mapping[str, TaskSpec]] | None = None
    contents: str | None = None
    without_focal_length: Sequence[str] = ()

    @property
    def sized_rows(self) -> Dataset:
        """Rows whose images are measured for the size of training images: all, or the first ones of streamed rows."""
        return self.baseline_rows if isinstance(self.training_rows, IterableDataset) else self.training_rows

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of [`train`][mult_hf.training.run.train]."""
        return {"tasks_by_source": self.tasks_by_source, "baseline_rows": self.baseline_rows, "contents": self.contents}


def load_data(arguments: DataArguments, seed: int = 0) -> TrainingData:
    """Load the data set, and those to mix with it.

    The first data set is the one that is evaluated. A task that a data set lacks is unknown in all of its rows. What `mult-hf check` finds
    in the first rows of each data set is printed.

    Args:
        arguments: of the data.
        seed: of the order in which a mixture is drawn.

    Raises:
        ValueError: if a data set cannot be read, lacks every task, or defines a task differently from another.
    """
    first, others = cast(str, arguments.dataset), arguments.mix_with or []
    names = [first, *others]
    entries = {name: load_task_specs(name, None if others else arguments.tasks) for name in names}
    streaming = any(map(streams_by_default, names)) if arguments.streaming is None else arguments.streaming
    rows, validation_rows, contents = _streamed(names, arguments) if streaming else _stored(names, arguments)
    for name in names:
        measured = {arguments.validation_split: validation_rows} if name == first else {}
        _print_mistakes(name, {arguments.train_split: rows[name], **measured}, arguments.tasks)
    baseline_rows = first_rows(rows[first], BASELINE_ROWS) if streaming else rows[first]
    if not others:
        return TrainingData(entries[first], rows[first], validation_rows, baseline_rows, contents=contents)
    merged = merge_tasks(entries)
    unknown = sorted(set(arguments.tasks or []) - set(merged))
    if unknown:
        raise ValueError(f"--tasks has {unknown}; the data sets have {list(merged)}")
    specs = {task: spec for task, spec in merged.items() if arguments.tasks is None or task in arguments.tasks}
    weights = None if arguments.mix_weights is None else dict(zip(names, arguments.mix_weights))
    mixed = mix_datasets(rows, weights, columns=["image", FOCAL_LENGTH, *specs], seed=seed)
    without = [name for name in names if FOCAL_LENGTH not in (rows[name].column_names or [])]
    without = without if len(without) < len(names) else []
    return TrainingData(specs, mixed, validation_rows, baseline_rows, entries, contents, without)


def _print_mistakes(name: str, splits: Mapping[str, Dataset | IterableDataset], tasks: Sequence[str] | None) -> None:
    """Print what looks wrong in the first rows of a data set, of the chosen tasks or of all."""
    specs = load_task_specs(name)
    columns = {column for rows in splits.values() for column in rows.column_names or []}
    if not is_first_process() or columns.isdisjoint(specs):  # photographs whose targets are computed from each view
        return
    entries = [entry for task, entry in zip(specs, load_task_entries(name), strict=True) if tasks is None or task in tasks]
    problems = [(split, problem) for split, rows in splits.items() for problem in check_rows({split: rows}, entries, CHECKED_ROWS).problems]
    for split, problem in problems:
        print_once(f"{name}, {split}, looks wrong: {problem}")
    if problems:
        print_once(f"training goes on; `mult-hf check {name} --sheet sheet.png` reads more rows, and draws them")


def _stored(names: list[str], arguments: DataArguments) -> tuple[dict[str, Any], Dataset, None]:
    """Training rows by name, and validation rows, of data sets on this disk."""
    rows = {name: load_rows(name, split=arguments.train_split) for name in names}
    return rows, cast(Dataset, load_rows(names[0], split=arguments.validation_split)), None


def _streamed(names: list[str], arguments: DataArguments) -> tuple[dict[str, Any], Dataset, str]:
    """Training rows by name that are read while training, the first validation rows in memory, and the files."""
    streams = {name: open_stream(name, arguments.train_split) for name in names}
    validation = open_stream(names[0], arguments.validation_split)
    print_once(
        f"training rows are streamed from {'; '.join(stream.contents for stream in streams.values())}; the evaluation reads up to "
        f"{arguments.validation_samples} rows of {arguments.validation_split!r} once"
    )
    rows = {name: stream.rows for name, stream in streams.items()}
    return rows, first_rows(validation.rows, arguments.validation_samples), "; ".join(stream.contents for stream in streams.values())


__all__ = ["TrainingData", "load_data"]
