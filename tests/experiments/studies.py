"""Helpers of the experiments' tests: launch a command, and read its study without the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

from ablax.cli import launch as command
from ablax.cli.main import main
from ablax.config import as_traced, field_specs, statics_of
from ablax.engine import engine
from ablax.engine import trials as engine_trials
from ablax.engine.mesh import mesh_of
from ablax.engine.trials import take
from ablax.report.study import Study
from ablax.study import run as launched
from ablax.task import Task, Trial
from tests.report import runs


def launch(name: str, out: Path, *typed: object, report: bool = False) -> Path:
    """The command, as the command line runs it, on two devices; returns the run directory.

    Args:
        name: of the experiment.
        out: the run directory.
        *typed: flags.
        report: write the report as well, which takes as long as a short study.
    """
    words = [name, *map(str, typed), "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["experiments", *words])
        patch.setattr(launched, "mesh_of", lambda: mesh_of(jax.devices()[:2]))
        if not report:
            patch.setattr(command, "write_report", lambda *_: (out, []))
        assert main(words) == 0
    return out


def made_up(
    directory: Path,
    points: Sequence[dict[str, Any]],
    columns: dict[str, Sequence[Any]] | None = None,
    restarts: int = 4,
    **study: Any,
) -> Study:
    """A table of these points without training: every number is random, or as given.

    Args:
        directory: where to.
        points: settings, with a group each; equal to nothing else, so that names are numbers.
        columns: {column: a value for each trial, point by point}, beside losses and accuracies.
        restarts: of every point.
        **study: of study.json.
    """
    named = [{"group": str(i), **setting, "name": str(i)} for i, setting in enumerate(points)]
    rows = runs.random_trials(named, restarts)
    for i, row in enumerate(rows):
        row |= {name: values[i] for name, values in (columns or {}).items()}
    return runs.write(directory, named, rows, **study)


def trials_of(directory: Path) -> pd.DataFrame:
    return pd.read_parquet(directory / "trials.parquet")


def trial_of(config: Any, restart: int = 0, seed: int = 0) -> Trial:
    """One trial, as a task's functions get it."""
    return take(engine_trials.trials_of([as_traced(config)], [restart], seed), 0)


def task_of(module: Any, config: Any) -> Task:
    return module.task(statics_of(config))


def effects(module: Any, name: str, study: Study) -> list[Any]:
    """The effects of the claim of this id, as the study measured them."""
    (claim,) = [claim for claim in module.CLAIMS if claim.id == name]
    return claim.effects(study)


def by_the_others(
    trials: pd.DataFrame, group: str, column: str, by: str, sign: int, **where: Any
) -> pd.Series:
    """A column by restart, of the point that the other restarts' mean of `by` is best at."""
    for field, value in {"group": group, **where}.items():
        trials = trials[trials[field] == value]
    names = list(trials["point"].unique())
    result = {}
    for restart in sorted(trials["restart"].unique()):
        others = trials[trials["restart"] != restart]
        means = [sign * others.loc[others["point"] == name, by].astype(float).mean()
                 for name in names]  # fmt: skip
        name = names[int(np.argmax(means))]
        row = trials[(trials["point"] == name) & (trials["restart"] == restart)]
        result[restart] = float(row[column].iloc[0])
    return pd.Series(result)


Compared = tuple[str, str, str, tuple[float, float], dict[str, Any]]
"""(column, larger, smaller, expected, where)"""


def check_differences(
    module: Any, name: str, table: Study, expected: Sequence[Compared], by: str, sign: int
) -> None:
    """The claim's effects are the differences of these methods, computed from the Parquet file."""
    trials = trials_of(table.directory)
    assert set(trials["status"]) <= {"done", "stopped"}
    result = effects(module, name, table)
    assert len(result) == len(expected)
    for effect, (column, larger, smaller, bounds, where) in zip(result, expected, strict=True):
        a, b = (
            by_the_others(trials, group, column, by, sign, **where) for group in (larger, smaller)
        )
        np.testing.assert_allclose(effect.values, (a - b).to_numpy(), rtol=1e-12, atol=0)
        assert effect.expected == bounds, effect.measured
        assert effect.measured.startswith(f"{column}: {larger} − {smaller}")


def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on training is a failure."""

    def reached(*_: Any, **__: Any) -> None:
        raise AssertionError("something was trained")

    monkeypatch.setattr(engine.Engine, "__init__", reached)
    monkeypatch.setattr(engine.Engine, "run", reached)


def points_of(module: Any, name: str, *typed: object) -> list[dict[str, Any]]:
    """The points that a command line leads to."""
    from ablax.cli import flags
    from ablax.experiment import experiment_of

    return module.points(flags.parse(experiment_of(module), name, list(map(str, typed))).config)


def check_axes(
    module: Any, points: Any, axes: dict[str, tuple], rows_set: Sequence[str] = ()
) -> None:
    """Every field of the Config is an axis: its values, and no others, with the same rest each.

    Args:
        points: a command line's points, as `points_of`.
        axes: {field: two values}, of all fields.
        rows_set: fields that rows of the table may set for themselves.
    """
    assert axes.keys() == field_specs(module.Config).keys()
    for name, values in axes.items():
        if name in rows_set:
            continue
        table = points("--" + name.replace("_", "-"), *values)
        rest = [
            [{k: v for k, v in p.items() if k != name} for p in table if p[name] == value]
            for value in values
        ]
        assert rest[0] == rest[1], name
        assert len(rest[0]) * 2 == len(table), name
