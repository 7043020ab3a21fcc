"""Careful reads of a download's files, and the official lists of its splits."""

import io
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mult_hf.model.images import readable_formats

from .errors import ReadError


def read_picture(path: Path, dtype: str) -> Image.Image:
    """Open a picture, read it to its end, and make sure of its bit depth.

    Args:
        path: of the file.
        dtype: numpy name of what it must hold, `"uint8"` or `"uint16"`.

    Returns:
        `PIL.Image.Image`: fully read; it knows its file, so that a conversion copies the file's own bytes.

    Raises:
        ReadError: if the file is missing, broken, or of another bit depth.
    """
    if not path.is_file():
        raise ReadError("missing file", path, f"is not there, expected a {dtype} picture")
    try:
        with Image.open(path, formats=readable_formats()) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError) as error:
        message = f"cannot be read to its end ({error}; {path.stat().st_size} bytes); download it again"
        raise ReadError("broken file", path, message) from None
    came = "uint16" if picture.mode.startswith("I") else "float32" if picture.mode == "F" else "uint8"  # 16-bit PNG: "I;16" or "I"
    if came != dtype:
        raise ReadError(
            "wrong bit depth", path, f"is {came} (mode {picture.mode}), expected {dtype}; a tool that opened 16 bits as 8 spoils the values"
        )
    return picture


def read_array(path: Path, axes: int) -> np.ndarray:
    """Load an `.npy` file of a given number of axes; a last or first axis of length 1 more is dropped.

    Raises:
        ReadError: if the file is missing, broken, or of another shape.
    """
    if not path.is_file():
        raise ReadError("missing file", path, "is not there, expected a numpy array")
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ReadError("broken file", path, f"cannot be read ({error}; {path.stat().st_size} bytes); download it again") from None
    if array.ndim == axes + 1 and 1 in (array.shape[0], array.shape[-1]):
        array = array.squeeze(-1 if array.shape[-1] == 1 else 0)
    if array.ndim != axes:
        raise ReadError("wrong content", path, f"has shape {array.shape}, expected {axes} axes")
    return array


def as_picture(stored: np.ndarray) -> Image.Image:
    """Make the picture that stores a map.

    Args:
        stored: (height, width), (1, height, width) or (3, height, width), uint8, uint16 or float32.
    """
    if stored.ndim == 3:
        stored = stored[0] if len(stored) == 1 else np.moveaxis(stored, 0, -1)
    picture = Image.fromarray(np.ascontiguousarray(stored))
    if stored.dtype != np.uint16:
        return picture
    # `datasets` stores 16-bit pictures as raw TIFF unless they come from a PNG, which is a third of the size.
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return Image.open(buffer)


def load_splits(name: str) -> dict[str, Any]:
    """The official splits of a benchmark: a JSON file in `mult_hf/data/benchmarks/splits/` that also names its source."""
    return json.loads(resources.files(__package__).joinpath("splits", f"{name}.json").read_text(encoding="utf-8"))
