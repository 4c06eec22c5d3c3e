"""One launch of a study: its programs trained boundary by boundary, with checkpoints."""

import dataclasses
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from flax.serialization import from_state_dict

from ablax.engine import processes
from ablax.engine.engine import Boundary, Engine, Inherited, Usage
from ablax.engine.mesh import fitting_slots, memory_per_device, mesh_of
from ablax.engine.slots import Slot, Status
from ablax.engine.trials import take, trials_of
from ablax.errors import UserError
from ablax.rundir.checkpoint import Checkpoint, Checkpoints
from ablax.rundir.directory import STUDY
from ablax.rundir.store import Store, write_json
from ablax.study.manifest import Origin, manifest_of
from ablax.study.plan import Plan, PlannedTrial, Program
from ablax.study.progress import Progress
from ablax.study.recorder import Recorder, best_seen, slot_arrays, slot_of
from ablax.study.snapshots import Keep, Snapshots
from ablax.task import Trial

GO_ON, SAVE, STOP = 0, 1, 2
"""Requests that a process may make at a boundary; the largest of all processes counts."""


@dataclass
class Run:
    """One launch: what its parts share.

    Attributes:
        slots: {program: slots per device}.
        marks: what has changed during the study.
        restored: the checkpoint to go on from.
        engines: compiled programs; kept only where another round may need them.
        program: the one in training.
        stopped: the user or the machine asked to.
    """

    plan: Plan
    directory: Path
    origin: Origin
    keep: Keep
    store: Store
    checkpoints: Checkpoints
    progress: Progress
    stop: threading.Event
    slots: dict[str, int]
    marks: list[str]
    restored: Checkpoint | None = None
    engines: dict[str, Engine] = field(default_factory=dict)
    usage: dict[str, Usage] = field(default_factory=dict)
    program: str = ""
    stopped: bool = False

    def request(self) -> int:
        """Request of this process at a boundary."""
        if self.stop.is_set():
            return STOP
        return SAVE if self.checkpoints.due() else GO_ON

    def finished(self) -> pd.DataFrame:
        """The rows of all finished trials, in every process."""
        if not processes.many():
            return self.store.read("trials")
        return pd.DataFrame(processes.decided(lambda: self.store.read("trials").to_dict("list")))

    def mark(self, text: str) -> None:
        """Say what makes this study differ from its plan, here and in study.json."""
        self.marks.append(text)
        self.progress.say(text)
        self.write_manifest()

    def write_manifest(self) -> None:
        """Write study.json."""
        if processes.first():
            manifest = manifest_of(self.plan, self.origin, slots=self.slots, marks=self.marks)
            write_json(self.directory / STUDY, manifest)


def train_program(run: Run, program: Program, trials: Sequence[PlannedTrial]) -> None:
    """Train trials of one program to their ends, or until the run is asked to stop."""
    trials = sorted(trials, key=lambda trial: trial.restart)  # early rows cover all points
    columns = trials_of(
        [t.point.config for t in trials],
        [t.restart for t in trials],
        run.plan.seed,
        [t.end for t in trials],
    )
    runner = _engine(run, program)
    starts = _starts(run, runner, program, trials, columns)
    if processes.decided(lambda: sorted(starts)) != sorted(starts):
        raise UserError(
            f"process {jax.process_index()} does not see what the first one has written under "
            f"{run.directory}; expected a directory that all processes share"
        )
    progress_made = {i: int(s.trial.step) for i, s in starts.items() if isinstance(s, Slot)}
    if saved := sum(step - trials[i].start for i, step in progress_made.items()):
        run.progress.extend(0, -saved)
    snapshots = Snapshots(run.keep, run.store, program)
    recorder = Recorder(
        run.store,
        snapshots,
        _states(program),
        has_parents=run.plan.rounds.n > 1,
        writes=processes.first(),
    )
    intervals = np.array([t.point.config.eval_every for t in trials])
    for interval in np.unique(intervals):
        members = np.flatnonzero(intervals == interval)
        chosen = [trials[i] for i in members]
        boundaries = runner.run(
            take(columns, members),
            int(interval),
            starts={at: starts[i] for at, i in enumerate(members.tolist()) if i in starts},
            request=run.request,
        )
        for boundary in boundaries:
            _take_in(run, runner, recorder, chosen, boundary)
            if boundary.request:
                _save(run, runner, recorder, program, chosen)
            if boundary.request == STOP:
                run.checkpoints.wait()
                run.stopped = True
                return
    # Nothing is left in the slots, and what has finished is complete without them.
    run.checkpoints.remove()
    run.restored = None


def _take_in(
    run: Run,
    runner: Engine,
    recorder: Recorder,
    trials: Sequence[PlannedTrial],
    boundary: Boundary,
) -> None:
    recorder.add(trials, boundary)
    busy = runner.usage.share_busy()
    if (finished := boundary.finished) is not None:
        saved = int(np.sum(np.array([trials[i].end for i in finished.index]) - finished.steps))
        run.progress.advance(steps=saved, finished=len(finished.index), busy=busy, best=None)
    if (evaluated := boundary.evaluated) is not None:
        best = best_seen(evaluated, runner.task.objective)
        steps = int(evaluated.advanced.sum())
        run.progress.advance(steps=steps, finished=0, busy=busy, best=best)


