"""Rounds: successive halving, and trials that start from what their parents left."""

import dataclasses
import itertools
import json
import shutil
import signal
import string
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ablax.engine.engine import Engine
from ablax.errors import UserError
from ablax.metrics import Metric
from ablax.rundir.checkpoint import Checkpoints
from ablax.rundir.store import Store
from ablax.study import run as launched
from ablax.study import snapshots
from ablax.study import train as study
from ablax.study.plan import Identity, describe, make_plan, points_of, trial_id
from ablax.study.progress import Progress
from ablax.study.rounds import Halving, OneRound, Wanted
from tests.study.launches import Killed, tables
from tests.toys import SHORT, Config, experiment, network, quadratic

LOSS = Metric("loss", "min")
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


# What halving asks for


def halving_of(n, *, steps=90, eval_every=10, eta=3, restarts=2, objective=LOSS):
    config = replace(SHORT, steps=steps, eval_every=eval_every)
    points = [SimpleNamespace(name=name, config=config) for name in string.ascii_letters[:n]]
    return Halving(eta, points, restarts, objective)


@pytest.mark.parametrize(
    ("n", "steps", "eval_every", "eta", "survivors", "rungs"),
    [
        (9, 90, 10, 3, [9, 3], [30, 90]),
        (10, 90, 10, 3, [10, 4], [30, 90]),
        (8, 80, 10, 2, [8, 4, 2], [20, 40, 80]),
        (3, 100, 10, 3, [3, 1], [40, 100]),  # rounded up to an evaluation
        (27, 2000, 50, 3, [27, 9, 3], [250, 700, 2000]),
        (32, 40, 10, 2, [32, 16, 8], [10, 20, 40]),  # no rung before the first evaluation
        (5, 25, 10, 2, [5, 3], [20, 25]),  # the last rung is the end, not an evaluation after it
    ],
)
def test_rungs(n, steps, eval_every, eta, survivors, rungs):
    halving = halving_of(n, steps=steps, eval_every=eval_every, eta=eta)
    (config, *_) = halving.configs.values()
    assert [halving.survivors(k) for k in range(halving.n)] == survivors
    assert [halving.until(k, config) for k in range(halving.n)] == rungs
    assert halving.size == 2 * sum(survivors)
    said = halving.describe()
    assert said.startswith(f"halving by {eta} in {len(rungs)} rounds: ")
    for count, step in zip(survivors, rungs, strict=True):
        assert f"{count} points to step {step:,}" in said


def test_rungs_are_evaluations_and_grow_to_the_last_step():
    rng = np.random.default_rng(0)
    for _ in range(500):
        steps, eval_every = int(rng.integers(1, 3000)), int(rng.integers(1, 200))
        eta = int(rng.integers(2, 6))
        n = int(rng.integers(eta, 27))
        if steps < eta * eval_every:
            continue
        halving = halving_of(n, steps=steps, eval_every=eval_every, eta=eta)
        config = next(iter(halving.configs.values()))
        rungs = [halving.until(k, config) for k in range(halving.n)]
        assert rungs[-1] == steps
        assert all(a < b for a, b in itertools.pairwise(rungs))
        assert all(rung % eval_every == 0 for rung in rungs[:-1])
        left = [halving.survivors(k) for k in range(halving.n)]
        assert left[0] == n
        assert all(a > b >= 1 for a, b in itertools.pairwise(left))


def test_every_point_has_rungs_of_its_own_horizon():
    points = [
        SimpleNamespace(name=f"{steps}", config=replace(SHORT, steps=steps, eval_every=every))
        for steps, every in ((90, 10), (270, 30), (900, 20))
    ]
    first = Halving(3, points, 1, LOSS).wanted(0, None)
    assert first == [Wanted("90", 0, 30), Wanted("270", 0, 90), Wanted("900", 0, 300)]


