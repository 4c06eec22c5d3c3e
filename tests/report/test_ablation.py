"""The ablation table: what each method changes against its baseline, and how surely."""

import csv
import io
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from ablax.report import selection
from ablax.report.ablation import ablation, ablation_frame, points_frame
from ablax.report.statistics import restarts_needed
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
    write,
)

LOSS_FIRST = {"loss": "min", "accuracy": "max"}


def by_method(table):
    """{point: its row}."""
    return {row.chosen.point: row for row in ablation(table)}


def sign_flips(differences):
    """The exact p-value, every way to flip signs written out."""
    flips = itertools.product((1, -1), repeat=len(differences))
    means = np.array([abs(np.dot(flip, differences)) for flip in flips])
    return (means >= abs(np.sum(differences)) - 1e-12).mean()


def holms(p_values):
    """{key: corrected p} of {key: p}, the definition written out."""
    result, largest = {}, 0.0
    for rank, (key, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, p * (len(p_values) - rank))
        result[key] = min(1.0, largest)
    return result


def t_ends(values):
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return [np.mean(values) - half, np.mean(values) + half]


@pytest.mark.parametrize("metrics", [{"accuracy": "max", "loss": "min"}, LOSS_FIRST])
@pytest.mark.parametrize("seed", range(3))
def test_every_row_is_what_the_raw_numbers_say(metrics, seed, tmp_path):
    """Each baseline by itself, each method at its chosen strength against its own baseline."""
    table = write(tmp_path, POINTS, random_trials(restarts=6, seed=seed), metrics=metrics)
    name, direction = next(iter(metrics.items()))
    sign = 1 if direction == "max" else -1
    wide = table.trials.pivot(index="restart", columns="point", values=f"test/{name}")
    rows = ablation(table)
    assert [row.group for row in rows] == ["baseline", "L2", "baseline", "L2"]
    baselines = [None, "base", None, "linear"]
    assert [row.versus and row.versus.baseline for row in rows] == baselines
    p_values = {}
    for number, (row, baseline) in enumerate(zip(rows, baselines, strict=True)):
        values = np.array([wide.loc[r, p] for r, p in sorted(row.chosen.by_restart.items())])
        np.testing.assert_allclose(row.trials[f"test/{name}"], values)
        assert row.mean.estimate == pytest.approx(values.mean())
        np.testing.assert_allclose([row.mean.low, row.mean.high], t_ends(values))
        assert row.median.estimate == pytest.approx(np.median(values))
        middle = stats.trim_mean(values, 0.25)
        assert row.interquartile_mean.estimate == pytest.approx(middle)
        assert (row.n, row.diverged) == (6, 0)
        if baseline is None:
            continue
        versus, differences = row.versus, values - wide[baseline].to_numpy()
        assert versus.difference.estimate == pytest.approx(differences.mean())
        ends = [versus.difference.low, versus.difference.high]
        np.testing.assert_allclose(ends, t_ends(differences))
        assert versus.p == pytest.approx(sign_flips(differences))
        assert versus.improvement.estimate == pytest.approx((sign * differences > 0).mean())
        assert np.sign(versus.effect_size) == np.sign(sign * differences.mean())
        p_values[number] = versus.p
    corrected = {n: row.versus.p_corrected for n, row in enumerate(rows) if row.versus}
    assert corrected == pytest.approx(holms(p_values))


def test_a_row_holds_the_trials_that_stand_for_it(tmp_path):
    """Where the others choose another strength at a restart, it is that strength's trial."""
    trials = series(BASE, valid_loss=[0.9] * 3)
    trials += series(WEAK, valid_loss=[0.1, 0.6, 0.6])
    trials += series(STRONG, valid_loss=[0.9, 0.5, 0.5])
    trials[-2]["status"] = "diverged"
    table = write(tmp_path, [BASE, WEAK, STRONG], trials)
    chosen = selection.chosen(table, ["l2=0.1", "l2=1"])
    (row,) = [row for row in ablation(table) if row.versus]
    expected = [f"{chosen.by_restart[r]}/{r}" for r in range(3)]
    assert row.trials["trial"].tolist() == table.of(chosen)["trial"].tolist() == expected
    assert row.diverged == expected.count("l2=1/1")
    assert table.of("l2=1")["trial"].tolist() == ["l2=1/0", "l2=1/1", "l2=1/2"]


