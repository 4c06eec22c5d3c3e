"""The trials of a study round by round, as far as its results lead."""

from collections.abc import Sequence

import pandas as pd

from ablax.rundir.store import trials_in
from ablax.study.plan import Plan, PlannedTrial

RoundTrials = Sequence[Sequence[PlannedTrial]]
"""The trials of each round that has been reached."""


def reached(plan: Plan, rows: pd.DataFrame) -> list[tuple[PlannedTrial, ...]]:
    """The trials of every round that the results so far lead to."""
    done = trials_in(rows)
    rounds = [plan.trials()]
    while len(rounds) < plan.rounds.n and all(t.id in done for t in rounds[-1]):
        rounds.append(plan.trials(len(rounds), rounds[-1], results_of(rows, rounds[-1])))
    return rounds


def results_of(rows: pd.DataFrame, trials: Sequence[PlannedTrial]) -> pd.DataFrame:
    """The rows of some trials, in their order and under the names that this plan gives them."""
    ordered = rows.set_index("trial").loc[[trial.id for trial in trials]].reset_index()
    return ordered.assign(point=[trial.point.name for trial in trials])


def missing(
    plan: Plan, rounds: RoundTrials, rows: pd.DataFrame, *, retry: bool = False
) -> set[str]:
    """The programs that have anything to train; of a later round, any may."""
    if len(rounds) < plan.rounds.n:
        return {program.name for program in plan.programs}
    done = trials_in(rows)
    if retry and len(rows):
        done -= trials_in(rows.query("status == 'diverged'"))
    points = {trial.point.name for trial in rounds[-1] if trial.id not in done}
    return {p.name for p in plan.programs if any(point.name in points for point in p.points)}


def labels(rounds: RoundTrials) -> dict[str, dict[str, str]]:
    """{trial: the columns that the plan gives its row}, in the order of the plan."""
    return {
        t.id: {"point": t.point.name, "group": t.point.group} for trials in rounds for t in trials
    }
