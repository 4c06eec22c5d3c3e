"""Which way of descending gets furthest: small batches, a decaying rate, momentum, or Adam?

The same network learns digits for twenty epochs by batches of all sizes, at learning rates from
far too small to far too large, with rates that decay in five ways, with momentum from 0 to 0.99,
Nesterov's momentum, and Adam: every method at rates as close to each other, of which the training
loss chooses (that of the other restarts): how far descent gets is the question, not how well it
generalizes.

Source: course notes, "Batch Gradient Descent" to "Momentum"; Sutskever et al. 2013 for Nesterov's
momentum.

Command: ./launch.sh optimization              (about three minutes on 2 CPU cores)

Expected: at equal epochs small batches are far ahead of all examples at once. Momentum helps, most
where the gradient is exact; decay does not, each method at its best rate.
"""

import dataclasses
from typing import Any

import numpy as np

from ablax import losses, metrics, optimizers, schedules
from ablax.config import BaseConfig, Preset, hparam, static, values
from ablax.data import load, split
from ablax.metrics import ACCURACY, LOSS
from ablax.nn.mlp import MLP
from ablax.report import plot as draw
from ablax.report import selection
from ablax.report.claims import Claim, Test, between, every
from ablax.report.quantities import NEGATIVE, Effect
from ablax.report.statistics import mean_interval
from ablax.report.study import BASELINE, Chosen, Study
from ablax.study import grid
from ablax.task import Task
from ablax.tasks.supervised import Regularization, supervised

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
"""Batch descent for as many epochs as take the time of the others."""


class Config(BaseConfig):
    optimizer: str = static(
        "momentum", "momentum 0 is plain descent", choices=optimizers.OPTIMIZERS
    )
    schedule: str = static("constant", "of the learning rate", choices=schedules.SCHEDULES)
    batch_size: int = static(BATCH, "examples of a step", low=1)
    width: int = static(32, "units of the hidden layer", low=1)
    learning_rate: float = hparam(0.1, "initial rate", low=0)
    momentum: float = hparam(0.0, "share of the last step that is kept", low=0, below=1)
    label_noise: float = hparam(0.0, "share of training labels that are drawn anew", low=0, high=1)


def epochs(n: float, batch: int) -> dict[str, Any]:
    """The protocol of n epochs, evaluated twenty times."""
    every_ = max(1, round(n * EXAMPLES / batch / 20))
    return {"steps": 20 * every_, "eval_every": every_}


PRESETS = {
    "smoke": Preset(Config(steps=15, eval_every=3), 3),
    "default": Preset(Config(**epochs(EPOCHS, BATCH)), 16),
    "paper": Preset(Config(**epochs(10 * EPOCHS, BATCH)), 64),
}


def points(config: Config) -> list[grid.Setting]:
    steps = max(values(config.steps))
    if steps < EPOCHS:
        return grid.tabled(
            config, [{grid.GROUP: BASELINE}, {grid.GROUP: "adam", "optimizer": "adam"}]
        )
    n = steps * BATCH / EXAMPLES
    methods = {
        **{batch_group(b): {"batch_size": b, **epochs(n, b)} for b in BATCHES if b != BATCH},
        TIMED: {"batch_size": EXAMPLES, **epochs(20 * n, EXAMPLES)},
        **{f"momentum {beta:g}": {"momentum": beta} for beta in MOMENTA},
        **{f"nesterov {beta:g}": {"momentum": beta, "optimizer": "nesterov"} for beta in MOMENTA},
        **{name: {"schedule": name} for name in schedules.SCHEDULES if name != "constant"},
        "adam": {"optimizer": "adam", "momentum": 0.9},
        **{noisy(name): {"schedule": name, "label_noise": NOISE} for name in schedules.SCHEDULES},
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
    return grid.tabled(config, [{grid.GROUP: BASELINE}, *plain, *others])


def rates_of(name: str) -> tuple[float, ...]:
    """Twice as large from one to the next, for all: none is tuned more finely than another.

    Those by all examples for as long as the others, which are only compared with each other, do
    without the smallest.
    """
    if name.startswith(batch_group(EXAMPLES) + ", "):
        return RATES[3:]
    return SMALL_RATES if name in SMALL else RATES


def noisy(schedule: str) -> str:
    return f"{schedule}, random labels"


def whole(name: str, beta: float) -> str:
    """A method with momentum by batches of all examples."""
    return f"all at once, {name} {beta:g}"


def batch_group(batch: int) -> str:
    return "all at once" if batch == EXAMPLES else f"batches of {batch}"


def task(config: Config) -> Task:
    splits = split(load("digits"), train_size=EXAMPLES, seed=0)

    def optimizer(trial):
        h = trial.hparams
        rate = schedules.schedule(
            config.schedule,
            h.learning_rate,
            steps=trial.steps,
            timescale=trial.steps / 20,
            decay_rate=0.5 if config.schedule == "step_decay" else 0.01,
            decay_steps=trial.steps // 5 if config.schedule == "step_decay" else trial.steps,
            end_fraction=0.0,
        )
        return optimizers.optimizer(config.optimizer, rate, momentum=h.momentum)

    usual = supervised(
        MLP((config.width,), len(splits.classes)),
        splits,
        loss=losses.loss("softmax_cross_entropy_with_integer_labels"),
        metrics={
            LOSS: losses.loss("softmax_cross_entropy_with_integer_labels"),
            ACCURACY: metrics.accuracy,
        },
        optimizer=optimizer,
        batch_size=config.batch_size,
        regularization=Regularization(label_noise=lambda hparams: hparams.label_noise),
    )

    def view(trial, data):
        """What is compared is how far descent gets, so the rates are chosen by that as well."""
        seen = usual.view(trial, data)
        return {**seen, "valid": seen["train"]}

    return dataclasses.replace(usual, view=view, objective=None)


def figures(table: Study) -> dict:
    drawn = {"cliff": cliff_figure(table)}
    if batches := batch_figure(table):
        drawn["batches"] = batches
    return drawn | {"methods": methods_figure(table)}


def cliff_figure(table: Study):
    """Training loss against the learning rate, by momentum: a valley, and then the cliff."""
    figure, (ax,) = draw.panels(1, width=6.4)
    plain = {"schedule": "constant", "batch_size": BATCH, "label_noise": 0.0}
    momenta = selection.along(table, "momentum", **plain, optimizer="momentum")
    methods = {
        **{f"momentum {beta:g}": {"optimizer": "momentum", "momentum": beta} for beta in momenta},
        "adam": {"optimizer": "adam"},
    }
    lines = {
        name: selection.along(table, "learning_rate", **plain, **of) for name, of in methods.items()
    }
    for number, (name, points) in enumerate(lines.items()):
        values = [table.interval(point, "train/loss") for point in points.values()]
        draw.with_intervals(ax, list(points), values, label=name, number=number)
    ax.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="training loss at the end")
    draw.legend(ax)
    return draw.captioned(
        figure,
        "Too small a rate is slow; too large a rate falls off a cliff. Momentum β moves both to "
        "rates about 1 − β times as large.",
    )


