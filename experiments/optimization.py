"""Which way of descending gets furthest: small batches, a decaying rate, momentum, or Adam?

The same network learns digits for twenty epochs by batches of all sizes, at learning rates from
far too small to far too large, with rates that decay in five ways, with momentum from 0 to 0.99,
Nesterov's momentum, and Adam. All methods are tried at rates as close to each other, of which the
training loss (that of the other restarts) chooses: the question is how far descent gets, not how
well it generalizes.

Source: course notes, "Batch Gradient Descent" to "Momentum"; Sutskever et al. 2013 (Nesterov).

Command: ./launch.sh optimization              (about three minutes on 2 CPU cores)

Expected: at equal epochs small batches are far ahead of the full batch. Momentum helps, most where
the gradient is exact; decay does not, each method at its best rate.
"""

import dataclasses
import itertools
from contextlib import suppress
from typing import Any

import ablax as ax
from ablax import grid, plot
from ablax.optimizers import OPTIMIZERS, optimizer
from ablax.schedules import SCHEDULES, schedule

EXAMPLES, EPOCHS, BATCH = 1024, 20, 32
CLIFF = tuple(2.0**n for n in range(-10, 6))
RATES = tuple(2.0**n for n in range(-7, 2))
LOW = tuple(2.0**n for n in range(-12, -3))
OTHER_RATES = dict.fromkeys(("adam", "momentum 0.99", "nesterov 0.99"), LOW) | {"constant": CLIFF}
MOMENTA = (0.5, 0.9, 0.95, 0.99)
DECAYING = [name for name in SCHEDULES if name != "constant"]
FULL = "all at once"
TIMED = f"{FULL}, for as long"  # for as many epochs as take the time of the small batches
BATCHES = {4: "batches of 4", BATCH: "constant", 256: "batches of 256", EXAMPLES: FULL}


class Config(ax.BaseConfig):
    optimizer: str = ax.static("momentum", "momentum 0 is plain descent", choices=OPTIMIZERS)
    schedule: str = ax.static("constant", "of the learning rate", choices=SCHEDULES)
    batch_size: int = ax.static(BATCH, "examples of a step", low=1)
    width: int = ax.static(32, "units of the hidden layer", low=1)
    learning_rate: float = ax.hparam(0.1, "initial rate", low=0)
    momentum: float = ax.hparam(0.0, "share of the last step that is kept", low=0, below=1)
    label_noise: float = ax.hparam(0.0, "share of training labels drawn anew", low=0, high=1)


def epochs(n: float, batch: int) -> dict[str, Any]:
    """The protocol of n epochs, evaluated twenty times."""
    eval_every = max(1, round(n * EXAMPLES / batch / 20))
    return {"steps": 20 * eval_every, "eval_every": eval_every}


PRESETS = {
    "smoke": ax.Preset(Config(steps=15, eval_every=3), 3),
    "default": ax.Preset(Config(**epochs(EPOCHS, BATCH)), 16),
    "paper": ax.Preset(Config(**epochs(10 * EPOCHS, BATCH)), 64),
}


def points(config: Config) -> list[grid.Setting]:
    steps = max(ax.values(config.steps))
    if steps < EPOCHS:
        return grid.table(config, grid.rows({}, {"adam": [{"optimizer": "adam"}]}))
    n = steps * BATCH / EXAMPLES
    long = {"batch_size": EXAMPLES, **epochs(20 * n, EXAMPLES)}
    methods: dict[str, dict[str, Any]] = {
        "constant": {},
        **{name: {"batch_size": b, **epochs(n, b)} for b, name in BATCHES.items() if b != BATCH},
        TIMED: long,
        **{f"momentum {beta:g}": {"momentum": beta} for beta in MOMENTA},
        **{f"nesterov {beta:g}": {"momentum": beta, "optimizer": "nesterov"} for beta in MOMENTA},
        **{name: {"schedule": name} for name in DECAYING},
        "adam": {"optimizer": "adam", "momentum": 0.9},
        **{f"{s}, random labels": {"schedule": s, "label_noise": 0.2} for s in SCHEDULES},
    }
    for name, beta in itertools.product(("momentum", "nesterov"), MOMENTA):
        methods[f"{FULL}, {name} {beta:g}"] = {"optimizer": name, "momentum": beta, **long}
    rows = {}
    for name, change in methods.items():  # each rate is twice the last: none is tuned more finely
        rates = OTHER_RATES.get(name, RATES[3:] if name.startswith(f"{FULL}, ") else RATES)
        rows[name] = [change | {"learning_rate": rate} for rate in rates]
    return grid.table(config, grid.rows({}, rows))


