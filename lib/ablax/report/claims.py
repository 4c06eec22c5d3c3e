"""Claims: what theory says, tested on the study's table, with a verdict and its evidence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ablax.report.statistics import Interval
from ablax.report.tables import Table

Verdict = Literal["supported", "refuted", "inconclusive"]


@dataclass(frozen=True)
class Evidence:
    """The measured effect behind a verdict, expected to be positive if the claim is true."""

    effect: Interval
    measured: str  # what the effect is, in words


@dataclass(frozen=True)
class Claim:
    """A sentence that can be tested.

    Attributes:
        id: short and stable.
        sentence: what is claimed, in our own words.
        source: where it is stated.
        test: the study's table -> the effect, signed so that the claim says "positive".
            It gets the table alone: it cannot train. None if the study lacks the points.
    """

    id: str
    sentence: str
    source: str
    test: Callable[[Table], Evidence | None]


@dataclass(frozen=True)
class Judgement:
    claim: Claim
    verdict: Verdict
    evidence: Evidence | None


def judge(claim: Claim, table: Table) -> Judgement:
    """Supported or refuted where the effect's interval lies on one side of zero."""
    evidence = claim.test(table)
    if evidence is None or not np.isfinite([evidence.effect.low, evidence.effect.high]).all():
        return Judgement(claim, "inconclusive", evidence)
    if evidence.effect.low > 0:
        return Judgement(claim, "supported", evidence)
    if evidence.effect.high < 0:
        return Judgement(claim, "refuted", evidence)
    return Judgement(claim, "inconclusive", evidence)


def judge_all(claims: Sequence[Claim], table: Table) -> list[Judgement]:
    return [judge(claim, table) for claim in claims]
