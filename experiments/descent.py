"""Which way does descent take on a surface that one can see, and does momentum cross the hump?

Two weights are enough to draw the surface. A sigmoid unit tells benign from malignant tumours by
two measurements that are strongly correlated, which makes a long, narrow valley; and a slope with
a hump before the deepest point, where plain descent stops in the hollow above. From random
starts: plain descent, momentum, Nesterov's momentum and Adam.

Source: course notes, "Gradient Descent with Squared Errors", "Local Minima" and "Momentum"; Polyak
1964.

Command: ./launch.sh descent                   (about 20 seconds on 2 CPU cores)

Expected: in the valley momentum 0.5 and 0.9 get further than plain descent in the same number of
steps. Plain descent never crosses the hump; momentum 0.9 does from 99% of the starts, and ends
beyond it from 94%. Momentum 0.99 always gets beyond it, but at the last step half of the starts are
not there: they have swung back or are still oscillating.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import ablax as ax
from ablax import grid, plot
from ablax.tasks.supervised import examples

VALLEY, HUMP = "valley", "hump"
FEATURES = ("mean radius", "mean concave points")
STEPS = 200
"""Steps of the default preset, and those of a path that are recorded."""
STARTS = {VALLEY: (-1.0, 3.0), HUMP: (-2.4, 1.0)}
"""Around which restarts start, with standard deviation 0.3."""
RATES = {VALLEY: 1.0, HUMP: 0.02}
METHODS = {
    ax.BASELINE: {},
    "momentum 0.5": {"momentum": 0.5},
    "momentum 0.9": {"momentum": 0.9},
    "momentum 0.99": {"momentum": 0.99, "learning_rate": 0.01},
    "nesterov 0.9": {"optimizer": "nesterov", "momentum": 0.9},
    "adam": {"optimizer": "adam", "momentum": 0.9, "learning_rate": 0.05},
}
ROWS = [
    {grid.GROUP: name, "surface": surface, "learning_rate": RATES[surface], **method}
    for surface in STARTS
    for name, method in METHODS.items()
]
CREST = 0.0
"""Where the hump is; the deepest point lies beyond it."""


class Config(ax.BaseConfig):
    surface: str = ax.static(VALLEY, "surface to descend", choices=STARTS)
    optimizer: str = ax.static("momentum", "momentum 0: plain", choices=ax.optimizers.OPTIMIZERS)
    learning_rate: float = ax.hparam(1.0, "constant rate", low=0)
    momentum: float = ax.hparam(0.0, "share of the last step that is kept", low=0, below=1)


PRESETS = {
    "smoke": ax.Preset(Config(steps=40, eval_every=2), 3),
    "default": ax.Preset(Config(steps=STEPS, eval_every=10), 256),
    "paper": ax.Preset(Config(steps=STEPS, eval_every=10), 4096),
}


def points(config: Config) -> list[grid.Setting]:
    """Every method on both surfaces; the first three where training is short."""
    quick = max(ax.values(config.steps)) < STEPS
    shown = list(METHODS)[: 3 if quick else None]
    return grid.table(config, [row for row in ROWS if row[grid.GROUP] in shown])


def hump(w: jax.Array) -> jax.Array:
    """A slope with two hollows: at w₁ ≈ −1 the higher, at w₁ ≈ +1 the deeper, a hump between."""
    return 0.25 * jnp.square(w[0] ** 2 - 1) - 0.2 * w[0] + 0.5 * w[1] ** 2 + 0.35


def squared_errors(w: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """½ mean (y − σ(w·x))²: the notes' error of one unit with two weights."""
    return ax.losses.mean(ax.losses.sse(jax.nn.sigmoid(x @ w)[:, None], y))


def tumours() -> ax.data.Splits:
    """The tumours by two of their measurements."""
    whole = ax.data.load("breast_cancer")
    columns = [whole.feature_names.index(name) for name in FEATURES]
    return ax.data.split(dataclasses.replace(whole, x=whole.x[:, columns]), seed=0)


