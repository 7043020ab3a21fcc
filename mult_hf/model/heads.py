"""Task heads: a linear layer at the finest resolution, bilinear upsampling to the image, and the task's activation."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .activations import ACTIVATIONS, check_activation
from .configuration_mult import MulTConfig
from .decoder_mult import PerTask, channels_first
from .entry_fields import refusal
from .tasks import TaskSpec


class MulTHead(nn.Module):
    """A task's head: a linear layer at the finest resolution, bilinear upsampling to the image, and the task's activation.

    Raises:
        ValueError: if the entry names an unknown activation, or one that does not give a map of the same shape.
    """

    def __init__(self, channels: int, spec: TaskSpec) -> None:
        super().__init__()
        check_activation(spec)
        self.spec = spec
        self.projection = nn.Linear(channels, spec.channels)

    def logits(self, features: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, task channels, height, width), before resize and activation."""
        return channels_first(self.projection(features.permute(0, 2, 3, 1)))

    def forward(self, features: Tensor, padded_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Prediction of the whole image.

        Args:
            features: the task's finest stream, (batch, channels, height, width).
            padded_size: height and width in pixels of the image that the features cover.
            size: height and width in pixels of the image itself, its top left part.

        Returns:
            `Tensor`: (batch, task channels, *size) float32 in the target's own space.
        """
        # In float32: in half precision, depth would have steps of centimetres, and tiny vectors would lose their length.
        logits = F.interpolate(self.logits(features).float(), size=padded_size, mode="bilinear", align_corners=False)
        return ACTIVATIONS[self.spec.activation](logits[..., : size[0], : size[1]], self.spec)


class MulTHeads(nn.Module):
    """The heads of all tasks, in a module of their own, because PEFT's `modules_to_save` refuses a `ModuleDict`."""

    _followed: list[dict[str, Any]] | None = None  # of heads that an earlier version pickled

    def __init__(self, channels: int, specs: Mapping[str, TaskSpec]) -> None:
        super().__init__()
        self.tasks = PerTask(specs, lambda task: MulTHead(channels, specs[task]))
        self._followed = None  # an attribute from the start: torch.export restores those that tracing changes

    def follow(self, config: MulTConfig) -> None:
        """Take entries that were changed in the configuration, which post-processing and saving use, such as another range or loss.

        Compiled models do not call this: they keep the entries that the model had when it last ran without being compiled.

        Raises:
            ValueError: if the heads do not fit them.
        """
        if config.task_entries == self._followed:
            return
        specs, own = config.task_specs, self.specs
        for task in specs.keys() ^ own.keys():
            has = "has" if task in specs else "lacks"
            raise refusal(f"config.tasks {has} {task!r}, unlike the model; call add_task or remove_task instead")
        for task, spec in specs.items():
            if (spec.kind, spec.channels) != (own[task].kind, own[task].channels):
                raise refusal(
                    f"config.tasks has {task!r} as a {spec.kind} of {spec.channels} channels, and its head is for a {own[task].kind} of "
                    f"{own[task].channels}; call remove_task and add_task instead"
                )
            if spec != own[task]:
                check_activation(spec)
        for task, spec in specs.items():
            for head in self.tasks[task].modules():  # PEFT keeps a copy of those that it trains
                if isinstance(head, MulTHead):
                    head.spec = spec
        self._followed = deepcopy(config.task_entries)

    @property
    def specs(self) -> dict[str, TaskSpec]:
        """The entries of the tasks by name."""
        return {task: self.tasks[task].spec for task in self.tasks}

    def forward(self, features: Mapping[str, Tensor], padded_size: tuple[int, int], size: tuple[int, int]) -> dict[str, Tensor]:
        """Predictions of the tasks in `features`; arguments as for [`MulTHead`]."""
        return {task: self.tasks[task](maps, padded_size, size) for task, maps in features.items()}
