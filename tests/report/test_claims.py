"""Verdicts: by where the intervals of the measured effects lie."""

import itertools
import math

import numpy as np
import pytest

from ablax.report import selection
from ablax.report.claims import (
    Claim,
    between,
    difference,
    every,
    evidence_in_words,
    judge,
    judge_all,
    verdict,
)
from ablax.report.quantities import NEGATIVE, POSITIVE, Effect
from ablax.report.statistics import Interval, mean_interval
from experiments.regularization import CLAIMS
from tests.report.runs import POINTS, point, random_trials, series, trial, write

BASE, L1, L2 = point("base", "baseline"), point("l1", "L1", l1=0.1), point("l2", "L2", l2=0.1)
SPARSE = "share_below_1e-3"


@pytest.fixture
def table(tmp_path):
    """L1 has more zeros and, by far, a larger loss; L2 differs in nothing but noise."""
    noise = (0.01, -0.01, 0.02, -0.02)
    trials = [
        row
        for r, e in enumerate(noise)
        for row in (
            trial(BASE, r, test_loss=0.5, participation_ratio=0.5, **{SPARSE: 0.1}),
            trial(L1, r, test_loss=0.9 + e, participation_ratio=0.1 + e, **{SPARSE: 0.6 + e}),
            trial(
                L2, r, test_loss=0.5 + e, l2_norm=1.0 + e, participation_ratio=0.9 + e,
                **{SPARSE: 0.1 + e},
            ),
        )
    ]  # fmt: skip
    return write(tmp_path, [BASE, L1, L2], trials)


def claim(*effects, **changes):
    said = {"id": "id", "sentence": "A sentence.", "source": "a source"} | changes
    return Claim(**said, test=lambda table: list(effects) or None)


# Where one interval lies

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("interval", "expected", "said"),
    [
        # Above 0.
        ((0.1, 0.3), POSITIVE, "supported"),
        ((1e-300, 0.3), POSITIVE, "supported"),
        ((-0.3, -0.1), POSITIVE, "refuted"),
        ((-0.1, 0.3), POSITIVE, "inconclusive"),
        # Below 0.
        ((-0.3, -0.1), NEGATIVE, "supported"),
        ((0.1, 0.3), NEGATIVE, "refuted"),
        ((-0.1, 0.3), NEGATIVE, "inconclusive"),
        # Within bounds: all of it, none of it, or some.
        ((-0.01, 0.01), (-0.02, 0.02), "supported"),
        ((0.03, 0.04), (-0.02, 0.02), "refuted"),
        ((-0.04, -0.03), (-0.02, 0.02), "refuted"),
        ((0.01, 0.03), (-0.02, 0.02), "inconclusive"),
        ((-0.03, 0.01), (-0.02, 0.02), "inconclusive"),
        ((-0.03, 0.03), (-0.02, 0.02), "inconclusive"),
        # What touches a bound is on neither side of it.
        ((0.0, 0.3), POSITIVE, "inconclusive"),
        ((-0.3, 0.0), POSITIVE, "inconclusive"),
        ((-0.3, 0.0), NEGATIVE, "inconclusive"),
        ((0.0, 0.3), NEGATIVE, "inconclusive"),
        ((-0.02, 0.01), (-0.02, 0.02), "inconclusive"),
        ((-0.01, 0.02), (-0.02, 0.02), "inconclusive"),
        ((0.02, 0.03), (-0.02, 0.02), "inconclusive"),
        ((-0.03, -0.02), (-0.02, 0.02), "inconclusive"),
        # Intervals of no width, where all restarts agree.
        ((0.1, 0.1), POSITIVE, "supported"),
        ((-0.1, -0.1), POSITIVE, "refuted"),
        ((0.0, 0.0), POSITIVE, "inconclusive"),
        ((0.0, 0.0), (-0.02, 0.02), "supported"),
        ((0.02, 0.02), (-0.02, 0.02), "inconclusive"),
        ((0.03, 0.03), (-0.02, 0.02), "refuted"),
        # Bounds that hold anything.
        ((-5.0, 5.0), (-INF, INF), "supported"),
        # Intervals of which an end is unknown.
        ((NAN, NAN), POSITIVE, "inconclusive"),
        ((NAN, NAN), (-INF, INF), "inconclusive"),
        ((0.1, INF), POSITIVE, "inconclusive"),
        ((-INF, -0.1), POSITIVE, "inconclusive"),
        ((0.1, NAN), POSITIVE, "inconclusive"),
    ],
)
def test_the_verdict_follows_from_where_the_interval_lies(interval, expected, said):
    low, high = interval
    assert verdict(Interval((low + high) / 2, low, high, 4), expected) == said


