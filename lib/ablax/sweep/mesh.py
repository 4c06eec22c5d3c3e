"""Devices, and how many slots each of them gets."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "trial"

LANES = 16
"""Slots per device come in multiples of this: with other lane counts the compiler runs
other code for the remainder of a vector, and a trial's last bits would change with it."""


def cpu_devices_per_core() -> None:
    """On a CPU, one JAX device per core, unless their number has been chosen already.

    Must be called before JAX starts its backends. Two devices on two cores are about twice as
    fast as one device over both: the small matrix products of these networks are not worth
    splitting between threads.
    """
    if jax.config.values["jax_num_cpu_devices"] > 0:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    jax.config.update("jax_num_cpu_devices", cores or 1)


def mesh_of(devices: Sequence[Any] | None = None) -> Mesh:
    """All devices (or the given ones) along the one axis `trial`."""
    return Mesh(np.array(devices or jax.devices()), (AXIS,))


def sharded(mesh: Mesh) -> NamedSharding:
    """The leading axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds a copy."""
    return NamedSharding(mesh, PartitionSpec())


def slots_per_device(
    trials: int, devices: int, bytes_per_slot: int, memory: int | None = None
) -> int:
    """How many slots a device gets: a deterministic rule, so that a run can be repeated.

    At most an eighth of the program's trials per device (so that the drain at the end, when
    slots stay empty, is short), what half of the memory allows, a multiple of 16, and 16 at
    least.

    >>> slots_per_device(trials=512, devices=2, bytes_per_slot=10_000)
    32
    >>> slots_per_device(trials=10, devices=2, bytes_per_slot=10_000)
    16
    >>> slots_per_device(trials=10**6, devices=1, bytes_per_slot=10**6, memory=10**9)
    496
    """
    wanted = trials // (8 * devices)
    if memory is not None:
        wanted = min(wanted, memory // 2 // max(bytes_per_slot, 1))
    return max(wanted // LANES * LANES, LANES)


def memory_per_device() -> int | None:
    """Bytes that one device may use, where that can be asked for."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        try:
            total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (ValueError, OSError, AttributeError):
            return None
        return total // jax.local_device_count()
    stats = device.memory_stats()
    return stats.get("bytes_limit") if stats else None
