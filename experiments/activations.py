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

from typing import Any

import ablax as ax
from ablax import grid
from ablax.analysis import units
from ablax.report import curves
from ablax.tasks.supervised import examples

NAMES = ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu")
DEPTHS = SHALLOW, DEEP = 2, 6
GAINS = {0.577: "standard", 1.0: "Glorot", 1.414: "He"}  # √(n·Var(w)) of initial weights
STANDARD, GLOROT, HE = GAINS
RATES = (0.03, 0.1, 0.3)
RATE_AXIS = {"xscale": "log", "xticks": RATES, "xticklabels": RATES, "xlabel": "learning rate"}
FLAT = 0.005  # a slope so small that hardly anything is learnt through it
MADE_FOR = {name: HE if name in ("relu", "leaky_relu", "gelu") else GLOROT for name in NAMES}
"""Gains of the initial weights that are made for each activation."""
UNITS = {"train/flat": f"slopes below {FLAT:g}", "train/off": "units never above 0"}


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


def row(name: str, depth: int, gain: float | None = None) -> str:
    return f"{name}, {depth} layers, {GAINS[gain or MADE_FOR[name]]}"


def points(config: Config) -> list[grid.Setting]:
    networks = {
        row(name, depth, gain): {"activation": name, "depth": depth, "gain": gain}
        for name in NAMES
        for depth in DEPTHS
        for gain in (GAINS if name in NAMES[:3] else [MADE_FOR[name]])
    }
    for name in ("relu", "leaky_relu"):  # the bias turns units off for almost every example
        networks[f"{name}, off at first"] = {"activation": name, "depth": 1, "bias": -2.0}
    rows = [{grid.GROUP: group, **network} for group, network in networks.items()]
    return grid.table(config, grid.cross(rows, grid.product(learning_rate=RATES)))


def task(config: Config) -> ax.Task:
    model = ax.nn.MLP((config.width,) * config.depth, 10, config.activation, "lecun_normal")
    usual = ax.supervised(
        model,
        ax.data.split(ax.data.load("digits"), train_size=1000, seed=0),
        optimizer=ax.optimizers.of_trial("momentum", "cosine"),
        batch_size=config.batch_size,
        records=ax.Records(watch=units.gradient_sizes),
        initial=lambda params, h: ax.nn.shift_biases(ax.nn.scale_weights(params, h.gain), h.bias),
    )

    def evaluate(params, trial, split):
        shares = units.shares(model, params, examples(split)[0], FLAT)
        return usual.evaluate(params, trial, split) | ax.whole(**shares)

    return usual.replace(evaluate=evaluate)


def tuned(study: ax.Study, name: str, **where: Any) -> dict[str, ax.Chosen]:
    """{activation: its point at the learning rate that validation chooses}, biases 0 at first."""
    return ax.selection.along(study, "activation", activation=name, bias=0.0, **where)


def gradients_figure(study: ax.Study):
    """The gradient of each layer's weights, at the start of training and at its end."""
    depth = max(study.points["depth"])
    points = {}
    for name, gain in MADE_FOR.items():
        points |= tuned(study, name, depth=depth, gain=gain) or tuned(study, name, depth=depth)
    columns = [f"train/gradient_{layer}" for layer in range(depth)]
    caption = "Gradients by layer; each activation has its own initial weights and its best rate."
    axes = {"xlabel": "hidden layer", "ylabel": "log10 rms of the weights' gradient"}
    return curves.first_and_last(study, points, columns, caption, **axes)


FIGURES = {
    "gradients": gradients_figure,
    "accuracy": ax.charts.dots(
        {f"{n} hidden layers": ax.column("test/accuracy", depth=n, bias=0.0) for n in DEPTHS},
        "Test accuracy by activation, depth and initial weights, with 95% intervals.",
        xlabel="test accuracy",
        width=7.2,
    ),
    "units": ax.charts.lines(
        {
            f"{of}, {depth} hidden layers": {
                name: ax.column(column, "learning_rate", depth=depth, activation=name, gain=gain)
                for name, gain in MADE_FOR.items()
            }
            for column, of in UNITS.items()
            for depth in DEPTHS
        },
        "Flat units (above), units never on (below); weights as made for each activation.",
        columns=2,
        same=True,
        ylabel="share",
        **RATE_AXIS,
    ),
}

NOTES = "course notes, Other Activation Functions"
loss, accuracy = ax.column("train/loss"), ax.column("test/accuracy")
off, zeros = ax.column("train/off"), ax.column("train/zeros")
flat = ax.column("train/flat", by="learning_rate", group=row("tanh", SHALLOW))
dead = ax.column("train/off", by="learning_rate", group=row("relu", SHALLOW))
passed_on = curves.LogRatio(
    "train/gradient_0",
    f"train/gradient_{DEEP - 1}",
    "log10(gradient of the first hidden layer / of the last), mean over training",
)
leaky, plain = "leaky_relu, off at first", "relu, off at first"
CLAIMS = [
    ax.Claim(
        "gradients-vanish-in-training",
        "As deep networks train, gradients vanish with sigmoid, less with tanh, least with ReLU.",
        "course notes, The Vanishing Gradient Problem",
        passed_on[row("tanh", DEEP)] > passed_on[row("sigmoid", DEEP)],
        passed_on[row("relu", DEEP)] > passed_on[row("tanh", DEEP)],
    ),
    ax.Claim(
        "tanh-trains-faster-than-sigmoid",
        "At the step that validation selects, tanh has a lower training loss than sigmoid, each at "
        "its best rate.",
        NOTES,
        *(loss[row("tanh", depth)] < loss[row("sigmoid", depth)] for depth in DEPTHS),
    ),
    ax.Claim(
        "relu-trains-better-at-no-cost",
        "ReLU trains deep networks better than sigmoid, and costs at most a point of accuracy.",
        NOTES,
        loss[row("relu", DEEP)] < loss[row("sigmoid", DEEP)],
        (accuracy[row("relu", SHALLOW)] - accuracy[row("sigmoid", SHALLOW)]).within(-0.01, 1.0),
        (accuracy[row("relu", DEEP)] - accuracy[row("sigmoid", DEEP)]).within(-0.01, 1.0),
    ),
    ax.Claim(
        "glorot-table-1",
        "With the standard initial weights deep networks err more with sigmoid than with tanh, and "
        "with tanh Glorot's weights lower the error further.",
        "Glorot and Bengio 2010, Table 1",
        accuracy[row("tanh", DEEP, STANDARD)] > accuracy[row("sigmoid", DEEP, STANDARD)],
        accuracy[row("tanh", DEEP, GLOROT)] > accuracy[row("tanh", DEEP, STANDARD)],
    ),
    ax.Claim(
        "leaky-relu-revives",
        "Of the units that are off for every example leaky ReLU revives more than ReLU, and it is "
        "more accurate.",
        "course notes, Activation Functions",
        off[leaky] < off[plain],
        accuracy[leaky] > accuracy[plain],
    ),
    ax.Claim(
        "large-rates-cost-units",
        "In networks of two hidden layers a larger learning rate leaves more tanh units flat and "
        "more ReLUs off for every example.",
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
