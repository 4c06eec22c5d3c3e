"""The study of capacity: labels as declared, the width that fits, its claims."""

from functools import partial

import jax
import numpy as np
import pandas as pd
import pytest

from ablax.data import load, split
from ablax.data.order import epoch_rows
from ablax.errors import Missing
from ablax.report import plot
from ablax.report.claims import judge_all
from ablax.report.quantities import NEGATIVE, POSITIVE
from ablax.report.study import Study
from ablax.task import at_step
from ablax.tasks.supervised import examples
from experiments import capacity
from experiments.capacity import DEPTHS, FITS, NOISES, SIZES, WIDTHS, Config
from tests.experiments import studies
from tests.experiments.studies import effects, made_up, task_of, trial_of, trials_of, untrained

launch = partial(studies.launch, "capacity")
points = partial(studies.points_of, capacity, "capacity")


def labels(restart: int = 0, **fields) -> tuple[np.ndarray, np.ndarray]:
    """(the labels that a trial is trained with, the right ones)."""
    config = Config(**fields)
    task, trial = task_of(capacity, config), trial_of(config, restart)
    data = task.view(trial, task.data)
    rows = np.array(data["train"].rows)
    return np.array(data["train"].y)[rows], split(load("digits"), seed=0).pool.y[rows]


def test_so_many_labels_are_drawn_anew():
    """A tenth of those that are drawn anew are right all the same."""
    for share in (0.0, 0.2, 0.4, 1.0):
        seen = [labels(r, label_noise=share, train_size=1000) for r in range(3)]
        wrong = np.mean([ours != right for ours, right in seen])
        tolerance = 4 * np.sqrt(0.9 * share * (1 - 0.9 * share) / 3000)
        assert abs(wrong - 0.9 * share) <= tolerance, share
        ours = np.concatenate([ours[ours != right] for ours, right in seen])
        assert share == 0 or set(ours) == set(range(10))


def test_more_noise_is_the_same_noise_and_more():
    few, right = labels(label_noise=0.2)
    many, _ = labels(label_noise=0.4)
    assert np.array_equal(few[few != right], many[few != right])
    assert (many != right).sum() > (few != right).sum() > 0
    other, theirs = labels(1, label_noise=0.2)
    assert not np.array_equal(few != right, other != theirs), "every restart has its own"


def test_only_training_labels_are_wrong():
    config = Config(label_noise=1.0)
    task, trial = task_of(capacity, config), trial_of(config)
    data, right = task.view(trial, task.data), split(load("digits"), seed=0)
    assert np.array_equal(data["valid"].y, right.pool.y)
    assert np.array_equal(data["test"].y, right.test.y)
    assert not set(np.array(data["train"].rows)) & set(np.array(data["valid"].rows))
    assert "test" not in task.view(trial, {"pool": task.data["pool"]})


def test_a_step_is_on_the_labels_of_the_view():
    """The first minibatch, in float64, with its wrong labels."""
    config = Config(width=8, label_noise=0.5, learning_rate=0.2, momentum=0.9)
    task, trial = task_of(capacity, config), trial_of(config)
    data = task.view(trial, {"pool": task.data["pool"]})
    state = task.init(trial, data)
    after, metrics = jax.jit(task.step)(state, at_step(trial, np.int32(0)), data)
    rows = epoch_rows(data["order"], np.int32(0), 50, 200)
    x, y = (np.array(part) for part in examples(data["train"], rows))
    x = np.float64(x).reshape(50, -1)
    hidden, output = (
        jax.tree.map(np.float64, state.params[name]) for name in ("hidden_0", "output")
    )
    h = np.maximum(x @ hidden["weight"].T + hidden["bias"], 0)
    z = h @ output["weight"].T + output["bias"]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(metrics["loss"], -np.log(p[np.arange(50), y]).mean(), rtol=1e-5)
    slope = (p - np.eye(10)[y]).T @ h / 50
    moved = np.float64(after.params["output"]["weight"]) - output["weight"]
    np.testing.assert_allclose(moved, -0.2 * slope, rtol=1e-3, atol=1e-6)


def test_the_rate_decays_to_zero():
    config = Config(width=2, steps=10, momentum=0.0)
    task, trial = task_of(capacity, config), trial_of(config)
    data = task.view(trial, {"pool": task.data["pool"]})
    state, step, moved = task.init(trial, data), jax.jit(task.step), []
    for number in range(10):
        before, (state, _) = state, step(state, at_step(trial, np.int32(number)), data)
        change = jax.tree.map(lambda a, b: np.square(a - b).sum(), state.params, before.params)
        moved.append(float(sum(jax.tree.leaves(change))))
    assert moved[9] < 0.05 * moved[0]


