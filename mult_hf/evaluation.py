"""Measure models: predictors over one data set in any number of processes, test-time augmentation, comparisons.

Predictions are brought to the size of the stored labels before they are measured; labels are never resampled, so the same data
give comparable numbers whatever size a model works at. Every image's statistics are kept and summed in the order of the rows:
the totals do not depend on the number of processes, and images can be ranked and resampled afterwards.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm

from .data.collator import MultiTaskCollator
from .image_processing_pil_mult import MulTProcessingMixin, resize_label
from .metrics import MultiTaskMetrics, constant_predictions, multi_task_gain
from .prediction import Predictor, TestTimeAugmentation, predict
from .tasks import TaskSpec
from .visualization import color_limits, colorize, panel

if TYPE_CHECKING:
    from datasets import Dataset

# --- what is measured ---------------------------------------------------------------------------------------------------------

# Fields that say what a task's values mean; numbers of a model and data that differ in one of them are not comparable.
_MEANING = ("kind", "channels", "unit", "class_names", "horizontal_flip_signs", "rotated_channels", "zoom_exponent")


def measured_specs(model_specs: Mapping[str, TaskSpec], data_specs: Mapping[str, TaskSpec]) -> dict[str, TaskSpec]:
    """The tasks that a model and a data set share, as a collator needs them to measure one on the other.

    How stored maps are read and what is measured is the data's to say (`encoding`, `resample`, `metrics`); how predictions are
    finished is the model's (`activation`, `value_range`).

    Args:
        model_specs: the model's entries by name.
        data_specs: the data set's.

    Returns:
        entries by name in the model's order, for the image processor of a [`MultiTaskCollator`].

    Raises:
        ValueError: if they share no task, or a shared name means two things: other classes, another unit, other axes.
    """
    shared = [task for task in model_specs if task in data_specs]
    if not shared:
        raise ValueError(f"the model's tasks are {list(model_specs)}, the data have {list(data_specs)}; they share none")
    for task in shared:
        refuse_other_meaning(model_specs[task], data_specs[task])
    return {
        task: replace(model_specs[task], **{field: getattr(data_specs[task], field) for field in ("encoding", "resample", "metrics")})
        for task in shared
    }


def refuse_other_meaning(model: TaskSpec, data: TaskSpec) -> None:
    """Refuse a task by which a model and a data set mean two things.

    Raises:
        ValueError: if they have other classes, another unit, or other axes.
    """
    for field in _MEANING:
        ours, theirs = getattr(model, field), getattr(data, field)
        if ours == theirs:
            continue
        where = ""
        if isinstance(ours, tuple) and len(ours) == len(theirs):
            number = next(i for i in range(len(ours)) if ours[i] != theirs[i])
            where = f" (first at {number}: {ours[number]!r} and {theirs[number]!r})"
        raise ValueError(
            f"{model.name}: {field} is {ours!r} for the model and {theirs!r} for the data{where}; numbers would be meaningless. "
            "Correct the entry in the data set's card, map the labels, or leave the task out"
        )


# --- the loop -----------------------------------------------------------------------------------------------------------------


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
        return _Batch(numbers, names, *self.collator.with_stored_targets(rows))


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
        targets: an image's targets by task, as from [`MultiTaskCollator.with_stored_targets`].
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


_MOST_PIXELS = 2**24  # of all images that the trivial predictor is learnt from: 1,024 at 128 x 128, 64 at 512 x 512


def trivial_predictor(dataset: "Dataset", collator: MultiTaskCollator, most: int = 500) -> Predictor:
    """The predictor that a model has to beat: one constant map a task, the best by the task's headline metric.

    Args:
        dataset: training images, of which at most `most`, evenly spread, are read; fewer where they are large, to bound memory.
        collator: without augmentation. The maps are learnt at the size its processor gives to photos.
        most: images to learn from.

    Returns:
        a [`Predictor`] that does not look at its photos.

    Raises:
        ValueError: if the data set is empty.
    """
    _check_data(dataset, batch_size=1)
    specs = collator.processor.task_specs
    first = collator([dataset[0]])
    size = tuple(first["pixel_values"].shape[-2:])
    most = min(most, len(dataset), max(1, _MOST_PIXELS // math.prod(size)))
    numbers = torch.linspace(0, len(dataset) - 1, most).round().int().tolist()
    targets = [first["labels"], *(collator([dataset[number]])["labels"] for number in numbers[1:])]
    stacks = {}
    for task, spec in specs.items():
        stacks[task] = torch.stack([resize_label(target[task][0], size, spec.resample) for target in targets])
    constants = {task: _as_prediction(constant, specs[task]) for task, constant in constant_predictions(stacks, specs).items()}
    return lambda pixel_values: {
        task: constant.to(pixel_values.device).expand(len(pixel_values), -1, -1, -1) for task, constant in constants.items()
    }


def _as_prediction(constant: Tensor, spec: TaskSpec) -> Tensor:
    """(channels, height, width) as a model would predict it: class ids as logits."""
    return F.one_hot(constant, spec.channels).movedim(-1, 0).float() if spec.is_classification else constant


# --- what is made of it -------------------------------------------------------------------------------------------------------


def results_table(evaluations: Mapping[str, Evaluation]) -> str:
    """Markdown table with a row a metric and a column a predictor; the best value of each row is bold.

    Args:
        evaluations: by name of the column. Where one lacks a task, or nothing was known, stands a dash.
    """
    metrics = {name: each.metrics for each in evaluations.values() for name in each.compute()}
    values = {column: each.compute() for column, each in evaluations.items()}
    lines = [f"| task | metric | {' | '.join(evaluations)} |", "|---|---" + "|---" * len(evaluations) + "|"]
    for name, of in metrics.items():
        task, metric = name.split("/")
        row = [values[column].get(name, math.nan) for column in evaluations]
        known = [value for value in row if not math.isnan(value)]
        best = (max if higher_is_better(of, name) else min)(known) if len(evaluations) > 1 and known else None
        cells = ["-" if math.isnan(value) else f"**{value:.4f}**" if value == best else f"{value:.4f}" for value in row]
        direction = "higher" if higher_is_better(of, name) else "lower"
        lines.append(f"| {task} | {metric} ({direction} is better) | {' | '.join(cells)} |")
    return "\n".join(lines)


def gain_over(values: Mapping[str, float], baseline: Mapping[str, float], specs: Mapping[str, TaskSpec]) -> float:
    """Multi-task gain over a baseline in percent, over the tasks for which there is such a number.

    Args:
        values: by `"task/metric"`.
        baseline: the same of the baseline.
        specs: the tasks' entries; the first metric of each counts.

    Returns:
        the mean relative gain; tasks without a known pixel, and those in which the baseline is 0 (nothing is relative to it), are
        left out. NaN if none is left.
    """
    headlines = {task: f"{task}/{spec.metrics[0]}" for task, spec in specs.items()}
    counted = {task: specs[task] for task, name in headlines.items() if math.isfinite(values[name] * baseline[name]) and baseline[name]}
    return multi_task_gain(values, baseline, counted) if counted else math.nan


class ExamplePictures(NamedTuple):
    """A photo with a picture a task of the prediction and of the truth, in the truth's colours."""

    photo: Image.Image
    predictions: dict[str, Image.Image]
    truths: dict[str, Image.Image]


