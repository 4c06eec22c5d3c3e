"""Labels that are wrong."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def relabelled(
    key: Key[Array, ""], labels: Int[Array, " n"], share: Float[Array, ""] | float, n_classes: int
) -> Int[Array, " n"]:
    """The labels, of which each is drawn anew, uniformly, with a probability.

    So of K classes share · (1 − 1/K) of the labels are wrong. With the same key more of them are
    drawn anew at a larger share: those of a smaller one, and others.

    Args:
        share: in [0, 1], may be traced; 0 leaves the labels as they are.

    >>> labels = jnp.zeros(1000, jnp.int32)
    >>> float((relabelled(jax.random.key(0), labels, 0.2, 10) != 0).mean()) < 0.25
    True
    """
    where, what = jax.random.split(key)
    drawn = jax.random.randint(what, labels.shape, 0, n_classes, labels.dtype)
    return jnp.where(jax.random.uniform(where, labels.shape) < share, drawn, labels)