def test_every_trial_is_there_once(smoke):
    rows = trials_of(smoke)
    assert len(rows) == 3 * 2 * 3
    assert not rows.duplicated(["width", "label_noise", "restart"]).any()
    assert set(rows["status"]) == {"done"}
    assert (rows["best_step"] == rows["steps"]).all(), "trained to the end, and not selected"
    assert task_of(capacity, Config()).objective is None


# The width that fits


def with_accuracies(smoke, accuracies: dict[tuple[int, float], float]) -> Study:
    """The smoke study, with training accuracies (of width and noise) of our own."""
    study = Study(smoke)
    rows = study.trials.copy()
    for (width, noise), value in accuracies.items():
        here = (rows["width"] == width) & np.isclose(rows["label_noise"], noise)
        assert here.sum() == 3
        rows.loc[here, "train/accuracy"] = np.float32(value) + np.float32([-0.002, 0.0, 0.002])
    study.trials = rows
    return study


def points_at(study: Study, noise: float) -> dict[str, str]:
    """{landmark: the name of its point}."""
    return {name: point.point for name, point in capacity.landmarks(study, noise).items()}


def test_the_narrowest_the_largest_loss_and_the_widest(smoke):
    study = Study(smoke)
    for noise in (0.0, 0.4):
        rows = study.trials[np.isclose(study.trials["label_noise"], noise)]
        largest = rows.groupby("width")["test/loss"].mean().idxmax()
        expected = {"narrowest": 2, "largest loss": largest, "widest": 16}
        landmarks = points_at(study, noise)
        for name, width in expected.items():
            setting = study.settings[landmarks[name]]
            assert (setting["width"], setting["label_noise"]) == (width, noise)
    with pytest.raises(Missing, match="three widths"):
        capacity.landmarks(study, 0.2)


def test_other_depths_and_sizes_are_left_out(tmp_path):
    base = {"width": 64, "depth": 1, "train_size": 200, "label_noise": 0.0}
    others = [{"width": 4, "depth": 2}, {"train_size": 50}, {"width": 128}, {"width": 2}]
    points_ = [base, *(base | other for other in others)]
    losses = np.repeat([0.5, 9.0, 9.0, 0.1, 0.2], 4)
    study = made_up(tmp_path / "three", points_, {"test/loss": losses})
    landmarks = points_at(study, 0.0)
    assert [landmarks[n] for n in ("narrowest", "widest", "largest loss")] == ["4", "3", "0"]
    with pytest.raises(Missing, match="three widths"):
        capacity.landmarks(made_up(tmp_path / "two", points_[:4]), 0.0)


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ({(16, 0.4): 1.0}, 16),
        ({(8, 0.4): FITS + 1e-4, (16, 0.4): 1.0}, 8),
        ({(8, 0.4): FITS - 0.001, (16, 0.4): 0.9}, None),
        ({(2, 0.0): 1.0}, None),
    ],
)
def test_the_least_width_that_fits(smoke, accuracies, expected):
    study = with_accuracies(smoke, accuracies)
    fitting = points_at(study, 0.4).get("fitting")
    assert (study.settings[fitting]["width"] if fitting else None) == expected
    if not fitting:
        with pytest.raises(Missing, match="fitting"):
            capacity.at("fitting", "test/loss", 0.4).read(study)


# The points


def test_the_table_has_widths_then_depths_and_sizes():
    table = points()
    default = Config()
    widths = [p for p in table if "width" in p]
    seen = {(p.get("width", default.width), p["label_noise"]) for p in widths}
    baseline = [p for p in table if not p.keys() - {"group"}]
    assert baseline == [{"group": "baseline"}] == table[:1]
    assert seen | {(default.width, 0.0)} == {(w, n) for w in WIDTHS for n in NOISES}
    assert len(widths) == len(seen) == len(WIDTHS) * len(NOISES) - 1
    for p in widths:
        assert f"{p['label_noise']:.0%}" in p["group"]
    others = [p for p in table[1:] if "width" not in p]
    assert others == [
        *({"group": "deeper", "depth": depth} for depth in DEPTHS),
        *({"group": f"{size} examples", "train_size": size} for size in SIZES),
    ]


