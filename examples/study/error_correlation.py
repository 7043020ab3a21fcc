"""Correlation of a model's errors between tasks over a split, as a table and a heat map.

    python examples/study/error_correlation.py --model outputs/mult-rooms --split test

Errors are computed at the size of the stored labels, over the pixels at which both tasks are known (docs/idea.md). `--output_dir`
receives `correlation.json` and `correlation.png`.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from tqdm.auto import tqdm

from mult_hf import MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.cli.arguments import check_bounds, flag, parse_arguments
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.schema import load_rows, load_task_entries
from mult_hf.evaluation.cards import to_jsonable
from mult_hf.evaluation.compatibility import measured_specs
from mult_hf.evaluation.loop import evenly_spread, finish
from mult_hf.inference.predictor import predict
from mult_hf.metrics.correlation import ErrorCorrelation, correlation_table
from mult_hf.model.tasks import resolve_tasks
from mult_hf.model.visualization import matrix_image

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class CorrelationArguments:
    """Settings of the measurement; each field is a flag."""

    model: str = field(metadata={"help": "directory or Hub id of the model"})
    dataset: str = flag(str(ROOT / "examples/data/rooms-sample"), "local directory or Hub id")
    split: str = flag("test", "split to measure on")
    batch_size: int = flag(8, "images per batch")
    max_samples: int | None = flag(None, "measure on this many evenly spaced rows; by default on all")
    output_dir: Path = flag(Path("outputs/error-correlation"), "where everything is written")

    def __post_init__(self) -> None:
        check_bounds(self, {1: ("batch_size", "max_samples")})


def correlate(path: str, dataset: Dataset, entries: list[dict], batch_size: int) -> ErrorCorrelation:
    """Predict all rows and sum the errors of the tasks that model and data share."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    model = MulTForMultiTaskDensePrediction.from_pretrained(path).to(device).eval()
    specs = measured_specs(model.config.task_specs, resolve_tasks(entries))
    collator = MultiTaskCollator(MulTImageProcessor.from_pretrained(path, tasks=[spec.to_dict() for spec in specs.values()]))
    correlation = ErrorCorrelation(specs)
    for start in tqdm(range(0, len(dataset), batch_size), desc="predicting", mininterval=5):
        rows = [dataset[number] for number in range(start, min(start + batch_size, len(dataset)))]
        pixel_values, targets = collator.collate_for_evaluation(rows)
        predictions = predict(model, pixel_values.to(device), tasks=list(specs))
        focal_lengths = collator.focal_lengths(rows, (pixel_values.shape[-2], pixel_values.shape[-1]))
        for maps, true in zip(finish(predictions, targets, collator.processor, focal_lengths), targets):
            correlation.update(maps, true)
    return correlation


def main(argv: Sequence[str] | None = None) -> None:
    """Load, measure, write.

    Args:
        argv: the flags; by default those of this process.
    """
    arguments = parse_arguments(CorrelationArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    dataset = load_rows(arguments.dataset, split=arguments.split)
    dataset = dataset.select(evenly_spread(len(dataset), arguments.max_samples))
    correlation = correlate(arguments.model, dataset, load_task_entries(arguments.dataset), arguments.batch_size)
    tasks, values, pixels = list(correlation.specs), correlation.compute(), correlation.sums.count.long().tolist()
    print(correlation_table(values, tasks))
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    report = {"split": arguments.split, "samples": len(dataset), "tasks": tasks, "correlation": values.tolist(), "pixels": pixels}
    (arguments.output_dir / "correlation.json").write_text(json.dumps(to_jsonable(report), indent=2, allow_nan=False) + "\n")
    matrix_image(values.numpy(), tasks).save(arguments.output_dir / "correlation.png")
    print(f"written to {arguments.output_dir}")


if __name__ == "__main__":
    main()
