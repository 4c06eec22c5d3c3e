"""The table of a study: who is compared with whom, selected how, with which trials ranked last."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ablax.errors import Missing, UserError
from ablax.report import selection
from ablax.report.study import Chosen, Rung, Study
from ablax.rundir.store import Store
from tests.report.runs import (
    BASE,
    COLUMNS,
    LINEAR,
    LINEAR_L2,
    POINTS,
    STRONG,
    WEAK,
    halved,
    point,
    random_trials,
    series,
    trial,
    write,
    write_curves,
)


@pytest.fixture
def table(tmp_path):
    return write(tmp_path, POINTS, random_trials())


# Who is compared with whom


def test_every_point_is_compared_with_the_baseline_most_like_it(table):
    result = {p["name"]: table.baseline(p["name"]) for p in POINTS}
    assert result == {
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


def test_the_level_is_the_one_stated_before_the_run(tmp_path):
    assert write(tmp_path, [BASE], [trial(BASE, 0)], significance=0.01).significance == 0.01


# Which point validation chooses


def test_selection_looks_at_validation_alone(tmp_path):
    """The strength that is best on test and training, and worst on validation, is not taken."""
    bad = {"valid_loss": 0.9, "valid_accuracy": 0.9, "test_loss": 0.1, "test_accuracy": 0.99}
    good = {"valid_loss": 0.2, "test_loss": 0.8, "test_accuracy": 0.2, "train_loss": 0.9}
    middle = {"valid_loss": 0.6, "test_loss": 0.0, "test_accuracy": 1.0, "train_loss": 0.0}
    settings = ((BASE, bad), (WEAK, good), (STRONG, middle))
    trials = [trial(p, r, **values) for r in range(3) for p, values in settings]
    table = write(tmp_path, [BASE, WEAK, STRONG], trials)
    assert selection.selected(table, ["l2=0.1", "l2=1"]) == "l2=0.1"
    assert selection.best(table) == Chosen("l2=0.1", dict.fromkeys(range(3), "l2=0.1"))
    assert table.difference(
        selection.best(table), "base", "test/accuracy"
    ).estimate == pytest.approx(-0.79)


@pytest.mark.parametrize(
    ("objective", "values", "best"),
    [
        ({"name": "accuracy", "direction": "max"}, {"valid_accuracy": (0.9, 0.3)}, "base"),
        ({"name": "loss", "direction": "min"}, {"valid_loss": (0.9, 0.3)}, "l2=0.1"),
        ({"name": "loss", "direction": "max"}, {"valid_loss": (0.9, 0.3)}, "base"),
        (None, {"valid_accuracy": (0.3, 0.9)}, "l2=0.1"),  # leads with its first metric
    ],
)
def test_selection_goes_by_the_objectives_direction(objective, values, best, tmp_path):
    ((column, (base, weak)),) = values.items()
    trials = [trial(BASE, 0, **{column: base}), trial(WEAK, 0, **{column: weak})]
    study = write(tmp_path, [BASE, WEAK], trials, objective=objective)
    assert selection.best(study).point == best


def chosen_by_the_others(trials, points, sign):
    """Every choice written out: {restart: the point of the best mean over the other restarts}."""
    result = {}
    for restart in sorted({row["restart"] for row in trials}):
        means = {}
        for name in points:
            others = [
                sign * row["valid/loss"]
                for row in trials
                if row["point"] == name and row["restart"] != restart
            ]
            if others:
                means[name] = np.mean(others)
        result[restart] = max(points, key=lambda name: means.get(name, -math.inf))
    return result


@pytest.mark.parametrize("missing", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("direction", ["min", "max"])
@pytest.mark.parametrize("seed", range(5))
def test_for_every_restart_the_other_restarts_choose(seed, direction, missing, tmp_path):
    """As a loop over restarts and points finds it, with some trials unfinished as well."""
    rng = np.random.default_rng(seed)
    names = [p["name"] for p in POINTS]
    trials = random_trials(restarts=6, seed=seed)
    trials = [row for row in trials if rng.random() >= missing]
    objective = {"name": "loss", "direction": direction}
    table = write(tmp_path, POINTS, trials, objective=objective)
    names = [name for name in names if name in table.settings]
    sign = 1 if direction == "max" else -1
    result = selection.chosen(table, names)
    assert result.by_restart == chosen_by_the_others(trials, names, sign)
    means = {n: sign * np.mean([t["valid/loss"] for t in trials if t["point"] == n]) for n in names}
    assert result.point == max(means, key=means.__getitem__) == selection.selected(table, names)
    assert result == selection.best(table)
    assert result.agreeing == list(result.by_restart.values()).count(result.point)


def test_one_restart_can_flip_the_choice_of_the_others_and_not_its_own(tmp_path):
    """By all restarts WEAK is better, thanks to restart 0 alone."""
    trials = series(BASE, valid_loss=[9.0] * 4)
    trials += series(WEAK, valid_loss=[0.1, 0.6, 0.6, 0.6], test_accuracy=[0.91, 0.92, 0.93, 0.94])
    trials += series(STRONG, valid_loss=[0.9, 0.5, 0.5, 0.5], test_accuracy=[0.1, 0.2, 0.3, 0.4])
    table = write(tmp_path, [BASE, WEAK, STRONG], trials)
    result = selection.chosen(table, ["l2=0.1", "l2=1"])
    assert result == Chosen("l2=0.1", {0: "l2=1", 1: "l2=0.1", 2: "l2=0.1", 3: "l2=0.1"})
    assert result.agreeing == 3
    values = table.values(result, "test/accuracy")
    assert values.to_dict() == {0: 0.1, 1: 0.92, 2: 0.93, 3: 0.94}, "of the points that stand"
    assert table.interval(result, "test/accuracy").estimate == pytest.approx(np.mean(values))


OWN = [0.0, 0.51, 1e17, 1e300, math.nan]


@pytest.mark.parametrize("others", [(0.5, 0.5), (0.5, 0.5 + 1e-9), (0.1 + 0.2, 0.3)])
@pytest.mark.parametrize("restart", range(3))
def test_a_restart_has_no_part_in_the_choice_of_its_point(restart, others, tmp_path):
    """Whatever it measures on validation: next to nothing, enormous, or nothing finite."""
    result = set()
    for number, own in enumerate(itertools.product(OWN, OWN)):
        trials = []
        for of, mine, rest in zip((WEAK, STRONG), own, others, strict=True):
            values = [rest] * 3
            values[restart] = mine
            trials += series(of, valid_loss=values)
        table = write(tmp_path / f"{number}", [WEAK, STRONG], trials)
        result.add(selection.chosen(table, ["l2=0.1", "l2=1"]).by_restart[restart])
    assert len(result) == 1


def test_a_restart_has_no_part_in_what_diverged_trials_of_others_count_as(tmp_path):
    """The worst trial must not decide about itself."""
    result = set()
    for own in (0.6, 5.0):
        trials = series(WEAK, valid_loss=[own, 0.5, 0.5])
        trials += series(STRONG, valid_loss=[own, 0.5, 0.1])
        trials[4]["status"] = "diverged"
        table = write(tmp_path / f"{own}", [WEAK, STRONG], trials)
        result.add(selection.chosen(table, ["l2=0.1", "l2=1"]).by_restart[0])
    assert len(result) == 1


def test_one_restart_chooses_for_itself(tmp_path):
    trials = [trial(BASE, 3, valid_loss=0.9), trial(WEAK, 3, valid_loss=0.3)]
    study = write(tmp_path, [BASE, WEAK], trials)
    assert selection.best(study) == Chosen("l2=0.1", {3: "l2=0.1"})


def test_a_choice_has_no_value_at_a_restart_that_its_point_lacks(tmp_path):
    """The others choose a point there that has not finished: nothing takes its place."""
    trials = series(BASE, valid_loss=[0.9] * 3, test_accuracy=[0.5] * 3)
    trials += series(WEAK, valid_loss=[0.1, 0.1, None], test_accuracy=[0.6, 0.7, None])
    table = write(tmp_path, [BASE, WEAK], trials, trials=6)
    best = selection.best(table)
    assert best.by_restart == dict.fromkeys(range(3), "l2=0.1")
    assert table.values(best, "test/accuracy").to_dict() == {0: 0.6, 1: 0.7}
    assert table.differences(best, "base", "test/accuracy") == pytest.approx([0.1, 0.2])


def test_without_validation_the_first_point_is_taken_at_every_restart(tmp_path):
    trials = [
        {name: value for name, value in row.items() if not name.startswith("valid/")}
        for row in random_trials(restarts=3)
    ]
    table = write(tmp_path, POINTS, trials, objective=None)
    assert selection.best(table) == Chosen("base", dict.fromkeys(range(3), "base"))
    assert selection.selected(table, ["l2=1", "l2=0.1"]) == "l2=1"


def test_every_baseline_has_a_best_of_its_own(tmp_path):
    """Among what is compared with it, and itself: `best` is of all of them together."""
    trials = [
        row
        for of, loss in ((BASE, 0.5), (WEAK, 0.4), (STRONG, 0.6), (LINEAR, 0.2), (LINEAR_L2, 0.3))
        for row in series(of, valid_loss=[loss] * 2)
    ]
    table = write(tmp_path, POINTS, trials)
    assert {name: best.point for name, best in selection.bests(table).items()} == {
        "base": "l2=0.1",
        "linear": "linear",
    }
    assert selection.best(table).point == "linear"


def test_methods_are_chosen_among_the_points_with_these_settings(tmp_path):
    table = write(tmp_path, POINTS, random_trials())
    assert selection.methods(table, model="mlp") == {
        "baseline": selection.chosen(table, ["base"]),
        "L2": selection.chosen(table, ["l2=0.1", "l2=1"]),
    }
    assert selection.methods(table, model="linear")["L2"] == selection.chosen(
        table, ["linear l2=0.1"]
    )
    assert selection.methods(table, model="none") == {}


def test_a_line_has_one_point_for_every_value_from_low_to_high(tmp_path):
    """Where other axes cross it, the one that validation chooses, whichever comes first."""
    points = [point(f"{l2} {model}", "L2", model, l2=l2) for l2 in (1.0, 0.0, 0.1)
              for model in ("linear", "mlp")]  # fmt: skip
    for seed in range(4):
        table = write(tmp_path / f"{seed}", points, random_trials(points, seed=seed))
        line = selection.along(table, "l2")
        assert list(line) == [0.0, 0.1, 1.0]
        for l2, result in line.items():
            assert result == selection.chosen(table, [f"{l2} linear", f"{l2} mlp"])
        alone = selection.along(table, "l2", model="linear")
        assert [result.point for result in alone.values()] == [f"{l2} linear" for l2 in alone]
    assert selection.along(table, "l2", model="none") == {}
    assert table.among(l2=0.1) == ["0.1 linear", "0.1 mlp"]
    assert table.among(l2=0.1, model="mlp") == ["0.1 mlp"]
    assert table.among() == [of["name"] for of in points]


def test_methods_are_in_the_order_of_the_table_and_numbers_from_low_to_high(tmp_path):
    points = [point(name, name, l2=value) for name, value in (("z", 1.0), ("a", 0.1), ("m", 0.5))]
    table = write(tmp_path, points, random_trials(points))
    assert list(selection.along(table, "group")) == ["z", "a", "m"]
    assert list(selection.along(table, "l2")) == [0.1, 0.5, 1.0]


def test_of_a_choice_are_the_trials_that_stand_for_it(tmp_path):
    trials = series(BASE, valid_loss=[9.0] * 4)
    trials += series(WEAK, valid_loss=[0.1, 0.6, 0.6, 0.6])
    trials += series(STRONG, valid_loss=[0.9, 0.5, 0.5, 0.5])
    table = write(tmp_path, [BASE, WEAK, STRONG], trials[::-1])
    result = table.of(selection.chosen(table, ["l2=0.1", "l2=1"]))
    assert result["trial"].tolist() == ["l2=1/0", "l2=0.1/1", "l2=0.1/2", "l2=0.1/3"]
    assert table.trial_ids(selection.chosen(table, ["l2=0.1", "l2=1"])) == result["trial"].tolist()
    assert table.of("l2=1")["trial"].tolist() == [f"l2=1/{r}" for r in range(4)]


# The values of points, restart by restart


def test_differences_pair_equal_restarts(tmp_path):
    """Rows in any order, and restarts that only one point has."""
    a, b = {0: 0.9, 1: 0.7, 2: 0.8, 5: 0.1}, {2: 0.5, 1: 0.6, 0: 0.5, 7: 0.9}
    trials = [trial(BASE, r, test_accuracy=v) for r, v in b.items()]
    trials += [trial(WEAK, r, test_accuracy=v) for r, v in a.items()]
    table = write(tmp_path, [BASE, WEAK], trials)
    assert table.differences("l2=0.1", "base", "test/accuracy") == pytest.approx([0.4, 0.1, 0.3])
    result = table.difference("l2=0.1", "base", "test/accuracy")
    expected = stats.ttest_rel([0.9, 0.7, 0.8], [0.5, 0.6, 0.5])
    assert result.n == 3
    assert result.estimate == pytest.approx((0.4 + 0.1 + 0.3) / 3)
    np.testing.assert_allclose([result.low, result.high], expected.confidence_interval(), rtol=1e-9)


def test_what_the_study_lacks_is_missing(tmp_path):
    """Wherever it is looked up: claims and figures catch that one error."""
    trials = random_trials()
    write(tmp_path, POINTS, trials)
    write_curves(tmp_path, trials)
    study = Study(tmp_path)
    choice = selection.chosen(study, ["base"])
    for lookup in (
        lambda: study.of("gone"),
        lambda: study.values("gone", "l2_norm"),
        lambda: study.values("base", "gone"),
        lambda: study.values(choice, "gone"),
        lambda: study.interval("base", "gone"),
        lambda: study.differences("base", "gone", "l2_norm"),
        lambda: study.curve("gone", "valid/loss"),
        lambda: study.curve("base", "gone"),
        lambda: study.curve(choice, "gone"),
        lambda: study.largest("gone"),
        lambda: study.array("gone"),
        lambda: selection.methods(study)["gone"],
        lambda: selection.methods(study, model="gone")["L2"],
        lambda: selection.along(study, "l2")[7.0],
    ):
        with pytest.raises(Missing, match=r"gone|'L2'|7\.0"):
            lookup()


def test_measures_are_no_settings_and_no_metrics(table):
    assert table.measures() == ["l2_norm"]


def test_what_varies_is_what_differs_between_points(table):
    assert table.varying == ["model", "l2"]


def test_points_that_have_not_finished_are_left_out(tmp_path):
    trials = [trial(BASE, r, test_accuracy=0.5) for r in range(4)]
    trials += [trial(WEAK, r, test_accuracy=0.75) for r in range(2)]
    table = write(tmp_path, POINTS, trials, trials=20)
    assert list(table.settings) == ["base", "l2=0.1"]
    assert table.difference("l2=0.1", "base", "test/accuracy").n == 2


def test_a_baseline_that_has_not_finished_is_not_replaced(tmp_path):
    trials = [trial(p, r) for p in (WEAK, STRONG, LINEAR) for r in range(2)]
    table = write(tmp_path, POINTS, trials, trials=20)
    assert table.baseline("l2=0.1") is None
    assert list(table.groups().values()) == [["l2=0.1", "l2=1"], ["linear"]]


def test_one_restart_has_means_and_no_intervals(tmp_path):
    table = write(tmp_path, [BASE, WEAK], [trial(BASE, 0), trial(WEAK, 0, test_accuracy=0.75)])
    for result, estimate in (
        (table.interval("l2=0.1", "test/accuracy"), 0.75),
        (table.difference("l2=0.1", "base", "test/accuracy"), 0.25),
    ):
        assert (result.estimate, result.n, result.known) == (estimate, 1, False)


# Trials that diverged


def ranked(directory, **columns):
    """A study of two points, three restarts each, of which the last of the second diverged."""
    trials = series(BASE, **{name: values[:3] for name, values in columns.items()})
    trials += series(WEAK, **{name: values[3:] for name, values in columns.items()})
    trials[-1]["status"] = "diverged"
    return write(directory, [BASE, WEAK], trials)


@pytest.mark.parametrize("own", [0.0, 0.45, 1.0, 1e9, math.nan, math.inf])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_diverged_trial_is_as_bad_as_the_worst_that_did_not(split, own, tmp_path):
    """The best point, in the metric's own direction; a lucky number of its own never counts."""
    measured = [0.4, 0.2, 0.9, 0.8, 0.3, own]
    columns = {f"{split}_accuracy": measured, f"{split}_loss": measured, "l2_norm": measured}
    table = ranked(tmp_path, **columns)
    accuracy, loss = (table.values("l2=0.1", f"{split}/{m}") for m in ("accuracy", "loss"))
    assert accuracy.tolist() == [0.8, 0.3, 0.2]
    assert loss.tolist() == [0.8, 0.3, 0.9]
    assert table.values("base", f"{split}/accuracy").tolist() == [0.4, 0.2, 0.9]
    for name in (f"{split}/accuracy", "l2_norm"):
        np.testing.assert_array_equal(table.trials[name], measured, "as measured")
    np.testing.assert_array_equal(table.scored["l2_norm"], measured, "has no direction")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("metric", "worst"), [("accuracy", 0.2), ("loss", 0.9)])
