"""Shares: columns of 0 and 1, whose means have exact binomial intervals, from table to page."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from ablax.errors import Missing
from ablax.report import page
from ablax.report.ablation import ablation
from ablax.report.claims import Claim, evidence_in_words, judge
from ablax.report.quantities import Effect
from ablax.report.quantities import column as column_of
from ablax.report.statistics import mean_interval
from tests.report.runs import BASE, STRONG, WEAK, build, expecting, point, series, trial, write

INF = math.inf
COUNTS = [(0, 1), (1, 1), (0, 4), (4, 4), (3, 4), (1, 20), (19, 20), (50, 100), (256, 256)]


def bits(successes, n):
    """Of n values, those that are 1, not all at the end."""
    values = np.zeros(n)
    values[np.random.default_rng(n).permutation(n)[:successes]] = 1
    return values


def exact(successes, n, level=0.95):
    found = binomtest(successes, n).proportion_ci(level, method="exact")
    return successes / n, found.low, found.high


def ends(interval):
    return interval.estimate, interval.low, interval.high


# Tables


def table_of(directory, **columns):
    return write(directory, [BASE], series(BASE, **columns))


@pytest.mark.parametrize(("successes", "n"), COUNTS)
def test_the_interval_of_a_share_is_the_exact_one(tmp_path, successes, n):
    table = table_of(tmp_path, solved=bits(successes, n))
    assert table.is_share("solved")
    found = table.interval("base", "solved")
    assert ends(found) == pytest.approx(exact(successes, n))
    assert (found.n, found.method) == (n, "exact")


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
    found = table.interval("base", "solved")
    if share:
        assert ends(found) == pytest.approx(exact(int(sum(values)), 4))
    else:
        expected = mean_interval(np.asarray(values, float))
        np.testing.assert_equal(ends(found), ends(expected))


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
    found = {row.group: row for row in ablation(table)}
    assert ends(found["baseline"].mean) == pytest.approx(exact(7, 20))
    assert ends(found["L2"].mean) == pytest.approx(exact(18, 20))


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


def claim(*effects, **said):
    parts = [expecting(e.values, e.measured, e.expected, share=e.share) for e in effects]
    return Claim("id", "A sentence.", "notes", *parts, **said)


@pytest.fixture
def table(tmp_path):
    rows = [
        row
        for of, solved in ((BASE, bits(2, 20)), (WEAK, bits(19, 20)), (STRONG, bits(20, 20)))
        for row in series(of, solved=solved, l2_norm=solved + 0.5)
    ]
    return write(tmp_path, [BASE, WEAK, STRONG], rows)


@pytest.mark.parametrize(("successes", "n"), COUNTS)
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_the_effect_of_a_share_is_judged_by_the_exact_interval(table, successes, n, level):
    effect = Effect(bits(successes, n), "solved", (0.5, INF), share=True)
    (part,) = judge(claim(effect, level=level), table).parts
    assert ends(part.interval) == pytest.approx(exact(successes, n, 1 - level))
    assert part.interval.n == n
    low, high = part.interval.low, part.interval.high
    expected = "supported" if low > 0.5 else "refuted" if high < 0.5 else "inconclusive"
    assert part.verdict == expected


def test_an_effect_is_no_share_unless_it_says_so(table):
    values = bits(19, 20)
    plain, share = (Effect(values, "solved", share=share) for share in (False, True))
    assert not Effect(values, "solved").share
    assert ends(plain.interval(0.95)) == ends(mean_interval(values, 0.95))
    assert ends(share.interval(0.95)) == pytest.approx(exact(19, 20))
    # All solved: Student's t is sure of it after four restarts, the exact interval is not.
    certain = np.ones(4)
    for said, verdict in ((False, "supported"), (True, "inconclusive")):
        effect = Effect(certain, "solved", (0.5, INF), share=said)
        assert judge(claim(effect), table).verdict == verdict


def test_a_share_of_nothing_decides_nothing(table):
    found = judge(claim(Effect(np.array([]), "solved", share=True)), table)
    assert found.verdict == "inconclusive"


def test_the_evidence_of_a_share_is_printed_with_its_ends(table):
    (line,) = evidence_in_words(judge(claim(Effect(bits(20, 20), "solved", share=True)), table))
    assert line.startswith("solved = ")
    assert line.endswith("(expected > 0), n = 20")
    assert "± 0 " not in line


@pytest.mark.parametrize("remark", ["", "the sentence is about infinitely many examples."])
def test_a_remark_is_the_last_line_of_the_evidence(table, remark):
    effect = Effect(np.array([0.1, 0.2, 0.3]), "column")
    for effects in ((effect,), (effect, effect), ()):
        lines = evidence_in_words(judge(claim(*effects, remark=remark), table))
        plain = evidence_in_words(judge(claim(*effects), table))
        assert lines == [*plain, *([f"Why: {remark}"] if remark else [])]


def test_a_remark_changes_no_verdict(table):
    for bounds in ((0.5, INF), (0.99, INF), (0.0, 0.5)):
        effect = Effect(bits(19, 20), "solved", bounds, share=True)
        plain, remarked = (judge(claim(effect, remark=words), table) for words in ("", "why"))
        assert plain.verdict == remarked.verdict
        assert plain.parts == remarked.parts


# within


def test_within_is_an_effect_of_every_point_with_these_settings(table):
    solved = column_of("solved", share=True, measured="share solved")
    effects = (solved.everywhere > 0.5).effects(table)
    assert [e.measured for e in effects] == [
        "share solved, base", "share solved, l2=0.1", "share solved, l2=1",
    ]  # fmt: skip
    assert all(e.expected == (0.5, INF) and e.share for e in effects)
    np.testing.assert_array_equal(effects[1].values, table.values("l2=0.1", "solved"))
    solved = column_of("solved", measured="share solved", l2=0.1, model="mlp")
    (one,) = (solved.everywhere > 0).effects(table)
    assert one.measured == "share solved, l2=0.1"
    assert not one.share
    assert [part.verdict for part in judge(claim(*effects), table).parts] == [
        "refuted", "supported", "supported",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("column", "where"),
    [("no_such_column", {}), ("solved", {"l2": 7.0}), ("solved", {"model": "linear", "l2": 0.1})],
)
def test_within_lacks_what_the_study_lacks(table, column, where):
    expected = column_of(column, **where).everywhere > 0
    with pytest.raises(Missing):
        expected.effects(table)
    found = judge(Claim("id", "A sentence.", "notes", expected), table)
    assert (found.verdict, found.parts) == ("inconclusive", ())


def test_within_leaves_points_without_the_column_out(tmp_path):
    """Points of another program may not measure it; what is missing at one restart is missing."""
    other, half = point("other", "other", model="linear"), point("half", "half", l1=0.5)
    rows = [*series(BASE, angle=[1.0, 2.0]), trial(other, 0), trial(other, 1)]
    rows += series(half, angle=[1.0, math.nan])
    table = write(tmp_path, [BASE, other, half], rows)
    (effect,) = column_of("angle").everywhere.within(0.0, 9.0).effects(table)
    assert effect.measured == "angle, base"
    assert effect.values.tolist() == [1.0, 2.0]
    assert effect.values.dtype == np.float64


# The page


@pytest.mark.parametrize("n", [page.MOST_TRIALS - 1, page.MOST_TRIALS, page.MOST_TRIALS + 1, 1234])
def test_the_page_lists_the_first_trials_and_says_where_the_rest_is(tmp_path, n):
    values = np.random.default_rng(0).random(n)
    table = table_of(tmp_path, test_accuracy=values)
    found = page.evidence(table, ablation(table))
    assert [e.anchor for e in found] == ["row-0", "point-0"]
    for shown in found:
        expected = min(n, page.MOST_TRIALS)
        assert len(shown.rows) == expected
        assert [row[0] for row in shown.rows] == [f"base/{r}" for r in range(expected)]
        assert [row[-1] for row in shown.rows] == [f"{v:.6g}" for v in values[:expected]]
        said = f": the first {page.MOST_TRIALS} of {n:,} (all are in trials.parquet)"
        assert (said in shown.title) == (n > page.MOST_TRIALS)
    if n == 1234:
        html = build(table).read_text()
        assert f"the first {page.MOST_TRIALS} of 1,234" in html
        assert f"base/{page.MOST_TRIALS - 1}<" in html
        assert f"base/{page.MOST_TRIALS}<" not in html
