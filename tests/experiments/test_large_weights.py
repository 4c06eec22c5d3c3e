"""The study of large weights: the same predictions, surer; against NumPy in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ablax.data import split
from ablax.data.generated import moons
from ablax.data.splits import Split
from ablax.errors import Missing
from ablax.report.claims import judge_all
from ablax.report.quantities import NEGATIVE, POSITIVE
from ablax.report.study import Study
from ablax.study import snapshots
from experiments import large_weights
from experiments.large_weights import Config
from tests.experiments import studies
from tests.experiments.studies import effects, task_of, trial_of, trials_of, untrained

launch = partial(studies.launch, "large_weights")
points = partial(studies.points_of, large_weights, "large_weights")
NAMES = ("accuracy", "loss", "loss_where_wrong", "slope")


def measured(x: np.ndarray, y: np.ndarray, w: np.ndarray, b: float, scale: float) -> dict:
    """{name: (sum, count)} of σ(scale · (xw + b))."""
    z = scale * (np.float64(x) @ np.float64(w) + float(b))
    probability = 1 / (1 + np.exp(-z))
    loss = np.logaddexp(0, np.where(y > 0, -z, z))
    wrong = (z > 0) != (y > 0)
    n = len(y)
    return {
        "accuracy": ((~wrong).sum(), n),
        "loss": (loss.sum(), n),
        "loss_where_wrong": (loss[wrong].sum(), wrong.sum()),
        "slope": ((probability * (1 - probability)).sum(), n),
    }


def test_the_numbers_are_those_of_the_snapshots(smoke):
    rows, variables = trials_of(smoke).set_index("trial"), snapshots.load(smoke, "large_weights")
    assert set(variables) == set(rows.index)
    splits = split(moons(n=1000, noise=0.3), seed=0)
    x, y = splits.pool
    for trial, params in variables.items():
        row = rows.loc[trial]
        w, b = params["output"]["weight"][0], params["output"]["bias"][0]
        drawn = splits.draw(trial_of(Config(), row["restart"]).rng("split"))
        train, valid = map(np.array, drawn)
        parts = {"train": (x[train], y[train]), "valid": (x[valid], y[valid])}
        for part, (inputs, targets) in (parts | {"test": splits.test}).items():
            result = measured(inputs, targets, w, b, row["scale"])
            for name in NAMES:
                total, count = result[name]
                np.testing.assert_allclose(row[f"{part}/{name}"], total / count, rtol=2e-4)


def test_the_scale_changes_no_weight_and_no_prediction(smoke):
    rows, variables = trials_of(smoke), snapshots.load(smoke, "large_weights")
    assert sorted(rows["scale"].unique()) == [1, 3, 10, 30]
    for _, same in rows.groupby("restart"):
        assert len(same) == 4
        weights = [variables[trial]["output"]["weight"].tobytes() for trial in same["trial"]]
        assert len(set(weights)) == 1, "only what is measured is multiplied"
        for part in ("train", "valid", "test"):
            assert same[f"{part}/accuracy"].nunique() == 1
            assert same[f"{part}/slope"].nunique() == 4
    curves = Study(smoke).curves.merge(rows[["trial", "restart", "scale"]])
    assert (curves.groupby(["restart", "step"])["valid/accuracy"].nunique() == 1).all()


def test_the_last_weights_count(smoke):
    rows = trials_of(smoke)
    assert (rows["best_step"] == rows["steps"]).all()
    assert (rows["status"] == "done").all()
    assert task_of(large_weights, Config()).objective is None, "nothing else is selected by"


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("n", [1, 7, 2048, 2049, 5000])
def test_misclassified_examples_are_counted_exactly(n, scale):
    """Above 2048 examples come in chunks, of which the last is padded and masked."""
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, 2)).astype(np.float32)
    y = rng.integers(0, 2, n).astype(np.int32)
    y[-1] = x[-1, 0] + 0.25 < 0  # misclassified: padding repeats it
    w, b = np.array([1.0, -0.5], np.float32), 0.25
    config = Config(scale=scale)
    params = {"output": {"weight": jnp.asarray(w[None]), "bias": jnp.asarray([b], jnp.float32)}}
    task = task_of(large_weights, config)
    part = Split(jnp.asarray(x), jnp.asarray(y))
    result = jax.tree.map(float, task.evaluate(params, trial_of(config), part))
    expected = measured(x, y, w, b, scale)
    assert set(result) == set(NAMES)
    for name, (total, count) in expected.items():
        assert result[name][1] == count, name
        np.testing.assert_allclose(result[name][0], total, rtol=2e-5)
    assert expected["loss_where_wrong"][1] == n - expected["accuracy"][0]


def test_without_a_mistake_there_is_no_cost_of_one():
    x = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)
    params = {"output": {"weight": jnp.asarray([[1.0, 0.0]]), "bias": jnp.zeros(1)}}
    task = task_of(large_weights, Config())
    part = Split(jnp.asarray(x), jnp.asarray([1, 0], jnp.int32))
    result = jax.tree.map(float, task.evaluate(params, trial_of(Config()), part))
    assert result["loss_where_wrong"] == (0, 0)
    assert result["accuracy"] == (2, 2)


# The points


def test_the_table_is_a_row_a_factor():
    assert points() == [
        {"group": "baseline"},
        *({"group": f"× {factor}", "scale": float(factor)} for factor in (3, 10, 30)),
    ]


def test_axes_of_the_command_line_are_honoured():
    assert points("--scale", 1, 5) == [{"scale": 1.0}, {"scale": 5.0}]
    assert points("--learning-rate", 0.1, 0.2) == [
        p | {"learning_rate": rate} for p in points() for rate in (0.1, 0.2)
    ]
    assert points("--learning-rate", 0.1) == [p | {"learning_rate": 0.1} for p in points()]


# The claims


DIFFERENCES = {
    "certainty-makes-errors-dear": ("test/loss_where_wrong", POSITIVE),
    "certainty-flattens": ("test/slope", NEGATIVE),
    "certainty-generalizes-worse": ("test/loss", POSITIVE),
}
STEEPENS = "every-factor-flattens-more"


@pytest.mark.parametrize("name", DIFFERENCES)
def test_differences_are_those_of_the_trials(smoke, name, monkeypatch):
    untrained(monkeypatch)
    column, bounds = DIFFERENCES[name]
    expected = [(column, "× 10", "baseline", bounds, {})]
    studies.check_differences(large_weights, name, Study(smoke), expected, "valid/accuracy", 1)


def test_neighbouring_factors_are_compared(smoke, monkeypatch):
    untrained(monkeypatch)
    slopes = trials_of(smoke).pivot(index="restart", columns="scale", values="test/slope")
    result = effects(large_weights, STEEPENS, Study(smoke))
    assert len(result) == 3
    for effect, (small, large) in zip(result, [(1, 3), (3, 10), (10, 30)], strict=True):
        expected = slopes[large].astype(float) - slopes[small].astype(float)
        np.testing.assert_allclose(effect.values, expected, rtol=1e-12)
        assert effect.expected == NEGATIVE
    assert {claim.id for claim in large_weights.CLAIMS} == DIFFERENCES.keys() | {STEEPENS}


QUICK = ("--steps", 10, "--eval-every", 5, "--restarts", 2)


@pytest.mark.parametrize(
    ("typed", "possible"),
    [(["--scale", 2], set()), (["--scale", 5, 2], {STEEPENS})],
)
def test_a_study_without_the_points_says_so(typed, possible, tmp_path, monkeypatch):
    table = Study(launch(tmp_path / "run", *typed, *QUICK))
    untrained(monkeypatch)
    judged = judge_all(large_weights.CLAIMS, table)
    assert {judgement.claim.id for judgement in judged if judgement.parts} == possible
    for judgement in judged:
        if not judgement.parts:
            with pytest.raises(Missing):
                judgement.claim.effects(table)


def test_only_factors_are_told_apart_where_other_axes_are_given(tmp_path, monkeypatch):
    """A slope is compared with that of another factor, never with that of another rate."""
    table = Study(launch(tmp_path / "run", "--learning-rate", 0.1, 1.0, *QUICK))
    untrained(monkeypatch)
    slopes = {
        (row["learning_rate"], row["scale"], row["restart"]): float(row["test/slope"])
        for row in trials_of(table.directory).to_dict("records")
    }
    possible = [
        [slopes[rate, large, restart] - slopes[rate, small, restart] for restart in range(2)]
        for rate in (0.1, 1.0)
        for small, large in [(1, 3), (3, 10), (10, 30)]
    ]
    result = [effect.values.tolist() for effect in effects(large_weights, STEEPENS, table)]
    assert result
    assert all(values in possible for values in result)
    figure = large_weights.FIGURES["scale"](table)
    for axes in figure.axes:
        assert list(axes.lines[0].get_xdata()) == [1, 3, 10, 30], "a dot a factor"


def test_the_figure_shows_both_measures(smoke):
    assert list(large_weights.FIGURES) == ["scale"]
    figure = large_weights.FIGURES["scale"](Study(smoke))
    rows = trials_of(smoke).astype({"test/loss_where_wrong": float, "test/slope": float})
    means = rows.groupby("scale")[["test/loss_where_wrong", "test/slope"]].mean()
    drawn = [axes for axes in figure.axes if axes.has_data()]
    for axes, column in zip(drawn, means, strict=True):
        line = axes.lines[0]
        assert list(line.get_xdata()) == [1, 3, 10, 30]
        np.testing.assert_allclose(line.get_ydata(), means[column], rtol=1e-12)
