"""The study of ways to descend: protocols, rates and one step by hand; what claims compute."""

import itertools
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from ablax.errors import Missing
from ablax.report.claims import judge_all
from ablax.report.quantities import NEGATIVE, POSITIVE
from ablax.report.study import Study
from ablax.task import at_step
from ablax.tasks.supervised import examples
from experiments import optimization
from experiments.optimization import (
    BATCH,
    CLAIMS,
    CLIFF,
    EXAMPLES,
    FULL,
    MOMENTA,
    PRESETS,
    RATES,
    TIMED,
    Config,
    epochs,
)
from tests.experiments import studies
from tests.experiments.studies import effects, made_up, task_of, trial_of, trials_of, untrained

launch = partial(studies.launch, "optimization")
points = partial(studies.points_of, optimization, "optimization")
SCHEDULES = ("inverse_sqrt", "step_decay", "exponential", "linear", "cosine")


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Two rates of what the claims about batches and rates compare, by a small network."""
    timed = {"group": TIMED, "batch_size": EXAMPLES, "steps": 80, "eval_every": 4}
    whole_set = {"group": FULL, "batch_size": EXAMPLES, "steps": 4}
    table = [
        *({"group": "constant", "learning_rate": rate} for rate in (CLIFF[0], 0.1, CLIFF[-1])),
        *({**timed, "learning_rate": rate} for rate in (0.1, 1.0)),
        *({**whole_set, "eval_every": 1, "learning_rate": rate} for rate in (0.1, 1.0)),
        *({"group": "momentum 0.9", "momentum": 0.9, "learning_rate": r} for r in (0.03, 0.3)),
        *({"group": "momentum 0.5", "momentum": 0.5, "learning_rate": r} for r in (0.03, 0.3)),
    ]
    table = [{"steps": 64, "eval_every": 4} | point for point in table]
    out = tmp_path_factory.mktemp("short") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimization, "points", lambda config: table)
        return launch(out, "--restarts", 4)


# Protocols


@pytest.mark.parametrize("n", [1, 20, 200, 400])
@pytest.mark.parametrize("batch", [4, 32, 256, EXAMPLES])
def test_epochs_are_examples_seen(n, batch):
    result = epochs(n, batch)
    assert result["steps"] == 20 * result["eval_every"]
    exact = n * EXAMPLES / batch
    if exact % 20 == 0:
        assert result["steps"] == exact
    else:  # evaluated twenty times: the nearest number of steps that allows it
        assert abs(result["steps"] - exact) <= max(10, 20 - exact)


def seen(point: dict, config: Config) -> int:
    return point.get("steps", config.steps) * point.get("batch_size", config.batch_size)


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_all_batches_see_as_many_examples(preset):
    config = PRESETS[preset].config
    counted = {}
    for point in points("--preset", preset):
        counted.setdefault(point["group"], set()).add(seen(point, config))
    assert all(len(result) == 1 for result in counted.values()), "at every rate"
    longer = {f"{FULL}, {name} {b:g}" for name in ("momentum", "nesterov") for b in MOMENTA}
    total = {"default": 20, "paper": 200}[preset] * 1024
    for group, (examples_seen,) in counted.items():
        assert examples_seen == total * (20 if group in {TIMED, *longer} else 1), group
    assert {"batches of 4", "batches of 256", "full batch"} <= counted.keys()


def test_the_table_has_every_method_at_several_rates():
    table = points()
    rates: dict[str, list[float]] = {}
    for point in table:
        rates.setdefault(point["group"], []).append(point.get("learning_rate", 0.1))
    assert rates.pop("baseline") == [0.1]
    for name, result in rates.items():
        assert {b / a for a, b in itertools.pairwise(result)} == {2}, "none more finely"
        assert len(result) >= (6 if name.startswith("full batch, ") else 9)
    assert tuple(rates.pop("constant")) == CLIFF
    assert set(RATES) < set(CLIFF)
    for name in ("adam", "momentum 0.99", "nesterov 0.99"):
        assert (min(rates[name]), max(rates.pop(name))) == (2**-12, 2**-4)
    assert {max(result) for result in rates.values()} == {2}
    batches = {"batches of 4", "batches of 256", "full batch", TIMED}
    betas = {f"{name} {b:g}" for name in ("momentum", "nesterov") for b in (0.5, 0.9, 0.95)}
    wholes = {f"full batch, {name}" for name in {*betas, "momentum 0.99", "nesterov 0.99"}}
    labels = {f"{name}, random labels" for name in ("constant", *SCHEDULES)}
    assert rates.keys() == batches | betas | wholes | set(SCHEDULES) | labels
    assert len({json.dumps(point, sort_keys=True) for point in table}) == len(table)


PLAIN = {"optimizer": "momentum", "schedule": "constant", "batch_size": 32, "width": 32,
         "learning_rate": 0.1, "momentum": 0.0, "label_noise": 0.0}  # fmt: skip
"""The fields of a point that sets nothing else."""


def test_methods_are_what_they_are_called():
    betas = {
        f"{name} {beta:g}": {"optimizer": name, "momentum": beta}
        for name in ("momentum", "nesterov")
        for beta in (0.5, 0.9, 0.95, 0.99)
    }
    expected = {
        "baseline": {},
        "adam": {"optimizer": "adam", "momentum": 0.9},
        "batches of 4": {"batch_size": 4},
        "batches of 256": {"batch_size": 256},
        "full batch": {"batch_size": 1024},
        "full batch, equal wall-clock time": {"batch_size": 1024},
        **betas,
        **{f"full batch, {name}": of | {"batch_size": 1024} for name, of in betas.items()},
    }
    for name in ("constant", *SCHEDULES):
        expected[name] = {"schedule": name}
        expected[f"{name}, random labels"] = {"schedule": name, "label_noise": 0.2}
    for point in points():
        result = {name: point.get(name, usual) for name, usual in PLAIN.items()}
        rate = {"learning_rate": result["learning_rate"]}
        assert result == PLAIN | expected[point["group"]] | rate, point["group"]


def test_a_smoke_study_is_two_points():
    assert points("--preset", "smoke") == [
        {"group": "baseline"},
        {"group": "adam", "optimizer": "adam"},
    ]


AXES = {"optimizer": ("adam", "sgd"), "schedule": ("cosine", "linear"), "batch_size": (16, 32),
        "width": (4, 8), "learning_rate": (0.1, 0.2), "momentum": (0.1, 0.2),
        "label_noise": (0.0, 0.5), "steps": (10, 20), "eval_every": (5, 10),
        "patience": (2.0, 3.0), "min_delta": (0.0, 0.1), "fix": ("init", "order")}  # fmt: skip


def test_every_field_is_an_axis():
    """Its values, and no others, each with the same rest of the table."""
    studies.check_axes(optimization, points, AXES, ("steps", "eval_every"))


# One step, and the rates


def softmax_gradient(params, x, y):
    """The gradient of the mean cross-entropy of a ReLU network with one hidden layer."""
    hidden, output = params["hidden_0"], params["output"]
    z = x @ hidden["weight"].T + hidden["bias"]
    h = np.maximum(z, 0)
    scores = h @ output["weight"].T + output["bias"]
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    d = (p - np.eye(10)[y]) / len(y)
    back = d @ output["weight"] * (z > 0)
    loss = -np.log(p[range(len(y)), y]).mean()
    return loss, {
        "hidden_0": {"weight": back.T @ x, "bias": back.sum(axis=0)},
        "output": {"weight": d.T @ h, "bias": d.sum(axis=0)},
    }


def begun(config: Config):
    """(task, trial, its data, its start), by all examples at once: the order does not matter."""
    task, trial = task_of(optimization, config), trial_of(config)
    training = {name: part for name, part in task.data.items() if name != "test"}
    data = jax.tree.map(jnp.asarray, task.view(trial, training))
    return task, trial, data, task.init(trial, data)


def rates_of(config: Config, at: range) -> list[float]:
    """How far the first bias of the output goes, in its gradient: the rate, without momentum."""
    task, trial, data, state = begun(config)
    step = jax.jit(task.step)
    x, y = map(np.array, examples(data["train"]))
    result = []
    for i in range(at.stop):
        moved, _ = step(state, at_step(trial, jnp.int32(i)), data)
        if i in at:
            before = jax.tree.map(np.float64, state.params)
            _, slopes = softmax_gradient(before, np.float64(x).reshape(len(x), -1), y)
            change = np.float64(moved.params["output"]["bias"]) - before["output"]["bias"]
            slope = slopes["output"]["bias"]
            result.append(-(change @ slope) / (slope @ slope))
        state = moved
    return result


N = 40
FORMULAS = {  # of the rate at step n, as a share of the first
    "constant": lambda n: 1.0,
    "inverse_sqrt": lambda n: 1 / np.sqrt(1 + n / (N / 20)),
    "step_decay": lambda n: 0.5 ** (n // (N // 5)),
    "exponential": lambda n: 0.01 ** (n / N),
    "linear": lambda n: 1 - n / N,
    "cosine": lambda n: (1 + np.cos(np.pi * n / N)) / 2,
}


@pytest.mark.parametrize("schedule", FORMULAS)
def test_rates_from_first_to_last(schedule):
    config = Config(schedule=schedule, batch_size=EXAMPLES, width=4, learning_rate=0.5, steps=N)
    result = rates_of(config, range(N))
    expected = [0.5 * FORMULAS[schedule](n) for n in range(N)]
    np.testing.assert_allclose(result, expected, rtol=2e-2, atol=2e-4)
    ends = {"constant": 1, "inverse_sqrt": 0.22, "step_decay": 1 / 16, "exponential": 0.0112,
            "linear": 1 / 40, "cosine": 0.0015}  # fmt: skip
    np.testing.assert_allclose(result[-1] / result[0], ends[schedule], rtol=0.1)


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov"])
def test_a_few_steps_are_the_formula(optimizer):
    config = Config(optimizer=optimizer, batch_size=EXAMPLES, width=4, momentum=0.8)
    task, trial, data, state = begun(config)
    x, y = map(np.array, examples(data["train"]))
    assert len(x) == 1024
    x = np.float64(x).reshape(len(x), -1)
    w = jax.tree.map(np.float64, state.params)
    v, step = jax.tree.map(np.zeros_like, w), jax.jit(task.step)
    for i in range(4):
        loss, g = softmax_gradient(w, x, y)
        v = jax.tree.map(lambda v, g: 0.8 * v - 0.1 * g, v, g)
        ahead = jax.tree.map(lambda v, g: 0.8 * v - 0.1 * g, v, g)
        w = jax.tree.map(np.add, w, ahead if optimizer == "nesterov" else v)
        state, metrics = step(state, at_step(trial, jnp.int32(i)), data)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(w), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)


def test_the_first_step_of_adam_is_as_large_as_the_rate():
    config = Config(optimizer="adam", batch_size=EXAMPLES, width=4, momentum=0.9)
    task, trial, data, state = begun(config)
    x, y = map(np.array, examples(data["train"]))
    before = jax.tree.map(np.float64, state.params)
    _, slopes = softmax_gradient(before, np.float64(x).reshape(len(x), -1), y)
    moved, _ = jax.jit(task.step)(state, trial, data)
    change = np.float64(moved.params["output"]["bias"]) - before["output"]["bias"]
    np.testing.assert_allclose(change, -0.1 * np.sign(slopes["output"]["bias"]), rtol=1e-4)


def test_what_is_chosen_by_is_what_is_trained_on():
    """Also where labels are random: those, and not the true ones."""
    clean = begun(Config())[2]
    for share in (0.0, 0.2, 1.0):
        data = begun(Config(label_noise=share))[2]
        rows = data["train"].rows
        for name in ("x", "rows"):
            assert np.array_equal(getattr(data["valid"], name), getattr(data["train"], name))
        trained_on, chosen_by = (np.array(data[name].y) for name in ("train", "valid"))
        assert np.array_equal(trained_on, chosen_by)
        true = np.array(clean["train"].y)
        changed = (trained_on != true).mean()
        np.testing.assert_allclose(changed, 0.9 * share, atol=4 * 0.5 / np.sqrt(len(true)))
        assert len(np.unique(rows)) == 1024


# The claims


def test_every_network_is_trained_once(smoke):
    rows = trials_of(smoke)
    assert len(rows) == rows["trial"].nunique() == 6
    assert set(rows["status"]) == {"done"}
    assert rows.groupby("group")["restart"].apply(sorted).to_dict() == {
        "baseline": [0, 1, 2], "adam": [0, 1, 2]}  # fmt: skip
    np.testing.assert_array_equal(rows["valid/loss"], rows["train/loss"])
    assert (rows["best_step"] == rows["steps"]).all(), "the last network counts"
    written = {path.name for path in (smoke / "report").iterdir()}
    assert {"cliff.png", "methods.png"} <= written
    assert "batches.png" not in written


def test_the_tiny_study_can_be_judged(smoke, monkeypatch):
    untrained(monkeypatch)
    judged = judge_all(CLAIMS, Study(smoke))
    assert not any(judgement.parts for judgement in judged)
    assert {judgement.verdict for judgement in judged} == {"inconclusive"}


AFTER_DECAY = [name for name in FORMULAS if name != "constant"]
COMPARED = {
    "stochastic-beats-batch-at-equal-epochs": [
        (name, "full batch") for name in ("constant", "batches of 4", "batches of 256")
    ],
    "decay-helps": [(name, "constant") for name in AFTER_DECAY],
    "momentum-speeds-descent": [(f"momentum {b}", "constant") for b in (0.5, 0.9)],
    "momentum-speeds-batch-descent": [
        (f"full batch, momentum {b}", "full batch, equal wall-clock time") for b in (0.5, 0.9)
    ],
    "nesterov-is-better-at-high-momentum": [
        (f"full batch, nesterov {b}", f"full batch, momentum {b}") for b in (0.95, 0.99)
    ],
    "nesterov-is-better-by-small-batches": [
        (f"nesterov {b}", f"momentum {b}") for b in (0.95, 0.99)
    ],
    "adam-beats-plain-descent": [("adam", "constant")],
}
COMPARED["decay-helps-with-random-labels"] = [
    (f"{name}, random labels", "constant, random labels") for name in AFTER_DECAY
]


@pytest.fixture(scope="module")
def every_method(tmp_path_factory):
    """A study with a point of every method, and random losses."""
    first = {point["group"]: point for point in reversed(points())}
    return made_up(
        tmp_path_factory.mktemp("every") / "run", [{**PLAIN, **p} for p in first.values()]
    )


@pytest.mark.parametrize("name", COMPARED)
def test_who_is_compared_in_training_loss(name, every_method):
    """And every method that a claim compares is one of the table's."""
    losses = trials_of(every_method.directory).set_index(["group", "restart"])["train/loss"]
    result = effects(optimization, name, every_method)
    for effect, (a, b) in zip(result, COMPARED[name], strict=True):
        np.testing.assert_array_equal(effect.values, losses[a] - losses[b])
        assert effect.measured == f"train/loss: {a} − {b}"
        assert effect.expected == NEGATIVE


