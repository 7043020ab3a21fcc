"""Activations of heads: the last step of a task's head, and what it says about the task's maps everywhere else."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .entry_fields import refusal

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


def _of_entry(spec: "TaskSpec") -> tuple[float, float]:
    return spec.value_range or (0.0, 1.0)


def _of_components(spec: "TaskSpec") -> tuple[float, float]:
    return -1.0, 1.0


ACTIVATIONS: dict[str, "Activation | ActivationFunction"] = {
    "identity": Activation(_identity),
    "sigmoid": Activation(_scaled_sigmoid, range=_of_entry),
    "unit_vector": Activation(_unit_vector, range=_of_components, gives_unit_vectors=True),
}
"""[`Activation`]s by their name in a task's entry. A plain function may be added, too: of its values nothing is known."""


def activation_of(spec: "TaskSpec") -> Activation:
    """What is known of a task's activation; nothing if this program does not have it, as of another program's data set."""
    found = ACTIVATIONS.get(spec.activation, _identity)
    return found if isinstance(found, Activation) else Activation(found)


def activation_function(spec: "TaskSpec") -> ActivationFunction:
    """The function that a task's entry names.

    Raises:
        ValueError: if there is no such activation.
    """
    if spec.activation not in ACTIVATIONS:
        from .entry_checks import names_that_fit  # which needs the table

        allowed = names_that_fit(spec, "activation", ACTIVATIONS)
        raise refusal(
            f"task {spec.name!r} has activation {spec.activation!r}; allowed: {', '.join(allowed)}; correct the entry, or add your own to "
            "mult_hf.model.activations.ACTIVATIONS before the model is built or loaded"
        )
    return ACTIVATIONS[spec.activation]


@torch.no_grad()
def check_activation(spec: "TaskSpec") -> None:
    """Try a task's activation on logits of 32 x 32 pixels. Otherwise predictions would have another shape, and an error of
    its own would name neither the task nor what is allowed.

    Raises:
        ValueError: if there is no such activation, or it fails (but with a `RuntimeError` of torch), or does not give one floating-point
            value per logit.
    """
    function = activation_function(spec)
    expected = (
        f"an activation is called as function(logits, spec) with logits (batch, {spec.channels}, height, width) and returns a "
        "floating-point tensor of the same shape"
    )
    try:
        with torch.device("cpu"):  # also while a model is built on the meta device, without memory for its weights
            logits = torch.zeros(1, spec.channels, 32, 32)
            found = function(logits, spec)
    except RuntimeError:  # of torch, for example because the function has tensors on a GPU: it may work where the model will be
        return
    except Exception as error:  # of the program's own function
        raise refusal(
            f"activation {spec.activation!r} of task {spec.name!r} failed: {type(error).__name__}: {error}; {expected}"
        ) from error
    if not isinstance(found, Tensor) or found.shape != logits.shape or not found.is_floating_point():
        came = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise refusal(f"activation {spec.activation!r} of task {spec.name!r} gave {came} for logits {tuple(logits.shape)}; {expected}")