def example_pictures(model: nn.Module, dataset: "Dataset", collator: MultiTaskCollator, count: int) -> list[ExamplePictures]:
    """Pictures of evenly spread rows.

    Args:
        model: a [`MulTForMultiTaskDensePrediction`] in evaluation mode.
        dataset: as for [`evaluate`].
        collator: the same.
        count: photos, at most.
    """
    specs = collator.processor.task_specs
    examples = []
    for number in torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().int().tolist():
        row = dataset[number]
        pixel_values, (targets,) = collator.with_stored_targets([row])
        (predictions,) = finish(predict(model, pixel_values.to(model.device)), [targets], collator.processor)
        limits = {task: color_limits(target) for task, target in targets.items()}
        pictures = ({task: colorize(maps[task].cpu(), specs[task], limits[task]) for task in specs} for maps in (predictions, targets))
        examples.append(ExamplePictures(row["image"], *pictures))
    return examples


def example_panel(model: nn.Module, dataset: "Dataset", collator: MultiTaskCollator, count: int) -> Image.Image:
    """The same as one picture: a row of photo and predictions, and below it a row of the truth."""
    examples = example_pictures(model, dataset, collator, count)
    rows = [row for each in examples for row in ([each.photo, *each.predictions.values()], [None, *each.truths.values()])]
    return panel(rows, ["photo", *collator.processor.task_specs])