def results(values, column="valid/loss"):
    """Rows of trials.parquet: {point: its values, restart by restart}."""
    rows = [
        {"point": point, "restart": r, "status": "done", column: value}
        for point, column_values in values.items()
        for r, value in enumerate(column_values)
    ]
    return pd.DataFrame(rows)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "direction", "expected"),
    [
        ({"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1}, "min", "abc"),
        ({"a": 6, "b": 5, "c": 4, "d": 3, "e": 2, "f": 1}, "min", "def"),
        ({"a": 6, "b": 5, "c": 4, "d": 3, "e": 2, "f": 1}, "max", "abc"),
        ({"f": 1, "e": 2, "d": 9, "c": 9, "b": 9, "a": 9}, "min", "aef"),
        ({"a": 3, "b": 9, "c": 2, "d": 9, "e": 9, "f": 1}, "min", "acf"),
        ({"a": NAN, "b": 9, "c": NAN, "d": 8, "e": NAN, "f": 7}, "min", "bdf"),
        ({"a": NAN, "b": 9, "c": NAN, "d": 8, "e": NAN, "f": 7}, "max", "bdf"),
        ({"a": NAN, "b": NAN, "c": NAN, "d": NAN, "e": NAN, "f": NAN}, "min", "abc"),
        ({"a": INF, "b": 9, "c": INF, "d": 8, "e": INF, "f": 7}, "min", "bdf"),
        ({"a": -INF, "b": 9, "c": -INF, "d": 8, "e": -INF, "f": 7}, "max", "bdf"),
        ({"a": NAN, "b": NAN, "c": NAN, "d": NAN, "e": INF, "f": 7}, "min", "abf"),
    ],
)
def test_the_best_go_on_in_the_order_of_the_plan(values, direction, expected):
    halving = halving_of(6, steps=80, eta=2, restarts=2, objective=Metric("loss", direction))
    wanted = halving.wanted(1, results({point: [v, v] for point, v in values.items()}))
    assert wanted == [
        Wanted(name, restart, 80, (name, restart)) for name in expected for restart in (0, 1)
    ]


def test_points_are_compared_by_the_mean_over_their_restarts():
    """Neither the best restart decides, nor can one that is not a number hide: it counts as 9."""
    halving = halving_of(6, steps=80, eta=2, restarts=3)
    values = {"a": [0, 9, 9], "b": [5, 5, 5], "c": [4, 4, 4], "d": [3, 4, NAN], "e": [5, 5, 5.1],
              "f": [3, 6, 3]}  # fmt: skip
    assert list(dict.fromkeys(w.point for w in halving.wanted(1, results(values)))) == list("bcf")


def test_the_objective_is_the_tasks():
    halving = halving_of(4, eta=2, steps=40, restarts=1, objective=Metric("score", "max"))
    frame = results({p: [i] for i, p in enumerate("abcd")}, "valid/score")
    frame = frame.assign(**{"valid/loss": [0.0, 1.0, 2.0, 3.0], "test/score": [9, 9, 0, 0]})
    assert [w.point for w in halving.wanted(1, frame)] == ["c", "d"]


def test_only_those_of_the_round_before_go_on():
    halving = halving_of(9, restarts=1)
    frame = results({"i": [1.0], "b": [3.0], "h": [2.0]})
    assert halving.wanted(2, frame) == [Wanted("i", 0, 90, ("i", 0))]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eta": 1}, "--halving: expected at least 2, got 1"),
        ({"eta": 0}, "--halving: expected at least 2, got 0"),
        ({"eta": -3}, "--halving: expected at least 2, got -3"),
        ({"eta": 6}, "--halving 6: expected at least 6 points, got 5"),
        ({"objective": None}, "no objective on a validation split"),
    ],
)
def test_refused(change, message):
    with pytest.raises(UserError, match=message):
        halving_of(5, **change)


def test_a_plan_without_an_objective_cannot_be_halved():
    task = dataclasses.replace(quadratic(), objective=None)
    with pytest.raises(UserError, match="--halving: the experiment has no objective"):
        plan_of(task=lambda config: task)


def test_without_halving_there_is_one_round():
    plan = plan_of(halving=None, restarts=2)
    assert isinstance(plan.rounds, OneRound)
    assert (plan.rounds.n, plan.rounds.size, plan.rounds.gives) == (1, 18, None)
    assert "rounds" not in describe(plan)


def test_the_plan_says_its_rounds():
    lines = describe(plan_of(restarts=4))
    assert lines["rounds"] == (
        "halving by 2 in 3 rounds: 9 points to step 30, 5 points to step 50, 3 points to step 90"
    )
    assert lines["steps"] == f"{9 * 4 * 30:,} at most, over all trials of the first round"


# Identity


