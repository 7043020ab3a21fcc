"""Markdown tables and image panels of evaluations."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.files import whole_file
from mult_hf.data.markdown import markdown_table
from mult_hf.inference.predictor import Predictor, predict
from mult_hf.metrics import MultiTaskMetrics, metrics_of, multi_task_gain
from mult_hf.model.entry_fields import refusal
from mult_hf.model.modeling_mult import MulTForMultiTaskDensePrediction
from mult_hf.model.tasks import IGNORE_INDEX, TaskSpec
from mult_hf.model.visualization import color_key, color_limits, colorize, direction_key, panel

from .comparison import Difference, comparable_tasks
from .loop import Evaluation, evenly_spread, finish

if TYPE_CHECKING:
    from datasets import Dataset


def results_table(evaluations: Mapping[str, Evaluation | MultiTaskMetrics], leave_out: Collection[str] = ()) -> str:
    """Markdown table with one row per metric and one column per predictor; the best value of each row is bold.

    Args:
        evaluations: evaluations by column name. Missing tasks and unknown values are shown as a dash.
        leave_out: tasks without rows.
    """
    values = {column: each.compute() for column, each in evaluations.items()}
    directions = {name: _direction(each, name) for column, each in evaluations.items() for name in values[column]}
    rows = []
    for name, direction in directions.items():
        task, metric = name.split("/")
        if task in leave_out:
            continue
        numbers = [values[column].get(name, math.nan) for column in evaluations]
        known = [value for value in numbers if not math.isnan(value)]
        best = (max if direction == "higher" else min)(known) if len(evaluations) > 1 and known else None
        cells = [f"**{number(value)}**" if value == best else number(value) for value in numbers]
        rows.append([task, f"{metric} ({direction} is better)", *cells])
    return markdown_table(["task", "metric", *evaluations], rows)


def _direction(evaluation: Evaluation | MultiTaskMetrics, name: str) -> str:
    task, metric = name.split("/")
    return metrics_of(evaluation.specs[task])[metric].direction


def number(value: float) -> str:
    """A value with four decimal places, or a dash if it is unknown."""
    return "-" if math.isnan(value) else f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.3g}"


def comparison_table(names: Sequence[str], differences: Mapping[str, Difference], evaluation: Evaluation, confidence: float) -> str:
    """Markdown table of differences between two models, and which of them is better where the interval excludes 0.

    Of so few images that their differences have the same sign by chance more often than the confidence allows (five, for 95 %), an interval
    says nothing, and the last column says so.

    Args:
        names: names of the two models.
        differences: first minus second, by `"task/metric"`.
        evaluation: evaluation of the first model, for the directions of the metrics.
        confidence: confidence of the intervals.
    """
    first, second = names
    least, known = 1 - math.log2(1 - confidence), images_with_labels(evaluation)
    rows = []
    for name, (difference, low, high) in differences.items():
        if math.isnan(difference):
            continue
        sign = 1 if _direction(evaluation, name) == "higher" else -1
        better = first if min(sign * low, sign * high) > 0 else second if max(sign * low, sign * high) < 0 else "undecided"
        if known[name] < least:
            better = f"unknown: {known[name]} image{'s' * (known[name] != 1)} with labels"
        rows.append([*name.split("/"), f"{difference:+.3g}", f"{low:+.3g} to {high:+.3g}", better])
    return markdown_table(["task", "metric", f"{first} - {second}", f"{confidence:.0%} interval", "better"], rows)


def images_with_labels(evaluation: Evaluation) -> dict[str, int]:
    """In how many images each metric, by `"task/metric"`, has a pixel that counts."""
    counts = {
        name: int(torch.cat([value.reshape(len(value), -1) for value in sums.tensors().values()], dim=1).any(dim=1).sum())
        for name, sums in evaluation.stacked().items()
    }
    metrics = evaluation.metrics.metrics
    return {f"{task}/{name}": counts.get(f"{task}/{each.statistics}", 0) for task in metrics for name, each in metrics[task].items()}


def per_class_rows(evaluation: Evaluation) -> dict[str, list[dict[str, Any]]]:
    """Per classification task, one row per class."""
    metrics = evaluation.metrics
    return {task: metrics.per_class(task) for task, spec in evaluation.specs.items() if spec.is_classification}


def per_class_tables(rows_by_task: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Markdown tables of these rows; a dash marks a class that does not occur."""
    texts = []
    for task, rows in rows_by_task.items():
        cells = [[number(cell) if isinstance(cell, float) else str(cell) for cell in row.values()] for row in rows]
        texts.append(f"{task}, class by class:\n\n{markdown_table([*rows[0]], cells)}")
    return texts


