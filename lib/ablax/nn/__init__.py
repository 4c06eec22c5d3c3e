"""Networks and their parts: activations, layers, initial weights, dropout, models."""

from ablax.nn.activations import ACTIVATIONS, activation
from ablax.nn.dense import Dense
from ablax.nn.initializers import INITIALIZERS, scale_weights, shift_biases
from ablax.nn.linear import Linear, flatten
from ablax.nn.mlp import MLP, widths_of

__all__ = [
    "ACTIVATIONS",
    "INITIALIZERS",
    "MLP",
    "Dense",
    "Linear",
    "activation",
    "flatten",
    "scale_weights",
    "shift_biases",
    "widths_of",
]
