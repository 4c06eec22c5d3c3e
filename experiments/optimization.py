"""Which way of descending gets furthest: small batches, a decaying rate, momentum, or Adam?

The same network learns digits for twenty epochs: by batches of several sizes, at learning rates
from far too small to far too large, with five decay schedules, with momentum from 0 to 0.99, with
Nesterov's momentum, and with Adam. The rates of every method are a factor of two apart, and the
training loss of the other restarts selects among them: the question is how far descent gets, not
how well the network generalizes.

Source: course notes, "Batch Gradient Descent" to "Momentum"; Sutskever et al. 2013 for Nesterov's
momentum.

Command: ./launch.sh optimization              (about three minutes on 2 CPU cores)

Expected: at equal epochs small batches are far ahead of full-batch descent. Momentum helps, most
where the gradient is exact; decay does not, each method at its best rate.
"""

import dataclasses
from typing import Any

import numpy as np

import ablax as ax
from ablax import grid, plot

CROSS_ENTROPY = ax.losses.loss("softmax_cross_entropy_with_integer_labels")
EXAMPLES, EPOCHS, BATCH = 1024, 20, 32
NOISE = 0.2
BATCHES = (4, 32, 256, EXAMPLES)
CLIFF = tuple(2.0**n for n in range(-10, 6))
RATES = tuple(2.0**n for n in range(-7, 2))
SMALL_RATES = tuple(2.0**n for n in range(-12, -3))
SMALL = ("adam", "momentum 0.99", "nesterov 0.99")
"""Methods that need smaller rates."""
MOMENTA = (0.5, 0.9, 0.95, 0.99)
TIMED = "all at once, for as long"
"""Full-batch descent for as many epochs as take the time of the others."""


class Config(ax.BaseConfig):
    optimizer: str = ax.static(
        "momentum", "momentum 0 is plain descent", choices=ax.optimizers.OPTIMIZERS
    )
    schedule: str = ax.static("constant", "of the learning rate", choices=ax.schedules.SCHEDULES)
    batch_size: int = ax.static(BATCH, "examples of a step", low=1)
    width: int = ax.static(32, "units of the hidden layer", low=1)
    learning_rate: float = ax.hparam(0.1, "initial rate", low=0)
    momentum: float = ax.hparam(0.0, "share of the last step that is kept", low=0, below=1)
    label_noise: float = ax.hparam(
        0.0, "share of training labels that are drawn anew", low=0, high=1
    )


def epochs(n: float, batch: int) -> dict[str, Any]:
    """The protocol of n epochs, evaluated twenty times."""
    every_ = max(1, round(n * EXAMPLES / batch / 20))
    return {"steps": 20 * every_, "eval_every": every_}


PRESETS = {
    "smoke": ax.Preset(Config(steps=15, eval_every=3), 3),
    "default": ax.Preset(Config(**epochs(EPOCHS, BATCH)), 16),
    "paper": ax.Preset(Config(**epochs(10 * EPOCHS, BATCH)), 64),
}


def points(config: Config) -> list[grid.Setting]:
    steps = max(ax.values(config.steps))
    if steps < EPOCHS:
        return grid.table(
            config, [{grid.GROUP: ax.BASELINE}, {grid.GROUP: "adam", "optimizer": "adam"}]
        )
    n = steps * BATCH / EXAMPLES
    methods = {
        **{batch_group(b): {"batch_size": b, **epochs(n, b)} for b in BATCHES if b != BATCH},
        TIMED: {"batch_size": EXAMPLES, **epochs(20 * n, EXAMPLES)},
        **{f"momentum {beta:g}": {"momentum": beta} for beta in MOMENTA},
        **{f"nesterov {beta:g}": {"momentum": beta, "optimizer": "nesterov"} for beta in MOMENTA},
        **{name: {"schedule": name} for name in ax.schedules.SCHEDULES if name != "constant"},
        "adam": {"optimizer": "adam", "momentum": 0.9},
        **{
            noisy(name): {"schedule": name, "label_noise": NOISE} for name in ax.schedules.SCHEDULES
        },
        **{
            whole(name, beta): {
                "optimizer": name,
                "momentum": beta,
                "batch_size": EXAMPLES,
                **epochs(20 * n, EXAMPLES),
            }
            for name in ("momentum", "nesterov")
            for beta in MOMENTA
        },
    }
    plain = [{grid.GROUP: "constant", "learning_rate": rate} for rate in CLIFF]
    others = [
        {grid.GROUP: name, **change, "learning_rate": rate}
        for name, change in methods.items()
        for rate in rates_of(name)
    ]
    return grid.table(config, [{grid.GROUP: ax.BASELINE}, *plain, *others])


def rates_of(name: str) -> tuple[float, ...]:
    """Learning rates a factor of two apart: no method is tuned more finely than another.

    Full-batch methods of equal time, which are only compared with each other, do without the
    smallest.
    """
    if name.startswith(batch_group(EXAMPLES) + ", "):
        return RATES[3:]
    return SMALL_RATES if name in SMALL else RATES


def noisy(schedule: str) -> str:
    return f"{schedule}, random labels"


