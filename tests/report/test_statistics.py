"""Every statistic against a reference that does not share its code.

The references are scipy.stats, definitions written out, and enumerations of small cases. Where
a result is drawn at random, the reference draws other random numbers, and the two agree within
the error of drawing.
"""

import itertools
import math
import statistics as plain

import numpy as np
import pytest
from scipy import stats

from ablax.report.statistics import (
    RESAMPLES,
    SAMPLED_FLIPS,
    Interval,
    best_of_k,
    bootstrap_interval,
    effect_size,
    holm,
    interquartile_mean,
    mean_interval,
    median,
    paired_difference,
    probability_of_improvement,
    rank_correlation,
    restarts_needed,
    restarts_to_succeed,
    share_interval,
    sign_flip_test,
    unpaired_difference,
    welch,
    welch_test,
)

EXACT = 1e-9
SAMPLES = {n: np.random.default_rng(n).normal(3.0, 2.0, n) for n in (2, 3, 16, 200)}
WITHOUT_INTERVAL = [[], [4.0], [1.0, math.nan], [1.0, math.inf], [1.0, 2.0, -math.inf]]


def ends(interval):
    return [interval.low, interval.high]


# Intervals of means and of their differences


@pytest.mark.parametrize("n", SAMPLES)
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_mean_interval_is_students(n, level):
    result = mean_interval(SAMPLES[n], level)
    expected = stats.ttest_1samp(SAMPLES[n], 0.0).confidence_interval(level)
    np.testing.assert_allclose(ends(result), expected, rtol=EXACT)
    np.testing.assert_allclose(result.estimate, SAMPLES[n].mean(), rtol=1e-15)
    assert (result.n, result.method) == (n, "t")
    np.testing.assert_allclose(result.half_width, (expected.high - expected.low) / 2, rtol=EXACT)


@pytest.mark.parametrize("n", SAMPLES)
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_paired_difference_is_that_of_the_paired_t_test(n, level):
    a, noise = SAMPLES[n], np.random.default_rng(1).normal(0.2, 0.1, n)
    result = paired_difference(a + noise, a, level)
    expected = stats.ttest_rel(a + noise, a).confidence_interval(level)
    np.testing.assert_allclose(ends(result), expected, rtol=EXACT)
    assert result.negated() == paired_difference(a, a + noise, level)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (2, 16), (16, 3), (16, 200)])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_unpaired_difference_is_welchs(n, m, level):
    a, b = SAMPLES[n], 3 * np.random.default_rng(5).normal(1.0, 1.0, m)
    result = unpaired_difference(a, b, level)
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(level)
    np.testing.assert_allclose(ends(result), expected, rtol=EXACT)
    np.testing.assert_allclose(result.estimate, plain.fmean(a) - plain.fmean(b), rtol=EXACT)
    assert (result.n, result.method) == (min(n, m), "Welch")


def test_unpaired_difference_by_welchs_formula():
    a, b = [1.0, 2.0, 4.0], [0.0, 1.0, 1.0, 6.0]
    parts = [plain.variance(x) / len(x) for x in (a, b)]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 3)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(sum(parts))
    result = unpaired_difference(np.array(a), np.array(b))
    expected = [7 / 3 - 2 - half, 7 / 3 - 2 + half]
    np.testing.assert_allclose(ends(result), expected, rtol=EXACT)


def test_unpaired_difference_of_equal_values_has_no_width():
    result = unpaired_difference(np.full(3, 2.0), np.full(4, 0.5))
    assert result == Interval(1.5, 1.5, 1.5, 3, "Welch")


@pytest.mark.parametrize("values", WITHOUT_INTERVAL)
def test_an_unpaired_difference_needs_two_finite_values_on_either_side(values):
    for pair in ((values, [1.0, 2.0, 3.0]), ([1.0, 2.0, 3.0], values)):
        result = unpaired_difference(*map(np.array, pair))
        assert not result.known
        assert (result.n, result.method) == (len(values), "none")


