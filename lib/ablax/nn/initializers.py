"""How weights start. Biases start at zero, always.

With n_in and n_out the units before and after a layer, the variance of a weight is

| name                          | variance         | for                                    |
|-------------------------------|------------------|----------------------------------------|
| zeros                         | 0                | convex losses; an MLP never leaves it  |
| normal                        | 1, to be scaled  | σ as a swept hparam: `scale_weights`   |
| glorot_uniform, glorot_normal | 2 / (n_in + n_out) | tanh, sigmoid (Glorot and Bengio 2010) |
| he_uniform, he_normal         | 2 / n_in         | ReLU (He et al. 2015)                  |
| lecun_uniform, lecun_normal   | 1 / n_in         | tanh, SELU (LeCun et al. 1998)         |

Those named `_normal` draw from a normal distribution cut at two standard deviations
and widened to keep the variance; "normal" is not cut.
"""

import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Float, PyTree

from ablax.errors import unknown
from ablax.weights import weight_mask

Initializer = jax.nn.initializers.Initializer

INITIALIZERS: dict[str, Initializer] = {
    "zeros": initializers.zeros,
    "normal": initializers.normal(stddev=1.0),
    "glorot_uniform": initializers.glorot_uniform(),
    "glorot_normal": initializers.glorot_normal(),
    "he_uniform": initializers.he_uniform(),
    "he_normal": initializers.he_normal(),
    "lecun_uniform": initializers.lecun_uniform(),
    "lecun_normal": initializers.lecun_normal(),
}


def initializer(name: str) -> Initializer:
    """The initializer (key, shape, dtype) → weights of this name.

    Raises:
        UserError: the name is not in `INITIALIZERS`.

    >>> print(initializer("zeros")(jax.random.key(0), (2,), jnp.float32))
    [0. 0.]
    """
    if name not in INITIALIZERS:
        raise unknown("initializer", name, INITIALIZERS)
    return INITIALIZERS[name]


def scale_weights(params: PyTree, scale: Float[Array, ""] | float) -> PyTree:
    """The parameters with every weight multiplied by `scale`, and biases as they are.

    Of weights drawn with "normal" this makes N(0, σ²) = σ · N(0, 1) with a traced σ = `scale`:
    one program, and the same restart at each σ starts in the same direction. 1 is exactly off.

    >>> params = {"output": {"kernel": jnp.array([[2.0]]), "bias": jnp.array([2.0])}}
    >>> scaled = scale_weights(params, 0.5)["output"]
    >>> print(scaled["kernel"], scaled["bias"])
    [[1.]] [2.]
    """

    def scaled(is_weight: bool, w: Array) -> Array:
        return w * jnp.asarray(scale).astype(w.dtype) if is_weight else w

    return jax.tree.map(scaled, weight_mask(params), params)


def shift_biases(params: PyTree, shift: Float[Array, ""] | float) -> PyTree:
    """The parameters with `shift` added to every bias of the hidden layers, not to the output's.

    >>> params = {name: {"bias": jnp.zeros(2)} for name in ("hidden_0", "output")}
    >>> shifted = shift_biases(params, -1.0)
    >>> print(shifted["hidden_0"]["bias"], shifted["output"]["bias"])
    [-1. -1.] [0. 0.]
    """
    hidden = {name: {**of, "bias": of["bias"] + shift} for name, of in params.items()}
    return {**hidden, "output": params["output"]}
