"""How far should a restart be thrown, and how many restarts does a harder problem need?

Restarts from N(w₀, σ²): around 0, around a network that solves exclusive or and around one that is
stuck, over σ. Then problems of growing dimension from the same kind of start: the parity of two to
five bits, two spirals, and two half moons by networks three units wide and ever deeper.

Source: course notes, "Local Minima and Random Restart", Practical Considerations.

Command: ./launch.sh escape                    (about a minute on 2 CPU cores)

Expected: near a solution small σ succeeds and large σ does not, near a trap only σ of some size
does; every two further bits of parity need more restarts.
"""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ablax import losses, metrics, optimizers
from ablax.config import BaseConfig, Preset, hparam, static, values
from ablax.data import generated, split
from ablax.data.dataset import Dataset
from ablax.errors import UserError
from ablax.metrics import ACCURACY, LOSS, Metric
from ablax.nn.activations import ACTIVATIONS
from ablax.nn.initializers import scale_weights
from ablax.nn.mlp import MLP, widths_of
from ablax.report import plot as draw
from ablax.report import selection
from ablax.report.claims import Claim, Test, difference
from ablax.report.quantities import Effect
from ablax.report.statistics import Interval
from ablax.report.study import BASELINE, Chosen, Study
from ablax.study import grid
from ablax.task import Task
from ablax.tasks.supervised import supervised

LAYERS, ZERO, SOLUTION, TRAP = "layers", "zero", "solution", "trap"
CENTRES: dict[str, list[float]] = {
    LAYERS: [],  # each layer by the size of its inputs
    ZERO: [0.0] * 9,
    # Ends of 2-2-1 networks of tanh trained on exclusive or: W by rows, b; then w, c.
    SOLUTION: [-2.18, -2.30, -2.36, 2.36, 2.48, -2.48, 5.58, 6.02, 6.02],
    TRAP: [-2.94, -2.95, -1.56, -2.96, 1.54, -2.93, 0.05, -3.64, 3.69],
}
SIGMAS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
BITS = (2, 3, 4, 5)
DEPTHS = (1, 2, 4, 8)


def parity(bits: int) -> Dataset:
    """All rows of `bits` bits, as ±1, and whether an odd number of them is set."""
    x = np.array(list(itertools.product([-1, 1], repeat=bits)), np.float32)
    y = ((x > 0).sum(axis=1) % 2).astype(np.int32)
    made = {"problem": "classification", "classes": ("even", "odd"), "scale_features": "none"}
    return Dataset(f"parity-{bits}", x, y, source="truth table", test=(x, y), **made)


PROBLEMS: dict[str, Any] = {
    **{f"parity-{bits}": (lambda bits=bits: parity(bits)) for bits in BITS},
    "spirals": lambda: generated.spirals(n=200, noise=0.02, turns=2.0),
    "moons": lambda: generated.moons(n=200, noise=0.1),
}


class Config(BaseConfig):
    problem: str = static("parity-2", "what is to be learnt; parity-2 is xor", choices=PROBLEMS)
    hidden: str = static("2", "units of the hidden layers, such as 3-3-3")
    activation: str = static("tanh", "of the hidden layers", choices=ACTIVATIONS)
    centre: str = static(LAYERS, "w₀ of the starts N(w₀, σ²)", choices=CENTRES)
    sigma: float = hparam(1.0, "σ; with centre layers the factor on LeCun's weights", above=0)
    learning_rate: float = hparam(0.1, "constant rate", low=0)
    momentum: float = hparam(0.9, "share of the last step that is kept", low=0, below=1)


PRESETS = {
    "smoke": Preset(Config(steps=200, eval_every=50), 32),
    "default": Preset(Config(steps=4000, eval_every=100), 256),
    "paper": Preset(Config(steps=10_000, eval_every=100), 4096),
}


