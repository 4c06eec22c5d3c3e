"""What way does descent take on a surface that one can see, and does momentum cross the hump?

Two weights are enough to draw the surface. A sigmoid unit tells benign from malignant tumours by
two measurements that are strongly correlated, which makes a long, narrow valley; and a slope with
a hump before the deepest point, where plain descent stops in the hollow above. From random
starts: plain descent, momentum, Nesterov's momentum and Adam.

Source: course notes, "Gradient Descent with Squared Errors", "Local Minima" and "Momentum"; Polyak
1964.

Command: ./launch.sh descent                   (about 20 seconds on 2 CPU cores)

Expected: in the valley momentum gets further than plain descent in as many steps; over the hump
it goes and plain descent does not, and then it stays.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ablax import optimizers
from ablax.config import BaseConfig, Preset, hparam, static, values
from ablax.data import load, split
from ablax.losses import mean, sse
from ablax.metrics import LOSS
from ablax.nn.activations import sigmoid
from ablax.report import plot as draw
from ablax.report import selection
from ablax.report.claims import Claim, Test, between, every
from ablax.report.quantities import NEGATIVE, Effect
from ablax.report.study import BASELINE, Study
from ablax.study import grid
from ablax.task import Task
from ablax.tasks.supervised import examples

VALLEY, HUMP = "valley", "hump"
FEATURES = ("mean radius", "mean concave points")
STEPS = 200
"""Of the default preset; so many places of a way are remembered."""
STARTS = {VALLEY: (-1.0, 3.0), HUMP: (-2.4, 1.0)}
"""Around which restarts start, with standard deviation 0.3."""
RATES = {VALLEY: 1.0, HUMP: 0.02}
METHODS: dict[str, dict[str, Any]] = {
    BASELINE: {},
    "momentum 0.5": {"momentum": 0.5},
    "momentum 0.9": {"momentum": 0.9},
    "momentum 0.99": {"momentum": 0.99, "learning_rate": 0.01},
    "nesterov 0.9": {"optimizer": "nesterov", "momentum": 0.9},
    "adam": {"optimizer": "adam", "momentum": 0.9, "learning_rate": 0.05},
}
CREST = 0.0
"""Where the hump is; the deepest point lies beyond it."""


class Config(BaseConfig):
    surface: str = static(VALLEY, "what is descended", choices=STARTS)
    optimizer: str = static("momentum", "momentum 0 is plain", choices=optimizers.OPTIMIZERS)
    learning_rate: float = hparam(1.0, "constant rate", low=0)
    momentum: float = hparam(0.0, "share of the last step that is kept", low=0, below=1)


def _preset(restarts: int, steps: int = STEPS) -> Preset:
    return Preset(Config(steps=steps, eval_every=steps // 20), restarts)


PRESETS = {"smoke": _preset(3, 40), "default": _preset(256), "paper": _preset(4096)}


def points(config: Config) -> list[grid.Setting]:
    quick = max(values(config.steps)) < STEPS
    methods = dict(list(METHODS.items())[: 3 if quick else None])
    table = [
        {grid.GROUP: name, "surface": surface, "learning_rate": RATES[surface], **method}
        for surface in STARTS
        for name, method in methods.items()
    ]
    return grid.tabled(config, table)


def hump(w: jax.Array) -> jax.Array:
    """A slope with two hollows: at w₁ ≈ −1 the higher, at w₁ ≈ +1 the deeper, a hump between."""
    return 0.25 * jnp.square(w[0] ** 2 - 1) - 0.2 * w[0] + 0.5 * w[1] ** 2 + 0.35


def squared_errors(w: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """½ mean (y − σ(w·x))²: the notes' error of one unit with two weights."""
    return mean(sse(sigmoid(x @ w)[:, None], y))


def task(config: Config) -> Task:
    tumours = load("breast_cancer")
    columns = [tumours.feature_names.index(name) for name in FEATURES]
    splits = split(dataclasses.replace(tumours, x=tumours.x[:, columns]), seed=0)

    def error(w, part):
        return hump(w) if config.surface == HUMP else squared_errors(w, *examples(part))

    def optimizer(trial):
        h = trial.hparams
        return optimizers.optimizer(config.optimizer, h.learning_rate, momentum=h.momentum)

    def init(trial, data):
        noise = 0.3 * jax.random.normal(trial.rng("init"), (2,))
        w = jnp.add(jnp.asarray(STARTS[config.surface]), noise)
        path = jnp.zeros((STEPS + 1, 2)).at[0].set(w)
        return {"w": w, "opt": optimizer(trial).init(w), "path": path, "apart": jnp.float32(0),
                "steps": jnp.zeros(2), "reached": jnp.float32(0)}  # fmt: skip

    def step(state, trial, data):
        h, w = trial.hparams, state["w"]
        value, gradient = jax.value_and_grad(error)(w, data["train"])
        update: Any = optimizer(trial).update(gradient, state["opt"], w)
        updates, opt = update
        # The notes' sum, step(n) + β step(n−1) + β² step(n−2) + …
        summed = h.momentum * state["steps"] - h.learning_rate * gradient
        apart = jnp.maximum(state["apart"], jnp.abs(summed - updates).max())
        moved = jnp.add(w, updates)
        path = state["path"].at[trial.step + 1].set(moved, mode="drop")
        reached = jnp.maximum(state["reached"], (moved[0] > CREST).astype(jnp.float32))
        state = {"w": moved, "opt": opt, "path": path, "apart": apart, "steps": summed,
                 "reached": reached}  # fmt: skip
        return state, {"loss": value}

    def evaluate(state, trial, part):
        crossed = (state["w"][0] > CREST).astype(jnp.float32)
        one = jnp.float32(1)
        return {"loss": (error(state["w"], part), one), "crossed": (crossed, one)}

    def measure(state, trial):
        """The way's first steps, and whether it ever was beyond the crest."""
        done = jnp.arange(STEPS + 1)[:, None] <= trial.step
        path = jnp.where(done, state["path"], state["w"])
        told = {"path": path, "reached": state["reached"]}
        heavy_ball = config.optimizer == "momentum"
        return told | ({"sum_and_update": state["apart"]} if heavy_ball else {})

    return Task(
        data={"train": splits.train, "valid": splits.valid, "test": splits.test},
        init=init,
        step=step,
        evaluate=evaluate,
        measure=measure,
        objective=None,
        metrics=(LOSS,),
        fingerprint=splits.fingerprint,
        notes=splits.notes,
    )


