"""Does gradient descent on the cross-entropy reach the weights of maximum likelihood?

Logistic regression of tumours and softmax regression of digits, by full-batch gradient descent
with a small L2 penalty. Restarts differ in their initial weights alone; where they end is compared
with scikit-learn's optimum. The derivations of the notes are checked on the same examples.

Source: course notes, "Log-Loss Error Function" to "Logistic Regression Algorithm".

Command: ./launch.sh logistic_regression       (about 20 seconds on 2 CPU cores)

Expected: from every start the weights end within 0.3% of scikit-learn's, and the error falls at
every step unless the learning rate is too large.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import softmax

import ablax as ax
from ablax import grid, losses, plot
from ablax.analysis.delta_rule import Line, logistic_error
from ablax.nn.activations import sigmoid
from ablax.tasks.supervised import examples

TWO, MANY = "breast_cancer", "digits"
SLOW, GOOD, TOO_LARGE = 0.01, 1.0, 10.0
FEW = 10  # examples whose probabilities are multiplied: the product of all of them underflows


class Config(ax.BaseConfig):
    dataset: str = ax.static(TWO, "two classes, or ten", choices=(TWO, MANY))
    l2: float = ax.static(0.01, "strength of the penalty λ Σw²", low=1e-9)
    learning_rate: float = ax.hparam(GOOD, "of the mean cross-entropy", above=0)
    sigma: float = ax.hparam(1.0, "standard deviation of the initial weights", low=0)


def _preset(restarts: int, steps: int, data: Any = (TWO, MANY)) -> ax.Preset:
    return ax.Preset(Config(steps=steps, eval_every=steps // 20, dataset=data), restarts)


PRESETS = {
    "smoke": _preset(4, 400, (TWO,)),
    "default": _preset(16, 2000),
    "paper": _preset(64, 10_000),
}


def points(config: Config) -> list[grid.Setting]:
    """Every learning rate on every data set; the good one is the baseline."""
    axes, groups = grid.axes(config), {GOOD: ax.BASELINE}
    rates = [
        {"learning_rate": rate, grid.GROUP: groups.get(rate, f"learning rate {rate:g}")}
        for rate in axes.pop("learning_rate", (SLOW, 0.1, GOOD, TOO_LARGE))
    ]
    return grid.cross(grid.product(**axes), rates)


def optimum(splits: ax.data.Splits, l2: float) -> np.ndarray:
    """[outputs, features + 1]: weights and biases by scikit-learn of the mean loss + λ Σw²."""
    from sklearn.linear_model import LogisticRegression

    x = splits.train.x.reshape(splits.n_train, -1).astype(np.float64)
    strength = 1 / (2 * l2 * splits.n_train)
    fit = LogisticRegression(C=strength, tol=1e-10, max_iter=100_000).fit(x, splits.train.y)
    return np.column_stack([fit.coef_, fit.intercept_]).astype(np.float32)


def task(config: Config) -> ax.Task:
    splits = ax.data.split(ax.data.load(config.dataset), seed=0)
    many, goal = len(splits.classes) > 2, optimum(splits, config.l2)
    model = ax.nn.Linear(n_outputs=len(goal), kernel_init="normal")
    name = "softmax_cross_entropy_with_integer_labels" if many else "sigmoid_binary_cross_entropy"
    cross_entropy = losses.loss(name)
    l2 = ax.Regularization(penalty=lambda params, _: config.l2 * ax.penalties.l2(params))
    usual = ax.supervised(
        model,
        splits,
        loss=cross_entropy,
        optimizer=ax.optimizers.of_trial("sgd"),
        batch_size=splits.n_train,
        regularization=l2,
        initial=lambda params, hparams: ax.nn.scale_weights(params, hparams.sigma),
        resample=False,
    )

    def init(trial, data):
        state = usual.init(trial, data)
        return {"inner": state, "before": jnp.float32(jnp.inf), "rises": jnp.int32(0)}

    def step(state, trial, data):
        inner, metrics = usual.step(state["inner"], trial, data)
        error = metrics["loss"] + config.l2 * ax.penalties.l2(state["inner"].params)
        rises = state["rises"] + (error > state["before"] * (1 + 1e-6)).astype(jnp.int32)
        return {"inner": inner, "before": error, "rises": rises}, metrics

    def evaluate(variables, trial, split):
        values = (of_many if many else of_two)(variables["params"], *examples(split))
        return usual.evaluate(variables["params"], trial, split) | ax.whole(**values)

    def measure(variables, trial):
        layer = variables["params"]["output"]
        weights = jnp.column_stack([layer["weight"], layer["bias"]])
        return {
            "from_optimum": jnp.linalg.norm(weights - goal) / np.linalg.norm(goal),
            "rises": variables["rises"].astype(jnp.float32),
        }

    def of_two(params, x, y):
        """The notes' derivations for two classes, on these examples."""
        layer, x = params["output"], ax.nn.flatten(x)
        line, y = Line(layer["weight"][0], layer["bias"][0]), y.astype(jnp.float32)
        errors = jax.vmap(logistic_error, (None, 0, 0))(line, x, y)
        by_hand = -jnp.append(errors @ x, errors.sum()) / len(x)
        gradient = jax.grad(lambda p: losses.mean(cross_entropy(scores(p, x), y)))(params)["output"]
        by_grad = jnp.append(gradient["weight"], gradient["bias"])
        z = scores(params, x)[:, 0]
        p = jnp.where(y == 1, sigmoid(z), sigmoid(-z))[:FEW]  # of the true class
        lengths = jnp.abs(errors) * jnp.sqrt(jnp.square(x).sum(axis=1) + 1)
        ranks = [jnp.argsort(jnp.argsort(v)) for v in (jnp.abs(errors), lengths)]
        pair = softmax(jnp.stack([z, jnp.zeros_like(z)], axis=-1))[:, 0]
        return {
            "gradient_apart": jnp.abs(by_hand - by_grad).max() / jnp.abs(by_grad).max(),
            "error_and_step": jnp.corrcoef(jnp.float32(jnp.stack(ranks)))[0, 1],
            "product_and_sum": jnp.abs(jnp.log(losses.likelihood(p)) - losses.log_likelihood(p)),
            "sigmoid_and_softmax": jnp.abs(pair - sigmoid(z)).max(),
        }

    def of_many(params, x, y):
        """1 if the product of probabilities underflows and the sum of their logarithms does not."""
        p = jnp.take_along_axis(softmax(scores(params, x)), y[:, None], axis=-1)[:, 0]
        underflows = (losses.likelihood(p) == 0) & jnp.isfinite(losses.log_likelihood(p))
        return {"underflows": underflows.astype(jnp.float32)}

    def scores(params, x):
        return jnp.asarray(model.apply({"params": params}, x))

    return usual.replace(
        init=init,
        step=step,
        snapshot=lambda state: {"params": state["inner"].params, "rises": state["rises"]},
        evaluate=evaluate,
        measure=measure,
        objective=None,  # the last weights are compared
    )