def test_pairing_cancels_what_restarts_have_in_common():
    a = SAMPLES[16]
    b = a + np.random.default_rng(1).normal(0.2, 0.1, 16)
    assert paired_difference(b, a).half_width < unpaired_difference(b, a).half_width / 10
    assert paired_difference(b, a).excludes_zero()


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.normal(size=8)) for _ in range(2000)]
    covered = np.mean([i.low <= 0 <= i.high for i in intervals])
    assert abs(covered - 0.95) < 0.015


@pytest.mark.parametrize("values", WITHOUT_INTERVAL)
def test_without_an_interval_its_ends_are_nan(values):
    result = mean_interval(np.array(values))
    estimate = values[0] if len(values) == 1 and math.isfinite(values[0]) else math.nan
    np.testing.assert_equal([result.estimate, *ends(result)], [estimate, math.nan, math.nan])
    assert (result.n, result.method) == (len(values), "none")
    assert not result.known
    assert not result.excludes_zero()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_equal_values_have_an_interval_of_no_width(dtype):
    result = mean_interval(np.full(5, 3, dtype))
    assert result == Interval(3.0, 3.0, 3.0, 5)
    assert result.known
    assert result.half_width == 0


def test_float32_is_summed_in_float64():
    values = np.float32(1e6) + np.arange(4, dtype=np.float32) / 8
    result = mean_interval(values)
    assert result.estimate == 1e6 + 0.1875
    half = stats.t.ppf(0.975, 3) * np.std([0, 1, 2, 3], ddof=1) / 8 / 2
    np.testing.assert_allclose(result.half_width, half, rtol=EXACT)


@pytest.mark.parametrize(
    ("low", "high", "excludes"),
    [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False)],
)
def test_excludes_zero(low, high, excludes):
    assert Interval((low + high) / 2, low, high, 9).excludes_zero() is excludes


@pytest.mark.parametrize(
    ("low", "high", "known"),
    [(0.1, 0.2, True), (math.nan, 0.2, False), (0.1, math.nan, False), (-math.inf, 0.2, False)],
)
def test_an_interval_is_known_if_both_ends_are_finite(low, high, known):
    assert Interval(0.15, low, high, 9).known is known


def test_a_negated_interval_keeps_its_method():
    assert Interval(1.0, 0.5, 3.0, 9, "BCa").negated() == Interval(-1.0, -3.0, -0.5, 9, "BCa")


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="got 2 and 3"):
        paired_difference(np.ones(2), np.ones(3))


# Statistics of position


def middle_half(values):
    """The mean of the sorted values without ⌊n/4⌋ at either end."""
    quarter = len(values) // 4
    return plain.fmean(sorted(values)[quarter : len(values) - quarter])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([9.0, 1.0, 2.0, -50.0], 1.5),
        ([9.0, 1.0, 2.0, 6.0, -50.0], 3.0),
        ([float(i * i) for i in range(16)], (16 + 25 + 36 + 49 + 64 + 81 + 100 + 121) / 8),
        ([float(i) for i in range(16)] + [1e6], 8.0),
    ],
)
def test_interquartile_mean_by_hand(values, expected):
    assert middle_half(values) == expected
    shuffled = np.random.default_rng(0).permutation(values)
    np.testing.assert_allclose(interquartile_mean(shuffled), expected, rtol=EXACT)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("statistic", [interquartile_mean, median])
def test_statistics_of_position_along_an_axis(statistic, axis):
    values = np.random.default_rng(0).normal(size=(9, 17))
    result = statistic(values, axis=axis)
    if statistic is interquartile_mean:
        np.testing.assert_allclose(result, stats.trim_mean(values, 0.25, axis=axis), rtol=EXACT)
    reference = {interquartile_mean: middle_half, median: plain.median}[statistic]
    slices = values.T if axis == 0 else values
    np.testing.assert_allclose(result, [reference(s.tolist()) for s in slices], rtol=EXACT)


@pytest.mark.parametrize("n", [1, 2, 3, 16, 17])
def test_median_is_the_middle(n):
    values = np.random.default_rng(n).normal(size=n)
    assert median(values) == plain.median(values.tolist())


# The bootstrap


