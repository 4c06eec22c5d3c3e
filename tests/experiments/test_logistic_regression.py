"""The study of logistic regression: one step by hand, scikit-learn's optimum, its claims."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from ablax import losses
from ablax.data import load, split
from ablax.data.splits import Split
from ablax.errors import Missing
from ablax.metrics import one_hot
from ablax.nn.activations import softmax
from ablax.report import plot
from ablax.report.claims import judge_all
from ablax.report.quantities import POSITIVE
from ablax.report.study import Study
from ablax.study import snapshots
from ablax.task import Task, at_step, means
from ablax.tasks.supervised import examples
from experiments import logistic_regression
from experiments.logistic_regression import FEW, GOOD, MANY, SLOW, TOO_LARGE, TWO, Config
from tests.experiments import studies
from tests.experiments.studies import effects, task_of, trial_of, trials_of, untrained

launch = partial(studies.launch, "logistic_regression")
points = partial(studies.points_of, logistic_regression, "logistic_regression")
STRENGTH = 0.01
TINY = (-1e-4, 1e-4)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    out = tmp_path_factory.mktemp("digits") / "run"
    rates = ["--learning-rate", SLOW, GOOD]
    quick = ["--steps", 40, "--eval-every", 20, "--restarts", 2, "--keep", "all"]
    return launch(out, "--dataset", MANY, *rates, *quick)


def examples_of(dataset: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{split: (x, y)}, the images flat, in float64."""
    splits = split(load(dataset), seed=0)
    return {
        name: (np.float64(part.x).reshape(len(part.x), -1), part.y)
        for name, part in [("train", splits.train), ("valid", splits.valid), ("test", splits.test)]
    }


def chances(w, b, x) -> np.ndarray:
    """[n, classes], two for a single score."""
    z = x @ w.T + b
    z = np.column_stack([np.zeros(len(z)), z]) if z.shape[1] == 1 else z
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def error(w, b, x, y) -> float:
    """The mean cross-entropy, with the penalty."""
    return float(-np.log(chances(w, b, x)[np.arange(len(y)), y]).mean() + STRENGTH * (w**2).sum())