RATE_CLAIMS = {"too-small-a-rate-is-slow": CLIFF[0], "too-large-a-rate-overshoots": CLIFF[-1]}


def test_every_claim_is_tested_here():
    others = {"stochastic-beats-batch-at-equal-time"}
    assert {claim.id for claim in CLAIMS} == COMPARED.keys() | RATE_CLAIMS.keys() | others


def test_methods_are_compared_at_the_rate_that_the_others_choose(short):
    expected = [("train/loss", f"momentum {b}", "constant", NEGATIVE, {}) for b in (0.5, 0.9)]
    studies.check_differences(
        optimization, "momentum-speeds-descent", Study(short), expected, "train/loss", -1
    )  # fmt: skip


@pytest.mark.parametrize("name", RATE_CLAIMS)
def test_extreme_rates_are_compared_with_the_best_one(short, name):
    rows = trials_of(short)
    line = rows[(rows["group"] == "constant")]
    worse = line[np.isclose(line["learning_rate"], RATE_CLAIMS[name])].sort_values("restart")
    best = studies.by_the_others(rows, "constant", "train/loss", "train/loss", -1)
    (effect,) = effects(optimization, name, Study(short))
    values = worse["train/loss"].to_numpy(np.float64) - best.to_numpy()
    np.testing.assert_allclose(effect.values, values, rtol=1e-9)
    assert effect.expected == POSITIVE
    assert effect.measured == f"train/loss: rate {RATE_CLAIMS[name]:g} − best rate"
    assert (effect.values > 0).all()


