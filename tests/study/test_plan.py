"""The plan: identity of trials, what is refused, and how it prints."""

import dataclasses
from dataclasses import replace

import jax
import pytest

from ablax.config import TIED
from ablax.engine.mesh import LANES
from ablax.errors import UserError
from ablax.study import grid
from ablax.study.plan import Identity, describe, file_name, make_plan, points_of, trial_id
from tests.toys import SHORT, Config, compilations, experiment


def plan_of(config=SHORT, *, restarts=2, seed=0, name="toy", **changes):
    return make_plan(experiment(name=name, **changes), config, restarts=restarts, seed=seed)


def ids(plan):
    return {(t.point.config, t.restart): t.id for t in plan.trials()}


CHANGES = {
    "steps": 31,
    "eval_every": 11,
    "patience": 2.0,
    "min_delta": 0.5,
    "fix": "init",
    "learning_rate": 0.2,
    "noise": 0.1,
    "l2": 0.1,
    "dropout_rate": 0.5,
    "width": 4,
    "activation": "tanh",
}


def test_every_ingredient_names_the_trial():
    (point,) = points_of(SHORT, [{}])
    known = Identity(seed=0, version=1, fingerprint="f")
    base = trial_id("toy", known, point, 0)
    assert trial_id("toy", Identity(0, 1, "f"), point, 0) == base
    assert len(base) == 16
    others = {
        "experiment": trial_id("other", known, point, 0),
        "version": trial_id("toy", replace(known, version=2), point, 0),
        "data": trial_id("toy", replace(known, fingerprint="g"), point, 0),
        "seed": trial_id("toy", replace(known, seed=1), point, 0),
        "restart": trial_id("toy", known, point, 1),
        "end": trial_id("toy", known, point, 0, [10, None, None]),
        "parent": trial_id("toy", known, point, 0, [10, "state", base]),
        "what it inherits": trial_id("toy", known, point, 0, [10, "snapshot", base]),
    }
    assert set(CHANGES) == {f.name for f in dataclasses.fields(Config)}
    for name, value in CHANGES.items():
        (changed,) = points_of(SHORT, [{name: value}])
        others[name] = trial_id("toy", known, changed, 0)
    assert len({base, *others.values()}) == 1 + len(others)


def test_every_tie_names_other_trials():
    names = {ids(plan_of(replace(SHORT, fix=fix)))[replace(SHORT, fix=fix), 0]
             for fix in ("none", *TIED)}  # fmt: skip
    assert len(TIED) == 7
    assert len(names) == 8


def test_the_level_of_significance_is_the_modules():
    assert plan_of().significance == 0.05
    strict = plan_of(significance=0.01)
    assert strict.significance == 0.01
    assert describe(strict)["significance"].startswith("0.01, ")
    assert strict.id == plan_of().id, "it says how results are judged, not what they are"


@pytest.mark.parametrize(
    ("fix", "varied"),
    [
        ("none", "each varies init, order, split"),
        ("split", "each varies init, order"),
        ("init+order+split", "each varies only dropout, if there is any"),
        (("init", "init+split"), "each varies order, split"),
    ],
)
def test_the_plan_says_what_restarts_vary(fix, varied):
    assert describe(plan_of(replace(SHORT, fix=fix)))["restarts"].endswith(varied)


def test_the_grid_does_not_name_the_trial():
    small = ids(plan_of(replace(SHORT, l2=(0.0, 0.1)), restarts=2))
    large = ids(plan_of(replace(SHORT, l2=(0.3, 0.1, 0), width=(3, 4)), restarts=5))
    assert len(small) == 4
    assert len(large) == 30
    assert len(set(large.values())) == 30
    for key, name in small.items():
        assert large[key] == name  # 0 and 0.0 are equal, and so are the Configs


def test_the_study_is_named_by_its_trials():
    base = plan_of(replace(SHORT, l2=(0.0, 0.1))).id
    assert plan_of(replace(SHORT, l2=(0.1, 0))).id == base
    assert plan_of(replace(SHORT, l2=(0.0, 0.2))).id != base
    assert plan_of(replace(SHORT, l2=(0.0, 0.1)), restarts=3).id != base
    assert plan_of(replace(SHORT, l2=(0.0, 0.1)), seed=3).id != base


