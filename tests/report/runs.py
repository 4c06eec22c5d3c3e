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
