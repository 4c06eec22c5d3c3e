"""Propagation of signals through a deep network: activations upwards, gradients downwards.

Of L layers of n units without biases, all with the activation function f,

    zˡ = Wˡ aˡ⁻¹,  aˡ = f(zˡ)                          upwards, from the inputs a⁰
    ∂E/∂zˡ = ∂E/∂aˡ · f'(zˡ),  ∂E/∂aˡ⁻¹ = Wˡᵀ ∂E/∂zˡ   downwards, from a gradient ∂E/∂aᴸ

for many inputs at once, each a column. The Jacobian of a layer, ∂zˡ⁺¹/∂zˡ = Wˡ⁺¹ diag f'(zˡ), says
how much of a gradient it lets pass: all of it, in every direction, if its singular values are 1.

Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural
networks", section 4.2.1.

>>> weights = jnp.stack([0.5 * jnp.eye(2)] * 3)
>>> activations, slopes = upwards(lambda z: 2 * z, weights, jnp.ones((2, 1)))
>>> print(activations[:, 0, 0], slopes[:, 0, 0])
[1. 1. 1.] [2. 2. 2.]
>>> print(downwards(weights, slopes, jnp.ones((2, 1)))[:, 0, 0])
[2. 2. 2.]
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ablax.analysis.spectrum import mean_of


def upwards(
    f: Callable[[Array], Array],
    weights: Float[Array, "layers n n"],
    x: Float[Array, "n inputs"],
) -> tuple[Float[Array, "layers n inputs"], Float[Array, "layers n inputs"]]:
    """Return (aˡ, f'(zˡ)) of every layer, from the first to the last.

    Args:
        f: the activation function, of each number by itself.
        weights: Wˡ, from the first layer to the last.
        x: the inputs a⁰, a column each.
    """

    def layer(a: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
        z = w @ a
        return f(z), (z, f(z))

    _, (z, activations) = jax.lax.scan(layer, x, weights)
    return activations, jax.vmap(jax.vmap(jax.vmap(jax.grad(f))))(z)


def downwards(
    weights: Float[Array, "layers n n"],
    slopes: Float[Array, "layers n inputs"],
    last: Float[Array, "n inputs"],
) -> Float[Array, "layers n inputs"]:
    """Return ∂E/∂zˡ of every layer, from the first to the last.

    Args:
        weights: Wˡ, from the first layer to the last.
        slopes: f'(zˡ), of `upwards`.
        last: ∂E/∂aᴸ, where the gradient enters.
    """

    def layer(g: Array, of: tuple[Array, Array]) -> tuple[Array, Array]:
        w, slope = of
        return w.T @ (g * slope), g * slope

    return jax.lax.scan(layer, last, (weights, slopes), reverse=True)[1]


def mean_singular_values(
    weights: Float[Array, "layers m n"], slopes: Float[Array, "layers n"], key: Key[Array, ""]
) -> Float[Array, " layers"]:
    """Estimate the mean singular value of each layer's Jacobian J = W diag(s), at one input.

    The mean over the n eigenvalues of √(JᵀJ), by `spectrum.mean_of`: an estimate that is off by
    some percent. One layer after another, so that only one Jacobian is in memory.

    Args:
        weights: Wˡ⁺¹, of the layer above each.
        slopes: s = f'(zˡ) at that input.
        key: of the random probes, others for every layer.

    >>> weights = jnp.stack([2 * jnp.eye(4), 3 * jnp.eye(4)])
    >>> print(mean_singular_values(weights, jnp.full((2, 4), 0.5), jax.random.key(0)).round(4))
    [1.  1.5]
    """

    def of_layer(layer: tuple[Array, Array, Array]) -> Array:
        w, slope, probes = layer
        jacobian = w * slope[None, :]

        def square(v: Array) -> Array:
            return jacobian.T @ (jacobian @ v)

        return mean_of(lambda v: jnp.sqrt(jnp.maximum(v, 0.0)), square, len(slope), probes)

    return jax.lax.map(of_layer, (weights, slopes, jax.random.split(key, len(weights))))
