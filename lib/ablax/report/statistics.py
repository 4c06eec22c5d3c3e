"""Intervals, paired tests and budgets of restarts.

Restart r of every point draws the same random numbers, so two points are compared by the
differences of their restarts: what the restarts have in common cancels.

Means and mean differences have Student's t intervals, which at 16 restarts cover what they
should where values are not strongly skewed, and more than the bootstrap does; other statistics
have seeded bootstrap intervals. `./launch.sh bench coverage` measures how often each covers.

>>> a, b = np.array([0.91, 0.94, 0.92, 0.95]), np.array([0.90, 0.92, 0.91, 0.93])
>>> difference = paired_difference(a, b)
>>> round(difference.estimate, 4), round(difference.low, 4), round(difference.high, 4)
(0.015, 0.0058, 0.0242)
>>> sign_flip_test(a - b)
0.125
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from scipy import stats
from scipy.special import gammaln

LEVEL = 0.95
"""Confidence level of every interval, unless another is asked for."""

RESAMPLES = 9_999
MANY = 2_000
"""Restarts beyond which every statistic is so sure that a coarser method serves."""
EXACT_FLIPS = 16
"""Up to this many restarts all 2ⁿ signs are tried; above, `SAMPLED_FLIPS` at random."""
SAMPLED_FLIPS = 99_999

Method = Literal["t", "BCa", "percentile", "exact", "Welch", "none"]


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        estimate: of the statistic.
        low, high: the ends; NaN where there is no interval.
        n: values that it is over.
        method: by which the ends were computed; "none" if they were not.
    """

    estimate: float
    low: float
    high: float
    n: int
    method: Method = "t"

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    @property
    def known(self) -> bool:
        """True if both ends are known."""
        return bool(np.isfinite([self.low, self.high]).all())

    def negated(self) -> "Interval":
        """The interval of −x."""
        return replace(self, estimate=-self.estimate, low=-self.high, high=-self.low)

    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def _finite(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all())


def _equal(values: np.ndarray) -> bool:
    """True if all values are equal up to rounding: 0.1 + 0.2 − 0.3 is not 0."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max(initial=0.0))


def _no_interval(estimate: float, n: int) -> Interval:
    return Interval(estimate, np.nan, np.nan, n, "none")


def mean_interval(values: np.ndarray, level: float = LEVEL) -> Interval:
    """Student's t interval of the mean: x̄ ± t_{n−1,(1+level)/2} · s/√n.

    Exact for normal values. With one value there is no interval, and its ends are NaN; where a
    value is not finite there is no estimate either. Equal values give an interval of width 0.

    >>> interval = mean_interval(np.array([1.0, 2.0, 3.0]))
    >>> round(interval.low, 3), interval.estimate, round(interval.high, 3)
    (-0.484, 2.0, 4.484)
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    if not n or not _finite(values):
        return _no_interval(np.nan, n)
    mean = float(values.mean())
    if n < 2:
        return _no_interval(mean, n)
    if _equal(values):
        return Interval(mean, mean, mean, n)
    half = stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return Interval(mean, mean - float(half), mean + float(half), n)


def paired_difference(a: np.ndarray, b: np.ndarray, level: float = LEVEL) -> Interval:
    """The t interval of the mean of a − b, restart by restart.

    >>> paired_difference(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    Interval(estimate=1.0, low=1.0, high=1.0, n=2, method='t')
    """
    if len(a) != len(b):
        raise ValueError(f"paired values must have equal length, got {len(a)} and {len(b)}")
    return mean_interval(np.asarray(a, np.float64) - np.asarray(b, np.float64), level)


def unpaired_difference(a: np.ndarray, b: np.ndarray, level: float = LEVEL) -> Interval:
    """Welch's interval of mean(a) − mean(b), for restarts that share nothing; n is the smaller.

    >>> interval = unpaired_difference(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0]))
    >>> interval.estimate, round(interval.low, 3), interval.method
    (1.0, -1.267, 'Welch')
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    n = min(len(a), len(b))
    if not n or not (_finite(a) and _finite(b)):
        return _no_interval(np.nan, n)
    estimate = float(a.mean() - b.mean())
    if n < 2:
        return _no_interval(estimate, n)
    if _equal(a) and _equal(b):
        return Interval(estimate, estimate, estimate, n, "Welch")
    error, freedom = welch(a, b)
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    return Interval(estimate, estimate - half, estimate + half, n, "Welch")


def welch(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(standard error of mean(a) − mean(b), its degrees of freedom by Welch and Satterthwaite).

    (scipy's test warns of a loss of precision where one side is constant.)
    """
    parts = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
    freedom = parts.sum() ** 2 / (parts**2 / np.array([len(a) - 1, len(b) - 1])).sum()
    return float(np.sqrt(parts.sum())), float(freedom)


