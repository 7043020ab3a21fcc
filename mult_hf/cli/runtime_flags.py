"""Flags of the commands that predict: which runtime computes the predictions, and in which number format."""

from typing import Any

from mult_hf.inference.runtimes import RUNTIMES

from .arguments import flag

DTYPES = tuple(dict.fromkeys(dtype for runtime in RUNTIMES.values() for dtype in runtime.start))
"""Number formats that at least one runtime has."""


def runtime_flag() -> Any:
    """The dataclass field of `--runtime`; [`check_runtime`][mult_hf.inference.runtimes.check_runtime] checks it with `--dtype`."""
    return flag("torch", "what computes the predictions; onnx and openvino export the model first", choices=tuple(RUNTIMES))


def dtype_flag() -> Any:
    """The dataclass field of `--dtype`."""
    return flag("float32", "number format: bfloat16 with torch or openvino, int8 with onnx", choices=DTYPES)


__all__ = ["DTYPES", "dtype_flag", "runtime_flag"]
