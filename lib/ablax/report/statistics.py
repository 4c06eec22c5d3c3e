"""Intervals and paired comparisons of restarts.

Restart r of every point starts from the same weights and data order, so two points are
compared by the differences of their restarts: what the restarts have in common cancels.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
"""Confidence level of every interval."""


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval, and the number of values that it is over."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def negated(self) -> "Interval":
        """The interval of −x."""
        return Interval(-self.mean, -self.high, -self.low, self.n)

    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def mean_interval(values: np.ndarray, level: float = LEVEL) -> Interval:
    """Student's t interval of the mean: x̄ ± t_{n−1,(1+level)/2} · s/√n.

    Exact for normal values. With one value, or values that are not finite, there is no
    interval: its ends are NaN. Equal values give an interval of width 0.

    >>> interval = mean_interval(np.array([1.0, 2.0, 3.0]))
    >>> round(interval.low, 3), interval.mean, round(interval.high, 3)
    (-0.484, 2.0, 4.484)
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    mean = float(values.mean()) if n else np.nan
    if n < 2 or not np.isfinite(values).all():
        return Interval(mean, np.nan, np.nan, n)
    half = stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return Interval(mean, mean - float(half), mean + float(half), n)


def paired_difference(a: np.ndarray, b: np.ndarray, level: float = LEVEL) -> Interval:
    """The t interval of the mean of a − b, restart by restart.

    >>> paired_difference(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    Interval(mean=1.0, low=1.0, high=1.0, n=2)
    """
    if len(a) != len(b):
        raise ValueError(f"paired values must have equal length, got {len(a)} and {len(b)}")
    return mean_interval(np.asarray(a, np.float64) - np.asarray(b, np.float64), level)
