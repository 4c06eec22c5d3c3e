"""Train a plan into a run directory: what is missing there, and nothing twice."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablax.config import field_specs
from ablax.errors import UserError
from ablax.sweep import engine
from ablax.sweep.engine import Engine, Evaluated, Finished
from ablax.sweep.mesh import mesh_of
from ablax.sweep.plan import Plan, PlannedTrial, Program, describe
from ablax.sweep.progress import Progress
from ablax.sweep.provenance import provenance
from ablax.sweep.slots import Status
from ablax.sweep.snapshots import Keep, Snapshots
from ablax.sweep.store import Store, write_json

STUDY = "study.json"
PROBE = ".probe"
LEFTOVERS = (PROBE, f".{STUDY}.tmp")  # what a crash in a launch's first moment leaves behind


@dataclass(frozen=True)
class Result:
    """How a launch ended."""

    trained: int
    missing: int
    seconds: float


def claim(directory: Path, plan: Plan) -> None:
    """Refuse a directory that cannot be written, or that holds another study.

    A study may be launched again, or with more points or restarts, into its directory: then
    only the missing trials are trained. A finished trial that the plan does not have means
    that the directory belongs to another study.
    """
    try:
        if directory.exists() and not directory.is_dir():
            raise UserError(f"--out {directory} is a file; expected a directory")
        if (directory / STUDY).exists():
            done = Store(directory).finished()
            foreign = done - {trial.id for trial in plan.trials}
            if foreign:
                raise UserError(
                    f"--out {directory} holds another study: {len(foreign)} of its {len(done)} "
                    f"finished trials are not in this one. Expected the same experiment, seed, "
                    f"data and settings (more points or restarts are fine); choose another --out."
                )
        elif directory.exists() and any(path.name not in LEFTOVERS for path in directory.iterdir()):
            raise UserError(
                f"--out {directory} is not empty and holds no study ({STUDY} is missing); "
                "expected a new or empty directory, or one of this study"
            )
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / PROBE
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out {directory} cannot be written: {error.strerror}") from error


def train(plan: Plan, directory: Path, *, keep: Keep, command: str) -> Result:
    """Train what the directory does not have yet, and leave its tables in canonical order.

    Ctrl-C stops at the next boundary; the trials finished by then are kept.
    """
    started = time.perf_counter()
    claim(directory, plan)
    store = Store(directory)
    done = store.finished()
    todo = {
        program.name: [t for t in program.trials if t.id not in done] for program in plan.programs
    }
    n_todo = sum(map(len, todo.values()))
    labels = {t.id: {"point": t.point.name, "group": t.point.group} for t in plan.trials}
    if n_todo == 0:
        store.compact_parts(labels)
        return Result(0, 0, time.perf_counter() - started)
    write_json(
        directory / STUDY,
        {
            "experiment": plan.experiment,
            "id": plan.id,
            "seed": plan.seed,
            "restarts": plan.restarts,
            "trials": len(plan.trials),
            "points": [
                {"name": p.name, "group": p.group, **settings(p.config)} for p in plan.points
            ],
            "plan": describe(plan),
            "objective": _objective(plan),
            "metrics": {
                m.name: m.direction for program in plan.programs for m in program.task.metrics
            },
            "provenance": provenance(plan, command),
        },
    )
    steps = sum(int(t.point.config.steps) for trials in todo.values() for t in trials)
    objective = plan.programs[0].task.objective
    with _interruptible() as stop, Progress(n_todo, steps, objective) as progress:
        try:
            for program in plan.programs:
                if todo[program.name] and not stop.is_set():
                    _train_program(
                        program, todo[program.name], plan.seed, store, keep, progress, stop
                    )
        finally:
            store.compact(labels)
    missing = len(plan.trials) - len(store.finished())
    return Result(n_todo - missing, missing, time.perf_counter() - started)


def _objective(plan: Plan) -> dict[str, str] | None:
    metric = plan.programs[0].task.objective
    return None if metric is None else {"name": metric.name, "direction": metric.direction}


def _train_program(
    program: Program,
    trials: list[PlannedTrial],
    seed: int,
    store: Store,
    keep: Keep,
    progress: Progress,
    stop: threading.Event,
) -> None:
    columns = engine.trials_of([t.point.config for t in trials], [t.restart for t in trials], seed)
    runner = Engine(
        program.task,
        engine.take(columns, 0),
        mesh_of(),
        program.slots_per_device,
        keep=keep != "none",
    )
    compiled = runner.statistics.compile_seconds
    progress.say(
        f"compiled {program.name}: "
        + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in compiled.items())
    )
    snapshots = Snapshots(keep, store.directory, program)
    curves: list[pd.DataFrame] = []
    intervals = np.array([t.point.config.eval_every for t in trials])
    for interval in np.unique(intervals):
        members = np.flatnonzero(intervals == interval)
        chosen = [trials[i] for i in members]
        for event in runner.run(engine.take(columns, members), int(interval), stop.is_set):
            if isinstance(event, Evaluated):
                curves.append(_curve_rows(chosen, event))
                _show(progress, runner, event, program)
            else:
                _keep(store, chosen, event, curves)
                snapshots.add([chosen[i] for i in event.index], event)
                limits = columns.steps[members][event.index]
                progress.advance(
                    steps=int(np.sum(limits - event.steps)),
                    finished=len(event.index),
                    busy=runner.statistics.share_busy(),
                    best=None,
                )
                curves = []
    snapshots.save()
    statistics = runner.statistics
    clocks = {f"seconds compiling {name}": seconds for name, seconds in compiled.items()}
    clocks |= {
        "seconds training": statistics.seconds,
        "segments": statistics.segments,
        "share busy while trials wait": statistics.share_busy(),
        "share idle in the drain": statistics.share_drained(),
    }
    clocks |= {f"bytes {name}": n for name, n in statistics.memory_bytes.items()}
    store.append(
        "timings",
        pd.DataFrame(
            {"program": program.name, "what": list(clocks), "value": map(float, clocks.values())}
        ),
    )


def _curve_rows(trials: Sequence[PlannedTrial], event: Evaluated) -> pd.DataFrame:
    return pd.DataFrame(
        {"trial": [trials[i].id for i in event.index], "step": event.step, **event.metrics}
    )


def _show(progress: Progress, runner: Engine, event: Evaluated, program: Program) -> None:
    best = None
    objective = program.task.objective
    if objective is not None:
        seen = event.metrics[f"valid/{objective.name}"]
        seen = seen[np.isfinite(seen)]
        if len(seen):
            best = float(seen.max() if objective.direction == "max" else seen.min())
    progress.advance(
        steps=int(event.advanced.sum()), finished=0, busy=runner.statistics.share_busy(), best=best
    )


def _keep(
    store: Store, trials: Sequence[PlannedTrial], event: Finished, curves: list[pd.DataFrame]
) -> None:
    """Write what ended: arrays and curves first, so that a trial in the table is complete."""
    ended = [trials[i] for i in event.index]
    ids = [trial.id for trial in ended]
    for name, values in event.measured.items():
        if values.ndim > 1:
            store.append_array(name, ids, values)
    if curves:
        store.append("curves", pd.concat(curves, ignore_index=True))
    rows = pd.DataFrame(
        {
            "trial": ids,
            "point": [trial.point.name for trial in ended],
            "group": [trial.point.group for trial in ended],
            "restart": np.array([trial.restart for trial in ended], np.int32),
            **_setting_columns(ended),
            "status": [Status(status).name.lower() for status in event.status],
            "steps": event.steps,
            "best_step": event.best_step,
            **{name: v for name, v in event.measured.items() if v.ndim == 1},
        }
    )
    store.append("trials", rows)


def settings(config: Any) -> dict[str, Any]:
    """A Config as columns: statics and hparams under their names, protocol/… for the rest."""
    return {
        f"protocol/{name}" if spec.kind == "protocol" else name: getattr(config, name)
        for name, spec in field_specs(config).items()
    }


def _setting_columns(trials: Sequence[PlannedTrial]) -> dict[str, list[Any]]:
    rows = [settings(trial.point.config) for trial in trials]
    return {name: [row[name] for row in rows] for name in rows[0]}


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second one interrupts as usual."""
    stop = threading.Event()

    def handler(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
