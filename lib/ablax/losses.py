"""Losses, per example, and their exact reduction under a mask.

A loss here gives one value per example; `reduce` turns these into (sum, count) and `mean`
into their quotient, so that padding never enters a number.

From scores (the classifier's last layer has no activation):

| name                                      | per example                          | source |
|-------------------------------------------|--------------------------------------|--------|
| sigmoid_binary_cross_entropy              | −y ln σ(z) − (1 − y) ln(1 − σ(z))    | optax  |
| softmax_cross_entropy                     | −Σⱼ yⱼ ln softmax(z)ⱼ                | optax  |
| softmax_cross_entropy_with_integer_labels | −ln softmax(z)_y                     | here   |
| hinge_loss                                | max(0, 1 − ys), y ∈ {−1, +1}         | optax  |
| perceptron_loss                           | max(0, −ys), y ∈ {−1, +1}            | here   |

The first three have the gradient ŷ − y with respect to the scores, and stay finite and precise
for any finite scores: ln σ and ln softmax are computed without forming the probability. The
last two are optax's functions with a repair, which their docstrings tell.

From probabilities: `log_loss`, `cross_entropy`, `cross_entropy_with_integer_labels`,
`likelihood`, `log_likelihood`. From predictions: `sse`, `mse`, `half_mse`.

`LOSSES` holds those that can train a network, under one signature: outputs [..., O] and
targets [..., O] or [...] give losses [...].

Squared errors. With m examples and O outputs, the course notes write ½ΣΣ(y − ŷ)² (SSE),
(1/n)Σ(y − ŷ)² (MSE) and (1/2m)Σ(y − ŷ)² (the halved MSE of gradient descent). Here

    reduce(sse(ŷ, y))[0]  = ½ΣΣ(y − ŷ)²               mean(mse(ŷ, y)) = ΣΣ(y − ŷ)²/(mO)
    mean(half_mse(ŷ, y))  = ΣΣ(y − ŷ)²/(2mO)          sse = O·half_mse = (O/2)·mse

so for one output and the mean over examples, sse and half_mse are the same training loss;
only the notes' sum over examples (a gradient m times as large) tells SSE from MSE.

>>> prediction, target = jnp.array([[1.0], [3.0]]), jnp.array([[0.0], [1.0]])
>>> print(sse(prediction, target), mse(prediction, target), half_mse(prediction, target))
[0.5 2. ] [1. 4.] [0.5 2. ]

The notes' worked example, four points to whose true colour the model gives these
probabilities:

>>> probability = jnp.array([0.6, 0.2, 0.1, 0.7])
>>> total, count = reduce(log_loss(probability, jnp.ones(4)))
>>> print(total.round(1), count)
4.8 4.0
>>> print((-log_likelihood(probability)).round(1), likelihood(probability).round(4))
4.8 0.0084
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num
from optax.losses import (
    hinge_loss,
    l2_loss,
    sigmoid_binary_cross_entropy,
    softmax_cross_entropy,
    squared_error,
)

from ablax.errors import UserError, unknown

__all__ = [
    "LOSSES",
    "Loss",
    "align",
    "class_labels",
    "cross_entropy",
    "cross_entropy_with_integer_labels",
    "half_mse",
    "hinge_loss",
    "likelihood",
    "log_likelihood",
    "log_loss",
    "loss",
    "mean",
    "mse",
    "perceptron_loss",
    "reduce",
    "sigmoid_binary_cross_entropy",
    "signs",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "sse",
]

Loss = Callable[[Float[Array, "*b o"], Num[Array, "..."]], Float[Array, "*b"]]


def reduce(
    per_example: Num[Array, "*b"] | Bool[Array, "*b"], mask: Bool[Array, "..."] | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(Σ of the values, their number), over the examples where mask is true.

    Sums and counts of chunks, batches and devices add up to those of the whole; means do not.
    A masked value may be anything, infinite and NaN included. Both scalars have at least
    float32 (a count is exact up to 2²⁴).

    Args:
        per_example: one value per example, or several, as for the tokens of a sequence.
        mask: of the same shape, or of its leading axes: then it masks whole examples.

    >>> total, count = reduce(jnp.array([1.0, 2.0, jnp.nan]), jnp.array([True, True, False]))
    >>> print(total, count)
    3.0 2.0
    """
    dtype = jnp.float64 if per_example.dtype == jnp.float64 else jnp.float32
    values = per_example.astype(dtype)
    if mask is None:
        return values.sum(), jnp.asarray(values.size, dtype)
    if mask.shape != values.shape[: mask.ndim]:
        raise ValueError(
            f"expected a mask of shape {values.shape} or of its leading axes; got {mask.shape}"
        )
    mask = mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))
    mask = jnp.broadcast_to(mask, values.shape)
    # A product with 0 would let a masked infinity through as NaN.
    return jnp.where(mask, values, 0.0).sum(), mask.sum(dtype=dtype)