def test_a_value_that_is_not_finite_counts_as_diverged(metric, worst, value, tmp_path):
    trials = series(BASE, **{f"test_{metric}": [0.4, 0.2, 0.9]})
    trials += series(WEAK, **{f"test_{metric}": [0.8, value, 0.3]})
    table = write(tmp_path, [BASE, WEAK], trials)
    assert table.values("l2=0.1", f"test/{metric}").tolist() == [0.8, worst, 0.3]


def test_diverging_costs_a_point_its_selection(tmp_path):
    """Its snapshot from before may look best: it still ranks with the last."""
    trials = series(BASE, valid_loss=[0.5] * 3) + series(WEAK, valid_loss=[0.1] * 3)
    trials += series(STRONG, valid_loss=[0.9] * 3)
    for row in trials[3:6]:
        row["status"] = "diverged"
    table = write(tmp_path, [BASE, WEAK, STRONG], trials)
    assert selection.best(table) == Chosen("base", dict.fromkeys(range(3), "base"))


def test_a_diverged_restart_counts_with_the_worst_in_every_choice(tmp_path):
    """One that went well does not make up for two that did not."""
    trials = series(BASE, valid_loss=[0.4] * 3) + series(STRONG, valid_loss=[0.9] * 3)
    trials += series(WEAK, valid_loss=[0.1] * 3, status=["diverged", "diverged", "done"])
    table = write(tmp_path, [BASE, WEAK, STRONG], trials)
    assert selection.best(table) == Chosen("base", dict.fromkeys(range(3), "base"))


