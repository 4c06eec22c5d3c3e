"""Which descent reaches the lowest training loss: small batches, decay, momentum, or Adam?

The same network learns digits for twenty epochs: with batches of several sizes, decaying rates,
momenta from 0 to 0.99, Nesterov's form, and Adam, each at learning rates from far too small to far
too large, of which the training loss of the other restarts chooses: generalization is not asked.

Source: course notes, "Batch Gradient Descent" to "Momentum"; Sutskever et al. 2013 (Nesterov).

Command: ./launch.sh optimization              (about three minutes on 2 CPU cores)

Expected: at equal epochs small batches are far ahead of the full batch. Momentum helps, most where
the gradient is exact; decay does not, each method at its best rate.
"""

from typing import Any

import ablax as ax
from ablax import grid
from ablax.report import clock
from ablax.schedules import SCHEDULES, schedule

EXAMPLES, EPOCHS, BATCH = 1024, 20, 32
CLIFF = tuple(2.0**n for n in range(-10, 6))
RATES = tuple(2.0**n for n in range(-7, 2))
LOW = tuple(2.0**n for n in range(-12, -3))
OTHER_RATES = dict.fromkeys(("adam", "momentum 0.99", "nesterov 0.99"), LOW) | {"constant": CLIFF}
MOMENTA = (0.5, 0.9, 0.95, 0.99)
DECAYING = [name for name in SCHEDULES if name != "constant"]
FULL = "full batch"
TIMED = f"{FULL}, equal wall-clock time"  # as many epochs as take the time of the small batches
BATCHES = {4: "batches of 4", BATCH: "constant", 256: "batches of 256", EXAMPLES: FULL}


class Config(ax.BaseConfig):
    optimizer: str = ax.static(
        "momentum", "momentum 0 is plain descent", choices=ax.optimizers.OPTIMIZERS
    )
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
    both = [(name, beta) for name in ("momentum", "nesterov") for beta in MOMENTA]
    methods: dict[str, dict[str, Any]] = {
        "constant": {},
        **{name: {"batch_size": b, **epochs(n, b)} for b, name in BATCHES.items() if b != BATCH},
        TIMED: long,
        **{f"momentum {beta:g}": {"momentum": beta} for beta in MOMENTA},
        **{f"nesterov {beta:g}": {"momentum": beta, "optimizer": "nesterov"} for beta in MOMENTA},
        **{name: {"schedule": name} for name in DECAYING},
        "adam": {"optimizer": "adam", "momentum": 0.9},
        **{f"{s}, random labels": {"schedule": s, "label_noise": 0.2} for s in SCHEDULES},
        **{f"{FULL}, {name} {b:g}": {"optimizer": name, "momentum": b, **long} for name, b in both},
    }
    rows = {}
    for name, change in methods.items():  # each rate is twice the last: none is tuned more finely
        rates = OTHER_RATES.get(name, RATES[3:] if name.startswith(f"{FULL}, ") else RATES)
        rows[name] = [change | {"learning_rate": rate} for rate in rates]
    return grid.table(config, grid.rows({}, rows))


