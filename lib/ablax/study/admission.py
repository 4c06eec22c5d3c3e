"""What a run directory holds, and whether this launch may go on there.

All that could spoil what is already computed is refused here, before anything compiles.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ablax.errors import UserError
from ablax.rundir import checkpoint, lock
from ablax.rundir.checkpoint import Latest
from ablax.rundir.lock import locked
from ablax.rundir.store import Store, trials_in
from ablax.study.manifest import conditions
from ablax.study.plan import Identity, Plan, PlannedTrial, Program

STUDY = "study.json"
PROBE = ".probe"
LEFTOVERS = (PROBE, f".{STUDY}.tmp", lock.NAME)  # of a crash in a launch's first moment

PROGRAM = "program (hash of its StableHLO)"

Record = dict[str, Any]
Rounds = Sequence[Sequence[PlannedTrial]]
"""The trials of each round that has been reached."""


def prepare(directory: Path) -> None:
    """Refuse a place that cannot be a run directory; make it if it is not there."""
    try:
        if directory.exists() and not directory.is_dir():
            raise UserError(f"--out {directory} is a file; expected a directory")
        if (
            directory.exists()
            and not (directory / STUDY).exists()
            and any(path.name not in LEFTOVERS for path in directory.iterdir())
        ):
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


def record_of(directory: Path) -> Record | None:
    """study.json; None if there is none yet.

    Raises:
        UserError: it is not what a launch writes.
    """
    path = directory / STUDY
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text())
        _ = record["experiment"], record["seed"], record["points"], record["rounds"]["name"]
        _ = record["significance"]
        _ = list(record["marks"])
        _ = dict(record["provenance"]["conditions"])
        for said in record["provenance"]["programs"].values():
            _ = Identity(**said["identity"]), dict(said["statics"])
            _ = said["data"], said["version"], said["stablehlo"], said["slots_per_device"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{directory} holds no readable study: {path}: {error}") from error
    return record


def reached(plan: Plan, rows: pd.DataFrame) -> list[tuple[PlannedTrial, ...]]:
    """The trials of every round that the results so far lead to."""
    done = trials_in(rows)
    found = [plan.trials()]
    while len(found) < plan.rounds.n and all(t.id in done for t in found[-1]):
        found.append(plan.trials(len(found), found[-1], results_of(rows, found[-1])))
    return found


def results_of(rows: pd.DataFrame, trials: Sequence[PlannedTrial]) -> pd.DataFrame:
    """The rows of some trials, in their order and under the names that this plan gives them."""
    found = rows.set_index("trial").loc[[trial.id for trial in trials]].reset_index()
    return found.assign(point=[trial.point.name for trial in trials])


def recorded_programs(plan: Plan, record: Record) -> dict[str, Record]:
    """{program of the plan: what was recorded of it}, matched by statics."""
    programs = record["provenance"]["programs"].values()
    found = {}
    for program in plan.programs:
        statics = json.loads(json.dumps(program.statics))  # as they read when recorded
        for said in programs:
            if said["statics"] == statics:
                found[program.name] = said
    return found


@dataclass(frozen=True)
class Claim:
    """What a launch starts from: plain JSON, so that every host can be told.

    Attributes:
        identities: {program: what its trials' ids hold}.
        slots: {program: slots per device}.
        checkpoint: the one to go on from.
        number: of the next one.
        marks: what has changed during the study, for study.json.
        notes: what the user should know now.
    """

    identities: dict[str, Any]
    slots: dict[str, int]
    checkpoint: int | None
    number: int
    marks: list[str]
    notes: list[str]


def claim(
    plan: Plan,
    directory: Path,
    *,
    allow_changed: bool = False,
    retry: bool = False,
    slots: int | None = None,
) -> Claim:
    """Look at a run directory (which is locked), and make it ready to go on.

    Args:
        plan: of this launch.
        directory: of the study.
        allow_changed: go on although what the study was trained with has changed.
        retry: train diverged trials again.
        slots: per device, if asked for.

    Raises:
        UserError: it cannot go on here.
    """
    record, store = record_of(directory), Store(directory)
    found = checkpoint.latest(directory / checkpoint.PLACE)
    per_device = {program.name: slots or program.slots_per_device for program in plan.programs}
    marks: list[str] = []
    other_program = False
    if record is not None:
        marks += record["marks"]
        recorded = recorded_programs(plan, record)
        plan, changed = identified(plan, record, recorded, directory, allow_changed=allow_changed)
        rows = store.read("trials")
        rounds = reached(plan, rows)
        refuse_foreign(plan, rounds, rows, found.holds, directory)
        store.check()
        store.relabel(labels(rounds))
        todo = missing(plan, rounds, rows, retry=retry)
        for name, said in recorded.items():
            per_device[name] = (slots if name in todo else None) or said["slots_per_device"]
        begun = len(rows) > 0 or found.number is not None or bool(found.complaints)
        if begun and todo:
            trained = {name: said for name, said in recorded.items() if name in todo}
            changed += changed_conditions(
                plan, record, trained, per_device, allow_changed=allow_changed
            )
            other_program = any(change.startswith(PROGRAM) for change in changed)
            done = f"from {len(rows):,} finished trials on"
            marks += [f"{change} ({done})" for change in changed]
    number, notes = rewind(directory, store, plan, found, anew=other_program)
    if retry:
        rows = store.read("trials")
        if len(rows):
            store.forget(trials_in(rows.query("status == 'diverged'")))
    following = max(checkpoint.numbered(directory / checkpoint.PLACE), default=0) + 1
    identities = {program.name: asdict(program.identity) for program in plan.programs}
    return Claim(identities, per_device, number, following, marks, notes)


def rewind(
    directory: Path, store: Store, plan: Plan, found: Latest, *, anew: bool = False
) -> tuple[int | None, list[str]]:
    """(the checkpoint to go on from, what is wrong with later ones); the store is rewound to it.

    Without a checkpoint every trial that has finished counts, and the curves of the others,
    which start anew, are dropped.

    Args:
        directory: of the study.
        store: of the study.
        plan: of this launch.
        found: among its checkpoints.
        anew: the checkpoints are of another program, and cannot be gone on from.
    """
    number, notes = (None, []) if anew else (found.number, found.complaints)
    checkpoint.clear(directory / checkpoint.PLACE, after=number)
    if number is not None:
        store.rewind(found.host["position"])
        return number, notes
    if store.unsettled:
        store.compact(labels(reached(plan, store.read("trials"))), complete=False)
        store.drop("curves")
    if notes or anew:
        notes.append("no checkpoint can be used: trials that had not finished start anew")
    return None, notes


def settle(directory: Path) -> None:
    """Bring the tables of a study in order, without its plan: what a killed launch left undone.

    Raises:
        UserError: a process is at work in the directory.
    """
    store, record = Store(directory), record_of(directory)
    if not store.unsettled or record is None:
        return
    with locked(directory):
        places = {point["name"]: i for i, point in enumerate(record["points"])}
        rows = store.read("trials")
        if rows.empty:
            return
        rounds = rows.get("round", 0)
        rows = rows.assign(_round=rounds, _place=[places.get(p, -1) for p in rows["point"]])
        rows = rows.sort_values(["_round", "_place", "restart"], kind="stable")
        names = rows[["trial", "point", "group"]].itertuples(index=False, name=None)
        order = {trial: {"point": point, "group": group} for trial, point, group in names}
        store.compact(order, complete=False)


def missing(plan: Plan, rounds: Rounds, rows: pd.DataFrame, *, retry: bool = False) -> set[str]:
    """The programs that have anything to train; of a later round, any may."""
    if len(rounds) < plan.rounds.n:
        return {program.name for program in plan.programs}
    done = trials_in(rows)
    if retry and len(rows):
        done -= trials_in(rows.query("status == 'diverged'"))
    points = {trial.point.name for trial in rounds[-1] if trial.id not in done}
    return {p.name for p in plan.programs if any(point.name in points for point in p.points)}


def labels(rounds: Rounds) -> dict[str, dict[str, str]]:
    """What the store's tables take from the plan: the order of its trials, and their names."""
    return {
        t.id: {"point": t.point.name, "group": t.point.group} for trials in rounds for t in trials
    }


def identified(
    plan: Plan,
    record: Record,
    recorded: dict[str, Record],
    directory: Path,
    *,
    allow_changed: bool,
) -> tuple[Plan, list[str]]:
    """(the plan with its trials named as they were, what has changed since they were named).

    Raises:
        UserError: the directory holds another study, or its seed, level, data or task has changed.
    """
    if record["experiment"] != plan.experiment:
        raise _another(directory, plan, f"the experiment {record['experiment']!r}")
    if record["rounds"]["name"] != plan.rounds.name:
        then, now = (name or "one round" for name in (record["rounds"]["name"], plan.rounds.name))
        raise _another(directory, plan, f"its rounds are {then}, not {now}")
    changed = _changes(
        {"seed": record["seed"], "level of significance": record["significance"]},
        {"seed": plan.seed, "level of significance": plan.significance},
    )
    identities = {}
    for program in plan.programs:
        if said := recorded.get(program.name):
            now = {"data set": program.identity.fingerprint, "task version": program.task.version}
            then = {"data set": said["data"], "task version": said["version"]}
            changed += _changes(then, now, of=_of(plan, program))
            identities[program.name] = Identity(**said["identity"])
    if changed and not allow_changed:
        raise _refused(changed)
    return plan.with_identities(identities), changed


def changed_conditions(
    plan: Plan,
    record: Record,
    trained: dict[str, Record],
    slots: dict[str, int],
    *,
    allow_changed: bool,
) -> list[str]:
    """What has changed in the program, its versions or its device: trials would not be alike.

    Args:
        plan: of this launch.
        record: of the study.
        trained: what was recorded of the programs that are trained in this launch.
        slots: {program: slots per device} of this launch.
        allow_changed: go on all the same.

    Raises:
        UserError: something has, and that is not allowed.
    """
    changed = _changes(record["provenance"]["conditions"], conditions(plan))
    marked = []
    for program in plan.programs:
        if said := trained.get(program.name):
            of = _of(plan, program)
            then, now = {PROGRAM: said["stablehlo"]}, {PROGRAM: program.stablehlo}
            changed += _changes(then, now, of=of)
            then = {"slots per device": said["slots_per_device"]}
            marked += _changes(then, {"slots per device": slots[program.name]}, of=of)
    if changed and not allow_changed:
        raise _refused(changed)
    return changed + marked


def refuse_foreign(
    plan: Plan, rounds: Rounds, rows: pd.DataFrame, held: set[str], directory: Path
) -> None:
    """A trial that the plan does not have means that this is another study's place.

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


def _changes(then: Record, now: Record, of: str = "") -> list[str]:
    return [
        f"{what}{of}: {then.get(what)}, now {value}"
        for what, value in now.items()
        if then.get(what) != value
    ]


def _of(plan: Plan, program: Program) -> str:
    return f" of {program.name}" if len(plan.programs) > 1 else ""