def test_a_point_of_which_every_trial_diverged_has_no_metrics(tmp_path):
    """It would be as good as the worst of the others; the others rank as without it."""
    trials = series(BASE, test_accuracy=[0.5, 0.4], valid_loss=[0.5, 0.6])
    trials += series(WEAK, test_accuracy=[0.9, 0.9], valid_loss=[0.1, 0.1], status=["diverged"] * 2)
    trials += series(STRONG, test_accuracy=[0.6, 0.9], valid_loss=[0.4, 0.1])
    trials[-1]["status"] = "diverged"
    table = write(tmp_path, [BASE, WEAK, STRONG], trials)
    assert table.values("l2=0.1", "test/accuracy").isna().all()
    assert not table.difference("l2=0.1", "base", "test/accuracy").known
    assert table.values("l2=1", "test/accuracy").tolist() == [0.6, 0.4]
    assert table.values("l2=1", "valid/loss").tolist() == [0.4, 0.6]
    assert "l2=0.1" not in selection.best(table).by_restart.values()


def test_where_all_diverged_nothing_is_known(tmp_path):
    trials = [trial(p, r, status="diverged") for p in (BASE, WEAK) for r in range(2)]
    table = write(tmp_path, [BASE, WEAK], trials)
    assert table.scored[COLUMNS].isna().all(axis=None)
    assert table.trials[COLUMNS].notna().all(axis=None)
    assert selection.best(table).point == "base"
    assert math.isnan(table.interval("base", "test/accuracy").estimate)
    difference = table.difference(selection.best(table), "l2=0.1", "test/accuracy")
    assert (difference.n, difference.known) == (0, False)


