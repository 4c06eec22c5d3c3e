"""A study read back from its run directory: trials, curves, arrays, and values by restart."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablax.errors import Missing, UserError
from ablax.metrics import Metric, worst_rank
from ablax.report.statistics import Interval, mean_interval, share_interval
from ablax.rundir.store import Store

BASELINE = "baseline"
NEEDED = {"experiment", "seed", "points", "plan", "objective", "metrics", "significance", "trials"}
"""Keys of study.json that a report needs."""


@dataclass(frozen=True)
class Chosen:
    """A choice among points by validation, and the point that stands for it at each restart.

    For a restart the other restarts choose, by their mean objective: the numbers of a restart
    never come from a choice that it had a part in. (A single restart chooses for itself, which
    is still blind to the test split.)

    Attributes:
        point: what all restarts choose together.
        by_restart: {restart: the point that the others choose}.
    """

    point: str
    by_restart: dict[int, str]

    @property
    def agreeing(self) -> int:
        """The restarts whose point is `point`."""
        return sum(point == self.point for point in self.by_restart.values())


@dataclass(frozen=True)
class Rung:
    """A round of a study that drops points between rounds."""

    points: int
    trials: int
    steps: int  # of its longest trial, counted from the start


class Study:
    """A launched study, as its run directory has it.

    Attributes:
        manifest: study.json.
        trials: a row per finished trial, in canonical order.
        curves: a row per trial and evaluation.
        significance: the level of comparisons with a baseline, stated before the run.
        rungs: what each round trained, where points were dropped between rounds.
        timings: what a clock said: (program, what, value) of every launch.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        path = directory / "study.json"
        try:
            self.manifest: dict[str, Any] = json.loads(path.read_text())
            lacking = NEEDED - self.manifest.keys()
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"{directory} holds no readable study: {path}: {error}") from error
        if lacking:
            raise UserError(
                f"{directory} holds no readable study: {path} lacks {', '.join(sorted(lacking))}"
            )
        self.significance = float(self.manifest["significance"])
        store = Store(directory)
        self.trials, self.curves = store.read("trials"), store.read("curves")
        self.timings = store.read("timings")
        if self.trials.empty:
            raise UserError(f"{directory} holds no finished trial yet")
        self.n_finished = len(self.trials)
        self.rungs: list[Rung] = []
        self._widened: dict[str, pd.DataFrame] = {}
        self._shares: dict[str, bool] = {}
        if "round" in self.trials and self.manifest["rounds"]["gives"] == "state":
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
        names = [name for name in self.manifest["points"][0] if name != "name"]
        first = self.trials.drop_duplicates("point").set_index("point")
        return pd.DataFrame(first[names])

    @cached_property
    def settings(self) -> dict[str, dict[str, Any]]:
        """{point: {field: value}}, and the group of each."""
        return self.points.to_dict("index")  # type: ignore[return-value]

    @cached_property
    def scored(self) -> pd.DataFrame:
        """The trials, with each metric of a diverged one at the worst of those that did not.

        So a diverged trial is never dropped, and ranks with the last of the study. Measures
        that have no direction stay those of the snapshot selected before it diverged. A point
        of which every trial diverged has no metrics.
        """
        scored = self.trials.copy()
        failed = (scored["status"] == "diverged").to_numpy()
        lost = scored["status"].eq("diverged").groupby(scored["point"]).transform("all").to_numpy()
        for column, metric in self.metrics.items():
            ranked = worst_rank(scored[column].to_numpy(np.float64), failed, metric)
            scored[column] = np.where(lost, np.nan, ranked)
        return scored

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """{column: its metric} of all splits, metric by metric: train/…, valid/…, test/…."""
        return {
            f"{split}/{name}": Metric(name, direction)
            for name, direction in self.manifest["metrics"].items()
            for split in ("train", "valid", "test")
            if f"{split}/{name}" in self.trials
        }

    @cached_property
    def _by_point(self) -> dict[str, pd.DataFrame]:
        return {
            str(point): rows.sort_values("restart")
            for point, rows in self.scored.groupby("point", sort=False)
        }

    @cached_property
    def headline(self) -> Metric:
        """The metric that the table leads with: the first that the task declares."""
        name, direction = next(iter(self.manifest["metrics"].items()))
        return Metric(name, direction)

    @cached_property
    def objective(self) -> Metric:
        """The validation metric by which settings are selected."""
        chosen = self.manifest["objective"]
        return Metric(**chosen) if chosen else self.headline

    @cached_property
    def varying(self) -> list[str]:
        """The fields that differ between points."""
        fields = [c for c in self.points.columns if c != "group"]
        return [c for c in fields if len(set(map(str, self.points[c]))) > 1]

    def array(self, name: str) -> dict[str, np.ndarray]:
        """{trial: array} of arrays/<name>.parquet; of the parts, while the study runs.

        Raises:
            Missing: nothing was kept under that name.
        """
        store = Store(self.directory)
        if not store.has_array(name):
            raise Missing(f"the study kept no array {name!r}")
        return store.read_arrays(name)

    def of(self, point: str | Chosen) -> pd.DataFrame:
        """The trials of a point by restart, as `scored`; of a choice, those that stand for it."""
        if isinstance(point, str):
            if point not in self._by_point:
                raise Missing(f"the study has no finished trial of the point {point!r}")
            return self._by_point[point]
        rows = pd.concat(
            [self._by_point[name] for name in dict.fromkeys(point.by_restart.values())]
        )
        standing = [
            point.by_restart.get(restart) == name
            for restart, name in zip(rows["restart"], rows["point"], strict=True)
        ]
        return pd.DataFrame(rows[standing]).sort_values("restart")

    def values(self, point: str | Chosen, column: str) -> pd.Series:
        """A column of one point's trials, indexed by restart; of a choice, those it stands for.

        Raises:
            Missing: the study has no such point or column.
        """
        if column not in self.trials:
            raise Missing(f"trials.parquet has no column {column!r}")
        if isinstance(point, Chosen):
            wide, restarts = self._wide(column), list(point.by_restart)
            row = wide.index.get_indexer(restarts)
            standing = wide.columns.get_indexer(list(point.by_restart.values()))
            return pd.Series(wide.to_numpy(np.float64)[row, standing], index=restarts).dropna()
        rows = self.of(point)
        return pd.Series(rows[column].to_numpy(), index=rows["restart"].to_numpy())

    def numbers(self, point: str | Chosen, column: str) -> np.ndarray:
        """`values` without their restarts, in float64."""
        return self.values(point, column).to_numpy(np.float64)

    def trial_ids(self, point: str | Chosen) -> list[str]:
        """The names of `of`."""
        return self.of(point)["trial"].to_list()

    def curve(self, point: str | Chosen, column: str) -> pd.DataFrame:
        """A column of curves.parquet as steps × `trial_ids`; NaN where a trial had ended."""
        trials = self.trial_ids(point)
        if column not in self.curves and not self.curves.empty:
            raise Missing(f"curves.parquet has no column {column!r}")
        if self.curves.empty:  # every trial diverged at once
            return pd.DataFrame(columns=trials, dtype=np.float64)
        rows = self.curves[self.curves["trial"].isin(trials)]
        wide = pd.DataFrame(rows).pivot(index="step", columns="trial", values=column)
        return wide.reindex(columns=trials)

    def largest(self, column: str) -> np.ndarray:
        """Largest value of a column at every restart, over all points that have it."""
        if column not in self.trials:
            raise Missing(f"trials.parquet has no column {column!r}")
        wide = self._wide(column).to_numpy(np.float64)
        return np.nanmax(wide[~np.isnan(wide).all(axis=1)], axis=1)

    def interval(self, point: str | Chosen, column: str) -> Interval:
        """The mean with Student's t interval; of a column of shares with the exact one."""
        values = self.numbers(point, column)
        if self.is_share(column):
            return share_interval(values.sum(), len(values))
        return mean_interval(values)

    def is_share(self, column: str) -> bool:
        """True if every trial has 0 or 1: then a mean is the share of trials that have 1."""
        if column not in self._shares:
            self._shares[column] = bool(self.scored[column].isin([0.0, 1.0]).all())
        return self._shares[column]

    def differences(self, a: str | Chosen, b: str | Chosen, column: str) -> np.ndarray:
        """a − b at each restart that both have."""
        return differences(self.values(a, column), self.values(b, column))

    def difference(self, a: str | Chosen, b: str | Chosen, column: str) -> Interval:
        """Mean of a − b over the restarts that both have."""
        return mean_interval(self.differences(a, b, column))

    @cached_property
    def _baselines(self) -> dict[str, str]:
        """{point: its baseline}, which may have no finished trial, or have been dropped."""
        # A launch that was cut off may have named points that study.json does not know yet.
        points = self.settings | {point["name"]: point for point in self.manifest["points"]}
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
        baseline = self._baselines.get(point)
        return baseline if baseline in self.settings else None

    def groups(self) -> dict[tuple[str, str], list[str]]:
        """The points by (baseline, group): the strengths of one method, baseline by baseline."""
        families: dict[str, dict[tuple[str, str], list[str]]] = {}
        for name, setting in self.settings.items():
            baseline = self._baselines.get(name, name)
            members = families.setdefault(baseline, {})
            members.setdefault((baseline, setting["group"]), []).append(name)
        return {key: points for members in families.values() for key, points in members.items()}

    def among(self, **where: Any) -> list[str]:
        """The points with these settings."""
        return [
            point
            for point, setting in self.settings.items()
            if all(setting[field] == value for field, value in where.items())
        ]

    def _wide(self, column: str) -> pd.DataFrame:
        """A column as restarts × points; NaN where a trial has not finished."""
        if column not in self._widened:
            wide = self.scored.pivot(index="restart", columns="point", values=column)
            self._widened[column] = pd.DataFrame(wide[list(self.settings)])
        return self._widened[column]

    def measures(self) -> list[str]:
        """The scalar columns that are not settings nor split metrics (norms, shares, …)."""
        known = {"trial", "point", "group", "restart", "status", "steps", "best_step"}
        known |= {"round", "parent"}
        known |= set(self.points.columns)
        return [c for c in self.trials.columns if c not in known and "/" not in c]


def differences(a: pd.Series, b: pd.Series) -> np.ndarray:
    """a − b at each restart that both have, whichever studies they are of."""
    both = pd.concat([a, b], axis=1, join="inner")
    return both.iloc[:, 0].to_numpy(np.float64) - both.iloc[:, 1].to_numpy(np.float64)
