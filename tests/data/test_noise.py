"""Labels drawn anew: how many, which, and from what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ablax.data.noise import relabelled

N = 20_000
SHARES = [0.1, 0.2, 0.5, 0.9, 1.0]


def labels_of(n_classes, dtype=jnp.int32):
    return jnp.asarray(np.random.default_rng(0).integers(0, n_classes, N), dtype)


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("share", SHARES)
def test_the_share_that_is_wrong_is_binomial(n_classes, share):
    """A label drawn anew is the old one with probability 1/K."""
    labels = labels_of(n_classes)
    wrong = int((relabelled(jax.random.key(1), labels, share, n_classes) != labels).sum())
    expected = share * (1 - 1 / n_classes)
    assert stats.binomtest(wrong, N, expected).pvalue > 1e-3


@pytest.mark.parametrize("share", [0.0, jnp.float32(0)])
def test_no_share_leaves_every_label(share):
    labels = labels_of(10)
    np.testing.assert_array_equal(relabelled(jax.random.key(0), labels, share, 10), labels)


def test_all_drawn_anew_are_uniform_and_know_nothing_of_the_labels():
    labels = labels_of(5)
    drawn = np.asarray(relabelled(jax.random.key(2), labels, 1.0, 5))
    table = np.zeros((5, 5), int)
    np.add.at(table, (np.asarray(labels), drawn), 1)
    assert stats.chisquare(table.sum(0)).pvalue > 1e-3
    assert stats.chi2_contingency(table).pvalue > 1e-3
    assert set(drawn.tolist()) == set(range(5))


def test_which_are_drawn_does_not_depend_on_what_they_become():
    """A key for each: were they one, those redrawn at a small share would be the low classes."""
    old = jnp.full(N, 9, jnp.int32)
    drawn = np.asarray(relabelled(jax.random.key(5), old, 0.2, 9))
    changed = drawn[drawn != 9]
    assert len(changed) > 3000
    assert stats.chisquare(np.bincount(changed, minlength=9)).pvalue > 1e-3


def test_a_larger_share_redraws_those_of_a_smaller_one_and_others():
    labels = jnp.full(N, 10, jnp.int32)  # no class, so that every redraw is seen
    before, changed = None, 0
    for share in SHARES:
        drawn = np.asarray(relabelled(jax.random.key(3), labels, share, 10))
        at = drawn != 10
        assert at.sum() > changed
        if before is not None:
            unchanged = before != 10
            np.testing.assert_array_equal(drawn[unchanged], before[unchanged])
        before, changed = drawn, at.sum()
    assert changed == N


def test_keys_draw_their_own():
    labels = jnp.zeros(N, jnp.int32)
    first, again, other = (relabelled(jax.random.key(k), labels, 0.5, 10) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert 0.5 < float((first != other).mean()) < 0.8


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.int16])
def test_labels_keep_their_type_and_shape(dtype):
    drawn = relabelled(jax.random.key(0), labels_of(10, dtype), 0.5, 10)
    assert (drawn.dtype, drawn.shape) == (dtype, (N,))
    assert int(drawn.max()) == 9


def test_shares_and_keys_together_are_the_loop_in_one_program():
    labels, keys = labels_of(10)[:500], jax.random.split(jax.random.key(4), 8)
    shares, traces = jnp.linspace(0, 1, 8), []

    @jax.jit
    @jax.vmap
    def lanes(key, share):
        traces.append(None)
        return relabelled(key, labels, share, 10)

    together = lanes(keys, shares)
    alone = [relabelled(k, labels, float(s), 10) for k, s in zip(keys, shares, strict=True)]
    np.testing.assert_array_equal(together, alone)
    lanes(keys, shares / 2)
    assert len(traces) == 1