def task(config: Config) -> ax.Task:
    def descent(trial):
        steps, halving = trial.steps, config.schedule == "step_decay"
        factor, interval = (0.5, steps // 5) if halving else (0.01, steps)
        decay = {"timescale": steps / 20, "decay_rate": factor, "decay_steps": interval}
        rate = schedule(config.schedule, trial.hparams.learning_rate, steps=steps, **decay)
        return ax.optimizers.optimizer(config.optimizer, rate, momentum=trial.hparams.momentum)

    usual = ax.supervised(
        ax.nn.MLP((config.width,), n_outputs=10),
        ax.data.split(ax.data.load("digits"), train_size=EXAMPLES, seed=0),
        optimizer=descent,
        batch_size=config.batch_size,
        regularization=ax.Regularization(label_noise=lambda hparams: hparams.label_noise),
    )
    # Each rate is chosen by the loss of "valid": of the training examples.
    return ax.validate_on_training(usual).replace(metrics=(ax.LOSS, ax.ACCURACY))


loss = ax.column("train/loss")
plain = {"schedule": "constant", "batch_size": BATCH, "label_noise": 0.0}
by_rate = ax.column("train/loss", by="learning_rate", **plain)
valleys = {f"momentum {b:g}": by_rate.at(optimizer="momentum", momentum=b) for b in (0, *MOMENTA)}
slow, fast = (valleys["momentum 0"][rate] for rate in (CLIFF[0], CLIFF[-1]))
FIGURES = {
    "cliff": ax.charts.lines(
        {"": {**valleys, "adam": by_rate.at(optimizer="adam")}},
        "Small rates are slow, large ones fall off a cliff; momentum β scales both by ≈ 1 − β.",
        width=6.4,
        xscale="log",
        yscale="log",
        xlabel="learning rate",
        ylabel="training loss at the end",
    ),
    "batches": clock.curves(
        {name: name.replace("constant", "batches of 32") for name in (*BATCHES.values(), TIMED)},
        "train/loss",
        "Small batches against the full batch, each at its best rate: by epochs and by time.",
        examples=EXAMPLES,
    ),
    "methods": ax.charts.dots(
        {"": loss}, "Each method at its best rate.", xscale="log", xlabel="training loss at the end"
    ),
}

CLAIMS = [
    ax.Claim(
        "stochastic-beats-batch-at-equal-epochs",
        "After equal epochs, small batches reach a lower training loss than the full batch.",
        "course notes, Stochastic Gradient Descent",
        *(loss[name] < loss[FULL] for name in ("constant", "batches of 4", "batches of 256")),
    ),
    ax.Claim(
        "stochastic-beats-batch-at-equal-time",
        "At equal wall-clock time batches of 32 reach a lower training loss than the full batch.",
        "course notes, Stochastic Gradient Descent",
        clock.at_equal_time("train/loss", "constant", TIMED) < 0,
    ),
    ax.Claim(
        "too-small-a-rate-is-slow",
        "With too small a learning rate, descent is slow.",
        "course notes, Learning Rate Decay",
        (slow - loss["constant"]).named(f"train/loss: rate {CLIFF[0]:g} − best rate") > 0,
    ),
    ax.Claim(
        "too-large-a-rate-overshoots",
        "With too large a learning rate, descent misses the minimum.",
        "course notes, Learning Rate Decay",
        (fast - loss["constant"]).named(f"train/loss: rate {CLIFF[-1]:g} − best rate") > 0,
    ),
    ax.Claim(
        "decay-helps",
        "A rate that decreases gets closer to the minimum than a constant one, each at its best.",
        "course notes, Learning Rate Decay",
        *(loss[name] < loss["constant"] for name in DECAYING),
    ),
    ax.Claim(
        "decay-helps-with-random-labels",
        "With a fifth of the labels random, a decreasing rate reaches a lower training loss.",
        "course notes, Learning Rate Decay",
        *(loss[f"{s}, random labels"] < loss["constant, random labels"] for s in DECAYING),
    ),
    ax.Claim(
        "momentum-speeds-descent",
        "With small batches, momentum 0.5 and 0.9 reach a lower loss than plain descent at equal "
        "steps.",
        "course notes, Momentum",
        *(loss[f"momentum {beta:g}"] < loss["constant"] for beta in MOMENTA[:2]),
    ),
    ax.Claim(
        "momentum-speeds-batch-descent",
        "With the full batch, momentum 0.5 and 0.9 reach a lower loss than plain descent at equal "
        "steps.",
        "course notes, Momentum",
        *(loss[f"{FULL}, momentum {beta:g}"] < loss[TIMED] for beta in MOMENTA[:2]),
    ),
    ax.Claim(
        "nesterov-is-better-at-high-momentum",
        "With full batches and high momentum, Nesterov's form has a lower loss than Polyak's.",
        "Sutskever et al. 2013",
        *(loss[f"{FULL}, nesterov {b:g}"] < loss[f"{FULL}, momentum {b:g}"] for b in MOMENTA[2:]),
    ),
    ax.Claim(
        "nesterov-is-better-by-small-batches",
        "With small batches and high momentum, Nesterov's form has a lower loss than Polyak's.",
        "our own question",
        *(loss[f"nesterov {beta:g}"] < loss[f"momentum {beta:g}"] for beta in MOMENTA[2:]),
    ),
    ax.Claim(
        "adam-beats-plain-descent",
        "Adam reaches a lower training loss than plain descent, each at its best constant rate.",
        "our own question",
        loss["adam"] < loss["constant"],
    ),
]
