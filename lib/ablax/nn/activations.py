"""Activation functions by name.

All but `step` are JAX's own functions under JAX's own names. Each keeps shape and dtype and is
finite, with a finite gradient, wherever its value is (tests: up to ±10⁴).

| name         | f(x)                                 | f'(x)                                 |
|--------------|--------------------------------------|---------------------------------------|
| identity     | x                                    | 1                                     |
| step         | 1 if x ≥ 0, else 0                   | 0                                     |
| sigmoid      | σ(x) = 1/(1 + e⁻ˣ)                   | σ(x)(1 − σ(x)), at most 1/4           |
| tanh         | (eˣ − e⁻ˣ)/(eˣ + e⁻ˣ)                | 1 − tanh²(x), at most 1               |
| relu         | max(0, x)                            | 1 if x > 0, else 0                    |
| leaky_relu   | x if x ≥ 0, else αx; α = 0.01        | 1 if x ≥ 0, else α                    |
| elu          | x if x > 0, else α(eˣ − 1); α = 1    | 1 if x > 0, else αeˣ                  |
| selu         | λ elu(x; α); α ≈ 1.6733, λ ≈ 1.0507  | λ elu'(x; α); at 0: λα                |
| gelu         | x(1 + tanh(√(2/π)(x + 0.044715x³)))/2 | the tanh form of x Φ(x)              |
| silu         | x σ(x)                               | σ(x)(1 + x(1 − σ(x)))                 |
| softplus     | ln(1 + eˣ)                           | σ(x)                                  |

`softmax` and `log_softmax` take a vector of scores z (the last axis) to the probabilities
e^{z_i}/Σ_j e^{z_j} and to their logarithms. They mix the units of a layer, so they are for
outputs and not among `ACTIVATIONS`.

Sources: Clevert et al. 2016 (elu), Klambauer et al. 2017 (selu), Hendrycks & Gimpel 2016
(gelu), Elfwing et al. 2018 (silu).

>>> from jax import grad, vmap
>>> x = jnp.array([-2.0, 0.0, 2.0])
>>> print(relu(x), leaky_relu(x))
[0. 0. 2.] [-0.02  0.    2.  ]
>>> print(vmap(grad(sigmoid))(x).round(3), (sigmoid(x) * (1 - sigmoid(x))).round(3))
[0.105 0.25  0.105] [0.105 0.25  0.105]
>>> print(softmax(jnp.array([2.0, 1.0, 0.0])).round(3))
[0.665 0.245 0.09 ]
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax.nn import (
    elu,
    gelu,
    identity,
    leaky_relu,
    log_softmax,
    relu,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from jaxtyping import Array, Float

from ablax.errors import unknown

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "activation",
    "elu",
    "gelu",
    "identity",
    "leaky_relu",
    "log_softmax",
    "relu",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "step",
    "tanh",
]

Activation = Callable[[Float[Array, "..."]], Float[Array, "..."]]


def step(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 where x ≥ 0, else 0: the perceptron's prediction ŷ = step(w·x + b) (Rosenblatt 1958).

    The point on the line counts as positive. The gradient is zero everywhere: whatever lies
    below a step learns nothing by gradient descent, which is why the perceptron has a rule
    of its own (`ablax.losses.perceptron_loss`).

    >>> from jax import grad
    >>> print(step(jnp.array([-0.5, 0.0, 0.5])), grad(step)(0.5))
    [0. 1. 1.] 0.0
    """
    return jnp.heaviside(x, 1.0)


ACTIVATIONS: dict[str, Activation] = {
    "identity": identity,
    "step": step,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "relu": relu,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "selu": selu,
    "gelu": gelu,
    "silu": silu,
    "softplus": softplus,
}
"""The elementwise functions that a hidden layer can use."""


def activation(name: str) -> Activation:
    """The function of this name in `ACTIVATIONS`.

    Raises:
        UserError: no such name; the message lists all.

    >>> print(activation("leaky_relu")(jnp.array([-1.0, 1.0])))
    [-0.01  1.  ]
    """
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]
