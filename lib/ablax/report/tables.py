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
from ablax.sweep.store import Store

BASELINE = "baseline"


@dataclass(frozen=True)
class Comparison:
    """A method at its selected strength against its baseline, paired by restart, on test."""

    group: str
    point: str
    baseline: str
    difference: Interval


@dataclass(frozen=True)
class Rung:
    """A round of a study that drops points between rounds."""

    points: int
    trials: int
    steps: int  # of its longest trial, counted from the start


class Table:
    """A study: its trials, curves and arrays, and summaries of its points.

    Attributes:
        study: what study.json says.
        trials: a row per finished trial, in canonical order.
        curves: a row per trial and evaluation.
        rungs: what each round trained, where points were dropped between rounds.
        timings: what a clock said: (program, what, value) of every launch.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        path = directory / "study.json"
        try:
            self.study: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{directory} holds no readable study: {path}: {error}") from error
        store = Store(directory)
        self.trials, self.curves = store.read("trials"), store.read("curves")
        self.timings = store.read("timings")
        if self.trials.empty:
            raise UserError(f"{directory} holds no finished trial yet")
        self.n_finished = len(self.trials)
        self.rungs: list[Rung] = []
        if "round" in self.trials and self.study["rounds"]["gives"] == "state":
            self._follow_to_the_last_round()

    def _follow_to_the_last_round(self) -> None:
        """Where trials continue those of a round before, a study's result is its last round.

        `rungs` says what each round trained; the curves are those of whole trajectories.
        """
        for _, rows in self.trials.groupby("round"):
            self.rungs.append(
                Rung(len(set(rows["point"])), len(rows), int(rows["steps"].to_numpy().max()))
            )
        parents = dict(zip(self.trials["trial"], self.trials["parent"], strict=True))
        self.trials = self.trials.loc[self.trials["round"] == self.trials["round"].max()]
        heir: dict[str, str] = {}
        for last in self.trials["trial"]:
            trial = last
            while isinstance(trial, str):
                heir[trial] = last
                trial = parents.get(trial)
        if self.curves.empty:  # every trial diverged at once
            return
        curves = self.curves.loc[self.curves["trial"].isin(list(heir))]
        curves = curves.assign(trial=[heir[trial] for trial in curves["trial"]])
        self.curves = curves.sort_values(["trial", "step"], kind="stable").reset_index(drop=True)

    @cached_property
    def points(self) -> pd.DataFrame:
        """A row per point that has a finished trial, with its settings, indexed by name."""
        names = [name for name in self.study["points"][0] if name != "name"]
        first = self.trials.drop_duplicates("point").set_index("point")
        return pd.DataFrame(first[names])

    @cached_property
    def settings(self) -> dict[str, dict[str, Any]]:
        """{point: {field: value}}, and the group of each."""
        return self.points.to_dict("index")  # type: ignore[return-value]

    @cached_property
    def _by_point(self) -> dict[str, pd.DataFrame]:
        return {str(point): rows for point, rows in self.trials.groupby("point", sort=False)}

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
        return [c for c in fields if len(set(map(str, self.points[c]))) > 1]

    def array(self, name: str) -> dict[str, np.ndarray]:
        """{trial: array} of arrays/<name>.parquet; of the parts, while the study runs."""
        return Store(self.directory).read_arrays(name)

    def of(self, point: str) -> pd.DataFrame:
        """The trials of one point, in order of their restarts."""
        return self._by_point[point].sort_values("restart")

    def values(self, point: str, column: str) -> pd.Series:
        """A column of one point's trials, indexed by restart."""
        rows = self.of(point)
        return pd.Series(rows[column].to_numpy(), index=rows["restart"].to_numpy())

    def interval(self, point: str, column: str) -> Interval:
        return mean_interval(self.values(point, column).to_numpy(np.float64))

    def difference(self, a: str, b: str, column: str) -> Interval:
        """Mean of a − b over the restarts that both points have."""
        both = pd.concat([self.values(a, column), self.values(b, column)], axis=1, join="inner")
        return paired_difference(both.iloc[:, 0].to_numpy(), both.iloc[:, 1].to_numpy())

    @cached_property
    def _baselines(self) -> dict[str, str]:
        """{point: its baseline}, which may have no finished trial, or have been dropped."""
        # A launch that was cut off may have named points that study.json does not know yet.
        points = self.settings | {point["name"]: point for point in self.study["points"]}
        named = [name for name, point in points.items() if point["group"] == BASELINE]
        candidates = named or list(self.settings)[:1]

        def agreement(a: str, b: str) -> int:
            fields = points[a].keys() & points[b].keys()
            return sum(str(points[a][field]) == str(points[b][field]) for field in fields)

        return {
            name: max(candidates, key=lambda candidate: agreement(candidate, name))
            for name in self.settings
            if name not in candidates
        }

    def baseline(self, point: str) -> str | None:
        """The point that `point` is compared with; None for a baseline itself.

        Among the points of group "baseline", the one that agrees with it in the most fields;
        in a study that names none, the first point. None too where that has not finished, or
        was dropped between rounds: nothing else would be a fair comparison.
        """
        found = self._baselines.get(point)
        return found if found in self.settings else None

    def groups(self) -> dict[tuple[str, str], list[str]]:
        """The points by (baseline, group): the strengths of one method on one network."""
        grouped: dict[tuple[str, str], list[str]] = {}
        for name, setting in self.settings.items():
            key = self._baselines.get(name, name), setting["group"]
            grouped.setdefault(key, []).append(name)
        return grouped

    @cached_property
    def _merit(self) -> dict[str, float]:
        """{point: its mean objective on validation, signed so that more is better}."""
        column, sign = f"valid/{self.objective.name}", self.objective.sign
        means = {point: self.interval(point, column).mean for point in self.settings}
        return {point: np.nan_to_num(sign * mean, nan=-np.inf) for point, mean in means.items()}

    def selected(self, points: list[str]) -> str:
        """The point with the best mean objective on the validation split."""
        return max(points, key=self._merit.__getitem__)

    def best(self) -> str:
        """The point that a user would take: the best of all on the validation split."""
        return self.selected(list(self.settings))

    def comparisons(self) -> list[Comparison]:
        """Every row at its best strength against its baseline, on the test split."""
        found = []
        for (baseline, group), members in self.groups().items():
            point = self.selected(members)
            if point != baseline and baseline in self.settings:
                column = f"test/{self.headline.name}"
                delta = self.difference(point, baseline, column)
                found.append(Comparison(group, point, baseline, delta))
        return found

    def measures(self) -> list[str]:
        """The scalar columns that are not settings nor split metrics (norms, shares, …)."""
        known = {"trial", "point", "group", "restart", "status", "steps", "best_step"}
        known |= {"round", "parent"}
        known |= set(self.points.columns)
        return [c for c in self.trials.columns if c not in known and "/" not in c]

    def summary(self) -> pd.DataFrame:
        """The table: a row per point, means with the ends of their 95% intervals."""
        names = list(self.study["metrics"])
        columns = [f"{split}/{name}" for name in names for split in ("train", "valid", "test")]
        columns = [c for c in columns if c in self.trials] + [*self.measures(), "steps"]
        rows = []
        for point, settings in self.settings.items():
            row: dict[str, Any] = {"point": point, "group": settings["group"]}
            row |= {name: settings[name] for name in self.varying}
            for column in columns:
                interval = self.interval(point, column)
                row |= {
                    column: interval.mean,
                    f"{column} low": interval.low,
                    f"{column} high": interval.high,
                }
            baseline = self.baseline(point)
            if baseline is not None:
                delta = self.difference(point, baseline, f"test/{self.headline.name}")
                row |= {
                    "baseline": baseline,
                    f"Δ test/{self.headline.name}": delta.mean,
                    f"Δ test/{self.headline.name} low": delta.low,
                    f"Δ test/{self.headline.name} high": delta.high,
                }
            status = list(self.of(point)["status"])
            row |= {"n": len(status), "diverged": status.count("diverged")}
            rows.append(row)
        return pd.DataFrame(rows)
