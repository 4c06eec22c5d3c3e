"""The plan of a study: every point, every trial, every program, before anything compiles."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax

from ablax.config import canonical, field_specs, validate
from ablax.errors import UserError
from ablax.sweep import engine, grid
from ablax.sweep.mesh import memory_per_device, slots_per_device
from ablax.task import Task


class Experiment(Protocol):
    """What a module in `experiments/` exports."""

    Config: type
    PRESETS: Mapping[str, Any]
    points: Callable[[Any], list[grid.Setting]]
    task: Callable[[Any], Task]
    figures: Callable[[Any], dict[str, Any]]
    CLAIMS: Sequence[Any]


@dataclass(frozen=True)
class Point:
    """One setting: a row of the table."""

    name: str  # what it sets: "model=mlp l2=0.001"
    group: str  # the name of its row in the ablation table
    config: Any  # the whole Config, without axes


@dataclass(frozen=True)
class PlannedTrial:
    id: str
    point: Point
    restart: int


@dataclass(frozen=True)
class Program:
    """The trials that share their statics, and so one compilation per function."""

    name: str  # the statics that differ between programs
    task: Task
    trials: tuple[PlannedTrial, ...]
    bytes_per_slot: int
    slots_per_device: int


@dataclass(frozen=True)
class Plan:
    experiment: str
    points: tuple[Point, ...]
    restarts: int
    seed: int
    programs: tuple[Program, ...]
    devices: int
    device_kind: str

    @property
    def trials(self) -> tuple[PlannedTrial, ...]:
        """All trials in canonical order: point by point, restart by restart."""
        by_key = {(t.point.name, t.restart): t for p in self.programs for t in p.trials}
        return tuple(by_key[p.name, r] for p in self.points for r in range(self.restarts))

    @property
    def id(self) -> str:
        """A hash of the study: of everything that determines its results."""
        return _digest([self.experiment, sorted(t.id for p in self.programs for t in p.trials)])


def points_of(config: Any, settings: Sequence[grid.Setting]) -> tuple[Point, ...]:
    """The settings as points: complete Configs with a name each.

    Raises:
        UserError: a field that the Config does not have, a value out of range, or two
            points that are the same.
    """
    known = field_specs(config)
    points = []
    for setting in settings:
        changes = {name: value for name, value in setting.items() if name != grid.GROUP}
        for name in changes:
            if name not in known:
                raise UserError(f"a point sets the unknown field {name!r}; known: {list(known)}")
        whole = dataclasses.replace(config, **changes)
        left = grid.axes(whole)
        if left:
            raise UserError(
                f"{next(iter(left))} has several values, but the experiment's points do not use it"
            )
        validate(whole)
        name = " ".join(f"{key}={_short(value)}" for key, value in changes.items()) or "default"
        points.append(Point(name, setting.get(grid.GROUP, name), whole))
    if not points:
        raise UserError("the study has no points")
    for same, n in Counter(canonical(point.config) for point in points).items():
        if n > 1:
            name = next(point.name for point in points if canonical(point.config) == same)
            raise UserError(f"the point {name} occurs {n} times")
    return tuple(points)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def make_plan(
    name: str,
    experiment: Experiment,
    config: Any,
    *,
    restarts: int,
    seed: int,
    slots: int | None = None,
) -> Plan:
    """Everything that will be trained, decided before anything is compiled."""
    validate(config)
    points = points_of(config, experiment.points(config))
    by_statics: dict[Any, list[Point]] = {}
    for point in points:
        by_statics.setdefault(jax.tree.structure(point.config), []).append(point)
    varying = _varying_statics(points)
    programs = []
    for members in by_statics.values():
        task = experiment.task(members[0].config)
        trials = tuple(
            PlannedTrial(trial_id(name, task, point, seed, restart), point, restart)
            for restart in range(restarts)
            for point in members
        )
        example = engine.take(engine.trials_of([members[0].config], [0], seed), 0)
        size = engine.bytes_per_slot(task, example)
        programs.append(
            Program(
                name=" ".join(f"{k}={getattr(members[0].config, k)}" for k in varying) or name,
                task=task,
                trials=trials,
                bytes_per_slot=size,
                slots_per_device=slots
                or slots_per_device(len(trials), jax.device_count(), size, memory_per_device()),
            )
        )
    return Plan(
        experiment=name,
        points=points,
        restarts=restarts,
        seed=seed,
        programs=tuple(programs),
        devices=jax.device_count(),
        device_kind=jax.devices()[0].device_kind,
    )


def trial_id(experiment: str, task: Task, point: Point, seed: int, restart: int) -> str:
    """A hash of all that determines a trial's result: 16 hexadecimal digits."""
    return _digest(
        [experiment, task.version, task.fingerprint, canonical(point.config), seed, restart, None]
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _varying_statics(points: Sequence[Point]) -> list[str]:
    statics = [n for n, spec in field_specs(points[0].config).items() if spec.kind == "static"]
    return [n for n in statics if len({getattr(p.config, n) for p in points}) > 1]


def varying(points: Sequence[Point]) -> dict[str, list[Any]]:
    """The fields that differ between points, with their values in order of appearance."""
    fields = field_specs(points[0].config)
    seen = {name: list(dict.fromkeys(getattr(p.config, name) for p in points)) for name in fields}
    return {name: values for name, values in seen.items() if len(values) > 1}


def describe(plan: Plan) -> dict[str, str]:
    """The plan as labelled lines, for the terminal and the report."""
    config = plan.points[0].config
    kinds = {name: spec.kind for name, spec in field_specs(config).items()}
    differing = varying(plan.points)

    def listed(wanted: str) -> str:
        return ", ".join(
            f"{name}={' '.join(_short(v) for v in differing.get(name, [getattr(config, name)]))}"
            for name, kind in kinds.items()
            if kind == wanted
        )

    n_trials = sum(len(program.trials) for program in plan.programs)
    steps = sum(int(t.point.config.steps) for p in plan.programs for t in p.trials)
    lines = {
        "experiment": plan.experiment,
        "points": f"{len(plan.points)}",
        "restarts": f"{plan.restarts} (the same for every point), seed {plan.seed}",
        "trials": f"{n_trials:,}",
        "steps": f"{steps:,} at most, over all trials",
        "devices": f"{plan.devices} × {plan.device_kind}",
        "static": listed("static"),
        "traced": listed("hparam"),
        "protocol": listed("protocol"),
    }
    for program in plan.programs:
        slots = program.slots_per_device
        lines[f"program {program.name}"] = (
            f"{len(program.trials):,} trials in {slots} × {plan.devices} slots, "
            f"{program.bytes_per_slot:,} bytes per slot"
        )
    notes = dict.fromkeys(note for program in plan.programs for note in program.task.notes)
    return lines | {f"data {i}" if i else "data": note for i, note in enumerate(notes)}