def gain_table(values: Mapping[str, float], single: Mapping[str, float], specs: Mapping[str, TaskSpec]) -> tuple[float, str]:
    """Multi-task gain over single-task results.

    Args:
        values: metrics of the multi-task model, by `"task/metric"`.
        single: metrics of the single-task models, by the same names.
        specs: the tasks' entries.

    Returns:
        The gain in percent, and a Markdown table of the gain per task.

    Raises:
        ValueError: if no task has a number in both.
    """
    counted = comparable_tasks(values, single, specs)
    if not counted:
        headlines = sorted(f"{task}/{spec.metrics[0]}" for task, spec in specs.items())
        raise refusal(f"the single-task results have {sorted(single)}; expected at least one of {headlines} with a finite value in both")
    gain = multi_task_gain(values, single, counted)
    rows = []
    for task, spec in counted.items():
        name, own = f"{task}/{spec.metrics[0]}", multi_task_gain(values, single, {task: spec})
        rows.append([task, spec.metrics[0], f"{values[name]:.4f}", f"{single[name]:.4f}", f"{own:+.2f} %"])
    left_out = [task for task in specs if task not in counted]
    note = f" Not counted, because a number is missing or 0: {', '.join(left_out)}." if left_out else ""
    table = markdown_table(["task", "metric", "multi-task", "single-task", "gain"], rows)
    return gain, f"{table}\n\nMulti-task gain over {len(counted)} of {len(specs)} tasks: {gain:+.2f} %.{note}"


def tasks_without_label(evaluation: Evaluation) -> list[str]:
    """Tasks of an evaluation of which no metric is known, because no pixel of any row had a label."""
    metrics = evaluation.metrics
    return [task for task in evaluation.specs if not metrics.has_labels(task)]


def tasks_with_nan(evaluation: Evaluation) -> list[str]:
    """Tasks whose headline metric is NaN although pixels have labels, because predictions there are NaN or have no direction."""
    values, metrics = evaluation.compute(), evaluation.metrics
    headlines = {task: spec.metrics[0] for task, spec in evaluation.specs.items()}
    return [task for task, name in headlines.items() if math.isnan(values[f"{task}/{name}"]) and metrics.has_labels(task, name)]


def unmeasured_tasks(name: str, tasks: Sequence[str], data_tasks: Sequence[str], evaluation: Evaluation) -> list[str]:
    """Sentences that list tasks without results, with the reasons.

    Args:
        name: name of the model.
        tasks: tasks of the model.
        data_tasks: tasks of the data set.
        evaluation: evaluation of the model.
    """
    measured = evaluation.specs
    reasons = {
        "not in the data": [task for task in tasks if task not in data_tasks],
        "in the data, but not in the model": [task for task in data_tasks if task not in tasks],
        "not requested": [task for task in tasks if task in data_tasks and task not in measured],
        "without a known pixel in this split": tasks_without_label(evaluation),
        "predictions of known pixels are NaN": tasks_with_nan(evaluation),
    }
    return [f"Not measured for {name} ({reason}): {', '.join(names)}." for reason, names in reasons.items() if names]


def remove_results(directory: Path) -> None:
    """Remove the results of an earlier evaluation in a directory, and those panels of worst images that its `results.json` lists."""
    results = directory / "results.json"
    try:
        listed = [*json.loads(results.read_text(encoding="utf-8"))["worst"]]
    except (OSError, ValueError, KeyError, TypeError):
        listed = []
    for metric in listed:
        _worst_panel(directory, str(metric)).unlink(missing_ok=True)
    for path in (directory / "tables.md", results):
        path.unlink(missing_ok=True)


def _worst_panel(directory: Path, metric: str) -> Path:
    """Path of a task's panel of worst images."""
    return directory / f"worst_{metric.split('/')[0]}.png"


Worst = Mapping[str, Sequence[tuple[int, float]]]
"""Numbers and values of the worst images by `"task/metric"`, from [`Evaluation.worst`]."""


def list_worst(evaluation: Evaluation, worst: Worst) -> dict[str, list[dict[str, Any]]]:
    """The worst images for `results.json`: their names and values by each task's headline metric, worst first."""
    return {metric: [{"name": evaluation.names[row], "value": value} for row, value in ranked] for metric, ranked in worst.items()}


@torch.no_grad()
def save_worst(
    evaluation: Evaluation, worst: Worst, predictor: Predictor, dataset: "Dataset", collator: MultiTaskCollator, directory: Path
) -> None:
    """Save `worst_<task>.png` per task: image, prediction and truth of the worst images.

    Args:
        evaluation: evaluation of the predictor on the data set.
        worst: those images.
        predictor: the measured predictor; it moves the images to its device.
        dataset: as for [`evaluate`].
        collator: as for [`evaluate`].
        directory: output directory for the panels.
    """
    for metric, ranked in worst.items():
        task = metric.split("/")[0]
        spec, shown, captions = evaluation.specs[task], [], []
        for row, value in ranked:
            pixel_values, targets = collator.collate_for_evaluation([dataset[row]])
            size = (pixel_values.shape[-2], pixel_values.shape[-1])
            focal_lengths = collator.focal_lengths([dataset[row]], size)
            (maps,) = finish(predictor(pixel_values), targets, collator.processor, focal_lengths, size)
            shown.append((dataset[row]["image"], maps[task].cpu().numpy(), targets[0][task].numpy()))
            captions.append(f"{evaluation.names[row]}: {metric.split('/')[1]} {value:.4f}")
        if shown:
            limits = common_limits([truth for _, _, truth in shown], [prediction for _, prediction, _ in shown])
            rows = [[image, *(colorize(values, spec, limits) for values in maps)] for image, *maps in shown]
            key = common_key(spec, [values for _, *maps in shown for values in maps], limits)
            with whole_file(_worst_panel(directory, metric)) as unfinished:
                panel(rows, ["image", "prediction", "truth"], captions, [None, key], cell=240).save(unfinished, "PNG")


