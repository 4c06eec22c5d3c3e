"""./launch.sh bench checkpoint: what checkpoints cost a study, and how soon a resume trains.

The same study with a checkpoint every 30 seconds and with none, in turns; then the study
stopped half-way and resumed. Start-up is counted only where it is what is measured.
"""

import shutil
import signal
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ablax.bench.kill import finish, start, study, writing
from ablax.bench.machine import provenance
from ablax.bench.tables import Part, heading, publish, table
from ablax.cli.flags import read
from ablax.errors import UserError
from ablax.rundir.store import read_parquet

NEVER = 6e7
"""Seconds between checkpoints of a study without."""


@dataclass(frozen=True)
class Flags:
    """Time a study with checkpoints and without, and a resume."""

    seconds: Annotated[float, tyro.conf.arg(help="between two checkpoints")] = 30.0
    restarts: Annotated[int, tyro.conf.arg(help="random restarts of the study's 6 points")] = 384
    steps: Annotated[int, tyro.conf.arg(help="of its trials")] = 2000
    repeats: Annotated[int, tyro.conf.arg(help="times that both take their turn")] = 3
    out: Annotated[Path, tyro.conf.arg(help="folder for the studies, and the numbers")] = Path(
        "runs/bench-checkpoint"
    )


def main(arguments: list[str]) -> None:
    flags = read(Flags, "bench checkpoint", arguments)
    if flags.repeats < 1 or flags.restarts < 1:
        raise UserError("--repeats and --restarts: expected at least 1")
    shutil.rmtree(flags.out, ignore_errors=True)
    flags.out.mkdir(parents=True)
    result = measure(flags)
    publish(result, parts(result), flags.out / "checkpoint.json")


def measure(flags: Flags) -> dict[str, Any]:
    """Measure both studies in turns, then a resume."""
    cache = flags.out / "cache"
    runs: dict[str, list[dict[str, float]]] = {"with": [], "without": []}
    for repeat in range(-1, flags.repeats):  # once to fill the cache of compiled programs
        turns = [("without", NEVER), ("with", flags.seconds)]
        for name, seconds in turns[:: 1 - 2 * (repeat % 2)]:  # a machine that slows down hits both
            directory = flags.out / name
            shutil.rmtree(directory, ignore_errors=True)
            finish(_command(flags, directory, seconds), cache)
            if repeat >= 0:
                runs[name].append(_clocks(directory))
    ratios = [
        a["training"] / b["training"] for a, b in zip(runs["with"], runs["without"], strict=True)
    ]
    return {
        **provenance(),
        "study": " ".join(_command(flags, flags.out / "with", flags.seconds)),
        "runs": runs,
        "ratios": ratios,
        "blocked_share": sum(run["blocked"] for run in runs["with"])
        / sum(run["training"] for run in runs["with"]),
        "resume": _resume(flags, cache),
    }


def _command(flags: Flags, directory: Path, seconds: float) -> list[str]:
    return study(flags.restarts, flags.steps, seconds, directory)


def _clocks(directory: Path) -> dict[str, float]:
    rows = read_parquet(directory / "timings.parquet")
    clocks = dict(zip(rows["what"], rows["value"].astype(float), strict=True))
    return {
        "training": clocks["seconds training"],
        "blocked": clocks["seconds waiting for checkpoints"],
        "checkpoints": clocks["checkpoints"],
    }


def _resume(flags: Flags, cache: Path) -> dict[str, float]:
    """Seconds from the command to the first checkpoint after a new segment."""
    directory = flags.out / "resumed"
    log = flags.out / "resumed.log"
    process = start(_command(flags, directory, 1.0), cache, log)
    while len(writing(directory)) < 2 and process.poll() is None:
        time.sleep(0.01)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    asked = time.perf_counter()
    process.wait()
    stopping = time.perf_counter() - asked
    before, started = writing(directory), time.perf_counter()
    process = start(["resume", str(directory), "--checkpoint-minutes", "0"], cache, log)
    while not writing(directory) - before and process.poll() is None:
        time.sleep(0.005)
    resuming = time.perf_counter() - started
    process.terminate()
    process.wait()
    return {"seconds_to_stop": stopping, "seconds_to_the_first_segment": resuming}


def parts(result: dict[str, Any]) -> Iterator[Part]:
    ratios, runs = result["ratios"], result["runs"]
    seconds = {name: statistics.median(r["training"] for r in runs[name]) for name in runs}
    count = statistics.median(run["checkpoints"] for run in runs["with"])
    cost = f"{100 * (statistics.median(ratios) - 1):+.1f}%"
    spread = f"{100 * (min(ratios) - 1):+.1f} to {100 * (max(ratios) - 1):+.1f}%"
    rows = [
        ("seconds of training without", f"{seconds['without']:.1f}"),
        ("with", f"{seconds['with']:.1f}, {count:.0f} checkpoints"),
        ("cost of checkpoints (range over the turns)", f"{cost} ({spread})"),
        ("of that, the study waited", f"{100 * result['blocked_share']:.2f}%"),
        ("SIGTERM until the study has stopped", f"{result['resume']['seconds_to_stop']:.1f} s"),
        (
            "resume: command to the first new segment",
            f"{result['resume']['seconds_to_the_first_segment']:.1f} s",
        ),
    ]
    yield f"{heading(result)}study     {result['study']}\n"
    yield table("Checkpoints", ["", "measured"], rows)
