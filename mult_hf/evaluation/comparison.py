"""Compare models: multi-task gain and paired bootstrap intervals."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mult_hf.metrics import MultiTaskMetrics, multi_task_gain
from mult_hf.model.entry_fields import refusal
from mult_hf.model.tasks import TaskSpec

from .loop import Evaluation


def comparable_tasks(values: Mapping[str, float], reference: Mapping[str, float], specs: Mapping[str, TaskSpec]) -> dict[str, TaskSpec]:
    """The tasks whose headline metric is finite in both and not 0 in the reference (no difference is relative to 0)."""
    return {task: spec for task, spec in specs.items() if _is_comparable(f"{task}/{spec.metrics[0]}", values, reference)}


def _is_comparable(name: str, values: Mapping[str, float], reference: Mapping[str, float]) -> bool:
    value, before = values.get(name, math.nan), reference.get(name, math.nan)
    return math.isfinite(value) and math.isfinite(before) and before != 0


def gain_over(values: Mapping[str, float], baseline: Mapping[str, float], specs: Mapping[str, TaskSpec]) -> float:
    """Multi-task gain over a baseline in percent, over the comparable tasks.

    Args:
        values: metrics by `"task/metric"`.
        baseline: metrics of the baseline by the same names.
        specs: the tasks' entries; the first metric of each counts.

    Returns:
        The mean relative gain over the [`comparable_tasks`]; NaN if there are none, or if the model's own number of a task is not finite
        and the baseline's is, and is not 0: without that task, a model that failed in it could have the best gain.
    """
    names = [f"{task}/{spec.metrics[0]}" for task, spec in specs.items()]
    failed = [name for name in names if name in values and not math.isfinite(values[name])]
    if any(math.isfinite(baseline.get(name, math.nan)) and baseline[name] != 0 for name in failed):
        return math.nan
    counted = comparable_tasks(values, baseline, specs)
    return multi_task_gain(values, baseline, counted) if counted else math.nan


def read_single_task_results(directory: Path, described: Mapping[str, Any]) -> dict[str, float]:
    """Read the metrics of several single-task runs; a run's `results.json` is preferred to its `metrics.json`.

    Args:
        directory: directory with one directory per run.
        described: description of the data; results measured on other data are rejected.

    Returns:
        Metrics by `"task/metric"`.

    Raises:
        ValueError: if there are no results, two results of one task, results of several tasks in one run, or of other data.
    """
    files = {path.parent: path for name in ("metrics.json", "results.json") for path in sorted(directory.glob(f"*/{name}"))}
    if not files:
        raise ValueError(f"{directory} has no metrics.json or results.json in its directories; give the parent of single-task runs")
    values: dict[str, float] = {}
    for path in files.values():
        run = _read_run(path)
        other = {key: run[key] for key, value in described.items() if run.get(key, value) != value}
        if other:
            raise ValueError(f"{path} was measured on {other}, this run on { {key: described[key] for key in other} }; use the same data")
        tasks = sorted({name.split("/")[0] for name in run["model"]})
        if len(tasks) != 1 or run["model"].keys() & values.keys():
            raise refusal(f"{path} has results of {tasks}, and {sorted(values)} were already read; give one run per task")
        values |= {name: math.nan if value is None else value for name, value in run["model"].items()}
    return values


def _read_run(path: Path) -> dict[str, Any]:
    """The numbers of a run.

    Raises:
        ValueError: if the file is not JSON, or has no metrics of a model.
    """
    try:
        run = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}; give directories that `mult-hf train` or `mult-hf evaluate` wrote") from None
    values = run.get("model") if isinstance(run, dict) else None
    if not isinstance(values, dict) or not all(value is None or type(value) in (int, float) for value in values.values()):
        raise ValueError(
            f"{path} has no numbers by metric under `model`; give directories that `mult-hf train` or `mult-hf evaluate` wrote"
        )
    return run


class Difference(NamedTuple):
    """A difference of two predictors in a metric, and its bootstrap interval."""

    difference: float
    low: float
    high: float


def bootstrap_differences(
    a: Evaluation, b: Evaluation, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Difference]:
    """Intervals of the differences of two predictors by the paired percentile bootstrap (Efron and Tibshirani 1993, chapter 13).

    Images are drawn with replacement, the same ones for both predictors, and every metric is computed from their summed statistics.
    The interval reflects image sampling only, not training variance. It assumes independent images, so it is too narrow for views of
    one room or frames of one video.

    Args:
        a: evaluation of the first predictor.
        b: evaluation of the second predictor, on the same images.
        resamples: number of resamples.
        confidence: share of the resamples inside the interval.
        seed: seed of the resampling.

    Returns:
        For each metric of both, `a - b` and the ends of its interval; NaN where nothing is known. Resamples in which nothing is
        known are left out.

    Raises:
        ValueError: if the images differ or were not kept, or `resamples` or `confidence` is out of range.
    """
    for evaluation in (a, b):
        evaluation.check_images()
    if a.names != b.names:
        raise refusal(
            f"the first has {len(a.names)} images, {a.names[:3]}..., the second {len(b.names)}, {b.names[:3]}...; use the same images"
        )
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"resamples is {resamples} and confidence {confidence}; give at least 1, and a share between 0 and 1")
    totals = (a.compute(), b.compute())
    shared = [name for name in totals[0] if name in totals[1]]
    drawn = np.full((resamples, len(shared)), np.nan)
    generator = np.random.default_rng(seed)
    chunk = 100  # resamples that are summed in one product
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


__all__ = ["Difference", "bootstrap_differences", "comparable_tasks", "gain_over", "read_single_task_results"]
