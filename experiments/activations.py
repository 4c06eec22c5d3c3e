"""Which activation trains deep networks, and what becomes of its gradients and units meanwhile?

Networks of two and of six hidden layers learn digits with each activation function, from weights
of three sizes, at three learning rates of which validation chooses. On the way: the gradient of
every layer's weights, the share of units where the slope is nearly 0, and of units that are off
for every example. In some networks all units are off at first.

Source: course notes, "Activation Functions", "Other Activation Functions"; Glorot and Bengio 2010,
Study 1 (5 layers of 1000 units; here the order).

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

from ablax import losses, metrics, optimizers, schedules
from ablax.config import BaseConfig, Preset, hparam, static
from ablax.data import load, split
from ablax.metrics import ACCURACY
from ablax.nn.activations import ACTIVATIONS, activation
from ablax.nn.initializers import scale_weights
from ablax.nn.mlp import MLP
from ablax.report import plot as draw
from ablax.report import selection
from ablax.report.claims import Claim, Test, between, every
from ablax.report.quantities import NEGATIVE, POSITIVE, Bounds, Effect
from ablax.report.statistics import mean_interval
from ablax.report.study import Chosen, Study, differences
from ablax.study import grid
from ablax.task import Task
from ablax.tasks.supervised import Records, examples, supervised

NAMES = ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu")
CLASSICAL = NAMES[:3]
"""Those that are tried with every size of initial weights."""
SHALLOW, DEEP = 2, 6
STANDARD, GLOROT, HE = 0.577, 1.0, 1.414
"""√(n·Var(w)): of the older standard, of Glorot's and LeCun's and of He's weights."""
WORDS = {STANDARD: "standard", GLOROT: "Glorot", HE: "He"}
RATES = (0.03, 0.1, 0.3)
OFF = -2.0
"""A bias that turns a unit off for almost every example."""
FLAT = 0.005
"""A slope so small that hardly anything is learnt through it."""


class Config(BaseConfig):
    activation: str = static("relu", "of the hidden layers", choices=ACTIVATIONS)
    depth: int = static(DEEP, "hidden layers", low=1)
    width: int = static(32, "units of a hidden layer", low=1)
    batch_size: int = static(50, "rows of a minibatch", low=1)
    gain: float = hparam(GLOROT, "√(n·Var(w)) of the initial weights", above=0)
    bias: float = hparam(0.0, "initial bias of the hidden units")
    learning_rate: float = hparam(0.1, "initial rate, decayed to 0 by a cosine", low=0)
    momentum: float = hparam(0.9, "share of the last step that is kept", low=0, below=1)


