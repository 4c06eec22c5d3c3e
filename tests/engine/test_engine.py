"""The promises of the engine: coverage, lane invariance, one compilation, divergence."""

import dataclasses
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ablax.engine import engine
from ablax.engine.engine import Engine, Inherited
from ablax.engine.mesh import mesh_of
from ablax.engine.shapes import Solo
from ablax.engine.slots import Status
from ablax.engine.trials import take, trials_of
from ablax.metrics import Metric
from tests.toys import (
    COLLECTIVES,
    SHORT,
    compilations,
    engine_of,
    network,
    quadratic,
    run,
    scripted,
)

NET = replace(SHORT, steps=24, eval_every=8, patience=1.0, learning_rate=0.1, width=6)


@pytest.fixture(scope="module")
def quad():
    return engine_of(quadratic())


@pytest.fixture(scope="module")
def nets():
    return engine_of(network(NET), NET)


def grid_of_nets(n):
    """n trials that differ in every hparam, some of which diverge or stop early."""
    rates = [0.05, 0.3, 1e30, 1.0]
    return [
        replace(
            NET,
            learning_rate=rates[i % 4],
            l2=[0.0, 1e-2, 0.3][i % 3],
            dropout_rate=[0.0, 0.5][i % 2],
            patience=[1.0, np.inf][i // 2 % 2],
            steps=24 - i % 5,
        )
        for i in range(n)
    ], [i // 7 for i in range(n)]


# Promise 1: exact coverage


@pytest.mark.parametrize("n", [1, 15, 16, 17, 131])
def test_every_trial_finishes_once(quad, n):
    """Uneven ends, by divergence, patience and horizon; trials far beyond the slots."""
    rng = np.random.default_rng(n)
    configs = [
        replace(
            SHORT,
            learning_rate=float(rng.choice([0.1, 30.0, np.inf, 2.01])),
            steps=int(rng.integers(1, 60)),
            patience=float(rng.choice([1.0, 2.0, np.inf])),
        )
        for _ in range(n)
    ]
    outcomes = run(quad, configs, rng.integers(0, 5, n).tolist())
    assert list(outcomes) == list(range(n))
    if n == 131:
        assert {o.status for o in outcomes.values()} == {"DONE", "STOPPED", "DIVERGED"}
    for index, outcome in outcomes.items():
        if outcome.status == "DONE":
            assert outcome.steps == configs[index].steps


@pytest.mark.parametrize("devices", [2, 8])
def test_every_trial_finishes_once_on_many_devices(quad, devices):
    runner = engine_of(quadratic(), devices=devices)
    n = 16 * devices * 2 + 5
    configs = [replace(SHORT, steps=1 + 7 * (i % 9), noise=0.1 * (i % 4)) for i in range(n)]
    outcomes = run(runner, configs, list(range(n)))
    assert list(outcomes) == list(range(n))
    assert [o.steps for o in outcomes.values()] == [c.steps for c in configs]
    one = run(quad, configs, list(range(n)))
    assert {i: o.bits() for i, o in outcomes.items()} == {i: o.bits() for i, o in one.items()}


def test_curves_have_one_row_per_evaluation(quad):
    configs = [replace(SHORT, steps=1 + i) for i in range(40)]
    for index, outcome in run(quad, configs, range(40)).items():
        steps = configs[index].steps
        expected = sorted({*range(10, steps, 10), steps})
        assert [step for step, _ in outcome.curve] == expected


@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_a_stopped_run_keeps_what_finished_and_only_that(quad, after):
    """The stop callable ends a run at a boundary; what finished by then is measured."""
    asked = iter(range(1000))
    configs = [replace(SHORT, steps=[10, 20][i % 2]) for i in range(100)]
    stopped = run(quad, configs, range(100), stop=lambda: next(asked) >= after)
    whole = run(quad, configs, range(100))
    assert len(stopped) < len(whole) == 100
    assert (len(stopped) > 0) == (after > 0)
    assert {i: o.bits() for i, o in stopped.items()} == {i: whole[i].bits() for i in stopped}
    again = run(quad, configs, range(100))  # ghosts of the stopped run do not matter
    assert {i: o.bits() for i, o in again.items()} == {i: o.bits() for i, o in whole.items()}


def test_no_trials_is_no_work(quad):
    before = quad.usage.segments
    empty = take(trials_of([SHORT], [0], 0), np.arange(0))
    assert list(quad.run(empty, 10)) == []
    assert quad.usage.segments == before


def test_snapshots_come_only_if_kept():
    runner = engine_of(quadratic())
    runner.keep = False
    boundaries = list(runner.run(trials_of([SHORT], [0], 0), 10))
    assert [b.finished.snapshots for b in boundaries if b.finished is not None] == [None]


# Promise 2: lane invariance


def test_neighbours_slots_and_order_change_no_bit(nets):
    configs, restarts = grid_of_nets(40)
    whole = run(nets, configs, restarts)
    order = np.random.default_rng(0).permutation(40).tolist()
    permuted = run(nets, [configs[i] for i in order], [restarts[i] for i in order])
    for position, i in enumerate(order):
        assert permuted[position].bits() == whole[i].bits(), i
    for i in range(0, 40, 9):  # alone among empty slots
        assert run(nets, [configs[i]], [restarts[i]])[0].bits() == whole[i].bits(), i
    # Another grid around it, and other work before it.
    shifted = run(nets, [NET] * 5 + configs[3:9], [9] * 5 + restarts[3:9])
    for i in range(3, 9):
        assert shifted[i + 2].bits() == whole[i].bits(), i
    assert len({o.bits() for o in whole.values()}) > 35


def test_devices_change_no_bit_and_slots_hardly_any(nets, record_property):
    configs, restarts = grid_of_nets(40)
    one = run(nets, configs, restarts)
    many = run(engine_of(network(NET), NET, devices=8), configs, restarts)
    assert {i: o.bits() for i, o in many.items()} == {i: o.bits() for i, o in one.items()}
    wide = run(engine_of(network(NET), NET, slots=32), configs, restarts)
    deviations = [
        np.max(np.abs(a - b))
        for i in one
        for a, b in zip(
            jax.tree.leaves(one[i].snapshot), jax.tree.leaves(wide[i].snapshot), strict=True
        )
    ]
    record_property("largest deviation of a parameter, 16 against 32 slots", float(max(deviations)))
    assert max(deviations) < 1e-4


# Promise 3: one compilation per program and function


def test_one_compilation_per_function():
    with compilations() as compiled:
        runner = engine_of(quadratic())
    assert len(compiled) == 2, "segment and final"
    assert set(runner.usage.compile_seconds) == {"segment", "final"}
    with compilations() as compiled:
        run(runner, [SHORT] * 40, range(40))
        run(runner, [replace(SHORT, learning_rate=0.3, noise=1.0, l2=2.0)], [7], seed=5)
        run(runner, [replace(SHORT, steps=77, patience=2.0, min_delta=0.5)], [0], interval=9)
        run(runner, [replace(SHORT, learning_rate=np.inf)] * 20, range(20), interval=1)
    assert compiled == []


def test_the_count_sees_a_compilation():
    with compilations() as compiled:
        jax.jit(lambda x: x * 3.0 + 1.25)(np.ones(7, np.float32))
    assert len(compiled) == 1


def test_other_statics_are_another_program():
    trials = [trials_of([replace(SHORT, width=w)], [0], 0) for w in (3, 4)]
    assert jax.tree.structure(trials[0]) != jax.tree.structure(trials[1])


def test_host_calls_grow_with_segments_not_with_trials(quad, monkeypatch):
    calls = {"segment": 0, "final": 0, "get": 0}

    def counted(name, function):
        def call(*arguments):
            calls[name] += 1
            return function(*arguments)

        return call

    monkeypatch.setattr(quad, "_segment", counted("segment", quad._segment))
    monkeypatch.setattr(quad, "_final", counted("final", quad._final))
    monkeypatch.setattr(engine.jax, "device_get", counted("get", jax.device_get))
    configs = [replace(SHORT, steps=10)] * 160
    assert len(run(quad, configs, range(160))) == 160
    assert calls["segment"] == 11  # ten full waves, and one to retire the last
    assert calls["final"] == 10  # each on a full buffer
    assert calls["get"] == 2 * 10  # a segment is read as one array


def test_statistics_count_the_capacity():
    runner = engine_of(quadratic())
    run(runner, [replace(SHORT, steps=[10, 20][i % 2]) for i in range(32)], range(32))
    statistics = runner.usage
    assert statistics.busy_steps == 16 * 10 + 16 * 20
    assert statistics.slot_steps == statistics.segments * 16 * 10
    assert 0 < statistics.share_drained() < 1
    assert statistics.share_busy() == 1.0


# Promise 4: divergence


@pytest.mark.parametrize(
    ("rate", "steps"),
    [(30.0, 13), (1e30, 1), (np.inf, 0), (3e38, 0)],
    ids=["later segment", "second step", "first step", "parameters overflow, loss finite"],
)
def test_a_diverged_trial_stays_at_its_last_finite_state(quad, rate, steps):
    bad = replace(SHORT, learning_rate=rate)
    outcome = run(quad, [bad], [3])[0]
    assert (outcome.status, outcome.steps) == ("DIVERGED", steps)
    assert outcome.best_step == (10 if steps > 10 else 0)
    for leaf in jax.tree.leaves((outcome.snapshot, outcome.measured)):
        assert np.isfinite(leaf).all()
    # Without an objective the last state is what is kept: that of a trial of so many steps.
    last = engine_of(dataclasses.replace(quadratic(), objective=None))
    frozen = run(last, [bad], [3])[0]
    assert np.isfinite(frozen.snapshot["x"]).all()
    assert (frozen.status, frozen.steps, frozen.best_step) == ("DIVERGED", steps, steps)
    if steps:
        healthy = run(last, [replace(bad, steps=steps)], [3])[0]
        assert healthy.status == "DONE"
        np.testing.assert_array_equal(frozen.snapshot["x"], healthy.snapshot["x"])


def test_a_trial_that_diverges_at_once_keeps_its_initial_snapshot(quad):
    outcome = run(quad, [replace(SHORT, learning_rate=np.inf)], [3])[0]
    trial = take(trials_of([SHORT], [3], 0), 0)
    initial = quadratic().init(jax.tree.map(jnp.asarray, trial), None)
    np.testing.assert_array_equal(outcome.snapshot["x"], initial["x"])
    assert outcome.curve == []


def test_a_diverged_neighbour_changes_no_bit_and_frees_its_slot(nets):
    healthy = [replace(NET, patience=np.inf, l2=0.01 * i) for i in range(15)]
    alone = run(nets, healthy, range(15))
    for bad in (1e30, np.inf):
        before = nets.usage.segments
        # The bad one goes first and shares the 16 slots; a late one must get its slot.
        late = replace(NET, patience=np.inf, dropout_rate=0.25)
        worse = replace(late, learning_rate=bad)
        mixed = run(nets, [worse, *healthy, late], [0, *range(15), 4])
        assert mixed[0].status == "DIVERGED"
        assert [mixed[i + 1].bits() for i in range(15)] == [alone[i].bits() for i in range(15)]
        assert mixed[16].bits() == run(nets, [late], [4])[0].bits()
        # 3 segments, and 1 more for the late one than its neighbours need; plus its own run's 3.
        assert nets.usage.segments - before == 4 + 3


def test_a_state_that_turns_nan_while_the_loss_is_finite_is_divergence():
    def step(state, trial, data):
        x = jnp.where(trial.step == 4, jnp.nan, state["x"] * 0.5)
        return {"x": x}, {"loss": jnp.float32(1.0)}

    outcome = run(engine_of(dataclasses.replace(quadratic(), step=step)), [SHORT], [0])[0]
    assert (outcome.status, outcome.steps) == ("DIVERGED", 4)
    assert np.isfinite(outcome.snapshot["x"]).all()


def test_a_snapshot_without_floats_can_be_trained():
    task = dataclasses.replace(
        scripted(np.zeros((1, 40)), None),
        init=lambda trial, data: {"step": jnp.int32(0)},
        step=lambda state, trial, data: ({"step": state["step"] + 1}, {"loss": jnp.float32(0)}),
    )
    assert run(engine_of(task), [SHORT], [0])[0].snapshot == {"step": 30}


# Promise of selection: the segment never sees the test split


def test_the_segment_is_never_given_the_test_split():
    seen = []

    def view(trial, data):
        seen.append(sorted(data))
        return data

    task = dataclasses.replace(quadratic(), view=view)
    runner = engine_of(task)
    assert seen
    assert set(map(tuple, seen)) == {("train", "valid"), ("test", "train", "valid")}
    spoilt = dataclasses.replace(
        task, data={**task.data, "test": jax.tree.map(lambda x: x * np.nan, task.data["test"])}
    )
    configs = [replace(SHORT, noise=0.1 * i) for i in range(20)]
    clean, blind = run(runner, configs, range(20)), run(engine_of(spoilt), configs, range(20))
    for a, b in zip(clean.values(), blind.values(), strict=True):
        assert np.isfinite(a.measured.pop("test/loss"))
        assert np.isnan(b.measured.pop("test/loss"))
        assert a.bits() == b.bits()


# Trials that end early, go on, or start from a parent


def decaying(**changes):
    """A trial whose rate falls to 0 at its last step: it sees `steps`, not where it ends."""
    task = quadratic()

    def step(state, trial, data):
        share = 1.0 - trial.step.astype(jnp.float32) / trial.steps.astype(jnp.float32)
        hparams = dataclasses.replace(
            trial.hparams, learning_rate=trial.hparams.learning_rate * share
        )
        return task.step(state, dataclasses.replace(trial, hparams=hparams), data)

    return dataclasses.replace(task, step=step, **changes)


def inheriting():
    """Children start at twice their parent's snapshot, moved by their own restart."""

    def inherit(trial, data, variables):
        assert "test" not in data
        return {"x": variables["x"] * 2.0 + trial.restart.astype(jnp.float32)}

    return dataclasses.replace(quadratic(), inherit=inherit)


def parking(task, setting=SHORT, devices=1, slots=16):
    example = take(trials_of([setting], [0], 0), 0)
    mesh = mesh_of(jax.devices()[:devices])
    return Engine(task, example, mesh, slots, keep=True, park=True)


@pytest.fixture(scope="module")
def parked_nets():
    return parking(network(NET), NET)


@pytest.fixture(scope="module")
def decayed():
    return parking(decaying())


def parked(runner, configs, restarts, until, interval=10):
    """{position: its whole slot, on the host} of trials that ended at `until`."""
    trials, result = trials_of(configs, restarts, 0, until), {}
    for boundary in runner.run(trials, interval):
        if (ended := boundary.finished) is not None:
            rows = {int(i): take(ended.parked, row) for row, i in enumerate(ended.index)}
            assert not result.keys() & rows.keys()
            result |= rows
    return result


def continued(slot, config, until):
    """The slot of a trial that goes on to `until`; one that stopped or diverged has ended."""
    child = take(trials_of([config], [0], 0, [until]), 0)
    child = dataclasses.replace(child, restart=slot.trial.restart, step=slot.trial.step)
    status = Status.RUNNING if slot.status == Status.DONE else slot.status
    return slot._replace(trial=child, status=np.int32(status))


def in_the_slots(runner):
    """{position: its slot, on the host} of the trials that a run left at a boundary."""
    slots = jax.device_get(runner.slots)
    return {int(i): take(slots, at) for at, i in enumerate(runner.holds) if i >= 0}


def words(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def after(outcome, step):
    """The outcome of a trial that goes on from its state at `step`."""
    curve = [(at, values) for at, values in outcome.curve if at > step]
    return dataclasses.replace(outcome, curve=curve).bits()


def test_a_trial_that_ends_early_made_the_first_steps_of_the_whole_one(decayed):
    """Its schedule still sees the horizon: its state is the whole one's at that step."""
    configs = [replace(SHORT, noise=0.1 * i, learning_rate=0.9) for i in range(16)]
    asked = iter((False, True))
    run(decayed, configs, range(16), stop=lambda: next(asked))  # leaves them at step 20
    halfway = in_the_slots(decayed)
    whole = run(decayed, configs, range(16))
    early = run(decayed, configs, range(16), until=[20] * 16)
    slots = parked(decayed, configs, range(16), [20] * 16)
    assert len(halfway) == len(early) == len(slots) == 16
    for i, outcome in early.items():
        assert (outcome.status, outcome.steps) == ("DONE", 20)
        curve = dataclasses.replace(outcome, curve=whole[i].curve[:2])
        assert outcome.bits() == curve.bits()
        for part in ("state", "best", "watch"):
            assert words(getattr(slots[i], part)) == words(getattr(halfway[i], part)), part
        assert words(slots[i].best) == words(outcome.snapshot)
        assert (slots[i].trial.steps, slots[i].trial.until) == (30, 20)
    between = run(decayed, configs[:1], [0], until=[15])[0]  # no evaluation ends there
    assert (between.steps, [step for step, _ in between.curve]) == (15, [10, 15])
    short = run(decayed, [replace(c, steps=20) for c in configs], range(16))
    assert short[0].curve != early[0].curve, "a horizon of 20 is another schedule"


@pytest.mark.parametrize("devices", [1, 8])
def test_parked_trials_go_on_to_the_same_bits(nets, parked_nets, devices):
    """Ended ones among them, more than slots, in other slots, between fresh ones."""
    configs, restarts = grid_of_nets(40)
    whole = run(nets, configs, restarts, interval=8)
    until = [min(8 * (1 + i % 2), config.steps) for i, config in enumerate(configs)]
    slots = parked(parked_nets, configs, restarts, until, interval=8)
    assert {Status(s.status).name for s in slots.values()} == {"DONE", "STOPPED", "DIVERGED"}
    order = np.random.default_rng(1).permutation(40).tolist()
    fresh = set(order[::4])
    starts = {
        position: continued(slots[i], configs[i], configs[i].steps)
        for position, i in enumerate(order)
        if i not in fresh
    }
    assert len(starts) == 30
    runner = parked_nets if devices == 1 else parking(network(NET), NET, devices=devices)
    before = dataclasses.replace(runner.usage)
    ended = run(
        runner, [configs[i] for i in order], [restarts[i] for i in order], interval=8, starts=starts
    )
    assert list(ended) == list(range(40))
    for position, i in enumerate(order):
        start = int(slots[i].trial.step) if position in starts else 0
        assert ended[position].bits() == after(whole[i], start), i
    advanced = runner.usage.busy_steps - before.busy_steps
    reached = sum(int(slot.trial.step) for slot in starts.values())
    assert advanced == sum(outcome.steps for outcome in ended.values()) - reached
    assert runner.usage.slot_steps == runner.usage.segments * runner.n_slots * 8
    assert 0 <= runner.usage.share_busy() <= 1


def test_a_trial_may_end_and_go_on_several_times(decayed):
    configs = [replace(SHORT, noise=0.3, steps=50, patience=[2.0, np.inf][i % 2]) for i in range(9)]
    whole = run(decayed, configs, range(9))
    slots = parked(decayed, configs, range(9), [10] * 9)
    for until in (20, 40, 50):
        trials = trials_of(configs, range(9), 0, [until] * 9)
        starts = {i: continued(slot, configs[i], until) for i, slot in slots.items()}
        assert all(words(starts[i].best) == words(slots[i].best) for i in slots)
        (ended,) = [b.finished for b in decayed.run(trials, 10, starts=starts) if b.finished]
        slots = {int(i): take(ended.parked, row) for row, i in enumerate(ended.index)}
    for i, outcome in whole.items():
        row = ended.index.tolist().index(i)
        assert Status(ended.status[row]).name == outcome.status
        assert (ended.steps[row], ended.best_step[row]) == (outcome.steps, outcome.best_step)
        assert words(take(ended.measured, row)) == words(outcome.measured)
        assert words(slots[i].best) == words(outcome.snapshot)
    assert {outcome.status for outcome in whole.values()} == {"DONE", "STOPPED"}


@pytest.mark.parametrize("devices", [1, 2])
def test_a_trial_starts_from_what_its_parent_left(devices):
    """40 children, each of its own parent, between fresh trials."""
    runner = engine_of(inheriting(), devices=devices)
    left = {i: {"x": np.float32([i, -i, 0.5])} for i in range(60) if i % 3}
    configs = [replace(SHORT, learning_rate=0.0)] * 60
    ended = run(runner, configs, range(60), starts={i: Inherited(v) for i, v in left.items()})
    fresh = run(runner, configs, range(60))
    assert len(left) == 40
    assert list(ended) == list(range(60))
    for i, outcome in ended.items():
        if i not in left:
            assert outcome.bits() == fresh[i].bits()
            continue
        np.testing.assert_array_equal(outcome.snapshot["x"], 2 * left[i]["x"] + np.float32(i))
        assert (outcome.status, outcome.steps, outcome.best_step) == ("DONE", 30, 10)
        assert [step for step, _ in outcome.curve] == [10, 20, 30]


def test_a_child_draws_its_own_numbers_and_may_diverge():
    runner = engine_of(inheriting())
    left = Inherited({"x": np.float32([1, 2, 3])})
    configs = [replace(SHORT, noise=0.5), replace(SHORT, learning_rate=np.inf)] * 2
    ended = run(runner, configs, [0, 0, 1, 1], starts=dict.fromkeys(range(4), left))
    assert [o.status for o in ended.values()] == ["DONE", "DIVERGED"] * 2
    np.testing.assert_array_equal(ended[3].snapshot["x"], np.float32([3, 5, 7]))
    assert ended[0].curve != ended[2].curve
    alone = run(runner, configs[2:3], [1], starts={0: left})
    assert alone[0].bits() == ended[2].bits()


@pytest.fixture(scope="module")
def others():
    """New engines, which never held the slots that they start from."""
    return [engine_of(network(NET), NET, devices=devices) for devices in (1, 8)]


@pytest.mark.parametrize("boundary", [1, 2, 4, 6])
def test_what_a_run_left_in_the_slots_goes_on_anywhere(nets, others, boundary):
    """Trials in every state: running, ended and not yet retired, and those that wait."""
    configs, restarts = grid_of_nets(40)
    whole = run(nets, configs, restarts, interval=8)
    asked = iter(range(1, 1000))
    stopped = run(nets, configs, restarts, interval=8, stop=lambda: next(asked) == boundary)
    assert {i: o.bits() for i, o in stopped.items()} == {i: whole[i].bits() for i in stopped}
    held = in_the_slots(nets)
    assert held
    assert not held.keys() & stopped.keys()
    left = [i for i in range(40) if i not in stopped]
    starts = {at: held[i] for at, i in enumerate(left) if i in held}
    for runner in others:
        ended = run(
            runner, [configs[i] for i in left], [restarts[i] for i in left],
            interval=8, starts=starts,
        )  # fmt: skip
        assert list(ended) == list(range(len(left)))
        for at, i in enumerate(left):
            start = int(held[i].trial.step) if i in held else 0
            assert ended[at].bits() == after(whole[i], start), (i, runner.n_slots)


def test_load_and_adopt_are_compiled_once_and_only_if_used():
    runner = parking(inheriting())
    left = Inherited({"x": np.float32([1, 2, 3])})
    slots = parked(runner, [SHORT] * 20, range(20), [10] * 20)
    going = {i: continued(slot, SHORT, 30) for i, slot in slots.items()}
    assert set(runner.usage.compile_seconds) == {"segment", "final"}
    for starts, name in ((going, "load"), ({3: left}, "adopt")):
        with compilations() as compiled:
            run(runner, [SHORT] * 20, range(20), starts=starts)
        assert len(compiled) == 1
        assert list(runner.usage.compile_seconds)[-1] == name
        assert runner.usage.compile_seconds[name] > 0
        assert runner.usage.memory_bytes[name] > 0
    with compilations() as compiled:
        run(runner, [SHORT] * 40, range(40), starts=going | dict.fromkeys(range(30, 40), left))
        run(runner, [SHORT] * 20, range(20))
    assert compiled == []
    assert set(runner.usage.compile_seconds) == {"segment", "final", "load", "adopt"}


# Devices


def test_no_collectives_in_what_puts_trials_back():
    runner = engine_of(inheriting(), devices=8)
    run(runner, [SHORT], [0], stop=lambda: True)
    (slot,) = in_the_slots(runner).values()
    starts = {0: slot, 1: Inherited({"x": np.zeros(3, np.float32)})}
    run(runner, [SHORT] * 2, range(2), starts=starts)
    assert set(runner._compiled) == {"load", "adopt"}
    for compiled in runner._compiled.values():
        assert re.findall(COLLECTIVES, compiled.as_text()) == []


# What is kept


def test_measures_are_of_the_selected_snapshot(quad):
    configs = [replace(SHORT, noise=3.0, learning_rate=0.5)] * 20
    for outcome in run(quad, configs, range(20)).values():
        x = outcome.snapshot["x"]
        np.testing.assert_allclose(outcome.measured["norm"], np.sum(x**2), rtol=1e-5)
        np.testing.assert_array_equal(outcome.measured["point"], x)
        np.testing.assert_array_equal(outcome.measured["outer"], np.stack([x, x], 1))
        for split, centre in {"train": 1.0, "valid": 0.9, "test": 1.1}.items():
            expected = 0.5 * np.sum((x - np.float32(centre)) ** 2)
            np.testing.assert_allclose(outcome.measured[f"{split}/loss"], expected, rtol=1e-5)
        curve = dict(outcome.curve)
        np.testing.assert_allclose(
            outcome.measured["valid/loss"], curve[outcome.best_step]["valid/loss"], rtol=1e-5
        )


def test_step_metrics_are_means_over_the_segment(quad):
    task = scripted(np.zeros((1, 40)), Metric("score", "min"))
    outcome = run(engine_of(task), [replace(SHORT, steps=25)], [0])[0]
    losses = [float(values["train/loss"]) for _, values in outcome.curve]
    assert losses == [
        2 * np.mean(range(0, 10)),
        2 * np.mean(range(10, 20)),
        2 * np.mean(range(20, 25)),
    ]


def test_bytes_per_slot_are_those_of_its_arrays():
    trial = take(trials_of([SHORT], [0], 0), 0)
    scalars = len(jax.tree.leaves(trial))
    # state, best and buffered best of width 3; the trial twice; watch (3) and status.
    expected = 4 * (3 * 3 + 2 * scalars + 3 + 1)
    assert Solo(quadratic(), trial).bytes_per_slot == expected


def test_events_say_how_far_each_trial_advanced(quad):
    configs = [replace(SHORT, steps=4 + i) for i in range(30)]
    advanced = np.zeros(30, int)
    for boundary in quad.run(trials_of(configs, range(30), 0), 10):
        if (event := boundary.evaluated) is not None:
            advanced[event.index] += event.advanced
            np.testing.assert_array_equal(advanced[event.index], event.step)
    assert advanced.tolist() == [c.steps for c in configs]
