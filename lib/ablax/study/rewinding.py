"""Bring a run directory to where a launch resumes: the last checkpoint, or whole trials alone."""

from pathlib import Path
from typing import NamedTuple

from ablax.rundir import checkpoint
from ablax.rundir.checkpoint import Latest
from ablax.rundir.lock import locked
from ablax.rundir.store import Store, trials_in
from ablax.study.lineage import labels, reached
from ablax.study.manifest import read_manifest
from ablax.study.plan import Plan


class Start(NamedTuple):
    """Starting point of a launch; plain JSON, to be sent to every process.

    Attributes:
        checkpoint: the one to resume from; None: there is none.
        number: of the next one.
        notes: what the user should know now.
    """

    checkpoint: int | None
    number: int
    notes: list[str]


def make_ready(
    plan: Plan, directory: Path, latest: Latest, *, anew: bool = False, retry: bool = False
) -> Start:
    """Rewind the directory of an admitted launch, and name its trials as the plan does.

    Args:
        plan: of this launch, its trials named as they were.
        directory: of the study, which is locked.
        latest: among its checkpoints.
        anew: the checkpoints are of another program.
        retry: drop diverged trials, so that they are trained again.
    """
    store = Store(directory)
    if read_manifest(directory) is not None:
        store.relabel(labels(reached(plan, store.read("trials"))))
    number, notes = rewind(directory, store, plan, latest, anew=anew)
    if retry:
        rows = store.read("trials")
        if len(rows):
            store.forget(trials_in(rows.query("status == 'diverged'")))
    following = max(checkpoint.numbered(directory / checkpoint.PLACE), default=0) + 1
    return Start(number, following, notes)


def rewind(
    directory: Path, store: Store, plan: Plan, latest: Latest, *, anew: bool = False
) -> tuple[int | None, list[str]]:
    """(the checkpoint to resume from, what is wrong with later ones); the store is rewound to it.

    Without a checkpoint every trial that has finished counts, and the curves of the others,
    which start anew, are dropped.

    Args:
        directory: of the study.
        store: of the study.
        plan: of this launch.
        latest: among its checkpoints.
        anew: the checkpoints are of another program, and cannot be resumed from.
    """
    number, notes = (None, []) if anew else (latest.number, latest.complaints)
    checkpoint.clear(directory / checkpoint.PLACE, after=number)
    if number is not None:
        store.rewind(latest.host["position"])
        return number, notes
    if store.has_parts:
        store.compact(labels(reached(plan, store.read("trials"))), complete=False)
        store.drop("curves")
    if notes or anew:
        notes.append("no checkpoint can be used: trials that had not finished start anew")
    return None, notes


def compact_interrupted(directory: Path) -> None:
    """Bring the tables of a study in order without its plan, where a killed launch left parts.

    Raises:
        UserError: a process is at work in the directory.
    """
    store, manifest = Store(directory), read_manifest(directory)
    if not store.has_parts or manifest is None:
        return
    with locked(directory):
        places = {point["name"]: i for i, point in enumerate(manifest["points"])}
        rows = store.read("trials")
        if rows.empty:
            return
        rounds = rows.get("round", 0)
        rows = rows.assign(_round=rounds, _place=[places.get(p, -1) for p in rows["point"]])
        rows = rows.sort_values(["_round", "_place", "restart"], kind="stable")
        names = rows[["trial", "point", "group"]].itertuples(index=False, name=None)
        order = {trial: {"point": point, "group": group} for trial, point, group in names}
        store.compact(order, complete=False)
