"""Checked reading of downloaded files, and the official lists of splits."""

import io
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mult_hf.model.images import readable_formats

from .errors import ReadError


def read_image_file(path: Path, dtype: str) -> Image.Image:
    """Open an image, read it completely, and check its bit depth.

    Args:
        path: path of the file.
        dtype: numpy name of the expected type, `"uint8"` or `"uint16"`.

    Returns:
        `PIL.Image.Image`: the loaded image; its `filename` lets a conversion copy the file's own bytes.

    Raises:
        ReadError: if the file is missing, broken, or has another bit depth.
    """
    if not path.is_file():
        raise ReadError("missing file", path, f"does not exist, expected a {dtype} image")
    try:
        with Image.open(path, formats=readable_formats()) as image:
            image.load()
    except (OSError, SyntaxError, ValueError) as error:
        size = path.stat().st_size
        raise ReadError("broken file", path, f"cannot be read completely ({error}; {size} bytes); download it again") from None
    came = "uint16" if image.mode.startswith("I") else "float32" if image.mode == "F" else "uint8"  # 16-bit PNG: "I;16" or "I"
    if came != dtype:
        raise ReadError(
            "wrong bit depth", path, f"is {came} (mode {image.mode}), expected {dtype}; a tool that opens 16 bits as 8 corrupts the values"
        )
    return image


def read_array(path: Path, axes: int) -> np.ndarray:
    """Load an `.npy` file with a given number of axes; one extra first or last axis of length 1 is dropped.

    Raises:
        ReadError: if the file is missing, broken, or has another shape.
    """
    if not path.is_file():
        raise ReadError("missing file", path, f"does not exist, expected a numpy array of {axes} axes")
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ReadError("broken file", path, f"cannot be read ({error}; {path.stat().st_size} bytes); download it again") from None
    if array.ndim == axes + 1 and 1 in (array.shape[0], array.shape[-1]):
        array = array.squeeze(-1 if array.shape[-1] == 1 else 0)
    if array.ndim != axes:
        raise ReadError("wrong content", path, f"has shape {array.shape}, expected {axes} axes")
    return array


def as_image(stored: np.ndarray) -> Image.Image:
    """Convert a stored map to an image.

    Args:
        stored: (height, width), (1, height, width) or (3, height, width), uint8, uint16 or float32.
    """
    if stored.ndim == 3:
        stored = stored[0] if len(stored) == 1 else np.moveaxis(stored, 0, -1)
    image = Image.fromarray(np.ascontiguousarray(stored))
    if stored.dtype != np.uint16:
        return image
    # `datasets` stores 16-bit images as raw TIFF unless they come from a PNG, which is a third of the size.
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return Image.open(buffer)


def load_splits(name: str) -> dict[str, Any]:
    """The official splits of a benchmark: a JSON file in `mult_hf/data/benchmarks/splits/` that also names its source."""
    return json.loads(resources.files(__package__).joinpath("splits", f"{name}.json").read_text(encoding="utf-8"))
