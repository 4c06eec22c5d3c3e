"""Supervised learning: a model, a loss and an optimizer as a `Task`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from ablax.data.noise import relabelled
from ablax.data.order import epoch_rows
from ablax.data.splits import Split, Splits, Subset
from ablax.errors import UserError
from ablax.losses import mean, mse, reduce, softmax_cross_entropy_with_integer_labels
from ablax.metrics import ACCURACY, ERROR, LOSS, Metric, absolute_error, accuracy
from ablax.task import Sums, Task, Trial


class SupervisedState(NamedTuple):
    """State of a trial: its parameters and those of its optimizer."""

    params: PyTree
    opt_state: optax.OptState


@dataclass(frozen=True)
class Regularization:
    """Whatever keeps a network from fitting its training set too closely; None is off.

    Attributes:
        penalty: (params, hparams) -> scalar, added to the mean loss.
        activity_penalty: ({layer: its output for the minibatch}, hparams) -> scalar, also added.
            The layers are the model's submodules, before any activation.
        project: (params, hparams) -> params, after every update (max-norm).
        dropout_rate: hparams -> the traced rate given to the model in training; or several, in
            the order in which the model takes them.
        label_noise: hparams -> share of training labels that are drawn anew at random, differently
            at every restart (stream "noise"); validation and test labels stay.
    """

    penalty: Callable[[PyTree, Any], Array] | None = None
    activity_penalty: Callable[[dict[str, Array], Any], Array] | None = None
    project: Callable[[PyTree, Any], PyTree] | None = None
    dropout_rate: Callable[[Any], Array | tuple[Array, ...]] | None = None
    label_noise: Callable[[Any], Array] | None = None


@dataclass(frozen=True)
class Records:
    """Quantities to keep beside losses and metrics.

    Attributes:
        watch: (gradient, params) -> {name: scalar}, at every step: curves.parquet has their means
            over each segment as train/NAME.
        measure: (params, trial) -> {name: array}, of a finished trial: as `Task.measure`.
    """

    watch: Callable[[PyTree, PyTree], dict[str, Array]] | None = None
    measure: Callable[[PyTree, Trial], dict[str, Array]] | None = None


def supervised(
    model: nn.Module,
    splits: Splits,
    *,
    optimizer: Callable[[Trial], optax.GradientTransformation],
    batch_size: int,
    loss: Callable[[Array, Array], Array] | None = None,
    metrics: Mapping[Metric, Callable[[Array, Array], Array]] | None = None,
    regularization: Regularization = Regularization(),
    records: Records = Records(),
    initial: Callable[[PyTree, Any], PyTree] | None = None,
    resample: bool = True,
) -> Task:
    """Return the task of minibatch gradient descent on loss + penalty.

    One step draws the minibatch of `trial.step` from the restart's epoch order, takes the
    gradient of mean(loss) + penalty, updates by the optimizer and projects. The objective is the
    validation loss; without validation examples there is none, and the last state is kept.

    Args:
        model: a Linen module called as `model(x)`, or as `model(x, dropout_rate)` with a
            "dropout" stream where a dropout rate is given. Its variables must be params alone.
        splits: the pool and the test split.
        optimizer: trial -> optax chain, built from the trial's traced hparams.
        batch_size: rows of a minibatch, at most those of the training split.
        loss: (outputs, targets) -> one value per example; by default the cross-entropy of a
            softmax where there are classes, the squared error where there are numbers.
        metrics: {metric: (outputs, targets) -> one value per example}, evaluated on every split
            beside the loss, which is without penalty and without dropout. Tables lead with the
            first; `Metric("loss", "min")` among them says where the loss stands, else it is last.
            By default the accuracy of classes, the absolute error of numbers in their own unit.
        regularization: penalties, projection, dropout and label noise.
        records: what else to keep.
        initial: (params, hparams) -> params, once, on the model's initial parameters.
        resample: every restart draws its training and validation examples out of the pool (stream
            "split"); else all have those that the splits' own seed draws.

    Raises:
        UserError: the batch is larger than the training split, or label noise without labels.
    """
    watch, measure = records.watch, records.measure
    penalty, activity_penalty = regularization.penalty, regularization.activity_penalty
    project, dropout_rate = regularization.project, regularization.dropout_rate
    label_noise = regularization.label_noise
    loss = usual_loss(splits) if loss is None else loss
    metrics = usual_metrics(splits) if metrics is None else metrics
    if label_noise is not None and not splits.classes:
        raise UserError("label noise: expected a data set with classes, got one of numbers")
    per_example = {LOSS.name: loss} | {m.name: f for m, f in metrics.items() if m != LOSS}
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
        objective=LOSS if splits.n_valid else None,
        snapshot=lambda state: state.params,
        view=view,
        measure=measure,
        metrics=(*metrics, *(() if LOSS in metrics else (LOSS,))),
        fingerprint=splits.fingerprint,
        notes=splits.notes,
    )


def usual_loss(splits: Splits) -> Callable[[Array, Array], Array]:
    """The cross-entropy of a softmax where there are classes, the squared error of numbers."""
    return softmax_cross_entropy_with_integer_labels if splits.classes else mse


def usual_metrics(splits: Splits) -> dict[Metric, Callable[[Array, Array], Array]]:
    """The accuracy of classes; the absolute error of numbers, in the unit of the target."""
    if splits.classes:
        return {ACCURACY: accuracy}
    return {ERROR: lambda outputs, y: absolute_error(outputs, y) * splits.target_scale}


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
