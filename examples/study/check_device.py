"""Check on this machine's device that a stack computes what its networks compute alone, before anything is trained with it.

python -m examples.study.check_device --dataset data/rooms-64
"""

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate.utils import set_seed

from mult_hf.cli import arguments as command_line
from mult_hf.data.schema import load_task_specs
from mult_hf.training.arguments import ModelArguments, TrainingArguments
from mult_hf.training.initialization import build_model

from .graph import GraphedStep
from .seconds import random_batch
from .stack import Stack

BATCH, SIDE = 8, 64
TOLERANCE = 1e-3
"""Of the gradients' relative difference in float32: sums in another order."""


@dataclass
class CheckArguments:
    """What the check runs on."""

    dataset: str = command_line.flag("data/rooms-64", "only the entries of its tasks are read")
    device: str = command_line.flag("cuda" if torch.cuda.is_available() else "cpu", "device to check")


def relative_difference(device: torch.device, dataset: str) -> float:
    """Largest relative difference of a network's gradient in a stack from its gradient alone."""
    specs = load_task_specs(dataset)
    models = []
    for seed in (0, 1):
        set_seed(seed)
        models.append(build_model(ModelArguments(), specs, SIDE).to(device).train())
    alone = copy.deepcopy(models)
    batches = [random_batch(specs, BATCH, SIDE, device) for _ in models]
    stack = Stack(models, [1e-3, 1e-3], TrainingArguments(), device)
    labels = {task: torch.stack([each[task] for _, each in batches]) for task in specs}
    pixel_values = torch.stack([images for images, _ in batches])
    if device.type == "cuda":
        GraphedStep(stack, pixel_values, labels)  # raises if a replay has other gradients
        stack.optimizer.zero_grad()
    stack.backward(pixel_values, labels)
    worst = 0.0
    for number, (model, (images, targets)) in enumerate(zip(alone, batches)):
        model(images, labels=targets).loss.backward()
        stacked = stack.gradient(number)
        expected = {name: parameter.grad for name, parameter in model.named_parameters()}
        difference = torch.stack([(stacked[name] - gradient).norm() for name, gradient in expected.items()]).norm()
        worst = max(worst, float(difference / torch.stack([gradient.norm() for gradient in expected.values()]).norm()))
    return worst


def main(argv: Sequence[str] | None = None) -> int:
    """Check; returns 1 if the gradients differ."""
    arguments = command_line.parse_arguments(CheckArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    worst = relative_difference(torch.device(arguments.device), arguments.dataset)
    print(f"gradients of a stack differ by {worst:.2e} of their norm on {arguments.device}; allowed: {TOLERANCE}")
    return 0 if worst < TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
