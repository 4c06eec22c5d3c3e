"""Descent on the loss of a whole split: against descent written out in NumPy and float64."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ablax import optimizers
from ablax.metrics import LOSS, Metric
from ablax.task import Trial, at_step
from ablax.tasks.full_batch import full_batch

RNG = np.random.default_rng(0)
SIZES = {"train": 9, "valid": 5}
DATA = {name: (RNG.normal(size=(n, 3)), RNG.normal(size=n)) for name, n in SIZES.items()}
SPLITS = jax.tree.map(jnp.float32, DATA)


@dataclass(frozen=True)
class Hparams:
    learning_rate: float = 0.1
    momentum: float = 0.5
    l2: float = 0.3


jax.tree_util.register_dataclass(Hparams)


def trial_of(steps: int = 10) -> Trial:
    one = jnp.int32(steps)
    hparams = jax.tree.map(jnp.float32, Hparams())
    return Trial(hparams, jnp.uint32(0), jnp.int32(0), jnp.int32(0), one, one)


def mse(params, split):
    x, y = split
    return jnp.square(x @ params["w"] - y).mean()


def l2(params, h):
    return h.l2 * jnp.square(params["w"]).sum()


def task_of(**changes):
    parts = {
        "init": lambda trial: {"w": jnp.arange(3, dtype=jnp.float32)},
        "optimizer": optimizers.of_trial("momentum", "linear"),
    }
    return full_batch(mse, **{**parts, "data": DATA, **changes})


@pytest.mark.parametrize("penalty", [None, l2])
def test_steps_are_those_of_the_formula(penalty):
    task, trial, (x, y) = task_of(penalty=penalty), trial_of(), DATA["train"]
    state, step = task.init(trial, SPLITS), jax.jit(task.step)
    w, v = np.arange(3.0), np.zeros(3)
    for n in range(10):
        error = x @ w - y
        state, metrics = step(state, at_step(trial, jnp.int32(n)), SPLITS)
        np.testing.assert_allclose(metrics["loss"], np.mean(error**2), rtol=1e-5)  # no penalty
        slope = 2 * x.T @ error / len(y) + (0 if penalty is None else 2 * 0.3 * w)
        v = 0.5 * v - 0.1 * (1 - n / 10) * slope
        w = w + v
        np.testing.assert_allclose(task.snapshot(state)["w"], w, rtol=1e-4, atol=1e-6)
    for name, (x, y) in DATA.items():
        total, count = task.evaluate(task.snapshot(state), trial, SPLITS[name])["loss"]
        np.testing.assert_allclose(total / count, np.mean((x @ w - y) ** 2), rtol=1e-4)


def test_the_last_parameters_count_under_the_name_of_the_metric():
    assert (task_of().objective, task_of().metrics) == (None, (LOSS,))
    metric = Metric("mse", "min")
    task = task_of(metric=metric)
    assert task.metrics == (metric,)
    params = {"w": jnp.zeros(3)}
    assert task.evaluate(params, trial_of(), SPLITS["valid"]).keys() == {"mse"}


def test_any_part_of_the_task_can_be_another():
    measure, view = (lambda params, trial: {}), (lambda trial, data: data)
    task = task_of(measure=measure, view=view, objective=LOSS, notes=("a note",))
    assert (task.measure, task.view, task.data) == (measure, view, DATA)
    assert (task.objective, task.notes) == (LOSS, ("a note",))
    with pytest.raises(TypeError, match="penalties"):
        task_of(penalties=l2)
