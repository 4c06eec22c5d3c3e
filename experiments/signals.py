"""Where does L1 generalize better than L2, and where L2 better than L1?

Linear regression with fewer examples than features. The true coefficients are dense (all
features matter a little) or sparse (5 of 100 matter, each more), with the same norm. L1, L2 and
elastic net (half of each strength) at several strengths. Every restart draws its own
coefficients, examples and noise. Full-batch gradient descent with momentum, to the end: the
last weights count.

Source: course notes, "L1 vs L2 Regularization" and "Combined Approaches"; Tibshirani 1996.

Command: ./launch.sh signals                   (about 10 seconds on 2 CPU cores)

Expected: on dense signals L2 has the lower test error, on sparse ones L1, by a wide margin.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

from ablax import optimizers, penalties, schedules
from ablax.config import BaseConfig, Preset, hparam, static
from ablax.metrics import Metric
from ablax.report import plot as draw
from ablax.report import selection
from ablax.report.claims import Claim, between, difference, every
from ablax.report.quantities import NEGATIVE, Effect
from ablax.report.study import Study
from ablax.study import grid
from ablax.task import Task

DENSE, SPARSE = 1.0, 0.05
BOTH: Any = (DENSE, SPARSE)  # an axis
TEST_SIZE = 2000


class Config(BaseConfig):
    features: int = static(100, "features of an example", low=2)
    train_size: int = static(80, "training examples", low=1)
    valid_size: int = static(200, "validation examples", low=1)
    active: float = hparam(
        DENSE, "share of features whose true coefficient is not 0", above=0, high=1
    )
    noise: float = hparam(0.5, "standard deviation of the noise; that of the signal is 1", low=0)
    learning_rate: float = hparam(0.05, "initial rate, decayed to 0 by a cosine", low=0)
    momentum: float = hparam(0.9, "share of the last step that is kept", low=0, below=1)
    l1: float = hparam(0.0, "strength of the sum of absolute weights", low=0)
    l2: float = hparam(0.0, "strength of the sum of squared weights", low=0)


def _preset(restarts: int, steps: int) -> Preset:
    return Preset(Config(steps=steps, eval_every=steps // 5, active=BOTH), restarts)


PRESETS = {"smoke": _preset(4, 200), "default": _preset(32, 1000), "paper": _preset(256, 2000)}

STRENGTHS = np.array([0.03, 0.1, 0.3, 1.0])
TABLE = {
    "L1": grid.product(l1=STRENGTHS.tolist()),
    "L2": grid.product(l2=STRENGTHS.tolist()),
    "elastic net": grid.zipped(l1=(STRENGTHS / 2).tolist(), l2=(STRENGTHS / 2).tolist()),
}


def points(config: Config) -> list[grid.Setting]:
    return grid.ablations(config, TABLE, strengths=("l1", "l2"))


def task(config: Config) -> Task:
    def optimizer(trial):
        rate = schedules.cosine(trial.hparams.learning_rate, steps=trial.steps)
        return optimizers.momentum(rate, momentum=trial.hparams.momentum)

    def view(trial, data):
        """This restart's world: y = xᵀβ + noise, ‖β‖ = 1, x standard normal."""
        key = trial.rng("split")
        active = (
            jnp.arange(config.features, dtype=jnp.float32) < trial.hparams.active * config.features
        )
        beta = jnp.where(active, jax.random.normal(key, (config.features,)), 0.0)
        beta = beta / jnp.linalg.norm(beta)

        def drawn(number, size):
            for_x, for_noise = jax.random.split(jax.random.fold_in(key, number))
            x = jax.random.normal(for_x, (size, config.features))
            return x, x @ beta + trial.hparams.noise * jax.random.normal(for_noise, (size,))

        sizes = {"train": config.train_size, "valid": config.valid_size}
        sizes |= {"test": TEST_SIZE} if "test" in data else {}
        return {name: drawn(i + 1, size) for i, (name, size) in enumerate(sizes.items())}

    def init(trial, data):
        params = {"weight": jnp.zeros(config.features)}
        return params, optimizer(trial).init(params)

    def mse(params, split):
        x, y = split
        return jnp.square(x @ params["weight"] - y).mean()

    def step(state, trial, data):
        params, opt_state = state

        def penalized(params):
            penalty = penalties.elastic_net(params, trial.hparams.l1, trial.hparams.l2)
            loss = mse(params, data["train"])
            return loss + penalty, loss

        grads, loss = jax.grad(penalized, has_aux=True)(params)
        updates, opt_state = optimizer(trial).update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), {"loss": loss}

    return Task(
        data={"test": np.zeros(0, np.float32)},  # asks the view for test examples
        view=view,
        init=init,
        step=step,
        snapshot=lambda state: state[0],
        evaluate=lambda params, trial, split: {"mse": (mse(params, split), jnp.float32(1))},
        measure=lambda params, trial: {
            "l2_norm": penalties.l2_norm(params),
            "share_below_1e-3": penalties.share_below(params, 1e-3),
            "participation_ratio": penalties.participation_ratio(params),
        },
        objective=None,
        metrics=(Metric("mse", "min"),),
        notes=("drawn anew at every restart",),
    )


def figures(table: Study) -> dict:
    return {"overfitting": overfitting_figure(table)}