# Claims of one effect, of several, and of none

YES = Effect(np.array([0.2, 0.3, 0.25]), "yes")
NO = Effect(np.array([-0.2, -0.3, -0.25]), "no")
MAYBE = Effect(np.array([-0.2, 0.3, 0.1]), "maybe")
UNKNOWN = Effect(np.array([0.3]), "unknown")
ALONE = {"yes": "supported", "no": "refuted", "maybe": "inconclusive", "unknown": "inconclusive"}


@pytest.mark.parametrize("n", [1, 2, 3])
def test_all_effects_must_hold_and_one_that_does_not_refutes(n, table):
    for effects in itertools.product((YES, NO, MAYBE, UNKNOWN), repeat=n):
        alone = [ALONE[effect.measured] for effect in effects]
        expected = "supported" if set(alone) == {"supported"} else "inconclusive"
        found = judge(claim(*effects), table)
        assert found.verdict == ("refuted" if "refuted" in alone else expected)
        assert [part.verdict for part in found.parts] == alone
        assert [part.measured for part in found.parts] == [effect.measured for effect in effects]


def test_a_part_holds_what_was_measured(table):
    effect = Effect(np.array([0.1, 0.2, 0.4]), "what", (-1.0, 2.0))
    (part,) = judge(claim(effect), table).parts
    assert (part.measured, part.expected) == ("what", (-1.0, 2.0))
    assert part.interval == mean_interval(effect.values, 0.95)


@pytest.mark.parametrize("effects", [None, []])
def test_a_study_that_lacks_the_points_decides_nothing(effects, table):
    found = judge(Claim("id", "A sentence.", "a source", lambda _: effects), table)
    assert (found.verdict, found.parts) == ("inconclusive", ())
    assert evidence_in_words(found) == ["the study lacks the points"]


@pytest.mark.parametrize("level", [0.5, 0.05, 0.01, 0.001])
def test_the_interval_is_of_confidence_one_minus_the_level(level, table):
    (part,) = judge(claim(YES, level=level), table).parts
    assert part.interval == mean_interval(YES.values, 1 - level)


def test_a_stricter_level_can_leave_a_verdict_open(table):
    verdicts = [judge(claim(YES, level=level), table).verdict for level in (0.05, 0.01, 0.001)]
    assert verdicts == ["supported", "inconclusive", "inconclusive"]


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (POSITIVE, "(expected > 0)"),
        (NEGATIVE, "(expected < 0)"),
        ((0.5, INF), "(expected > 0.5)"),
        ((-0.02, 0.02), "(expected in ±0.02)"),
        ((-0.05, 0.02), "(expected in -0.05 to 0.02)"),
    ],
)
def test_the_evidence_says_what_was_measured_and_expected(expected, words, table):
    effect = Effect(np.array([0.1, 0.2, 0.3]), "column: A − B", expected)
    first, second = evidence_in_words(judge(claim(effect, YES), table))
    assert first == f"column: A − B = 0.20 ± 0.25 {words}, n = 3"
    assert second.startswith("yes = 0.25 ± 0.12 (expected > 0)")


# Effects of a table