def _save(
    run: Run,
    runner: Engine,
    recorder: Recorder,
    program: Program,
    trials: Sequence[PlannedTrial],
) -> None:
    """A checkpoint: what has ended goes to the store first, so that only the slots are left."""
    _take_in(run, runner, recorder, trials, Boundary(None, runner.flush(), GO_ON))
    recorder.flush()
    holds = [trials[i].id if i >= 0 else None for i in runner.holds]
    host = {"position": run.store.position, "program": program.name, "holds": holds}
    run.checkpoints.save(slot_arrays(runner.slots), host)


def _engine(run: Run, program: Program) -> Engine:
    """The compiled program, with as many slots as the memory holds."""
    if program.name in run.engines:
        return run.engines[program.name]
    while True:
        slots = run.slots[program.name]
        runner = Engine(
            program.task,
            program.example,
            mesh_of(),
            slots,
            keep=run.keep != "none",
            park=run.plan.rounds.gives == "state",
            compiler_options=autotuned(run.directory),
            solo=program.solo,
        )
        needed = runner.bytes_per_device
        fitting = processes.decided(partial(fitting_slots, slots, needed, memory_per_device()))
        if fitting == slots:
            break
        run.slots[program.name] = fitting
        run.mark(
            f"slots per device of {program.name}: {slots} need {needed:,} bytes, now {fitting}"
        )
    compiled = runner.usage.compile_seconds
    run.progress.say(
        f"compiled {program.name}: "
        + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in compiled.items())
        + f"; {runner.bytes_per_device / 2**20:,.0f} MiB per device"
    )
    run.usage[program.name] = runner.usage
    if run.plan.rounds.n > 1:
        run.engines[program.name] = runner
    return runner


def autotuned(directory: Path) -> dict[str, Any] | None:
    """Compiler options by which the GPU autotuner's choices stay with a run, and are repeated."""
    if jax.default_backend() != "gpu":
        return None
    return {"xla_gpu_per_fusion_autotune_cache_dir": str(directory.absolute() / "autotune")}


def _starts(
    run: Run,
    runner: Engine,
    program: Program,
    trials: Sequence[PlannedTrial],
    columns: Trial,
) -> dict[int, Slot | Inherited]:
    """{position: what the trial starts from} of those that do not start anew.

    A trial in the checkpoint goes on from there. One whose parent has left its state goes on
    from that; if the state is gone (a study made larger when it was complete), the trial makes
    its parent's steps again, which come out the same.
    """
    at = {trial.id: i for i, trial in enumerate(trials)}
    starts: dict[int, Slot | Inherited] = {}
    if run.restored is not None and run.restored.host["program"] == program.name:
        slots = slot_of(run.restored.arrays, like=runner.slots)
        for row, trial in enumerate(run.restored.host["holds"]):
            if trial in at:
                starts[at[trial]] = take(slots, row)
    children: dict[str, list[int]] = {}
    for i, trial in enumerate(trials):
        if trial.parent is not None and i not in starts:
            children.setdefault(trial.parent.id, []).append(i)
    if not children:
        return starts
    if run.plan.rounds.gives == "snapshot":
        for parent, variables in _snapshots(run, set(children)).items():
            starts |= dict.fromkeys(children[parent], Inherited(variables))
        return starts
    for parents, arrays in run.store.read_trees(_states(program)):
        slots = slot_of(arrays, like=runner.slots)
        for row, parent in enumerate(parents):
            for i in children.get(parent, ()):
                starts[i] = _continued(take(slots, row), take(columns, i))
    return starts


def _continued(slot: Slot, child: Trial) -> Slot:
    """The slot of a parent as that of its child, which may go further."""
    goes_on = slot.status == Status.DONE and slot.trial.step < child.until
    status = np.asarray(Status.RUNNING if goes_on else slot.status, np.int32)
    return slot._replace(
        trial=dataclasses.replace(child, step=slot.trial.step),
        status=status,  # type: ignore[arg-type]
    )


def _snapshots(run: Run, parents: set[str]) -> dict[str, Any]:
    """{trial: its selected snapshot} of parents, of whatever program they are."""
    snapshots_by_trial = {}
    for program in run.plan.programs:
        like = program.solo.slot.best
        snapshots = Snapshots("all", run.store, program)
        processes.decided(snapshots.complete)
        for trials, tree in snapshots.read():
            for row, trial in enumerate(trials):
                if trial in parents:
                    snapshots_by_trial[trial] = from_state_dict(like, take(tree["variables"], row))
    if lost := parents - snapshots_by_trial.keys():
        raise UserError(
            f"the snapshots of {len(lost)} parents are missing under {run.directory}; "
            "start the study in a new --out"
        )
    return snapshots_by_trial


def _states(program: Program) -> str:
    """Name of the parts with the states of a program's parked trials."""
    return f"states.{program.file_name}"
