"""When should training stop, what does it save, and what does stopping too soon cost?

A network learns digits of which a fifth have a random label, so that it overfits. It is trained to
the end, or stopped by patience or by one of Prechelt's criteria (GL: validation has risen too far
above its best; PQ: compared with the progress of training; UP: it rose several times in a row),
and keeps the weights that were best on validation. An oracle keeps those that are best on the test
examples, which nobody can do. Every restart has its own random labels.

Source: course notes, "Early Stopping"; Prechelt 1998, "Early stopping — but when?".

Command: ./launch.sh early_stopping            (about a minute on 2 CPU cores)

Expected: test loss 0.85 after training to the end, and 0.54 by every criterion, near the oracle's
0.53. The slowest thresholds of patience and GL gain a little on the fastest, those of PQ and UP
next to nothing; all of them train two to five times as long.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

import ablax as ax
from ablax import grid, plot

BEST, LAST, ORACLE = "best", "last", "oracle"
ALL = "best of all epochs"
CRITERIA = {
    "patience": (1.0, 2.0, 5.0, 10.0, 20.0),
    "GL": (1.0, 2.0, 3.0, 5.0, 10.0),
    "PQ": (0.5, 0.75, 1.0, 2.0, 3.0),
    "UP": (1.0, 2.0, 3.0, 4.0, 6.0),
}
"""{criterion: its thresholds from fast to slow}; its field is its name in lower case."""
PEEKED = ax.Metric("peeked_loss", "min")


class Peeking(NamedTuple):
    """The oracle's validation split, and the test examples that it looks at."""

    valid: Any
    peeked: Any


class Config(ax.BaseConfig):
    keep_weights: str = ax.static(
        BEST, "which weights count; oracle: best on test", choices=(BEST, LAST, ORACLE)
    )
    train_size: int = ax.static(300, "training examples", low=10)
    width: int = ax.static(64, "units of the hidden layer", low=1)
    batch_size: int = ax.static(30, "rows of a minibatch", low=1)
    label_noise: float = ax.hparam(0.2, "share of training labels drawn anew", low=0, high=1)
    learning_rate: float = ax.hparam(0.02, "constant rate", low=0)
    momentum: float = ax.hparam(0.9, "share of the last step that is kept", low=0, below=1)
    gl: float = ax.protocol(np.inf, "stop at this generalization loss in percent; inf: off", low=0)
    pq: float = ax.protocol(np.inf, "stop at this quotient of loss and progress; inf: off", low=0)
    up: float = ax.protocol(np.inf, "stop after so many strips that end higher; inf: off", low=1)


def _preset(restarts: int, epochs: int) -> ax.Preset:
    return ax.Preset(Config(steps=10 * epochs, eval_every=10), restarts)


PRESETS = {"smoke": _preset(3, 30), "default": _preset(32, 200), "paper": _preset(256, 500)}
LINES = {
    name: grid.product(keep_weights=[BEST], **{name.lower(): thresholds})
    for name, thresholds in CRITERIA.items()
}
ROWS = grid.rows(
    {"keep_weights": LAST},
    {ALL: [{"keep_weights": BEST}], **LINES, ORACLE: [{"keep_weights": ORACLE}]},
)


def points(config: Config) -> list[grid.Setting]:
    """Training to the end, the criteria at their thresholds and, unless it is short, the oracle."""
    quick = max(ax.values(config.steps)) <= PRESETS["smoke"].config.steps
    return grid.table(config, ROWS[:-1] if quick else ROWS)


def task(config: Config) -> ax.Task:
    splits = ax.data.split(ax.data.load("digits"), train_size=config.train_size, seed=0)
    loss = ax.losses.loss("softmax_cross_entropy_with_integer_labels")

    def optimizer(trial):
        return ax.optimizers.momentum(trial.hparams.learning_rate, momentum=trial.hparams.momentum)

    usual = ax.supervised(
        ax.nn.MLP((config.width,), 10),
        splits,
        loss=loss,
        metrics={ax.LOSS: loss, ax.ACCURACY: ax.metrics.accuracy},
        optimizer=optimizer,
        batch_size=config.batch_size,
        regularization=ax.Regularization(label_noise=lambda hparams: hparams.label_noise),
    )
    usual = dataclasses.replace(usual, stopping=ax.stopping.prechelt(ax.LOSS))
    if config.keep_weights != ORACLE:
        return usual if config.keep_weights == BEST else dataclasses.replace(usual, objective=None)

    def view(trial, data):
        parts = usual.view(trial, data)
        return {**parts, "valid": Peeking(parts["valid"], data["peeked"])}

    def evaluate(params, trial, split):
        if not isinstance(split, Peeking):
            return usual.evaluate(params, trial, split)
        peeked = usual.evaluate(params, trial, split.peeked)["loss"]
        return usual.evaluate(params, trial, split.valid) | {PEEKED.name: peeked}

    # The engine hides the test split from training: the oracle gets it under another name.
    data = {**usual.data, "peeked": splits.test}
    return dataclasses.replace(usual, data=data, view=view, evaluate=evaluate, objective=PEEKED)


def criteria(study: ax.Study) -> dict[str, list[ax.Chosen]]:
    """{criterion: the points that it alone can stop, from fast to slow}."""
    fields = {name: f"protocol/{name.lower()}" for name in CRITERIA}
    lines = {}
    for name, field in fields.items():
        others = {other: np.inf for other in fields.values() if other != field}
        line = ax.selection.along(study, field, keep_weights=BEST, **others)
        lines[name] = [point for threshold, point in line.items() if np.isfinite(threshold)]
    return {name: line for name, line in lines.items() if line}


