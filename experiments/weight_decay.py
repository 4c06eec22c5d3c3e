"""Is an L2 penalty the same as weight decay?

The penalty λ Σw² has the gradient 2λw, so a step of plain gradient descent on it shrinks the
weights by the factor 1 − 2λη and then descends: decay. Momentum gathers the penalty's gradient
in its velocity, and Adam divides it by the size of the gradients, so there the two differ. The
same network is trained with the penalty λ and with the decoupled decay w ← w(1 − 2λη) by each
optimizer, from the same weights on the same minibatches, and their last weights are compared.

Source: course notes, "L2 Regularization: weight decay interpretation"; Loshchilov and Hutter 2019.

Command: ./launch.sh weight_decay              (about 20 seconds on 2 CPU cores)

Expected: with SGD the two networks end within a thousandth of their weights' norm of each other.
With momentum they end 4% to 28% of it apart, with Adam 45% to 61%, more the larger λ is.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

import ablax as ax
from ablax import grid, penalties, plot

RATES = {"sgd": 0.1, "momentum": 0.02, "adam": 0.003}
STRENGTHS = [3e-4, 1e-3, 3e-3]
SAME = 0.01
"""Weights that differ by less than this share of their norm are the same."""


class Config(ax.BaseConfig):
    optimizer: str = ax.static("sgd", "how the gradient is followed", choices=RATES)
    width: int = ax.static(32, "units of the hidden layer", low=1)
    batch_size: int = ax.static(64, "rows of a minibatch", low=1)
    learning_rate: float = ax.hparam(0.1, "initial rate, decayed to 0 by a cosine", low=0)
    l2: float = ax.hparam(0.0, "strength λ of the penalty λ Σw²", low=0)
    weight_decay: float = ax.hparam(
        0.0, "strength of the decoupled decay w ← w(1 − η·decay)", low=0
    )


def _preset(restarts: int, steps: int) -> ax.Preset:
    return ax.Preset(Config(steps=steps, eval_every=steps // 10), restarts)


PRESETS = {"smoke": _preset(3, 100), "default": _preset(16, 1000), "paper": _preset(64, 3000)}

ROWS = grid.rows(
    {},
    {
        "penalty": grid.product(l2=STRENGTHS),
        "decay": grid.product(weight_decay=[2 * strength for strength in STRENGTHS]),
    },
)


def points(config: Config) -> list[grid.Setting]:
    """The table for each optimizer, at its own learning rate unless one is given."""
    axes = grid.axes(config)
    tables = []
    for name in axes.get("optimizer", RATES):
        for rate in axes.get("learning_rate", (RATES[name],)):
            setting = {"optimizer": name, "learning_rate": rate}
            table = grid.table(dataclasses.replace(config, **setting), ROWS)
            tables.append(grid.cross([setting], table))
    return grid.chain(*tables)


def task(config: Config) -> ax.Task:
    def measure(params, trial):
        weights = jnp.concatenate([w.ravel() for w in penalties.weights(params)])
        return {"l2_norm": penalties.l2_norm(params), "weights": weights}

    usual = ax.supervised(
        ax.nn.MLP((config.width,), n_outputs=10),
        ax.data.split(ax.data.load("digits"), train_size=300, seed=0),
        optimizer=ax.optimizers.of_trial(config.optimizer, "cosine"),
        batch_size=config.batch_size,
        regularization=ax.Regularization(penalty=lambda params, h: h.l2 * penalties.l2(params)),
        records=ax.Records(measure=measure),
    )
    return usual.replace(objective=None)  # the last weights are compared


def pairs(study: ax.Study, optimizer: str) -> list[tuple[str, str]]:
    """(a point with the penalty λ, the point with the decay 2λ that is like it in all else)."""
    settings = study.settings

    def rest(point):
        compared = ("group", "l2", "weight_decay")
        return {name: value for name, value in settings[point].items() if name not in compared}

    return [
        (penalty, decay)
        for penalty in study.among(optimizer=optimizer, weight_decay=0)
        for decay in study.among(optimizer=optimizer, l2=0)
        if settings[penalty]["l2"]
        and settings[decay]["weight_decay"]
        and np.isclose(settings[decay]["weight_decay"], 2 * settings[penalty]["l2"])
        and rest(penalty) == rest(decay)
    ]


def distances(study: ax.Study, a: str, b: str) -> np.ndarray:
    """‖w_a − w_b‖ / ‖w_b‖ at each restart that both points have."""
    weights = study.array("weights")
    trials = study.values(a, "trial").align(study.values(b, "trial"), join="inner")
    both = [(weights[ours], weights[theirs]) for ours, theirs in zip(*trials, strict=True)]
    return np.array([np.linalg.norm(x - y) / np.linalg.norm(y) for x, y in both])


def distance_figure(study: ax.Study):
    """How far apart penalty and decay end against λ, one line per optimizer."""
    compared = {name: pairs(study, name) for name in RATES}
    if not any(compared.values()):
        raise ax.Missing("no penalty is there with its decay")
    figure, (panel,) = plot.panels(1, width=5.6)
    for number, (name, both) in enumerate(compared.items()):
        if both:
            strengths = [study.settings[penalty]["l2"] for penalty, _ in both]
            intervals = [ax.statistics.mean_interval(distances(study, *pair)) for pair in both]
            line = "-" if len(set(strengths)) == len(strengths) else ""
            plot.with_intervals(panel, strengths, intervals, label=name, number=number, line=line)
    panel.axhline(SAME, color="0.4", linestyle="--", linewidth=1.2)
    panel.set(
        xscale="log",
        yscale="log",
        xlabel="λ of the penalty; the decay is 2λ",
        ylabel="‖penalty − decay‖ / ‖decay‖, last weights",
    )
    panel.set_xticks(STRENGTHS, [f"{strength:g}" for strength in STRENGTHS])
    panel.minorticks_off()
    plot.legend(panel)
    return plot.captioned(
        figure,
        "How far apart penalty and decay end; below the dashed line they count as the same.",
    )


FIGURES = {"distance": distance_figure}


def distance(optimizer: str) -> ax.Quantity:
    """The distance between penalty and decay by an optimizer, at every strength."""

    def distance_of_the_last_weights(study: ax.Study):
        return {
            f"distance of the last weights over their norm, {penalty}": distances(
                study, penalty, decay
            )
            for penalty, decay in pairs(study, optimizer)
        }

    return ax.quantities(distance_of_the_last_weights)


LOSHCHILOV = "Loshchilov and Hutter 2019"
CLAIMS = [
    ax.Claim(
        "penalty-is-decay-for-sgd",
        "With SGD the penalty λ Σw² is the decay w ← w(1 − 2λη).",
        "course notes, L2 Regularization: weight decay interpretation",
        distance("sgd").within(SAME),
    ),
    ax.Claim(
        "penalty-is-not-decay-for-momentum",
        "With momentum the penalty λ Σw² is not the decay w ← w(1 − 2λη).",
        LOSHCHILOV,
        distance("momentum") > SAME,
    ),
    ax.Claim(
        "penalty-is-not-decay-for-adam",
        "With Adam the penalty λ Σw² is not the decay w ← w(1 − 2λη).",
        LOSHCHILOV,
        distance("adam") > SAME,
    ),
]
