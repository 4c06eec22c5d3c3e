"""One slot: the state of the trial that it holds, and how a segment advances it.

Everything here is a pure function of one slot; `programs` vmaps it over the slots of a device and
shards them over the devices. No slot ever touches another: lane invariance (docs/architecture.md).
"""

import enum
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ablax.stopping import Watch, is_solved, observe, stops, unwatched
from ablax.task import Task, Trial, at_step, means


class Status(enum.IntEnum):
    """State of a slot, or how its trial ended."""

    EMPTY = 0
    RUNNING = 1
    DONE = 2  # all its steps (of its round, where there are several)
    STOPPED = 3  # patience exhausted, solved, or by the task's own rule
    DIVERGED = 4  # loss or parameters not finite; frozen at its last finite state


class Slot(NamedTuple):
    trial: Trial
    state: Any
    best: Any  # the snapshot at watch.best_step
    watch: Watch
    memory: Any  # of the task's own stopping rule
    status: Int[Array, ""]


class Tally(NamedTuple):
    """Sums of the step metrics over a segment, and the number of steps they are over."""

    sums: dict[str, Float[Array, ""]]
    steps: Float[Array, ""]


class Readout(NamedTuple):
    """The few scalars per slot that the host reads after a segment."""

    status: Int[Array, ""]
    step: Int[Array, ""]
    watch: Watch
    advanced: Int[Array, ""]  # steps taken in this segment
    train: dict[str, Float[Array, ""]]
    valid: dict[str, Float[Array, ""]]


def fill(task: Task, trial: Trial, data: Any) -> Slot:
    """A slot with a fresh trial in it."""
    return _begun(task, trial, task.init(trial, task.view(trial, data)))


def adopt(task: Task, trial: Trial, inherited: Any, data: Any) -> Slot:
    """A slot with a fresh trial that starts from its parent's snapshot.

    The test split is not among `data`, so a child can no more see it than its parent could.
    """
    assert task.inherit is not None, "a task whose trials have parents says what is inherited"
    return _begun(task, trial, task.inherit(trial, task.view(trial, data), inherited))


def _begun(task: Task, trial: Trial, state: Any) -> Slot:
    return Slot(
        trial,
        state,
        task.snapshot(state),
        unwatched(task.objective),
        () if task.stopping is None else task.stopping.start,
        jnp.int32(Status.RUNNING),
    )


def train(task: Task, slot: Slot, interval: Int[Array, ""], data: Any) -> tuple[Slot, Readout]:
    """Advance one slot by a segment: its view of the data, `interval` steps, an evaluation.

    The view is computed once, outside of the loop over steps; what in it does not depend on the
    trial stays one copy for all slots under vmap.
    """
    view = task.view(slot.trial, data)
    slot, tally = jax.lax.fori_loop(
        0,
        interval,
        lambda _, carry: advance(task, carry[0], carry[1], view),
        (slot, no_tally(task, slot, view)),
    )
    return evaluate(task, slot, tally, view)


def no_tally(task: Task, slot: Slot, view: Any) -> Tally:
    """The tally before a segment's first step."""
    shapes = jax.eval_shape(task.step, slot.state, slot.trial, view)[1]
    return Tally({name: jnp.float32(0) for name in shapes}, jnp.float32(0))


def advance(task: Task, slot: Slot, tally: Tally, view: Any) -> tuple[Slot, Tally]:
    """One step, if the trial still has steps to make; otherwise nothing changes by a bit.

    A step that meets a loss, or leads to parameters, that are not finite is undone: the
    trial stays at its last finite state and is marked as diverged.
    """
    trial = slot.trial
    active = (slot.status == Status.RUNNING) & (trial.step < trial.until)
    state, metrics = task.step(slot.state, trial, view)
    finite = jnp.isfinite(metrics["loss"]) & _all_finite(task.snapshot(state))
    moved = active & finite
    return (
        slot._replace(
            state=_select(moved, state, slot.state),
            trial=at_step(trial, trial.step + moved.astype(jnp.int32)),
            status=jnp.where(active & ~finite, Status.DIVERGED, slot.status),
        ),
        Tally(
            {k: tally.sums[k] + jnp.where(moved, v, 0.0) for k, v in metrics.items()},
            tally.steps + moved.astype(jnp.float32),
        ),
    )


def evaluate(task: Task, slot: Slot, tally: Tally, view: Mapping) -> tuple[Slot, Readout]:
    """The boundary: validate, keep the best, decide whether the trial goes on."""
    trial, hparams = slot.trial, slot.trial.hparams
    variables = task.snapshot(slot.state)
    train = {name: total / tally.steps for name, total in tally.sums.items()}
    valid = means(task.evaluate(variables, trial, view["valid"]))
    advanced = tally.steps > 0
    running = slot.status == Status.RUNNING
    counts = running & advanced
    status, watch, best, memory = slot.status, slot.watch, slot.best, slot.memory
    solved = is_solved(task, valid)
    if task.objective is None:
        best, watch = variables, watch._replace(best_step=trial.step)
    else:
        value = valid[task.objective.name]
        seen, improved = observe(
            watch,
            value,
            trial.step,
            metric=task.objective,
            min_delta=hparams.min_delta,
            solved=solved,
        )
        watch = _select(counts, seen, watch)
        best = _select(counts & improved, variables, best)
    seen, stop = stops(task, trial, watch, memory, solved, train, valid)
    memory = _select(counts, seen, memory)
    ended = jnp.where(trial.step >= trial.until, Status.DONE, Status.RUNNING)
    ended = jnp.where(stop & advanced, Status.STOPPED, ended)
    slot = slot._replace(
        status=jnp.where(running, ended, status).astype(jnp.int32),
        watch=watch,
        best=best,
        memory=memory,
    )
    readout = Readout(slot.status, trial.step, watch, tally.steps.astype(jnp.int32), train, valid)
    return slot, readout


def final(task: Task, variables: Any, trial: Trial, data: Mapping[str, Any]) -> dict[str, Array]:
    """All that is kept of a finished trial: every split's metrics, and its measures."""
    view = task.view(trial, data)
    measured = {
        f"{split}/{name}": value
        for split in ("train", "valid", "test")
        for name, value in means(task.evaluate(variables, trial, view[split])).items()
    }
    return measured | (task.measure(variables, trial) if task.measure is not None else {})


def _select(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _all_finite(tree: Any) -> Bool[Array, ""]:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.array([True, *map(_finite, leaves)]))


def _finite(leaf: Array) -> Bool[Array, ""]:
    if leaf.dtype != jnp.float32:
        return jnp.isfinite(leaf).all()
    # Without its sign a float's bits grow with its size up to inf, and NaNs lie beyond. A
    # maximum of integers is vectorized, where one of floats, with its care for NaN, is not.
    sizes = jax.lax.bitcast_convert_type(leaf, jnp.int32) & 0x7FFFFFFF
    return jnp.max(sizes, initial=0) < 0x7F800000