METHODS = ["A", "B", "C"]


def methods(directory, gains, *, restarts=8, models=("mlp",), **study):
    """A study of methods that add {method: its gain by restart} to the baseline of each model."""
    points, trials = [], []
    for model in models:
        base = point(f"{model} base", "baseline", model=model)
        points.append(base)
        trials += series(base, test_accuracy=[0.5] * restarts, test_loss=[0.5] * restarts)
        for number, (name, gain) in enumerate(gains.items(), 1):
            of = point(f"{model} {name}", name, model=model, l2=float(number))
            points.append(of)
            values = [0.5 + g for g in np.broadcast_to(gain, restarts)]
            trials += series(of, test_accuracy=values, test_loss=values)
    return write(directory, points, trials, **study)


NOISE = np.array([0.01, -0.02, 0.03, -0.01, 0.02, 0.01, -0.03, 0.02])


@pytest.mark.parametrize(
    ("metrics", "gain", "share"),
    [
        ({"accuracy": "max"}, 0.1, 1.0),
        ({"accuracy": "max"}, -0.1, 0.0),
        ({"loss": "min"}, 0.1, 0.0),
        ({"loss": "min"}, -0.1, 1.0),
    ],
)
def test_better_is_the_metrics_own_direction(metrics, gain, share, tmp_path):
    """A smaller loss is better: the difference keeps its sign, the effect size is above 0."""
    versus = by_method(methods(tmp_path, {"A": gain + NOISE}, metrics=metrics))["mlp A"].versus
    assert np.sign(versus.difference.estimate) == np.sign(gain)
    assert versus.improvement.estimate == share
    assert (versus.effect_size > 0) == (share == 1.0)


def test_ties_count_half(tmp_path):
    gain = np.array([0.1, 0.1, -0.1, 0.0])
    table = methods(tmp_path, {"A": gain}, restarts=4)
    assert by_method(table)["mlp A"].versus.improvement.estimate == 0.625


@pytest.mark.parametrize("models", [("mlp",), ("mlp", "linear")])
def test_p_values_are_corrected_for_exactly_the_rows_that_are_compared(models, tmp_path):
    """Baselines are no comparison."""
    gains = {"A": 0.1 + NOISE, "B": 0.01 + NOISE, "C": NOISE - 0.02}
    rows = by_method(methods(tmp_path, gains, models=models))
    p_values = {name: row.versus.p for name, row in rows.items() if row.versus}
    assert len(p_values) == 3 * len(models)
    corrected = {name: row.versus.p_corrected for name, row in rows.items() if row.versus}
    assert corrected == pytest.approx(holms(p_values))
    assert corrected["mlp A"] == pytest.approx(p_values["mlp A"] * 3 * len(models))


@pytest.mark.parametrize(("level", "significant"), [(0.0078, False), (0.0079, True), (0.2, True)])
def test_significance_is_at_the_level_of_the_study(level, significant, tmp_path):
    """8 restarts that all agree: p = 2⁻⁷ = 0.0078125."""
    (row,) = ablation(methods(tmp_path, {"A": 0.1 + NOISE}, significance=level))[1:]
    assert row.versus.p_corrected == 2**-7
    assert row.significant(level) == significant
    assert math.isnan(row.versus.restarts_needed) == significant
    frame = ablation_frame(methods(tmp_path, {"A": 0.1 + NOISE}, significance=level), [row])
    assert frame["significant"].tolist() == [significant]


def test_significance_is_of_the_corrected_p(tmp_path):
    """p = 2⁻⁷ of each of 8 rows is 1/16 of the table."""
    gains = dict.fromkeys("ABCDEFGH", 0.1 + NOISE)
    rows = ablation(methods(tmp_path, gains))
    assert not any(row.significant(0.05) for row in rows)
    assert all(row.versus.restarts_needed > 8 for row in rows[1:]), "p = 2⁻⁷ does not settle it"
    assert [row.significant(1 / 16) for row in rows] == [False] + [True] * 8


