"""Label maps of an image processor: where they lie on an image, and which task and classes they stand for."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from .alignment import UPRIGHT, misalignment_of_sizes, orientation
from .cameras import find_focal_length
from .entry_fields import refusal
from .images import BROKEN, label_array, resize_label
from .resizing import from_means
from .tasks import IGNORE_INDEX, TaskSpec


def decode_map(stored: Image.Image | np.ndarray | Tensor, spec: TaskSpec) -> np.ndarray:
    """Decode a stored map as its task's entry says, see `TaskSpec.decode`.

    Raises:
        ValueError: if it is no map, does not fit the entry, or is a file whose pixels are not the task's values.
    """
    if not isinstance(stored, Image.Image):
        return spec.decode(label_array(stored))
    reason = unfit_file(stored, spec)
    if reason:
        raise ValueError(f"{spec.name}: {reason}")
    return spec.decode(label_array(stored), channels_last=True)


def unfit_file(image: Image.Image, spec: TaskSpec) -> str | None:
    """Why the pixels of an image file are not the values of a task's map, or None if they may be."""
    try:
        frames = getattr(image, "n_frames", 1)  # Pillow reads through the file for it
    except BROKEN as error:
        return f"the file is broken: {error}"
    if frames > 1:
        return f"the file has {frames} frames or pages; store the one that is the map"
    if image.mode not in ("P", "PA"):
        return None
    greys = _greys(image)
    shifted = [number for number, grey in greys.items() if grey != number]
    if not spec.is_classification:
        reason = "the file has a palette, so its pixels are numbers of colours; store the values themselves, as grey or RGB"
        return None if greys and not shifted else reason
    if not shifted or not _name_classes(greys.values(), spec):
        return None
    return (
        f"the file has a palette of greys, in which number {shifted[0]} is grey {greys[shifted[0]]}: either may be the class; store the "
        "ids as 8-bit grey"
    )


def _greys(image: Image.Image) -> dict[int, int]:
    """The grey of each palette entry that a file's pixels have; empty if any entry of the palette is a colour."""
    colours = np.asarray(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    if (colours != colours[:, :1]).any():
        return {}
    numbers = image if image.mode == "P" else image.getchannel(0)
    return {number: int(colours[number, 0]) for number, count in enumerate(numbers.histogram()[: len(colours)]) if count}


def _name_classes(stored: Iterable[int], spec: TaskSpec) -> bool:
    """Whether stored values are all class ids or unknown, and at least two of them ids."""
    try:
        classes = spec.decode(np.array([list(stored)], spec.encoding.dtype))
    except (ValueError, OverflowError):
        return False
    return len(np.unique(classes[classes != IGNORE_INDEX])) > 1


class Place(NamedTuple):
    """Sizes of an image: (height, width) for the model and of the upright image, its EXIF orientation, and its focal length in pixels of
    the model's input.
    """

    size: tuple[int, int]
    upright_size: tuple[int, int]
    orientation: int
    focal_length: float

    @classmethod
    def of_image(
        cls,
        image: Any,
        orientation: int,
        upright_size: tuple[int, int],
        size: tuple[int, int],
        focal_length: float | None,
        field_of_view: float | None,
    ) -> "Place":
        """The place of the maps of an image with an EXIF orientation, for a model input of the given size."""
        focal = find_focal_length(image, upright_size, focal_length, field_of_view).resized(upright_size, size)
        return cls(size, upright_size, orientation, focal.pixels)

    def decode(self, stored: Image.Image | np.ndarray | Tensor, spec: TaskSpec) -> np.ndarray:
        """Decode a stored map, and refuse one that is not aligned with the image."""
        turned = orientation(stored) if isinstance(stored, Image.Image) else UPRIGHT  # before pixels are read, as for images
        target = decode_map(stored, spec)
        reason = misalignment_of_sizes(target.shape[-2:], self.upright_size, turned, self.orientation)
        if reason:
            raise ValueError(f"{spec.name}: {reason}")
        return target


def resized_target(target: Tensor, size: tuple[int, int], spec: TaskSpec) -> Tensor:
    """A target at another (height, width), resized as its entry says: (channels, height, width), or (height, width) class ids."""
    resized = resize_label(target, size, spec.resample)
    is_mean = spec.resample == "bilinear" and not spec.is_classification and resized is not target
    return from_means(resized, spec, channel_axis=0) if is_mean else resized


def with_segmentation_maps(label_maps: Mapping[str, Any] | None, segmentation_maps: Any, specs: dict[str, TaskSpec]) -> dict[str, Any]:
    """Label maps by task, including those of the only classification among the tasks."""
    if isinstance(segmentation_maps, Mapping):
        raise ValueError(f"segmentation_maps is a mapping of {list(segmentation_maps)[:5]}; pass maps by task as label_maps={{task: maps}}")
    classifications = [task for task, spec in specs.items() if spec.is_classification]
    if len(classifications) != 1:
        raise refusal(
            f"segmentation_maps is for the one classification of a processor, and {len(classifications)} of the tasks {list(specs)} "
            f"classify: {classifications}; pass label_maps={{task: maps}}"
        )
    (task,) = classifications
    if label_maps is not None and task in label_maps:
        raise ValueError(f"the maps of {task!r} came both as segmentation_maps and in label_maps; pass them once")
    return {**(label_maps or {}), task: segmentation_maps}


def reduced(specs: Mapping[str, TaskSpec]) -> dict[str, TaskSpec]:
    """Entries by name, in which the stored ids of classifications are 1 higher than the classes, with 0 and 255 unknown.

    Those of other tasks are unchanged, and so are entries that are already reduced.
    """
    return {
        task: replace(spec, encoding=replace(spec.encoding, offset=-1.0, unknown=(0, IGNORE_INDEX))) if spec.is_classification else spec
        for task, spec in specs.items()
    }


__all__ = ["Place", "decode_map", "reduced", "resized_target", "unfit_file", "with_segmentation_maps"]
