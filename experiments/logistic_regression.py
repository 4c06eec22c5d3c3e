"""Is gradient descent on the cross-entropy the maximum likelihood, and does it get there?

Logistic regression of tumours and softmax regression of digits, by full-batch gradient descent
with a small L2 penalty, at several learning rates. All restarts start elsewhere and see the same
examples, so that where they end can be compared with the optimum that scikit-learn finds. Beside
it, what the notes derive by hand, measured on these examples: the gradient −(y − ŷ)(x, 1), the
product and the sum of probabilities, two classes by sigmoid or softmax, one-hot distances.

Source: course notes, "Log-Loss Error Function" to "Logistic Regression Algorithm".

Command: ./launch.sh logistic_regression       (about 20 seconds on 2 CPU cores)

Expected: from every start the same weights as scikit-learn's to a few thousandths, and an error
that falls at every step, unless the learning rate is too large.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import softmax

from ablax import losses, metrics, optimizers, penalties
from ablax.analysis.delta_rule import Line, logistic_error
from ablax.config import BaseConfig, Preset, hparam, static
from ablax.data import load, split
from ablax.data.splits import Splits
from ablax.metrics import ACCURACY
from ablax.nn.activations import sigmoid
from ablax.nn.initializers import scale_weights
from ablax.nn.linear import Linear, flatten
from ablax.report import plot as draw
from ablax.report import selection
from ablax.report.claims import Claim, within
from ablax.report.quantities import Bounds, Effect
from ablax.report.study import BASELINE, Study
from ablax.study import grid
from ablax.task import Task
from ablax.tasks.supervised import Regularization, examples, supervised

TWO, MANY = "breast_cancer", "digits"
SLOW, GOOD, TOO_LARGE = 0.01, 1.0, 10.0
FEW = 10
"""Examples whose probabilities are multiplied: the product of all of them underflows."""


class Config(BaseConfig):
    dataset: str = static(TWO, "two classes, or ten", choices=(TWO, MANY))
    l2: float = static(0.01, "strength of the penalty λ Σw²", low=1e-9)
    learning_rate: float = hparam(GOOD, "of the mean cross-entropy", above=0)
    sigma: float = hparam(1.0, "standard deviation of the initial weights", low=0)


def _preset(restarts: int, steps: int, *data: str) -> Preset:
    sets: Any = data  # an axis
    return Preset(Config(steps=steps, eval_every=steps // 20, dataset=sets), restarts)


PRESETS = {
    "smoke": _preset(4, 400, TWO),
    "default": _preset(16, 2000, TWO, MANY),
    "paper": _preset(64, 10_000, TWO, MANY),
}


def points(config: Config) -> list[grid.Setting]:
    given = grid.axes(config)
    rates = [
        {"learning_rate": rate, grid.GROUP: BASELINE if rate == GOOD else f"learning rate {rate:g}"}
        for rate in given.pop("learning_rate", (SLOW, 0.1, GOOD, TOO_LARGE))
    ]
    return grid.cross(grid.product(**given), rates)


def optimum(splits: Splits, l2: float) -> np.ndarray:
    """[outputs, features + 1]: weights and biases by scikit-learn of the mean loss + λ Σw²."""
    from sklearn.linear_model import LogisticRegression

    x = splits.train.x.reshape(splits.n_train, -1).astype(np.float64)
    strength = 1 / (2 * l2 * splits.n_train)
    fit = LogisticRegression(C=strength, tol=1e-10, max_iter=100_000).fit(x, splits.train.y)
    return np.column_stack([fit.coef_, fit.intercept_]).astype(np.float32)


def task(config: Config) -> Task:
    splits = split(load(config.dataset), seed=0)
    many = len(splits.classes) > 2
    goal = optimum(splits, config.l2)
    model = Linear(n_outputs=len(goal), kernel_init="normal")
    name = "softmax_cross_entropy_with_integer_labels" if many else "sigmoid_binary_cross_entropy"
    cross_entropy = losses.loss(name)

    def penalty(params, hparams):
        return config.l2 * penalties.l2(params)

    usual = supervised(
        model,
        splits,
        loss=cross_entropy,
        metrics={ACCURACY: metrics.accuracy},
        optimizer=lambda trial: optimizers.sgd(trial.hparams.learning_rate),
        batch_size=splits.n_train,
        regularization=Regularization(penalty=penalty),
        initial=lambda params, hparams: scale_weights(params, hparams.sigma),
        resample=False,
    )

    def init(trial, data):
        state = usual.init(trial, data)
        return {"inner": state, "before": jnp.float32(jnp.inf), "rises": jnp.int32(0)}

    def step(state, trial, data):
        inner, told = usual.step(state["inner"], trial, data)
        error = told["loss"] + penalty(state["inner"].params, trial.hparams)
        rises = state["rises"] + (error > state["before"] * (1 + 1e-6)).astype(jnp.int32)
        return {"inner": inner, "before": error, "rises": rises}, told

    def evaluate(kept, trial, split):
        x, y = examples(split)
        told = derived_of_many(kept["params"], x, y) if many else derived(kept["params"], x, y)
        checks = {name: (jnp.asarray(value), jnp.float32(1)) for name, value in told.items()}
        return usual.evaluate(kept["params"], trial, split) | checks

    def measure(kept, trial):
        layer = kept["params"]["output"]
        found = jnp.column_stack([layer["weight"], layer["bias"]])
        return {
            "from_optimum": jnp.linalg.norm(found - goal) / np.linalg.norm(goal),
            "rises": kept["rises"].astype(jnp.float32),
        }

    def derived(params, x, y):
        """What the notes derive of two classes, on these examples."""
        layer, x = params["output"], flatten(x)
        line, y = Line(layer["weight"][0], layer["bias"][0]), y.astype(jnp.float32)
        errors = jax.vmap(logistic_error, (None, 0, 0))(line, x, y)
        by_hand = -jnp.append(errors @ x, errors.sum()) / len(x)
        gradient = jax.grad(lambda p: losses.mean(cross_entropy(scores(p, x), y)))(params)["output"]
        by_grad = jnp.append(gradient["weight"], gradient["bias"])
        z = scores(params, x)[:, 0]
        p = jnp.where(y == 1, sigmoid(z), sigmoid(-z))  # of the true class
        lengths = jnp.abs(errors) * jnp.sqrt(jnp.square(x).sum(axis=1) + 1)
        sums = losses.log_likelihood(p[:FEW])
        pair = softmax(jnp.stack([z, jnp.zeros_like(z)], axis=-1))[:, 0]
        return {
            "gradient_apart": jnp.abs(by_hand - by_grad).max() / jnp.abs(by_grad).max(),
            "error_and_step": rank_correlation(jnp.abs(errors), lengths),
            "product_and_sum": jnp.abs(jnp.log(losses.likelihood(p[:FEW])) - sums),
            "sigmoid_and_softmax": jnp.abs(pair - sigmoid(z)).max(),
        }

    def derived_of_many(params, x, y):
        """What they say of several classes."""
        z = scores(params, x)
        p = softmax(z)
        codes = metrics.one_hot(jnp.arange(z.shape[1]), z.shape[1])
        apart = jnp.linalg.norm(codes[:, None] - codes[None], axis=-1)
        others = apart[~np.eye(len(codes), dtype=bool)]
        # Of scores that float32 can tell apart after the exponential.
        ordered = (jnp.argsort(z) == jnp.argsort(p)).all(axis=-1)
        true = jnp.take_along_axis(p, y[:, None], axis=-1)[:, 0]
        underflows = (losses.likelihood(true) == 0) & jnp.isfinite(losses.log_likelihood(true))
        return {
            "underflows": underflows.astype(jnp.float32),
            "in_order": ordered.mean(),
            "sum_of_p": jnp.abs(p.sum(axis=-1) - 1).max(),
            "one_hot_spread": others.max() - others.min(),
        }

    def scores(params, x):
        return jnp.asarray(model.apply({"params": params}, x))

    return dataclasses.replace(
        usual,
        init=init,
        step=step,
        snapshot=lambda state: {"params": state["inner"].params, "rises": state["rises"]},
        evaluate=evaluate,
        measure=measure,
        objective=None,  # the last weights are compared
    )


def rank_correlation(a: jax.Array, b: jax.Array) -> jax.Array:
    ranks = [jnp.argsort(jnp.argsort(x)).astype(jnp.float32) for x in (a, b)]
    return jnp.corrcoef(jnp.stack(ranks))[0, 1]


def figures(table: Study) -> dict:
    return {"descent": descent_figure(table), "log_loss": log_loss_figure()}


def descent_figure(table: Study):
    """The training error step by step, a line a learning rate."""
    sets = list(dict.fromkeys(setting["dataset"] for setting in table.settings.values()))
    figure, axes = draw.panels(len(sets), width=5.0)
    for ax, dataset in zip(axes, sets, strict=True):
        rates = selection.along(table, "learning_rate", dataset=dataset)
        for (rate, point), colour in zip(rates.items(), draw.COLOURS, strict=False):
            wide = table.curve(point, "train/loss")
            ax.plot(wide.index, wide, color=colour, lw=0.6, alpha=0.5)
            ax.plot([], [], color=colour, label=f"learning rate {rate:g}")
        ax.set(title=dataset, xlabel="steps", ylabel="training cross-entropy", yscale="log")
        draw.legend(ax)
    caption = "From every start to the same error, or past it: a line a restart."
    return draw.captioned(figure, caption)


def log_loss_figure():
    """What a prediction costs, by the probability that it gave to the truth."""
    p = np.linspace(0.001, 1, 500)
    figure, (ax,) = draw.panels(1, width=5.0)
    cost = np.asarray(losses.log_loss(jnp.asarray(p, jnp.float32), jnp.ones(500)))
    ax.plot(p, cost, color=draw.COLOURS[0], label="log-loss, −ln p")
    ax.plot(p, (1 - p) ** 2, color=draw.COLOURS[1], label="squared error, (1 − p)²")
    ax.set(xlabel="probability p given to the true class", ylabel="cost of one example")
    draw.legend(ax)
    return draw.captioned(figure, "Being sure and wrong costs without limit; being right, nothing.")


def never_rises(table: Study) -> list[Effect] | None:
    """Share of restarts whose error fell at every step, at a rate that is not too large."""
    return [
        Effect(
            (table.values(point, "rises") == 0).to_numpy(np.float64),
            f"share of restarts whose error never rises, {point}",
            (0.7, np.inf),
            share=True,
        )
        for point, setting in table.settings.items()
        if setting["learning_rate"] <= 0.1
    ] or None


def small_is_slow(table: Study) -> list[Effect] | None:
    """The training loss that a small rate leaves, against that of a good one."""
    sets = dict.fromkeys(setting["dataset"] for setting in table.settings.values())
    lines = {dataset: selection.along(table, "learning_rate", dataset=dataset) for dataset in sets}
    return [
        Effect(
            table.differences(rates[SLOW], rates[GOOD], "train/loss"),
            f"train/loss: learning rate {SLOW:g} − {GOOD:g}, {dataset}",
        )
        for dataset, rates in lines.items()
        if {SLOW, GOOD} <= rates.keys()
    ] or None


LIKELIHOOD = "course notes, Maximum Likelihood"
DESCENT = "course notes, Gradient Descent"
SOFTMAX = "course notes, Multi-Class Classification and Softmax"
TINY: Bounds = (-1e-4, 1e-4)
CLAIMS = [
    Claim(
        "optimum-is-scikit-learns",
        "From any start, gradient descent ends at the weights of largest likelihood (with a small "
        "penalty) that scikit-learn finds.",
        LIKELIHOOD,
        within("from_optimum", "‖w − w*‖ / ‖w*‖", (-0.01, 0.01), learning_rate=GOOD),
    ),
    Claim(
        "gradient-is-error-times-point",
        "The gradient of the cross-entropy is −(y − ŷ)(x, 1), averaged over the examples.",
        "course notes, Gradient calculation",
        within(
            "train/gradient_apart",
            "largest difference from jax.grad, relative",
            TINY,
            learning_rate=GOOD,
        ),
    ),
    Claim(
        "product-is-sum",
        "The logarithm of the product of probabilities is the sum of their logarithms.",
        LIKELIHOOD,
        within(
            "train/product_and_sum",
            f"|ln Π p − Σ ln p|, {FEW} examples",
            (-1e-3, 1e-3),
            learning_rate=GOOD,
        ),
    ),
    Claim(
        "product-underflows",
        "Of a thousand examples the product underflows to 0 where the sum is an ordinary number.",
        LIKELIHOOD,
        within(
            "train/underflows", "share of restarts", (0.7, np.inf), share=True, learning_rate=GOOD
        ),
    ),
    Claim(
        "error-falls-at-every-step",
        "At a small learning rate the error falls at every step.",
        DESCENT,
        never_rises,
    ),
    Claim(
        "too-large-overshoots",
        "At too large a learning rate it does not: steps overshoot.",
        "course notes, Learning Rate Decay",
        within("rises", "steps at which the error rose", (0.0, np.inf), learning_rate=TOO_LARGE),
    ),
    Claim(
        "small-is-slow",
        "A small learning rate leaves more of the error after the same number of steps.",
        "course notes, Learning Rate Decay",
        small_is_slow,
    ),
    Claim(
        "larger-errors-larger-steps",
        "The larger the error y − ŷ at an example, the larger the step that it asks for.",
        DESCENT,
        within(
            "train/error_and_step",
            "rank correlation of |y − ŷ| and the step's length",
            (0.5, 1.1),
            learning_rate=GOOD,
        ),
    ),
    Claim(
        "two-classes-are-one-sigmoid",
        "The softmax of two scores is the sigmoid of their difference.",
        SOFTMAX,
        within("test/sigmoid_and_softmax", "largest difference", TINY, learning_rate=GOOD),
    ),
    Claim(
        "softmax-keeps-order",
        "Softmax preserves the order of the scores, and its probabilities sum to 1.",
        SOFTMAX,
        lambda table: (
            [
                *(
                    within("test/in_order", "share of examples in order", (0.999, 1.001))(table)
                    or ()
                ),
                *(within("test/sum_of_p", "largest |Σ p − 1|", TINY)(table) or ()),
            ]
            or None
        ),
    ),
    Claim(
        "one-hot-is-equidistant",
        "One-hot codes are all equally far from each other.",
        "course notes, One-Hot Encoding",
        within(
            "test/one_hot_spread",
            "largest − smallest distance of two codes",
            (-1e-6, 1e-6),
            learning_rate=GOOD,
        ),
    ),
]
