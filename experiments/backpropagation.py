"""Does backpropagation by hand give jax.grad's gradient, how fast do errors shrink, why the mean?

Networks of sigmoid layers learn the progression of diabetes (scaled to 0 … 1) from the sum (SSE)
or the mean (MSE) of squared errors over 16 to 256 examples, at learning rates of many sizes. In
each trained network the error terms of backpropagation by hand are followed from the output to
the input, and its weight steps are compared with those of jax.grad.

Source: course notes, "Backpropagation" and "Mean Square Error"; Rumelhart et al. 1986.

Command: ./launch.sh backpropagation           (about a minute on 2 CPU cores)

Expected: the two gradients agree to rounding; a sigmoid passes at most a quarter of the error that
its weights bring it; with the sum of squared errors the largest usable rate falls as 1/m.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ablax as ax
from ablax import grid, losses, plot
from ablax.analysis.backpropagation import Layer, error_terms, forward, passed_on, weight_steps
from ablax.nn.activations import sigmoid
from ablax.tasks.supervised import examples

MEAN, SUM = "mean", "sum"
SIZES = (16.0, 64.0, 256.0)
RATES = [2.0**n for n in range(-10, 9)]
DEPTHS = (1, 2, 4, 6)
USABLE = 0.5 / 36  # ½(y − ŷ)² of predicting the mean: the targets have variance 1/36
LARGE = 4.0  # factor on the initial weights at which a layer no longer shrinks the error
DEEP = {  # the networks whose error terms are followed
    "trained": {},
    "at first": {"learning_rate": 0.0},
    "large weights at first": {"learning_rate": 0.0, "scale": LARGE},
}


class Config(ax.BaseConfig):
    error: str = ax.static(MEAN, "of the squared errors", choices=(MEAN, SUM))
    depth: int = ax.static(1, "hidden layers", low=1)
    width: int = ax.static(8, "units of a hidden layer", low=1)
    learning_rate: float = ax.hparam(1.0, "constant rate", low=0)
    examples: float = ax.hparam(256.0, "training examples that count, m", low=1, high=283)
    scale: float = ax.hparam(1.0, "factor on the initial weights (Glorot)", above=0)


def _preset(restarts: int, steps: int) -> ax.Preset:
    return ax.Preset(Config(steps=steps, eval_every=steps // 5), restarts)


PRESETS = {"smoke": _preset(3, 20), "default": _preset(16, 500), "paper": _preset(64, 2000)}


def points(config: Config) -> list[grid.Setting]:
    """Depths and weights at one rate, then the rates of the mean and of the sum for every m."""
    quick = max(ax.values(config.steps)) < 100
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
    return grid.table(config, [{grid.GROUP: ax.BASELINE}, *deep, *rates])


def task(config: Config) -> ax.Task:
    splits = ax.data.split(ax.data.load("diabetes"), seed=0)
    model = ax.nn.MLP((config.width,) * config.depth, 1, "sigmoid", kernel_init="glorot_uniform")

    def target(y):
        """In the range of a sigmoid, 0 to 1; y has mean 0 and standard deviation 1."""
        return jnp.clip(0.5 + y / 6, 0.0, 1.0)

    def loss(outputs, y):
        return losses.sse(sigmoid(outputs), target(y))

    optimizer = ax.optimizers.of_trial("sgd")
    usual = ax.supervised(
        model,
        splits,
        loss=loss,
        metrics={},
        optimizer=optimizer,
        batch_size=splits.n_train,
        initial=lambda params, hparams: ax.nn.scale_weights(params, hparams.scale),
    )

    def step(state, trial, data):
        """One step on the first m of the restart's training examples."""
        (x, y), m = examples(data["train"]), trial.hparams.examples
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
        x, y = ax.nn.flatten(x), target(y)[:, None]
        layers = [Layer(layer["weight"], layer["bias"]) for layer in params.values()]

        def of_example(x, y):
            activations = forward(layers, x)
            terms = error_terms(layers, activations, y)
            sizes = jnp.stack([jnp.linalg.norm(term) for term in terms])
            steps = weight_steps(activations, terms, 1.0)
            return steps, jnp.stack(passed_on(layers, terms)), jnp.log(sizes / sizes[-1])

        def total(layers):
            output = jax.vmap(lambda x: forward(layers, x)[-1])(x)
            return losses.sse(output, y).sum()

        def relative(ours, theirs):
            return jnp.abs(ours - theirs).max() / jnp.abs(theirs).max()

        steps, passed, sizes = jax.vmap(of_example)(x, y)
        by_hand = jax.tree.map(lambda s: -s.sum(axis=0), steps)
        apart = jax.tree.leaves(jax.tree.map(relative, by_hand, jax.grad(total)(layers)))
        size = jnp.exp(sizes.mean(axis=0))  # of the error terms, layer by layer; the last is 1
        values = {"apart": jnp.stack(apart).max(), "passed_at_most": passed.max()}
        values |= {f"error_{layer + 1}": size[layer] for layer in range(config.depth)}
        values["shrunk_a_layer"] = size[0] ** (1 / config.depth)
        return usual.evaluate(params, trial, split) | ax.whole(**values)

    return usual.replace(step=step, evaluate=evaluate, objective=None)