def test_ids_of_an_ordinary_study_hold_no_rounds():
    """Literals: whatever changes them makes another study of every run directory."""
    (point,) = points_of(SHORT, [{}])
    assert trial_id("toy", Identity(0, 1, "f"), point, 0) == "8a87144d61544ba3"
    assert trial_id("toy", Identity(3, 2, "g"), point, 7) == "9f9bb277395031a0"
    assert [t.id for t in plan_of(SHORT, halving=None, restarts=1).trials()] == ["8a87144d61544ba3"]


def rung(plan, number, before=(), order=RATES):
    """The trials of a round, where the points of the round before came out in this order."""
    if not before:
        return plan.trials()
    merit = {f"learning_rate={rate:g}": float(i) for i, rate in enumerate(order)}
    rows = [
        {"point": t.point.name, "restart": t.restart, "status": "done",
         "valid/loss": merit[t.point.name]}
        for t in before
    ]  # fmt: skip
    return plan.trials(number, before, pd.DataFrame(rows))


def test_parent_and_end_name_the_trial():
    plan, ordinary = plan_of(), plan_of(halving=None)
    rounds = [rung(plan, 0)]
    for number in (1, 2):
        rounds.append(rung(plan, number, rounds[-1]))
    assert [len(trials) for trials in rounds] == [36, 20, 12]
    every = [t.id for trials in [*rounds, ordinary.trials()] for t in trials]
    assert len(set(every)) == 36 + 20 + 12 + 36
    for number, trials in enumerate(rounds):
        assert {t.round for t in trials} == {number}
        assert {t.until for t in trials} == {(30, 50, 90)[number]}
        assert {t.start for t in trials} == {(0, 30, 50)[number]}
        for t in trials:
            assert (t.parent is None) == (number == 0)
            if t.parent is not None:
                assert (t.parent.point, t.parent.restart) == (t.point, t.restart)
                assert (t.inherits, t.parent.round) == ("state", number - 1)
    # Who else was in the rung does not name a trial; what its parent was, does.
    other = rung(plan, 1, rounds[0], order=(RATES[0], *RATES[:0:-1]))
    alike = {t.id for t in other} & {t.id for t in rounds[1]}
    assert alike == {t.id for t in rounds[1] if t.point.name == "learning_rate=0.01"}
    point, identity = rounds[1][0].point, plan.programs[0].identity
    parent = rounds[0][0].id
    origins = [[50, "state", parent], [90, "state", parent], [50, "snapshot", parent],
               [50, "state", rounds[0][1].id], [50, None, None], None]  # fmt: skip
    named = [trial_id("toy", identity, point, 0, origin) for origin in origins]
    assert named[0] == rounds[1][0].id
    assert len(set(named)) == len(origins)


def test_another_seed_names_all_rounds_anew():
    for number in (0, 1):
        ids = []
        for seed in (0, 1):
            plan = plan_of(seed=seed)
            trials = rung(plan, 0)
            ids.append({t.id for t in (rung(plan, 1, trials) if number else trials)})
        assert ids[0].isdisjoint(ids[1])


# Halved studies


@dataclass
class Spent:
    steps: int = 0  # that advanced a trial
    given: int = 0  # trials that did not start anew
    trials: int = 0


@pytest.fixture
def spent(monkeypatch):
    """A record of the engines of a test."""
    seen, original = Spent(), Engine.run

    def counted(self, trials, *arguments, **keywords):
        seen.trials += len(trials.restart)
        seen.given += len(keywords["starts"])
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
    found = {}
    for row in rows.itertuples():
        whole = {row.trial} if "parent" not in every else set(lineage(every, row.trial))
        curve = curves[curves["trial"].isin(whole)].sort_values("step").drop(columns="trial")
        assert curve["step"].is_unique
        found[row.point, row.restart] = [curve[name].to_numpy().tobytes() for name in curve]
    return found


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
    said = json.loads((halved / "study.json").read_text())
    assert said["rounds"] == {"name": "halving by 2 in 3 rounds", "n": 3, "gives": "state"}
    assert said["trials"] == len(rows_of(halved)) == 68
    assert said["plan"]["rounds"] == halved_plan.rounds.describe()


def test_the_steps_spent_are_those_of_the_rungs(tmp_path, spent):
    """Nothing stops early here: 9 × 30, 5 × 20 and 3 × 40 steps of 9 × 90, each restart."""
    config = replace(GRID, patience=np.inf, learning_rate=tuple(np.linspace(0.02, 0.5, 9)))
    study.train(plan_of(config), tmp_path)
    assert spent.steps == 4 * (9 * 30 + 5 * 20 + 3 * 40) == 1960
    assert spent.steps < 0.61 * 4 * 9 * 90
    assert (spent.trials, spent.given) == (68, 32)


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