def whole(name: str, beta: float) -> str:
    """A method with momentum by full batches."""
    return f"all at once, {name} {beta:g}"


def batch_group(batch: int) -> str:
    return "all at once" if batch == EXAMPLES else f"batches of {batch}"


def task(config: Config) -> ax.Task:
    splits = ax.data.split(ax.data.load("digits"), train_size=EXAMPLES, seed=0)

    def optimizer(trial):
        h = trial.hparams
        rate = ax.schedules.schedule(
            config.schedule,
            h.learning_rate,
            steps=trial.steps,
            timescale=trial.steps / 20,
            decay_rate=0.5 if config.schedule == "step_decay" else 0.01,
            decay_steps=trial.steps // 5 if config.schedule == "step_decay" else trial.steps,
            end_fraction=0.0,
        )
        return ax.optimizers.optimizer(config.optimizer, rate, momentum=h.momentum)

    usual = ax.supervised(
        ax.nn.MLP((config.width,), len(splits.classes)),
        splits,
        loss=CROSS_ENTROPY,
        metrics={
            ax.LOSS: CROSS_ENTROPY,
            ax.ACCURACY: ax.metrics.accuracy,
        },
        optimizer=optimizer,
        batch_size=config.batch_size,
        regularization=ax.Regularization(label_noise=lambda hparams: hparams.label_noise),
    )

    def view(trial, data):
        """Select rates by how far descent gets, since that is what is compared."""
        parts = usual.view(trial, data)
        return {**parts, "valid": parts["train"]}

    return dataclasses.replace(usual, view=view, objective=None)


def cliff_figure(study: ax.Study):
    """Training loss against the learning rate, by momentum: a valley, and then the cliff."""
    plain = {"schedule": "constant", "batch_size": BATCH, "label_noise": 0.0}
    momenta = ax.selection.along(study, "momentum", **plain, optimizer="momentum")
    methods = {
        **{f"momentum {beta:g}": {"optimizer": "momentum", "momentum": beta} for beta in momenta},
        "adam": {"optimizer": "adam"},
    }
    lines = {
        name: {
            rate: study.interval(point, "train/loss")
            for rate, point in ax.selection.along(study, "learning_rate", **plain, **of).items()
        }
        for name, of in methods.items()
    }
    return plot.interval_panels(
        {"": lines},
        "Too small a rate is slow; too large a rate falls off a cliff. Momentum β moves both to "
        "rates about 1 − β times as large.",
        width=6.4, xscale="log", yscale="log", xlabel="learning rate",
        ylabel="training loss at the end",
    )  # fmt: skip


def seconds_per_step(study: ax.Study) -> dict[int, float]:
    """{batch size: seconds that a step of one trial took}, by this study's own clock.

    Of the programs of plain descent, over all launches.
    """
    if study.timings.empty:  # no launch has ended
        return {}
    plain = {"optimizer": "momentum", "schedule": "constant"}
    clock = study.timings[study.timings["what"] == "seconds training"]
    seconds = dict.fromkeys(ax.selection.along(study, "batch_size"), 0.0)
    steps = dict.fromkeys(seconds, 0.0)
    for name, program in study.manifest["provenance"]["programs"].items():
        statics = program["statics"]
        clocked = clock.loc[clock["program"] == name, "value"].to_numpy(np.float64)
        if plain.items() <= statics.items() and len(clocked):
            points = study.among(**statics)
            seconds[statics["batch_size"]] += clocked.sum()
            steps[statics["batch_size"]] += sum(study.numbers(p, "steps").sum() for p in points)
    return {batch: seconds[batch] / steps[batch] for batch in seconds if steps[batch]}


def curve_of(study: ax.Study, point: ax.Chosen) -> tuple[np.ndarray, np.ndarray]:
    """(steps, [restarts, evaluations] of the training loss)."""
    wide = study.curve(point, "train/loss")
    return wide.index.to_numpy(), wide.to_numpy(np.float64).T


def batch_figure(study: ax.Study):
    """Training loss against epochs and against time, by the size of the batch."""
    methods, cost = ax.selection.methods(study), seconds_per_step(study)
    names = {batch_group(b): b for b in BATCHES} | {TIMED: EXAMPLES}
    names = {"constant" if b == BATCH else name: b for name, b in names.items()}
    lines = {name: b for name, b in names.items() if name in methods and b in cost}
    if len(lines) < 2:
        raise ax.Missing("the study has no two sizes of batches")
    figure, panels = plot.panels(2, width=5.2, sharey=True)
    for number, (name, batch) in enumerate(lines.items()):
        steps, losses = curve_of(study, methods[name])
        intervals = [ax.statistics.mean_interval(column) for column in losses.T]
        label = batch_group(batch) if name != TIMED else TIMED
        xs = steps * batch / EXAMPLES, 1e3 * steps * cost[batch]
        for panel, x in zip(panels, xs, strict=True):
            plot.shaded(panel, x, intervals, number=number, alpha=0.2, label=label)
    for panel, label in zip(panels, ("epochs", "milliseconds a network, in this study"),
                            strict=True):  # fmt: skip
        panel.set(xlabel=label, ylabel="training loss", xscale="log", yscale="log")
    plot.legend(panels[0])
    return plot.captioned(
        figure, "Small batches against full batches, each at its best rate: by epochs and by time."
    )


