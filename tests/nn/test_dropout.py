"""Dropout: exact expectation, exactly off at rate 0, one program for every rate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ablax.nn.dropout import _bits, dropout, keep_probability

KEY = jax.random.key(0)
RATES = [0.0, 1e-6, 0.1, 0.2, 0.5, 0.75, 0.9, 0.99, 0.99999, 0.9999999]


@pytest.mark.parametrize("rate", RATES)
def test_of_all_65536_draws_exactly_the_realized_share_is_kept(rate, monkeypatch):
    every_draw = jnp.arange(65536, dtype=jnp.uint16)
    monkeypatch.setattr("ablax.nn.dropout._bits", lambda key, shape: every_draw)
    y = np.asarray(dropout(KEY, jnp.ones(65536), rate), np.float64)
    nonzero = int((y != 0).sum())
    assert nonzero == max(1, round((1 - rate) * 65536)) == float(keep_probability(rate)) * 65536
    # The expectation over the draws is x, up to the rounding of one division.
    np.testing.assert_allclose(y.mean(), 1.0, rtol=1e-7)


def test_each_bit_pattern_is_equally_likely():
    bits = np.asarray(_bits(jax.random.key(1), (1 << 18,)))
    assert bits.dtype == np.uint16
    for byte in (bits & 255, bits >> 8):
        assert stats.chisquare(np.bincount(byte, minlength=256)).pvalue > 1e-3
    # The two halves of a word are far apart in the array and must be unrelated.
    low, high = np.split(bits, 2)
    for a, b in ((low, high), (low >> 8, high & 255), (low & 255, high >> 8), (low[1:], low[:-1])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(len(a))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_share_dropped_is_binomial(rate):
    n = 1 << 16
    dropped = int((dropout(jax.random.key(2), jnp.ones(n), rate) == 0).sum())
    assert stats.binomtest(dropped, n, 1 - float(keep_probability(rate))).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rate_zero_returns_x_to_the_bit(dtype):
    x = jnp.asarray([1.1, -0.0, np.inf, np.nan, 1e-40, 3e38, 0.3], dtype)
    for rate in (0.0, jnp.float32(0)):
        y = jax.jit(dropout)(KEY, x, rate)
        assert y.dtype == dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_kept_elements_are_divided_by_the_keep_probability():
    x = jax.random.normal(KEY, (64, 32))
    y = dropout(jax.random.key(3), x, 0.3)
    keep = np.float32(keep_probability(0.3))
    assert abs(keep - 0.7) < 2**-17
    np.testing.assert_allclose(y[y != 0], np.asarray(x)[np.asarray(y) != 0] / keep, rtol=1e-6)


def test_gradient_passes_through_the_same_mask():
    x = jax.random.normal(KEY, (64, 32))
    gradient = jax.grad(lambda x: dropout(jax.random.key(3), x, 0.3).sum())(x)
    np.testing.assert_array_equal(gradient == 0, dropout(jax.random.key(3), x, 0.3) == 0)


def test_rates_and_keys_together_are_the_loop_in_one_program():
    x = jax.random.normal(KEY, (16, 5, 7))
    keys, rates = jax.random.split(KEY, 16), jnp.linspace(0, 0.99, 16)
    traces = []

    @jax.jit
    @jax.vmap
    def lanes(key, x, rate):
        traces.append(None)
        return dropout(key, x, rate)

    together = lanes(keys, x, rates)
    alone = [dropout(k, a, float(r)) for k, a, r in zip(keys, x, rates, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    lanes(keys, x, rates / 2)
    assert len(traces) == 1


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3, 5), (0, 4)])
def test_any_shape(shape):
    y = dropout(KEY, jnp.ones(shape), 0.5)
    assert (y.shape, y.dtype) == (shape, jnp.float32)


def test_different_keys_differ_and_equal_keys_agree():
    x = jnp.ones(1000)
    first, again = dropout(KEY, x, 0.5), dropout(KEY, x, 0.5)
    other = dropout(jax.random.key(1), x, 0.5)
    assert (first == again).all()
    assert 400 < int((first != other).sum()) < 600


def test_a_key_of_another_generator_is_refused():
    with pytest.raises(ValueError, match="unpack"):
        dropout(jax.random.key(0, impl="rbg"), jnp.ones(4), 0.5)
