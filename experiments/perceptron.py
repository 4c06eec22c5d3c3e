"""Does the perceptron find a separating line, how soon, and what does a probability change?

The perceptron algorithm against logistic regression, online and by full-batch gradient descent,
on two clouds of points with and without a gap and on irises and wines, where a plane separates
some classes and not others. All weights start at zero. A step is an epoch; a trial ends at the
first evaluation without a training error. `--dataset points` are the course's own points.

Source: course notes, "Perceptron Algorithm" to "Logistic Regression Algorithm"; Rosenblatt 1958;
Novikoff 1962.

Command: ./launch.sh perceptron                (about a minute on 2 CPU cores)

Expected: on separable data every perceptron converges, after fewer than (R/γ)² updates; on the
other data none does, and the test accuracy of logistic regression is 0.05 to 0.09 higher.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ablax as ax
from ablax import grid, plot
from ablax.analysis.delta_rule import Line, logistic_error, perceptron_error, score, update
from ablax.analysis.separability import margin
from ablax.data import generated
from ablax.data.order import epoch_rows
from ablax.tasks.supervised import examples

PATH = 100  # positions of the line that are recorded: those after a trial's first updates


def against_the_rest(name: str, positive: int) -> ax.data.Dataset:
    """One class of a data set against all others."""
    data = ax.data.load(name)
    return replace(data, y=np.int32(data.y == positive), classes=("rest", data.classes[positive]))


DATA = {
    "gap": lambda: generated.separable(margin=0.2),
    "overlap": lambda: generated.blobs(noise=2.5, centers=2, seed=3),
    "setosa": lambda: against_the_rest("iris", 0),
    "versicolor": lambda: against_the_rest("iris", 1),
    "wine": lambda: against_the_rest("wine", 1),
    "points": lambda: ax.data.load("perceptron"),  # after `./launch.sh data fetch perceptron`
}
SEPARABLE, OVERLAPPING = ("gap", "setosa", "wine"), ("overlap", "versicolor")
PERCEPTRON, ONLINE, BATCH = "perceptron", "logistic_sgd", "logistic_batch"
RATES = {PERCEPTRON: 0.1, ONLINE: 0.1, BATCH: 1.0}


class Config(ax.BaseConfig):
    dataset: str = ax.static("gap", "the points and their two classes", choices=DATA)
    method: str = ax.static(PERCEPTRON, "the update", choices=RATES)
    learning_rate: float = ax.hparam(0.1, "α; from zero it only scales the perceptron", above=0)


def _preset(restarts: int, epochs: int, data: Any = (*SEPARABLE, *OVERLAPPING)) -> ax.Preset:
    return ax.Preset(Config(steps=epochs, eval_every=epochs // 20, dataset=data), restarts)


PRESETS = {
    "smoke": _preset(4, 40, ("gap",)),
    "default": _preset(64, 1000),
    "paper": _preset(512, 10_000),
}


def points(config: Config) -> list[grid.Setting]:
    """Every method on every data set; the perceptron is the baseline."""
    axes, groups = grid.axes(config), {PERCEPTRON: ax.BASELINE}
    rates = axes.pop("learning_rate", None)
    methods = [
        {"method": method, grid.GROUP: groups.get(method, method), "learning_rate": rate}
        for method in axes.pop("method", RATES)
        for rate in rates or (RATES[method],)
    ]
    return grid.cross(grid.product(**axes), methods)


def task(config: Config) -> ax.Task:
    splits = ax.data.split(DATA[config.dataset](), seed=0)
    n, n_features = splits.n_train, splits.pool.x.shape[1]
    plane = margin(splits.pool.x, splits.pool.y == 1)
    error = perceptron_error if config.method == PERCEPTRON else logistic_error

    def view(trial, data):
        rows, _ = splits.draw(trial.rng("split"))
        train = ax.data.Subset(data["pool"].x, data["pool"].y, rows)
        # A trial ends when it has no training error left.
        return {**data, "train": train, "valid": train, "order": trial.rng("order")}

    def init(trial, data):
        line = Line(jnp.zeros(n_features), jnp.float32(0))
        return {"line": line, "updates": jnp.int32(0), "path": jnp.zeros((PATH, n_features + 1))}

    def follow(state, line, moved):
        """The state with the line, which joins the path if it has moved."""
        place = jnp.where(moved, state["updates"], PATH)
        path = state["path"].at[place].set(jnp.append(*line), mode="drop")
        return {"line": line, "updates": state["updates"] + moved.astype(jnp.int32), "path": path}

    def step(state, trial, data):
        """An epoch: an update for each example, or one by α times the mean (the notes: α/m)."""
        rate = trial.hparams.learning_rate
        if config.method == BATCH:
            (x, y), line = examples(data["train"]), state["line"]
            deltas = jax.vmap(error, (None, 0, 0))(line, x, y.astype(jnp.float32))
            line = Line(line.weights + rate / n * deltas @ x, line.bias + rate / n * deltas.sum())
            after = follow(state, line, jnp.bool_(True))
        else:
            place = trial.step * n + jnp.arange(n, dtype=jnp.int32)
            rows = jax.vmap(lambda i: epoch_rows(data["order"], i, 1, n)[0])(place)
            x, y = examples(data["train"], rows)

            def visit(i, state):
                delta = error(state["line"], x[i], y[i].astype(jnp.float32))
                return follow(state, update(state["line"], x[i], delta, rate), delta != 0)

            after = jax.lax.fori_loop(0, n, visit, state)
        accuracy = evaluate(after, trial, data["train"])["accuracy"][0] / n
        return after, {"loss": 1 - accuracy}

    def evaluate(state, trial, split):
        x, y = examples(split)
        z = score(state["line"], x)
        right, far = ax.metrics.accuracy(z[:, None], y), jnp.abs(z) > jnp.median(jnp.abs(z))
        masks = {"accuracy": None, "accuracy_near": ~far, "accuracy_far": far}
        return {name: ax.losses.reduce(right, mask) for name, mask in masks.items()}

    def measure(state, trial):
        recorded = jnp.arange(PATH)[:, None] < state["updates"]
        bound = {} if plane is None else {"bound": jnp.float32(plane.most_updates)}
        return bound | {
            "updates": state["updates"].astype(jnp.float32),
            "path": jnp.where(recorded, state["path"], jnp.append(*state["line"])),
            "line": jnp.append(*state["line"]),
        }

    return ax.Task(
        data={"pool": splits.pool, "test": splits.test},
        view=view,
        init=init,
        step=step,
        evaluate=evaluate,
        measure=measure,
        objective=None,
        solved=lambda train: train["accuracy"] == 1.0,
        metrics=(ax.ACCURACY,),
        fingerprint=splits.fingerprint,
        notes=splits.notes,
    )


def way_figure(study: ax.Study):
    """The path of the line (dotted) to its final position (solid), for points in the plane."""
    paths, lines = study.array("path"), study.array("line")
    trials = {point: study.trial_ids(point)[0] for point in study.settings}
    planar = {point: trial for point, trial in trials.items() if lines[trial].size == 3}
    if not planar:
        raise ax.Missing("no data set of the study has two features")
    figure, panels = plot.panels(len(planar), width=3.8, height=3.6, columns=3)
    for panel, (point, trial) in zip(panels, planar.items(), strict=True):
        dataset, method = (study.settings[point][field] for field in ("dataset", "method"))
        pool = ax.data.split(DATA[dataset](), seed=0).pool
        xs, ys = np.linspace(pool.x.min(axis=0) - 0.3, pool.x.max(axis=0) + 0.3, 200).T
        plane = np.stack([*np.meshgrid(xs, ys), np.ones((200, 200))], axis=-1)
        scores = plane @ lines[trial]
        if method != PERCEPTRON:
            p, levels = np.asarray(jax.nn.sigmoid(scores)), np.linspace(0, 1, 11)
            image = panel.contourf(xs, ys, p, levels=levels, cmap="RdBu_r", alpha=0.5)
            figure.colorbar(image, ax=panel, label="P(y = 1)")
        for place in np.unique(np.geomspace(1, PATH, 15).astype(int)) - 1:
            before = plane @ paths[trial].reshape(PATH, 3)[place]
            panel.contour(xs, ys, before, levels=[0], colors="0.45", linestyles="dotted")
        panel.contour(xs, ys, scores, levels=[0], colors="black", linewidths=2)
        for label, colour, marker in zip((0, 1), plot.COLOURS, plot.MARKERS, strict=False):
            x, y = pool.x[pool.y == label].T
            panel.scatter(x, y, s=9, label=f"class {label}", color=colour, marker=marker)
        panel.set(title=f"{dataset}: {method}")
    panels[0].legend(fontsize=8)
    return plot.captioned(
        figure,
        f"Where the line has been (dotted: some of its first {PATH} positions) and where it ends "
        "(solid), first restart; shaded, the probability that the logistic model gives.",
    )


def perceptrons(study: ax.Study, *, separable: bool) -> dict[str, ax.Chosen]:
    """{data set: the perceptron's point}, of data that a plane separates or of the others."""
    bounded = study.trials.dropna(subset="bound") if "bound" in study.trials else study.trials[:0]
    points = ax.selection.along(study, "dataset", method=PERCEPTRON)
    return {d: p for d, p in points.items() if (d in set(bounded["dataset"])) == separable}


def updates_figure(study: ax.Study):
    """The number of updates until no training error is left, against Novikoff's bound."""
    points = perceptrons(study, separable=True)
    if not points:
        raise ax.Missing("the study has no perceptron on separable data")
    figure, (panel,) = plot.panels(1, width=5.0)
    restarts = {}
    for dataset, point in points.items():
        bound, updates = (study.numbers(point, column) for column in ("bound", "updates"))
        restarts[dataset] = (bound * np.geomspace(0.93, 1.07, len(bound)), updates)
    plot.scatter(panel, restarts)
    ends = np.array(panel.get_xlim())
    panel.loglog(ends, ends, "--", color="0.4", label="(R/γ)²")
    ticks = sorted({round(study.numbers(point, "bound")[0]) for point in points.values()})
    panel.set_xticks(ticks, map(str, ticks))
    panel.minorticks_off()
    panel.set(xlabel="bound (R/γ)²", ylabel="updates until no error is left")
    plot.legend(panel)
    return plot.captioned(figure, "Novikoff's bound and the updates made; each dot is a restart.")


FIGURES = {"way": way_figure, "updates": updates_figure}


def share(words: str, holds: Any, *, separable: bool) -> ax.Quantity:
    """The share of the perceptron's restarts for which something holds, on each data set."""

    def read(study):
        points = perceptrons(study, separable=separable)
        return {f"share of restarts {words}, {d}": holds(study.of(p)) for d, p in points.items()}

    return ax.quantities(read, share=True)


NOTES = "course notes, Perceptron Algorithm"
CONVERGED = "that end without a training error", lambda rows: rows["train/accuracy"] == 1
BOUNDED = "within (R/γ)²", lambda rows: rows["updates"] < rows["bound"]
accuracy = {d: ax.column("test/accuracy", dataset=d) for d in OVERLAPPING}
far = ax.column("test/accuracy_far", by="dataset", method=ONLINE)
near = ax.column("test/accuracy_near", by="dataset", method=ONLINE)
CLAIMS = [
    ax.Claim(
        "perceptron-converges",
        "Where a plane separates the classes, the perceptron finds one.",
        NOTES,
        share(*CONVERGED, separable=True) > 0.9,
    ),
    ax.Claim(
        "perceptron-within-novikoff",
        "Where a plane separates the classes, the perceptron makes fewer than (R/γ)² updates.",
        "Novikoff 1962",
        share(*BOUNDED, separable=True) > 0.9,
    ),
    ax.Claim(
        "perceptron-never-settles",
        "Where no plane separates the classes, the perceptron goes on until it is stopped.",
        NOTES,
        share(*CONVERGED, separable=False) < 0.1,
    ),
    ax.Claim(
        "logistic-generalizes-on-overlap",
        "Where the classes overlap, logistic regression classifies new examples better than the "
        "perceptron's last line.",
        "our own question",
        *(accuracy[d][m] > accuracy[d][ax.BASELINE] for m in (ONLINE, BATCH) for d in OVERLAPPING),
    ),
    ax.Claim(
        "far-is-sure",
        "Where classes overlap, the half of examples farther from the line is classified better.",
        "course notes, Predictions",
        *((far[d] - near[d]).named(f"test accuracy far − near, {d}") > 0 for d in OVERLAPPING),
    ),
]
