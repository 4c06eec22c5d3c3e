"""Validation on the training examples; the oracle, which sees the test split as well."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ablax.config import BaseConfig, hparam
from ablax.data import load, split
from ablax.metrics import ACCURACY, LOSS, Metric
from ablax.nn import Linear
from ablax.optimizers import of_trial
from ablax.tasks.supervised import supervised
from ablax.tasks.validation import Peeking, oracle, validate_on_training
from tests.experiments.studies import trial_of


class Config(BaseConfig):
    learning_rate: float = hparam(0.1, "constant", low=0)


@pytest.fixture(scope="module")
def usual():
    splits = split(load("iris"), seed=0)
    return supervised(Linear(3), splits, optimizer=of_trial("sgd"), batch_size=10)


@pytest.mark.parametrize("metric", [LOSS, ACCURACY])
def test_validation_has_the_metric_of_the_test_split_as_well(usual, metric):
    task, trial = oracle(usual, metric), trial_of(Config(), 2)
    data = {name: part for name, part in task.data.items() if name != "test"}
    seen, before = task.view(trial, data), usual.view(trial, usual.data)
    params = task.init(trial, seen).params
    sums = task.evaluate(params, trial, seen["valid"])
    peeked = sums.pop(f"peeked_{metric.name}")
    mine = usual.evaluate(params, trial, before["valid"])
    assert sums == mine
    x, y = np.float64(task.data["test"].x).reshape(30, -1), task.data["test"].y
    z = x @ np.float64(params["output"]["weight"]).T + np.float64(params["output"]["bias"])
    loss = np.log(np.exp(z).sum(axis=1)) - z[np.arange(30), y]
    values = {"loss": loss, "accuracy": z.argmax(axis=1) == y}
    np.testing.assert_allclose(peeked[0] / peeked[1], values[metric.name].mean(), rtol=1e-5)
    for part in ("train", "test"):
        held = usual.data["test"] if part == "test" else before[part]
        assert task.evaluate(params, trial, held) == usual.evaluate(params, trial, held)
    assert task.objective == Metric(f"peeked_{metric.name}", metric.direction)


def test_it_is_trained_as_before(usual):
    task, trial = oracle(usual, LOSS), trial_of(Config())
    ours, theirs = task.view(trial, task.data), usual.view(trial, usual.data)
    assert isinstance(ours["valid"], Peeking)
    a, b = task.init(trial, ours), usual.init(trial, theirs)
    (a, _), (b, _) = task.step(a, trial, ours), usual.step(b, trial, theirs)
    assert all(jax.tree.leaves(jax.tree.map(jnp.array_equal, a.params, b.params)))
    assert "peeked" not in usual.data
    assert (task.metrics, task.fingerprint) == (usual.metrics, usual.fingerprint)


def test_validation_on_training_is_of_the_examples_that_are_trained_on(usual):
    """Each restart validates on its own draw, which is that of the usual task."""
    task = validate_on_training(usual)
    for restart in (0, 3):
        trial = trial_of(Config(), restart)
        ours, theirs = task.view(trial, task.data), usual.view(trial, usual.data)
        assert ours["valid"] is ours["train"]
        a, b = (jax.tree.leaves(parts["train"]) for parts in (ours, theirs))
        assert all(map(jnp.array_equal, a, b))
    assert task.objective is None
    assert (task.metrics, task.fingerprint) == (usual.metrics, usual.fingerprint)
