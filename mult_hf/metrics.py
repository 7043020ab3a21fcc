"""Metrics of dense predictions from additive statistics.

Every metric is a sum over pixels and one division at the end. Sums may be added over images, batches and processes in any
split, and give the same number. Unknown pixels (NaN, or class 255) never count. A metric without a single known pixel is NaN.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .tasks import IGNORE_INDEX, TaskSpec


@dataclass(frozen=True)
class Metric:
    """How a number is made of sums.

    Args:
        statistics: (prediction, target, spec) of one image -> float64 sums. Class ids are (height, width); other maps
            (channels, height, width) with NaN unknown in the target.
        value: sums -> the metric.
        higher_is_better: direction.
        constant: (targets of many images stacked, spec) -> the map that predicts all of them best by this metric or nearly so.
            It is the trivial predictor that a model has to beat.
    """

    statistics: Callable[[Tensor, Tensor, TaskSpec], Tensor]
    value: Callable[[Tensor], float]
    higher_is_better: bool
    constant: Callable[[Tensor, TaskSpec], Tensor]


def _ratio(sums: Tensor) -> float:
    return (sums[0] / sums[1]).item()  # 0 / 0 is NaN: nothing was known


def _root_ratio(sums: Tensor) -> float:
    return (sums[0] / sums[1]).sqrt().item()


def _sum_and_count(values: Tensor, known: Tensor) -> Tensor:
    """Sum of `values` (..., height, width) over known pixels, and how many numbers were added."""
    known = known.expand_as(values)
    return torch.stack([torch.where(known, values, 0).double().sum(), known.sum().double()])


def _known(target: Tensor) -> Tensor:
    return torch.isfinite(target).all(dim=0, keepdim=True)


def _confusion(prediction: Tensor, target: Tensor, spec: TaskSpec) -> Tensor:
    """(classes, classes) counts, rows being the truth."""
    known = target != IGNORE_INDEX
    pairs = target[known] * spec.channels + prediction[known]
    return torch.bincount(pairs, minlength=spec.channels**2).reshape(spec.channels, -1).double()


def _mean_iou(confusion: Tensor) -> float:
    """Mean over the classes that occur in prediction or truth; classes that never occur are skipped."""
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    return (confusion.diagonal()[union > 0] / union[union > 0]).mean().item()


def _pixel_accuracy(confusion: Tensor) -> float:
    return (confusion.diagonal().sum() / confusion.sum()).item()


def _absolute_error(prediction: Tensor, target: Tensor, spec: TaskSpec) -> Tensor:
    return _sum_and_count((prediction - target).abs(), _known(target))


def _squared_error(prediction: Tensor, target: Tensor, spec: TaskSpec) -> Tensor:
    return _sum_and_count((prediction - target).square(), _known(target))


def _within_quarter(prediction: Tensor, target: Tensor, spec: TaskSpec) -> Tensor:
    """Share of pixels whose prediction and truth differ by a factor below 1.25 (Eigen et al., arXiv 1406.2283, section 4.2)."""
    known = _known(target) & (target > 0).all(dim=0, keepdim=True)
    low, high = torch.minimum(prediction, target), torch.maximum(prediction, target)
    return _sum_and_count((high < 1.25 * low).double(), known)


def _angle(prediction: Tensor, target: Tensor, spec: TaskSpec) -> Tensor:
    """Angle in degrees between vectors; from the sine too, because the cosine alone is blind to angles below 0.03 degrees."""
    prediction, target = F.normalize(prediction.double(), dim=0), F.normalize(target.double(), dim=0)
    half = torch.atan2((prediction - target).norm(dim=0, keepdim=True), (prediction + target).norm(dim=0, keepdim=True))
    return _sum_and_count(torch.rad2deg(2 * half), _known(target))


def _most_frequent(targets: Tensor, spec: TaskSpec) -> Tensor:
    counts = torch.stack([(targets == class_id).sum(dim=0) for class_id in range(spec.channels)])  # (classes, height, width)
    overall = counts.sum(dim=(1, 2), keepdim=True)  # for pixels that are never known
    return torch.where(counts.sum(dim=0) > 0, counts, overall).argmax(dim=0)


def _fill(constant: Tensor, targets: Tensor) -> Tensor:
    """Pixels that are never known get the mean of all known ones, channel by channel."""
    mean = targets.transpose(0, 1).flatten(1).nanmean(dim=1).nan_to_num()
    return torch.where(torch.isfinite(constant), constant, mean[:, None, None])


def _mean(targets: Tensor, spec: TaskSpec) -> Tensor:
    return _fill(targets.nanmean(dim=0), targets)


def _median(targets: Tensor, spec: TaskSpec) -> Tensor:
    return _fill(targets.nanmedian(dim=0).values, targets)


METRICS: dict[str, Metric] = {
    "mean_iou": Metric(_confusion, _mean_iou, True, _most_frequent),
    "pixel_accuracy": Metric(_confusion, _pixel_accuracy, True, _most_frequent),
    "mae": Metric(_absolute_error, _ratio, False, _median),
    "rmse": Metric(_squared_error, _root_ratio, False, _mean),
    "delta1": Metric(_within_quarter, _ratio, True, _mean),
    "mean_angle": Metric(_angle, _ratio, False, lambda targets, spec: F.normalize(_mean(targets, spec), dim=0)),
}
"""Metrics by the name that a task's entry uses: classes, then absolute and squared errors in the task's unit, the share within
a factor of 1.25, and the angle in degrees."""


def metrics_of(spec: TaskSpec) -> dict[str, Metric]:
    """The metrics that a task's entry names, the headline first.

    Raises:
        ValueError: if there is no such metric.
    """
    unknown = [name for name in spec.metrics if name not in METRICS]
    if unknown:
        raise ValueError(f"task {spec.name!r} has metrics {list(spec.metrics)}; allowed: {', '.join(METRICS)}")
    return {name: METRICS[name] for name in spec.metrics}


class MultiTaskMetrics:
    """Collects statistics of several tasks over any number of images, in constant memory.

    Args:
        specs: the tasks' entries by name.

    Raises:
        ValueError: if an entry names an unknown metric.
    """

    def __init__(self, specs: Mapping[str, TaskSpec]) -> None:
        self.specs = dict(specs)
        self.metrics = {task: metrics_of(spec) for task, spec in specs.items()}
        self.sums: dict[str, Tensor] = {}

    def update(self, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Add one image.

        Args:
            predictions: per task as `post_process` returns them, (height, width) or (channels, height, width).
            targets: per task, of the same size, with NaN or 255 unknown; tasks without one are left out.

        Raises:
            ValueError: if shapes differ or a class is none of the task's; the message names the task.
        """
        for task in predictions.keys() & targets.keys():
            spec = self.specs[task]
            prediction, target = (_as_map(maps[task].cpu(), spec) for maps in (predictions, targets))
            if prediction.shape != target.shape:
                raise ValueError(
                    f"{task}: prediction has shape {tuple(prediction.shape)}, target {tuple(target.shape)}; they must be equal"
                )
            if spec.is_classification:
                _check_classes(prediction, target, spec)
            for name, metric in self.metrics[task].items():
                sums = metric.statistics(prediction, target, spec)
                self.sums[f"{task}/{name}"] = self.sums.get(f"{task}/{name}", torch.zeros_like(sums)) + sums

    def merge(self, sums: Mapping[str, Tensor]) -> None:
        """Add the sums that another process collected."""
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value

    def compute(self) -> dict[str, float]:
        """All metrics so far by `"task/metric"`, in the order of the entries; NaN where nothing was known."""
        values = {}
        for task, metrics in self.metrics.items():
            for name, metric in metrics.items():
                sums = self.sums.get(f"{task}/{name}")
                values[f"{task}/{name}"] = float("nan") if sums is None else metric.value(sums)
        return values

    def per_class(self, task: str) -> list[dict[str, str | float]]:
        """The classes of a segmentation so far: name, IoU, accuracy (NaN where a class does not occur), and true pixels of each."""
        spec = self.specs[task]
        confusion = self.sums.get(f"{task}/mean_iou", torch.zeros(spec.channels, spec.channels, dtype=torch.float64))
        found, true = confusion.diagonal(), confusion.sum(1)
        columns = (found / (true + confusion.sum(0) - found)).tolist(), (found / true).tolist(), true.long().tolist()
        names = spec.class_names or [str(class_id) for class_id in range(spec.channels)]
        return [{"class": name, "iou": iou, "accuracy": accuracy, "pixels": n} for name, iou, accuracy, n in zip(names, *columns)]

    def is_better(self, name: str, value: float, than: float) -> bool:
        """Whether one value of `"task/metric"` beats another."""
        task, metric = name.split("/")
        return value > than if self.metrics[task][metric].higher_is_better else value < than


