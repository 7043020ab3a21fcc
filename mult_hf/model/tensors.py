"""Refuse tensors whose values cannot be read pixel by pixel."""

import torch
from torch import Tensor


def check_dense(tensor: Tensor, name: str) -> None:
    """Refuse sparse, nested and quantized tensors, with which many operations fail, and complex ones, of which others drop a part.

    Raises:
        ValueError: saying what it is and what to call.
    """
    if tensor.is_nested or tensor.layout is not torch.strided:
        layout = "nested" if tensor.is_nested else tensor.layout
        raise ValueError(f"{name} has the layout {layout}; expected a dense tensor: to_dense()")
    if tensor.is_quantized:
        raise ValueError(f"{name} is quantized ({tensor.dtype}); expected plain numbers: dequantize()")
    if tensor.is_complex():
        raise ValueError(f"{name} is {tensor.dtype}; expected integers, floats or booleans")


__all__ = ["check_dense"]
