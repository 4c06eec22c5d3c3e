"""Verdicts: by the side of zero on which the effect's interval lies."""

import math

import pytest

from ablax.report.claims import Claim, Evidence, judge, judge_all
from ablax.report.statistics import Interval
from experiments.regularization import CLAIMS
from tests.report.runs import point, trial, write

BASE, L1, L2 = point("base", "baseline"), point("l1", "L1", l1=0.1), point("l2", "L2", l2=0.1)


@pytest.fixture
def table(tmp_path):
    """L1 has more zeros and, by far, a larger loss; L2 differs in nothing but noise."""
    noise = (0.01, -0.01, 0.02, -0.02)
    trials = [
        row
        for r, e in enumerate(noise)
        for row in (
            trial(BASE, r, test_loss=0.5, **{"share_below_1e-3": 0.1}),
            trial(L1, r, test_loss=0.9 + e, **{"share_below_1e-3": 0.6 + e}),
            trial(L2, r, test_loss=0.5 + e, l2_norm=1.0 + e, **{"share_below_1e-3": 0.1 + e}),
        )
    ]
    return write(tmp_path, [BASE, L1, L2], trials)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 0.3, "supported"),
        (1e-9, 0.3, "supported"),
        (-0.3, -0.1, "refuted"),
        (-0.1, 0.3, "inconclusive"),
        (0.0, 0.3, "inconclusive"),
        (-0.3, 0.0, "inconclusive"),
        (0.0, 0.0, "inconclusive"),
        (math.nan, math.nan, "inconclusive"),
        (0.1, math.inf, "inconclusive"),
    ],
)
def test_the_verdict_follows_from_the_interval(low, high, verdict, table):
    evidence = Evidence(Interval((low + high) / 2, low, high, 4), "what")
    claim = Claim("id", "A sentence.", "a source", lambda _: evidence)
    judged = judge(claim, table)
    assert (judged.verdict, judged.evidence, judged.claim) == (verdict, evidence, claim)


def test_a_study_that_lacks_the_points_decides_nothing(table):
    judged = judge(Claim("id", "A sentence.", "a source", lambda _: None), table)
    assert (judged.verdict, judged.evidence) == ("inconclusive", None)


def test_the_claims_of_the_regularization_study(table):
    verdicts = {j.claim.id: j.verdict for j in judge_all(CLAIMS, table)}
    assert verdicts["l1-more-zeros-than-baseline"] == "supported"
    assert verdicts["l1-more-zeros-than-L2"] == "supported"
    assert verdicts["l2-shrinks"] == "supported"
    assert verdicts["l1-generalizes"] == "refuted"
    assert verdicts["l2-generalizes"] == "inconclusive"
    for absent in ("l1-more-zeros-than-dropout", "dropout-generalizes", "max-norm-generalizes"):
        assert verdicts[absent] == "inconclusive"


def test_claims_have_short_names_and_say_where_they_are_from():
    ids = [claim.id for claim in CLAIMS]
    assert len(set(ids)) == len(ids)
    for claim in CLAIMS:
        assert claim.id.replace("-", "").isalnum(), claim.id
        assert claim.sentence.endswith(".")
        assert claim.source
