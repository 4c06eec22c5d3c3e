"""Is an L2 penalty the same as weight decay?

The penalty λ Σw² has the gradient 2λw, so a step of plain gradient descent on it shrinks the
weights by the factor 1 − 2λη and then descends: decay. Momentum gathers the penalty's gradient
in its velocity, and Adam divides it by the size of the gradients, so there the two differ. The
same network is trained with the penalty λ and with the decoupled decay w ← w(1 − 2λη) by each
optimizer, from the same weights on the same minibatches; what is compared is where they end.

Source: course notes, "L2 Regularization: weight decay interpretation"; Loshchilov and Hutter 2019.

Command: ./launch.sh weight_decay              (about 20 seconds on 2 CPU cores)

Expected: with SGD the two networks end within a thousandth of their weights' norm of each other.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from ablax import losses, metrics, optimizers, penalties, schedules
from ablax.config import BaseConfig, Preset, hparam, static
from ablax.data import load, split
from ablax.metrics import ACCURACY
from ablax.nn.mlp import MLP
from ablax.report import plot as draw
from ablax.report.claims import Claim
from ablax.report.quantities import Effect
from ablax.report.statistics import mean_interval
from ablax.report.study import Study
from ablax.study import grid
from ablax.task import Task
from ablax.tasks.supervised import Records, Regularization, supervised

RATES = {"sgd": 0.1, "momentum": 0.02, "adam": 0.003}
STRENGTHS = [3e-4, 1e-3, 3e-3]
SAME = 0.01
"""Weights that differ by less than this share of their norm are the same."""


class Config(BaseConfig):
    optimizer: str = static("sgd", "how the gradient is followed", choices=RATES)
    width: int = static(32, "units of the hidden layer", low=1)
    batch_size: int = static(64, "rows of a minibatch", low=1)
    learning_rate: float = hparam(0.1, "initial rate, decayed to 0 by a cosine", low=0)
    l2: float = hparam(0.0, "strength λ of the penalty λ Σw²", low=0)
    weight_decay: float = hparam(0.0, "strength of the decoupled decay w ← w(1 − η·decay)", low=0)


def _preset(restarts: int, steps: int) -> Preset:
    return Preset(Config(steps=steps, eval_every=steps // 10), restarts)


PRESETS = {"smoke": _preset(3, 100), "default": _preset(16, 1000), "paper": _preset(64, 3000)}

TABLE = {
    "penalty": grid.product(l2=STRENGTHS),
    "decay": grid.product(weight_decay=[2 * strength for strength in STRENGTHS]),
}


def points(config: Config) -> list[grid.Setting]:
    """The table for each optimizer, at its own learning rate unless one is given."""
    given = grid.axes(config)
    optimizers = given.pop("optimizer", tuple(RATES))
    rate_given = given.pop("learning_rate", None)
    rates = {name: rate_given or (rate,) for name, rate in RATES.items()}
    chosen = {name: given.pop(name) for name in ("l2", "weight_decay") if name in given}
    table = grid.product(**chosen) if chosen else grid.rows({}, TABLE)
    each = grid.chain(
        *(grid.product(optimizer=[name], learning_rate=rates[name]) for name in optimizers)
    )
    return grid.cross(each, grid.cross(table, grid.product(**given)))


def task(config: Config) -> Task:
    splits = split(load("digits"), train_size=300, seed=0)

    def optimizer(trial):
        rate = schedules.cosine(trial.hparams.learning_rate, steps=trial.steps)
        return optimizers.optimizer(config.optimizer, rate, weight_decay=trial.hparams.weight_decay)

    def measure(params, trial):
        weights = jnp.concatenate([w.ravel() for w in penalties.weights(params)])
        return {"l2_norm": penalties.l2_norm(params), "weights": weights}

    usual = supervised(
        MLP((config.width,), n_outputs=10),
        splits,
        loss=losses.loss("softmax_cross_entropy_with_integer_labels"),
        metrics={ACCURACY: metrics.accuracy},
        optimizer=optimizer,
        batch_size=config.batch_size,
        regularization=Regularization(penalty=lambda params, h: h.l2 * penalties.l2(params)),
        records=Records(measure=measure),
    )
    return dataclasses.replace(usual, objective=None)  # the last weights are compared


def pairs(table: Study, optimizer: str) -> list[tuple[str, str]]:
    """(the point with a penalty λ, the one with the decay 2λ that is like it in all else)."""
    ours = {point: table.settings[point] for point in table.among(optimizer=optimizer)}

    def rest(setting):
        return [v for k, v in setting.items() if k not in ("group", "l2", "weight_decay")]

    return [
        (point, other)
        for point, a in ours.items()
        for other, b in ours.items()
        if a["l2"]
        and not a["weight_decay"]
        and b["weight_decay"]
        and not b["l2"]
        and np.isclose(b["weight_decay"], 2 * a["l2"])
        and rest(a) == rest(b)
    ]


def distances(table: Study, a: str, b: str) -> np.ndarray:
    """‖w_a − w_b‖ / ‖w_b‖ at each restart that both points have."""
    weights = table.array("weights")
    trials = [dict(table.of(point)[["restart", "trial"]].to_numpy().tolist()) for point in (a, b)]
    shared = [restart for restart in trials[0] if restart in trials[1]]
    both = [(weights[trials[0][r]], weights[trials[1][r]]) for r in shared]
    return np.array([np.linalg.norm(x - y) / np.linalg.norm(y) for x, y in both])


def figures(table: Study) -> dict:
    figure, (ax,) = draw.panels(1, width=5.6)
    for number, name in enumerate(RATES):
        found = pairs(table, name)
        if found:
            strengths = [table.settings[point]["l2"] for point, _ in found]
            line = "-" if len(set(strengths)) == len(strengths) else ""
            values = [mean_interval(distances(table, *pair)) for pair in found]
            draw.with_intervals(ax, strengths, values, label=name, number=number, line=line)
    if ax.has_data():
        ax.axhline(SAME, color="0.4", linestyle="--", linewidth=1.2)
        ax.set(xscale="log", yscale="log")
        ax.set_xticks(STRENGTHS, [f"{strength:g}" for strength in STRENGTHS])
        ax.minorticks_off()
        draw.legend(ax)
    ax.set(
        xlabel="λ of the penalty; the decay is 2λ",
        ylabel="‖penalty − decay‖ / ‖decay‖, last weights",
    )
    caption = "How far apart penalty and decay end; below the dashed line they are the same."
    return {"distance": draw.captioned(figure, caption)}


def compared(optimizer: str, expected: tuple[float, float]):
    """The test that penalty and decay end as far apart as expected, at every strength."""

    def test(table: Study) -> list[Effect] | None:
        return [
            Effect(
                distances(table, *pair),
                f"distance of the last weights over their norm, {pair[0]}",
                expected,
            )
            for pair in pairs(table, optimizer)
        ] or None

    return test


NOTES = "course notes, L2 Regularization: weight decay interpretation"
LOSHCHILOV = "Loshchilov and Hutter 2019"
CLAIMS = [
    Claim(
        "penalty-is-decay-for-sgd",
        "With SGD the penalty λ Σw² is the decay w ← w(1 − 2λη).",
        NOTES,
        compared("sgd", (-SAME, SAME)),
    ),
    Claim(
        "penalty-is-not-decay-for-momentum",
        "With momentum the penalty is not that decay.",
        LOSHCHILOV,
        compared("momentum", (SAME, np.inf)),
    ),
    Claim(
        "penalty-is-not-decay-for-adam",
        "With Adam the penalty is not that decay.",
        LOSHCHILOV,
        compared("adam", (SAME, np.inf)),
    ),
]
