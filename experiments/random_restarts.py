"""How high is the success rate of random starts on XOR, and where are the others stuck?

Networks with weights and biases drawn uniformly in [−1, 1) learn the truth table of XOR by gradient
descent on the sum of squared errors, until all four outputs are within 0.4 of their target. For
those that end unsolved, the gradient and the Hessian say whether they are in a minimum.

Source: course notes, "Local Minima and Random Restart"; published success rates of 2-3-1 networks.

Command: ./launch.sh random_restarts           (about a minute and a half on 2 CPU cores)

Expected: a success rate of 99% for 2-3-1 networks and of 83% for 2-2-1.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import ablax as ax
from ablax import grid, plot, selection
from ablax.analysis.spectrum import eigenvalues
from ablax.data.generated import xor
from ablax.tasks.supervised import examples

SOLVED, STUCK = "`train/solved` == 1", "`train/solved` == 0"
PUBLISHED = {ax.BASELINE: 0.99, "online": 0.96}
METHODS = {
    ax.BASELINE: {},
    **{f"momentum {beta:g}": {"momentum": beta} for beta in (0.0, 0.9, 0.99)},
    "decaying rate": {"timescale": 100.0},
    "2-2-1": {"hidden": 2},
    **{f"2-2-1, momentum {beta:g}": {"hidden": 2, "momentum": beta} for beta in (0.0, 0.9)},
    "2-2-1, decaying rate": {"hidden": 2, "timescale": 100.0},
    "2-4-1": {"hidden": 4},
}
network = partial(ax.nn.MLP, n_outputs=1, activation="sigmoid", kernel_init="zeros")


class Config(ax.BaseConfig):
    hidden: int = ax.static(3, "hidden units", low=1)
    batch_size: int = ax.static(4, "4: full batch; 1: online, an update an example", low=1)
    learning_rate: float = ax.hparam(1.0, "of the sum of the squared errors", low=0)
    momentum: float = ax.hparam(0.7, "share of the last step that is kept", low=0, below=1)
    reshuffle: float = ax.hparam(1.0, "1: a new order every epoch; 0: one order", low=0, high=1)
    timescale: float = ax.hparam(np.inf, "τ of the rate η₀/√(1 + step/τ); inf is off", above=0)


PRESETS = {
    "smoke": ax.Preset(Config(steps=500, eval_every=100), 64),
    "default": ax.Preset(Config(steps=10_000, eval_every=250), 10_000),
    "paper": ax.Preset(Config(steps=10_000, eval_every=250), 100_000),
}


def points(config: Config) -> list[grid.Setting]:
    """Every method, as many epochs each; the first two where training is short."""
    epochs = max(ax.values(config.steps))
    online = {"batch_size": 1, "steps": 4 * epochs, "eval_every": max(1, epochs // 10)}
    methods = METHODS | {"online": online, "online, one order": online | {"reshuffle": 0.0}}
    rows = [{grid.GROUP: name, **method} for name, method in methods.items()]
    return grid.table(config, rows[:2] if epochs <= PRESETS["smoke"].config.steps else rows)


def error(scores, y):
    return ax.losses.sse(jax.nn.sigmoid(scores), y)


def error_of(hidden: int, weights: jax.Array) -> jax.Array:
    """The error on XOR of the network whose weights and biases are this vector."""
    model, x = network((hidden,)), xor().x
    _, unravel = ravel_pytree(model.init(jax.random.key(0), x)["params"])
    return error(model.apply({"params": unravel(weights)}, x), xor().y).sum()


def task(config: Config) -> ax.Task:
    model, splits = network((config.hidden,)), ax.data.split(xor(), valid_size=0, seed=0)

    def optimizer(trial):
        h = trial.hparams
        rate = ax.schedules.inverse_sqrt(h.learning_rate * config.batch_size, timescale=h.timescale)
        return ax.optimizers.momentum(rate, momentum=h.momentum)

    options = {"batch_size": config.batch_size, "metrics": {}, "resample": False}
    usual = ax.supervised(model, splits, loss=error, optimizer=optimizer, **options)

    def init(trial, data):
        state = usual.init(trial, data)
        flat, unravel = ravel_pytree(state.params)
        start = jax.random.uniform(trial.rng("init"), flat.shape, minval=-1, maxval=1)
        return {"inner": state._replace(params=unravel(start)), "solved_at": jnp.int32(-1)}

    def evaluate(variables, trial, split):
        x, y = examples(split)
        outputs = jnp.asarray(model.apply({"params": variables["params"]}, x))
        near = jnp.abs(jax.nn.sigmoid(outputs[:, 0]) - y.astype(jnp.float32)) < 0.4
        return ax.whole(solved=near.all().astype(jnp.float32), sse=error(outputs, y).sum())

    def step(state, trial, data):
        epoch = splits.n_train // config.batch_size  # the order of the first one, again and again
        place = jnp.where(trial.hparams.reshuffle > 0, trial.step, trial.step % epoch)
        inner, metrics = usual.step(state["inner"], dataclasses.replace(trial, step=place), data)
        solved, _ = evaluate({"params": inner.params}, trial, data["train"])["solved"]
        first = (state["solved_at"] < 0) & (solved == 1)
        solved_at = jnp.where(first, trial.step + 1, state["solved_at"])
        return {"inner": inner, "solved_at": solved_at}, metrics

    def measure(variables, trial):
        weights, _ = ravel_pytree(variables["params"])
        sse = partial(error_of, config.hidden)
        curvature = eigenvalues(jax.hessian(sse)(weights)).values
        return {
            "epochs": variables["solved_at"] * config.batch_size / splits.n_train,
            "gradient": jnp.linalg.norm(jax.grad(sse)(weights)),
            "least_curvature": curvature[0],
            "largest_curvature": curvature[-1],
            "weights": weights,
        }

    return ax.validate_on_training(usual).replace(
        init=init, step=step, evaluate=evaluate, measure=measure,
        snapshot=lambda state: {"params": state["inner"].params, "solved_at": state["solved_at"]},
        solved=lambda train: train["solved"] == 1,
        metrics=(ax.Metric("solved", "max"), ax.Metric("sse", "min")),
    )  # fmt: skip


def solved_figure(study: ax.Study):
    """The success rate, and how fast the probability of failure falls with restarts."""
    methods = selection.methods(study)
    rates = {name: study.interval(point, "train/solved") for name, point in methods.items()}
    figure, (left, right) = plot.panels(2, width=5.6, height=1.2 + 0.3 * len(rates))
    plot.dots(left, rates)
    for name in [name for name in PUBLISHED if name in rates]:
        left.plot(PUBLISHED[name], list(rates).index(name), "x", color=plot.COLOURS[1], ms=8)
    k = np.arange(1, 11)
    for (name, rate), colour in zip(rates.items(), plot.COLOURS, strict=False):
        right.plot(k, (1 - rate.estimate) ** k, color=colour, label=name)
    left.set(xlabel="success rate (crosses: published)")
    right.set(xlabel="restarts", ylabel="probability of failure", yscale="log", ylim=(1e-6, 1))
    plot.legend(right)
    return plot.captioned(figure, "Success rates, exact 95% intervals, and how fast failure falls.")


def epochs_figure(study: ax.Study):
    """The share of starts that are solved by an epoch."""
    figure, (panel,) = plot.panels(1, width=6.4)
    for (name, point), colour in zip(selection.methods(study).items(), plot.COLOURS, strict=False):
        epochs = np.sort(study.numbers(point, "epochs"))
        at, shares = epochs[epochs >= 0], np.cumsum(epochs >= 0)[epochs >= 0] / len(epochs)
        panel.step(at, shares, where="post", color=colour, label=name)
    panel.set(xscale="log", xlabel="epoch", ylabel="share of starts solved by then")
    plot.legend(panel)
    return plot.captioned(figure, "When starts are solved: momentum is faster, and strands more.")


def surface_figure(study: ax.Study):
    """The error over the plane through two solutions and a start that is stuck."""
    small = [p for p, s in study.settings.items() if s["hidden"] == 2] or list(study.settings)[:1]
    point = max(small, key=lambda p: len(study.of(p).query(STUCK)))
    solved, stuck = (list(study.of(point).query(end)["trial"]) for end in (SOLVED, STUCK))
    if len(solved) < 2 or not stuck:
        raise ax.Missing("no point has two starts that are solved and one that is stuck")
    weights = study.array("weights")
    origin, *others = (weights[trial] for trial in (*solved[:2], stuck[0]))
    ticks = np.linspace(-0.5, 1.5, 160)
    plane = origin + np.stack(np.meshgrid(ticks, ticks), axis=-1) @ (np.stack(others) - origin)
    hidden, group = (study.settings[point][field] for field in ("hidden", "group"))
    error = jax.jit(jnp.vectorize(partial(error_of, hidden), signature="(n)->()"))(plane)
    figure, (panel,) = plot.panels(1, width=6.0, height=4.6)
    image = panel.contourf(ticks, ticks, np.asarray(error), levels=20, cmap="cividis")
    figure.colorbar(image, ax=panel, label="sum of squared errors, halved")
    for place, label in {(0, 0): "solved", (1, 0): "solved", (0, 1): "stuck"}.items():
        panel.plot(*place, "o", color="white", markeredgecolor="black")
        panel.annotate(label, place, (6, 6), textcoords="offset points", color="white")
    panel.set(xlabel="from one solution to another", ylabel="from a solution to where one is stuck")
    panel.grid(False)
    return plot.captioned(figure, f"The error over the plane through three ends of {group}.")


FIGURES = {"solved": solved_figure, "epochs": epochs_figure, "surface": surface_figure}


@partial(ax.quantities, share=True)
def five_restarts(study: ax.Study):
    solved = study.numbers(selection.methods(study)["2-2-1"], "train/solved")
    fives = solved[: len(solved) // 5 * 5].reshape(-1, 5)
    return {"success rate of the best of five restarts, 2-2-1": fives.max(axis=1)}


@ax.quantities
def epochs_saved(study: ax.Study):
    methods = selection.methods(study)
    a, b = (study.values(methods[f"momentum {beta}"], "epochs") for beta in ("0.9", "0"))
    return {"epochs until solved: momentum 0.9 − momentum 0": (a - b)[(a >= 0) & (b >= 0)]}


def of_the_stuck(condition: str, measured: str) -> ax.Quantity:
    def share(study: ax.Study):
        methods = selection.methods(study)
        stuck = {n: study.of(methods[n]).query(STUCK) for n in (ax.BASELINE, "2-2-1")}
        return {f"share of the stuck {measured}, {n}": stuck[n].eval(condition) for n in stuck}

    return ax.quantities(share, share=True)


NOTES = "course notes, Local Minima and Random Restart"
MOMENTUM = "course notes, Momentum"
solved = ax.column("train/solved", share=True)
CLAIMS = [
    ax.Claim(
        "batch-solves-99-percent",
        "Full-batch descent solves XOR from about 99% of the starts.",
        "published success rates, 2-3-1, rate 1, momentum 0.7",
        solved[ax.BASELINE].named("success rate, baseline").within(0.98, 1.0),
    ),
    ax.Claim(
        "online-solves-96-percent",
        "Online descent solves XOR from about 96% of the starts.",
        "published success rates, 2-3-1, rate 1, momentum 0.7",
        solved["online"].named("success rate, online").within(0.94, 0.98),
    ),
    ax.Claim(
        "few-restarts-suffice",
        "Of five restarts at least one succeeds, even with the fewest hidden units.",
        NOTES,
        five_restarts > 0.99,
    ),
    ax.Claim(
        "more-units-fewer-traps",
        "The more hidden units, the higher the success rate.",
        NOTES,
        solved["2-4-1"] > solved[ax.BASELINE],
        solved[ax.BASELINE] > solved["2-2-1"],
    ),
    ax.Claim(
        "momentum-escapes",
        "Momentum keeps starts from getting stuck.",
        MOMENTUM,
        solved["momentum 0.9"] > solved["momentum 0"],
        solved["momentum 0.99"] > solved["momentum 0"],
        solved["2-2-1, momentum 0.9"] > solved["2-2-1, momentum 0"],
    ),
    ax.Claim(
        "momentum-is-faster", "Momentum 0.9 solves XOR in fewer epochs.", MOMENTUM, epochs_saved < 0
    ),
    ax.Claim(
        "decay-escapes",
        "A rate that decays as 1/√t keeps more starts from getting stuck than a constant one.",
        NOTES,
        solved["decaying rate"] > solved[ax.BASELINE],
        solved["2-2-1, decaying rate"] > solved["2-2-1"],
    ),
    ax.Claim(
        "stuck-where-the-gradient-is-small",
        "Starts that are stuck have next to no gradient (norm below 0.001).",
        NOTES,
        of_the_stuck("gradient < 1e-3", "with hardly a gradient") > 0.9,  # 1000 epochs to move by 1
    ),
    ax.Claim(
        "stuck-in-minima",
        "Starts that are stuck are in local minima: every eigenvalue of the Hessian is positive.",
        NOTES,
        of_the_stuck("least_curvature > 0", "with a positive Hessian") > 0.9,
    ),
]