def task(config: Config) -> ax.Task:
    splits = ax.data.split(ax.data.load("digits"), train_size=EXAMPLES, seed=0)
    loss = ax.losses.loss("softmax_cross_entropy_with_integer_labels")

    def descent(trial):
        steps, halving = trial.steps, config.schedule == "step_decay"
        factor, interval = (0.5, steps // 5) if halving else (0.01, steps)
        decay = {"timescale": steps / 20, "decay_rate": factor, "decay_steps": interval}
        rate = schedule(config.schedule, trial.hparams.learning_rate, steps=steps, **decay)
        return optimizer(config.optimizer, rate, momentum=trial.hparams.momentum)

    usual = ax.supervised(
        ax.nn.MLP((config.width,), len(splits.classes)),
        splits,
        loss=loss,
        metrics={ax.LOSS: loss, ax.ACCURACY: ax.metrics.accuracy},
        optimizer=descent,
        batch_size=config.batch_size,
        regularization=ax.Regularization(label_noise=lambda hparams: hparams.label_noise),
    )

    def view(trial, data):  # validates on the training split: rates are chosen by its loss
        arrays = usual.view(trial, data)
        return arrays | {"valid": arrays["train"]}

    return dataclasses.replace(usual, view=view, objective=None)


def cliff_figure(study: ax.Study):
    """Training loss against the learning rate, by momentum: a valley, and then the cliff."""
    plain = {"schedule": "constant", "batch_size": BATCH, "label_noise": 0.0}
    momenta = ax.selection.along(study, "momentum", **plain, optimizer="momentum")
    methods = {f"momentum {b:g}": {"optimizer": "momentum", "momentum": b} for b in momenta}
    lines = {}
    for name, where in (methods | {"adam": {"optimizer": "adam"}}).items():
        rates = ax.selection.along(study, "learning_rate", **plain, **where)
        lines[name] = {rate: study.interval(p, "train/loss") for rate, p in rates.items()}
    caption = (
        "Small rates are slow, large ones fall off a cliff; momentum β scales both by ≈ 1 − β."
    )
    look: dict[str, Any] = {"width": 6.4, "xscale": "log", "yscale": "log"}
    look |= {"xlabel": "learning rate", "ylabel": "training loss at the end"}
    return plot.interval_panels({"": lines}, caption, **look)


def seconds_per_step(study: ax.Study, batch: int) -> float:
    """Seconds that a step of one trial of plain descent took, over all launches of the study."""
    if study.timings.empty:
        raise ax.Missing("no launch has ended")
    plain = {"optimizer": "momentum", "schedule": "constant", "batch_size": batch}
    clock = study.timings
    programs = study.manifest["provenance"]["programs"].items()
    names = [name for name, program in programs if plain.items() <= program["statics"].items()]
    times = clock.loc[clock["program"].isin(names) & (clock["what"] == "seconds training"), "value"]
    if times.empty:
        raise ax.Missing(f"plain descent by batches of {batch} was not timed")
    return float(times.sum() / sum(study.numbers(p, "steps").sum() for p in study.among(**plain)))


def curve_of(study: ax.Study, method: str, batch: int):
    """(epochs, seconds, evaluations × restarts of the training loss) of a method."""
    point = ax.selection.methods(study)[method]
    losses = study.curve(point, "train/loss").astype(float)
    losses = losses.set_axis(study.of(point)["restart"].to_numpy(), axis=1)
    steps = losses.index.to_numpy()
    return steps * batch / EXAMPLES, steps * seconds_per_step(study, batch), losses


def batches_figure(study: ax.Study):
    """Training loss against epochs and against time, by the size of the batch."""
    figure, axes = plot.panels(2, width=5.2, sharey=True)
    for number, (batch, method) in enumerate([*BATCHES.items(), (EXAMPLES, TIMED)]):
        with suppress(ax.Missing):
            epochs, seconds, losses = curve_of(study, method, batch)
            means = [ax.statistics.mean_interval(row) for row in losses.to_numpy()]
            label = (
                method.replace(FULL, "full batch") if batch == EXAMPLES else f"batches of {batch}"
            )
            for panel, x in zip(axes, (epochs, 1e3 * seconds), strict=True):
                plot.shaded(panel, x, means, number=number, alpha=0.2, label=label)
    for panel, label in zip(axes, ("epochs", "milliseconds a network, in this study"), strict=True):
        panel.set(xlabel=label, ylabel="training loss", xscale="log", yscale="log")
    plot.legend(axes[0])
    caption = "Small batches against the full batch, each at its best rate: by epochs and by time."
    return plot.captioned(figure, caption)


def methods_figure(study: ax.Study):
    """Training loss of every method, at its best rate."""
    methods = {n: p for n, p in ax.selection.methods(study).items() if n != ax.BASELINE}
    figure, (panel,) = plot.panels(1, width=6.8, height=1.0 + 0.27 * max(len(methods), 2))
    names = {name: name.replace(FULL, "full batch") for name in methods}
    plot.dots(panel, {names[n]: study.interval(p, "train/loss") for n, p in methods.items()})
    panel.set(xlabel="training loss at the end (log scale)", xscale="log")
    return plot.captioned(figure, "How far each method gets, at its best rate.")


FIGURES = {"cliff": cliff_figure, "batches": batches_figure, "methods": methods_figure}


@ax.quantities
def lead_at_equal_time(study: ax.Study):
    """The loss of small batches less that of the full batch, when both have had the same time."""
    both = [curve_of(study, "constant", BATCH), curve_of(study, TIMED, EXAMPLES)]
    budget = min(seconds[-1] for _, seconds, _ in both) * (1 + 1e-9)
    small, full = (losses[seconds <= budget].iloc[-1] for _, seconds, losses in both)
    return {f"train/loss after equal time: batches of {BATCH} − full batch": small - full}


NOTES = "course notes, Stochastic Gradient Descent"
RATE = "course notes, Learning Rate Decay"
MOMENTUM = "course notes, Momentum"
loss = ax.column("train/loss")
at = ax.column("train/loss", by="learning_rate", group="constant")
CLAIMS = [
    ax.Claim(
        "stochastic-beats-batch-at-equal-epochs",
        "At equal epochs many inexact steps get further than few exact ones.",
        NOTES,
        *(loss[name] < loss[FULL] for name in ("constant", "batches of 4", "batches of 256")),
    ),
    ax.Claim(
        "stochastic-beats-batch-at-equal-time",
        "In equal time many inexact steps get further than few exact ones.",
        NOTES,
        lead_at_equal_time < 0,
    ),
    ax.Claim(
        "too-small-a-rate-is-slow",
        "With too small a learning rate, descent is slow.",
        RATE,
        (at[CLIFF[0]] - loss["constant"]).named(f"train/loss: rate {CLIFF[0]:g} − best rate") > 0,
    ),
    ax.Claim(
        "too-large-a-rate-overshoots",
        "With too large a learning rate, descent misses the minimum.",
        RATE,
        (at[CLIFF[-1]] - loss["constant"]).named(f"train/loss: rate {CLIFF[-1]:g} − best rate") > 0,
    ),
    ax.Claim(
        "decay-helps",
        "A rate that decreases gets closer to the minimum than a constant one, each at its best.",
        RATE,
        *(loss[name] < loss["constant"] for name in DECAYING),
    ),
    ax.Claim(
        "decay-helps-with-random-labels",
        "With a fifth of the labels random, a decreasing rate gets further than a constant one.",
        RATE,
        *(loss[f"{s}, random labels"] < loss["constant, random labels"] for s in DECAYING),
    ),
    ax.Claim(
        "momentum-speeds-descent",
        "By small batches momentum gets further in as many steps than plain descent.",
        MOMENTUM,
        *(loss[f"momentum {beta:g}"] < loss["constant"] for beta in MOMENTA[:2]),
    ),
    ax.Claim(
        "momentum-speeds-batch-descent",
        "By full batches momentum gets further in as many steps than plain descent.",
        MOMENTUM,
        *(loss[f"{FULL}, momentum {beta:g}"] < loss[TIMED] for beta in MOMENTA[:2]),
    ),
    ax.Claim(
        "nesterov-is-better-at-high-momentum",
        "At high momentum Nesterov's form gets further than the heavy ball, by full batches.",
        "Sutskever et al. 2013",
        *(loss[f"{FULL}, nesterov {b:g}"] < loss[f"{FULL}, momentum {b:g}"] for b in MOMENTA[2:]),
    ),
    ax.Claim(
        "nesterov-is-better-by-small-batches",
        "At high momentum Nesterov's form gets further than the heavy ball, by small batches.",
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
