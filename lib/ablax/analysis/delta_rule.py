"""One update for three models: w ← w + α δ x, b ← b + α δ.

With h = w·x + b and the error term δ, all that differs is how the prediction is made:

| model               | ŷ       | δ                | is gradient descent on          |
|---------------------|---------|------------------|---------------------------------|
| perceptron          | step(h) | y − ŷ            | `ablax.losses.perceptron_loss`  |
| logistic regression | σ(h)    | y − ŷ            | cross-entropy                   |
| squared errors      | f(h)    | (y − ŷ) f'(h)    | ½ (y − ŷ)²                      |

The perceptron's three cases are in its δ: 0 where ŷ is right, +1 where a positive example was
called negative, −1 where a negative one was called positive.

Sources: Rosenblatt 1958; Widrow and Hoff 1960; course notes, "Perceptron Algorithm", "Gradient
Descent" and "Gradient Descent with Squared Errors".

>>> import jax.numpy as jnp
>>> line = Line(jnp.array([1.0, -1.0]), jnp.array(0.0))
>>> x, y = jnp.array([2.0, 1.0]), 0.0
>>> update(line, x, perceptron_error(line, x, y), 0.1)  # was called positive: 1 − 0.1·2, …
Line(weights=Array([ 0.8, -1.1], dtype=float32), bias=Array(-0.1, dtype=float32))
>>> print(logistic_error(line, x, y).round(3))
-0.731
"""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float

from ablax.nn.activations import Activation, sigmoid, step


class Line(NamedTuple):
    """w·x + b = 0, and the side that is positive."""

    weights: Float[Array, " n"]
    bias: Float[Array, ""]


def score(line: Line, x: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
    """h = w·x + b, for one point or several."""
    return x @ line.weights + line.bias


def perceptron_error(line: Line, x: Float[Array, " n"], y: Array | float) -> Float[Array, ""]:
    """δ = y − step(w·x + b) with y in {0, 1}: 0, +1 or −1."""
    return y - step(score(line, x))


def logistic_error(line: Line, x: Float[Array, " n"], y: Array | float) -> Float[Array, ""]:
    """δ = y − σ(w·x + b) with y in {0, 1}: minus the derivative of the cross-entropy by h."""
    return y - sigmoid(score(line, x))


def squared_error(
    line: Line, x: Float[Array, " n"], y: Array | float, f: Activation = sigmoid
) -> Float[Array, ""]:
    """δ = (y − f(h)) f'(h): minus the derivative of ½ (y − f(h))² by h."""
    h = score(line, x)
    prediction, slope = jax.value_and_grad(f)(h)
    return (y - prediction) * slope


def update(
    line: Line, x: Float[Array, " n"], error: Float[Array, ""], learning_rate: Array | float
) -> Line:
    """w + α δ x and b + α δ."""
    return Line(
        line.weights + learning_rate * error * x,
        line.bias + learning_rate * error,
    )
