"""`--fix`: which random streams all restarts share, from the trials' keys to their results."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from ablax.config import STREAMS, TIED, as_traced
from ablax.engine.trials import take, trials_of
from ablax.rundir.store import read_parquet
from ablax.study import train as study
from ablax.study.manifest import Origin
from ablax.study.plan import make_plan
from tests.toys import SHORT, Config, experiment, network

ALL = "+".join(STREAMS)
RESULTS = ["train/loss", "valid/loss", "test/loss", "test/accuracy"]


def drawn(fix: str, restart: int, seed: int = 0) -> dict[str, bytes]:
    """The start of a restart of a network, stream by stream."""
    config = replace(SHORT, fix=fix, dropout_rate=0.5)
    task = network(config)
    trial = take(trials_of([as_traced(config)], [restart], seed), 0)
    view = task.view(trial, task.data)
    state = task.init(trial, view)
    rows = np.concatenate([view["train"].rows, view["valid"].rows])
    return {
        "init": b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state.params)),
        "order": np.asarray(jax.random.key_data(view["order"])).tobytes(),
        "split": rows.tobytes(),
        "dropout": np.asarray(jax.random.key_data(view["dropout"])).tobytes(),
    }


@pytest.mark.parametrize("fix", ["none", *TIED])
def test_a_tie_ties_what_it_names_and_nothing_else(fix):
    one, two = drawn(fix, 0), drawn(fix, 1)
    tied = {stream for stream in one if one[stream] == two[stream]}
    assert tied == set(fix.split("+")) - {"none"}
    # Restart 0 draws what it draws without a tie, and what is tied differs between seeds.
    assert one == drawn("none", 0)
    assert all(drawn(fix, 1, seed=1)[stream] != two[stream] for stream in tied)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Two restarts of every tie and rate, trained."""
    config = replace(SHORT, fix=("none", "init+order", ALL), dropout_rate=(0.0, 0.5))
    plan = make_plan(experiment(network), config, restarts=2, seed=0, slots=16)
    directory = tmp_path_factory.mktemp("ties") / "run"
    assert study.train(plan, directory, origin=Origin("the command")).trained == 12
    return read_parquet(directory / "trials.parquet").set_index(["fix", "dropout_rate"])


def test_the_tie_is_a_column(rows):
    assert set(rows.index.get_level_values("fix")) == {"none", "init+order", ALL}
    assert rows["trial"].is_unique


def test_with_everything_tied_and_no_dropout_restarts_are_the_same(rows):
    first, second = rows.loc[(ALL, 0.0)].to_dict("records")
    assert [first["restart"], second["restart"]] == [0, 1]
    assert first["trial"] != second["trial"]
    assert [first[name] for name in RESULTS] == [second[name] for name in RESULTS]


@pytest.mark.parametrize(("fix", "rate"), [("none", 0.0), ("init+order", 0.0), (ALL, 0.5)])
def test_what_is_not_tied_makes_restarts_differ(rows, fix, rate):
    """The streams that are left: all, the split, dropout."""
    first, second = rows.loc[(fix, rate)].to_dict("records")
    assert all(first[name] != second[name] for name in ("train/loss", "valid/loss", "test/loss"))


def test_restart_0_is_the_same_whatever_is_tied(rows):
    for rate in (0.0, 0.5):
        at = rows.xs(rate, level="dropout_rate")
        firsts = at[at["restart"] == 0]
        assert len(firsts) == 3
        np.testing.assert_allclose(firsts[RESULTS].nunique(), 1)


def test_a_field_of_every_experiment():
    assert Config().fix == "none"
