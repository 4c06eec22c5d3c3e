"""The seam between networks and the engine: what one trial does, as pure functions.

A `Task` knows nothing of other trials: no function here has an axis over trials, and only
the engine vmaps. The engine in turn knows nothing of networks. `supervised` builds the
usual task out of a model, a loss and an optimizer; a custom task replaces one of its
functions (`dataclasses.replace`) or brings its own.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from ablax.data.noise import relabelled
from ablax.data.order import epoch_rows
from ablax.data.splits import Split, Splits, Subset
from ablax.errors import UserError
from ablax.losses import mean, reduce
from ablax.metrics import Metric

Sums = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trial:
    """One point at one restart, as the compiled program sees it: every leaf is traced.

    `hparams` is the point's Config, so `trial.hparams.l2` is a traced float32 and
    `trial.hparams.width` a Python int.
    """

    hparams: Any
    seed: Int[Array, ""]  # of the study, uint32
    restart: Int[Array, ""]
    step: Int[Array, ""]  # updates made so far
    steps: Int[Array, ""]  # the horizon, for schedules
    until: Int[Array, ""]  # where the trial ends: at `steps`, or before, if a child goes on

    def rng(self, name: str, step: Int[Array, ""] | int | None = None) -> Key[Array, ""]:
        """The key of a named stream, of this restart and, where given, of one step.

        Derived from (study seed, restart, name, step) and from nothing else. So restart r
        draws the same numbers at every point, and a trial's numbers depend neither on its
        slot nor on what else is in the grid. Of a stream that the Config ties (`--fix`), all
        restarts draw what restart 0 draws.
        """
        tied = name in self.hparams.fix.split("+")
        key = jax.random.key(self.seed)
        for word in (jnp.zeros_like(self.restart) if tied else self.restart, _stable_hash(name)):
            key = jax.random.fold_in(key, word)
        return key if step is None else jax.random.fold_in(key, step)


def _stable_hash(name: str) -> int:
    """31 bits of the name's SHA-256 (Python's own hash differs from process to process)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1


def _the_state(state: Any) -> Any:
    return state


def _the_data(trial: Trial, data: Any) -> Any:
    return data


class StoppingRule(NamedTuple):
    """When a trial may stop, beyond the patience of its protocol.

    Attributes:
        start: what the rule remembers before the first evaluation: a pytree of arrays.
        observe: (memory, trial, train, valid) -> (memory, stop), at every evaluation: {name:
            mean} of the step metrics since the last one, and of the validation split.
    """

    start: Any
    observe: Callable[[Any, Trial, Mapping[str, Array], Mapping[str, Array]], tuple[Any, Array]]


@dataclass(frozen=True)
class Task:
    """Pure functions of one trial, and the data that they get as an argument.

    Attributes:
        data: pytrees of arrays by name. What is named "test" is given to the final evaluation
            only, and the segment program is given all the others.
        init: (trial, data) -> state, any pytree.
        step: (state, trial, data) -> (state, metrics): one update, which chooses its own
            minibatch. `metrics` are scalars; "loss" must be among them, and when it is not
            finite the trial has diverged.
        evaluate: (variables, trial, split) -> {name: (sum, count)}.
        snapshot: state -> variables: what "best" keeps and `evaluate` gets.
        view: (trial, data) -> what `step` and `evaluate` get as this trial's data: its split,
            its fraction, its noisy labels, its streams of random numbers. It names the splits
            "train" and "valid" (and "test", where it is given) for `evaluate`. Computed once
            per segment, not once per step.
        inherit: (trial, data, variables) -> state: the start of a trial whose parent, in a round
            before, left it its selected snapshot (transfer, pruning).
        measure: (variables, trial) -> {name: array}: what else to keep of a finished trial.
            Scalars become columns of trials.parquet, arrays go to arrays/.
        objective: the validation metric that early stopping and selection look at, or None.
        solved: {name: mean} of an evaluation -> whether the trial may stop; then it is this
            state that is selected.
        stopping: a rule by which it may stop as well; what is selected stays the best.
        metrics: the direction of every metric that `evaluate` returns; tables lead with the
            first.
        version: raise it when the functions change what they compute; it is part of a
            trial's identity.
        fingerprint: a hash of the data; part of a trial's identity.
        notes: lines for the plan, about the data.
    """

    data: Mapping[str, Any]
    init: Callable[[Trial, Any], Any]
    step: Callable[[Any, Trial, Any], tuple[Any, dict[str, Array]]]
    evaluate: Callable[[Any, Trial, Any], Sums]
    objective: Metric | None
    snapshot: Callable[[Any], Any] = _the_state
    view: Callable[[Trial, Any], Any] = _the_data
    inherit: Callable[[Trial, Any, Any], Any] | None = None
    measure: Callable[[Any, Trial], dict[str, Array]] | None = None
    solved: Callable[[dict[str, Array]], Array] | None = None
    stopping: StoppingRule | None = None
    metrics: tuple[Metric, ...] = ()
    version: int = 1
    fingerprint: str = ""
    notes: tuple[str, ...] = ()


