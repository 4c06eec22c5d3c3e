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

import numpy as np

from ablax import losses, metrics, optimizers, schedules
from ablax.config import BaseConfig, Preset, hparam, static
from ablax.data import load, split
from ablax.metrics import ACCURACY
from ablax.nn.mlp import MLP
from ablax.report import charts, selection
from ablax.report import plot as draw
from ablax.report.claims import Claim, Test, difference, every
from ablax.report.quantities import NEGATIVE, POSITIVE, Bounds, Effect
from ablax.report.study import Chosen, Study
from ablax.study import grid
from ablax.task import Task
from ablax.tasks.supervised import Regularization, supervised

WIDTHS = (2, 4, 8, 12, 16, 24, 32, 64, 128, 256)
NOISES = (0.0, 0.2, 0.4)
DEPTHS = (2, 3, 4)
SIZES = (50, 100, 400, 1000)
FITS = 0.99
"""Training accuracy from which on a network fits its examples."""


class Config(BaseConfig):
    width: int = static(64, "units of a hidden layer", low=1)
    depth: int = static(1, "hidden layers", low=1)
    train_size: int = static(200, "training examples", low=10)
    batch_size: int = static(50, "rows of a minibatch", low=1)
    label_noise: float = hparam(0.0, "share of training labels that are drawn anew", low=0, high=1)
    learning_rate: float = hparam(0.1, "initial rate, decayed to 0 by a cosine", low=0)
    momentum: float = hparam(0.9, "share of the last step that is kept", low=0, below=1)


