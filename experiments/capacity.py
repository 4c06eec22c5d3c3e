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

import dataclasses
import itertools
from typing import Any

import ablax as ax
from ablax import grid, plot

WIDTHS = (2, 4, 8, 12, 16, 24, 32, 64, 128, 256)
NOISES = (0.0, 0.2, 0.4)
DEPTHS = (2, 3, 4)
SIZES = (50, 100, 400, 1000)
FITS = 0.99
"""Training accuracy from which on a network fits its examples."""


class Config(ax.BaseConfig):
    width: int = ax.static(64, "units of a hidden layer", low=1)
    depth: int = ax.static(1, "hidden layers", low=1)
    train_size: int = ax.static(200, "training examples", low=10)
    batch_size: int = ax.static(50, "rows of a minibatch", low=1)
    label_noise: float = ax.hparam(0.0, "share of training labels drawn anew", low=0, high=1)
    learning_rate: float = ax.hparam(0.1, "initial rate, decayed to 0 by a cosine", low=0)
    momentum: float = ax.hparam(0.9, "share of the last step that is kept", low=0, below=1)


def _preset(restarts: int, steps: int, **changes: Any) -> ax.Preset:
    return ax.Preset(Config(steps=steps, eval_every=steps // 20, **changes), restarts)


PRESETS = {
    "smoke": _preset(3, 100, width=(2, 8, 16), label_noise=(0.0, 0.4)),
    "default": _preset(16, 4000),
    "paper": _preset(64, 20_000),
}
width_group = "width, {:.0%} of labels random".format
ROWS = [
    {grid.GROUP: ax.BASELINE},
    *(
        {grid.GROUP: width_group(noise), "label_noise": noise, "width": width}
        for noise in NOISES
        for width in WIDTHS
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

    def optimizer(trial):
        rate = ax.schedules.cosine(trial.hparams.learning_rate, steps=trial.steps)
        return ax.optimizers.momentum(rate, momentum=trial.hparams.momentum)

    usual = ax.supervised(
        ax.nn.MLP((config.width,) * config.depth, 10),
        splits,
        loss=ax.losses.loss("softmax_cross_entropy_with_integer_labels"),
        metrics={ax.ACCURACY: ax.metrics.accuracy},
        optimizer=optimizer,
        batch_size=config.batch_size,
        regularization=ax.Regularization(label_noise=lambda hparams: hparams.label_noise),
    )
    return dataclasses.replace(usual, objective=None)  # trained to the end


def line(study: ax.Study, field: str, least: int = 1, **changes: Any) -> ax.selection.Points:
    """{value of a field: its point}, all else as in the study's first point but for the changes."""
    first = next(iter(study.settings.values()))
    fields = {"width", "depth", "train_size", "label_noise"} - {field}
    points = ax.selection.along(study, field, **{f: first[f] for f in fields} | changes)
    if len(points) < least:
        raise ax.Missing(f"the study varies {field} at fewer than {least} values")
    return points


def by_width(study: ax.Study, least: int = 1) -> dict[float, ax.selection.Points]:
    """{share of random labels: the networks with one hidden layer, narrow to wide}."""
    noises = sorted({setting["label_noise"] for setting in study.settings.values()})
    return {noise: line(study, "width", least, label_noise=noise, depth=1) for noise in noises}


def fitting(study: ax.Study, points: ax.selection.Points) -> int | None:
    """The least width that fits the training set, random labels included."""
    accuracy = {width: study.numbers(point, "train/accuracy") for width, point in points.items()}
    return next((width for width in points if accuracy[width].mean() >= FITS), None)


def draw(panel, study: ax.Study, points: ax.selection.Points, metric: str, **options: Any) -> None:
    """Draw training and test means of a metric along a line of points."""
    lines = {
        split: {x: study.interval(point, f"{split}/{metric}") for x, point in points.items()}
        for split in ("train", "test")
    }
    plot.interval_lines(panel, lines, **options)


def width_figure(study: ax.Study):
    """Training and test loss and accuracy against width, a column for each share of noise."""
    lines = by_width(study)
    labels = {"loss": "cross-entropy (nats)", "accuracy": "accuracy"}
    figure, panels = plot.panels(2 * len(lines), width=3.9, height=3.2, columns=len(lines))
    shown = itertools.product(labels.items(), lines.items())
    for panel, ((metric, label), (noise, points)) in zip(panels, shown, strict=True):
        if (width := fitting(study, points)) is not None:
            panel.axvline(width, color="black", linestyle=":", label="fits the training set")
        title = f"{noise:.0%} of labels random"
        draw(panel, study, points, metric, xscale="log", xlabel="width", ylabel=label, title=title)
        panel.set_xticks(list(points)[::2], [str(width) for width in list(points)[::2]])
        panel.minorticks_off()
    return plot.captioned(
        figure,
        "Too small, just fitting, too large: training and test loss (above) and accuracy (below) "
        "against width. Dotted: the least width that fits the training set.",
    )


def complexity_figure(study: ax.Study):
    """The model-complexity graph of the notes: loss against steps, narrow to wide."""
    noise, points = max(by_width(study).items())
    middle = fitting(study, points) or list(points)[len(points) // 2]
    shown = dict.fromkeys((min(points), middle, max(points)))
    figure, panels = plot.panels(len(shown), width=4.2, sharey=True)
    for panel, width in zip(panels, shown, strict=True):
        ax.charts.complexity(panel, study, points[width], "loss")
    return plot.captioned(
        figure, f"Loss against steps with {noise:.0%} of the labels random: a thin line a restart."
    )


def gap_figure(study: ax.Study):
    """Training and test accuracy against depth, and against the number of examples."""
    labels = {"depth": "hidden layers", "train_size": "training examples"}
    lines = {field: line(study, field, least=2) for field in labels}
    figure, panels = plot.panels(2, width=4.4)
    for panel, (field, points) in zip(panels, lines.items(), strict=True):
        options = {"xlabel": labels[field], "ylabel": "accuracy", "xticks": list(points)}
        draw(panel, study, points, "accuracy", **options)
    return plot.captioned(figure, "Accuracy against depth, and against the number of examples.")


FIGURES = {"width": width_figure, "complexity": complexity_figure, "depth_and_examples": gap_figure}


def widths(metric: str, larger: str, smaller: str, *noises: float) -> ax.Quantity:
    """The difference of two of the "narrowest", the "fitting" and the "widest" network."""

    def differences(study: ax.Study):
        values = {}
        for noise in noises:
            points = line(study, "width", least=3, label_noise=noise, depth=1)
            fits = fitting(study, points)
            if fits is None:
                raise ax.Missing(f"no width fits the training set with {noise:.0%} random labels")
            width_of = {"narrowest": min(points), "fitting": fits, "widest": max(points)}
            a, b = points[width_of[larger]], points[width_of[smaller]]
            name = f"{metric}: {larger} − {smaller}, {noise:.0%} of labels random"
            values[name] = study.differences(a, b, metric)
        return values

    return ax.quantities(differences)


@ax.quantities
def rise_of_the_peak(study: ax.Study):
    """The highest test loss over widths, with more random labels less that with fewer."""
    peaks = {
        noise: max(points.values(), key=lambda point: study.numbers(point, "test/loss").mean())
        for noise, points in by_width(study, least=3).items()
    }
    return {
        f"highest test loss over widths: {more:.0%} − {less:.0%} of labels random": (
            study.differences(peaks[more], peaks[less], "test/loss")
        )
        for less, more in itertools.pairwise(peaks)
    }


@ax.quantities
def rise_with_depth(study: ax.Study):
    """The test loss of the deepest network less that of the shallowest."""
    depths = line(study, "depth", least=2)
    deep, shallow = max(depths), min(depths)
    rise = study.differences(depths[deep], depths[shallow], "test/loss")
    return {f"test/loss: {deep} − {shallow} hidden layers": rise}


NOTES = "course notes, Training Neural Networks"
NAKKIRAN = "Nakkiran et al. 2019"
few, many = (f"{size} examples" for size in (SIZES[0], SIZES[-1]))
train, test = ax.column("train/accuracy"), ax.column("test/accuracy")
gap = (train[few] - train[many]) - (test[few] - test[many])
CLAIMS = [
    ax.Claim(
        "too-small-underfits",
        "A network that is too small errs on the training set too.",
        NOTES,
        widths("train/accuracy", "widest", "narrowest", *NOISES) > 0.1,
    ),
    ax.Claim(
        "too-large-overfits",
        "A network far larger than needed to fit the training set generalizes worse than one that "
        "just fits it.",
        NOTES,
        widths("test/accuracy", "widest", "fitting", *NOISES) < 0,
    ),
    ax.Claim(
        "deeper-overfits-more",
        "Of networks that fit the training set, the deeper ones have more test loss.",
        NOTES,
        rise_with_depth > 0,
    ),
    ax.Claim(
        "more-examples-less-overfitting",
        "The more training examples, the smaller the gap between training and test accuracy.",
        NOTES,
        gap.named(f"train − test accuracy: {SIZES[0]} − {SIZES[-1]} examples") > 0,
    ),
    ax.Claim(
        "double-descent-in-loss",
        "With random labels the test loss peaks near where the network just fits: the narrowest "
        "and the widest have less.",
        NAKKIRAN,
        widths("test/loss", "fitting", "narrowest", *NOISES[1:]) > 0,
        widths("test/loss", "fitting", "widest", *NOISES[1:]) > 0,
    ),
    ax.Claim(
        "double-descent-in-error",
        "With random labels the test error, the share of misclassified examples, peaks near where "
        "the network just fits.",
        NAKKIRAN,
        widths("test/accuracy", "fitting", "narrowest", *NOISES[1:]) < 0,
        widths("test/accuracy", "fitting", "widest", *NOISES[1:]) < 0,
    ),
    ax.Claim(
        "more-noise-higher-peak",
        "The more labels are random, the higher the peak of the test loss over widths.",
        NAKKIRAN,
        rise_of_the_peak > 0,
    ),
]
