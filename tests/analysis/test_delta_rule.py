"""The error terms: each against the derivative of the loss that it is said to descend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from ablax.analysis.delta_rule import (
    Line,
    logistic_error,
    perceptron_error,
    score,
    squared_error,
    update,
)
from ablax.losses import perceptron_loss, sigmoid_binary_cross_entropy
from ablax.nn.activations import ACTIVATIONS

N = 40
rng = np.random.default_rng(0)
WEIGHTS, BIASES = rng.normal(size=(N, 3)), rng.normal(size=N)
POINTS, TARGETS = rng.normal(size=(N, 3)) * 2, rng.integers(0, 2, N).astype(float)
FRACTIONS = rng.uniform(-1, 2, N)  # what squared errors may be asked to predict
H = (POINTS * WEIGHTS).sum(1) + BIASES


def single(values):
    return jnp.asarray(values, jnp.float32)


def lines():
    return Line(single(WEIGHTS), single(BIASES))


def errors(rule, targets=TARGETS):
    return jax.vmap(rule)(lines(), single(POINTS), single(targets))


def cross_entropy(line, x, y):
    return sigmoid_binary_cross_entropy(score(line, x), y)


def perceptron_objective(line, x, y):
    return perceptron_loss(score(line, x), 2 * y - 1)


def half_square(f):
    return lambda line, x, y: 0.5 * (y - f(score(line, x))) ** 2


IDENTITY, TANH = (lambda h: h), ACTIVATIONS["tanh"]
RULES = {
    # name: (rule, its loss in float32, targets, δ in float64)
    "perceptron": (
        perceptron_error, perceptron_objective, TARGETS, TARGETS - (H >= 0),
    ),
    "logistic": (logistic_error, cross_entropy, TARGETS, TARGETS - special.expit(H)),
    "squared, sigmoid": (
        squared_error, half_square(ACTIVATIONS["sigmoid"]), FRACTIONS,
        (FRACTIONS - special.expit(H)) * special.expit(H) * special.expit(-H),
    ),
    "squared, identity": (
        lambda line, x, y: squared_error(line, x, y, IDENTITY), half_square(IDENTITY), FRACTIONS,
        FRACTIONS - H,
    ),
    "squared, tanh": (
        lambda line, x, y: squared_error(line, x, y, TANH), half_square(TANH), FRACTIONS,
        (FRACTIONS - np.tanh(H)) * (1 - np.tanh(H) ** 2),
    ),
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", RULES)


@EVERY
def test_the_error_term_is_the_float64_reference(name):
    rule, _, targets, expected = RULES[name]
    np.testing.assert_allclose(errors(rule, targets), expected, rtol=1e-4, atol=2e-6)


@EVERY
def test_the_error_term_is_minus_the_derivative_of_its_loss_by_the_score(name):
    """The bias enters h with slope 1, so the derivative by it is that by h."""
    rule, loss, targets, _ = RULES[name]
    slopes = jax.vmap(jax.grad(loss))(lines(), single(POINTS), single(targets)).bias
    np.testing.assert_allclose(errors(rule, targets), -slopes, rtol=1e-5, atol=1e-6)


@EVERY
@pytest.mark.parametrize("rate", [0.0, 0.03, 1.0])
def test_an_update_is_a_step_of_gradient_descent(name, rate):
    rule, loss, targets, _ = RULES[name]
    x, y = single(POINTS), single(targets)
    slopes = jax.vmap(jax.grad(loss))(lines(), x, y)
    after = jax.vmap(lambda line, x, y: update(line, x, rule(line, x, y), rate))(lines(), x, y)
    np.testing.assert_allclose(
        after.weights, lines().weights - rate * slopes.weights, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(after.bias, lines().bias - rate * slopes.bias, rtol=1e-5, atol=1e-5)


def test_squared_errors_take_the_sigmoid_unless_told_otherwise():
    named = errors(lambda *at: squared_error(*at, ACTIVATIONS["sigmoid"]), FRACTIONS)
    np.testing.assert_array_equal(errors(squared_error, FRACTIONS), named)


@pytest.mark.parametrize(
    ("bias", "y", "error"),
    [
        (0.5, 1.0, 0.0),  # positive and called so
        (-0.5, 0.0, 0.0),  # negative and called so
        (-0.5, 1.0, 1.0),  # positive, called negative: towards it
        (0.5, 0.0, -1.0),  # negative, called positive: away from it
        (0.0, 1.0, 0.0),  # on the line: step(0) = 1, so a positive one is right
        (0.0, 0.0, -1.0),  # … and a negative one is wrong
    ],
)
def test_the_three_cases_of_the_perceptron(bias, y, error):
    line, x = Line(jnp.asarray([1.0, -2.0]), jnp.float32(bias)), jnp.asarray([2.0, 1.0])
    assert score(line, x) == bias
    assert perceptron_error(line, x, y) == error
    after = update(line, x, perceptron_error(line, x, y), 0.25)
    assert after.weights.tolist() == [1.0 + 0.5 * error, -2.0 + 0.25 * error]
    assert after.bias == bias + 0.25 * error
    # What was wrong has come nearer to its side, by α |(x, 1)|².
    assert score(after, x) == bias + 0.25 * error * 6


def test_on_the_line_a_logistic_unit_is_undecided():
    line = Line(jnp.zeros(2), jnp.float32(0))
    for y in (0.0, 1.0):
        assert logistic_error(line, jnp.ones(2), y) == y - 0.5
        assert squared_error(line, jnp.ones(2), y) == (y - 0.5) / 4


def test_squared_errors_do_not_move_a_saturated_unit_and_cross_entropy_does():
    line, x = Line(jnp.asarray([100.0]), jnp.float32(0)), jnp.ones(1)
    assert squared_error(line, x, 0.0) == 0
    assert logistic_error(line, x, 0.0) == -1


def test_the_score_of_several_points_is_that_of_each():
    line, x = jax.tree.map(lambda a: a[0], lines()), single(POINTS)
    together = score(line, x)
    assert together.shape == (N,)
    expected = POINTS @ WEIGHTS[0] + BIASES[0]
    np.testing.assert_allclose(together, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(together, [score(line, one) for one in x], rtol=1e-5, atol=1e-6)
