"""What does it cost to be too sure: all weights of a classifier times ten?

Logistic regression on two overlapping half moons. After training, weights and bias are multiplied
by 1, 3, 10 or 30: σ(10 w·x) instead of σ(w·x). The predictions stay the same, only surer.

Source: course notes, "Considering the Activation Functions".

Command: ./launch.sh large_weights             (about 10 seconds on 2 CPU cores)

Expected: at ten times the weights a misclassified example costs several times as much, and the
slope of the sigmoid falls to a fraction.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp

from ablax import losses, metrics, optimizers, schedules
from ablax.config import BaseConfig, Preset, hparam
from ablax.data import split
from ablax.data.generated import moons
from ablax.losses import reduce
from ablax.metrics import ACCURACY, Metric
from ablax.nn.linear import Linear
from ablax.report import plot as draw
from ablax.report.claims import Claim, between, difference
from ablax.report.quantities import NEGATIVE, Effect
from ablax.report.study import Study
from ablax.study import grid
from ablax.task import Task
from ablax.tasks.supervised import in_chunks, supervised


class Config(BaseConfig):
    learning_rate: float = hparam(0.3, "initial rate, decayed to 0 by a cosine", low=0)
    scale: float = hparam(1.0, "factor on weights and bias after training", above=0)


def _preset(restarts: int, steps: int) -> Preset:
    return Preset(Config(steps=steps, eval_every=steps // 5), restarts)


PRESETS = {"smoke": _preset(4, 100), "default": _preset(32, 500), "paper": _preset(128, 2000)}

TABLE = {f"× {scale}": [{"scale": float(scale)}] for scale in (3, 10, 30)}


def points(config: Config) -> list[grid.Setting]:
    return grid.ablations(config, TABLE, strengths=("scale",))


def task(config: Config) -> Task:
    model = Linear(n_outputs=1)
    cross_entropy = losses.loss("sigmoid_binary_cross_entropy")
    usual = supervised(
        model,
        split(moons(n=1000, noise=0.3), seed=0),
        loss=cross_entropy,
        metrics={ACCURACY: metrics.accuracy},
        optimizer=lambda trial: optimizers.sgd(
            schedules.cosine(trial.hparams.learning_rate, steps=trial.steps)
        ),
        batch_size=64,
    )

    def evaluate(params, trial, split):
        scaled = jax.tree.map(lambda w: w * trial.hparams.scale, params)

        def of_chunk(x, y, mask):
            z = jnp.asarray(model.apply({"params": scaled}, x))
            loss, right = cross_entropy(z, y), metrics.accuracy(z, y)
            probability = jax.nn.sigmoid(z[:, 0])
            return {
                "accuracy": reduce(right, mask),
                "loss": reduce(loss, mask),
                "loss_where_wrong": reduce(loss, mask & (right == 0)),
                "slope": reduce(probability * (1 - probability), mask),
            }

        return in_chunks(of_chunk, split)

    directions = (Metric("loss_where_wrong", "min"), Metric("slope", "max"))
    return dataclasses.replace(
        usual, evaluate=evaluate, objective=None, metrics=(*usual.metrics, *directions)
    )


def figures(table: Study) -> dict:
    order = sorted(table.settings, key=lambda point: table.settings[point]["scale"])
    scales = [table.settings[point]["scale"] for point in order]
    columns = {
        "test/loss_where_wrong": "mean cross-entropy of misclassified examples (nats)",
        "test/slope": "mean slope of the sigmoid, σ(z)(1 − σ(z))",
    }
    figure, axes = draw.panels(len(columns), width=5.0)
    for number, (ax, (column, label)) in enumerate(zip(axes, columns.items(), strict=True)):
        values = [table.interval(point, column) for point in order]
        draw.with_intervals(ax, scales, values, label=label, number=number)
        ax.set(xscale="log", yscale="log", xlabel="factor on all weights", ylabel=label)
    caption = "What multiplying all weights after training does, with 95% intervals."
    return {"scale": draw.captioned(figure, caption)}


def steepens_with_every_factor(table: Study) -> list[Effect] | None:
    """The slope at each factor against the factor before."""
    alike: dict[float, list[str]] = {}
    for point in sorted(table.settings, key=lambda point: table.settings[point]["scale"]):
        alike.setdefault(table.settings[point]["learning_rate"], []).append(point)
    return [
        difference(table, "test/slope", larger, smaller, NEGATIVE)
        for points in alike.values()
        for smaller, larger in itertools.pairwise(points)
    ] or None


NOTES = "course notes, Considering the Activation Functions"
CLAIMS = [
    Claim(
        "certainty-makes-errors-dear",
        "Ten times the weights make a misclassified example cost more.",
        NOTES,
        between("test/loss_where_wrong", "× 10", "baseline"),
    ),
    Claim(
        "certainty-flattens",
        "Ten times the weights leave the sigmoid less slope to descend.",
        NOTES,
        between("test/slope", "× 10", "baseline", NEGATIVE),
    ),
    Claim(
        "every-factor-flattens-more",
        "The larger the factor on the weights, the smaller the slope.",
        NOTES,
        steepens_with_every_factor,
    ),
    Claim(
        "certainty-generalizes-worse",
        "Ten times the weights raise the test loss though no prediction changes.",
        NOTES,
        between("test/loss", "× 10", "baseline"),
    ),
]
