"""Metrics of dense predictions from additive statistics.

A metric is computed from sums over images with one division at the end. The sums can be split over images, batches and processes in
any way with the same result, in constant memory. Unknown pixels (NaN, or class 255) never count. A metric without a known pixel is
NaN. docs/metrics.md has the formulas; `mult_hf.metrics.modules` provides the metrics as modules of the `evaluate` library.
"""

from .accumulator import MultiTaskMetrics, constant_predictions, multi_task_gain
from .sums import Sums
from .table import METRICS, STATISTICS, Metric, Statistic, metrics_of

__all__ = [
    "METRICS",
    "STATISTICS",
    "Metric",
    "MultiTaskMetrics",
    "Statistic",
    "Sums",
    "constant_predictions",
    "metrics_of",
    "multi_task_gain",
]
