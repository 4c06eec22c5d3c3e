"""Descent on the loss of a whole training split, for any loss of any parameters, as a `Task`.

`supervised` is for networks and minibatches; this is for what has neither: a function of some
parameters and a split, of which every step takes the gradient over all training examples.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jaxtyping import Array, PyTree

from ablax.metrics import LOSS, Metric
from ablax.task import Task, Trial, whole
from ablax.tasks.supervised import SupervisedState


def full_batch(
    loss: Callable[[PyTree, Any], Array],
    metric: Metric = LOSS,
    *,
    init: Callable[[Trial], PyTree],
    optimizer: Callable[[Trial], optax.GradientTransformation],
    penalty: Callable[[PyTree, Any], Array] | None = None,
    **parts: Any,
) -> Task:
    """Return the task of w ← w + u, u the optimizer's update for ∇(loss + penalty) at w.

    There is no objective: the last parameters count. They are evaluated by their loss on each
    split, without the penalty.

    Args:
        loss: (params, split) -> scalar, of the split as a whole.
        metric: the name of the loss among the metrics.
        init: trial -> the initial params.
        optimizer: trial -> optax chain, built from the trial's traced hparams.
        penalty: (params, hparams) -> scalar, added to the loss in training.
        **parts: other attributes of the `Task`, as `data`, `view` and `measure`; any of these too.
    """

    def start(trial: Trial, data: Any) -> SupervisedState:
        params = init(trial)
        return SupervisedState(params, optimizer(trial).init(params))

    def step(
        state: SupervisedState, trial: Trial, data: Any
    ) -> tuple[SupervisedState, dict[str, Array]]:
        def penalized(params: PyTree) -> tuple[Array, Array]:
            added = None if penalty is None else penalty(params, trial.hparams)
            value = loss(params, data["train"])
            return value if added is None else value + added, value

        params, opt_state = state
        gradient, value = jax.grad(penalized, has_aux=True)(params)
        updates, opt_state = optimizer(trial).update(gradient, opt_state, params)
        return SupervisedState(optax.apply_updates(params, updates), opt_state), {"loss": value}

    own = {
        "init": start,
        "step": step,
        "evaluate": lambda params, trial, split: whole(**{metric.name: loss(params, split)}),
        "snapshot": lambda state: state.params,
        "objective": None,
        "metrics": (metric,),
    }
    return Task(**(own | parts))
