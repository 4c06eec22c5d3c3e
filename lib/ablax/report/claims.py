"""Claims: statements of theory, judged on a study, with their evidence.

A claim expects its effects to lie within bounds: above 0, say. The interval of each measured
effect then decides. It lies inside: supported. It lies outside: refuted. It does neither:
inconclusive, and more restarts may tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ablax.errors import Missing
from ablax.report.quantities import Bounds, Effect, Expectation, bounds_in_words
from ablax.report.statistics import Interval
from ablax.report.study import Study
from ablax.report.tables import show

Verdict = Literal["supported", "refuted", "inconclusive"]
Remarks = Mapping[str, Mapping[str, str]]
"""{claim: {verdict: why one study came out so}}."""


class Claim:
    """A sentence that can be tested.

    Attributes:
        id: short and stable.
        sentence: the claim, in our own words; it stands alone.
        source: where it is stated.
        expectations: all of which must hold.
        level: of significance; the intervals are those of confidence 1 − level. With several
            effects none is corrected: all must hold, so none can be picked.
    """

    def __init__(
        self, id: str, sentence: str, source: str, *expectations: Expectation, level: float = 0.05
    ):
        if not expectations:
            raise TypeError(f"the claim {id!r} expects nothing")
        self.id, self.sentence, self.source = id, sentence, source
        self.expectations, self.level = expectations, level

    @property
    def fields(self) -> frozenset[str]:
        """Fields of the Config by which the expectations look up their points."""
        return frozenset(name for e in self.expectations for name in e.quantity.fields)

    def effects(self, study: Study) -> list[Effect]:
        """Every effect, as this study measured it.

        Raises:
            Missing: the study lacks the points of an expectation.
        """
        return [effect for expected in self.expectations for effect in expected.effects(study)]


@dataclass(frozen=True)
class Part:
    """One effect of a claim, measured and judged."""

    measured: str
    expected: Bounds
    interval: Interval
    verdict: Verdict


@dataclass(frozen=True)
class Judgement:
    claim: Claim
    verdict: Verdict
    parts: tuple[Part, ...]  # none if the study lacks the points
    remark: str = ""


def judge(claim: Claim, study: Study) -> Judgement:
    """Judge a claim: supported if every effect is, refuted if one is, else inconclusive."""
    try:
        effects = claim.effects(study)
    except Missing:
        effects = []
    parts = tuple(_judged(effect, claim.level) for effect in effects)
    verdicts = {part.verdict for part in parts}
    if "refuted" in verdicts:
        return Judgement(claim, "refuted", parts)
    return Judgement(claim, "supported" if verdicts == {"supported"} else "inconclusive", parts)


def _judged(effect: Effect, level: float) -> Part:
    interval = effect.interval(1 - level)
    return Part(effect.measured, effect.expected, interval, verdict(interval, effect.expected))


def verdict(interval: Interval, expected: Bounds) -> Verdict:
    """Verdict by where the interval lies.

    >>> effect = Interval(0.3, 0.1, 0.5, n=16)
    >>> verdict(effect, (0.0, 1.0)), verdict(effect, (-1.0, 0.0)), verdict(effect, (0.2, 1.0))
    ('supported', 'refuted', 'inconclusive')
    """
    low, high = expected
    if not interval.known:
        return "inconclusive"
    if interval.low > low and interval.high < high:
        return "supported"
    if interval.high < low or interval.low > high:
        return "refuted"
    return "inconclusive"


def judge_all(
    claims: Sequence[Claim], study: Study, remarks: Remarks | None = None
) -> list[Judgement]:
    """Judge every claim, with the remark, if there is one, on its verdict in this study."""
    remarks = remarks or {}
    judgements = [judge(claim, study) for claim in claims]
    return [
        replace(judgement, remark=remarks.get(judgement.claim.id, {}).get(judgement.verdict, ""))
        for judgement in judgements
    ]


def evidence_in_words(judgement: Judgement) -> list[str]:
    """A line for each effect behind a verdict, with its interval and its bounds; the remark."""
    lines = [
        f"{part.measured} = {show(part.interval)}{bounds_in_words(part.expected)}, "
        f"n = {part.interval.n}"
        for part in judgement.parts
    ] or ["the study lacks the points"]
    return [*lines, f"Why: {judgement.remark}"] if judgement.remark else lines
