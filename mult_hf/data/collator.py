"""From rows of a data set to a batch for the model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..image_processing_pil_mult import MulTBatchFeature, MulTProcessingMixin

Augmentation = Callable[[MulTBatchFeature], MulTBatchFeature]


class MultiTaskCollator:
    """Turns rows with `image` and one column a task into `pixel_values` and nested `labels`.

    A missing column and a null cell are the same: all of that map is unknown. Every task of the processor is in every batch,
    so that each decoder takes part in each step, which distributed training needs.

    Args:
        processor: a MulT image processor; its tasks are the columns that are read.
        augment: changes a finished batch, images and targets together.
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
        if any(row.get("image") is None for row in rows):
            raise ValueError(f"a row has no image; its columns are {sorted(rows[0])}")
        maps = {task: [row.get(task) for row in rows] for task in self.processor.task_specs}
        batch = self.processor([row["image"] for row in rows], label_maps=maps, return_tensors="pt")
        return batch if self.augment is None else self.augment(batch)
