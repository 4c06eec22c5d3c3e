"""Does a signal survive a deep network, forwards and backwards, before any training?

Networks of equal layers with random weights: how the size of the activations changes on the way
up, and that of the gradient on the way down, by activation function and by the variance of the
weights (n·Var(w) = 1/3: uniform in ±1/√n, the older standard; 1: Glorot's and LeCun's; 2: He's).
Nothing is trained.

Source: course notes, "Activation Functions" and "The Vanishing Gradient Problem"; Glorot and
Bengio 2010, section 4.2.1; Klambauer et al. 2017.

Command: ./launch.sh initialization            (about a minute on 2 CPU cores)

Expected: the mean singular value of a tanh layer's Jacobian is about 0.5 with the standard weights
and 0.8 with Glorot's; SELU takes activations to mean 0 and variance 1 from wherever they start;
half of the outputs of a ReLU are 0.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ablax as ax
from ablax import grid, plot
from ablax.analysis.spectrum import mean_of

STANDARD, GLOROT, HE = 1 / 3, 1.0, 2.0
NAMES = ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu")
INPUTS = 64
SMALL = 0.3
"""Standard deviation of inputs that leave tanh nearly linear."""


class Config(ax.BaseConfig):
    activation: str = ax.static("tanh", "of every layer", choices=ax.nn.ACTIVATIONS)
    depth: int = ax.static(20, "layers", low=2)
    width: int = ax.static(256, "units of a layer, and of the input", low=2)
    jacobians: int = ax.static(0, "layers whose Jacobian's singular values are wanted", low=0)
    variance: float = ax.hparam(GLOROT, "n·Var(w) of the weights", above=0)
    input_mean: float = ax.hparam(0.0, "of the inputs")
    input_scale: float = ax.hparam(1.0, "standard deviation of the inputs", above=0)


def _preset(restarts: int, **changes: Any) -> ax.Preset:
    return ax.Preset(Config(steps=1, eval_every=1, **changes), restarts)


PRESETS = {
    "smoke": _preset(4, activation=("tanh", "selu"), depth=6, width=32),
    "default": _preset(16),
    "paper": _preset(64),
}
VARIANCES = dict.fromkeys(NAMES, (STANDARD, GLOROT, HE)) | {"tanh": (STANDARD, HE)}
ACTIVATIONS = {name: grid.product(activation=[name], variance=VARIANCES[name]) for name in NAMES}
OTHER_INPUTS = [{"activation": "selu", "input_mean": 0.5, "input_scale": 1.5}]
JACOBIAN = grid.cross(
    [{"depth": 5, "width": 1000, "jacobians": 4}],
    grid.product(variance=[STANDARD, GLOROT], input_scale=[SMALL, 1.0]),
)
ROWS = grid.rows({}, {**ACTIVATIONS, "selu, other inputs": OTHER_INPUTS, "Jacobian": JACOBIAN})


def points(config: Config) -> list[grid.Setting]:
    return grid.table(config, ROWS)


def task(config: Config) -> ax.Task:
    if config.jacobians >= config.depth:
        raise ax.UserError(
            f"--jacobians: expected fewer than the {config.depth} layers, got {config.jacobians}"
        )
    f, n = ax.nn.activation(config.activation), config.width
    slope = jax.vmap(jax.vmap(jax.grad(f)))

    def init(trial, data):
        """Pass up and down once: a trial does nothing else."""
        h, keys = trial.hparams, jax.random.split(trial.rng("init"), config.depth + 2)
        draw = partial(jax.random.uniform, shape=(n, n), minval=-1, maxval=1)
        weights = jax.vmap(draw)(keys[2:]) * jnp.sqrt(3 * h.variance / n)
        x = h.input_mean + h.input_scale * jax.random.normal(keys[0], (n, INPUTS))

        def up(a, w):
            z = w @ a
            return f(z), (z, f(z))

        _, (z, a) = jax.lax.scan(up, x, weights)
        slopes = jax.vmap(slope)(z)

        def down(g, layer):
            w, s = layer
            return w.T @ (g * s), jnp.sqrt(jnp.square(g * s).mean())

        last = jax.random.normal(keys[1], (n, INPUTS))
        _, gradients = jax.lax.scan(down, last, (weights, slopes), reverse=True)
        state = {
            "activations": jnp.sqrt(jnp.square(a).mean(axis=(1, 2))),
            "gradients": gradients,
            "means": a.mean(axis=(1, 2)),
            "variances": a.var(axis=(1, 2)),
            "zeros": (a == 0).mean(axis=(1, 2)),
        }
        if config.jacobians:
            some = weights[1 : config.jacobians + 1], slopes[: config.jacobians, :, 0]
            state["singular"] = singular(*some, trial.rng("probes"))
        return state

    def singular(weights, slopes, key):
        """The mean singular value of ∂z⁺/∂z = W⁺ diag f'(z) at one input, layer by layer."""

        def of_layer(layer):
            w, slope, key = layer
            jacobian = w * slope[None, :]

            def square(v):
                return jacobian.T @ (jacobian @ v)

            return mean_of(lambda v: jnp.sqrt(jnp.maximum(v, 0.0)), square, n, key)

        keys = jax.random.split(key, config.jacobians)
        return jax.lax.map(of_layer, (weights, slopes, keys))

    def survives(state, trial, split):
        """The log10 of the share of the last layer's gradient that reaches the first."""
        gradients = jnp.maximum(state["gradients"], 1e-30)
        return {"log_gradient": (jnp.log10(gradients[0] / gradients[-1]), jnp.float32(1))}

    def measure(state, trial):
        values = {
            "activations": state["activations"],
            "gradients": state["gradients"],
            "mean": state["means"][-1],
            "variance_at_end": state["variances"][-1],
            "zeros": state["zeros"].mean(),
        }
        return values | ({"singular_value": state["singular"].mean()} if config.jacobians else {})

    nothing = np.zeros(0, np.float32)
    return ax.Task(
        data={"train": nothing, "valid": nothing, "test": nothing},
        init=init,
        step=lambda state, trial, data: (state, {"loss": jnp.float32(0)}),
        evaluate=survives,
        measure=measure,
        objective=None,
        metrics=(ax.Metric("log_gradient", "max"),),
        notes=("random inputs and weights",),
    )


