"""Metrics for `transformers.Trainer`: each process reduces its own images to sums, and only these are gathered."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import EvalPrediction

from mult_hf.metrics import MultiTaskMetrics
from mult_hf.model.cameras import without_camera_limits
from mult_hf.model.image_processing_base import MulTProcessingMixin


class TrainerMetrics:
    """Evaluates in constant memory, for any number of images and processes.

    Trainer would collect every dense map of the evaluation set. Here each process reduces its own predictions to sums per image
    before anything is gathered, and the sums are added batch by batch. With several processes, Trainer fills up the last batch with
    repeated images and drops their rows after gathering. There is one row per image, so no image counts twice. (For a data set
    without a length, Trainer does not detect the repeated rows and does not drop them.)

    Trainer does not signal the start of an evaluation, so create a new object after an interrupted evaluation.

    With a `canonical_focal_length`, errors of depth are those of the canonical camera, because Trainer's batches hold no focal lengths:
    compare them within a run only. `mult-hf evaluate` measures metres.

    Args:
        processor: the MulT image processor; its task entries name the metrics, and it converts predictions to their units.

    Examples:
        >>> from mult_hf import MulTImageProcessor
        >>> from mult_hf.training.trainer_metrics import TrainerMetrics
        >>> metrics = TrainerMetrics(MulTImageProcessor(tasks=["depth"]))
        >>> in_trainer = {"compute_metrics": metrics, "preprocess_logits_for_metrics": metrics.sums_of_images}
        >>> in_arguments = {"batch_eval_metrics": True, "metric_for_best_model": "depth/rmse", "greater_is_better": False}
    """

    def __init__(self, processor: MulTProcessingMixin) -> None:
        self.processor = processor
        self._collected = MultiTaskMetrics(processor.task_specs)

    def sums_of_images(self, predictions: Mapping[str, Tensor], labels: Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
        """Reduce one batch to sums; pass this method to Trainer as `preprocess_logits_for_metrics`.

        Args:
            predictions: predictions per task, (batch, channels, height, width), as returned by the model.
            labels: targets per task, of the same size, with NaN or 255 for unknown; `None` if the batch has no labels.

        Returns:
            The sums of each image, (batch, ...) float64, by the names of `MultiTaskMetrics.state`; without labels the unchanged
            predictions.
        """
        if labels is None:
            return predictions
        images = []
        canonical, entries = self.processor.canonical_focal_length, self.processor.task_specs
        if canonical is not None:  # labels are those of the canonical camera, so predictions stay so, too
            entries = {task: without_camera_limits(spec) for task, spec in entries.items()}
        for number, result in enumerate(self.processor.post_process(predictions, tasks=entries, focal_length=canonical)):
            image = MultiTaskMetrics(self.processor.task_specs)
            image.update({task: maps["prediction"] for task, maps in result.items()}, {task: maps[number] for task, maps in labels.items()})
            images.append(image.state())
        # Processes gather one tensor after another, so all need the same order, on the device used for gathering.
        device = next(iter(predictions.values())).device if torch.distributed.is_initialized() else "cpu"
        return {name: torch.stack([sums[name] for sums in images]).to(device) for name in sorted(images[0])}

    def __call__(self, evaluation: EvalPrediction, compute_result: bool | None = None) -> dict[str, float]:
        """Add one gathered batch; pass this object to Trainer as `compute_metrics`.

        Args:
            evaluation: evaluation whose `predictions` are results of [`sums_of_images`][TrainerMetrics.sums_of_images].
            compute_result: whether this is the last batch.

        Returns:
            After the last batch, every metric by `"task/metric"`, NaN where no pixel was known; before, an empty dictionary.

        Raises:
            ValueError: if Trainer was set up without `batch_eval_metrics` or `preprocess_logits_for_metrics`.
        """
        if compute_result is None:
            raise ValueError(
                f"compute_result is {compute_result}: Trainer collected the whole set; pass batch_eval_metrics=True to TrainingArguments"
            )
        predictions: Any = evaluation.predictions  # a dictionary, as `sums_of_images` returns it
        if not all("/" in name for name in predictions):
            given = list(predictions)
            raise ValueError(f"Trainer gathered full maps of {given}; pass preprocess_logits_for_metrics=metrics.sums_of_images to Trainer")
        self._collected.merge_state({name: rows.sum(dim=0).cpu() for name, rows in predictions.items()})
        if not compute_result:
            return {}
        values = self._collected.compute()
        self._collected = MultiTaskMetrics(self.processor.task_specs)
        return values
