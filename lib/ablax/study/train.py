"""Train a plan into a run directory: what is missing there, and nothing twice."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import jax

from ablax.engine import processes
from ablax.engine.mesh import LANES
from ablax.errors import UserError
from ablax.interrupts import handled
from ablax.rundir import checkpoint
from ablax.rundir.checkpoint import Checkpoints
from ablax.rundir.directory import prepare
from ablax.rundir.lock import locked
from ablax.rundir.store import Store, trials_in
from ablax.study.admission import Admission, admit, contents_of
from ablax.study.lineage import labels, reached
from ablax.study.manifest import Origin
from ablax.study.plan import Identity, Plan
from ablax.study.progress import Progress
from ablax.study.recorder import checkpoint_rows, timing_rows
from ablax.study.rewinding import Start, make_ready, rewind
from ablax.study.run import Run, train_program
from ablax.study.snapshots import Keep, Snapshots


@dataclass(frozen=True)
class Result:
    """Result of a launch."""

    trained: int
    missing: int
    seconds: float


def train(
    plan: Plan,
    directory: Path,
    *,
    keep: Keep = "none",
    origin: Origin | None = None,
    checkpoint_minutes: float = 5.0,
    allow_changed: bool = False,
    retry: bool = False,
    slots: int | None = None,
) -> Result:
    """Train what the directory does not have yet, and leave its tables in canonical order.

    Ctrl-C or SIGTERM stops at the next boundary, with a checkpoint.

    Args:
        plan: of the study.
        directory: where it is kept. With several processes, a place that all of them see.
        keep: whose snapshots to keep.
        origin: the command that started it, for study.json.
        checkpoint_minutes: between two checkpoints.
        allow_changed: go on although what the study was trained with has changed.
        retry: train diverged trials again.
        slots: per device, if not those of the plan or of an earlier launch.

    Raises:
        UserError: the directory cannot be used, or a disk or a device is full.
    """
    started = time.perf_counter()
    with ExitStack() as stack:

        def decide() -> dict[str, Any]:
            prepare(directory)
            stack.enter_context(locked(directory))
            contents = contents_of(directory)
            admission = admit(
                plan, contents, directory, allow_changed=allow_changed, retry=retry, slots=slots
            )
            named = _named(plan, admission)
            start = make_ready(
                named, directory, contents.checkpoint, anew=admission.other_program, retry=retry
            )
            return {"admission": asdict(admission), "start": start._asdict()}

        decided = processes.decided(decide)
        admission, start = Admission(**decided["admission"]), Start(**decided["start"])
        plan = _named(plan, admission)
        place = directory / checkpoint.PLACE
        run = Run(
            plan=plan,
            directory=directory,
            origin=origin or Origin(),
            keep="all" if plan.rounds.gives == "snapshot" else keep,
            store=Store(directory),
            checkpoints=Checkpoints(place, checkpoint_minutes, start.number),
            progress=stack.enter_context(Progress(plan.programs[0].task.objective, _stream())),
            stop=stack.enter_context(_interruptible()),
            slots=admission.slots,
            marks=admission.marks,
        )
        stack.callback(run.checkpoints.close)
        for note in start.notes:
            run.progress.say(note)
        _restore(run, start.checkpoint)
        before = len(run.finished())
        _train_within_memory(run)
        return _finish(run, before, started)


def _named(plan: Plan, admission: Admission) -> Plan:
    """The plan with its trials named as an earlier launch named them."""
    return plan.with_identities({n: Identity(**i) for n, i in admission.identities.items()})


def _restore(run: Run, number: int | None) -> None:
    """Resume from a checkpoint: the store has been rewound to it."""
    if number is not None:
        run.restored = checkpoint.read(run.checkpoints.place, number)
        run.store.position = max(run.store.position, run.restored.host["position"])
        run.progress.say(f"resuming from checkpoint {number}")


def _train_within_memory(run: Run) -> None:
    """Train all rounds; where a device's memory does not hold the slots, with half as many."""
    while True:
        try:
            return _train_rounds(run)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            # Nothing may hold on to the arrays of the failed engine through the traceback.
            reason = str(error).partition("\n")[0]
        fewer = run.slots[run.program] // 2 // LANES * LANES
        full = f"out of memory with {run.slots[run.program]} slots per device of {run.program}"
        if fewer < LANES or processes.many():
            advice = f"try --slots {fewer}" if fewer >= LANES else "the program needs more memory"
            raise UserError(f"{full} ({reason}); what is finished is kept; {advice}")
        run.engines.clear()
        run.slots[run.program] = fewer
        run.checkpoints.wait()
        latest = checkpoint.latest(run.checkpoints.place)
        number, _ = rewind(run.directory, run.store, run.plan, latest)
        run.mark(f"{full}: {fewer} from then on")
        _restore(run, number)


def _train_rounds(run: Run) -> None:
    """Train whatever has not finished, round by round and program by program."""
    announced = -1
    while not run.stopped:
        rows = run.finished()
        done = trials_in(rows)
        rounds = reached(run.plan, rows)
        todo = [trial for trial in rounds[-1] if trial.id not in done]
        if not todo:
            return
        if announced < 0:
            run.write_manifest()
        if announced < len(rounds) - 1:
            announced = len(rounds) - 1
            run.progress.extend(len(todo), sum(trial.end - trial.start for trial in todo))
        for program in run.plan.programs:
            points = {point.name for point in program.points}
            members = [trial for trial in todo if trial.point.name in points]
            # Before the next program is compiled; within one every boundary asks.
            run.stopped = run.stopped or processes.decided(run.stop.is_set)
            if members and not run.stopped:
                run.program = program.name
                train_program(run, program, members)


def _finish(run: Run, before: int, started: float) -> Result:
    """Bring what is finished to its final form; a whole study needs no checkpoint any more."""
    rows = run.finished()
    done = trials_in(rows)
    rounds = reached(run.plan, rows)
    planned = [trial for trials in rounds for trial in trials]
    missing = sum(trial.id not in done for trial in planned)
    complete = missing == 0 and len(rounds) == run.plan.rounds.n
    if processes.first():
        for name, usage in run.usage.items():
            run.store.append("timings", timing_rows(name, usage))
        if run.usage:
            run.store.append("timings", checkpoint_rows(run.checkpoints))
        ended = [t for t in planned if t.id in done]
        superseded = {t.parent.id for t in ended if t.inherits == "state" and t.parent}
        point_of = {t.id: t.point.name for t in planned if t.id not in superseded}
        for program in run.plan.programs:
            Snapshots(run.keep, run.store, program).merge(point_of)
        if run.store.has_parts:
            run.store.compact(labels(rounds), complete=complete)
    run.checkpoints.close()
    if complete:
        run.checkpoints.remove()
    return Result(len(rows) - before, missing, time.perf_counter() - started)


def _stream() -> TextIO:
    """Stream for progress: only the first process shows it."""
    return sys.stderr if processes.first() else open(os.devnull, "w")


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second Ctrl-C interrupts as usual."""
    stop = threading.Event()

    def handler(number: int, frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    with handled(handler):
        yield stop