PLAIN = {"input_mean": 0.0, "jacobians": 0}
"""Settings of the points that compare activations, on inputs around 0."""


def layers_figure(study: ax.Study):
    """Size of activations and gradients, layer by layer, for each variance of the weights."""
    labels = {"activations": "rms of the activations", "gradients": "rms of the gradient at z"}
    variances = sorted({setting["variance"] for setting in study.settings.values()})
    panels = [(name, variance) for name in labels for variance in variances]
    figure, axes = plot.panels(len(panels), width=3.9, height=3.3, columns=len(variances))
    for panel, (name, variance) in zip(axes, panels, strict=True):
        sizes = study.array(name)
        line = ax.selection.along(study, "activation", variance=variance, **PLAIN)
        for activation, chosen in line.items():
            rows = np.stack([sizes[trial] for trial in study.trial_ids(chosen.point)])
            mean = np.exp(np.log(np.maximum(rows, 1e-30)).mean(axis=0))
            colour = plot.COLOURS[NAMES.index(activation) if activation in NAMES else -1]
            panel.plot(np.arange(len(mean)) + 1, mean, color=colour, label=activation)
        title = f"n·Var(w) = {variance:.3g}"
        panel.set(xlabel="layer", ylabel=labels[name], yscale="log", title=title)
    plot.legend(axes[0])
    return plot.captioned(
        figure,
        "On the way up (above) and on the way down (below), before any training: geometric means "
        "over restarts.",
    )


FIGURES = {"layers": layers_figure}


def keeps_more(first: str, second: str, variances: dict[str, float]) -> ax.Quantity:
    """The difference of two activations in how much of the gradient reaches the first layer."""
    column = ax.column("test/log_gradient", by="activation", **PLAIN)
    a, b = (column.at(variance=variances[name])[name] for name in (first, second))
    measured = f"log10(gradient at the first layer / at the last): {first} − {second}"
    weights = ", ".join(f"{name} {variances[name]:.3g}" for name in (first, second))
    return (a - b).named(f"{measured}, n·Var(w) = {weights}")


def everywhere(column: str, measured: str, **where: Any) -> ax.Quantity:
    """A column at every point with these settings, each by itself."""

    def read(study: ax.Study):
        points = study.among(**where)
        return {f"{measured}, {point}": study.values(point, column) for point in points}

    return ax.quantities(read)


NOTES = "course notes, Activation Functions"
VANISHING = "course notes, The Vanishing Gradient Problem"
GLOROT_BENGIO = "Glorot and Bengio 2010, section 4.2.1"
OWN: dict[str, float] = {"sigmoid": GLOROT, "tanh": GLOROT, "relu": HE}
"""The n·Var(w) that is made for an activation."""
ALIKE: dict[str, float] = dict.fromkeys(OWN, GLOROT)
singular = partial(everywhere, "singular_value", "mean singular value", group="Jacobian")
selu = partial(everywhere, activation="selu", variance=GLOROT)
CLAIMS = [
    ax.Claim(
        "gradients-vanish",
        "Backwards through a deep sigmoid network the gradient vanishes, with tanh less, with ReLU "
        "least, each with the weights made for it.",
        VANISHING,
        keeps_more("tanh", "sigmoid", OWN) > 0,
        keeps_more("relu", "tanh", OWN) > 0,
    ),
    ax.Claim(
        "gradients-vanish-at-equal-weights",
        "With the same weights for all, n·Var(w) = 1, the gradient vanishes most with the sigmoid, "
        "less with tanh, least with ReLU.",
        VANISHING,
        keeps_more("tanh", "sigmoid", ALIKE) > 0,
        keeps_more("relu", "tanh", ALIKE) > 0,
    ),
    ax.Claim(
        "half-of-relu-is-zero",
        "About half of a ReLU's outputs are 0.",
        NOTES,
        everywhere("zeros", "share of outputs that are 0", activation="relu").within(0.45, 0.55),
    ),
    ax.Claim(
        "jacobian-standard",
        "With the standard weights the singular values of a tanh layer's Jacobian are about 0.5.",
        GLOROT_BENGIO,
        singular(variance=STANDARD, input_scale=SMALL).within(0.45, 0.55),
    ),
    ax.Claim(
        "jacobian-normalized",
        "With Glorot's weights the singular values of a tanh layer's Jacobian are about 0.8.",
        GLOROT_BENGIO,
        singular(variance=GLOROT, input_scale=SMALL).within(0.75, 0.85),
    ),
    ax.Claim(
        "selu-normalizes-itself",
        "SELU takes activations to mean 0 and variance 1, also from inputs with another mean and "
        "variance.",
        "Klambauer et al. 2017",
        selu("mean", "mean after the last layer", input_mean=0.0).within(-0.1, 0.1),
        selu("variance_at_end", "variance after the last layer", input_mean=0.0).within(0.8, 1.2),
        selu("mean", "mean after the last layer", input_mean=0.5).within(-0.1, 0.1),
        selu("variance_at_end", "variance after the last layer", input_mean=0.5).within(0.8, 1.2),
    ),
]
