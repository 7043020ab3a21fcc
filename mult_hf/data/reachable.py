"""Which values of a task its predictions can reach."""

import numpy as np

MOST_UNREACHABLE = 0.02
"""Largest share of values beyond what predictions can be that is still not a mistake, for instance views through a window."""


def share_beyond(values: np.ndarray, low: float, high: float) -> float:
    """Share of values that are below `low` or above `high`, from 0 to 1; a hundredth of the range beyond it does not count."""
    if not np.isfinite(high - low) or not values.size:
        return 0.0
    slack = np.float64(0.01 * (high - low))  # a limit beyond float32 must not overflow
    return float(np.mean((values < low - slack) | (values > high + slack)))


__all__ = ["MOST_UNREACHABLE", "share_beyond"]