@pytest.mark.parametrize("models", [("mlp",), ("mlp", "linear"), ("mlp", "linear", "cnn")])
@pytest.mark.parametrize("names", [["A"], ["A", "B"], ["A", "B", "C"]])
@pytest.mark.parametrize("level", [1 / 16, 0.05, 1 / 24])
def test_more_restarts_reach_the_strictest_step_of_the_correction(level, names, models, tmp_path):
    """m rows: the smallest p of n restarts, 2¹⁻ⁿ, must reach level/m, however large the effect."""
    gains = {name: [0.1, 0.11] for name in names}
    table = methods(tmp_path, gains, restarts=2, models=models, significance=level)
    fewest = 1 + math.ceil(math.log2(len(names) * len(models) / level))
    result = {row.versus.restarts_needed for row in ablation(table) if row.versus}
    assert result == {fewest}


@pytest.mark.parametrize("models", [("mlp",), ("mlp", "linear")])
def test_more_restarts_settle_a_difference_of_this_size(models, tmp_path):
    gains = {"A": 0.005 + NOISE, "B": 0.002 + NOISE}
    compared = len(gains) * len(models)
    for row in ablation(methods(tmp_path, gains, models=models)):
        if row.versus:
            differences = gains[row.group]
            expected = restarts_needed(differences, 1 - 0.05 / compared)
            assert row.versus.restarts_needed == expected > 1 + math.log2(compared / 0.05)


@pytest.mark.parametrize(
    ("gain", "needed"), [([0.0] * 4, math.inf), ([0.1, -0.1] * 2, math.inf), ([0.1], math.nan)]
)
def test_where_nothing_differs_no_number_of_restarts_is_enough(gain, needed, tmp_path):
    table = methods(tmp_path, {"A": gain}, restarts=len(gain))
    np.testing.assert_equal(by_method(table)["mlp A"].versus.restarts_needed, needed)


def test_without_named_baselines_every_point_is_a_row_against_the_first(tmp_path):
    points = [point(f"l2={value:g}", f"l2={value:g}", l2=value) for value in (0.0, 0.1, 1.0)]
    rows = ablation(write(tmp_path, points, random_trials(points)))
    assert [row.chosen.point for row in rows] == ["l2=0", "l2=0.1", "l2=1"]
    assert [row.versus and row.versus.baseline for row in rows] == [None, "l2=0", "l2=0"]


def test_a_method_whose_baseline_was_dropped_is_compared_with_nothing(tmp_path):
    """Neither another model's baseline nor another method takes its place."""
    table = halved(tmp_path, [POINTS, [WEAK, STRONG, LINEAR, LINEAR_L2]])
    rows = ablation(table)
    assert [row.versus and row.versus.baseline for row in rows] == [None, None, "linear"]


def test_only_baselines(tmp_path):
    rows = ablation(write(tmp_path, [BASE, LINEAR], random_trials([BASE, LINEAR])))
    assert [row.versus for row in rows] == [None, None]


# Frames, for CSV


def ends_of(name):
    return [name, f"{name} low", f"{name} high"]


def test_the_columns_of_ablation_csv(tmp_path):
    table = write(tmp_path, POINTS, random_trials())
    assert list(ablation_frame(table, ablation(table))) == [
        "method",
        "point",
        "model",
        "l2",
        "n",
        "diverged",
        "chosen at",
        *ends_of("test/accuracy mean"),
        *ends_of("test/accuracy median"),
        *ends_of("test/accuracy interquartile mean"),
        "baseline",
        *ends_of("Δ test/accuracy"),
        "p",
        "p (Holm)",
        *ends_of("probability of improvement"),
        "effect size",
        "restarts needed",
        "significant",
    ]