def test_a_difference_is_restart_by_restart_and_named_by_its_methods(table):
    effect = difference(table, SPARSE, "l1", selection.chosen(table, ["base"]), (0.1, 0.9))
    assert effect.measured == f"{SPARSE}: L1 − baseline"
    assert effect.expected == (0.1, 0.9)
    assert effect.values == pytest.approx([0.51, 0.49, 0.52, 0.48])


def test_two_points_of_one_method_are_named_by_themselves(tmp_path):
    table = write(tmp_path, POINTS, random_trials())
    effect = difference(table, "l2_norm", "l2=1", "l2=0.1")
    assert effect.measured == "l2_norm: l2=1 − l2=0.1"


def test_between_compares_methods_as_validation_chooses_them(tmp_path):
    """Among the points with the settings that it names, and on no others."""
    table = write(tmp_path, POINTS, random_trials())
    (effect,) = between("l2_norm", "L2", "baseline", NEGATIVE, model="mlp")(table)
    expected = table.differences(selection.chosen(table, ["l2=0.1", "l2=1"]), "base", "l2_norm")
    np.testing.assert_array_equal(effect.values, expected)
    assert effect.expected == NEGATIVE
    (linear,) = between("l2_norm", "L2", "baseline", model="linear")(table)
    np.testing.assert_array_equal(
        linear.values, table.differences("linear l2=0.1", "linear", "l2_norm")
    )
    for lacking in (
        between("l2_norm", "L3", "baseline", model="mlp"),
        between("l2_norm", "L2", "L3", model="mlp"),
        between("no_such_column", "L2", "baseline", model="mlp"),
        between("l2_norm", "L2", "baseline", model="none"),
    ):
        assert lacking(table) is None


def test_every_needs_the_points_of_every_test(table):
    both = every(lambda t: [YES], lambda t: [NO, MAYBE])
    assert both(table) == [YES, NO, MAYBE]
    assert every(lambda t: [YES], lambda t: None)(table) is None


def test_a_diverged_trial_counts_with_the_worst_in_a_claim_too(tmp_path):
    trials = series(BASE, test_loss=[0.5, 0.6, 0.9]) + series(L2, test_loss=[0.1, 0.1, 0.1])
    trials[-1]["status"] = "diverged"
    table = write(tmp_path, [BASE, L2], trials)
    assert difference(table, "test/loss", "l2", "base").values == pytest.approx([-0.4, -0.5, 0.0])


def test_equal_tables_give_equal_verdicts(table, tmp_path):
    again = write(tmp_path / "again", [BASE, L1, L2], table.trials.to_dict("records"))
    for first, second in zip(judge_all(CLAIMS, table), judge_all(CLAIMS, again), strict=True):
        assert first.verdict == second.verdict
        assert evidence_in_words(first) == evidence_in_words(second)


def test_a_claim_cannot_change_what_it_is_judged_by(table):
    """It gets the table alone; judging twice, in any order, is the same."""
    first = judge_all(CLAIMS, table)
    again = judge_all(CLAIMS[::-1], table)[::-1]
    assert [found.verdict for found in first] == [found.verdict for found in again]
    assert list(map(evidence_in_words, first)) == list(map(evidence_in_words, again))


# The claims of the regularization study


def test_the_claims_of_the_regularization_study(table):
    verdicts = {found.claim.id: found.verdict for found in judge_all(CLAIMS, table)}
    assert verdicts["l1-is-sparse"] == "supported"
    assert verdicts["l2-is-even"] == "supported"
    assert verdicts["l1-generalizes"] == "refuted"
    assert verdicts["l2-generalizes"] == "inconclusive"
    for absent in ("dropout-evens-out", "dropout-generalizes", "max-norm-generalizes"):
        assert verdicts[absent] == "inconclusive"


def test_claims_have_short_names_and_say_where_they_are_from():
    ids = [claim.id for claim in CLAIMS]
    assert len(set(ids)) == len(ids)
    for claim in CLAIMS:
        assert claim.id.replace("-", "").isalnum(), claim.id
        assert claim.sentence.endswith(".")
        assert claim.source
