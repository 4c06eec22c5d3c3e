"""Shares: columns of 0 and 1, whose means have exact binomial intervals, from table to page."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from ablax.report import page
from ablax.report.ablation import ablation
from ablax.report.claims import Claim, evidence_in_words, judge
from ablax.report.quantities import Effect, column
from ablax.report.statistics import mean_interval
from tests.report.runs import BASE, STRONG, WEAK, build, expecting, series, write

INF = math.inf
COUNTS = [(0, 1), (1, 1), (0, 4), (4, 4), (3, 4), (1, 20), (19, 20), (50, 100), (256, 256)]


def bits(successes, n):
    """n values of which some are 1, not all at the end."""
    values = np.zeros(n)
    values[np.random.default_rng(n).permutation(n)[:successes]] = 1
    return values


def exact(successes, n, level=0.95):
    result = binomtest(successes, n).proportion_ci(level, method="exact")
    return successes / n, result.low, result.high


def ends(interval):
    return interval.estimate, interval.low, interval.high


# Tables


def table_of(directory, **columns):
    return write(directory, [BASE], series(BASE, **columns))


@pytest.mark.parametrize(("successes", "n"), COUNTS)
def test_the_interval_of_a_share_is_the_exact_one(tmp_path, successes, n):
    table = table_of(tmp_path, solved=bits(successes, n))
    assert table.is_share("solved")
    result = table.interval("base", "solved")
    assert ends(result) == pytest.approx(exact(successes, n))
    assert (result.n, result.method) == (n, "exact")


@pytest.mark.parametrize(
    ("values", "share"),
    [
        ([0, 1, 1, 0], True),
        ([1, 1, 1, 1], True),
        ([0.0, 0.0, 0.0, 0.0], True),
        ([False, True, True, False], True),
        ([0, 1, 1, 0.5], False),
        ([0, 1, 1, 2], False),
        ([0, 1, 1, -1], False),
        ([0.0, 1.0, 1.0, math.nan], False),
        ([0.25, 0.5, 0.5, 0.125], False),
    ],
)
def test_a_column_is_a_share_if_every_trial_has_0_or_1(tmp_path, values, share):
    table = table_of(tmp_path, solved=values)
    assert table.is_share("solved") == share == table.is_share("solved")
    result = table.interval("base", "solved")
    if share:
        assert ends(result) == pytest.approx(exact(int(sum(values)), 4))
    else:
        expected = mean_interval(np.asarray(values, float))
        np.testing.assert_equal(ends(result), ends(expected))


def test_it_is_the_column_that_is_a_share_not_one_point_of_it(tmp_path):
    """A point whose accuracies happen to be 1 is measured as the others of its column are."""
    rows = series(BASE, solved=[1.0, 1.0, 1.0]) + series(WEAK, solved=[1.0, 0.9, 1.0])
    table = write(tmp_path, [BASE, WEAK], rows)
    assert not table.is_share("solved")
    assert ends(table.interval("base", "solved")) == (1.0, 1.0, 1.0)


def test_one_columns_answer_is_not_anothers(tmp_path):
    table = table_of(tmp_path, solved=[0, 1], size=[0.3, 0.4])
    assert table.is_share("solved")
    assert not table.is_share("size")
    assert table.is_share("solved")


def test_the_table_of_the_report_has_exact_intervals_of_a_share(tmp_path):
    rows = series(BASE, test_accuracy=bits(7, 20)) + series(WEAK, test_accuracy=bits(18, 20))
    table = write(tmp_path, [BASE, WEAK], rows)
    result = {row.group: row for row in ablation(table)}
    assert ends(result["baseline"].mean) == pytest.approx(exact(7, 20))
    assert ends(result["L2"].mean) == pytest.approx(exact(18, 20))


def test_the_answer_has_the_interval_of_the_table(tmp_path):
    rows = series(BASE, test_accuracy=bits(20, 20), valid_loss=[0.1] * 20)
    table = write(tmp_path, [BASE], rows)
    (answer,) = page.answers(table)
    # Student's t of 20 equal values would be 1 ± 0.
    _, low, _ = exact(20, 20)
    assert low == pytest.approx(0.832, abs=1e-3)
    assert "1 ± 0 " not in answer
    assert "base: test accuracy" in answer


# Effects and claims


def claim(*expectations, level=0.05):
    return Claim("id", "A sentence.", "notes", *expectations, level=level)


@pytest.fixture
def study(tmp_path):
    rows = [
        row
        for of, solved in ((BASE, bits(2, 20)), (WEAK, bits(19, 20)), (STRONG, bits(20, 20)))
        for row in series(of, solved=solved, l2_norm=solved + 0.5)
    ]
    return write(tmp_path, [BASE, WEAK, STRONG], rows)


@pytest.mark.parametrize(("successes", "n"), COUNTS)
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_the_effect_of_a_share_is_judged_by_the_exact_interval(study, successes, n, level):
    solved = expecting(bits(successes, n), "solved", (0.5, INF), share=True)
    (part,) = judge(claim(solved, level=level), study).parts
    assert ends(part.interval) == pytest.approx(exact(successes, n, 1 - level))
    assert part.interval.n == n
    low, high = part.interval.low, part.interval.high
    expected = "supported" if low > 0.5 else "refuted" if high < 0.5 else "inconclusive"
    assert part.verdict == expected


def test_an_effect_is_no_share_unless_it_says_so(study):
    values = bits(19, 20)
    plain, share = (Effect(values, "solved", share=share) for share in (False, True))
    assert not Effect(values, "solved").share
    assert ends(plain.interval(0.95)) == ends(mean_interval(values, 0.95))
    assert ends(share.interval(0.95)) == pytest.approx(exact(19, 20))
    # All solved: Student's t is sure of it after four restarts, the exact interval is not.
    certain = np.ones(4)
    for is_share, verdict in ((False, "supported"), (True, "inconclusive")):
        solved = expecting(certain, "solved", (0.5, INF), share=is_share)
        assert judge(claim(solved), study).verdict == verdict


def test_a_share_of_nothing_decides_nothing(study):
    result = judge(claim(expecting([], "solved", share=True)), study)
    assert result.verdict == "inconclusive"


def test_the_evidence_of_a_share_is_printed_with_its_ends(study):
    solved = expecting(bits(20, 20), "solved", share=True)
    (line,) = evidence_in_words(judge(claim(solved), study))
    assert line.startswith("solved = ")
    assert line.endswith("(expected > 0), n = 20")
    assert "± 0 " not in line


def test_the_claim_of_a_share_is_judged_at_every_point_by_itself(study):
    """From the column of the study to the verdicts."""
    solved = column("solved", share=True, measured="share solved")
    result = judge(claim(solved.everywhere > 0.5), study)
    assert [part.measured for part in result.parts] == [
        "share solved, base", "share solved, l2=0.1", "share solved, l2=1",
    ]  # fmt: skip
    assert [part.verdict for part in result.parts] == ["refuted", "supported", "supported"]
    for part, successes in zip(result.parts, (2, 19, 20), strict=True):
        assert ends(part.interval) == pytest.approx(exact(successes, 20))
    (part,) = judge(claim(solved.at(l2=0.1, model="mlp").everywhere > 0.5), study).parts
    assert part == result.parts[1]


# The page


@pytest.mark.parametrize("n", [page.MOST_TRIALS - 1, page.MOST_TRIALS, page.MOST_TRIALS + 1, 1234])
def test_the_page_lists_the_first_trials_and_says_where_the_rest_is(tmp_path, n):
    values = np.random.default_rng(0).random(n)
    table = table_of(tmp_path, test_accuracy=values)
    result = page.evidence(table, ablation(table))
    assert [e.anchor for e in result] == ["row-0", "point-0"]
    for shown in result:
        expected = min(n, page.MOST_TRIALS)
        assert len(shown.rows) == expected
        assert [row[0] for row in shown.rows] == [f"base/{r}" for r in range(expected)]
        assert [row[-1] for row in shown.rows] == [f"{v:.6g}" for v in values[:expected]]
        note = f": the first {page.MOST_TRIALS} of {n:,} (all are in trials.parquet)"
        assert (note in shown.title) == (n > page.MOST_TRIALS)
    if n == 1234:
        html = build(table).read_text()
        assert f"the first {page.MOST_TRIALS} of 1,234" in html
        assert f"base/{page.MOST_TRIALS - 1}<" in html
        assert f"base/{page.MOST_TRIALS}<" not in html
