"""The plan of a study: every point, every trial, every program, before anything compiles."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import pandas as pd

from ablax.config import STREAMS, canonical, field_specs, statics_of, validate
from ablax.engine.mesh import device_kind, memory_per_device, slots_per_device
from ablax.engine.shapes import Solo
from ablax.engine.trials import take, trials_of
from ablax.errors import UserError, flag_of
from ablax.experiment import SIGNIFICANCE, Experiment
from ablax.study import grid
from ablax.study.rounds import Gives, Halving, OneRound, Rounds, Wanted
from ablax.task import Task, Trial


@dataclass(frozen=True)
class Point:
    """One setting: a row of the table."""

    name: str  # what it sets: "model=mlp l2=0.001"
    group: str  # the name of its row in the ablation table
    config: Any  # the whole Config, without axes

    @cached_property
    def ingredients(self) -> Any:
        """All that the point contributes to the ids of its trials."""
        return canonical(self.config)


@dataclass(frozen=True)
class PlannedTrial:
    """A trial of the plan: a point at a restart, and the parent that it starts from.

    Attributes:
        until: the step at which it ends; None: all its steps.
        parent: the trial of the round before that it starts from; None: it starts anew.
        inherits: what it takes from its parent.
        round: the number of its round.
    """

    id: str
    point: Point
    restart: int
    until: int | None = None
    parent: "PlannedTrial | None" = None
    inherits: Gives | None = None
    round: int = 0

    @property
    def end(self) -> int:
        """The step at which it ends."""
        return int(self.point.config.steps) if self.until is None else self.until

    @property
    def start(self) -> int:
        """The step at which it starts: where it continues its parent's trajectory, if it does."""
        return 0 if self.parent is None or self.inherits != "state" else self.parent.until or 0


@dataclass(frozen=True)
class Identity:
    """Components of a trial's id besides its point and restart."""

    seed: int
    version: int  # of the task
    fingerprint: str  # of the data


@dataclass(frozen=True)
class Program:
    """The trials that share their statics, and so one compilation per function."""

    name: str  # the statics that differ between programs
    task: Task
    points: tuple[Point, ...]
    identity: Identity
    solo: Solo
    slots_per_device: int

    @property
    def file_name(self) -> str:
        """The name as that of a file or folder."""
        return file_name(self.name)

    @property
    def statics(self) -> dict[str, Any]:
        """{static field: its value}."""
        config = self.points[0].config
        kinds = field_specs(config)
        return {n: getattr(config, n) for n, spec in kinds.items() if spec.kind == "static"}

    @property
    def example(self) -> Trial:
        """A trial that has the shapes of all."""
        return take(trials_of([self.points[0].config], [0], 0), 0)

    @cached_property
    def stablehlo(self) -> str:
        """A hash of one trial's program alone: whatever the slots and the devices are."""
        return _digest(self.solo.stablehlo)