def _preset(restarts: int, steps: int, **changes: Any) -> Preset:
    return Preset(Config(steps=steps, eval_every=steps // 20, **changes), restarts)


PRESETS = {
    "smoke": _preset(3, 100, width=(2, 8, 16), label_noise=(0.0, 0.4)),
    "default": _preset(16, 4000),
    "paper": _preset(64, 20_000),
}


def points(config: Config) -> list[grid.Setting]:
    """Widths with and without random labels, then depths and training sets; or what is given."""
    widths = grid.rows({}, {
        width_group(noise): grid.product(label_noise=[noise], width=WIDTHS) for noise in NOISES
    })  # fmt: skip
    same = {"label_noise": 0.0, "width": 64}
    widths = [p for p in widths if not same.items() <= p.items()]
    depths = [{grid.GROUP: "deeper", "depth": depth} for depth in DEPTHS]
    sizes = [{grid.GROUP: f"{size} examples", "train_size": size} for size in SIZES]
    found = grid.tabled(config, [*widths, *depths, *sizes])
    return [{grid.GROUP: width_group(p.get("label_noise", config.label_noise)), **p} for p in found]


def width_group(noise: float) -> str:
    return f"width, {noise:.0%} of labels random"


def task(config: Config) -> Task:
    splits = split(load("digits"), train_size=config.train_size, seed=0)

    def optimizer(trial):
        rate = schedules.cosine(trial.hparams.learning_rate, steps=trial.steps)
        return optimizers.momentum(rate, momentum=trial.hparams.momentum)

    usual = supervised(
        MLP((config.width,) * config.depth, 10),
        splits,
        loss=losses.loss("softmax_cross_entropy_with_integer_labels"),
        metrics={ACCURACY: metrics.accuracy},
        optimizer=optimizer,
        batch_size=config.batch_size,
        regularization=Regularization(label_noise=lambda hparams: hparams.label_noise),
    )
    return dataclasses.replace(usual, objective=None)  # trained to the end


def by_width(table: Study, noise: float) -> dict[int, Chosen]:
    """{width: its point} of the networks with one hidden layer, narrow to wide."""
    size = first(table)["train_size"]
    return selection.along(table, "width", label_noise=noise, depth=1, train_size=size)


def first(table: Study) -> dict[str, Any]:
    """What the study compares everything with."""
    return next(iter(table.settings.values()))


def threshold(table: Study, noise: float) -> int | None:
    """The least width that fits the training set, random labels included."""
    accuracies = {
        width: table.numbers(point, "train/accuracy").mean()
        for width, point in by_width(table, noise).items()
    }
    return next((width for width, accuracy in accuracies.items() if accuracy >= FITS), None)


def figures(table: Study) -> dict:
    drawn = {}
    if by_width(table, noises(table)[-1]):
        drawn |= {"width": width_figure(table), "complexity": complexity_figure(table)}
    others = others_figure(table)
    return drawn | ({"depth_and_examples": others} if others else {})


def noises(table: Study) -> list[float]:
    return sorted({setting["label_noise"] for setting in table.settings.values()})


METRICS = {"loss": "cross-entropy (nats)", "accuracy": "accuracy"}
SPLITS = ("train", "test")


def width_figure(table: Study):
    """Training and test loss and accuracy against width, a column for each share of noise."""
    shares = noises(table)
    figure, axes = draw.panels(2 * len(shares), width=3.9, height=3.2, columns=len(shares))
    for place, ax in enumerate(axes):
        metric, label = list(METRICS.items())[place // len(shares)]
        noise = shares[place % len(shares)]
        points = by_width(table, noise)
        for number, split_ in enumerate(SPLITS):
            values = [table.interval(point, f"{split_}/{metric}") for point in points.values()]
            draw.with_intervals(ax, list(points), values, label=split_, number=number)
        if (fits := threshold(table, noise)) is not None:
            ax.axvline(fits, color="black", linestyle=":", label="fits the training set")
        ax.set(xscale="log", xlabel="width", ylabel=label, title=f"{noise:.0%} of labels random")
        ax.set_xticks(list(points)[::2], [str(width) for width in list(points)[::2]])
        ax.minorticks_off()
        draw.legend(ax)
    return draw.captioned(
        figure,
        "Too small, just fitting, too large: training and test loss (above) and accuracy (below) "
        "against width. Dotted: the least width that fits the training set.",
    )


def others_figure(table: Study):
    """Training and test accuracy against depth, and against the number of examples."""
    labels = {"depth": "hidden layers", "train_size": "training examples"}
    lines = lines_of_others(table)
    if min(map(len, lines.values())) < 2:
        return None
    figure, axes = draw.panels(2, width=4.4)
    for ax, (field, points) in zip(axes, lines.items(), strict=True):
        for number, split_ in enumerate(SPLITS):
            values = [table.interval(point, f"{split_}/accuracy") for point in points.values()]
            draw.with_intervals(ax, list(points), values, label=split_, number=number)
        ax.set(xlabel=labels[field], ylabel="accuracy")
        ax.set_xticks(list(points))
        draw.legend(ax)
    return draw.captioned(figure, "Accuracy against depth, and against the number of examples.")


def complexity_figure(table: Study):
    """The model-complexity graph of the notes: loss against steps, narrow to wide."""
    noise = noises(table)[-1]
    points = by_width(table, noise)
    middle = threshold(table, noise) or list(points)[len(points) // 2]
    shown = [points[width] for width in dict.fromkeys((min(points), middle, max(points)))]
    figure, axes = draw.panels(len(shown), width=4.2, sharey=True)
    for ax, point in zip(axes, shown, strict=True):
        charts.complexity(ax, table, point, "loss")
    return draw.captioned(
        figure, f"Loss against steps with {noise:.0%} of the labels random: a thin line a restart."
    )


def widths(metric: str, larger: str, smaller: str, *shares: float, expected: Bounds) -> Test:
    """The test that compares two of the "narrowest", the "fitting" and the "widest" network."""

    def test(table: Study) -> list[Effect] | None:
        found = []
        for noise in shares:
            points, fits = by_width(table, noise), threshold(table, noise)
            if len(points) < 3 or fits is None:
                return None
            named = {"narrowest": points[min(points)], "fitting": points[fits],
                     "widest": points[max(points)]}  # fmt: skip
            effect = difference(table, metric, named[larger], named[smaller], expected)
            measured = f"{metric}: {larger} − {smaller}, {noise:.0%} of labels random"
            found.append(dataclasses.replace(effect, measured=measured))
        return found

    return test


def more_noise_higher_peak(table: Study) -> list[Effect] | None:
    """The highest test loss over widths, with more random labels and with fewer."""
    peaks = {}
    for noise in noises(table):
        points = by_width(table, noise)
        if len(points) < 3:
            return None
        peaks[noise] = max(points.values(), key=lambda p: table.numbers(p, "test/loss").mean())
    pairs = itertools.pairwise(peaks.items())
    return [
        dataclasses.replace(
            difference(table, "test/loss", above, below),
            measured=f"highest test loss over widths: {more:.0%} − {less:.0%} of labels random",
        )
        for (less, below), (more, above) in pairs
    ] or None


def lines_of_others(table: Study) -> dict[str, dict[int, Chosen]]:
    """{field: {its value: its point}} of depth and of the training set's size, all else alike."""
    fields = ("width", "label_noise", "depth", "train_size")
    base = {field: first(table)[field] for field in fields}
    return {
        field: selection.along(
            table, field, **{f: value for f, value in base.items() if f != field}
        )
        for field in ("depth", "train_size")
    }


def deeper(table: Study) -> list[Effect] | None:
    """The test loss of the deepest network less that of the shallowest."""
    depths = lines_of_others(table)["depth"]
    if len(depths) < 2:
        return None
    deep, shallow = max(depths), min(depths)
    values = table.differences(depths[deep], depths[shallow], "test/loss")
    return [Effect(values, f"test/loss: {deep} − {shallow} hidden layers")]


def more_examples(table: Study) -> list[Effect] | None:
    """The gap between training and test accuracy, with fewer examples less with more."""
    methods = selection.methods(table)
    few, many = (methods.get(f"{size} examples") for size in (SIZES[0], SIZES[-1]))
    if few is None or many is None:
        return None
    grows, falls = (table.differences(few, many, f"{part}/accuracy") for part in SPLITS)
    return [Effect(grows - falls, f"train − test accuracy: {SIZES[0]} − {SIZES[-1]} examples")]


NOTES = "course notes, Training Neural Networks"
NAKKIRAN = "Nakkiran et al. 2019"
CLAIMS = [
    Claim(
        "too-small-underfits",
        "A network that is too small errs on the training set too.",
        NOTES,
        widths("train/accuracy", "widest", "narrowest", *NOISES, expected=(0.1, np.inf)),
    ),
    Claim(
        "too-large-overfits",
        "A network far larger than needed to fit the training set generalizes worse than one that "
        "just fits it.",
        NOTES,
        widths("test/accuracy", "widest", "fitting", *NOISES, expected=NEGATIVE),
        remark="The widest networks generalize best, with and without random labels: past the "
        "width that fits, more width only adds smoother ways to fit.",
    ),
    Claim(
        "deeper-overfits-more",
        "Of networks that fit the training set, the deeper ones have more test loss.",
        NOTES,
        deeper,
    ),
    Claim(
        "more-examples-less-overfitting",
        "The more training examples, the smaller the gap between training and test accuracy.",
        NOTES,
        more_examples,
    ),
    Claim(
        "double-descent-in-loss",
        "With random labels the test loss peaks near where the network just fits: the narrowest "
        "and the widest have less.",
        NAKKIRAN,
        every(
            widths("test/loss", "fitting", "narrowest", *NOISES[1:], expected=POSITIVE),
            widths("test/loss", "fitting", "widest", *NOISES[1:], expected=POSITIVE),
        ),
    ),
    Claim(
        "double-descent-in-error",
        "So does the test error, the share of examples that are misclassified.",
        NAKKIRAN,
        every(
            widths("test/accuracy", "fitting", "narrowest", *NOISES[1:], expected=NEGATIVE),
            widths("test/accuracy", "fitting", "widest", *NOISES[1:], expected=NEGATIVE),
        ),
        remark="The share of errors falls all the way; what peaks is how sure the network is of "
        "its mistakes.",
    ),
    Claim(
        "more-noise-higher-peak",
        "The more labels are random, the higher the peak.",
        NAKKIRAN,
        more_noise_higher_peak,
    ),
]