def mean(
    per_example: Num[Array, "*b"] | Bool[Array, "*b"], mask: Bool[Array, "..."] | None = None
) -> Float[Array, ""]:
    """sum / count of `reduce`; over no example at all it is NaN, never a made-up zero.

    >>> print(mean(jnp.array([1.0, 2.0, 9.0]), jnp.array([True, True, False])))
    1.5
    """
    total, count = reduce(per_example, mask)
    return total / count


def align(outputs: Float[Array, "*b o"], targets: Num[Array, "..."]) -> Num[Array, "*b o"]:
    """The targets in the shape and dtype of the outputs.

    Refuses every other shape, because broadcasting [m, 1] against [m] gives all m² pairs.

    Args:
        outputs: O values per example, in the last axis.
        targets: the same shape, or without the last axis where O is 1.

    Raises:
        UserError: the shapes do not fit.

    >>> align(jnp.zeros((4, 1)), jnp.arange(4)).shape
    (4, 1)
    """
    if targets.shape != outputs.shape and (*targets.shape, 1) != outputs.shape:
        raise UserError(
            f"expected targets of the outputs' shape {outputs.shape} (without the last axis "
            f"if it is 1); got {targets.shape}"
        )
    return targets.reshape(outputs.shape).astype(outputs.dtype)


