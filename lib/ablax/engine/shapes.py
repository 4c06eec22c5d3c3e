"""Shapes of a trial's slot, and its program as text: nothing here compiles or computes."""

from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from ablax.engine import slots
from ablax.engine.slots import Readout, Slot
from ablax.task import Task, Trial


def start_of(task: Task, trial: Trial) -> Slot:
    """The shapes of a slot with a fresh trial in it: nothing is computed."""
    return jax.eval_shape(partial(slots.fill, task), trial, training_data(task))


def bytes_per_slot(task: Task, trial: Trial) -> int:
    """Bytes of one slot and its place in the buffer, by shapes alone: nothing is computed."""
    slot = start_of(task, trial)
    leaves = jax.tree.leaves((slot, buffered(slot, park=False)))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def solo_hlo(task: Task, trial: Trial) -> str:
    """StableHLO of one trial's start, segment and evaluation: what a program is, as text."""

    def solo(trial: Trial, interval: Array, data: Any) -> tuple[Slot, Readout]:
        return slots.train(task, slots.fill(task, trial, data), interval, data)

    return jax.jit(solo).lower(trial, np.int32(1), training_data(task)).as_text()


def training_data(task: Task) -> dict[str, Any]:
    """The data that training may see: all but the test split."""
    return {name: split for name, split in task.data.items() if name != "test"}


def buffered(slot: Slot, *, park: bool) -> Slot:
    """Part of a finished trial that goes to the buffer; with `park`, all it can resume from."""
    return slot if park else slot._replace(state=(), watch=(), memory=(), status=())  # type: ignore[arg-type]
