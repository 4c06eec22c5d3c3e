"""Devices, and how many slots each of them gets."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
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


def keep_compiled() -> None:
    """Keep compiled programs in the user's cache directory, or where JAX's own variables say.

    Must be called before anything is compiled. A launch that compiles what another one has
    compiled already loads it instead: the same code, and so the same bits.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        # A home directory may be shared by machines that cannot run each other's code.
        place = home / "ablax" / "compiled" / "-".join([platform.machine(), *instruction_sets()])
        jax.config.update("jax_compilation_cache_dir", str(place))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def instruction_sets() -> list[str]:
    """Instruction sets of this processor that decide what vector code is compiled to."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [name for name in ("avx", "avx2", "fma", "avx512f", "amx_tile") if name in flags]


def device_kind() -> str:
    """Kind of the devices, as far as it decides the last bits of a result."""
    kind = jax.devices()[0].device_kind
    return " ".join([kind, *instruction_sets()]) if jax.default_backend() == "cpu" else kind


def mesh_of(devices: Sequence[Any] | None = None) -> Mesh:
    """All devices (or the given ones) along the one axis `trial`."""
    return Mesh(np.array(devices or jax.devices()), (AXIS,))


def sharded(mesh: Mesh) -> NamedSharding:
    """The sharding that splits the leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding with a copy on every device."""
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


def fitting_slots(slots: int, bytes_per_device: int, memory: int | None) -> int:
    """As many slots as half of the memory holds, by what the compiled program needs.

    >>> fitting_slots(64, bytes_per_device=6 * 2**20, memory=8 * 2**20)
    32
    >>> fitting_slots(64, bytes_per_device=6 * 2**20, memory=16 * 2**20)
    64
    """
    if memory is None or bytes_per_device <= memory // 2:
        return slots
    fitting = slots * (memory // 2) // bytes_per_device
    return min(slots, max(fitting // LANES * LANES, LANES))


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
