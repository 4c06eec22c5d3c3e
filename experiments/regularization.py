"""Which regularizer helps a small training set, how much, and at what strength?

A linear model and a multilayer perceptron on few handwritten digits, so that there is
overfitting to cure: L1, L2, elastic net, dropout, max-norm and dropout + max-norm at several
strengths against the same network without any, with shared restarts. SGD with momentum and a
cosine-decayed rate, early stopping on the validation split.

Source: course notes, "Regularization", "Early Stopping" and "Dropout"; Srivastava et al. 2014
for max-norm and its combination with dropout.

Command: ./launch.sh regularization            (about half a minute on 2 CPU cores)
         ./launch.sh regularization --preset paper (MNIST, 3 x 1024 units as in Srivastava's
         Table 9; made for a GPU, not run yet)

Expected: test accuracy of the MLP 0.921 without and 0.931 with dropout + max-norm, of the linear
model 0.920; L1 leaves by far the most weights below 1e-3. The report judges each claim.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ablax import losses, metrics, optimizers, penalties, schedules
from ablax.config import BaseConfig, Preset, config, hparam, static
from ablax.data import DATASETS, load, split
from ablax.errors import UserError, flag_of
from ablax.metrics import Metric
from ablax.nn.activations import ACTIVATIONS
from ablax.nn.initializers import INITIALIZERS
from ablax.nn.mlp import MLP
from ablax.report import charts
from ablax.report import plot as draw
from ablax.report.claims import NEGATIVE, Claim, Effect, between, every
from ablax.report.study import Table
from ablax.study import grid
from ablax.task import Task, supervised


@config
class Config(BaseConfig):
    dataset: str = static("digits", "a data set's name, or a file: .csv (with --target) or .npz")
    target: str | None = static(None, "target column of a .csv: its name, or its position from 0")
    problem: str = static(
        "auto", "what the target is", choices=("auto", "classification", "regression")
    )
    train_size: int | None = static(
        None, "training rows; None: 300 of a named data set that has them, else all left", low=1
    )
    valid_size: int | None = static(
        None, "validation rows; None: a fifth of what is not test, at most 1000", low=1
    )
    test_seed: int = static(0, "seed of the test split, if there is no official one", low=0)
    model: str = static(
        "mlp", "both in the table; mlp in a grid of your own", choices=("linear", "mlp")
    )
    width: int = static(64, "units of a hidden layer", low=1)
    depth: int = static(1, "hidden layers of the mlp", low=1)
    activation: str = static("relu", "of the hidden layers", choices=ACTIVATIONS)
    init: str = static("he_normal", "initial weights", choices=INITIALIZERS)
    batch_size: int = static(64, "rows of a minibatch", low=1)
    learning_rate: float = hparam(0.1, "initial rate, decayed to 0 by a cosine", low=0)
    momentum: float = hparam(0.9, "share of the last step that is kept", low=0, below=1)
    l1: float = hparam(0.0, "strength of the sum of absolute weights", low=0)
    l2: float = hparam(0.0, "strength of the sum of squared weights", low=0)
    dropout_rate: float = hparam(0.0, "probability that a hidden unit is off", low=0, below=1)
    max_norm: float = hparam(np.inf, "bound of a unit's weight vector; inf is off", above=0)


def _preset(restarts: int, **changes) -> Preset:
    protocol = {"steps": 2000, "eval_every": 50, "patience": 10.0, **changes}
    return Preset(Config(**protocol), restarts)


PRESETS = {
    "smoke": _preset(3, steps=200, eval_every=20, patience=3.0, width=16),
    "default": _preset(16),
    "paper": _preset(
        8,
        dataset="mnist",
        train_size=50_000,
        valid_size=10_000,
        width=1024,
        depth=3,
        batch_size=100,
        learning_rate=0.02,
        momentum=0.95,
        steps=50_000,
        eval_every=500,
    ),
}

L1 = grid.product(l1=[3e-5, 1e-4, 3e-4, 1e-3])
L2 = grid.product(l2=[1e-5, 1e-4, 1e-3, 1e-2])
ELASTIC_NET = grid.zipped(l1=[3e-5, 1e-4, 3e-4, 1e-3], l2=[1e-5, 1e-4, 1e-3, 1e-2])
MAX_NORM = grid.product(max_norm=[1.0, 2.0, 3.0, 4.0])
TABLE = {
    "linear": {"L1": L1, "L2": L2, "elastic net": ELASTIC_NET, "max-norm": MAX_NORM},
    "mlp": {
        "L1": L1,
        "L2": L2,
        "elastic net": ELASTIC_NET,
        "dropout": grid.product(dropout_rate=[0.1, 0.25, 0.5, 0.75]),
        "max-norm": MAX_NORM,
        "dropout + max-norm": grid.product(dropout_rate=[0.1, 0.25, 0.5, 0.75], max_norm=[2.0]),
    },
}
EDGE = 0.5
BINS = np.linspace(-EDGE, EDGE, 62)
HIDDEN = {"width", "depth", "activation"}
STRENGTHS = ("l1", "l2", "dropout_rate", "max_norm")


def points(config: Config) -> list[grid.Setting]:
    """The table; or, where strengths are given, their grid. Other axes multiply either."""
    axes = grid.axes(config)
    strengths = {name: axes.pop(name) for name in STRENGTHS if name in axes}
    models = axes.pop("model", None)
    if models and "linear" in models and any(strengths.get("dropout_rate", ())):
        raise UserError("--dropout-rate: the linear model has no hidden units to drop")
    hidden = sorted(name for name in HIDDEN & axes.keys() if len(axes[name]) > 1)
    if models == ("linear",) and hidden:
        raise UserError(f"{flag_of(hidden[0])}: the linear model has no hidden layer")
    grids = []
    for model in models or (["mlp"] if strengths else TABLE):
        baseline = {"model": model}
        if strengths:
            chosen = grid.cross([baseline], grid.product(**strengths))
        else:
            chosen = grid.rows(baseline, TABLE[model])
        # A linear model is the same whatever the hidden layers of the others are.
        alike = HIDDEN if model == "linear" else set()
        crossed = {name: axis[:1] if name in alike else axis for name, axis in axes.items()}
        grids.append(grid.cross(chosen, grid.product(**crossed)))
    return grid.chain(*grids)


def task(config: Config) -> Task:
    data = load(config.dataset, target=config.target, problem=config.problem)
    left = len(data.y) if data.test else round(0.8 * len(data.y))  # what is not test
    valid_size = config.valid_size or min(round(0.2 * left), 1000)
    enough = config.dataset in DATASETS and left - valid_size >= 300
    train_size = config.train_size or (300 if enough else None)
    splits = split(data, train_size=train_size, valid_size=valid_size, seed=config.test_seed)
    classes = splits.problem == "classification"
    model = MLP(
        widths=(config.width,) * (config.depth if config.model == "mlp" else 0),
        n_outputs=len(splits.classes) if classes else 1,
        activation=config.activation,
        kernel_init=config.init,
    )

    def optimizer(trial):
        rate = schedules.cosine(trial.hparams.learning_rate, steps=trial.steps)
        return optimizers.momentum(rate, momentum=trial.hparams.momentum)

    def dropout_gain(params, trial):
        """Slope of the mean score with dropout over the score without, at random inputs."""
        key, draws = jax.random.split(trial.rng("measure"))
        x = jax.random.normal(key, (256, *splits.pool.x.shape[1:]))

        def scores(draw):
            rate = trial.hparams.dropout_rate
            return model.apply({"params": params}, x, rate, rngs={"dropout": draw})

        clean = jnp.asarray(model.apply({"params": params}, x))
        mean = jax.lax.map(scores, jax.random.split(draws, 64)).mean(axis=0)
        return (mean * clean).sum() / jnp.square(clean).sum()

    def measure(params, trial):
        weights = jnp.concatenate([w.ravel() for w in penalties.weights(params)])
        first = penalties.weights(params)[0]
        # Through further layers' activations not even the exact mean of a mask passes unchanged.
        one_hidden_layer = config.model == "mlp" and config.depth == 1
        return ({"dropout_gain": dropout_gain(params, trial)} if one_hidden_layer else {}) | {
            "l2_norm": penalties.l2_norm(params),
            "share_below_1e-3": penalties.share_below(params, 1e-3),
            "participation_ratio": penalties.participation_ratio(params),
            "top_share": penalties.top_share(params, 0.1),
            "weight_histogram": jnp.histogram(jnp.clip(weights, -EDGE, EDGE), BINS)[0],
            "first_layer": first[:8],
        }

    def error(outputs, y):  # in the target's own units
        return metrics.absolute_error(outputs, y) * splits.target_scale

    return supervised(
        model,
        splits,
        loss=losses.loss("softmax_cross_entropy_with_integer_labels" if classes else "mse"),
        metrics={"accuracy": metrics.accuracy} if classes else {"error": error},
        directions=(Metric("accuracy", "max") if classes else Metric("error", "min"),),
        optimizer=optimizer,
        batch_size=config.batch_size,
        penalty=lambda params, h: penalties.elastic_net(params, h.l1, h.l2),
        project=lambda params, h: penalties.max_norm(params, h.max_norm),
        dropout_rate=(lambda h: h.dropout_rate) if config.model == "mlp" else None,
        measure=measure,
    )


LABELS = {
    "l1": "λ of L1",
    "l2": "λ of L2",
    "dropout_rate": "dropout rate",
    "max_norm": "max-norm bound",
}


def figures(table: Table) -> dict:
    """Test error against strength, the model-complexity graph, weights and what they look like."""
    drawn = {
        "strength": draw.captioned(
            charts.strengths(table, LABELS),
            "Test error against strength: means over restarts with 95% intervals.",
        ),
        "complexity": complexity_figure(table),
        "weights": weights_figure(table),
    }
    image = first_layer_figure(table)
    return drawn | ({"first_layer": image} if image else {})


def shown(table: Table, *groups: str) -> dict[str, str]:
    """{method: its point} of the mlp's methods that a figure compares; else of some points."""
    methods = table.methods(model="mlp") or table.methods()
    named = {group: methods[group].point for group in groups if group in methods}
    return named or {point: point for point in list(table.settings)[: len(groups)]}


