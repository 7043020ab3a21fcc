"""What share of an optimizer step's labels each of its batches has, so that several batches train like one large one."""

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from mult_hf.model.losses import count_labels
from mult_hf.model.tasks import TaskSpec


def label_shares(
    labels: Sequence[Mapping[str, Tensor]], specs: Mapping[str, TaskSpec], accelerator: Accelerator
) -> list[dict[str, Tensor]]:
    """Each micro-batch's share of a task's labels in an optimizer step, relative to the mean over all micro-batches and processes.

    A loss is the mean over the labels of one micro-batch. Multiplied by these shares, the mean of the losses is the mean over the labels of
    the whole step, as of one large batch. A micro-batch without labels of a task has the share 0, and if all have equally many it is 1.

    Args:
        labels: the labels of every micro-batch of this process's optimizer step, as for the model, on any device. There must be
            `gradient_accumulation_steps` of them, by which Accelerate divides: drop or refill a short last group.
        specs: the task entries by name.
        accelerator: the processes; all of them must call this.

    Returns:
        shares by task for each micro-batch, scalars; empty if the step has a single batch, which has all labels.
    """
    batches = len(labels) * accelerator.num_processes
    if batches == 1:
        return [{}]
    nothing = torch.zeros((), dtype=torch.int64, device=accelerator.device)

    def count(labels: Mapping[str, Tensor], task: str) -> Tensor:
        # On the device, one map after another: a processor would take as long for it as a GPU for the step.
        maps = labels.get(task)
        return nothing if maps is None else count_labels(specs[task].loss, maps.to(accelerator.device))

    counts = torch.stack([torch.stack([count(each, task) for task in specs]) for each in labels])  # (micro-batches, tasks)
    totals = accelerator.reduce(counts.sum(dim=0), "sum").clamp(min=1)
    return [dict(zip(specs, row)) for row in counts * batches / totals]
