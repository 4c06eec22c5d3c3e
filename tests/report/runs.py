"""Run directories written by hand, without training, so that every number is known."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablax.experiment import Experiment
from ablax.report import page, plot
from ablax.report.claims import Claim, Remarks
from ablax.report.quantities import POSITIVE, Bounds, Expectation, quantities
from ablax.report.study import Study

SPLITS = ("train", "valid", "test")
PROTOCOL = {"protocol/steps": 100, "protocol/eval_every": 10}


def point(name: str, group: str, model: str = "mlp", **settings: Any) -> dict[str, Any]:
    fields = {"model": model, "l1": 0.0, "l2": 0.0, "max_norm": float("inf"), **settings}
    return {"name": name, "group": group, **PROTOCOL, **fields}


def trial(of: dict[str, Any], restart: int, **values: Any) -> dict[str, Any]:
    """A row of trials.parquet; metrics are given as valid_loss=… for valid/loss."""
    metrics = {f"{s}_{m}": f"{s}/{m}" for s in SPLITS for m in ("accuracy", "loss")}
    row = {"trial": f"{of['name']}/{restart}", "point": of["name"], "restart": restart}
    row |= {name: value for name, value in of.items() if name != "name"}
    row |= {"status": "stopped", "steps": 50, "best_step": 40, "l2_norm": 2.0}
    row |= dict.fromkeys(metrics.values(), 0.5)
    return row | {metrics.get(name, name): value for name, value in values.items()}


def series(of: dict[str, Any], **columns: Sequence[Any]) -> list[dict[str, Any]]:
    """The trials of a point from columns over its restarts; None: that restart has not finished."""
    rows = [
        (r, dict(zip(columns, values, strict=True)))
        for r, values in enumerate(zip(*columns.values(), strict=True))
    ]
    return [trial(of, r, **values) for r, values in rows if None not in values.values()]


BASE = point("base", "baseline")
WEAK = point("l2=0.1", "L2", l2=0.1)
STRONG = point("l2=1", "L2", l2=1.0)
LINEAR = point("linear", "baseline", model="linear")
LINEAR_L2 = point("linear l2=0.1", "L2", model="linear", l2=0.1)
POINTS = [BASE, WEAK, STRONG, LINEAR, LINEAR_L2]
"""Two baselines, and a method of two strengths on one of them."""
COLUMNS = [f"{s}/{m}" for s in SPLITS for m in ("accuracy", "loss")]
NOTHING = dict.fromkeys(COLUMNS, float("nan"))
"""The metrics of a trial that diverged at once."""


def random_trials(
    points: Sequence[dict[str, Any]] = POINTS, restarts: int = 4, seed: int = 0
) -> list[dict[str, Any]]:
    """Trials that differ in every metric, in a measure and in their length."""
    rng = np.random.default_rng(seed)
    return [
        trial(
            of,
            r,
            **dict(zip(COLUMNS, rng.random(len(COLUMNS)), strict=True)),
            l2_norm=rng.random(),
            steps=int(rng.integers(10, 100)),
        )
        for of in points
        for r in range(restarts)
    ]


def write_curves(directory: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Curves of two evaluations of each of these trials."""
    curves = [
        {"trial": row["trial"], "step": step, "train/loss": 1 / step, "valid/loss": 2 / step}
        for row in rows
        for step in (10, 20)
    ]
    pd.DataFrame(curves).to_parquet(directory / "curves.parquet")


def build(
    study: Study,
    claims: Sequence[Claim] = (),
    question: str = "Does it help?",
    *,
    figures: Mapping[str, Callable[[Study], Any]] | None = None,
    expected: str = "",
    remarks: Remarks | None = None,
) -> Path:
    """The report of a study that some experiment was launched for; the path of its page.

    Args:
        study: what the report is of.
        claims: of the experiment.
        question: its description, which begins with the question.
        figures: its own, beside those of every report.
        expected: its paragraph about the default preset.
        remarks: on the verdicts of this study.
    """
    experiment = Experiment(
        name="toy",
        points=_never,
        task=_never,
        claims=claims,
        figures=figures or {},
        description=question,
        expected=expected,
    )
    with plot.style():
        return page.build(study, experiment, remarks)


def _never(config: Any) -> Any:
    raise AssertionError("a report needs neither the points nor the task of the experiment")


def expecting(
    values: Sequence[float] | np.ndarray,
    measured: str,
    bounds: Bounds = POSITIVE,
    *,
    share: bool = False,
) -> Expectation:
    """An expectation with one effect, the same in every study."""
    fixed = quantities(lambda study: {measured: np.asarray(values)}, share=share)
    return Expectation(fixed, bounds)


RUNGS = (10, 30, 90)
"""Where the rounds of `halved` end."""


def halved(
    directory: Path,
    points: Sequence[Sequence[dict[str, Any]]],
    *,
    restarts: int = 2,
    values: dict[str, dict[str, Any]] | None = None,
    **study: Any,
) -> Study:
    """The run directory of a halved study: these points in each round, one evaluation a rung.

    Args:
        directory: where to.
        points: those of each round.
        restarts: of every point.
        values: {point: its columns}, in every round.
        **study: of study.json.
    """
    rows, curves = [], []
    for number, trained in enumerate(points):
        for of in trained:
            for r in range(restarts):
                name = f"{of['name']}/{r}"
                parent = f"{name}/{number - 1}" if number else None
                row = trial(of, r, trial=f"{name}/{number}", round=number, parent=parent)
                rows.append(row | {"steps": RUNGS[number]} | (values or {}).get(of["name"], {}))
                loss = 1.0 - 0.1 * number + 0.01 * r
                curves.append({"trial": row["trial"], "step": RUNGS[number], "valid/loss": loss})
    directory.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(curves).to_parquet(directory / "curves.parquet")
    every = list({of["name"]: of for trained in points for of in trained}.values())
    manifest = {"rounds": {"n": len(points), "gives": "state"}, "trials": len(rows)} | study
    return write(directory, every, rows, **manifest)


def write(
    directory: Path,
    points: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    **study: Any,
) -> Study:
    """The run directory of these rows of trials.parquet, read back."""
    directory.mkdir(parents=True, exist_ok=True)
    manifest = {
        "experiment": "toy",
        "trials": len(rows),
        "restarts": 1 + max((row["restart"] for row in rows), default=0),
        "points": list(points),
        "plan": {"points": str(len(points)), "data": "made up"},
        "objective": {"name": "loss", "direction": "min"},
        "metrics": {"accuracy": "max", "loss": "min"},
        "significance": 0.05,
        "seed": 0,
        "provenance": {
            "command": "./launch.sh toy",
            "commit": None,
            "versions": {"jax": "0.0"},
            "programs": {"toy": {"slots_per_device": 16, "data": "f", "stablehlo": "s"}},
        },
    } | study
    (directory / "study.json").write_text(json.dumps(manifest))
    pd.DataFrame(rows).to_parquet(directory / "trials.parquet")
    return Study(directory)
