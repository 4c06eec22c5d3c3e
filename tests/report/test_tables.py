"""The table of a study: who is compared with whom, selected how, summarized to what."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ablax.errors import UserError
from ablax.report.tables import Rung, Table
from ablax.sweep.store import Store
from tests.report.runs import halved, point, trial, write

BASE = point("base", "baseline")
WEAK = point("l2=0.1", "L2", l2=0.1)
STRONG = point("l2=1", "L2", l2=1.0)
LINEAR = point("linear", "baseline", model="linear")
LINEAR_L2 = point("linear l2=0.1", "L2", model="linear", l2=0.1)
POINTS = [BASE, WEAK, STRONG, LINEAR, LINEAR_L2]


def random_trials(points=POINTS, restarts=4, seed=0):
    rng = np.random.default_rng(seed)
    return [
        trial(p, r, **{f"{s}/{m}": v for s in ("train", "valid", "test")
                       for m, v in zip(("accuracy", "loss"), rng.random(2), strict=True)},
              l2_norm=rng.random(), steps=int(rng.integers(10, 100)))
        for p in points for r in range(restarts)
    ]  # fmt: skip


@pytest.fixture
def table(tmp_path):
    return write(tmp_path, POINTS, random_trials())


def test_every_point_is_compared_with_the_baseline_most_like_it(table):
    found = {p["name"]: table.baseline(p["name"]) for p in POINTS}
    assert found == {
        "base": None,
        "l2=0.1": "base",
        "l2=1": "base",
        "linear": None,
        "linear l2=0.1": "linear",
    }
    assert table.groups() == {
        ("base", "baseline"): ["base"],
        ("base", "L2"): ["l2=0.1", "l2=1"],
        ("linear", "baseline"): ["linear"],
        ("linear", "L2"): ["linear l2=0.1"],
    }


def test_crossed_baselines_are_matched_in_the_crossed_field(tmp_path):
    points = [
        point(f"{group} lr={rate}", group, l2=l2, learning_rate=rate)
        for group, l2 in (("baseline", 0.0), ("L2", 0.1))
        for rate in (0.1, 0.3)
    ]
    table = write(tmp_path, points, random_trials(points))
    assert table.baseline("L2 lr=0.1") == "baseline lr=0.1"
    assert table.baseline("L2 lr=0.3") == "baseline lr=0.3"


def test_without_named_baselines_the_first_point_is_one(tmp_path):
    points = [point(f"l2={value:g}", f"l2={value:g}", l2=value) for value in (0.0, 0.1, 1.0)]
    table = write(tmp_path, points, random_trials(points))
    assert [table.baseline(p["name"]) for p in points] == [None, "l2=0", "l2=0"]


def test_selection_looks_at_validation_alone(tmp_path):
    """The strength that is best on test and training, and worst on validation, is not taken."""
    trials = [
        row
        for r in range(3)
        for row in (
            trial(BASE, r, valid_loss=0.9, test_loss=0.1, test_accuracy=0.99, valid_accuracy=0.9),
            trial(WEAK, r, valid_loss=0.2, test_loss=0.8, test_accuracy=0.2, train_loss=0.9),
            trial(STRONG, r, valid_loss=0.6, test_loss=0.0, test_accuracy=1.0, train_loss=0.0),
        )
    ]
    table = write(tmp_path, [BASE, WEAK, STRONG], trials)
    assert table.selected(["l2=0.1", "l2=1"]) == "l2=0.1"
    assert table.best() == "l2=0.1"
    (comparison,) = table.comparisons()
    assert (comparison.point, comparison.baseline) == ("l2=0.1", "base")
    assert comparison.difference.mean == pytest.approx(0.2 - 0.99)


def test_selection_goes_by_the_objectives_direction(tmp_path):
    trials = [trial(BASE, 0, valid_accuracy=0.9), trial(WEAK, 0, valid_accuracy=0.3)]
    objective = {"name": "accuracy", "direction": "max"}
    assert write(tmp_path, [BASE, WEAK], trials, objective=objective).best() == "base"
    objective = {"name": "loss", "direction": "max"}
    trials = [trial(BASE, 0, valid_loss=0.9), trial(WEAK, 0, valid_loss=0.3)]
    assert write(tmp_path, [BASE, WEAK], trials, objective=objective).best() == "base"
    # A task without an objective leads with its first metric.
    trials = [trial(BASE, 0, valid_accuracy=0.3), trial(WEAK, 0, valid_accuracy=0.9)]
    assert write(tmp_path, [BASE, WEAK], trials, objective=None).best() == "l2=0.1"


def test_differences_pair_equal_restarts(tmp_path):
    """Rows in any order, and restarts that only one point has."""
    a, b = {0: 0.9, 1: 0.7, 2: 0.8, 5: 0.1}, {2: 0.5, 1: 0.6, 0: 0.5, 7: 0.9}
    trials = [trial(BASE, r, test_accuracy=v) for r, v in b.items()]
    trials += [trial(WEAK, r, test_accuracy=v) for r, v in a.items()]
    table = write(tmp_path, [BASE, WEAK], trials)
    found = table.difference("l2=0.1", "base", "test/accuracy")
    expected = stats.ttest_rel([0.9, 0.7, 0.8], [0.5, 0.6, 0.5])
    assert found.n == 3
    assert found.mean == pytest.approx((0.4 + 0.1 + 0.3) / 3)
    np.testing.assert_allclose([found.low, found.high], expected.confidence_interval(), rtol=1e-9)


def test_the_summary_is_what_pandas_says(table):
    summary = table.summary().set_index("point")
    assert list(summary.index) == [p["name"] for p in POINTS]
    assert table.varying == ["model", "l2"]
    assert list(summary["l2"]) == [0.0, 0.1, 1.0, 0.0, 0.1]
    metrics = [f"{s}/{m}" for s in ("train", "valid", "test") for m in ("accuracy", "loss")]
    grouped = table.trials.groupby("point")
    for column in [*metrics, "l2_norm", "steps"]:
        mean, error = grouped[column].mean(), grouped[column].sem()
        half = stats.t.ppf(0.975, 3) * error
        for name, expected in (("", mean), (" low", mean - half), (" high", mean + half)):
            np.testing.assert_allclose(
                summary[column + name], expected[summary.index], rtol=1e-9, err_msg=column
            )
    accuracy = table.trials.pivot(index="restart", columns="point", values="test/accuracy")
    delta = (accuracy["linear l2=0.1"] - accuracy["linear"]).mean()
    assert summary.loc["linear l2=0.1", "Δ test/accuracy"] == pytest.approx(delta)
    assert math.isnan(summary.loc["base", "Δ test/accuracy"])
    assert list(summary["n"]) == [4] * 5
    assert list(summary["diverged"]) == [0] * 5


def test_measures_are_no_settings_and_no_metrics(table):
    assert table.measures() == ["l2_norm"]


def test_diverged_trials_are_counted(tmp_path):
    trials = [trial(BASE, r) for r in range(3)]
    trials += [trial(WEAK, r, status="diverged" if r else "done") for r in range(3)]
    summary = write(tmp_path, [BASE, WEAK], trials).summary()
    assert list(summary["diverged"]) == [0, 2]
    assert list(summary["n"]) == [3, 3]


def test_a_point_that_is_not_finite_is_never_selected(tmp_path):
    trials = [trial(BASE, r, valid_loss=9.0) for r in range(2)]
    trials += [trial(WEAK, 0, valid_loss=math.nan), trial(WEAK, 1, valid_loss=0.0)]
    table = write(tmp_path, [BASE, WEAK], trials)
    assert table.best() == "base"
    assert math.isnan(table.summary().set_index("point").loc["l2=0.1", "valid/loss"])


def test_all_diverged(tmp_path):
    nothing = {
        f"{s}/{m}": math.nan for s in ("train", "valid", "test") for m in ("accuracy", "loss")
    }
    trials = [trial(p, r, status="diverged", **nothing) for p in (BASE, WEAK) for r in range(2)]
    table = write(tmp_path, [BASE, WEAK], trials)
    assert table.best() in {"base", "l2=0.1"}
    assert list(table.summary()["diverged"]) == [2, 2]
    (comparison,) = table.comparisons()
    assert math.isnan(comparison.difference.mean)
    assert not comparison.difference.excludes_zero()


def test_one_restart_has_means_and_no_intervals(tmp_path):
    trials = [trial(BASE, 0, test_loss=0.75), trial(WEAK, 0, test_accuracy=0.75)]
    row = write(tmp_path, [BASE, WEAK], trials).summary().iloc[1]
    assert (row["test/accuracy"], row["Δ test/accuracy"], row["n"]) == (0.75, 0.25, 1)
    assert math.isnan(row["test/accuracy low"])
    assert math.isnan(row["Δ test/accuracy high"])


def test_a_study_that_is_half_finished(tmp_path):
    """Points without a trial are left out; the others are compared over what they have."""
    trials = [trial(BASE, r, test_accuracy=0.5) for r in range(4)]
    trials += [trial(WEAK, r, test_accuracy=0.75) for r in range(2)]
    table = write(tmp_path, POINTS, trials, trials=20)
    summary = table.summary().set_index("point")
    assert list(summary.index) == ["base", "l2=0.1"]
    assert list(summary["n"]) == [4, 2]
    assert table.difference("l2=0.1", "base", "test/accuracy").n == 2


def test_a_study_whose_baseline_has_not_finished_has_a_table(tmp_path):
    trials = [trial(p, r) for p in (WEAK, STRONG) for r in range(2)]
    table = write(tmp_path, POINTS, trials, trials=20)
    assert list(table.summary()["point"]) == ["l2=0.1", "l2=1"]
    assert table.best() in {"l2=0.1", "l2=1"}


def test_extra_curves_are_optional(table, tmp_path):
    assert table.curves.empty
    pd.DataFrame({"trial": ["base/0"], "step": [10], "valid/loss": [0.5]}).to_parquet(
        tmp_path / "curves.parquet"
    )
    assert len(Table(tmp_path).curves) == 1


@pytest.mark.parametrize("text", [None, "", "{", '{"experiment": '])
def test_a_directory_without_a_study_is_refused(text, tmp_path):
    if text is not None:
        (tmp_path / "study.json").write_text(text)
    with pytest.raises(UserError, match="holds no readable study"):
        Table(tmp_path)


def test_a_study_without_finished_trials_is_refused(tmp_path):
    (tmp_path / "study.json").write_text("{}")
    pd.DataFrame({"trial": []}).to_parquet(tmp_path / "trials.parquet")
    with pytest.raises(UserError, match="no finished trial"):
        Table(tmp_path)


def test_a_damaged_table_is_refused(table, tmp_path):
    whole = (tmp_path / "trials.parquet").read_bytes()
    (tmp_path / "trials.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cannot read .*trials\.parquet"):
        Table(tmp_path)


# Studies of rounds


def test_a_halved_study_is_its_last_round(tmp_path):
    """A point that was dropped is in no row, however good it looks."""
    values = {"l2=1": {"valid/loss": 0.0, "test/accuracy": 1.0}, "l2=0.1": {"valid/loss": 0.4}}
    table = halved(tmp_path, [POINTS, [BASE, WEAK, LINEAR], [BASE, WEAK]], values=values)
    assert list(table.settings) == ["base", "l2=0.1"]
    assert table.best() == table.selected(list(table.settings)) == "l2=0.1"
    assert [c.point for c in table.comparisons()] == ["l2=0.1"]
    summary = table.summary()
    assert list(summary["point"]) == ["base", "l2=0.1"]
    assert list(summary["n"]) == [2, 2], "each trial once, not once a round"
    assert list(summary["steps"]) == [90, 90]
    assert len(table.trials) == 4
    assert table.n_finished == 2 * (5 + 3 + 2), "what dropped points cost is counted"
    assert table.measures() == ["l2_norm"], "neither round nor parent is one"


def test_rungs_say_what_each_round_trained(tmp_path):
    table = halved(tmp_path, [POINTS, [BASE, WEAK, LINEAR], [WEAK]], restarts=3)
    assert table.rungs == [Rung(5, 15, 10), Rung(3, 9, 30), Rung(1, 3, 90)]
    assert write(tmp_path / "whole", POINTS, random_trials()).rungs == []


def test_curves_of_a_halved_study_are_of_whole_trajectories(tmp_path):
    table = halved(tmp_path, [POINTS, [BASE, WEAK, LINEAR], [WEAK, BASE]])
    assert set(table.curves["trial"]) == set(table.trials["trial"])
    assert table.curves["step"].tolist() == [10, 30, 90] * 4
    for trial_, curve in table.curves.groupby("trial"):
        restart = int(trial_.split("/")[1])
        expected = [1.0 + 0.01 * restart, 0.9 + 0.01 * restart, 0.8 + 0.01 * restart]
        assert curve["valid/loss"].tolist() == pytest.approx(expected, abs=0)
    of_base = table.curves[table.curves["trial"].isin(table.of("base")["trial"])]
    assert not of_base.duplicated(["trial", "step"]).any()


def test_a_halved_study_that_has_only_begun_is_its_first_round(tmp_path):
    table = halved(tmp_path, [POINTS], rounds={"n": 3, "gives": "state"}, trials=18)
    assert list(table.settings) == [p["name"] for p in POINTS]
    assert table.rungs == [Rung(5, 10, 10)]
    assert table.curves["step"].tolist() == [10] * 10


def test_children_of_snapshots_stand_beside_their_parents(tmp_path):
    rounds = {"n": 2, "gives": "snapshot"}
    table = halved(tmp_path, [[BASE, LINEAR], [WEAK]], rounds=rounds)
    assert list(table.settings) == ["base", "linear", "l2=0.1"]
    assert table.rungs == []
    assert len(table.curves) == 6


def test_a_halved_study_without_curves(tmp_path):
    """Where every trial diverges before the first evaluation there are none."""
    halved(tmp_path, [POINTS, [BASE, WEAK], [BASE]])
    (tmp_path / "curves.parquet").unlink()
    table = Table(tmp_path)
    assert list(table.settings) == ["base"]
    assert table.curves.empty


def test_strengths_of_a_method_are_one_row_without_their_baseline_too(tmp_path):
    """Halving may drop the baseline: what validation selects is still one strength a method."""
    values = {"l2=0.1": {"valid/loss": 0.2}, "l2=1": {"valid/loss": 0.6}}
    table = halved(tmp_path, [POINTS, [WEAK, STRONG]], values=values)
    assert list(table.groups().values()) == [["l2=0.1", "l2=1"]]


def test_a_baseline_that_was_dropped_is_not_replaced_by_another_models(tmp_path):
    table = halved(tmp_path, [POINTS, [WEAK, LINEAR, LINEAR_L2]])
    assert table.baseline("linear l2=0.1") == "linear"
    assert table.baseline("l2=0.1") is None


def test_arrays_of_a_running_study_are_read_from_its_parts(tmp_path):
    a = point("a", "baseline")
    table = write(tmp_path, [a], [trial(a, 0), trial(a, 1)])
    with pytest.raises(UserError, match="holds no array 'weights'"):
        table.array("weights")
    store = Store(tmp_path)
    store.append_array("weights", ["a/0"], np.ones((1, 2, 3), np.float32))
    store.append_array("weights", ["a/1"], np.full((1, 2, 3), 2, np.float32))
    assert {name: array.sum() for name, array in table.array("weights").items()} == {
        "a/0": 6,
        "a/1": 12,
    }
