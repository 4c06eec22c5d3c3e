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

import ablax as ax
from ablax import grid, penalties, plot
from ablax.data.linear_model import coefficients, linear_examples
from ablax.report.statistics import rank_correlation

DENSE, SPARSE = 1.0, 0.05
BOTH: Any = (DENSE, SPARSE)  # an axis
TEST_SIZE = 2000
ZEROS = "share_below_1e-3"


class Config(ax.BaseConfig):
    features: int = ax.static(100, "features of an example", low=2)
    train_size: int = ax.static(80, "training examples", low=1)
    valid_size: int = ax.static(200, "validation examples", low=1)
    active: float = ax.hparam(DENSE, "share of true coefficients that are not 0", above=0, high=1)
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
PURE = {"L1": grid.product(l1=STRENGTHS), "L2": grid.product(l2=STRENGTHS)}
ROWS = grid.rows({}, PURE | {"elastic net": grid.zipped(l1=HALVES, l2=HALVES)})


def points(config: Config) -> list[grid.Setting]:
    return grid.table(config, ROWS)


def task(config: Config) -> ax.Task:
    def view(trial, data):
        """The examples of this restart: y = xᵀβ + noise, ‖β‖ = 1, x standard normal."""
        key, h = trial.rng("split"), trial.hparams
        beta = coefficients(key, config.features, h.active)
        sizes = {"train": config.train_size, "valid": config.valid_size}
        sizes |= {"test": TEST_SIZE} if "test" in data else {}
        return {
            name: linear_examples(jax.random.fold_in(key, i), beta, size, h.noise)
            for i, (name, size) in enumerate(sizes.items(), 1)
        }

    def mse(params, split):
        x, y = split
        return jnp.square(x @ params["weight"] - y).mean()

    return ax.full_batch(
        mse,
        ax.Metric("mse", "min"),
        init=lambda trial: {"weight": jnp.zeros(config.features)},
        optimizer=ax.optimizers.of_trial("momentum", "cosine"),
        penalty=lambda params, h: penalties.elastic_net(params, h.l1, h.l2),
        data={"test": np.zeros(0, np.float32)},  # asks the view for test examples
        view=view,
        measure=lambda params, trial: penalties.weight_summary(params),
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
        methods = trials.groupby("group", sort=False)
        plot.scatter(panel, {name: (rows["l2_norm"], rows["gap"]) for name, rows in methods})
        panel.set(xlabel="norm of the coefficients ‖w‖", title=f"{active:.0%} of features active")
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
        pairs = trials.groupby("restart")[["l2_norm", "gap"]]
        name = f"rank correlation of norm and gap, {active:.0%} of features active"
        correlations[name] = pairs.apply(lambda rows: rank_correlation(*rows.to_numpy().T))
    return correlations


def mixes(strength: float) -> list[Any]:
    """On sparse signals λ (½ Σ|w| + ½ Σw²) leaves fewer zeros than λ Σ|w|, more than λ Σw²."""
    zeros = ax.column(ZEROS, by="l1", active=SPARSE)
    l1, l2 = zeros.at(l2=0.0)[strength], zeros.at(l2=strength)[0.0]
    mixed = zeros.at(l2=strength / 2)[strength / 2]
    return [
        (l1 - mixed).named(f"{ZEROS}: L1 − elastic net, λ={strength:g}") > 0,
        (mixed - l2).named(f"{ZEROS}: elastic net − L2, λ={strength:g}") > 0,
    ]


NOTES = "course notes, L1 vs L2 Regularization"
ELASTIC = "course notes, Combined Approaches"
error, zeros, spread = (
    {active: ax.column(name, active=active) for active in BOTH}
    for name in ("test/mse", ZEROS, "participation_ratio")
)
CLAIMS = [
    ax.Claim(
        "l2-wins-on-dense-signals",
        "Where all features matter, L2 generalizes better than L1.",
        NOTES,
        error[DENSE]["L2"] < error[DENSE]["L1"],
    ),
    ax.Claim(
        "l1-wins-on-sparse-signals",
        "Where few features matter, L1 generalizes better than L2.",
        NOTES,
        error[SPARSE]["L1"] < error[SPARSE]["L2"],
    ),
    ax.Claim(
        "l1-selects-features",
        "L1 sets coefficients to zero and L2 does not, whatever the signal.",
        NOTES,
        *(share["L1"] > share["L2"] for share in zeros.values()),
        *((share["L2"] - share[ax.BASELINE]).within(0.05) for share in zeros.values()),
    ),
    ax.Claim(
        "l2-spreads-coefficients",
        "L2 spreads a linear model over its features more evenly than L1.",
        NOTES,
        *(ratio["L2"] > ratio["L1"] for ratio in spread.values()),
    ),
    ax.Claim(
        "elastic-net-mixes",
        "On sparse signals elastic net leaves fewer zeros than an equal L1, and more than L2.",
        ELASTIC,
        *(expectation for strength in STRENGTHS for expectation in mixes(strength)),
    ),
    ax.Claim(
        "elastic-net-is-between-in-sparsity",
        "On sparse signals, each at its best strength, elastic net leaves fewer zeros than L1 and "
        "more than L2.",
        ELASTIC,
        zeros[SPARSE]["L1"] > zeros[SPARSE]["elastic net"],
        zeros[SPARSE]["elastic net"] > zeros[SPARSE]["L2"],
    ),
    ax.Claim(
        "elastic-net-is-between-in-error",
        "The error of elastic net is below the worse and above the better of L1 and L2, each at "
        "its best strength.",
        ELASTIC,
        error[DENSE]["L1"] > error[DENSE]["elastic net"],
        error[DENSE]["elastic net"] > error[DENSE]["L2"],
        error[SPARSE]["L2"] > error[SPARSE]["elastic net"],
        error[SPARSE]["elastic net"] > error[SPARSE]["L1"],
    ),
    ax.Claim(
        "large-coefficients-overfit",
        "The larger the coefficients, the larger the gap between test and training error.",
        'course notes, "Large coefficients → overfitting"',
        norm_against_gap > 0,
    ),
]
