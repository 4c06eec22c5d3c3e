"""Which activation trains deep networks, and what becomes of its gradients and units meanwhile?

Networks of two and of six hidden layers learn digits with each activation function, from initial
weights of three sizes, at three learning rates of which validation chooses. Recorded are each
layer's gradient and the shares of units that are flat (a slope near 0) or off (for every example).
Some networks start with nearly all units off.

Source: course notes, "Activation Functions", "Other Activation Functions"; Glorot and Bengio 2010,
Table 1 (5 layers of 1000 units; here the order).

Command: ./launch.sh activations               (about three minutes on 2 CPU cores)

Expected: deep sigmoid networks hardly learn; tanh and the rectified ones do; leaky ReLU turns
units on again that ReLU leaves off.
"""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import ablax as ax
from ablax import grid, plot
from ablax.report.study import differences
from ablax.tasks.supervised import examples

NAMES = ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu")
DEPTHS = SHALLOW, DEEP = 2, 6
GAINS = {0.577: "standard", 1.0: "Glorot", 1.414: "He"}  # √(n·Var(w)) of initial weights
STANDARD, GLOROT, HE = GAINS
RATES = (0.03, 0.1, 0.3)
FLAT = 0.005  # a slope so small that hardly anything is learnt through it


class Config(ax.BaseConfig):
    activation: str = ax.static("relu", "of the hidden layers", choices=ax.nn.ACTIVATIONS)
    depth: int = ax.static(DEEP, "hidden layers", low=1)
    width: int = ax.static(32, "units of a hidden layer", low=1)
    batch_size: int = ax.static(50, "rows of a minibatch", low=1)
    gain: float = ax.hparam(GLOROT, "√(n·Var(w)) of the initial weights", above=0)
    bias: float = ax.hparam(0.0, "initial bias of the hidden units")
    learning_rate: float = ax.hparam(0.1, "initial rate, decayed to 0 by a cosine", low=0)
    momentum: float = ax.hparam(0.9, "share of the last step that is kept", low=0, below=1)


FEW: Any = ("sigmoid", "relu")  # an axis
PRESETS = {
    "smoke": ax.Preset(Config(steps=60, eval_every=3, activation=FEW, depth=2, width=8), 3),
    "default": ax.Preset(Config(steps=1000, eval_every=50), 16),
    "paper": ax.Preset(Config(steps=5000, eval_every=250, width=128), 32),
}


def gain_for(name: str) -> float:
    """The gain of the initial weights that are made for an activation."""
    return HE if "relu" in name or name == "gelu" else GLOROT


def row(name: str, depth: int, gain: float | None = None) -> str:
    return f"{name}, {depth} layers, {GAINS[gain or gain_for(name)]}"


def points(config: Config) -> list[grid.Setting]:
    networks = {
        row(name, depth, gain): {"activation": name, "depth": depth, "gain": gain}
        for name in NAMES
        for depth in DEPTHS
        for gain in (GAINS if name in NAMES[:3] else [gain_for(name)])
    }
    for name in ("relu", "leaky_relu"):  # the bias turns units off for almost every example
        networks[f"{name}, off at first"] = {"activation": name, "depth": 1, "bias": -2.0}
    rows = [{grid.GROUP: group, **network} for group, network in networks.items()]
    return grid.table(config, grid.cross(rows, grid.product(learning_rate=RATES)))


def task(config: Config) -> ax.Task:
    splits = ax.data.split(ax.data.load("digits"), train_size=1000, seed=0)
    widths = (config.width,) * config.depth
    model = ax.nn.MLP(widths, len(splits.classes), config.activation, "lecun_normal")
    f = ax.nn.activation(config.activation)
    slope = jnp.vectorize(jax.grad(f))

    def optimizer(trial):
        rate = ax.schedules.cosine(trial.hparams.learning_rate, steps=trial.steps)
        return ax.optimizers.momentum(rate, momentum=trial.hparams.momentum)

    def initial(params, hparams):
        scaled = ax.nn.scale_weights(params, hparams.gain)
        shifted = {k: {**v, "bias": v["bias"] + hparams.bias} for k, v in scaled.items()}
        return {**shifted, "output": scaled["output"]}

    def watch(gradient, params):
        """Root mean square of the gradient of every layer's weights."""
        sizes = [jnp.sqrt(jnp.square(layer["weight"]).mean()) for layer in gradient.values()]
        return {f"gradient_{i}": size for i, size in enumerate(sizes)}

    usual = ax.supervised(
        model,
        splits,
        loss=ax.losses.loss("softmax_cross_entropy_with_integer_labels"),
        metrics={ax.ACCURACY: ax.metrics.accuracy},
        optimizer=optimizer,
        batch_size=config.batch_size,
        records=ax.Records(watch=watch),
        initial=initial,
    )

    def evaluate(params, trial, split):
        x, _ = examples(split)
        _, captured = model.apply({"params": params}, x, capture_intermediates=True)
        layers: Any = captured["intermediates"]
        hidden = [layers[f"hidden_{i}"]["__call__"][0] for i in range(config.depth)]
        z = jnp.stack(hidden)  # [layers, units, examples]
        units = {"flat": jnp.abs(slope(z)) < FLAT, "off": (z < 0).all(axis=-1), "zeros": f(z) == 0}
        sums = {name: (flags.mean(), jnp.float32(1)) for name, flags in units.items()}
        return usual.evaluate(params, trial, split) | sums

    return dataclasses.replace(usual, evaluate=evaluate)


