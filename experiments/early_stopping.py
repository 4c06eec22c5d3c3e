"""When should training stop, what does it save, and what does stopping too soon cost?

A network learns digits of which a fifth have a random label, so that it overfits. It is trained to
the end, or stopped by patience or by one of Prechelt's criteria (GL: validation has risen too far
above its best; PQ: compared with the progress of training; UP: it rose several times in a row),
and keeps the weights that were best on validation. An oracle keeps those that are best on the test
examples, which nobody can do. Every restart has its own random labels.

Source: course notes, "Early Stopping"; Prechelt 1998, "Early stopping — but when?".

Command: ./launch.sh early_stopping            (about a minute on 2 CPU cores)

Expected: every criterion ends far below the test loss of training to the end and near the
oracle's; slower criteria are a little better and take several times as long.
"""

import dataclasses
import itertools
from typing import Any, NamedTuple

import numpy as np

from ablax import losses, metrics, optimizers
from ablax.config import BaseConfig, Preset, hparam, protocol, static, values
from ablax.data import load, split
from ablax.metrics import ACCURACY, LOSS, Metric
from ablax.nn.mlp import MLP
from ablax.report import charts, selection
from ablax.report import plot as draw
from ablax.report.claims import Claim, Test, between, every
from ablax.report.quantities import NEGATIVE, Effect
from ablax.report.study import BASELINE, Chosen, Study
from ablax.stopping import prechelt
from ablax.study import grid
from ablax.task import Task
from ablax.tasks.supervised import Regularization, supervised

BEST, LAST, ORACLE = "best", "last", "oracle"
CRITERIA: dict[str, tuple[str, list[float]]] = {
    "patience": ("patience", [1, 2, 5, 10, 20]),
    "GL": ("gl", [1, 2, 3, 5, 10]),
    "PQ": ("pq", [0.5, 0.75, 1, 2, 3]),
    "UP": ("up", [1, 2, 3, 4, 6]),
}
"""{criterion: (its field, thresholds from fast to slow)}"""
PEEKED = Metric("peeked_loss", "min")


class Peeking(NamedTuple):
    """The oracle's validation split, and the test examples that it looks at."""

    valid: Any
    peeked: Any


class Config(BaseConfig):
    keep_weights: str = static(
        BEST, "which weights count: best on validation, last, best on test (oracle)",
        choices=(BEST, LAST, ORACLE),
    )  # fmt: skip
    train_size: int = static(300, "training examples", low=10)
    width: int = static(64, "units of the hidden layer", low=1)
    batch_size: int = static(30, "rows of a minibatch", low=1)
    label_noise: float = hparam(0.2, "share of training labels that are drawn anew", low=0, high=1)
    learning_rate: float = hparam(0.02, "constant rate", low=0)
    momentum: float = hparam(0.9, "share of the last step that is kept", low=0, below=1)
    gl: float = protocol(np.inf, "stop at this generalization loss, in percent; inf is off", low=0)
    pq: float = protocol(np.inf, "stop at this quotient of loss and progress; inf is off", low=0)
    up: float = protocol(np.inf, "stop after so many strips that end higher; inf is off", low=1)


def _preset(restarts: int, epochs: int) -> Preset:
    return Preset(Config(steps=10 * epochs, eval_every=10), restarts)


PRESETS = {"smoke": _preset(3, 30), "default": _preset(32, 200), "paper": _preset(256, 500)}


def points(config: Config) -> list[grid.Setting]:
    """Training to the end, the criteria at their thresholds and, unless it is short, the oracle."""
    quick = max(values(config.steps)) <= PRESETS["smoke"].config.steps
    table = [
        {grid.GROUP: BASELINE, "keep_weights": LAST},
        {grid.GROUP: "best of all epochs", "keep_weights": BEST},
        *(
            {grid.GROUP: name, "keep_weights": BEST, field: threshold}
            for name, (field, thresholds) in CRITERIA.items()
            for threshold in map(float, thresholds)
        ),
    ]
    oracle = {grid.GROUP: ORACLE, "keep_weights": ORACLE}
    return grid.tabled(config, table if quick else [*table, oracle])


