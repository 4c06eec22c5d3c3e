"""Train any number of trials of one program through a fixed number of slots.

The compiled functions of a program are two. `segment` first retires finished trials (their
best snapshots move to a buffer) and refills their slots with fresh ones, then makes the
steps up to the next evaluation, and evaluates. `final` measures a full buffer of retired
snapshots on every split, test among them, which the segment is never given.

This is continuous batching, for training runs: capacity freed by early stopping or by
divergence is used at the next boundary, without a recompile, a new process or a changed
trajectory. Both functions are compiled ahead of time, once, so that a retrace is not slow
but impossible.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Int

from ablax.config import as_traced
from ablax.sweep import slots as lanes
from ablax.sweep.mesh import AXIS, replicated, sharded
from ablax.sweep.slots import Report, Slot, Status
from ablax.task import Task, Trial


class Retired(NamedTuple):
    """A buffer of finished trials, as long as there are slots, waiting for `final`."""

    trial: Trial
    best: Any


class Orders(NamedTuple):
    """What the host tells every slot at a boundary."""

    place: Int[Array, " slots"]  # where to retire to in the device's buffer; slots: stay
    fill: Bool[Array, " slots"]
    trial: Trial  # the trials to fill with


@dataclass(frozen=True)
class Evaluated:
    """What one segment taught: an entry for each trial that advanced in it."""

    index: np.ndarray  # position in the run's trials
    step: np.ndarray
    advanced: np.ndarray  # steps made in the segment
    metrics: dict[str, np.ndarray]  # "train/…" over the segment's steps, "valid/…" at its end


@dataclass(frozen=True)
class Finished:
    """Trials that ended: how, and all that was measured of their selected snapshots."""

    index: np.ndarray
    status: np.ndarray
    steps: np.ndarray
    best_step: np.ndarray
    measured: dict[str, np.ndarray]
    snapshots: Any  # NumPy pytree with a leading axis over the trials; None unless kept


@dataclass
class Statistics:
    """What the run of one program cost."""

    compile_seconds: dict[str, float] = field(default_factory=dict)
    memory_bytes: dict[str, int] = field(default_factory=dict)
    segments: int = 0
    lane_steps: int = 0  # slots × steps of all segments: the capacity
    busy_steps: int = 0  # steps that advanced a trial
    queued_lane_steps: int = 0  # the capacity while trials were still waiting
    queued_busy_steps: int = 0
    seconds: float = 0.0

    def share_busy(self) -> float:
        """Share of the capacity that trained while trials were waiting for a slot."""
        return self.queued_busy_steps / max(self.queued_lane_steps, 1)

    def share_drained(self) -> float:
        """Share of the whole capacity that was idle because the queue was empty."""
        idle = (self.lane_steps - self.queued_lane_steps) - (
            self.busy_steps - self.queued_busy_steps
        )
        return idle / max(self.lane_steps, 1)


def trials_of(configs: Sequence[Any], restarts: Sequence[int], seed: int) -> Trial:
    """Trials before their first step, as one pytree of columns.

    Args:
        configs: one Config per trial, all of one program.
        restarts: one per trial.
        seed: the study's.
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
    )


def take(tree: Any, index: Any) -> Any:
    """The entries `index` of every leaf."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def bytes_per_slot(task: Task, trial: Trial) -> int:
    """Bytes of one slot and its place in the buffer, by shapes alone: nothing is computed."""

    def held(trial: Trial, data: Any) -> tuple[Slot, Retired]:
        slot = lanes.fill(task, trial, data)
        return slot, Retired(slot.trial, slot.best)

    shapes = jax.eval_shape(held, trial, training_data(task))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def solo_hlo(task: Task, trial: Trial) -> str:
    """StableHLO of one trial's start, segment and evaluation: what a program is, as text."""

    def solo(trial: Trial, interval: Array, data: Any) -> tuple[Slot, Report]:
        return lanes.train(task, lanes.fill(task, trial, data), interval, data)

    return jax.jit(solo).lower(trial, np.int32(1), training_data(task)).as_text()


def training_data(task: Task) -> dict[str, Any]:
    """The data that training may see: all but the test split."""
    return {name: split for name, split in task.data.items() if name != "test"}


def segment_function(task: Task, mesh: Mesh) -> Callable:
    """(slots, retired, orders, interval, data) -> (slots, retired, packed report), sharded."""

    def on_device(
        slots: Slot, retired: Retired, orders: Orders, interval: Array, data: Any
    ) -> tuple[Slot, Retired, Array]:
        leaving = orders.place < len(orders.place)
        retired = _if_any(leaving, lambda: _retire(slots, retired, orders), retired)
        slots = slots._replace(status=jnp.where(leaving, Status.EMPTY, slots.status))
        slots = _if_any(orders.fill, lambda: _refill(task, slots, orders, data), slots)
        train = jax.vmap(partial(lanes.train, task), in_axes=(0, None, None))
        slots, report = train(slots, interval, data)
        return slots, retired, _pack(report)

    split, whole = PartitionSpec(AXIS), PartitionSpec()
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(split, split, split, whole, whole),
        out_specs=(split, split, PartitionSpec(None, AXIS)),
        check_vma=False,
    )


