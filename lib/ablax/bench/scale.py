"""./launch.sh bench scale: 100,000 tiny networks as one study, and what they cost the host.

XOR by 2-3-1 networks, each from its own random weights: the study of whose restarts
find the solution. What is measured is not the arithmetic but everything around it: the plan,
the queue, the parts, the tables, and the memory of the host while it lasts.
"""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import tyro

from ablax import losses, metrics, optimizers
from ablax.bench.machine import provenance
from ablax.bench.tables import Part, heading, publish, table
from ablax.cli.flags import read
from ablax.cli.launch import print_plan
from ablax.config import BaseConfig, hparam
from ablax.data import split
from ablax.data.generated import xor
from ablax.engine.mesh import cpu_devices_per_core, keep_compiled
from ablax.errors import UserError
from ablax.experiment import Experiment
from ablax.metrics import Metric
from ablax.nn.mlp import MLP
from ablax.study.manifest import Origin, command_line
from ablax.study.plan import describe, make_plan
from ablax.study.train import train
from ablax.task import Task
from ablax.tasks.supervised import supervised


@dataclass(frozen=True)
class Flags:
    """Train very many tiny networks, and watch the host."""

    trials: Annotated[int, tyro.conf.arg(help="random restarts of the one point")] = 100_000
    steps: Annotated[int, tyro.conf.arg(help="of a trial, each on all four examples")] = 500
    checkpoint_minutes: Annotated[float, tyro.conf.arg(help="between two checkpoints")] = 0.5
    out: Annotated[Path, tyro.conf.arg(help="run directory; the numbers are written beside it")] = (
        Path("runs/bench-scale")
    )


class Config(BaseConfig):
    learning_rate: float = hparam(1.0, "constant rate", low=0)
    momentum: float = hparam(0.9, "share of the last step that is kept", low=0, below=1)


def task(config: Config) -> Task:
    """Full-batch gradient descent of a 2-3-1 network on the truth table."""
    return supervised(
        MLP((3,), n_outputs=1, activation="tanh", kernel_init="glorot_uniform"),
        split(xor(), valid_size=0, seed=0),
        loss=losses.loss("sigmoid_binary_cross_entropy"),
        metrics={Metric("accuracy", "max"): metrics.accuracy},
        optimizer=lambda trial: optimizers.momentum(
            trial.hparams.learning_rate, momentum=trial.hparams.momentum
        ),
        batch_size=4,
    )


def main(arguments: list[str]) -> None:
    flags = read(Flags, "bench scale", arguments)
    if flags.trials < 1 or flags.steps < 1:
        raise UserError("--trials and --steps: expected at least 1")
    cpu_devices_per_core()
    keep_compiled()
    shutil.rmtree(flags.out, ignore_errors=True)
    result = measure(flags)
    publish(result, parts(result), flags.out.with_name(f"{flags.out.name}.json"))


def measure(flags: Flags) -> dict[str, Any]:
    """Plan, train, read back."""
    started = time.perf_counter()
    setting = Config(steps=flags.steps, eval_every=max(1, flags.steps // 5))
    experiment = Experiment("bench_scale", points=lambda _: [{}], task=task)
    with memory() as sampled:
        plan = make_plan(experiment, setting, restarts=flags.trials, seed=0)
        planned = time.perf_counter() - started
        print_plan(describe(plan))
        result = train(
            plan,
            flags.out,
            origin=Origin(command_line()),
            checkpoint_minutes=flags.checkpoint_minutes,
        )
        seconds = time.perf_counter() - started
    opening = time.perf_counter()
    trials, curves = (pd.read_parquet(flags.out / f"{t}.parquet") for t in ("trials", "curves"))
    opened = time.perf_counter() - opening
    assert len(trials) == len(set(trials["trial"])) == flags.trials, "not every trial is there once"
    assert not result.missing
    half = len(sampled) // 2
    return {
        **provenance(),
        "device": f"{plan.devices} × {plan.device_kind}",
        "trials": flags.trials,
        "steps": flags.steps,
        "seconds": seconds,
        "seconds_planning": planned,
        "trials_per_second": flags.trials / seconds,
        "peak_bytes": max(sampled),
        "peak_bytes_of_each_half": [max(sampled[:half], default=0), max(sampled[half:])],
        "seconds_to_open": opened,
        "rows": {"trials": len(trials), "curves": len(curves)},
        "file_bytes": sum(p.stat().st_size for p in flags.out.glob("*.parquet")),
        "share_solved": float((trials["train/accuracy"].to_numpy() == 1).mean()),
        "diverged": list(trials["status"]).count("diverged"),
    }


@contextlib.contextmanager
def memory(every: float = 0.1) -> Iterator[list[int]]:
    """Bytes of this process that are in memory, sampled while the block runs."""
    samples: list[int] = [resident()]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(every):
            samples.append(resident())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
        samples.append(resident())


def resident() -> int:
    """Resident memory of this process as Linux counts it; 0 elsewhere."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def parts(result: dict[str, Any]) -> Iterator[Part]:
    first, second = (f"{b / 2**20:,.0f} MiB" for b in result["peak_bytes_of_each_half"])
    rows = [
        ("trials", f"{result['trials']:,} of {result['steps']} steps"),
        ("time, everything", f"{result['seconds']:.1f} s"),
        ("of that the plan", f"{result['seconds_planning']:.1f} s"),
        ("trials per second", f"{result['trials_per_second']:,.0f}"),
        ("memory at most, first half, second half", f"{first}, {second}"),
        ("pandas opens both tables in", f"{result['seconds_to_open']:.2f} s"),
        (
            "rows of trials, of curves",
            f"{result['rows']['trials']:,}, {result['rows']['curves']:,}",
        ),
        ("solved", f"{100 * result['share_solved']:.1f}%"),
    ]
    yield f"{heading(result)}devices   {result['device']}\n"
    yield table("Scale", ["", "measured"], rows)