def test_axes_of_the_command_line_are_honoured():
    result = points("--width", 2, 4, "--label-noise", 0.1, 0.3, "--momentum", 0.5)
    assert [{k: v for k, v in p.items() if k != "group"} for p in result] == [
        {"width": width, "label_noise": noise, "momentum": 0.5}
        for width in (2, 4)
        for noise in (0.1, 0.3)
    ]
    assert len({p["group"] for p in result}) == 2
    for flag, values in [("learning-rate", (0.2, 0.3)), ("steps", (10, 20)), ("batch-size", (5,))]:
        crossed = [p | {flag.replace("-", "_"): value} for p in points() for value in values]
        assert points(f"--{flag}", *values) == crossed
    quick = points("--preset", "smoke", "--depth", 1, 2)
    assert [(p["width"], p["depth"], p["label_noise"]) for p in quick] == [
        (width, depth, noise) for width in (2, 8, 16) for depth in (1, 2) for noise in (0.0, 0.4)
    ]


@pytest.mark.parametrize("typed", [["--label-noise", 1.5], ["--width", 0], ["--batch-size", 300]])
def test_what_is_out_of_range_is_refused(typed, capsys):
    assert studies.main(["capacity", *map(str, typed), "--plan"]) == 2
    assert typed[0] in capsys.readouterr().err


# The claims


PAIRS = {  # claim: [(column, larger, smaller, bounds)] of one share of noise
    "too-small-underfits": [("train/accuracy", 16, 2, (0.1, np.inf))],
    "too-large-overfits": [("test/accuracy", 16, 8, NEGATIVE)],
    "double-descent-in-loss": [("test/loss", 8, 2, POSITIVE), ("test/loss", 8, 16, POSITIVE)],
    "double-descent-in-error": [
        ("test/accuracy", 8, 2, NEGATIVE), ("test/accuracy", 8, 16, NEGATIVE),
    ],
}  # fmt: skip
OTHERS = {"more-examples-less-overfitting", "more-noise-higher-peak", "deeper-overfits-more"}
ALL_NOISES = {"too-small-underfits", "too-large-overfits"}


@pytest.fixture(scope="module")
def full(smoke):
    """The smoke table, as if the middle width fitted, and with a fifth of the labels random."""
    fits = {(8, noise): 0.995 for noise in (0.0, 0.4)} | {(16, noise): 1.0 for noise in (0.0, 0.4)}
    table = with_accuracies(smoke, fits)
    rows = table.trials
    fifth = rows[np.isclose(rows["label_noise"], 0.4)].copy()
    fifth["label_noise"] = 0.2
    fifth["point"] = fifth["point"].str.replace("0.4", "0.2")
    fifth["trial"] += " 0.2"
    fifth["test/loss"] *= 1.5
    fifth["test/accuracy"] *= 0.5
    table.trials = pd.concat([rows, fifth], ignore_index=True)
    return table


def column_at(rows, width: int, noise: float, column: str) -> np.ndarray:
    here = rows[(rows["width"] == width) & np.isclose(rows["label_noise"], noise)]
    assert len(here) == 3
    return here.sort_values("restart")[column].to_numpy(np.float64)


@pytest.mark.parametrize("name", PAIRS)
def test_widths_are_compared_at_every_noise(full, name, monkeypatch):
    untrained(monkeypatch)
    shares = NOISES if name in ALL_NOISES else NOISES[1:]
    expected = [
        (
            column_at(full.trials, a, noise, column) - column_at(full.trials, b, noise, column),
            bounds,
        )
        for column, a, b, bounds in PAIRS[name]
        for noise in shares
    ]
    result = effects(capacity, name, full)
    for effect, (values, bounds) in zip(result, expected, strict=True):
        np.testing.assert_allclose(effect.values, values, rtol=1e-12)
        assert effect.expected == bounds


def test_peaks_are_compared_with_those_of_less_noise(full, monkeypatch):
    untrained(monkeypatch)
    peaks = []
    for noise in NOISES:
        losses = [column_at(full.trials, width, noise, "test/loss") for width in (2, 8, 16)]
        peaks.append(max(losses, key=np.mean))
    result = effects(capacity, "more-noise-higher-peak", full)
    for effect, less, more in zip(result, peaks, peaks[1:], strict=False):
        np.testing.assert_allclose(effect.values, more - less, rtol=1e-12)
        assert effect.expected == POSITIVE
    assert len(result) == 2


