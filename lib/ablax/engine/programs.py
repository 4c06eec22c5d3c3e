"""The functions that the engine compiles: those of one slot, for all slots of all devices.

Each is a function of one device's slots, vmapped inside and sharded over the mesh by
`shard_map`, so that no device waits for another: there is no collective in them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Int

from ablax.engine import slots as slot_functions
from ablax.engine.mesh import AXIS
from ablax.engine.shapes import buffered
from ablax.engine.slots import Readout, Slot, Status
from ablax.task import Task, Trial


class Orders(NamedTuple):
    """Orders of the host to every slot at a boundary."""

    place: Int[Array, " slots"]  # where to retire to in the device's buffer; slots: stay
    fill: Bool[Array, " slots"]
    trial: Trial  # the trials to fill with


def segment_function(task: Task, mesh: Mesh, *, park: bool = False) -> Callable:
    """(slots, retired, orders, interval, data) -> (slots, retired, packed readout), sharded."""

    def on_device(
        slots: Slot, retired: Slot, orders: Orders, interval: Array, data: Any
    ) -> tuple[Slot, Slot, Array]:
        leaving = orders.place < len(orders.place)
        leavers = buffered(slots, park=park)
        retired = _if_any(leaving, lambda: _retire(leavers, retired, orders), retired)
        slots = slots._replace(status=jnp.where(leaving, Status.EMPTY, slots.status))
        slots = _if_any(orders.fill, lambda: _refill(task, slots, orders, data), slots)
        train = jax.vmap(partial(slot_functions.train, task), in_axes=(0, None, None))
        slots, readout = train(slots, interval, data)
        return slots, retired, _pack(readout)

    split, whole = PartitionSpec(AXIS), PartitionSpec()
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(split, split, split, whole, whole),
        out_specs=(split, split, PartitionSpec(None, AXIS)),
        check_vma=False,
    )


def _pack(readout: Readout) -> Int[Array, "scalars slots"]:
    """The bits of all scalars in one array: reading a dozen sharded ones takes a millisecond."""
    leaves = [
        leaf.astype(jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        for leaf in jax.tree.leaves(readout)
    ]
    return jnp.stack([jax.lax.bitcast_convert_type(leaf, jnp.int32) for leaf in leaves])


def unpack(words: np.ndarray, like: Readout) -> Readout:
    """The readout as NumPy arrays, with the structure of `like`."""
    leaves, structure = jax.tree.flatten(like)
    rows = [
        row.view(np.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else row
        for row, leaf in zip(np.asarray(words), leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, rows)


def final_function(task: Task, mesh: Mesh) -> Callable:
    """(retired, data) -> {name: values}, sharded."""
    split, whole = PartitionSpec(AXIS), PartitionSpec()
    measure = jax.vmap(partial(slot_functions.final, task), in_axes=(0, 0, None))
    return jax.shard_map(
        lambda retired, data: measure(retired.best, retired.trial, data),
        mesh=mesh,
        in_specs=(split, whole),
        out_specs=split,
        check_vma=False,
    )


def _if_any(mask: Array, change: Callable[[], Any], unchanged: Any) -> Any:
    """change(), if any slot of this device asks for it: most boundaries move nothing."""
    return jax.lax.cond(jnp.any(mask), change, lambda: unchanged)


def _retire(slots: Slot, retired: Slot, orders: Orders) -> Slot:
    """The buffer with the leaving trials at their places; a place beyond its end is dropped."""
    return jax.tree.map(
        lambda buffer, new: buffer.at[orders.place].set(new, mode="drop"), retired, slots
    )


def _refill(task: Task, slots: Slot, orders: Orders, data: Any) -> Slot:
    fresh = jax.vmap(partial(slot_functions.fill, task), in_axes=(0, None))(orders.trial, data)
    return _placed(slots, orders.fill, fresh)


def _placed(slots: Slot, where: Array, fresh: Slot) -> Slot:
    """The slots, where `where` those of `fresh`."""

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(where.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, fresh, slots)


def load_function(mesh: Mesh) -> Callable:
    """(slots, where, fresh slots) -> slots, sharded."""
    split = PartitionSpec(AXIS)
    return jax.shard_map(_placed, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)


def adopt_function(task: Task, mesh: Mesh) -> Callable:
    """(slots, where, trials, their parents' snapshots, data) -> slots, sharded."""

    def on_device(slots: Slot, where: Array, trial: Trial, inherited: Any, data: Any) -> Slot:
        adopt = jax.vmap(partial(slot_functions.adopt, task), in_axes=(0, 0, None))
        return _placed(slots, where, adopt(trial, inherited, data))

    split, whole = PartitionSpec(AXIS), PartitionSpec()
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(split, split, split, split, whole),
        out_specs=split,
        check_vma=False,
    )
