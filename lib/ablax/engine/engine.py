"""Train any number of trials of one program through a fixed number of slots.

The compiled functions of a program are two. `segment` first retires finished trials (their
best snapshots move to a buffer) and refills their slots with fresh ones, then makes the
steps up to the next evaluation, and evaluates. `final` measures a full buffer of retired
snapshots on every split, test among them, which the segment is never given.

This is continuous batching, for training runs: capacity freed by early stopping or by
divergence is used at the next boundary, without a recompile, a new process or a changed
trajectory. Both functions are compiled ahead of time, once, so that a retrace is not slow
but impossible. Two more are compiled where they are needed: `load` puts back trials that
were interrupted or parked, `adopt` starts trials from the snapshots of their parents.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from ablax.engine import processes
from ablax.engine.mesh import replicated, sharded
from ablax.engine.programs import (
    Orders,
    adopt_function,
    final_function,
    load_function,
    segment_function,
    unpack,
)
from ablax.engine.shapes import Solo, buffered, training_data
from ablax.engine.slots import Readout, Slot, Status
from ablax.engine.trials import stacked, take
from ablax.task import Task, Trial


@dataclass(frozen=True)
class Evaluated:
    """Metrics from one segment: an entry for each trial that advanced in it."""

    index: np.ndarray  # position in the run's trials
    step: np.ndarray
    advanced: np.ndarray  # steps made in the segment
    metrics: dict[str, np.ndarray]  # "train/…" over the segment's steps, "valid/…" at its end


@dataclass(frozen=True)
class Finished:
    """Trials that ended: their status, and the metrics of their selected snapshots."""

    index: np.ndarray
    status: np.ndarray
    steps: np.ndarray
    best_step: np.ndarray
    measured: dict[str, np.ndarray]
    snapshots: Any  # NumPy pytree with a leading axis over the trials; None unless kept
    parked: Slot | None  # the whole slots, to go on from; None unless parked


@dataclass(frozen=True)
class Boundary:
    """Results that arrive at one boundary between segments, where the engine is at rest."""

    evaluated: Evaluated | None
    finished: Finished | None
    request: int  # the largest that any process has sent


class Inherited(NamedTuple):
    """The start of a trial: the selected snapshot of its parent."""

    variables: Any


@dataclass
class Usage:
    """Time, memory and slots that the run of one program used."""

    compile_seconds: dict[str, float] = field(default_factory=dict)
    memory_bytes: dict[str, int] = field(default_factory=dict)
    segments: int = 0
    slot_steps: int = 0  # slots × steps of all segments: the capacity
    busy_steps: int = 0  # steps that advanced a trial
    queued_slot_steps: int = 0  # the capacity while trials were still waiting
    queued_busy_steps: int = 0
    seconds: float = 0.0

    def share_busy(self) -> float:
        """Share of the capacity that trained while trials were waiting for a slot."""
        return self.queued_busy_steps / max(self.queued_slot_steps, 1)

    def share_drained(self) -> float:
        """Share of the whole capacity that was idle because the queue was empty."""
        idle = (self.slot_steps - self.queued_slot_steps) - (
            self.busy_steps - self.queued_busy_steps
        )
        return idle / max(self.slot_steps, 1)


class Engine:
    """One program, compiled, on one mesh.

    Args:
        task: what a trial does.
        example: any trial of the program; gives the shapes.
        mesh: the devices.
        slots_per_device: a multiple of 16, so that no result depends on the slot.
        keep: bring the selected snapshots to the host with the finished trials.
        park: bring the whole slots of finished trials to the host, to go on from.
        compiler_options: of XLA.
        solo: the program of one trial, where it has been traced already.

    Attributes:
        slots: as they are on the devices.
        holds: for every slot the position of its trial in the run's trials, or -1.
    """

    def __init__(
        self,
        task: Task,
        example: Trial,
        mesh: Mesh,
        slots_per_device: int,
        *,
        keep: bool = False,
        park: bool = False,
        compiler_options: dict[str, Any] | None = None,
        solo: Solo | None = None,
    ):
        self.task, self.mesh, self.per_device = task, mesh, slots_per_device
        self.keep, self.park = keep, park
        self.n_slots = slots_per_device * mesh.size
        self.usage = Usage()
        self._compiler_options = compiler_options
        self._compiled: dict[str, Callable] = {}
        self._whole = replicated(mesh)
        self._training = processes.put(training_data(task), self._whole)
        self._everything = {**self._training, "test": processes.put(task.data["test"], self._whole)}
        self._example = example
        self.slots, self._retired, self._readout = self._empty(solo or Solo(task, example))
        self.holds = np.full(self.n_slots, -1)
        self._buffer = _Buffer(mesh.size, slots_per_device)
        self._no_orders = self._put_orders(self._stay(), np.zeros(self.n_slots, bool), self._any())
        self._segment = self._compile(
            "segment",
            jax.jit(segment_function(task, mesh, park=park), donate_argnums=(0, 1)),
            self.slots, self._retired, self._no_orders, np.int32(0), self._training,
        )  # fmt: skip
        self._final = self._compile(
            "final", jax.jit(final_function(task, mesh)), self._retired, self._everything
        )

    def run(
        self,
        trials: Trial,
        interval: int,
        *,
        starts: Mapping[int, Slot | Inherited] | None = None,
        request: Callable[[], int] = lambda: 0,
    ) -> Iterator[Boundary]:
        """Train all trials; yield at every boundary the results since the last.

        A consumer that leaves the loop at a boundary leaves the trials `holds` in `slots`,
        and those that wait for their final evaluation to `flush`.

        Args:
            trials: columns, as `trials_of` makes them, all of one evaluation interval.
            interval: steps between two evaluations.
            starts: {position: what the trial starts from} of those that do not start anew.
            request: of this process to all, asked at every boundary.
        """
        started = time.perf_counter()
        try:
            yield from self._run(trials, interval, starts or {}, request)
        finally:
            self.usage.seconds += time.perf_counter() - started

    def _run(
        self,
        trials: Trial,
        interval: int,
        starts: Mapping[int, Slot | Inherited],
        request: Callable[[], int],
    ) -> Iterator[Boundary]:
        n_trials = len(trials.restart)
        queued = 0  # trials given a slot so far; they are taken in order
        self.holds = holds = np.full(self.n_slots, -1)
        readout = None  # of the segment before
        ended = np.empty(0, int)  # slots whose trial ended in the segment before
        while True:
            draining = queued == n_trials and len(ended) == np.sum(holds >= 0)
            if draining and len(ended) == 0:
                break
            finished, place = None, self._stay()
            if readout is not None and len(ended):
                if not self._buffer.fits(ended):
                    finished = self.flush()
                place[ended] = self._buffer.add(ended, holds[ended], readout)
                holds[ended] = -1
            free = np.flatnonzero(holds < 0)[: n_trials - queued]
            holds[free] = np.arange(queued, queued + len(free))
            queued += len(free)
            begun = np.array([holds[slot] in starts for slot in free], bool)
            if begun.any():
                if len(ended):  # they leave before their slots are written to
                    self._advance(trials, place, free[:0], 0)
                    place = self._stay()
                self._begin(trials, free[begun], starts)
            readout = self._advance(trials, place, free[~begun], 0 if draining else interval)
            words, agreed = self._read(readout, request())
            readout = unpack(words, self._readout)
            self._count(readout, interval, waiting=queued < n_trials, draining=draining)
            advanced = np.flatnonzero((holds >= 0) & (readout.advanced > 0))
            evaluated = _evaluated(readout, holds, advanced) if len(advanced) else None
            ended = np.flatnonzero((holds >= 0) & (readout.status != Status.RUNNING))
            yield Boundary(evaluated, finished, agreed)
            if draining:
                break
        if self._buffer.size:
            yield Boundary(None, self.flush(), 0)

    @property
    def bytes_per_device(self) -> int:
        """Bytes that the largest compiled function needs, by its own memory analysis."""
        return max(self.usage.memory_bytes.values(), default=0)

    def flush(self) -> Finished | None:
        """Measure the finished trials that wait in the buffer."""
        if not self._buffer.size:
            return None
        measured = processes.gathered(self._final(self._retired, self._everything), self._whole)
        at, (index, status, steps, best_step) = self._buffer.empty()
        snapshots = parked = None
        if self.park:
            parked = take(processes.gathered(self._retired, self._whole), at)
            snapshots = parked.best
        elif self.keep:
            snapshots = take(processes.gathered(self._retired.best, self._whole), at)
        measured = take(measured, at)
        return Finished(index, status, steps, best_step, measured, snapshots, parked)

    def _advance(self, trials: Trial, place: np.ndarray, fill: np.ndarray, interval: int) -> Array:
        orders = self._no_orders
        if len(fill) or np.any(place < self.per_device):
            filled = np.zeros(self.n_slots, bool)
            filled[fill] = True
            orders = self._put_orders(place, filled, take(trials, np.maximum(self.holds, 0)))
        self.slots, self._retired, readout = self._segment(
            self.slots, self._retired, orders, np.int32(interval), self._training
        )
        return readout

    def _read(self, readout: Array, request: int) -> tuple[np.ndarray, int]:
        """The words of all slots, and the largest request of all processes: one small program."""
        if not processes.many():
            return np.asarray(readout), request
        flags = jax.make_array_from_callback(
            (self.mesh.size,), sharded(self.mesh), lambda index: np.full(1, request, np.int32)
        )
        words, flags = processes.gathered((readout, flags), self._whole)
        return words, int(flags.max())

    def _begin(
        self, trials: Trial, slots: np.ndarray, starts: Mapping[int, Slot | Inherited]
    ) -> None:
        """Fill slots with trials that go on from a state, or start from their parent's snapshot."""
        by_slot = {int(slot): starts[int(self.holds[slot])] for slot in slots}
        parked = {slot: start for slot, start in by_slot.items() if isinstance(start, Slot)}
        inherited = {
            slot: start.variables for slot, start in by_slot.items() if isinstance(start, Inherited)
        }
        if parked:
            self.slots = self._on_first_use(
                "load", lambda: load_function(self.mesh), self.slots, *self._spread(parked)
            )
        if inherited:
            columns = processes.put(take(trials, np.maximum(self.holds, 0)), sharded(self.mesh))
            where, variables = self._spread(inherited)
            self.slots = self._on_first_use(
                "adopt", lambda: adopt_function(self.task, self.mesh),
                self.slots, where, columns, variables, self._training,
            )  # fmt: skip

    def _spread(self, rows: dict[int, Any]) -> tuple[Array, Any]:
        """(mask of the slots that get a row, the rows at their slots), on the devices."""
        at = np.array(list(rows))
        where = np.zeros(self.n_slots, bool)
        where[at] = True

        def spread(leaf: np.ndarray) -> np.ndarray:
            whole = np.zeros((self.n_slots, *leaf.shape[1:]), leaf.dtype)
            whole[at] = leaf
            return whole

        spread_rows = jax.tree.map(spread, stacked(list(rows.values())))
        return processes.put((where, spread_rows), sharded(self.mesh))

    def _count(self, readout: Readout, interval: int, *, waiting: bool, draining: bool) -> None:
        if draining:
            return
        usage, busy = self.usage, int(readout.advanced.sum())
        usage.segments += 1
        usage.slot_steps += self.n_slots * interval
        usage.busy_steps += busy
        if waiting:
            usage.queued_slot_steps += self.n_slots * interval
            usage.queued_busy_steps += busy

    def _empty(self, solo: Solo) -> tuple[Slot, Slot, Readout]:
        """Slots with nothing in them, an empty buffer, and the shapes of one slot's readout."""

        def zeros(shape: jax.ShapeDtypeStruct) -> np.ndarray:
            return np.zeros((self.n_slots, *shape.shape), shape.dtype)

        slots, buffer = (
            processes.put(jax.tree.map(zeros, tree), sharded(self.mesh))
            for tree in (solo.slot, buffered(solo.slot, park=self.park))
        )
        return slots, buffer, solo.readout

    def _any(self) -> Trial:
        """Some trial for every slot."""
        return jax.tree.map(lambda leaf: np.repeat(leaf[None], self.n_slots, 0), self._example)

    def _stay(self) -> np.ndarray:
        """The place that retires nobody."""
        return np.full(self.n_slots, self.per_device, np.int32)

    def _put_orders(self, place: np.ndarray, fill: np.ndarray, trial: Trial) -> Orders:
        return processes.put(Orders(place, fill, trial), sharded(self.mesh))  # type: ignore[arg-type]

    def _on_first_use(self, name: str, make: Callable[[], Callable], *arguments: Any) -> Any:
        """Call a function that most runs do not need; its first argument, the slots, is donated."""
        if name not in self._compiled:
            self._compiled[name] = self._compile(
                name, jax.jit(make(), donate_argnums=(0,)), *arguments
            )
        return self._compiled[name](*arguments)

    def _compile(self, name: str, function: Any, *arguments: Any) -> Callable:
        started = time.perf_counter()
        compiled = function.lower(*arguments).compile(compiler_options=self._compiler_options)
        self.usage.compile_seconds[name] = time.perf_counter() - started
        memory = compiled.memory_analysis()
        if memory is not None:
            self.usage.memory_bytes[name] = (
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

    def add(self, slots: np.ndarray, index: np.ndarray, readout: Readout) -> np.ndarray:
        """Note the trials of these slots; return their places in their device's buffer."""
        place = np.empty(len(slots), np.int32)
        for i, device in enumerate(slots // self.per_device):
            place[i] = self.filled[device]
            self.filled[device] += 1
        self.at.append(slots // self.per_device * self.per_device + place)
        ended = take((readout.status, readout.step, readout.watch.best_step), slots)
        self.rows.append((index, *ended))
        return place

    def empty(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """Where the snapshots are, and (index, status, steps, best step) of their trials."""
        at, columns = np.concatenate(self.at), zip(*self.rows, strict=True)
        finished = [np.concatenate(column) for column in columns]
        self.__init__(len(self.filled), self.per_device)
        return at, finished


def _evaluated(readout: Readout, holds: np.ndarray, slots: np.ndarray) -> Evaluated:
    metrics = {f"train/{name}": np.asarray(v)[slots] for name, v in readout.train.items()}
    metrics |= {f"valid/{name}": np.asarray(v)[slots] for name, v in readout.valid.items()}
    return Evaluated(
        holds[slots], np.asarray(readout.step)[slots], np.asarray(readout.advanced)[slots], metrics
    )