def overfitting_figure(table: Study):
    """The size of the coefficients and the gap between test and training error."""
    actives = sorted({setting["active"] for setting in table.settings.values()})
    figure, axes = draw.panels(len(actives), sharey=True)
    for ax, active in zip(axes, actives, strict=True):
        rows = table.scored[table.scored["active"] == active]
        for number, (group, some) in enumerate(rows.groupby("group", sort=False)):
            gap = some["test/mse"] - some["train/mse"]
            ax.scatter(
                some["l2_norm"],
                gap,
                s=9,
                alpha=0.4,
                label=group,
                color=draw.COLOURS[number % len(draw.COLOURS)],
                marker=draw.MARKERS[number % len(draw.MARKERS)],
            )
        ax.set(xlabel="norm of the coefficients ‖w‖", title=f"{active:.0%} of features active")
        draw.legend(ax)
    axes[0].set_ylabel("test − training error (mse)")
    return draw.captioned(
        figure, "Large coefficients go with overfitting: one dot a trial. The truth has norm 1."
    )


def large_means_overfit(table: Study) -> list[Effect] | None:
    """Within each restart: the rank correlation of ‖w‖ and the gap, over all strengths."""
    found = []
    for active, rows in table.scored.groupby("active"):
        if len(set(rows["point"])) < 3:
            return None
        gap = rows["test/mse"] - rows["train/mse"]
        with np.errstate(invalid="ignore"):  # all alike, as where all diverged: no correlation
            values = [
                np.corrcoef(stats.rankdata(some["l2_norm"]), stats.rankdata(gap[some.index]))[0, 1]
                for _, some in rows.groupby("restart")
            ]
        measured = f"rank correlation of norm and gap, {active:.0%} of features active"
        found.append(Effect(np.array(values), measured))
    return found


def mixed_at_equal_strength(table: Study) -> list[Effect] | None:
    """Zeros of λ Σ|w|, λ (½ Σ|w| + ½ Σw²) and λ Σw² on sparse signals, at every λ."""
    found = []
    for strength in STRENGTHS.tolist():
        mixtures = [(strength, 0.0), (strength / 2, strength / 2), (0.0, strength)]
        points = [table.among(active=SPARSE, l1=l1, l2=l2) for l1, l2 in mixtures]
        if not all(points):
            return None
        l1, mixed, l2 = map(partial(selection.chosen, table), points)
        for more, fewer in [(l1, mixed), (mixed, l2)]:
            effect = difference(table, ZEROS, more, fewer)
            found.append(dataclasses.replace(effect, measured=f"{effect.measured}, λ={strength:g}"))
    return found


NOTES = "course notes, L1 vs L2 Regularization"
ELASTIC = "course notes, Combined Approaches"
ZEROS = "share_below_1e-3"
CLAIMS = [
    Claim(
        "l2-wins-on-dense-signals",
        "Where all features matter, L2 generalizes better than L1.",
        NOTES,
        between("test/mse", "L2", "L1", NEGATIVE, active=DENSE),
    ),
    Claim(
        "l1-wins-on-sparse-signals",
        "Where few features matter, L1 generalizes better than L2.",
        NOTES,
        between("test/mse", "L1", "L2", NEGATIVE, active=SPARSE),
    ),
    Claim(
        "l1-selects-features",
        "L1 sets coefficients to zero and L2 does not, whatever the signal.",
        NOTES,
        every(
            between(ZEROS, "L1", "L2", active=DENSE),
            between(ZEROS, "L1", "L2", active=SPARSE),
            between(ZEROS, "L2", "baseline", (-0.05, 0.05), active=DENSE),
            between(ZEROS, "L2", "baseline", (-0.05, 0.05), active=SPARSE),
        ),
    ),
    Claim(
        "l2-spreads-coefficients",
        "L2 spreads a linear model over its features more evenly than L1.",
        NOTES,
        every(
            between("participation_ratio", "L2", "L1", active=DENSE),
            between("participation_ratio", "L2", "L1", active=SPARSE),
        ),
    ),
    Claim(
        "elastic-net-mixes",
        "At equal strength, elastic net leaves fewer zeros than L1 and more than L2.",
        ELASTIC,
        mixed_at_equal_strength,
    ),
    Claim(
        "elastic-net-is-between-in-sparsity",
        "Each at its best strength, elastic net leaves fewer zeros than L1 and more than L2.",
        ELASTIC,
        every(
            between(ZEROS, "L1", "elastic net", active=SPARSE),
            between(ZEROS, "elastic net", "L2", active=SPARSE),
        ),
        remark="Half of elastic net's strength is L2, so the strength that validation chooses is "
        "larger, and its L1 with it.",
    ),
    Claim(
        "elastic-net-is-between-in-error",
        "Elastic net errs less than the worse and more than the better of L1 and L2, each at its "
        "best strength.",
        ELASTIC,
        every(
            between("test/mse", "L1", "elastic net", active=DENSE),
            between("test/mse", "elastic net", "L2", active=DENSE),
            between("test/mse", "L2", "elastic net", active=SPARSE),
            between("test/mse", "elastic net", "L1", active=SPARSE),
        ),
    ),
    Claim(
        "large-coefficients-overfit",
        "The larger the coefficients, the larger the gap between test and training error.",
        'course notes, "Large coefficients → overfitting"',
        large_means_overfit,
    ),
]
