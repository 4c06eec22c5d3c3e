"""When is a network too small, when too large, and is too large always worse?

Networks of many widths and depths, trained to the end on few or many digits, some of whose labels
are random: how well they do on the training examples and on others. The notes tell the classical
story, underfitting and then overfitting; past the width that fits every label there is another
part, which they do not tell (double descent).

Source: course notes, "Training Neural Networks", "Underfitting", "Overfitting" and the
model-complexity graph; Nakkiran et al. 2019 for double descent.

Command: ./launch.sh capacity                  (about three minutes on 2 CPU cores)

Expected: with a fifth of the labels random the test loss has a peak near the width that first fits
the training set, and falls again beyond it; the share of errors falls all the way.
"""

import itertools
from typing import Any

import ablax as ax
from ablax import grid, plot
from ablax.report.quantities import Name

WIDTHS = (2, 4, 8, 12, 16, 24, 32, 64, 128, 256)
NOISES = (0.0, 0.2, 0.4)
DEPTHS = (2, 3, 4)
SIZES = (50, 100, 400, 1000)
TRAIN, TEST, LOSS = "train/accuracy", "test/accuracy", "test/loss"
FITS = 0.99  # training accuracy from which on a network fits its examples


class Config(ax.BaseConfig):
    width: int = ax.static(64, "units of a hidden layer", low=1)
    depth: int = ax.static(1, "hidden layers", low=1)
    train_size: int = ax.static(200, "training examples", low=10)
    batch_size: int = ax.static(50, "rows of a minibatch", low=1)
    label_noise: float = ax.hparam(0.0, "share of training labels drawn anew", low=0, high=1)
    learning_rate: float = ax.hparam(0.1, "initial rate, decayed to 0 by a cosine", low=0)
    momentum: float = ax.hparam(0.9, "share of the last step that is kept", low=0, below=1)


SMALL: dict[str, Any] = {"width": (2, 8, 16), "label_noise": (0.0, 0.4)}
PRESETS = {
    "smoke": ax.Preset(Config(steps=100, eval_every=5, **SMALL), 3),
    "default": ax.Preset(Config(steps=4000, eval_every=200), 16),
    "paper": ax.Preset(Config(steps=20_000, eval_every=1000), 64),
}
width_group = "width, {:.0%} of labels random".format
ROWS = [
    {grid.GROUP: ax.BASELINE},
    *(
        {grid.GROUP: width_group(noise), "label_noise": noise, "width": width}
        for noise, width in itertools.product(NOISES, WIDTHS)
        if (noise, width) != (0.0, 64)  # the baseline
    ),
    *({grid.GROUP: "deeper", "depth": depth} for depth in DEPTHS),
    *({grid.GROUP: f"{size} examples", "train_size": size} for size in SIZES),
]


def points(config: Config) -> list[grid.Setting]:
    """Widths with and without random labels, then depths and training sets; or a grid."""
    return [
        {grid.GROUP: width_group(point.get("label_noise", config.label_noise)), **point}
        for point in grid.table(config, ROWS)
    ]


def task(config: Config) -> ax.Task:
    splits = ax.data.split(ax.data.load("digits"), train_size=config.train_size, seed=0)
    usual = ax.supervised(
        ax.nn.MLP((config.width,) * config.depth, 10),
        splits,
        optimizer=ax.optimizers.of_trial("momentum", "cosine"),
        batch_size=config.batch_size,
        regularization=ax.Regularization(label_noise=lambda hparams: hparams.label_noise),
    )
    return usual.replace(objective=None)  # trained to the end


def column(name: str, by: str, **changes: float):
    """A column by one field, all else as in the baseline but for the changes."""
    where = {"width": 64, "depth": 1, "train_size": 200, "label_noise": 0.0, **changes}
    return ax.column(name, by=by, **{field: where[field] for field in where if field != by})


def landmarks(study: ax.Study, noise: float) -> ax.selection.Points:
    """The narrowest network, the least that fits, that of the largest test loss, and the widest."""
    widths = ax.selection.along(study, "width", label_noise=noise, depth=1, train_size=200)
    if len(widths) < 3:
        raise ax.Missing(f"the study has fewer than three widths with {noise:.0%} random labels")
    points = list(widths.values())
    named = {"narrowest": points[0], "widest": points[-1]}
    named["largest loss"] = max(points, key=lambda point: study.numbers(point, LOSS).mean())
    for point in reversed(points):
        if study.numbers(point, TRAIN).mean() >= FITS:
            named["fitting"] = point
    return ax.selection.Points(named)


