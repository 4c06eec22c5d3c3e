"""Going on in a run directory: what has changed is refused, or allowed and marked."""

import dataclasses
import importlib.metadata
import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from ablax.engine.engine import Engine
from ablax.errors import UserError
from ablax.rundir.checkpoint import numbered
from ablax.rundir.store import Store, read_array, read_parquet
from ablax.study import admission as claim
from ablax.study import manifest as provenance
from ablax.study import run as launched
from ablax.study.plan import make_plan
from ablax.study.progress import Progress
from tests.study.launches import tables, train
from tests.toys import SHORT, experiment, quadratic

GRID = replace(SHORT, learning_rate=(0.1, 30.0), noise=0.5)  # the latter diverges


def plan_of(config=GRID, *, restarts=2, seed=0, slots=16, task=quadratic, **exported):
    module = experiment(task, **exported)
    return make_plan(module, config, restarts=restarts, seed=seed, slots=slots)


def interrupted(directory, plan, boundary=1, **options):
    """Ctrl-C at a boundary."""
    original, seen = Progress.advance, []

    def advance(self, **keywords):
        original(self, **keywords)
        seen.append(1)
        if len(seen) == boundary:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "advance", advance)
        return train(directory, plan, **options)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A whole study of four trials, two of them diverged."""
    directory = tmp_path_factory.mktemp("four") / "run"
    assert train(directory, plan_of()).trained == 4
    return directory


@pytest.fixture
def place(four, tmp_path):
    return Path(shutil.copytree(four, tmp_path / "run"))


@pytest.fixture
def trained(monkeypatch):
    """Number of trials of each run of a program."""
    original, sizes = Engine.run, []

    def spy(self, trials, *arguments, **keywords):
        sizes.append(len(trials.restart))
        return original(self, trials, *arguments, **keywords)

    monkeypatch.setattr(Engine, "run", spy)
    return sizes


def contents(directory):
    return {
        str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()
    }


def manifest(directory):
    return json.loads((directory / "study.json").read_text())


def rows_of(directory):
    return read_parquet(directory / "trials.parquet").set_index("trial")


# What has changed


def steeper(setting):
    """The same task with another step: its program differs."""
    task = quadratic(setting)

    def step(state, trial, data):
        state, metrics = task.step(state, trial, data)
        return {"x": state["x"] * 1.5}, metrics

    return dataclasses.replace(task, step=step)


def other_device(plan):
    return dataclasses.replace(plan, device_kind="TPU v9")


JAX = importlib.metadata.version("jax")
CHANGED = {  # what of the plan (or outside of it) changes, and what is said
    "seed": ({"seed": 1}, "seed: 0, now 1"),
    "level of significance": ({"significance": 0.01}, "level of significance: 0.05, now 0.01"),
    "data set": ({"task": lambda c: quadratic(c, fingerprint="g")}, "data set: f, now g"),
    "task version": ({"task": lambda c: quadratic(c, version=2)}, "task version: 1, now 2"),
    "program": ({"task": steeper}, "program (hash of its StableHLO): {then}, now {now}"),
    "JAX version": ({}, f"JAX version: {JAX}, now 99.1"),
    "device kind": ({}, "device kind: {kind}, now TPU v9"),
}
IDENTITY = ("seed", "level of significance", "data set", "task version")


def changed_plan(what, monkeypatch, restarts, config=GRID):
    """(a plan with that change, what is to be said of it)."""
    changes, message = CHANGED[what]
    plan, before = plan_of(config, restarts=restarts, **changes), plan_of()
    message = message.format(
        then=before.programs[0].stablehlo, now=plan.programs[0].stablehlo, kind=before.device_kind
    )
    if what == "JAX version":
        original = importlib.metadata.version
        monkeypatch.setattr(
            provenance.importlib.metadata,
            "version",
            lambda name: "99.1" if name == "jax" else original(name),
        )
    if what == "device kind":
        plan = other_device(plan)
    return plan, message


@pytest.mark.parametrize("what", CHANGED)
def test_a_change_is_refused_and_nothing_is_lost_or_compiled(place, monkeypatch, what):
    before = contents(place)
    monkeypatch.setattr(launched, "Engine", None)
    with monkeypatch.context() as patch:
        plan, message = changed_plan(what, patch, restarts=4)
        with pytest.raises(UserError) as refused:
            train(place, plan)
    assert f"what this study was trained with has changed: {message}. Expected" in str(
        refused.value
    )
    assert "--allow-changed" in str(refused.value)
    assert contents(place) == before
    assert train(place, plan_of()).missing == 0


@pytest.mark.parametrize("what", CHANGED)
def test_an_allowed_change_goes_on_with_what_is_missing_and_is_marked(
    place, monkeypatch, trained, what
):
    before = rows_of(place)
    plan, message = changed_plan(what, monkeypatch, restarts=4)
    result = train(place, plan, allow_changed=True)
    assert (result.trained, result.missing, trained) == (4, 0, [4])
    marks = [f"{message} (from 4 finished trials on)"]
    assert manifest(place)["marks"] == marks
    after = rows_of(place)
    assert len(after) == 8
    assert after.loc[before.index].equals(before)
    # It is now the study's own: no word is needed, and no mark comes twice.
    plan, _ = changed_plan(what, monkeypatch, restarts=6)
    result = train(place, plan)
    assert (result.trained, result.missing, trained) == (4, 0, [4, 4])
    assert manifest(place)["marks"] == marks
    assert rows_of(place).loc[after.index].equals(after)


def test_the_level_of_significance_is_recorded(four, tmp_path):
    """The module's level, or 0.05: a reader must not guess what bold meant."""
    assert manifest(four)["significance"] == 0.05
    train(tmp_path, plan_of(replace(GRID, learning_rate=0.1), significance=0.01))
    assert manifest(tmp_path)["significance"] == 0.01
    assert manifest(tmp_path)["marks"] == []
    with pytest.raises(UserError, match=r"level of significance: 0\.01, now 0\.05\."):
        train(tmp_path, plan_of(replace(GRID, learning_rate=0.1), restarts=3))


