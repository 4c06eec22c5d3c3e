"""The processes of a run: arrays over all their devices, and decisions that all of them share.

Every process runs the same program on its own devices. What only one can know (what is in the
run directory, whether a signal came) the first process decides, or all put together, so that
every process takes the same branch. With one process all of this is plain NumPy and `device_put`.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from ablax.errors import UserError


def first() -> bool:
    """True in the process that writes files and shows progress."""
    return jax.process_index() == 0


def many() -> bool:
    """True if there are other processes."""
    return jax.process_count() > 1


def alone() -> Any:
    """Options by which Orbax works in this process, without a barrier that waits for others."""
    from orbax.checkpoint.options import MultiprocessingOptions

    if not many():
        return MultiprocessingOptions()
    me = jax.process_index()
    return MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process {me}"
    )


def put(tree: Any, sharding: NamedSharding) -> Any:
    """A tree of NumPy arrays, equal on every process, over the devices of all processes."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def place(leaf: Any) -> jax.Array:
        # device_put would compare the value over all processes, by a collective for every leaf.
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(place, tree)


def gathered(tree: Any, replicated: NamedSharding) -> Any:
    """The whole of arrays that are sharded over all processes, as NumPy, on every process."""
    if not replicated.is_fully_addressable:
        tree = jax.jit(_same, out_shardings=replicated)(tree)
    return jax.device_get(tree)


def _same(tree: Any) -> Any:
    return tree


def decided(decide: Callable[[], Any]) -> Any:
    """Share a decision of the first process, any JSON value; the others wait for it.

    Raises:
        UserError: on the first process, if `decide` raises it; the others leave quietly.
    """
    if not many():
        return decide()
    if not first():
        answer = json.loads(_broadcast(b""))
        if "status" in answer:
            raise SystemExit(answer["status"])
        return answer["value"]
    try:
        answer = {"value": decide()}
    except BaseException as error:
        status = 2 if isinstance(error, UserError) else 1
        _broadcast(json.dumps({"status": status}).encode())
        raise
    _broadcast(json.dumps(answer).encode())
    return json.loads(json.dumps(answer["value"]))  # as the others see it


def _broadcast(text: bytes) -> bytes:
    """The first process's bytes, in every process."""
    from jax.experimental import multihost_utils

    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    words = np.zeros(size, np.uint8)
    words[: len(text)] = np.frombuffer(text, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(words)).tobytes()
