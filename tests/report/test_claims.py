"""Verdicts: by where the intervals of the measured effects lie."""

import itertools
import math

import numpy as np
import pytest

from ablax.errors import Missing
from ablax.report.claims import Claim, evidence_in_words, judge, judge_all, verdict
from ablax.report.quantities import NEGATIVE, POSITIVE, quantities
from ablax.report.statistics import Interval, mean_interval
from experiments.regularization import CLAIMS
from tests.report.runs import expecting, point, trial, write

BASE, L1, L2 = point("base", "baseline"), point("l1", "L1", l1=0.1), point("l2", "L2", l2=0.1)
SPARSE = "share_below_1e-3"


@pytest.fixture
def study(tmp_path):
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


def claim(*expectations, id="id", level=0.05):
    return Claim(id, "A sentence.", "a source", *expectations, level=level)


# Where one interval lies

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("interval", "expected", "answer"),
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
def test_the_verdict_follows_from_where_the_interval_lies(interval, expected, answer):
    low, high = interval
    assert verdict(Interval((low + high) / 2, low, high, 4), expected) == answer


# Claims of one effect, of several, and of none

YES = expecting([0.2, 0.3, 0.25], "yes")
NO = expecting([-0.2, -0.3, -0.25], "no")
MAYBE = expecting([-0.2, 0.3, 0.1], "maybe")
UNKNOWN = expecting([0.3], "unknown")
ALONE = {"yes": "supported", "no": "refuted", "maybe": "inconclusive", "unknown": "inconclusive"}


def effects_of(expectations, study):
    """Every effect by itself."""
    return [effect for expected in expectations for effect in expected.effects(study)]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_all_effects_must_hold_and_one_that_does_not_refutes(n, study):
    for expectations in itertools.product((YES, NO, MAYBE, UNKNOWN), repeat=n):
        measured = [effect.measured for effect in effects_of(expectations, study)]
        alone = [ALONE[name] for name in measured]
        expected = "supported" if set(alone) == {"supported"} else "inconclusive"
        result = judge(claim(*expectations), study)
        assert result.verdict == ("refuted" if "refuted" in alone else expected)
        assert [part.verdict for part in result.parts] == alone
        assert [part.measured for part in result.parts] == measured


def test_an_expectation_of_several_effects_is_a_part_for_each(study):
    """In order, among those of the other expectations; all of them must hold."""
    both = quantities(lambda study: {"first": [0.2, 0.3, 0.25], "second": [-0.2, -0.3, -0.25]})
    result = judge(claim(MAYBE, both > 0, YES), study)
    assert [part.measured for part in result.parts] == ["maybe", "first", "second", "yes"]
    assert result.verdict == "refuted"


def test_a_part_holds_what_was_measured(study):
    values = np.array([0.1, 0.2, 0.4])
    asked = claim(expecting(values, "what", (-1.0, 2.0)))
    result = judge(asked, study)
    assert result.claim is asked
    (part,) = result.parts
    assert (part.measured, part.expected) == ("what", (-1.0, 2.0))
    assert part.interval == mean_interval(values, 0.95)


def test_a_claim_that_expects_nothing_is_refused():
    """It would be supported by every study, or by none."""
    with pytest.raises(TypeError, match="'id' expects nothing"):
        Claim("id", "A sentence.", "a source")


def raising(error):
    def read(study):
        raise error

    return quantities(read) > 0


LACKING = [raising(Missing("no such point")), quantities(lambda study: {}) > 0]


@pytest.mark.parametrize("lacking", LACKING, ids=["raises", "returns nothing"])
@pytest.mark.parametrize("before", [(), (YES,), (NO,), (YES, NO)], ids=len)
@pytest.mark.parametrize("after", [(), (YES,), (NO,)], ids=len)
def test_a_study_that_lacks_the_points_decides_nothing(before, after, lacking, study):
    """Those of one expectation are enough: a refuted one beside it is no verdict on the claim."""
    asked = claim(*before, lacking, *after)
    result = judge(asked, study)
    assert (result.verdict, result.parts) == ("inconclusive", ())
    assert evidence_in_words(result) == ["the study lacks the points"]
    with pytest.raises(Missing):
        asked.effects(study)


