"""Is backpropagation by hand what jax.grad does, how fast do errors shrink, and why the mean?

Networks of sigmoid layers learn the progression of diabetes (scaled to 0 … 1) from the sum (SSE)
or the mean (MSE) of squared errors over 20 to 320 examples, at learning rates of many sizes. In
each trained network the error terms of backpropagation by hand are followed from the output to
the input, and its weight steps compared with those of jax.grad.

Source: course notes, "Backpropagation" and "Mean Square Error"; Rumelhart, Hinton and Williams
1986.

Command: ./launch.sh backpropagation           (about a minute on 2 CPU cores)

Expected: the two gradients agree to rounding; a sigmoid lets at most a quarter through of the error
that its weights bring it; with the sum the largest usable rate falls as 1/m.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ablax import losses, optimizers
from ablax.analysis.backpropagation import Layer, error_terms, forward, passed_on, weight_steps
from ablax.config import BaseConfig, Preset, hparam, static, values
from ablax.data import load, split
from ablax.nn.activations import sigmoid
from ablax.nn.initializers import scale_weights
from ablax.nn.linear import flatten
from ablax.nn.mlp import MLP
from ablax.report import plot as draw
from ablax.report import selection
from ablax.report.claims import Claim, Test, every, within
from ablax.report.quantities import Bounds, Effect
from ablax.report.statistics import mean_interval
from ablax.report.study import BASELINE, Study
from ablax.study import grid
from ablax.task import Task
from ablax.tasks.supervised import examples, supervised

MEAN, SUM = "mean", "sum"
SIZES = (16.0, 64.0, 256.0)
RATES = [2.0**n for n in range(-10, 9)]
DEPTHS = (1, 2, 4, 6)
USABLE = 0.5 / 36
"""Of ½(y − ŷ)², the error of predicting the mean: the targets have variance 1/36."""
LARGE = 4.0
"""Factor on the initial weights at which a layer no longer shrinks the error."""

DEEP = {
    "trained": {},
    "at first": {"learning_rate": 0.0},
    "large weights at first": {"learning_rate": 0.0, "scale": LARGE},
}
"""The networks whose error terms are followed."""


class Config(BaseConfig):
    error: str = static(MEAN, "of the squared errors", choices=(MEAN, SUM))
    depth: int = static(1, "hidden layers", low=1)
    width: int = static(8, "units of a hidden layer", low=1)
    learning_rate: float = hparam(1.0, "constant rate", low=0)
    examples: float = hparam(256.0, "training examples that count, m", low=1, high=283)
    scale: float = hparam(1.0, "factor on the initial weights (Glorot)", above=0)


def _preset(restarts: int, steps: int) -> Preset:
    return Preset(Config(steps=steps, eval_every=steps // 5), restarts)


PRESETS = {"smoke": _preset(3, 20), "default": _preset(16, 500), "paper": _preset(64, 2000)}


def points(config: Config) -> list[grid.Setting]:
    """Depths and weights at one rate, then the rates of the mean and of the sum for every m."""
    quick = max(values(config.steps)) < 100
    deep = [
        {grid.GROUP: f"{depth} layers, {name}", "depth": depth, **change}
        for depth in (DEPTHS[1:2] if quick else DEPTHS[1:])
        for name, change in DEEP.items()
    ]
    rates = [
        {grid.GROUP: f"{error} of {m:g}", "error": error, "examples": m, "learning_rate": rate}
        for error in (MEAN, SUM)
        for m in SIZES
        for rate in (RATES[::4] if quick else RATES)
        if (error, m, rate) != (MEAN, 256.0, 1.0)
    ]
    return grid.tabled(config, [{grid.GROUP: BASELINE}, *deep, *rates])


def task(config: Config) -> Task:
    splits = split(load("diabetes"), seed=0)
    model = MLP((config.width,) * config.depth, 1, "sigmoid", kernel_init="glorot_uniform")

    def target(y):
        """Between 0 and 1, as what a sigmoid can say; y has mean 0 and standard deviation 1."""
        return jnp.clip(0.5 + y / 6, 0.0, 1.0)

    def loss(outputs, y):
        return losses.sse(sigmoid(outputs), target(y))

    def optimizer(trial):
        return optimizers.sgd(trial.hparams.learning_rate)

    usual = supervised(
        model,
        splits,
        loss=loss,
        optimizer=optimizer,
        batch_size=splits.n_train,
        initial=lambda params, hparams: scale_weights(params, hparams.scale),
    )

    def step(state, trial, data):
        """One step on the first m of the restart's training examples."""
        x, y = examples(data["train"])
        m = trial.hparams.examples
        counted = jnp.arange(len(x), dtype=jnp.float32) < m

        def total(params):
            each = loss(jnp.asarray(model.apply({"params": params}, x)), y)
            return jnp.where(counted, each, 0.0).sum()

        value, gradient = jax.value_and_grad(total)(state.params)
        if config.error == MEAN:
            gradient = jax.tree.map(lambda g: g / m, gradient)
        updates, opt_state = optimizer(trial).update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return type(state)(params, opt_state), {"loss": value / m}

    def evaluate(params, trial, split):
        x, y = examples(split)
        x, y = flatten(x), target(y)[:, None]
        layers = [Layer(layer["weight"], layer["bias"]) for layer in params.values()]

        def of_example(x, y):
            activations = forward(layers, x)
            terms = error_terms(layers, activations, y)
            sizes = jnp.stack([jnp.linalg.norm(term) for term in terms])
            return (
                weight_steps(activations, terms, 1.0),
                jnp.stack(passed_on(layers, terms)),
                jnp.log(sizes / sizes[-1]),
            )

        def total(layers):
            output = jax.vmap(lambda x: forward(layers, x)[-1])(x)
            return losses.sse(output, y).sum()

        steps, passed, sizes = jax.vmap(of_example)(x, y)
        by_hand = jax.tree.map(lambda s: -s.sum(axis=0), steps)
        apart = jax.tree.map(
            lambda a, b: jnp.abs(a - b).max() / jnp.abs(b).max(), by_hand, jax.grad(total)(layers)
        )
        told = {"apart": jnp.stack(jax.tree.leaves(apart)).max(), "passed_at_most": passed.max()}
        size = jnp.exp(sizes.mean(axis=0))  # of the error terms, layer by layer; the last is 1
        told |= {f"error_{layer + 1}": size[layer] for layer in range(config.depth)}
        told["shrunk_a_layer"] = size[0] ** (1 / config.depth)
        return usual.evaluate(params, trial, split) | {
            name: (value, jnp.float32(1)) for name, value in told.items()
        }

    return dataclasses.replace(
        usual,
        step=step,
        evaluate=evaluate,
        objective=None,
        measure=lambda params, trial: {"worked_example": worked_example()},
    )


