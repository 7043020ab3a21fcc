"""The metrics by name: the sums that each uses, how it is computed from them, and how it is displayed.

To add a metric, add an entry to [`METRICS`] (and one to [`STATISTICS`] if it needs new sums).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mult_hf.model.entry_fields import refusal
from mult_hf.model.losses import stays_within
from mult_hf.model.tasks import TaskSpec

from .boundaries import BoundaryCounts, average_precision, boundary_counts, ods_f, ois_f
from .statistics import (
    DEGREES_PER_BIN,
    SHORTEST,
    AngleSums,
    ConfusionMatrix,
    ErrorSums,
    RatioSums,
    Statistics,
    angles,
    confusion,
    errors,
    median_scaled,
    ratios,
)
from .sums import CountedSums, Sums

TOLERANCES = (0.0075, 0.011)
"""Largest distances of matched boundary pixels as shares of the image diagonal: BSDS, and the usual value for NYUv2."""


@dataclass(frozen=True)
class Statistic:
    """A statistic, and the tasks that it applies to.

    Args:
        count: function (prediction, target, spec) of one image -> named sums.
        sums: class of these sums.
        kind: kind of the tasks.
        channels: smallest and largest number of channels; None for no limit.
        values: lowest and highest value that it is defined for.
        beyond: what it does with other values, for a message.
    """

    count: Statistics
    sums: type[Sums]
    kind: Literal["classification", "regression"] = "regression"
    channels: tuple[int, int | None] = (1, None)
    values: tuple[float, float] = (-math.inf, math.inf)
    beyond: str = ""

    def is_defined(self, spec: TaskSpec) -> bool:
        """Whether it is defined for all values of a task, as far as the entry limits them."""
        return stays_within(spec, self.values)

    def fits(self, spec: TaskSpec) -> bool:
        """Whether the statistic applies to a task."""
        fewest, most = self.channels
        return spec.kind == self.kind and fewest <= spec.channels and (most is None or spec.channels <= most)

    @property
    def tasks(self) -> str:
        """Description of the tasks that it applies to."""
        if self.kind == "classification":
            return self.kind
        fewest, most = self.channels
        limits = "any number of channels" if (fewest, most) == (1, None) else "one channel" if most == 1 else f"{fewest} or more channels"
        return f"{self.kind} with {limits}"


_OF_POSITIVE_VALUES: dict[str, Any] = {"values": (0.0, math.inf), "beyond": "leaves out values of 0 or less"}

STATISTICS: dict[str, Statistic] = {
    "confusion": Statistic(confusion, ConfusionMatrix, "classification"),
    "errors": Statistic(errors, ErrorSums),
    "ratios": Statistic(ratios, RatioSums, **_OF_POSITIVE_VALUES),
    "errors_median_scaled": Statistic(median_scaled(errors), ErrorSums),
    "ratios_median_scaled": Statistic(median_scaled(ratios), RatioSums, **_OF_POSITIVE_VALUES),
    "angles": Statistic(angles, AngleSums, channels=(2, None)),
    **{
        f"boundaries_{tolerance}": Statistic(
            partial(boundary_counts, max_dist=tolerance),
            BoundaryCounts,
            channels=(1, 1),
            values=(0.0, 1.0),
            beyond="takes values for probabilities from 0 to 1",
        )
        for tolerance in TOLERANCES
    },
}
"""Statistics by the name that metrics refer to. Each is computed once per image, regardless of how many metrics use it."""


@dataclass(frozen=True)
class Unit:
    """The unit in which a number is displayed.

    Args:
        symbol: text in the table's header; `{task}` is replaced by the task's unit.
        factor: factor that converts the number to this unit.
        digits: number of decimal places.
    """

    symbol: str = ""
    factor: float = 1.0
    digits: int = 4


PLAIN, OF_TASK, PERCENT, DEGREES = Unit(), Unit("{task}"), Unit("%", 100.0, 2), Unit("degrees", digits=2)


@dataclass(frozen=True)
class Metric:
    """A metric that is computed from sums.

    Args:
        statistics: name of the sums in [`STATISTICS`].
        value: function of those sums that returns the metric; NaN if nothing was known.
        higher_is_better: whether a higher value is better.
        constant: function (stacked targets of many images, spec) that returns the constant baseline that a model has to beat: the
            (nearly) best single map by this metric.
        label: name in tables.
        unit: unit in tables.
    """

    statistics: str
    value: Callable[[Any], float]
    higher_is_better: bool
    constant: Callable[[Tensor, TaskSpec], Tensor]
    label: str
    unit: Unit = PLAIN

    @property
    def direction(self) -> str:
        """`"higher"` or `"lower"`, whichever is better."""
        return "higher" if self.higher_is_better else "lower"

    def title(self, spec: TaskSpec) -> str:
        """Header of a table's column or row: label, unit, and an arrow in the better direction, for example `"RMSE (m) ↓"`."""
        symbol = self.unit.symbol.format(task=spec.unit)
        return " ".join([self.label, *([f"({symbol})"] if symbol else []), "↑" if self.higher_is_better else "↓"])

    def format(self, value: float) -> str:
        """The number in the unit of the title, for example `"53.65"` for a share of 0.53651."""
        return f"{value * self.unit.factor:.{self.unit.digits}f}"