def test_an_extreme_rate_of_another_method_is_not_compared(tmp_path):
    settings = [PLAIN | {"group": "constant", "learning_rate": rate} for rate in (0.1, 32.0)]
    better = PLAIN | {"group": "momentum 0.5", "momentum": 0.5, "learning_rate": 32.0}
    losses = np.repeat([0.1, 0.9, 0.2], 4)
    table = made_up(tmp_path, [*settings, better], {"valid/loss": losses})
    (effect,) = effects(optimization, "too-large-a-rate-overshoots", table)
    np.testing.assert_array_equal(effect.values, table.differences("1", "0", "train/loss"))


def with_clock(table: Study, of_batch: float, of_all: float) -> Study:
    """The table, by a clock that says how long a step of each took, in two launches."""
    timings = []
    for size, cost in [(BATCH, of_batch), (EXAMPLES, of_all)]:
        rows = table.trials[table.trials["batch_size"] == size]
        program = f"batch_size={size}"  # the only static that differs in this study
        seconds = cost * rows["steps"].sum()
        timings += [(program, "seconds training", share * seconds) for share in (0.7, 0.3)]
    others = [
        ("batch_size=3", "seconds training", 99.0),
        (timings[0][0], "seconds compiling", 99.0),
    ]
    timings = [*timings, *others]
    table.timings = pd.DataFrame(timings, columns=["program", "what", "value"])
    return table


