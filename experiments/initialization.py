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

from ablax.analysis.spectrum import mean_of
from ablax.config import BaseConfig, Preset, hparam, static
from ablax.errors import UserError
from ablax.metrics import Metric
from ablax.nn.activations import ACTIVATIONS, activation
from ablax.report import plot as draw
from ablax.report import selection
from ablax.report.claims import Claim, Test, every, within
from ablax.report.quantities import Effect
from ablax.report.study import BASELINE, Chosen, Study
from ablax.study import grid
from ablax.task import Task

STANDARD, GLOROT, HE = 1 / 3, 1.0, 2.0
NAMES = ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu")
OWN = {name: HE if "relu" in name or name == "gelu" else GLOROT for name in NAMES}
"""The n·Var(w) that is made for an activation."""
INPUTS = 64
SMALL = 0.3
"""Standard deviation of inputs that leave tanh nearly linear."""


class Config(BaseConfig):
    activation: str = static("tanh", "of every layer", choices=ACTIVATIONS)
    depth: int = static(20, "layers", low=2)
    width: int = static(256, "units of a layer, and of the input", low=2)
    jacobians: int = static(0, "layers whose Jacobian's singular values are wanted", low=0)
    variance: float = hparam(GLOROT, "n·Var(w) of the weights", above=0)
    input_mean: float = hparam(0.0, "of the inputs")
    input_scale: float = hparam(1.0, "standard deviation of the inputs", above=0)


def _preset(restarts: int, **changes: Any) -> Preset:
    return Preset(Config(steps=1, eval_every=1, **changes), restarts)


SOME: Any = ("tanh", "selu")  # an axis
PRESETS = {
    "smoke": _preset(4, activation=SOME, depth=6, width=32),
    "default": _preset(16),
    "paper": _preset(64),
}


def points(config: Config) -> list[grid.Setting]:
    table = [
        {grid.GROUP: name, "activation": name, "variance": variance}
        for name in NAMES
        for variance in (STANDARD, GLOROT, HE)
    ]
    moved = {"input_mean": 0.5, "input_scale": 1.5}
    others = [
        {grid.GROUP: "selu, other inputs", "activation": "selu", **moved},
        *(
            {
                grid.GROUP: "Jacobian",
                "depth": 5,
                "width": 1000,
                "jacobians": 4,
                "variance": v,
                "input_scale": scale,
            }
            for v in (STANDARD, GLOROT)
            for scale in (SMALL, 1.0)
        ),
    ]
    same = {"activation": "tanh", "variance": GLOROT}
    table = [row for row in table if not same.items() <= row.items()]
    return grid.tabled(config, [{grid.GROUP: BASELINE}, *table, *others])


def task(config: Config) -> Task:
    if config.jacobians >= config.depth:
        raise UserError(
            f"--jacobians: expected fewer than the {config.depth} layers, got {config.jacobians}"
        )
    f, n = activation(config.activation), config.width
    slope = jax.vmap(jax.vmap(jax.grad(f)))

    def init(trial, data):
        """All there is to a trial: one pass up, one pass down."""
        keys = jax.random.split(trial.rng("init"), config.depth + 2)
        h = trial.hparams
        weights = jax.vmap(lambda key: jax.random.uniform(key, (n, n), minval=-1, maxval=1))(
            keys[2:]
        ) * jnp.sqrt(3 * h.variance / n)
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
        told = {
            "activations": jnp.sqrt(jnp.square(a).mean(axis=(1, 2))),
            "gradients": gradients,
            "means": a.mean(axis=(1, 2)),
            "variances": a.var(axis=(1, 2)),
            "zeros": (a == 0).mean(axis=(1, 2)),
        }
        if config.jacobians:
            told["singular"] = singular(weights[1:], slopes[:-1, :, 0], trial.rng("probes"))
        return told

    def singular(weights, slopes, key):
        """Of ∂z⁺/∂z = W⁺ diag f'(z) at one input: the mean singular value, layer by layer."""

        def of_layer(layer):
            w, slope, key = layer
            square = partial(squared, w * slope[None, :])
            return mean_of(lambda v: jnp.sqrt(jnp.maximum(v, 0.0)), square, n, key)

        keys = jax.random.split(key, config.jacobians)
        some = weights[: config.jacobians], slopes[: config.jacobians], keys
        return jax.lax.map(of_layer, some)

    def squared(jacobian, v):
        return jacobian.T @ (jacobian @ v)

    def survives(state, trial, split):
        """Of the gradient at the last layer, what reaches the first: log10 of the ratio."""
        gradients = jnp.maximum(state["gradients"], 1e-30)
        return {"log_gradient": (jnp.log10(gradients[0] / gradients[-1]), jnp.float32(1))}

    def measure(state, trial):
        told = {
            "activations": state["activations"],
            "gradients": state["gradients"],
            "mean": state["means"][-1],
            "variance_at_end": state["variances"][-1],
            "zeros": state["zeros"].mean(),
        }
        return told | ({"singular_value": state["singular"].mean()} if config.jacobians else {})

    nothing = np.zeros(0, np.float32)
    return Task(
        data={"train": nothing, "valid": nothing, "test": nothing},
        init=init,
        step=lambda state, trial, data: (state, {"loss": jnp.float32(0)}),
        evaluate=survives,
        measure=measure,
        objective=None,
        metrics=(Metric("log_gradient", "max"),),
        notes=("random inputs and weights",),
    )


