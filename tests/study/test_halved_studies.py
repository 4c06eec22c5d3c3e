"""Halved studies: survivors are those of the full study; killed, resumed, made larger."""

import dataclasses
import json
import shutil
import signal
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from ablax.engine.engine import Engine
from ablax.errors import UserError
from ablax.metrics import Metric
from ablax.study import run as launched
from ablax.study import train as study
from ablax.study.progress import Progress
from tests.study.halved import GRID, RATES, killed_after, plan_of, rows_of, variables_of
from tests.study.launches import tables
from tests.toys import SHORT, network, quadratic


@dataclass
class Spent:
    steps: int = 0  # that advanced a trial
    continued: int = 0  # trials that did not start anew
    trials: int = 0


@pytest.fixture
def spent(monkeypatch):
    """A record of the engines of a test."""
    seen, original = Spent(), Engine.run

    def counted(self, trials, *arguments, **keywords):
        seen.trials += len(trials.restart)
        seen.continued += len(keywords["starts"])
        for boundary in original(self, trials, *arguments, **keywords):
            if boundary.evaluated is not None:
                seen.steps += int(boundary.evaluated.advanced.sum())
            yield boundary

    monkeypatch.setattr(Engine, "run", counted)
    return seen


def lineage(rows, trial):
    """A trial and its ancestors."""
    parents = dict(zip(rows["trial"], rows["parent"], strict=True))
    while isinstance(trial, str):
        yield trial
        trial = parents[trial]


def trajectories(directory, rows):
    """{(point, restart): its whole curve, as bytes} of some rows, joined over their parents."""
    every = rows_of(directory)
    curves = pd.read_parquet(directory / "curves.parquet")
    result = {}
    for row in rows.itertuples():
        whole = {row.trial} if "parent" not in every else set(lineage(every, row.trial))
        curve = curves[curves["trial"].isin(whole)].sort_values("step").drop(columns="trial")
        assert curve["step"].is_unique
        result[row.point, row.restart] = [curve[name].to_numpy().tobytes() for name in curve]
    return result


def assert_survivors_are_those_of(full, halved, n_rounds):
    """The last round's rows and whole curves are the full study's, to the bit."""
    every = rows_of(halved)
    assert sorted(set(every["round"])) == list(range(n_rounds))
    last = every[every["round"] == n_rounds - 1].reset_index(drop=True)
    expected = rows_of(full)
    expected = expected[expected["point"].isin(set(last["point"]))].reset_index(drop=True)
    assert len(last) == len(expected) > 0
    names = [name for name in last.columns if name not in ("trial", "round", "parent")]
    assert names == [name for name in expected.columns if name != "trial"]
    pd.testing.assert_frame_equal(last[names], expected[names], check_exact=True)
    assert trajectories(halved, last) == trajectories(full, expected)
    return last


