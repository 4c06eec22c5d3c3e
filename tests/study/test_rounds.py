"""Rounds: the trials that successive halving asks for, and their identity."""

import dataclasses
import itertools
import string
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ablax.errors import UserError
from ablax.metrics import Metric
from ablax.study.plan import Identity, describe, points_of, trial_id
from ablax.study.rounds import Halving, OneRound, Wanted
from tests.study.halved import GRID, RATES, plan_of
from tests.toys import SHORT, quadratic

LOSS = Metric("loss", "min")


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
    description = halving.describe()
    assert description.startswith(f"halving by {eta} in {len(rungs)} rounds: ")
    for count, step in zip(survivors, rungs, strict=True):
        assert f"{count} points to step {step:,}" in description


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


def test_halving_without_a_rung_before_the_end_is_refused():
    """Two evaluations hold no second rung by 3."""
    with pytest.raises(UserError, match=r"expected --steps of at least 3 × --eval-every.*got 2 ×"):
        plan_of(replace(GRID, eval_every=45), halving=3, restarts=2)


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
