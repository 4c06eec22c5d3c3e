"""A task's own stopping rule: its memory is the trial's, wherever the trial is trained."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ablax.config import BaseConfig, hparam, static
from ablax.engine.engine import Engine
from ablax.engine.mesh import mesh_of
from ablax.engine.slots import Status
from ablax.engine.trials import take, trials_of
from ablax.rundir.checkpoint import Checkpoints
from ablax.rundir.store import Store, read_parquet
from ablax.study import run as launched
from ablax.study import train as study
from ablax.study.manifest import Origin
from ablax.study.plan import make_plan
from ablax.task import StoppingRule
from tests.toys import engine_of, experiment, network, quadratic, run

INF = np.inf


class Config(BaseConfig):
    learning_rate: float = hparam(0.1, "rate", low=0)
    noise: float = hparam(0.5, "deviation of the gradient's noise", low=0)
    l2: float = hparam(0.0, "strength of the L2 penalty", low=0)
    dropout_rate: float = hparam(0.0, "rate", low=0, below=1)
    after: float = hparam(INF, "evaluations until the rule stops", low=0)
    budget: float = hparam(INF, "sum of training losses at which the rule stops", low=0)
    width: int = static(3, "size", low=1)
    activation: str = static("relu", "of the hidden layer", choices=("relu", "tanh"))


def observe(memory, trial, train, valid):
    memory = {
        "evaluations": memory["evaluations"] + 1,
        "spent": memory["spent"] + train["loss"],
        "seen": memory["seen"].at[0].set(valid["loss"]),  # an array, and what it sees
    }
    h = trial.hparams
    stop = memory["evaluations"].astype(jnp.float32) >= h.after
    return memory, stop | (memory["spent"] >= h.budget)


RULE = StoppingRule(
    {"evaluations": jnp.int32(0), "spent": jnp.float32(0), "seen": jnp.zeros(2)}, observe
)
SETTING = Config(steps=60, eval_every=5)


def task(setting=SETTING):
    return replace(quadratic(setting), stopping=RULE)


@pytest.fixture(scope="module")
def runner():
    return engine_of(task(), SETTING)


def stopping(count):
    """Trials that stop at many moments, and some that do not; the rest of them is alike."""
    afters = [1.0, 2.0, 5.0, INF, 3.0, INF, 8.0]
    return [replace(SETTING, after=afters[i % len(afters)]) for i in range(count)]


# When it stops


@pytest.mark.parametrize("interval", [1, 5, 7, 100])
def test_every_trial_stops_after_its_own_evaluations(runner, interval):
    """Most of 100 trials on 16 slots are refills: a memory that was left would stop them early."""
    configs = stopping(100)
    outcomes = run(runner, configs, range(100), interval=interval)
    boundaries = -(-60 // interval)
    for i, outcome in outcomes.items():
        stops = configs[i].after <= boundaries
        assert outcome.status == ("STOPPED" if stops else "DONE"), i
        assert outcome.steps == (min(configs[i].after * interval, 60) if stops else 60)
        assert len(outcome.curve) == min(configs[i].after, boundaries)
        values = [float(means["valid/loss"]) for _, means in outcome.curve]
        steps = [step for step, _ in outcome.curve]
        assert outcome.best_step == steps[int(np.argmin(values))], "what is kept stays the best"


def test_the_rule_sees_the_mean_loss_of_each_segment(runner):
    configs = [replace(SETTING, budget=b) for b in (0.5, 2.0, 5.0, 20.0)]
    outcomes = run(runner, configs * 10, range(40), interval=5)
    early = 0
    for i, outcome in outcomes.items():
        spent = np.cumsum([np.float32(means["train/loss"]) for _, means in outcome.curve])
        over = spent >= configs[i % 4].budget
        reached = bool(over.any())
        assert outcome.status == ("STOPPED" if reached else "DONE")
        assert outcome.steps == (outcome.curve[over.argmax()][0] if reached else 60)
        early += reached
    assert 0 < early < 40


def test_patience_and_the_rule_each_may_stop_a_trial(runner):
    configs = [replace(SETTING, after=a, patience=p) for a in (3.0, INF) for p in (2.0, INF)]
    trials = [(config, restart) for config in configs for restart in range(12)]
    outcomes = run(runner, *zip(*trials, strict=True), interval=5)
    steps = np.array([outcomes[i].steps for i in range(48)]).reshape(2, 2, 12)
    np.testing.assert_array_equal(steps[0, 0], np.minimum(steps[0, 1], steps[1, 0]))
    assert (steps[0, 1] == 15).all()
    assert (steps[1, 1] == 60).all()
    assert (steps[1, 0] < 60).any()


def test_a_diverged_trial_is_not_called_stopped(runner):
    """It evaluated once more as it diverged: that is no evaluation of the rule's."""
    configs = [replace(SETTING, learning_rate=rate, after=1.0) for rate in (3e38, 0.1)]
    outcomes = run(runner, configs * 8, range(16), interval=5)
    assert [o.status for o in outcomes.values()] == ["DIVERGED", "STOPPED"] * 8