def _preset(restarts: int, steps: int, **changes: Any) -> Preset:
    return Preset(Config(steps=steps, eval_every=steps // 20, **changes), restarts)


FEW: Any = ("sigmoid", "relu")  # an axis
PRESETS = {
    "smoke": _preset(3, 60, activation=FEW, depth=2, width=8),
    "default": _preset(16, 1000),
    "paper": _preset(32, 5000, width=128),
}


def points(config: Config) -> list[grid.Setting]:
    table = [
        {grid.GROUP: row(name, depth, gain), "activation": name, "depth": depth, "gain": gain,
         "learning_rate": rate}
        for name in NAMES
        for depth in (SHALLOW, DEEP)
        for gain in ((STANDARD, GLOROT, HE) if name in CLASSICAL else (own(name),))
        for rate in RATES
    ]  # fmt: skip
    off = [
        {grid.GROUP: f"{name}, off at first", "activation": name, "depth": 1, "bias": OFF,
         "learning_rate": rate}
        for name in ("relu", "leaky_relu")
        for rate in RATES
    ]  # fmt: skip
    return grid.tabled(config, [*table, *off])


def row(name: str, depth: int, gain: float) -> str:
    return f"{name}, {depth} layers, {WORDS[gain]}"


def task(config: Config) -> Task:
    splits = split(load("digits"), train_size=1000, seed=0)
    f = activation(config.activation)
    model = MLP(
        (config.width,) * config.depth, len(splits.classes), config.activation, "lecun_normal"
    )
    slope = jax.vmap(jax.vmap(jax.grad(f)))

    def optimizer(trial):
        rate = schedules.cosine(trial.hparams.learning_rate, steps=trial.steps)
        return optimizers.momentum(rate, momentum=trial.hparams.momentum)

    def initial(params, hparams):
        params = scale_weights(params, hparams.gain)
        return {
            name: layer if name == "output" else {**layer, "bias": layer["bias"] + hparams.bias}
            for name, layer in params.items()
        }

    def watch(gradient, params):
        """The size of every layer's gradient, per weight."""
        return {
            f"gradient_{i}": jnp.sqrt(jnp.square(layer["weight"]).mean())
            for i, layer in enumerate(gradient.values())
        }

    usual = supervised(
        model,
        splits,
        loss=losses.loss("softmax_cross_entropy_with_integer_labels"),
        metrics={ACCURACY: metrics.accuracy},
        optimizer=optimizer,
        batch_size=config.batch_size,
        records=Records(watch=watch),
        initial=initial,
    )

    def evaluate(params, trial, split):
        x, _ = examples(split)
        _, seen = model.apply({"params": params}, x, capture_intermediates=True)
        layers: Any = seen["intermediates"]
        hidden = [layers[f"hidden_{i}"]["__call__"][0] for i in range(config.depth)]
        z = jnp.stack(hidden)  # [layers, units, examples]
        flat = jnp.stack([jnp.abs(slope(h)) < FLAT for h in hidden])
        told = {
            "flat": flat.mean(),
            "off": (z < 0).all(axis=-1).mean(),
            "zeros": (f(z) == 0).mean(),
        }
        more = {name: (value, jnp.float32(1)) for name, value in told.items()}
        return usual.evaluate(params, trial, split) | more

    return dataclasses.replace(usual, evaluate=evaluate)


def figures(table: Study) -> dict:
    return {
        "gradients": gradients_figure(table),
        "accuracy": accuracy_figure(table),
        "units": units_figure(table),
    }


def depths_of(table: Study) -> list[int]:
    """The depths of the study, but for that of the networks that are off at first."""
    return sorted({setting["depth"] for setting in table.settings.values()} - {1}) or [1]


def lines(table: Study, depth: int, gain: float) -> dict[str, Chosen]:
    """{activation: its point at the learning rate that validation chooses}, biases 0 at first."""
    return selection.along(table, "activation", depth=depth, gain=gain, bias=0.0)


def own(name: str) -> float:
    """The gain that is made for an activation."""
    return HE if "relu" in name or name == "gelu" else GLOROT


def gradients_of(table: Study, point: Chosen, depth: int) -> np.ndarray:
    """[restarts, evaluations, layers]: log10 of each layer's gradient; NaN where none was made."""
    curves = [table.curve(point, f"train/gradient_{layer}") for layer in range(depth)]
    whole = np.stack([curve.to_numpy(np.float64).T for curve in curves], axis=-1)
    return np.log10(np.maximum(whole, 1e-30))


def ends_of(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([restarts, layers] of each restart's first evaluation, those of its last)."""
    made = np.asarray(np.isfinite(curves).all(axis=-1))
    restarts = np.flatnonzero(made.any(axis=1))
    first, last = made.argmax(axis=1), made.shape[1] - 1 - made[:, ::-1].argmax(axis=1)
    return curves[restarts, first[restarts]], curves[restarts, last[restarts]]


def gradients_figure(table: Study):
    """The gradient of each layer's weights, at the start of training and at its end."""
    depth = max(setting["depth"] for setting in table.settings.values())
    figure, axes = draw.panels(2, width=5.0, sharey=True)
    for number, name in enumerate(NAMES):
        every_gain = selection.along(table, "activation", depth=depth, bias=0.0)
        point = lines(table, depth, own(name)).get(name) or every_gain.get(name)
        if point is None:
            continue
        for ax, values in zip(axes, ends_of(gradients_of(table, point, depth)), strict=True):
            draw.shaded(
                ax, np.arange(depth) + 1, [mean_interval(of_layer) for of_layer in values.T],
                number=number, alpha=0.15, label=name, marker="o", ms=3,
            )  # fmt: skip
    for ax, when in zip(axes, ("first", "last"), strict=True):
        ax.set(xlabel="hidden layer", ylabel="log10 rms of the weights' gradient")
        ax.set(title=f"in the {when} twentieth of training", xticks=range(1, depth + 1))
    draw.legend(axes[0])
    return draw.captioned(
        figure,
        "The gradient of every layer's weights, each activation with the weights made for it, at "
        "the learning rate that validation chooses.",
    )


def accuracy_figure(table: Study):
    """Test accuracy by activation, depth and size of the initial weights."""
    depths = depths_of(table)
    gains = [*WORDS, *sorted({setting["gain"] for setting in table.settings.values()} - {*WORDS})]
    figure, axes = draw.panels(len(depths), width=5.4, sharey=True)
    for ax, depth in zip(axes, depths, strict=True):
        for number, gain in enumerate(gains):
            found = lines(table, depth, gain)
            shown = [name for name in NAMES if name in found]
            if not shown:
                continue
            values = [table.interval(found[name], "test/accuracy") for name in shown]
            places = [NAMES.index(name) + 0.2 * (number - 1) for name in shown]
            label = WORDS.get(gain, f"gain {gain:g}")
            draw.with_intervals(ax, places, values, label=label, number=number, line="")
        ax.set_xticks(range(len(NAMES)), NAMES, rotation=30)
        ax.set(title=f"{depth} hidden layers", ylabel="test accuracy")
        draw.legend(ax)
    return draw.captioned(
        figure, "Test accuracy by activation, depth and initial weights, with 95% intervals."
    )


def made_for(name: str, depth: int) -> dict[str, Any]:
    """The settings of an activation with the weights that are made for it."""
    return {"activation": name, "depth": depth, "gain": own(name), "bias": 0.0}


def units_figure(table: Study):
    """The share of units that hardly learn any more, by learning rate and depth."""
    depths = depths_of(table)
    tried = sorted({setting["learning_rate"] for setting in table.settings.values()})
    measures = {"flat": f"share of slopes below {FLAT:g}", "off": "share of units never above 0"}
    figure, axes = draw.panels(2 * len(depths), width=5.0, height=3.2, columns=len(depths))
    for place, ax in enumerate(axes):
        measure, depth = list(measures)[place // len(depths)], depths[place % len(depths)]
        for number, name in enumerate(NAMES):
            rates = selection.along(table, "learning_rate", **made_for(name, depth))
            values = [table.interval(point, f"train/{measure}") for point in rates.values()]
            if rates:
                draw.with_intervals(ax, list(rates), values, label=name, number=number)
        ax.set(xscale="log", xlabel="learning rate", ylabel=measures[measure])
        ax.set(title=f"{depth} hidden layers")
        ax.set_xticks(tried, [f"{rate:g}" for rate in tried])
        ax.minorticks_off()
    draw.legend(axes[0])
    return draw.captioned(
        figure,
        "Units that hardly learn any more: flat ones (above) and those that no example turns on "
        "(below), each activation with the weights made for it.",
    )


def compared(column: str, a: tuple, b: tuple, expected: Bounds = POSITIVE) -> Test:
    """The test of a − b, each (activation, layers, gain) at the rate that validation chooses."""
    return between(column, row(*a), row(*b), expected)


def passes_more(first: str, second: str) -> Test:
    """The test that training leaves more of the gradient in the first layer, against the last."""

    def test(table: Study) -> list[Effect] | None:
        a, b = (lines(table, DEEP, own(name)).get(name) for name in (first, second))
        if a is None or b is None:
            return None
        values = differences(first_against_last(table, a), first_against_last(table, b))
        measured = "log10(gradient of the first hidden layer / of the last), mean over training"
        return [Effect(values, f"{measured}: {first} − {second}")]

    return test


def first_against_last(table: Study, point: Chosen) -> pd.Series:
    """By restart, the mean over its evaluations of log10(gradient of the first layer / last)."""
    curves = gradients_of(table, point, DEEP)
    ratios = curves[..., 0] - curves[..., -1]
    return pd.DataFrame(ratios, index=table.of(point)["restart"].to_numpy()).mean(axis=1)


def at_rates(column: str, name: str, measured: str) -> Test:
    """The test of the largest learning rate less the smallest, in networks of two layers."""

    def test(table: Study) -> list[Effect] | None:
        rates = selection.along(table, "learning_rate", **made_for(name, SHALLOW))
        if len(rates) < 2:
            return None
        high, low = max(rates), min(rates)
        values = table.differences(rates[high], rates[low], column)
        return [Effect(values, f"{measured}, {name}: learning rate {high:g} − {low:g}")]

    return test


def sparse(table: Study) -> list[Effect] | None:
    """The share of outputs that are 0 in trained networks of ReLU, at the best rate."""
    points = {depth: lines(table, depth, HE).get("relu") for depth in (SHALLOW, DEEP)}
    return [
        Effect(
            table.numbers(point, "train/zeros"),
            f"share of outputs that are 0, {depth} layers",
            (0.4, 0.6),
        )
        for depth, point in points.items()
        if point
    ] or None


NOTES = "course notes, Other Activation Functions"
TABLE_1 = "Glorot and Bengio 2010, Study 1"
CLAIMS = [
    Claim(
        "gradients-vanish-in-training",
        "While deep networks are trained, gradients vanish with sigmoid, with tanh less, with ReLU "
        "least.",
        "course notes, The Vanishing Gradient Problem",
        every(passes_more("tanh", "sigmoid"), passes_more("relu", "tanh")),
        remark="Least is tanh's loss, not ReLU's, though before training it is the other way round "
        "(initialization).",
    ),
    Claim(
        "tanh-trains-faster-than-sigmoid",
        "After as many steps tanh has less training loss than sigmoid, each at its best rate.",
        NOTES,
        every(
            *(
                compared("train/loss", ("tanh", n, GLOROT), ("sigmoid", n, GLOROT), NEGATIVE)
                for n in (SHALLOW, DEEP)
            )
        ),
    ),
    Claim(
        "relu-trains-better-at-no-cost",
        "ReLU trains deep networks better than sigmoid, and costs no accuracy.",
        NOTES,
        every(
            compared("train/loss", ("relu", DEEP, HE), ("sigmoid", DEEP, GLOROT), NEGATIVE),
            *(
                compared("test/accuracy", ("relu", n, HE), ("sigmoid", n, GLOROT), (-0.01, 1.0))
                for n in (SHALLOW, DEEP)
            ),
        ),
    ),
    Claim(
        "glorot-table-1",
        "Deep networks err most with sigmoid, less with tanh, least with tanh and Glorot weights.",
        TABLE_1,
        every(
            compared("test/accuracy", ("tanh", DEEP, STANDARD), ("sigmoid", DEEP, STANDARD)),
            compared("test/accuracy", ("tanh", DEEP, GLOROT), ("tanh", DEEP, STANDARD)),
        ),
        remark="At 6 layers of 32 units the best of three rates makes up for the older weights.",
    ),
    Claim(
        "leaky-relu-revives",
        "Of units that are off for every example, leaky ReLU turns more on again than ReLU, and "
        "classifies better.",
        "course notes, Activation Functions",
        every(
            between("train/off", "leaky_relu, off at first", "relu, off at first", NEGATIVE),
            between("test/accuracy", "leaky_relu, off at first", "relu, off at first"),
        ),
    ),
    Claim(
        "large-rates-cost-units",
        "At a large learning rate more units stop learning: tanh is flat, ReLUs are off for every "
        "example.",
        "our own question",
        every(
            at_rates("train/flat", "tanh", "share of slopes near 0"),
            at_rates("train/off", "relu", "share of units off for every example"),
        ),
    ),
    Claim(
        "relu-is-sparse",
        "In a trained network, too, about half of a ReLU's outputs are 0.",
        "course notes, Activation Functions",
        sparse,
    ),
]