def descended(w, b, x, y, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """One step of gradient descent on it."""
    off = chances(w, b, x) - np.eye(2 if len(w) == 1 else len(w))[y]
    off = off[:, 1:] if len(w) == 1 else off
    gradient = off.T @ x / len(y) + 2 * STRENGTH * w
    return w - rate * gradient, b - rate * off.mean(axis=0)


@cache
def built(dataset: str) -> Task:
    """Once: scikit-learn's optimum is sought for each."""
    return task_of(logistic_regression, Config(dataset=dataset))


def metrics_of(task: Task, trial, state, part) -> dict:
    """The evaluation of a state, by a program of its own."""
    return means(jax.jit(partial(task.evaluate))(task.snapshot(state), trial, part))


def started(dataset: str, restart: int = 0, **fields):
    config = Config(dataset=dataset, **fields)
    task, trial = built(dataset), trial_of(config, restart)
    data = task.view(trial, {name: part for name, part in task.data.items() if name != "test"})
    return task, trial, data, task.init(trial, data)


def layer(params) -> tuple[np.ndarray, np.ndarray]:
    return np.float64(params["output"]["weight"]), np.float64(params["output"]["bias"])


@pytest.mark.parametrize("dataset", [TWO, MANY])
def test_a_step_is_gradient_descent_on_all_examples(dataset):
    task, trial, data, state = started(dataset, learning_rate=0.5)
    x, y = examples_of(dataset)["train"]
    step = jax.jit(task.step)
    w, b = layer(state["inner"].params)
    assert (b == 0).all()
    for i in range(3):
        before = error(w, b, x, y) - STRENGTH * (w**2).sum()
        state, metrics = step(state, at_step(trial, np.int32(i)), data)
        np.testing.assert_allclose(metrics["loss"], before, rtol=1e-5)
        w, b = descended(w, b, x, y, 0.5)
        for ours, theirs in zip(layer(state["inner"].params), (w, b), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-6)


def test_starts_differ_and_examples_do_not():
    weights, seen = [], []
    for restart in range(3):
        *_, data, state = started(TWO, restart)
        weights.append(layer(state["inner"].params)[0])
        parts = [examples(data[part]) for part in ("train", "valid")]
        seen.append([np.array(array) for part in parts for array in part])
    assert all(np.array_equal(a, b) for mine in seen for a, b in zip(mine, seen[0], strict=True))
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        assert np.abs(weights[i] - weights[j]).max() > 0.5
    wide = layer(started(TWO, sigma=3.0)[3]["inner"].params)[0]
    np.testing.assert_allclose(wide, 3 * weights[0], rtol=1e-6)
    assert 0.7 < np.std(weights) < 1.3
    assert (layer(started(TWO, sigma=0.0)[3]["inner"].params)[0] == 0).all()


def test_every_trial_is_there_once(smoke):
    rows = trials_of(smoke)
    assert sorted(zip(rows["learning_rate"].round(2), rows["restart"], strict=True)) == [
        (rate, restart) for rate in (SLOW, 0.1, GOOD, TOO_LARGE) for restart in range(4)
    ]
    assert (rows["status"] == "done").all()
    assert (rows["best_step"] == rows["steps"]).all(), "the last weights are compared"
    assert (rows["steps"] == 400).all()


def test_the_distance_is_that_from_scikit_learns_optimum(smoke):
    x, y = examples_of(TWO)["train"]
    fit = LogisticRegression(C=1 / (2 * STRENGTH * len(y)), tol=1e-9, max_iter=10_000).fit(x, y)
    goal = np.append(fit.coef_, fit.intercept_)
    # The optimum by itself: nothing is gained by a step.
    there = descended(fit.coef_, fit.intercept_, x, y, 1.0)
    np.testing.assert_allclose(np.append(*there), goal, atol=1e-6)
    rows, variables = (
        trials_of(smoke).set_index("trial"),
        snapshots.load(smoke, "logistic_regression"),
    )
    assert set(variables) == set(rows.index)
    for trial, params in variables.items():
        result = np.append(*layer(params["params"]))
        apart = np.linalg.norm(result - goal) / np.linalg.norm(goal)
        np.testing.assert_allclose(rows.loc[trial, "from_optimum"], apart, rtol=1e-2, atol=1e-5)
    assert (rows.loc[rows["learning_rate"] == GOOD, "from_optimum"] < 0.01).all()


def test_another_strength_has_another_optimum():
    splits = split(load(TWO), seed=0)
    for strength in (0.1, 1.0):
        x, y = examples_of(TWO)["train"]
        result = logistic_regression.optimum(splits, strength)[0]
        p = 1 / (1 + np.exp(-(x @ result[:-1] + result[-1])))
        gradient = (p - y) @ x / len(y) + 2 * strength * result[:-1]
        assert np.abs(gradient).max() < 1e-5
        assert abs((p - y).mean()) < 1e-5


@pytest.mark.parametrize(("rate", "steps"), [(0.1, 30), (TOO_LARGE, 30)])
def test_rises_are_those_of_the_replay(rate, steps):
    x, y = examples_of(TWO)["train"]
    task, trial, data, state = started(TWO, learning_rate=rate, sigma=0.1)
    w, b = layer(state["inner"].params)
    errors = []
    for _ in range(steps):
        errors.append(error(w, b, x, y))
        w, b = descended(w, b, x, y, rate)
    step = jax.jit(task.step)
    seen = []
    for i in range(steps):
        state, _ = step(state, at_step(trial, np.int32(i)), data)
        seen.append(int(state["rises"]))
        np.testing.assert_allclose(state["before"], errors[i], rtol=2e-3)
    changes = np.diff(errors)
    # Rises by more than rounding, where float32 and float64 have not parted.
    assert seen[0] == 0
    assert seen == np.cumsum(np.append(0, changes > 1e-6 * np.array(errors[:-1]))).tolist()
    assert (seen[-1] > 3) == (rate == TOO_LARGE)


# What the notes derive


def test_what_is_derived_of_two_classes_is_measured(smoke):
    rows, variables = (
        trials_of(smoke).set_index("trial"),
        snapshots.load(smoke, "logistic_regression"),
    )
    parts = examples_of(TWO)
    for trial, params in variables.items():
        w, b = layer(params["params"])
        for name, (x, y) in parts.items():
            p = chances(w, b, x)[:, 1]
            lengths = np.abs(y - p) * np.sqrt((x**2).sum(axis=1) + 1)
            correlation = stats.spearmanr(np.abs(y - p), lengths).statistic
            row = rows.loc[trial]
            np.testing.assert_allclose(row[f"{name}/error_and_step"], correlation, atol=2e-3)
            loss = error(w, b, x, y) - STRENGTH * (w**2).sum()
            np.testing.assert_allclose(row[f"{name}/loss"], loss, rtol=1e-4)
            np.testing.assert_allclose(row[f"{name}/accuracy"], ((p >= 0.5) == y).mean(), atol=1e-6)
    for name in ("gradient_apart", "product_and_sum", "sigmoid_and_softmax"):
        for part in parts:
            assert rows[f"{part}/{name}"].between(0, 1e-4).all()
    assert rows["train/gradient_apart"].max() > 0, "two computations, not one"


@pytest.mark.parametrize(
    ("broken", "column"),
    [("logistic_error", "gradient_apart"), ("sigmoid", "sigmoid_and_softmax")],
)
def test_a_wrong_formula_is_seen(broken, column, monkeypatch):
    task, trial, data, state = started(TWO, 1)
    right = getattr(logistic_regression, broken)
    monkeypatch.setattr(logistic_regression, broken, lambda *arguments: 1.01 * right(*arguments))
    metrics = metrics_of(task, trial, state, data["train"])
    assert metrics[column] > 1e-3


def test_product_and_sum_part_where_one_is_wrong(monkeypatch):
    task, trial, data, state = started(TWO)
    monkeypatch.setattr(losses, "likelihood", lambda p: jnp.prod(p[1:]))
    metrics = metrics_of(task, trial, state, data["train"])
    x, y = examples_of(TWO)["train"]
    w, b = layer(state["inner"].params)
    first = chances(w, b, x)[np.arange(FEW), y[:FEW]]
    np.testing.assert_allclose(metrics["product_and_sum"], -np.log(first[0]), rtol=1e-3, atol=1e-4)


def test_what_is_derived_of_many_classes_is_measured(digits):
    rows, variables = (
        trials_of(digits).set_index("trial"),
        snapshots.load(digits, "logistic_regression"),
    )
    for trial, params in variables.items():
        w, b = layer(params["params"])
        for name, (x, y) in examples_of(MANY).items():
            p, row = chances(w, b, x), rows.loc[trial]
            np.testing.assert_allclose(
                row[f"{name}/accuracy"], (p.argmax(axis=1) == y).mean(), atol=3e-3
            )
            true = np.log(p[np.arange(len(y)), y]).sum()
            assert row[f"{name}/underflows"] == (true < np.log(1e-46)), true
    assert len(variables) == 4


def test_a_product_of_few_does_not_underflow():
    task, trial, data, state = started(MANY)
    x, y = (np.array(part[:2]) for part in data["train"])
    metrics = metrics_of(task, trial, state, Split(jnp.array(x), jnp.array(y)))
    assert metrics["underflows"] == 0
    assert metrics_of(task, trial, state, data["train"])["underflows"] == 1


def test_softmax_keeps_the_order_of_scores_and_sums_to_one(digits):
    """Probabilities by the scores of trained networks, for all examples of every split."""
    variables = snapshots.load(digits, "logistic_regression")
    assert len(variables) == 4
    for params in variables.values():
        w, b = layer(params["params"])
        for x, _ in examples_of(MANY).values():
            z = jnp.float32(x @ w.T + b)
            p = softmax(z)
            # But where float32 cannot tell two scores apart after the exponential.
            assert (jnp.argsort(z) == jnp.argsort(p)).all(axis=-1).mean() > 0.999
            assert jnp.abs(p.sum(axis=-1) - 1).max() < 1e-5


def test_one_hot_codes_are_equally_far_from_each_other():
    def spread(codes):
        """The largest distance of two codes, less the smallest."""
        distances = jnp.linalg.norm(codes[:, None] - codes[None], axis=-1)
        others = distances[~np.eye(len(codes), dtype=bool)]
        return others.max() - others.min()

    codes = one_hot(jnp.arange(10), 10)
    assert spread(codes) < 1e-6
    longer = codes * (1 + jnp.arange(10, dtype=jnp.float32))[:, None]
    np.testing.assert_allclose(spread(longer), np.sqrt(181) - np.sqrt(5), rtol=1e-5)


# The points


def row(rate: float) -> dict:
    return {"learning_rate": rate, "group": "baseline" if rate == 1 else f"learning rate {rate:g}"}


def test_the_table_has_every_rate_on_both_data_sets():
    rates = (0.01, 0.1, 1.0, 10.0)
    assert points() == [{"dataset": name, **row(rate)} for name in (TWO, MANY) for rate in rates]
    assert points("--preset", "paper") == points()
    assert points("--preset", "smoke") == points("--dataset", TWO)


def test_axes_of_the_command_line_are_honoured():
    assert points("--dataset", MANY, "--learning-rate", 0.5, 1) == [
        {"dataset": MANY, **row(0.5)},
        {"dataset": MANY, **row(1.0)},
    ]
    for flag, field, values in [("l2", "l2", (0.1, 0.2)), ("sigma", "sigma", (0.0, 2.0)),
                                ("eval-every", "eval_every", (5, 10))]:  # fmt: skip
        result = points("--dataset", TWO, f"--{flag}", *values)
        assert len(result) == 2 * 4
        for value in values:
            mine = [p for p in result if p[field] == value]
            assert [{**p, field: None} for p in mine] == [
                {"dataset": TWO, field: None, **row(rate)} for rate in (0.01, 0.1, 1.0, 10.0)
            ]


@pytest.mark.parametrize("typed", [["--l2", 0], ["--dataset", "iris"], ["--sigma", -1]])
def test_what_is_out_of_range_is_refused(typed, capsys):
    assert studies.main(["logistic_regression", *map(str, typed), "--plan"]) == 2
    assert typed[0] in capsys.readouterr().err or typed[1] == "iris"


# The claims


WITHIN = {  # claim: (column, bounds, at this rate)
    "optimum-is-scikit-learns": ("from_optimum", (-0.01, 0.01), GOOD),
    "gradient-is-error-times-point": ("train/gradient_apart", TINY, GOOD),
    "product-is-sum": ("train/product_and_sum", (-1e-3, 1e-3), GOOD),
    "too-large-overshoots": ("rises", (0.0, np.inf), TOO_LARGE),
    "larger-errors-larger-steps": ("train/error_and_step", (0.5, 1.1), GOOD),
    "two-classes-are-one-sigmoid": ("test/sigmoid_and_softmax", TINY, GOOD),
}
OF_MANY = {
    "product-underflows": [("train/underflows", (0.7, np.inf), [GOOD])],
}
OTHERS = {"error-falls-at-every-step", "small-is-slow"}


def column_at(rows: pd.DataFrame, rate: float, column: str) -> np.ndarray:
    here = rows[np.isclose(rows["learning_rate"], rate)].sort_values("restart")
    assert len(here)
    return here[column].to_numpy(np.float64)


def test_every_claim_is_tested_here(smoke):
    assert {
        claim.id for claim in logistic_regression.CLAIMS
    } == WITHIN.keys() | OF_MANY.keys() | OTHERS
    judged = {j.claim.id: j for j in judge_all(logistic_regression.CLAIMS, Study(smoke))}
    assert {name for name, judgement in judged.items() if not judgement.parts} == OF_MANY.keys()
    assert {judged[name].verdict for name in OF_MANY} == {"inconclusive"}
    exact = {"gradient-is-error-times-point", "product-is-sum", "two-classes-are-one-sigmoid"}
    for name in {"optimum-is-scikit-learns", "too-large-overshoots", "small-is-slow", *exact}:
        assert judged[name].verdict == "supported", name


@pytest.mark.parametrize("name", WITHIN)
def test_columns_are_judged_at_their_rate(smoke, name, monkeypatch):
    untrained(monkeypatch)
    column, bounds, rate = WITHIN[name]
    (effect,) = effects(logistic_regression, name, Study(smoke))
    np.testing.assert_allclose(effect.values, column_at(trials_of(smoke), rate, column), rtol=1e-12)
    assert effect.expected == bounds
    assert not effect.share


@pytest.mark.parametrize("name", OF_MANY)
def test_claims_of_many_classes_are_those_of_digits(digits, name, monkeypatch):
    untrained(monkeypatch)
    rows = trials_of(digits)
    expected = [
        (column_at(rows, rate, column), bounds)
        for column, bounds, rates in OF_MANY[name]
        for rate in rates
    ]
    result = effects(logistic_regression, name, Study(digits))
    for effect, (values, bounds) in zip(result, expected, strict=True):
        np.testing.assert_array_equal(effect.values, values)
        assert effect.expected == bounds
        assert effect.share == (name == "product-underflows")


def test_falls_are_counted_at_small_rates(smoke, monkeypatch):
    untrained(monkeypatch)
    result = effects(logistic_regression, "error-falls-at-every-step", Study(smoke))
    for effect, rate in zip(result, (SLOW, 0.1), strict=True):
        falls = column_at(trials_of(smoke), rate, "rises") == 0
        np.testing.assert_array_equal(effect.values, falls)
        assert effect.share
        assert effect.expected == (0.7, np.inf)


@pytest.mark.parametrize("study", ["smoke", "digits"])
def test_a_small_rate_is_compared_with_a_good_one(study, request, monkeypatch):
    directory = request.getfixturevalue(study)
    untrained(monkeypatch)
    (effect,) = effects(logistic_regression, "small-is-slow", Study(directory))
    slow, good = (column_at(trials_of(directory), r, "train/loss") for r in (SLOW, GOOD))
    np.testing.assert_allclose(effect.values, slow - good, rtol=1e-12)
    assert effect.expected == POSITIVE


def test_a_study_without_the_points_says_so(digits):
    """A study of ten classes at two rates, none too large."""
    study = Study(digits)
    lacking = {name for name, (column, _, _) in WITHIN.items() if column != "from_optimum"}
    for name in lacking:
        with pytest.raises(Missing):
            effects(logistic_regression, name, study)
    judged = judge_all(logistic_regression.CLAIMS, study)
    assert {j.claim.id for j in judged if not j.parts} == lacking


def test_the_figures_show_every_rate(smoke):
    study = Study(smoke)
    with plot.style():
        drawn = {name: draw(study) for name, draw in logistic_regression.FIGURES.items()}
        assert list(drawn) == ["descent", "log_loss"]
        (panel,) = [axes for axes in drawn["descent"].axes if axes.has_data()]
        names = [text.get_text() for text in panel.get_legend().get_texts()]
        assert names == [f"learning rate {rate:g}" for rate in (0.01, 0.1, 1, 10)]
        (panel,) = drawn["log_loss"].axes
        cost, square = (line.get_xydata().T for line in panel.get_lines())
        np.testing.assert_allclose(cost[1], -np.log(cost[0]), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(square[1], (1 - square[0]) ** 2)
    assert (smoke / "report" / "descent.png").exists()
    assert (smoke / "report" / "log_loss.svg").exists()