@pytest.fixture
def killed(monkeypatch):
    """(plan, directory, event) -> whether the launch was killed after so many writes."""

    def launch(plan, directory, event, minutes, *, clean=False):
        writes = []

        def counted(original):
            def write(self, name, *arguments):
                original(self, name, *arguments)
                writes.append(name)
                if len(writes) == event:
                    raise Killed

            return write

        with monkeypatch.context() as patch:
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

    return launch


@pytest.mark.parametrize(
    ("minutes", "clean", "first", "stride"),
    [(1e9, False, 1, 4), (1e9, True, 3, 4), (0.0, False, 1, 17), (0.0, True, 8, 25)],
)
def test_killed_at_any_write_and_launched_again(
    minutes, clean, first, stride, halved_plan, halved, tmp_path, killed
):
    """`clean`: what a launch removes and compacts on its way is done."""
    event = first
    while killed(halved_plan, directory := tmp_path / f"{event}", event, minutes, clean=clean):
        result = study.train(halved_plan, directory)
        assert result.missing == 0
        assert tables(directory) == tables(halved), event
        assert not (directory / "parts").exists()
        assert not (directory / "checkpoints").exists()
        event += stride
    assert event > 20, "the study has as many writes"


def test_killed_again_and_again(halved_plan, halved, tmp_path, killed):
    """Each launch goes on a little further than the one before."""
    launches = 1
    while killed(halved_plan, tmp_path, 9, 0.0, clean=True):
        launches += 1
        assert launches < 60
    assert launches > 4
    assert study.train(halved_plan, tmp_path).missing == 0
    assert tables(tmp_path) == tables(halved)


def test_two_programs_killed_in_any_round(tmp_path, killed):
    plan = plan_of(replace(GRID, learning_rate=(0.05, 0.1, 0.2, 0.4, 30.0), width=(3, 4)))
    study.train(plan, tmp_path / "whole")
    assert len(set(rows_of(tmp_path / "whole").query("round == 1")["width"])) == 2
    event = 9
    while killed(plan, directory := tmp_path / f"{event}", event, 1e9, clean=True):
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


def test_halving_without_a_rung_before_the_end_is_refused():
    """Two evaluations hold no second rung by 3."""
    with pytest.raises(UserError, match=r"expected --steps of at least 3 × --eval-every.*got 2 ×"):
        plan_of(replace(GRID, eval_every=45), halving=3, restarts=2)


# Children of snapshots


@dataclass(frozen=True)
class Transfer:
    """Two rounds: parents, and children that start from the parents' snapshots."""

    children: dict[str, str]  # {point: its parent's point}
    restarts: int
    n: int = 2
    name: str = "transfer"
    gives: str = "snapshot"

    @property
    def size(self) -> int:
        return len(self.wanted(0, None)) + len(self.wanted(1, None))

    def wanted(self, number, results):
        assert (results is None) or set(results["point"]) == set(self.children.values())
        every = range(self.restarts)
        if number == 0:
            parents = dict.fromkeys(self.children.values())
            return [Wanted(parent, r) for parent in parents for r in every]
        pairs = self.children.items()
        return [Wanted(child, r, parent=(parent, r)) for child, parent in pairs for r in every]

    def describe(self):
        return "parents, then children"


def inheriting(config: Config):
    """Training and validation disagree, so that a parent's best step is not its last."""
    return dataclasses.replace(
        quadratic(config), inherit=lambda trial, data, variables: {"x": variables["x"]}
    )


SETTINGS = [
    {"learning_rate": 0.2},
    {"learning_rate": 0.05},
    {"learning_rate": 0.0},
    {"learning_rate": 0.0, "l2": 0.1},
    {"learning_rate": 0.0, "activation": "tanh"},  # another program, of the same shapes
    {"learning_rate": 0.3, "activation": "tanh"},
]


@pytest.fixture(scope="module")
def transfer():
    plan = plan_of(
        replace(SHORT, noise=1.0), points=lambda config: SETTINGS, halving=None,
        task=inheriting, restarts=5,
    )  # fmt: skip
    names = [point.name for point in plan.points]
    children = dict(zip(names[2:], (names[0], names[1], names[0], names[1]), strict=True))
    return dataclasses.replace(plan, rounds=Transfer(children, 5))


