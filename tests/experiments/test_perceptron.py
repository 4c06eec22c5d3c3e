"""The study of the perceptron: its epochs replayed in NumPy, Novikoff's bound, its claims."""

import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from ablax.analysis.delta_rule import (
    Line,
    logistic_error,
    perceptron_error,
    score,
    squared_error,
    update,
)
from ablax.data import load, split
from ablax.data.order import epoch_rows
from ablax.errors import Missing
from ablax.losses import perceptron_loss, sigmoid_binary_cross_entropy
from ablax.nn.activations import sigmoid, step
from ablax.report import plot
from ablax.report.claims import judge_all
from ablax.report.quantities import POSITIVE
from ablax.report.study import Study
from ablax.rundir.store import read_array
from ablax.task import at_step
from ablax.tasks.supervised import examples
from experiments import perceptron
from experiments.perceptron import BATCH, ONLINE, OVERLAPPING, PATH, PERCEPTRON, RATES, Config
from tests.experiments import studies
from tests.experiments.studies import effects, task_of, trial_of, trials_of, untrained

launch = partial(studies.launch, "perceptron")
points = partial(studies.points_of, perceptron, "perceptron")
METHODS = (PERCEPTRON, ONLINE, BATCH)


def splits_of(dataset: str):
    return split(perceptron.DATA[dataset](), seed=0)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke preset, and beside its points those of data that no plane separates."""
    out = tmp_path_factory.mktemp("smoke") / "run"
    typed = ["--dataset", "gap", "overlap", "--steps", 20, "--eval-every", 10]
    return launch(out, "--preset", "smoke", *typed, report=True)


@pytest.fixture(scope="module")
def both(smoke, tmp_path_factory):
    """That study, as if irises were in it too: numbers of their own in the place of others'."""
    copy = tmp_path_factory.mktemp("both") / "run"
    shutil.copytree(smoke, copy)
    rows = trials_of(smoke)
    irises = rows[rows["dataset"] == "overlap"].copy()
    for column in ("point", "dataset"):
        irises[column] = irises[column].str.replace("overlap", "versicolor")
    irises["trial"] = irises["trial"].str[::-1]
    rng = np.random.default_rng(0)
    for column in irises.filter(like="accuracy"):
        irises[column] = rng.uniform(0.5, 0.9, len(irises)).astype(np.float32)
    pd.concat([rows, irises], ignore_index=True).to_parquet(copy / "trials.parquet")
    return copy


@pytest.fixture(scope="module")
def replays(smoke):
    """{trial: (its row, its examples as trained on, its replay)}."""
    result = {}
    for row in trials_of(smoke).to_dict("records"):
        fields = {name: row[name] for name in ("dataset", "method", "learning_rate")}
        config = Config(**fields)
        task, trial = task_of(perceptron, config), trial_of(config, row["restart"])
        data = task.view(trial, task.data)
        x, y = map(np.array, examples(data["train"]))
        seen = np.array(orders(data["order"], 20, len(y)))[: row["steps"]]
        way = replay(x, y, row["method"], row["learning_rate"], seen)
        result[row["trial"]] = row, (x, y), way
    return result


@partial(jax.jit, static_argnums=(1, 2))
def orders(key, epochs: int, n: int) -> jax.Array:
    """[epochs, n]: the examples of each epoch, one by one."""
    places = jnp.arange(epochs * n, dtype=jnp.int32)
    return jax.vmap(lambda place: epoch_rows(key, place, 1, n)[0])(places).reshape(epochs, n)


def replay(x, y, method: str, rate: float, seen) -> np.ndarray:
    """[updates, features + 1]: (w, b) after every update, from 0, in float64."""
    points = np.column_stack([np.float64(x), np.ones(len(x))])
    line, way = np.zeros(points.shape[1]), []
    for rows in seen:
        if method == BATCH:
            errors = y - 1 / (1 + np.exp(-points @ line))
            line = line + rate * errors @ points / len(y)
            way.append(line)
            continue
        for row in rows:
            h = points[row] @ line
            answer = float(h >= 0) if method == PERCEPTRON else 1 / (1 + np.exp(-h))
            if y[row] != answer:
                line = line + rate * (y[row] - answer) * points[row]
                way.append(line)
    return np.array(way)


