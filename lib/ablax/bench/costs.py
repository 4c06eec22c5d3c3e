"""Cost of the engine per segment, per slot and per trial; each part returns plain numbers."""

import contextlib
import io
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ablax import losses, optimizers
from ablax.bench import ours
from ablax.bench.side_by_side import slots_by_rule
from ablax.bench.sizes import Sizes
from ablax.bench.workload import L2, STEPS_PER_EPOCH, pairs
from ablax.data.generated import xor
from ablax.data.splits import Splits, split
from ablax.engine.engine import Engine
from ablax.engine.mesh import mesh_of
from ablax.engine.slots import Status
from ablax.engine.trials import take, trials_of
from ablax.experiment import Experiment
from ablax.nn.mlp import MLP
from ablax.rundir.store import read_parquet
from ablax.study import grid
from ablax.study.plan import make_plan
from ablax.study.train import train
from ablax.task import Task
from ablax.tasks.supervised import supervised


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """Collect one entry per backend compilation in the block, by JAX's own events."""
    seen: list[str] = []
    listening = True

    def listener(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if listening and event.endswith("backend_compile_duration"):
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        yield seen
    finally:
        listening = False


def segment_over_bare(splits: Splits, sizes: Sizes) -> dict[str, Any]:
    """A whole segment beside the bare scan of the same shapes, 16 slots per device."""
    tasks = {"without dropout": ours.task(splits, 32)}
    if sizes.with_dropout:
        tasks["with dropout"] = ours.task(splits, 32, dropout=True)
        tasks["with dropout and max-norm"] = ours.task(splits, 32, dropout=True, max_norm=True)
    bare = ours.Bare(splits, 32, 16)
    segments = {"bare": bare} | {name: ours.Segment(task, 16) for name, task in tasks.items()}
    times = ours.microseconds(segments, sizes.segments)
    return {
        name: {
            "us_per_step": float(np.median(times[name])),
            "over_bare": float(np.median(times[name] / times["bare"])),
        }
        for name in segments
    }


def busy(sizes: Sizes) -> dict[str, Any]:
    """An early-stopped study: how busy the slots are, and what is compiled, when."""
    settings: dict[str, Any] = {
        "steps": 2000 if sizes.stopped_trials > 64 else 200,
        "patience": 5.0,
    }
    program = ours.task(ours.digits(300), 32)
    chosen = pairs(sizes.stopped_trials)
    with compilations() as compiling:
        runner = ours.engine_of(program, slots_by_rule(len(chosen)), **settings)
    stopped, steps = 0, []
    with compilations() as running:
        for boundary in runner.run(ours.trials(chosen, **settings), ours.INTERVAL):
            if (event := boundary.finished) is not None:
                stopped += int(np.sum(event.status == Status.STOPPED))
                steps.extend(event.steps.tolist())
    return {
        "trials": len(chosen),
        "slots": runner.n_slots,
        "stopped_early": stopped,
        "median_steps": statistics.median(steps),
        "share_busy_until_queue_empty": runner.usage.share_busy(),
        "share_lost_to_drain": runner.usage.share_drained(),
        "compile_seconds": runner.usage.compile_seconds,
        "compilations_before": len(compiling),
        "compilations_while_training": len(running),
    }


def slots(splits: Splits, sizes: Sizes) -> list[dict[str, Any]]:
    """Throughput against slots per device, at the same number of trials and steps."""
    rows = []
    steps = 4 * ours.INTERVAL
    runners = {n: ours.engine_of(ours.task(splits, 32), n) for n in sizes.slots}
    seconds: dict[int, list[float]] = {n: [] for n in sizes.slots}
    for repeat in range(3):
        for n, runner in runners.items():
            if repeat == 0:
                ours.train(runner, pairs(runner.n_slots), steps=ours.INTERVAL)
            seconds[n].append(ours.train(runner, pairs(sizes.slots_trials), steps=steps).seconds)
    for n, times in seconds.items():
        us = statistics.median(times) / sizes.slots_trials / steps * 1e6
        rows.append(
            {
                "slots_per_device": n,
                "us_per_step": us,
                "trials_per_minute": 60e6 / us / (sizes.epochs * STEPS_PER_EPOCH),
                "compile_seconds": sum(runners[n].usage.compile_seconds.values()),
            }
        )
    return rows


def tiny_task(config: Any) -> Task:
    """A network of 4 hidden units on 40 points around the truth table of XOR."""
    return supervised(
        MLP((4,), n_outputs=2),
        split(xor(n=40), seed=0),
        loss=losses.loss("softmax_cross_entropy_with_integer_labels"),
        optimizer=lambda trial: optimizers.sgd(trial.hparams.learning_rate),
        batch_size=8,
    )


def growth(sizes: Sizes) -> list[dict[str, Any]]:
    """Seconds per trial of 4 steps, nearly all of them the host's: engine and whole study.

    With equal slots per device. The study adds to the engine what plan, Parquet parts, and
    their canonical rewrite cost; its compilation is not counted.
    """
    per_device = 32
    settings: dict[str, Any] = {"steps": 4, "eval_every": 4}
    config = ours.Config(**settings)
    points = grid.product(l2=list(L2))
    experiment = Experiment("bench", points=lambda _: points, task=tiny_task)
    example = take(trials_of([config], [0], seed=0), 0)
    runner = Engine(tiny_task(config), example, mesh_of(), per_device)
    rows = []
    for n in (sizes.tiny[0], *sizes.tiny):  # the first one warms up
        columns = ours.trials(pairs(n), **settings)
        before = runner.usage.seconds
        finished = sum(
            len(boundary.finished.index)
            for boundary in runner.run(columns, 4)
            if boundary.finished is not None
        )
        assert finished == n, f"{finished} of {n} trials finished"
        rows.append({"trials": n, "engine": runner.usage.seconds - before})
    for row in rows[1:]:
        plan = make_plan(
            experiment, config, restarts=row["trials"] // len(L2), seed=0, slots=per_device
        )
        with tempfile.TemporaryDirectory() as directory:
            out = Path(directory) / "run"
            with contextlib.redirect_stderr(io.StringIO()):
                result = train(plan, out, keep="none")
            clocks = read_parquet(out / "timings.parquet")
        compiled = clocks.loc[clocks["what"].str.startswith("seconds compiling"), "value"].sum()
        row["study"] = result.seconds - float(compiled)
    return rows[1:]