def test_the_deepest_is_compared_with_the_shallowest(tmp_path):
    base = {"width": 64, "depth": 1, "train_size": 200, "label_noise": 0.0}
    changes = [{}, {"depth": 4}, {"depth": 2}, {"depth": 8, "width": 2},
               {"depth": 8, "label_noise": 0.2}, {"depth": 8, "train_size": 50}]  # fmt: skip
    study = made_up(tmp_path / "all", [base | change for change in changes])
    (effect,) = effects(capacity, "deeper-overfits-more", study)
    deep, shallow = (study.numbers(point, "test/loss") for point in ("1", "0"))
    np.testing.assert_allclose(effect.values, deep - shallow)
    assert effect.measured.startswith("test/loss: depth 4 − depth 1, ")
    assert effect.expected == POSITIVE
    alone = made_up(tmp_path / "one", [base, base | changes[3]])
    with pytest.raises(Missing):
        effects(capacity, "deeper-overfits-more", alone)


def test_gaps_of_few_and_many_examples_are_compared(tmp_path):
    sizes = [{"group": f"{n} examples", "train_size": n} for n in (50, 400, 1000)]
    study = made_up(tmp_path / "all", sizes)
    (effect,) = effects(capacity, "more-examples-less-overfitting", study)
    rows = study.trials.assign(gap=study.trials["train/accuracy"] - study.trials["test/accuracy"])
    few, many = (rows[rows["train_size"] == n]["gap"].to_numpy() for n in (50, 1000))
    np.testing.assert_allclose(effect.values, few - many)
    assert effect.expected == POSITIVE
    assert effect.measured == "train − test accuracy: 50 − 1000 examples"
    two = made_up(tmp_path / "two", sizes[:2])
    with pytest.raises(Missing):
        effects(capacity, "more-examples-less-overfitting", two)


def test_what_the_smoke_study_lacks_is_inconclusive(smoke):
    assert {claim.id for claim in capacity.CLAIMS} == PAIRS.keys() | OTHERS
    judged = judge_all(capacity.CLAIMS, Study(smoke))
    assert not any(judgement.parts for judgement in judged)
    assert {judgement.verdict for judgement in judged} == {"inconclusive"}


def test_a_panel_for_each_metric_and_a_line_for_each_noise(smoke):
    study = Study(smoke)
    assert list(capacity.FIGURES) == ["width", "complexity", "depth_and_examples"]
    with plot.style():
        panels = capacity.FIGURES["width"](study).axes
        columns = [f"{split}/{metric}" for metric in ("accuracy", "loss")
                   for split in ("train", "test")]  # fmt: skip
        assert [panel.get_title() for panel in panels] == columns
        for panel, column in zip(panels, columns, strict=True):
            labels = panel.get_legend_handles_labels()[1]
            assert labels == ["0% random labels", "40% random labels"]
            for line, noise in zip(panel.containers, (0.0, 0.4), strict=True):
                means = [column_at(study.trials, width, noise, column).mean()
                         for width in (2, 8, 16)]  # fmt: skip
                np.testing.assert_allclose(line.lines[0].get_ydata(), means)
        with pytest.raises(Missing, match="depth"):  # of one depth there is no line
            capacity.FIGURES["depth_and_examples"](study)
    assert (smoke / "report" / "width.png").exists()
    assert (smoke / "report" / "complexity.svg").exists()
    assert not (smoke / "report" / "depth_and_examples.png").exists()


def test_the_complexity_of_the_narrowest_the_fitting_and_the_widest(smoke):
    with plot.style():
        for fits, widths in ({}, (2, 16)), ({(8, 0.4): 1.0}, (2, 8, 16)):
            study = with_accuracies(smoke, fits)
            shown = [panel.get_title() for panel in capacity.complexity_figure(study).axes]
            expected = [study.among(width=width, label_noise=0.4) for width in widths]
            assert [[title] for title in shown] == expected


def test_depths_and_sizes_are_drawn(tmp_path):
    base = {"width": 64, "depth": 1, "train_size": 200, "label_noise": 0.0}
    changes = [{}, {"depth": 4}, {"depth": 2}, {"train_size": 50}, {"depth": 8, "width": 2}]
    study = made_up(tmp_path, [base | change for change in changes])
    lines = {"against hidden layers": {1: "0", 2: "2", 4: "1"},
             "against training examples": {50: "3", 200: "0"}}  # fmt: skip
    with plot.style():
        panels = capacity.FIGURES["depth_and_examples"](study).axes
        assert [panel.get_title() for panel in panels] == list(lines)
        for panel, points_ in zip(panels, lines.values(), strict=True):
            assert panel.get_legend_handles_labels()[1] == ["train", "test"]
            for bars, split in zip(panel.containers, ("train", "test"), strict=True):
                means = [study.numbers(point, f"{split}/accuracy").mean()
                         for point in points_.values()]  # fmt: skip
                expected = np.column_stack([list(points_), means])
                np.testing.assert_allclose(bars.lines[0].get_xydata(), expected)