def _mean_of(sums: CountedSums, field: str) -> Tensor:
    return getattr(sums, field) / sums.count  # 0 / 0 is NaN: nothing was known


def _mean(field: str) -> Callable[[CountedSums], float]:
    return lambda sums: _mean_of(sums, field).item()


def _root_mean(field: str) -> Callable[[CountedSums], float]:
    return lambda sums: _mean_of(sums, field).sqrt().item()


def _silog(sums: RatioSums) -> float:
    """Standard deviation of log prediction - log target, times 100: the root of mean d^2 - (mean d)^2.

    Scale-invariant error of Eigen et al. (arXiv 1406.2283, section 3.2); root and factor as in KITTI's depth benchmark.
    """
    return 100 * (_mean_of(sums, "squared_log") - _mean_of(sums, "log").square()).clamp(min=0).sqrt().item()


def class_iou(confusion: ConfusionMatrix) -> Tensor:
    """(classes,) intersection over union; NaN for classes that occur in neither prediction nor truth."""
    counts = confusion.counts
    return counts.diagonal() / (counts.sum(0) + counts.sum(1) - counts.diagonal())


def class_accuracy(confusion: ConfusionMatrix) -> Tensor:
    """(classes,) share of each true class that is predicted correctly; NaN for classes that do not occur in the truth."""
    return confusion.counts.diagonal() / confusion.counts.sum(1)


def _mean_iou(confusion: ConfusionMatrix) -> float:
    return class_iou(confusion).nanmean().item()


def _mean_iou_all_classes(confusion: ConfusionMatrix) -> float:
    return class_iou(confusion).nan_to_num(0).mean().item() if confusion.counts.any() else float("nan")


def _pixel_accuracy(confusion: ConfusionMatrix) -> float:
    return (confusion.counts.diagonal().sum() / confusion.counts.sum()).item()


def _mean_accuracy(confusion: ConfusionMatrix) -> float:
    return class_accuracy(confusion).nanmean().item()


def _median_angle(sums: AngleSums) -> float:
    """Centre of the bin that contains the median (the lower of two middle values), so within half a bin of it."""
    middle = torch.searchsorted(sums.histogram.cumsum(0), sums.count / 2).item()
    return (middle + 0.5) * DEGREES_PER_BIN if sums.count else float("nan")


def _share_within(degrees: float) -> Callable[[AngleSums], float]:
    return lambda sums: (sums.histogram[: round(degrees / DEGREES_PER_BIN)].sum() / sums.count).item()


def _most_frequent_class(targets: Tensor, spec: TaskSpec) -> Tensor:
    counts = torch.stack([(targets == class_id).sum(dim=0) for class_id in range(spec.channels)])  # (classes, height, width)
    overall = counts.sum(dim=(1, 2), keepdim=True)  # for pixels that are unknown in every image
    return torch.where(counts.sum(dim=0) > 0, counts, overall).argmax(dim=0)


def _fill(constant: Tensor, targets: Tensor) -> Tensor:
    """Fill pixels that are unknown in every image with the mean of all known ones, per channel."""
    mean = targets.transpose(0, 1).flatten(1).nanmean(dim=1).nan_to_num()
    return torch.where(torch.isfinite(constant), constant, mean[:, None, None])


def _mean_map(targets: Tensor, spec: TaskSpec) -> Tensor:
    return _fill(targets.nanmean(dim=0), targets)


def _median_map(targets: Tensor, spec: TaskSpec) -> Tensor:
    return _fill(targets.nanmedian(dim=0).values, targets)


def _mean_direction(targets: Tensor, spec: TaskSpec) -> Tensor:
    mean = _mean_map(targets, spec)
    overall = _fill(torch.full_like(mean, math.nan), targets)  # where opposite directions cancel out, which leaves none
    anything = torch.zeros_like(mean)
    anything[0] = 1
    for other in (overall, anything):
        mean = torch.where(mean.norm(dim=0) > SHORTEST, mean, other)
    return F.normalize(mean, dim=0)


