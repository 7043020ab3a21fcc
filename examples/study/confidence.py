"""Whether the pipeline's confidence shows where its maps are wrong: rank correlation of doubt and true error.

    python examples/study/confidence.py --split test

Doubt is 1 minus the confidence of a pixel (docs/prediction.md). Spearman's correlation with the error, as the headline metric of the task
measures it, is computed in each image and averaged over images.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from tqdm.auto import tqdm
from transformers import pipeline

import mult_hf
from mult_hf.cli.arguments import check_bounds, flag, parse_arguments
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.markdown import markdown_table
from mult_hf.data.schema import load_rows, load_task_entries
from mult_hf.evaluation.compatibility import measured_specs
from mult_hf.evaluation.loop import evenly_spread
from mult_hf.metrics.correlation import pixel_error
from mult_hf.model.tasks import TaskSpec, resolve_tasks

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("task", "images", "rank correlation", "error of all pixels", "of the most doubtful quarter", "of the least doubtful quarter")


@dataclass
class ConfidenceArguments:
    """Settings of the measurement; each field is a flag."""

    model: str = flag(mult_hf.ROOMS_TINY_CHECKPOINT, "directory or Hub id of the model; by default the small one in the package")
    dataset: str = flag(str(ROOT / "examples/data/rooms-sample"), "local directory or Hub id")
    split: str = flag("validation", "split to measure on")
    max_samples: int | None = flag(None, "measure on this many evenly spaced rows; by default on all")

    def __post_init__(self) -> None:
        check_bounds(self, {1: ["max_samples"]})


@dataclass(frozen=True)
class Measured:
    """How well doubt predicts errors in one image.

    Args:
        correlation: Spearman's rank correlation of doubt and error.
        error: mean error.
        doubtful: mean error of the quarter of pixels with the lowest confidence.
        sure: mean error of the quarter with the highest confidence.
    """

    correlation: float
    error: float
    doubtful: float
    sure: float


def measure(confidence: np.ndarray, error: np.ndarray) -> Measured | None:
    """Compare confidence and error of the known pixels of one image; None if all errors, or all confidences, are equal.

    Args:
        confidence: (height, width).
        error: (height, width), NaN where unknown.
    """
    known = np.isfinite(error) & np.isfinite(confidence)
    confidence, error = confidence[known], error[known]
    if len(error) < 4 or np.ptp(error) == 0 or np.ptp(confidence) == 0:
        return None
    order, quarter = np.argsort(confidence, kind="stable"), len(error) // 4
    correlation = float(spearmanr(-confidence, error).statistic)
    return Measured(correlation, error.mean(), error[order[:quarter]].mean(), error[order[-quarter:]].mean())


def row(task: str, found: Sequence[Measured]) -> list[str]:
    """One row of the table: means over images."""
    values = np.array([[each.correlation, each.error, each.doubtful, each.sure] for each in found])
    means = values.mean(axis=0)
    spread = values[:, 0].std(ddof=1) if len(found) > 1 else float("nan")
    return [task, str(len(found)), f"{means[0]:.2f} ± {spread:.2f}", *(f"{value:.4g}" for value in means[1:])]


def measure_rows(rows: Sequence[Mapping[str, Any]], specs: Mapping[str, TaskSpec], model: str) -> dict[str, list[Measured]]:
    """Predict rows at the size of their labels, with confidence, and measure each task."""
    predict = pipeline("multitask-vision", model=model, tasks=list(specs), confidence=True)
    collator = MultiTaskCollator(type(predict.image_processor)(tasks=[spec.to_dict() for spec in specs.values()]))
    found: dict[str, list[Measured]] = {task: [] for task in specs}
    for sample in tqdm(rows, desc="predicting", mininterval=5):
        _, (targets,) = collator.collate_for_evaluation([sample])
        for task, target in targets.items():
            result = predict(sample, target_size=tuple(target.shape[-2:]))[task]
            measured = measure(result["confidence"].numpy(), pixel_error(result["prediction"], target, specs[task]).numpy())
            found[task] += [] if measured is None else [measured]
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Load, measure, print.

    Args:
        argv: the flags; by default those of this process.
    """
    arguments = parse_arguments(ConfidenceArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    rows = load_rows(arguments.dataset, split=arguments.split)
    rows = rows.select(evenly_spread(len(rows), arguments.max_samples or len(rows)))
    entries = resolve_tasks(load_task_entries(arguments.dataset))
    model = mult_hf.MulTConfig.from_pretrained(arguments.model)
    found = measure_rows(rows, measured_specs(model.task_specs, entries), arguments.model)
    print(markdown_table(COLUMNS, [row(task, each) for task, each in found.items() if each]))


if __name__ == "__main__":
    main()
