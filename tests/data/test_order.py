"""The epoch order is a bijection, uniform, stateless, and one compiled program.

The chi-square tests run with fixed seeds; p < 1e-4 fails, so a sound order passes and a
network of too few rounds does not (4 rounds give p below 1e-100 in each of them).
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from ablax.data import order
from ablax.data.order import epoch_rows, permute

SIZES = [1, 2, 3, 5, 64, 100, 300, 1797]
KEY = jax.random.key(0)


def epochs(n, count, key=KEY, batch_size=None):
    """int32 [count, n]: the rows of the first `count` epochs, minibatch by minibatch."""
    batch_size = batch_size or (1 if n <= 2 else next(b for b in range(n - 1, 0, -1) if n % b == 0))
    steps = jnp.arange(count * n // batch_size, dtype=jnp.int32)
    rows = jax.jit(jax.vmap(lambda step: epoch_rows(key, step, batch_size, n)))(steps)
    return np.asarray(rows).reshape(count, n)


def p_value(counts):
    counts = np.asarray(counts, float).ravel()
    expected = counts.mean()
    return chi2.sf(((counts - expected) ** 2 / expected).sum(), counts.size - 1)


@pytest.mark.parametrize("n", [*SIZES, 7, 97, 60_000])
@pytest.mark.parametrize("words", [(0, 0), (1, 2**32 - 1), (0xDEADBEEF, 17)])
def test_permute_is_a_bijection(n, words):
    rows = permute(tuple(map(jnp.uint32, words)), jnp.arange(n, dtype=jnp.uint32), n)
    assert rows.dtype == jnp.uint32
    assert np.array_equal(np.sort(rows), np.arange(n))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_every_row_once_per_epoch(n, batch_size):
    count = 5
    steps = -(-count * n // batch_size)
    rows = jax.jit(jax.vmap(lambda step: epoch_rows(KEY, step, batch_size, n)))(
        jnp.arange(steps, dtype=jnp.int32)
    )
    assert rows.shape == (steps, batch_size)
    assert rows.dtype == jnp.int32
    visited = np.asarray(rows).reshape(-1)[: count * n].reshape(count, n)
    assert np.array_equal(np.sort(visited, axis=1), np.tile(np.arange(n), (count, 1)))


def test_order_does_not_depend_on_the_batch_size():
    expected = epochs(300, 7, batch_size=1)
    assert np.array_equal(epochs(300, 7, batch_size=150), expected)
    assert np.array_equal(epochs(300, 7, batch_size=700), expected)


@pytest.mark.parametrize("step", [0, 4, 5, 2**20 + 3, 2**31 - 1])
@pytest.mark.parametrize(("batch_size", "n"), [(64, 300), (7, 5), (4096, 1_000_003)])
def test_positions_are_exact_at_late_steps(step, batch_size, n):
    """Against the definition in Python's integers, which do not overflow."""
    words = jax.random.key_data(KEY)
    positions = [divmod(step * batch_size + i, n) for i in range(batch_size)]
    epoch, position = (
        jnp.array([values % 2**32 for values in column], jnp.uint32)
        for column in zip(*positions, strict=True)
    )
    expected = permute(order._epoch_words(words, epoch), position, n)
    assert np.array_equal(epoch_rows(KEY, jnp.int32(step), batch_size, n), expected)


def test_full_batch_is_in_natural_order():
    assert epoch_rows(KEY, jnp.int32(3), 10, 10).tolist() == list(range(10))


def test_epochs_and_keys_differ():
    first = epochs(300, 20)
    other = epochs(300, 20, key=jax.random.key(1))
    orders = {row.tobytes() for row in np.concatenate([first, other])}
    assert len(orders) == 40
    # Two random orders agree in one position on average.
    agreement = (first[:-1] == first[1:]).sum(axis=1)
    assert agreement.mean() < 3


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_all_orders_are_equally_likely(n):
    rows = epochs(n, 20_000)
    index = {permutation: i for i, permutation in enumerate(itertools.permutations(range(n)))}
    counts = np.bincount([index[tuple(row)] for row in rows.tolist()], minlength=len(index))
    assert len(counts) == math.factorial(n)
    assert p_value(counts) > 1e-4


@pytest.mark.parametrize(("n", "count"), [(12, 40_000), (37, 40_000), (100, 20_000), (128, 20_000)])
def test_positions_and_pairs_are_uniform(n, count):
    rows = epochs(n, count)
    positions = np.stack([np.bincount(rows[:, i], minlength=n) for i in range(n)])
    assert p_value(positions) > 1e-4
    for distance in (1, order._radices(n)[1]):  # neighbours, and those that share a digit
        pairs = rows[:, :-distance].astype(np.int64) * n + rows[:, distance:]
        counts = np.bincount(pairs.ravel(), minlength=n * n).reshape(n, n)
        assert p_value(counts[~np.eye(n, dtype=bool)]) > 1e-4


def test_orders_of_neighbouring_keys_are_independent():
    n, count = 30, 20_000
    keys = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(count, dtype=jnp.uint32))
    rows = np.asarray(jax.jit(jax.vmap(lambda key: epoch_rows(key, jnp.int32(0), 15, n)))(keys))
    pairs = np.bincount((rows[:-1].astype(np.int64) * n + rows[1:]).ravel(), minlength=n * n)
    assert p_value(pairs) > 1e-4


def test_vmapped_equals_looped():
    keys = jax.random.split(KEY, 5)
    steps = jnp.array([0, 3, 4, 5, 900], jnp.int32)
    together = jax.vmap(lambda key, step: epoch_rows(key, step, 64, 301))(keys, steps)
    apart = [epoch_rows(key, step, 64, 301) for key, step in zip(keys, steps, strict=True)]
    assert np.array_equal(together, jnp.stack(apart))


def test_compiles_once_for_all_steps_and_keys():
    traces = []

    @jax.jit
    def rows(key, step):
        traces.append(step)
        return epoch_rows(key, step, 64, 301)

    for step in range(5):
        rows(jax.random.key(step), jnp.int32(step))
    assert len(traces) == 1


@pytest.mark.parametrize(("batch_size", "n"), [(0, 5), (5, 0), (2**16, 2**16), (1, 2**30 + 1)])
def test_sizes_out_of_range_are_refused(batch_size, n):
    with pytest.raises(ValueError, match=f"got batch_size {batch_size} and n {n}"):
        epoch_rows(KEY, jnp.int32(0), batch_size, n)