def complexity_figure(table: Table):
    """Loss against steps of the baseline and of the best point, the stopping point marked."""
    best = table.best().point
    points = [point for point in (table.baseline(best), best) if point]
    figure, panels = draw.panels(len(points), sharey=True)
    for ax, point in zip(panels, points, strict=True):
        charts.complexity(ax, table, point)
    return draw.captioned(
        figure,
        "The model-complexity graph: loss against steps, a thin line a restart. The dotted line "
        "is the mean step at which validation was best: where early stopping takes the weights.",
    )


def weights_figure(table: Table):
    """How the weights are spread: L1 piles them up at zero, L2 keeps them all small."""
    histograms = table.array("weight_histogram")
    figure, (ax,) = draw.panels(1, width=6.4)
    centres = (BINS[1:] + BINS[:-1]) / 2
    for number, (group, point) in enumerate(shown(table, "baseline", "L1", "L2").items()):
        counts = [histograms[trial] for trial in table.trial_ids(point)]
        counts = np.mean([count / count.sum() for count in counts], axis=0)
        ax.stairs(counts, BINS, label=f"{group} ({point})", color=draw.COLOURS[number], lw=1.5)
    ax.set(xlabel="weight (outermost bins: all beyond)", ylabel="share of weights", yscale="log",
           xlim=(centres[0], centres[-1]))  # fmt: skip
    draw.legend(ax)
    return draw.captioned(
        figure,
        "Where each penalty leaves the weights: shares over all layers, mean over restarts.",
    )