def test_every_trial_is_there_once_and_ends_as_it_should(smoke):
    rows = trials_of(smoke)
    assert len(rows) == 2 * 3 * 4
    assert not rows.duplicated(["dataset", "method", "restart"]).any()
    assert set(rows["status"]) <= {"done", "stopped"}
    solved = rows["train/accuracy"] == 1
    assert ((rows["status"] == "stopped") == solved).all(), "solved, and nothing else, ends it"
    assert (rows.loc[~solved, "steps"] == 20).all()
    gap = rows["dataset"] == "gap"
    assert solved[gap & (rows["method"] == PERCEPTRON)].all()
    assert not solved[~gap].any()


def test_an_epoch_visits_every_example_once_in_an_order_of_its_own():
    config = Config()
    task, trial = task_of(perceptron, config), trial_of(config)
    data = task.view(trial, task.data)
    n = len(data["train"].rows)
    seen = np.array(orders(data["order"], 20, n))
    assert all(sorted(rows) == list(range(n)) for rows in seen)
    assert len({rows.tobytes() for rows in seen}) == 20


def test_weights_and_updates_are_those_of_the_replay(smoke, replays):
    lines = read_array(smoke / "arrays" / "line.parquet")
    assert set(lines) == set(replays)
    for trial, (row, _, way) in replays.items():
        assert row["updates"] == len(way), row["point"]
        np.testing.assert_allclose(lines[trial], way[-1], rtol=2e-4, atol=1e-5)


def test_the_path_is_the_line_after_each_update(smoke, replays):
    paths = read_array(smoke / "arrays" / "path.parquet")
    lines = read_array(smoke / "arrays" / "line.parquet")
    for trial, (_, _, way) in replays.items():
        path = paths[trial].reshape(PATH, -1)
        known = min(len(way), PATH)
        np.testing.assert_allclose(path[:known], way[:known], rtol=2e-4, atol=1e-5)
        assert (path[known:] == lines[trial]).all(), "after the last update: where it ended"
        assert len(way) <= PATH or not np.array_equal(path[-1], lines[trial])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rate", [0.1, 3.0])
def test_one_epoch_from_anywhere(method, rate):
    """The second epoch, and the share of errors that it is said to leave."""
    config = Config(dataset="versicolor", method=method, learning_rate=rate)
    task, trial = task_of(perceptron, config), trial_of(config, restart=2)
    data = task.view(trial, {"pool": task.data["pool"]})
    x, y = map(np.array, examples(data["train"]))
    state = task.init(trial, data)
    step = jax.jit(task.step)
    for epoch in range(2):
        state, metrics = step(state, at_step(trial, np.int32(epoch)), data)
    way = replay(x, y, method, rate, np.array(orders(data["order"], 20, len(y)))[:2])
    assert int(state["updates"]) == len(way)
    np.testing.assert_allclose(np.append(*state["line"]), way[-1], rtol=1e-3, atol=1e-4)
    wrong = np.mean((x @ way[-1][:-1] + way[-1][-1] >= 0) != y)
    np.testing.assert_allclose(metrics["loss"], wrong, atol=1e-6)


def test_the_rate_only_scales_the_perceptron_from_zero():
    ways = []
    for rate in (0.25, 4.0):  # powers of 2: exact
        config = Config(dataset="overlap", learning_rate=rate)
        task, trial = task_of(perceptron, config), trial_of(config)
        data = task.view(trial, task.data)
        state, _ = jax.jit(task.step)(task.init(trial, data), trial, data)
        ways.append((int(state["updates"]), np.array(state["path"]) / rate))
    assert ways[0][0] == ways[1][0] > 0
    np.testing.assert_array_equal(ways[0][1], ways[1][1])


