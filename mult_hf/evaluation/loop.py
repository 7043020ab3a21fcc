"""Measure predictors on a data set, in any number of processes.

Predictions are brought to the size of the stored labels before they are measured; labels are never resampled, so the same data
give comparable numbers whatever size a model works at. Every image's statistics are kept and summed in the order of the rows:
the totals do not depend on the number of processes, and images can be ranked and resampled afterwards.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm

from mult_hf.data.collator import MultiTaskCollator
from mult_hf.inference.predictor import Predictor
from mult_hf.metrics import MultiTaskMetrics
from mult_hf.model.image_processing_base import MulTProcessingMixin
from mult_hf.model.tasks import TaskSpec

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class Evaluation:
    """What one predictor reached on a data set.

    Args:
        metrics: totals over all images.
        names: of the images in order of the rows: their `id`, or "row 0" and so on.
        per_image: each additive statistic of `metrics`, one entry an image: (images, ...) float64; empty if they were not kept.
    """

    metrics: MultiTaskMetrics
    names: list[str]
    per_image: dict[str, Tensor]

    def compute(self) -> dict[str, float]:
        """All metrics by `"task/metric"`; NaN where nothing was known."""
        return self.metrics.compute()

    def of_image(self, number: int) -> dict[str, float]:
        """All metrics of one image.

        Raises:
            ValueError: if the images' statistics were not kept.
        """
        self.check_images()
        return _summed(self.metrics.specs, {name: values[number] for name, values in self.per_image.items()}).compute()

    def worst(self, count: int) -> dict[str, list[tuple[int, float]]]:
        """For each task's headline metric, "task/metric", the images that do worst by it.

        Returns:
            at most `count` (number of the image, value), the worst first; images in which nothing is known are left out.
        """
        values = [self.of_image(number) for number in range(len(self.names))]
        ranked = {}
        for task, metrics in self.metrics.metrics.items():
            name = f"{task}/{next(iter(metrics))}"
            known = [(number, image[name]) for number, image in enumerate(values) if not math.isnan(image[name])]
            best_last = not higher_is_better(self.metrics, name)
            ranked[name] = sorted(known, key=lambda item: item[1], reverse=best_last)[:count]
        return ranked

    def check_images(self) -> None:
        """Refuse to rank or resample images whose statistics were not kept."""
        if not self.per_image:
            raise ValueError(f"the statistics of these {len(self.names)} images were not kept one by one; evaluate with per_image=True")


def higher_is_better(metrics: MultiTaskMetrics, name: str) -> bool:
    """Direction of `"task/metric"`."""
    return metrics.is_better(name, 1.0, 0.0)


def _summed(specs: Mapping[str, TaskSpec], *parts: Mapping[str, Tensor]) -> MultiTaskMetrics:
    metrics = MultiTaskMetrics(specs)
    for sums in parts:
        metrics.merge(sums)
    return metrics


class _Batch(NamedTuple):
    rows: list[int]
    names: list[str]
    pixel_values: Tensor
    targets: list[dict[str, Tensor]]


class _Batches(TorchDataset):
    """Prepared batches by number; every batch has the same rows, however many processes share them."""

    def __init__(self, dataset: "Dataset", collator: MultiTaskCollator, batch_size: int) -> None:
        self.dataset, self.collator, self.batch_size = dataset, collator, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    def __getitem__(self, number: int) -> _Batch:
        numbers = list(range(number * self.batch_size, min((number + 1) * self.batch_size, len(self.dataset))))
        rows = [self.dataset[row] for row in numbers]
        names = [str(row["id"]) if row.get("id") is not None else f"row {row_number}" for row_number, row in zip(numbers, rows)]
        return _Batch(numbers, names, *self.collator.collate_for_evaluation(rows))


@torch.no_grad()
def evaluate(
    predictors: Mapping[str, Predictor],
    dataset: "Dataset",
    collator: MultiTaskCollator,
    accelerator: Accelerator,
    *,
    batch_size: int = 8,
    num_workers: int = 0,
    per_image: bool = True,
    progress: bool = True,
) -> dict[str, Evaluation]:
    """Measure several predictors in one pass over the data.

    Each row is measured by exactly one process, in a batch that does not depend on how many there are, and every process gets the
    whole result. Each process calls the predictors equally often, as sharded models need: where batches do not come out even, a
    spare one is predicted and not counted.

    Args:
        predictors: by name, see [`Predictor`]; models in evaluation mode, through [`predict`] for example.
        dataset: rows with `image` and one column a task, pictures decoded; with a length.
        collator: its processor makes `pixel_values`, reads the labels and finishes the predictions; see [`measured_specs`].
        accelerator: the processes, and the device that `pixel_values` go to.
        batch_size: photos at once in each process.
        num_workers: processes that prepare batches, for each process that predicts.
        per_image: whether to keep every image's statistics, to rank and resample images. Totals then are the same to the last bit
            for any number of processes. Otherwise memory is constant, and totals are added process by process.
        progress: whether to show a bar.

    Returns:
        by predictor its [`Evaluation`].

    Raises:
        ValueError: if the data set is empty or has no length, `batch_size` is below 1, or a row cannot be read.
    """
    _check_data(dataset, batch_size)
    batches = _Batches(dataset, collator, batch_size)
    steps = range(accelerator.process_index, len(batches) + accelerator.process_index, accelerator.num_processes)
    numbers = [min(number, len(batches) - 1) for number in steps]
    # A generator of its own: a loader draws a number when it starts, which must not come out of what training draws from.
    loader = DataLoader(batches, batch_size=None, sampler=numbers, num_workers=num_workers, generator=torch.Generator())
    processor = collator.processor
    specs = processor.task_specs
    rows, names, sums = [], [], {name: [] for name in predictors}
    bar = tqdm(loader, desc="evaluating", disable=not (progress and accelerator.is_main_process), mininterval=5)
    for batch, number in zip(bar, steps):
        pixel_values = batch.pixel_values.to(accelerator.device)
        predictions = {name: predictor(pixel_values) for name, predictor in predictors.items()}
        if number >= len(batches):
            continue  # the spare one
        rows += batch.rows
        names += batch.names
        for name, predicted in predictions.items():
            finished = finish(predicted, batch.targets, processor)
            sums[name] += [_statistics(maps, true, specs) for maps, true in zip(finished, batch.targets)]
            sums[name] = sums[name] if per_image else [_summed(specs, *sums[name]).sums]
    gathered = gather_object([(rows, names, {name: _stacked(images) for name, images in sums.items()})])
    return _joined([part for part in gathered if part[0]], specs, per_image=per_image)


def _check_data(dataset: Any, batch_size: int) -> None:
    if not hasattr(dataset, "__len__"):
        raise ValueError(
            f"a {type(dataset).__name__} has no length, so its rows cannot be shared among processes; load it without streaming, or "
            "take some rows: datasets.Dataset.from_list(list(stream.take(500)), features=stream.features)"
        )
    if len(dataset) == 0:
        raise ValueError("the data set has 0 rows; choose another split, or more samples")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")


def finish(
    predictions: Mapping[str, Tensor], targets: Sequence[Mapping[str, Tensor]], processor: MulTProcessingMixin
) -> list[dict[str, Tensor]]:
    """A predictor's batch in units and at the size of each target, image by image.

    Args:
        predictions: of a [`Predictor`].
        targets: an image's targets by task, as from [`MultiTaskCollator.collate_for_evaluation`].
        processor: whose entries say how predictions are finished.

    Returns:
        per image a map by task, as `post_process` makes them; tasks without a target are left out.
    """
    specs = processor.task_specs
    images: list[dict[str, Tensor]] = [{} for _ in targets]
    for task in (task for task in predictions if task in specs):
        sizes = [tuple(target[task].shape[-2:]) for target in targets]
        # One task at a time: its labels may be stored at another size than those of its neighbours.
        for image, maps in zip(images, processor.post_process({task: predictions[task]}, sizes, tasks=[specs[task]])):
            image[task] = maps[task]["prediction"]
    return images


def _statistics(maps: Mapping[str, Tensor], targets: Mapping[str, Tensor], specs: Mapping[str, TaskSpec]) -> dict[str, Tensor]:
    metrics = MultiTaskMetrics(specs)
    metrics.update(maps, targets)
    return metrics.sums


def _stacked(images: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([sums[name] for sums in images]) for name in (images[0] if images else ())}


def _joined(parts: list[tuple[list[int], list[str], dict]], specs: Mapping[str, TaskSpec], *, per_image: bool) -> dict[str, Evaluation]:
    """Every process's images, in order of their rows, so that float64 totals come out alike to the last bit."""
    order = np.argsort(np.concatenate([rows for rows, _, _ in parts]))
    names = [name for _, names, _ in parts for name in names]
    names = [names[i] for i in order]
    evaluations = {}
    for predictor, statistics in parts[0][2].items():
        stacks = {name: torch.cat([sums[predictor][name] for _, _, sums in parts]) for name in statistics}  # (images, ...)
        if per_image:
            stacks = {name: values[order] for name, values in stacks.items()}
        totals = _summed(specs, {name: values.sum(dim=0) for name, values in stacks.items()})
        evaluations[predictor] = Evaluation(totals, names, stacks if per_image else {})
    return evaluations


__all__ = ["Evaluation", "evaluate", "finish", "higher_is_better"]
