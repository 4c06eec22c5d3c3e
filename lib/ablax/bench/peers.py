"""The peers: one process per core, each pinned to its core, and one trial after the other.

A process starts, imports its library and warms up (compiles) before any clock runs, and then
trains what it is told to. It is written as a good user of its library would write it: no
evaluation during training, no transfer of losses, one evaluation at the end.
"""

import contextlib
import importlib.util
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ablax.bench.workload import BATCH_SIZE, LEARNING_RATE, MOMENTUM, Measured, Pair, Workload

Train = Callable[[float, int], float]
"""(l2, restart) → validation accuracy of a network trained from start to end."""


def jax_trial(workload: Workload, whole_training: bool = True) -> Train:
    """A whole training as one jitted function, compiled once: scan over epochs and batches.

    Or, as most training loops are written, a jitted step that a Python loop calls.
    """
    import jax
    import jax.numpy as jnp
    import optax

    jax.config.update("jax_platforms", "cpu")
    n, width = len(workload.train_x), workload.width
    tx = optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
    train_x, train_y, valid_x, valid_y = map(
        jnp.asarray, (workload.train_x, workload.train_y, workload.valid_x, workload.valid_y)
    )

    def init(key):
        first, second = jax.random.split(key)
        kernel = jax.nn.initializers.glorot_uniform()
        return {
            "w1": kernel(first, (workload.train_x.shape[1], width)),
            "b1": jnp.zeros(width),
            "w2": kernel(second, (width, 10)),
            "b2": jnp.zeros(10),
        }

    def logits(params, x):
        return jax.nn.relu(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]

    def loss(params, x, y, l2):
        value = optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()
        return value + l2 * (jnp.sum(params["w1"] ** 2) + jnp.sum(params["w2"] ** 2))

    def step(carry, rows, x, y, l2):
        params, opt_state = carry
        grads = jax.grad(loss)(params, x[rows], y[rows], l2)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def start(seed):
        init_key, order_key = jax.random.split(jax.random.key(seed))
        params = init(init_key)
        return (params, tx.init(params)), jax.random.split(order_key, workload.epochs)

    def order(key):
        return jax.random.permutation(key, n).reshape(-1, BATCH_SIZE)

    def accuracy(params, x, y):
        return (logits(params, x).argmax(-1) == y).mean()

    @jax.jit
    def train(l2, seed, x, y, valid_x, valid_y):
        def epoch(carry, key):
            return jax.lax.scan(lambda c, rows: (step(c, rows, x, y, l2), None), carry, order(key))

        (params, _), _ = jax.lax.scan(epoch, *start(seed))
        return accuracy(params, valid_x, valid_y)

    def whole(l2: float, seed: int) -> float:
        return float(train(l2, seed, train_x, train_y, valid_x, valid_y))

    start_jit, order_jit, accuracy_jit = jax.jit(start), jax.jit(order), jax.jit(accuracy)
    step_jit = jax.jit(step, donate_argnums=0)

    def stepwise(l2: float, seed: int) -> float:
        carry, keys = start_jit(seed)
        for key in keys:
            for rows in np.asarray(order_jit(key)):
                carry = step_jit(carry, rows, train_x, train_y, l2)
        return float(accuracy_jit(carry[0], valid_x, valid_y))

    run = whole if whole_training else stepwise
    run(0.0, 0)  # compiles
    return run


