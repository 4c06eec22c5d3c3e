"""The selected snapshots of finished trials, kept under params/ by Orbax."""

from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from ablax.metrics import Metric
from ablax.sweep.engine import Finished, take
from ablax.sweep.plan import PlannedTrial, Program

Keep = Literal["none", "best", "all"]


class Snapshots:
    """Collects snapshots of one program: of every trial, or of each point's best restart.

    "best" compares the restarts of a point by the objective on the validation split. What an
    earlier launch kept in the directory stays, and takes part in the comparison.
    """

    def __init__(self, keep: Keep, directory: Path, program: Program):
        self.keep, self.place = keep, _place(directory, program.name)
        self.objective = program.task.objective or Metric("loss", "min")
        self._points = {trial.id: trial.point.name for trial in program.trials}
        self._kept: dict[str, tuple[float, str, Any]] = {}  # point or trial -> (value, id, tree)
        if keep != "none" and self.place.exists():
            for trial, (value, variables) in _read(self.place).items():
                self._offer(trial, value, variables)

    def add(self, trials: list[PlannedTrial], finished: Finished) -> None:
        """Take in trials that ended."""
        if self.keep == "none":
            return
        values = np.asarray(finished.measured[f"valid/{self.objective.name}"], np.float64)
        for i, trial in enumerate(trials):
            self._offer(trial.id, float(values[i]), take(finished.snapshots, i))

    def _offer(self, trial: str, value: float, variables: Any) -> None:
        key = trial if self.keep == "all" else self._points[trial]
        held = self._kept.get(key)
        if held is None or self.objective.better(value, held[0]) or not np.isfinite(held[0]):
            self._kept[key] = (value, trial, variables)

    def save(self) -> None:
        """Write params/<program>: one Orbax item, the variables of all trials stacked."""
        if not self._kept:
            return
        import orbax.checkpoint as ocp

        values, trials, trees = zip(*self._kept.values(), strict=True)
        item = {
            "trial": np.array([divmod(int(trial, 16), 2**32) for trial in trials], np.uint32),
            "value": np.array(values, np.float32),
            "variables": jax.tree.map(lambda *leaves: np.stack(leaves), *trees),
        }
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(self.place, item, force=True)


def load(directory: Path, program: str) -> dict[str, Any]:
    """{trial: its variables} of one program of a run directory."""
    return {trial: kept for trial, (_, kept) in _read(_place(directory, program)).items()}


def _read(place: Path) -> dict[str, tuple[float, Any]]:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        item = checkpointer.restore(place)
    item = jax.tree.map(np.asarray, item)
    ids = [f"{(int(high) << 32) + int(low):016x}" for high, low in item["trial"]]
    return {
        trial: (float(item["value"][i]), take(item["variables"], i)) for i, trial in enumerate(ids)
    }


def _place(directory: Path, program: str) -> Path:
    name = "".join(c if c.isalnum() or c in "=-_." else "-" for c in program)
    return (directory / "params" / name).absolute()
