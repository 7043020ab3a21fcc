"""Comparing models: multi-task gain and paired bootstrap intervals."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mult_hf.metrics import MultiTaskMetrics, multi_task_gain
from mult_hf.model.tasks import TaskSpec

from .loop import Evaluation


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


class Difference(NamedTuple):
    """A difference of two predictors in a metric, and its bootstrap interval."""

    difference: float
    low: float
    high: float


def bootstrap_differences(
    a: Evaluation, b: Evaluation, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Difference]:
    """Intervals of the differences of two predictors by the paired percentile bootstrap (Efron and Tibshirani 1993, chapter 13).

    Images are drawn with replacement, the same ones for both, and every metric is computed from their added statistics. The
    interval reflects image sampling only, not training variance. Images are taken as independent: views of one room or frames of
    one film are not, and make the interval too narrow.

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
        name: images.map(lambda values: torch.tensordot(counts, values, dims=1))  # (resamples, images) x (images, ...)
        for name, images in evaluation.stacked().items()
    }
    return [MultiTaskMetrics(evaluation.specs, {name: each[i] for name, each in sums.items()}).compute() for i in range(len(counts))]


def _quantiles(values: np.ndarray, shares: tuple[float, float]) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    return tuple(np.quantile(known, shares).tolist()) if len(known) else (math.nan, math.nan)


__all__ = ["Difference", "bootstrap_differences", "gain_over"]