def test_changes_add_up(place, monkeypatch):
    train(place, plan_of(restarts=3, seed=1), allow_changed=True)
    version_2 = plan_of(restarts=4, seed=1, task=lambda c: quadratic(c, version=2))
    with pytest.raises(UserError, match=r"has changed: seed: 1, now 0; task version: 1, now 2\."):
        train(place, plan_of(restarts=4, task=lambda c: quadratic(c, version=2)))
    train(place, other_device(version_2), allow_changed=True)
    assert [mark.partition(",")[0] for mark in manifest(place)["marks"]] == [
        "seed: 0", "task version: 1", f"device kind: {plan_of().device_kind.partition(',')[0]}",
    ]  # fmt: skip
    assert [mark.partition("(")[2] for mark in manifest(place)["marks"]] == [
        f"from {n} finished trials on)" for n in (4, 6, 6)
    ]


def test_of_several_programs_the_changed_one_is_named(tmp_path):
    wide = replace(GRID, width=(3, 4))

    def task(setting):
        return quadratic(setting, version=1 if setting.width == 3 else 2)

    train(tmp_path, plan_of(wide, restarts=1))
    message = r"has changed: task version of width=4: 1, now 2\."
    with pytest.raises(UserError, match=message):
        train(tmp_path, plan_of(wide, task=task))
    assert train(tmp_path, plan_of(wide, task=task), allow_changed=True).trained == 4
    assert len(manifest(tmp_path)["marks"]) == 1


@pytest.mark.parametrize("what", CHANGED)
def test_where_nothing_is_left_to_train_conditions_may_change(place, monkeypatch, what):
    """The results may be looked at on another machine; another seed is another study."""
    plan, _ = changed_plan(what, monkeypatch, restarts=2)
    before = contents(place)
    monkeypatch.setattr(launched, "Engine", None)
    if what in IDENTITY:
        with pytest.raises(UserError, match=f"has changed: {what}: "):
            train(place, plan)
    else:
        result = train(place, plan)
        assert (result.trained, result.missing) == (0, 0)
    assert contents(place) == before


@pytest.mark.parametrize("what", ["program", "JAX version", "device kind"])
def test_an_interrupted_trial_is_begun_although_none_has_finished(tmp_path, monkeypatch, what):
    one = replace(GRID, learning_rate=0.1)
    assert interrupted(tmp_path, plan_of(one)).trained == 0
    assert numbered(tmp_path / "checkpoints")
    plan, message = changed_plan(what, monkeypatch, restarts=2, config=one)
    with pytest.raises(UserError, match=what):
        train(tmp_path, plan)
    assert train(tmp_path, plan, allow_changed=True).trained == 2
    assert manifest(tmp_path)["marks"] == [f"{message} (from 0 finished trials on)"]