def lines(study: ax.Study) -> dict[str, ax.selection.Points]:
    """{data set: {learning rate: its point}}."""
    along = ax.selection.along
    return {d: along(study, "learning_rate", dataset=d) for d in along(study, "dataset")}


def descent_figure(study: ax.Study):
    """The training error step by step, a colour for each learning rate."""
    figure, panels = plot.panels(len(lines(study)), width=5.0)
    for panel, (dataset, rates) in zip(panels, lines(study).items(), strict=True):
        for (rate, point), colour in zip(rates.items(), plot.COLOURS, strict=False):
            wide = study.curve(point, "train/loss")
            panel.plot(wide.index, wide, color=colour, lw=0.6, alpha=0.5)
            panel.plot([], [], color=colour, label=f"learning rate {rate:g}")
        panel.set(title=dataset, xlabel="steps", ylabel="training cross-entropy", yscale="log")
        plot.legend(panel)
    return plot.captioned(figure, "From every start to one error, or past it: a line per restart.")


def log_loss_figure(_: ax.Study):
    """The cost of a prediction by the probability that it gives to the true class."""
    p = np.linspace(0.001, 1, 500)
    figure, (panel,) = plot.panels(1, width=5.0)
    cost = np.asarray(losses.log_loss(jnp.asarray(p, jnp.float32), jnp.ones(500)))
    panel.plot(p, cost, color=plot.COLOURS[0], label="log-loss, −ln p")
    panel.plot(p, (1 - p) ** 2, color=plot.COLOURS[1], label="squared error, (1 − p)²")
    panel.set(xlabel="probability p given to the true class", ylabel="cost of one example")
    plot.legend(panel)
    return plot.captioned(figure, "A confident wrong prediction costs without limit.")


