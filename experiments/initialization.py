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
from ablax.analysis.propagation import downwards, mean_singular_values, upwards

STANDARD, GLOROT, HE = 1 / 3, 1.0, 2.0
NAMES = ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu")
INPUTS = 64
SMALL = 0.3  # standard deviation of inputs that leave tanh nearly linear


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
JACOBIAN = grid.product(
    depth=[5], width=[1000], jacobians=[4], variance=[STANDARD, GLOROT], input_scale=[SMALL, 1.0]
)
ROWS = grid.rows({}, {**ACTIVATIONS, "selu, other inputs": OTHER_INPUTS, "Jacobian": JACOBIAN})
PLAIN = {"input_mean": 0.0, "jacobians": 0}
"""Settings of the points that compare activations, on inputs around 0."""


def points(config: Config) -> list[grid.Setting]:
    return grid.table(config, ROWS)


def task(config: Config) -> ax.Task:
    n, depth, jacobians = config.width, config.depth, config.jacobians
    if jacobians >= depth:
        raise ax.UserError(f"--jacobians: expected fewer than the {depth} layers, got {jacobians}")

    def init(trial, data):
        """Pass up and down once: a trial does nothing else."""
        h, keys = trial.hparams, jax.random.split(trial.rng("init"), depth + 2)
        draw = partial(jax.random.uniform, shape=(n, n), minval=-1, maxval=1)
        weights = jax.vmap(draw)(keys[2:]) * jnp.sqrt(3 * h.variance / n)
        x = h.input_mean + h.input_scale * jax.random.normal(keys[0], (n, INPUTS))
        a, slopes = upwards(ax.nn.activation(config.activation), weights, x)
        gradients = downwards(weights, slopes, jax.random.normal(keys[1], (n, INPUTS)))
        state = {
            "activations": jnp.sqrt(jnp.square(a).mean(axis=(1, 2))),
            "gradients": jnp.sqrt(jnp.square(gradients).mean(axis=(1, 2))),
            "mean": a.mean(axis=(1, 2))[-1],
            "variance_at_end": a.var(axis=(1, 2))[-1],
            "zeros": (a == 0).mean(axis=(1, 2)).mean(),
        }
        if jacobians:  # of the first layers, at the first input
            some = weights[1 : jacobians + 1], slopes[:jacobians, :, 0], trial.rng("probes")
            state["singular_value"] = mean_singular_values(*some).mean()
        return state

    def survives(state, trial, split):
        """The log10 of the share of the last layer's gradient that reaches the first."""
        gradients = jnp.maximum(state["gradients"], 1e-30)
        return ax.whole(log_gradient=jnp.log10(gradients[0] / gradients[-1]))

    return ax.Task(
        data=dict.fromkeys(("train", "valid", "test"), np.zeros(0, np.float32)),
        init=init,
        step=lambda state, trial, data: (state, {"loss": jnp.float32(0)}),
        evaluate=survives,
        measure=lambda state, trial: state,
        objective=None,
        metrics=(ax.Metric("log_gradient", "max"),),
        notes=("random inputs and weights",),
    )


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
            panel.semilogy(np.arange(len(mean)) + 1, mean, color=colour, label=activation)
        panel.set(xlabel="layer", ylabel=labels[name], title=f"n·Var(w) = {variance:.3g}")
    plot.legend(axes[0])
    return plot.captioned(
        figure, "On the way up (above) and down (below), untrained: geometric means over restarts."
    )


FIGURES = {"layers": layers_figure}


def keeps_more(first: str, second: str, variances: dict[str, float]) -> ax.Quantity:
    """The difference of two activations in how much of the gradient reaches the first layer."""
    column = ax.column("test/log_gradient", by="activation", **PLAIN)
    a, b = (column.at(variance=variances[name])[name] for name in (first, second))
    measured = f"log10(gradient at the first layer / at the last): {first} − {second}"
    weights = ", ".join(f"{name} {variances[name]:.3g}" for name in (first, second))
    return (a - b).named(f"{measured}, n·Var(w) = {weights}")


VANISHING = "course notes, The Vanishing Gradient Problem"
GLOROT_BENGIO = "Glorot and Bengio 2010, section 4.2.1"
OWN: dict[str, float] = {"sigmoid": GLOROT, "tanh": GLOROT, "relu": HE}
"""The n·Var(w) that is made for an activation."""
ALIKE: dict[str, float] = dict.fromkeys(OWN, GLOROT)
zeros = ax.column("zeros", measured="share of outputs that are 0", activation="relu")
singular = ax.column("singular_value", measured="mean singular value", group="Jacobian")
selu = partial(ax.column, activation="selu", variance=GLOROT)
mean = selu("mean", measured="mean after the last layer")
variance = selu("variance_at_end", measured="variance after the last layer")
CLAIMS = [
    ax.Claim(
        "gradients-vanish",
        "Backwards through a deep sigmoid network the gradient vanishes, with tanh less, with ReLU "
        "least, each with the initialization recommended for it.",
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
        "Before training, about half of a ReLU's outputs are 0.",
        "course notes, Activation Functions",
        zeros.everywhere.within(0.45, 0.55),
    ),
    ax.Claim(
        "jacobian-standard",
        "With the standard weights a tanh layer's Jacobian has singular values of mean 0.5.",
        GLOROT_BENGIO,
        singular.at(variance=STANDARD, input_scale=SMALL).everywhere.within(0.45, 0.55),
    ),
    ax.Claim(
        "jacobian-normalized",
        "With Glorot's weights a tanh layer's Jacobian has singular values of mean 0.8.",
        GLOROT_BENGIO,
        singular.at(variance=GLOROT, input_scale=SMALL).everywhere.within(0.75, 0.85),
    ),
    ax.Claim(
        "selu-normalizes-itself",
        "SELU takes activations to mean 0 and variance 1, also from inputs with another mean and "
        "variance.",
        "Klambauer et al. 2017",
        mean.at(input_mean=0.0).everywhere.within(-0.1, 0.1),
        variance.at(input_mean=0.0).everywhere.within(0.8, 1.2),
        mean.at(input_mean=0.5).everywhere.within(-0.1, 0.1),
        variance.at(input_mean=0.5).everywhere.within(0.8, 1.2),
    ),
]
