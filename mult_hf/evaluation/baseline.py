"""The constant baseline, which a model has to beat: one constant map per task."""

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils import logging

from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.reachable import MOST_UNREACHABLE, share_beyond
from mult_hf.data.row_errors import in_batch, read_row
from mult_hf.inference.predictor import Predictor
from mult_hf.metrics import constant_predictions
from mult_hf.model.entry_fields import refusal
from mult_hf.model.post_processing import resized
from mult_hf.model.processor_labels import resized_target
from mult_hf.model.tasks import IGNORE_INDEX, TaskSpec

from .loop import check_data, evenly_spread

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)

_MAX_PIXELS = 2**24  # pixels of all images used for the constant baseline: 1,024 images at 128 x 128, 64 at 512 x 512


def constant_baseline(dataset: "Dataset", collator: MultiTaskCollator, max_images: int = 500) -> Predictor:
    """Compute the constant baseline: one constant map per task, the best one by the task's headline metric.

    Args:
        dataset: training images; at most `max_images` evenly spaced ones are read, or fewer large ones, to limit memory.
        collator: a collator without augmentation. The maps are computed at the size of the first image, and resized to that of others.
        max_images: largest number of images to use.

    Returns:
        A [`Predictor`] whose maps do not depend on the image.

    Raises:
        ValueError: if the data set is empty, or no task has a known label in any of its rows.
    """
    check_data(dataset, batch_size=1)
    specs = collator.processor.task_specs

    def prepared(number: int) -> Any:
        return in_batch(collator, [read_row(dataset, number)])

    row = read_row(dataset, 0)
    first: Any = in_batch(collator, [row])
    size = tuple(first["pixel_values"].shape[-2:])
    numbers = evenly_spread(len(dataset), min(max_images, max(1, _MAX_PIXELS // math.prod(size))))
    targets = [first["labels"], *(prepared(number)["labels"] for number in numbers[1:])]
    stacks = {}
    for task, spec in specs.items():
        stacks[task] = torch.stack([resized_target(target[task][0], size, spec) for target in targets])
    of_canonical_camera = [task for task, spec in specs.items() if collator.processor.depends_on_focal_length(spec)]
    without_column = specs.keys() - row.keys()  # as for tasks of a model that are frozen
    _check_labels(stacks, specs, of_canonical_camera, without_column, all_read=len(numbers) == len(dataset))
    constants = {task: _as_prediction(constant, specs[task]) for task, constant in constant_predictions(stacks, specs).items()}

    def predict(pixel_values: Tensor) -> dict[str, Tensor]:
        seen = (pixel_values.shape[-2], pixel_values.shape[-1])  # post-processing takes the size of a prediction for that of the input
        maps = {task: resized(constant, seen).to(pixel_values.device) for task, constant in constants.items()}
        return {task: each.expand(len(pixel_values), -1, -1, -1) for task, each in maps.items()}

    return predict


def _check_labels(
    stacks: Mapping[str, Tensor],
    specs: Mapping[str, TaskSpec],
    of_canonical_camera: Collection[str],
    without_column: Collection[str],
    *,
    all_read: bool,
) -> None:
    """Name tasks of which nothing can be learnt or measured although they have a column: those without a known label, with a single class,
    or with values that no prediction has.

    Raises:
        ValueError: if there is no known label at all.
    """
    known = {task: stack != IGNORE_INDEX if specs[task].is_classification else stack.isfinite() for task, stack in stacks.items()}
    unknown = [task for task, pixels in known.items() if not pixels.any()]
    if len(unknown) == len(specs) and all_read:
        raise refusal(f"no row has a known label of {', '.join(specs)}; run mult-hf check on the data set")
    if empty := [task for task in unknown if task not in without_column]:
        logger.warning(f"none of the rows that were read has a known label of {', '.join(empty)}; run mult-hf check on the data set")
    for task, pixels in known.items():
        classes = stacks[task][pixels].unique().tolist() if specs[task].is_classification else []
        if len(classes) == 1:
            logger.warning(f"{task} has class {classes[0]} only in the rows that were read; run mult-hf check on the data set")
        if not specs[task].is_classification:
            _check_range(stacks[task][pixels].numpy(), specs[task], depends_on_camera=task in of_canonical_camera)


def _check_range(values: np.ndarray, spec: TaskSpec, *, depends_on_camera: bool) -> None:
    """Name a task with values that no prediction has. Predictions are clipped to `value_range` for the image's own camera."""
    low, high = spec.head_range if depends_on_camera else spec.final_range
    share = share_beyond(values, low, high)
    if share > MOST_UNREACHABLE:
        is_of_head = (low, high) == spec.head_range
        limit = (
            "the only values that it can predict, so they cannot be learnt" if is_of_head else "the range that predictions are clipped to"
        )
        camera = " (with a canonical camera, distances are multiplied by its focal length over the image's)" if depends_on_camera else ""
        logger.warning(
            f"{spec.name}: {share:.1%} of the values in the rows that were read are beyond [{low:g}, {high:g}], {limit}; run mult-hf "
            f"check, since they may mean unknown or have another unit, or give a value_range that contains them in the card's entry{camera}"
        )


def _as_prediction(constant: Tensor, spec: TaskSpec) -> Tensor:
    """Convert a constant to (channels, height, width) in a model's output space: class ids become logits."""
    return F.one_hot(constant, spec.channels).movedim(-1, 0).float() if spec.is_classification else constant


__all__ = ["constant_baseline"]
