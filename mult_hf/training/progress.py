"""Progress of a run: counters, mean losses since the last log entry, and a log that survives interruptions."""

import json
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from mult_hf.evaluation.cards import to_jsonable
from mult_hf.model.entry_fields import refusal

from .stream import TrainingStream

FROM_WEIGHTS = "start a new run from the weights: --model with the checkpoint, or with a finished run's directory if weights are sharded"
"""What can be done where a run cannot be resumed."""


@dataclass
class Progress:
    """Progress of a run; part of its checkpoints.

    Args:
        arguments: arguments of the run, for detecting a checkpoint of another run.
        data: description of the rows by split, and of the tasks' entries, image processor and model by field, for detecting changes.
        step: optimizer steps taken.
        seconds: training time so far, without interruptions.
        best_gain: highest multi-task gain over the constant baseline so far, in percent.
        best_step: step of that evaluation.
        losses: sums of the task losses since the last entry of the log.
        batches: number of batches in these sums.
        known: by task, how many of them had a label of it.
    """

    arguments: dict[str, str]
    data: dict[str, str] = field(default_factory=dict)
    step: int = 0
    seconds: float = 0.0
    best_gain: float = -math.inf
    best_step: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    batches: int = 0
    known: dict[str, float] = field(default_factory=dict)

    def note_losses(self, losses: Mapping[str, float], shares: Mapping[str, float] | None = None) -> None:
        """Add the task losses of a batch; a loss of exactly 0 means that it had no label of the task.

        Args:
            losses: of the batch, by task.
            shares: its share of each task's labels in the step, see `label_shares`; 1 by default.
        """
        weights = {task: (shares or {}).get(task, 1.0) * (loss != 0) for task, loss in losses.items()}
        self.losses = {task: self.losses.get(task, 0.0) + weights[task] * loss for task, loss in losses.items()}
        self.known = {task: self.known.get(task, 0) + weight for task, weight in weights.items()}
        self.batches += 1

    def take_mean_losses(self) -> dict[str, float]:
        """Means over the steps since the last call that had labels in any batch or process, 0 without one; resets the sums."""
        totals, counts = mean_over_processes(self.losses), mean_over_processes(self.known)
        self.losses, self.batches, self.known = {}, 0, {}
        return {task: total / counts[task] if counts[task] else 0.0 for task, total in totals.items()}

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint.

        Raises:
            ValueError: if it comes from a run with other arguments or other data, or is incomplete.
        """
        expected = [each.name for each in fields(self)]
        if "batches" in state:  # of a version that did not count labels
            state = {"known": dict.fromkeys(state.get("losses", {}), state["batches"]), **state}
        if sorted(state) != sorted(expected):
            raise refusal(f"the checkpoint's progress has the entries {sorted(state)}; expected {sorted(expected)}")
        saved = state["arguments"]
        unused = ("False", "None")  # of a flag that the version of the checkpoint did not have
        given = {name: value for name, value in self.arguments.items() if name in saved or value not in unused}
        other = {name: (saved.get(name), value) for name, value in given.items() if saved.get(name) != value}
        if other:
            message = ", ".join(f"--{name} was {old} and is {new}" for name, (old, new) in other.items())
            longer = " (the learning rates of all steps depend on --max_steps)" if "max_steps" in other else ""
            raise refusal(f"the checkpoint is from another run: {message}{longer}; give the same flags, or {FROM_WEIGHTS}")
        changed = [name for name, saved in sorted(state["data"].items()) if self.data.get(name) != saved]
        if changed:
            message = ", ".join(f"{name}: {state['data'].get(name)} at the checkpoint, {self.data.get(name)} now" for name in changed)
            what = "data" if any(name.partition("/")[0] not in ("processor", "model") for name in changed) else "image processor or model"
            raise refusal(f"the {what} changed since the checkpoint ({message}); restore them, or {FROM_WEIGHTS}")
        for name, value in state.items():
            setattr(self, name, self.data | value if name == "data" else value)  # of an older run, the data may lack entries


def mean_over_processes(values: Mapping[str, float]) -> dict[str, float]:
    """Means of numbers over all processes; the results are identical in every process."""
    everywhere = gather_object([values])
    return {name: statistics.fmean(of[name] for of in everywhere) for name in values}


MOST_DESCRIBED, MOST_NUMBERED = 200, 300
"""Characters of an error message about samples from which on they are named by their row numbers alone, and only counted."""


def short_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a row that name it: integers and short text."""
    return {key: value for key, value in row.items() if isinstance(value, (str, int)) and len(str(value)) <= 80}


def describe_rows(stream: TrainingStream, positions: Sequence[int]) -> list[str]:
    """Names of stored samples for error messages: row numbers, and the short columns of the data set as far as there is room for them."""
    rows = [stream.row_at(position) for position in positions]
    return describe_samples([(f"row {row}", partial(stream.rows.__getitem__, row)) for row in rows])


def describe_samples(samples: Sequence[tuple[str, Callable[[], Mapping[str, Any]]]]) -> list[str]:
    """Names of samples: a label each, and its short columns as far as there is room for them.

    Args:
        samples: the label of each sample, and a function that reads its columns.
    """
    described: list[str] = []
    for number, (label, read) in enumerate(samples):
        length = sum(map(len, described))
        if length > MOST_NUMBERED:
            return [*described, f"and {len(samples) - number} more"]
        if length > MOST_DESCRIBED:
            described.append(label)
            continue
        named = short_columns(read())
        described.append(label + (f" ({', '.join(f'{key} {value}' for key, value in named.items())})" if named else ""))
    return described


class JsonLinesLog:
    """A file with one JSON object per line, each with its `step`.

    Args:
        path: path of the file, which is created with the first entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: dict[str, Any]) -> None:
        """Append an entry to the file; non-finite numbers become null."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(to_jsonable(entry), allow_nan=False) + "\n")

    def entries(self) -> list[dict[str, Any]]:
        """All complete entries; a line that was truncated by an interruption is left out."""
        return [json.loads(line) for line in self.path.read_text().splitlines(True) if line.endswith("\n")] if self.path.exists() else []

    def drop_after(self, step: int, again: str | None = None) -> None:
        """Drop entries that a resumed run will write again: later steps, and entries of this step with the key `again`."""
        earlier = [entry for entry in self.entries() if entry["step"] < step or (entry["step"] == step and again not in entry)]
        kept = "".join(json.dumps(entry) + "\n" for entry in earlier)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rewritten = self.path.with_suffix(".partial")
        rewritten.write_text(kept)
        os.replace(rewritten, self.path)


__all__ = ["FROM_WEIGHTS", "JsonLinesLog", "Progress", "describe_rows", "describe_samples", "mean_over_processes", "short_columns"]
