"""Does the perceptron find the line, how soon, and what does a continuous prediction change?

The perceptron algorithm against logistic regression, one example at a time and by the gradient
over all of them, on two clouds of points with and without a gap, and on irises and wines, where
a plane separates some classes and not others. All start at zero. A step is an epoch; a trial
ends at the first evaluation that finds no training error.

Source: course notes, "Perceptron Algorithm" to "Logistic Regression Algorithm"; Rosenblatt 1958;
Novikoff 1962. `--dataset points` are the points of the course itself, once
`./launch.sh data fetch perceptron` has been run.

Command: ./launch.sh perceptron                (about a minute on 2 CPU cores)

Expected: on separable data every perceptron ends, after fewer than (R/γ)² updates; on the others
none does, and logistic regression classifies new examples better.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ablax import metrics
from ablax.analysis.delta_rule import Line, logistic_error, perceptron_error, score, update
from ablax.analysis.separability import margin
from ablax.config import BaseConfig, Preset, hparam, static
from ablax.data import generated, load, split
from ablax.data.dataset import Dataset
from ablax.data.order import epoch_rows
from ablax.data.splits import Splits, Subset
from ablax.losses import perceptron_loss, reduce, sigmoid_binary_cross_entropy
from ablax.metrics import ACCURACY
from ablax.nn.activations import sigmoid
from ablax.report import plot as draw
from ablax.report.claims import Claim, between, every
from ablax.report.quantities import Effect
from ablax.report.study import BASELINE, Study
from ablax.study import grid
from ablax.task import Task
from ablax.tasks.supervised import examples

PATH = 100
"""Lines that are remembered of a trial's way."""


def against_the_rest(name: str, positive: int) -> Dataset:
    """One class of a data set against all others."""
    found = load(name)
    classes = ("rest", found.classes[positive])
    return replace(found, y=(found.y == positive).astype(np.int32), classes=classes)


DATA: dict[str, Callable[[], Dataset]] = {
    "gap": partial(generated.separable, margin=0.2),
    "overlap": partial(generated.blobs, noise=2.5, centers=2, seed=3),
    "setosa": partial(against_the_rest, "iris", 0),
    "versicolor": partial(against_the_rest, "iris", 1),
    "wine": partial(against_the_rest, "wine", 1),
    "points": partial(load, "perceptron"),
}
SEPARABLE, OVERLAPPING = ("gap", "setosa", "wine"), ("overlap", "versicolor")
PERCEPTRON, ONLINE, BATCH = "perceptron", "logistic_sgd", "logistic_batch"

RATES = {PERCEPTRON: 0.1, ONLINE: 0.1, BATCH: 1.0}


class Config(BaseConfig):
    dataset: str = static("gap", "the points and their two classes", choices=DATA)
    method: str = static(PERCEPTRON, "the update", choices=RATES)
    learning_rate: float = hparam(0.1, "α; from zero it only scales the perceptron", above=0)