def bca_by_hand(values, statistic, level, resamples, seed):
    """Efron's BCa interval in plain loops."""
    rng, normal = np.random.default_rng(seed), plain.NormalDist()
    n, estimate = len(values), statistic(values)
    drawn = sorted(statistic(values[rng.integers(0, n, n)]) for _ in range(resamples))
    below = sum(d < estimate for d in drawn) + sum(d == estimate for d in drawn) / 2
    z0 = normal.inv_cdf(below / resamples)
    left_out = np.array([statistic(np.delete(values, i)) for i in range(n)])
    pulls = left_out.mean() - left_out
    a = (pulls**3).sum() / (6 * (pulls**2).sum() ** 1.5)
    result = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = z0 + normal.inv_cdf(tail)
        result.append(np.quantile(drawn, normal.cdf(z0 + z / (1 - a * z))))
    return result


POPULATIONS = {
    "normal": lambda n: np.random.default_rng(3).normal(5.0, 2.0, n),
    "lognormal": lambda n: np.random.default_rng(4).lognormal(0.0, 1.0, n),
}


@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize(
    ("statistic", "reference", "n", "level"),
    [
        (np.mean, lambda v: v.sum() / len(v), 16, 0.95),
        (np.mean, lambda v: v.sum() / len(v), 40, 0.8),
        (interquartile_mean, middle_half, 16, 0.95),
        (interquartile_mean, middle_half, 41, 0.9),
        # Larger: the ends of a median jump from value to value.
        (median, plain.median, 101, 0.95),
    ],
)
def test_bootstrap_interval_is_efrons(population, statistic, reference, n, level):
    values = POPULATIONS[population](n)
    result = bootstrap_interval(values, statistic, level)
    expected = bca_by_hand(values, reference, level, RESAMPLES, seed=99)
    # An end of 9,999 resamples has a standard error of about 1% of the width.
    np.testing.assert_allclose(ends(result), expected, atol=0.04 * np.ptp(expected))
    np.testing.assert_allclose(result.estimate, reference(values), rtol=EXACT)
    assert (result.n, result.method) == (n, "BCa")


