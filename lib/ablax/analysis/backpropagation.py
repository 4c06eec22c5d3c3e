"""Backpropagation by hand, for any number of sigmoid layers and the squared error.

With a⁰ = x and, layer by layer, hˡ = Wˡ aˡ⁻¹ + bˡ and aˡ = σ(hˡ), the last of which is ŷ, the
error terms of E = ½ Σ (y − ŷ)² are

    δᴸ = (y − ŷ) σ'(hᴸ)            of the output layer
    δˡ = (Wˡ⁺¹ᵀ δˡ⁺¹) σ'(hˡ)       of every layer before

and the steps of gradient descent are ΔWˡ = η δˡ aˡ⁻¹ᵀ, Δbˡ = η δˡ. Since σ' = σ(1 − σ) ≤ ¼, each
layer lets at most a quarter of what reaches it through its weights pass.

`jax.grad` does the same for any function; this is here to be read, to be compared with it, and
because it keeps the error terms that training by `jax.grad` never shows.

Source: Rumelhart, Hinton and Williams 1986; course notes, "Backpropagation". Their
worked example:

>>> weights = jnp.array([[0.4, -0.2]]), jnp.array([[0.1]])
>>> layers = [Layer(w, jnp.zeros(1)) for w in weights]
>>> x, y = jnp.array([0.1, 0.3]), jnp.array([1.0])
>>> activations = forward(layers, x)
>>> hidden, output = error_terms(layers, activations, y)
>>> [round(float(v[0]), 3) for v in (activations[1], activations[2], output, hidden)]
[0.495, 0.512, 0.122, 0.003]
>>> hidden_step, output_step = weight_steps(activations, [hidden, output], 0.5)
>>> print(output_step.weights.round(4), hidden_step.weights.round(5))
[[0.0302]] [[0.00015 0.00046]]
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ablax.nn.activations import sigmoid


class Layer(NamedTuple):
    """Weights and bias of one layer, or a step of these."""

    weights: Float[Array, "n_out n_in"]
    bias: Float[Array, " n_out"]


def forward(layers: Sequence[Layer], x: Float[Array, " n"]) -> list[Float[Array, " _"]]:
    """[x, a¹, …, ŷ]: what enters each layer, and the output."""
    activations = [x]
    for layer in layers:
        activations.append(sigmoid(layer.weights @ activations[-1] + layer.bias))
    return activations


def error_terms(
    layers: Sequence[Layer],
    activations: Sequence[Float[Array, " _"]],
    y: Float[Array, " k"],
) -> list[Float[Array, " _"]]:
    """[δ¹, …, δᴸ], minus the derivative of ½ Σ (y − ŷ)² by each layer's h.

    Args:
        activations: of `forward`.
        y: the target.
    """
    slopes = [a * (1 - a) for a in activations[1:]]
    terms = [(y - activations[-1]) * slopes[-1]]
    for layer, slope in zip(reversed(layers[1:]), reversed(slopes[:-1]), strict=True):
        terms.append((layer.weights.T @ terms[-1]) * slope)
    return terms[::-1]


def weight_steps(
    activations: Sequence[Float[Array, " _"]],
    terms: Sequence[Float[Array, " _"]],
    learning_rate: Array | float,
) -> list[Layer]:
    """[(η δˡ aˡ⁻¹ᵀ, η δˡ)]: what is added to each layer; −η times the gradient."""
    return [
        Layer(learning_rate * jnp.outer(term, entering), learning_rate * term)
        for entering, term in zip(activations[:-1], terms, strict=True)
    ]


def passed_on(
    layers: Sequence[Layer], terms: Sequence[Float[Array, " _"]]
) -> list[Float[Array, ""]]:
    """[‖δˡ‖ / ‖Wˡ⁺¹ᵀ δˡ⁺¹‖] of the hidden layers: the share that each σ' lets pass, at most ¼."""
    return [
        jnp.linalg.norm(below) / jnp.linalg.norm(layer.weights.T @ above)
        for (below, above), layer in zip(itertools.pairwise(terms), layers[1:], strict=True)
    ]
