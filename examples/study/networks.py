"""The networks of a plan: what `train_stacks.py` trains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mult_hf.cli import arguments as command_line
from mult_hf.cli.train import TrainFlags
from mult_hf.data.schema import load_task_specs
from mult_hf.evaluation.cards import public_name

from .ablation import slug


@dataclass(frozen=True)
class Network:
    """One architecture of the plan, to be trained with every learning rate and seed.

    Args:
        row: name of the row of the table that it belongs to.
        name: its own name; differs from `row` if the row has one network per task.
        flags: flags of `mult-hf train`.
        learning_rates: learning rates to try; None for those of the plan.
        loss_weights: weights of losses by task, where they differ from the data set's.
    """

    row: str
    name: str
    flags: dict[str, Any]
    learning_rates: Sequence[float] | None = None
    loss_weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """Name of its JSON file."""
        return f"{slug(self.name)}.json"

    @property
    def description(self) -> dict[str, Any]:
        """Its flags and loss weights, without paths that are specific to this machine."""
        weights = {"loss_weights": dict(self.loss_weights)} if self.loss_weights else {}
        return {**self.flags, "dataset": public_name(self.flags["dataset"]), **weights}

    def parsed(self, **changes: Any) -> TrainFlags:
        """Its flags as `mult-hf train` reads them."""
        argv = [word for flag, value in {**self.flags, **changes}.items() for word in command_line.as_argv(flag, value)]
        return command_line.parse_arguments(TrainFlags, argv, self.name, prog="mult-hf train")


@dataclass(frozen=True)
class Plan:
    """What to train.

    Args:
        networks: in order of importance.
        learning_rates: learning rates to try for each network that has none of its own.
        seeds: seeds of weights, order of samples and augmentation.
    """

    networks: list[Network]
    learning_rates: list[float]
    seeds: list[int]


def expand(row: str, flags: Mapping[str, Any]) -> list[Network]:
    """The networks of a row: one, or with `alone` one per task in `tasks` (by default, in the data set), whose name replaces `{task}`.

    Such a row may have its learning rates by task.

    Raises:
        ValueError: if another row has rates by task, or a task has none; or loss weights are of a task that the row does not learn, or the
            row has `alone: yes`.
    """
    flags = dict(flags)
    alone, share, rates = flags.pop("alone", False), flags.pop("steps", 1), flags.pop("learning_rates", None)
    weights = {task: float(weight) for task, weight in flags.pop("loss_weights", {}).items()}
    learnt = [*(flags.get("tasks") or load_task_specs(flags["dataset"]))] if alone or weights else []
    if unknown := weights.keys() - {*learnt}:
        raise ValueError(f"row {row!r} has loss_weights of {sorted(unknown)}, which it does not learn; it learns {', '.join(learnt)}")
    if alone and weights:
        raise ValueError(f"row {row!r} has loss_weights and alone: yes; with one loss there is nothing to weigh")
    flags["max_steps"] = max(1, round(flags["max_steps"] * share))
    if not alone:
        if isinstance(rates, Mapping):
            raise ValueError(f"row {row!r} has learning rates by task, which only a row with alone: yes may have; give a list")
        return [Network(row, row, flags, numbers(rates), weights)]
    own = {task: {key: value.replace("{task}", task) for key, value in flags.items() if isinstance(value, str)} for task in learnt}
    by_task = rates if isinstance(rates, Mapping) else dict.fromkeys(learnt, rates)
    if missing := [task for task in learnt if task not in by_task]:
        raise ValueError(f"row {row!r} has learning rates for {list(by_task)}; expected {', '.join(missing)}, too")
    return [Network(row, f"{row}, {task}", {**flags, **own[task], "tasks": [task]}, numbers(by_task[task])) for task in learnt]


def numbers(values: Sequence[Any] | None) -> list[float] | None:
    """Learning rates as numbers; YAML reads 1e-3 as text."""
    return None if values is None else [float(value) for value in values]
