"""Measure predictors on a data set, in any number of processes.

Predictions are brought to the size of the stored labels before they are measured; labels are never resampled, so the same data
give comparable numbers whatever size a model works at. Every image's statistics are kept and summed in the order of the rows:
the totals do not depend on the number of processes, and images can be ranked and resampled afterwards.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm

from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.workers import naming_killed_workers
from mult_hf.inference.predictor import Predictor
from mult_hf.metrics import MultiTaskMetrics, Sums
from mult_hf.model.image_processing_base import MulTProcessingMixin
from mult_hf.model.tasks import TaskSpec

if TYPE_CHECKING:
    from datasets import Dataset


class Evaluation:
    """Results of one predictor on a data set: collected image by image, merged over processes, computed once.

    Args:
        specs: the entries of the tasks that are measured.
        per_image: whether to keep the statistics of every image. Totals then are added in the order of the rows and are the same
            to the last bit however the images were spread; without, memory is constant, and totals are added as they come.
    """

    def __init__(self, specs: Mapping[str, TaskSpec], *, per_image: bool = True) -> None:
        self.specs = dict(specs)
        self.per_image = per_image
        self._names: dict[int, str] = {}  # by row
        self._images: dict[int, dict[str, Sums]] = {}  # by row, then by "task/statistics"; empty without per_image
        self._sums: dict[str, Sums] = {}  # the total, without per_image

    def update(self, row: int, name: str, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Add one image.

        Args:
            row: its number in the data set.
            name: of the image.
            predictions: a finished map per task, see [`finish`].
            targets: per task, of the same size.

        Raises:
            ValueError: if this row came before, or [`MultiTaskMetrics.update`] refuses the maps.
        """
        self._check_new([row])
        image = MultiTaskMetrics(self.specs)
        image.update(predictions, targets)
        self._names[row] = name
        if self.per_image:
            self._images[row] = image.sums
        else:
            self._add(image.sums)

    def merge(self, other: "Evaluation") -> None:
        """Add the images of another evaluation, which does not change.

        Raises:
            ValueError: if both have the same row, or keep statistics in different ways.
        """
        if self.per_image != other.per_image:
            raise ValueError(f"per_image is {self.per_image} here and {other.per_image} there; merge results of one kind")
        self._check_new(other._names)
        self._names |= other._names
        self._images |= other._images
        self._add(other._sums)

    def compute(self) -> dict[str, float]:
        """All metrics by `"task/metric"`; NaN where nothing was known."""
        return self.metrics.compute()

    @property
    def metrics(self) -> MultiTaskMetrics:
        """Totals over all images."""
        totals = MultiTaskMetrics(self.specs, self._sums)
        for row in sorted(self._images):
            totals.merge(MultiTaskMetrics(self.specs, self._images[row]))
        return totals

    @property
    def names(self) -> list[str]:
        """The images' names in order of the rows: their `id`, or "row 0" and so on."""
        return [self._names[row] for row in sorted(self._names)]

    def metrics_of_image(self, number: int) -> MultiTaskMetrics:
        """Statistics of one image.

        Args:
            number: of the image in [`names`].

        Raises:
            ValueError: if the images' statistics were not kept.
        """
        self.check_images()
        return MultiTaskMetrics(self.specs, self._images[sorted(self._images)[number]])

    def of_image(self, number: int) -> dict[str, float]:
        """All metrics of one image, by `"task/metric"`.

        Raises:
            ValueError: if the images' statistics were not kept.
        """
        return self.metrics_of_image(number).compute()

    def stacked(self) -> dict[str, Sums]:
        """The statistics of all images in order of the rows: by `"task/statistics"`, (images, ...) in each field.

        Raises:
            ValueError: if the images' statistics were not kept.
        """
        self.check_images()
        images = [self._images[row] for row in sorted(self._images)]
        return {name: type(sums).stack([image[name] for image in images]) for name, sums in images[0].items()}

    def worst(self, count: int) -> dict[str, list[tuple[int, float]]]:
        """For each task's headline metric, "task/metric", the worst images.

        Returns:
            at most `count` (number of the image, value), the worst first; images in which nothing is known are left out.

        Raises:
            ValueError: if the images' statistics were not kept.
        """
        self.check_images()
        values = [MultiTaskMetrics(self.specs, self._images[row]).compute() for row in sorted(self._images)]
        metrics, ranked = MultiTaskMetrics(self.specs), {}
        for task, spec in self.specs.items():
            name = f"{task}/{spec.metrics[0]}"
            known = [(number, image[name]) for number, image in enumerate(values) if not math.isnan(image[name])]
            ranked[name] = sorted(known, key=lambda item: item[1], reverse=not higher_is_better(metrics, name))[:count]
        return ranked

    def check_images(self) -> None:
        """Refuse to rank or resample images whose statistics were not kept."""
        if not self._images:
            raise ValueError(f"the statistics of these {len(self._names)} images were not kept one by one; evaluate with per_image=True")

    def _check_new(self, rows: Iterable[int]) -> None:
        twice = sorted(self._names.keys() & set(rows))
        if twice:
            raise ValueError(f"rows {twice[:5]} were measured twice; add each row once")

    def _add(self, sums: Mapping[str, Sums]) -> None:
        for name, value in sums.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value