def task(config: Config) -> Task:
    splits = split(load("digits"), train_size=config.train_size, seed=0)
    usual = supervised(
        MLP((config.width,), 10),
        splits,
        loss=losses.loss("softmax_cross_entropy_with_integer_labels"),
        metrics={
            LOSS: losses.loss("softmax_cross_entropy_with_integer_labels"),
            ACCURACY: metrics.accuracy,
        },
        optimizer=lambda trial: optimizers.momentum(
            trial.hparams.learning_rate, momentum=trial.hparams.momentum
        ),
        batch_size=config.batch_size,
        regularization=Regularization(label_noise=lambda hparams: hparams.label_noise),
    )

    def view(trial, data):
        seen = usual.view(trial, data)
        if config.keep_weights != ORACLE:
            return seen
        return {**seen, "valid": Peeking(seen["valid"], data["peeked"])}

    def evaluate(params, trial, split):
        if not isinstance(split, Peeking):
            return usual.evaluate(params, trial, split)
        peeked = usual.evaluate(params, trial, split.peeked)["loss"]
        return usual.evaluate(params, trial, split.valid) | {PEEKED.name: peeked}

    objectives = {BEST: LOSS, LAST: None, ORACLE: PEEKED}

    return dataclasses.replace(
        usual,
        # What the engine keeps from training, the test split, the oracle is given all the same.
        data={**usual.data, **({"peeked": splits.test} if config.keep_weights == ORACLE else {})},
        view=view,
        evaluate=evaluate,
        objective=objectives[config.keep_weights],
        stopping=prechelt(LOSS),
    )


def figures(table: Study) -> dict:
    drawn = {"tradeoff": tradeoff_figure(table), "saved": saved_figure(table)}
    last = selection.methods(table).get(BASELINE)
    if last is None:
        return drawn
    figure, (ax,) = draw.panels(1, width=6.0, height=4.0)
    charts.complexity(ax, table, last)
    return drawn | {
        "complexity": draw.captioned(
            figure,
            "The model-complexity graph: training loss falls, validation loss falls and rises "
            "again. Here the last weights are kept.",
        )
    }


def criteria(table: Study) -> dict[str, list[Chosen]]:
    """{criterion: the points that it alone can stop, from fast to slow}."""
    found = {}
    for name, (field, _) in CRITERIA.items():
        others = {f"protocol/{other}": np.inf for other, _ in CRITERIA.values() if other != field}
        line = selection.along(table, f"protocol/{field}", keep_weights=BEST, **others)
        found[name] = [point for threshold, point in line.items() if np.isfinite(threshold)]
    return {name: points for name, points in found.items() if points}


def tradeoff_figure(table: Study):
    """Test loss at the stopping point against the steps that it took."""
    figure, (ax,) = draw.panels(1, width=6.4, height=4.2)
    for number, (name, points) in enumerate(criteria(table).items()):
        x = [float(table.values(point, "steps").mean()) for point in points]
        values = [table.interval(point, "test/loss") for point in points]
        draw.with_intervals(ax, x, values, label=name, number=number)
    for group, colour, label in [
        (BASELINE, "0.4", "trained to the end"),
        ("best of all epochs", draw.COLOURS[4], "best of all epochs"),
        (ORACLE, draw.COLOURS[5], "oracle"),
    ]:
        if (point := selection.methods(table).get(group)) is not None:
            draw.band(ax, table.interval(point, "test/loss"), label=label, colour=colour)
    ax.set(xlabel="steps until it stopped, mean", ylabel="test loss (nats)", xscale="log")
    draw.legend(ax)
    return draw.captioned(
        figure, "What patience buys: test loss of the selected weights against training time."
    )


def horizon(table: Study) -> float:
    """The steps of a trial that is not stopped."""
    return max(float(setting["protocol/steps"]) for setting in table.settings.values())


def capacity(steps: np.ndarray, slots: int, most: float) -> dict[str, float]:
    """Steps of all slots together that a queue of trials costs, as shares of no stopping at all.

    Args:
        steps: at which each trial stopped, in the order of the queue.
        slots: trained at once.
        most: steps of a trial that is not stopped.
    """
    free = np.zeros(slots)
    for n in steps:  # the next trial goes where a slot is free first
        free[np.argmin(free)] += n
    batches = [steps[i : i + slots] for i in range(0, len(steps), slots)]
    everything = len(batches) * slots * most
    return {
        "every trial to the end": 1.0,
        "stopped, but waiting for the slowest of its batch": float(
            sum(slots * batch.max() for batch in batches) / everything
        ),
        "stopped, slots refilled at once": float(slots * free.max() / everything),
        "steps that train": float(steps.sum() / everything),
    }


