"""Penalties on weights, the max-norm projection, and descriptive measures of weights.

A penalty is added to the mean loss: L(θ) + λ Ω(θ). Every strength and limit may be a traced
scalar, and its value for "off" is exactly off: 0 for a strength, inf for the max-norm limit.

What counts as a weight is decided by the last key of a leaf's path: "bias" (an offset) and
"scale" (the gain of a normalization) are not weights, everything else is. Shrinking an
offset or a gain towards 0 makes no function simpler (Goodfellow et al. 2016, section 7.1).

>>> params = {"Dense_0": {"kernel": jnp.array([[3.0], [-4.0]]), "bias": jnp.array([7.0])}}
>>> print(l1(params), l2(params), elastic_net(params, 0.1, 0.01))
7.0 25.0 0.95
"""

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import KeyPath, keystr
from jaxtyping import Array, Float, PyTree

from ablax.weights import incoming_axes, is_weight

Scalar = Float[Array, ""] | float


def weights(params: PyTree, *, include_bias: bool = False) -> list[Float[Array, "..."]]:
    """The leaves that are weights: all but "bias" and "scale", in the tree's order.

    Args:
        include_bias: "bias" leaves too ("scale" never).

    >>> params = {"bias": jnp.zeros(2), "kernel": jnp.ones((3, 2)), "scale": jnp.ones(2)}
    >>> [w.shape for w in weights(params)], len(weights(params, include_bias=True))
    ([(3, 2)], 2)
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [
        leaf
        for path, leaf in leaves
        if is_weight(path) or (include_bias and keystr(path[-1:], simple=True) == "bias")
    ]


def l1(params: PyTree, *, include_bias: bool = False) -> Float[Array, ""]:
    """Σ |w|; gradient sign(w), with the subgradient 0 at w = 0.

    So a weight that is exactly 0 is left where it is. Source: Tibshirani 1996 (lasso).

    >>> w = jnp.array([2.0, 0.0, -3.0])
    >>> print(l1(w), jax.grad(l1)(w))
    5.0 [ 1.  0. -1.]
    """
    # jax.grad(jnp.abs) is 1 at 0.
    magnitudes = [w * jnp.sign(w) for w in weights(params, include_bias=include_bias)]
    return _total(magnitudes)


def l2(params: PyTree, *, include_bias: bool = False) -> Float[Array, ""]:
    """Σ w²; gradient 2w. No factor ½ and no root.

    With learning rate η, gradient descent on L + λ Σ w² is weight decay,
    w ← w(1 − 2λη) − η ∂L/∂w. Source: Hoerl & Kennard 1970 (ridge).

    >>> w = jnp.array([2.0, 0.0, -3.0])
    >>> print(l2(w), jax.grad(l2)(w))
    13.0 [ 4.  0. -6.]
    """
    return _total([jnp.square(w) for w in weights(params, include_bias=include_bias)])


def elastic_net(
    params: PyTree, l1_strength: Scalar, l2_strength: Scalar, *, include_bias: bool = False
) -> Float[Array, ""]:
    """l1_strength · Σ|w| + l2_strength · Σw² (Zou & Hastie 2005).

    The notes' form λ(α Σ|w| + (1 − α) Σw²) is l1_strength = λα, l2_strength = λ(1 − α). Two
    strengths are kept apart here because each is then exactly off at 0.

    >>> print(elastic_net(jnp.array([1.0, -2.0]), 0.5, 0.25))
    2.75
    """
    return l1_strength * l1(params, include_bias=include_bias) + l2_strength * l2(
        params, include_bias=include_bias
    )


def max_norm(params: PyTree, limit: Scalar) -> PyTree:
    """The params with every unit's incoming weight vector scaled to a Euclidean norm ≤ limit.

    w ← w · min(1, limit/‖w‖), after an update; "bias" and "scale" leaves are untouched. A
    vector inside the ball, and any vector at limit = inf, is returned to the bit.

    Args:
        params: a unit's incoming vector is everything that leads to one index of the output
            axis: the last of a "kernel", the first of a "weight" (`nn.dense`).
        limit: at least 0; inf is off.

    Source: Srebro & Shraibman 2005; with dropout, Srivastava et al. 2014, section 5.1.

    >>> kernel = jnp.array([[3.0, 0.3], [4.0, 0.4]])  # two units, of norms 5 and 0.5
    >>> print(max_norm({"kernel": kernel}, 1.0)["kernel"])
    [[0.6 0.3]
     [0.8 0.4]]
    """

    def project(path: KeyPath, w: Float[Array, "..."]) -> Float[Array, "..."]:
        if not is_weight(path):
            return w
        norm = jnp.sqrt(jnp.square(w).sum(axis=incoming_axes(path, w.ndim), keepdims=True))
        radius = jnp.asarray(limit, w.dtype)
        outside = norm > radius
        return jnp.where(outside, w * (radius / jnp.where(outside, norm, 1.0)), w)

    return jax.tree_util.tree_map_with_path(project, params)


def l2_norm(params: PyTree) -> Float[Array, ""]:
    """√Σw² over all weights, a float32 to report (not to train with: no gradient at 0).

    >>> print(l2_norm({"kernel": jnp.array([[3.0], [-4.0]]), "bias": jnp.array([7.0])}))
    5.0
    """
    return optax.tree.norm(_float32(params))


def share_below(params: PyTree, threshold: Scalar) -> Float[Array, ""]:
    """The share of weights with |w| < threshold, in [0, 1], float32; NaN if there are none.

    >>> print(share_below({"kernel": jnp.array([[0.001], [-0.002], [0.5], [1.0]])}, 0.01))
    0.5
    """
    below = [jnp.abs(w) < threshold for w in _float32(params)]
    total = sum(b.size for b in below)
    return sum((b.sum(dtype=jnp.float32) for b in below), jnp.float32(0)) / jnp.float32(total)


def participation_ratio(params: PyTree) -> Float[Array, ""]:
    """(Σw²)² / (N Σw⁴) over all N weights: the share of them that carry the norm, float32.

    1 if all have the same size, 1/N if one alone is not 0; NaN if all are 0.

    >>> print(participation_ratio({"kernel": jnp.array([[1.0, -1.0, 0.0, 0.0]])}))
    0.5
    """
    squares = _squares(params)
    return jnp.square(squares.sum()) / squares.size / jnp.square(squares).sum()


def top_share(params: PyTree, share: float) -> Float[Array, ""]:
    """Share of Σw² in the largest weights, the fraction `share` of all weights; float32.

    At least `share`, which it is if all have the same size; NaN if all are 0.

    >>> print(top_share({"kernel": jnp.array([[3.0, -1.0, 0.0, 0.0]])}, 0.25))
    0.9
    """
    squares = jnp.sort(_squares(params))
    n = max(1, round(share * squares.size))
    return squares[-n:].sum() / squares.sum()


def _squares(params: PyTree) -> Float[Array, " n"]:
    """w² of all weights in units of the largest: float32 holds no square of 1e-20 or of 1e20."""
    sizes = jnp.abs(jnp.concatenate([w.ravel() for w in _float32(params)]))
    return jnp.square(sizes / sizes.max())


def _float32(params: PyTree) -> list[Float[Array, "..."]]:
    return [w.astype(jnp.float32) for w in weights(params)]


def _total(terms: list[Float[Array, "..."]]) -> Float[Array, ""]:
    """The sum of all elements; a float32 zero of no arrays."""
    return jnp.asarray(optax.tree.sum(terms)) if terms else jnp.float32(0)


def weight_summary(params: PyTree) -> dict[str, Array]:
    """Summary of a trained network's weights, as columns of a study.

    The norm √Σw² ("l2_norm"), the share of weights below 0.001 in size ("share_below_1e-3") and
    the participation ratio.
    """
    return {
        "l2_norm": l2_norm(params),
        "share_below_1e-3": share_below(params, 1e-3),
        "participation_ratio": participation_ratio(params),
    }
