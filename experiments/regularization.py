"""Which regularizer helps a small training set, how much, and at what strength?

A linear model and a multilayer perceptron on few handwritten digits, so that there is
overfitting to cure: L1, L2, elastic net, dropout, max-norm and dropout + max-norm at several
strengths against the same network without any, with shared restarts. SGD with momentum and a
cosine-decayed rate, early stopping on the validation split.

Source: course notes, "Regularization", "Early Stopping" and "Dropout"; Srivastava et al. 2014
for max-norm and its combination with dropout.

Command: ./launch.sh regularization            (about a minute on 2 CPU cores)

Expected: test accuracy of the MLP 0.944 without and 0.952 with dropout + max-norm, of the linear
model 0.940; L1 leaves by far the most weights below 1e-3. The report judges each claim.
"""

import jax.numpy as jnp
import numpy as np

from ablax import losses, metrics, optimizers, penalties, schedules
from ablax.activations import ACTIVATIONS
from ablax.config import BaseConfig, Preset, config, hparam, static
from ablax.data import DATASETS, load, split
from ablax.errors import UserError, flag_of
from ablax.metrics import Metric
from ablax.models.initializers import INITIALIZERS
from ablax.models.mlp import MLP
from ablax.report import figures as draw
from ablax.report.claims import Claim, Evidence
from ablax.report.tables import Table
from ablax.sweep import grid
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
    split_seed: int = static(0, "seed of the train, validation and test split", low=0)
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
    "paper": _preset(64, width=256),
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
    splits = split(data, train_size=train_size, valid_size=valid_size, seed=config.split_seed)
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

    def measure(params, trial):
        weights = jnp.concatenate([w.ravel() for w in penalties.weights(params)])
        first = penalties.weights(params)[0]
        return {
            "l2_norm": penalties.l2_norm(params),
            "share_below_1e-3": penalties.share_below(params, 1e-3),
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
            draw.strengths(table, LABELS),
            "Test error against strength: means over restarts with 95% intervals.",
        ),
        "complexity": complexity_figure(table),
        "weights": weights_figure(table),
    }
    image = first_layer_figure(table)
    return drawn | ({"first_layer": image} if image else {})


def chosen(table: Table, *groups: str) -> dict[str, str]:
    """{group: its point selected on validation} of the network with most groups: the mlp."""
    rows: dict[str, dict[str, str]] = {}
    for (_, group), members in table.groups().items():
        model = table.settings[members[0]]["model"]
        if not groups or group in groups:
            rows.setdefault(model, {})[group] = table.selected(members)
    return rows.get("mlp") or next(iter(rows.values()), {})


def complexity_figure(table: Table):
    """Loss against steps of the baseline and of the best point, the stopping point marked."""
    best = table.best()
    points = [point for point in (table.baseline(best), best) if point]
    figure, panels = draw.panels(len(points), sharey=True)
    for ax, point in zip(panels, points, strict=True):
        draw.complexity(ax, table, point)
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
    named = chosen(table, "baseline", "L1", "L2") or {p: p for p in list(table.settings)[:3]}
    for number, (group, point) in enumerate(named.items()):
        counts = [histograms[trial] for trial in table.of(point)["trial"]]
        counts = np.mean([count / count.sum() for count in counts], axis=0)
        ax.stairs(counts, BINS, label=f"{group} ({point})", color=draw.COLOURS[number], lw=1.5)
    ax.set(xlabel="weight (outermost bins: all beyond)", ylabel="share of weights", yscale="log",
           xlim=(centres[0], centres[-1]))  # fmt: skip
    ax.legend(fontsize=8)
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
    named = chosen(table, "baseline", "L1", "L2", "dropout", "max-norm")
    named = named or {p: p for p in list(table.settings)[:5]}
    pictures = {
        group: first[table.of(point)["trial"].iloc[0]].reshape(-1, side, side)
        for group, point in named.items()
    }
    return draw.captioned(
        draw.images(pictures),
        "Incoming weights of the first eight units (or classes) of the first restart, as images; "
        "red is positive, blue negative, each row on its own scale.",
    )


def _between(column: str, larger: str, smaller: str):
    """The test of larger − smaller > 0 on a column, each at the strength validation chose."""

    def test(table: Table) -> Evidence | None:
        rows = chosen(table)
        if larger not in rows or smaller not in rows:
            return None
        effect = table.difference(rows[larger], rows[smaller], column)
        return Evidence(effect, f"{column}: {rows[larger]} − {rows[smaller]}")

    return test


NOTES = "course notes, Regularization"
CLAIMS = [
    *(
        Claim(
            f"l1-more-zeros-than-{other.replace(' ', '-')}",
            f"L1 leaves more weights near zero than {other}.",
            NOTES,
            _between("share_below_1e-3", "L1", other),
        )
        for other in ("baseline", "L2", "elastic net", "dropout", "max-norm")
    ),
    Claim("l2-shrinks", "L2 shrinks the weights.", NOTES, _between("l2_norm", "baseline", "L2")),
    *(
        Claim(
            f"{name.replace(' + ', '-and-').replace(' ', '-').lower()}-generalizes",
            f"{name} lowers the test loss of an overfitting network.",
            source,
            _between("test/loss", "baseline", name),
        )
        for name, source in {
            "L1": NOTES,
            "L2": NOTES,
            "elastic net": NOTES,
            "dropout": "course notes, Dropout",
            "max-norm": "Srivastava et al. 2014",
            "dropout + max-norm": "Srivastava et al. 2014",
        }.items()
    ),
]
