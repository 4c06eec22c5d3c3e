"""Intervals and paired differences, against scipy.stats."""

import math

import numpy as np
import pytest
from scipy import stats

from ablax.report.statistics import Interval, mean_interval, paired_difference

SAMPLES = {n: np.random.default_rng(n).normal(3.0, 2.0, n) for n in (2, 3, 16, 200)}


@pytest.mark.parametrize("n", SAMPLES)
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_mean_interval_is_students(n, level):
    found = mean_interval(SAMPLES[n], level)
    expected = stats.ttest_1samp(SAMPLES[n], 0.0).confidence_interval(level)
    np.testing.assert_allclose([found.low, found.high], expected, rtol=1e-12)
    np.testing.assert_allclose(found.mean, SAMPLES[n].mean(), rtol=1e-15)
    assert found.n == n
    np.testing.assert_allclose(found.half_width, (expected.high - expected.low) / 2, rtol=1e-12)


@pytest.mark.parametrize("n", SAMPLES)
def test_paired_difference_is_that_of_the_paired_t_test(n):
    a, noise = SAMPLES[n], np.random.default_rng(1).normal(0.2, 0.1, n)
    found = paired_difference(a + noise, a)
    expected = stats.ttest_rel(a + noise, a).confidence_interval(0.95)
    np.testing.assert_allclose([found.low, found.high], expected, rtol=1e-9)
    assert found.negated() == paired_difference(a, a + noise)


def test_pairing_cancels_what_restarts_have_in_common():
    a = SAMPLES[16]
    b = a + np.random.default_rng(1).normal(0.2, 0.1, 16)
    unpaired = mean_interval(a).half_width + mean_interval(b).half_width
    assert paired_difference(b, a).half_width < unpaired / 10
    assert paired_difference(b, a).excludes_zero()


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.normal(size=8)) for _ in range(2000)]
    covered = np.mean([i.low <= 0 <= i.high for i in intervals])
    assert abs(covered - 0.95) < 0.015


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([], math.nan),
        ([4.0], 4.0),
        ([1.0, math.nan], math.nan),
        ([1.0, math.inf], math.inf),
        ([1.0, 2.0, -math.inf], -math.inf),
    ],
)
def test_without_an_interval_its_ends_are_nan(values, mean):
    found = mean_interval(np.array(values))
    np.testing.assert_equal([found.mean, found.low, found.high], [mean, math.nan, math.nan])
    assert found.n == len(values)
    assert not found.excludes_zero()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_equal_values_have_an_interval_of_no_width(dtype):
    found = mean_interval(np.full(5, 3, dtype))
    assert found == Interval(3.0, 3.0, 3.0, 5)
    assert found.half_width == 0


def test_float32_is_summed_in_float64():
    values = np.float32(1e6) + np.arange(4, dtype=np.float32) / 8
    found = mean_interval(values)
    assert found.mean == 1e6 + 0.1875
    np.testing.assert_allclose(
        found.half_width, stats.t.ppf(0.975, 3) * np.std([0, 1, 2, 3], ddof=1) / 8 / 2, rtol=1e-9
    )


@pytest.mark.parametrize(
    ("low", "high", "excludes"),
    [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False)],
)
def test_excludes_zero(low, high, excludes):
    assert Interval((low + high) / 2, low, high, 9).excludes_zero() is excludes


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="got 2 and 3"):
        paired_difference(np.ones(2), np.ones(3))
