"""Prechelt's criteria, against a simulation in plain Python of his definitions."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from ablax.config import BaseConfig, hparam
from ablax.metrics import Metric
from ablax.stopping import STRIP, generalization_loss, prechelt, training_progress
from tests.toys import engine_of, run, scripted

INF, STEPS = np.inf, 90
ERROR = Metric("score", "min")


class Config(BaseConfig):
    gl: float = hparam(INF, "percent", low=0)
    pq: float = hparam(INF, "quotient", low=0)
    up: float = hparam(INF, "strips", low=1)


OFF = Config(steps=STEPS, eval_every=1)
rng = np.random.default_rng(0)
AT = np.arange(STEPS + 1) / STEPS
VALID = (  # they fall, and rise or not, some smoothly and some not
    0.4
    + rng.uniform(0.1, 1, (24, 1)) * np.exp(-rng.uniform(2, 20, (24, 1)) * AT)
    + rng.uniform(-0.2, 0.6, (24, 1)) * AT**2
    + rng.uniform(0, 0.08, (24, 1)) * rng.uniform(size=(24, STEPS + 1))
).astype(np.float32)
TRAIN = (
    0.05
    + rng.uniform(0.1, 2, (24, 1)) * np.exp(-rng.uniform(1, 12, (24, 1)) * AT)
    + 0.02 * rng.uniform(size=(24, STEPS + 1))
).astype(np.float32)
VALID[0] = np.linspace(1, 2, STEPS + 1)  # worse from the start
VALID[1] = np.linspace(2, 1, STEPS + 1)  # better to the end
VALID[2] = 0.25  # neither
TRAIN[3] = 0.5  # no progress at all


def task_of(strip):
    """`scripted`, with a training error that follows a script too."""
    task = scripted(VALID, ERROR)

    def step(state, trial, data):
        at = state["step"].astype(jnp.int32)
        return {"step": state["step"] + 1.0}, {"loss": data["train"]["losses"][trial.restart, at]}

    train = {**task.data["train"], "losses": TRAIN}
    return replace(
        task,
        step=step,
        evaluate=lambda variables, trial, part: task.evaluate(
            variables, trial, {"curves": part["curves"]}
        ),
        data={**task.data, "train": train},
        stopping=prechelt(ERROR, strip),
    )


def simulate(valid, train, setting, interval, strip):
    """(status, steps, best step), from lists of all that was seen so far."""
    va, tr, ends = [], [], []  # errors of each evaluation; E_va at the end of each strip
    step = 0
    while True:
        before, step = step, min(step + interval, setting.steps)
        va.append(float(valid[step]))
        tr.append(float(np.mean(train[before:step], dtype=np.float64)))
        gl = 100 * (va[-1] / min(va) - 1)
        stop = gl > setting.gl
        if len(va) % strip == 0:
            ends.append(va[-1])
            last = tr[-strip:]
            progress = 1000 * (sum(last) / (strip * min(last)) - 1)
            stop |= setting.pq < INF and gl > setting.pq * progress
            s = setting.up
            rose = [b > a for a, b in itertools.pairwise(ends)]
            stop |= s < INF and len(rose) >= s and all(rose[-int(s) :])
        best = min(range(len(va)), key=lambda i: (va[i], i))
        if stop or step == setting.steps:
            return "STOPPED" if stop else "DONE", step, min((best + 1) * interval, setting.steps)


@pytest.fixture(scope="module", params=[5, 3, 2])
def runner(request):
    return request.param, engine_of(task_of(request.param), OFF)


THRESHOLDS = {
    "off": [{}],
    "GL": [{"gl": 0.0}, {"gl": 2.0}, {"gl": 10.0}, {"gl": 40.0}],
    "PQ": [{"pq": 0.02}, {"pq": 0.1}, {"pq": 1.0}],
    "UP": [{"up": 1.0}, {"up": 2.0}, {"up": 3.0}],
    "all": [{"gl": 20.0, "pq": 0.3, "up": 2.0}, {"gl": 5.0, "pq": 0.1, "up": 3.0}],
}


@pytest.mark.parametrize("criterion", THRESHOLDS)
@pytest.mark.parametrize(("steps", "interval"), [(90, 1), (57, 4)])
def test_the_engine_stops_when_the_definitions_say(runner, criterion, steps, interval):
    strip, engine = runner
    settings = [replace(OFF, steps=steps, **thresholds) for thresholds in THRESHOLDS[criterion]]
    trials = [(setting, restart) for setting in settings for restart in range(24)]
    configs, restarts = zip(*trials, strict=True)
    stopped = 0
    for index, outcome in run(engine, configs, restarts, interval=interval).items():
        setting, restart = trials[index]
        expected = simulate(VALID[restart], TRAIN[restart], setting, interval, strip)
        assert (outcome.status, outcome.steps, outcome.best_step) == expected, trials[index]
        # Whatever stopped it, what is kept is the best that validation saw.
        assert outcome.snapshot["step"] == outcome.best_step
        stopped += outcome.status == "STOPPED"
    if criterion == "off":
        assert stopped == 0
    else:
        assert 0 < stopped < len(trials), "the curves must show both"


def test_patience_stops_beside_a_criterion(runner):
    _, engine = runner
    settings = [
        replace(OFF, patience=2.0),
        replace(OFF, gl=5.0),
        replace(OFF, gl=5.0, patience=2.0),
    ]
    alone, criterion, both = (run(engine, [s] * 24, range(24), interval=1) for s in settings)
    for restart in range(24):
        first = min(alone[restart].steps, criterion[restart].steps)
        assert both[restart].steps == first
    assert any(alone[r].steps < criterion[r].steps for r in range(24))
    assert any(alone[r].steps > criterion[r].steps for r in range(24))


# The quantities


def test_generalization_loss_is_the_rise_above_the_best_in_percent():
    assert generalization_loss(0.5, 0.5) == 0
    error, best = rng.uniform(0.5, 2, 20), rng.uniform(0.1, 0.5, 20)
    got = [
        generalization_loss(jnp.float32(e), jnp.float32(b))
        for e, b in zip(error, best, strict=True)
    ]
    np.testing.assert_allclose(got, 100 * (error - best) / best, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_training_progress_is_how_far_the_mean_is_above_the_least_in_permille(k):
    errors = rng.uniform(0.5, 2, k)
    expected = 1000 * (errors.mean() - errors.min()) / errors.min()
    got = training_progress(jnp.asarray(errors, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)
    assert training_progress(jnp.full(k, 0.5)) == 0


def test_an_objective_to_be_maximized_is_refused():
    with pytest.raises(ValueError, match=r"to be minimized, got .*accuracy"):
        prechelt(Metric("accuracy", "max"))


# The rule by itself


def observed(thresholds, errors, losses=None, strip=STRIP):
    """At which evaluations the rule says to stop."""
    rule = prechelt(ERROR, strip)
    limits = {"gl": INF, "pq": INF, "up": INF} | thresholds
    trial = SimpleNamespace(
        hparams=SimpleNamespace(**{k: jnp.float32(v) for k, v in limits.items()})
    )
    memory, stops = rule.start, []
    for error, loss in zip(errors, losses or [1.0] * len(errors), strict=True):
        memory, stop = rule.observe(
            memory, trial, {"loss": jnp.float32(loss)}, {"score": jnp.float32(error)}
        )
        stops.append(bool(stop))
    return [number for number, stop in enumerate(stops, 1) if stop]


@pytest.mark.parametrize("thresholds", [{"gl": 3.0}, {"pq": 0.01}, {"up": 1.0}])
def test_the_first_evaluation_stops_nothing(thresholds):
    assert observed(thresholds, [1e30]) == []
    assert observed(thresholds, [1e-30], strip=1) == []


def test_thresholds_are_exceeded_not_reached():
    """GL of 25% exactly, and UP's s strips, which are a count and are reached."""
    assert observed({"gl": 25.0}, [1.0, 1.25, 1.251]) == [3]
    assert observed({"up": 2.0}, [1.0, 2.0, 3.0], strip=1) == [3]
    assert observed({"up": 1.0}, [1.0, 1.0, 1.0], strip=1) == []


def test_a_strip_that_does_not_rise_starts_the_count_again():
    assert observed({"up": 2.0}, [1, 2, 1.5, 1.6, 1.4, 1.5, 1.6], strip=1) == [7]


def test_only_the_ends_of_strips_count_for_up():
    errors = [1, 9, 2, 9, 1.5, 0.1, 1.6, 0.1]  # the ends of strips of 2 are 9, 9, 0.1, 0.1
    assert observed({"up": 1.0}, errors, strip=2) == []
    assert observed({"up": 1.0}, [*errors[1:], 0.2], strip=2) == [6]


def test_without_progress_any_rise_exceeds_the_quotient():
    rising = [1.0, 1.0, 1.0, 1.0, 1.01]
    assert observed({"pq": 100.0}, rising, [0.5] * 5) == [5]
    assert observed({"pq": INF}, rising, [0.5] * 5) == []
    assert observed({"pq": 100.0}, [1.0] * 5, [0.5] * 5) == []


def test_an_error_that_is_not_a_number_is_passed_over():
    """As by the watch, which keeps the best: the criteria go on with what they know."""
    assert observed({"gl": 10.0}, [1.0, np.nan, 1.05, 1.2]) == [4]
