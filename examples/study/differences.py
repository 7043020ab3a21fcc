"""Differences between rows of the study's table: relative, with intervals over rooms, and with seeds in pairs."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mult_hf.metrics import METRICS

from . import rooms


@dataclass(frozen=True)
class Measured:
    """One task of a row on the test split.

    Args:
        metric: name of its headline metric.
        seeds: the sums per room of each seed.
        draws: the resamples of rooms.
    """

    metric: str
    seeds: list[rooms.RoomSums]
    draws: np.ndarray

    @cached_property
    def values(self) -> np.ndarray:
        """The metric of each seed: (seeds,)."""
        return np.array([rooms.value(self.metric, sums) for sums in self.seeds])

    @cached_property
    def resampled(self) -> np.ndarray:
        """The mean over seeds in each resample of rooms: (resamples,)."""
        return np.mean([rooms.resampled(self.metric, sums, self.draws) for sums in self.seeds], axis=0)

    @property
    def sign(self) -> int:
        """1 where a higher value is better, else -1."""
        return 1 if METRICS[self.metric].higher_is_better else -1


@dataclass(frozen=True)
class Row:
    """A row of the main table: a multi-task network, or a set of single-task ones.

    Args:
        name: of the row.
        networks: the results of its networks.
        tasks: what was measured, by task.
    """

    name: str
    networks: list[dict[str, Any]]
    tasks: dict[str, Measured]

    def total(self, key: str) -> int:
        """Sum of a number over the networks of the row."""
        return sum(network[key] for network in self.networks)


@dataclass(frozen=True)
class Difference:
    """How much better one row is than another, in percent of the other; positive is better.

    Args:
        percent: relative difference of the means over seeds.
        low: lower end of its 95 % interval over resamples of rooms.
        high: upper end.
        seeds: relative difference of each seed.
    """

    percent: float
    low: float
    high: float
    seeds: np.ndarray

    @property
    def counts(self) -> bool:
        """Whether rooms and seeds agree: the interval is on one side of 0, and so is every seed."""
        return bool((self.low > 0 and (self.seeds > 0).all()) or (self.high < 0 and (self.seeds < 0).all()))

    @property
    def text(self) -> str:
        """The difference with its interval, and how many seeds have its sign; bold if it counts."""
        agreeing = int((np.sign(self.seeds) == np.sign(self.percent)).sum())
        text = f"{self.percent:+.1f} [{self.low:+.1f}, {self.high:+.1f}] {agreeing}/{len(self.seeds)}"
        return f"**{text}**" if self.counts else text


def difference(one: Measured, other: Measured) -> Difference:
    """How much better one row is than another in a task; seeds are paired, as both saw the same samples."""
    percent = relative(one.values.mean(), other.values.mean(), one.sign)
    low, high = rooms.interval(relative(one.resampled, other.resampled, one.sign))
    return Difference(float(percent), low, high, relative(one.values, other.values, one.sign))


def mean_difference(one: Row, other: Row) -> Difference:
    """The multi-task gain of one row over another: the mean over the tasks that both have."""
    pairs = [(one.tasks[task], other.tasks[task]) for task in one.tasks if task in other.tasks]
    each = [difference(*pair) for pair in pairs]
    low, high = rooms.interval(np.mean([relative(a.resampled, b.resampled, a.sign) for a, b in pairs], axis=0))
    return Difference(float(np.mean([d.percent for d in each])), low, high, np.mean([d.seeds for d in each], axis=0))


def relative(value: Any, reference: Any, sign: int) -> Any:
    """Relative difference in percent, positive where it is for the better."""
    return 100 * sign * (value - reference) / reference