def figures(table: Study) -> dict:
    drawn = {}
    for surface in STARTS:
        if table.among(surface=surface):
            drawn[surface] = surface_figure(table, surface)
    return drawn


def surface_figure(table: Study, surface: str):
    """The contours, and the ways of the first restart."""
    paths, methods = table.array("path"), selection.methods(table, surface=surface)
    ways = {name: paths[table.trial_ids(p)[0]].reshape(-1, 2) for name, p in methods.items()}
    ends = np.concatenate(list(ways.values()))
    low, high = ends.min(axis=0) - 0.6, ends.max(axis=0) + 0.6
    xs, ys = (np.linspace(*bounds, 120) for bounds in zip(low, high, strict=True))
    plane = jnp.asarray(np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2), jnp.float32)
    if surface == HUMP:
        error = jax.vmap(hump)(plane)
    else:
        tumours = load("breast_cancer")
        columns = [tumours.feature_names.index(name) for name in FEATURES]
        chosen = split(dataclasses.replace(tumours, x=tumours.x[:, columns]), seed=0).train
        error = jax.vmap(lambda w: squared_errors(w, *map(jnp.asarray, chosen)))(plane)
    error = np.asarray(error).reshape(len(ys), len(xs))
    figure, axes = draw.panels(
        len(ways), width=4.0, height=3.4, columns=3, sharex=True, sharey=True
    )
    if surface == HUMP:
        levels = np.quantile(error, np.linspace(0, 0.9, 9)[1:])
    else:
        levels = error.min() + np.ptp(error) * np.linspace(0, 1, 20)[1:] ** 2
    for number, (ax, (name, way)) in enumerate(zip(axes, ways.items(), strict=True)):
        ax.contour(xs, ys, error, levels=levels, cmap="cividis", linewidths=0.8)
        colour = draw.COLOURS[number % len(draw.COLOURS)]
        ax.plot(*way.T, ".-", color=colour, ms=3, lw=1)
        ax.plot(*way[0], "o", color="black")
        ax.plot(*way[-1], "*", color="black", ms=11)
        ax.set(title="plain descent" if name == BASELINE else name, xlabel="w₁", ylabel="w₂")
        ax.grid(False)
    said = {VALLEY: "The error of a unit with two weights", HUMP: "A slope with a hump"}[surface]
    return draw.captioned(
        figure, f"{said}, and {STEPS} steps from a start (dot) to an end (star), first restart."
    )


def share(column: str, measured: str, expected: tuple[float, float], *names: str) -> Test:
    """The test of how often something holds on the slope with the hump."""

    def test(table: Study) -> list[Effect] | None:
        points = selection.methods(table, surface=HUMP)
        if not set(names) <= points.keys():
            return None
        return [
            Effect(table.numbers(points[name], column),
                   f"share of starts that {measured}, {name}", expected, share=True)
            for name in names
        ]  # fmt: skip

    return test


def further(a: str, b: str) -> Test:
    """The test that one method leaves less of the error in the valley."""
    return between("train/loss", a, b, NEGATIVE, surface=VALLEY)


def same_sum(table: Study) -> list[Effect] | None:
    if "sum_and_update" not in table.trials:
        return None
    values = table.largest("sum_and_update")
    return [Effect(values, "largest |update − Σ βᵏ step(n − k)|", (-1e-5, 1e-5))]


MOMENTUM = "course notes, Momentum"
CLAIMS = [
    Claim(
        "momentum-is-a-sum-of-steps",
        "Momentum's update is step(n) + β step(n − 1) + β² step(n − 2) + …",
        MOMENTUM,
        same_sum,
    ),
    Claim(
        "momentum-crosses-the-hump",
        "Momentum gets over a hump to a deeper minimum, where plain descent stops in front of it.",
        MOMENTUM,
        every(
            share("reached", "get beyond the hump", (0.9, np.inf), "momentum 0.9"),
            share("reached", "get beyond the hump", (-np.inf, 0.1), BASELINE),
        ),
        remark="With 0.9; with 0.5 none does.",
    ),
    Claim(
        "momentum-stays-in-the-deeper-minimum",
        "Once in the deeper minimum, momentum does not push out of it again.",
        MOMENTUM,
        share(
            "train/crossed", "end beyond the hump", (0.9, np.inf), "momentum 0.9", "momentum 0.99"
        ),
        remark="With 0.9 it stays; with 0.99 half of the starts are back before the hump, or still "
        "swinging, after 200 steps.",
    ),
    Claim(
        "momentum-is-faster-in-a-valley",
        "In a long valley momentum gets further than plain descent in as many steps.",
        "Polyak 1964",
        every(further("momentum 0.5", BASELINE), further("momentum 0.9", BASELINE)),
        remark="With 0.99, at a hundredth of the rate, it does not.",
    ),
]