def class_labels(outputs: Float[Array, "*b k"], labels: Int[Array, "..."]) -> Int[Array, "*b"]:
    """The labels, if they are integers and one per example.

    Raises:
        UserError: they are not.

    >>> class_labels(jnp.zeros((4, 10)), jnp.arange(4)).shape
    (4,)
    """
    if labels.shape != outputs.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise UserError(
            f"expected integer labels of shape {outputs.shape[:-1]}, one per example; "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    return labels


def signs(labels: Num[Array, "..."]) -> Float[Array, "..."]:
    """+1 where a label is positive, else −1: {0, 1} and {−1, +1} mean the same classes.

    >>> print(signs(jnp.array([0, 1])), signs(jnp.array([-1, 1])))
    [-1.  1.] [-1.  1.]
    """
    dtype = labels.dtype if jnp.issubdtype(labels.dtype, jnp.floating) else jnp.float32
    return jnp.where(labels > 0, 1.0, -1.0).astype(dtype)


def _times_log(weight: Float[Array, "..."], p: Float[Array, "..."]) -> Float[Array, "..."]:
    """weight · ln p, and 0 with zero gradient where weight is 0, whatever p is.

    `jax.scipy.special.xlogy` has the value but not the gradient: at weight 0 and p 0 it is NaN.
    """
    return weight * jnp.log(jnp.where(weight != 0, p, 1.0))


def log_loss(probabilities: Float[Array, "*b"], labels: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Binary cross-entropy −y ln p − (1 − y) ln(1 − p), in nats, from probabilities.

    p in [0, 1] is the probability of class 1, y in [0, 1] the label. A certain and right
    prediction costs exactly 0 with a finite gradient. A certain and wrong one costs +inf,
    which is the true value: nothing is clipped. To train, use
    `sigmoid_binary_cross_entropy`, which never meets this case.

    Source: scikit-learn's name; Murphy, Probabilistic Machine Learning (2022), section 5.1.6.

    >>> print(log_loss(jnp.array([0.5, 0.5, 0.0, 0.0]), jnp.array([1.0, 0.0, 0.0, 1.0])).round(3))
    [0.693 0.693 0.    inf]
    """
    # log1p, because 1 − p rounds to 1 for a small p.
    log_not_p = jnp.log1p(-jnp.where(labels != 1, probabilities, 0.0))
    return -_times_log(labels, probabilities) - (1.0 - labels) * log_not_p


def cross_entropy(
    probabilities: Float[Array, "*b k"], labels: Float[Array, "*b k"]
) -> Float[Array, "*b"]:
    """Multi-class cross-entropy −Σⱼ yⱼ ln pⱼ, in nats, from probabilities.

    y is one-hot or any distribution over the K classes; p sums to 1 (not checked). Where y is
    0, p may be 0; where it is not, p = 0 costs +inf, the true value. To train, use
    `softmax_cross_entropy`.

    >>> p, y = jnp.array([[0.7, 0.3, 0.0]]), jnp.array([[0.0, 1.0, 0.0]])
    >>> print(cross_entropy(p, y))
    [1.2039728]
    """
    return -_times_log(labels, probabilities).sum(axis=-1)


def cross_entropy_with_integer_labels(
    probabilities: Float[Array, "*b k"], labels: Int[Array, "*b"]
) -> Float[Array, "*b"]:
    """Multi-class cross-entropy −ln p_y, in nats, from probabilities and labels 0 … K − 1.

    A label of K or more gives NaN, which cannot pass for a result.

    >>> print(cross_entropy_with_integer_labels(jnp.array([[0.7, 0.3, 0.0]]), jnp.array([1])))
    [1.2039728]
    """
    return -jnp.log(_at(probabilities, labels))


def softmax_cross_entropy_with_integer_labels(
    logits: Float[Array, "*b k"], labels: Int[Array, "*b"]
) -> Float[Array, "*b"]:
    """−ln softmax(z)_y, in nats, from scores z and labels 0 … K − 1; gradient softmax(z) − y.

    The function of this name in optax subtracts z_y from a log-sum-exp, two numbers as large as
    the scores, and loses their digits: 1.0986328 for three scores of −10⁴, where ln 3 is
    1.0986123. Taking the label's entry of log_softmax keeps them. It is taken by a mask, and
    with the classes along the first axis: without a gather and its scatter, and with the batch
    as the innermost axis, a vmapped step of a small network takes a sixth less time on a CPU.

    A label outside 0 … K − 1 gives NaN, which cannot pass for a result.

    >>> z = jnp.full((1, 3), -1e4)
    >>> print(softmax_cross_entropy_with_integer_labels(z, jnp.array([0])))
    [1.0986123]
    """
    log_p = jax.nn.log_softmax(jnp.moveaxis(logits, -1, 0), axis=0)
    classes = jnp.arange(len(log_p), dtype=labels.dtype).reshape(-1, *[1] * labels.ndim)
    picked = jnp.where(classes == labels[None], log_p, 0.0).sum(axis=0)
    known = (labels >= 0) & (labels < len(log_p))
    return jnp.where(known, -picked, jnp.nan)


def _at(values: Float[Array, "*b k"], labels: Int[Array, "*b"]) -> Float[Array, "*b"]:
    return jnp.take_along_axis(values, labels[..., None], axis=-1)[..., 0]


def log_likelihood(probabilities: Float[Array, "*b m"]) -> Float[Array, "*b"]:
    """Σᵢ ln P(xᵢ | θ) over the last axis: the summed cross-entropy, with the sign changed.

    Args:
        probabilities: what the model gives to each of the m independent observations (of a
            classifier: to the true class). An observation of probability 0 gives −inf.

    >>> print(log_likelihood(jnp.array([0.6, 0.2, 0.1, 0.7])).round(1))
    -4.8
    """
    return jnp.log(probabilities).sum(axis=-1)


def likelihood(probabilities: Float[Array, "*b m"]) -> Float[Array, "*b"]:
    """∏ᵢ P(xᵢ | θ) = exp(log_likelihood) over the last axis: maximum likelihood's P(all).

    A product of many small numbers underflows to 0 (in float32, 0.1⁴⁶ does), where the sum of
    logarithms is an ordinary number. Compare and maximize `log_likelihood`.

    >>> p = jnp.full(50, 0.1)
    >>> print(likelihood(p), log_likelihood(p).round())
    0.0 -115.0
    """
    # The product itself, not exp of the sum: its gradient is right at P = 0 too.
    return jnp.prod(probabilities, axis=-1)


def perceptron_loss(scores: Float[Array, "*b"], labels: Num[Array, "*b"]) -> Float[Array, "*b"]:
    """max(0, −ys) with y ∈ {−1, +1} (or {0, 1}, by `signs`): the perceptron's criterion.

    s = w·x + b; an example is misclassified where step(s) is not its label, a point on the
    line counting as positive. The gradient with respect to s is −y on misclassified examples
    and 0 on the others, so that a gradient step of learning rate α on one example *is* the
    perceptron's rule w ← w ± αx, b ← b ± α. `optax.losses.perceptron_loss` has the same
    values, but halves the update of a point on the line, the first one met when w = 0.

    Source: Rosenblatt 1958; Bishop, Pattern Recognition and Machine Learning (2006), 4.1.7.

    >>> print(perceptron_loss(jnp.array([2.0, -2.0, 2.0]), jnp.array([1, 1, -1])))
    [0. 2. 2.]
    """
    misclassified = (scores >= 0) != (labels > 0)
    return jnp.where(misclassified, -signs(labels).astype(scores.dtype) * scores, 0.0)


def sse(predictions: Float[Array, "*b o"], targets: Num[Array, "..."]) -> Float[Array, "*b"]:
    """½ Σⱼ (yⱼ − ŷⱼ)² over the outputs; the notes' SSE is the sum of these over examples.

    Units: the target's, squared. Gradient: ŷ − y. Targets as in `align`.

    >>> print(sse(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 0.0]])))
    [2.5]
    """
    return l2_loss(predictions, align(predictions, targets)).sum(axis=-1)


def mse(predictions: Float[Array, "*b o"], targets: Num[Array, "..."]) -> Float[Array, "*b"]:
    """(1/O) Σⱼ (yⱼ − ŷⱼ)² over the O outputs; the MSE is the mean of these over examples.

    Units: the target's, squared. Gradient: 2(ŷ − y)/O. Targets as in `align`.

    >>> print(mse(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 0.0]])))
    [2.5]
    """
    return squared_error(predictions, align(predictions, targets)).mean(axis=-1)


def half_mse(predictions: Float[Array, "*b o"], targets: Num[Array, "..."]) -> Float[Array, "*b"]:
    """mse / 2: the mean over m examples of one output is the notes' (1/2m) Σ (y − ŷ)².

    Units: the target's, squared. Gradient: (ŷ − y)/O. Targets as in `align`.

    >>> print(half_mse(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 0.0]])))
    [1.25]
    """
    return l2_loss(predictions, align(predictions, targets)).mean(axis=-1)


def _summed(elementwise: Callable[[Array, Array], Array]) -> Loss:
    """The sum over outputs of an elementwise loss (several outputs: independent decisions)."""

    def per_example(outputs: Float[Array, "*b o"], targets: Num[Array, "..."]) -> Array:
        return elementwise(outputs, align(outputs, targets)).sum(axis=-1)

    return per_example


def _softmax(outputs: Float[Array, "*b k"], targets: Num[Array, "..."]) -> Array:
    return softmax_cross_entropy(outputs, align(outputs, targets))


def _softmax_of_integers(outputs: Float[Array, "*b k"], labels: Num[Array, "..."]) -> Array:
    return softmax_cross_entropy_with_integer_labels(outputs, class_labels(outputs, labels))


LOSSES: dict[str, Loss] = {
    "sigmoid_binary_cross_entropy": _summed(sigmoid_binary_cross_entropy),
    "softmax_cross_entropy": _softmax,
    "softmax_cross_entropy_with_integer_labels": _softmax_of_integers,
    "hinge_loss": _summed(lambda scores, labels: hinge_loss(scores, signs(labels))),
    "perceptron_loss": _summed(perceptron_loss),
    "sse": sse,
    "mse": mse,
    "half_mse": half_mse,
}
"""Per-example losses of (outputs [..., O], targets) that a network can be trained with.

Integer labels [...] for softmax_cross_entropy_with_integer_labels, else targets as in `align`.
Elementwise losses are summed over the outputs. Binary labels are {0, 1} for
sigmoid_binary_cross_entropy, and {0, 1} or {−1, +1} for hinge_loss and perceptron_loss.
"""


def loss(name: str) -> Loss:
    """The function of this name in `LOSSES`.

    Raises:
        UserError: no such name; the message lists all.

    >>> print(loss("hinge_loss")(jnp.array([[0.5], [0.5]]), jnp.array([0, 1])))
    [1.5 0.5]
    """
    if name not in LOSSES:
        raise unknown("loss", name, LOSSES)
    return LOSSES[name]