@pytest.fixture(scope="module")
def transferred(transfer, tmp_path_factory):
    directory = tmp_path_factory.mktemp("transfer") / "run"
    result = study.train(transfer, directory)
    assert (result.trained, result.missing) == (30, 0)
    return directory


def test_children_start_from_the_selected_snapshot_of_their_parents(transfer, transferred):
    """With a rate of 0 a child stays where it started; --keep is none, and yet all are kept."""
    rows = rows_of(transferred).set_index("trial")
    kept = variables_of(transferred, transfer)
    assert set(kept) == set(rows.index)
    parents = rows[rows["round"] == 0]
    assert (parents["best_step"] < parents["steps"]).any(), "the last is not the best"
    children = rows[rows["round"] == 1]
    still = children[children["learning_rate"] == 0]
    assert len(still) == 15
    assert set(still["activation"]) == {"relu", "tanh"}
    for child, row in still.iterrows():
        assert kept[child] == kept[row["parent"]]
        np.testing.assert_allclose(row["norm"], rows.loc[row["parent"], "norm"], rtol=1e-6)
    moving = children[children["learning_rate"] > 0]
    assert all(kept[child] != kept[row["parent"]] for child, row in moving.iterrows())
    assert (children["steps"] == 30).all(), "a child of a snapshot makes all its steps"
    same = children["restart"].to_numpy() == rows.loc[children["parent"], "restart"].to_numpy()
    assert same.all()
    curves = pd.read_parquet(transferred / "curves.parquet")
    assert (curves.groupby("trial")["step"].apply(list).apply(lambda s: s == [10, 20, 30])).all()


def test_the_parent_is_in_the_childs_identity(transfer):
    roots = transfer.trials()
    ordinary = {t.id for t in dataclasses.replace(
        transfer, rounds=OneRound(transfer.points, 5)).trials()}  # fmt: skip
    assert {t.id for t in roots} < ordinary, "a parent is an ordinary trial"
    rows = pd.DataFrame({"point": [t.point.name for t in roots]})
    children = transfer.trials(1, roots, rows)
    assert not {t.id for t in children} & ordinary
    assert {(t.inherits, t.start, t.until) for t in children} == {("snapshot", 0, None)}
    first, second = (p.name for p in transfer.points[:2])
    swapped = {c: {first: second, second: first}[p] for c, p in transfer.rounds.children.items()}
    other = dataclasses.replace(transfer, rounds=Transfer(swapped, 5)).trials(1, roots, rows)
    assert [(t.point, t.restart) for t in children] == [(t.point, t.restart) for t in other]
    assert not {t.id for t in children} & {t.id for t in other}


@pytest.mark.parametrize(("minutes", "stride"), [(1e9, 9), (0.0, 19)])
def test_children_of_snapshots_killed_at_any_write(
    minutes, stride, transfer, transferred, tmp_path, killed
):
    event = 2
    while killed(transfer, directory := tmp_path / f"{event}", event, minutes, clean=True):
        assert study.train(transfer, directory).missing == 0
        assert tables(directory) == tables(transferred), event
        assert variables_of(directory, transfer) == variables_of(transferred, transfer)
        event += stride
    assert event > 12, "the study has as many writes"


def test_children_without_the_snapshots_of_their_parents_are_refused(
    transfer, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(study, "train_program", lambda run, program, trials: (
            launched.train_program(run, program, trials), run.stop.set(),
            setattr(run, "stopped", True),
        ))  # fmt: skip
        assert study.train(transfer, tmp_path).missing == 20
    assert set(rows_of(tmp_path)["round"]) == {0}
    for path in sorted((tmp_path / "params").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "params").rmdir()
    with pytest.raises(UserError, match="the snapshots of 10 parents are missing under"):
        study.train(transfer, tmp_path)


def test_a_task_that_does_not_say_what_is_inherited_is_an_error(transfer, tmp_path):
    programs = tuple(
        dataclasses.replace(p, task=dataclasses.replace(p.task, inherit=None))
        for p in transfer.programs
    )
    with pytest.raises((AssertionError, UserError), match="says what is inherited"):
        study.train(dataclasses.replace(transfer, programs=programs), tmp_path)


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
