"""The work that every side of `bench gpu` does, and Ablax's side of it.

784-128-10 ReLU networks on MNIST, minibatches of 128, SGD with momentum at a constant rate, L2
(weights only) × restarts, Glorot-uniform weights and zero biases to start from. An epoch is 468
whole minibatches for everybody: PyTorch drops the 96 rows that are left of its order, Ablax
carries them over into the next. The official test images are the validation split here: nothing
is selected by them, and nobody else needs them.
"""

import dataclasses
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import PartitionSpec

from ablax import metrics, optimizers, penalties
from ablax.bench import ours
from ablax.bench.workload import L2, pairs
from ablax.data import Dataset, Splits, load, split
from ablax.data.catalog import listing
from ablax.engine.mesh import AXIS, cpu_devices_per_core, mesh_of, sharded
from ablax.metrics import ACCURACY, LOSS
from ablax.task import Task
from ablax.tasks.supervised import Regularization, supervised

FEATURES, WIDTH, CLASSES, BATCH_SIZE = 784, 128, 10, 128
Say = Callable[[str, Any], None]
"""(name, value): hand over a part of the result as soon as it is known."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    train_rows: int = 60_000
    valid_rows: int = 10_000
    epochs: int = 10
    slots: tuple[int, ...] = (1, 4, 16, 64, 256, 1024, 4096, 16384)  # per device
    ensembles: tuple[int, ...] = (16, 64, 256, 1024, 4096)  # networks that PyTorch vmaps
    segment_steps: int = 300  # timed, of every number of slots
    probe_steps: int = 50  # timed, of everything that PyTorch tries
    loop_networks: int = 4  # at most, of PyTorch's loop
    seconds: float = 45.0  # that a side's training may take; else fewer steps are extrapolated
    product: int = 8192  # rows and columns of the matrices whose product is timed

    @property
    def steps(self) -> int:
        return self.epochs * (self.train_rows // BATCH_SIZE)


GPU = Sizes()
CPU = Sizes(
    slots=(1, 4, 16), ensembles=(4, 16), segment_steps=60, probe_steps=20, loop_networks=4,
    seconds=15.0, product=1024,
)  # fmt: skip
QUICK = Sizes(
    train_rows=2048, valid_rows=256, epochs=2, slots=(1, 16), ensembles=(2, 4), segment_steps=16,
    probe_steps=4, loop_networks=4, seconds=5.0, product=256,
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """Request to a side, which runs in its own process."""

    quick: bool
    precision: Literal["default", "highest"]
    slots: tuple[int, ...]  # () for the sizes' own
    limit: float  # seconds, from start to end

    def sizes(self, gpu: bool) -> Sizes:
        chosen = QUICK if self.quick else GPU if gpu else CPU
        slots = tuple(sorted(set(self.slots or chosen.slots)))
        return dataclasses.replace(chosen, slots=slots)


def flops_per_step() -> int:
    """Floating-point operations of the matrix products of one network's step.

    A product of [m, k] and [k, n] takes 2 m k n. Backward there are the gradients of both
    layers' weights and that of the second one's input; nobody needs the first one's.

    >>> flops_per_step()
    52363264
    """
    layers = [(FEATURES, WIDTH), (WIDTH, CLASSES)]
    forward = sum(2 * BATCH_SIZE * n_in * n_out for n_in, n_out in layers)
    return forward + forward + 2 * BATCH_SIZE * WIDTH * CLASSES


def generated(train_rows: int, valid_rows: int) -> Dataset:
    """Rows shaped like MNIST's, for machines without its files: noise around 10 centres."""
    rng = np.random.default_rng(0)
    n = train_rows + valid_rows
    y = (np.arange(n) % CLASSES).astype(np.int32)
    x = rng.random((n, FEATURES), np.float32)
    x = (x + rng.random((CLASSES, FEATURES), np.float32)[y]) / 2
    return Dataset(
        name="generated", x=x[:train_rows], y=y[:train_rows], problem="classification",
        source="generated", classes=tuple(map(str, range(CLASSES))),
        test=(x[train_rows:], y[train_rows:]), scale_features="none",
    )  # fmt: skip


def splits_of(sizes: Sizes) -> tuple[Splits, str]:
    """The splits, rows of 784, and what they are made of; of the test split nothing is left."""
    rows, valid = sizes.train_rows, sizes.valid_rows
    if next(row.present for row in listing() if row.name == "mnist") == "yes":
        dataset, words = load("mnist"), "MNIST"
    else:
        dataset = generated(rows, valid)
        words = "generated, of MNIST's shape (its files are not in the data directory)"
    parts = split(dataset, train_size=rows, valid_size=0, test_size=valid, seed=0)
    x, y = (np.concatenate([a, b]) for a, b in zip(parts.train, parts.test, strict=True))
    whole = dataclasses.replace(dataset, x=x.reshape(len(x), FEATURES), y=y, test=None)
    return split(whole, train_size=rows, valid_size=valid, test_size=0, seed=0), words


