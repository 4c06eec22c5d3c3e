"""Where does L1 generalize better than L2, and where L2 better than L1?

Linear regression with fewer examples than features. The true coefficients are dense (all
features matter a little) or sparse (5 of 100 matter, each more), with the same norm. L1, L2 and
elastic net (half of each strength) are compared at several strengths. Every restart draws its own
coefficients, examples and noise. Full-batch gradient descent with momentum, to the end: the last
weights count.

Source: course notes, "L1 vs L2 Regularization" and "Combined Approaches"; Tibshirani 1996.

Command: ./launch.sh signals                   (about 10 seconds on 2 CPU cores)

Expected: on dense signals L2 has the lower test error, on sparse ones L1, by a wide margin.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

import ablax as ax
from ablax import grid, penalties, plot

DENSE, SPARSE = 1.0, 0.05
BOTH: Any = (DENSE, SPARSE)  # an axis
TEST_SIZE = 2000


class Config(ax.BaseConfig):
    features: int = ax.static(100, "features of an example", low=2)
    train_size: int = ax.static(80, "training examples", low=1)
    valid_size: int = ax.static(200, "validation examples", low=1)
    active: float = ax.hparam(
        DENSE, "share of features whose true coefficient is not 0", above=0, high=1
    )
    noise: float = ax.hparam(0.5, "standard deviation of the noise; that of the signal is 1", low=0)
    learning_rate: float = ax.hparam(0.05, "initial rate, decayed to 0 by a cosine", low=0)
    momentum: float = ax.hparam(0.9, "share of the last step that is kept", low=0, below=1)
    l1: float = ax.hparam(0.0, "strength of the sum of absolute weights", low=0)
    l2: float = ax.hparam(0.0, "strength of the sum of squared weights", low=0)


def _preset(restarts: int, steps: int) -> ax.Preset:
    return ax.Preset(Config(steps=steps, eval_every=steps // 5, active=BOTH), restarts)


PRESETS = {"smoke": _preset(4, 200), "default": _preset(32, 1000), "paper": _preset(256, 2000)}

STRENGTHS = [0.03, 0.1, 0.3, 1.0]
HALVES = [strength / 2 for strength in STRENGTHS]
ROWS = grid.rows(
    {},
    {
        "L1": grid.product(l1=STRENGTHS),
        "L2": grid.product(l2=STRENGTHS),
        "elastic net": grid.zipped(l1=HALVES, l2=HALVES),
    },
)


def points(config: Config) -> list[grid.Setting]:
    return grid.table(config, ROWS)


def task(config: Config) -> ax.Task:
    def optimizer(trial):
        rate = ax.schedules.cosine(trial.hparams.learning_rate, steps=trial.steps)
        return ax.optimizers.momentum(rate, momentum=trial.hparams.momentum)

    def view(trial, data):
        """The examples of this restart: y = xᵀβ + noise, ‖β‖ = 1, x standard normal."""
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

    return ax.Task(
        data={"test": np.zeros(0, np.float32)},  # asks the view for test examples
        view=view,
        init=init,
        step=step,
        snapshot=lambda state: state[0],
        evaluate=lambda params, trial, split: {"mse": (mse(params, split), jnp.float32(1))},
        measure=lambda params, trial: penalties.weight_summary(params),
        objective=None,
        metrics=(ax.Metric("mse", "min"),),
        notes=("drawn anew at every restart",),
    )


def trials_by_signal(study: ax.Study):
    """(share of active features, its trials with their gap of test and training error)."""
    gap = study.scored["test/mse"] - study.scored["train/mse"]
    return study.scored.assign(gap=gap).groupby("active")


def overfitting_figure(study: ax.Study):
    """The size of the coefficients and the gap between test and training error."""
    by_signal = trials_by_signal(study)
    figure, axes = plot.panels(len(by_signal), sharey=True)
    for panel, (active, trials) in zip(axes, by_signal, strict=True):
        for number, (group, rows) in enumerate(trials.groupby("group", sort=False)):
            colour = plot.COLOURS[number % len(plot.COLOURS)]
            marker = plot.MARKERS[number % len(plot.MARKERS)]
            look = {"s": 9, "alpha": 0.4, "color": colour, "marker": marker}
            panel.scatter(rows["l2_norm"], rows["gap"], label=group, **look)
        panel.set(xlabel="norm of the coefficients ‖w‖", title=f"{active:.0%} of features active")
        plot.legend(panel)
    axes[0].set_ylabel("test − training error (mse)")
    return plot.captioned(
        figure, "Large coefficients go with overfitting: one dot a trial. The truth has norm 1."
    )


FIGURES = {"overfitting": overfitting_figure}


@ax.quantities
def norm_against_gap(study: ax.Study):
    """Rank correlation of ‖w‖ and the gap over all strengths, within each restart."""
    correlations = {}
    for active, trials in trials_by_signal(study):
        if len(set(trials["point"])) < 3:
            raise ax.Missing("a correlation needs three points")
        with np.errstate(invalid="ignore"):  # all alike, as where all diverged: no correlation
            values = [
                np.corrcoef(stats.rankdata(rows["l2_norm"]), stats.rankdata(rows["gap"]))[0, 1]
                for _, rows in trials.groupby("restart")
            ]
        name = f"rank correlation of norm and gap, {active:.0%} of features active"
        correlations[name] = np.array(values)
    return correlations


ZEROS = "share_below_1e-3"


def mixes(strength: float) -> list[Any]:
    """On sparse signals λ (½ Σ|w| + ½ Σw²) leaves fewer zeros than λ Σ|w|, more than λ Σw²."""

    def zeros(l1: float, l2: float) -> ax.Quantity:
        return ax.column(ZEROS, by="l1", active=SPARSE, l2=l2)[l1]

    l1, mixed, l2 = zeros(strength, 0.0), zeros(strength / 2, strength / 2), zeros(0.0, strength)
    return [
        (l1 - mixed).named(f"{ZEROS}: L1 − elastic net, λ={strength:g}") > 0,
        (mixed - l2).named(f"{ZEROS}: elastic net − L2, λ={strength:g}") > 0,
    ]


NOTES = "course notes, L1 vs L2 Regularization"
ELASTIC = "course notes, Combined Approaches"
dense_error, sparse_error = (ax.column("test/mse", active=active) for active in BOTH)
dense_zeros, sparse_zeros = (ax.column(ZEROS, active=active) for active in BOTH)
dense_spread, sparse_spread = (ax.column("participation_ratio", active=active) for active in BOTH)
CLAIMS = [
    ax.Claim(
        "l2-wins-on-dense-signals",
        "Where all features matter, L2 generalizes better than L1.",
        NOTES,
        dense_error["L2"] < dense_error["L1"],
    ),
    ax.Claim(
        "l1-wins-on-sparse-signals",
        "Where few features matter, L1 generalizes better than L2.",
        NOTES,
        sparse_error["L1"] < sparse_error["L2"],
    ),
    ax.Claim(
        "l1-selects-features",
        "L1 sets coefficients to zero and L2 does not, whatever the signal.",
        NOTES,
        dense_zeros["L1"] > dense_zeros["L2"],
        sparse_zeros["L1"] > sparse_zeros["L2"],
        (dense_zeros["L2"] - dense_zeros[ax.BASELINE]).within(0.05),
        (sparse_zeros["L2"] - sparse_zeros[ax.BASELINE]).within(0.05),
    ),
    ax.Claim(
        "l2-spreads-coefficients",
        "L2 spreads a linear model over its features more evenly than L1.",
        NOTES,
        dense_spread["L2"] > dense_spread["L1"],
        sparse_spread["L2"] > sparse_spread["L1"],
    ),
    ax.Claim(
        "elastic-net-mixes",
        "At equal strength, elastic net leaves fewer zeros than L1 and more than L2.",
        ELASTIC,
        *(expectation for strength in STRENGTHS for expectation in mixes(strength)),
    ),
    ax.Claim(
        "elastic-net-is-between-in-sparsity",
        "Each at its best strength, elastic net leaves fewer zeros than L1 and more than L2.",
        ELASTIC,
        sparse_zeros["L1"] > sparse_zeros["elastic net"],
        sparse_zeros["elastic net"] > sparse_zeros["L2"],
    ),
    ax.Claim(
        "elastic-net-is-between-in-error",
        "The error of elastic net is below the worse and above the better of L1 and L2, each at "
        "its best strength.",
        ELASTIC,
        dense_error["L1"] > dense_error["elastic net"],
        dense_error["elastic net"] > dense_error["L2"],
        sparse_error["L2"] > sparse_error["elastic net"],
        sparse_error["elastic net"] > sparse_error["L1"],
    ),
    ax.Claim(
        "large-coefficients-overfit",
        "The larger the coefficients, the larger the gap between test and training error.",
        'course notes, "Large coefficients → overfitting"',
        norm_against_gap > 0,
    ),
]