def points(config: Config) -> list[grid.Setting]:
    steps = max(values(config.steps))
    thrown = [
        {
            grid.GROUP: f"σ around {centre}",
            "centre": centre,
            "sigma": sigma,
            "steps": min(1000, steps),
        }
        for centre in (ZERO, SOLUTION, TRAP)
        for sigma in SIGMAS
    ]
    bits = [{grid.GROUP: f"{n} bits", "problem": f"parity-{n}", "hidden": str(n)} for n in BITS[1:]]
    spirals = [
        {grid.GROUP: f"spirals, {hidden}", "problem": "spirals", "hidden": hidden}
        for hidden in ("8", "16", "8-8")
    ]
    narrow = [
        {grid.GROUP: f"{depth} narrow layers", "problem": "moons", "activation": "relu",
         "hidden": "-".join(["3"] * depth), "steps": min(2000, steps)}
        for depth in DEPTHS
    ]  # fmt: skip
    rows = [*thrown, *bits, *spirals, *narrow]
    quick = steps <= PRESETS["smoke"].config.steps
    return grid.tabled(config, [{grid.GROUP: BASELINE}, *(thrown[6:] if quick else rows)])


def task(config: Config) -> Task:
    widths = widths_of(config.hidden)
    small = (config.problem, config.hidden, config.activation) == ("parity-2", "2", "tanh")
    if config.centre != LAYERS and not small:
        raise UserError(
            f"--centre {config.centre}: expected parity-2 with 2 hidden units of tanh, got "
            f"{config.problem} with {config.hidden} of {config.activation}"
        )
    init = "he_normal" if config.activation == "relu" else "lecun_normal"
    model = MLP(widths, 1, config.activation, init)
    splits = split(PROBLEMS[config.problem](), valid_size=0, seed=0)
    usual = supervised(
        model,
        splits,
        loss=losses.loss("sigmoid_binary_cross_entropy"),
        metrics={ACCURACY: metrics.accuracy},
        optimizer=lambda trial: optimizers.momentum(
            trial.hparams.learning_rate, momentum=trial.hparams.momentum
        ),
        batch_size=splits.n_train,
        initial=lambda params, hparams: scale_weights(params, hparams.sigma),
        resample=False,
    )

    def thrown(trial, data):
        """w₀ + ε with ε ~ N(0, σ²), biases too."""
        state = usual.init(trial, data)
        flat, unravel = ravel_pytree(state.params)
        noise = jax.random.normal(trial.rng("init"), flat.shape)
        start = jnp.asarray(CENTRES[config.centre]) + trial.hparams.sigma * noise
        return state._replace(params=unravel(start))

    def evaluate(params, trial, split):
        told = usual.evaluate(params, trial, split)
        total, count = told["accuracy"]
        return told | {"solved": ((total == count).astype(jnp.float32), jnp.float32(1))}

    return dataclasses.replace(
        usual,
        view=lambda trial, data: {**usual.view(trial, data), "valid": data["train"]},
        init=usual.init if config.centre == LAYERS else thrown,
        evaluate=evaluate,
        objective=None,
        solved=lambda train: train["solved"] == 1,
        metrics=(Metric("solved", "max"), ACCURACY, LOSS),
    )


def figures(table: Study) -> dict:
    return {"sigma": sigma_figure(table), "dimension": dimension_figure(table)}


def sigma_figure(table: Study):
    """The share of starts that are solved against σ, by the centre that they are thrown around."""
    figure, (ax,) = draw.panels(1, width=6.0)
    for number, centre in enumerate((ZERO, SOLUTION, TRAP)):
        points = selection.along(table, "sigma", centre=centre)
        if points:
            values = [table.interval(point, "train/solved") for point in points.values()]
            label = f"around {'a ' if centre != ZERO else ''}{centre}"
            draw.with_intervals(ax, list(points), values, label=label, number=number)
    ax.set(xscale="log", xlabel="σ of the restarts", ylabel="share of starts that are solved")
    draw.legend(ax)
    return draw.captioned(
        figure, "Exploration against exploitation: how far a restart should be thrown."
    )


def problems(table: Study) -> dict[str, Chosen]:
    """{problem: its point}, of the starts that are not thrown around a centre."""
    methods = selection.methods(table, centre=LAYERS)
    return {"2 bits" if name == BASELINE else name: point for name, point in methods.items()}


def needed(share: Interval, failure: float = 0.01) -> tuple[float, float, float]:
    """Restarts after which none is solved with this probability: by the share and its ends."""

    def restarts(p: float) -> float:
        return float(np.log(failure) / np.log1p(-p)) if 0 < p < 1 else (1.0 if p else np.inf)

    return restarts(share.estimate), restarts(share.high), restarts(share.low)