def test_bca_corrects_the_mean_of_a_skewed_sample_upwards():
    values = POPULATIONS["lognormal"](16)
    result = bootstrap_interval(values, np.mean)
    rng = np.random.default_rng(7)
    drawn = values[rng.integers(0, 16, (RESAMPLES, 16))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert result.low > low + 0.02 * (high - low)
    assert result.high > high + 0.05 * (high - low)


def test_a_bootstrap_interval_is_that_of_its_seed_and_resamples():
    values = SAMPLES[16]
    result = bootstrap_interval(values, median, seed=1)
    assert result == bootstrap_interval(values.copy(), median, seed=1)
    few = bootstrap_interval(values, interquartile_mean, resamples=200)
    many = bootstrap_interval(values, interquartile_mean, resamples=201)
    other = bootstrap_interval(values, interquartile_mean, resamples=200, seed=2)
    assert few != many
    assert few != other
    assert few.estimate == many.estimate == other.estimate


def test_a_higher_level_is_a_wider_interval():
    result = [bootstrap_interval(SAMPLES[16], interquartile_mean, q) for q in (0.5, 0.9, 0.99)]
    widths = [f.half_width for f in result]
    assert sorted(set(widths)) == widths


@pytest.mark.parametrize("statistic", [np.mean, median, interquartile_mean])
def test_the_bootstrap_of_equal_values_has_no_width(statistic):
    result = bootstrap_interval(np.full(7, 2.5), statistic)
    assert result == Interval(2.5, 2.5, 2.5, 7, "percentile")


@pytest.mark.parametrize("values", WITHOUT_INTERVAL)
def test_no_bootstrap_of_fewer_than_two_finite_values(values):
    result = bootstrap_interval(np.array(values), median)
    assert not result.known
    assert (result.n, result.method) == (len(values), "none")


def distinct(values, axis=-1):
    """How many different values there are: never more in a resample than in the sample."""
    return 1.0 + (np.diff(np.sort(values, axis=axis), axis=axis) != 0).sum(axis)


@pytest.mark.parametrize(
    ("values", "statistic", "why"),
    [
        (np.arange(16.0), distinct, "all resamples are on one side"),
        (np.array([1.0, 2, 3, 3, 3, 3, 4, 5]), median, "no single value moves the estimate"),
    ],
)
def test_where_bca_is_undefined_it_is_the_percentile_interval(values, statistic, why):
    result = bootstrap_interval(values, statistic)
    assert result.method == "percentile", why
    rng = np.random.default_rng(5)
    drawn = statistic(values[rng.integers(0, len(values), (RESAMPLES, len(values)))], axis=-1)
    np.testing.assert_allclose(ends(result), np.quantile(drawn, [0.025, 0.975]), atol=0.01)


# Shares


@pytest.mark.parametrize("n", [1, 2, 16, 100])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_share_interval_is_clopper_and_pearsons(n, level):
    for successes in {0, 1, n // 3, n - 1, n}:
        result = share_interval(successes, n, level)
        expected = stats.binomtest(successes, n).proportion_ci(level, "exact")
        np.testing.assert_allclose(ends(result), expected, rtol=EXACT, atol=1e-12)
        assert (result.estimate, result.n, result.method) == (successes / n, n, "exact")
    assert share_interval(0, n, level).low == 0
    assert share_interval(n, n, level).high == 1


def test_a_half_success_lies_between_its_neighbours():
    result = [share_interval(s, 16) for s in np.arange(0, 16.5, 0.5)]
    assert all(a.low <= b.low for a, b in itertools.pairwise(result))
    assert all(a.high <= b.high for a, b in itertools.pairwise(result))
    assert result[1].low > 0
    assert result[-2].high < 1


def test_no_share_of_nothing():
    assert not share_interval(0, 0).known


@pytest.mark.parametrize("n", [5, 16, 60])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_share_interval_covers_every_share_at_least_as_often_as_it_says(n, level):
    result = [share_interval(successes, n, level) for successes in range(n + 1)]
    shares = np.linspace(0, 1, 301)
    covers = [(i.low <= shares) & (shares <= i.high) for i in result]
    chance = stats.binom.pmf(np.arange(n + 1)[:, None], n, shares)
    assert (chance * covers).sum(0).min() >= level - EXACT


@pytest.mark.parametrize("n", [1, 2, 7, 16])
def test_probability_of_improvement_counts_ties_half(n):
    differences = np.random.default_rng(n).integers(-2, 3, n) / 4
    won = sum(1.0 if d > 0 else 0.5 if d == 0 else 0.0 for d in differences)
    result = probability_of_improvement(differences)
    assert result == share_interval(won, n)
    assert result.estimate == won / n
    narrow = probability_of_improvement(differences, 0.5)
    assert narrow == share_interval(won, n, 0.5)


@pytest.mark.parametrize(
    ("differences", "share"),
    [([0.0, 0.0], 0.5), ([1.0, 2.0], 1.0), ([-1.0, -2.0], 0.0), ([1.0, 0.0, -1.0, -1.0], 0.375)],
)
def test_probability_of_improvement_by_hand(differences, share):
    assert probability_of_improvement(np.array(differences)).estimate == share


@pytest.mark.parametrize("differences", [[], [1.0, math.nan], [1.0, math.inf]])
def test_no_probability_of_improvement_without_finite_differences(differences):
    result = probability_of_improvement(np.array(differences))
    assert not result.known
    assert (result.n, result.method) == (len(differences), "none")


# The sign-flip test


def flips_by_product(differences):
    """The share of all 2ⁿ signs that reach the measured sum, one by one."""
    every = [
        abs(math.fsum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    bound = abs(math.fsum(differences)) - 1e-12
    return sum(e >= bound for e in every) / len(every)


def flips_of_integers(differences):
    """The exact p-value for integers of any number: how often each sum occurs, one by one."""
    total = int(np.abs(differences).sum())
    chance = np.zeros(2 * total + 1)
    chance[total] = 1.0
    for d in differences:
        chance = (np.roll(chance, d) + np.roll(chance, -d)) / 2
    sums = np.arange(-total, total + 1)
    return chance[np.abs(sums) >= abs(differences.sum())].sum()


@pytest.mark.parametrize("n", [2, 3, 5, 10])
@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
def test_sign_flips_by_enumeration(n, shift):
    differences = np.random.default_rng(n).normal(shift, 1.0, n)
    expected = flips_by_product(differences.tolist())
    np.testing.assert_allclose(sign_flip_test(differences), expected, rtol=EXACT)


@pytest.mark.parametrize("n", [2, 7, 12, 16])
def test_sign_flips_are_the_exact_permutation_test_of_pairs(n):
    differences = np.random.default_rng(n).normal(0.3, 1.0, n)
    expected = stats.permutation_test(
        (differences,),
        lambda d, axis: d.mean(axis),
        permutation_type="samples",
        n_resamples=2**n,
        vectorized=True,
    )
    np.testing.assert_allclose(sign_flip_test(differences), expected.pvalue, rtol=EXACT)


@pytest.mark.parametrize("n", [4, 9, 16])
def test_sums_equal_but_for_rounding_are_equal(n):
    counts = np.random.default_rng(n).integers(-5, 9, n)
    expected = flips_of_integers(counts)
    for scale in (1.0, 1 / 360, 0.1, 1e-12, 1e12):
        np.testing.assert_allclose(sign_flip_test(counts * scale), expected, rtol=EXACT)


@pytest.mark.parametrize(("n", "shift"), [(17, 2), (40, 0), (40, 1), (40, 4), (300, 1)])
def test_sampled_sign_flips_agree_with_the_exact_chance(n, shift):
    counts = np.random.default_rng(n).integers(-9, 10, n) + shift
    expected = flips_of_integers(counts)
    error = math.sqrt(expected * (1 - expected) / SAMPLED_FLIPS) + 1 / SAMPLED_FLIPS
    assert abs(sign_flip_test(counts / 360) - expected) < 4 * error


@pytest.mark.parametrize("shift", [0.1, 0.3])
def test_sampled_sign_flips_are_nearly_normal(shift):
    differences = np.random.default_rng(8).normal(shift, 1.0, 40)
    z = abs(differences.sum()) / math.sqrt((differences**2).sum())
    assert abs(sign_flip_test(differences) - 2 * stats.norm.sf(z)) < 0.01


@pytest.mark.parametrize("n", [8, 16])
def test_what_a_sign_flip_test_does_not_depend_on(n):
    differences = np.random.default_rng(n).normal(0.4, 1.0, n)
    p = sign_flip_test(differences)
    assert 0 < p < 1
    for same in (-differences, 7.3 * differences, 1e-30 * differences, differences[::-1]):
        assert sign_flip_test(same) == p


def test_a_sampled_p_value_is_that_of_its_seed():
    differences = np.random.default_rng(0).normal(0.2, 1.0, 40)
    first, second = (sign_flip_test(differences, seed=seed) for seed in (0, 1))
    assert first == sign_flip_test(differences) == sign_flip_test(-3 * differences)
    assert first != second
    assert abs(first - second) < 6 * math.sqrt(first / SAMPLED_FLIPS)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([], math.nan),
        ([1.0], math.nan),
        ([1.0, math.nan, 2.0], math.nan),
        ([1.0, math.inf], math.nan),
        ([0.0, 0.0, 0.0], 1.0),
        ([0.1, 0.0, 0.0], 1.0),
        ([0.1] * 16, 2.0**-15),
        ([0.1] * 40, 1 / (SAMPLED_FLIPS + 1)),  # the measured one alone
    ],
)
def test_edges_of_the_sign_flip_test(differences, p):
    np.testing.assert_equal(sign_flip_test(np.array(differences)), p)


# Several tests at once


def holm_by_closed_testing(p):
    """Reject a hypothesis if Bonferroni rejects every set of hypotheses that it belongs to."""
    sets = [s for m in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), m)]
    bonferroni = {s: min(1.0, len(s) * min(p[i] for i in s)) for s in sets}
    return [max(bonferroni[s] for s in sets if i in s) for i in range(len(p))]