class SupervisedState(NamedTuple):
    params: PyTree
    opt_state: optax.OptState


def supervised(
    model: nn.Module,
    splits: Splits,
    *,
    loss: Callable[[Array, Array], Array],
    optimizer: Callable[[Trial], optax.GradientTransformation],
    batch_size: int,
    metrics: Mapping[str, Callable[[Array, Array], Array]] | None = None,
    penalty: Callable[[PyTree, Any], Array] | None = None,
    activity_penalty: Callable[[dict[str, Array], Any], Array] | None = None,
    project: Callable[[PyTree, Any], PyTree] | None = None,
    initial: Callable[[PyTree, Any], PyTree] | None = None,
    dropout_rate: Callable[[Any], Array | tuple[Array, ...]] | None = None,
    label_noise: Callable[[Any], Array] | None = None,
    watch: Callable[[PyTree, PyTree], dict[str, Array]] | None = None,
    measure: Callable[[PyTree, Trial], dict[str, Array]] | None = None,
    objective: Metric | None = None,
    directions: tuple[Metric, ...] = (),
    resample: bool = True,
) -> Task:
    """The usual task: minibatch gradient descent on loss + penalty.

    One step draws the minibatch of `trial.step` from the restart's epoch order, takes the
    gradient of mean(loss) + penalty, updates by the optimizer and projects.

    Args:
        model: a Linen module called as `model(x)`, or as `model(x, dropout_rate)` with a
            "dropout" stream where `dropout_rate` is given. Its variables must be params
            alone.
        splits: the pool and the test split.
        loss: (outputs, targets) -> one value per example.
        optimizer: trial -> optax chain, built from the trial's traced hparams.
        batch_size: rows of a minibatch, at most those of the training split.
        metrics: name -> (outputs, targets) -> one value per example, evaluated on every
            split beside "loss", which is the loss without penalty and without dropout.
        penalty: (params, hparams) -> scalar, added to the mean loss.
        activity_penalty: ({layer: what it gives for the minibatch}, hparams) -> scalar, also
            added. The layers are the model's submodules, before any activation.
        project: (params, hparams) -> params, after every update (max-norm).
        initial: (params, hparams) -> params, once, on the model's initial parameters.
        dropout_rate: hparams -> the traced rate given to the model in training; or several, in
            the order in which the model takes them.
        label_noise: hparams -> the share of training labels that are drawn anew at random, by
            every restart others (its stream "noise"); validation and test labels stay.
        watch: (gradient, params) -> {name: scalar}, beside the loss of every step: curves.parquet
            has their means over each segment as train/NAME.
        measure: as in `Task`.
        objective: default: the validation loss, lower is better; without validation examples
            there is none, and the last state is what is kept.
        directions: the direction of each of `metrics`; tables lead with the first.
        resample: every restart draws its training and validation examples out of the pool (its
            stream "split"); else all have those that the splits' own seed draws.

    Raises:
        UserError: the batch is larger than the training split, or what has noise are no labels.
    """
    if label_noise is not None and not splits.classes:
        raise UserError("label noise: expected a data set with classes, got one of numbers")
    per_example = {"loss": loss, **(metrics or {})}
    n_train = splits.n_train
    if batch_size > n_train:
        raise UserError(
            f"--batch-size: expected at most the {n_train} training examples, got {batch_size}"
        )
    example = jax.ShapeDtypeStruct((1, *splits.pool.x.shape[1:]), splits.pool.x.dtype)

    arrays = {"pool": splits.pool} if resample else {"train": splits.train, "valid": splits.valid}

    def init(trial: Trial, data: Mapping[str, Any]) -> SupervisedState:
        zeros = jnp.zeros(example.shape, example.dtype)
        params = model.init(trial.rng("init"), zeros)["params"]
        if initial is not None:
            params = initial(params, trial.hparams)
        return SupervisedState(params, optimizer(trial).init(params))

    def view(trial: Trial, data: Mapping[str, Any]) -> dict[str, Any]:
        # The keys' derivation costs as much as a small network's step: once per segment.
        streams = {"order": trial.rng("order"), "dropout": trial.rng("dropout")}
        parts = {}
        if resample:
            x, y = data["pool"]
            train, valid = splits.draw(trial.rng("split"))
            parts = {"train": Subset(x, y, train), "valid": Subset(x, y, valid)}
        seen = {**data, **parts, **streams}
        if label_noise is None:
            return seen
        share, key, y = label_noise(trial.hparams), trial.rng("noise"), seen["train"].y
        drawn = relabelled(key, y, share, len(splits.classes))
        return {**seen, "train": seen["train"]._replace(y=drawn)}

    def apply(params: PyTree, *inputs: Any, **options: Any) -> Any:
        return model.apply({"params": params}, *inputs, **options)

    def outputs_in_training(
        params: PyTree, trial: Trial, key: Key[Array, ""], x: Array, **options: Any
    ) -> Any:
        if dropout_rate is None:
            return apply(params, x, **options)
        # A key of its own for every step. Flax folds each layer's path into it, which mixes it:
        # folding in the step as well would cost as much as a quarter of the mask.
        words = jax.random.key_data(key) ^ trial.step.astype(jnp.uint32)
        key = jax.random.wrap_key_data(words)
        rates = dropout_rate(trial.hparams)
        rates = rates if isinstance(rates, tuple) else (rates,)
        return apply(params, x, *rates, rngs={"dropout": key}, **options)

    def activity(trial: Trial, captured: Mapping[str, Any]) -> Array:
        assert activity_penalty is not None
        layers = {name: of["__call__"][0] for name, of in captured.items() if name != "__call__"}
        return activity_penalty(layers, trial.hparams)

    def step(
        state: SupervisedState, trial: Trial, data: Mapping[str, Any]
    ) -> tuple[SupervisedState, dict[str, Array]]:
        x, y = examples(data["train"], epoch_rows(data["order"], trial.step, batch_size, n_train))

        def objective_of(params: PyTree) -> tuple[Array, Array]:
            inputs = params, trial, data["dropout"], x
            added = jnp.float32(0) if penalty is None else penalty(params, trial.hparams)
            if activity_penalty is None:
                outputs = outputs_in_training(*inputs)
            else:
                outputs, captured = outputs_in_training(*inputs, capture_intermediates=True)
                added = added + activity(trial, captured["intermediates"])
            value = mean(loss(outputs, y))
            return value + added, value

        grads, value = jax.grad(objective_of, has_aux=True)(state.params)
        updates, opt_state = optimizer(trial).update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        if project is not None:
            params = project(params, trial.hparams)
        watched = {} if watch is None else watch(grads, state.params)
        return SupervisedState(params, opt_state), {"loss": value, **watched}

    def evaluate(params: PyTree, trial: Trial, split: Split | Subset) -> Sums:
        def of_chunk(x: Array, y: Array, mask: Array) -> Sums:
            outputs = apply(params, x)
            return {name: reduce(f(outputs, y), mask) for name, f in per_example.items()}

        return in_chunks(of_chunk, split)

    return Task(
        data=arrays | {"test": splits.test},
        init=init,
        step=step,
        evaluate=evaluate,
        objective=(objective or Metric("loss", "min")) if splits.n_valid else None,
        snapshot=lambda state: state.params,
        view=view,
        measure=measure,
        metrics=(*directions, Metric("loss", "min")),
        fingerprint=splits.fingerprint,
        notes=splits.notes,
    )