def dimension_figure(table: Study):
    """Restarts needed by each problem."""
    found = problems(table)
    figure, (ax,) = draw.panels(1, width=6.4, height=1.2 + 0.32 * len(found))
    for place, point in enumerate(found.values()):
        middle, low, high = needed(table.interval(point, "train/solved"))
        if np.isfinite([middle, high]).all():
            ends = [[max(middle - low, 0)], [max(high - middle, 0)]]
            ax.errorbar(middle, place, xerr=ends, fmt="o", ms=4, color="black", capsize=3)
        else:
            ax.plot(max(low, 1), place, ">", color="black")
    ax.set_yticks(range(len(found)), list(found))
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="restarts until failure has probability 1%")
    return draw.captioned(
        figure, "How many restarts a problem needs, with exact 95% intervals (arrows: at least)."
    )


def more(*pairs: tuple[str, str]) -> Test:
    """The test that more starts of one group are solved than of another."""

    def test(table: Study) -> list[Effect] | None:
        points = problems(table)
        if not {name for pair in pairs for name in pair} <= points.keys():
            return None
        return [
            dataclasses.replace(
                difference(table, "train/solved", points[a], points[b]),
                measured=f"share solved: {a} − {b}",
            )
            for a, b in pairs
        ]

    return test


def around(centre: str, better: float, worse: float) -> Test:
    """The test that more starts are solved at one σ around a centre than at another."""

    def test(table: Study) -> list[Effect] | None:
        points = selection.along(table, "sigma", centre=centre)
        if not {better, worse} <= points.keys():
            return None
        effect = difference(table, "train/solved", points[better], points[worse])
        measured = f"share solved around a {centre}: σ = {better:g} − σ = {worse:g}"
        return [dataclasses.replace(effect, measured=measured)]

    return test


def best_is_between(table: Study) -> list[Effect] | None:
    """Around zero, what the σ that the other restarts choose solves more than the ends of all."""
    line = selection.along(table, "sigma", centre=ZERO)
    if len(line) < 3:
        return None
    best = selection.chosen(table, table.among(centre=ZERO))
    return [
        Effect(
            table.differences(best, line[end], "train/solved"),
            f"share solved around {ZERO}: best σ − σ = {end:g}",
        )
        for end in (min(line), max(line))
    ]


NOTES = "course notes, Practical Considerations of random restarts"
CLAIMS = [
    Claim(
        "stay-near-a-solution",
        "Around a solution restarts should be thrown a little way, not far.",
        NOTES,
        around(SOLUTION, 0.1, 10.0),
    ),
    Claim(
        "go-far-from-a-trap",
        "Around a trap they should be thrown far, not a little way.",
        NOTES,
        around(TRAP, 3.0, 0.1),
    ),
    Claim(
        "too-far-is-lost",
        "Around nothing in particular there is a best σ, and much less or much more solves fewer.",
        NOTES,
        best_is_between,
    ),
    Claim(
        "dimension-needs-restarts",
        "Every further bit of parity needs more restarts.",
        NOTES,
        more(*((f"{n} bits", f"{n + 1} bits") for n in BITS[:-1])),
        "Odd numbers of bits are easier than the even ones below them: by two bits it holds.",
    ),
    Claim(
        "two-more-bits-need-restarts",
        "Every two further bits do.",
        NOTES,
        more(*((f"{n} bits", f"{n + 2} bits") for n in BITS[:-2])),
    ),
    Claim(
        "more-units-fewer-restarts-for-spirals",
        "The more units, and the more layers of as many, the fewer restarts do the spirals need.",
        "our own question",
        more(("spirals, 16", "spirals, 8"), ("spirals, 8-8", "spirals, 16")),
    ),
    Claim(
        "narrow-and-deep-needs-restarts",
        "Narrow networks of rectified units need more restarts the deeper they are.",
        "our own question",
        more(*((f"{n} narrow layers", f"{2 * n} narrow layers") for n in DEPTHS[:-1])),
        "One layer of three units is itself too simple; from two layers on it holds.",
    ),
]