@dataclass(frozen=True)
class Plan:
    experiment: str
    points: tuple[Point, ...]
    restarts: int
    seed: int
    programs: tuple[Program, ...]
    devices: int
    device_kind: str
    rounds: Rounds
    significance: float = SIGNIFICANCE

    def trials(
        self,
        number: int = 0,
        before: Sequence[PlannedTrial] = (),
        results: pd.DataFrame | None = None,
    ) -> tuple[PlannedTrial, ...]:
        """The trials of a round in canonical order: point by point, restart by restart.

        Args:
            number: of the round.
            before: the trials of the round before it.
            results: their rows of trials.parquet.
        """
        if number == 0:
            return self._first_round
        return self._planned(number, before, results)

    @cached_property
    def _first_round(self) -> tuple[PlannedTrial, ...]:
        return self._planned(0, (), None)

    def _planned(
        self, number: int, before: Sequence[PlannedTrial], results: pd.DataFrame | None
    ) -> tuple[PlannedTrial, ...]:
        parents = {(t.point.name, t.restart): t for t in before}
        points = {
            point.name: (point, program) for program in self.programs for point in program.points
        }

        def planned(wanted: Wanted) -> PlannedTrial:
            point, program = points[wanted.point]
            parent = parents[wanted.parent] if wanted.parent else None
            inherits = self.rounds.gives if parent else None
            origin = None
            if wanted.until is not None or parent is not None:
                origin = [wanted.until, inherits, parent and parent.id]
            name = trial_id(self.experiment, program.identity, point, wanted.restart, origin)
            return PlannedTrial(name, point, wanted.restart, wanted.until, parent, inherits, number)

        return tuple(map(planned, self.rounds.wanted(number, results)))

    @property
    def id(self) -> str:
        """A hash of the study: of everything that determines its results."""
        rounds = [self.rounds.name] if self.rounds.name else []
        return _digest([self.experiment, sorted(trial.id for trial in self.trials()), *rounds])

    def with_identities(self, recorded: Mapping[str, Identity]) -> "Plan":
        """The plan with its trials named as another launch named them: {program: identity}."""
        programs = [
            dataclasses.replace(p, identity=recorded.get(p.name, p.identity)) for p in self.programs
        ]
        return dataclasses.replace(self, programs=tuple(programs))


def points_of(config: Any, settings: Sequence[grid.Setting]) -> tuple[Point, ...]:
    """The settings as points: complete Configs, named by what they set and others do not.

    Raises:
        UserError: a field that the Config does not have, a value out of range, or two
            points that are the same.
    """
    known = field_specs(config)
    changes = [{k: v for k, v in setting.items() if k != grid.GROUP} for setting in settings]
    if not changes:
        raise UserError("the study has no points")
    for name in {name for change in changes for name in change}:
        if name not in known:
            raise UserError(f"a point sets the unknown field {name!r}; known: {list(known)}")
    configs = [dataclasses.replace(config, **change) for change in changes]
    for whole in configs:
        if left := grid.axes(whole):
            raise UserError(
                f"{flag_of(next(iter(left)))} has several values, but the experiment's points "
                "do not use it"
            )
        validate(whole)
    repeated = {same for same, n in Counter(map(canonical, configs)).items() if n > 1}
    twice = [c for c, whole in zip(changes, configs, strict=True) if canonical(whole) in repeated]
    if twice:
        raise UserError(
            f"these points are the same: {' and '.join(_named(c) or 'the default' for c in twice)}"
        )
    differing = varying(configs)
    points = []
    for setting, change, whole in zip(settings, changes, configs, strict=True):
        name = _named({k: v for k, v in change.items() if k in differing})
        name = name or setting.get(grid.GROUP, "default")
        points.append(Point(name, setting.get(grid.GROUP, name), whole))
    return tuple(points)


def _named(change: grid.Setting) -> str:
    """Name of a change: the fields that it sets; empty if it sets none."""
    return " ".join(f"{field}={_short(value)}" for field, value in change.items())