def task(splits: Splits) -> Task:
    """Task of one trial."""
    return supervised(
        ours.network(WIDTH),
        splits,
        loss=ours.CROSS_ENTROPY,
        metrics={
            LOSS: ours.CROSS_ENTROPY,
            ACCURACY: metrics.accuracy,
        },
        optimizer=lambda trial: optimizers.momentum(
            trial.hparams.learning_rate, momentum=trial.hparams.momentum
        ),
        batch_size=BATCH_SIZE,
        regularization=Regularization(penalty=lambda params, h: h.l2 * penalties.l2(params)),
        resample=False,
    )


def setup(sizes: Sizes, platform: str, device: str, data: str, precision: dict) -> dict[str, Any]:
    """The part `setup`, with which every side begins."""
    return {
        "platform": platform, "device": device, "data": data, "precision": precision,
        "steps": sizes.steps, "sizes": dataclasses.asdict(sizes),
    }  # fmt: skip


def product_error(product: Callable[[np.ndarray, np.ndarray], Any]) -> float:
    """Largest error of a float32 matrix product: about 1e-6 in float32, over 1e-4 in TF32."""
    a, b = np.random.default_rng(0).standard_normal((2, 512, 512))
    a, b = a.astype(np.float32), b.astype(np.float32)
    exact = a.astype(float) @ b.astype(float)
    return float(np.abs(np.asarray(product(a, b)) - exact).max() / np.abs(exact).max())


def throughput(networks: int, per_step: float, per_training: float, sizes: Sizes) -> dict[str, Any]:
    """A row of a curve: what `networks` at once cost, and the rate of whole trainings by it."""
    return {
        "networks": networks,
        "seconds_per_step": per_step,
        "steps_per_second": networks / per_step,
        "networks_per_second": networks / (sizes.steps * per_step + per_training),
    }


def candidates(rows: Sequence[dict[str, Any]], sizes: Sizes) -> Iterator[tuple[dict, int]]:
    """(row of a curve, steps there is time for), the best rate first.

    What can be trained to the end goes before what cannot, where its rate is as good to 5%.
    """
    able = [row for row in rows if "failed" not in row]
    enough = 0.95 * max((row["networks_per_second"] for row in able), default=0.0)

    def rank(chosen: tuple[dict, int]) -> tuple[bool, float]:
        row, steps = chosen
        rate = row["networks_per_second"]
        return steps < sizes.steps or rate < enough, -rate

    return iter(sorted(((row, fitting(row["seconds_per_step"], sizes)) for row in able), key=rank))


def fitting(per_step: float, sizes: Sizes) -> int:
    """Steps of a training that there is time for, one at least."""
    return max(min(sizes.steps, int(sizes.seconds / per_step)), 1)


def trained(
    networks: int, seconds: float, ran: int, accuracies: Sequence[float], sizes: Sizes
) -> dict[str, Any]:
    """The part `training`: networks per second, linearly extrapolated where steps were left out.

    Accuracies are of `pairs(networks)`, and their means are told apart by the strength of L2.
    """
    whole = ran == sizes.steps
    return {
        "networks": networks,
        "seconds": seconds,
        "steps_run": ran,
        "extrapolated": not whole,
        "networks_per_second": networks / (seconds * sizes.steps / ran),
        "valid_accuracy": {
            f"{l2:g}": float(np.mean(accuracies[i :: len(L2)]))
            for i, l2 in enumerate(L2[: len(accuracies)])
        }
        if whole
        else None,  # of networks that were not trained to the end there is none to compare
    }


