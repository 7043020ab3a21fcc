"""Refuse tensors whose values cannot be read pixel by pixel, and tell `torch.compile` which of their sizes are numbers."""

import torch
from torch import Tensor


def check_dense(tensor: Tensor, name: str) -> None:
    """Refuse sparse, nested and quantized tensors, on which most operations fail, and complex ones, of which some drop the imaginary part.

    Raises:
        ValueError: saying what it is and what to call.
    """
    if tensor.is_nested:
        raise ValueError(f"{name} is a nested tensor; expected a dense one: to_padded_tensor(), or give its parts one by one")
    if tensor.layout is not torch.strided:
        raise ValueError(f"{name} has the layout {tensor.layout}; expected a dense tensor: to_dense()")
    if tensor.is_quantized:
        raise ValueError(f"{name} is quantized ({tensor.dtype}); expected plain numbers: dequantize()")
    if tensor.is_complex():
        raise ValueError(f"{name} is {tensor.dtype}; expected real numbers")


def compile_once_per_size(pixel_values: Tensor) -> None:
    """Have `torch.compile` take height and width as numbers, and compile once per size; the batch may be a symbol.

    By default it takes them as symbols from the second size on, and derives for many minutes what windows do with them.
    """
    if torch.compiler.is_dynamo_compiling():
        torch._dynamo.mark_static(pixel_values, 2)
        torch._dynamo.mark_static(pixel_values, 3)


__all__ = ["check_dense", "compile_once_per_size"]
