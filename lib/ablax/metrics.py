"""Metrics: their columns, their directions, and functions of outputs and targets.

A metric of examples is a function (outputs [..., O], targets) -> one value per example, reduced
by `ablax.losses.reduce` just as a loss is. A `Metric` is a column's name and its declared
direction: nothing here or elsewhere guesses the direction from a name. In tables a metric
carries its split, as in "valid/loss".

Descriptive measures (the norm of the weights, the share of small ones) are neither good nor bad
in themselves, so `METRICS` has no direction for them; an experiment that wants one declares it,
`Metric("l2_norm", "min")`.

`one_hot` is `jax.nn.one_hot`: label k becomes the k-th unit vector, and a label outside
0 … K − 1 a row of zeros.

>>> print(one_hot(jnp.array([2, 0]), 3))
[[0. 0. 1.]
 [1. 0. 0.]]
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax.nn import one_hot
from jaxtyping import Array, Bool, Float, Num

from ablax.errors import unknown
from ablax.losses import align, class_labels
from ablax.losses import mse as squared_error

__all__ = [
    "ACCURACY",
    "ERROR",
    "LOSS",
    "METRICS",
    "Metric",
    "PerExample",
    "absolute_error",
    "accuracy",
    "error",
    "metric",
    "one_hot",
    "squared_error",
    "worst_rank",
]

PerExample = Callable[[Float[Array, "*b o"], Num[Array, "..."]], Float[Array, "*b"]]


@dataclass(frozen=True)
class Metric:
    """A measured quantity and the direction in which it is better.

    >>> loss = Metric("loss", "min")
    >>> bool(loss.better(0.1, 0.2)), loss.sign, loss.worst
    (True, -1, inf)
    """

    name: str
    direction: Literal["min", "max"]

    def __post_init__(self):
        if self.direction not in ("min", "max"):
            raise unknown("direction", self.direction, ("min", "max"))

    @property
    def sign(self) -> int:
        """+1 if higher is better, else −1: sign · value is to be maximized."""
        return 1 if self.direction == "max" else -1

    @property
    def worst(self) -> float:
        """Value that every finite one is better than: ∓inf."""
        return -self.sign * float("inf")

    def better(
        self, a: Float[Array, "*b"] | float, b: Float[Array, "*b"] | float, by: float | Array = 0.0
    ) -> Bool[Array, "*b"]:
        """Where a is better than b by more than `by`; never where either is NaN.

        >>> print(Metric("accuracy", "max").better(jnp.array([0.9, 0.5, jnp.nan]), 0.5))
        [ True False False]
        """
        return jnp.asarray(self.sign * (a - b) > by)


def accuracy(outputs: Float[Array, "*b k"], labels: Num[Array, "..."]) -> Float[Array, "*b"]:
    """1 where the predicted class is the label, else 0.

    Args:
        outputs: scores, one per class. K ≥ 2: the prediction is the largest (the
            first of equals), the labels are 0 … K − 1, shape [...]. K = 1: it is step(z), so a
            score of 0 counts as positive; the labels are {0, 1} or {−1, +1}, shape [...] or
            [..., 1].

    Raises:
        UserError: the labels are not one per example, or (K ≥ 2) not integers.

    >>> print(accuracy(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])))
    [1. 0.]
    >>> print(accuracy(jnp.array([[0.3], [-0.3]]), jnp.array([1, 1])))
    [1. 0.]
    """
    if outputs.shape[-1] == 1:
        right = ((outputs >= 0) == (align(outputs, labels) > 0))[..., 0]
    else:
        predicted = jnp.argmax(outputs, axis=-1)
        right = predicted == class_labels(outputs, labels).astype(predicted.dtype)
    return right.astype(jnp.float32)


def error(outputs: Float[Array, "*b k"], labels: Num[Array, "..."]) -> Float[Array, "*b"]:
    """1 − accuracy: 1 where the predicted class is wrong, else 0. Arguments as for accuracy.

    >>> print(error(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])))
    [0. 1.]
    """
    return 1.0 - accuracy(outputs, labels)


def absolute_error(
    predictions: Float[Array, "*b o"], targets: Num[Array, "..."]
) -> Float[Array, "*b"]:
    """(1/O) Σⱼ |yⱼ − ŷⱼ| over the O outputs, in the target's units; the MAE is its mean.

    >>> print(absolute_error(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 0.0]])))
    [1.5]
    """
    return jnp.abs(predictions - align(predictions, targets)).mean(axis=-1)


def worst_rank(values: np.ndarray, failed: np.ndarray, metric: Metric) -> np.ndarray:
    """The values, where those of failed trials are the worst of any trial that did not fail.

    So a trial that diverged is neither dropped nor judged by what it was before: it ranks last.

    Args:
        values: of the metric, over all trials that are ranked together.
        failed: which of them diverged. A value that is not finite counts as failed as well.

    Returns:
        float64; NaN for all that failed, if no trial did not.

    >>> accuracy, diverged = np.array([0.9, 0.2, 0.8]), np.array([False, True, False])
    >>> worst_rank(accuracy, diverged, Metric("accuracy", "max"))
    array([0.9, 0.8, 0.8])
    """
    values = np.array(values, np.float64)
    failed = np.asarray(failed, bool) | ~np.isfinite(values)
    others = values[~failed]
    values[failed] = metric.sign * (metric.sign * others).min() if len(others) else np.nan
    return values


LOSS = Metric("loss", "min")
ACCURACY = Metric("accuracy", "max")
ERROR = Metric("error", "min")

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        LOSS,
        ACCURACY,
        ERROR,
        Metric("mse", "min"),
        Metric("mae", "min"),
    )
}
"""The declared direction of the metrics that many experiments share."""


def metric(name: str) -> Metric:
    """The declared metric of a column: "valid/loss" has the direction of "loss".

    Raises:
        UserError: no metric of this name is declared.

    >>> metric("valid/loss")
    Metric(name='valid/loss', direction='min')
    """
    base = name.rpartition("/")[2]
    if base not in METRICS:
        raise unknown("metric", base, METRICS)
    return Metric(name, METRICS[base].direction)
