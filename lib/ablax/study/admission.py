"""Admission of a launch to a run directory: decided by its contents, before anything acts.

All that could spoil what is already computed is refused here; nothing is changed, on disk or
elsewhere, and nothing compiles. `rewinding` acts on what is admitted.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ablax.errors import UserError
from ablax.rundir import checkpoint
from ablax.rundir.checkpoint import Latest
from ablax.rundir.store import Store, trials_in
from ablax.study.lineage import RoundTrials, missing, reached
from ablax.study.manifest import Manifest, conditions, read_manifest
from ablax.study.plan import Identity, Plan, Program

PROGRAM = "program (hash of its StableHLO)"


class Contents(NamedTuple):
    """A run directory as a launch finds it."""

    manifest: Manifest | None  # None: nothing has been launched here yet
    trials: pd.DataFrame
    checkpoint: Latest


def contents_of(directory: Path) -> Contents:
    """Read a run directory.

    Raises:
        UserError: a file of the study cannot be read, or is not whole.
    """
    manifest, store = read_manifest(directory), Store(directory)
    if manifest is not None:
        store.check()
    return Contents(manifest, store.read("trials"), checkpoint.latest(directory / checkpoint.PLACE))


@dataclass(frozen=True)
class Admission:
    """Names, slots and marks of an admitted launch; plain JSON, to be sent to every process.

    Attributes:
        identities: {program: what its trials' ids hold}.
        slots: {program: slots per device}.
        marks: what has changed during the study, for study.json.
        other_program: the checkpoints are of another program, and cannot be resumed from.
    """

    identities: dict[str, Any]
    slots: dict[str, int]
    marks: list[str]
    other_program: bool = False


def admit(
    plan: Plan,
    contents: Contents,
    directory: Path,
    *,
    allow_changed: bool = False,
    retry: bool = False,
    slots: int | None = None,
) -> Admission:
    """Decide how a launch goes on in a run directory.

    Args:
        plan: of this launch.
        contents: of the directory.
        directory: of the study, for messages.
        allow_changed: go on although what the study was trained with has changed.
        retry: train diverged trials again.
        slots: per device, where the user chose them.

    Raises:
        UserError: it cannot go on here.
    """
    per_device = {program.name: slots or program.slots_per_device for program in plan.programs}
    marks: list[str] = []
    other_program = False
    if (manifest := contents.manifest) is not None:
        marks += manifest["marks"]
        recorded, rows = recorded_programs(plan, manifest), contents.trials
        plan, changed = identified(plan, manifest, recorded, directory, allow_changed=allow_changed)
        rounds = reached(plan, rows)
        refuse_foreign(plan, rounds, rows, contents.checkpoint.holds, directory)
        todo = missing(plan, rounds, rows, retry=retry)
        for name, entry in recorded.items():
            per_device[name] = (slots if name in todo else None) or entry["slots_per_device"]
        latest = contents.checkpoint
        begun = len(rows) > 0 or latest.number is not None or bool(latest.complaints)
        if begun and todo:
            trained = {name: entry for name, entry in recorded.items() if name in todo}
            changed += changed_conditions(
                plan, manifest, trained, per_device, allow_changed=allow_changed
            )
            other_program = any(change.startswith(PROGRAM) for change in changed)
            done = f"from {len(rows):,} finished trials on"
            marks += [f"{change} ({done})" for change in changed]
    identities = {program.name: asdict(program.identity) for program in plan.programs}
    return Admission(identities, per_device, marks, other_program)


def recorded_programs(plan: Plan, manifest: Manifest) -> dict[str, Manifest]:
    """{program of the plan: what was recorded of it}, matched by statics."""
    programs = manifest["provenance"]["programs"].values()
    recorded = {}
    for program in plan.programs:
        statics = json.loads(json.dumps(program.statics))  # as they read when recorded
        for entry in programs:
            if entry["statics"] == statics:
                recorded[program.name] = entry
    return recorded


def identified(
    plan: Plan,
    manifest: Manifest,
    recorded: dict[str, Manifest],
    directory: Path,
    *,
    allow_changed: bool,
) -> tuple[Plan, list[str]]:
    """(the plan with its trials named as they were, what has changed since they were named).

    Raises:
        UserError: the directory holds another study, or its seed, level, data or task has changed.
    """
    if manifest["experiment"] != plan.experiment:
        raise _another(directory, plan, f"the experiment {manifest['experiment']!r}")
    if manifest["rounds"]["name"] != plan.rounds.name:
        then, now = (name or "one round" for name in (manifest["rounds"]["name"], plan.rounds.name))
        raise _another(directory, plan, f"its rounds are {then}, not {now}")
    changed = _changes(
        {"seed": manifest["seed"], "level of significance": manifest["significance"]},
        {"seed": plan.seed, "level of significance": plan.significance},
    )
    identities = {}
    for program in plan.programs:
        if entry := recorded.get(program.name):
            now = {"data set": program.identity.fingerprint, "task version": program.task.version}
            then = {"data set": entry["data"], "task version": entry["version"]}
            changed += _changes(then, now, of=_of(plan, program))
            identities[program.name] = Identity(**entry["identity"])
    if changed and not allow_changed:
        raise _refused(changed)
    return plan.with_identities(identities), changed


def changed_conditions(
    plan: Plan,
    manifest: Manifest,
    trained: dict[str, Manifest],
    slots: dict[str, int],
    *,
    allow_changed: bool,
) -> list[str]:
    """Changes of program, versions or device, after which trials would not be alike.

    Args:
        plan: of this launch.
        manifest: of the study.
        trained: what was recorded of the programs that are trained in this launch.
        slots: {program: slots per device} of this launch.
        allow_changed: go on all the same.

    Raises:
        UserError: something has, and that is not allowed.
    """
    changed = _changes(manifest["provenance"]["conditions"], conditions(plan))
    marked = []
    for program in plan.programs:
        if entry := trained.get(program.name):
            of = _of(plan, program)
            then, now = {PROGRAM: entry["stablehlo"]}, {PROGRAM: program.stablehlo}
            changed += _changes(then, now, of=of)
            then = {"slots per device": entry["slots_per_device"]}
            marked += _changes(then, {"slots per device": slots[program.name]}, of=of)
    if changed and not allow_changed:
        raise _refused(changed)
    return changed + marked


def refuse_foreign(
    plan: Plan, rounds: RoundTrials, rows: pd.DataFrame, held: set[str], directory: Path
) -> None:
    """Refuse a directory that holds trials of another study: some that the plan does not have.

    Args:
        plan: of this launch.
        rounds: of this launch.
        rows: the finished trials.
        held: those that the checkpoint holds which a launch would go on from.
        directory: of the study.
    """
    planned = {trial.id for trials in rounds for trial in trials}
    if lost := held - planned - trials_in(rows):
        raise _another(
            directory, plan, f"{len(lost)} trials that its checkpoint holds are not in this one"
        )
    if rows.empty:
        return
    roots = rows.loc[rows["parent"].isna()] if "parent" in rows else rows
    foreign = trials_in(roots) - {trial.id for trial in rounds[0]}
    if foreign:
        raise _another(
            directory,
            plan,
            f"{len(foreign)} of its {len(roots)} finished trials are not in this one",
        )


def _another(directory: Path, plan: Plan, why: str) -> UserError:
    return UserError(
        f"--out {directory} holds another study: {why}. Expected {plan.experiment} with the same "
        "settings (more points or restarts are fine); choose another --out."
    )


def _refused(changed: list[str]) -> UserError:
    return UserError(
        "what this study was trained with has changed: " + "; ".join(changed) + ". Expected the "
        "same, so that all its trials are alike; choose another --out, or go on with "
        "--allow-changed, which marks the study and its report."
    )


def _changes(then: Manifest, now: Manifest, of: str = "") -> list[str]:
    return [
        f"{what}{of}: {then.get(what)}, now {value}"
        for what, value in now.items()
        if then.get(what) != value
    ]


def _of(plan: Plan, program: Program) -> str:
    return f" of {program.name}" if len(plan.programs) > 1 else ""
