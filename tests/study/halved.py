"""Plans and results of small studies in rounds."""

from dataclasses import replace

import pandas as pd
import pytest

from ablax.rundir.checkpoint import Checkpoints
from ablax.rundir.store import Store
from ablax.study import snapshots
from ablax.study import train as study
from ablax.study.plan import make_plan
from tests.study.launches import Killed
from tests.toys import SHORT, experiment, quadratic

RATES = (0.01, 0.03, 0.1, 0.3, 0.6, 1.0, 1.9, 30.0, 3e38)
GRID = replace(SHORT, steps=90, noise=0.5, patience=2.0, learning_rate=RATES)


def plan_of(config=GRID, *, halving: int | None = 2, restarts=4, seed=0, **changes):
    return make_plan(experiment(**{"task": quadratic} | changes), config,
        restarts=restarts, seed=seed, slots=16, halving=halving,
    )  # fmt: skip


def rows_of(directory):
    return pd.read_parquet(directory / "trials.parquet")


def variables_of(directory, plan) -> dict:
    """{trial: the bits of its snapshot in params/}, of all programs."""
    return {
        trial: variables["x"].tobytes()
        for program in plan.programs
        for trial, variables in snapshots.load(directory, program.name).items()
    }


def killed_after(writes, plan, directory, *, minutes=1e9, clean=True):
    """Launch a study, killed after so many writes; False where it ended before.

    `clean`: what a launch removes and compacts on its way is done.
    """
    done = []

    def counted(original):
        def write(self, name, *arguments):
            original(self, name, *arguments)
            done.append(name)
            if len(done) == writes:
                raise Killed

        return write

    with pytest.MonkeyPatch.context() as patch:
        for name in ("append", "append_tree", "append_array"):
            patch.setattr(Store, name, counted(getattr(Store, name)))
        if not clean:
            patch.setattr(Store, "compact", lambda self, order, **k: None)
            patch.setattr(Checkpoints, "remove", lambda self: None)
        try:
            study.train(plan, directory, checkpoint_minutes=minutes)
        except Killed:
            return True
    return False
