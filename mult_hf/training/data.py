"""Rows and tasks of a run: one data set, or a mixture of several, stored or streamed."""

import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from datasets import Dataset, IterableDataset

from mult_hf.data.check import check_rows
from mult_hf.data.check.findings import Findings, without_numbers
from mult_hf.data.mixing import merge_tasks, mix_datasets
from mult_hf.data.schema import FOCAL_LENGTH, is_url, load_rows, load_task_entries, load_task_specs
from mult_hf.data.streaming import first_rows, open_stream, streams_by_default
from mult_hf.model.entry_fields import refusal
from mult_hf.model.tasks import TaskSpec

from .arguments import DataArguments
from .distributed import is_first_process, print_once
from .loop import BASELINE_ROWS

CHECKED_ROWS = 32
"""Rows of each split in which mistakes are looked for before training."""

CHECKED_SECONDS = 10.0
"""Time for each split after which no further row is read for it."""


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
        unlabelled: tasks without a column, which are not computed either: a new model cannot learn them, and a trained one may keep them.
        mistakes: what looks wrong in the first rows, printed once before training; empty in processes other than the first.
    """

    specs: dict[str, TaskSpec]
    training_rows: Dataset | IterableDataset
    validation_rows: Dataset
    baseline_rows: Dataset
    tasks_by_source: Mapping[str, Mapping[str, TaskSpec]] | None = None
    contents: str | None = None
    without_focal_length: Sequence[str] = ()
    unlabelled: Sequence[str] = ()
    mistakes: Sequence[str] = ()

    @property
    def sized_rows(self) -> Dataset:
        """Rows whose images are measured for the size of training images: all, or the first ones of streamed rows."""
        return self.baseline_rows if isinstance(self.training_rows, IterableDataset) else self.training_rows

    def without_columns(self, names: Collection[str]) -> "TrainingData":
        """The same without columns of tasks that the data are not to teach: their entries, which say how to decode them, are not used."""

        def rest(rows: Any) -> Any:
            return rows.remove_columns([name for name in rows.column_names or [] if name in names])

        parts = ("training_rows", "validation_rows", "baseline_rows")
        return replace(self, **{part: rest(getattr(self, part)) for part in parts}) if names else self

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of [`train`][mult_hf.training.run.train]."""
        return {"tasks_by_source": self.tasks_by_source or {}, "baseline_rows": self.baseline_rows, "contents": self.contents}


def load_data(arguments: DataArguments, seed: int = 0, *, computed: Sequence[str] | None = None) -> TrainingData:
    """Load the data set, and those to mix with it.

    The first data set is the one that is evaluated. A task that a data set lacks is unknown in all of its rows. What `mult-hf check` finds
    in the first rows of each data set is printed.

    Args:
        arguments: of the data.
        seed: of the order in which a mixture is drawn.
        computed: tasks whose targets are computed from each view, so that they need no column.

    Raises:
        ValueError: if a data set cannot be read, lacks every task, or one that the arguments name, or defines a task differently from
            another.
    """
    first, others = cast(str, arguments.dataset), arguments.mix_with or []
    names = [first, *others]
    entries = {name: load_task_specs(name, None if others else arguments.tasks) for name in names}
    streaming = any(map(streams_by_default, names)) if arguments.streaming is None else arguments.streaming
    rows, validation_rows, contents = _streamed(names, arguments) if streaming else _stored(names, arguments)
    mistakes = []
    for name in names:
        measured = {arguments.validation_split: validation_rows} if name == first else {}
        mistakes += _print_mistakes(name, {arguments.train_split: rows[name], **measured}, arguments.tasks)
    baseline_rows = first_rows(rows[first], BASELINE_ROWS) if streaming else rows[first]
    data = TrainingData(entries[first], rows[first], validation_rows, baseline_rows, contents=contents, mistakes=mistakes)
    if others:
        data = _mixture(data, rows, entries, arguments, seed)
    columns = {*(data.training_rows.column_names or []), *(computed or [])}
    return replace(data, unlabelled=_unlabelled(data.specs, columns, arguments.tasks))


def _mixture(
    data: TrainingData, rows: Mapping[str, Any], entries: Mapping[str, Mapping[str, TaskSpec]], arguments: DataArguments, seed: int
) -> TrainingData:
    """The data of the first data set with training rows of all, and the tasks of all.

    Args:
        data: of the first data set.
        rows: training rows by data set, the first one first.
        entries: task entries by data set.
        arguments: of the data.
        seed: of the order in which rows are drawn.

    Raises:
        ValueError: if two data sets define a task differently, or none has a task that the arguments name.
    """
    first, *_ = rows
    merged = merge_tasks(entries)
    unknown = sorted(set(arguments.tasks or []) - set(merged))
    if unknown:
        raise ValueError(f"--tasks has {unknown}; the data sets have {list(merged)}")
    specs = {task: spec for task, spec in merged.items() if arguments.tasks is None or task in arguments.tasks}
    rows = {name: _without_unlisted(name, each, specs, entries[name]) for name, each in rows.items()}
    weights = None if arguments.mix_weights is None else dict(zip(rows, arguments.mix_weights))
    mixed = mix_datasets(rows, weights, columns=["image", FOCAL_LENGTH, *specs], seed=seed)
    if isinstance(mixed, Dataset):
        drawn = Counter(mixed["source"])
        counts = ", ".join(f"{drawn[name]} of {name} ({len(each)} rows)" for name, each in rows.items())
        print_once(f"one pass draws {len(mixed)} training images: {counts}; --mix_weights sets the shares")
    without = [name for name, each in rows.items() if FOCAL_LENGTH not in (each.column_names or [])]
    return replace(
        data,
        specs=specs,
        training_rows=mixed,
        validation_rows=_without_unlisted(None, data.validation_rows, specs, entries[first]),
        baseline_rows=_without_unlisted(None, data.baseline_rows, specs, entries[first]),
        tasks_by_source=entries,
        without_focal_length=without if len(without) < len(rows) else (),
    )


