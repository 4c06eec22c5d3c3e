"""./launch.sh bench kill: SIGKILL at random moments of one study, and the same bytes at the end.

One study is trained without interruption, and once more while it is killed again and again:
while it compiles, in the middle of segments, as slots are refilled, while a checkpoint is being
written, and while its report is. After each kill it is launched again, by the same command and
by `resume` in turns. At the end every table, array and snapshot of the two must be equal.
"""

import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from ablax.bench.machine import provenance
from ablax.bench.tables import Part, heading, publish, table
from ablax.checkout import LAUNCH
from ablax.cli.flags import read
from ablax.errors import UserError
from ablax.rundir.store import Store
from ablax.study import snapshots

PHASES = ("compile", "segment", "refill", "checkpoint", "report")
STUDY = ("regularization", "--l2", "0", "1e-4", "1e-3", "--dropout-rate", "0", "0.5")
STUDY += ("--keep", "best")
PATIENCE = 300.0
"""Seconds after which a launch that reached no moment to kill it at counts as stuck."""


@dataclass(frozen=True)
class Flags:
    """Kill one study again and again, and compare what it leaves with a run never killed."""

    kills: Annotated[int, tyro.conf.arg(help="how often")] = 25
    restarts: Annotated[int, tyro.conf.arg(help="random restarts of the study's 6 points")] = 192
    steps: Annotated[int, tyro.conf.arg(help="of its trials")] = 2000
    checkpoint_seconds: Annotated[float, tyro.conf.arg(help="between two checkpoints")] = 1.0
    processes: Annotated[int, tyro.conf.arg(help="of the killed study")] = 1
    seed: Annotated[int, tyro.conf.arg(help="of the moments")] = 0
    out: Annotated[Path, tyro.conf.arg(help="folder for both studies, kill.json and kill.md")] = (
        Path("runs/bench-kill")
    )


@dataclass
class Kill:
    """One launch that was killed."""

    phase: str
    seconds: float  # after its start
    finished: int  # trials in the store then
    checkpoints: int
    first_segment: float | None  # seconds until the first new checkpoint began, if it came to that


def main(arguments: list[str]) -> None:
    flags = read(Flags, "bench kill", arguments)
    if flags.kills < 1:
        raise UserError(f"--kills: expected at least 1, got {flags.kills}")
    shutil.rmtree(flags.out, ignore_errors=True)
    flags.out.mkdir(parents=True)
    result = measure(flags)
    publish(result, parts(result), flags.out / "kill.json")
    if not result["equal"]:
        raise SystemExit(1)


def measure(flags: Flags) -> dict[str, Any]:
    """Train the study twice, kill the second, compare."""
    rng = random.Random(flags.seed)
    whole, killed, cache = (flags.out / name for name in ("whole", "killed", "cache"))
    started = time.perf_counter()
    finish(_command(flags, whole), cache)
    seconds = time.perf_counter() - started
    kills = []
    for number in range(flags.kills):
        phase = _phase(number, flags.kills)
        again = number % 2 and (killed / "study.json").exists()
        command = ["resume", str(killed)] if again else _command(flags, killed)
        if phase == "compile":
            shutil.rmtree(cache, ignore_errors=True)  # or there is nothing to compile
        kills.append(kill_once(_on(flags, command), killed, cache, phase, rng))
    finish(_on(flags, ["resume", str(killed)]), cache)
    differing = differences(whole, killed)
    resumed = [k.first_segment for k in kills if k.first_segment and k.phase != "compile"]
    return {
        **provenance(),
        "study": " ".join(_command(flags, whole)),
        "seconds_uninterrupted": seconds,
        "kills": [asdict(kill) for kill in kills],
        "seconds_to_the_first_segment": resumed,
        "differing": differing,
        "equal": not differing,
    }


def study(restarts: int, steps: int, seconds: float, directory: Path) -> list[str]:
    """The study of the durability benches, with a checkpoint every `seconds`."""
    sizes = ["--restarts", str(restarts), "--steps", str(steps)]
    minutes = ["--checkpoint-minutes", str(seconds / 60)]
    return [*STUDY, *sizes, *minutes, "--out", str(directory)]


def _command(flags: Flags, directory: Path) -> list[str]:
    return study(flags.restarts, flags.steps, flags.checkpoint_seconds, directory)


def _on(flags: Flags, command: list[str]) -> list[str]:
    return [*command, "--processes", str(flags.processes)] if flags.processes > 1 else command


