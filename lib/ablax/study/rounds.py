"""Rounds: studies whose later trials depend on what came out before.

A study is a list of rounds. Each names the trials that it wants, after it has seen the results
of the round before; a trial may have a parent there, whose state it goes on from ("state": the
same trajectory, continued) or whose selected snapshot it starts from ("snapshot"). Everything
follows from the results, so that an interrupted study finds its way again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd

from ablax.errors import UserError
from ablax.metrics import Metric, worst_rank

Gives = Literal["state", "snapshot"]


@dataclass(frozen=True)
class Wanted:
    """A trial that a round asks for."""

    point: str
    restart: int
    until: int | None = None  # the step at which it ends; None: all its steps
    parent: tuple[str, int] | None = None  # (point, restart) of the round before


class Rounds(Protocol):
    """Rounds of a study.

    Attributes:
        n: how many there are.
        name: what tells them from other rounds; "" of the ordinary study.
        size: trials of all rounds.
        gives: what the trials of a round leave to the next.
    """

    @property
    def name(self) -> str: ...
    @property
    def n(self) -> int: ...
    @property
    def gives(self) -> Gives | None: ...
    @property
    def size(self) -> int: ...

    def wanted(self, number: int, results: pd.DataFrame | None) -> list[Wanted]:
        """The trials of a round, given the rows of trials.parquet of the round before."""
        ...

    def describe(self) -> str:
        """A line for the plan."""
        ...


@dataclass(frozen=True)
class OneRound:
    """The ordinary study: every point at every restart."""

    points: Sequence[Any]
    restarts: int
    name: str = ""
    n: int = 1
    gives: Gives | None = None

    @property
    def size(self) -> int:
        return len(self.points) * self.restarts

    def wanted(self, number: int, results: pd.DataFrame | None) -> list[Wanted]:
        return [Wanted(p.name, r) for p in self.points for r in range(self.restarts)]

    def describe(self) -> str:
        return ""


class Halving:
    """Synchronous successive halving (Jamieson & Talwalkar 2016).

    All points are trained to the first rung; the best 1/eta of them, by the mean objective
    over their restarts on the validation split, go on to a rung eta times as far, and so on
    to the whole number of steps. A point goes on with all its restarts, so that the last
    round compares in pairs, and each trial goes on where it was: its curve is that of a study
    that was never halved.

    As in the report, a diverged trial counts with the worst value of any that did not diverge.

    Args:
        eta: one in `eta` points goes on.
        points: those of the study.
        restarts: of every point.
        objective: what decides.

    Raises:
        UserError: nothing to decide by, nothing to choose from, or no rung before the end.
    """

    gives: Gives | None = "state"

    def __init__(self, eta: int, points: Sequence[Any], restarts: int, objective: Metric | None):
        if eta < 2:
            raise UserError(f"--halving: expected at least 2, got {eta}")
        if objective is None:
            raise UserError("--halving: the experiment has no objective on a validation split")
        if len(points) < eta:
            raise UserError(f"--halving {eta}: expected at least {eta} points, got {len(points)}")
        self.eta, self.restarts, self.objective = eta, restarts, objective
        self.configs = {point.name: point.config for point in points}
        # No fewer than eta points reach the end: a comparison, and not the luck of the rungs.
        rungs = max(2, int(math.log(len(points), eta) + 1e-9))
        shortest = min(config.steps / config.eval_every for config in self.configs.values())
        self.n = min(rungs, 1 + int(math.log(max(shortest, 1), eta) + 1e-9))
        if self.n < 2:
            raise UserError(
                f"--halving {eta}: expected --steps of at least {eta} × --eval-every, "
                f"so that there is a rung before the end, got {shortest:.3g} ×"
            )
        self.name = f"halving by {eta} in {self.n} rounds"

    @property
    def size(self) -> int:
        return sum(map(self.survivors, range(self.n))) * self.restarts

    def survivors(self, number: int) -> int:
        """How many points a round trains."""
        return math.ceil(len(self.configs) / self.eta**number)

    def until(self, number: int, config: Any) -> int:
        """The rung: steps / eta^(rounds still to come), rounded up to an evaluation."""
        share = config.steps / self.eta ** (self.n - 1 - number)
        evaluations = math.ceil(share / config.eval_every - 1e-9)
        return min(evaluations * config.eval_every, int(config.steps))

    def wanted(self, number: int, results: pd.DataFrame | None) -> list[Wanted]:
        names = list(self.configs)
        if results is not None:
            names = [name for name in names if name in set(results["point"])]
            values = results[f"valid/{self.objective.name}"].to_numpy(np.float64)
            failed = (results["status"] == "diverged").to_numpy() | ~np.isfinite(values)
            column = worst_rank(values, failed, self.objective)
            means = [column[results["point"] == name].mean() for name in names]
            merits = np.nan_to_num(self.objective.sign * np.array(means), nan=-np.inf)
            fails = [failed[results["point"] == name].mean() for name in names]
            # Of equal merit goes on what failed less: the worst that lives is better than none.
            best = np.lexsort((fails, -merits))[: self.survivors(number)]
            names = [names[i] for i in sorted(best)]
        return [
            Wanted(
                name,
                restart,
                self.until(number, self.configs[name]),
                (name, restart) if number else None,
            )
            for name in names
            for restart in range(self.restarts)
        ]

    def describe(self) -> str:
        config = next(iter(self.configs.values()))
        rungs = [
            f"{self.survivors(k)} points to step {self.until(k, config):,}" for k in range(self.n)
        ]
        return f"{self.name}: " + ", ".join(rungs)
