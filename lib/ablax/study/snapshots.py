"""The selected snapshots of finished trials, kept under params/ by Orbax."""

import glob
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax.serialization import to_state_dict

from ablax.engine import processes
from ablax.engine.engine import Finished
from ablax.engine.trials import stacked, take
from ablax.errors import UserError
from ablax.metrics import Metric
from ablax.rundir.store import Store
from ablax.study.plan import Program, file_name

Keep = Literal["none", "best", "all"]


class Snapshots:
    """Collects snapshots of one program: of every trial, or of each point's best restart.

    "best" compares the restarts of a point by the objective on the validation split. While a
    study runs they are parts of its store; `merge` brings them to params/, together with what
    earlier launches left there.
    """

    def __init__(self, keep: Keep, store: Store, program: Program):
        self.keep, self.store = keep, store
        self.place = _place(store.directory, program.name)
        self.part = f"params.{program.file_name}"
        self.objective = program.task.objective or [*program.task.metrics, Metric("loss", "min")][0]
        self._best: dict[str, float] = {}  # of each point, as far as this launch has seen

    def add(self, trials: Sequence[Any], finished: Finished) -> None:
        """Keep what ended, if it may be among those to keep."""
        if self.keep == "none":
            return
        values = np.asarray(finished.measured[f"valid/{self.objective.name}"], np.float32)
        if self.keep == "best":
            worth = [i for i, t in enumerate(trials) if self._may_be_best(t.point.name, values[i])]
        else:
            worth = list(range(len(trials)))
        if worth:
            tree = {"value": values[worth], "variables": take(finished.snapshots, worth)}
            self.store.append_tree(self.part, [trials[i].id for i in worth], to_state_dict(tree))

    def _may_be_best(self, point: str, value: float) -> bool:
        """True if no better value of the point is known; among equals `merge` decides."""
        merit = self._merit(value)
        if merit < self._best.get(point, -np.inf):
            return False
        self._best[point] = merit
        return True

    def _merit(self, value: float) -> float:
        return float(np.nan_to_num(self.objective.sign * value, nan=-np.inf, neginf=-np.inf))

    def complete(self) -> None:
        """Finish what a launch that was cut off had begun to replace; in one process alone."""
        _complete_replacement(self.place)

    def read(self) -> Iterator[tuple[list[str], dict[str, Any]]]:
        """(trials, their values and variables), in portions: of earlier launches, and of this."""
        if self.place.exists():
            yield _read(self.place)
        yield from self.store.read_trees(self.part)

    def merge(self, points: Mapping[str, str]) -> None:
        """Bring the parts to params/.

        Args:
            points: {trial: its point} of the trials whose snapshots are wanted, in the order of
                the plan: of equal restarts the first is the best, whichever finished first.
        """
        if not self.store.has(self.part):
            return
        self.complete()
        rank = {trial: i for i, trial in enumerate(points)}
        selected: dict[str, tuple[float, str, Any]] = {}  # point or trial -> (value, trial, tree)
        for trials, tree in self.read():
            for i, trial in enumerate(trials):
                if trial not in points:
                    continue
                key = trial if self.keep == "all" else points[trial]
                value, held = float(tree["value"][i]), selected.get(key)
                # The same trial again has been trained again, and that is the one that counts.
                if (
                    held is None
                    or held[1] == trial
                    or (self._merit(value), -rank[trial]) > (self._merit(held[0]), -rank[held[1]])
                ):
                    selected[key] = (value, trial, take(tree["variables"], i))
        if not selected:  # their children's are better, and come later
            return
        ordered = sorted(selected.values(), key=lambda entry: rank[entry[1]])
        values, trials, trees = zip(*ordered, strict=True)
        words = [divmod(int(trial, 16), 2**32) for trial in trials]
        item = {
            "trial": np.array(words, np.uint32),
            "value": np.array(values, np.float32),
            "variables": stacked(trees),
        }
        _write(self.place, item)
        self.store.drop(self.part)


def load(directory: Path, program: str) -> dict[str, Any]:
    """{trial: its variables} of one program of a run directory."""
    trials, tree = _read(_place(directory, program))
    return {trial: take(tree["variables"], i) for i, trial in enumerate(trials)}


def _place(directory: Path, program: str) -> Path:
    return (directory / "params" / file_name(program)).absolute()


def _read(place: Path) -> tuple[list[str], dict[str, Any]]:
    import orbax.checkpoint as ocp

    try:
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=processes.alone())
        with ocp.Checkpointer(handler, multiprocessing_options=processes.alone()) as reader:
            shapes = reader.metadata(place).item_metadata.tree
            kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
            item = reader.restore(place, restore_args=kinds)
    except Exception as error:  # damaged metadata raises almost anything
        raise UserError(f"cannot read {place}: {error}") from error
    return [f"{(int(high) << 32) + int(low):016x}" for high, low in item["trial"]], item


def _write(place: Path, item: Any) -> None:
    """Replace what is at `place` once the new item is whole; only this process takes part."""
    import orbax.checkpoint as ocp

    handler = ocp.StandardCheckpointHandler(multiprocessing_options=processes.alone())
    try:
        with ocp.Checkpointer(handler, multiprocessing_options=processes.alone()) as writer:
            writer.save(_new(place), args=ocp.args.StandardSave(item), force=True)
        _complete_replacement(place)
    except Exception as error:  # whatever the layers below raise when a disk is full
        raise UserError(f"cannot write {place}: {error}") from error


def _complete_replacement(place: Path) -> None:
    """Finish a replacement, perhaps of a launch that was cut off: what is there is whole."""
    for torn in place.parent.glob(f"{glob.escape(_new(place).name)}.*"):
        shutil.rmtree(torn, ignore_errors=True)
    if _new(place).exists():
        shutil.rmtree(place, ignore_errors=True)
        _new(place).rename(place)


def _new(place: Path) -> Path:
    return place.with_name(f".{place.name}.new")