def test_trials_are_in_canonical_order_and_complete():
    plan = plan_of(replace(SHORT, l2=(0.0, 0.1), width=(3, 4)), restarts=3)
    order = [(t.point.name, t.restart) for t in plan.trials()]
    assert order == [(p.name, r) for p in plan.points for r in range(3)]
    assert len({t.id for t in plan.trials()}) == 12
    assert [p.name for p in plan.programs] == ["width=3", "width=4"]
    assert [len(p.points) for p in plan.programs] == [2, 2]
    assert {p.slots_per_device % LANES for p in plan.programs} == {0}


def test_points_that_differ_in_the_seventh_digit_are_two():
    plan = plan_of(replace(SHORT, l2=(0.1234567, 0.1234568, 1234567.0, 1234568.0)), restarts=3)
    assert len({p.name for p in plan.points}) == 4
    assert len({t.id for t in plan.trials()}) == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([{"l3": 0.1}], "unknown field 'l3'; known: .*l2"),
        ([{}, {"l2": 0.0}], "are the same"),
        ([{"l2": 0.1}, {"l2": 0.1}], "the same: l2=0.1 and l2=0.1"),
        ([{"l2": 0.1}, {"l2": 0.1 + 1e-12}], "are the same"),
        ([{"l2": 0}, {"l2": 0.0}], "are the same"),
        ([{"l2": -1.0}], "--l2: expected a finite number and at least 0, got -1.0"),
        ([{"activation": "rleu"}], "did you mean 'relu'"),
        ([], "no points"),
        ([{"group": "a", "l2": 0.1}, {"group": "b", "l2": 0.1}], "are the same"),
    ],
)
def test_refused(settings, message):
    with pytest.raises(UserError, match=message):
        plan_of(points=lambda config: settings)


def test_an_axis_that_the_points_ignore_is_refused():
    with pytest.raises(UserError, match="l2 has several values"):
        plan_of(replace(SHORT, l2=(0.0, 0.1)), points=lambda config: [{}])


def test_an_axis_is_validated_before_the_points():
    with pytest.raises(UserError, match=r"--l2: the value 0\.1 is repeated"):
        plan_of(replace(SHORT, l2=(0.1, 0.1)))


def test_planning_compiles_nothing():
    with compilations() as compiled:
        describe(plan_of(replace(SHORT, l2=(0.0, 0.1), width=(3, 4))))
    assert compiled == []


def test_the_plan_prints():
    plan = plan_of(replace(SHORT, l2=(0.0, 0.1), width=(3, 4)), restarts=3)
    lines = describe(plan)
    assert lines["points"] == "4"
    assert lines["trials"] == "12"
    assert lines["steps"] == f"{12 * 30} at most, over all trials"
    assert lines["devices"].startswith(f"{jax.device_count()} × ")
    assert "width=3 4" in lines["static"]
    assert "l2=0 0.1" in lines["traced"]
    assert "steps=30" in lines["protocol"]
    assert lines["program width=3"].startswith("6 trials in 16 × 8 slots")
    assert lines["data"] == "centres at 1.0, 0.9 and 1.1"
    kinds = {f.name: f.metadata["spec"].kind for f in dataclasses.fields(Config)}
    for name, kind in kinds.items():
        line = {"static": "static", "hparam": "traced", "protocol": "protocol"}[kind]
        assert f"{name}=" in lines[line]


def test_groups_are_the_rows_of_the_table():
    table = grid.rows({}, {"L2": grid.product(l2=[0.1, 0.2]), "wide": [{"width": 4}]})
    plan = plan_of(points=lambda config: table)
    assert [(p.name, p.group) for p in plan.points] == [
        ("baseline", "baseline"),
        ("l2=0.1", "L2"),
        ("l2=0.2", "L2"),
        ("width=4", "wide"),
    ]


def test_programs_whose_data_have_the_same_file_name_keep_apart_files():
    """Their parked states once went to parts of one name: the last piece of the path."""
    assert file_name("dataset=/a/table.csv") != file_name("dataset=/b/table.csv")
    assert "/" not in file_name("dataset=/a/table.csv")
