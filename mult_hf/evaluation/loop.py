"""Measure predictors on a data set, in any number of processes.

Predictions are resized to the stored labels before they are measured. Labels are never resampled, so results on the same data are
comparable between models with different input sizes. Every image's statistics are kept and summed in the order of the rows: the
totals do not depend on the number of processes, and images can be ranked and resampled afterwards.
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
from mult_hf.data.row_errors import in_batch, read_row
from mult_hf.data.workers import naming_killed_workers
from mult_hf.inference.predictor import Predictor
from mult_hf.metrics import MultiTaskMetrics, Sums
from mult_hf.model.cameras import ASSUMED, FocalLength
from mult_hf.model.image_processing_base import MulTProcessingMixin
from mult_hf.model.tasks import TaskSpec

if TYPE_CHECKING:
    from datasets import Dataset


class Evaluation:
    """Results of one predictor on a data set: collected image by image, merged over processes, computed once.

    Args:
        specs: entries of the measured tasks.
        per_image: whether to keep the statistics of every image. Totals are then summed in the order of the rows and are identical
            to the last bit for any distribution of the images. If false, memory is constant, and totals are summed in any order.
    """

    def __init__(self, specs: Mapping[str, TaskSpec], *, per_image: bool = True) -> None:
        self.specs = dict(specs)
        self.per_image = per_image
        self._names: dict[int, str] = {}  # by row
        self._images: dict[int, dict[str, Sums]] = {}  # by row, then by "task/statistics"; empty without per_image
        self._sums: dict[str, Sums] = {}  # the total, without per_image
        self.assumed_focal_lengths = 0
        """Number of images whose metres were measured with an assumed focal length, because theirs is not known."""

    def update(
        self, row: int, name: str, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor], *, assumed_focal_length: bool = False
    ) -> None:
        """Add one image.

        Args:
            row: index of the row in the data set.
            name: name of the image.
            predictions: a post-processed map per task, see [`finish`].
            targets: a target of the same size per task.
            assumed_focal_length: whether values that depend on the focal length were predicted with an assumed one.

        Raises:
            ValueError: if this row was already added, or [`MultiTaskMetrics.update`] rejects the maps.
        """
        self._check_new([row])
        image = MultiTaskMetrics(self.specs)
        image.update(predictions, targets)
        self._names[row] = name
        self.assumed_focal_lengths += assumed_focal_length
        if self.per_image:
            self._images[row] = image.sums
        else:
            self._add(image.sums)

    def merge(self, other: "Evaluation") -> None:
        """Add the images of another evaluation, which is not modified.

        Raises:
            ValueError: if both contain the same row, or differ in `per_image`.
        """
        if self.per_image != other.per_image:
            raise ValueError(f"per_image is {self.per_image} here and {other.per_image} in the other; use the same value for both")
        self._check_new(other._names)
        self._names |= other._names
        self._images |= other._images
        self.assumed_focal_lengths += other.assumed_focal_lengths
        self._add(other._sums)

    def compute(self) -> dict[str, float]:
        """All metrics by `"task/metric"`; NaN where no pixel was known."""
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
            number: index of the image in [`names`].

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
        """The statistics of all images by `"task/statistics"`, in the order of the rows: (images, ...) in each field.

        Raises:
            ValueError: if the images' statistics were not kept.
        """
        self.check_images()
        images = [self._images[row] for row in sorted(self._images)]
        return {name: type(sums).stack([image[name] for image in images]) for name, sums in images[0].items()}

    def worst(self, count: int) -> dict[str, list[tuple[int, float]]]:
        """The worst images by each task's headline metric, "task/metric".

        Returns:
            Per metric at most `count` pairs (index of the image, value), worst first; images without a known pixel are left out.

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
        """Reject ranking or resampling if the images' statistics were not kept."""
        if not self._images:
            raise ValueError(f"the statistics of these {len(self._names)} images were not kept; evaluate with per_image=True")

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
    """Prepared rows whose images have one size.

    Args:
        rows: indices in the data set.
        names: names of the images.
        pixel_values: (batch, 3, height, width).
        targets: targets by task, per image.
        cameras: focal lengths in pixels of the model's input, per image; None without a canonical camera.
    """

    rows: list[int]
    names: list[str]
    pixel_values: Tensor
    targets: list[dict[str, Tensor]]
    cameras: list[FocalLength] | None

    @property
    def focal_lengths(self) -> list[float] | None:
        """In pixels of the model's input, per image; None without a canonical camera."""
        return None if self.cameras is None else [camera.pixels for camera in self.cameras]

    def assumes_focal_length(self, number: int, tasks: Iterable[str]) -> bool:
        """Whether an image has labels of these tasks, which depend on its focal length, and that is assumed."""
        if self.cameras is None or self.cameras[number].source != ASSUMED:
            return False
        return any(bool(self.targets[number][task].isfinite().any()) for task in tasks)