def task(config: Config) -> ax.Task:
    optimizer, splits = ax.optimizers.of_trial(config.optimizer), tumours()

    def error(w, part):
        return hump(w) if config.surface == HUMP else squared_errors(w, *examples(part))

    def init(trial, data):
        w = jnp.asarray(STARTS[config.surface]) + 0.3 * jax.random.normal(trial.rng("init"), (2,))
        path = jnp.zeros((STEPS + 1, 2)).at[0].set(w)
        state = {"w": w, "opt": optimizer(trial).init(w), "path": path}
        return state | {"summed": jnp.zeros(2), "reached": jnp.float32(0)}

    def step(state, trial, data):
        h = trial.hparams
        value, gradient = jax.value_and_grad(error)(state["w"], data["train"])
        updates, opt = optimizer(trial).update(gradient, state["opt"], state["w"])
        w = state["w"] + updates
        # The notes' momentum, step(n) + β step(n−1) + β² step(n−2) + …: it moves nothing, tests
        # compare it with the update (and without it XLA rounds the last bit of w differently).
        summed = h.momentum * state["summed"] - h.learning_rate * gradient
        path = state["path"].at[trial.step + 1].set(w, mode="drop")
        reached = jnp.maximum(state["reached"], (w[0] > CREST).astype(jnp.float32))
        state = {"w": w, "opt": opt, "path": path, "summed": summed, "reached": reached}
        return state, {"loss": value}

    def evaluate(state, trial, part):
        crossed = (state["w"][0] > CREST).astype(jnp.float32)
        return ax.whole(loss=error(state["w"], part), crossed=crossed)

    def measure(state, trial):
        """The path, which stays where it ended, and whether it ever was beyond the crest."""
        done = jnp.arange(STEPS + 1)[:, None] <= trial.step
        return {"path": jnp.where(done, state["path"], state["w"]), "reached": state["reached"]}

    return ax.Task(
        data={"train": splits.train, "valid": splits.valid, "test": splits.test},
        init=init,
        step=step,
        evaluate=evaluate,
        measure=measure,
        objective=None,
        metrics=(ax.LOSS,),
        fingerprint=splits.fingerprint,
        notes=splits.notes,
    )


def surface_figure(study: ax.Study, surface: str):
    """The contours of a surface, and every method's path from the first restart."""
    paths, methods = study.array("path"), ax.selection.methods(study, surface=surface)
    if not methods:
        raise ax.Missing(f"the study has no point on the {surface}")
    ways = {name: paths[study.trial_ids(p)[0]].reshape(-1, 2) for name, p in methods.items()}
    places = np.concatenate(list(ways.values()))
    bounds = zip(places.min(axis=0) - 0.6, places.max(axis=0) + 0.6, strict=True)
    xs, ys = (np.linspace(low, high, 120) for low, high in bounds)
    plane = jnp.asarray(np.stack(np.meshgrid(xs, ys), axis=-1), jnp.float32)
    train = [jnp.asarray(part) for part in tumours().train]
    height = hump if surface == HUMP else lambda w: squared_errors(w, *train)
    error = np.asarray(jax.vmap(jax.vmap(height))(plane))
    if surface == HUMP:
        levels = np.quantile(error, np.linspace(0, 0.9, 9)[1:])
    else:
        levels = error.min() + np.ptp(error) * np.linspace(0, 1, 20)[1:] ** 2
    figure, axes = plot.panels(len(ways), width=4, height=3.4, columns=3, sharex=True, sharey=True)
    for number, (panel, (name, way)) in enumerate(zip(axes, ways.items(), strict=True)):
        panel.contour(xs, ys, error, levels=levels, cmap="cividis", linewidths=0.8)
        panel.plot(*way.T, ".-", color=plot.COLOURS[number % len(plot.COLOURS)], ms=3, lw=1)
        panel.plot(*way[0], "o", color="black")
        panel.plot(*way[-1], "*", color="black", ms=11)
        panel.set(title="plain descent" if name == ax.BASELINE else name, xlabel="w₁", ylabel="w₂")
        panel.grid(False)
    subject = {VALLEY: "The error of a unit with two weights", HUMP: "A slope with a hump"}[surface]
    return plot.captioned(
        figure, f"{subject}, and paths from a start (dot) to their ends (star), first restart."
    )


FIGURES = {surface: partial(surface_figure, surface=surface) for surface in STARTS}


MOMENTUM = "course notes, Momentum"
on_the_slope = partial(ax.column, share=True, surface=HUMP)
reached = on_the_slope("reached", measured="share of starts that get beyond the hump")
crossed = on_the_slope("train/crossed", measured="share of starts that end beyond the hump")
left = ax.column("train/loss", surface=VALLEY)
CLAIMS = [
    ax.Claim(
        "momentum-crosses-the-hump",
        "Momentum 0.9 gets over a hump to a deeper minimum; plain descent stops in front of it.",
        MOMENTUM,
        reached["momentum 0.9"] > 0.9,
        reached[ax.BASELINE] < 0.1,
    ),
    ax.Claim(
        "momentum-stays-in-the-deeper-minimum",
        "With momentum 0.9 and with 0.99 more than nine in ten starts end beyond a hump, on the "
        "side of the deeper minimum.",
        MOMENTUM,
        crossed["momentum 0.9"] > 0.9,
        crossed["momentum 0.99"] > 0.9,
    ),
    ax.Claim(
        "momentum-is-faster-in-a-valley",
        "In a long valley momentum 0.5 and 0.9 reach a lower loss than plain descent in as many "
        "steps.",
        "Polyak 1964",
        left["momentum 0.5"] < left[ax.BASELINE],
        left["momentum 0.9"] < left[ax.BASELINE],
    ),
]
