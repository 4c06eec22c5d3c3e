"""The selected snapshots of finished trials, kept under params/ by Orbax."""

import json
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from ablax.sweep.engine import Finished, take
from ablax.sweep.plan import PlannedTrial, Program
from ablax.sweep.store import write_json
from ablax.task import Task

Keep = Literal["none", "best", "all"]


class Snapshots:
    """Collects snapshots of one program: of every trial, or of each point's best restart.

    "best" compares the restarts of a point by the objective on the validation split.
    """

    def __init__(self, keep: Keep, task: Task):
        self.keep, self.objective = keep, task.objective
        self._kept: dict[str, tuple[float, str, Any]] = {}  # point or trial -> (loss, id, tree)

    def add(self, trials: list[PlannedTrial], finished: Finished) -> None:
        if self.keep == "none":
            return
        name, sign = (
            (self.objective.name, -1.0 if self.objective.direction == "max" else 1.0)
            if self.objective
            else ("loss", 1.0)
        )
        values = sign * np.asarray(finished.measured[f"valid/{name}"], np.float64)
        for i, trial in enumerate(trials):
            key = trial.id if self.keep == "all" else trial.point.name
            value = values[i] if np.isfinite(values[i]) else np.inf
            if key not in self._kept or value < self._kept[key][0]:
                self._kept[key] = (value, trial.id, take(finished.snapshots, i))

    def save(self, directory: Path, program: Program) -> None:
        """Write params/<program>: the trees stacked, and index.json with the trials' ids."""
        if not self._kept:
            return
        import orbax.checkpoint as ocp

        ids = [trial for _, trial, _ in self._kept.values()]
        stacked = jax.tree.map(
            lambda *x: np.stack(x), *(tree for _, _, tree in self._kept.values())
        )
        place = (directory / "params" / _file_name(program.name)).absolute()
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(place, stacked, force=True)
        write_json(place.with_name(place.name + ".json"), {"trials": ids})


def load(directory: Path, program: str) -> tuple[list[str], Any]:
    """(ids of the trials, their variables stacked) of one program of a run directory."""
    import orbax.checkpoint as ocp

    place = (directory / "params" / _file_name(program)).absolute()
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(place)
    return json.loads(place.with_name(place.name + ".json").read_text())["trials"], tree


def _file_name(program: str) -> str:
    return "".join(c if c.isalnum() or c in "=-_." else "-" for c in program)