def _size(images: Tensor) -> tuple[int, int]:
    """Height and width of (..., height, width) images."""
    return images.shape[-2], images.shape[-1]


class _Batches(TorchDataset):
    """Prepared batches by index, each as one part per size of its images; it has the same rows for any number of processes."""

    def __init__(self, dataset: "Dataset", collator: MultiTaskCollator, batch_size: int, numbers: Sequence[int]) -> None:
        self.dataset, self.collator, self.batch_size, self.numbers = dataset, collator, batch_size, numbers

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    def __getitem__(self, number: int) -> list[_Batch]:
        numbers = list(range(number * self.batch_size, min((number + 1) * self.batch_size, len(self.dataset))))
        rows = [read_row(self.dataset, row, self.numbers[row]) for row in numbers]
        names = [str(row["id"]) if row.get("id") is not None else f"row {self.numbers[index]}" for index, row in zip(numbers, rows)]
        images, targets = in_batch(self.collator.prepare_for_evaluation, rows)
        of_size: dict[tuple[int, int], list[int]] = {}
        for place, image in enumerate(images):
            of_size.setdefault(_size(image), []).append(place)
        parts = []
        for size, places in of_size.items():
            some: Any = ([values[place] for place in places] for values in (numbers, names, images, targets, rows))
            some_numbers, some_names, some_images, some_targets, some_rows = some
            cameras = self.collator.cameras(some_rows, size)
            parts.append(_Batch(some_numbers, some_names, torch.stack(some_images), some_targets, cameras))
        return parts


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
    numbers: Sequence[int] | None = None,
    progress: bool = True,
    description: str = "evaluating",
) -> dict[str, Evaluation]:
    """Measure several predictors in one pass over the data.

    Each row is measured by exactly one process, in a batch that does not depend on the number of processes, and every process gets
    the complete result. Images of a batch that differ in size after preparation are predicted size by size. Each process calls the
    predictors equally often, because sharded models need this: where one has fewer batches or sizes than others, it predicts a
    batch once more, which is excluded from the sums.

    Args:
        predictors: [`Predictor`]s by name, for example [`predict`] with a model in evaluation mode.
        dataset: rows with a decoded `image` and one column per task; must have a length.
        collator: its processor prepares `pixel_values`, reads the labels and post-processes predictions; see [`measured_specs`].
        accelerator: the processes, and the device for `pixel_values`.
        batch_size: images per batch in each process.
        num_workers: worker processes that prepare batches, per predicting process.
        per_image: whether to keep every image's statistics, to rank and resample images; see [`Evaluation`].
        numbers: of the rows in the names of images and in messages; by default those in `dataset`.
        progress: whether to show a progress bar.
        description: text before the progress bar.

    Returns:
        An [`Evaluation`] per predictor.

    Raises:
        ValueError: if the data set is empty or has no length, `batch_size` is below 1, or a row cannot be read.
    """
    check_data(dataset, batch_size)
    batches = _Batches(dataset, collator, batch_size, range(len(dataset)) if numbers is None else numbers)
    steps = range(accelerator.process_index, len(batches) + accelerator.process_index, accelerator.num_processes)
    numbers = [min(number, len(batches) - 1) for number in steps]
    # A separate generator: a loader draws a number when it starts, which must not change training's random numbers.
    loader = DataLoader(batches, batch_size=None, sampler=numbers, num_workers=num_workers, generator=torch.Generator())
    specs = collator.processor.task_specs
    measured = {name: Evaluation(specs, per_image=per_image) for name in predictors}
    of_one_size = bool(collator.processor.do_resize and collator.processor.size.get("height"))
    silent = not (progress and accelerator.is_main_process)
    with tqdm(loader, desc=description, disable=silent, mininterval=5) as bar:  # an error closes it, and starts on its own line
        for parts, number in zip(bar, steps):
            for call in range(len(parts) if of_one_size else _most_calls(len(parts), accelerator)):
                batch = parts[min(call, len(parts) - 1)]
                pixel_values = batch.pixel_values.to(accelerator.device)
                predictions = {name: predictor(pixel_values) for name, predictor in predictors.items()}
                if number < len(batches) and call < len(parts):  # else only other processes have something to predict
                    for name, predicted in predictions.items():
                        _add_batch(measured[name], batch, predicted, collator.processor)
    whole = {name: Evaluation(specs, per_image=per_image) for name in predictors}
    for part in gather_object([measured]):  # one per process
        for name, evaluation in part.items():
            whole[name].merge(evaluation)
    return whole


