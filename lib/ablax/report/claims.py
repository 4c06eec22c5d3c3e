"""Claims: what theory says, tested on a study's table, with a verdict and its evidence.

A claim says where its effect lies if it is true: above 0, or within bounds. The interval of
the measured effect then decides. It lies inside: supported. It lies outside: refuted. It
does neither: inconclusive, and more restarts may tell.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ablax.report.statistics import Interval, mean_interval, share_interval
from ablax.report.study import Chosen, Table
from ablax.report.tables import show

Verdict = Literal["supported", "refuted", "inconclusive"]
Bounds = tuple[float, float]

POSITIVE: Bounds = (0.0, math.inf)
NEGATIVE: Bounds = (-math.inf, 0.0)


@dataclass(frozen=True)
class Effect:
    """What was measured.

    Attributes:
        values: one a restart; their mean is the effect.
        measured: what it is, in words.
        expected: where it lies if the claim is true.
        share: the values are 0 or 1, so that their mean is the share of the restarts for which
            something holds: its interval is the exact one. Else it is Student's t.
    """

    values: np.ndarray
    measured: str
    expected: Bounds = POSITIVE
    share: bool = False

    def interval(self, level: float) -> Interval:
        if not self.share:
            return mean_interval(self.values, level)
        return share_interval(float(np.sum(self.values)), len(self.values), level)


def difference(
    table: Table, column: str, a: Chosen | str, b: Chosen | str, expected: Bounds = POSITIVE
) -> Effect:
    """a − b on a column of trials.parquet, restart by restart; named by their methods."""
    points = [point.point if isinstance(point, Chosen) else point for point in (a, b)]
    methods = [table.settings[point]["group"] for point in points]
    first, second = methods if methods[0] != methods[1] else points
    return Effect(table.differences(a, b, column), f"{column}: {first} − {second}", expected)


Test = Callable[[Table], Sequence[Effect] | None]


def between(
    column: str, larger: str, smaller: str, expected: Bounds = POSITIVE, **where: Any
) -> Test:
    """The test that compares two methods, each at the strength that validation chooses.

    Args:
        column: of trials.parquet.
        larger, smaller: the effect is larger − smaller.
        expected: where it lies if the claim is true.
        **where: settings of the points that are compared.
    """

    def test(table: Table) -> list[Effect] | None:
        methods = table.methods(**where)
        if larger not in methods or smaller not in methods or column not in table.trials:
            return None
        found = difference(table, column, methods[larger], methods[smaller], expected)
        at = "".join(f", {field}={value}" for field, value in where.items())
        return [replace(found, measured=found.measured + at)]

    return test


def within(
    column: str, measured: str, expected: Bounds, *, share: bool = False, **where: Any
) -> Test:
    """The test that a column lies where it should, at every point with these settings.

    Args:
        column: of trials.parquet; points without it are left out.
        measured: what it is, in words; the point's name follows.
        expected: where its mean lies if the claim is true.
        share: the column is 0 or 1.
        **where: settings of the points.
    """

    def test(table: Table) -> list[Effect] | None:
        if column not in table.trials:
            return None
        return [
            Effect(values.to_numpy(np.float64), f"{measured}, {point}", expected, share)
            for point in table.among(**where)
            if not (values := table.values(point, column)).isna().any()
        ] or None

    return test


def every(*tests: Test) -> Test:
    """The effects of several tests; None if the study lacks the points of one."""

    def test(table: Table) -> list[Effect] | None:
        found = [part(table) for part in tests]
        if any(effects is None for effects in found):
            return None
        return [effect for effects in found for effect in effects or ()]

    return test


@dataclass(frozen=True)
class Claim:
    """A sentence that can be tested.

    Attributes:
        id: short and stable.
        sentence: what is claimed, in our own words.
        source: where it is stated.
        test: the study's table -> the effects, all of which must be as expected. It gets the
            table alone: it cannot train. None if the study lacks the points.
        remark: why it comes out as it does, where that is not what the sentence says.
        level: of significance; the intervals are those of confidence 1 − level. With several
            effects none is corrected: all must hold, so none can be picked.
    """

    id: str
    sentence: str
    source: str
    test: Test
    remark: str = ""
    level: float = 0.05


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


def judge(claim: Claim, table: Table) -> Judgement:
    """Supported if every effect is; refuted if one is; else inconclusive."""
    effects = claim.test(table)
    parts = tuple(_judged(effect, claim.level) for effect in effects or ())
    verdicts = {part.verdict for part in parts}
    if "refuted" in verdicts:
        return Judgement(claim, "refuted", parts)
    return Judgement(claim, "supported" if verdicts == {"supported"} else "inconclusive", parts)


def _judged(effect: Effect, level: float) -> Part:
    interval = effect.interval(1 - level)
    return Part(effect.measured, effect.expected, interval, verdict(interval, effect.expected))


def verdict(interval: Interval, expected: Bounds) -> Verdict:
    """Where the interval lies.

    >>> effect = Interval(0.3, 0.1, 0.5, n=16)
    >>> verdict(effect, POSITIVE), verdict(effect, (-1.0, 0.0)), verdict(effect, (0.2, 1.0))
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


def judge_all(claims: Sequence[Claim], table: Table) -> list[Judgement]:
    return [judge(claim, table) for claim in claims]


def evidence_in_words(judgement: Judgement) -> list[str]:
    """A line for each effect behind a verdict, with its interval and what was expected; why."""
    remark = judgement.claim.remark
    lines = [
        f"{part.measured} = {show(part.interval)}{_bounds(part.expected)}, n = {part.interval.n}"
        for part in judgement.parts
    ] or ["the study lacks the points"]
    return [*lines, f"Why: {remark}"] if remark else lines


def _bounds(expected: Bounds) -> str:
    """
    >>> _bounds(POSITIVE), _bounds((-0.01, 0.01))
    (' (expected > 0)', ' (expected in ±0.01)')
    """
    low, high = expected
    if math.isinf(high):
        return f" (expected > {low:g})"
    if math.isinf(low):
        return f" (expected < {high:g})"
    return f" (expected in ±{high:g})" if low == -high else f" (expected in {low:g} to {high:g})"