def test_where_nothing_has_begun_conditions_may_change(place, monkeypatch):
    """The first launch was killed while it compiled."""
    for path in (*place.glob("*.parquet"), *place.glob("arrays/*")):
        path.unlink()
    plan = other_device(plan_of(task=steeper))
    assert train(place, plan).trained == 4
    assert manifest(place)["marks"] == []
    assert manifest(place)["provenance"]["conditions"]["device kind"] == "TPU v9"


def longer(setting):
    """A state of another structure."""
    task = quadratic(setting)
    return dataclasses.replace(
        task,
        init=lambda trial, data: task.init(trial, data) | {"y": jax.numpy.zeros(2)},
        step=lambda state, trial, data: (
            task.step(state, trial, data)[0] | {"y": state["y"] + 1.0},
            task.step(state, trial, data)[1],
        ),
        snapshot=lambda state: {"x": state["x"]},
    )


def test_an_allowed_change_of_the_state_starts_interrupted_trials_anew(tmp_path):
    config = replace(GRID, learning_rate=(0.1, 0.2))
    assert interrupted(tmp_path, plan_of(config)).trained == 0
    assert train(tmp_path, plan_of(config, task=longer), allow_changed=True).trained == 4


def test_a_checkpoint_of_another_setting_is_another_study(tmp_path):
    """Nothing had finished when other statics, with another state, are asked for."""

    def task(setting):
        return longer(setting) if setting.width == 4 else quadratic(setting)

    config = replace(GRID, learning_rate=(0.1, 0.2))
    assert interrupted(tmp_path, plan_of(config, task=task)).trained == 0
    with pytest.raises(UserError, match="4 trials that its checkpoint holds are not in this one"):
        train(tmp_path, plan_of(replace(config, width=4), task=task))
    assert train(tmp_path, plan_of(config, task=task)).trained == 4


# Slots


def slots_of(directory):
    (program,) = manifest(directory)["provenance"]["programs"].values()
    return program["slots_per_device"]


def test_the_recorded_slots_are_used_again_whatever_the_rule_gives(place):
    assert train(place, plan_of(restarts=3, slots=48)).trained == 2
    assert (slots_of(place), manifest(place)["marks"]) == (16, [])


def test_other_slots_are_marked_and_then_those_of_the_study(place):
    assert train(place, plan_of(restarts=3), slots=16).trained == 2
    assert manifest(place)["marks"] == []
    assert train(place, plan_of(restarts=4), slots=32).trained == 2
    marks = ["slots per device: 16, now 32 (from 6 finished trials on)"]
    assert (slots_of(place), manifest(place)["marks"]) == (32, marks)
    assert train(place, plan_of(restarts=5)).trained == 2
    assert (slots_of(place), manifest(place)["marks"]) == (32, marks)


def test_slots_that_nothing_is_trained_with_are_not_marked(place, monkeypatch):
    before = contents(place)
    monkeypatch.setattr(launched, "Engine", None)
    train(place, plan_of(), slots=32)
    assert contents(place) == before


def test_the_first_launch_too_takes_the_slots_that_are_asked_for(tmp_path):
    train(tmp_path, plan_of(), slots=32)
    assert slots_of(tmp_path) == 32


# Diverged trials again


def test_retry_trains_diverged_trials_again_and_only_those(place, trained):
    before = tables(place)
    assert rows_of(place)["status"].tolist() == ["done"] * 2 + ["diverged"] * 2
    result = train(place, plan_of(), retry=True)
    assert (result.trained, result.missing, trained) == (2, 0, [2])
    assert tables(place) == before
    assert manifest(place)["marks"] == []
    assert train(place, plan_of(restarts=3), retry=True).trained == 4  # with what is missing
    whole = place.parent / "whole"
    train(whole, plan_of(restarts=3))
    assert tables(place) == tables(whole)


def test_retry_without_diverged_trials_trains_nothing(tmp_path, monkeypatch):
    plan = plan_of(replace(GRID, learning_rate=0.1))
    train(tmp_path, plan, retry=True)
    monkeypatch.setattr(launched, "Engine", None)
    assert train(tmp_path, plan, retry=True).trained == 0


def test_retry_asks_too_whether_anything_has_changed(place, monkeypatch):
    before = contents(place)
    with monkeypatch.context() as patch:
        patch.setattr(launched, "Engine", None)
        with pytest.raises(UserError, match="has changed: device kind"):
            train(place, other_device(plan_of()), retry=True)
    assert contents(place) == before
    assert train(place, other_device(plan_of()), retry=True, allow_changed=True).trained == 2
    assert len(manifest(place)["marks"]) == 1