def test_training_sees_neither_test_nor_validation_examples():
    config = Config(dataset="overlap")
    task, trial = task_of(perceptron, config), trial_of(config)
    data = task.view(trial, {name: part for name, part in task.data.items() if name != "test"})
    splits = splits_of("overlap")
    train, valid = map(np.array, splits.draw(trial.rng("split")))
    assert np.array_equal(data["train"].rows, train)
    assert not set(train) & set(valid)
    assert np.array_equal(data["valid"].rows, train), "what ends a trial is the training error"
    for name in ("train", "valid"):
        assert np.array_equal(data[name].x, splits.pool.x)


# The measures


def test_accuracy_is_counted_near_and_far(smoke, replays):
    for row, train, way in replays.values():
        w, b = way[-1][:-1], way[-1][-1]
        test = splits_of(row["dataset"]).test
        for part, (x, y) in {"train": train, "valid": train, "test": test}.items():
            z = np.float64(x) @ w + b
            right = (z >= 0) == (y == 1)
            far = np.abs(z) > np.median(np.abs(z))
            assert far.sum() == len(y) // 2
            for name, share in [("", right), ("_far", right[far]), ("_near", right[~far])]:
                np.testing.assert_allclose(
                    row[f"{part}/accuracy{name}"], share.mean(), atol=1e-6, err_msg=row["point"]
                )


def test_the_bound_is_novikoffs(smoke):
    """R and γ of the points (x, 1), by a general optimizer."""
    x, y = splits_of("gap").pool
    signed = np.column_stack([x, np.ones(len(x))]) * (2.0 * y - 1)[:, None]
    result = minimize(
        lambda w: w @ w, 10 * np.ones(3), jac=lambda w: 2 * w, method="SLSQP",
        constraints={"type": "ineq", "fun": lambda w: signed @ w - 1, "jac": lambda w: signed},
        options={"maxiter": 500, "ftol": 1e-12},
    )  # fmt: skip
    assert result.success
    bound = (signed**2).sum(axis=1).max() * (result.x @ result.x)
    rows = trials_of(smoke)
    gap = rows["dataset"] == "gap"
    np.testing.assert_allclose(rows.loc[gap, "bound"], bound, rtol=1e-4)
    assert rows.loc[~gap, "bound"].isna().all(), "no plane, no bound"
    first = rows[gap & (rows["method"] == PERCEPTRON)]
    assert (first["updates"] < first["bound"]).all()


