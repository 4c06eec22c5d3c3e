"""Metrics of examples against scikit-learn; a Metric declares its direction."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from ablax.errors import UserError
from ablax.losses import mean, reduce
from ablax.metrics import (
    METRICS,
    Metric,
    absolute_error,
    accuracy,
    error,
    metric,
    one_hot,
    squared_error,
    worst_rank,
)

rng = np.random.default_rng(0)
SCORES = jnp.asarray(rng.normal(size=(50, 4)), jnp.float32)
TARGETS = jnp.asarray(rng.normal(size=(50, 4)), jnp.float32)
CLASSES = jnp.asarray(rng.integers(0, 4, 50))
BINARY = jnp.asarray(rng.integers(0, 2, 50))
PER_EXAMPLE = {
    "accuracy": (
        accuracy,
        CLASSES,
        lambda z, y: sklearn_metrics.accuracy_score(y, np.argmax(z, axis=1)),
    ),
    "error": (
        error,
        CLASSES,
        lambda z, y: sklearn_metrics.zero_one_loss(y, np.argmax(z, axis=1)),
    ),
    "squared_error": (
        squared_error,
        TARGETS,
        lambda p, y: sklearn_metrics.mean_squared_error(y, p),
    ),
    "absolute_error": (
        absolute_error,
        TARGETS,
        lambda p, y: sklearn_metrics.mean_absolute_error(y, p),
    ),
}
EVERY = pytest.mark.parametrize("name", PER_EXAMPLE)


@EVERY
def test_mean_is_scikit_learns(name):
    function, targets, reference = PER_EXAMPLE[name]
    expected = reference(np.asarray(SCORES), np.asarray(targets))
    np.testing.assert_allclose(mean(function(SCORES, targets)), expected, rtol=1e-5)


@EVERY
def test_one_float32_per_example_under_jit_and_vmap(name):
    function, targets, _ = PER_EXAMPLE[name]
    value = function(SCORES, targets)
    assert (value.shape, value.dtype) == ((50,), jnp.float32)
    np.testing.assert_allclose(jax.jit(jax.vmap(function))(SCORES, targets), value, rtol=1e-6)


@EVERY
def test_padding_changes_neither_sum_nor_count(name):
    function, targets, _ = PER_EXAMPLE[name]
    padded = jnp.concatenate([SCORES, jnp.full((14, 4), np.nan)])
    labels = jnp.concatenate([targets, targets[:14]])
    total, count = reduce(function(padded, labels), jnp.arange(64) < 50)
    np.testing.assert_allclose(total, reduce(function(SCORES, targets))[0], rtol=1e-6)
    assert count == 50


@EVERY
def test_targets_that_do_not_fit_are_refused(name):
    function, targets, _ = PER_EXAMPLE[name]
    with pytest.raises(UserError, match=r"expected .* got"):
        function(SCORES, targets[:-1])


@pytest.mark.parametrize("labels", [BINARY, 2 * BINARY - 1, BINARY[:, None], BINARY == 1])
def test_binary_accuracy_of_one_score_in_every_label_convention(labels):
    scores = SCORES[:, :1]
    expected = sklearn_metrics.accuracy_score(BINARY, np.asarray(scores[:, 0]) >= 0)
    np.testing.assert_allclose(mean(accuracy(scores, labels)), expected, rtol=1e-6)


def test_a_score_of_zero_counts_as_positive():
    assert accuracy(jnp.zeros((2, 1)), jnp.asarray([0, 1])).tolist() == [0, 1]


def test_labels_of_a_small_type_do_not_wrap():
    scores = one_hot(jnp.asarray([300]), 400)
    assert accuracy(scores, jnp.asarray([300 - 256], jnp.uint8)).tolist() == [0]


def test_one_hot_codes_are_the_unit_vectors():
    np.testing.assert_array_equal(one_hot(jnp.arange(5), 5), np.eye(5))
    codes = one_hot(jnp.asarray([[2, 0], [1, 1]]), 3)
    np.testing.assert_array_equal(codes, np.eye(3)[np.array([[2, 0], [1, 1]])])


def test_one_hot_labels_are_refused():
    with pytest.raises(UserError, match="one per example"):
        accuracy(SCORES, one_hot(CLASSES, 4))


@pytest.mark.parametrize(("direction", "good", "bad"), [("min", 0.1, 0.2), ("max", 0.2, 0.1)])
def test_better_follows_the_declared_direction(direction, good, bad):
    declared = Metric("loss", direction)  # whatever the name suggests
    assert declared.better(good, bad)
    assert not declared.better(bad, good)
    assert not declared.better(good, good)
    assert declared.better(good, bad, by=0.05)
    assert not declared.better(good, bad, by=0.15)
    assert declared.sign * good > declared.sign * bad
    assert declared.better(bad, declared.worst)


@pytest.mark.parametrize("direction", ["min", "max"])
def test_nan_is_never_better(direction):
    declared = Metric("loss", direction)
    a, b = jnp.asarray([np.nan, 0.0, np.nan]), jnp.asarray([0.0, np.nan, np.nan])
    assert not jax.jit(declared.better)(a, b).any()


def test_a_direction_must_be_one_of_two():
    with pytest.raises(UserError, match="unknown direction 'maximum'"):
        Metric("accuracy", "maximum")  # pyright: ignore[reportArgumentType]


def test_a_column_has_the_direction_of_its_metric():
    assert metric("valid/accuracy") == Metric("valid/accuracy", "max")
    assert metric("loss") == METRICS["loss"]
    with pytest.raises(UserError, match="unknown metric 'loss_of_something'"):
        metric("valid/loss_of_something")


@pytest.mark.parametrize(
    ("values", "failed", "sign", "expected"),
    [
        ([0.9, 0.2, 0.8], [0, 1, 0], 1, [0.9, 0.8, 0.8]),
        ([0.9, 0.2, 0.8], [0, 1, 0], -1, [0.9, 0.9, 0.8]),
        ([-3.0, 7.0, 2.0, 5.0], [0, 1, 0, 1], 1, [-3.0, -3.0, 2.0, -3.0]),
        ([-3.0, 7.0, 2.0, 5.0], [0, 1, 0, 1], -1, [-3.0, 2.0, 2.0, 2.0]),
        ([0.9, 0.2, 0.8], [0, 0, 0], 1, [0.9, 0.2, 0.8]),
        ([0.9, 0.2, 0.8], [1, 1, 1], 1, [math.nan] * 3),
        ([math.inf, math.nan, 0.8], [0, 1, 0], 1, [0.8, 0.8, 0.8]),
        ([math.nan, math.inf, -math.inf, 0.8, 2.0], [0] * 5, -1, [2.0, 2.0, 2.0, 0.8, 2.0]),
        ([math.inf, -math.inf], [0, 0], -1, [math.nan] * 2),
        ([], [], 1, []),
    ],
)
def test_the_failed_are_as_bad_as_the_worst(values, failed, sign, expected):
    array, flags = np.array(values), np.array(failed, bool)
    score = Metric("score", "max" if sign > 0 else "min")
    np.testing.assert_array_equal(worst_rank(array, flags, score), expected)
    np.testing.assert_array_equal(array, values, "the values are left as they are")
    np.testing.assert_array_equal(flags, np.array(failed, bool))