def _phase(number: int, kills: int) -> str:
    """The phase of a kill: all in turns, and the report, which comes when all is trained, last."""
    last = max(1, kills // len(PHASES))
    return "report" if number >= kills - last else PHASES[number % (len(PHASES) - 1)]


def start(command: list[str], cache: Path, log: Path) -> subprocess.Popen:
    """A launch in the background, that says what it says to a log."""
    environ = os.environ | {
        "ABLAX_PYTHON": sys.executable,
        "JAX_COMPILATION_CACHE_DIR": str(cache.absolute()),
    }
    with log.open("w") as stream:
        return subprocess.Popen(
            [*LAUNCH, *command],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environ,
            start_new_session=True,
        )


def finish(command: list[str], cache: Path) -> None:
    """Launch and wait."""
    log = cache.with_name("finish.log")
    status = start(command, cache, log).wait()
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {status}:\n{log.read_text()[-2000:]}")


def kill_once(
    command: list[str], directory: Path, cache: Path, phase: str, rng: random.Random
) -> Kill:
    """Launch, wait for a moment of the phase, kill all of its processes."""
    log = cache.with_name("killed.log")
    moment, spread = _moments(directory, log)[phase]
    before = writing(directory)
    started = time.perf_counter()
    process = start(command, cache, log)
    first: float | None = None
    at: float | None = None
    while process.poll() is None:
        now = time.perf_counter() - started
        if first is None and writing(directory) - before:
            first = now
        if at is None and moment():
            at = now + rng.uniform(0, spread)
        if at is not None and now >= at:
            break
        if now > PATIENCE:
            raise RuntimeError(f"no {phase} in {PATIENCE} s:\n{log.read_text()[-2000:]}")
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
    status = process.wait()
    if status not in (0, -signal.SIGKILL):  # 0: it was quicker
        raise RuntimeError(f"{' '.join(command)} ended with {status}:\n{log.read_text()[-2000:]}")
    checkpoints = len([p for p in writing(directory) if p.isdigit()])
    seconds = time.perf_counter() - started
    finished = len(Store(directory).finished()) if directory.exists() else 0
    return Kill(phase if status else "ended", seconds, finished, checkpoints, first)


def _moments(directory: Path, log: Path) -> dict[str, tuple[Callable[[], bool], float]]:
    """{phase: (whether it has begun, seconds over which to spread the kill)}."""
    parts = {path.name for path in directory.glob("parts/trials-*")}
    written = writing(directory)

    def says(word: str) -> bool:
        return log.exists() and word in log.read_text()

    return {
        "compile": (lambda: says("data "), 4.0),  # the plan's last line
        "segment": (lambda: says("compiled "), 3.0),
        "refill": (lambda: bool({p.name for p in directory.glob("parts/trials-*")} - parts), 0.1),
        "checkpoint": (lambda: any("tmp" in p for p in writing(directory) - written), 0.2),
        "report": (lambda: (directory / "trials.parquet").exists() and says("data "), 3.0),
    }


def writing(directory: Path) -> set[str]:
    """Checkpoints that are there, or are being written."""
    return {path.name for path in directory.glob("checkpoints/*")}


def differences(whole: Path, killed: Path) -> list[str]:
    """The files that differ, and snapshots that do."""
    names = {"trials.parquet", "curves.parquet"}
    names |= {str(path.relative_to(whole)) for path in whole.glob("arrays/*")}
    names |= {str(path.relative_to(killed)) for path in killed.glob("arrays/*")}
    differing = [name for name in sorted(names) if not _equal(whole / name, killed / name)]
    for program in sorted({p.name for d in (whole, killed) for p in d.glob("params/*")}):
        loaded = [snapshots.load(directory, program) for directory in (whole, killed)]
        same = loaded[0].keys() == loaded[1].keys() and all(
            np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(loaded[0]), jax.tree.leaves(loaded[1]), strict=True)
        )
        differing += [] if same else [f"params/{program}"]
    leftovers = [name for name in ("parts", "checkpoints") if (killed / name).exists()]
    return differing + [f"{name} is left over" for name in leftovers]


def _equal(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and a.read_bytes() == b.read_bytes()


def parts(result: dict[str, Any]) -> Iterator[Part]:
    launches = result["kills"]
    kills = [k for k in launches if k["phase"] != "ended"]
    rows = []
    for phase in dict.fromkeys(k["phase"] for k in kills):
        of = [k for k in kills if k["phase"] == phase]
        seconds, finished = ([k[name] for k in of] for name in ("seconds", "finished"))
        after, trials = f"{min(seconds):.1f} to {max(seconds):.1f}", f"{max(finished):,}"
        rows.append((phase, str(len(of)), after, f"{min(finished):,} to {trials}"))
    yield f"{heading(result)}study     {result['study']}\n"
    columns = ["killed during", "times", "s after the launch", "trials finished by then"]
    yield table("SIGKILL", columns, rows)
    verdict = "equal, byte for byte" if result["equal"] else f"DIFFER: {result['differing']}"
    summary = f"{len(kills)} kills in {len(launches)} launches; "
    summary += f"tables, arrays and snapshots are {verdict}\n"
    if resumed := result["seconds_to_the_first_segment"]:
        summary += (
            f"from launch to the first checkpoint after a first new segment: median "
            f"{statistics.median(resumed):.1f} s, at most {max(resumed):.1f} s\n"
        )
    yield summary
