"""The promises of the engine: coverage, lane invariance, one compilation, divergence."""

import dataclasses
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ablax.metrics import Metric
from ablax.sweep import device, engine
from experiments import regularization
from tests.sweep.toys import SHORT, compilations, engine_of, network, quadratic, run, scripted

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
    before = quad.statistics.segments
    empty = engine.take(engine.trials_of([SHORT], [0], 0), np.arange(0))
    assert list(quad.run(empty, 10)) == []
    assert quad.statistics.segments == before


def test_snapshots_come_only_if_kept():
    runner = engine_of(quadratic())
    runner.keep = False
    boundaries = list(runner.run(engine.trials_of([SHORT], [0], 0), 10))
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
    record_property("largest deviation of a parameter, 16 against 32 slots", max(deviations))
    assert max(deviations) < 1e-4


# Promise 3: one compilation per program and function


def test_one_compilation_per_function():
    with compilations() as made:
        runner = engine_of(quadratic())
    assert len(made) == 2, "segment and final"
    assert set(runner.statistics.compile_seconds) == {"segment", "final"}
    with compilations() as made:
        run(runner, [SHORT] * 40, range(40))
        run(runner, [replace(SHORT, learning_rate=0.3, noise=1.0, l2=2.0)], [7], seed=5)
        run(runner, [replace(SHORT, steps=77, patience=2.0, min_delta=0.5)], [0], interval=9)
        run(runner, [replace(SHORT, learning_rate=np.inf)] * 20, range(20), interval=1)
    assert made == []


def test_the_count_sees_a_compilation():
    with compilations() as made:
        jax.jit(lambda x: x * 3.0 + 1.25)(np.ones(7, np.float32))
    assert len(made) == 1


def test_other_statics_are_another_program():
    trials = [engine.trials_of([replace(SHORT, width=w)], [0], 0) for w in (3, 4)]
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
    statistics = runner.statistics
    assert statistics.busy_steps == 16 * 10 + 16 * 20
    assert statistics.lane_steps == statistics.segments * 16 * 10
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
    trial = engine.take(engine.trials_of([SHORT], [3], 0), 0)
    initial = quadratic().init(jax.tree.map(jnp.asarray, trial), None)
    np.testing.assert_array_equal(outcome.snapshot["x"], initial["x"])
    assert outcome.curve == []


def test_a_diverged_neighbour_changes_no_bit_and_frees_its_slot(nets):
    healthy = [replace(NET, patience=np.inf, l2=0.01 * i) for i in range(15)]
    alone = run(nets, healthy, range(15))
    for bad in (1e30, np.inf):
        before = nets.statistics.segments
        # The bad one goes first and shares the 16 slots; a late one must get its slot.
        late = replace(NET, patience=np.inf, dropout_rate=0.25)
        worse = replace(late, learning_rate=bad)
        mixed = run(nets, [worse, *healthy, late], [0, *range(15), 4])
        assert mixed[0].status == "DIVERGED"
        assert [mixed[i + 1].bits() for i in range(15)] == [alone[i].bits() for i in range(15)]
        assert mixed[16].bits() == run(nets, [late], [4])[0].bits()
        # 3 segments, and 1 more for the late one than its neighbours need; plus its own run's 3.
        assert nets.statistics.segments - before == 4 + 3


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


# Devices


def test_no_collectives_on_eight_devices():
    """The smoke task of the regularization experiment, compiled for eight devices."""
    setting = regularization.PRESETS["smoke"].config
    runner = engine_of(regularization.task(setting), setting, devices=8)
    words = (
        r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
    )
    for compiled in (runner._segment, runner._final):
        text = compiled.as_text()
        assert "fusion" in text
        assert re.findall(words, text) == []


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
    trial = engine.take(engine.trials_of([SHORT], [0], 0), 0)
    scalars = len(jax.tree.leaves(trial))
    # state, best and buffered best of width 3; the trial twice; watch (3) and status.
    expected = 4 * (3 * 3 + 2 * scalars + 3 + 1)
    assert device.bytes_per_slot(quadratic(), trial) == expected


def test_events_say_how_far_each_trial_advanced(quad):
    configs = [replace(SHORT, steps=4 + i) for i in range(30)]
    made = np.zeros(30, int)
    for boundary in quad.run(engine.trials_of(configs, range(30), 0), 10):
        if (event := boundary.evaluated) is not None:
            made[event.index] += event.advanced
            np.testing.assert_array_equal(made[event.index], event.step)
    assert made.tolist() == [c.steps for c in configs]
