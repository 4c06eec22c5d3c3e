"""./launch.sh audit EXPERIMENT: whether a trial's numbers depend on what is around it, here.

A few trials of an experiment are trained in one way, and then alone, in other slots, among
other neighbours, on one device, interrupted and resumed, by two processes, with other numbers
of slots, and without any vmap. Where Ablax promises equal bits, other bits are a failure; where
it promises none, the largest deviation is printed.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich.console import Console

from ablax.bench.tables import table
from ablax.checkout import LAUNCH
from ablax.cli.flags import read
from ablax.engine import slots
from ablax.engine.engine import Boundary, Engine
from ablax.engine.mesh import LANES, cpu_devices_per_core, keep_compiled, mesh_of
from ablax.engine.shapes import training_data
from ablax.engine.slots import Status
from ablax.engine.trials import take, trials_of
from ablax.errors import UserError
from ablax.experiment import Experiment
from ablax.rundir import checkpoint
from ablax.rundir.checkpoint import Checkpoints
from ablax.rundir.store import read_parquet
from ablax.study.plan import Plan, PlannedTrial, Program, make_plan
from ablax.study.recorder import slot_arrays, slot_of
from ablax.study.run import autotuned
from ablax.task import Trial

Numbers = dict[str, np.ndarray]  # all that is known of one trial in the end


@dataclass(frozen=True)
class Flags:
    """Check on this machine that a trial's bits do not depend on what is around it."""

    trials: Annotated[int, tyro.conf.arg(help="of each program, spread over its points")] = 6
    preset: Annotated[str, tyro.conf.arg(help="whose points and steps")] = "smoke"
    seed: Annotated[int, tyro.conf.arg(help="of the study")] = 0
    processes: Annotated[int, tyro.conf.arg(help="that train the study too; 1: none")] = 2


@dataclass(frozen=True)
class Finding:
    """One comparison: what was promised, and what came out."""

    program: str
    what: str
    promised: bool
    deviation: float | None  # 0: equal bits; None: not possible here
    why: str = ""

    @property
    def broken(self) -> bool:
        return self.promised and self.deviation is not None and self.deviation != 0

    @property
    def words(self) -> str:
        if self.deviation is None:
            return f"not checked: {self.why}"
        return "bit-equal" if self.deviation == 0 else f"largest deviation {self.deviation:.2g}"


def main(experiment: Experiment, name: str, arguments: list[str]) -> int:
    """Audit one experiment; 1 if a promise does not hold."""
    flags = read(Flags, f"audit {name}", arguments)
    if flags.preset not in experiment.presets:
        raise UserError(f"--preset: expected one of {list(experiment.presets)}, got {flags.preset}")
    if flags.trials < 1:
        raise UserError(f"--trials: expected at least 1, got {flags.trials}")
    cpu_devices_per_core()
    keep_compiled()
    preset = experiment.presets[flags.preset]
    plan = make_plan(experiment, preset.config, restarts=preset.restarts, seed=flags.seed)
    findings = []
    with tempfile.TemporaryDirectory() as scratch:
        for program in plan.programs:
            findings += Audit(plan, program, flags.trials, Path(scratch)).findings()
        if flags.processes > 1:
            findings.append(by_processes(name, flags, Path(scratch)))
    show(name, plan, findings)
    return 1 if any(finding.broken for finding in findings) else 0