def figures(table: Study) -> dict:
    return {"layers": layers_figure(table)}


def layers_figure(table: Study):
    """Size of activations and gradients, layer by layer, each activation with its own weights."""
    arrays = {name: table.array(name) for name in ("activations", "gradients")}
    labels = {"activations": "rms of the activations", "gradients": "rms of the gradient at z"}
    variances = sorted({setting["variance"] for setting in table.settings.values()})
    figure, axes = draw.panels(2 * len(variances), width=3.9, height=3.3, columns=len(variances))
    for place, ax in enumerate(axes):
        kind = list(arrays)[place // len(variances)]
        variance = variances[place % len(variances)]
        for name, point in plain(table, variance).items():
            rows = np.stack([arrays[kind][trial] for trial in table.trial_ids(point.point)])
            mean = np.exp(np.log(np.maximum(rows, 1e-30)).mean(axis=0))
            number = NAMES.index(name) if name in NAMES else -1
            ax.plot(np.arange(len(mean)) + 1, mean, color=draw.COLOURS[number], label=name)
        ax.set(
            xlabel="layer", ylabel=labels[kind], yscale="log", title=f"n·Var(w) = {variance:.3g}"
        )
    draw.legend(axes[0])
    return draw.captioned(
        figure,
        "On the way up (above) and on the way down (below), before any training: geometric means "
        "over restarts.",
    )


def plain(table: Study, variance: float) -> dict[str, Chosen]:
    """{activation: its point} at a variance of the weights, on inputs around 0."""
    return selection.along(table, "activation", variance=variance, input_mean=0.0, jacobians=0)


def keeps_more(first: str, second: str, variances: dict[str, float]) -> Test:
    """The test that more of the gradient reaches the first layer with one activation."""

    def test(table: Study) -> list[Effect] | None:
        a, b = (plain(table, variances[name]).get(name) for name in (first, second))
        if a is None or b is None:
            return None
        values = table.differences(a, b, "test/log_gradient")
        at = ", ".join(f"{name} {variances[name]:.3g}" for name in (first, second))
        measured = f"log10(gradient at the first layer / at the last): {first} − {second}"
        return [Effect(values, f"{measured}, n·Var(w) = {at}")]

    return test


NOTES = "course notes, Activation Functions"
GLOROT_BENGIO = "Glorot and Bengio 2010, section 4.2.1"
SELU = "Klambauer et al. 2017"
ALIKE: dict[str, float] = dict.fromkeys(NAMES, GLOROT)
CLAIMS = [
    Claim(
        "gradients-vanish",
        "Backwards through a deep sigmoid network the gradient vanishes, with tanh less, with ReLU "
        "least, each with the weights made for it.",
        "course notes, The Vanishing Gradient Problem",
        every(keeps_more("tanh", "sigmoid", OWN), keeps_more("relu", "tanh", OWN)),
    ),
    Claim(
        "gradients-vanish-at-equal-weights",
        "In the same order with the same weights, n·Var(w) = 1.",
        "course notes, The Vanishing Gradient Problem",
        every(keeps_more("tanh", "sigmoid", ALIKE), keeps_more("relu", "tanh", ALIKE)),
        "A ReLU halves the variance; only with twice the variance of the weights is it kept.",
    ),
    Claim(
        "half-of-relu-is-zero",
        "About half of a ReLU's outputs are 0.",
        NOTES,
        within("zeros", "share of outputs that are 0", (0.45, 0.55), activation="relu"),
    ),
    Claim(
        "jacobian-standard",
        "With the standard weights the singular values of a tanh layer's Jacobian are about 0.5.",
        GLOROT_BENGIO,
        within(
            "singular_value",
            "mean singular value",
            (0.45, 0.55),
            group="Jacobian",
            variance=STANDARD,
            input_scale=SMALL,
        ),
    ),
    Claim(
        "jacobian-normalized",
        "With Glorot's weights they are about 0.8.",
        GLOROT_BENGIO,
        within(
            "singular_value",
            "mean singular value",
            (0.75, 0.85),
            group="Jacobian",
            variance=GLOROT,
            input_scale=SMALL,
        ),
        "With inputs of variance 1, which bend tanh more, it is 0.66.",
    ),
    Claim(
        "selu-normalizes-itself",
        "SELU takes activations to mean 0 and variance 1, also from inputs with another mean and "
        "variance.",
        SELU,
        every(
            *(
                within(column, name, bounds, activation="selu", variance=GLOROT, input_mean=mean)
                for mean in (0.0, 0.5)
                for column, name, bounds in [
                    ("mean", "mean after the last layer", (-0.1, 0.1)),
                    ("variance_at_end", "variance after the last layer", (0.8, 1.2)),
                ]
            )
        ),
    ),
]