SEGMENTATION_METRICS = {
    "mean_iou": Metric("confusion", _mean_iou, True, _most_frequent_class, "mIoU", PERCENT),
    "mean_iou_all_classes": Metric("confusion", _mean_iou_all_classes, True, _most_frequent_class, "mIoU, absent classes 0", PERCENT),
    "pixel_accuracy": Metric("confusion", _pixel_accuracy, True, _most_frequent_class, "pixel accuracy", PERCENT),
    "mean_accuracy": Metric("confusion", _mean_accuracy, True, _most_frequent_class, "mean accuracy", PERCENT),
}

MAP_METRICS = {
    "mae": Metric("errors", _mean("absolute"), False, _median_map, "MAE", OF_TASK),
    "rmse": Metric("errors", _root_mean("squared"), False, _mean_map, "RMSE", OF_TASK),
}

DEPTH_METRICS = {
    "rmse": MAP_METRICS["rmse"],
    "log_rmse": Metric("ratios", _root_mean("squared_log"), False, _median_map, "log RMSE"),
    "abs_rel": Metric("ratios", _mean("relative"), False, _median_map, "AbsRel"),
    "sq_rel": Metric("ratios", _mean("squared_relative"), False, _mean_map, "SqRel", OF_TASK),
    "delta1": Metric("ratios", _mean("within_1"), True, _mean_map, "delta < 1.25", PERCENT),
    "delta2": Metric("ratios", _mean("within_2"), True, _mean_map, "delta < 1.25^2", PERCENT),
    "delta3": Metric("ratios", _mean("within_3"), True, _mean_map, "delta < 1.25^3", PERCENT),
    "silog": Metric("ratios", _silog, False, _median_map, "SILog", Unit("100 log", digits=2)),
}

MEDIAN_SCALED_DEPTH_METRICS = {
    f"{name}_median_scaled": replace(metric, statistics=f"{metric.statistics}_median_scaled", label=f"{metric.label}, median-scaled")
    for name, metric in DEPTH_METRICS.items()
}

NORMALS_METRICS = {
    "mean_angle": Metric("angles", _mean("angle"), False, _mean_direction, "mean angle", DEGREES),
    "median_angle": Metric("angles", _median_angle, False, _mean_direction, "median angle", DEGREES),
    "rmse_angle": Metric("angles", _root_mean("squared"), False, _mean_direction, "RMSE of angles", DEGREES),
    **{
        f"within_{degrees:g}": Metric("angles", _share_within(degrees), True, _mean_direction, f"within {degrees:g} degrees", PERCENT)
        for degrees in (11.25, 22.5, 30.0)
    },
}

BOUNDARY_METRICS = {
    f"{name}_{tolerance}": Metric(f"boundaries_{tolerance}", value, True, _mean_map, f"{label} at {tolerance}", PERCENT)
    for tolerance in TOLERANCES
    for name, value, label in (("ods_f", ods_f, "odsF"), ("ois_f", ois_f, "oisF"), ("boundary_ap", average_precision, "AP"))
}

METRICS: dict[str, Metric] = {
    **SEGMENTATION_METRICS,
    **MAP_METRICS,
    **DEPTH_METRICS,
    **MEDIAN_SCALED_DEPTH_METRICS,
    **NORMALS_METRICS,
    **BOUNDARY_METRICS,
}
"""Every metric by the name that a task's entry uses. docs/metrics.md has formulas, units and sources."""


def metrics_of(spec: TaskSpec) -> dict[str, Metric]:
    """The metrics of a task's entry, with the headline metric first.

    Raises:
        ValueError: if a metric is unknown, or does not apply to the task.
    """
    unknown = [name for name in spec.metrics if name not in METRICS]
    of_kind = {name: statistic for name, metric in METRICS.items() if (statistic := STATISTICS[metric.statistics]).fits(spec)}
    fitting, (low, high) = [name for name, statistic in of_kind.items() if statistic.is_defined(spec)], spec.final_range
    if unknown:
        raise refusal(f"task {spec.name!r} has metrics {list(spec.metrics)}, unknown are {unknown}; allowed: {', '.join(fitting)}")
    for name in spec.metrics:
        statistic = STATISTICS[METRICS[name].statistics]
        if not statistic.fits(spec):
            raise refusal(
                f"task {spec.name!r} ({spec.kind}, {spec.channels} channels) has the metric {name!r}, which is for {statistic.tasks}; "
                f"choose from: {', '.join(fitting)}"
            )
        if name not in fitting:
            raise refusal(
                f"task {spec.name!r} has the metric {name!r}, which {statistic.beyond}, and its values run from {low:g} to "
                f"{high:g}; choose from: {', '.join(fitting)}"
            )
    return {name: METRICS[name] for name in spec.metrics}