class Audit:
    """The comparisons of one program."""

    def __init__(self, plan: Plan, program: Program, n: int, scratch: Path):
        names = {point.name for point in program.points}
        self.all = [trial for trial in plan.trials() if trial.point.name in names]
        spread = np.linspace(0, len(self.all) - 1, min(n, len(self.all))).round().astype(int)
        self.chosen = [self.all[i] for i in spread]
        self.plan, self.program, self.scratch = plan, program, scratch
        self.runner = self._engine()
        self.reference = self.train(self.runner, self.chosen)

    def findings(self) -> list[Finding]:
        """Every comparison."""
        n, many = len(self.chosen), len(jax.devices()) > 1
        others = [trial for trial in self.all if trial not in self.chosen]
        checks: list[tuple[str, bool, Callable[[], Sequence[Numbers]] | None, str]] = [
            ("again, by the same program", True, lambda: self.train(self.runner, self.chosen), ""),
            ("each alone among empty slots", True, self.alone, ""),
            (
                "in other slots",
                True,
                lambda: self.train(self.runner, [*self.chosen[::-1], *self.chosen])[n:],
                "",
            ),
            (
                "among other neighbours",
                True,
                lambda: self.train(self.runner, [*others, *self.chosen])[len(others) :],
                "",
            ),
            (
                "on one device",
                True,
                (lambda: self.train(self._engine(devices=1), self.chosen)) if many else None,
                "there is one device",
            ),
            ("interrupted and resumed", True, self.resumed, ""),
            *(
                (
                    f"{count} slots per device instead of {LANES}",
                    False,
                    partial(self.with_slots, count),
                    "",
                )
                for count in (2 * LANES, 4 * LANES)
            ),
            ("one trial, without vmap", False, self.solo, ""),
        ]
        return [
            Finding(
                self.program.name,
                what,
                promised,
                None if check is None else deviation(self.reference, check()),
                why,
            )
            for what, promised, check, why in checks
        ]

    def _engine(self, devices: int | None = None, per_device: int = LANES) -> Engine:
        return Engine(
            self.program.task,
            self.program.example,
            mesh_of(jax.devices()[:devices]),
            per_device,
            keep=True,
            compiler_options=autotuned(self.scratch),
        )

    def train(self, runner: Engine, trials: Sequence[PlannedTrial]) -> list[Numbers]:
        """Final numbers of each trial."""
        known: dict[int, Numbers] = {}
        for interval, members in by_interval(trials).items():
            chosen = self.columns([trials[i] for i in members])
            collected = collect(runner.run(chosen, interval))
            known |= {members[at]: numbers for at, numbers in collected.items()}
        return [known[i] for i in range(len(trials))]

    def columns(self, trials: Sequence[PlannedTrial]) -> Trial:
        configs, restarts = [t.point.config for t in trials], [t.restart for t in trials]
        return trials_of(configs, restarts, self.plan.seed)

    def alone(self) -> list[Numbers]:
        return [self.train(self.runner, [trial])[0] for trial in self.chosen]

    def with_slots(self, count: int) -> list[Numbers]:
        return self.train(self._engine(per_device=count), self.chosen)

    def resumed(self) -> list[Numbers]:
        """Numbers of trials stopped at the second boundary and resumed from a checkpoint."""
        known: dict[int, Numbers] = {}
        for interval, members in by_interval(self.chosen).items():
            columns = self.columns([self.chosen[i] for i in members])
            first = self._engine()
            seen: list[Boundary] = []
            for boundary in first.run(columns, interval):
                seen.append(boundary)
                if len(seen) == 2:
                    break
            seen.append(Boundary(None, first.flush(), 0))
            place = self.scratch / f"checkpoint {self.program.name} {interval}".replace("/", " ")
            writer = Checkpoints(place, 0, 1)
            writer.save(slot_arrays(first.slots), {"holds": first.holds.tolist()})
            writer.wait()
            writer.close()
            number, _ = checkpoint.newest(place)
            assert number is not None, "a checkpoint that was just written is damaged"
            results = checkpoint.read(place, number)
            second = self._engine()
            rows = slot_of(results.arrays, like=second.slots)
            held = {i: slot for slot, i in enumerate(results.host["holds"]) if i >= 0}
            order = list(held)
            starts = {at: take(rows, held[i]) for at, i in enumerate(order)}
            again = second.run(take(columns, np.array(order, int)), interval, starts=starts)
            collected = collect(seen)
            for at, numbers in collect(again).items():
                earlier = collected.get(order[at], {})
                collected[order[at]] = {
                    name: np.concatenate([earlier[name], value])
                    if name.startswith("curve") and name in earlier
                    else value
                    for name, value in numbers.items()
                }
            known |= {members[at]: numbers for at, numbers in collected.items()}
        return [known[i] for i in range(len(self.chosen))]

    def solo(self) -> list[Numbers]:
        """Numbers of each trial trained alone, by plain jitted functions without vmap."""
        task = self.program.task
        fill = jax.jit(partial(slots.fill, task))
        train = jax.jit(partial(slots.train, task))
        final = jax.jit(partial(slots.final, task))
        data = jax.device_put(training_data(task), jax.devices()[0])
        everything = jax.device_put(dict(task.data), jax.devices()[0])
        results = []
        for planned in self.chosen:
            trial = take(self.columns([planned]), 0)
            slot = fill(trial, data)
            while int(slot.status) == Status.RUNNING:
                slot, _ = train(slot, np.int32(planned.point.config.eval_every), data)
            measured = final(slot.best, slot.trial, everything)
            results.append(final_numbers(jax.device_get(measured), jax.device_get(slot.best)))
        return results


