"""Noise that multiplies units: Gaussian beside Bernoulli's, and dropout of the features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ablax.nn.dropout import NOISES, dropout, gaussian_noise
from ablax.nn.mlp import MLP

N = 1 << 16
EVERY = pytest.mark.parametrize("noise", NOISES)
X = jax.random.normal(jax.random.key(7), (6, 5))


def multipliers(noise, rate, seed=0):
    return np.asarray(NOISES[noise](jax.random.key(seed), jnp.ones(N), rate), np.float64)


def test_the_noises_are_these():
    assert list(NOISES.items()) == [("bernoulli", dropout), ("gaussian", gaussian_noise)]


@EVERY
@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5, 0.8])
def test_mean_and_variance_are_those_of_dropout(noise, rate):
    """1 and rate / (1 − rate), whatever the distribution: that is what makes them comparable."""
    factor, variance = multipliers(noise, rate), rate / (1 - rate)
    assert abs(factor.mean() - 1) < 4 * np.sqrt(variance / N)
    fourth = stats.moment(factor, 4)  # the variance of a variance
    assert abs(factor.var() - variance) < 4 * np.sqrt((fourth - factor.var() ** 2) / N) + 1e-4


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.8])
def test_gaussian_noise_is_normal_and_drops_nothing(rate):
    factor = multipliers("gaussian", rate, seed=2)
    standard = (factor - 1) / np.sqrt(rate / (1 - rate))
    assert stats.kstest(standard, "norm").pvalue > 1e-3
    assert (factor != 0).all()
    assert len(np.unique(factor)) > N / 2


def test_gaussian_noise_multiplies():
    """So that it grows with the unit, and leaves a 0 and a sign's weight as they are."""
    x = jnp.asarray([0.0, 1.0, -1.0, 10.0, -1e3])
    key = jax.random.key(3)
    factor = gaussian_noise(key, jnp.ones(5), 0.5)
    np.testing.assert_allclose(gaussian_noise(key, x, 0.5), x * factor, rtol=1e-6)


@EVERY
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rate_zero_returns_x_to_the_bit(noise, dtype):
    x = jnp.asarray([1.1, -0.0, 0.0, np.inf, -np.inf, np.nan, 3e38, 1e-30, 0.3], dtype)
    for rate in (0.0, jnp.float32(0)):
        y = jax.jit(NOISES[noise])(jax.random.key(0), x, rate)
        assert y.dtype == dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@EVERY
