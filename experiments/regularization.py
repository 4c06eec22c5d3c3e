"""Which regularizer helps a small training set, how much, and at what strength?

A linear model and a multilayer perceptron on few handwritten digits, so that there is
overfitting to cure: L1, L2, elastic net, dropout, max-norm and dropout + max-norm at several
strengths against the same network without any, with shared restarts. SGD with momentum and a
cosine-decayed rate, early stopping on the validation split.

Source: course notes, "Regularization", "Early Stopping" and "Dropout"; Srivastava et al. 2014,
Table 9, for max-norm and its combination with dropout.

Command: ./launch.sh regularization            (about half a minute on 2 CPU cores)
         ./launch.sh regularization --preset paper (MNIST, 3 x 1024 units; for a GPU, not run yet)

Expected: test accuracy of the MLP 0.921 without and 0.931 with dropout + max-norm, of the linear
model 0.920; L1 leaves by far the most weights below 1e-3. The report judges each claim.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

import ablax as ax
from ablax import grid, penalties, plot
from ablax.nn import dropout


class Config(ax.DataConfig):
    model: str = ax.static(
        "mlp", "both in the table; mlp in a grid of your own", choices=("linear", "mlp")
    )
    width: int = ax.static(64, "units of a hidden layer", low=1)
    depth: int = ax.static(1, "hidden layers of the mlp", low=1)
    activation: str = ax.static("relu", "of the hidden layers", choices=ax.nn.ACTIVATIONS)
    init: str = ax.static("he_normal", "initial weights", choices=ax.nn.INITIALIZERS)
    batch_size: int = ax.static(64, "rows of a minibatch", low=1)
    learning_rate: float = ax.hparam(0.1, "initial rate, decayed to 0 by a cosine", low=0)
    momentum: float = ax.hparam(0.9, "share of the last step that is kept", low=0, below=1)
    l1: float = ax.hparam(0.0, "strength of the sum of absolute weights", low=0)
    l2: float = ax.hparam(0.0, "strength of the sum of squared weights", low=0)
    dropout_rate: float = ax.hparam(0.0, "probability that a hidden unit is off", low=0, below=1)
    max_norm: float = ax.hparam(np.inf, "bound of a unit's weight vector; inf is off", above=0)


def _preset(restarts: int, **changes) -> ax.Preset:
    protocol = {"steps": 2000, "eval_every": 50, "patience": 10.0, **changes}
    return ax.Preset(Config(**protocol), restarts)


PRESETS = {
    "smoke": _preset(3, steps=200, eval_every=20, patience=3.0, width=16),
    "default": _preset(16),
    "paper": _preset(
        8,
        **{"dataset": "mnist", "train_size": 50_000, "valid_size": 10_000, "width": 1024},
        **{"depth": 3, "batch_size": 100, "learning_rate": 0.02, "momentum": 0.95},
        **{"steps": 50_000, "eval_every": 500},
    ),
}

METHODS = {
    "L1": grid.product(l1=[3e-5, 1e-4, 3e-4, 1e-3]),
    "L2": grid.product(l2=[1e-5, 1e-4, 1e-3, 1e-2]),
    "elastic net": grid.zipped(l1=[3e-5, 1e-4, 3e-4, 1e-3], l2=[1e-5, 1e-4, 1e-3, 1e-2]),
    "dropout": grid.product(dropout_rate=[0.1, 0.25, 0.5, 0.75]),
    "max-norm": grid.product(max_norm=[1.0, 2.0, 3.0, 4.0]),
    "dropout + max-norm": grid.product(dropout_rate=[0.1, 0.25, 0.5, 0.75], max_norm=[2.0]),
}
WITHOUT_DROPOUT = {name: rows for name, rows in METHODS.items() if "dropout" not in name}
ROWS = {"linear": grid.rows({}, WITHOUT_DROPOUT), "mlp": grid.rows({}, METHODS)}
STRENGTHS = {  # fields of the table, and their labels in figures
    "l1": "λ of L1",
    "l2": "λ of L2",
    "dropout_rate": "dropout rate",
    "max_norm": "max-norm bound",
}
HIDDEN = {"width", "depth", "activation"}
EDGE = 0.5
BINS = np.linspace(-EDGE, EDGE, 62)


def points(config: Config) -> list[grid.Setting]:
    """The table; or, where strengths are given, their grid. Other axes multiply either."""
    axes = grid.axes(config)
    own_grid = STRENGTHS.keys() & axes.keys()
    models = axes.pop("model", ("mlp",) if own_grid else tuple(ROWS))
    if "linear" in models and any(axes.get("dropout_rate", ())):
        raise ax.UserError("--dropout-rate: the linear model has no hidden units to drop")
    hidden = sorted(name for name in HIDDEN & axes.keys() if len(axes[name]) > 1)
    if models == ("linear",) and hidden:
        raise ax.UserError(f"--{hidden[0]}: the linear model has no hidden layer")
    grids = []
    for model in models:
        # A linear model is the same whatever the hidden layers of the others are.
        alike = HIDDEN if model == "linear" else set()
        crossed = {name: axis[:1] if name in alike else axis for name, axis in axes.items()}
        table = grid.cross([{}] if own_grid else ROWS[model], grid.product(**crossed))
        grids.append(grid.cross([{"model": model}], table))
    return grid.chain(*grids)


def task(config: Config) -> ax.Task:
    splits = config.splits()
    model = ax.nn.MLP(
        widths=(config.width,) * (config.depth if config.model == "mlp" else 0),
        n_outputs=len(splits.classes) or 1,
        activation=config.activation,
        kernel_init=config.init,
    )

    def measure(params, trial):
        weights = jnp.concatenate([w.ravel() for w in penalties.weights(params)])
        gain = {}
        if config.model == "mlp" and config.depth == 1:  # through more layers no mean is exact
            scores: Any = partial(model.apply, {"params": params})
            shape, rate = splits.pool.x.shape[1:], trial.hparams.dropout_rate
            gain = {"dropout_gain": dropout.mean_gain(scores, rate, trial.rng("measure"), shape)}
        others = {
            "top_share": penalties.top_share(params, 0.1),
            "weight_histogram": jnp.histogram(jnp.clip(weights, -EDGE, EDGE), BINS)[0],
            "first_layer": penalties.weights(params)[0][:8],
        }
        return gain | penalties.weight_summary(params) | others

    return ax.supervised(
        model,
        splits,
        optimizer=ax.optimizers.of_trial("momentum", "cosine"),
        batch_size=config.batch_size,
        regularization=ax.Regularization(
            penalty=lambda params, h: penalties.elastic_net(params, h.l1, h.l2),
            project=lambda params, h: penalties.max_norm(params, h.max_norm),
            dropout_rate=(lambda h: h.dropout_rate) if config.model == "mlp" else None,
        ),
        records=ax.Records(measure=measure),
    )


def compared_points(study: ax.Study, *groups: str) -> dict[str, str]:
    """{method: its point} of these methods of the mlp; in a grid without them, its first points."""
    methods = ax.selection.methods(study, model="mlp") or ax.selection.methods(study)
    named = {group: methods[group].point for group in groups if group in methods}
    return named or {point: point for point in list(study.settings)[: len(groups)]}


def weights_figure(study: ax.Study):
    """How the weights are spread: L1 piles them up at zero, L2 keeps them all small."""
    histograms = study.array("weight_histogram")
    figure, (panel,) = plot.panels(1, width=6.4)
    for number, (group, point) in enumerate(compared_points(study, "baseline", "L1", "L2").items()):
        counts = np.sum([histograms[trial] for trial in study.trial_ids(point)], axis=0)
        look = {"label": f"{group} ({point})", "color": plot.COLOURS[number], "lw": 1.5}
        panel.stairs(counts / counts.sum(), BINS, **look)
    panel.set(yscale="log", xlim=(-EDGE, EDGE), ylabel="share of weights")
    panel.set_xlabel("weight (outermost bins: all beyond)")
    plot.legend(panel)
    return plot.captioned(
        figure, "How each penalty spreads the weights: shares over all layers, mean over restarts."
    )


def first_layer_figure(study: ax.Study):
    """Incoming weights of eight units as images, where the features are a square image."""
    first = study.array("first_layer")
    features = next(iter(first.values())).shape[1]
    side = int(np.sqrt(features))
    if side**2 != features or side < 4:
        raise ax.Missing("the features are no square image")
    compared = compared_points(study, "baseline", "L1", "L2", "dropout", "max-norm")
    trials = {group: study.trial_ids(point)[0] for group, point in compared.items()}
    pictures = {group: first[trial].reshape(-1, side, side) for group, trial in trials.items()}
    return plot.captioned(
        plot.images(pictures),
        "Incoming weights of the first eight units (or classes) of the first restart, as images; "
        "red is positive, blue negative, each row on its own scale.",
    )


FIGURES = {
    "strength": ax.charts.strengths(STRENGTHS),
    "complexity": ax.charts.complexity_graph,
    "weights": weights_figure,
    "first_layer": first_layer_figure,
}


@ax.quantities
def dropout_bias(study: ax.Study):
    """How far dropout is from keeping the mean score, at every rate by itself."""
    return {
        f"(mean score with dropout) / (score without) − 1: {p}": study.values(p, "dropout_gain") - 1
        for p in study.among(group="dropout")
    }


NOTES = "course notes, L1 vs L2 Regularization"
DROPOUT = "course notes, Dropout"
SRIVASTAVA = "Srivastava et al. 2014, Table 9"
zeros = ax.column("share_below_1e-3", model="mlp")
norm = ax.column("l2_norm", model="mlp")
evenness = ax.column("participation_ratio", model="mlp")
top_share = ax.column("top_share", model="mlp")
accuracy = ax.column("test/accuracy", model="mlp")
loss = ax.column("test/loss", model="mlp")
CLAIMS = [
    ax.Claim(
        "l1-is-sparse",
        "L1 drives weights to zero and L2 does not.",
        NOTES,
        zeros["L1"] > zeros["baseline"],
        zeros["L1"] > zeros["L2"],
        (zeros["L2"] - zeros["baseline"]).within(0.05),
    ),
    ax.Claim(
        "l2-is-even",
        "L2 keeps the weights small, and more even in size than no penalty or L1 does.",
        NOTES,
        norm["L2"] < norm["baseline"],
        evenness["L2"] > evenness["baseline"],
        evenness["L2"] > evenness["L1"],
    ),
    ax.Claim(
        "dropout-evens-out",
        "Dropout lowers the share of Σw² that the largest tenth of the weights holds.",
        DROPOUT,
        top_share["dropout"] < top_share["baseline"],
    ),
    ax.Claim(
        "dropout-keeps-the-mean",
        "Dividing by the keep probability while training keeps the mean score at every rate.",
        "course notes, Combined Approaches; Srivastava et al. 2014, section 10",
        dropout_bias.within(0.02),
    ),
    ax.Claim(
        "max-norm-helps-dropout",
        "Dropout with max-norm is more accurate than either alone.",
        SRIVASTAVA,
        accuracy["dropout + max-norm"] > accuracy["dropout"],
        accuracy["dropout + max-norm"] > accuracy["max-norm"],
    ),
    *(
        ax.Claim(
            f"{name.replace(' + ', '-and-').replace(' ', '-').lower()}-generalizes",
            f"{name[0].upper()}{name[1:]} lowers the test loss of a network with few examples.",
            source,
            loss[name] < loss["baseline"],
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