def seconds_per_step(table: Study) -> dict[int, float]:
    """{batch size: seconds that a step of one trial took}, by this study's own clock.

    Of the programs of plain descent, over all launches.
    """
    if table.timings.empty:  # no launch has ended
        return {}
    plain = {"optimizer": "momentum", "schedule": "constant"}
    clock = table.timings[table.timings["what"] == "seconds training"]
    seconds = dict.fromkeys(selection.along(table, "batch_size"), 0.0)
    steps = dict.fromkeys(seconds, 0.0)
    for name, program in table.manifest["provenance"]["programs"].items():
        statics = program["statics"]
        clocked = clock.loc[clock["program"] == name, "value"].to_numpy(np.float64)
        if plain.items() <= statics.items() and len(clocked):
            points = table.among(**statics)
            seconds[statics["batch_size"]] += clocked.sum()
            steps[statics["batch_size"]] += sum(table.numbers(p, "steps").sum() for p in points)
    return {batch: seconds[batch] / steps[batch] for batch in seconds if steps[batch]}


def curve_of(table: Study, point: Chosen) -> tuple[np.ndarray, np.ndarray]:
    """(steps, [restarts, evaluations] of the training loss)."""
    wide = table.curve(point, "train/loss")
    return wide.index.to_numpy(), wide.to_numpy(np.float64).T


def batch_figure(table: Study):
    """Training loss against epochs and against time, by the size of the batch."""
    methods, cost = selection.methods(table), seconds_per_step(table)
    names = {batch_group(b): b for b in BATCHES} | {TIMED: EXAMPLES}
    names = {"constant" if b == BATCH else name: b for name, b in names.items()}
    found = {name: b for name, b in names.items() if name in methods and b in cost}
    if len(found) < 2:
        return None
    figure, axes = draw.panels(2, width=5.2, sharey=True)
    for number, (name, batch) in enumerate(found.items()):
        steps, values = curve_of(table, methods[name])
        intervals = [mean_interval(column) for column in values.T]
        label = batch_group(batch) if name != TIMED else TIMED
        for ax, x in zip(axes, (steps * batch / EXAMPLES, 1e3 * steps * cost[batch]), strict=True):
            draw.shaded(ax, x, intervals, number=number, alpha=0.2, label=label)
    for ax, label in zip(axes, ("epochs", "milliseconds a network, in this study"), strict=True):
        ax.set(xlabel=label, ylabel="training loss", xscale="log", yscale="log")
    draw.legend(axes[0])
    return draw.captioned(
        figure,
        "Small batches against all examples at once, each at its best rate: by epochs and by time.",
    )


def methods_figure(table: Study):
    """Training loss of every method, at its best rate."""
    methods = {name: point for name, point in selection.methods(table).items() if name != BASELINE}
    figure, (ax,) = draw.panels(1, width=6.8, height=1.0 + 0.27 * max(len(methods), 2))
    draw.dots(ax, {name: table.interval(p, "train/loss") for name, p in methods.items()})
    ax.set(xlabel="training loss at the end (log scale)", xscale="log")
    return draw.captioned(figure, "How far each method gets, at its best rate.")


