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

import numpy as np

import ablax as ax
from ablax import grid, plot
from ablax.analysis.queueing import capacity

CHOICES = BEST, LAST, ORACLE = "best", "last", "oracle"
ALL = "best of all epochs"
CRITERIA = {  # and their thresholds from fast to slow
    "patience": (1.0, 2.0, 5.0, 10.0, 20.0),
    "GL": (1.0, 2.0, 3.0, 5.0, 10.0),
    "PQ": (0.5, 0.75, 1.0, 2.0, 3.0),
    "UP": (1.0, 2.0, 3.0, 4.0, 6.0),
}
FIELDS = {name: f"protocol/{name.lower()}" for name in CRITERIA}


class Config(ax.BaseConfig):
    keep_weights: str = ax.static(
        BEST, "which weights count; oracle: best on test", choices=CHOICES
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
CRITERIA_ROWS = {
    name: grid.product(keep_weights=[BEST], **{name.lower(): thresholds})
    for name, thresholds in CRITERIA.items()
}
ROWS = grid.rows(
    {"keep_weights": LAST},
    {ALL: [{"keep_weights": BEST}], **CRITERIA_ROWS, ORACLE: [{"keep_weights": ORACLE}]},
)


def points(config: Config) -> list[grid.Setting]:
    """Training to the end, the criteria at their thresholds and, unless it is short, the oracle."""
    quick = max(ax.values(config.steps)) <= PRESETS["smoke"].config.steps
    return grid.table(config, ROWS[:-1] if quick else ROWS)


def task(config: Config) -> ax.Task:
    usual = ax.supervised(
        ax.nn.MLP((config.width,), 10),
        ax.data.split(ax.data.load("digits"), train_size=config.train_size, seed=0),
        optimizer=ax.optimizers.of_trial("momentum"),
        batch_size=config.batch_size,
        regularization=ax.Regularization(label_noise=lambda hparams: hparams.label_noise),
    )
    usual = usual.replace(metrics=(ax.LOSS, ax.ACCURACY), stopping=ax.stopping.prechelt(ax.LOSS))
    tasks = {BEST: usual, LAST: usual.replace(objective=None), ORACLE: ax.oracle(usual, ax.LOSS)}
    return tasks[config.keep_weights]


def criteria(study: ax.Study) -> dict[str, list[ax.Chosen]]:
    """{criterion: the points that it alone can stop, from fast to slow}."""
    lines = {}
    for name, field in FIELDS.items():
        others = {other: np.inf for other in FIELDS.values() if other != field}
        line = ax.selection.along(study, field, keep_weights=BEST, **others)
        lines[name] = [point for threshold, point in line.items() if np.isfinite(threshold)]
    return {name: line for name, line in lines.items() if line}


def tradeoff_figure(study: ax.Study):
    """Test loss at the stopping point against the steps that it took."""
    figure, (panel,) = plot.panels(1, width=6.4, height=4.2)
    lines = {
        name: {study.numbers(p, "steps").mean(): study.interval(p, "test/loss") for p in line}
        for name, line in criteria(study).items()
    }
    losses = ax.column("test/loss").intervals(study)
    ends = {"trained to the end": ax.BASELINE, ALL: ALL, ORACLE: ORACLE}
    for colour, (label, method) in zip(plot.COLOURS[4:], ends.items(), strict=True):
        if method in losses:
            plot.band(panel, losses[method], label=label, colour=colour)
    axes = {"xlabel": "steps until it stopped, mean", "ylabel": "test loss (nats)"}
    plot.interval_lines(panel, lines, **axes, xscale="log")
    caption = "What patience buys: test loss of the selected weights against training time."
    return plot.captioned(figure, caption)


def saved_figure(study: ax.Study):
    """The steps that stopping saves, with and without refilling the slots."""
    points = [point for line in criteria(study).values() for point in line]
    if not points:
        raise ax.Missing("the study has no point that one criterion alone can stop")
    steps = np.concatenate([study.numbers(point, "steps") for point in points])
    shares = capacity(steps, 32, study.points["protocol/steps"].to_numpy().max())
    caption = "What the trials of the criteria cost, by when a slot gets its next trial."
    xlabel = "steps of 32 slots, as a share of those without stopping"
    return plot.shares(shares, caption, xlabel=xlabel)


def complexity_figure(study: ax.Study):
    """The model-complexity graph of training to the end."""
    figure, (panel,) = plot.panels(1, width=6.0, height=4.0)
    ax.charts.complexity(panel, study, ax.selection.methods(study)[ax.BASELINE])
    caption = "Trained to the end: training loss falls, validation loss falls and rises again."
    return plot.captioned(figure, caption)


FIGURES = {"tradeoff": tradeoff_figure, "saved": saved_figure, "complexity": complexity_figure}


@ax.quantities
def missed_gain(study: ax.Study):
    """The share of the oracle's gain over training to the end that each criterion misses."""
    methods = ax.selection.methods(study)
    missed = {
        name: study.differences(methods[name], methods[ORACLE], "test/loss")
        for name in (ax.BASELINE, *CRITERIA)
    }
    gain = missed.pop(ax.BASELINE).mean()
    share = "share of the oracle's gain in test loss that"
    return {f"{share} {name} misses": values / gain for name, values in missed.items()}


def fastest_and_slowest(column: str) -> list[tuple[ax.Quantity, ax.Quantity]]:
    """A column at the first and at the last threshold of each criterion."""
    lines = {name: ax.column(column, by=FIELDS[name], group=name) for name in CRITERIA}
    return [(lines[name][ends[0]], lines[name][ends[-1]]) for name, ends in CRITERIA.items()]


NOTES, PRECHELT = "course notes, Early Stopping", "Prechelt 1998"
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
        "Stopping early and keeping the best weights lowers the test loss, by whichever criterion.",
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
        "Each stopping criterion generalizes better at its slowest threshold than at its fastest.",
        PRECHELT,
        *(fast > slow for fast, slow in fastest_and_slowest("test/loss")),
    ),
    ax.Claim(
        "slower-takes-longer",
        "Each stopping criterion trains longer at its slowest threshold than at its fastest.",
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
