"""The linear model: a score per output, z = W x + b.

The model's usual name depends on the loss put on the score and on how the score is read:

| model                    | outputs | loss                       | prediction         |
|--------------------------|---------|----------------------------|--------------------|
| perceptron               | 1       | perceptron loss            | step: z ≥ 0        |
| linear regression        | any     | squared error              | z                  |
| logistic regression      | 1       | binary cross-entropy on z  | P(y = 1) = σ(z)    |
| softmax regression       | classes | cross-entropy on z         | P(k) = softmax(z)ₖ |
| linear SVM               | 1       | hinge loss                 | sign z             |

The model itself applies no activation: losses on scores are stable where σ and softmax
saturate.
"""

import math

import flax.linen as nn
from jaxtyping import Array, Float

from ablax.nn.dense import Dense


class Linear(nn.Module):
    """z = W x + b, with W of [n_outputs, features] and b of [n_outputs] zeros at first.

    Attributes:
        n_outputs: scores per example.
        kernel_init: name of W's initializer, one of `INITIALIZERS`.

    Raises:
        UserError: on init or apply, if `kernel_init` names no initializer.

    >>> import jax, jax.numpy as jnp
    >>> model = Linear(n_outputs=3, kernel_init="zeros")
    >>> images = jnp.ones((5, 8, 8))
    >>> variables = model.init(jax.random.key(0), images)
    >>> variables["params"]["output"]["weight"].shape, model.apply(variables, images).shape
    ((3, 64), (5, 3))
    """

    n_outputs: int
    kernel_init: str = "glorot_uniform"

    @nn.compact
    def __call__(self, x: Float[Array, "batch *features"]) -> Float[Array, "batch n_outputs"]:
        return Dense(self.n_outputs, self.kernel_init, name="output")(flatten(x).T).T


def flatten(x: Float[Array, "batch *features"]) -> Float[Array, "batch n_features"]:
    """Everything but the first axis in one: images [B, H, W, C] become [B, H·W·C].

    >>> import jax.numpy as jnp
    >>> flatten(jnp.ones((2, 4, 4, 3))).shape, flatten(jnp.ones(2)).shape
    ((2, 48), (2, 1))
    """
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))
