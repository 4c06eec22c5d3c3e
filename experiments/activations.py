"""Which activation trains deep networks, and what becomes of its gradients and units meanwhile?

Networks of two and of six hidden layers learn digits with each activation function, from initial
weights of three sizes, at three learning rates of which validation chooses. Recorded in training:
the gradient of every layer's weights, the share of units whose slope is nearly 0, and the share of
units that are off for every example. Some networks start with almost all units off.

Source: course notes, "Activation Functions", "Other Activation Functions"; Glorot and Bengio 2010,
Table 1 (5 layers of 1000 units; here the order).

Command: ./launch.sh activations               (about three minutes on 2 CPU cores)

Expected: deep sigmoid networks hardly learn; tanh and the rectified ones do; leaky ReLU turns
units on again that ReLU leaves off.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import ablax as ax
from ablax import grid, plot
from ablax.report.statistics import mean_interval
from ablax.tasks.supervised import examples

NAMES = ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu")
CLASSICAL = NAMES[:3]  # tried with every size of initial weights
SHALLOW, DEEP = 2, 6
STANDARD, GLOROT, HE = 0.577, 1.0, 1.414
"""√(n·Var(w)): of the older standard, of Glorot's and LeCun's and of He's weights."""
WORDS = {STANDARD: "standard", GLOROT: "Glorot", HE: "He"}
RATES = (0.03, 0.1, 0.3)
OFF = -2.0  # a bias that turns a unit off for almost every example
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