def first_layer_figure(table: Table):
    """Incoming weights of eight units as images, where the features are a square image."""
    first = table.array("first_layer")
    side = int(np.sqrt(next(iter(first.values())).shape[1]))
    if side * side != next(iter(first.values())).shape[1] or side < 4:
        return None
    named = shown(table, "baseline", "L1", "L2", "dropout", "max-norm")
    pictures = {
        group: first[table.trial_ids(point)[0]].reshape(-1, side, side)
        for group, point in named.items()
    }
    return draw.captioned(
        draw.images(pictures),
        "Incoming weights of the first eight units (or classes) of the first restart, as images; "
        "red is positive, blue negative, each row on its own scale.",
    )


def gain(table: Table) -> list[Effect] | None:
    """How far dropout is from keeping the mean score, at every rate by itself."""
    if "dropout_gain" not in table.trials:
        return None
    points = [p for p, s in table.settings.items() if s["dropout_rate"] and s["group"] == "dropout"]
    return [
        Effect(
            table.numbers(point, "dropout_gain") - 1,
            f"(mean score with dropout) / (score without) − 1: {point}",
            (-0.02, 0.02),
        )
        for point in points
    ] or None


NOTES = "course notes, L1 vs L2 Regularization"
DROPOUT = "course notes, Dropout"
SRIVASTAVA = "Srivastava et al. 2014, Table 9"
ZEROS = "share_below_1e-3"
CLAIMS = [
    Claim(
        "l1-is-sparse",
        "L1 drives weights to zero and L2 does not.",
        NOTES,
        every(
            between(ZEROS, "L1", "baseline", model="mlp"),
            between(ZEROS, "L1", "L2", model="mlp"),
            between(ZEROS, "L2", "baseline", (-0.05, 0.05), model="mlp"),
        ),
    ),
    Claim(
        "l2-is-even",
        "L2 keeps the weights small, and more even in size than no penalty or L1 does.",
        NOTES,
        every(
            between("l2_norm", "L2", "baseline", NEGATIVE, model="mlp"),
            between("participation_ratio", "L2", "baseline", model="mlp"),
            between("participation_ratio", "L2", "L1", model="mlp"),
        ),
        remark="L2 takes the weights of pixels that are always blank to 0; without a penalty "
        "they stay as large as they started.",
    ),
    Claim(
        "dropout-evens-out",
        "Dropout lowers the share of the whole that the largest weights contribute.",
        DROPOUT,
        between("top_share", "dropout", "baseline", NEGATIVE, model="mlp"),
        remark="If there is an effect, it is smaller than 0.011 at this width.",
    ),
    Claim(
        "dropout-keeps-the-mean",
        "Dividing by the keep probability while training keeps the mean score at every rate.",
        "course notes, Combined Approaches; Srivastava et al. 2014, section 10",
        gain,
    ),
    Claim(
        "max-norm-helps-dropout",
        "Dropout with max-norm is more accurate than either alone.",
        SRIVASTAVA,
        every(
            between("test/accuracy", "dropout + max-norm", "dropout", model="mlp"),
            between("test/accuracy", "dropout + max-norm", "max-norm", model="mlp"),
        ),
        remark="Less than half a point at 16 restarts; on 1,000 images of MNIST it is supported.",
    ),
    *(
        Claim(
            f"{name.replace(' + ', '-and-').replace(' ', '-').lower()}-generalizes",
            f"{name[0].upper()}{name[1:]} lowers the test loss of an overfitting network.",
            source,
            between("test/loss", name, "baseline", NEGATIVE, model="mlp"),
        )
        for name, source in {
            "L1": "course notes, Regularization",
            "L2": "course notes, Regularization",
            "elastic net": "course notes, Combined Approaches",
            "dropout": DROPOUT,
            "max-norm": SRIVASTAVA,
            "dropout + max-norm": SRIVASTAVA,
        }.items()
    ),
]
