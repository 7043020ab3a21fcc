"""Refuse tensors that are no batch of images, and tell `torch.compile` which of their sizes are numbers."""

from typing import Any

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


def check_pixels(pixel_values: Any, channels: int) -> None:
    """Refuse what is no batch of normalised images.

    Args:
        pixel_values: what came.
        channels: number that the network takes.

    Raises:
        ValueError: on anything but a dense tensor (batch, channels, height, width) of floats, sides below 32, or no image.
    """
    if not isinstance(pixel_values, Tensor):
        raise ValueError(f"pixel_values is a {type(pixel_values).__name__}; expected a tensor (batch, {channels}, height, width)")
    check_dense(pixel_values, "pixel_values")
    if pixel_values.ndim != 4 or pixel_values.shape[1] != channels:
        raise ValueError(
            f"pixel_values has shape {tuple(pixel_values.shape)}; expected (batch, channels, height, width), {channels} channels"
        )
    if not torch.compiler.is_compiling() and len(pixel_values) == 0:  # compiled, the batch may be a symbol
        raise ValueError(f"pixel_values has shape {tuple(pixel_values.shape)}; expected at least one image")
    if not pixel_values.is_floating_point():
        raise ValueError(f"pixel_values is {pixel_values.dtype}; expected normalised floats, as the image processor makes them")
    height, width = pixel_values.shape[-2:]
    if min(height, width) < 32:
        raise ValueError(f"pixel_values are {height} x {width} pixels; both sides must be at least 32, the encoder's coarsest step")


def compile_once_per_size(pixel_values: Tensor) -> None:
    """Have `torch.compile` take height and width as numbers, and compile once per size; the batch may be a symbol.

    By default it takes them as symbols from the second size on, and derives for many minutes what windows do with them.
    """
    if torch.compiler.is_dynamo_compiling():
        torch._dynamo.mark_static(pixel_values, 2)
        torch._dynamo.mark_static(pixel_values, 3)


__all__ = ["check_dense", "check_pixels", "compile_once_per_size"]
