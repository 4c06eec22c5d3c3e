"""Hidden units in training: the shares of them that hardly learn, and the gradients of layers.

With z the pre-activation of a unit for an example and f the activation function,

| share | of                 | that have                                          |
|-------|--------------------|----------------------------------------------------|
| flat  | units and examples | a slope f'(z) near 0: hardly a gradient gets past  |
| off   | units              | z < 0 for every example: a ReLU that never learns  |
| zeros | units and examples | f(z) = 0: nothing for the layer above              |

Sources: course notes, "Other Activation Functions"; Glorot and Bengio 2010 for saturation.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ablax.nn import MLP, activation


def shares(
    model: MLP, params: PyTree, x: Float[Array, "examples *features"], bound: float
) -> dict[str, Float[Array, ""]]:
    """Return {"flat": …, "off": …, "zeros": …} of all hidden units of a network together.

    Args:
        model: with hidden layers of one width.
        params: of the model.
        x: the examples.
        bound: a slope below it, in size, is flat.

    >>> layer, x = {"weight": jnp.eye(2), "bias": jnp.zeros(2)}, jnp.array([[1.0, -1], [-2, -1]])
    >>> model, params = MLP((2,), 2), {"hidden_0": layer, "output": layer}
    >>> {name: float(share) for name, share in shares(model, params, x, 0.005).items()}
    {'flat': 0.75, 'off': 0.5, 'zeros': 0.75}
    """
    _, captured = model.apply({"params": params}, x, capture_intermediates=True)
    layers: Any = captured["intermediates"]
    hidden = [layers[f"hidden_{i}"]["__call__"][0] for i in range(len(model.widths))]
    z = jnp.stack(hidden)  # [layers, units, examples]
    f = activation(model.activation)
    slopes = jnp.vectorize(jax.grad(f))(z)
    flags = {"flat": jnp.abs(slopes) < bound, "off": (z < 0).all(axis=-1), "zeros": f(z) == 0}
    return {name: of_units.mean() for name, of_units in flags.items()}


def gradient_sizes(
    gradient: Mapping[str, Mapping[str, Array]], params: PyTree = None
) -> dict[str, Float[Array, ""]]:
    """Return the root mean square of the gradient of the weights of each layer, as `gradient_i`.

    √(mean of (∂L/∂w)² over the weights w of layer i), layer 0 the one next to the input: of the
    same size in layers of any width. To be used as `Records.watch`.

    Args:
        gradient: {layer: {"weight": ∂L/∂w, …}}, of an `MLP`: hidden_0, hidden_1, …, output.
        params: not used.

    >>> gradient = {"hidden_0": {"weight": jnp.ones(3)}, "output": {"weight": jnp.array([1.0, 7])}}
    >>> {name: float(size) for name, size in gradient_sizes(gradient).items()}
    {'gradient_0': 1.0, 'gradient_1': 5.0}
    """
    # JAX sorts hidden_10 before hidden_2.
    names = sorted(gradient, key=lambda name: (name == "output", len(name), name))
    sizes = [jnp.sqrt(jnp.square(gradient[name]["weight"]).mean()) for name in names]
    return {f"gradient_{i}": size for i, size in enumerate(sizes)}