def higher_is_better(metrics: MultiTaskMetrics, name: str) -> bool:
    """Direction of `"task/metric"`."""
    return metrics.is_better(name, 1.0, 0.0)


@dataclass(frozen=True)
class _Batch:
    """Prepared rows.

    Args:
        rows: their numbers in the data set.
        names: of their images.
        pixel_values: (batch, 3, height, width).
        targets: per image its targets by task.
    """

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
        pixel_values, targets = self.collator.collate_for_evaluation(rows)
        return _Batch(numbers, names, pixel_values, targets)


@torch.no_grad()
@naming_killed_workers("start the command again")
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
    padding batch is predicted and excluded from the sums.

    Args:
        predictors: by name, see [`Predictor`]; models in evaluation mode, through [`predict`] for example.
        dataset: rows with `image` and one column per task, images decoded; with a length.
        collator: its processor makes `pixel_values`, reads the labels and finishes the predictions; see [`measured_specs`].
        accelerator: the processes, and the device that `pixel_values` go to.
        batch_size: images per batch in each process.
        num_workers: processes that prepare batches, for each process that predicts.
        per_image: whether to keep every image's statistics, to rank and resample images; see [`Evaluation`].
        progress: whether to show a bar.

    Returns:
        by predictor its [`Evaluation`].

    Raises:
        ValueError: if the data set is empty or has no length, `batch_size` is below 1, or a row cannot be read.
    """
    check_data(dataset, batch_size)
    batches = _Batches(dataset, collator, batch_size)
    steps = range(accelerator.process_index, len(batches) + accelerator.process_index, accelerator.num_processes)
    numbers = [min(number, len(batches) - 1) for number in steps]
    # A separate generator: a loader draws a number when it starts, which must not change training's random numbers.
    loader = DataLoader(batches, batch_size=None, sampler=numbers, num_workers=num_workers, generator=torch.Generator())
    specs = collator.processor.task_specs
    measured = {name: Evaluation(specs, per_image=per_image) for name in predictors}
    bar = tqdm(loader, desc="evaluating", disable=not (progress and accelerator.is_main_process), mininterval=5)
    for batch, number in zip(bar, steps):
        pixel_values = batch.pixel_values.to(accelerator.device)
        predictions = {name: predictor(pixel_values) for name, predictor in predictors.items()}
        if number >= len(batches):
            continue  # the padding batch
        for name, predicted in predictions.items():
            finished = finish(predicted, batch.targets, collator.processor)
            for row, image, maps, targets in zip(batch.rows, batch.names, finished, batch.targets):
                measured[name].update(row, image, maps, targets)
    whole = {name: Evaluation(specs, per_image=per_image) for name in predictors}
    for part in gather_object([measured]):  # of each process
        for name, evaluation in part.items():
            whole[name].merge(evaluation)
    return whole


def check_data(dataset: Any, batch_size: int) -> None:
    """Refuse data that cannot be measured.

    Raises:
        ValueError: if the data set is empty or has no length, or `batch_size` is below 1.
    """
    if not hasattr(dataset, "__len__"):
        raise ValueError(
            f"a {type(dataset).__name__} has no length, so its rows cannot be shared among processes; load it without streaming, or "
            "take some rows: datasets.Dataset.from_list(list(stream.take(500)), features=stream.features)"
        )
    if len(dataset) == 0:
        raise ValueError("the data set has 0 rows; choose another split, or more samples")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")


def evenly_spread(rows: int, count: int | None) -> list[int]:
    """Numbers of at most `count` rows from the first to the last; of all without a count.

    Examples:
        >>> evenly_spread(9, 3), evenly_spread(2, 3), evenly_spread(2, None)
        ([0, 4, 8], [0, 1], [0, 1])
    """
    return torch.linspace(0, rows - 1, rows if count is None else min(count, rows)).round().int().tolist()


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


__all__ = ["Evaluation", "check_data", "evaluate", "evenly_spread", "finish", "higher_is_better"]
