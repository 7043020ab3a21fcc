"""The constant baseline, which a model has to beat: one constant map per task."""

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from mult_hf.data.collator import MultiTaskCollator
from mult_hf.inference.predictor import Predictor
from mult_hf.metrics import constant_predictions
from mult_hf.model.images import resize_label
from mult_hf.model.tasks import TaskSpec

from .loop import check_data, evenly_spread

if TYPE_CHECKING:
    from datasets import Dataset

_MAX_PIXELS = 2**24  # pixels of all images used for the constant baseline: 1,024 images at 128 x 128, 64 at 512 x 512


def constant_baseline(dataset: "Dataset", collator: MultiTaskCollator, max_images: int = 500) -> Predictor:
    """Compute the constant baseline: one constant map per task, the best one by the task's headline metric.

    Args:
        dataset: training images; at most `max_images` evenly spaced ones are read, or fewer large ones, to limit memory.
        collator: a collator without augmentation. The maps have the size of its processor's images.
        max_images: largest number of images to use.

    Returns:
        A [`Predictor`] whose maps do not depend on the image.

    Raises:
        ValueError: if the data set is empty.
    """
    check_data(dataset, batch_size=1)
    specs = collator.processor.task_specs
    first = collator([dataset[0]])
    size = tuple(first["pixel_values"].shape[-2:])
    numbers = evenly_spread(len(dataset), min(max_images, max(1, _MAX_PIXELS // math.prod(size))))
    targets = [first["labels"], *(collator([dataset[number]])["labels"] for number in numbers[1:])]
    stacks = {}
    for task, spec in specs.items():
        stacks[task] = torch.stack([resize_label(target[task][0], size, spec.resample) for target in targets])
    constants = {task: _as_prediction(constant, specs[task]) for task, constant in constant_predictions(stacks, specs).items()}
    return lambda pixel_values: {
        task: constant.to(pixel_values.device).expand(len(pixel_values), -1, -1, -1) for task, constant in constants.items()
    }


def _as_prediction(constant: Tensor, spec: TaskSpec) -> Tensor:
    """Convert a constant to (channels, height, width) in a model's output space: class ids become logits."""
    return F.one_hot(constant, spec.channels).movedim(-1, 0).float() if spec.is_classification else constant


__all__ = ["constant_baseline"]