def _pack(report: Report) -> Int[Array, "scalars slots"]:
    """The bits of all scalars in one array: reading a dozen sharded ones takes a millisecond."""
    leaves = [
        leaf.astype(jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        for leaf in jax.tree.leaves(report)
    ]
    return jnp.stack([jax.lax.bitcast_convert_type(leaf, jnp.int32) for leaf in leaves])


def _unpack(words: Array, like: Report) -> Report:
    """The report, of NumPy arrays, with the structure of `like`."""
    leaves, structure = jax.tree.flatten(like)
    rows = [
        row.view(np.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else row
        for row, leaf in zip(np.asarray(words), leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, rows)


def final_function(task: Task, mesh: Mesh) -> Callable:
    """(retired, data) -> {name: values}, sharded."""
    split, whole = PartitionSpec(AXIS), PartitionSpec()
    measure = jax.vmap(partial(lanes.final, task), in_axes=(0, 0, None))
    return jax.shard_map(
        lambda retired, data: measure(retired.best, retired.trial, data),
        mesh=mesh,
        in_specs=(split, whole),
        out_specs=split,
        check_vma=False,
    )


def _if_any(mask: Array, change: Callable[[], Any], unchanged: Any) -> Any:
    """change(), if any lane of this device asks for it: most boundaries move nothing."""
    return jax.lax.cond(jnp.any(mask), change, lambda: unchanged)


def _retire(slots: Slot, retired: Retired, orders: Orders) -> Retired:
    """The buffer with the leaving trials at their places; a place beyond its end is dropped."""
    return jax.tree.map(
        lambda buffer, new: buffer.at[orders.place].set(new, mode="drop"),
        retired,
        Retired(slots.trial, slots.best),
    )


def _refill(task: Task, slots: Slot, orders: Orders, data: Any) -> Slot:
    fresh = jax.vmap(partial(lanes.fill, task), in_axes=(0, None))(orders.trial, data)

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(orders.fill.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, fresh, slots)


class Engine:
    """One program, compiled, on one mesh.

    Args:
        task: what a trial does.
        example: any trial of the program; gives the shapes.
        mesh: the devices.
        slots_per_device: a multiple of 16 for promise 2 to hold.
        keep: bring the selected snapshots to the host with the finished trials.
    """

    def __init__(
        self, task: Task, example: Trial, mesh: Mesh, slots_per_device: int, keep: bool = False
    ):
        self.mesh, self.per_device, self.keep = mesh, slots_per_device, keep
        self.n_slots = slots_per_device * mesh.size
        self.statistics = Statistics()
        self._training = jax.device_put(training_data(task), replicated(mesh))
        test = jax.device_put(task.data["test"], replicated(mesh))
        self._everything = {**self._training, "test": test}
        self._slots, self._retired, self._report = self._empty(task, example)
        self._no_orders = self._put_orders(
            np.full(self.n_slots, slots_per_device, np.int32),
            np.zeros(self.n_slots, bool),
            jax.tree.map(lambda leaf: np.repeat(leaf[None], self.n_slots, 0), example),
        )
        self._segment = self._compile(
            "segment",
            jax.jit(segment_function(task, mesh), donate_argnums=(0, 1)),
            self._slots, self._retired, self._no_orders, np.int32(0), self._training,
        )  # fmt: skip
        self._final = self._compile(
            "final", jax.jit(final_function(task, mesh)), self._retired, self._everything
        )

    def run(
        self, trials: Trial, interval: int, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Evaluated | Finished]:
        """Train all trials; yield what each segment and each final evaluation taught.

        Args:
            trials: columns, as `trials_of` makes them, all of one evaluation interval.
            interval: steps between two evaluations.
            stop: asked at every boundary; True ends the run as soon as the trials that have
                finished are measured, and leaves the others.
        """
        started = time.perf_counter()
        n_trials = len(trials.restart)
        queued = 0  # trials given a slot so far; they are taken in order
        holds = np.full(self.n_slots, -1)  # the slot's trial, or -1
        report = None  # of the segment before
        ended = np.empty(0, int)  # slots whose trial ended in the segment before
        buffer = _Buffer(self.mesh.size, self.per_device)
        while True:
            draining = stop() or (queued == n_trials and len(ended) == np.sum(holds >= 0))
            if draining and len(ended) == 0:
                break
            place = np.full(self.n_slots, self.per_device, np.int32)
            if report is not None and len(ended):
                if not buffer.fits(ended):
                    yield self._measure(buffer)
                place[ended] = buffer.add(ended, holds[ended], report)
                holds[ended] = -1
            free = np.flatnonzero(holds < 0)[: 0 if draining else n_trials - queued]
            holds[free] = np.arange(queued, queued + len(free))
            queued += len(free)
            report = self._advance(trials, holds, place, free, 0 if draining else interval)
            self._count(report, interval, waiting=queued < n_trials, draining=draining)
            advanced = np.flatnonzero((holds >= 0) & (report.advanced > 0))
            if len(advanced):
                yield _evaluated(report, holds, advanced)
            ended = np.flatnonzero((holds >= 0) & (report.status != Status.RUNNING))
            if draining:
                break
        if buffer.size:
            yield self._measure(buffer)
        self.statistics.seconds += time.perf_counter() - started

    def _advance(
        self, trials: Trial, holds: np.ndarray, place: np.ndarray, fill: np.ndarray, interval: int
    ) -> Report:
        orders = self._no_orders
        if len(fill) or np.any(place < self.per_device):
            filled = np.zeros(self.n_slots, bool)
            filled[fill] = True
            orders = self._put_orders(place, filled, take(trials, np.maximum(holds, 0)))
        self._slots, self._retired, report = self._segment(
            self._slots, self._retired, orders, np.int32(interval), self._training
        )
        return _unpack(report, self._report)

    def _measure(self, buffer: "_Buffer") -> Finished:
        measured = jax.device_get(self._final(self._retired, self._everything))
        at, (index, status, steps, best_step) = buffer.empty()
        snapshots = take(jax.device_get(self._retired.best), at) if self.keep else None
        return Finished(index, status, steps, best_step, take(measured, at), snapshots)

    def _count(self, report: Report, interval: int, *, waiting: bool, draining: bool) -> None:
        if draining:
            return
        statistics, busy = self.statistics, int(report.advanced.sum())
        statistics.segments += 1
        statistics.lane_steps += self.n_slots * interval
        statistics.busy_steps += busy
        if waiting:
            statistics.queued_lane_steps += self.n_slots * interval
            statistics.queued_busy_steps += busy

    def _empty(self, task: Task, example: Trial) -> tuple[Slot, Retired, Report]:
        """Slots with nothing in them, an empty buffer, and the shapes of one slot's report."""
        shapes = jax.eval_shape(partial(lanes.fill, task), example, self._training)
        _, report = jax.eval_shape(partial(lanes.train, task), shapes, np.int32(0), self._training)

        def zeros(shape: jax.ShapeDtypeStruct) -> Array:
            host = np.zeros((self.n_slots, *shape.shape), shape.dtype)
            return jax.device_put(host, sharded(self.mesh))

        buffer = jax.tree.map(zeros, Retired(shapes.trial, shapes.best))
        return jax.tree.map(zeros, shapes), buffer, report

    def _put_orders(self, place: np.ndarray, fill: np.ndarray, trial: Trial) -> Orders:
        return jax.device_put(Orders(place, fill, trial), sharded(self.mesh))  # type: ignore[arg-type]

    def _compile(self, name: str, function: Any, *arguments: Any) -> Callable:
        started = time.perf_counter()
        compiled = function.lower(*arguments).compile()
        self.statistics.compile_seconds[name] = time.perf_counter() - started
        memory = compiled.memory_analysis()
        if memory is not None:
            self.statistics.memory_bytes[name] = (
                memory.argument_size_in_bytes + memory.temp_size_in_bytes
            )
        return compiled


class _Buffer:
    """The host's account of the retired snapshots: what is where, and how each ended."""

    def __init__(self, devices: int, per_device: int):
        self.per_device = per_device
        self.filled = np.zeros(devices, int)
        self.at: list[np.ndarray] = []
        self.rows: list[tuple[np.ndarray, ...]] = []

    @property
    def size(self) -> int:
        return int(self.filled.sum())

    def fits(self, slots: np.ndarray) -> bool:
        more = np.bincount(slots // self.per_device, minlength=len(self.filled))
        return bool(np.all(self.filled + more <= self.per_device))

    def add(self, slots: np.ndarray, index: np.ndarray, report: Report) -> np.ndarray:
        """Note the trials of these slots; return their places in their device's buffer."""
        place = np.empty(len(slots), np.int32)
        for i, device in enumerate(slots // self.per_device):
            place[i] = self.filled[device]
            self.filled[device] += 1
        self.at.append(slots // self.per_device * self.per_device + place)
        ended = take((report.status, report.step, report.watch.best_step), slots)
        self.rows.append((index, *ended))
        return place

    def empty(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """Where the snapshots are, and (index, status, steps, best step) of their trials."""
        at, columns = np.concatenate(self.at), zip(*self.rows, strict=True)
        finished = [np.concatenate(column) for column in columns]
        self.__init__(len(self.filled), self.per_device)
        return at, finished


def _evaluated(report: Report, holds: np.ndarray, slots: np.ndarray) -> Evaluated:
    metrics = {f"train/{name}": np.asarray(v)[slots] for name, v in report.train.items()}
    metrics |= {f"valid/{name}": np.asarray(v)[slots] for name, v in report.valid.items()}
    return Evaluated(
        holds[slots], np.asarray(report.step)[slots], np.asarray(report.advanced)[slots], metrics
    )