@pytest.mark.parametrize("error", [KeyError("depth"), LookupError(), ValueError(), IndexError()])
def test_a_mistake_in_a_claim_is_not_a_study_that_lacks_the_points(error, study):
    with pytest.raises(type(error)):
        judge(claim(YES, raising(error)), study)


@pytest.mark.parametrize("level", [0.5, 0.05, 0.01, 0.001])
def test_the_interval_is_of_confidence_one_minus_the_level(level, study):
    (part,) = judge(claim(YES, level=level), study).parts
    assert part.interval == mean_interval(np.array([0.2, 0.3, 0.25]), 1 - level)


def test_the_level_of_a_claim_is_one_in_twenty_unless_it_says_another():
    assert Claim("id", "A sentence.", "a source", YES).level == 0.05


def test_a_stricter_level_can_leave_a_verdict_open(study):
    verdicts = [judge(claim(YES, level=level), study).verdict for level in (0.05, 0.01, 0.001)]
    assert verdicts == ["supported", "inconclusive", "inconclusive"]


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (POSITIVE, "(expected > 0)"),
        (NEGATIVE, "(expected < 0)"),
        ((0.5, INF), "(expected > 0.5)"),
        ((-INF, 0.5), "(expected < 0.5)"),
        ((-0.02, 0.02), "(expected in ±0.02)"),
        ((-0.05, 0.02), "(expected in -0.05 to 0.02)"),
    ],
)
def test_the_evidence_says_what_was_measured_and_expected(expected, words, study):
    effect = expecting([0.1, 0.2, 0.3], "column: A − B", expected)
    first, second = evidence_in_words(judge(claim(effect, YES), study))
    assert first == f"column: A − B = 0.20 ± 0.25 {words}, n = 3"
    assert second.startswith("yes = 0.25 ± 0.12 (expected > 0)")


# Remarks

REMARK = "the sentence is about infinitely many examples."


@pytest.mark.parametrize("expectations", [(YES,), (YES, NO), (LACKING[0],)], ids=len)
def test_a_remark_is_the_last_line_of_the_evidence(expectations, study):
    asked = claim(*expectations)
    plain = evidence_in_words(judge(asked, study))
    actual = judge(asked, study).verdict
    other = "refuted" if actual == "supported" else "supported"
    of_another_verdict = {"id": {other: REMARK}}
    for remarks in (None, {}, {"id": {}}, {"another": {actual: REMARK}}, of_another_verdict):
        (result,) = judge_all([asked], study, remarks)
        assert result.remark == ""
        assert evidence_in_words(result) == plain
    (result,) = judge_all([asked], study, {"another": {actual: "no"}, "id": {actual: REMARK}})
    assert evidence_in_words(result) == [*plain, f"Why: {REMARK}"]


def test_a_remark_is_on_one_claim_and_changes_no_verdict(study):
    asked = [claim(YES, id="first"), claim(NO, id="second"), claim(MAYBE, LACKING[1], id="third")]
    plain = judge_all(asked, study)
    remarked = judge_all(asked, study, {"second": {"refuted": REMARK}, "third": {"refuted": "no"}})
    assert [result.claim for result in remarked] == asked
    assert [result.verdict for result in plain] == ["supported", "refuted", "inconclusive"]
    assert [result.remark for result in remarked] == ["", REMARK, ""]
    for first, second in zip(plain, remarked, strict=True):
        assert (first.verdict, first.parts) == (second.verdict, second.parts)


# Claims of an experiment


def test_equal_studies_give_equal_verdicts(study, tmp_path):
    again = write(tmp_path / "again", [BASE, L1, L2], study.trials.to_dict("records"))
    for first, second in zip(judge_all(CLAIMS, study), judge_all(CLAIMS, again), strict=True):
        assert first.verdict == second.verdict
        assert evidence_in_words(first) == evidence_in_words(second)


def test_a_claim_cannot_change_what_it_is_judged_by(study):
    """It gets the study alone; judging twice, in any order, is the same."""
    first = judge_all(CLAIMS, study)
    again = judge_all(CLAIMS[::-1], study)[::-1]
    assert [result.verdict for result in first] == [result.verdict for result in again]
    assert list(map(evidence_in_words, first)) == list(map(evidence_in_words, again))


def test_the_claims_of_the_regularization_study(study):
    verdicts = {result.claim.id: result.verdict for result in judge_all(CLAIMS, study)}
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