def test_the_columns_of_points_csv(tmp_path):
    frame = points_frame(write(tmp_path, POINTS, random_trials()))
    columns = [f"{s}/{m}" for m in ("accuracy", "loss") for s in ("train", "valid", "test")]
    assert list(frame) == [
        *("point", "group", "model", "l2", "n", "diverged"),
        *(name for column in [*columns, "l2_norm", "steps"] for name in ends_of(column)),
        *ends_of("test/accuracy median"),
        *ends_of("test/accuracy interquartile mean"),
        "baseline",
        *ends_of("Δ test/accuracy"),
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("restarts", [1, 2, 3, 5, 16])
def test_csv_has_every_digit_and_ends_in_order(restarts, seed, tmp_path):
    table = write(tmp_path, POINTS, random_trials(restarts=restarts, seed=seed))
    for frame in (ablation_frame(table, ablation(table)), points_frame(table)):
        written = csv.DictReader(io.StringIO(frame.to_csv(index=False)))
        for line, expected in zip(written, frame.to_dict("records"), strict=True):
            for name, value in expected.items():
                exact = float(line[name] or "nan") if isinstance(value, float) else line[name]
                np.testing.assert_equal(exact, value if isinstance(value, float) else str(value))
        named = [name.removesuffix(" low") for name in frame if name.endswith(" low")]
        assert named
        for name in named:
            middle, low, high = (frame[column].to_numpy(float) for column in ends_of(name))
            known = ~np.isnan(low)
            assert (low <= middle)[known].all(), name
            assert (middle <= high)[known].all(), name
            assert (known == ~np.isnan(high)).all()
        if restarts == 1:
            assert frame[["test/accuracy median low", "Δ test/accuracy low"]].isna().all(axis=None)


def test_the_frame_holds_what_the_rows_hold(tmp_path):
    table = write(tmp_path, POINTS, random_trials(restarts=6))
    rows = ablation(table)
    frame = ablation_frame(table, rows)
    assert frame["method"].tolist() == [row.group for row in rows]
    assert frame["point"].tolist() == [row.chosen.point for row in rows]
    assert frame["chosen at"].tolist() == [row.chosen.agreeing for row in rows]
    for place, row in enumerate(rows):
        line = frame.iloc[place]
        assert line["test/accuracy mean"] == row.mean.estimate
        assert line["test/accuracy median high"] == row.median.high
        assert line["test/accuracy interquartile mean low"] == row.interquartile_mean.low
        if row.versus is None:
            assert math.isnan(line["p"])
            continue
        versus = row.versus
        assert (line["p"], line["p (Holm)"]) == (versus.p, versus.p_corrected)
        assert line["Δ test/accuracy low"] == versus.difference.low
        assert line["probability of improvement"] == versus.improvement.estimate
        assert line["effect size"] == versus.effect_size
        np.testing.assert_equal(float(line["restarts needed"]), versus.restarts_needed)


def test_points_csv_is_what_pandas_says(tmp_path):
    """Means, t intervals and differences to the baseline of every point by itself."""
    table = write(tmp_path, POINTS, random_trials())
    frame = points_frame(table).set_index("point")
    assert list(frame.index) == [p["name"] for p in POINTS]
    assert list(frame["l2"]) == [0.0, 0.1, 1.0, 0.0, 0.1]
    assert list(frame["n"]) == [4] * 5
    assert list(frame["diverged"]) == [0] * 5
    grouped = table.trials.groupby("point")
    for column in [*COLUMNS, "l2_norm", "steps"]:
        mean, error = grouped[column].mean(), grouped[column].sem()
        half = stats.t.ppf(0.975, 3) * error
        for name, expected in (("", mean), (" low", mean - half), (" high", mean + half)):
            np.testing.assert_allclose(
                frame[column + name], expected[frame.index], rtol=1e-9, err_msg=column
            )
    accuracy = table.trials.pivot(index="restart", columns="point", values="test/accuracy")
    delta = (accuracy["linear l2=0.1"] - accuracy["linear"]).mean()
    assert frame.loc["linear l2=0.1", "Δ test/accuracy"] == pytest.approx(delta)
    assert math.isnan(frame.loc["base", "Δ test/accuracy"])


def test_diverged_trials_are_counted(tmp_path):
    trials = series(BASE, test_accuracy=[0.5] * 3)
    trials += series(WEAK, test_accuracy=[0.9] * 3, status=["done", "diverged", "diverged"])
    table = write(tmp_path, [BASE, WEAK], trials)
    for frame in (points_frame(table), ablation_frame(table, ablation(table))):
        assert list(frame["diverged"]) == [0, 2]
        assert list(frame["n"]) == [3, 3]
    assert points_frame(table)["test/accuracy"].tolist() == pytest.approx([0.5, (0.9 + 1) / 3])
