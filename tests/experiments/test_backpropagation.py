"""The study of backpropagation: one step of the sum and of the mean, error terms, its claims."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from ablax.analysis.backpropagation import Layer, error_terms, forward, weight_steps
from ablax.data import load, split
from ablax.errors import Missing
from ablax.report import plot
from ablax.report.claims import judge_all
from ablax.report.study import Study
from ablax.study import snapshots
from ablax.task import at_step, means
from ablax.tasks.supervised import examples
from experiments import backpropagation
from experiments.backpropagation import DEEP, DEPTHS, LARGE, MEAN, RATES, SIZES, SUM, USABLE, Config
from tests.experiments import studies
from tests.experiments.studies import effects, made_up, task_of, trial_of, trials_of, untrained

launch = partial(studies.launch, "backpropagation")
points = partial(studies.points_of, backpropagation, "backpropagation")


def target(y) -> np.ndarray:
    return np.clip(0.5 + np.float64(y) / 6, 0, 1)


def sigmoid(h) -> np.ndarray:
    return 1 / (1 + np.exp(-h))


def layers_of(params) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.float64(layer["weight"]), np.float64(layer["bias"])) for layer in params.values()]


def terms_of(layers, x, y) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """([activations [n, units] from the input on], [δ [n, units] of each layer])."""
    activations = [np.float64(x).reshape(len(x), -1)]
    for w, b in layers:
        activations.append(sigmoid(activations[-1] @ w.T + b))
    slopes = [a * (1 - a) for a in activations[1:]]
    terms = [(target(y)[:, None] - activations[-1]) * slopes[-1]]
    for (w, _), slope in zip(layers[:0:-1], slopes[-2::-1], strict=True):
        terms.insert(0, terms[0] @ w * slope)
    return activations, terms


def started(restart: int = 0, **fields):
    config = Config(**fields)
    task, trial = task_of(backpropagation, config), trial_of(config, restart)
    data = task.view(trial, {name: part for name, part in task.data.items() if name != "test"})
    return task, trial, data, task.init(trial, data)


# A step


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("m", [1, 20, 283])
@pytest.mark.parametrize("error", [MEAN, SUM])
def test_a_step_is_that_of_the_first_m_examples(error, m, depth):
    rate = 0.3
    fields = {"error": error, "depth": depth, "width": 4, "examples": m, "learning_rate": rate}
    task, trial, data, state = started(**fields)
    x, y = (np.array(part)[:m] for part in examples(data["train"]))
    assert len(x) == m
    layers = layers_of(state.params)
    after, metrics = jax.jit(task.step)(state, trial, data)
    activations, terms = terms_of(layers, x, y)
    share = rate / m if error == MEAN else rate
    for (w, b), moved, a, term in zip(
        layers, layers_of(after.params), activations[:-1], terms, strict=True
    ):
        np.testing.assert_allclose(moved[0], w + share * term.T @ a, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(moved[1], b + share * term.sum(axis=0), rtol=1e-4, atol=1e-6)
    loss = 0.5 * np.mean((target(y) - activations[-1][:, 0]) ** 2)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4)


def test_examples_beyond_m_are_left_out():
    """However wrong their targets are."""
    task, trial, data, state = started(examples=20.0)
    rows = data["train"].rows
    y = np.array(data["train"].y)
    y[np.array(rows[20:])] = -100.0
    others = {**data, "train": data["train"]._replace(y=y)}
    step = jax.jit(task.step)
    for ours, theirs in zip(
        jax.tree.leaves(step(state, trial, data)),
        jax.tree.leaves(step(state, trial, others)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    y[np.array(rows[19])] = -100.0
    last = step(state, trial, {**data, "train": data["train"]._replace(y=y)})[1]["loss"]
    assert last != step(state, trial, data)[1]["loss"], "the last of the m counts"


def test_all_steps_are_on_the_same_examples():
    task, trial, data, state = started(examples=5.0, learning_rate=0.0)
    step = jax.jit(task.step)
    assert step(state, trial, data)[1] == step(state, at_step(trial, np.int32(7)), data)[1]


def test_the_scale_multiplies_the_initial_weights():
    once, wide = (layers_of(started(scale=scale)[3].params) for scale in (1.0, LARGE))
    for (w, b), (large, bias) in zip(once, wide, strict=True):
        np.testing.assert_allclose(large, LARGE * w, rtol=1e-6)
        assert (b == 0).all()
        assert (bias == 0).all()


# The error terms


def test_every_trial_is_there_once(smoke):
    rows = trials_of(smoke)
    assert len(rows) == 34 * 3
    assert not rows.duplicated(["point", "restart"]).any()
    assert rows.groupby("point")["restart"].nunique().eq(3).all()
    assert set(rows["status"]) == {"done"}
    assert (rows["best_step"] == rows["steps"]).all(), "the last weights"


def test_error_terms_are_those_of_numpy(smoke):
    rows = trials_of(smoke).set_index("trial")
    followed = rows[rows["group"].isin(["baseline", *(f"2 layers, {name}" for name in DEEP)])]
    assert len(followed) == 4 * 3
    variables = {
        trial: params
        for program in ("error=mean depth=1", "error=mean depth=2")
        for trial, params in snapshots.load(smoke, program).items()
    }
    x, y = split(load("diabetes"), seed=0).test
    for trial, row in followed.to_dict("index").items():
        layers = layers_of(variables[trial])
        _, terms = terms_of(layers, x, y)
        sizes = [np.linalg.norm(term, axis=1) for term in terms]
        means = [np.exp(np.log(size / sizes[-1]).mean()) for size in sizes]
        for number in range(row["depth"]):
            np.testing.assert_allclose(row[f"test/error_{number + 1}"], means[number], rtol=1e-3)
        shrunk = means[0] ** (1 / row["depth"])
        np.testing.assert_allclose(row["test/shrunk_a_layer"], shrunk, rtol=1e-3)
        passed = [
            size / np.linalg.norm(above @ w, axis=1)
            for size, above, (w, _) in zip(sizes, terms[1:], layers[1:], strict=False)
        ]
        np.testing.assert_allclose(row["test/passed_at_most"], np.max(passed), rtol=1e-3)
        assert np.max(passed) <= 0.2501
        assert 0 < row["test/apart"] < 1e-3


def test_a_gradient_that_is_wrong_is_seen(monkeypatch):
    task, trial, data, state = started(depth=2, width=3)
    right = backpropagation.weight_steps

    def wrong(activations, terms, rate):
        first, *others = right(activations, terms, rate)
        return [first._replace(bias=first.bias * 1.01), *others]

    monkeypatch.setattr(backpropagation, "weight_steps", wrong)
    metrics = means(jax.jit(task.evaluate)(state.params, trial, data["valid"]))
    np.testing.assert_allclose(metrics["apart"], 0.01, rtol=1e-2)


PRINTED = {  # by the notes: (value, unit of its last digit)
    "h": (-0.02, 0.01),
    "hidden": (0.495, 0.001),
    "output": (0.512, 0.001),
    "δ of the output": (0.122, 0.001),
    "δ of the hidden unit": (0.003, 0.001),
    "ΔW": (0.0302, 0.0001),
    "Δw₁": (0.00015, 0.00001),
    "Δw₂": (0.00045, 0.00001),
}


def worked_example(x) -> dict[str, float]:
    """Two inputs, a hidden unit and an output, as the notes work it out."""
    layers = [
        Layer(jnp.array([[0.4, -0.2]]), jnp.zeros(1)),
        Layer(jnp.array([[0.1]]), jnp.zeros(1)),
    ]
    activations = forward(layers, x)
    hidden, output = error_terms(layers, activations, jnp.ones(1))
    _, output_step = weight_steps(activations, [hidden, output], 0.5)
    # The notes go on from δ of the hidden unit as they printed it, 0.003.
    hidden_step, _ = weight_steps(activations, [jnp.array([0.003]), output], 0.5)
    numbers = [layers[0].weights @ x, activations[1], activations[2], output, hidden,
               *output_step.weights, *hidden_step.weights.T]  # fmt: skip
    return {name: float(number[0]) for name, number in zip(PRINTED, numbers, strict=True)}


def test_the_notes_worked_example_comes_out_to_every_printed_digit():
    numbers = worked_example(jnp.array([0.1, 0.3]))
    for name, (printed, unit) in PRINTED.items():
        assert abs(numbers[name] - printed) <= 0.5 * unit, name
    # From the same formulas in float64, but for what follows from the printed δ.
    a, y = sigmoid(-0.02), sigmoid(0.1 * sigmoid(-0.02))
    delta = (1 - y) * y * (1 - y)
    expected = [-0.02, a, y, delta, 0.1 * delta * a * (1 - a), 0.5 * delta * a, 0.00015, 0.00045]
    np.testing.assert_allclose(list(numbers.values()), expected, rtol=1e-5)
    others = worked_example(jnp.array([0.2, 0.3]))
    apart = [abs(others[name] - printed) / unit for name, (printed, unit) in PRINTED.items()]
    assert max(apart) > 0.5, "other inputs, other digits"


# The usable rates


def test_usable_rates_are_the_largest_that_end_well(tmp_path):
    def point(m: float, rate: float, **others) -> dict:
        setting = {"error": SUM, "depth": 1, "scale": 1.0, "examples": m, "learning_rate": rate}
        return setting | others

    good, bad = USABLE * 0.999, USABLE * 1.001
    ends = [
        (point(16.0, 1.0), good, good), (point(16.0, 4.0), bad, good),
        (point(16.0, 2.0), good, bad),
        (point(64.0, 1.0), good, good), (point(64.0, 2.0), good, good),  # two rates are too few
        (point(256.0, 0.5), good, bad), (point(256.0, 1.0), bad, bad),
        (point(256.0, 2.0), bad, bad),
        (point(16.0, 8.0, error=MEAN), good, good), (point(16.0, 16.0, depth=2), good, good),
        (point(16.0, 32.0, scale=4.0), good, good),
    ]  # fmt: skip
    curves = [
        {"trial": f"{i}/{restart}", "step": step, "train/loss": loss if step == 20 else other}
        for i, (_, *losses) in enumerate(ends)
        for restart, loss in enumerate(losses)
        for step, other in [(10, bad if loss == good else good), (20, loss)]
    ]
    pd.DataFrame(curves).to_parquet(tmp_path / "curves.parquet")
    table = made_up(tmp_path, [setting for setting, *_ in ends], restarts=2)
    result = backpropagation.usable_rates(table, SUM)
    assert {m: rates.tolist() for m, rates in result.items()} == {16.0: [2.0, 4.0], 256.0: [0.5, 0]}
    assert backpropagation.usable_rates(table, MEAN) == {}


def usable_by_hand(directory, error: str) -> dict[float, np.ndarray]:
    rows, curves = trials_of(directory), pd.read_parquet(directory / "curves.parquet")
    last = curves[curves["step"] == 20].set_index("trial")["train/loss"]
    rows = rows[(rows["error"] == error) & (rows["depth"] == 1) & (rows["scale"] == 1)]
    result: dict[float, list[float]] = {}
    for (m, _), some in rows.groupby(["examples", "restart"]):
        good = some.loc[some["trial"].map(last) < USABLE, "learning_rate"]
        result.setdefault(m, []).append(good.max() if len(good) else 0.0)
    return {m: np.array(rates) for m, rates in result.items()}


@pytest.mark.parametrize(
    ("name", "error", "bounds"),
    [
        ("sum-needs-smaller-rates", SUM, (-1.25, -0.75)),
        ("mean-keeps-its-rate", MEAN, (-0.25, 0.25)),
    ],
)
def test_slopes_are_those_of_the_usable_rates(smoke, name, error, bounds, monkeypatch):
    untrained(monkeypatch)
    rates = usable_by_hand(smoke, error)
    assert list(rates) == list(SIZES)
    assert all((of_m > 0).all() for of_m in rates.values())
    (effect,) = effects(backpropagation, name, Study(smoke))
    x = np.log(SIZES) - np.log(SIZES).mean()
    y = np.log(np.stack(list(rates.values())))
    np.testing.assert_allclose(effect.values, x @ y / (x @ x), rtol=1e-9, atol=1e-12)
    assert effect.expected == bounds


# The points


def test_the_table_has_depths_and_then_rates():
    table = points()
    assert table[0] == {"group": "baseline"}
    deep, rates = [p for p in table if "depth" in p], [p for p in table if "error" in p]
    assert len(table) == 1 + len(deep) + len(rates) == 123
    assert deep == [
        {"group": f"{depth} layers, {name}", "depth": depth, **change}
        for depth in (2, 4, 6)
        for name, change in DEEP.items()
    ]
    assert {(p["error"], p["examples"], p["learning_rate"]) for p in rates} == {
        (error, m, rate) for error in (MEAN, SUM) for m in SIZES for rate in RATES
    } - {(MEAN, 256.0, 1.0)}
    default = Config()
    assert (default.error, default.examples, default.learning_rate) == (MEAN, 256.0, 1.0)
    assert all(p["group"] == f"{p['error']} of {p['examples']:g}" for p in rates)
    quick = points("--preset", "smoke")
    assert len(quick) == 34
    assert all(p in table for p in quick)


def test_axes_of_the_command_line_are_honoured():
    assert points("--learning-rate", 0.5, 1) == [{"learning_rate": 0.5}, {"learning_rate": 1.0}]
    assert points("--error", SUM, "--examples", 16, 32, "--depth", 2, "--width", 3, 4) == [
        {"error": SUM, "depth": 2, "width": width, "examples": m}
        for width in (3, 4)
        for m in (16.0, 32.0)
    ]
    assert points("--scale", 2, "--fix", "split") == [{"fix": "split", "scale": 2.0}]
    for flag, values in [("width", (3, 4)), ("steps", (200, 300)), ("fix", ("none", "init"))]:
        crossed = [p | {flag: value} for p in points() for value in values]
        assert points(f"--{flag}", *values) == crossed


@pytest.mark.parametrize("typed", [["--examples", 284], ["--depth", 0], ["--scale", 0]])
def test_what_is_out_of_range_is_refused(typed, capsys):
    assert studies.main(["backpropagation", *map(str, typed), "--plan"]) == 2
    assert typed[0] in capsys.readouterr().err
    assert len(split(load("diabetes"), seed=0).train.y) == 283


# The claims


FOLLOWED = {
    "by-hand-is-automatic": ("test/apart", (-1e-3, 1e-3), ("trained", "at first")),
    "sigmoid-passes-a-quarter": ("test/passed_at_most", (0.0, 0.2501), tuple(DEEP)),
    "errors-shrink-by-75-percent": ("test/shrunk_a_layer", (0.0, 0.25), ("at first",)),
    "errors-shrink-in-trained-networks": ("test/shrunk_a_layer", (0.0, 0.25), ("trained",)),
    "errors-shrink-whatever-the-weights": (
        "test/shrunk_a_layer", (0.0, 0.25), ("large weights at first",),
    ),
}  # fmt: skip
OTHERS = {"sum-needs-smaller-rates", "mean-keeps-its-rate"}


def test_every_claim_is_judged(smoke):
    assert {claim.id for claim in backpropagation.CLAIMS} == FOLLOWED.keys() | OTHERS
    judged = {j.claim.id: j for j in judge_all(backpropagation.CLAIMS, Study(smoke))}
    assert {name for name, judgement in judged.items() if judgement.parts} == OTHERS
    assert {judged[name].verdict for name in FOLLOWED} == {"inconclusive"}, "no deeper networks"
    assert {judged[name].verdict for name in OTHERS} == {"supported"}
    for name in FOLLOWED:
        with pytest.raises(Missing):
            effects(backpropagation, name, Study(smoke))


@pytest.fixture(scope="module")
def deeper(smoke):
    """That table, as if the networks of 2 layers were of 4 and of 6 as well."""
    table = Study(smoke)
    rows = table.trials
    two = rows[rows["depth"] == 2]
    for depth in DEPTHS[2:]:
        copies = two.copy()
        copies["depth"] = depth
        copies["group"] = copies["group"].str.replace("2", str(depth))
        copies["point"] = copies["point"].str.replace("depth=2", f"depth={depth}")
        copies["trial"] += f" {depth}"
        for column in two.filter(like="test/"):
            copies[column] *= depth
        for layer in range(3, depth + 1):
            copies[f"test/error_{layer}"] = 0.25 ** (depth - layer)
        rows = pd.concat([rows, copies], ignore_index=True)
    table.trials = rows
    return table


@pytest.mark.parametrize("name", FOLLOWED)
def test_columns_are_judged_at_every_depth(deeper, name, monkeypatch):
    untrained(monkeypatch)
    column, bounds, groups = FOLLOWED[name]
    rows = deeper.trials
    expected = [
        rows[rows["group"] == f"{depth} layers, {group}"].sort_values("restart")[column].to_numpy()
        for group in groups
        for depth in (2, 4, 6)
    ]
    result = effects(backpropagation, name, deeper)
    for effect, values in zip(result, expected, strict=True):
        assert len(values) == 3
        np.testing.assert_allclose(effect.values, values, rtol=1e-6)
        assert effect.expected == bounds


def test_no_usable_rate_is_no_slope(smoke):
    """At one size at least where nothing ends well; or with sizes too few."""
    table = Study(smoke)
    table.curves = table.curves.assign(**{"train/loss": 1.0})
    with pytest.raises(Missing):
        effects(backpropagation, "sum-needs-smaller-rates", table)
    table = Study(smoke)
    table.trials = table.trials[table.trials["examples"] == 256]
    with pytest.raises(Missing):
        effects(backpropagation, "mean-keeps-its-rate", table)


def legend_of(figure) -> tuple[Any, list[str]]:
    (panel,) = [axes for axes in figure.axes if axes.has_data()]
    return panel, [text.get_text() for text in panel.get_legend().get_texts()]


def test_the_figures_show_both_errors_and_the_deeper_networks(smoke, deeper):
    with plot.style():
        study = Study(smoke)
        drawn = {name: draw(study) for name, draw in backpropagation.FIGURES.items()}
        assert list(drawn) == ["usable", "shrinking"]
        panel, names = legend_of(drawn["usable"])
        assert names == ["mean of squared errors", "sum of squared errors"]
        for error, (line, *_) in zip((MEAN, SUM), panel.containers, strict=True):
            rates = usable_by_hand(smoke, error)
            np.testing.assert_allclose(line.get_xdata(orig=False), SIZES)
            means = [of_m.mean() for of_m in rates.values()]
            np.testing.assert_allclose(line.get_ydata(orig=False), means)
        _, names = legend_of(drawn["shrinking"])
        assert set(names) == {"2 layers, trained", "a quarter a layer"}
        _, names = legend_of(backpropagation.shrinking_figure(deeper))
        assert set(names) == {
            *(f"{depth} layers, trained" for depth in (2, 4, 6)),
            *("6 layers, at first", "6 layers, large weights at first", "a quarter a layer"),
        }
    assert (smoke / "report" / "usable.png").exists()
    assert (smoke / "report" / "shrinking.svg").exists()


def test_figures_without_their_points_are_left_out(tmp_path):
    """Neither several rates nor a network of several layers."""
    point = {"error": MEAN, "depth": 1, "scale": 1.0, "examples": 16.0, "learning_rate": 1.0}
    study = made_up(tmp_path, [point])
    for draw in backpropagation.FIGURES.values():
        with pytest.raises(Missing):
            draw(study)
