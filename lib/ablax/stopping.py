"""When to stop: the criteria of Prechelt 1998, "Early stopping — but when?".

With E_va the validation error, E_opt its lowest value so far, and a strip of k evaluations over
which the training error E_tr was measured,

    GL = 100 (E_va / E_opt − 1)                            generalization loss, in percent
    P_k = 1000 (mean of E_tr over the strip / its least − 1)    training progress, in permille

| criterion | stops                                                                     |
|-----------|---------------------------------------------------------------------------|
| GL_α      | after the first evaluation with GL > α                                    |
| PQ_α      | after the first strip with GL / P_k > α                                   |
| UP_s      | after the s-th of s strips in a row at whose end E_va was higher than before |

Beside them the protocol of every trial has a patience, in evaluations without improvement.
Whatever the criterion, what is kept is the state with the lowest validation error.

>>> print(generalization_loss(0.6, 0.5).round(2), training_progress(jnp.array([0.5, 0.4])).round(2))
20.0 125.0
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ablax.metrics import Metric
from ablax.task import StoppingRule

STRIP = 5
"""Evaluations in a strip: Prechelt's k, with an evaluation an epoch."""


def generalization_loss(error: Array | float, best: Array | float) -> Float[Array, ""]:
    """GL = 100 (E_va / E_opt − 1), in percent: how far validation is above its best."""
    return jnp.asarray(100.0 * (error / best - 1.0))


def training_progress(strip: Float[Array, " k"]) -> Float[Array, ""]:
    """P_k = 1000 (mean / min − 1), in permille: high while the training error still falls."""
    return 1000.0 * (strip.mean() / strip.min() - 1.0)


class Memory(NamedTuple):
    """What the criteria remember of a trial."""

    best: Float[Array, ""]
    seen: Int[Array, ""]  # evaluations
    strip: Float[Array, " k"]  # training errors of the current one
    at_last_strip: Float[Array, ""]  # validation error at its end
    rises: Int[Array, ""]  # strips in a row that ended higher than the one before


def prechelt(objective: Metric, strip: int = STRIP) -> StoppingRule:
    """All three criteria at once, each with a traced threshold, of which inf is off.

    The thresholds are the trial's hparams `gl`, `pq` and `up`.

    Args:
        objective: of the validation split, an error: lower is better, and it is positive.
        strip: evaluations in a strip.
    """
    if objective.direction != "min":
        raise ValueError(f"expected an objective to be minimized, got {objective}")
    start = Memory(
        jnp.float32(jnp.inf), jnp.int32(0), jnp.zeros(strip), jnp.float32(jnp.inf), jnp.int32(0)
    )

    def observe(memory: Memory, trial: Any, train: Any, valid: Any) -> tuple[Memory, Array]:
        hparams, error = trial.hparams, valid[objective.name]
        errors = memory.strip.at[memory.seen % strip].set(train["loss"])
        ends = (memory.seen + 1) % strip == 0
        best = jnp.fmin(memory.best, error)  # an error that is not a number is passed over
        loss, progress = generalization_loss(error, best), training_progress(errors)
        rises = jnp.where(error > memory.at_last_strip, memory.rises + 1, 0)
        rises = jnp.where(ends, rises, memory.rises)
        stop = (
            (loss > hparams.gl)
            | (ends & (loss > hparams.pq * progress))
            | (ends & (rises.astype(jnp.float32) >= hparams.up))
        )
        at_strip = jnp.where(ends, error, memory.at_last_strip)
        return Memory(best, memory.seen + 1, errors, at_strip, rises), stop

    return StoppingRule(start, observe)
