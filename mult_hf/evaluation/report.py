"""Tables and pictures of an evaluation."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image
from torch import nn

from mult_hf.data.collator import MultiTaskCollator
from mult_hf.inference.predictor import predict
from mult_hf.model.visualization import color_limits, colorize, panel

if TYPE_CHECKING:
    from datasets import Dataset
from .loop import Evaluation, finish, higher_is_better


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
        pixel_values, (targets,) = collator.collate_for_evaluation([row])
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


__all__ = ["example_panel", "results_table"]