def welch_test(a: np.ndarray, b: np.ndarray) -> float:
    """The two-sided p-value of mean(a) = mean(b); NaN where neither side varies."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if min(len(a), len(b)) < 2 or not (_finite(a) and _finite(b)) or (_equal(a) and _equal(b)):
        return np.nan
    error, freedom = welch(a, b)
    return float(2 * stats.t.sf(abs(a.mean() - b.mean()) / error, freedom))


def median(values: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.median(values, axis=axis)


def interquartile_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean of what is left without the lowest and the highest quarter, ⌊n/4⌋ values each.

    Source: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical
    precipice" (rliable).

    >>> float(interquartile_mean(np.array([0.0, 1.0, 3.0, 100.0])))
    2.0
    """
    return stats.trim_mean(values, 0.25, axis=axis)


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[..., np.ndarray],
    level: float = LEVEL,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """The bias-corrected and accelerated (BCa) bootstrap interval of a statistic.

    Where BCa is undefined (values all equal, all resamples on one side of the estimate, or no
    single value moves it, as with many a median) it is the percentile interval of the same
    resamples, and `method` says so. So it is, of 999 resamples, with more than 2,000 values:
    there the two agree, and the n² of BCa's jackknife would be felt. The same seed gives the same
    interval.

    Args:
        values: n of them.
        statistic: (values [..., n], axis) -> [...].
        level: of confidence.
        seed: of the resamples.
        resamples: how many.

    Source: Efron 1987, "Better bootstrap confidence intervals".

    >>> values = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 17.0])
    >>> interval = bootstrap_interval(values, median)
    >>> interval.estimate, interval.method, interval == bootstrap_interval(values, median)
    (6.0, 'BCa', True)
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    if not n or not _finite(values):
        return _no_interval(np.nan, n)
    estimate = float(statistic(values, axis=-1))
    if n < 2:
        return _no_interval(estimate, n)
    if _equal(values):
        return Interval(estimate, estimate, estimate, n, "percentile")
    resample = partial(
        stats.bootstrap,
        (values,),
        statistic,
        confidence_level=level,
        vectorized=True,
        batch=max(1, 10**7 // n),
        rng=np.random.default_rng(seed),
    )
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", (stats.DegenerateDataWarning, RuntimeWarning))
        method: Method = "BCa" if n <= MANY else "percentile"
        resamples = resamples if n <= MANY else min(resamples, 999)
        bootstrapped = resample(method=method, n_resamples=resamples)
        ends = bootstrapped.confidence_interval
        if not np.isfinite([ends.low, ends.high]).all():
            again = resample(method="percentile", n_resamples=0, bootstrap_result=bootstrapped)
            ends, method = again.confidence_interval, "percentile"
    return Interval(estimate, float(ends.low), float(ends.high), n, method)


def share_interval(successes: float, n: int, level: float = LEVEL) -> Interval:
    """The exact (Clopper and Pearson) interval of a binomial share.

    Args:
        successes: of n; halves are fine, for ties.
        n: tries.

    >>> interval = share_interval(16, 16)
    >>> interval.estimate, round(interval.low, 3), interval.high
    (1.0, 0.794, 1.0)
    """
    if not n:
        return _no_interval(np.nan, 0)
    tail = (1 - level) / 2
    low = stats.beta.ppf(tail, successes, n - successes + 1) if successes > 0 else 0.0
    high = stats.beta.ppf(1 - tail, successes + 1, n - successes) if successes < n else 1.0
    return Interval(successes / n, float(low), float(high), n, "exact")


def probability_of_improvement(differences: np.ndarray, level: float = LEVEL) -> Interval:
    """The share of restarts whose difference is above 0, of which ties count half.

    >>> probability_of_improvement(np.array([0.1, 0.2, 0.0, -0.1])).estimate
    0.625
    """
    differences = np.asarray(differences, np.float64)
    if not np.isfinite(differences).all():
        return _no_interval(np.nan, len(differences))
    wins = float((differences > 0).sum() + 0.5 * (differences == 0).sum())
    return share_interval(wins, len(differences), level)


def sign_flip_test(differences: np.ndarray, *, seed: int = 0) -> float:
    """The two-sided p-value of mean(differences) = 0 if each might as well have been negated.

    The share of the 2ⁿ ways to flip signs whose |mean| is at least the measured one. Up to 16
    restarts all are tried: the p-value is exact, and at least 2¹⁻ⁿ. Above, 99,999 are drawn
    (9,999 of more than 2,000 restarts), and the measured one counts as drawn too, so that p is
    never 0. NaN of fewer than 2 restarts,
    or values that are not finite.

    Source: Fisher 1935, "The design of experiments", section 21.

    >>> sign_flip_test(np.array([1.0, 2.0, 3.0])), sign_flip_test(np.array([1.0, -1.0]))
    (0.25, 1.0)
    """
    differences = np.asarray(differences, np.float64)
    n = len(differences)
    if n < 2 or not np.isfinite(differences).all():
        return np.nan
    # Sums that are equal but for rounding are equal.
    bound = abs(differences.sum()) - 1e-9 * np.abs(differences).sum()
    if n <= EXACT_FLIPS:
        sums = np.zeros(1)
        for difference in differences:
            sums = np.concatenate([sums + difference, sums - difference])
        return float((np.abs(sums) >= bound).mean())
    rng = np.random.default_rng(seed)
    flips = SAMPLED_FLIPS if n <= MANY else RESAMPLES
    reached, left = 1, flips
    while left:
        some = min(left, max(1, 10**7 // n))
        signs = rng.integers(0, 2, (some, n), dtype=np.int8) * 2 - 1
        reached += int((np.abs(signs @ differences) >= bound).sum())
        left -= some
    return reached / (flips + 1)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values adjusted for multiple comparisons: the chance of any error stays below the level.

    The i-th smallest of m is multiplied by m − i + 1, and is no less than any before it. NaN
    stays NaN, and is not counted.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, np.float64)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected = np.full(len(p), np.nan)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return corrected


def effect_size(differences: np.ndarray) -> float:
    """The mean difference in units of the standard deviation of the differences (Hedges' g).

    J · mean/s with s over n − 1 and J = Γ((n−1)/2) / (√((n−1)/2) Γ((n−2)/2)), which makes it
    unbiased for normal differences. ±inf where all differences are equal and not 0; NaN of
    fewer than 3.

    Source: Hedges 1981, "Distribution theory for Glass's estimator of effect size".

    >>> round(effect_size(np.array([1.0, 2.0, 3.0, 4.0])), 4)
    1.4012
    """
    differences = np.asarray(differences, np.float64)
    n = len(differences)
    if n < 3 or not np.isfinite(differences).all():
        return np.nan
    mean, deviation = differences.mean(), differences.std(ddof=1)
    if _equal(differences):
        return float(np.copysign(np.inf, mean)) if mean else np.nan
    freedom = n - 1
    j = np.exp(gammaln(freedom / 2) - gammaln((freedom - 1) / 2)) / np.sqrt(freedom / 2)
    return float(j * mean / deviation)


def rank_correlation(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Spearman's correlation of pairs: that of their ranks, equal values at their mean rank.

    NaN where all values on one side are equal, or one is NaN.

    >>> round(rank_correlation([0.1, 0.2, 0.3, 4.0], [10, 30, 20, 40]), 4)
    0.8
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1])


def best_of_k(values: np.ndarray, k: int, axis: int = -1) -> np.ndarray:
    """The expected largest of k values drawn from those measured, with replacement.

    Σᵢ x₍ᵢ₎ ((i/n)ᵏ − ((i−1)/n)ᵏ) over the n values in ascending order: what the best of k
    restarts would be worth. It cannot exceed the best value seen, so it flattens as k comes
    near n.

    Source: Dodge et al. 2019, "Show your work: improved reporting of experimental results".

    >>> values = np.array([0.1, 0.2, 0.6])
    >>> best_of_k(values, 1).round(3), best_of_k(values, 2).round(3)
    (np.float64(0.3), np.float64(0.411))
    """
    ordered = np.moveaxis(np.sort(values, axis=axis), axis, -1)
    steps = (np.arange(ordered.shape[-1] + 1) / ordered.shape[-1]) ** k
    return ordered @ np.diff(steps)


POWER = 0.8


def restarts_needed(differences: np.ndarray, level: float = LEVEL, most: int = 10**6) -> float:
    """Return the restarts that a comparison needs in all, if its effect is the one measured.

    The smallest n at which the t interval excludes 0 with probability 0.8, given the measured
    mean and standard deviation. inf if the mean is 0 or more than `most` are needed, NaN of
    fewer than 2 restarts.

    >>> restarts_needed(np.array([-0.5, 1.5, 0.2, 0.8]))
    25.0
    """
    differences = np.asarray(differences, np.float64)
    if len(differences) < 2 or not np.isfinite(differences).all():
        return np.nan
    mean, deviation = abs(differences.mean()), differences.std(ddof=1)
    if mean == 0:
        return np.inf
    if _equal(differences):
        return 2.0
    size = mean / deviation

    def power(n: int) -> float:
        reach = stats.t.ppf((1 + level) / 2, n - 1)
        return float(stats.nct.sf(reach, n - 1, size * np.sqrt(n)))

    low, high = 1, 2
    while power(high) < POWER:
        low, high = high, high * 2
        if low >= most:
            return np.inf
    while high - low > 1:  # power grows with n
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return float(high) if high <= most else np.inf


def restarts_to_succeed(rate: Interval, failure: float = 0.01) -> Interval:
    """How many restarts are needed so that all of them fail with a probability of `failure` only.

    With the success rate p of a restart these are log(failure) / log(1 − p), at least 1, and inf
    where p is 0. They fall as p grows, so the ends of the interval are those of p, exchanged.

    Args:
        rate: the success rate of a restart, with its interval.
        failure: accepted probability, between 0 and 1.

    >>> needed = restarts_to_succeed(share_interval(10, 20))
    >>> round(needed.low, 1), round(needed.estimate, 1), round(needed.high, 1)
    (3.5, 6.6, 14.5)
    """
    p = np.array([rate.estimate, rate.high, rate.low])
    with np.errstate(divide="ignore"):
        estimate, low, high = np.maximum(1.0, np.log(failure) / np.log1p(-p)).tolist()
    return replace(rate, estimate=estimate, low=low, high=high)
