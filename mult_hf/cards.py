"""Results in model cards: metrics as the Hub's `eval_results`, added to a card without losing what others wrote there."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from .tasks import TaskSpec


def eval_results(
    values: Mapping[str, float],
    specs: Mapping[str, TaskSpec],
    dataset: str,
    split: str,
    settings: Mapping[str, Any] | None = None,
) -> list[EvalResult]:
    """Metrics as a model card holds them.

    Args:
        values: by `"task/metric"`, as from `MultiTaskMetrics.compute`; those that are not known (NaN) are left out.
        specs: the tasks' entries.
        dataset: name or Hub id of the data.
        split: of the data.
        settings: how the model was run where it differs from plain use (test-time augmentation), in plain values.

    Returns:
        one entry a metric, rounded to five digits after the point.
    """
    return [
        EvalResult(
            task_type=specs[name.split("/")[0]].transformers_task or "image-to-image",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type=name.split("/")[1],
            metric_name=name,
            metric_value=round(value, 5),
            metric_args=dict(settings) if settings else None,
        )
        for name, value in values.items()
        if not math.isnan(value)
    ]


def update_card(path: Path, results: Sequence[EvalResult]) -> None:
    """Write results into the metadata of a model card; an earlier value of the same measurement is replaced, all else stays.

    Args:
        path: the model's README.md.
        results: as from [`eval_results`].

    Raises:
        ValueError: if there is no card.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; examples/train.py writes a card beside a model, or start from model_card.md")
    card = ModelCard.load(path)
    kept = [old for old in card.data.eval_results or [] if not any(old.is_equal_except_value(new) for new in results)]
    card.data.eval_results = [*kept, *results]
    card.data.model_name = card.data.model_name or path.resolve().parent.name
    card.save(path)