def _preset(restarts: int, epochs: int, *data: str) -> Preset:
    sets: Any = data  # an axis
    return Preset(Config(steps=epochs, eval_every=epochs // 20, dataset=sets), restarts)


PRESETS = {
    "smoke": _preset(4, 40, "gap"),
    "default": _preset(64, 1000, *SEPARABLE, *OVERLAPPING),
    "paper": _preset(512, 10_000, *SEPARABLE, *OVERLAPPING),
}


def points(config: Config) -> list[grid.Setting]:
    """Every method on every data set, the perceptron as what the others are compared with."""
    given = grid.axes(config)
    rates = given.pop("learning_rate", None)
    methods = grid.chain(
        *(
            grid.cross(
                [{"method": name, grid.GROUP: BASELINE if name == PERCEPTRON else name}],
                grid.product(learning_rate=rates or [RATES[name]]),
            )
            for name in given.pop("method", RATES)
        )
    )
    return grid.cross(grid.product(**given), methods)


def splits_of(dataset: str) -> Splits:
    return split(DATA[dataset](), seed=0)


def task(config: Config) -> Task:
    splits = splits_of(config.dataset)
    n, n_features = splits.n_train, splits.pool.x.shape[1]
    found = margin(splits.pool.x, splits.pool.y == 1)
    error = perceptron_error if config.method == PERCEPTRON else logistic_error

    def view(trial, data):
        rows, _ = splits.draw(trial.rng("split"))
        train = Subset(data["pool"].x, data["pool"].y, rows)
        # What ends a trial is that no training error is left.
        return {**data, "train": train, "valid": train, "order": trial.rng("order")}

    def init(trial, data):
        line = Line(jnp.zeros(n_features), jnp.float32(0))
        return {"line": line, "updates": jnp.int32(0), "path": jnp.zeros((PATH, n_features + 1))}

    def follow(state, line, moved):
        """The state with the line, which joins the path if it has moved."""
        place = jnp.where(moved, state["updates"], PATH)
        path = state["path"].at[place].set(flat(line), mode="drop")
        return {"line": line, "updates": state["updates"] + moved.astype(jnp.int32), "path": path}

    def one_by_one(state, trial, data):
        place = trial.step * n + jnp.arange(n, dtype=jnp.int32)
        rows = jax.vmap(lambda i: epoch_rows(data["order"], i, 1, n)[0])(place)
        x, y = examples(data["train"], rows)

        def visit(i, state):
            delta = error(state["line"], x[i], y[i].astype(jnp.float32))
            line = update(state["line"], x[i], delta, trial.hparams.learning_rate)
            return follow(state, line, delta != 0)

        return jax.lax.fori_loop(0, n, visit, state)

    def all_at_once(state, trial, data):
        """The notes write α for α/m; here α is that of the mean."""
        (x, y), line = examples(data["train"]), state["line"]
        deltas = jax.vmap(error, (None, 0, 0))(line, x, y.astype(jnp.float32))
        rate = trial.hparams.learning_rate / n
        line = Line(line.weights + rate * deltas @ x, line.bias + rate * deltas.sum())
        return follow(state, line, jnp.bool_(True))

    def step(state, trial, data):
        moved = (all_at_once if config.method == BATCH else one_by_one)(state, trial, data)
        accuracy = evaluate(moved, trial, data["train"])["accuracy"][0] / n
        return moved, {"loss": 1 - accuracy}  # share of errors that the epoch leaves

    def evaluate(state, trial, split):
        x, y = examples(split)
        z = score(state["line"], x)
        right, far = metrics.accuracy(z[:, None], y), jnp.abs(z) > jnp.median(jnp.abs(z))
        near, beyond = reduce(right, ~far), reduce(right, far)
        return {"accuracy": reduce(right), "accuracy_near": near, "accuracy_far": beyond}

    def measure(state, trial):
        known = jnp.arange(PATH)[:, None] < state["updates"]
        told = {
            "updates": state["updates"].astype(jnp.float32),
            "rule_and_gradient": rule_and_gradient(trial.rng("measure"), n_features),
            "path": jnp.where(known, state["path"], flat(state["line"])),
            "line": flat(state["line"]),
        }
        return told if found is None else told | {"bound": jnp.float32(found.most_updates)}

    return Task(
        data={"pool": splits.pool, "test": splits.test},
        view=view,
        init=init,
        step=step,
        evaluate=evaluate,
        measure=measure,
        objective=None,
        solved=lambda train: train["accuracy"] == 1.0,
        metrics=(ACCURACY,),
        fingerprint=splits.fingerprint,
        notes=splits.notes,
    )


def flat(line: Line) -> jax.Array:
    return jnp.append(line.weights, line.bias)


def rule_and_gradient(key: jax.Array, n_features: int) -> jax.Array:
    """The largest difference between the rules and gradient descent, over random examples."""
    w, x = jax.random.normal(key, (2, 256, n_features))
    lines = Line(w, jnp.ones(256))
    y = (jnp.arange(256) % 2).astype(jnp.float32)

    def apart(error, loss):
        def each(line, x, y):
            slope = jax.grad(lambda line: loss(score(line, x), y))(line)
            return jnp.abs(flat(update(line, x, error(line, x, y), 1.0)) - flat(line) + flat(slope))

        return jax.vmap(each)(lines, x, y).max()

    return jnp.maximum(
        apart(perceptron_error, perceptron_loss),
        apart(logistic_error, sigmoid_binary_cross_entropy),
    )


def figures(table: Study) -> dict:
    return {"way": way_figure(table), "updates": updates_figure(table)}


def way_figure(table: Study):
    """The boundary's way (dotted) to the final line (solid), where the points are in the plane."""
    paths, lines = table.array("path"), table.array("line")
    shown = [point for point in table.settings if lines[table.trial_ids(point)[0]].size == 3]
    figure, axes = draw.panels(max(len(shown), 1), width=3.8, height=3.6, columns=3)
    for ax, point in zip(axes, shown, strict=False):
        setting, trial = table.settings[point], table.trial_ids(point)[0]
        pool = splits_of(setting["dataset"]).pool
        low, high = pool.x.min(axis=0) - 0.3, pool.x.max(axis=0) + 0.3
        xs, ys = (np.linspace(*ends, 200) for ends in zip(low, high, strict=True))
        plane = np.stack(np.meshgrid(xs, ys), axis=-1)
        w, b = lines[trial][:2], lines[trial][2]
        if setting["method"] != PERCEPTRON:
            p = np.asarray(sigmoid(jnp.asarray(plane @ w + b)))
            image = ax.contourf(xs, ys, p, levels=np.linspace(0, 1, 11), cmap="RdBu_r", alpha=0.5)
            figure.colorbar(image, ax=ax, label="P(y = 1)")
        way = paths[trial].reshape(PATH, 3)
        for place in np.unique(np.geomspace(1, PATH, 15).astype(int)) - 1:
            u, c = way[place][:2], way[place][2]
            ax.contour(xs, ys, plane @ u + c, levels=[0], colors="0.45", linestyles="dotted")
        ax.contour(xs, ys, plane @ w + b, levels=[0], colors="black", linewidths=2)
        for label in (0, 1):
            x, y = pool.x[pool.y == label].T
            colour, marker = draw.COLOURS[label], draw.MARKERS[label]
            ax.scatter(x, y, s=9, label=f"class {label}", color=colour, marker=marker)
        ax.set(title=f"{setting['dataset']}: {setting['method']}")
    axes[0].legend(fontsize=8)
    return draw.captioned(
        figure,
        f"Where the line has been (dotted: some of its first {PATH} places) and where it ends "
        "(solid), first restart; shaded, the probability that the logistic model gives.",
    )


def updates_figure(table: Study):
    """Updates of every perceptron that separated its points, against Novikoff's bound."""
    figure, (ax,) = draw.panels(1, width=5.0)
    for number, point in enumerate(separable(table)):
        bound, updates = (table.numbers(point, column) for column in ("bound", "updates"))
        spread = bound * np.geomspace(0.93, 1.07, len(bound))
        colour, marker = draw.COLOURS[number], draw.MARKERS[number]
        label = table.settings[point]["dataset"]
        ax.scatter(spread, updates, s=8, label=label, color=colour, marker=marker)
    if ax.has_data():
        ends = np.array(ax.get_xlim())
        ax.plot(ends, ends, "--", color="0.4", label="(R/γ)²")
        ax.set(xscale="log", yscale="log")
        bounds = sorted({round(table.of(point)["bound"].iloc[0]) for point in separable(table)})
        ax.set_xticks(bounds, map(str, bounds))
        ax.minorticks_off()
    ax.set(xlabel="bound (R/γ)²", ylabel="updates until no error is left")
    draw.legend(ax)
    return draw.captioned(figure, "Novikoff's bound and the updates made, a dot a restart.")


def separable(table: Study) -> list[str]:
    """The perceptron's points on data that a plane separates."""
    return [point for point in table.among(method=PERCEPTRON) if bounded(table, point)]


def overlapping(table: Study, method: str = PERCEPTRON) -> list[str]:
    """A method's points on data that no plane separates."""
    return [point for point in table.among(method=method) if not bounded(table, point)]


def bounded(table: Study, point: str) -> bool:
    """Whether the updates on a point's data are bounded: a plane separates its classes."""
    return "bound" in table.trials and bool(np.isfinite(table.numbers(point, "bound")).all())


def shares(points: Callable[[Study], list[str]], holds, measured: str, expected):
    """The test that something holds for a share of the restarts of some points."""

    def test(table: Study) -> list[Effect] | None:
        return [
            Effect(
                np.asarray(holds(table.of(point)), np.float64),
                f"share of restarts {measured}, {table.settings[point]['dataset']}",
                expected,
                share=True,
            )
            for point in points(table)
        ] or None

    return test


def same_formula(table: Study) -> list[Effect]:
    values = table.largest("rule_and_gradient")
    return [Effect(values, "largest |rule − gradient step|, 256 examples", (-1e-5, 1e-5))]


def surer_when_far(table: Study) -> list[Effect] | None:
    """Test accuracy of the half that is farther from the line, less that of the nearer half."""
    return [
        Effect(
            table.numbers(point, "test/accuracy_far") - table.numbers(point, "test/accuracy_near"),
            f"test accuracy far − near, {table.settings[point]['dataset']}",
        )
        for point in overlapping(table, ONLINE)
    ] or None


def ended(rows):
    return rows["train/accuracy"] == 1


NOTES = "course notes, Perceptron Algorithm"
ALMOST_ALL, ALMOST_NONE = (0.9, np.inf), (-np.inf, 0.1)
CLAIMS = [
    Claim(
        "perceptron-converges",
        "Where a plane separates the classes, the perceptron finds one.",
        NOTES,
        shares(separable, ended, "that end without a training error", ALMOST_ALL),
    ),
    Claim(
        "perceptron-within-novikoff",
        "It makes fewer than (R/γ)² updates.",
        "Novikoff 1962",
        shares(separable, lambda r: r["updates"] < r["bound"], "within (R/γ)²", ALMOST_ALL),
    ),
    Claim(
        "perceptron-never-settles",
        "Where no plane separates the classes, the perceptron goes on until it is stopped.",
        NOTES,
        shares(overlapping, ended, "that end without a training error", ALMOST_NONE),
    ),
    Claim(
        "one-formula",
        "Perceptron and logistic regression are one formula, w + α(y − ŷ)x with ŷ a step or a "
        "sigmoid, and both are gradient descent.",
        "course notes, Gradient Descent vs. Perceptron Algorithm",
        same_formula,
    ),
    Claim(
        "logistic-generalizes-on-overlap",
        "Where the classes overlap, logistic regression classifies new examples better than the "
        "perceptron's last line.",
        "our own question",
        every(
            *(
                between("test/accuracy", method, BASELINE, dataset=dataset)
                for method in (ONLINE, BATCH)
                for dataset in OVERLAPPING
            )
        ),
    ),
    Claim(
        "far-is-sure",
        "The further an example is from the line, the more probably it is classified correctly.",
        "course notes, Predictions",
        surer_when_far,
    ),
]
