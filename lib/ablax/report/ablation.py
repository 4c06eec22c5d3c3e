"""The numbers of a report: the ablation table, and every point by itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ablax.report import selection
from ablax.report.statistics import (
    Interval,
    bootstrap_interval,
    effect_size,
    holm,
    interquartile_mean,
    mean_interval,
    median,
    probability_of_improvement,
    restarts_needed,
    sign_flip_test,
)
from ablax.report.study import Chosen, Study


@dataclass(frozen=True)
class Comparison:
    """A row against its baseline, restart by restart.

    Attributes:
        baseline: the point that it is compared with.
        difference: row − baseline, with its t interval.
        p: of the sign-flip test that the difference is 0.
        p_corrected: by Holm, over all rows of the table.
        improvement: the share of restarts at which the row is better, ties counting half.
        effect_size: the mean difference in standard deviations of the differences.
        restarts_needed: restarts in all that would show a difference of this size as significant in
            this table; NaN where it is significant already, or nothing is known.
    """

    baseline: str
    difference: Interval
    p: float
    p_corrected: float
    improvement: Interval
    effect_size: float
    restarts_needed: float


@dataclass(frozen=True)
class AblationRow:
    """A row of the ablation table: a baseline, or a method at the strength that was chosen.

    Attributes:
        group: the method.
        chosen: its point, and which stands for it at each restart.
        trials: their rows of trials.parquet, by restart.
        mean, median, interquartile_mean: of the headline metric on the test split.
        versus: None for a baseline.
    """

    group: str
    chosen: Chosen
    trials: pd.DataFrame
    mean: Interval
    median: Interval
    interquartile_mean: Interval
    versus: Comparison | None

    @property
    def n(self) -> int:
        return len(self.trials)

    @property
    def diverged(self) -> int:
        return list(self.trials["status"]).count("diverged")

    def significant(self, level: float) -> bool:
        """True if it differs from its baseline at the level, corrected for the other rows."""
        return self.versus is not None and self.versus.p_corrected <= level


def ablation(study: Study) -> list[AblationRow]:
    """Each baseline, and each method at its chosen strength against it, on the test split."""
    column, sign = f"test/{study.headline.name}", study.headline.sign
    rows, groups = [], study.groups()
    compared = [
        key for key, points in groups.items() if key[0] in study.settings and key[0] not in points
    ]
    for (baseline, group), points in groups.items():
        chosen = selection.chosen(study, points)
        versus = None
        if (baseline, group) in compared:
            differences = study.differences(chosen, baseline, column)
            versus = _compared(baseline, differences, sign, study.significance / len(compared))
        values = study.numbers(chosen, column)
        rows.append(
            AblationRow(
                group,
                chosen,
                study.of(chosen),
                study.interval(chosen, column),
                bootstrap_interval(values, median),
                bootstrap_interval(values, interquartile_mean),
                versus,
            )
        )
    return _corrected(rows, study.significance)


def _compared(baseline: str, differences: np.ndarray, sign: int, level: float) -> Comparison:
    """One comparison by itself; `level` is that of the strictest step of Holm's correction."""
    p = sign_flip_test(differences)
    fewest = 1 + np.ceil(np.log2(1 / level))  # whose smallest p, 2¹⁻ⁿ, reaches the level
    return Comparison(
        baseline,
        mean_interval(differences),
        p,
        p,
        probability_of_improvement(sign * differences),
        effect_size(sign * differences),
        np.maximum(restarts_needed(differences, 1 - level), fewest),
    )


def _corrected(rows: Sequence[AblationRow], level: float) -> list[AblationRow]:
    """The rows with their p-values adjusted by Holm's method."""
    corrected = iter(holm([row.versus.p for row in rows if row.versus is not None]))
    lines = []
    for row in rows:
        if row.versus is not None:
            p = float(next(corrected))
            restarts_needed = np.nan if p <= level else row.versus.restarts_needed
            row = replace(
                row, versus=replace(row.versus, p_corrected=p, restarts_needed=restarts_needed)
            )
        lines.append(row)
    return lines


def ablation_frame(study: Study, rows: Sequence[AblationRow]) -> pd.DataFrame:
    """The ablation table with every digit, for CSV."""
    name = study.headline.name
    lines = []
    for row in rows:
        setting = study.settings[row.chosen.point]
        line: dict[str, Any] = {"method": row.group, "point": row.chosen.point}
        line |= {field: setting[field] for field in study.varying}
        line |= {"n": row.n, "diverged": row.diverged, "chosen at": row.chosen.agreeing}
        line |= _ends(f"test/{name} mean", row.mean)
        line |= _ends(f"test/{name} median", row.median)
        line |= _ends(f"test/{name} interquartile mean", row.interquartile_mean)
        if (versus := row.versus) is not None:
            line |= {"baseline": versus.baseline}
            line |= _ends(f"Δ test/{name}", versus.difference)
            line |= {"p": versus.p, "p (Holm)": versus.p_corrected}
            line |= _ends("probability of improvement", versus.improvement)
            line |= {"effect size": versus.effect_size, "restarts needed": versus.restarts_needed}
            line |= {"significant": row.significant(study.significance)}
        lines.append(line)
    return pd.DataFrame(lines)


def points_frame(study: Study) -> pd.DataFrame:
    """Every point by itself, with every digit, for CSV."""
    headline = f"test/{study.headline.name}"
    columns = [*study.metrics, *study.measures(), "steps"]
    lines = []
    for point, setting in study.settings.items():
        line: dict[str, Any] = {"point": point, "group": setting["group"]}
        line |= {field: setting[field] for field in study.varying}
        statuses = list(study.of(point)["status"])
        line |= {"n": len(statuses), "diverged": statuses.count("diverged")}
        for column in columns:
            line |= _ends(column, study.interval(point, column))
        values = study.numbers(point, headline)
        line |= _ends(f"{headline} median", bootstrap_interval(values, median))
        line |= _ends(
            f"{headline} interquartile mean", bootstrap_interval(values, interquartile_mean)
        )
        if (baseline := study.baseline(point)) is not None:
            line |= {"baseline": baseline}
            line |= _ends(f"Δ {headline}", study.difference(point, baseline, headline))
        lines.append(line)
    return pd.DataFrame(lines)


def _ends(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.estimate, f"{name} low": interval.low, f"{name} high": interval.high}