@pytest.mark.parametrize("m", [1, 2, 3, 6, 9])
@pytest.mark.parametrize("power", [1, 3])
def test_holm_is_closed_testing_by_bonferroni(m, power):
    p = np.random.default_rng(m).uniform(size=m) ** power
    p[-1] = p[0]  # a tie
    np.testing.assert_allclose(holm(p), holm_by_closed_testing(p), rtol=EXACT)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([], []),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([math.nan], [math.nan]),
        ([math.nan, 0.01, math.nan, 0.04], [math.nan, 0.02, math.nan, 0.04]),
    ],
)
def test_holm_by_hand(p, expected):
    np.testing.assert_allclose(holm(p), expected, rtol=EXACT)


def test_what_holm_keeps():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=20) ** 3
    corrected = holm(p)
    assert (corrected >= p).all()
    assert (corrected <= 1).all()
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all(), "the order of the p-values"
    order = rng.permutation(20)
    np.testing.assert_array_equal(holm(p[order]), corrected[order])


# Size of an effect


@pytest.mark.parametrize("n", [3, 4, 16, 100])
def test_effect_size_is_hedges_g(n):
    d = np.random.default_rng(n).normal(0.5, 2.0, n).tolist()
    j = math.gamma((n - 1) / 2) / (math.sqrt((n - 1) / 2) * math.gamma((n - 2) / 2))
    expected = j * plain.fmean(d) / plain.stdev(d)
    np.testing.assert_allclose(effect_size(np.array(d)), expected, rtol=EXACT)
    assert effect_size(-np.array(d)) == -effect_size(np.array(d))
    np.testing.assert_allclose(effect_size(8e-3 * np.array(d)), expected, rtol=EXACT)


