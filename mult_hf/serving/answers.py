"""Encode the maps of one image as the body of an answer, with the encodings of the files that `mult-hf predict` writes."""

import base64
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from mult_hf.inference.stored_maps import map_suffix, save_map
from mult_hf.model.cameras import FocalLength
from mult_hf.model.tasks import TaskSpec

Maps = Iterable[tuple[str, Tensor]]
"""Pairs of task and map, one map per task as from `post_process`."""

MEDIA_TYPES = {".png": "image/png", ".npz": "application/octet-stream"}


class Answer(NamedTuple):
    """A body, its media type, and further headers."""

    body: bytes
    media_type: str
    headers: Mapping[str, str]


def png_answer(maps: Maps, stored: Mapping[str, TaskSpec], focal: FocalLength | None) -> Answer:
    """Encode maps as the files that `mult-hf predict` writes: one file for one task, a ZIP of `TASK.png` for several.

    A task that is not stored as PNG has a file `TASK.npz`; see `stored_form`. The focal length is in a header.
    """
    files = {f"{task}{map_suffix(stored[task])}": _file(prediction, stored[task]) for task, prediction in maps}
    if len(files) == 1:
        ((name, content),) = files.items()
        return Answer(content, MEDIA_TYPES[PurePosixPath(name).suffix], _header(focal))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as writer:  # its files are compressed already
        for name, content in files.items():
            writer.writestr(name, content)
    return Answer(archive.getvalue(), "application/zip", _header(focal))


def npz_answer(maps: Maps, stored: Mapping[str, TaskSpec], focal: FocalLength | None) -> Answer:
    """Encode maps as one NPZ with an array per task.

    Arrays are float32 (channels, height, width) in the task's unit, NaN where unknown; or uint8 (height, width) class ids, 255 where
    unknown. The focal length is in a header.
    """
    arrays: dict[str, Any] = {}
    for task, prediction in maps:
        values = prediction.numpy()
        is_ids = stored[task].is_classification
        arrays[task] = values.astype(np.uint8) if is_ids else values.reshape(-1, *values.shape[-2:]).astype(np.float32)
    body = io.BytesIO()
    np.savez(body, **arrays)  # compressing floats takes longer than predicting them
    return Answer(body.getvalue(), "application/octet-stream", _header(focal))


def json_answer(maps: Maps, stored: Mapping[str, TaskSpec], focal: FocalLength | None) -> Answer:
    """Encode maps as JSON: per task its file in base64 (JSON has no NaN) and the encoding to read it with, and the focal length."""
    entries: dict[str, dict[str, Any]] = {}
    for task, prediction in maps:
        spec = stored[task]
        entries[task] = {
            "height": prediction.shape[-2],
            "width": prediction.shape[-1],
            "unit": spec.unit,
            "encoding": spec.to_dict()["encoding"],
            "media_type": MEDIA_TYPES[map_suffix(spec)],
            "file": base64.b64encode(_file(prediction, spec)).decode(),
        }
    used = None if focal is None else focal._asdict()
    return Answer(json.dumps({"maps": entries, "focal_length": used}).encode(), "application/json", {})


def _header(focal: FocalLength | None) -> dict[str, str]:
    """The header that states the focal length, as an item of RFC 9651: `Focal-Length: 572.35;source=assumed`."""
    return {} if focal is None else {"Focal-Length": f"{focal.pixels:.3f};source={focal.source}"}


def _file(prediction: Tensor, stored: TaskSpec) -> bytes:
    file = io.BytesIO()
    save_map(file, prediction, stored)
    return file.getvalue()


ANSWERS: dict[str, Callable[[Maps, Mapping[str, TaskSpec], FocalLength | None], Answer]] = {
    "png": png_answer,
    "npz": npz_answer,
    "json": json_answer,
}
"""Functions that encode an answer, by the name of its format; the first is the default. They take the maps, the entries of stored maps, and
the focal length in pixels of the image, or None if no map depends on it."""

FORMATS: Sequence[str] = tuple(ANSWERS)

__all__ = ["ANSWERS", "FORMATS", "Answer", "json_answer", "npz_answer", "png_answer"]