def in_a_line(error: BaseException) -> str:
    """An error in a line; what runs out of memory says so in many."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower():
        return f"does not fit into the device's memory ({type(error).__name__})"
    return f"{type(error).__name__}: {text.partition(chr(10))[0][:200]}"


def each(
    sizes: Sequence[int], measure: Callable[[int], dict], show: Callable, until: float
) -> list:
    """A row for each size, ascending, shown as they come; one that fails is a row as well.

    After the first that does not fit into memory no larger one is tried, nor any after `until`.
    """
    rows: list[dict[str, Any]] = []
    full = None
    for size in sizes:
        if full is not None:
            row = {"networks": size, "failed": f"not tried: {full:,} did not fit"}
        elif time.perf_counter() > until:
            row = {"networks": size, "failed": "not tried: the time was up"}
        else:
            try:
                row = measure(size)
            except Exception as error:
                row = {"networks": size, "failed": in_a_line(error)}
                full = size if row["failed"].startswith("does not fit") else None
        rows.append(row)
        show(rows)
        gc.collect()  # the arrays of one size are gone before the next one's come
    return rows


def ablax(asked: Asked, say: Say) -> None:
    """Ablax's side: the device's own rate, the curve over slots, and a training at its best."""
    started = time.perf_counter()
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")  # the process is alone
    jax.config.update("jax_default_matmul_precision", asked.precision)
    cpu_devices_per_core()
    platform = jax.default_backend()
    sizes = asked.sizes(gpu=platform == "gpu")
    until = started + asked.limit - 3 * sizes.seconds  # the training comes after it
    splits, words = splits_of(sizes)
    precision = {
        "jax_default_matmul_precision": jax.config.values["jax_default_matmul_precision"],
        "error of a product": product_error(jax.numpy.matmul),
    }
    kind = f"{jax.device_count()} × {jax.devices()[0].device_kind}"
    say("setup", setup(sizes, platform, kind, words, precision))
    peak = matrix_product_rate(sizes.product)
    say("matrix_products", {"size": sizes.product, "flops_per_second": peak})
    program = task(splits)
    rows = each(
        sizes.slots,
        lambda n: curve_point(program, n, sizes, peak),
        lambda r: say("slots", r),
        until,
    )
    say("training", training(program, rows, sizes))


def matrix_product_rate(n: int, products: int = 10) -> float:
    """FLOP/s of all devices together, each multiplying its own n × n float32 matrices."""
    mesh = mesh_of()
    a, b = jax.random.normal(jax.random.key(0), (2, mesh.size, n, n)) / n**0.5
    a, b = jax.device_put((a, b), sharded(mesh))

    def on_device(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, products, lambda _, b: (a[0] @ b[0])[None], b)

    part = PartitionSpec(AXIS)
    run = jax.jit(
        jax.shard_map(on_device, mesh=mesh, in_specs=part, out_specs=part, check_vma=False)
    )
    seconds = min(_seconds(lambda: jax.block_until_ready(run(a, b))) for _ in range(4))
    return products * mesh.size * 2 * n**3 / seconds


def curve_point(program: Task, per_device: int, sizes: Sizes, peak: float) -> dict[str, Any]:
    """The engine's segment with so many slots on every device, all of them busy.

    A segment of no steps is timed beside it: what is left is the steps', without the evaluation.
    """
    started = time.perf_counter()
    segment = ours.Segment(program, per_device)
    compiling = time.perf_counter() - started
    advance(segment, 2)  # warm-up
    whole, empty = [], []
    while len(whole) < 3 and sum(whole) < 3:
        empty.append(_seconds(lambda: advance(segment, 0)))
        whole.append(_seconds(lambda: advance(segment, sizes.segment_steps)))
    per_step = (statistics.median(whole) - statistics.median(empty)) / sizes.segment_steps
    row = throughput(segment.n_slots, per_step, statistics.median(empty), sizes)
    rate = row["steps_per_second"] * flops_per_step()
    more = {"slots_per_device": per_device, "compile_seconds": compiling}
    return row | more | {"flops_per_second": rate, "share_of_matrix_products": rate / peak}


def advance(segment: ours.Segment, steps: int) -> None:
    """`steps` steps of every slot and an evaluation, to the end: as `Segment.__call__` does."""
    segment.slots, segment.retired, readout = segment.segment(
        segment.slots, segment.retired, segment.orders, np.int32(steps), segment.data
    )
    jax.block_until_ready((segment.slots, readout))


def training(program: Task, rows: Sequence[dict[str, Any]], sizes: Sizes) -> dict[str, Any]:
    """A training at the best number of slots that works."""
    failed = {}
    for row, steps in candidates(rows, sizes):
        try:
            result = train(program, row["slots_per_device"], steps, sizes)
        except Exception as error:
            failed[row["networks"]] = in_a_line(error)
        else:
            return result | {"failed_with": failed}
        gc.collect()
    raise RuntimeError(f"no number of slots could be trained: {failed}")


def train(program: Task, per_device: int, steps: int, sizes: Sizes) -> dict[str, Any]:
    """As many networks as there are slots, from start to end by the engine.

    Filling the slots and both evaluations, the engine's final one too, are in the time.
    """
    runner = ours.engine_of(program, per_device, steps=steps)
    ours.train(runner, pairs(runner.n_slots), steps=2)  # warm-up
    done = ours.train(runner, pairs(runner.n_slots), steps=steps)
    result = trained(done.trials, done.seconds, steps, done.accuracies, sizes)
    return result | {"slots_per_device": per_device}


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