FIGURES = {"descent": descent_figure, "log_loss": log_loss_figure}


def column(name: str, words: str, low=GOOD, high=GOOD, holds: Any = None) -> ax.Quantity:
    """A column, or a share of restarts by it, at every point with a learning rate in a range."""

    def read(study):
        points = [p for p, s in study.settings.items() if low <= s["learning_rate"] <= high]
        values = {f"{words}, {point}": study.values(point, name) for point in points}
        return {k: holds(v) if holds else v for k, v in values.items() if not v.isna().any()}

    return ax.quantities(read, share=holds is not None)


@ax.quantities
def excess_of_small(study: ax.Study):
    """The training loss that a small rate leaves, minus that of a good one."""
    return {
        f"train/loss: learning rate {SLOW:g} − {GOOD:g}, {dataset}": study.differences(
            rates[SLOW], rates[GOOD], "train/loss"
        )
        for dataset, rates in lines(study).items()
        if {SLOW, GOOD} <= rates.keys()
    }


SHARE = "share of restarts whose"
LIKELIHOOD = "course notes, Maximum Likelihood"
DESCENT = "course notes, Gradient Descent"
DECAY = "course notes, Learning Rate Decay"
CLAIMS = [
    ax.Claim(
        "optimum-is-scikit-learns",
        "From any start gradient descent ends at scikit-learn's penalized maximum likelihood.",
        LIKELIHOOD,
        column("from_optimum", "‖w − w*‖ / ‖w*‖").within(0.01),
    ),
    ax.Claim(
        "gradient-is-error-times-point",
        "The gradient of the cross-entropy is −(y − ŷ)(x, 1), averaged over the examples.",
        "course notes, Gradient calculation",
        column("train/gradient_apart", "largest difference from jax.grad, relative").within(1e-4),
    ),
    ax.Claim(
        "product-is-sum",
        "The logarithm of the product of probabilities is the sum of their logarithms.",
        LIKELIHOOD,
        column("train/product_and_sum", f"|ln Π p − Σ ln p|, {FEW} examples").within(1e-3),
    ),
    ax.Claim(
        "product-underflows",
        "The product of a thousand probabilities underflows to 0; the sum of their logs does not.",
        LIKELIHOOD,
        column("train/underflows", f"{SHARE} product is 0", holds=lambda flag: flag == 1) > 0.7,
    ),
    ax.Claim(
        "error-falls-at-every-step",
        "At a small learning rate the error falls at every step.",
        DESCENT,
        column("rises", f"{SHARE} error never rises", 0, 0.1, holds=lambda n: n == 0) > 0.7,
    ),
    ax.Claim(
        "too-large-overshoots",
        "At too large a learning rate steps overshoot, and the error rises at some of them.",
        DECAY,
        column("rises", "steps at which the error rose", TOO_LARGE, TOO_LARGE) > 0,
    ),
    ax.Claim(
        "small-is-slow",
        "A small learning rate leaves a higher training loss than a good one after as many steps.",
        DECAY,
        excess_of_small > 0,
    ),
    ax.Claim(
        "larger-errors-larger-steps",
        "The larger the error y − ŷ at an example, the larger the step that it asks for.",
        DESCENT,
        column("train/error_and_step", "rank correlation of |y − ŷ| and ‖step‖").within(0.5, 1.1),
    ),
    ax.Claim(
        "two-classes-are-one-sigmoid",
        "The softmax of two scores is the sigmoid of their difference.",
        "course notes, Multi-Class Classification and Softmax",
        column("test/sigmoid_and_softmax", "largest difference").within(1e-4),
    ),
]
