"""Targets that follow from the image itself, computed from each random view instead of read from the data set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .augmentations import check_computed_targets
from .image_targets import IMAGE_TARGETS


@dataclass(frozen=True)
class TargetsOfViews:
    """Computes targets of some tasks from the view that an augmentation returns.

    The image defines edges and keypoints: those of a darker, blurred or magnified view differ from those stored in the data set. Any
    image, such as a photograph without labels, can therefore train these tasks. Pixels whose stored map is unknown in a view, for
    example beyond the image, stay unknown if the stored map has known pixels.

    Args:
        augment: makes the view, see [`RandomAugmentation`][mult_hf.data.augmentations.RandomAugmentation].
        tasks: names of tasks in `mult_hf.data.image_targets.IMAGE_TARGETS`.
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
        image = view["pixel_values"] if computed else None
        labels = {task: self._target(task, view["labels"][task], image) for task in self.tasks if task in view["labels"]}
        return {**view, "labels": {**view["labels"], **labels}}

    def _target(self, task: str, stored: torch.Tensor, image: torch.Tensor | None) -> torch.Tensor:
        """The target (1, height, width) of a view, unknown without its image (3, height, width)."""
        if image is None:
            return torch.full_like(stored, torch.nan)
        target = IMAGE_TARGETS[task](image[None])[0].to(stored.dtype)
        known = torch.isfinite(stored)
        return torch.where(known, target, torch.nan) if known.any() else target


__all__ = ["TargetsOfViews"]