def _as_map(values: Tensor, spec: TaskSpec) -> Tensor:
    """Class ids as they are, (height, width); other maps with an axis of channels."""
    return values if spec.is_classification or values.ndim == 3 else values[None]


def _check_classes(prediction: Tensor, target: Tensor, spec: TaskSpec) -> None:
    """A class beyond the list would be counted as another one."""
    known = target != IGNORE_INDEX
    ids = torch.cat([prediction[known], target[known]])
    if len(ids) and not 0 <= ids.min() <= ids.max() < spec.channels:
        raise ValueError(f"{spec.name}: classes reach from {ids.min()} to {ids.max()}; allowed are 0 to {spec.channels - 1}")


def constant_predictions(targets: Mapping[str, Tensor], specs: Mapping[str, TaskSpec]) -> dict[str, Tensor]:
    """The trivial predictor: per task one map that does not depend on the image, the best by the task's headline metric.

    Args:
        targets: per task those of training images, stacked: (images, height, width) class ids or (images, channels, height,
            width).
        specs: the tasks' entries.

    Returns:
        per task the most frequent class, or the mean, median or mean direction of each pixel.
    """
    return {task: next(iter(metrics_of(specs[task]).values())).constant(stack, specs[task]) for task, stack in targets.items()}


def multi_task_gain(values: Mapping[str, float], reference: Mapping[str, float], specs: Mapping[str, TaskSpec]) -> float:
    """Mean relative gain in percent over single-task results, each by its task's headline metric (Maninis et al., arXiv
    1904.08918, equation 4); positive where the multi-task model is better.

    Args:
        values: of the multi-task model by `"task/metric"`.
        reference: of single-task models, likewise.
        specs: the tasks to count.
    """
    gains = []
    for task, spec in specs.items():
        name, metric = next(iter(metrics_of(spec).items()))
        ours, theirs = values[f"{task}/{name}"], reference[f"{task}/{name}"]
        gains.append((ours - theirs if metric.higher_is_better else theirs - ours) / theirs)
    return 100 * sum(gains) / len(gains)