def test_a_retry_that_is_interrupted_is_finished_by_the_next_launch(place):
    before = tables(place)
    calm = replace(GRID, learning_rate=(0.1, 30.0))
    assert interrupted(place, plan_of(calm), retry=True).missing == 2
    assert train(place, plan_of()).trained == 2
    assert tables(place) == before


def tamed(setting):
    """A task with which no trial diverges any more."""
    task = quadratic(setting, version=2)

    def step(state, trial, data):
        after, metrics = task.step(state, trial, data)
        return {"x": jax.numpy.clip(after["x"], -3.0, 3.0)}, metrics

    return dataclasses.replace(task, step=step)


def test_retried_trials_leave_only_what_they_did_the_second_time(place):
    train(place, plan_of(task=tamed), retry=True, allow_changed=True)
    rows = rows_of(place)
    assert set(rows["status"]) == {"done"}
    points = read_array(place / "arrays" / "point.parquet")
    for trial, norm in rows["norm"].items():
        np.testing.assert_allclose((points[trial].astype(float) ** 2).sum(), norm, rtol=1e-5)


# Records, and larger studies


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"provenance": {}}', '{"provenance": {"programs": []}}'],
)
def test_an_unreadable_record_is_refused(place, monkeypatch, text):
    (place / "study.json").write_text(text)
    before = contents(place)
    monkeypatch.setattr(launched, "Engine", None)
    with pytest.raises(UserError, match=r"holds no readable study: .*study\.json"):
        train(place, plan_of(restarts=3))
    assert contents(place) == before


def test_a_record_that_is_no_text_is_refused(place):
    (place / "study.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="holds no readable study"):
        train(place, plan_of())


@pytest.mark.parametrize("key", ["marks", "experiment", "seed", "significance"])
def test_a_record_that_lacks_something_is_refused(place, key):
    record = manifest(place)
    del record[key]
    (place / "study.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="holds no readable study"):
        train(place, plan_of(restarts=3))


def test_a_larger_grid_may_add_a_program(place, trained):
    """Whose name differs then, as do the names of all points."""
    wide = plan_of(replace(GRID, width=(3, 4)))
    assert [program.name for program in wide.programs] == ["width=3", "width=4"]
    result = train(place, wide)
    assert (result.trained, result.missing, trained) == (4, 0, [4])
    whole = place.parent / "whole"
    train(whole, wide)
    assert tables(place) == tables(whole)
    programs = manifest(place)["provenance"]["programs"]
    assert {name: p["statics"]["width"] for name, p in programs.items()} == {
        "width=3": 3, "width=4": 4,
    }  # fmt: skip
    assert manifest(place)["marks"] == []


def test_a_program_that_is_added_takes_the_seed_that_is_asked_for_now(place):
    """One that was there keeps the names of its trials, whatever has changed since."""
    wide = plan_of(replace(GRID, width=(3, 4)), seed=1)
    train(place, wide, allow_changed=True)
    programs = manifest(place)["provenance"]["programs"]
    assert [programs[f"width={n}"]["identity"]["seed"] for n in (3, 4)] == [0, 1]
    assert manifest(place)["marks"] == ["seed: 0, now 1 (from 4 finished trials on)"]
    assert train(place, wide).missing == 0


def test_missing_and_reached_are_what_is_not_finished(place):
    rows = Store(place).read("trials")

    def missing(plan, rows, **options):
        return claim.missing(plan, claim.reached(plan, rows), rows, **options)

    assert not missing(plan_of(), rows)
    assert missing(plan_of(), rows, retry=True)
    assert missing(plan_of(), rows[rows["status"] == "done"])
    assert not missing(plan_of(replace(GRID, learning_rate=0.1)), rows[:2], retry=True)
    assert [len(trials) for trials in claim.reached(plan_of(restarts=3), rows)] == [6]


def test_a_program_that_is_finished_keeps_its_slots_and_gets_no_mark(place):
    """Two of width 3 are there; those of width 4 are trained with other slots."""
    larger = plan_of(replace(GRID, width=(3, 4)), restarts=2)
    assert train(place, larger, slots=32).missing == 0
    programs = manifest(place)["provenance"]["programs"].values()
    assert {p["statics"]["width"]: p["slots_per_device"] for p in programs} == {3: 16, 4: 32}
    assert manifest(place)["marks"] == []
