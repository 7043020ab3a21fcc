"""Evaluation during training: the model and the constant baseline on the validation rows."""

from functools import partial
from typing import NamedTuple

from accelerate import Accelerator
from datasets import Dataset

from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.row_errors import naming_split
from mult_hf.evaluation.baseline import constant_baseline
from mult_hf.evaluation.comparison import gain_over
from mult_hf.evaluation.loop import Evaluation, evaluate
from mult_hf.inference.predictor import Predictor, predict
from mult_hf.model.modeling_mult import MulTForMultiTaskDensePrediction


class Measured(NamedTuple):
    """The metrics of a model and of the constant baseline, and the model's multi-task gain over the baseline in percent."""

    model: Evaluation
    baseline: Evaluation
    gain: float


class Validation:
    """Measures models on the validation rows, always against the same constant baseline.

    Args:
        training_rows: rows for computing the constant baseline.
        rows: rows to measure on.
        collator: a collator without augmentation.
        baseline_collator: that of the training rows, if they are of other data sets.
        accelerator: the processes, which share the rows.
        batch_size: images per batch and process.
        num_workers: worker processes that prepare batches.

    Raises:
        ValueError: if there are no training rows.
    """

    def __init__(
        self,
        training_rows: Dataset,
        rows: Dataset,
        collator: MultiTaskCollator,
        accelerator: Accelerator,
        *,
        batch_size: int,
        num_workers: int,
        baseline_collator: MultiTaskCollator | None = None,
    ) -> None:
        self.rows = rows
        self.collator = collator
        with naming_split("training"):
            self._predict_baseline = constant_baseline(training_rows, baseline_collator or collator)
        self._baseline: Evaluation | None = None
        self._evaluate = partial(evaluate, accelerator=accelerator, per_image=False, batch_size=batch_size, num_workers=num_workers)

    @naming_split("validation")
    def measure_baseline(self) -> None:
        """Measure the baseline. This reads every validation row, so that one that cannot be used is found before the first step.

        Raises:
            RowError: naming the row.
        """
        predictors = {"baseline": self._predict_baseline}
        self._baseline = self._evaluate(predictors, self.rows, self.collator, description="measuring the baseline")["baseline"]

    @naming_split("validation")
    def measure(self, model: MulTForMultiTaskDensePrediction) -> Measured:
        """Measure a model in evaluation mode, and the baseline in the same pass if it was not measured before."""
        predictors: dict[str, Predictor] = {"model": partial(predict, model)}
        if self._baseline is None:
            predictors["baseline"] = self._predict_baseline
        found = self._evaluate(predictors, self.rows, self.collator)
        baseline = self._baseline = found["baseline"] if self._baseline is None else self._baseline
        gain = gain_over(found["model"].compute(), baseline.compute(), self.collator.processor.task_specs)
        return Measured(found["model"], baseline, gain)


__all__ = ["Measured", "Validation"]
