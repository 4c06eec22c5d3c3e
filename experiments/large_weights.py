"""How much does it cost to be too sure: all weights of a classifier times ten?

Logistic regression on two overlapping half moons. After training, weights and bias are multiplied
by 1, 3, 10 or 30: σ(10 w·x) instead of σ(w·x). The predicted classes stay the same, with more
confidence.

Source: course notes, "Considering the Activation Functions".

Command: ./launch.sh large_weights             (about 10 seconds on 2 CPU cores)

Expected: at ten times the weights a misclassified example costs several times as much, and the
slope of the sigmoid falls to a fraction.
"""

import itertools

import jax
import jax.numpy as jnp

import ablax as ax
from ablax import grid, plot
from ablax.data.generated import moons
from ablax.tasks.supervised import in_chunks


class Config(ax.BaseConfig):
    learning_rate: float = ax.hparam(0.3, "initial rate, decayed to 0 by a cosine", low=0)
    scale: float = ax.hparam(1.0, "factor on weights and bias after training", above=0)


def _preset(restarts: int, steps: int) -> ax.Preset:
    return ax.Preset(Config(steps=steps, eval_every=steps // 5), restarts)


PRESETS = {"smoke": _preset(4, 100), "default": _preset(32, 500), "paper": _preset(128, 2000)}

ROWS = grid.rows({}, {f"× {scale}": [{"scale": float(scale)}] for scale in (3, 10, 30)})


def points(config: Config) -> list[grid.Setting]:
    return grid.table(config, ROWS)


def task(config: Config) -> ax.Task:
    model = ax.nn.Linear(n_outputs=1)
    cross_entropy = ax.losses.loss("sigmoid_binary_cross_entropy")
    usual = ax.supervised(
        model,
        ax.data.split(moons(n=1000, noise=0.3), seed=0),
        loss=cross_entropy,
        optimizer=ax.optimizers.of_trial("sgd", "cosine"),
        batch_size=64,
    )

    def evaluate(params, trial, split):
        scaled = jax.tree.map(lambda w: w * trial.hparams.scale, params)

        def of_chunk(x, y, mask):
            z = jnp.asarray(model.apply({"params": scaled}, x))
            loss, right = cross_entropy(z, y), ax.metrics.accuracy(z, y)
            probability = jax.nn.sigmoid(z[:, 0])
            return {
                "accuracy": ax.losses.reduce(right, mask),
                "loss": ax.losses.reduce(loss, mask),
                "loss_where_wrong": ax.losses.reduce(loss, mask & (right == 0)),
                "slope": ax.losses.reduce(probability * (1 - probability), mask),
            }

        return in_chunks(of_chunk, split)

    metrics = (*usual.metrics, ax.Metric("loss_where_wrong", "min"), ax.Metric("slope", "max"))
    return usual.replace(evaluate=evaluate, objective=None, metrics=metrics)


LABELS = {
    "test/loss_where_wrong": "mean cross-entropy of misclassified examples (nats)",
    "test/slope": "mean slope of the sigmoid, σ(z)(1 − σ(z))",
}


def scale_figure(study: ax.Study):
    """The cost of a mistake and the sigmoid's slope against the factor on the weights."""
    scales = ax.selection.along(study, "scale")
    figure, axes = plot.panels(len(LABELS), width=5.0)
    for number, (panel, (column, label)) in enumerate(zip(axes, LABELS.items(), strict=True)):
        intervals = [study.interval(point, column) for point in scales.values()]
        plot.with_intervals(panel, list(scales), intervals, label=label, number=number)
        panel.set(xscale="log", yscale="log", xlabel="factor on all weights", ylabel=label)
    return plot.captioned(
        figure, "The effect of multiplying all weights after training, with 95% intervals."
    )


FIGURES = {"scale": scale_figure}


@ax.quantities
def steepening(study: ax.Study):
    """The slope at each factor minus that at the factor before, at every learning rate."""
    differences = {}
    for rate in sorted({setting["learning_rate"] for setting in study.settings.values()}):
        scales = ax.selection.along(study, "scale", learning_rate=rate)
        for (smaller, a), (larger, b) in itertools.pairwise(scales.items()):
            name = f"test/slope: × {larger:g} − × {smaller:g}, learning_rate={rate:g}"
            differences[name] = study.differences(b, a, "test/slope")
    return differences


NOTES = "course notes, Considering the Activation Functions"
cost = ax.column("test/loss_where_wrong")
slope = ax.column("test/slope")
loss = ax.column("test/loss")
CLAIMS = [
    ax.Claim(
        "certainty-makes-errors-dear",
        "Ten times the weights make a misclassified example cost more.",
        NOTES,
        cost["× 10"] > cost[ax.BASELINE],
    ),
    ax.Claim(
        "certainty-flattens",
        "Ten times the weights leave the sigmoid less slope to descend.",
        NOTES,
        slope["× 10"] < slope[ax.BASELINE],
    ),
    ax.Claim(
        "every-factor-flattens-more",
        "The larger the factor on a classifier's weights, the smaller the slope of its sigmoid.",
        NOTES,
        steepening < 0,
    ),
    ax.Claim(
        "certainty-generalizes-worse",
        "Ten times the weights raise the test loss though no prediction changes.",
        NOTES,
        loss["× 10"] > loss[ax.BASELINE],
    ),
]