def off_the_gradient(rule, loss, seed: int) -> float:
    """The largest difference between a rule's updates and gradient descent, over 256 examples."""
    rng = np.random.default_rng(seed)
    w, x = jnp.asarray(rng.normal(size=(2, 256, 2)), jnp.float32)
    lines, y = Line(w, jnp.ones(256)), (jnp.arange(256) % 2).astype(jnp.float32)

    def each(line, x, y):
        slope = jax.grad(lambda line: loss(score(line, x), y))(line)
        moved = update(line, x, rule(line, x, y), 1.0)
        return jax.tree.map(lambda after, w, g: jnp.abs(after - (w - g)).max(), moved, line, slope)

    return float(max(part.max() for part in jax.vmap(each)(lines, x, y)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("rule", "answer", "loss"),
    [
        (perceptron_error, step, perceptron_loss),
        (logistic_error, sigmoid, sigmoid_binary_cross_entropy),
    ],
)
def test_both_rules_are_one_formula_and_both_descend(rule, answer, loss, seed):
    """w + α(y − ŷ)x with ŷ a step or a sigmoid; other rules' tests are in test_delta_rule.py."""

    def formula(line, x, y):
        return y - answer(score(line, x))

    assert off_the_gradient(rule, loss, seed) < 1e-5
    assert off_the_gradient(formula, loss, seed) < 1e-5
    assert off_the_gradient(squared_error, loss, seed) > 1e-2, "a wrong rule is seen"


def test_one_class_is_set_against_the_rest():
    iris, setosa = load("iris"), perceptron.against_the_rest("iris", 0)
    assert np.array_equal(setosa.x, iris.x)
    assert setosa.classes == ("rest", "setosa")
    assert np.array_equal(setosa.y, np.array(iris.y == 0, int))
    assert perceptron.DATA["versicolor"]().classes == ("rest", "versicolor")
    assert perceptron.DATA["wine"]().y.sum() == (load("wine").y == 1).sum() == 71


def test_data_are_separable_as_they_are_called():
    for name in (*perceptron.SEPARABLE, *OVERLAPPING):
        pool = splits_of(name).pool
        result = perceptron.margin(pool.x, pool.y == 1)
        assert (result is not None) == (name in perceptron.SEPARABLE), name


# The points


def sorted_items(point: dict) -> list:
    return sorted(point.items())


def row(method: str, rate: float) -> dict:
    group = "baseline" if method == PERCEPTRON else method
    return {"method": method, "group": group, "learning_rate": rate}


def test_the_table_has_every_method_on_every_data_set():
    assert points() == [
        {"dataset": name, **row(method, rate)}
        for name in (*perceptron.SEPARABLE, *OVERLAPPING)
        for method, rate in RATES.items()
    ]
    assert points("--preset", "paper") == points()
    assert points("--preset", "smoke") == points("--dataset", "gap")


def test_axes_of_the_command_line_are_honoured():
    assert points("--dataset", "wine", "--method", ONLINE, "--learning-rate", 0.5, 2) == [
        {"dataset": "wine", **row(ONLINE, 0.5)},
        {"dataset": "wine", **row(ONLINE, 2.0)},
    ]
    assert points("--dataset", "gap", "--learning-rate", 0.5) == [
        {"dataset": "gap", **row(method, 0.5)} for method in METHODS
    ]
    for field, values in [("steps", (10, 20)), ("patience", (1.0, 2.0)), ("fix", ("none", "init"))]:
        crossed = points("--preset", "smoke", f"--{field}", *values)
        expected = [p | {field: value} for value in values for p in points("--preset", "smoke")]
        assert sorted(map(str, map(sorted_items, crossed))) == sorted(
            map(str, map(sorted_items, expected))
        )


@pytest.mark.parametrize("typed", [["--learning-rate", 0], ["--method", "newton"],
                                   ["--dataset", "moons"]])  # fmt: skip
def test_what_is_none_of_the_choices_is_refused(typed, capsys):
    assert studies.main(["perceptron", *map(str, typed), "--plan"]) == 2
    assert "error: " in capsys.readouterr().err


# The claims


SHARES = {  # (data sets, what holds, bounds)
    "perceptron-converges": (("gap",), lambda r: r["train/accuracy"] == 1, (0.9, np.inf)),
    "perceptron-within-novikoff": (("gap",), lambda r: r["updates"] < r["bound"], (0.9, np.inf)),
    "perceptron-never-settles": (
        OVERLAPPING, lambda r: r["train/accuracy"] == 1, (-np.inf, 0.1),
    ),
}  # fmt: skip
OTHERS = {"logistic-generalizes-on-overlap", "far-is-sure"}


def test_every_claim_is_tested_here(both):
    assert {claim.id for claim in perceptron.CLAIMS} == SHARES.keys() | OTHERS
    judged = judge_all(perceptron.CLAIMS, Study(both))
    assert all(judgement.parts for judgement in judged)
    verdicts = {judgement.claim.id: judgement.verdict for judgement in judged}
    assert "refuted" not in {verdicts[name] for name in SHARES}


@pytest.mark.parametrize("name", SHARES)
def test_shares_are_those_of_the_perceptrons_trials(both, name, monkeypatch):
    untrained(monkeypatch)
    sets, holds, bounds = SHARES[name]
    rows = trials_of(both)
    result = effects(perceptron, name, Study(both))
    assert len(result) == len(sets)
    for dataset, effect in zip(sets, result, strict=True):
        ours = rows[(rows["dataset"] == dataset) & (rows["method"] == PERCEPTRON)]
        assert len(ours) == 4
        expected = holds(ours.sort_values("restart")).astype(float)
        np.testing.assert_array_equal(effect.values, expected)
        assert effect.expected == bounds
        assert effect.share
        assert dataset in effect.measured


def test_methods_are_compared_where_classes_overlap(both, monkeypatch):
    untrained(monkeypatch)
    expected = [
        ("test/accuracy", method, "baseline", POSITIVE, {"dataset": dataset})
        for method in (ONLINE, BATCH)
        for dataset in OVERLAPPING
    ]
    name = "logistic-generalizes-on-overlap"
    studies.check_differences(perceptron, name, Study(both), expected, "valid/accuracy", 1)


def test_far_is_compared_with_near_by_logistic_regression(both, monkeypatch):
    untrained(monkeypatch)
    rows = trials_of(both).sort_values("restart")
    result = effects(perceptron, "far-is-sure", Study(both))
    assert len(result) == len(OVERLAPPING)
    for dataset, effect in zip(OVERLAPPING, result, strict=True):
        ours = rows[(rows["dataset"] == dataset) & (rows["method"] == ONLINE)]
        gain = ours["test/accuracy_far"] - ours["test/accuracy_near"]
        np.testing.assert_allclose(effect.values, gain, rtol=1e-12)
        assert effect.expected == POSITIVE
        assert effect.measured == f"test accuracy far − near, {dataset}"


@pytest.mark.parametrize(
    ("dataset", "claims", "figures"),
    [
        ("overlap", {"perceptron-never-settles"}, {"way"}),
        ("setosa", {"perceptron-converges", "perceptron-within-novikoff"}, {"updates"}),
    ],
)
def test_a_study_without_the_points_says_so(dataset, claims, figures, tmp_path, monkeypatch):
    """A study of one method, on two features without a separating plane and on four with one."""
    typed = ["--dataset", dataset, "--method", PERCEPTRON]
    quick = ["--steps", 4, "--eval-every", 2, "--restarts", 2]
    study = Study(launch(tmp_path / "run", *typed, *quick, report=True))
    untrained(monkeypatch)
    judged = judge_all(perceptron.CLAIMS, study)
    assert {judgement.claim.id for judgement in judged if judgement.parts} == claims
    lacking = {judgement.verdict for judgement in judged if not judgement.parts}
    assert lacking == {"inconclusive"}
    for name, draw in perceptron.FIGURES.items():
        written = study.directory / "report" / f"{name}.png"
        assert written.exists() == (name in figures)
        if name not in figures:
            with pytest.raises(Missing):
                draw(study)


def test_the_figures_have_a_panel_for_every_plane(smoke):
    study = Study(smoke)
    with plot.style():
        drawn = {name: draw(study) for name, draw in perceptron.FIGURES.items()}
        assert list(drawn) == ["way", "updates"]
        titles = [panel.get_title() for panel in drawn["way"].axes if panel.get_title()]
        assert titles == [
            f"{dataset}: {method}" for dataset in ("gap", "overlap") for method in METHODS
        ]
        (panel,) = [panel for panel in drawn["updates"].axes if panel.has_data()]
        dots = np.concatenate([dots.get_offsets() for dots in panel.collections])
        rows = trials_of(smoke)
        gap = rows[(rows["dataset"] == "gap") & (rows["method"] == PERCEPTRON)]
        assert len(dots) == 4, "a dot a restart of the one data set that a plane separates"
        np.testing.assert_array_equal(dots[:, 1], gap.sort_values("restart")["updates"])
    assert (smoke / "report" / "way.png").exists()
    assert (smoke / "report" / "updates.svg").exists()
