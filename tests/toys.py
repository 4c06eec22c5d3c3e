"""Small tasks that the sweep's tests train, and helpers that run them."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ablax import losses, metrics, optimizers, penalties
from ablax.config import BaseConfig, Preset, hparam, static
from ablax.data import split
from ablax.data.generated import blobs
from ablax.engine.engine import Engine, Evaluated, Finished
from ablax.engine.mesh import mesh_of
from ablax.engine.slots import Status
from ablax.engine.trials import take, trials_of
from ablax.experiment import Experiment
from ablax.metrics import Metric
from ablax.nn.mlp import MLP
from ablax.study import grid
from ablax.task import Task
from ablax.tasks.supervised import Regularization, supervised

COLLECTIVES = (
    r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
)
"""Words of a compiled program in which devices wait for each other."""


class Config(BaseConfig):
    learning_rate: float = hparam(0.1, "rate", low=0)
    noise: float = hparam(0.0, "deviation of the gradient's noise", low=0)
    l2: float = hparam(0.0, "strength of the L2 penalty", low=0)
    dropout_rate: float = hparam(0.0, "rate", low=0, below=1)
    width: int = static(3, "size", low=1)
    activation: str = static("relu", "of the hidden layer", choices=("relu", "tanh"))


SHORT = Config(steps=30, eval_every=10)


def quadratic(setting: Config = SHORT, *, version: int = 1, fingerprint: str = "f") -> Task:
    """Gradient descent without a network; the same task for equal arguments."""
    return _quadratic(setting.width, version, fingerprint)


@functools.cache
def _quadratic(width: int, version: int, fingerprint: str) -> Task:
    """Noisy gradient descent on ½|x − centre|²: a trial without a network.

    With a rate of 30 its loss overflows at about step 13; with 1e30 at step 1; with inf the
    parameters are not finite after the first step, whose loss still was.
    """

    def centre(value: float) -> dict[str, np.ndarray]:
        return {"centre": np.full(width, value, np.float32)}

    def init(trial, data):
        return {"x": jax.random.normal(trial.rng("init"), (width,))}

    def step(state, trial, data):
        towards = state["x"] - data["train"]["centre"]
        noise = jax.random.normal(trial.rng("noise", trial.step), (width,))
        h = trial.hparams
        x = state["x"] - h.learning_rate * (towards + h.noise * noise + h.l2 * state["x"])
        return {"x": x}, {"loss": 0.5 * jnp.sum(towards**2)}

    def evaluate(variables, trial, part):
        return {"loss": (0.5 * jnp.sum((variables["x"] - part["centre"]) ** 2), jnp.float32(1))}

    return Task(
        data={"train": centre(1.0), "valid": centre(0.9), "test": centre(1.1)},
        init=init,
        step=step,
        evaluate=evaluate,
        objective=Metric("loss", "min"),
        measure=lambda variables, trial: {
            "norm": jnp.sum(variables["x"] ** 2),
            "point": variables["x"],
            "outer": variables["x"][:, None] * jnp.ones((1, 2)),
        },
        metrics=(Metric("loss", "min"),),
        version=version,
        fingerprint=fingerprint,
        notes=("centres at 1.0, 0.9 and 1.1",),
    )


def scripted(curves: np.ndarray, objective: Metric | None, solved: Callable | None = None) -> Task:
    """A trial whose validation value after s steps is curves[restart, s], whatever it does.

    Its state is its own step counter, so the snapshot that was kept tells when it was taken.
    """

    def read(variables, trial, part):
        at = variables["step"].astype(jnp.int32)
        return {"score": (part["curves"][trial.restart, at], jnp.float32(1))}

    data = {"curves": curves.astype(np.float32)}
    return Task(
        data={"train": data, "valid": data, "test": data},
        init=lambda trial, data: {"step": jnp.float32(0)},
        step=lambda state, trial, data: (
            {"step": state["step"] + 1.0},
            {"loss": state["step"] * 2.0},
        ),
        evaluate=read,
        objective=objective,
        solved=solved,
        metrics=(Metric("score", "min"),),
    )


def network(setting: Config = SHORT, **changes: Any) -> Task:
    """A small classifier on generated blobs, with dropout, L2 and momentum.

    The same task for equal arguments.
    """
    return _network(setting.width, setting.activation, **changes)


@functools.cache
def _network(width: int, activation: str, *, project: Any = None, **changes: Any) -> Task:
    splits = split(blobs(n=200, noise=2.0), train_size=100, seed=0)
    return supervised(
        MLP((width,), len(splits.classes), activation),
        splits,
        loss=losses.loss("softmax_cross_entropy_with_integer_labels"),
        metrics={Metric("accuracy", "max"): metrics.accuracy},
        optimizer=lambda trial: optimizers.momentum(trial.hparams.learning_rate, momentum=0.9),
        batch_size=16,
        regularization=Regularization(
            penalty=lambda params, h: penalties.elastic_net(params, jnp.float32(0), h.l2),
            dropout_rate=lambda h: h.dropout_rate,
            project=project,
        ),
        **changes,
    )


def experiment(task: Callable[[Config], Task] = quadratic, **changes: Any) -> Experiment:
    """An experiment whose points are the product of the axes."""
    return Experiment(
        **{
            "name": "toy",
            "points": lambda config: grid.product(**grid.axes(config)),
            "task": task,
            "presets": {"default": Preset(SHORT, 2)},
        }
        | changes
    )


@dataclass
class Outcome:
    """How one trial went."""

    status: str = ""
    steps: int = -1
    best_step: int = -1
    measured: dict[str, np.ndarray] = field(default_factory=dict)
    snapshot: Any = None
    curve: list[tuple[int, dict[str, np.ndarray]]] = field(default_factory=list)

    def bits(self) -> Any:
        """Everything, as a hashable tuple that tells −0 from 0 and equals itself for NaN."""
        leaves = jax.tree.leaves((self.snapshot, self.measured, self.curve))
        words = tuple((np.shape(x), np.asarray(x).tobytes()) for x in leaves)
        return self.status, self.steps, self.best_step, words


def engine_of(task: Task, setting: Config = SHORT, *, devices: int = 1, slots: int = 16) -> Engine:
    example = take(trials_of([setting], [0], 0), 0)
    return Engine(task, example, mesh_of(jax.devices()[:devices]), slots, keep=True)


def run(
    runner: Engine,
    configs: Sequence[Config],
    restarts: Sequence[int],
    *,
    interval: int = 10,
    seed: int = 0,
    until: Sequence[int] | None = None,
    starts: dict[int, Any] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[int, Outcome]:
    """{position: how it went} of the trials that finished; refuses one that finished twice."""
    outcomes: dict[int, Outcome] = {}
    finished: list[int] = []
    trials = trials_of(configs, restarts, seed, until)

    def learn(evaluated: Evaluated | None, ended: Finished | None) -> None:
        if evaluated is not None:
            for row, index in enumerate(evaluated.index.tolist()):
                values = {name: column[row] for name, column in evaluated.metrics.items()}
                outcome = outcomes.setdefault(index, Outcome())
                outcome.curve.append((int(evaluated.step[row]), values))
        for row, index in enumerate(ended.index.tolist() if ended is not None else ()):
            event, outcome = ended, outcomes.setdefault(index, Outcome())
            finished.append(index)
            outcome.status = Status(event.status[row]).name
            outcome.steps, outcome.best_step = int(event.steps[row]), int(event.best_step[row])
            outcome.measured = take(event.measured, row)
            outcome.snapshot = take(event.snapshots, row)

    for boundary in runner.run(trials, interval, starts=starts):
        learn(boundary.evaluated, boundary.finished)
        if stop():
            learn(None, runner.flush())
            break
    assert len(finished) == len(set(finished)), "a trial finished twice"
    return {index: outcomes[index] for index in sorted(finished)}


_compiled: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **_: (
        _compiled.append(name) if name == "/jax/core/compile/backend_compile_duration" else None
    )
)


@contextmanager
def compilations() -> Iterator[list[str]]:
    """The compilations by XLA, of whatever function, inside the block."""
    before, seen = len(_compiled), []
    yield seen
    seen += _compiled[before:]
