"""Results of a study's boundaries, as rows of its tables."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd

from ablax.config import field_specs
from ablax.engine.engine import Boundary, Evaluated, Finished, Usage
from ablax.engine.slots import Slot, Status
from ablax.errors import UserError
from ablax.metrics import Metric
from ablax.rundir.checkpoint import Checkpoints
from ablax.rundir.store import Store
from ablax.study.plan import PlannedTrial
from ablax.study.snapshots import Snapshots


class Recorder:
    """Write what the trials of one program leave; in the first process alone.

    Args:
        store: where to.
        snapshots: what becomes of the selected ones.
        states: name of the parts that hold the slots of parked trials.
        has_parents: the trials may have parents, and the table a column for them.
        writes: this process is the one that writes.
    """

    def __init__(
        self, store: Store, snapshots: Snapshots, states: str, *, has_parents: bool, writes: bool
    ):
        self.store, self.snapshots, self.states = store, snapshots, states
        self.has_parents, self.writes = has_parents, writes
        self._curves: list[pd.DataFrame] = []

    def add(self, trials: Sequence[PlannedTrial], boundary: Boundary) -> None:
        """Take in a boundary; `trials` are those of the run, by position."""
        if not self.writes:
            return
        if boundary.finished is not None:
            self._finish(trials, boundary.finished)
        if boundary.evaluated is not None:
            self._curves.append(_curve_rows(trials, boundary.evaluated))

    def flush(self) -> None:
        """Write what has only been remembered."""
        if self._curves:
            self.store.append("curves", pd.concat(self._curves, ignore_index=True))
        self._curves = []

    def _finish(self, trials: Sequence[PlannedTrial], finished: Finished) -> None:
        """Write what ended, a trial's row last: a trial in the table is complete."""
        ended = [trials[i] for i in finished.index]
        ids = [trial.id for trial in ended]
        for name, values in finished.measured.items():
            if values.ndim > 1:
                self.store.append_array(name, ids, values)
        self.snapshots.add(ended, finished)
        if finished.parked is not None:
            self.store.append_tree(self.states, ids, slot_arrays(finished.parked))
        self.flush()
        self.store.append("trials", self._rows(ended, finished))

    def _rows(self, ended: Sequence[PlannedTrial], finished: Finished) -> pd.DataFrame:
        parents = {
            "round": np.array([trial.round for trial in ended], np.int32),
            "parent": [trial.parent.id if trial.parent else None for trial in ended],
        }
        return pd.DataFrame(
            {
                "trial": [trial.id for trial in ended],
                "point": [trial.point.name for trial in ended],
                "group": [trial.point.group for trial in ended],
                "restart": np.array([trial.restart for trial in ended], np.int32),
                **(parents if self.has_parents else {}),
                **_setting_columns(ended),
                "status": [Status(status).name.lower() for status in finished.status],
                "steps": finished.steps,
                "best_step": finished.best_step,
                **{name: v for name, v in finished.measured.items() if v.ndim == 1},
            }
        )


def _curve_rows(trials: Sequence[PlannedTrial], event: Evaluated) -> pd.DataFrame:
    """The rows of an evaluation, but those of a parent's steps that a child had to repeat."""
    rows = pd.DataFrame(
        {"trial": [trials[i].id for i in event.index], "step": event.step, **event.metrics}
    )
    return rows.loc[event.step > np.array([trials[i].start for i in event.index])]


def slot_arrays(slot: Slot) -> dict[str, Any]:
    """A slot as a dict: what it is made of may be of any type, and only arrays are stored."""
    leaves = enumerate(jax.tree.leaves(slot))
    return {f"{i:04d}": leaf for i, leaf in leaves if leaf.size}  # Orbax refuses empty ones


def slot_of(arrays: dict[str, Any], like: Slot) -> Slot:
    """The slots again, with a leading axis as long as that of the arrays.

    Raises:
        UserError: they are of another program.
    """
    n = len(next(iter(arrays.values())))
    empty = [np.zeros((n, *leaf.shape[1:]), leaf.dtype) for leaf in jax.tree.leaves(like)]
    restored = [arrays.get(f"{i:04d}", leaf) for i, leaf in enumerate(empty)]
    kinds = [[(x.shape, x.dtype) for x in leaves] for leaves in (restored, empty)]
    if kinds[0] != kinds[1] or len(arrays) != sum(leaf.size > 0 for leaf in empty):
        raise UserError("the state of a trial is of another program; choose another --out")
    return jax.tree.unflatten(jax.tree.structure(like), restored)


def timing_rows(program: str, usage: Usage) -> pd.DataFrame:
    """Times of a program, as rows of timings.parquet."""
    compiled = usage.compile_seconds
    clocks = {f"seconds compiling {name}": seconds for name, seconds in compiled.items()}
    clocks |= {
        "seconds training": usage.seconds,
        "segments": usage.segments,
        "share busy while trials wait": usage.share_busy(),
        "share idle in the drain": usage.share_drained(),
    }
    clocks |= {f"bytes {name}": n for name, n in usage.memory_bytes.items()}
    return pd.DataFrame(
        {"program": program, "what": list(clocks), "value": map(float, clocks.values())}
    )


def checkpoint_rows(checkpoints: Checkpoints) -> pd.DataFrame:
    """Times of a launch's checkpoints, as rows of timings.parquet."""
    clocks = {
        "checkpoints": float(checkpoints.written),
        "seconds waiting for checkpoints": checkpoints.seconds_waited,
    }
    return pd.DataFrame({"program": "all", "what": list(clocks), "value": list(clocks.values())})


def best_seen(event: Evaluated, objective: Metric | None) -> float | None:
    """The best finite value of the objective in an evaluation."""
    if objective is None:
        return None
    seen = event.metrics[f"valid/{objective.name}"]
    seen = seen[np.isfinite(seen)]
    if not len(seen):
        return None
    return float(seen.max() if objective.direction == "max" else seen.min())


def settings(config: Any) -> dict[str, Any]:
    """A Config as columns: statics and hparams under their names, protocol/… for the rest."""
    return {
        f"protocol/{name}" if spec.kind == "protocol" else name: getattr(config, name)
        for name, spec in field_specs(config).items()
    }


def _setting_columns(trials: Sequence[PlannedTrial]) -> dict[str, list[Any]]:
    rows = [settings(trial.point.config) for trial in trials]
    return {name: [row[name] for row in rows] for name in rows[0]}
