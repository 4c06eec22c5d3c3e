"""A study read back from its run directory, and the table that a paper would print of it."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablax.errors import UserError
from ablax.metrics import Metric
from ablax.report.statistics import Interval, mean_interval, paired_difference
from ablax.sweep.store import read_array, read_parquet

BASELINE = "baseline"


@dataclass(frozen=True)
class Comparison:
    """One setting against its baseline, paired by restart, on the test split."""

    point: str
    baseline: str
    difference: Interval


class Table:
    """A study: its trials, curves and arrays, and summaries of its points.

    Attributes:
        study: what study.json says.
        trials: a row per finished trial, in canonical order.
        curves: a row per trial and evaluation.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        path = directory / "study.json"
        try:
            self.study: dict[str, Any] = json.loads(path.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise UserError(f"{directory} holds no readable study: {path}: {error}") from error
        self.trials = read_parquet(directory / "trials.parquet")
        curves = directory / "curves.parquet"
        self.curves = read_parquet(curves) if curves.exists() else pd.DataFrame()
        if self.trials.empty:
            raise UserError(f"{directory} holds no finished trial yet")

    @cached_property
    def points(self) -> pd.DataFrame:
        """A row per point that has a finished trial, with its settings, indexed by name."""
        rows = pd.DataFrame(self.study["points"]).set_index("name")
        return rows.loc[[name for name in rows.index if name in set(self.trials["point"])]]

    @cached_property
    def headline(self) -> Metric:
        """The metric that the table leads with: the first that the task declares."""
        name, direction = next(iter(self.study["metrics"].items()))
        return Metric(name, direction)

    @cached_property
    def objective(self) -> Metric:
        """The validation metric by which settings are selected."""
        chosen = self.study["objective"]
        return Metric(**chosen) if chosen else self.headline

    @cached_property
    def varying(self) -> list[str]:
        """The fields that differ between points."""
        fields = [c for c in self.points.columns if c != "group"]
        return [c for c in fields if self.points[c].astype(str).nunique() > 1]

    def array(self, name: str) -> dict[str, np.ndarray]:
        """{trial: array} of arrays/<name>.parquet."""
        return read_array(self.directory / "arrays" / f"{name}.parquet")

    def values(self, point: str, column: str) -> pd.Series:
        """A column of one point's trials, indexed by restart."""
        rows = self.trials[self.trials["point"] == point]
        return rows.set_index("restart")[column].sort_index()

    def interval(self, point: str, column: str) -> Interval:
        return mean_interval(self.values(point, column).to_numpy(np.float64))

    def difference(self, a: str, b: str, column: str) -> Interval:
        """Mean of a − b over the restarts that both points have."""
        both = pd.concat([self.values(a, column), self.values(b, column)], axis=1, join="inner")
        return paired_difference(both.iloc[:, 0].to_numpy(), both.iloc[:, 1].to_numpy())

    def baseline(self, point: str) -> str | None:
        """The point that `point` is compared with; None for a baseline itself.

        Among the points of group "baseline" (or, if the study has none, the first points)
        the one that agrees with it in the most fields; it must agree in every static.
        """
        points = self.points
        candidates = points[points["group"] == BASELINE]
        if candidates.empty:
            candidates = points.iloc[:1]
        if point in candidates.index:
            return None
        fields = [c for c in points.columns if c != "group"]
        agreement = (candidates[fields].astype(str) == points.loc[point, fields].astype(str)).sum(
            axis=1
        )
        return str(agreement.idxmax())

    def groups(self) -> dict[tuple[str, ...], list[str]]:
        """The points by ablation row: same group, same baseline."""
        grouped: dict[tuple[str, ...], list[str]] = {}
        for name in self.points.index:
            key = (self.baseline(name) or name, self.points.loc[name, "group"])
            grouped.setdefault(key, []).append(name)
        return grouped

    def selected(self, points: list[str]) -> str:
        """The point with the best mean objective on the validation split."""
        column, sign = f"valid/{self.objective.name}", self.objective.sign
        means = {point: self.interval(point, column).mean for point in points}
        return max(means, key=lambda point: np.nan_to_num(sign * means[point], nan=-np.inf))

    def best(self) -> str:
        """The point that a user would take: the best of all on the validation split."""
        return self.selected(list(self.points.index))

    def comparisons(self) -> list[Comparison]:
        """Every row at its best strength against its baseline, on the test split."""
        found = []
        for (baseline, _), members in self.groups().items():
            point = self.selected(members)
            if point != baseline:
                column = f"test/{self.headline.name}"
                found.append(Comparison(point, baseline, self.difference(point, baseline, column)))
        return found

    def measures(self) -> list[str]:
        """The scalar columns that are not settings nor split metrics (norms, shares, …)."""
        known = {"trial", "point", "group", "restart", "status", "steps", "best_step"}
        known |= set(self.points.columns)
        return [c for c in self.trials.columns if c not in known and "/" not in c]

    def summary(self) -> pd.DataFrame:
        """The table: a row per point, means with the ends of their 95% intervals."""
        names = list(self.study["metrics"])
        columns = [f"{split}/{name}" for name in names for split in ("train", "valid", "test")]
        columns = [c for c in columns if c in self.trials] + [*self.measures(), "steps"]
        rows = []
        for point, settings in self.points.iterrows():
            row: dict[str, Any] = {"point": point, "group": settings["group"]}
            row |= {name: settings[name] for name in self.varying}
            for column in columns:
                interval = self.interval(str(point), column)
                row |= {
                    column: interval.mean,
                    f"{column} low": interval.low,
                    f"{column} high": interval.high,
                }
            baseline = self.baseline(str(point))
            if baseline is not None:
                delta = self.difference(str(point), baseline, f"test/{self.headline.name}")
                row |= {
                    "baseline": baseline,
                    f"Δ test/{self.headline.name}": delta.mean,
                    f"Δ test/{self.headline.name} low": delta.low,
                    f"Δ test/{self.headline.name} high": delta.high,
                }
            status = self.trials.loc[self.trials["point"] == point, "status"]
            row |= {"n": len(status), "diverged": int((status == "diverged").sum())}
            rows.append(row)
        return pd.DataFrame(rows)
