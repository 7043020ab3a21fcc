"""Targets that follow from the image itself, computed from each random view instead of read from the data set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .augmentations import check_computed_targets
from .benchmarks.reader import DERIVATIONS

IMAGE_TARGETS = {task: function for task, (inputs, function) in DERIVATIONS.items() if inputs == ("image",)}
"""By task that the image alone defines: function (image, camera) -> target (1, height, width); it ignores the camera."""


@dataclass(frozen=True)
class TargetsOfViews:
    """Computes targets of some tasks from the view that an augmentation returns.

    The image defines edges and keypoints: those of a darker, blurred or magnified view differ from those stored in the data set. Any
    image, such as a photograph without labels, can therefore train these tasks. Pixels whose stored map is unknown in a view, for
    example beyond the image, stay unknown if the stored map has known pixels.

    Args:
        augment: makes the view, see [`RandomAugmentation`][mult_hf.data.augmentations.RandomAugmentation].
        tasks: names of tasks in [`IMAGE_TARGETS`].
        share: share of the views whose targets are computed, in (0, 1]; in the other views they are unknown. Below 1 it saves time.

    Raises:
        ValueError: if the image alone does not define a task, or `share` is not in (0, 1].
    """

    augment: Callable[..., dict[str, Any]]
    tasks: Sequence[str]
    share: float = 1.0

    def __post_init__(self) -> None:
        check_computed_targets(self.tasks, IMAGE_TARGETS, self.share)

    def __call__(self, sample: dict[str, Any], generator: torch.Generator | None = None) -> dict[str, Any]:
        """Draw a view and compute its targets; arguments and result are those of `augment`."""
        view = self.augment(sample, generator)
        computed = self.share == 1 or torch.rand((), generator=generator).item() < self.share
        image = (view["pixel_values"].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy() if computed else None
        labels = {task: self._target(task, view["labels"][task], image) for task in self.tasks if task in view["labels"]}
        return {**view, "labels": {**view["labels"], **labels}}

    def _target(self, task: str, stored: torch.Tensor, image: np.ndarray | None) -> torch.Tensor:
        """The target (1, height, width) of a view, unknown without its image."""
        if image is None:
            return torch.full_like(stored, torch.nan)
        target = torch.from_numpy(IMAGE_TARGETS[task](image, None)).to(stored.dtype)
        known = torch.isfinite(stored)
        return torch.where(known, target, torch.nan) if known.any() else target


__all__ = ["IMAGE_TARGETS", "TargetsOfViews"]
