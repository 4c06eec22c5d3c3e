"""When a trial improved, and when it has waited long enough."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ablax.metrics import Metric


class Watch(NamedTuple):
    """What early stopping remembers of a trial."""

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
    """Whether `patience` evaluations have passed without improvement (inf: never)."""
    return watch.stale.astype(jnp.float32) >= patience