def test_effect_size_is_unbiased_for_normal_differences():
    rng = np.random.default_rng(0)
    result = [effect_size(rng.normal(0.8, 1.0, 5)) for _ in range(5000)]
    assert abs(np.mean(result) - 0.8) < 4 * np.std(result) / math.sqrt(5000)


def test_the_effect_size_of_many_is_the_mean_over_the_deviation():
    d = np.random.default_rng(0).normal(0.5, 2.0, 100_000)
    np.testing.assert_allclose(effect_size(d), d.mean() / d.std(), rtol=2e-5)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([], math.nan),
        ([1.0, 2.0], math.nan),
        ([1.0, 2.0, math.nan], math.nan),
        ([1.0, 2.0, math.inf], math.nan),
        ([0.0, 0.0, 0.0], math.nan),
        ([0.5, 0.5, 0.5], math.inf),
        ([-0.5, -0.5, -0.5], -math.inf),
        ([-1.0, 0.0, 1.0], 0.0),
    ],
)
def test_edges_of_the_effect_size(differences, expected):
    np.testing.assert_equal(effect_size(np.array(differences)), expected)


# The best of several restarts


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_best_of_k_by_enumeration(n, k):
    values = np.random.default_rng(n).normal(size=n)
    expected = plain.fmean(max(drawn) for drawn in itertools.product(values.tolist(), repeat=k))
    np.testing.assert_allclose(best_of_k(values, k), expected, rtol=EXACT)


def test_best_of_k_by_drawing():
    values = np.random.default_rng(0).lognormal(size=16)
    drawn = np.random.default_rng(1).choice(values, (200_000, 8)).max(1)
    assert abs(best_of_k(values, 8) - drawn.mean()) < 4 * drawn.std() / math.sqrt(200_000)


def test_the_best_of_one_is_the_mean_and_more_are_no_worse():
    values = np.random.default_rng(0).normal(size=16)
    result = [best_of_k(values, k) for k in range(1, 65)]
    np.testing.assert_allclose(result[0], values.mean(), rtol=EXACT)
    assert (np.diff(result) > 0).all()
    assert result[-1] < values.max()
    np.testing.assert_allclose(best_of_k(values, 10_000), values.max(), rtol=EXACT)
    np.testing.assert_allclose(best_of_k(np.full(5, 2.5), 3), 2.5, rtol=EXACT)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_best_of_k_along_an_axis(axis):
    values = np.random.default_rng(0).normal(size=(3, 4, 5))
    expected = np.apply_along_axis(best_of_k, axis, values, 3)
    np.testing.assert_allclose(best_of_k(values, 3, axis), expected, rtol=EXACT)


# Restarts to settle a comparison


def of_size(size, n=8):
    """Differences whose mean is exactly `size` of their standard deviations."""
    values = np.random.default_rng(0).normal(size=n)
    return (values - values.mean()) / values.std(ddof=1) + size


