"""Measure how long an optimizer step of each network of a plan takes when it trains alone, as `mult-hf train` trains it.

python -m examples.study.seconds --plan examples/study/ablations/main_table.yaml --output outputs/main-table/seconds.json
"""

import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from mult_hf import MulTForMultiTaskDensePrediction
from mult_hf.cli import arguments as command_line
from mult_hf.cli.train import TrainFlags
from mult_hf.model.tasks import TaskSpec
from mult_hf.training.optimization import parameter_groups

from .train_stacks import StudyArguments, device_name, new_network, processor_of, read_plan

WARM_UP = 4


@dataclass
class SecondsArguments:
    """What is measured, and how often."""

    plan: Path = field(metadata={"help": "YAML file of the networks"})
    output: Path = command_line.flag(Path("outputs/study/seconds.json"), "JSON file that is written")
    dataset: str | None = command_line.flag(None, "instead of the plan's; only the entries of its tasks are read")
    steps: int = command_line.flag(10, "steps that are measured, of which the median counts")

    def __post_init__(self) -> None:
        command_line.check_bounds(self, {1: ["steps"]})


def random_batch(specs: Mapping[str, TaskSpec], batch: int, side: int, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """Images and labels of random values; these do not matter to the time."""
    labels = {
        task: torch.randint(spec.channels, (batch, side, side), device=device)
        if spec.is_classification
        else torch.rand(batch, spec.channels, side, side, device=device)
        for task, spec in specs.items()
    }
    return torch.rand(batch, 3, side, side, device=device), labels


def seconds_per_step(model: MulTForMultiTaskDensePrediction, flags: TrainFlags, steps: int, device: torch.device) -> float:
    """Median time of an optimizer step, without the preparation of its batch."""
    model = model.to(device).train()
    groups = parameter_groups(model, learning_rate=flags.learning_rate, weight_decay=flags.weight_decay)
    optimizer = torch.optim.AdamW(groups)
    pixel_values, labels = random_batch(model.config.task_specs, flags.batch_size, flags.image_size, device)
    times = []
    for _ in range(WARM_UP + steps):
        started = time.perf_counter()
        model(pixel_values, labels=labels).loss.backward()
        float(clip_grad_norm_(model.parameters(), flags.max_grad_norm))
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[WARM_UP:])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the networks of a plan."""
    arguments = command_line.parse_arguments(SecondsArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plan = read_plan(arguments.plan, StudyArguments(plan=arguments.plan, dataset=arguments.dataset))
    found = {}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for network in plan.networks:
        flags = network.parsed()
        found[network.name] = seconds_per_step(new_network(flags, processor_of(flags), seed=0), flags, arguments.steps, device)
        print(f"{network.name}: {1000 * found[network.name]:.1f} ms per step", flush=True)
        arguments.output.write_text(json.dumps({"device": device_name(device), "seconds_per_step": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
