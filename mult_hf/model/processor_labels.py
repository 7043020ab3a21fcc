"""Label maps of an image processor: where they lie on an image, and which task and classes they stand for."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from .alignment import UPRIGHT, misalignment_of_sizes, orientation
from .cameras import find_focal_length
from .entry_fields import refusal
from .heads import from_means
from .images import label_array, resize_label
from .tasks import IGNORE_INDEX, TaskSpec


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
        target = spec.decode(label_array(stored), channels_last=True if isinstance(stored, Image.Image) else None)
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


def reduced(spec: TaskSpec) -> TaskSpec:
    """For classifications, an entry whose stored ids are 1 higher than the classes, with 0 and 255 unknown; other entries are unchanged."""
    if not spec.is_classification:
        return spec
    return replace(spec, encoding=replace(spec.encoding, offset=-1.0, unknown=(0, IGNORE_INDEX)))


__all__ = ["Place", "reduced", "resized_target", "with_segmentation_maps"]
