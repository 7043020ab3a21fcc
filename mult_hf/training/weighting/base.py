"""What all task weightings share, and the simplest: fixed weights."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from mult_hf.model.tasks import TaskSpec

# Engines that own the parameters or scale the losses: the gradient of a single task cannot be computed from outside.
_NO_TASK_GRADIENTS = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


class TaskWeighting:
    """Back-propagates the losses of all tasks, each with its weight: here the fixed one of its entry (MulT, equation 5).

    Other methods derive from it.

    Register it with `accelerator.register_for_checkpointing`; it is meant to be saved after an optimizer step, not between the
    micro-batches of one.

    Args:
        name: its key in [`WEIGHTINGS`].
        specs: the task entries by name; their weights are the fixed factors of the losses.
        model: the network whose losses are weighted; wrapped or not, it is the same parameters.
    """

    reads_features: bool = False
    """Whether `backward` needs the encoder's feature maps (`output_hidden_states=True`)."""
    writes_gradients: bool = False
    """Whether it fills `.grad` itself, averaged over processes; then run the model without its distributed wrapper."""

    def __init__(self, name: str, specs: Mapping[str, TaskSpec], model: nn.Module) -> None:
        self.name = name
        self.fixed = {task: float(spec.weight) for task, spec in specs.items()}

    def refuse_compiled(self) -> None:
        """Refuse a compiled model if this weighting differentiates its graph several times, which `torch.compile` does not support.

        Raises:
            ValueError: if this weighting does so.
        """
        if self.reads_features or self.writes_gradients:
            raise ValueError(
                f"task weighting {self.name!r} takes gradients of a graph several times, which a compiled graph allows only once; "
                "do not compile the model, or use fixed, uncertainty or dwa"
            )

    def backward(self, losses: Mapping[str, Tensor], features: Sequence[Tensor], accelerator: Accelerator) -> Tensor:
        """Back-propagate one (micro-)batch; the weights change after the last one of an optimizer step.

        Args:
            losses: per labelled task its own, unweighted loss, scalar (`outputs.task_losses`).
            features: the encoder's feature maps, (batch, channels, height, width) each (`outputs.hidden_states`); may be empty
                unless `reads_features`.
            accelerator: whose `accumulate` context this runs in.

        Returns:
            the sum of weight * loss, scalar, detached.

        Raises:
            ValueError: on losses of unknown tasks, or none.
        """
        self._check(losses)
        weights = self.weights
        total = torch.stack([weights[task] * loss for task, loss in losses.items()]).sum()
        self._observe(losses, features, accelerator)  # first, since back-propagation frees the graph
        accelerator.backward(total)
        if accelerator.sync_gradients:
            self._update(accelerator)
        return total.detach()

    @property
    def weights(self) -> dict[str, float]:
        """The current factor of each task's loss."""
        return dict(self.fixed)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a run needs to resume as if it had not stopped."""
        return {"name": self.name, "tasks": list(self.fixed), **copy.deepcopy(self._state())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of a weighting of the same name and tasks.

        Raises:
            ValueError: if it belongs to another one.
        """
        own = (self.name, list(self.fixed))
        if (state["name"], state["tasks"]) != own:
            raise ValueError(
                f"the state is of task weighting {state['name']!r} for tasks {state['tasks']}, this one is {own[0]!r} for {own[1]}; "
                "resume with the same ones, or start a new run"
            )
        self._load(copy.deepcopy(dict(state)))

    def _check(self, losses: Mapping[str, Tensor]) -> None:
        unknown = sorted(set(losses) - set(self.fixed))
        if unknown or not losses:
            raise ValueError(
                f"losses were given for {list(losses)}; expected at least one of the weighting's tasks {list(self.fixed)}, no others"
            )

    def _observe(self, losses: Mapping[str, Tensor], features: Sequence[Tensor], accelerator: Accelerator) -> None:
        """Record a micro-batch before it is back-propagated."""

    def _update(self, accelerator: Accelerator) -> None:
        """Change the weights, once per optimizer step."""

    def _state(self) -> dict[str, Any]:
        """What changes from step to step."""
        return {}

    def _load(self, state: dict[str, Any]) -> None:
        """The inverse of `_state`."""


def refuse_engines(name: str, accelerator: Accelerator) -> None:
    """Task weighting by gradients of single tasks works where autograd alone makes gradients.

    Raises:
        ValueError: on FSDP, DeepSpeed, Megatron, or loss scaling.
    """
    if accelerator.distributed_type in _NO_TASK_GRADIENTS:
        raise ValueError(
            f"task weighting {name!r} needs the gradients of single tasks, which {accelerator.distributed_type.value} does not provide; "
            "use one process or DistributedDataParallel, or one of: fixed, uncertainty, dwa"
        )
    if accelerator.scaler is not None:
        raise ValueError(
            f"task weighting {name!r} does not work with the loss scaling of mixed_precision={accelerator.mixed_precision!r}; "
            "use 'bf16' or 'no', or one of: fixed, uncertainty, dwa"
        )
