"""Launches of small studies: whole, killed at a call, stopped by a signal."""

import functools
import json
import signal
from dataclasses import replace

import jax
import numpy as np
import pytest

from ablax.engine.engine import Engine
from ablax.rundir.checkpoint import Checkpoints
from ablax.rundir.store import Store, read_parquet
from ablax.study import snapshots
from ablax.study import train as study
from ablax.study.manifest import Origin
from ablax.study.plan import make_plan
from tests.toys import SHORT, experiment

RATES = (0.1, 0.4, 30.0, 3e38)
GRID = replace(SHORT, learning_rate=RATES, noise=0.5, patience=2.0)


@functools.cache
def plan_of(config=GRID, *, restarts=6, seed=0, name="toy", **changes):
    return make_plan(
        experiment(name=name, **changes), config, restarts=restarts, seed=seed, slots=16
    )


def train(directory, plan=None, keep="none", **options):
    return study.train(
        plan or plan_of(), directory, keep=keep, origin=Origin("the command"), **options
    )


def tables(directory):
    """{path: the bytes} of all that no clock went into."""
    return {
        str(p.relative_to(directory)): p.read_bytes()
        for p in [
            *directory.glob("trials.parquet"),
            *directory.glob("curves.parquet"),
            *directory.glob("arrays/*"),
        ]
    }


LONG = replace(GRID, steps=60, eval_every=5)  # about 20 boundaries


def long_plan(**changes):
    return plan_of(LONG, restarts=8, **changes)


class Killed(BaseException):
    """As kill −9 would: nothing after it runs that a finished launch would do."""


def counted(patch, owner, name, *, at=0, then=None):
    """Calls of a function; after the call number `at`, `then()` is called once."""
    original, calls = getattr(owner, name), []

    def call(*arguments, **keywords):
        result = original(*arguments, **keywords)
        calls.append(name)
        if len(calls) == at:
            then()
        return result

    patch.setattr(owner, name, call)
    return calls


def kill():
    raise Killed


def killed(directory, owner, name, at, plan=None, **options):
    """As kill -9 after a call of a function: nothing of what follows is cleaned up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "compact", lambda *a, **k: None)
        patch.setattr(Checkpoints, "remove", Checkpoints.wait)
        counted(patch, owner, name, at=at, then=kill)
        with pytest.raises(Killed):
            train(directory, plan or long_plan(), checkpoint_minutes=0, **options)


def terminated(directory, boundary, plan=None, number=signal.SIGTERM, **options):
    """As a signal at a boundary."""
    options = {"checkpoint_minutes": 0} | options
    with pytest.MonkeyPatch.context() as patch:
        counted(patch, Engine, "_read", at=boundary, then=lambda: signal.raise_signal(number))
        result = train(directory, plan or long_plan(), **options)
    assert result.missing > 0
    return result


def assert_close(directory, whole):
    """Other slots may change last bits, and nothing else."""
    ours, theirs = (
        read_parquet(d / "trials.parquet").set_index("trial") for d in (directory, whole)
    )
    columns = ["status", "steps", "best_step"]
    assert ours[columns].equals(theirs[columns])
    np.testing.assert_allclose(ours["test/loss"], theirs["test/loss"], rtol=1e-3)
    assert set(tables(directory)) == set(tables(whole))


def record_of(directory):
    """(marks of study.json, slots per device)."""
    manifest = json.loads((directory / "study.json").read_text())
    (program,) = manifest["provenance"]["programs"].values()
    return manifest["marks"], program["slots_per_device"]


def bits(directory):
    """{trial: (dtype, shape, bytes) of every leaf of its snapshot}."""
    return {
        trial: [(x.dtype, x.shape, x.tobytes()) for x in map(np.asarray, jax.tree.leaves(tree))]
        for trial, tree in snapshots.load(directory, "toy").items()
    }
