"""Run directories written by hand, without training, so that every number is known."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ablax.report.tables import Table

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


RUNGS = (10, 30, 90)
"""Where the rounds of `halved` end."""


def halved(
    directory: Path,
    points: Sequence[Sequence[dict[str, Any]]],
    *,
    restarts: int = 2,
    values: dict[str, dict[str, Any]] | None = None,
    **study: Any,
) -> Table:
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
    said = {"rounds": {"n": len(points), "gives": "state"}, "trials": len(rows)} | study
    return write(directory, every, rows, **said)


def write(
    directory: Path,
    points: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    **study: Any,
) -> Table:
    """The run directory of these rows of trials.parquet, read back."""
    directory.mkdir(parents=True, exist_ok=True)
    said = {
        "experiment": "toy",
        "trials": len(rows),
        "restarts": 1 + max((row["restart"] for row in rows), default=0),
        "points": list(points),
        "plan": {"points": str(len(points)), "data": "made up"},
        "objective": {"name": "loss", "direction": "min"},
        "metrics": {"accuracy": "max", "loss": "min"},
        "provenance": {
            "command": "./launch.sh toy",
            "commit": None,
            "versions": {"jax": "0.0"},
            "programs": {"toy": {"slots_per_device": 16, "data": "f", "stablehlo": "s"}},
        },
    } | study
    (directory / "study.json").write_text(json.dumps(said))
    pd.DataFrame(rows).to_parquet(directory / "trials.parquet")
    return Table(directory)