def tuned(study: ax.Study, depth: int, **where: Any) -> dict[str, ax.Chosen]:
    """{activation: its point at the learning rate that validation chooses}, biases 0 at first."""
    return ax.selection.along(study, "activation", depth=depth, bias=0.0, **where)


def log_gradient(study: ax.Study, point: ax.Chosen, layer: int) -> pd.DataFrame:
    """log10 of the gradient of a layer's weights, as restarts × evaluations."""
    sizes = study.curve(point, f"train/gradient_{layer}").to_numpy(np.float64).T
    return pd.DataFrame(np.log10(np.maximum(sizes, 1e-30)), study.of(point)["restart"].to_numpy())


def ends_of(logs: pd.DataFrame) -> list[np.ndarray]:
    """[the first of each restart's evaluations, the last of them], of restarts that have one."""
    finite = logs.where(np.isfinite(logs)).dropna(how="all")
    ends = finite.bfill(axis=1).iloc[:, :1], finite.ffill(axis=1).iloc[:, -1:]
    return [end.to_numpy().ravel() for end in ends]


def gradients_figure(study: ax.Study):
    """The gradient of each layer's weights, at the start of training and at its end."""
    depth = max(study.points["depth"])
    figure, axes = plot.panels(2, width=5.0, sharey=True)
    for number, name in enumerate(NAMES):
        points = tuned(study, depth) | tuned(study, depth, gain=gain_for(name))
        if name in points:
            ends = [ends_of(log_gradient(study, points[name], layer)) for layer in range(depth)]
            for panel, layers in zip(axes, zip(*ends, strict=True), strict=True):
                means = list(map(ax.statistics.mean_interval, layers))
                plot.with_intervals(panel, range(1, depth + 1), means, label=name, number=number)
    for panel, when in zip(axes, ("first", "last"), strict=True):
        panel.set(xlabel="hidden layer", ylabel="log10 rms of the weights' gradient")
        panel.set(title=f"in the {when} twentieth of training", xticks=range(1, depth + 1))
    plot.legend(axes[0])
    caption = "Gradients by layer; each activation has its own initial weights and its best rate."
    return plot.captioned(figure, caption)


def depths_of(study: ax.Study) -> list[int]:
    """The depths of the study, except that of the networks that are off at first."""
    return sorted({*study.points["depth"]} - {1}) or [1]


def accuracy_figure(study: ax.Study):
    """Test accuracy by activation, depth and size of the initial weights."""
    figure, axes = plot.panels(len(depths_of(study)), width=5.4, height=4.4)
    for panel, depth in zip(axes, depths_of(study), strict=True):
        methods = ax.selection.methods(study, depth=depth, bias=0.0).items()
        plot.dots(panel, {name: study.interval(p, "test/accuracy") for name, p in methods})
        panel.set(title=f"{depth} hidden layers", xlabel="test accuracy")
        panel.locator_params(axis="x", nbins=5)
    caption = "Test accuracy by activation, depth and initial weights, with 95% intervals."
    return plot.captioned(figure, caption)