def usable_rates(study: ax.Study, error: str) -> dict[float, np.ndarray]:
    """{m: by restart the largest rate that beats predicting the mean}, where several were tried."""
    ours = {"error": error, "depth": 1, "scale": 1.0}
    largest = {}
    for m in ax.selection.along(study, "examples", **ours):
        points = ax.selection.along(study, "learning_rate", examples=m, **ours)
        if len(points) > 2:
            curves = {rate: study.curve(point, "train/loss") for rate, point in points.items()}
            # The loss over the last segment.
            good = [rate * (c.ffill().to_numpy()[-1] < USABLE) for rate, c in curves.items()]
            largest[m] = np.max(good, axis=0)
    return largest


def usable_figure(study: ax.Study):
    """The largest usable learning rate against the number of examples."""
    lines = {}
    for error in (MEAN, SUM):
        rates = usable_rates(study, error).items()
        lines[f"{error} of squared errors"] = {m: ax.statistics.mean_interval(r) for m, r in rates}
    caption = "The largest rate, of those tried, that ends better than predicting the mean."
    figure = plot.interval_panels({"": lines}, caption, xscale="log", yscale="log")
    figure.axes[0].set(xlabel="training examples m", ylabel="largest usable learning rate")
    figure.axes[0].set_xticks(SIZES, [f"{m:g}" for m in SIZES])
    figure.axes[0].minorticks_off()
    return figure


def shrinking_figure(study: ax.Study):
    """The size of the error terms on their way from the output to the input."""
    lines = {}
    for name, point in ax.selection.methods(study).items():
        depth = study.settings[point.point]["depth"]
        if depth > 1 and (depth >= DEPTHS[-1] or "at first" not in name):
            columns = {layer - depth: f"test/error_{layer + 1}" for layer in range(depth)}
            lines[name] = {x: study.interval(point, column) for x, column in columns.items()}
    if not lines:
        raise ax.Missing("the study has no network of several hidden layers")
    figure, (panel,) = plot.panels(1, width=5.6)
    x = np.arange(min(map(min, lines.values())), 1)
    panel.plot(x, 0.25 ** -x.astype(float), "--", color="0.4", label="a quarter a layer")
    labels = {"xlabel": "layer, counted back from the output", "ylabel": "‖δ‖ / ‖δ of output‖"}
    plot.interval_lines(panel, lines, yscale="log", **labels)
    return plot.captioned(figure, "How the error shrinks by layer, before and after training.")


FIGURES = {"usable": usable_figure, "shrinking": shrinking_figure}


def at_every_depth(column: str, words: str, *names: str) -> ax.Quantity:
    """A column of the deeper networks, at each of their points, named in words."""
    groups = [f"{depth} layers, {name}" for name in names for depth in DEPTHS[1:]]

    def read(study):
        points = {group: study.among(group=group) for group in groups}
        if not all(points.values()):
            raise ax.Missing("the study lacks some of the deeper networks")
        return {f"{words}, {p}": study.values(p, column) for some in points.values() for p in some}

    return ax.quantities(read)


def slope(error: str) -> ax.Quantity:
    """The power of m as which the usable rate changes: the slope of their logarithms."""

    def read(study):
        largest = usable_rates(study, error)
        if len(largest) < 2 or not np.all(list(largest.values())):
            raise ax.Missing("the study has no usable rate at several sizes")
        slopes = np.polyfit(np.log(list(largest)), np.log(np.stack(list(largest.values()))), 1)[0]
        return {f"slope of ln(usable rate) by ln m, {error} of squared errors": slopes}

    return ax.quantities(read)


NOTES = "course notes, Backpropagation"
MSE = "course notes, Mean Square Error"
SHRUNK = "test/shrunk_a_layer", "‖δ‖ / ‖δ of the layer above‖"
PASSED = "test/passed_at_most", "largest ‖δ‖ / ‖Wᵀδ‖ of any example and layer"
APART = "test/apart", "largest relative difference"
CLAIMS = [
    ax.Claim(
        "by-hand-is-automatic",
        "Backpropagation by hand gives the gradient of jax.grad, at every depth.",
        NOTES,
        at_every_depth(*APART, "trained", "at first").within(1e-3),
    ),
    ax.Claim(
        "sigmoid-passes-a-quarter",
        "A sigmoid layer passes at most a quarter of the error Wᵀδ that reaches it.",
        NOTES,
        at_every_depth(*PASSED, *DEEP).within(0, 0.2501),
    ),
    ax.Claim(
        "errors-shrink-by-75-percent",
        "Before training, the error shrinks by at least 75% a layer, on geometric average.",
        NOTES,
        at_every_depth(*SHRUNK, "at first").within(0, 0.25),
    ),
    ax.Claim(
        "errors-shrink-in-trained-networks",
        "In trained networks, the error shrinks by at least 75% a layer, on geometric average.",
        NOTES,
        at_every_depth(*SHRUNK, "trained").within(0, 0.25),
    ),
    ax.Claim(
        "errors-shrink-whatever-the-weights",
        f"At {LARGE:g} times the initial weights, the error shrinks by at least 75% a layer, on "
        "geometric average.",
        "our own question",
        at_every_depth(*SHRUNK, "large weights at first").within(0, 0.25),
    ),
    ax.Claim(
        "sum-needs-smaller-rates",
        "With the sum of squared errors the usable learning rate falls as 1/m.",
        MSE,
        slope(SUM).within(-1.25, -0.75),
    ),
    ax.Claim(
        "mean-keeps-its-rate",
        "With the mean of squared errors the usable learning rate does not depend on m.",
        MSE,
        slope(MEAN).within(0.25),
    ),
]
