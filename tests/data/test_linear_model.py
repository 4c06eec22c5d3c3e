"""Examples of a linear model: the coefficients, the noise, and what a key has in common."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ablax.data.linear_model import coefficients, linear_examples

KEY = jax.random.key(3)


def reference(keys, features: int, active: int, n: int, noise: float):
    """(β, x, y) in NumPy and float64, of the normal numbers of two keys: for β, for the rest."""
    beta_key, key = keys
    beta = np.float64(jax.random.normal(beta_key, (features,)))
    beta[active:] = 0
    beta /= np.sqrt((beta**2).sum())
    x_key, noise_key = jax.random.split(key)
    x = np.float64(jax.random.normal(x_key, (n, features)))
    return beta, x, x @ beta + noise * np.float64(jax.random.normal(noise_key, (n,)))


@pytest.mark.parametrize(("features", "active"), [(1, 1), (10, 3), (10, 10), (100, 5)])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_examples_are_those_of_the_formula(features, active, noise):
    keys = jax.random.split(KEY)
    beta = coefficients(keys[0], features, active / features)
    x, y = linear_examples(keys[1], beta, 40, noise)
    assert (x.shape, y.shape) == ((40, features), (40,))
    expected = reference(keys, features, active, 40, noise)
    for ours, theirs in zip((beta, x, y), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("features", [1, 3, 10, 100, 1000])
def test_a_share_is_counted_exactly_also_where_it_is_traced(features):
    drawn = jax.jit(jax.vmap(lambda active: coefficients(KEY, features, active)))
    count = np.arange(1, features + 1)
    betas = np.asarray(drawn(jnp.float32(count / features)))
    np.testing.assert_array_equal(betas != 0, np.arange(features) < count[:, None])
    np.testing.assert_allclose(np.linalg.norm(betas, axis=1), 1, rtol=1e-5)
    between = np.asarray(drawn(jnp.float32((count - 0.5) / features)))
    np.testing.assert_array_equal(between, betas)


def test_all_features_are_active_unless_a_share_is_asked_for():
    np.testing.assert_array_equal(coefficients(KEY, 20), coefficients(KEY, 20, 1.0))
    assert (coefficients(KEY, 20) != 0).all()


def test_features_and_noise_are_standard_normal_and_independent():
    beta = jnp.zeros(20).at[0].set(1.0)
    x, y = linear_examples(KEY, beta, 20_000, 0.5)
    noise = np.asarray(y - x[:, 0]) / 0.5
    columns = np.column_stack([x, noise])
    np.testing.assert_allclose(columns.mean(axis=0), 0, atol=5 / np.sqrt(20_000))
    np.testing.assert_allclose(np.cov(columns.T), np.eye(21), atol=6 / np.sqrt(20_000))


def test_a_key_has_the_same_features_and_noise_at_every_size_of_it():
    beta, other = coefficients(KEY, 8), coefficients(jax.random.key(4), 8)
    x, y = linear_examples(KEY, beta, 30, 0.5)
    for again, noise in [(beta, 1.0), (other, 0.5)]:
        x_again, y_again = linear_examples(KEY, again, 30, noise)
        np.testing.assert_array_equal(x_again, x)
        expected = x @ again + noise / 0.5 * (y - x @ beta)
        np.testing.assert_allclose(y_again, expected, atol=1e-5)
    assert not np.isin(linear_examples(jax.random.key(5), beta, 30)[0], x).any()
