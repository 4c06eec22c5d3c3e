"""Backpropagation by hand: against `jax.grad`, against NumPy in float64, and the notes' example."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from ablax.analysis.backpropagation import Layer, error_terms, forward, passed_on, weight_steps

SIZES = {
    1: (3, 2),
    2: (4, 1, 3),
    3: (2, 5, 4, 1),
    4: (1, 3, 3, 3, 2),
    5: (6, 2, 5, 1, 4, 3),
    6: (3, 4, 5, 6, 5, 4, 2),
}
"""{layers: (inputs, …, outputs)}: no two neighbours alike, so that no transpose goes unnoticed."""
DEPTHS = pytest.mark.parametrize("depth", SIZES)


def arrays(depth, scale=1.0, seed=0):
    """([(weights, bias)], x, y) in float64."""
    rng, sizes = np.random.default_rng(seed + depth), SIZES[depth]
    layers = [
        (scale * rng.normal(size=(n_out, n_in)), scale * rng.normal(size=n_out))
        for n_in, n_out in itertools.pairwise(sizes)
    ]
    return layers, rng.normal(size=sizes[0]), rng.uniform(size=sizes[-1])


def network(depth, **how):
    layers, x, y = arrays(depth, **how)
    layers = [Layer(jnp.asarray(w, jnp.float32), jnp.asarray(b, jnp.float32)) for w, b in layers]
    return layers, jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def backward(layers, x, y):
    activations = forward(layers, x)
    return activations, error_terms(layers, activations, y)


def half_squares(layers, x, y):
    """Written without `forward`."""
    for layer in layers:
        x = jax.nn.sigmoid(layer.weights @ x + layer.bias)
    return 0.5 * jnp.sum((y - x) ** 2)


@DEPTHS
def test_activations_and_error_terms_equal_numpy_in_float64(depth):
    layers, x, y = arrays(depth)
    expected = [x]
    for weights, bias in layers:
        expected.append(expit(weights @ expected[-1] + bias))
    deltas = [(y - expected[-1]) * expected[-1] * (1 - expected[-1])]
    for (weights, _), a in zip(layers[:0:-1], expected[-2:0:-1], strict=True):
        deltas.insert(0, (weights.T @ deltas[0]) * a * (1 - a))
    activations, terms = backward(*network(depth))
    assert (len(activations), len(terms)) == (depth + 1, depth)
    for got, wanted in zip(activations, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    for got, wanted in zip(terms, deltas, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-7)


@DEPTHS
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_the_steps_are_minus_the_rate_times_the_gradient(depth, rate):
    layers, x, y = network(depth)
    activations, terms = backward(layers, x, y)
    steps = weight_steps(activations, terms, rate)
    gradient = jax.grad(half_squares)(layers, x, y)
    assert len(steps) == depth
    for step, layer, slope in zip(steps, layers, gradient, strict=True):
        assert jax.tree.map(jnp.shape, step) == jax.tree.map(jnp.shape, layer)
        np.testing.assert_allclose(step.weights, -rate * slope.weights, rtol=1e-4, atol=1e-8)
        np.testing.assert_allclose(step.bias, -rate * slope.bias, rtol=1e-4, atol=1e-8)


@DEPTHS
def test_an_error_term_is_minus_the_derivative_by_what_the_layer_adds_up(depth):
    """By finite differences in float64: h of one layer shifted, all after it recomputed."""
    layers, x, y = arrays(depth)
    _, terms = backward(*network(depth))

    def loss(shifted, shift):
        a = x
        for number, (weights, bias) in enumerate(layers):
            a = expit(weights @ a + bias + (shift if number == shifted else 0.0))
        return 0.5 * ((y - a) ** 2).sum()

    for number, term in enumerate(terms):
        for unit in range(len(term)):
            shift = 1e-5 * np.eye(len(term))[unit]
            slope = (loss(number, shift) - loss(number, -shift)) / 2e-5
            np.testing.assert_allclose(term[unit], -slope, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 4.0])
def test_a_sigmoid_lets_at_most_a_quarter_pass(depth, scale):
    layers, x, y = network(depth, scale=scale)
    if not scale:  # σ(0) = ½ everywhere, where σ' is largest; the weights must pass something
        ones = [jnp.ones_like(weights) for weights, _ in layers[1:]]
        layers = [layers[0], *(Layer(w, -w.sum(axis=1) / 2) for w in ones)]
    _, terms = backward(layers, x, y)
    shares = passed_on(layers, terms)
    assert len(shares) == depth - 1
    for share, below, layer, above in zip(shares, terms, layers[1:], terms[1:], strict=False):
        reached = np.asarray(layer.weights, float).T @ np.asarray(above, float)
        expected = np.linalg.norm(np.asarray(below, float)) / np.linalg.norm(reached)
        np.testing.assert_allclose(share, expected, rtol=1e-4)
        assert 0 < share <= 0.25 * (1 + 1e-6)
        if not scale:
            np.testing.assert_allclose(share, 0.25, rtol=1e-5)


def test_one_layer_passes_nothing_on():
    layers, x, y = network(1)
    assert passed_on(layers, backward(layers, x, y)[1]) == []


def test_a_perfect_output_has_no_error():
    layers, x, _ = network(3)
    activations = forward(layers, x)
    for term in error_terms(layers, activations, activations[-1]):
        assert (term == 0).all()


def test_the_worked_example_of_the_notes():
    """Two inputs, a hidden unit, an output, no biases: 0.1·0.4 − 0.3·0.2 = −0.02, …"""
    layers = [
        Layer(jnp.asarray([[0.4, -0.2]]), jnp.zeros(1)),
        Layer(jnp.asarray([[0.1]]), jnp.zeros(1)),
    ]
    x = jnp.asarray([0.1, 0.3])
    activations, (hidden, output) = backward(layers, x, jnp.ones(1))
    a, y_hat = expit(-0.02), expit(0.1 * expit(-0.02))
    delta = (1 - y_hat) * y_hat * (1 - y_hat)
    below = 0.1 * delta * a * (1 - a)
    np.testing.assert_allclose(activations[0], x)
    np.testing.assert_allclose([activations[1][0], activations[2][0]], [a, y_hat], rtol=1e-6)
    np.testing.assert_allclose([output[0], hidden[0]], [delta, below], rtol=1e-5)
    assert [round(float(v), 3) for v in (a, y_hat, delta, below)] == [0.495, 0.512, 0.122, 0.003]
    first, last = weight_steps(activations, [hidden, output], 0.5)
    np.testing.assert_allclose(last.weights, [[0.5 * delta * a]], rtol=1e-5)
    np.testing.assert_allclose(first.weights, [[0.05 * below, 0.15 * below]], rtol=1e-5)
    np.testing.assert_allclose([first.bias[0], last.bias[0]], [below / 2, delta / 2], rtol=1e-5)


def test_steps_along_the_gradient_lower_the_error():
    layers, x, y = network(3)
    before = half_squares(layers, x, y)
    for _ in range(200):
        activations, terms = backward(layers, x, y)
        layers = jax.tree.map(jnp.add, layers, weight_steps(activations, terms, 0.5))
    assert half_squares(layers, x, y) < before / 2