def torch_trial(workload: Workload) -> Train:
    """The usual eager loop, with the fused SGD (a tenth faster here than the default one).

    PyTorch's weight decay adds decay · w to the gradient, and that of λ Σ w² is 2 λ w.
    """
    import torch  # pyright: ignore[reportMissingImports]
    from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    train_x, train_y, valid_x, valid_y = (
        torch.from_numpy(a)
        for a in (
            workload.train_x, workload.train_y.astype(np.int64),
            workload.valid_x, workload.valid_y.astype(np.int64),
        )
    )  # fmt: skip

    def run(l2: float, seed: int, epochs: int = workload.epochs) -> float:
        torch.manual_seed(seed)
        hidden, output = (
            torch.nn.Linear(train_x.shape[1], workload.width),
            torch.nn.Linear(workload.width, 10),
        )
        for layer in (hidden, output):
            torch.nn.init.xavier_uniform_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        model = torch.nn.Sequential(hidden, torch.nn.ReLU(), output)
        groups = [
            {"params": [hidden.weight, output.weight], "weight_decay": 2 * l2},
            {"params": [hidden.bias, output.bias], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=MOMENTUM, fused=True)
        for _ in range(epochs):
            for rows in torch.randperm(len(train_x)).split(BATCH_SIZE):
                loss = F.cross_entropy(model(train_x[rows]), train_y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            return (model(valid_x).argmax(-1) == valid_y).double().mean().item()

    run(0.0, 0, epochs=2)
    return run


def sklearn_trial(workload: Workload) -> Train:
    """MLPClassifier, in float32 like the others.

    Its gradient is (Σ over the minibatch of ∂loss + alpha · w) / rows of the minibatch
    (`_compute_loss_grad`), so that alpha = 2 λ · batch size is the penalty λ Σ w².
    """
    from sklearn.neural_network import MLPClassifier

    def run(l2: float, seed: int, epochs: int = workload.epochs) -> float:
        model = MLPClassifier(
            (workload.width,),
            solver="sgd",
            momentum=MOMENTUM,
            nesterovs_momentum=False,
            learning_rate_init=LEARNING_RATE,
            batch_size=BATCH_SIZE,  # pyright: ignore[reportArgumentType]
            alpha=2 * l2 * BATCH_SIZE,
            max_iter=epochs,
            tol=0.0,
            n_iter_no_change=epochs + 1,
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "maximum iterations reached": as intended
            model.fit(workload.train_x, workload.train_y)
        return float(model.score(workload.valid_x, workload.valid_y))

    run(0.0, 0, epochs=2)
    return run


class Peer(NamedTuple):
    words: str
    module: str  # that it needs
    prepare: Callable[[Workload], Train]


PEERS = {
    "jax": Peer("one JAX trial at a time", "jax", jax_trial),
    "jax_loop": Peer("JAX step, Python loop", "jax", partial(jax_trial, whole_training=False)),
    "torch": Peer("PyTorch loop", "torch", torch_trial),
    "sklearn": Peer("scikit-learn MLPClassifier", "sklearn", sklearn_trial),
}


class Processes:
    """One process per core of a peer, waiting for work; a context manager."""

    def __init__(self, peer: str, cores: Sequence[int]):
        context = multiprocessing.get_context("spawn")
        self._pipes, self._processes = [], []
        with _one_thread():
            for core in cores:
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, peer, core), daemon=True)
                process.start()
                theirs.close()
                self._pipes.append(ours)
                self._processes.append(process)

    def prepare(self, workload: Workload) -> None:
        """Import, compile and warm up in every process."""
        for pipe in self._pipes:
            pipe.send(workload)
        for pipe in self._pipes:
            pipe.recv()

    def train(self, chosen: Sequence[Pair]) -> Measured:
        """Train the trials, as many in each process; the throughput is the processes' sum."""
        n = len(self._pipes)
        shares = [list(chosen[len(chosen) * i // n : len(chosen) * (i + 1) // n]) for i in range(n)]
        for pipe, share in zip(self._pipes, shares, strict=True):
            pipe.send(share)
        answers = [pipe.recv() for pipe in self._pipes]
        rate = sum(len(accuracies) / seconds for seconds, _, accuracies in answers)
        return Measured(
            len(chosen),
            len(chosen) / rate,
            sum(cpu for _, cpu, _ in answers),
            [x for _, _, accuracies in answers for x in accuracies],
        )

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *error: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.terminate()


def missing(peer: str) -> str | None:
    """Why a peer cannot take part, or None."""
    if importlib.util.find_spec(PEERS[peer].module) is None:
        return "not installed (pip install ablax[bench])"
    return None


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """An environment in which BLAS starts no threads; BLAS reads it when NumPy is imported."""
    names = [f"{library}_NUM_THREADS" for library in ("OMP", "OPENBLAS", "MKL")]
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(pipe: Any, peer: str, core: int) -> None:
    """A process: pinned to its core before JAX or PyTorch start threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    train: Train | None = None
    while True:
        try:
            work = pipe.recv()
        except EOFError:
            return
        if train is None or not isinstance(work, list):
            train = PEERS[peer].prepare(work)
            pipe.send("ready")
            continue
        started, cpu = time.perf_counter(), time.process_time()
        accuracies = [train(l2, restart) for l2, restart in work]
        pipe.send((time.perf_counter() - started, time.process_time() - cpu, accuracies))