class Difference(NamedTuple):
    """A difference of two predictors in a metric, and the interval that it would stay in if other such images were taken."""

    difference: float
    low: float
    high: float


def bootstrap_differences(
    a: Evaluation, b: Evaluation, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Difference]:
    """How sure the difference of two predictors is, by the paired percentile bootstrap (Efron and Tibshirani 1993, chapter 13).

    Images are drawn with replacement, the same ones for both, and every metric is computed anew from their added statistics.
    Images are taken as independent: views of one room or frames of one film are not, and make the interval too narrow.

    Args:
        a: one predictor.
        b: the other, on the same images.
        resamples: how often images are drawn.
        confidence: share of the resamples that the interval holds.
        seed: of the draws.

    Returns:
        for each metric that both have `a - b` and the ends of its interval; NaN where nothing was known. Resamples in which
        nothing is known are left out.

    Raises:
        ValueError: if the images differ or were not kept, or `resamples` or `confidence` is out of range.
    """
    for evaluation in (a, b):
        evaluation.check_images()
    if a.names != b.names:
        raise ValueError(f"the first has {len(a.names)} images, {a.names[:3]}..., the second {len(b.names)}, {b.names[:3]}...; use one set")
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"resamples is {resamples} and confidence {confidence}; give at least 1, and a share between 0 and 1")
    totals = (a.compute(), b.compute())
    shared = [name for name in totals[0] if name in totals[1]]
    drawn = np.full((resamples, len(shared)), np.nan)
    generator = np.random.default_rng(seed)
    chunk = 100  # draws that are added up in one product
    for start in range(0, resamples, chunk):
        counts = _draw_counts(generator, min(chunk, resamples - start), len(a.names))
        for number, (ours, theirs) in enumerate(zip(_resampled(a, counts), _resampled(b, counts))):
            drawn[start + number] = [ours[name] - theirs[name] for name in shared]
    share = (1 - confidence) / 2
    return {
        name: Difference(totals[0][name] - totals[1][name], *_quantiles(drawn[:, column], (share, 1 - share)))
        for column, name in enumerate(shared)
    }


def _draw_counts(generator: np.random.Generator, resamples: int, images: int) -> Tensor:
    """How often each image is drawn in each resample: (resamples, images) float64."""
    draws = [np.bincount(generator.integers(images, size=images), minlength=images) for _ in range(resamples)]
    return torch.from_numpy(np.stack(draws)).double()


def _resampled(evaluation: Evaluation, counts: Tensor) -> list[dict[str, float]]:
    """The metrics of each resample."""
    sums = {
        name: (counts @ values.double().flatten(1)).unflatten(1, values.shape[1:]) if values.ndim > 1 else counts @ values.double()
        for name, values in evaluation.per_image.items()
    }
    return [_summed(evaluation.metrics.specs, {name: of[i] for name, of in sums.items()}).compute() for i in range(len(counts))]


def _quantiles(values: np.ndarray, shares: tuple[float, float]) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    return tuple(np.quantile(known, shares).tolist()) if len(known) else (math.nan, math.nan)


__all__ = [
    "Difference",
    "Evaluation",
    "Predictor",
    "TestTimeAugmentation",
    "bootstrap_differences",
    "evaluate",
    "example_panel",
    "finish",
    "gain_over",
    "higher_is_better",
    "measured_specs",
    "predict",
    "refuse_other_meaning",
    "results_table",
    "trivial_predictor",
]