def methods_figure(study: ax.Study):
    """Training loss of every method, at its best rate."""
    methods = {n: p for n, p in ax.selection.methods(study).items() if n != ax.BASELINE}
    figure, (panel,) = plot.panels(1, width=6.8, height=1.0 + 0.27 * max(len(methods), 2))
    plot.dots(panel, {name: study.interval(p, "train/loss") for name, p in methods.items()})
    panel.set(xlabel="training loss at the end (log scale)", xscale="log")
    return plot.captioned(figure, "How far each method gets, at its best rate.")


FIGURES = {"cliff": cliff_figure, "batches": batch_figure, "methods": methods_figure}


@ax.quantities
def at_equal_time(study: ax.Study):
    """The loss of small batches and of full batches, when both have had the same time."""
    methods, cost = ax.selection.methods(study), seconds_per_step(study)
    curves = {
        BATCH: curve_of(study, methods["constant"]),
        EXAMPLES: curve_of(study, methods[TIMED]),
    }
    if not curves.keys() <= cost.keys():
        raise ax.Missing("no clock of a batch size")
    budget = min(steps[-1] * cost[batch] for batch, (steps, _) in curves.items())
    ends = []
    for batch, (steps, losses) in curves.items():
        done = np.flatnonzero(steps * cost[batch] <= budget * (1 + 1e-9))
        ends.append(losses[:, done[-1]])
    measured = (
        f"training loss after equal time by this run's clock: batches of {BATCH} − all at once"
    )
    return {measured: ends[0] - ends[1]}


NOTES = "course notes, Stochastic Gradient Descent"
DECAY = "course notes, Learning Rate Decay"
MOMENTUM = "course notes, Momentum"
DECAYING = [name for name in ax.schedules.SCHEDULES if name != "constant"]
loss = ax.column("train/loss")
rate = ax.column("train/loss", by="learning_rate", group="constant")
CLAIMS = [
    ax.Claim(
        "stochastic-beats-batch-at-equal-epochs",
        "At equal epochs many inexact steps get further than few exact ones.",
        NOTES,
        loss["constant"] < loss["all at once"],
        loss["batches of 4"] < loss["all at once"],
        loss["batches of 256"] < loss["all at once"],
    ),
    ax.Claim(
        "stochastic-beats-batch-at-equal-time",
        "Stochastic descent is also ahead of full-batch descent at equal time.",
        NOTES,
        at_equal_time < 0,
    ),
    ax.Claim(
        "too-small-a-rate-is-slow",
        "With too small a learning rate, descent is slow.",
        DECAY,
        (rate[CLIFF[0]] - loss["constant"]).named(
            f"training loss: rate {CLIFF[0]:g} (too small) − best rate"
        )
        > 0,
    ),
    ax.Claim(
        "too-large-a-rate-overshoots",
        "With too large a learning rate, descent misses the minimum.",
        DECAY,
        (rate[CLIFF[-1]] - loss["constant"]).named(
            f"training loss: rate {CLIFF[-1]:g} (too large) − best rate"
        )
        > 0,
    ),
    ax.Claim(
        "decay-helps",
        "A decaying rate gets closer to the minimum than a constant one, each at its best initial "
        "rate.",
        DECAY,
        *(loss[name] < loss["constant"] for name in DECAYING),
    ),
    ax.Claim(
        "decay-helps-with-random-labels",
        "Where a fifth of the labels are random and the gradient stays noisy, a decaying rate gets "
        "closer to the minimum than a constant one.",
        DECAY,
        *(loss[noisy(name)] < loss[noisy("constant")] for name in DECAYING),
    ),
    ax.Claim(
        "momentum-speeds-descent",
        "By small batches, momentum gets further in the same number of steps than plain descent.",
        MOMENTUM,
        *(loss[f"momentum {beta:g}"] < loss["constant"] for beta in (0.5, 0.9)),
    ),
    ax.Claim(
        "momentum-speeds-batch-descent",
        "By full batches, momentum gets further in the same number of steps than plain descent.",
        MOMENTUM,
        *(loss[whole("momentum", beta)] < loss[TIMED] for beta in (0.5, 0.9)),
    ),
    ax.Claim(
        "nesterov-is-better-at-high-momentum",
        "By full batches, Nesterov's form gets further than the heavy ball at high momentum.",
        "Sutskever et al. 2013",
        *(loss[whole("nesterov", beta)] < loss[whole("momentum", beta)] for beta in MOMENTA[2:]),
    ),
    ax.Claim(
        "nesterov-is-better-by-small-batches",
        "By small batches, Nesterov's form gets further than the heavy ball at high momentum.",
        "our own question",
        *(loss[f"nesterov {beta:g}"] < loss[f"momentum {beta:g}"] for beta in MOMENTA[2:]),
    ),
    ax.Claim(
        "adam-beats-plain-descent",
        "Adam gets further than plain descent, each at its best constant rate.",
        "our own question",
        loss["adam"] < loss["constant"],
    ),
]