def at(name: str, metric: str, noise: float) -> ax.Quantity:
    """A metric of one of the landmarks: "widest", for example."""
    measured = Name(metric, name, f", {noise:.0%} of labels random")
    return ax.Quantity(
        measured, lambda study: {measured: study.values(landmarks(study, noise)[name], metric)}
    )


def complexity_figure(study: ax.Study):
    """The model-complexity graph of the notes: loss against steps, narrow to wide."""
    points = landmarks(study, noise := NOISES[-1])
    shown = [points[name] for name in ("narrowest", "fitting", "widest") if name in points]
    figure, panels = plot.panels(len(shown), width=4.2, sharey=True)
    for panel, point in zip(panels, shown, strict=True):
        ax.charts.complexity(panel, study, point, "loss")
    return plot.captioned(figure, f"Loss with {noise:.0%} random labels: one line per restart.")


FIGURES = {
    "width": ax.charts.lines(
        {
            name: {f"{n:.0%} random labels": column(name, "width", label_noise=n) for n in NOISES}
            for name in (TRAIN, TEST, "train/loss", LOSS)
        },
        "Too small, just fitting, too large: accuracy and loss (cross-entropy in nats) against "
        "width. A network fits where its training accuracy reaches 1.",
        columns=2,
        xscale="log",
        xlabel="width",
    ),
    "complexity": complexity_figure,
    "depth_and_examples": ax.charts.lines(
        {
            f"against {label}": {s: column(f"{s}/accuracy", field) for s in ("train", "test")}
            for field, label in (("depth", "hidden layers"), ("train_size", "training examples"))
        },
        "Accuracy against depth, and against the number of examples.",
        ylabel="accuracy",
    ),
}

NOTES = "course notes, Training Neural Networks"
NAKKIRAN = "Nakkiran et al. 2019"
loss_by_depth = column(LOSS, "depth")
few, many = (f"{size} examples" for size in (SIZES[0], SIZES[-1]))
train, test = ax.column(TRAIN), ax.column(TEST)
gap = (train[few] - train[many]) - (test[few] - test[many])
CLAIMS = [
    ax.Claim(
        "too-small-underfits",
        "A network that is too small errs on the training set too.",
        NOTES,
        *(at("widest", TRAIN, n) - at("narrowest", TRAIN, n) > 0.1 for n in NOISES),
    ),
    ax.Claim(
        "too-large-overfits",
        "A network far larger than needed to fit the training set generalizes worse than one that "
        "just fits it.",
        NOTES,
        *(at("widest", TEST, n) < at("fitting", TEST, n) for n in NOISES),
    ),
    ax.Claim(
        "deeper-overfits-more",
        f"Networks of {DEPTHS[-1]} hidden layers have a higher test loss than those of one.",
        NOTES,
        loss_by_depth[DEPTHS[-1]] > loss_by_depth[1],
    ),
    ax.Claim(
        "more-examples-less-overfitting",
        "Training and test accuracy differ more with few training examples than with many.",
        NOTES,
        gap.named(f"train − test accuracy: {SIZES[0]} − {SIZES[-1]} examples") > 0,
    ),
    ax.Claim(
        "double-descent-in-loss",
        "With random labels the test loss peaks near where the network just fits: the narrowest "
        "and the widest have less.",
        NAKKIRAN,
        *(at("fitting", LOSS, n) > at("narrowest", LOSS, n) for n in NOISES[1:]),
        *(at("fitting", LOSS, n) > at("widest", LOSS, n) for n in NOISES[1:]),
    ),
    ax.Claim(
        "double-descent-in-error",
        "With random labels the test error, the share of misclassified examples, peaks near where "
        "the network just fits.",
        NAKKIRAN,
        *(at("fitting", TEST, n) < at("narrowest", TEST, n) for n in NOISES[1:]),
        *(at("fitting", TEST, n) < at("widest", TEST, n) for n in NOISES[1:]),
    ),
    ax.Claim(
        "more-noise-higher-peak",
        "The more labels are random, the higher the largest test loss of any width.",
        NAKKIRAN,
        *(
            at("largest loss", LOSS, more) > at("largest loss", LOSS, less)
            for less, more in itertools.pairwise(NOISES)
        ),
    ),
]
