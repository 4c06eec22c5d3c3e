"""What share of random starts solves exclusive or, and what are the others stuck in?

Ten thousand networks a point learn the truth table of exclusive or by gradient descent on the sum
of squared errors, from weights and biases drawn uniformly in [−1, 1), until all four outputs are
within 0.4 of their target, or for 10,000 epochs: by batch or online, with two to four hidden
units, with more and less momentum and with a decaying rate. Of those that end unsolved, the
gradient and the eigenvalues of the Hessian say whether they sit in a minimum.

Source: course notes, "Local Minima and Random Restart"; shares of solved starts as published for
2-3-1 networks with rate 1 and momentum 0.7: 99% by batch, 96% online.

Command: ./launch.sh random_restarts           (about a minute and a half on 2 CPU cores)

Expected: 99% of the 2-3-1 networks are solved, 83% of the 2-2-1; a few restarts make failure
unlikely.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.flatten_util import ravel_pytree

from ablax import losses, optimizers, schedules
from ablax.analysis.spectrum import eigenvalues
from ablax.config import BaseConfig, Preset, hparam, static, values
from ablax.data import split
from ablax.data.generated import xor
from ablax.metrics import Metric
from ablax.nn.activations import sigmoid
from ablax.nn.mlp import MLP
from ablax.report import plot as draw
from ablax.report import selection
from ablax.report.claims import Claim, Test, difference
from ablax.report.quantities import NEGATIVE, Effect
from ablax.report.study import BASELINE, Chosen, Study
from ablax.study import grid
from ablax.task import Task, at_step
from ablax.tasks.supervised import examples, supervised

NEAR = 0.4
"""How near to its target an output must be."""
FLAT = 1e-3
"""A gradient of this norm is small: at a rate of 1 it takes a thousand epochs to move by 1."""
EPOCHS = 10_000
PUBLISHED = {BASELINE: 0.99, "online": 0.96}
TRUTH = xor().x, xor().y


class Config(BaseConfig):
    hidden: int = static(3, "hidden units", low=1)
    batch_size: int = static(4, "4: batch descent; 1: online, an update an example", low=1)
    learning_rate: float = hparam(1.0, "of the sum of the squared errors", low=0)
    momentum: float = hparam(0.7, "share of the last step that is kept", low=0, below=1)
    reshuffle: float = hparam(1.0, "1: a new order every epoch; 0: always the same", low=0, high=1)
    timescale: float = hparam(
        np.inf, "τ of the rate η₀ / √(1 + n/τ), in steps; inf is off", above=0
    )


PRESETS = {
    "smoke": Preset(Config(steps=500, eval_every=100), 64),
    "default": Preset(Config(steps=EPOCHS, eval_every=250), 10_000),
    "paper": Preset(Config(steps=EPOCHS, eval_every=250), 100_000),
}


def points(config: Config) -> list[grid.Setting]:
    epochs = max(values(config.steps))
    online = {"batch_size": 1, "steps": 4 * epochs, "eval_every": max(1, epochs // 10)}
    changes = {
        "momentum 0": {"momentum": 0.0},
        "momentum 0.9": {"momentum": 0.9},
        "momentum 0.99": {"momentum": 0.99},
        "decaying rate": {"timescale": 100.0},
        "2-2-1": {"hidden": 2},
        "2-2-1, momentum 0": {"hidden": 2, "momentum": 0.0},
        "2-2-1, momentum 0.9": {"hidden": 2, "momentum": 0.9},
        "2-2-1, decaying rate": {"hidden": 2, "timescale": 100.0},
        "2-4-1": {"hidden": 4},
        "online": online,
        "online, one order": online | {"reshuffle": 0.0},
    }
    rows = [{grid.GROUP: name, **change} for name, change in changes.items()]
    quick = epochs <= PRESETS["smoke"].config.steps
    return grid.tabled(config, [{grid.GROUP: BASELINE}, *(rows[:1] if quick else rows)])


def network(hidden: int) -> MLP:
    return MLP((hidden,), 1, "sigmoid", "zeros")


def sse_of(hidden: int, flat: jax.Array) -> jax.Array:
    """The error of a network whose weights and biases are given as one vector."""
    x, y = map(jnp.asarray, TRUTH)
    model = network(hidden)
    _, unravel = ravel_pytree(model.init(jax.random.key(0), x)["params"])
    outputs = jnp.asarray(model.apply({"params": unravel(flat)}, x))
    return losses.sse(sigmoid(outputs), y).sum()


def task(config: Config) -> Task:
    model = network(config.hidden)

    def near(outputs, y):
        right = jnp.abs(sigmoid(outputs[:, 0]) - y.astype(jnp.float32)) < NEAR
        return right.astype(jnp.float32)

    def optimizer(trial):
        h = trial.hparams
        rate = schedules.inverse_sqrt(h.learning_rate * config.batch_size, timescale=h.timescale)
        return optimizers.momentum(rate, momentum=h.momentum)

    usual = supervised(
        model,
        split(xor(), valid_size=0, seed=0),
        loss=lambda outputs, y: losses.sse(sigmoid(outputs), y),
        optimizer=optimizer,
        batch_size=config.batch_size,
        resample=False,
    )

    def init(trial, data):
        state = usual.init(trial, data)
        flat, unravel = ravel_pytree(state.params)
        start = jax.random.uniform(trial.rng("init"), flat.shape, minval=-1, maxval=1)
        return {"inner": state._replace(params=unravel(start)), "solved_at": jnp.int32(-1)}

    def solved(params, data):
        x, y = examples(data["train"])
        return near(jnp.asarray(model.apply({"params": params}, x)), y).all()

    def step(state, trial, data):
        epoch = len(TRUTH[1]) // config.batch_size  # the order of the first one, again and again
        place = jnp.where(trial.hparams.reshuffle > 0, trial.step, trial.step % epoch)
        inner, told = usual.step(state["inner"], at_step(trial, place), data)
        first = (state["solved_at"] < 0) & solved(inner.params, data)
        at = jnp.where(first, trial.step + 1, state["solved_at"])
        return {"inner": inner, "solved_at": at}, told

    def evaluate(kept, trial, split):
        x, y = examples(split)
        outputs = jnp.asarray(model.apply({"params": kept["params"]}, x))
        each = losses.sse(sigmoid(outputs), y)
        one = jnp.float32(1)
        return {"solved": (near(outputs, y).all().astype(jnp.float32), one),
                "sse": (each.sum(), one)}  # fmt: skip

    def measure(kept, trial):
        flat, _ = ravel_pytree(kept["params"])
        sse = partial(sse_of, config.hidden)
        curvature = eigenvalues(jax.hessian(sse)(flat)).values
        return {
            "epochs": kept["solved_at"].astype(jnp.float32) * config.batch_size / len(TRUTH[1]),
            "gradient": jnp.linalg.norm(jax.grad(sse)(flat)),
            "least_curvature": curvature[0],
            "largest_curvature": curvature[-1],
            "weights": flat,
        }

    return dataclasses.replace(
        usual,
        view=lambda trial, data: {**usual.view(trial, data), "valid": data["train"]},
        init=init,
        step=step,
        snapshot=lambda state: {"params": state["inner"].params, "solved_at": state["solved_at"]},
        evaluate=evaluate,
        measure=measure,
        objective=None,
        solved=lambda train: train["solved"] == 1,
        metrics=(Metric("solved", "max"), Metric("sse", "min")),
    )


def figures(table: Study) -> dict:
    drawn = {"solved": solved_figure(table), "epochs": epochs_figure(table)}
    surface = surface_figure(table)
    return drawn | ({"surface": surface} if surface else {})


def stuck(table: Study, point: str | Chosen) -> pd.DataFrame:
    """The trials of a point that end unsolved."""
    rows = table.of(point)
    return pd.DataFrame(rows[rows["train/solved"] == 0])


def solved_figure(table: Study):
    """The share of starts that end solved, and what several starts make of it."""
    points = selection.methods(table)
    figure, (left, right) = draw.panels(2, width=5.6, height=1.2 + 0.3 * len(points))
    found = {group: table.interval(point, "train/solved") for group, point in points.items()}
    draw.dots(left, found)
    for place, (group, share) in enumerate(found.items()):
        if group in PUBLISHED:
            left.plot(PUBLISHED[group], place, "x", color=draw.COLOURS[1], ms=8)
        if place < len(draw.COLOURS):
            k = np.arange(1, 11)
            right.plot(k, (1 - share.estimate) ** k, color=draw.COLOURS[place], label=group)
    left.set(xlabel="share of starts that are solved (crosses: published)")
    right.set(xlabel="restarts", ylabel="probability that none is solved", yscale="log",
              ylim=(1e-6, 1))  # fmt: skip
    draw.legend(right)
    return draw.captioned(
        figure,
        "How many starts solve exclusive or, with exact 95% intervals, and how soon failure "
        "becomes unlikely.",
    )


def epochs_figure(table: Study):
    """The share of starts that are solved by an epoch."""
    figure, (ax,) = draw.panels(1, width=6.4)
    for (group, point), colour in zip(selection.methods(table).items(), draw.COLOURS, strict=False):
        rows = table.of(point)
        at = np.sort(rows.loc[rows["epochs"] >= 0, "epochs"].to_numpy(np.float64))
        shares = np.arange(1, len(at) + 1) / len(rows)
        ax.step(at, shares, where="post", color=colour, label=group)
    ax.set(xscale="log", xlabel="epoch", ylabel="share of starts solved by then")
    draw.legend(ax)
    return draw.captioned(figure, "When starts are solved: momentum hastens, and strands more.")


def surface_figure(table: Study):
    """The error over the plane through two solutions and a start that is stuck."""
    ours = [p for p, s in table.settings.items() if s["hidden"] == 2] or list(table.settings)[:1]
    point = max(ours, key=lambda point: len(stuck(table, point)))
    trials, won = np.array(table.trial_ids(point)), table.numbers(point, "train/solved") == 1
    if won.sum() < 2 or won.all():
        return None
    weights = table.array("weights")
    corners = [weights[trial] for trial in (*trials[won][:2], trials[~won][0])]
    origin, across, up = corners[0], corners[1] - corners[0], corners[2] - corners[0]
    ticks = np.linspace(-0.5, 1.5, 160)
    plane = np.stack([origin + a * across + b * up for b in ticks for a in ticks])
    error = np.asarray(jax.jit(jax.vmap(partial(sse_of, table.settings[point]["hidden"])))(plane))
    figure, (ax,) = draw.panels(1, width=6.0, height=4.6)
    image = ax.contourf(ticks, ticks, error.reshape(len(ticks), -1), levels=20, cmap="cividis")
    figure.colorbar(image, ax=ax, label="sum of squared errors, halved")
    for (x, y), label in zip([(0, 0), (1, 0), (0, 1)], ["solved", "solved", "stuck"], strict=True):
        ax.plot(x, y, "o", color="white", markeredgecolor="black")
        ax.annotate(label, (x, y), (6, 6), textcoords="offset points", color="white")
    ax.set(xlabel="from one solution to another", ylabel="from a solution to where one is stuck")
    ax.grid(False)
    return draw.captioned(
        figure, f"The error over the plane through three ends of {table.settings[point]['group']}."
    )


def share_solved(group: str, low: float, high: float) -> Test:
    def test(table: Study) -> list[Effect] | None:
        point = selection.methods(table).get(group)
        if point is None:
            return None
        values = table.numbers(point, "train/solved")
        measured = f"share of starts that are solved, {group}"
        return [Effect(values, measured, (low, high), share=True)]

    return test


def solves_more(*pairs: tuple[str, str]) -> Test:
    """The test that more starts are solved with one setting than with another."""

    def test(table: Study) -> list[Effect] | None:
        points = selection.methods(table)
        if not {group for pair in pairs for group in pair} <= points.keys():
            return None
        return [difference(table, "train/solved", points[a], points[b]) for a, b in pairs]

    return test


def faster(a: str, b: str) -> Test:
    """The test that one setting needs fewer epochs, over starts that both solve."""

    def test(table: Study) -> list[Effect] | None:
        points = selection.methods(table)
        if not {a, b} <= points.keys():
            return None
        pairs = pd.concat([table.values(points[g], "epochs") for g in (a, b)], axis=1).to_numpy()
        solved = pairs[(pairs >= 0).all(axis=1)]
        values = (solved[:, 0] - solved[:, 1]).astype(np.float64)
        return [Effect(values, f"epochs until solved: {a} − {b}", NEGATIVE)]

    return test


def of_the_stuck(
    column: str, holds: Callable[[np.ndarray], np.ndarray], measured: str, *names: str
) -> Test:
    """The test that something holds for most of the starts that are stuck."""

    def test(table: Study) -> list[Effect] | None:
        points = selection.methods(table)
        if not set(names) <= points.keys():
            return None
        return [
            Effect(
                holds(stuck(table, points[name])[column].to_numpy()).astype(np.float64),
                f"share of the stuck {measured}, {name}",
                (0.9, np.inf),
                share=True,
            )
            for name in names
        ]

    return test


def five_starts(table: Study) -> list[Effect] | None:
    """Of five starts of the hardest network at least one is solved."""
    point = selection.methods(table).get("2-2-1")
    if point is None:
        return None
    won = table.numbers(point, "train/solved")
    fives = won[: len(won) // 5 * 5].reshape(-1, 5).max(axis=1)
    measured = "share of five starts with a solution among them, 2-2-1"
    return [Effect(fives, measured, (0.99, np.inf), share=True)]


NOTES = "course notes, Local Minima and Random Restart"
PAPER = "published shares of solved starts, 2-3-1, rate 1, momentum 0.7"
CLAIMS = [
    Claim(
        "batch-solves-99-percent",
        "By batch descent about 99% of the starts are solved.",
        PAPER,
        share_solved(BASELINE, 0.98, 1.0),
    ),
    Claim(
        "online-solves-96-percent",
        "Online, about 96% are.",
        PAPER,
        share_solved("online", 0.94, 0.98),
        "When an output counts as right, and in which order the examples came, is not published.",
    ),
    Claim(
        "few-restarts-suffice",
        "Of five starts at least one is solved, even of the network with the fewest units.",
        NOTES,
        five_starts,
    ),
    Claim(
        "more-units-fewer-traps",
        "The more hidden units, the more starts are solved.",
        NOTES,
        solves_more(("2-4-1", BASELINE), (BASELINE, "2-2-1")),
    ),
    Claim(
        "momentum-escapes",
        "Momentum keeps starts from getting stuck.",
        "course notes, Momentum",
        solves_more(
            ("momentum 0.9", "momentum 0"),
            ("momentum 0.99", "momentum 0"),
            ("2-2-1, momentum 0.9", "2-2-1, momentum 0"),
        ),
        "Those that are stuck are on plateaus, towards which momentum goes faster as well; with "
        "0.99 a third of all starts ends there.",
    ),
    Claim(
        "momentum-is-faster",
        "Momentum needs fewer epochs.",
        "course notes, Momentum",
        faster("momentum 0.9", "momentum 0"),
    ),
    Claim(
        "decay-escapes",
        "A rate that decays as 1/√t, large early and fine later, keeps starts from getting stuck.",
        NOTES,
        solves_more(("decaying rate", BASELINE), ("2-2-1, decaying rate", "2-2-1")),
        "The rate is not larger early than without decay, and later it is too small to leave.",
    ),
    Claim(
        "stuck-where-the-gradient-is-small",
        f"Those that are stuck have next to no gradient (norm below {FLAT:g}).",
        NOTES,
        of_the_stuck("gradient", lambda g: g < FLAT, "with hardly a gradient", BASELINE, "2-2-1"),
    ),
    Claim(
        "stuck-in-minima",
        "They sit in local minima: every eigenvalue of the Hessian is positive.",
        NOTES,
        of_the_stuck(
            "least_curvature", lambda c: c > 0, "with a positive Hessian", BASELINE, "2-2-1"
        ),
        "With three hidden units they are on a plateau that still falls in some direction, but at "
        "a curvature of 1e-5; with two nine in ten are in minima, nearly as flat.",
    ),
]
