"""Both passes through a deep network and its Jacobians: NumPy's in float64, and `jax.grad`'s."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from ablax.analysis.propagation import downwards, mean_singular_values, upwards
from ablax.nn import activation

N, INPUTS = 7, 5
FUNCTIONS = {  # (f, f')
    "identity": (lambda z: z, np.ones_like),
    "sigmoid": (expit, lambda z: expit(z) * (1 - expit(z))),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: np.float64(z > 0)),
}


def drawn(layers: int, seed: int = 0):
    """(weights, inputs, gradient above) in float64; rows, columns and layers are all unlike."""
    rng = np.random.default_rng(seed + layers)
    weights = rng.normal(size=(layers, N, N)) / np.sqrt(N)
    return weights, rng.normal(size=(N, INPUTS)), rng.normal(size=(N, INPUTS))


def single(*arrays):
    return [jnp.asarray(a, jnp.float32) for a in arrays]


def both(name: str, weights, x, last):
    activations, slopes = upwards(activation(name), weights, x)
    return activations, slopes, downwards(weights, slopes, last)


@pytest.mark.parametrize("layers", [1, 2, 6])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_both_passes_equal_numpy_in_float64(name, layers):
    f, slope = FUNCTIONS[name]
    weights, x, last = drawn(layers)
    a, slopes, gradients = [x], [], []
    for w in weights:
        z = w @ a[-1]
        a.append(f(z))
        slopes.append(slope(z))
    g = last
    for w, s in zip(weights[::-1], slopes[::-1], strict=True):
        gradients.insert(0, g * s)
        g = w.T @ (g * s)
    computed = both(name, *single(weights, x, last))
    for ours, theirs in zip(computed, (a[1:], slopes, gradients), strict=True):
        assert ours.shape == (layers, N, INPUTS)
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["tanh", "gelu", "selu"])
def test_gradients_are_those_of_jax(name):
    """The gradient of E = Σ g·aᴸ by a change of each z, through a network written out."""
    f = activation(name)
    weights, x, last = single(*drawn(4))

    def error(added):
        a = x
        for w, more in zip(weights, added, strict=True):
            a = f(w @ a + more)
        return (a * last).sum()

    expected = jax.grad(error)(jnp.zeros((4, N, INPUTS)))
    np.testing.assert_allclose(both(name, weights, x, last)[2], expected, rtol=2e-5, atol=1e-6)


def test_inputs_do_not_meet():
    """Each column by itself passes as it does beside the others."""
    weights, x, last = single(*drawn(3))
    together = both("tanh", weights, x, last)
    for i in range(INPUTS):
        alone = both("tanh", weights, x[:, i : i + 1], last[:, i : i + 1])
        for ours, theirs in zip(alone, together, strict=True):
            np.testing.assert_allclose(ours[..., 0], theirs[..., i], rtol=1e-5, atol=1e-6)


def test_networks_vmapped_are_the_loop():
    many = [np.stack(parts) for parts in zip(*(drawn(3, seed) for seed in range(4)), strict=True)]
    together = jax.jit(jax.vmap(lambda *parts: both("tanh", *parts)))(*single(*many))
    for i in range(4):
        alone = both("tanh", *single(*(part[i] for part in many)))
        for ours, theirs in zip(together, alone, strict=True):
            np.testing.assert_allclose(ours[i], theirs, rtol=1e-5, atol=1e-6)


# Jacobians


def test_mean_singular_values_are_numpys():
    """As near as so many random signs are: a variance of 2 Σ_{i≠j} √(JᵀJ)ᵢⱼ² / (4 probes · n²)."""
    rng, n, keys = np.random.default_rng(3), 20, jax.random.split(jax.random.key(0), 24)
    slopes = rng.uniform(0.1, 1, (3, n))
    weights = rng.normal(size=(3, n, n)) / slopes[:, None] / np.sqrt(n)
    estimate = jax.jit(lambda key: mean_singular_values(*single(weights, slopes), key))
    estimates = np.stack([estimate(key) for key in keys])
    for values, w, s in zip(estimates.T, weights, slopes, strict=True):
        _, singular, v = np.linalg.svd(w * s)
        root = (v.T * singular) @ v
        deviation = np.sqrt(2 * ((root**2).sum() - (np.diag(root) ** 2).sum()) / 4) / n
        bound = 4 * deviation / np.sqrt(len(keys))
        assert abs(values.mean() - singular.mean()) < bound
        assert 0.6 < values.std() / deviation < 1.5
        # With the slopes on the other side, or without them, it would be seen.
        for other in (w * s[:, None], w):
            mean = np.linalg.svd(other, compute_uv=False).mean()
            assert abs(mean - singular.mean()) > 2 * bound


def test_every_layer_has_probes_of_its_own():
    weights, slopes = np.random.default_rng(4).normal(size=(9, 9)), np.ones(9)
    twice = single(np.stack([weights] * 2), np.stack([slopes] * 2))
    first, second = mean_singular_values(*twice, jax.random.key(0))
    assert first != second


@pytest.mark.parametrize("shape", [(8, 8), (12, 8), (5, 8)])
def test_orthogonal_columns_leave_nothing_to_chance(shape):
    """JᵀJ is diagonal: every probe of ±1 gives its trace. n values, whatever the rows are."""
    m, n = shape
    weights = np.eye(m, n)[None]
    slopes = np.linspace(0.2, 1.6, n)[None]
    expected = np.pad(slopes[0][: min(m, n)], (0, n - min(m, n))).mean()
    value = mean_singular_values(*single(weights, slopes), jax.random.key(1))
    assert value.shape == (1,)
    np.testing.assert_allclose(value, [expected], rtol=1e-4)


def test_a_layer_that_passes_nothing_has_singular_value_0():
    weights = jnp.ones((2, 6, 6))
    slopes = jnp.stack([jnp.zeros(6), jnp.ones(6)])
    values = mean_singular_values(weights, slopes, jax.random.key(0))
    assert values[0] == 0
    assert values[1] > 0
