"""Shapes of a trial's slot, and its program as text: nothing here compiles or computes."""

from functools import cached_property
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from ablax.engine import slots
from ablax.engine.slots import Readout, Slot
from ablax.task import Task, Trial


class Solo:
    """The start, a segment and an evaluation of one trial alone, traced once.

    Attributes:
        slot: shapes of a slot with a trial in it.
        readout: shapes of what a segment says of the trial.
    """

    slot: Slot
    readout: Readout

    def __init__(self, task: Task, trial: Trial):
        def solo(trial: Trial, interval: Array, data: Any) -> tuple[Slot, Readout]:
            return slots.train(task, slots.fill(task, trial, data), interval, data)

        self._traced = jax.jit(solo).trace(trial, np.int32(1), training_data(task))
        self.slot, self.readout = self._traced.out_info

    @property
    def bytes_per_slot(self) -> int:
        """Bytes of one slot and its place in the buffer."""
        leaves = jax.tree.leaves((self.slot, buffered(self.slot, park=False)))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    @cached_property
    def stablehlo(self) -> str:
        """The program as text, whatever the slots and the devices are."""
        return self._traced.lower().as_text()


def training_data(task: Task) -> dict[str, Any]:
    """The data that training may see: all but the test split."""
    return {name: split for name, split in task.data.items() if name != "test"}


def buffered(slot: Slot, *, park: bool) -> Slot:
    """Part of a finished trial that goes to the buffer; with `park`, all it can resume from."""
    return slot if park else slot._replace(state=(), watch=(), memory=(), status=())  # type: ignore[arg-type]