# Run directories as they come


def test_extra_curves_are_optional(table, tmp_path):
    assert table.curves.empty
    pd.DataFrame({"trial": ["base/0"], "step": [10], "valid/loss": [0.5]}).to_parquet(
        tmp_path / "curves.parquet"
    )
    assert len(Study(tmp_path).curves) == 1


@pytest.mark.parametrize("text", [None, "", "{", '{"experiment": '])
def test_a_directory_without_a_study_is_refused(text, tmp_path):
    if text is not None:
        (tmp_path / "study.json").write_text(text)
    with pytest.raises(UserError, match="holds no readable study"):
        Study(tmp_path)


def test_a_study_without_finished_trials_is_refused(tmp_path):
    write(tmp_path, [BASE], series(BASE, valid_loss=[0.5]))
    pd.DataFrame({"trial": []}).to_parquet(tmp_path / "trials.parquet")
    with pytest.raises(UserError, match="no finished trial"):
        Study(tmp_path)


def test_a_damaged_table_is_refused(table, tmp_path):
    whole = (tmp_path / "trials.parquet").read_bytes()
    (tmp_path / "trials.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cannot read .*trials\.parquet"):
        Study(tmp_path)


# Studies of rounds


def test_a_halved_study_is_its_last_round(tmp_path):
    """A point that was dropped is in no row, however good it looks."""
    values = {"l2=1": {"valid/loss": 0.0, "test/accuracy": 1.0}, "l2=0.1": {"valid/loss": 0.4}}
    table = halved(tmp_path, [POINTS, [BASE, WEAK, LINEAR], [BASE, WEAK]], values=values)
    assert list(table.settings) == ["base", "l2=0.1"]
    assert (
        selection.best(table).point == selection.selected(table, list(table.settings)) == "l2=0.1"
    )
    assert table.trials["point"].tolist() == ["base"] * 2 + ["l2=0.1"] * 2, "not once a round"
    assert table.trials["steps"].tolist() == [90] * 4
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
    table = Study(tmp_path)
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
    study = write(tmp_path, [a], [trial(a, 0), trial(a, 1)])
    with pytest.raises(Missing, match="kept no array 'weights'"):
        study.array("weights")
    store = Store(tmp_path)
    store.append_array("weights", ["a/0"], np.ones((1, 2, 3), np.float32))
    store.append_array("weights", ["a/1"], np.full((1, 2, 3), 2, np.float32))
    assert {name: array.sum() for name, array in study.array("weights").items()} == {
        "a/0": 6,
        "a/1": 12,
    }