def worked_example() -> jax.Array:
    """How far the notes' numbers are from ours, in units of their last digit: at most 0.5."""
    layers = [
        Layer(jnp.array([[0.4, -0.2]]), jnp.zeros(1)),
        Layer(jnp.array([[0.1]]), jnp.zeros(1)),
    ]
    x, y = jnp.array([0.1, 0.3]), jnp.array([1.0])
    activations = forward(layers, x)
    hidden, output = error_terms(layers, activations, y)
    _, output_step = weight_steps(activations, [hidden, output], 0.5)
    # The notes go on from δ of the hidden unit as they printed it, 0.003.
    hidden_step, _ = weight_steps(activations, [jnp.array([0.003]), output], 0.5)
    compared = [
        (layers[0].weights @ x, -0.02, 0.01),
        (activations[1], 0.495, 0.001),
        (activations[2], 0.512, 0.001),
        (output, 0.122, 0.001),
        (hidden, 0.003, 0.001),
        (output_step.weights[0], 0.0302, 0.0001),
        (hidden_step.weights[0, :1], 0.00015, 0.00001),
        (hidden_step.weights[0, 1:], 0.00045, 0.00001),
    ]
    return jnp.stack([jnp.abs(ours[0] - printed) / unit for ours, printed, unit in compared]).max()


def figures(table: Study) -> dict:
    return {"usable": usable_figure(table), "shrinking": shrinking_figure(table)}


def usable_rates(table: Study, error: str) -> dict[float, np.ndarray]:
    """{m: the largest rate, restart by restart, that ends better than predicting the mean}.

    Only of the sizes for which the study tried several rates.
    """
    ours = {"error": error, "depth": 1, "scale": 1.0}
    largest = {}
    for m in selection.along(table, "examples", **ours):
        points = selection.along(table, "learning_rate", examples=m, **ours)
        if len(points) > 2:
            curves = {rate: table.curve(point, "train/loss") for rate, point in points.items()}
            # The loss over the last segment.
            good = [rate * (c.ffill().to_numpy()[-1] < USABLE) for rate, c in curves.items()]
            largest[m] = np.max(good, axis=0)
    return largest


def usable_figure(table: Study):
    """The largest usable learning rate against the number of examples."""
    figure, (ax,) = draw.panels(1, width=5.0)
    for number, error in enumerate((MEAN, SUM)):
        largest = usable_rates(table, error)
        if largest:
            values = [mean_interval(rates) for rates in largest.values()]
            label = f"{error} of squared errors"
            draw.with_intervals(ax, list(largest), values, label=label, number=number)
    ax.set(xlabel="training examples m", ylabel="largest usable learning rate")
    if ax.has_data():
        ax.set(xscale="log", yscale="log")
        ax.set_xticks(SIZES, [f"{m:g}" for m in SIZES])
        ax.minorticks_off()
    draw.legend(ax)
    return draw.captioned(
        figure,
        "The largest of the rates tried at which training ends better than predicting the mean.",
    )


