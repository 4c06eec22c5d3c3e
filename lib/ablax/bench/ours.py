"""Ablax's side of the bench, and what its engine costs beside the bare arithmetic."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from ablax import losses, metrics, optimizers, penalties
from ablax.bench.workload import (
    BATCH_SIZE,
    LEARNING_RATE,
    MOMENTUM,
    STEPS_PER_EPOCH,
    TRAIN_ROWS,
    Measured,
    Pair,
    Workload,
    pairs,
)
from ablax.config import BaseConfig, hparam, static
from ablax.data import load, split
from ablax.data.splits import Splits
from ablax.engine import programs, slots
from ablax.engine.engine import Engine
from ablax.engine.mesh import AXIS, mesh_of, replicated, sharded
from ablax.engine.programs import Orders
from ablax.engine.shapes import buffered, training_data
from ablax.engine.trials import take, trials_of
from ablax.metrics import ACCURACY, LOSS
from ablax.nn.mlp import MLP
from ablax.task import Task, Trial
from ablax.tasks.supervised import Regularization, supervised

INTERVAL = 3 * STEPS_PER_EPOCH
"""Steps of a segment."""
CROSS_ENTROPY = losses.loss("softmax_cross_entropy_with_integer_labels")


class Config(BaseConfig):
    learning_rate: float = hparam(LEARNING_RATE, "constant rate", low=0)
    momentum: float = hparam(MOMENTUM, "share of the last step that is kept", low=0, below=1)
    l2: float = hparam(0.0, "strength of the sum of squared weights", low=0)
    dropout_rate: float = hparam(0.5, "used where the task has dropout", low=0, below=1)
    max_norm: float = hparam(3.0, "used where the task has max-norm", low=0)
    width: int = static(32, "units of the hidden layer", low=1)


def digits(rows: int = TRAIN_ROWS) -> Splits:
    """The splits: `rows` of training, 288 of validation."""
    return split(load("digits"), train_size=rows, seed=0)


def workload(splits: Splits, width: int, epochs: int) -> Workload:
    def flat(x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x.reshape(len(x), -1))

    train, valid = splits.train, splits.valid
    return Workload(width, epochs, flat(train.x), train.y, flat(valid.x), valid.y)


def network(width: int) -> MLP:
    return MLP(widths=(width,), n_outputs=10, kernel_init="glorot_uniform")


def task(splits: Splits, width: int, *, dropout: bool = False, max_norm: bool = False) -> Task:
    """Task of one trial; dropout and max-norm only where the cost of a segment is measured."""
    return supervised(
        network(width),
        splits,
        loss=CROSS_ENTROPY,
        metrics={
            LOSS: CROSS_ENTROPY,
            ACCURACY: metrics.accuracy,
        },
        optimizer=lambda trial: optimizers.momentum(
            trial.hparams.learning_rate, momentum=trial.hparams.momentum
        ),
        batch_size=BATCH_SIZE,
        regularization=Regularization(
            penalty=lambda params, h: h.l2 * penalties.l2(params),
            project=(lambda params, h: penalties.max_norm(params, h.max_norm))
            if max_norm
            else None,
            dropout_rate=(lambda h: h.dropout_rate) if dropout else None,
        ),
        resample=False,
    )


def trials(chosen: Sequence[Pair], **fields: Any) -> Trial:
    """(l2, restart) pairs as the engine takes them."""
    configs = [Config(l2=l2, **fields) for l2, _ in chosen]
    return trials_of(configs, [restart for _, restart in chosen], seed=0)


def engine_of(program: Task, per_device: int, **fields: Any) -> Engine:
    """The program, compiled, on all devices."""
    return Engine(program, take(trials(pairs(1), **fields), 0), mesh_of(), per_device)


def train(runner: Engine, chosen: Sequence[Pair], *, steps: int) -> Measured:
    """Train to the last step and evaluate once, there, as the others do."""
    columns = trials(chosen, steps=steps)
    last = np.full(len(chosen), np.nan)
    started, cpu = time.perf_counter(), time.process_time()
    for boundary in runner.run(columns, steps):
        if (event := boundary.evaluated) is not None:
            last[event.index] = event.metrics["valid/accuracy"]
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    return Measured(len(chosen), seconds, cpu_seconds, last.tolist())


class Segment:
    """A segment of the engine with all slots busy: the very function that it compiles."""

    def __init__(self, program: Task, per_device: int):
        mesh = mesh_of()
        n = self.n_slots = per_device * mesh.size
        columns = trials(pairs(n), steps=10**6)
        put = sharded(mesh)
        self.data = jax.device_put(training_data(program), replicated(mesh))
        columns = jax.device_put(columns, put)
        fill = jax.jit(
            jax.vmap(lambda trial, data: slots.fill(program, trial, data), in_axes=(0, None)),
            out_shardings=put,
        )
        self.slots = fill(columns, self.data)
        self.retired = jax.tree.map(jnp.copy, buffered(self.slots, park=False))  # both are donated
        stay = np.full(n, per_device, np.int32)
        self.orders = jax.device_put(Orders(stay, np.zeros(n, bool), columns), put)  # type: ignore[arg-type]
        self.segment = (
            jax.jit(programs.segment_function(program, mesh), donate_argnums=(0, 1))
            .lower(self.slots, self.retired, self.orders, np.int32(0), self.data)
            .compile()
        )

    def __call__(self) -> None:
        self.slots, self.retired, readout = self.segment(
            self.slots, self.retired, self.orders, np.int32(INTERVAL), self.data
        )
        jax.device_get(readout)


class Bare:
    """The same shapes on the same mesh with nothing around them: minibatch, gradient, SGD.

    Rows are drawn at random inside; no momentum, no penalty, no evaluation, no bookkeeping.
    """

    def __init__(self, splits: Splits, width: int, per_device: int):
        mesh = mesh_of()
        self.n_slots = per_device * mesh.size
        model, tx = network(width), optax.sgd(LEARNING_RATE)

        def train_one(params: Any, key: Any, x: Any, y: Any) -> tuple[Any, Any, Any]:
            def loss(params: Any, rows: Any) -> Any:
                scores: Any = model.apply({"params": params}, x[rows])
                return CROSS_ENTROPY(scores, y[rows]).mean()

            def step(carry: Any, _: Any) -> tuple[Any, Any]:
                params, key = carry
                key, draw = jax.random.split(key)
                rows = jax.random.randint(draw, (BATCH_SIZE,), 0, x.shape[0])
                value, grads = jax.value_and_grad(loss)(params, rows)
                updates, _unused = tx.update(grads, tx.init(params))
                return (optax.apply_updates(params, updates), key), value

            (params, key), values = jax.lax.scan(step, (params, key), length=INTERVAL)
            return params, key, values.mean()

        split, whole = PartitionSpec(AXIS), PartitionSpec()
        self.scan = jax.jit(
            jax.shard_map(
                jax.vmap(train_one, in_axes=(0, 0, None, None)),
                mesh=mesh,
                in_specs=(split, split, whole, whole),
                out_specs=split,
                check_vma=False,
            )
        )
        keys = jax.random.split(jax.random.key(0), self.n_slots)
        example = jnp.zeros((1, *splits.train.x.shape[1:]))
        params = jax.vmap(lambda key: model.init(key, example)["params"])(keys)
        self.carry = jax.device_put((params, keys), sharded(mesh))
        self.data = jax.device_put((splits.train.x, splits.train.y), replicated(mesh))

    def __call__(self) -> None:
        *carry, value = self.scan(*self.carry, *self.data)
        self.carry = tuple(carry)
        jax.device_get(value)


def microseconds(segments: dict[str, Segment | Bare], repeats: int) -> dict[str, np.ndarray]:
    """µs per trial and step of each call, in turns so that noise hits all alike."""
    times = {name: np.zeros(repeats) for name in segments}
    for repeat in range(-2, repeats):  # two to warm up
        for name, segment in segments.items():
            started = time.perf_counter()
            segment()
            if repeat >= 0:
                seconds = time.perf_counter() - started
                times[name][repeat] = seconds / INTERVAL / segment.n_slots * 1e6
    return times