def by_interval(trials: Sequence[PlannedTrial]) -> dict[int, list[int]]:
    """{steps between evaluations: positions}: the engine trains one interval at a time."""
    results: dict[int, list[int]] = {}
    for i, trial in enumerate(trials):
        results.setdefault(int(trial.point.config.eval_every), []).append(i)
    return results


def collect(boundaries: Any) -> dict[int, Numbers]:
    """{position: the trial's numbers}, collected from boundaries."""
    curves: dict[int, list[Numbers]] = {}
    results: dict[int, Numbers] = {}
    for boundary in boundaries:
        if (evaluated := boundary.evaluated) is not None:
            for row, i in enumerate(evaluated.index.tolist()):
                values = {f"curve/{name}": v[row] for name, v in evaluated.metrics.items()}
                curves.setdefault(i, []).append(values)
        if (finished := boundary.finished) is not None:
            for row, i in enumerate(finished.index.tolist()):
                measured = take(finished.measured, row)
                results[i] = final_numbers(measured, take(finished.snapshots, row))
    for i, rows in curves.items():
        stacked = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        results[i] = stacked | results.get(i, {})
    return results


def final_numbers(measured: Mapping[str, Any], snapshot: Any) -> Numbers:
    """Measured values and the selected snapshot, by name."""
    leaves = jax.tree_util.tree_leaves_with_path(snapshot)
    named = {f"snapshot{jax.tree_util.keystr(path)}": np.asarray(leaf) for path, leaf in leaves}
    return {f"measured/{name}": np.asarray(v) for name, v in measured.items()} | named


def deviation(a: Sequence[Numbers], b: Sequence[Numbers]) -> float:
    """The largest |a − b| over all numbers of b; 0 only if all their bits are equal."""
    largest = 0.0
    for one, other in zip(a, b, strict=True):
        for name in other:
            if one[name].tobytes() != other[name].tobytes():
                largest = max(largest, _distance(one[name], other[name]))
    return largest


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return np.inf
    if not np.issubdtype(a.dtype, np.number):
        return 0.0 if np.array_equal(a, b) else np.inf
    a, b = a.astype(np.float64), b.astype(np.float64)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return np.inf
    same = (a == b) | np.isnan(a)
    return float(np.max(np.abs(np.where(same, 0, a - b)))) or np.finfo(np.float64).tiny


def by_processes(name: str, flags: Flags, scratch: Path) -> Finding:
    """The whole study of the preset, by one process and by several."""
    what = f"by {flags.processes} processes"
    if jax.default_backend() != "cpu" and len(jax.devices()) < flags.processes:
        return Finding("all", what, True, None, f"there are {len(jax.devices())} devices")
    results = []
    for processes in (1, flags.processes):
        out = scratch / f"by {processes}"
        command = [name, "--preset", flags.preset, "--seed", str(flags.seed)]
        command += ["--slots", str(LANES), "--out", str(out), "--processes", str(processes)]
        ended = subprocess.run(
            [*LAUNCH, *command], env=os.environ | {"ABLAX_PYTHON": sys.executable},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if ended.returncode:
            raise UserError(f"{' '.join(command)} failed:\n{ended.stderr[-2000:]}")
        results.append(table_numbers(out))
    return Finding("all", what, True, deviation(results[:1], results[1:]))


def table_numbers(directory: Path) -> Numbers:
    """The columns of a study's tables; text as its bytes."""
    numbers = {}
    for name in ("trials", "curves"):
        for column, values in read_parquet(directory / f"{name}.parquet").items():
            text = values.dtype == object
            array = np.array([str(value) for value in values]) if text else values.to_numpy()
            numbers[f"{name}/{column}"] = np.asarray(array)
    return numbers


def show(name: str, plan: Plan, findings: Sequence[Finding]) -> None:
    rows = [
        (f.program, f.what, "equal bits" if f.promised else "measured", f.words) for f in findings
    ]
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(f"{name} on {plan.devices} × {plan.device_kind}, jax {jax.__version__}")
    console.print(table("A trial's numbers", ["program", "trained", "promised", "result"], rows))
    broken = sum(finding.broken for finding in findings)
    console.print(f"{broken} promises are broken" if broken else "every promise holds")