def units_figure(study: ax.Study):
    """The share of units that hardly learn any more, by learning rate and depth."""
    depths, ticks = depths_of(study), sorted({*study.points["learning_rate"]})
    measures = {"flat": f"share of slopes below {FLAT:g}", "off": "share of units never above 0"}
    figure, axes = plot.panels(2 * len(depths), width=5.0, height=3.2, columns=len(depths))
    for panel, (measure, depth) in zip(axes, itertools.product(measures, depths), strict=True):
        for number, name in enumerate(NAMES):
            where = {"activation": name, "depth": depth, "gain": gain_for(name), "bias": 0.0}
            rates = ax.selection.along(study, "learning_rate", **where)
            values = [study.interval(point, f"train/{measure}") for point in rates.values()]
            if rates:
                plot.with_intervals(panel, list(rates), values, label=name, number=number)
        panel.set(xscale="log", xlabel="learning rate", xticks=ticks, xticklabels=ticks)
        panel.set(title=f"{depth} hidden layers", ylabel=measures[measure])
        panel.minorticks_off()
    plot.legend(axes[0])
    caption = "Flat units (above), units never on (below); weights as made for each activation."
    return plot.captioned(figure, caption)


FIGURES = {"gradients": gradients_figure, "accuracy": accuracy_figure, "units": units_figure}


@ax.quantities
def passed_on(study: ax.Study):
    """How much more of the gradient reaches the first layer with one activation than another."""
    logs = {}
    for name in ("sigmoid", "tanh", "relu"):
        point = tuned(study, DEEP, gain=gain_for(name))[name]
        ratios = log_gradient(study, point, 0) - log_gradient(study, point, DEEP - 1)
        logs[name] = ratios.mean(axis=1)
    measured = "log10(gradient of the first hidden layer / of the last), mean over training"
    pairs = itertools.pairwise(logs)
    return {f"{measured}: {b} − {a}": differences(logs[b], logs[a]) for a, b in pairs}


NOTES = "course notes, Other Activation Functions"
loss, accuracy = ax.column("train/loss"), ax.column("test/accuracy")
off, zeros = ax.column("train/off"), ax.column("train/zeros")
flat = ax.column("train/flat", by="learning_rate", group=row("tanh", SHALLOW))
dead = ax.column("train/off", by="learning_rate", group=row("relu", SHALLOW))
leaky, plain = "leaky_relu, off at first", "relu, off at first"
CLAIMS = [
    ax.Claim(
        "gradients-vanish-in-training",
        "As deep networks train, gradients vanish with sigmoid, less with tanh, least with ReLU.",
        "course notes, The Vanishing Gradient Problem",
        passed_on > 0,
    ),
    ax.Claim(
        "tanh-trains-faster-than-sigmoid",
        "After as many steps tanh has less training loss than sigmoid, each at its best rate.",
        NOTES,
        *(loss[row("tanh", depth)] < loss[row("sigmoid", depth)] for depth in DEPTHS),
    ),
    ax.Claim(
        "relu-trains-better-at-no-cost",
        "ReLU trains deep networks better than sigmoid, and costs no accuracy.",
        NOTES,
        loss[row("relu", DEEP)] < loss[row("sigmoid", DEEP)],
        (accuracy[row("relu", SHALLOW)] - accuracy[row("sigmoid", SHALLOW)]).within(-0.01, 1.0),
        (accuracy[row("relu", DEEP)] - accuracy[row("sigmoid", DEEP)]).within(-0.01, 1.0),
    ),
    ax.Claim(
        "glorot-table-1",
        "Deep networks err most with sigmoid, less with tanh, least with tanh and Glorot weights.",
        "Glorot and Bengio 2010, Table 1",
        accuracy[row("tanh", DEEP, STANDARD)] > accuracy[row("sigmoid", DEEP, STANDARD)],
        accuracy[row("tanh", DEEP, GLOROT)] > accuracy[row("tanh", DEEP, STANDARD)],
    ),
    ax.Claim(
        "leaky-relu-revives",
        "Leaky ReLU revives more units that no example turns on than ReLU, and is more accurate.",
        "course notes, Activation Functions",
        off[leaky] < off[plain],
        accuracy[leaky] > accuracy[plain],
    ),
    ax.Claim(
        "large-rates-cost-units",
        "Large learning rates cost units: tanh becomes flat, and ReLUs are off for every example.",
        "our own question",
        (flat[0.3] - flat[0.03]).named("share of slopes near 0, tanh: rate 0.3 − rate 0.03") > 0,
        (dead[0.3] - dead[0.03]).named("share of units off, ReLU: rate 0.3 − rate 0.03") > 0,
    ),
    ax.Claim(
        "relu-is-sparse",
        "In a trained network about half of a ReLU's outputs are 0.",
        "course notes, Activation Functions",
        zeros[row("relu", SHALLOW)].named("share of outputs that are 0, 2 layers").within(0.4, 0.6),
        zeros[row("relu", DEEP)].named("share of outputs that are 0, 6 layers").within(0.4, 0.6),
    ),
]