def curves_by_the_others(out, group: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, [restarts, evaluations]) of the rate that the other restarts choose."""
    rows, curves = trials_of(out), pd.read_parquet(out / "curves.parquet")
    chosen = studies.by_the_others(rows, group, "learning_rate", "train/loss", -1)
    ways = []
    for restart, rate in chosen.items():
        here = (rows["group"] == group) & (rows["restart"] == restart)
        (trial,) = rows.loc[here & np.isclose(rows["learning_rate"], rate), "trial"]
        ways.append(curves[curves["trial"] == trial].sort_values("step"))
    steps = ways[0]["step"].to_numpy()
    return steps, np.stack([way["train/loss"].to_numpy(np.float64) for way in ways])


@pytest.mark.parametrize(
    ("of_batch", "of_all", "ends"),
    [
        (1.0, 1.0, (64, 64)),  # the 80 steps of all examples are cut at 64
        (1.0, 4.0, (64, 16)),
        (4.0, 1.0, (20, 80)),
        (4.0, 1.1, (20, 80)),  # 88 seconds: 22 steps, of which the evaluation at 20 is the last
    ],
)
def test_equal_time_is_what_both_have_had(short, of_batch, of_all, ends):
    table = with_clock(Study(short), of_batch, of_all)
    (effect,) = effects(optimization, "stochastic-beats-batch-at-equal-time", table)
    at = []
    for group, end in zip(("constant", TIMED), ends, strict=True):
        steps, values = curves_by_the_others(short, group)
        (place,) = np.flatnonzero(steps == end)
        at.append(values[:, place])
    np.testing.assert_allclose(effect.values, at[0] - at[1], rtol=1e-9)
    assert effect.expected == NEGATIVE


def test_without_a_clock_nothing_is_said_of_time(short):
    table = Study(short)
    table.timings = table.timings.iloc[:0]
    with pytest.raises(Missing, match="no launch"):
        effects(optimization, "stochastic-beats-batch-at-equal-time", table)
    with pytest.raises(Missing, match="no launch"):
        optimization.FIGURES["batches"](table)


# Figures


def test_both_batches_are_drawn_against_epochs_and_time(short):
    figure = optimization.FIGURES["batches"](with_clock(Study(short), 0.5, 2.0))
    left, right = figure.axes
    groups = {"batches of 32": "constant", FULL: FULL, TIMED: TIMED}
    assert left.get_legend_handles_labels()[1] == list(groups)
    for label, group in groups.items():
        steps, losses = curves_by_the_others(short, group)
        epoch, milliseconds = (1 / 32, 500) if "32" in label else (1, 2000)
        for panel, each in [(left, epoch), (right, milliseconds)]:
            (line,) = [line for line in panel.lines if line.get_label() == label]
            np.testing.assert_allclose(line.get_xdata(), each * steps)
            np.testing.assert_allclose(line.get_ydata(), losses.mean(axis=0), rtol=1e-6)
    assert right.get_xscale() == "log"


def test_the_cliff_has_the_training_loss_of_every_rate(tmp_path):
    """By small batches, at a constant rate, with true labels: a line for each momentum, and Adam's.

    Also where the points are not in the order of their rates.
    """
    shown = {"momentum 0": [{"learning_rate": 0.1}, {"learning_rate": 0.01}],
             "momentum 0.5": [{"momentum": 0.5}],
             "adam": [{"optimizer": "adam", "learning_rate": 0.001, "momentum": 0.9}]}  # fmt: skip
    others = [{"batch_size": 4}, {"schedule": "cosine"}, {"label_noise": 0.2},
              {"optimizer": "nesterov", "momentum": 0.5}]  # fmt: skip
    settings = [setting for line in shown.values() for setting in line]
    settings += [setting | {"learning_rate": 1.0} for setting in others]
    table = made_up(tmp_path, [PLAIN | setting for setting in settings])
    (panel,) = optimization.FIGURES["cliff"](table).axes
    lines = {line.get_label(): line.lines[0].get_xydata().tolist() for line in panel.containers}
    mean = [table.numbers(str(i), "train/loss").mean() for i in range(4)]
    assert lines == {
        "momentum 0": [[0.01, mean[1]], [0.1, mean[0]]],
        "momentum 0.5": [[0.1, mean[2]]],
        "adam": [[0.001, mean[3]]],
    }


def test_methods_are_drawn_by_their_training_loss(tmp_path):
    names = ("baseline", "adam", "cosine", "full batch, momentum 0.5")
    table = made_up(tmp_path, [{"group": name} for name in names])
    (panel,) = optimization.FIGURES["methods"](table).axes
    labels = [label.get_text() for label in panel.get_yticklabels()]
    assert labels == list(names)
    drawn = [dot.lines[0].get_xdata()[0] for dot in panel.containers]
    assert drawn == [table.numbers(name, "train/loss").mean() for name in ("0", "1", "2", "3")]


def test_a_batch_above_the_training_examples_is_refused(capsys):
    assert studies.main(["optimization", "--batch-size", "1025", "--plan"]) == 2
    assert "--batch-size" in capsys.readouterr().err
