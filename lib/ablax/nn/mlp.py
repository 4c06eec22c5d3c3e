"""The multilayer perceptron: hₗ = f(Wₗ hₗ₋₁ + bₗ), h₀ = x, and scores z = W h_L + b."""

from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Array, Float

from ablax.errors import UserError, unknown
from ablax.nn.activations import activation
from ablax.nn.dense import Dense
from ablax.nn.dropout import NOISES
from ablax.nn.linear import flatten


def widths_of(hidden: str) -> tuple[int, ...]:
    """The widths of hidden layers, as a flag gives them.

    Raises:
        UserError: not whole numbers of at least 1, joined by hyphens.

    >>> widths_of("1024-1024-2048")
    (1024, 1024, 2048)
    """
    parts = hidden.split("-")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UserError(f"--hidden: expected widths such as 128 or 1024-1024-2048, got {hidden}")
    return tuple(map(int, parts))


class MLP(nn.Module):
    """A fully connected network of any depth; with no hidden layer it is `Linear`.

    Layers are named hidden_0, hidden_1, …, output. As in `Linear`, the scores get no
    activation: the loss does.

    Attributes:
        widths: units of each hidden layer; () for none.
        n_outputs: scores per example.
        activation: name of f, one of `ACTIVATIONS`.
        kernel_init: name of the weights' initializer, one of `INITIALIZERS`.
        noise: what dropout multiplies a unit by, one of `NOISES`.

    Raises:
        UserError: on init or apply, if a name is not in its dict.

    >>> import jax, jax.numpy as jnp
    >>> model = MLP(widths=(32, 16), n_outputs=3, activation="relu")
    >>> variables = model.init(jax.random.key(0), jnp.ones((1, 8, 8)))
    >>> {name: layer["weight"].shape for name, layer in variables["params"].items()}
    {'hidden_0': (32, 64), 'hidden_1': (16, 32), 'output': (3, 16)}
    >>> x = jnp.ones((5, 8, 8))
    >>> model.apply(variables, x).shape
    (5, 3)
    >>> model.apply(variables, x, 0.5, rngs={"dropout": jax.random.key(1)}).shape
    (5, 3)
    """

    widths: Sequence[int]
    n_outputs: int
    activation: str = "relu"
    kernel_init: str = "he_normal"
    noise: str = "bernoulli"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch *features"],
        dropout_rate: Float[Array, ""] | float | None = None,
        input_dropout_rate: Float[Array, ""] | float | None = None,
    ) -> Float[Array, "batch n_outputs"]:
        """Scores of a batch.

        Args:
            x: the batch; features of any shape, flattened.
            dropout_rate: probability that a hidden unit is dropped, traced; then the stream
                "dropout" must be given. None (evaluation) compiles no dropout at all.
            input_dropout_rate: the same of the features.
        """
        if self.noise not in NOISES:
            raise unknown("noise", self.noise, NOISES)
        f, dropout = activation(self.activation), NOISES[self.noise]
        h = flatten(x).T  # an example per column, see `Dense`
        if input_dropout_rate is not None:
            h = dropout(self.make_rng("dropout"), h, input_dropout_rate)
        for i, width in enumerate(self.widths):
            h = f(Dense(width, self.kernel_init, name=f"hidden_{i}")(h))
            if dropout_rate is not None:
                h = dropout(self.make_rng("dropout"), h, dropout_rate)
        return Dense(self.n_outputs, self.kernel_init, name="output")(h).T