def _most_calls(calls: int, accelerator: Accelerator) -> int:
    """The largest number of calls of any process in this step."""
    return int(accelerator.gather(torch.tensor([calls], device=accelerator.device)).max())


def _add_batch(evaluation: Evaluation, batch: _Batch, predictions: Mapping[str, Tensor], processor: MulTProcessingMixin) -> None:
    """Post-process and measure the predictions of a batch."""
    finished = finish(predictions, batch.targets, processor, batch.focal_lengths, _size(batch.pixel_values))
    of_camera = [task for task, spec in evaluation.specs.items() if processor.depends_on_focal_length(spec)]
    for number, maps in enumerate(finished):
        assumed = batch.assumes_focal_length(number, of_camera)
        evaluation.update(batch.rows[number], batch.names[number], maps, batch.targets[number], assumed_focal_length=assumed)


def check_data(dataset: Any, batch_size: int) -> None:
    """Reject data that cannot be measured.

    Raises:
        ValueError: if the data set is empty or has no length, or `batch_size` is below 1.
    """
    if not hasattr(dataset, "__len__"):
        raise ValueError(
            f"a {type(dataset).__name__} has no length, so its rows cannot be shared among processes; load it without streaming, or "
            "take some rows: datasets.Dataset.from_list(list(stream.decode(False).take(500)), features=stream.features)"
        )
    if len(dataset) == 0:
        raise ValueError(f"the data set has {len(dataset)} rows; choose another split, or more samples")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")


def evenly_spread(rows: int, count: int | None) -> list[int]:
    """Indices of at most `count` evenly spaced rows, from the first to the last; all rows if `count` is None.

    Examples:
        >>> evenly_spread(9, 3), evenly_spread(2, 3), evenly_spread(2, None)
        ([0, 4, 8], [0, 1], [0, 1])
    """
    return torch.linspace(0, rows - 1, rows if count is None else min(count, rows)).round().int().tolist()


def finish(
    predictions: Mapping[str, Tensor],
    targets: Sequence[Mapping[str, Tensor]],
    processor: MulTProcessingMixin,
    focal_lengths: Sequence[float] | None = None,
    input_size: tuple[int, int] | None = None,
) -> list[dict[str, Tensor]]:
    """Post-process a batch of predictions: per image, in the tasks' units and at the size of each target.

    Args:
        predictions: predictions of a [`Predictor`].
        targets: targets by task per image, as from [`MultiTaskCollator.collate_for_evaluation`].
        processor: the image processor; its entries define the post-processing.
        focal_lengths: in pixels of the model's input, per image, for a processor with a canonical camera.
        input_size: (height, width) of that input; by default that of the predictions, which a tiled predictor changes.

    Returns:
        Maps by task per image, as from `post_process`; tasks without a target are left out.
    """
    specs = processor.task_specs
    images: list[dict[str, Tensor]] = [{} for _ in targets]
    for task in (task for task in predictions if task in specs):
        sizes = [(target[task].shape[-2], target[task].shape[-1]) for target in targets]
        seen = input_size or _size(predictions[task])
        focals = focal_lengths and [FocalLength(f, "given").resized(seen, size).pixels for f, size in zip(focal_lengths, sizes)]
        # One task at a time, because labels of different tasks may be stored at different sizes.
        finished = processor.post_process({task: predictions[task]}, sizes, tasks=[specs[task]], focal_length=focals)
        for image, maps in zip(images, finished):
            image[task] = maps[task]["prediction"]
    return images


__all__ = ["Evaluation", "check_data", "evaluate", "evenly_spread", "finish", "higher_is_better"]