def saved_figure(table: Study):
    """What stopping saves, with and without refilling the slots."""
    points = itertools.chain.from_iterable(criteria(table).values())
    steps = np.concatenate([[], *(table.numbers(point, "steps") for point in points)])
    figure, (ax,) = draw.panels(1, width=7.0, height=2.4)
    if len(steps):
        shares = capacity(steps, 32, horizon(table))
        ax.barh(list(shares), list(shares.values()), color=draw.COLOURS[0])
        for place, share in enumerate(shares.values()):
            ax.text(share, place, f" {share:.0%}", va="center")
    ax.invert_yaxis()
    ax.set(xlabel="steps of 32 slots, as a share of those without stopping")
    return draw.captioned(
        figure,
        "What the criteria's trials cost: stopped, but waiting for the slowest of their batch, and "
        "with slots that are refilled at once.",
    )


def recovered(table: Study) -> list[Effect] | None:
    """What of the oracle's gain each criterion misses, at its best threshold."""
    methods = selection.methods(table)
    if not {BASELINE, ORACLE, *CRITERIA} <= methods.keys():
        return None
    found = []
    for name in CRITERIA:
        missed = table.differences(methods[name], methods[ORACLE], "test/loss")
        possible = table.differences(methods[BASELINE], methods[ORACLE], "test/loss")
        measured = f"share of the oracle's gain in test loss that {name} misses"
        found.append(Effect(missed / possible.mean(), measured, (-np.inf, 0.1)))
    return found


def slower(column: str, sign: int, measured: str) -> Test:
    """The test that compares the slowest threshold of each criterion with its fastest."""

    def test(table: Study) -> list[Effect] | None:
        lines = criteria(table)
        if lines.keys() != CRITERIA.keys():
            return None
        return [
            Effect(
                sign * table.differences(points[-1], points[0], column),
                f"{measured}, {name}: slowest − fastest threshold",
            )
            for name, points in lines.items()
        ]

    return test


def saves_steps(table: Study) -> list[Effect] | None:
    """The share of all steps that each criterion takes, at the threshold that it chooses."""
    methods = selection.methods(table)
    if not CRITERIA.keys() <= methods.keys():
        return None
    return [
        Effect(
            table.numbers(methods[name], "steps") / horizon(table),
            f"steps taken, as a share of all, {name}",
            (-np.inf, 0.75),
        )
        for name in CRITERIA
    ]


NOTES = "course notes, Early Stopping"
PRECHELT = "Prechelt 1998"
CLAIMS = [
    Claim(
        "training-on-overfits",
        "Trained to the end the network fits its training set better and the test set worse than "
        "at the best epoch.",
        NOTES,
        every(
            between("train/loss", BASELINE, "best of all epochs", NEGATIVE),
            between("test/loss", BASELINE, "best of all epochs"),
        ),
    ),
    Claim(
        "early-stopping-generalizes",
        "Stopping early lowers the test loss, by whichever criterion.",
        NOTES,
        every(*(between("test/loss", name, BASELINE, NEGATIVE) for name in CRITERIA)),
    ),
    Claim(
        "early-stopping-nears-the-oracle",
        "It misses less than a tenth of what an oracle that sees the test examples would gain.",
        "our own question",
        recovered,
    ),
    Claim(
        "slower-is-better",
        "Slower criteria generalize better.",
        PRECHELT,
        slower("test/loss", -1, "fall of test loss"),
        remark="PQ is slow even at its fastest: at every threshold it keeps the same epoch. UP "
        "keeps nearly the same at all of its own.",
    ),
    Claim(
        "slower-takes-longer",
        "And they take longer.",
        PRECHELT,
        slower("steps", 1, "steps"),
    ),
    Claim(
        "early-stopping-saves-steps",
        "At the thresholds that validation chooses, each criterion saves at least a quarter of the "
        "steps.",
        NOTES,
        saves_steps,
    ),
]
