"""Evenness of the drops, and one pass against the average over masks: NumPy's in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ablax.nn.dropout import agreement, drop_spread, dropout, keep_probability
from ablax.nn.mlp import MLP


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.75])
def test_units_are_dropped_as_evenly_as_by_fair_draws(rate):
    spread = jax.jit(drop_spread)
    spreads = [float(spread(jax.random.key(seed), rate)) for seed in range(3)]
    assert all(0.9 < value < 1.1 for value in spreads)
    assert len(set(spreads)) == 3


@pytest.mark.parametrize(("rate", "units", "masks"), [(0.3, 7, 40), (0.75, 50, 3)])
def test_spread_is_numpys_variance_over_the_binomial_one(rate, units, masks):
    key = jax.random.key(1)
    drops = np.asarray(dropout(key, jnp.ones((masks, units)), rate)) == 0
    counts = drops.sum(axis=0).astype(np.float64)
    variance = np.square(counts - counts.mean()).sum() / (units - 1)
    q = 1 - float(keep_probability(rate))
    spread = drop_spread(key, rate, units=units, masks=masks)
    np.testing.assert_allclose(spread, variance / (masks * q * (1 - q)), rtol=1e-4)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        # A unit's number of drops has the variance of its rate, and that between the rates.
        ((0.4, 0.5), (0.24 + 0.25) / 2 / 0.25 + 500 * 0.05**2 / 0.25),
        ((0.5, 0.5), 1.0),
    ],
)
def test_a_unit_that_is_dropped_more_often_is_seen(rates, expected, monkeypatch):
    def unfair(key, x, rate):
        """The first half of the units is dropped at one rate, the second at the other."""
        halves = jnp.split(dropout(key, x, rates[0]), 2, axis=1)[0]
        return jnp.concatenate([halves, jnp.split(dropout(key, x, rates[1]), 2, axis=1)[1]], axis=1)

    monkeypatch.setattr("ablax.nn.dropout.dropout", unfair)
    spread = float(drop_spread(jax.random.key(0), 0.5))
    np.testing.assert_allclose(spread, expected, rtol=0.1)


def test_nothing_dropped_has_no_spread():
    assert np.isnan(drop_spread(jax.random.key(0), 0.0))


# One pass and the average


def softmax(z: np.ndarray) -> np.ndarray:
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("rate", [0.2, 0.7, 0.9])
def test_agreement_is_that_of_numpy(rate):
    """The agreement of linear scores, whose masks are the same function of the keys."""
    key, n, draws, features, classes = jax.random.key(3), 200, 5, 4, 3
    w = np.random.default_rng(0).normal(size=(features, classes))

    def scores(x, rate=None, rngs=None):
        x = x if rngs is None else dropout(rngs["dropout"], x, rate)
        return x @ jnp.asarray(w, jnp.float32)

    first, *masks = jax.random.split(key, draws + 1)
    x = np.asarray(jax.random.uniform(first, (n, features)))
    thinned = [np.asarray(dropout(mask, jnp.asarray(x), rate), np.float64) for mask in masks]
    average = np.mean([softmax(dropped @ w) for dropped in thinned], axis=0)
    expected = np.mean(average.argmax(axis=1) == (np.float64(x) @ w).argmax(axis=1))
    assert 0.3 < expected < 1
    share = jax.jit(
        lambda key: agreement(scores, (rate,), key, (features,), examples=n, draws=draws)
    )(key)
    np.testing.assert_allclose(share, expected, atol=1.5 / n)


def test_probabilities_are_averaged_and_not_scores():
    """Nine networks in ten prefer class 1 by little, the tenth class 0 by far."""

    def scores(x, rate=None, rngs=None):
        if rngs is None:
            return jnp.tile(jnp.array([0.0, 1.0]), (len(x), 1))
        rare = jax.random.bernoulli(rngs["dropout"], 0.1)
        return jnp.tile(jnp.where(rare, jnp.array([1e3, 0.0]), jnp.array([0.0, 1.0])), (len(x), 1))

    assert agreement(scores, (0.5,), jax.random.key(0), (2,), draws=200) == 1


def test_networks_that_drop_nothing_agree_and_both_rates_count():
    model = MLP((16,), 5)
    variables = model.init(jax.random.key(0), jnp.ones((1, 6)))

    def share(*rates):
        def scores(*inputs, **named):
            return model.apply(variables, *inputs, **named)

        return float(agreement(scores, rates, jax.random.key(1), (6,), draws=8))

    assert share(0.0, 0.0) == share(0.0) == 1
    assert 0.2 < share(0.9, 0.0) < 1
    assert 0.2 < share(0.0, 0.9) < 1
