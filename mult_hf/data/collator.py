"""From rows of a data set to a batch for the model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..image_processing_pil_mult import MulTBatchFeature, MulTProcessingMixin

Augmentation = Callable[[dict[str, Any]], dict[str, Any]]
"""Changes one sample, `{"pixel_values": (3, height, width) in [0, 1], "labels": {...}}`; see `mult_hf.data.augmentations`."""


class MultiTaskCollator:
    """Turns rows with `image` and one column a task into `pixel_values` and nested `labels`.

    A missing column and a null cell are the same: all of that map is unknown. Every task of the processor is in every batch,
    so that each decoder takes part in each step, which distributed training needs.

    Args:
        processor: a MulT image processor; its tasks are the columns that are read.
        augment: applied to each sample, image and targets together, before the image is normalised.
    """

    def __init__(self, processor: MulTProcessingMixin, augment: Augmentation | None = None) -> None:
        self.processor = processor
        self.augment = augment

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> MulTBatchFeature:
        """Collate.

        Args:
            rows: as `datasets` yields them, pictures decoded.

        Returns:
            [`MulTBatchFeature`] with `pixel_values` (batch, 3, height, width) and `labels` by task.

        Raises:
            ValueError: if a row has no image, or a map does not fit its task.
        """
        without_image = [number for number, row in enumerate(rows) if row.get("image") is None]
        if without_image:
            raise ValueError(f"rows {without_image} of the batch have no image; their columns are {sorted(rows[without_image[0]])}")
        maps = {task: [row.get(task) for row in rows] for task in self.processor.task_specs}
        images = [row["image"] for row in rows]
        if self.augment is None:
            return self.processor(images, label_maps=maps, return_tensors="pt")
        return self._augmented(self.processor(images, label_maps=maps, return_tensors="pt", do_normalize=False))

    def _augmented(self, batch: MulTBatchFeature) -> MulTBatchFeature:
        """Augment sample by sample, and normalise what comes out as the processor would have."""
        samples = [
            self.augment({"pixel_values": image, "labels": {task: target[number] for task, target in batch["labels"].items()}})
            for number, image in enumerate(batch["pixel_values"])
        ]
        pixel_values = torch.stack([sample["pixel_values"] for sample in samples])
        if self.processor.do_normalize:
            mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.processor.image_mean, self.processor.image_std))
            pixel_values = (pixel_values - mean) / std
        labels = {task: torch.stack([sample["labels"][task] for sample in samples]) for task in batch["labels"]}
        return MulTBatchFeature(data={"pixel_values": pixel_values, "labels": labels})
