"""Examples of a linear model, drawn inside a compiled program: the same key, the same examples.

A study of regression can so draw a world of its own for every restart, of which the true
coefficients are known.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def coefficients(
    key: Key[Array, ""], features: int, active: Float[Array, ""] | float = 1.0
) -> Float[Array, " features"]:
    """β with ‖β‖ = 1, of normal numbers, of which a share of the features is active: the first.

    All others are exactly 0. At each share the same key draws the same numbers, before they are
    scaled to norm 1.

    Args:
        active: in (0, 1], may be traced; k/n of n features leave the first k, a share between two
            of these as many as the larger.

    >>> beta = coefficients(jax.random.key(0), 100, 0.05)
    >>> int((beta != 0).sum()), round(float(jnp.linalg.norm(beta)), 4)
    (5, 1.0)
    """
    # A little less: in float32 0.15 · 100 is above 15, and feature 15 is the sixteenth.
    first = jnp.arange(features, dtype=jnp.float32) < (1 - 1e-6) * active * features
    beta = jnp.where(first, jax.random.normal(key, (features,)), 0.0)
    return beta / jnp.linalg.norm(beta)


def linear_examples(
    key: Key[Array, ""],
    beta: Float[Array, " features"],
    n: int,
    noise: Float[Array, ""] | float = 0.0,
) -> tuple[Float[Array, "n features"], Float[Array, " n"]]:
    """(x, y) of n examples: y = xᵀβ + noise · ε, x and ε standard normal.

    So the signal xᵀβ has the standard deviation ‖β‖. With the same key another noise is the same
    one at another size, and another β gets the same x.

    Args:
        noise: standard deviation of the noise, may be traced; 0 leaves xᵀβ.

    >>> x, y = linear_examples(jax.random.key(0), jnp.array([2.0, -1.0]), 3)
    >>> bool(jnp.allclose(y, 2 * x[:, 0] - x[:, 1]))
    True
    """
    for_x, for_noise = jax.random.split(key)
    x = jax.random.normal(for_x, (n, len(beta)))
    return x, x @ beta + noise * jax.random.normal(for_noise, (n,))