def common_limits(truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> tuple[float, float]:
    """Limits of a scalar colour map for several maps: from the lowest to the highest of the truths' own, or of the predictions' where
    nothing is known of any truth.
    """
    known = [values for values in truths if np.isfinite(values).any()]
    low, high = zip(*map(color_limits, known or predictions), strict=True)
    return min(low), max(high)


def common_key(spec: TaskSpec, maps: Sequence[np.ndarray], limits: tuple[float, float]) -> Image.Image | None:
    """The key of several maps in one column: all classes that occur in any of them, one scale bar, or directions."""
    return color_key(spec, np.concatenate([values.ravel() for values in maps])[None], limits) or direction_key(spec)


@dataclass(frozen=True)
class ExampleImages:
    """An image with one coloured map per task of the prediction and of the truth, in the colours of the truths of all examples.

    Args:
        image: the image.
        predictions: by task.
        truths: by task; None where nothing is known.
        keys: what the colours mean, by task, see [`common_key`]; the same in all examples.
    """

    image: Image.Image
    predictions: dict[str, Image.Image]
    truths: dict[str, Image.Image | None]
    keys: dict[str, Image.Image | None]


def _known_pixels(values: np.ndarray, spec: TaskSpec) -> np.ndarray:
    return values != IGNORE_INDEX if spec.is_classification else np.isfinite(values)


def example_images(
    model: MulTForMultiTaskDensePrediction, dataset: "Dataset", collator: MultiTaskCollator, count: int
) -> list[ExampleImages]:
    """Coloured maps of evenly spaced rows.

    Args:
        model: a [`MulTForMultiTaskDensePrediction`] in evaluation mode.
        dataset: as for [`evaluate`].
        collator: as for [`evaluate`].
        count: largest number of images.
    """
    specs = collator.processor.task_specs
    found = []
    for row_number in evenly_spread(len(dataset), count):
        row = dataset[row_number]
        pixel_values, (targets,) = collator.collate_for_evaluation([row])
        focal_lengths = collator.focal_lengths([row], (pixel_values.shape[-2], pixel_values.shape[-1]))
        (predictions,) = finish(predict(model, pixel_values.to(model.device)), [targets], collator.processor, focal_lengths)
        found.append((row["image"], *({task: maps[task].cpu().numpy() for task in specs} for maps in (predictions, targets))))
    limits = {
        task: common_limits([truths[task] for _, _, truths in found], [predictions[task] for _, predictions, _ in found]) for task in specs
    }
    keys = {task: common_key(spec, [maps[task] for _, *both in found for maps in both], limits[task]) for task, spec in specs.items()}

    def colored(maps: Mapping[str, np.ndarray]) -> dict[str, Image.Image]:
        return {task: colorize(maps[task], spec, limits[task]) for task, spec in specs.items()}

    def known(maps: Mapping[str, np.ndarray]) -> dict[str, Image.Image | None]:
        unknown = {task for task, spec in specs.items() if not _known_pixels(maps[task], spec).any()}
        return {task: None if task in unknown else image for task, image in colored(maps).items()}

    return [ExampleImages(image, colored(predictions), known(truths), keys) for image, predictions, truths in found]


def example_panel(model: MulTForMultiTaskDensePrediction, dataset: "Dataset", collator: MultiTaskCollator, count: int) -> Image.Image:
    """A panel of these examples: one row with image and predictions, and below it one with the truth."""
    examples = example_images(model, dataset, collator, count)
    rows = [row for each in examples for row in ([each.image, *each.predictions.values()], [None, *each.truths.values()])]
    keys = [None, *examples[0].keys.values()] if examples else []
    return panel(rows, ["image", *collator.processor.task_specs], ["prediction", "truth"] * len(examples), keys)


__all__ = [
    "ExampleImages",
    "comparison_table",
    "example_panel",
    "example_images",
    "gain_table",
    "list_worst",
    "per_class_rows",
    "per_class_tables",
    "remove_results",
    "results_table",
    "save_worst",
    "tasks_with_nan",
    "tasks_without_label",
    "unmeasured_tasks",
]