def shrinking_figure(table: Study):
    """The size of the error terms on their way from the output to the input."""
    figure, (ax,) = draw.panels(1, width=5.6)
    number = 0
    for point, setting in table.settings.items():
        depth, name = setting["depth"], setting["group"]
        if depth == 1 or (depth < DEPTHS[-1] and "at first" in name):
            continue
        values = [table.interval(point, f"test/error_{layer + 1}") for layer in range(depth)]
        draw.with_intervals(ax, np.arange(depth) - depth, values, label=name, number=number)
        number += 1
    x = np.arange(-max(setting["depth"] for setting in table.settings.values()), 1)
    ax.plot(x, 0.25 ** -x.astype(float), "--", color="0.4", label="a quarter a layer")
    ax.set(yscale="log", xlabel="layer, counted back from the output", ylabel="‖δ‖ / ‖δ of output‖")
    draw.legend(ax)
    return draw.captioned(
        figure, "How the error shrinks from layer to layer, in trained networks and at first."
    )


def falls_as(error: str, power: float) -> Test:
    """The test that the usable rate falls as m to a power: the slope of the logarithms."""

    def test(table: Study) -> list[Effect] | None:
        largest = usable_rates(table, error)
        if len(largest) < 2 or any((rates == 0).any() for rates in largest.values()):
            return None
        sizes = np.log(list(largest))
        slopes = np.polyfit(sizes, np.log(np.stack(list(largest.values()))), 1)[0]
        measured = f"slope of ln(usable rate) by ln m, {error} of squared errors"
        return [Effect(slopes, measured, (power - 0.25, power + 0.25))]

    return test


def at_every_depth(column: str, measured: str, expected: Bounds, *groups: str) -> Test:
    """The test of some groups of the deeper networks."""
    return every(
        *(
            within(column, measured, expected, group=f"{depth} layers, {group}")
            for group in groups
            for depth in DEPTHS[1:]
        )
    )


def shrinks(group: str) -> Test:
    """The test that the error terms shrink to a quarter from layer to layer, at every depth."""
    measured = "‖δ‖ / ‖δ of the layer above‖"
    return at_every_depth("test/shrunk_a_layer", measured, (0.0, 0.25), group)


NOTES = "course notes, Backpropagation"
MSE = "course notes, Mean Square Error"
CLAIMS = [
    Claim(
        "by-hand-is-automatic",
        "Backpropagation by hand gives the gradient of jax.grad, at every depth.",
        NOTES,
        at_every_depth(
            "test/apart", "largest relative difference", (-1e-3, 1e-3), "trained", "at first"
        ),
    ),
    Claim(
        "worked-example",
        "The notes' worked example comes out to every printed digit, going on from the δ that they "
        "printed.",
        NOTES,
        lambda table: [
            Effect(
                table.largest("worked_example"),
                "largest difference, in units of the last printed digit",
                (-0.5, 0.5),
            )
        ],
    ),
    Claim(
        "sigmoid-passes-a-quarter",
        "A sigmoid lets at most a quarter of the error through that its weights bring it.",
        NOTES,
        at_every_depth(
            "test/passed_at_most",
            "largest ‖δ‖ / ‖Wᵀδ‖ of any example and layer",
            (0.0, 0.2501),
            *DEEP,
        ),
    ),
    Claim(
        "errors-shrink-by-75-percent",
        "From layer to layer the error shrinks by at least 75%, in networks as they start.",
        NOTES,
        shrinks("at first"),
        remark="The slope of a sigmoid is at most a quarter, but the weights before it bring the "
        "error in a size of their own: about 1 at first, with a spread.",
    ),
    Claim(
        "errors-shrink-in-trained-networks",
        "In trained networks they still do.",
        NOTES,
        shrinks("trained"),
        remark="In two layers training makes the weights larger, and so the error on its way "
        "through them; in deeper networks less than a quarter passes, as at first.",
    ),
    Claim(
        "errors-shrink-whatever-the-weights",
        f"With {LARGE:g} times the weights they still do.",
        "our own question",
        shrinks("large weights at first"),
        remark="Four times the weights bring the error in four times as large, but also flatten "
        "the sigmoids: more than twice as much passes.",
    ),
    Claim(
        "sum-needs-smaller-rates",
        "With the sum of squared errors the usable learning rate falls as 1/m.",
        MSE,
        falls_as(SUM, -1.0),
    ),
    Claim(
        "mean-keeps-its-rate",
        "With their mean it does not depend on m.",
        MSE,
        falls_as(MEAN, 0.0),
    ),
]