def power_of_t(size, n, level):
    """How likely the t interval of n normal differences leaves 0 out, on either side.

    Given the standard deviation s that is measured, the mean is normal; over s it is the
    midpoint rule in the quantiles of χ².
    """
    reach, shift = stats.t.ppf((1 + level) / 2, n - 1), abs(size) * math.sqrt(n)
    s = np.sqrt(stats.chi2.ppf((np.arange(20_000) + 0.5) / 20_000, n - 1) / (n - 1))
    return (stats.norm.sf(reach * s - shift) + stats.norm.cdf(-reach * s - shift)).mean()


@pytest.mark.parametrize("size", [-0.05, 0.31, 0.5, 0.65, -0.8, 1.2, 1.8, 2.1, 3.25, 8.0])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_restarts_needed_are_the_fewest_with_a_power_of_0_8(size, level):
    n = restarts_needed(of_size(size), level)
    assert n == int(n)
    assert power_of_t(size, n, level) >= 0.8
    assert n == 2 or power_of_t(size, n - 1, level) < 0.8


def test_restarts_needed_by_simulation():
    n, draws = int(restarts_needed(of_size(0.5))), 20_000
    assert n == 34
    for tries, enough in ((n, True), (n - 3, False)):
        drawn = np.random.default_rng(1).normal(0.5, 1.0, (draws, tries))
        half = stats.t.ppf(0.975, tries - 1) * drawn.std(1, ddof=1) / math.sqrt(tries)
        power = (np.abs(drawn.mean(1)) > half).mean()
        assert (power >= 0.8 - 3 * math.sqrt(0.16 / draws)) is np.bool_(enough)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([], math.nan),
        ([1.0], math.nan),
        ([1.0, math.nan], math.nan),
        ([1.0, -math.inf], math.nan),
        ([1.0, -1.0], math.inf),
        ([0.0, 0.0], math.inf),
        ([0.5, 0.5], 2),
        ([-0.5, -0.5, -0.5], 2),
        (of_size(1e9), 2),
        (of_size(-1e9), 2),
        (of_size(1e-4), math.inf),  # 785 million
    ],
)
def test_edges_of_restarts_needed(differences, expected):
    np.testing.assert_equal(restarts_needed(np.array(differences)), expected)


def test_restarts_needed_up_to_a_limit():
    differences = of_size(0.1)
    assert restarts_needed(differences) == 787
    assert restarts_needed(differences, most=500) == math.inf


# Ranks of failed trials


# Values that are equal but for rounding, infinite, or very many


def test_equal_values_that_binary_cannot_hold_are_equal():
    tenths = np.array([0.1 + 0.2, 0.3, 0.3])
    assert mean_interval(tenths).half_width == 0
    assert bootstrap_interval(tenths, median).half_width == 0
    assert unpaired_difference(tenths, tenths - 0.1).half_width == 0
    assert effect_size(tenths) == math.inf
    assert effect_size(-tenths) == -math.inf
    assert restarts_needed(tenths) == 2
    assert math.isnan(welch_test(tenths, tenths))


def test_infinities_of_both_signs_are_no_estimate():
    values = np.array([math.inf, -math.inf, 0.0])
    for result in (mean_interval(values), bootstrap_interval(values, np.mean)):
        assert math.isnan(result.estimate)
        assert not result.known


@pytest.mark.parametrize("size", [28.0, 29.0, 30.0, 100.0])
def test_a_huge_effect_still_needs_a_known_power(size):
    differences = size + np.array([-1.0, 1.0]) / np.sqrt(2)
    n = int(restarts_needed(differences, level=0.99))

    def power(n):
        reach = stats.t.ppf(0.995, n - 1)
        return stats.chi2.cdf((n - 1) * size**2 * n / reach**2, n - 1)

    assert power(n) >= 0.8 - 1e-3
    assert n == 2 or power(n - 1) < 0.8 + 1e-3