def tradeoff_figure(study: ax.Study):
    """Test loss at the stopping point against the steps that it took."""
    figure, (panel,) = plot.panels(1, width=6.4, height=4.2)
    for number, (name, line) in enumerate(criteria(study).items()):
        x = [study.numbers(point, "steps").mean() for point in line]
        y = [study.interval(point, "test/loss") for point in line]
        plot.with_intervals(panel, x, y, label=name, number=number)
    methods = ax.selection.methods(study)
    losses = {group: study.interval(point, "test/loss") for group, point in methods.items()}
    ends = {ax.BASELINE: "0.4", ALL: plot.COLOURS[4], ORACLE: plot.COLOURS[5]}
    for group in [group for group in ends if group in losses]:
        label = "trained to the end" if group == ax.BASELINE else group
        plot.band(panel, losses[group], label=label, colour=ends[group])
    panel.set(xlabel="steps until it stopped, mean", ylabel="test loss (nats)", xscale="log")
    plot.legend(panel)
    return plot.captioned(
        figure, "What patience buys: test loss of the selected weights against training time."
    )


def capacity(steps: np.ndarray, slots: int, most: float) -> dict[str, float]:
    """Steps of all slots together that a queue of trials costs, as shares of no stopping at all.

    Each trial stops after its number of steps, `slots` are trained at once, and a trial that is
    not stopped takes `most` steps.
    """
    free = np.zeros(slots)
    for n in steps:  # the next trial goes where a slot is free first
        free[np.argmin(free)] += n
    batches = [steps[i : i + slots] for i in range(0, len(steps), slots)]
    costs = {
        "every trial to the end": len(batches) * slots * most,
        "stopped, but waiting for the slowest of its batch": sum(slots * b.max() for b in batches),
        "stopped, slots refilled at once": slots * free.max(),
        "steps that train": steps.sum(),
    }
    return {name: float(n / costs["every trial to the end"]) for name, n in costs.items()}


def saved_figure(study: ax.Study):
    """The steps that stopping saves, with and without refilling the slots."""
    points = [point for line in criteria(study).values() for point in line]
    if not points:
        raise ax.Missing("the study has no point that one criterion alone can stop")
    steps = np.concatenate([study.numbers(point, "steps") for point in points])
    shares = capacity(steps, 32, study.points["protocol/steps"].to_numpy().max())
    figure, (panel,) = plot.panels(1, width=7.0, height=2.4)
    bars = panel.barh(list(shares), list(shares.values()), color=plot.COLOURS[0])
    panel.bar_label(bars, fmt=lambda share: f" {share:.0%}")
    panel.invert_yaxis()
    panel.set(xlabel="steps of 32 slots, as a share of those without stopping")
    return plot.captioned(
        figure,
        "What the criteria's trials cost: stopped, but waiting for the slowest of their batch, and "
        "with slots that are refilled at once.",
    )


def complexity_figure(study: ax.Study):
    """The model-complexity graph of training to the end."""
    figure, (panel,) = plot.panels(1, width=6.0, height=4.0)
    ax.charts.complexity(panel, study, ax.selection.methods(study)[ax.BASELINE])
    return plot.captioned(
        figure,
        "The model-complexity graph: training loss falls, validation loss falls and rises again. "
        "Here the last weights are kept.",
    )


FIGURES = {"tradeoff": tradeoff_figure, "saved": saved_figure, "complexity": complexity_figure}


@ax.quantities
def missed_gain(study: ax.Study):
    """Of the oracle's gain over training to the end, the share that each criterion misses."""
    methods = ax.selection.methods(study)

    def missed(name):
        return study.differences(methods[name], methods[ORACLE], "test/loss")

    gain = missed(ax.BASELINE).mean()
    return {
        f"share of the oracle's gain in test loss that {name} misses": missed(name) / gain
        for name in CRITERIA
    }


def fastest_and_slowest(column: str) -> list[tuple[ax.Quantity, ax.Quantity]]:
    """A column at the first and at the last threshold of each criterion."""
    ends = []
    for name, (first, *_, last) in CRITERIA.items():
        line = ax.column(column, by=f"protocol/{name.lower()}", group=name)
        ends.append((line[first], line[last]))
    return ends


NOTES = "course notes, Early Stopping"
PRECHELT = "Prechelt 1998"
train, test = ax.column("train/loss"), ax.column("test/loss")
steps, horizon = ax.column("steps"), ax.column("protocol/steps")
CLAIMS = [
    ax.Claim(
        "training-on-overfits",
        "Trained to the end the network fits its training set better and the test set worse than "
        "at the best epoch.",
        NOTES,
        train[ax.BASELINE] < train[ALL],
        test[ax.BASELINE] > test[ALL],
    ),
    ax.Claim(
        "early-stopping-generalizes",
        "Stopping early lowers the test loss, by whichever criterion.",
        NOTES,
        *(test[name] < test[ax.BASELINE] for name in CRITERIA),
    ),
    ax.Claim(
        "early-stopping-nears-the-oracle",
        "Early stopping misses under a tenth of what an oracle that sees the test set would gain.",
        "our own question",
        missed_gain < 0.1,
    ),
    ax.Claim(
        "slower-is-better",
        "Slower criteria generalize better.",
        PRECHELT,
        *(fast > slow for fast, slow in fastest_and_slowest("test/loss")),
    ),
    ax.Claim(
        "slower-takes-longer",
        "Slower criteria train for longer.",
        PRECHELT,
        *(slow > fast for fast, slow in fastest_and_slowest("steps")),
    ),
    ax.Claim(
        "early-stopping-saves-steps",
        "At the thresholds that validation chooses, each criterion saves at least a quarter of the "
        "steps.",
        NOTES,
        *(
            (steps[name] / horizon[name]).named(f"steps taken, as a share of all, {name}") < 0.75
            for name in CRITERIA
        ),
    ),
]
