"""Base class of all task weightings, which is also the simplest: fixed weights."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from mult_hf.model.entry_fields import refusal
from mult_hf.model.tasks import TaskSpec

# Engines that manage the parameters or scale the losses, so that single tasks' gradients cannot be computed outside of them.
_NO_TASK_GRADIENTS = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


class TaskWeighting:
    """Back-propagates the losses of all tasks with their weights: here the fixed ones of the task entries (MulT, equation 5).

    Other methods are subclasses.

    Register it with `accelerator.register_for_checkpointing`, and save it after an optimizer step, not between its micro-batches.

    Args:
        name: its key in [`WEIGHTINGS`].
        specs: the task entries by name; their weights are the fixed factors of the losses.
        model: the network whose losses are weighted, wrapped or not.
    """

    reads_features: bool = False
    """Whether `backward` needs the encoder's feature maps (`output_hidden_states=True`)."""
    writes_gradients: bool = False
    """Whether it fills `.grad` itself, averaged over processes; then run the model without its distributed wrapper."""

    def __init__(self, name: str, specs: Mapping[str, TaskSpec], model: nn.Module) -> None:
        self.name = name
        self.fixed = {task: float(spec.weight) for task, spec in specs.items()}

    def refuse_compiled(self) -> None:
        """Reject a compiled model if this weighting differentiates its graph several times, which `torch.compile` does not support.

        Raises:
            ValueError: if this weighting differentiates the graph several times.
        """
        if self.reads_features or self.writes_gradients:
            raise ValueError(
                f"task weighting {self.name!r} differentiates a graph several times, but a compiled graph allows this only once; "
                "do not compile the model, or use fixed, uncertainty or dwa"
            )

    def backward(
        self,
        losses: Mapping[str, Tensor],
        features: Sequence[Tensor],
        accelerator: Accelerator,
        shares: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Back-propagate one (micro-)batch; the weights change after the last micro-batch of an optimizer step.

        Args:
            losses: unweighted scalar loss of each labelled task (`outputs.task_losses`).
            features: the encoder's feature maps, (batch, channels, height, width) each (`outputs.hidden_states`); may be empty
                unless `reads_features`.
            accelerator: accelerator in whose `accumulate` context this runs.
            shares: the micro-batch's share of each task's labels in the step, see `label_shares`; by default all have the same.

        Returns:
            The sum of weight * share * loss, scalar, detached.

        Raises:
            ValueError: if there are no losses, or losses of unknown tasks.
        """
        self._check(losses)
        weights, shares = self.weights, shares or {}
        total = torch.stack([weights[task] * shares.get(task, 1.0) * loss for task, loss in losses.items()]).sum()
        self._observe(losses, features, accelerator, shares)  # first, because back-propagation frees the graph
        accelerator.backward(total)
        if accelerator.sync_gradients:
            self._update(accelerator)
        return total.detach()

    @property
    def weights(self) -> dict[str, float]:
        """The current factor of each task's loss."""
        return dict(self.fixed)

    def state_dict(self) -> dict[str, Any]:
        """The state that a run needs to resume exactly."""
        return {"name": self.name, "tasks": list(self.fixed), **copy.deepcopy(self._state())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of a weighting with the same name and tasks.

        Raises:
            ValueError: if the name or tasks differ.
        """
        own = (self.name, list(self.fixed))
        if (state["name"], state["tasks"]) != own:
            raise ValueError(
                f"the state is from task weighting {state['name']!r} for tasks {state['tasks']}, but this one is {own[0]!r} for {own[1]}; "
                "resume with the same ones, or start a new run"
            )
        self._load(copy.deepcopy(dict(state)))

    def _check(self, losses: Mapping[str, Tensor]) -> None:
        unknown = sorted(set(losses) - set(self.fixed))
        if unknown or not losses:
            raise refusal(
                f"losses were given for {list(losses)}; expected at least one of the weighting's tasks {list(self.fixed)}, and no others"
            )

    def _observe(
        self, losses: Mapping[str, Tensor], features: Sequence[Tensor], accelerator: Accelerator, shares: Mapping[str, Tensor]
    ) -> None:
        """Record a micro-batch before it is back-propagated."""

    def _update(self, accelerator: Accelerator) -> None:
        """Change the weights, once per optimizer step."""

    def _state(self) -> dict[str, Any]:
        """The values that change from step to step."""
        return {}

    def _load(self, state: dict[str, Any]) -> None:
        """The inverse of `_state`."""


def refuse_engines(name: str, accelerator: Accelerator) -> None:
    """Reject engines that do not provide the gradients of single tasks.

    Raises:
        ValueError: with FSDP, DeepSpeed, Megatron, or loss scaling.
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