def less_loss(a: str, b: str) -> Test:
    return between("train/loss", a, b, NEGATIVE)


def of_rates(worse: float, measured: str) -> Test:
    """The test that a rate leaves more training loss than the best of its line."""

    def test(table: Study) -> list[Effect] | None:
        methods = selection.methods(table)
        rates = selection.along(table, "learning_rate", group="constant")
        if worse not in rates:
            return None
        values = table.differences(rates[worse], methods["constant"], "train/loss")
        return [Effect(values, f"training loss: rate {worse:g} ({measured}) − best rate")]

    return test


def at_equal_time(table: Study) -> list[Effect] | None:
    """The loss of small batches and of all examples at once, when both have had the same time."""
    methods, cost = selection.methods(table), seconds_per_step(table)
    if not {"constant", TIMED} <= methods.keys() or not {BATCH, EXAMPLES} <= cost.keys():
        return None
    curves = {BATCH: curve_of(table, methods["constant"]),
              EXAMPLES: curve_of(table, methods[TIMED])}  # fmt: skip
    budget = min(steps[-1] * cost[batch] for batch, (steps, _) in curves.items())
    ends = []
    for batch, (steps, losses_) in curves.items():
        done = np.flatnonzero(steps * cost[batch] <= budget * (1 + 1e-9))
        ends.append(losses_[:, done[-1]])
    measured = (
        f"training loss after equal time by this run's clock: batches of {BATCH} − all at once"
    )
    return [Effect(ends[0] - ends[1], measured, NEGATIVE)]


NOTES = "course notes, Stochastic Gradient Descent"
RATE = "course notes, Learning Rate Decay"
DECAYING = [name for name in schedules.SCHEDULES if name != "constant"]
CLAIMS = [
    Claim(
        "stochastic-beats-batch-at-equal-epochs",
        "At equal epochs many inexact steps get further than few exact ones.",
        NOTES,
        every(
            less_loss("constant", "all at once"),
            less_loss("batches of 4", "all at once"),
            less_loss("batches of 256", "all at once"),
        ),
    ),
    Claim(
        "stochastic-beats-batch-at-equal-time",
        "So they do in equal time.",
        NOTES,
        at_equal_time,
    ),
    Claim(
        "too-small-a-rate-is-slow",
        "With too small a learning rate, descent is slow.",
        RATE,
        of_rates(CLIFF[0], "too small"),
    ),
    Claim(
        "too-large-a-rate-overshoots",
        "With too large a learning rate, it misses the minimum.",
        RATE,
        of_rates(CLIFF[-1], "too large"),
    ),
    Claim(
        "decay-helps",
        "A rate that decreases gets closer to the minimum than a constant one, each at its best "
        "initial rate.",
        RATE,
        every(*(less_loss(name, "constant") for name in DECAYING)),
        "The network fits every example, so the gradient's noise dies out by itself and there is "
        "nothing to decay for; with random labels there is.",
    ),
    Claim(
        "decay-helps-with-random-labels",
        "So it does where a fifth of the labels are random and the gradient stays noisy.",
        RATE,
        every(*(less_loss(noisy(name), noisy("constant")) for name in DECAYING)),
        "Rates that fall to a hundredth within the run, or by halves, stop too soon; the others "
        "end where a constant rate ends at its best.",
    ),
    Claim(
        "momentum-speeds-descent",
        "Momentum gets further in the same number of steps than plain descent, by small batches.",
        "course notes, Momentum",
        every(*(less_loss(f"momentum {beta:g}", "constant") for beta in (0.5, 0.9))),
        "By little: noisy steps can be made as large by a larger rate, and each is at its best.",
    ),
    Claim(
        "momentum-speeds-batch-descent",
        "So it does by all examples at once.",
        "course notes, Momentum",
        every(*(less_loss(whole("momentum", beta), TIMED) for beta in (0.5, 0.9))),
    ),
    Claim(
        "nesterov-is-better-at-high-momentum",
        "At high momentum Nesterov's form gets further than the heavy ball, by all examples.",
        "Sutskever et al. 2013",
        every(*(less_loss(whole("nesterov", b), whole("momentum", b)) for b in MOMENTA[2:])),
        "Both end below 1e-3, long after the network fits every example; and at large rates it is "
        "Nesterov's form that falls off the cliff first.",
    ),
    Claim(
        "nesterov-is-better-by-small-batches",
        "By small batches it does, too.",
        "our own question",
        every(*(less_loss(f"nesterov {b:g}", f"momentum {b:g}") for b in MOMENTA[2:])),
        "At 0.95 and 0.99 sixteen restarts do not tell the two apart.",
    ),
    Claim(
        "adam-beats-plain-descent",
        "Adam gets further than plain descent, each at its best constant rate.",
        "our own question",
        less_loss("adam", "constant"),
        remark="Most restarts end a little below; one, at the other rate that the others choose "
        "for it, on a spike.",
    ),
]