def test_more_restarts_than_the_most_are_too_many():
    differences = 0.0028 + np.array([-1.0, 1.0]) / np.sqrt(2)
    assert restarts_needed(differences, most=10**6) == math.inf or (
        restarts_needed(differences, most=10**6) <= 10**6
    )
    needed = restarts_needed(differences, most=10**8)
    for most, expected in [(needed, needed), (needed - 1, math.inf)]:
        assert restarts_needed(differences, most=int(most)) == expected


def test_many_values_get_a_percentile_interval():
    values = np.random.default_rng(0).normal(size=3000)
    result = bootstrap_interval(values, np.mean, resamples=999)
    assert result.method == "percentile"
    expected = mean_interval(values)
    np.testing.assert_allclose(ends(result), ends(expected), atol=0.2 * expected.half_width)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0])
def test_welch_is_scipys(scale):
    rng = np.random.default_rng(3)
    a, b = rng.normal(1.0, 1.0, 12), rng.normal(0.5, 1.0, 7) * scale
    error, freedom = welch(a, b)
    if scale:
        expected = stats.ttest_ind(a, b, equal_var=False)
        np.testing.assert_allclose(welch_test(a, b), expected.pvalue, rtol=1e-9)
        np.testing.assert_allclose(freedom, expected.df, rtol=1e-9)
        np.testing.assert_allclose((a.mean() - b.mean()) / error, expected.statistic, rtol=1e-9)
    else:  # a constant side: the test of one sample against its value
        expected = stats.ttest_1samp(a, 0.0)
        np.testing.assert_allclose(welch_test(a, b), expected.pvalue, rtol=1e-9)


# Restarts until one succeeds


def test_restarts_to_succeed_are_the_binomial_formula():
    """After k starts of which each succeeds with probability p, all fail with (1 − p)^k."""
    for p in (0.001, 0.1, 0.5, 0.9):
        needed = restarts_to_succeed(Interval(p, p / 2, (0.97 + p) / 2, n=100))
        np.testing.assert_allclose((1 - p) ** needed.estimate, 0.01, rtol=1e-9)
        np.testing.assert_allclose((1 - (0.97 + p) / 2) ** needed.low, 0.01, rtol=1e-9)
        np.testing.assert_allclose((1 - p / 2) ** needed.high, 0.01, rtol=1e-9)
        assert needed.low < needed.estimate < needed.high
    half = restarts_to_succeed(Interval(0.5, 0.4, 0.6, n=9), failure=0.25)
    np.testing.assert_allclose(half.estimate, 2)


def test_edges_of_restarts_to_succeed():
    """One restart at least; none is enough where none succeeds; unknown stays unknown."""
    for sure in (0.999, 1.0):
        needed = restarts_to_succeed(Interval(sure, 0.9, 1.0, n=9, method="exact"))
        assert (needed.estimate, needed.low) == (1.0, 1.0)
        np.testing.assert_allclose(needed.high, 2)
        assert (needed.n, needed.method) == (9, "exact")
    never = restarts_to_succeed(Interval(0.0, 0.0, 0.3, n=9))
    assert never.estimate == never.high == np.inf
    np.testing.assert_allclose(0.7**never.low, 0.01)
    unknown = restarts_to_succeed(Interval(0.5, np.nan, np.nan, n=1))
    assert np.isnan([unknown.low, unknown.high]).all()
    np.testing.assert_allclose(0.5**unknown.estimate, 0.01)


@pytest.mark.parametrize(("n", "digits"), [(2, 9), (3, 9), (50, 9), (50, 0), (400, 0)])
def test_rank_correlation_is_scipys(n, digits):
    """Also where rounding makes many values equal."""
    a, b = np.random.default_rng(n).normal(size=(2, n)).round(digits)
    b = b + (a > 0)
    expected = stats.spearmanr(a, b).statistic
    np.testing.assert_allclose(rank_correlation(a, b), expected, atol=1e-12)
    np.testing.assert_allclose(rank_correlation(np.exp(a), b), expected, atol=1e-12)
    np.testing.assert_allclose(rank_correlation(a, -b), -expected, atol=1e-12)


def test_values_all_alike_have_no_rank_correlation():
    assert np.isnan(rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))
    assert np.isnan(rank_correlation([1.0, np.nan, 2.0], [1.0, 2.0, 3.0]))
