"""The seam between networks and the engine: what one trial does, as pure functions.

A `Task` knows nothing of other trials: no function here has an axis over trials, and only
the engine vmaps. The engine in turn knows nothing of networks. `supervised` builds the
usual task out of a model, a loss and an optimizer; a custom task replaces one of its
functions (`usual.replace(step=…)`) or brings its own.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ablax.metrics import Metric

Sums = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trial:
    """One point at one restart, as the compiled program sees it: every leaf is traced.

    `hparams` is the point's Config, so `trial.hparams.l2` is a traced float32 and
    `trial.hparams.width` a Python int.
    """

    hparams: Any
    seed: Int[Array, ""]  # of the study, uint32
    restart: Int[Array, ""]
    step: Int[Array, ""]  # updates made so far
    steps: Int[Array, ""]  # the horizon, for schedules
    until: Int[Array, ""]  # where the trial ends: at `steps`, or before, if a child goes on

    def rng(self, name: str, step: Int[Array, ""] | int | None = None) -> Key[Array, ""]:
        """The key of a named stream, of this restart and, where given, of one step.

        Derived from (study seed, restart, name, step) and from nothing else. So restart r
        draws the same numbers at every point, and a trial's numbers depend neither on its
        slot nor on what else is in the grid. Of a stream that the Config ties (`--fix`), all
        restarts draw what restart 0 draws.
        """
        tied = name in self.hparams.fix.split("+")
        key = jax.random.key(self.seed)
        for word in (jnp.zeros_like(self.restart) if tied else self.restart, _stable_hash(name)):
            key = jax.random.fold_in(key, word)
        return key if step is None else jax.random.fold_in(key, step)


def _stable_hash(name: str) -> int:
    """31 bits of the name's SHA-256 (Python's own hash differs from process to process)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1


def _the_state(state: Any) -> Any:
    return state


def _the_data(trial: Trial, data: Any) -> Any:
    return data


class StoppingRule(NamedTuple):
    """Rule by which a trial may stop, beyond the patience of its protocol.

    Attributes:
        start: what the rule remembers before the first evaluation: a pytree of arrays.
        observe: (memory, trial, train, valid) -> (memory, stop), at every evaluation: {name:
            mean} of the step metrics since the last one, and of the validation split.
    """

    start: Any
    observe: Callable[[Any, Trial, Mapping[str, Array], Mapping[str, Array]], tuple[Any, Array]]


@dataclass(frozen=True)
class Task:
    """Pure functions of one trial, and the data that they get as an argument.

    Attributes:
        data: pytrees of arrays by name. What is named "test" is given to the final evaluation
            only, and the segment program is given all the others.
        init: (trial, data) -> state, any pytree.
        step: (state, trial, data) -> (state, metrics): one update, which chooses its own
            minibatch. `metrics` are scalars; "loss" must be among them, and when it is not
            finite the trial has diverged.
        evaluate: (variables, trial, split) -> {name: (sum, count)}.
        snapshot: state -> variables: what "best" keeps and `evaluate` gets.
        view: (trial, data) -> what `step` and `evaluate` get as this trial's data: its split,
            its fraction, its noisy labels, its streams of random numbers. It names the splits
            "train" and "valid" (and "test", where it is given) for `evaluate`. Computed once
            per segment, not once per step.
        inherit: (trial, data, variables) -> state: the start of a trial whose parent, in a round
            before, left it its selected snapshot (transfer, pruning).
        measure: (variables, trial) -> {name: array}: what else to keep of a finished trial.
            Scalars become columns of trials.parquet, arrays go to arrays/.
        objective: the validation metric that early stopping and selection look at, or None.
        solved: {name: mean} of an evaluation -> whether the trial may stop; then it is this
            state that is selected.
        stopping: a rule by which it may stop as well; what is selected stays the best.
        metrics: the direction of every metric that `evaluate` returns; tables lead with the
            first.
        version: raise it when the functions change what they compute; it is part of a
            trial's identity.
        fingerprint: a hash of the data; part of a trial's identity.
        notes: lines for the plan, about the data.
    """

    data: Mapping[str, Any]
    init: Callable[[Trial, Any], Any]
    step: Callable[[Any, Trial, Any], tuple[Any, dict[str, Array]]]
    evaluate: Callable[[Any, Trial, Any], Sums]
    objective: Metric | None
    snapshot: Callable[[Any], Any] = _the_state
    view: Callable[[Trial, Any], Any] = _the_data
    inherit: Callable[[Trial, Any, Any], Any] | None = None
    measure: Callable[[Any, Trial], dict[str, Array]] | None = None
    solved: Callable[[dict[str, Array]], Array] | None = None
    stopping: StoppingRule | None = None
    metrics: tuple[Metric, ...] = ()
    version: int = 1
    fingerprint: str = ""
    notes: tuple[str, ...] = ()

    def replace(self, **changes: Any) -> "Task":
        """The task with some of its functions or values exchanged."""
        return dataclasses.replace(self, **changes)


def whole(**values: Float[Array, ""]) -> Sums:
    """Sums of values that belong to a split as a whole, and not to an example: each counts once."""
    return {name: (value, jnp.float32(1)) for name, value in values.items()}


def means(sums: Sums) -> dict[str, Array]:
    """{name: sum / count}; NaN where nothing was counted."""
    return {name: total / count for name, (total, count) in sums.items()}


def at_step(trial: Trial, step: Array) -> Trial:
    """The trial after `step` updates."""
    return dataclasses.replace(trial, step=step)