def _preset(restarts: int, steps: int, **changes: Any) -> ax.Preset:
    return ax.Preset(Config(steps=steps, eval_every=steps // 20, **changes), restarts)


PRESETS = {
    "smoke": _preset(3, 60, activation=("sigmoid", "relu"), depth=2, width=8),
    "default": _preset(16, 1000),
    "paper": _preset(32, 5000, width=128),
}


def gain_for(name: str) -> float:
    """The gain of the initial weights that are made for an activation."""
    return HE if "relu" in name or name == "gelu" else GLOROT


def row(name: str, depth: int, gain: float) -> str:
    return f"{name}, {depth} layers, {WORDS[gain]}"


def points(config: Config) -> list[grid.Setting]:
    networks = {
        row(name, depth, gain): {"activation": name, "depth": depth, "gain": gain}
        for name in NAMES
        for depth in (SHALLOW, DEEP)
        for gain in (WORDS if name in CLASSICAL else [gain_for(name)])
    }
    for name in ("relu", "leaky_relu"):
        networks[f"{name}, off at first"] = {"activation": name, "depth": 1, "bias": OFF}
    rows = [
        {grid.GROUP: group, **network, "learning_rate": rate}
        for group, network in networks.items()
        for rate in RATES
    ]
    return grid.table(config, rows)


def task(config: Config) -> ax.Task:
    splits = ax.data.split(ax.data.load("digits"), train_size=1000, seed=0)
    widths = (config.width,) * config.depth
    model = ax.nn.MLP(widths, len(splits.classes), config.activation, "lecun_normal")
    f = ax.nn.activation(config.activation)
    slope = jax.vmap(jax.vmap(jax.grad(f)))

    def optimizer(trial):
        rate = ax.schedules.cosine(trial.hparams.learning_rate, steps=trial.steps)
        return ax.optimizers.momentum(rate, momentum=trial.hparams.momentum)

    def initial(params, hparams):
        params = ax.nn.scale_weights(params, hparams.gain)
        return {
            name: layer if name == "output" else {**layer, "bias": layer["bias"] + hparams.bias}
            for name, layer in params.items()
        }

    def watch(gradient, params):
        """Root mean square of the gradient of every layer's weights."""
        return {
            f"gradient_{i}": jnp.sqrt(jnp.square(layer["weight"]).mean())
            for i, layer in enumerate(gradient.values())
        }

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
        flat = jnp.stack([jnp.abs(slope(h)) < FLAT for h in hidden])
        shares = {
            "flat": flat.mean(),
            "off": (z < 0).all(axis=-1).mean(),
            "zeros": (f(z) == 0).mean(),
        }
        sums = {name: (share, jnp.float32(1)) for name, share in shares.items()}
        return usual.evaluate(params, trial, split) | sums

    return dataclasses.replace(usual, evaluate=evaluate)


def tuned(study: ax.Study, depth: int, **where: Any) -> dict[str, ax.Chosen]:
    """{activation: its point at the learning rate that validation chooses}, biases 0 at first."""
    return ax.selection.along(study, "activation", depth=depth, bias=0.0, **where)


def depths_of(study: ax.Study) -> list[int]:
    """The depths of the study, except that of the networks that are off at first."""
    return sorted({setting["depth"] for setting in study.settings.values()} - {1}) or [1]


def gradients_of(study: ax.Study, point: ax.Chosen, depth: int) -> np.ndarray:
    """[restarts, evaluations, layers]: log10 of each layer's gradient; NaN where there is none."""
    curves = [study.curve(point, f"train/gradient_{layer}") for layer in range(depth)]
    whole = np.stack([curve.to_numpy(np.float64).T for curve in curves], axis=-1)
    return np.log10(np.maximum(whole, 1e-30))


def ends_of(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([restarts, layers] of each restart's first evaluation, those of its last)."""
    finite = np.asarray(np.isfinite(curves).all(axis=-1))
    restarts = np.flatnonzero(finite.any(axis=1))
    first, last = finite.argmax(axis=1), finite.shape[1] - 1 - finite[:, ::-1].argmax(axis=1)
    return curves[restarts, first[restarts]], curves[restarts, last[restarts]]


def gradients_figure(study: ax.Study):
    """The gradient of each layer's weights, at the start of training and at its end."""
    depth = max(setting["depth"] for setting in study.settings.values())
    points = {name: tuned(study, depth, gain=gain_for(name)).get(name) for name in NAMES}
    figure, axes = plot.panels(2, width=5.0, sharey=True)
    for number, (name, suited) in enumerate(points.items()):
        point = suited or tuned(study, depth).get(name)
        if point is None:
            continue
        for panel, values in zip(axes, ends_of(gradients_of(study, point, depth)), strict=True):
            intervals = [mean_interval(layer) for layer in values.T]
            look = {"alpha": 0.15, "label": name, "marker": "o", "ms": 3}
            plot.shaded(panel, np.arange(depth) + 1, intervals, number=number, **look)
    for panel, when in zip(axes, ("first", "last"), strict=True):
        panel.set(xlabel="hidden layer", ylabel="log10 rms of the weights' gradient")
        panel.set(title=f"in the {when} twentieth of training", xticks=range(1, depth + 1))
    plot.legend(axes[0])
    return plot.captioned(
        figure,
        "The gradient of every layer's weights, each activation with the weights made for it, at "
        "the learning rate that validation chooses.",
    )


def accuracy_figure(study: ax.Study):
    """Test accuracy by activation, depth and size of the initial weights."""
    depths = depths_of(study)
    gains = [*WORDS, *sorted({setting["gain"] for setting in study.settings.values()} - {*WORDS})]
    figure, axes = plot.panels(len(depths), width=5.4, sharey=True)
    for panel, depth in zip(axes, depths, strict=True):
        for number, gain in enumerate(gains):
            points = tuned(study, depth, gain=gain)
            shown = [name for name in NAMES if name in points]
            values = [study.interval(points[name], "test/accuracy") for name in shown]
            places = [NAMES.index(name) + 0.2 * (number - 1) for name in shown]
            label = WORDS.get(gain, f"gain {gain:g}")
            if shown:
                plot.with_intervals(panel, places, values, label=label, number=number, line="")
        panel.set_xticks(range(len(NAMES)), NAMES, rotation=30)
        panel.set(title=f"{depth} hidden layers", ylabel="test accuracy")
        plot.legend(panel)
    return plot.captioned(
        figure, "Test accuracy by activation, depth and initial weights, with 95% intervals."
    )


def by_rate(study: ax.Study, name: str, depth: int) -> dict[float, ax.Chosen]:
    """{learning rate: point} of an activation with the weights made for it, from low to high."""
    suited = {"activation": name, "depth": depth, "gain": gain_for(name), "bias": 0.0}
    return ax.selection.along(study, "learning_rate", **suited)


def units_figure(study: ax.Study):
    """The share of units that hardly learn any more, by learning rate and depth."""
    depths = depths_of(study)
    ticks = sorted({setting["learning_rate"] for setting in study.settings.values()})
    measures = {"flat": f"share of slopes below {FLAT:g}", "off": "share of units never above 0"}
    figure, axes = plot.panels(2 * len(depths), width=5.0, height=3.2, columns=len(depths))
    shown = [(measure, depth) for measure in measures for depth in depths]
    for panel, (measure, depth) in zip(axes, shown, strict=True):
        for number, name in enumerate(NAMES):
            rates = by_rate(study, name, depth)
            values = [study.interval(point, f"train/{measure}") for point in rates.values()]
            if rates:
                plot.with_intervals(panel, list(rates), values, label=name, number=number)
        panel.set(xscale="log", xlabel="learning rate", ylabel=measures[measure])
        panel.set(title=f"{depth} hidden layers")
        panel.set_xticks(ticks, [f"{rate:g}" for rate in ticks])
        panel.minorticks_off()
    plot.legend(axes[0])
    return plot.captioned(
        figure,
        "Units that hardly learn any more: flat ones (above) and those that no example turns on "
        "(below), each activation with the weights made for it.",
    )


FIGURES = {"gradients": gradients_figure, "accuracy": accuracy_figure, "units": units_figure}


def first_against_last(name: str) -> ax.Quantity:
    """Mean over training of log10(gradient of the first hidden layer / of the last), six layers."""

    @ax.quantities
    def ratios(study: ax.Study):
        point = tuned(study, DEEP, gain=gain_for(name))[name]
        logs = gradients_of(study, point, DEEP)
        by_restart = pd.DataFrame(logs[..., 0] - logs[..., -1], index=study.of(point)["restart"])
        return {name: by_restart.mean(axis=1)}

    return ratios


def passes_more(first: str, second: str) -> ax.Quantity:
    """How much more of the gradient reaches the first layer with one activation than another."""
    measured = "log10(gradient of the first hidden layer / of the last), mean over training"
    difference = first_against_last(first) - first_against_last(second)
    return difference.named(f"{measured}: {first} − {second}")


def cost_of_large_rates(column: str, name: str, measured: str) -> ax.Quantity:
    """A share of units at the largest learning rate less that at the smallest, in two layers."""

    @ax.quantities
    def cost(study: ax.Study):
        rates = by_rate(study, name, SHALLOW)
        if len(rates) < 2:
            raise ax.Missing(f"fewer than two learning rates of {name}")
        low, *_, high = rates
        values = study.differences(rates[high], rates[low], column)
        return {f"{measured}, {name}: learning rate {high:g} − {low:g}": values}

    return cost


@ax.quantities
def zeros(study: ax.Study):
    """The share of outputs of trained ReLU networks that are 0, at the best rate."""
    points = {depth: tuned(study, depth, gain=HE).get("relu") for depth in (SHALLOW, DEEP)}
    return {
        f"share of outputs that are 0, {depth} layers": study.values(point, "train/zeros")
        for depth, point in points.items()
        if point
    }


NOTES = "course notes, Other Activation Functions"
loss, accuracy, off = map(ax.column, ("train/loss", "test/accuracy", "train/off"))
leaky, plain = "leaky_relu, off at first", "relu, off at first"
CLAIMS = [
    ax.Claim(
        "gradients-vanish-in-training",
        "While deep networks are trained, gradients vanish with sigmoid, with tanh less, with ReLU "
        "least.",
        "course notes, The Vanishing Gradient Problem",
        passes_more("tanh", "sigmoid") > 0,
        passes_more("relu", "tanh") > 0,
    ),
    ax.Claim(
        "tanh-trains-faster-than-sigmoid",
        "After as many steps tanh has less training loss than sigmoid, each at its best rate.",
        NOTES,
        *(
            loss[row("tanh", depth, GLOROT)] < loss[row("sigmoid", depth, GLOROT)]
            for depth in (SHALLOW, DEEP)
        ),
    ),
    ax.Claim(
        "relu-trains-better-at-no-cost",
        "ReLU trains deep networks better than sigmoid, and costs no accuracy.",
        NOTES,
        loss[row("relu", DEEP, HE)] < loss[row("sigmoid", DEEP, GLOROT)],
        *(
            (accuracy[row("relu", depth, HE)] - accuracy[row("sigmoid", depth, GLOROT)]).within(
                -0.01, 1.0
            )
            for depth in (SHALLOW, DEEP)
        ),
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
        "Of units that are off for every example, leaky ReLU turns more on again than ReLU, and "
        "classifies better.",
        "course notes, Activation Functions",
        off[leaky] < off[plain],
        accuracy[leaky] > accuracy[plain],
    ),
    ax.Claim(
        "large-rates-cost-units",
        "At a large learning rate more units stop learning: tanh is flat, ReLUs are off for every "
        "example.",
        "our own question",
        cost_of_large_rates("train/flat", "tanh", "share of slopes near 0") > 0,
        cost_of_large_rates("train/off", "relu", "share of units off for every example") > 0,
    ),
    ax.Claim(
        "relu-is-sparse",
        "In a trained network, as in an untrained one, about half of a ReLU's outputs are 0.",
        "course notes, Activation Functions",
        zeros.within(0.4, 0.6),
    ),
]