def test_without_an_objective_the_rule_stops_at_the_last_state():
    runner = engine_of(replace(task(), objective=None), SETTING)
    for outcome in run(runner, [replace(SETTING, after=2.0)] * 4, range(4), interval=5).values():
        assert (outcome.status, outcome.steps, outcome.best_step) == ("STOPPED", 10, 10)


# Whose memory it is


@pytest.mark.parametrize("of", ["quadratic", "network"])
def test_stopping_leaves_the_bits_of_the_neighbours_alone(runner, of):
    if of == "network":
        runner = engine_of(replace(network(SETTING), stopping=RULE), SETTING)
    configs = stopping(48)
    quiet = run(runner, [replace(c, after=INF) for c in configs], range(48), interval=5)
    outcomes = run(runner, configs, range(48), interval=5)
    for i, outcome in outcomes.items():
        if configs[i].after == INF:
            assert outcome.bits() == quiet[i].bits(), i
        else:  # it is the beginning of the trial that did not stop
            assert len(outcome.curve) == configs[i].after
            beginning = quiet[i].curve[: len(outcome.curve)]
            for (step, means), (same, others) in zip(outcome.curve, beginning, strict=True):
                assert step == same
                for name, value in means.items():
                    assert value.tobytes() == others[name].tobytes()


def test_order_and_devices_change_nothing(runner):
    configs = stopping(40)
    whole = run(runner, configs, range(40), interval=5)
    backwards = run(runner, configs[::-1], range(39, -1, -1), interval=5)
    assert all(backwards[39 - i].bits() == whole[i].bits() for i in range(40))
    spread = run(engine_of(task(), SETTING, devices=2), configs, range(40), interval=5)
    assert all(spread[i].bits() == whole[i].bits() for i in range(40))


def test_a_parked_trial_goes_on_with_its_memory(runner):
    """As a halved one does: it stops after as many evaluations as one that was never parked."""
    example = take(trials_of([SETTING], [0], 0), 0)
    parking = Engine(task(), example, mesh_of(jax.devices()[:1]), 16, keep=True, park=True)
    configs = [replace(SETTING, after=after) for after in (3.0, 5.0, INF)] * 6
    whole = run(runner, configs, range(18), interval=5)
    slots = {}
    for boundary in parking.run(trials_of(configs, range(18), 0, [10] * 18), 5):
        if (ended := boundary.finished) is not None:
            slots |= {int(i): take(ended.parked, row) for row, i in enumerate(ended.index)}
    assert sorted(slots) == list(range(18))
    starts = {}
    for i, slot in slots.items():
        assert slot.memory["evaluations"] == 2
        child = take(trials_of([configs[i]], [i], 0), 0)
        running = np.int32(Status.RUNNING)
        starts[i] = slot._replace(trial=replace(child, step=slot.trial.step), status=running)
    for i, outcome in run(parking, configs, range(18), interval=5, starts=starts).items():
        expected = whole[i].status, whole[i].steps, whole[i].best_step
        assert (outcome.status, outcome.steps, outcome.best_step) == expected
    assert {outcome.steps for outcome in whole.values()} == {15, 25, 60}


# Interrupted


class Killed(BaseException):
    pass


def interrupted(directory, plan, at):
    """As kill −9 after a boundary of which there is a checkpoint."""
    calls, original = [], Engine._read

    def read(self, *arguments):
        result = original(self, *arguments)
        calls.append(1)
        if len(calls) == at:
            raise Killed
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_read", read)
        patch.setattr(Store, "compact", lambda *a, **k: None)
        patch.setattr(Checkpoints, "remove", Checkpoints.wait)
        with pytest.raises(Killed):
            launch(directory, plan, checkpoint_minutes=0)
    return len(calls)


def launch(directory, plan, **options):
    return study.train(plan, directory, keep="none", origin=Origin("the command"), **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(a plan, the run of it that was never interrupted)."""
    directory = tmp_path_factory.mktemp("whole")
    setting = replace(SETTING, after=(3.0, 7.0, INF), budget=(5.0, INF), noise=(1.0, 3.0))
    module = experiment(task, presets={})
    plan = make_plan(module, setting, restarts=4, seed=0, slots=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launched, "mesh_of", lambda: mesh_of(jax.devices()[:1]))
        result = launch(directory, plan)
    assert (result.trained, result.missing) == (48, 0)
    return plan, directory


def test_the_study_has_trials_of_every_kind(whole):
    _, directory = whole
    trials = read_parquet(directory / "trials.parquet")
    assert set(trials["status"]) == {"done", "stopped"}
    assert len(set(trials["steps"])) > 3
    assert (trials["steps"][trials["after"] == 3] <= 15).all()


@pytest.mark.parametrize("at", [2, 4, 6, 11, 16])
def test_interrupted_and_launched_again_it_gives_the_same_bytes(whole, tmp_path, monkeypatch, at):
    """With memories of many lengths in the checkpoint."""
    plan, directory = whole
    monkeypatch.setattr(launched, "mesh_of", lambda: mesh_of(jax.devices()[:1]))
    interrupted(tmp_path, plan, at)
    result = launch(tmp_path, plan)
    assert result.missing == 0
    for table in ("trials.parquet", "curves.parquet"):
        assert (tmp_path / table).read_bytes() == (directory / table).read_bytes(), table
