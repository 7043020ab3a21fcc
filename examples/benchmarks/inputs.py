"""Random inputs of the benchmarks."""

import torch
from torch import Tensor

from mult_hf import TaskSpec


def random_target(spec: TaskSpec, batch_size: int, size: int) -> Tensor:
    """A target that is known everywhere: class ids (batch, height, width), or values in range (batch, channels, height, width)."""
    if spec.is_classification:
        return torch.randint(spec.channels, (batch_size, size, size))
    low, high = spec.value_range or (0.0, 1.0)
    return low + (high - low) * torch.rand(batch_size, spec.channels, size, size)
