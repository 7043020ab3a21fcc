"""Exponential moving average of a model's weights, and of its running statistics."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .distributed import running_statistics


class WeightAverage:
    """Exponential moving average of a model's parameters (torch's `AveragedModel`), which can temporarily replace them.

    The running statistics of batch normalisation are averaged too, as in timm's `ModelEmaV2`, because those of the last step belong to the
    weights of the last step.

    The decay grows with the steps, `min(decay, (1 + n) / (10 + n))`, so that the random start has little weight in a short run
    (as in TensorFlow's `ExponentialMovingAverage` with `num_updates`).

    Args:
        model: model with unsharded parameters; sharded ones (FSDP, DeepSpeed) are not supported.
        decay: weight of the previous average, at least 0 and below 1.

    Raises:
        ValueError: if the decay is out of range.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; it must be at least 0 and below 1")
        self.model = model
        self.decay = decay
        self.average = AveragedModel(nn.ParameterList(self._precise()), multi_avg_fn=self._blend)

    def _averaged(self) -> list[Tensor]:
        """The tensors of the model that are averaged."""
        return [*self.model.parameters(), *running_statistics(self.model)]

    def _precise(self) -> list[Tensor]:
        """The same in at least float32: in half precision, a small part of a difference would be rounded away."""
        return [tensor.detach().float() if tensor.itemsize < 4 else tensor for tensor in self._averaged()]

    def _blend(self, averages: tuple[Tensor, ...] | list[Tensor], values: tuple[Tensor, ...] | list[Tensor], steps: Tensor | int) -> None:
        decay = min(self.decay, (1 + int(steps)) / (10 + int(steps)))
        get_ema_multi_avg_fn(decay)(averages, values, steps)

    def update(self) -> None:
        """Add the model's parameters and running statistics to the average; call it after an optimizer step."""
        self.average.update_parameters(nn.ParameterList(self._precise()))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Replace parameters and running statistics by their averages inside a `with` block; afterwards they are restored exactly."""
        own = [tensor.detach().clone() for tensor in self._averaged()]
        _copy(self.average.module.parameters(), self._averaged())
        try:
            yield
        finally:
            _copy(own, self._averaged())

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return self.average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.average.load_state_dict(state)


@torch.no_grad()
def _copy(sources: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
    for source, target in zip(sources, targets):
        target.copy_(source)


__all__ = ["WeightAverage"]