STUDIES = {
    "early stopping": (GRID, quadratic, 4),
    "stopped in an early rung": (
        replace(GRID, noise=3.0, patience=1.0, learning_rate=tuple(np.linspace(0.1, 0.9, 9))),
        quadratic,
        4,
    ),
    "more is better": (
        replace(GRID, learning_rate=tuple(np.linspace(0.01, 2.05, 9))),
        lambda config: dataclasses.replace(quadratic(config), objective=Metric("loss", "max")),
        3,
    ),
    "all diverge": (replace(GRID, steps=40, learning_rate=tuple(range(25, 34))), quadratic, 2),
    "momentum": (
        replace(SHORT, steps=54, eval_every=6, width=4, patience=4.0,
                learning_rate=(0.05, 0.3, 1.0), l2=(0.0, 1e-3, 0.1), dropout_rate=0.2),
        network,
        2,
    ),
    "two programs": (
        replace(SHORT, steps=90, noise=0.5, learning_rate=(0.05, 0.1, 0.2, 0.4, 0.8), width=(3, 4)),
        quadratic,
        3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STUDIES)
def test_survivors_are_those_of_the_full_study(name, tmp_path):
    config, task, restarts = STUDIES[name]
    plan = plan_of(config, restarts=restarts, task=task)
    result = study.train(plan, tmp_path / "halved")
    assert (result.trained, result.missing) == (plan.rounds.size, 0)
    study.train(plan_of(config, halving=None, restarts=restarts, task=task), tmp_path / "full")
    last = assert_survivors_are_those_of(tmp_path / "full", tmp_path / "halved", 3)
    assert last["restart"].tolist() == list(range(restarts)) * (len(last) // restarts)
    assert not (tmp_path / "halved" / "parts").exists()
    assert not (tmp_path / "halved" / "checkpoints").exists()
    every = rows_of(tmp_path / "halved")
    if name == "all diverge":
        assert set(last["status"]) == {"diverged"}
        assert (every.query("round == 0")["status"] == "done").all(), "they diverge in a later rung"
    if name == "stopped in an early rung":
        parents = every[every["trial"].isin(last["parent"])]
        assert ((parents["status"] == "stopped") & (parents["steps"] < 30)).any()
        assert (last["status"] == "stopped").any(), "it goes on, and makes no step more"
    if name == "early stopping":
        assert {"stopped", "done"} == set(last["status"])
        stopped = every.query("round == 1 and status == 'stopped'")
        assert set(stopped["point"]) - set(last["point"]), "stopped, and dropped"


@pytest.fixture(scope="module")
def halved_plan():
    return plan_of()


@pytest.fixture(scope="module")
def halved(halved_plan, tmp_path_factory):
    """A halved study of GRID that was never interrupted."""
    directory = tmp_path_factory.mktemp("halved") / "run"
    assert study.train(halved_plan, directory).missing == 0
    return directory


def test_the_best_half_goes_on(halved):
    """By plain pandas: who should have gone on did, with all restarts, each after its parent."""
    rows = rows_of(halved)
    assert rows["round"].dtype == np.int32
    assert rows["round"].tolist() == [0] * 36 + [1] * 20 + [2] * 12
    assert rows["parent"].isna().tolist() == [True] * 36 + [False] * 32
    for number, survivors in ((1, 5), (2, 3)):
        before, now = rows[rows["round"] == number - 1], rows[rows["round"] == number]
        best = before.groupby("point")["valid/loss"].mean().nsmallest(survivors).index
        assert set(now["point"]) == set(best)
        joined = now.merge(before, left_on="parent", right_on="trial", validate="one_to_one")
        assert (joined["point_x"] == joined["point_y"]).all()
        assert (joined["restart_x"] == joined["restart_y"]).all()
        ended = joined["status_y"] != "done"
        assert (joined["steps_x"] > joined["steps_y"])[~ended].all()
        assert (joined["steps_x"] == joined["steps_y"])[ended].all()
    assert (rows["steps"] <= np.array([30, 50, 90])[rows["round"]]).all()
    order = rows.groupby("round")["point"].apply(lambda names: list(dict.fromkeys(names)))
    planned = [point.name for point in plan_of().points]
    assert all(names == [n for n in planned if n in names] for names in order)


def test_a_child_adds_only_its_own_steps_to_the_curves(halved):
    rows, curves = rows_of(halved), pd.read_parquet(halved / "curves.parquet")
    joined = curves.merge(rows[["trial", "round", "status"]], on="trial", validate="many_to_one")
    start = np.array([0, 30, 50])[joined["round"]]
    assert (joined["step"] > start).all()
    assert (joined["step"] <= np.array([30, 50, 90])[joined["round"]]).all()
    assert not curves.duplicated(["trial", "step"]).any()
    # A trial that had ended before its rung leaves a row, and no curve.
    stopped = rows.query("round == 1 and steps <= 30")
    assert set(curves["trial"]).isdisjoint(stopped["trial"])


def test_study_json_of_a_halved_study(halved, halved_plan):
    manifest = json.loads((halved / "study.json").read_text())
    assert manifest["rounds"] == {"name": "halving by 2 in 3 rounds", "n": 3, "gives": "state"}
    assert manifest["trials"] == len(rows_of(halved)) == 68
    assert manifest["plan"]["rounds"] == halved_plan.rounds.describe()


def test_the_steps_spent_are_those_of_the_rungs(tmp_path, spent):
    """Nothing stops early here: 9 × 30, 5 × 20 and 3 × 40 steps of 9 × 90, each restart."""
    config = replace(GRID, patience=np.inf, learning_rate=tuple(np.linspace(0.02, 0.5, 9)))
    study.train(plan_of(config), tmp_path)
    assert spent.steps == 4 * (9 * 30 + 5 * 20 + 3 * 40) == 1960
    assert spent.steps < 0.61 * 4 * 9 * 90
    assert (spent.trials, spent.continued) == (68, 32)


def test_a_complete_halved_study_trains_nothing_again(halved, halved_plan, monkeypatch):
    before = {path: path.read_bytes() for path in halved.rglob("*") if path.is_file()}
    monkeypatch.setattr(launched, "Engine", None)  # would fail if it were used
    result = study.train(halved_plan, halved)
    assert (result.trained, result.missing) == (0, 0)
    assert {path: path.read_bytes() for path in halved.rglob("*") if path.is_file()} == before


def test_halving_is_another_study_than_the_full_one(halved):
    for other, rounds in [
        (plan_of(halving=None), "one round"),
        (plan_of(halving=5), "halving by 5 in 2 rounds"),
    ]:
        message = f"holds another study: its rounds are halving by 2 in 3 rounds, not {rounds}"
        with pytest.raises(UserError, match=message):
            study.train(other, halved)


def test_other_rungs_are_another_study_even_where_the_first_is_the_same():
    two, three = (plan_of(halving=eta) for eta in (2, 3))
    assert {t.id for t in two.trials()} == {t.id for t in three.trials()}
    assert two.id != three.id


@pytest.mark.parametrize(("points", "restarts"), [(12, 4), (9, 6)])
def test_a_larger_study_trains_what_is_missing(halved, tmp_path, spent, points, restarts):
    """The parents' states are gone: their steps are made again, and come out the same."""
    rates = (*RATES, 0.2, 0.4, 0.5)[:points]
    large = plan_of(replace(GRID, learning_rate=rates), restarts=restarts)
    shutil.copytree(halved, tmp_path / "grown")
    result = study.train(large, tmp_path / "grown")
    trained = spent.trials
    study.train(large, tmp_path / "fresh")
    assert result.missing == 0
    assert tables(tmp_path / "grown") == tables(tmp_path / "fresh")
    new = set(rows_of(tmp_path / "fresh")["trial"]) - set(rows_of(halved)["trial"])
    assert trained == len(new) < large.rounds.size
    assert not (tmp_path / "grown" / "parts").exists()


# Killed and launched again


@pytest.mark.parametrize(
    ("minutes", "clean", "first", "stride"),
    [(1e9, False, 1, 4), (1e9, True, 3, 4), (0.0, False, 1, 17), (0.0, True, 8, 25)],
)
def test_killed_at_any_write_and_launched_again(
    minutes, clean, first, stride, halved_plan, halved, tmp_path
):
    event = first
    while killed_after(
        event, halved_plan, directory := tmp_path / f"{event}", minutes=minutes, clean=clean
    ):
        result = study.train(halved_plan, directory)
        assert result.missing == 0
        assert tables(directory) == tables(halved), event
        assert not (directory / "parts").exists()
        assert not (directory / "checkpoints").exists()
        event += stride
    assert event > 20, "the study has as many writes"


def test_killed_again_and_again(halved_plan, halved, tmp_path):
    """Each launch goes on a little further than the one before."""
    launches = 1
    while killed_after(9, halved_plan, tmp_path, minutes=0.0):
        launches += 1
        assert launches < 60
    assert launches > 4
    assert study.train(halved_plan, tmp_path).missing == 0
    assert tables(tmp_path) == tables(halved)


def test_two_programs_killed_in_any_round(tmp_path):
    plan = plan_of(replace(GRID, learning_rate=(0.05, 0.1, 0.2, 0.4, 30.0), width=(3, 4)))
    study.train(plan, tmp_path / "whole")
    assert len(set(rows_of(tmp_path / "whole").query("round == 1")["width"])) == 2
    event = 9
    while killed_after(event, plan, directory := tmp_path / f"{event}"):
        assert study.train(plan, directory).missing == 0
        assert tables(directory) == tables(tmp_path / "whole"), event
        event += 10
    assert event > 30


@pytest.mark.parametrize("keep", ["best", "all"])
def test_interrupted_between_rounds_with_snapshots_to_keep(keep, tmp_path, monkeypatch):
    """All points of one program go on: its parents' snapshots are superseded, none has others."""
    rates, l2 = (0.1, 0.2, 0.3), np.linspace(0, 1, 6).tolist()
    settings = [{"width": 3, "learning_rate": rate} for rate in rates]
    settings += [{"width": 4, "learning_rate": 30.0, "l2": value} for value in l2]
    plan = plan_of(replace(SHORT, steps=90), halving=3, points=lambda config: settings)
    original, announced = Progress.extend, []

    def interrupt(self, *arguments):
        original(self, *arguments)
        announced.append(arguments)
        if len(announced) == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "extend", interrupt)
        result = study.train(plan, tmp_path, keep=keep)
    assert (result.trained, result.missing) == (36, 12)
    assert study.train(plan, tmp_path, keep=keep).missing == 0
    rows = rows_of(tmp_path)
    assert rows.groupby("round")["width"].apply(set).tolist() == [{3, 4}, {3}]
    last = rows[~rows["trial"].isin(rows["parent"].dropna())]
    assert len(last) == 36, "of every trajectory its last"
    if keep == "best":
        last = last.loc[last.groupby("point")["valid/loss"].idxmin()]
    assert set(variables_of(tmp_path, plan)) == set(last["trial"])


# A grid that has grown gives points other names


def test_a_grown_halved_study_chooses_as_one_that_was_always_so_large(tmp_path):
    """A new axis renames the points, and the rows of before must still count."""
    rates = replace(SHORT, steps=40, eval_every=20, learning_rate=(0.3, 0.2, 0.05, 0.01))
    small, large = (plan_of(c, restarts=2) for c in (rates, replace(rates, noise=(0.0, 5.0))))
    assert small.rounds.n == large.rounds.n == 2
    study.train(small, tmp_path / "grown")
    assert study.train(large, tmp_path / "grown").missing == 0
    study.train(large, tmp_path / "direct")
    assert tables(tmp_path / "grown") == tables(tmp_path / "direct")
