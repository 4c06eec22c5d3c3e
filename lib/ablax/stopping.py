"""Everything that ends a trial before its last step, and what is kept of it then.

At every evaluation a trial may stop for one of three reasons: its patience is exhausted (a number
of evaluations without improvement, part of every trial's protocol), the task calls it solved
(`Task.solved`), or a rule of the task's own asks for it (`Task.stopping`). Whatever the reason, the
snapshot that is kept is the one of the best validation value; of a solved trial, the one that
solved it.

`prechelt` is such a rule: the criteria of Prechelt 1998, "Early stopping — but when?".

With E_va the validation error, E_opt its lowest value so far, and a strip of k evaluations over
which the training error E_tr was measured,

    GL = 100 (E_va / E_opt − 1)                            generalization loss, in percent
    P_k = 1000 (mean of E_tr over the strip / its least − 1)    training progress, in permille

| criterion | stops                                                                     |
|-----------|---------------------------------------------------------------------------|
| GL_α      | after the first evaluation with GL > α                                    |
| PQ_α      | after the first strip with GL / P_k > α                                   |
| UP_s      | after the s-th of s strips in a row at whose end E_va was higher than before |

>>> print(generalization_loss(0.6, 0.5).round(2), training_progress(jnp.array([0.5, 0.4])).round(2))
20.0 125.0
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ablax.metrics import Metric
from ablax.task import StoppingRule, Task, Trial


class Watch(NamedTuple):
    """State of early stopping for one trial."""

    best_value: Float[Array, ""]
    best_step: Int[Array, ""]
    stale: Int[Array, ""]  # evaluations since the last improvement


def unwatched(metric: Metric | None) -> Watch:
    """The watch before the first evaluation: anything finite improves on it."""
    worst = jnp.float32(metric.worst if metric is not None else jnp.inf)
    return Watch(worst, jnp.int32(0), jnp.int32(0))


def observe(
    watch: Watch,
    value: Float[Array, ""],
    step: Int[Array, ""],
    *,
    metric: Metric,
    min_delta: Float[Array, ""],
    solved: Bool[Array, ""] | bool = False,
) -> tuple[Watch, Bool[Array, ""]]:
    """One evaluation: the new watch, and whether it improved.

    improved = solved, or value is finite and better than the best by more than min_delta. It is
    computed here once, and the caller keeps value, step and snapshot by it, so these can
    never disagree (Prechelt 1998 calls the kept step the minimum of E_opt).

    >>> from ablax.metrics import Metric
    >>> loss = Metric("loss", "min")
    >>> watch, improved = observe(unwatched(loss), jnp.float32(0.5), jnp.int32(10),
    ...                           metric=loss, min_delta=jnp.float32(0.0))
    >>> bool(improved), int(watch.best_step)
    (True, 10)
    """
    improved = solved | (jnp.isfinite(value) & metric.better(value, watch.best_value, by=min_delta))
    return (
        Watch(
            jnp.where(improved, value, watch.best_value),
            jnp.where(improved, step, watch.best_step),
            jnp.where(improved, 0, watch.stale + 1),
        ),
        improved,
    )


def exhausted(watch: Watch, patience: Float[Array, ""]) -> Bool[Array, ""]:
    """True once `patience` evaluations have passed without improvement (inf: never)."""
    return watch.stale.astype(jnp.float32) >= patience


def is_solved(task: Task, valid: Mapping[str, Array]) -> Bool[Array, ""]:
    """True where the task calls a trial solved; never where it has no such test."""
    return jnp.bool_(False) if task.solved is None else task.solved(dict(valid))


def stops(
    task: Task,
    trial: Trial,
    watch: Watch,
    memory: Any,
    solved: Bool[Array, ""],
    train: Mapping[str, Array],
    valid: Mapping[str, Array],
) -> tuple[Any, Bool[Array, ""]]:
    """(new state of the task's own rule, True if the trial ends at this evaluation).

    Args:
        task: whose rules apply.
        trial: at this evaluation.
        watch: as `observe` has left it.
        memory: state of the task's own rule; () without one.
        solved: as `is_solved` says.
        train: means of the step metrics since the last evaluation.
        valid: means over the validation split.
    """
    stop = exhausted(watch, trial.hparams.patience) | solved
    if task.stopping is None:
        return memory, stop
    memory, asked = task.stopping.observe(memory, trial, train, valid)
    return memory, stop | asked


STRIP = 5
"""Evaluations in a strip: Prechelt's k, with an evaluation an epoch."""


def generalization_loss(error: Array | float, best: Array | float) -> Float[Array, ""]:
    """GL = 100 (E_va / E_opt − 1), in percent: how far validation is above its best."""
    return jnp.asarray(100.0 * (error / best - 1.0))


def training_progress(strip: Float[Array, " k"]) -> Float[Array, ""]:
    """P_k = 1000 (mean / min − 1), in permille: high while the training error still falls."""
    return 1000.0 * (strip.mean() / strip.min() - 1.0)


class Memory(NamedTuple):
    """State of Prechelt's criteria for one trial."""

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
