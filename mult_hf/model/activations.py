"""Activations of heads: the last step of a task's head, and what it says about the task's maps everywhere else."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from .tasks import TaskSpec

ActivationFunction = Callable[[Tensor, "TaskSpec"], Tensor]
"""(logits, spec) -> prediction in the target's space; both are (batch, channels, height, width)."""


def _unlimited(spec: "TaskSpec") -> tuple[float, float]:
    return -math.inf, math.inf


@dataclass(frozen=True)
class Activation:
    """An activation and what is known of its results.

    Args:
        function: from logits to the prediction.
        range: from a task's entry to the lowest and highest value that it gives; without limits by default.
        gives_unit_vectors: whether the channels of each pixel are a vector of length 1, which means of such vectors are not: after resizing
            and averaging they are normalised again.
    """

    function: ActivationFunction
    range: Callable[["TaskSpec"], tuple[float, float]] = _unlimited
    gives_unit_vectors: bool = False

    def __call__(self, logits: Tensor, spec: "TaskSpec") -> Tensor:
        """The prediction."""
        return self.function(logits, spec)


def _identity(logits: Tensor, spec: "TaskSpec") -> Tensor:
    return logits


def _scaled_sigmoid(logits: Tensor, spec: "TaskSpec") -> Tensor:
    low, high = spec.head_range
    return low + (high - low) * logits.sigmoid()


def _unit_vector(logits: Tensor, spec: "TaskSpec") -> Tensor:
    return F.normalize(logits, dim=1)


ACTIVATIONS: dict[str, ActivationFunction] = {
    "identity": Activation(_identity),
    "sigmoid": Activation(_scaled_sigmoid, range=lambda spec: spec.value_range or (0.0, 1.0)),
    "unit_vector": Activation(_unit_vector, range=lambda spec: (-1.0, 1.0), gives_unit_vectors=True),
}
"""[`Activation`]s by their name in a task's entry. A plain function may be added, too: its values have no limits."""


def activation_of(spec: "TaskSpec") -> Activation:
    """What is known of a task's activation; nothing if this program does not have it, as of another program's data set."""
    found = ACTIVATIONS.get(spec.activation, _identity)
    return found if isinstance(found, Activation) else Activation(found)
