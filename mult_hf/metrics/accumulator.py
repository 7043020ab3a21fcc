"""Collect sums of several tasks over images and processes, and compute metrics from them."""

import math
from collections.abc import Mapping
from dataclasses import fields as dataclass_fields
from typing import Any

import torch
from torch import Tensor

from mult_hf.model.entry_fields import refusal
from mult_hf.model.tasks import IGNORE_INDEX, TaskSpec

from .maps import matching_maps
from .statistics import ConfusionMatrix
from .sums import Sums
from .table import STATISTICS, Metric, class_accuracy, class_iou, metrics_of


class MultiTaskMetrics:
    """Collects statistics of several tasks over any number of images, in constant memory.

    Args:
        specs: the tasks' entries by name.
        sums: initial sums by `"task/statistics"`; none by default.

    Attributes:
        metrics: the [`Metric`]s of each task by name.
        sums: current [`Sums`] by `"task/statistics"`, on the CPU.

    Raises:
        ValueError: if an entry names an unknown metric, or a metric for another kind of task.
    """

    def __init__(self, specs: Mapping[str, TaskSpec], sums: Mapping[str, Sums] | None = None) -> None:
        self.specs = dict(specs)
        self.metrics: dict[str, dict[str, Metric]] = {task: metrics_of(spec) for task, spec in specs.items()}
        self.sums: dict[str, Sums] = dict(sums or {})

    @torch.no_grad()
    def update(self, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Add one image.

        Sums are computed on the prediction's device; only the sums are moved to the CPU. (Boundaries are matched on the CPU.)

        Args:
            predictions: maps per task as from `post_process`, (height, width) or (channels, height, width).
            targets: targets per task, of the same size, with NaN or 255 for unknown; tasks without a target, or with None, are left out.

        Raises:
            ValueError: if a map is not that of a single image (a batch, for example), shapes differ, or a class id is out of range;
                the message names the task, and nothing of the image is added.
        """
        for role, maps in (("predictions", predictions), ("targets", targets)):
            if not isinstance(maps, Mapping):
                raise ValueError(f"{role} is a {type(maps).__name__}; pass the maps of one image by task")
        if unknown := sorted((predictions.keys() & targets.keys()) - self.specs.keys()):
            raise refusal(f"there are maps of {unknown}, but these metrics are for {list(self.specs)}; leave them out, or add entries")
        counted = {}  # all tasks first: if one map is wrong, nothing of the image is added
        for task in (task for task in self.specs if task in predictions and targets.get(task) is not None):
            spec = self.specs[task]
            prediction, target = matching_maps(predictions[task], targets[task], spec)
            if spec.is_classification:
                _check_classes(prediction, target, spec)
            for statistics in {metric.statistics for metric in self.metrics[task].values()}:
                counted[f"{task}/{statistics}"] = STATISTICS[statistics].count(prediction, target, spec).map(Tensor.cpu)
        for name, sums in counted.items():
            self._add(name, sums)

    def merge(self, other: "MultiTaskMetrics") -> None:
        """Add the sums of another object, which is not modified."""
        for name, sums in other.sums.items():
            self._add(name, sums)

    def _add(self, name: str, sums: Sums) -> None:
        self.sums[name] = self.sums[name] + sums if name in self.sums else sums

    def state(self) -> dict[str, Tensor]:
        """The sums as tensors by `"task/statistics/field"`, for sending or storing; [`merge_state`] reads them."""
        return {f"{name}/{field}": value for name, sums in self.sums.items() for field, value in sums.tensors().items()}

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Add the sums that the [`state`] of another object returned.

        Raises:
            ValueError: if a tensor belongs to no statistics of these tasks, is missing, or has another shape; nothing is added then.
        """
        fields: dict[str, dict[str, Tensor]] = {}
        for name, value in state.items():
            statistics, _, field = name.rpartition("/")
            fields.setdefault(statistics, {})[field] = value
        allowed = {f"{task}/{metric.statistics}": metric for task, metrics in self.metrics.items() for metric in metrics.values()}
        if unknown := sorted(fields.keys() - allowed.keys()):
            raise refusal(f"the state has unknown sums {unknown}; allowed for these tasks: {', '.join(allowed)}")
        added = {}
        for name, tensors in fields.items():
            kind = STATISTICS[allowed[name].statistics].sums
            if tensors.keys() != (expected := {field.name for field in dataclass_fields(kind)}):
                raise refusal(f"the state of {name} has {sorted(tensors)}; expected {sorted(expected)}")
            added[name] = kind.of(tensors)
            shapes = {field: tuple(value.shape) for field, value in tensors.items()}
            here = self.sums.get(name) or _of_nothing(allowed[name].statistics, self.specs[name.rpartition("/")[0]])
            expected_shapes = {field: tuple(value.shape) for field, value in here.tensors().items()}
            if shapes != expected_shapes:
                raise refusal(f"the state of {name} has the shapes {shapes}, and these sums {expected_shapes}; are the classes the same?")
        for name, sums in added.items():
            self._add(name, sums)

    def compute(self) -> dict[str, float]:
        """All metrics so far by `"task/metric"`, in the order of the entries; NaN where no pixel was known."""
        values = {}
        for task, metrics in self.metrics.items():
            for name, metric in metrics.items():
                sums = self.sums.get(f"{task}/{metric.statistics}")
                values[f"{task}/{name}"] = float("nan") if sums is None else metric.value(sums)
        return values

    def has_labels(self, task: str, metric: str | None = None) -> bool:
        """Whether any pixel so far was known. Metrics are NaN without one, and also where a prediction at a known pixel is NaN.

        Args:
            task: name of the task.
            metric: a metric for which the pixel has to count; any of the task's by default. `abs_rel` leaves out targets of 0.
        """
        metrics = self.metrics[task].values() if metric is None else [self.metrics[task][metric]]
        sums = [self.sums.get(f"{task}/{each.statistics}") for each in metrics]
        return any(each is not None and not each.is_empty for each in sums)

    def per_class(self, task: str) -> list[dict[str, Any]]:
        """Results per class of a classification task, in the order of the ids.

        Returns:
            Per class `{"class": name, "iou": share, "accuracy": share, "pixels": number of true pixels}`; the id replaces a missing
            name. The IoU is NaN if a class occurs in neither prediction nor truth, the accuracy if it does not occur in the truth.

        Raises:
            ValueError: if the task counts no classes.
        """
        if not any(metric.statistics == "confusion" for metric in self.metrics[task].values()):
            raise refusal(f"{task}: its metrics {list(self.metrics[task])} do not count classes; add 'mean_iou' to its entry")
        spec = self.specs[task]
        confusion = self.sums.get(f"{task}/confusion")
        if not isinstance(confusion, ConfusionMatrix):  # nothing was counted so far
            confusion = ConfusionMatrix(torch.zeros(spec.channels, spec.channels, dtype=torch.float64))
        names = spec.class_names or [str(class_id) for class_id in range(spec.channels)]
        columns = class_iou(confusion).tolist(), class_accuracy(confusion).tolist(), confusion.counts.sum(1).long().tolist()
        return [{"class": name, "iou": iou, "accuracy": accuracy, "pixels": pixels} for name, iou, accuracy, pixels in zip(names, *columns)]

    def is_better(self, name: str, value: float, than: float) -> bool:
        """Whether one value of `"task/metric"` is better than another."""
        task, metric = name.split("/")
        return value > than if self.metrics[task][metric].higher_is_better else value < than


def _of_nothing(statistics: str, spec: TaskSpec) -> Sums:
    """The sums of an image without known pixels."""
    if spec.is_classification:
        prediction, target = torch.zeros(8, 8, dtype=torch.long), torch.full((8, 8), IGNORE_INDEX)
    else:
        prediction, target = torch.zeros(spec.channels, 8, 8), torch.full((spec.channels, 8, 8), math.nan)
    return STATISTICS[statistics].count(prediction, target, spec)


def _check_classes(prediction: Tensor, target: Tensor, spec: TaskSpec) -> None:
    """Reject class ids beyond the list, which would be counted as other classes, and fractions, which would be cut off."""
    for role, values in (("prediction", prediction), ("target", target)):
        if values.is_floating_point():
            raise ValueError(f"{spec.name}: {role} has class ids of {values.dtype}; expected integers")
    known = target != IGNORE_INDEX
    if bool((undecided := prediction[known] == IGNORE_INDEX).any()):
        raise ValueError(
            f"{spec.name}: the prediction is {IGNORE_INDEX}, which stands for logits of NaN, at {int(undecided.sum())} known pixels; "
            f"allowed are 0 to {spec.channels - 1}, so look for the NaN, for example in the weights or in a --dtype of few bits"
        )
    ids = torch.cat([prediction[known], target[known]])
    if len(ids) and not 0 <= ids.min() <= ids.max() < spec.channels:
        raise ValueError(f"{spec.name}: class ids range from {ids.min()} to {ids.max()}; allowed are 0 to {spec.channels - 1}")


def constant_predictions(targets: Mapping[str, Tensor], specs: Mapping[str, TaskSpec]) -> dict[str, Tensor]:
    """The constant baseline: one map per task that does not depend on the image, the best one by the task's headline metric.

    Args:
        targets: stacked targets of training images per task: (images, height, width) class ids or (images, channels, height,
            width).
        specs: the tasks' entries.

    Returns:
        Per task the most frequent class, or the mean, median or mean direction, at each pixel.
    """
    known = {
        task: stack if specs[task].is_classification else stack.where(stack.isfinite().all(dim=1, keepdim=True), math.nan)
        for task, stack in targets.items()
    }
    return {task: next(iter(metrics_of(specs[task]).values())).constant(stack, specs[task]) for task, stack in known.items()}


def multi_task_gain(values: Mapping[str, float], reference: Mapping[str, float], specs: Mapping[str, TaskSpec]) -> float:
    """Multi-task gain over a reference, usually one model per task: Delta_m in percent.

    The mean over tasks of the relative difference of the headline metric, where positive means better (Maninis et al., arXiv
    1904.08918; Vandenhende et al., arXiv 2004.13379):
    100 / T * sum of s * (value - reference) / reference, with s = 1 where higher is better and -1 where lower is better.

    Args:
        values: metrics by `"task/metric"`, as from [`MultiTaskMetrics.compute`]. Only headline metrics of `specs` are read.
        reference: metrics of the reference, or of each task's own model, by the same names.
        specs: entries of the tasks that count, by name.

    Raises:
        ValueError: if there is no task, or a headline metric is missing, NaN, infinite, or 0 in the reference.
    """
    if not specs:
        raise refusal(f"the gain is a mean over tasks, but specs is {dict(specs)}; pass at least one task's entry")
    gains = []
    for task, spec in specs.items():
        name, metric = next(iter(metrics_of(spec).items()))
        value, before = (_headline(numbers, f"{task}/{name}", side) for numbers, side in ((values, "values"), (reference, "reference")))
        if before == 0:
            raise ValueError(f"{task}/{name} is 0 in the reference, so no difference is relative to it; remove {task!r} from specs")
        gains.append((value - before) / before * (1 if metric.higher_is_better else -1))
    return 100 * sum(gains) / len(gains)


def _headline(numbers: Mapping[str, float], name: str, side: str) -> float:
    value = numbers.get(name)
    if value is None or not math.isfinite(value):
        came = f"NaN or infinite ({value})" if name in numbers else f"missing among {sorted(numbers)}"
        raise ValueError(f"{name} is {came} in the {side}; measure it, or remove the task from specs")
    return value