def _without_unlisted(name: str | None, rows: Any, specs: Mapping[str, TaskSpec], own: Mapping[str, TaskSpec]) -> Any:
    """Rows without columns of tasks that only other data sets list: nothing says how these maps are stored.

    Args:
        name: of the data set, for a message; None for no message.
        rows: of the data set.
        specs: tasks of all data sets.
        own: tasks that this one lists.
    """
    unlisted = [task for task in specs if task not in own and task in (rows.column_names or [])]
    if unlisted and name is not None:
        print_once(f"{name}: not used, because mult_tasks in its card has no entry: {', '.join(unlisted)}; add one to train on it")
    return rows.remove_columns(unlisted) if unlisted else rows


def _unlabelled(specs: Mapping[str, TaskSpec], columns: Collection[str], named: Sequence[str] | None) -> list[str]:
    """The tasks without a column; none if no task has one, which is refused later.

    Raises:
        ValueError: if the arguments name one of them.
    """
    missing = [task for task in specs if task not in columns]
    if len(missing) == len(specs):
        return []
    if named and missing:
        raise refusal(f"--tasks has {missing}, of which the training data has no column; leave out, or add, {', '.join(missing)}")
    return missing


def _print_mistakes(name: str, splits: Mapping[str, Dataset | IterableDataset], tasks: Sequence[str] | None) -> list[str]:
    """Print what looks wrong in the first rows of a data set, of the chosen tasks or of all; returns these lines."""
    specs = load_task_specs(name)
    columns = {column for rows in splits.values() for column in rows.column_names or []}
    if not is_first_process() or columns.isdisjoint(specs):  # photographs whose targets are computed from each view
        return []
    entries = [entry for task, entry in zip(specs, load_task_entries(name), strict=True) if tasks is None or task in tasks]
    found = {split: check_rows({split: rows}, entries, CHECKED_ROWS, seconds=CHECKED_SECONDS, draw=False) for split, rows in splits.items()}
    doubts = {_diagnosis(doubt): doubt for findings in reversed(found.values()) for doubt in findings.doubts}
    for diagnosis, doubt in doubts.items():
        if not _is_refuted(diagnosis, specs, found.values()):
            print_once(f"{name}: note: {doubt}")
    problems: dict[tuple[str, str], list[tuple[str, str]]] = {}  # by task, and the problem without its numbers and rows
    for split, findings in found.items():
        for problem in findings.problems:
            problems.setdefault(_kind(problem.rpartition(" [")[0]), []).append((split, problem))
    lines = [f"{name}, {' and '.join(dict.fromkeys(split for split, _ in same))}, looks wrong: {same[0][1]}" for same in problems.values()]
    for line in lines:
        print_once(line)
    if lines:
        more = "" if is_url(name) else f"; {check_command(name)} reads more rows, and draws them"
        print_once(f"training goes on, unless a row cannot be used{more}")
    return lines


def check_command(name: str) -> str:
    """What finds the mistakes of a data set on this disk or on the Hub, for messages."""
    return f"`mult-hf check {shlex.quote(name)} --sheet sheet.png`"


def _is_refuted(diagnosis: tuple[str, str], specs: Mapping[str, TaskSpec], found: Iterable[Findings]) -> bool:
    """Whether a doubt about class ids does not arise in another split with known pixels: a class that is rare may be missing in one."""
    task, _ = diagnosis
    if task not in specs or not specs[task].is_classification:
        return False
    with_classes = (findings for findings in found if findings.tasks[task].unknown < findings.tasks[task].pixels)
    return any(diagnosis not in map(_diagnosis, findings.doubts) for findings in with_classes)


def _diagnosis(doubt: str) -> tuple[str, str]:
    """The kind of a doubt without its remedy, which may differ between splits."""
    task, sentence = _kind(doubt)
    return task, sentence.partition(": ")[0]


def _kind(finding: str) -> tuple[str, str]:
    """The task of a finding, whose name may have numbers, and its sentence without numbers."""
    task, _, sentence = finding.partition(": ")
    return task, without_numbers(sentence)


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


__all__ = ["TrainingData", "check_command", "load_data"]