def test_rates_and_keys_together_are_the_loop_in_one_program(noise):
    x = jax.random.normal(jax.random.key(0), (8, 5, 7))
    keys, rates, traces = jax.random.split(jax.random.key(1), 8), jnp.linspace(0, 0.9, 8), []

    @jax.jit
    @jax.vmap
    def lanes(key, x, rate):
        traces.append(None)
        return NOISES[noise](key, x, rate)

    together = lanes(keys, x, rates)
    alone = [NOISES[noise](k, a, float(r)) for k, a, r in zip(keys, x, rates, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    lanes(keys, x, rates / 2)
    assert len(traces) == 1


@EVERY
def test_keys_draw_their_own(noise):
    first, again, other = (multipliers(noise, 0.5, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.4


# In a network


def identity(noise="bernoulli", n=5):
    """A network that gives its features, as they are after whatever noise they got."""
    model = MLP((), n, noise=noise)
    return model, {"params": {"output": {"weight": jnp.eye(n), "bias": jnp.zeros(n)}}}


def hidden(noise, width=5):
    """Features above 0 through a hidden layer: relu(1 x), then 1 of that, with its noise."""
    model = MLP((width,), width, noise=noise)
    layer = {"weight": jnp.eye(width), "bias": jnp.zeros(width)}
    return model, {"params": {"hidden_0": layer, "output": layer}}


def in_training(model, variables, x, *rates, seed=0, **named):
    return model.apply(variables, x, *rates, rngs={"dropout": jax.random.key(seed)}, **named)


@EVERY
def test_hidden_units_get_the_noise_that_was_named(noise):
    model, variables = hidden(noise)
    x = jnp.ones((4000, 5))
    factor = np.asarray(in_training(model, variables, x, 0.5), np.float64)
    assert abs(factor.mean() - 1) < 0.05
    assert abs(factor.var() - 1) < 0.05
    values = np.unique(factor)
    if noise == "bernoulli":
        assert values.tolist() == [0, 2]
    else:
        assert len(values) > 10_000


def test_the_noise_is_bernoullis_unless_named():
    (model, variables), (named, _) = (MLP((5,), 5), hidden("bernoulli")[1]), hidden("bernoulli")
    x = jnp.abs(X)
    np.testing.assert_array_equal(
        in_training(model, variables, x, 0.5), in_training(named, variables, x, 0.5)
    )


@EVERY
@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_features_get_noise_at_a_rate_of_their_own(noise, rate):
    model, variables = identity(noise)
    x = jnp.ones((4000, 5))
    factor = np.asarray(in_training(model, variables, x, None, rate), np.float64)
    variance = rate / (1 - rate)
    assert abs(factor.mean() - 1) < 5 * np.sqrt(variance / factor.size)
    assert abs(factor.var() / variance - 1) < 0.05
    if noise == "bernoulli":
        assert abs((factor == 0).mean() - rate) < 0.02
        np.testing.assert_allclose(np.unique(factor), [0, 1 / (1 - rate)], rtol=1e-4)
        # Examples and features are dropped one by one, not together.
        assert np.abs(np.corrcoef(factor.T) - np.eye(5)).max() < 0.1
        assert (
            0.9 * rate < (factor == 0).mean(1).std() * np.sqrt(5 * rate / (1 - rate)) < 1.1 * rate
        )


@EVERY
@pytest.mark.parametrize("rates", [(0.0, 0.0), (0.0,), (0.0, None), (None, 0.0), (None, None)])
def test_a_rate_of_zero_is_off_to_the_bit(noise, rates):
    model = MLP((8, 4), 3, noise=noise)
    variables = model.init(jax.random.key(0), X)
    # Operation by operation: compiled as a whole, a factor of 1 may change how sums are ordered.
    np.testing.assert_array_equal(
        in_training(model, variables, X, *rates), model.apply(variables, X)
    )


def test_each_rate_is_of_its_own_layers():
    """(hidden, input): at input rate 0 the features are whole, at hidden rate 0 the units are."""
    model = MLP((5,), 5)
    layer = {"weight": jnp.eye(5), "bias": jnp.zeros(5)}
    shifted = {"weight": jnp.eye(5), "bias": jnp.ones(5)}
    variables = {"params": {"hidden_0": shifted, "output": layer}}
    x = jnp.full((200, 5), 3.0)
    of_units = np.unique(in_training(model, variables, x, 0.5, 0.0))
    of_features = np.unique(in_training(model, variables, x, 0.0, 0.5))
    assert of_units.tolist() == [0, 8]  # 2 (3 + 1): a dropped unit loses its bias too
    assert of_features.tolist() == [1, 7]  # 2 · 3 + 1: a dropped feature leaves it
    both = np.unique(in_training(model, variables, x, 0.5, 0.5))
    assert both.tolist() == [0, 2, 14]


def test_the_rate_of_features_may_be_traced():
    model, variables = identity()
    rates = jnp.linspace(0, 0.9, 4)
    together = jax.jit(jax.vmap(lambda rate: in_training(model, variables, X, None, rate)))(rates)
    for got, rate in zip(together, rates, strict=True):
        np.testing.assert_allclose(got, in_training(model, variables, X, None, rate), rtol=1e-6)


def test_evaluation_needs_no_key():
    model, variables = hidden("gaussian")
    np.testing.assert_array_equal(model.apply(variables, X), jax.nn.relu(X))
