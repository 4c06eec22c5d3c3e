"""Trials as columns: what the host puts into slots, and rows of what it reads back."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ablax.config import as_traced
from ablax.task import Trial


def trials_of(
    configs: Sequence[Any], restarts: Sequence[int], seed: int, until: Sequence[int] | None = None
) -> Trial:
    """Trials before their first step, as one pytree of columns.

    Args:
        configs: one Config per trial, all of one program.
        restarts: one per trial.
        seed: the study's.
        until: the step at which each of them ends; None: all their steps.
    """
    traced = [as_traced(config) for config in configs]
    hparams = jax.tree.map(lambda *values: np.stack(values), *traced)
    n = len(configs)
    return Trial(
        hparams,
        np.full(n, seed, np.uint32),  # type: ignore[arg-type]
        np.asarray(restarts, np.int32),  # type: ignore[arg-type]
        np.zeros(n, np.int32),  # type: ignore[arg-type]
        hparams.steps,
        hparams.steps if until is None else np.asarray(until, np.int32),  # type: ignore[arg-type]
    )


def take(tree: Any, index: Any) -> Any:
    """The entries `index` of every leaf."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def stacked(rows: Sequence[Any]) -> Any:
    """NumPy pytrees of equal structure as one, with a leading axis over them."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
