"""Files of predicted maps, which `TaskSpec.decode` reads back: PNG where its integers are fine enough, else NPZ."""

from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from torch import Tensor

from mult_hf.data.schema import load_task_entries
from mult_hf.model.tasks import IGNORE_INDEX, LabelEncoding, TaskSpec, resolve_tasks

from .locations import location, whole_output
from .png import png_bytes

_ENCODED_PIXELS = 2**14
"""Pixels that are encoded at a time: few enough for their float64 values to stay in the CPU's cache."""

_PNG_TYPES = {1: "uint16", 3: "uint8"}
"""Integer type of a PNG by its number of channels; its highest value marks unknown pixels."""


def stored_form(spec: TaskSpec) -> TaskSpec:
    """A task's entry with the encoding of its stored predictions, which is independent of the encoding of its training labels.

    Class ids are stored as an 8-bit PNG with 255 for unknown. Numbers with a known range are stored as a PNG: 16-bit for one channel,
    and 8-bit for three, because Pillow cannot write three channels of 16 bits. One step is the range divided by 65,534 or 254.
    Everything else is a compressed float32 array (channels, height, width) in an NPZ file under the key `map`.
    """
    if spec.is_classification:
        return replace(spec, encoding=LabelEncoding(dtype="uint8", unknown=(IGNORE_INDEX,)))
    dtype = _PNG_TYPES.get(spec.channels)
    if dtype is None or spec.value_range is None:
        return replace(spec, encoding=LabelEncoding())
    (low, high), highest = spec.value_range, int(np.iinfo(dtype).max)
    return replace(spec, encoding=LabelEncoding(dtype=dtype, scale=(high - low) / (highest - 1), offset=low, unknown=(highest,)))


def precision(stored: TaskSpec) -> float:
    """Largest rounding error of a stored value, in the task's unit; 0 for class ids and floats."""
    return 0.0 if stored.is_classification or is_float(stored) else float(np.max(stored.encoding.scale)) / 2


def is_float(stored: TaskSpec) -> bool:
    """Whether the map is stored as a float array."""
    return np.dtype(stored.encoding.dtype).kind == "f"


def map_suffix(stored: TaskSpec) -> str:
    """Suffix of a map's file: `.npz` for float arrays, else `.png`."""
    return ".npz" if is_float(stored) else ".png"


def write_map(path: Path, prediction: Tensor, stored: TaskSpec) -> None:
    """Store a prediction.

    Args:
        path: path of the file.
        prediction: as from `post_process`: (height, width) class ids or numbers, or (channels, height, width), on any device.
        stored: the task's entry from [`stored_form`].
    """
    with whole_output(path) as unfinished, open(unfinished, "wb") as file:
        save_map(file, prediction, stored)


def save_map(file: BinaryIO, prediction: Tensor, stored: TaskSpec) -> None:
    """Write the contents of a map's file; arguments as for [`write_map`], with a binary file in place of the path."""
    values = prediction.cpu().numpy()
    values = values if stored.is_classification or values.ndim == 3 else values[None]
    if is_float(stored):
        np.savez_compressed(file, map=values)  # unchanged, including NaN
    else:
        file.write(png_bytes(_encoded(values, stored)))


def _encoded(values: np.ndarray, stored: TaskSpec) -> np.ndarray:
    """The pixels of a map's PNG: (height, width), or (height, width, channels) for several channels."""
    height, width = values.shape[-2:]
    step = max(1, _ENCODED_PIXELS // width)
    strips = [np.moveaxis(stored.encode(values[..., start : start + step, :]), 0, -1) for start in range(0, height, step)]
    encoded = np.concatenate(strips)  # (height, width, channels)
    return encoded[..., 0] if encoded.shape[-1] == 1 else encoded


def read_map(path: str | Path, stored: TaskSpec) -> np.ndarray:
    """Read a map that [`write_map`] stored: (height, width) int64 class ids, or (channels, height, width) float32.

    Args:
        path: path or URL of the file.
        stored: the task's entry in the card, see [`load_stored_forms`].
    """
    path = location(path) if isinstance(path, str) else path
    with path.open("rb") as file:
        if path.suffix == ".npz":
            with np.load(file) as arrays:
                return stored.decode(arrays["map"], channels_last=False)
        with Image.open(file, formats=["PNG"]) as image:
            return stored.decode(np.asarray(image), channels_last=True)


_ENDS = {".png": (12, b"\0\0\0\0IEND\xaeB`\x82"), ".jpg": (2, b"\xff\xd9"), ".npz": (22, b"PK\5\6")}
"""By suffix: length in bytes of the last part of a complete file, and the bytes that this part begins with."""


def is_complete(path: Path) -> bool:
    """Whether a file of a result has its last part, which a copy lacks if it was interrupted or the disk was full."""
    length, beginning = _ENDS[path.suffix]
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - length))
        return file.read().startswith(beginning)


def load_stored_forms(directory: str | Path) -> dict[str, TaskSpec]:
    """Load the task entries of a directory of predictions, with the encodings of its files."""
    return resolve_tasks(load_task_entries(directory))


__all__ = ["is_complete", "is_float", "load_stored_forms", "map_suffix", "precision", "read_map", "save_map", "stored_form", "write_map"]