def examples(part: Split | Subset, index: Array | None = None) -> tuple[Array, Array]:
    """(x, y) of the examples of a split at the positions `index`; None: of all of them."""
    rows = part.rows if isinstance(part, Subset) else None
    if index is not None:
        rows = index if rows is None else rows[index]
    x, y = cast(tuple[Array, Array], (part.x, part.y))  # NumPy's only until a program gets them
    return (x, y) if rows is None else (x[rows], y[rows])


CHUNK = 2048
"""Rows evaluated at once: bounds the memory of an evaluation on a large split."""


def in_chunks(
    evaluate: Callable[[Any, Any, Array], Sums], split: Split | Subset, chunk: int = CHUNK
) -> Sums:
    """Σ over chunks of evaluate(x, y, mask); the last one is padded and masked, never ragged."""
    n = len(split.rows if isinstance(split, Subset) else split.x)
    if n <= chunk:
        return evaluate(*examples(split), jnp.ones(n, bool))
    n_chunks = -(-n // chunk)
    rows = jnp.arange(n_chunks * chunk).reshape(n_chunks, chunk)

    def of_rows(rows: Array) -> Sums:
        # Padding repeats the last row, so that it is finite, and is masked out.
        return evaluate(*examples(split, jnp.minimum(rows, n - 1)), rows < n)

    return jax.tree.map(lambda sums: sums.sum(axis=0), jax.lax.map(of_rows, rows))


def means(sums: Sums) -> dict[str, Array]:
    """{name: sum / count}; NaN where nothing was counted."""
    return {name: total / count for name, (total, count) in sums.items()}


def at_step(trial: Trial, step: Array) -> Trial:
    """The trial after `step` updates."""
    return dataclasses.replace(trial, step=step)
