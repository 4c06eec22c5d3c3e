"""Early stopping, against a simulation in NumPy of what it should have done."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from ablax.metrics import Metric
from ablax.stopping import exhausted, observe, unwatched
from tests.toys import SHORT, engine_of, run, scripted

RNG = np.random.default_rng(0)
CURVES = np.cumsum(RNG.normal(size=(24, 61)), axis=1).astype(np.float32)
CURVES[3, 20] = np.nan  # an evaluation that is not finite never improves
CURVES[4, 10:] = np.nan
CURVES[5, 30] = np.inf
CURVES[6] = -np.arange(61)  # improves at every step
CURVES[7] = np.arange(61)  # never after the first
CURVES[8] = 0.25  # ties


def simulate(curve, *, steps, interval, patience, min_delta, sign):
    """(status, steps, best step): the rule, in plain Python."""
    best, best_step, stale, step = -np.inf, 0, 0, 0
    while True:
        step = min(step + interval, steps)
        value = sign * curve[step]
        if np.isfinite(value) and value - best > min_delta:
            best, best_step, stale = value, step, 0
        else:
            stale += 1
        if stale >= patience:
            return "STOPPED", step, best_step
        if step == steps:
            return "DONE", step, best_step


@pytest.fixture(scope="module", params=["min", "max"])
def direction(request):
    metric = Metric("score", request.param)
    return metric.sign, engine_of(scripted(CURVES, metric))


@pytest.mark.parametrize(("steps", "interval"), [(60, 10), (57, 4), (5, 10), (60, 1)])
@pytest.mark.parametrize(("patience", "min_delta"), [(1.0, 0.0), (3.0, 0.5), (np.inf, 0.0)])
def test_engine_stops_when_the_simulation_does(direction, steps, interval, patience, min_delta):
    sign, runner = direction
    setting = replace(SHORT, steps=steps, patience=patience, min_delta=min_delta)
    outcomes = run(runner, [setting] * 24, range(24), interval=interval)
    for restart, outcome in outcomes.items():
        curve = CURVES[restart]
        expected = simulate(
            curve, steps=steps, interval=interval, patience=patience, min_delta=min_delta, sign=sign
        )
        assert (outcome.status, outcome.steps, outcome.best_step) == expected, restart
        # The snapshot is that of best_step, and measuring it again gives the best value.
        assert outcome.snapshot["step"] == outcome.best_step
        np.testing.assert_array_equal(outcome.measured["test/score"], curve[outcome.best_step])
        if outcome.best_step:
            values = dict(outcome.curve)
            assert values[outcome.best_step]["valid/score"] == curve[outcome.best_step]


def test_protocol_differs_from_slot_to_slot(direction):
    """Patience, horizon and min delta are data: every slot has its own."""
    sign, runner = direction
    configs = [
        replace(SHORT, steps=20 + i, patience=float(1 + i % 4), min_delta=0.3 * (i % 3))
        for i in range(24)
    ]
    for i, outcome in run(runner, configs, range(24), interval=5).items():
        c = configs[i]
        expected = simulate(
            CURVES[i], steps=c.steps, interval=5, patience=c.patience,
            min_delta=np.float32(c.min_delta), sign=sign,
        )  # fmt: skip
        assert (outcome.status, outcome.steps, outcome.best_step) == expected


def test_without_objective_the_last_state_is_kept():
    runner = engine_of(scripted(CURVES, None))
    setting = replace(SHORT, steps=57, patience=1.0)
    for outcome in run(runner, [setting] * 24, range(24)).values():
        assert (outcome.status, outcome.steps, outcome.best_step) == ("DONE", 57, 57)
        assert outcome.snapshot["step"] == 57


@pytest.mark.parametrize("objective", [None, Metric("score", "min")])
def test_a_solved_trial_stops(objective):
    task = scripted(CURVES, objective, solved=lambda means: means["score"] < -6.0)
    outcomes = run(engine_of(task), [replace(SHORT, steps=60)] * 24, range(24))
    solved = 0
    for restart, outcome in outcomes.items():
        below = [s for s in range(10, 61, 10) if CURVES[restart, s] < -6.0]
        assert outcome.steps == (below[0] if below else 60)
        assert outcome.status == ("STOPPED" if below else "DONE")
        solved += bool(below)
        if below:
            assert outcome.best_step == below[0]
    assert 0 < solved < 24


def test_anything_finite_improves_on_nothing():
    for direction in ("min", "max"):
        metric = Metric("score", direction)
        for value in (3.4e38, -3.4e38, 0.0):
            watch, improved = observe(
                unwatched(metric), jnp.float32(value), jnp.int32(7),
                metric=metric, min_delta=jnp.float32(1.0),
            )  # fmt: skip
            assert improved
            assert (watch.best_value, watch.best_step, watch.stale) == (np.float32(value), 7, 0)
        for value in (np.nan, np.inf, -np.inf):
            watch, improved = observe(
                unwatched(metric), jnp.float32(value), jnp.int32(7),
                metric=metric, min_delta=jnp.float32(0.0),
            )  # fmt: skip
            assert not improved
            assert (watch.best_step, watch.stale) == (0, 1)


def test_patience_counts_evaluations():
    watch = unwatched(Metric("score", "min"))._replace(stale=jnp.int32(3))
    assert [bool(exhausted(watch, jnp.float32(p))) for p in (2, 3, 4, np.inf)] == [
        True, True, False, False,
    ]  # fmt: skip