def _short(value: Any) -> str:
    """Six digits where these are the value; else all of them, for a name must tell two apart."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(float(value))


def make_plan(
    experiment: Experiment,
    config: Any,
    *,
    restarts: int,
    seed: int,
    slots: int | None = None,
    halving: int | None = None,
) -> Plan:
    """Everything that will be trained, decided before anything is compiled."""
    validate(config)
    points = points_of(config, experiment.points(config))
    by_statics: dict[Any, list[Point]] = {}
    for point in points:
        by_statics.setdefault(jax.tree.structure(point.config), []).append(point)
    kinds = field_specs(config)
    statics = [n for n in varying([p.config for p in points]) if kinds[n].kind == "static"]
    programs = []
    for members in by_statics.values():
        task = experiment.task(statics_of(members[0].config))
        example = take(trials_of([members[0].config], [0], seed), 0)
        solo = Solo(task, example)
        n_trials = len(members) * restarts
        programs.append(
            Program(
                name=" ".join(f"{k}={getattr(members[0].config, k)}" for k in statics)
                or experiment.name,
                task=task,
                points=tuple(members),
                identity=Identity(seed, task.version, task.fingerprint),
                solo=solo,
                slots_per_device=slots
                or slots_per_device(
                    n_trials, jax.device_count(), solo.bytes_per_slot, memory_per_device()
                ),
            )
        )
    rounds: Rounds = OneRound(points, restarts)
    if halving is not None:
        rounds = Halving(halving, points, restarts, programs[0].task.objective)
    return Plan(
        experiment=experiment.name,
        points=points,
        restarts=restarts,
        seed=seed,
        programs=tuple(programs),
        devices=jax.device_count(),
        device_kind=device_kind(),
        rounds=rounds,
        significance=experiment.significance,
    )


def _varied(fixes: Sequence[str]) -> str:
    """Random streams that the restarts of a study vary, in words.

    >>> _varied(["none"]), _varied(["init+split"])
    ('init, order, split', 'order')
    """
    varied = [name for name in STREAMS if not all(name in fix.split("+") for fix in fixes)]
    return ", ".join(varied) or "only dropout, if there is any"


def file_name(program: str) -> str:
    """
    >>> file_name("model=mlp dataset=/my/table.csv")
    'model=mlp-dataset=-my-table.csv'
    """
    return "".join(c if c.isalnum() or c in "=-_." else "-" for c in program)


def trial_id(
    experiment: str, identity: Identity, point: Point, restart: int, origin: Any = None
) -> str:
    """A hash of all that determines a trial's result: 16 hexadecimal digits."""
    version, fingerprint, seed = identity.version, identity.fingerprint, identity.seed
    return _digest([experiment, version, fingerprint, point.ingredients, seed, restart, origin])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def varying(configs: Sequence[Any]) -> dict[str, list[Any]]:
    """The fields that differ between Configs, with their values in order of appearance."""
    seen = {
        name: list(dict.fromkeys(getattr(config, name) for config in configs))
        for name in field_specs(configs[0])
    }
    return {name: values for name, values in seen.items() if len(values) > 1}


def describe(plan: Plan) -> dict[str, str]:
    """The plan as labelled lines, for the terminal and the report."""
    config = plan.points[0].config
    kinds = {name: spec.kind for name, spec in field_specs(config).items()}
    differing = varying([point.config for point in plan.points])

    def listed(wanted: str) -> str:
        return ", ".join(
            f"{name}={' '.join(_short(v) for v in differing.get(name, [getattr(config, name)]))}"
            for name, kind in kinds.items()
            if kind == wanted
        )

    n_trials = len(plan.points) * plan.restarts
    steps = sum(trial.end for trial in plan.trials())
    many = plan.rounds.n > 1
    lines = {
        "experiment": plan.experiment,
        "points": f"{len(plan.points)}",
        "restarts": f"{plan.restarts} (the same for every point), seed {plan.seed}; "
        f"each varies {_varied(differing.get('fix', [config.fix]))}",
        "trials": f"{n_trials:,}",
        "steps": f"{steps:,} at most, over all trials" + (" of the first round" if many else ""),
        "significance": f"{plan.significance:g}, corrected for the number of rows (Holm)",
        "devices": f"{plan.devices} × {plan.device_kind}",
        "static": listed("static"),
        "traced": listed("hparam"),
        "protocol": listed("protocol"),
    }
    if many:
        lines["rounds"] = plan.rounds.describe()
    for program in plan.programs:
        slots = program.slots_per_device
        lines[f"program {program.name}"] = (
            f"{len(program.points) * plan.restarts:,} trials in {slots} × {plan.devices} slots, "
            f"{program.solo.bytes_per_slot:,} bytes per slot"
        )
    notes = dict.fromkeys(note for program in plan.programs for note in program.task.notes)
    return lines | {f"data {i}" if i else "data": note for i, note in enumerate(notes)}
