"""Metrics for `transformers.Trainer`: each image is reduced to its sums in the process that predicted it, and only sums are gathered."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import EvalPrediction

from mult_hf.metrics import MultiTaskMetrics
from mult_hf.model.image_processing_base import MulTProcessingMixin


class TrainerMetrics:
    """Evaluates in constant memory, whatever the number of images and processes.

    Trainer would collect every dense map of the evaluation set. Here each process reduces its own predictions to the sums of each
    image before anything is gathered, and these are added batch by batch. Trainer fills the last batch of several processes up
    with repeated images and drops their rows after gathering; as there is one row per image, no image counts twice. (Over a data set
    without a length Trainer cannot tell which rows are repeated, and does not drop them.)

    Trainer does not signal when an evaluation begins: make a new object after an interrupted one.

    Args:
        processor: the MulT image processor; its task entries name the metrics, and it brings predictions to their units.

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
        """Reduce one batch; to be given to Trainer as `preprocess_logits_for_metrics`.

        Args:
            predictions: per task (batch, channels, height, width), as the model returns them.
            labels: per task the target of the same size, with NaN or 255 unknown; `None` where the batch has no labels.

        Returns:
            the sums of each image, (batch, ...) float64, by the names of `MultiTaskMetrics.state`; without labels the predictions,
            unchanged.
        """
        if labels is None:
            return predictions
        images = []
        for number, result in enumerate(self.processor.post_process(predictions)):
            image = MultiTaskMetrics(self.processor.task_specs)
            image.update({task: maps["prediction"] for task, maps in result.items()}, {task: maps[number] for task, maps in labels.items()})
            images.append(image.state())
        # Processes gather one tensor after the other, so all need them in one order, and on the device that they gather on.
        device = next(iter(predictions.values())).device if torch.distributed.is_initialized() else "cpu"
        return {name: torch.stack([sums[name] for sums in images]).to(device) for name in sorted(images[0])}

    def __call__(self, evaluation: EvalPrediction, compute_result: bool | None = None) -> dict[str, float]:
        """Add one gathered batch; to be given to Trainer as `compute_metrics`.

        Args:
            evaluation: its `predictions` are what [`sums_of_images`][TrainerMetrics.sums_of_images] returned.
            compute_result: whether it is the last batch.

        Returns:
            After the last batch every metric by `"task/metric"`, NaN where nothing was known; nothing before.

        Raises:
            ValueError: if Trainer was set up without `batch_eval_metrics` or `preprocess_logits_for_metrics`.
        """
        if compute_result is None:
            raise ValueError("Trainer collected the whole evaluation set; pass batch_eval_metrics=True to TrainingArguments")
        if not all("/" in name for name in evaluation.predictions):
            given = list(evaluation.predictions)
            raise ValueError(f"Trainer gathered whole maps of {given}; pass it preprocess_logits_for_metrics=metrics.sums_of_images")
        self._collected.merge_state({name: rows.sum(dim=0).cpu() for name, rows in evaluation.predictions.items()})
        if not compute_result:
            return {}
        values = self._collected.compute()
        self._collected = MultiTaskMetrics(self.processor.task_specs)
        return values