def test_a_method_on_several_baselines_is_chosen_among_all_of_them(tmp_path):
    """Axes that cross the table give each method several families; a claim asks for one choice."""
    rates = {rate: (0.5, 0.4) if rate == "0.1" else (0.3, 0.2) for rate in ("0.1", "1")}
    points, trials = [], []
    for rate, (plain, better) in rates.items():
        fields = {"model": "mlp", "learning_rate": float(rate)}
        pair = [
            point(f"lr={rate}", "baseline", **fields),
            point(f"l2=0.1 lr={rate}", "L2", l2=0.1, **fields),
        ]
        points += pair
        trials += [
            trial(one, r, valid_loss=loss)
            for one, loss in zip(pair, (plain, better), strict=True)
            for r in range(3)
        ]
    methods = selection.methods(write(tmp_path, points, trials), model="mlp")
    assert {name: choice.point for name, choice in methods.items()} == {
        "baseline": "lr=1",
        "L2": "l2=0.1 lr=1",
    }
    assert methods["L2"].by_restart == dict.fromkeys(range(3), "l2=0.1 lr=1")


@pytest.mark.parametrize("key", ["significance", "metrics", "points", "plan"])
def test_a_record_of_another_version_is_a_users_error(key, tmp_path):
    write(tmp_path, [BASE], series(BASE, valid_loss=[0.5]))
    manifest = json.loads((tmp_path / "study.json").read_text())
    del manifest[key]
    (tmp_path / "study.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"no readable study.* lacks {key}"):
        Study(tmp_path)


def test_methods_stand_below_their_own_baseline(tmp_path):
    """Whatever the order in which axes cross the table."""
    points = [
        point(f"{method}{rate}", method, learning_rate=float(rate), l2=float(method == "L2"))
        for method in ("baseline", "L2")
        for rate in (1, 2, 3)
    ]
    trials = [trial(one, 0) for one in points]
    result = list(write(tmp_path, points, trials).groups().items())
    assert result == [
        ((f"baseline{rate}", method), [f"{method}{rate}"])
        for rate in (1, 2, 3)
        for method in ("baseline", "L2")
    ]
