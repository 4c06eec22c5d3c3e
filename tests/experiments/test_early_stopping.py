"""The study of early stopping: what it keeps, who sees the test examples, what it saves."""

from functools import partial

import jax
import numpy as np
import pandas as pd
import pytest

from ablax.data import load, split
from ablax.errors import Missing
from ablax.report import plot
from ablax.report.claims import judge_all
from ablax.report.quantities import NEGATIVE, POSITIVE
from ablax.report.study import Study
from ablax.study import snapshots
from experiments import early_stopping
from experiments.early_stopping import BEST, CRITERIA, LAST, ORACLE, Config
from tests.experiments import studies
from tests.experiments.studies import (
    by_the_others,
    effects,
    made_up,
    task_of,
    trial_of,
    trials_of,
    untrained,
)

launch = partial(studies.launch, "early_stopping")
points = partial(studies.points_of, early_stopping, "early_stopping")
ALL = "best of all epochs"
FIELDS = {"patience": "patience", "GL": "gl", "PQ": "pq", "UP": "up"}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """The oracle alone, which the smoke preset does without."""
    out = tmp_path_factory.mktemp("oracle") / "run"
    typed = ["--width", 16, "--keep", "all", "--keep-weights", ORACLE]
    return launch(out, "--preset", "smoke", *typed)


def curves_of(directory):
    """{trial: its curve, by step}."""
    rows = pd.read_parquet(directory / "curves.parquet").sort_values(["trial", "step"])
    return dict(iter(rows.groupby("trial")))


@pytest.fixture(scope="module")
def curves(smoke):
    return curves_of(smoke)


# Who sees what


def test_the_oracle_and_nobody_else_sees_the_test_examples():
    test = split(load("digits"), train_size=300, seed=0).test
    for keep in (BEST, LAST, ORACLE):
        config = Config(keep_weights=keep)
        task, trial = task_of(early_stopping, config), trial_of(config)
        in_training = {name: part for name, part in task.data.items() if name != "test"}
        rows = {x.tobytes() for part in jax.tree.leaves(in_training) for x in np.array(part)}
        seen = [x.tobytes() in rows for x in np.array(test.x)]
        assert all(seen) if keep == ORACLE else np.mean(seen) < 0.05, keep
        data = task.view(trial, in_training)
        if keep == ORACLE:
            assert np.array_equal(data["valid"].peeked.x, test.x)
            assert np.array_equal(data["valid"].peeked.y, test.y)
            assert len(data["valid"].valid.rows) == 288
        else:
            assert len(data["valid"].rows) == 288
            assert not set(np.array(data["valid"].rows)) & set(np.array(data["train"].rows))
            assert "peeked" not in data


def test_all_are_trained_on_the_same_examples_and_labels():
    seen = []
    for keep in (BEST, LAST, ORACLE):
        config = Config(keep_weights=keep)
        task, trial = task_of(early_stopping, config), trial_of(config, 1)
        data = task.view(trial, task.data)
        rows = np.array(data["train"].rows)
        seen.append((rows, np.array(data["train"].y)[rows]))
        right = split(load("digits"), train_size=300, seed=0).pool.y
        wrong = np.mean(seen[0][1] != right[rows])
        assert 0.1 < wrong < 0.27, "a tenth of those that are drawn anew are right all the same"
        if keep != ORACLE:
            assert np.array_equal(data["valid"].y, right), "as they are"
    for rows, y in seen[1:]:
        assert np.array_equal(rows, seen[0][0])
        assert np.array_equal(y, seen[0][1])


# What ends a trial, and what is kept


def test_every_trial_is_there_once(smoke):
    rows = trials_of(smoke)
    assert len(rows) == 22 * 3
    assert not rows.duplicated(["point", "restart"]).any()
    assert set(rows["status"]) == {"done", "stopped"}
    ended = rows["steps"] == 300
    assert ended[rows["group"].isin(["baseline", ALL])].all()
    assert (rows.loc[~ended, "status"] == "stopped").all()


def test_the_best_is_kept_or_the_last(smoke, oracle, curves):
    curves = curves | curves_of(oracle)
    for row in pd.concat([trials_of(smoke), trials_of(oracle)]).to_dict("records"):
        curve = curves[row["trial"]]
        assert curve["step"].max() == row["steps"]
        chosen_by = "valid/peeked_loss" if row["keep_weights"] == ORACLE else "valid/loss"
        best = curve.loc[curve[chosen_by].idxmin(), "step"]
        assert row["best_step"] == (row["steps"] if row["keep_weights"] == LAST else best)
        if row["keep_weights"] == ORACLE:
            assert row["valid/peeked_loss"] == row["test/loss"]
            assert row["valid/loss"] != row["test/loss"]
        best_loss = curve.loc[curve["step"] == row["best_step"], "valid/loss"].item()
        np.testing.assert_allclose(row["valid/loss"], best_loss, rtol=1e-5)


def test_the_numbers_are_those_of_the_weights_kept(smoke, oracle):
    test = split(load("digits"), train_size=300, seed=0).test
    x = np.float64(test.x).reshape(len(test.x), -1)
    directories = {LAST: smoke, BEST: smoke, ORACLE: oracle}
    for keep, directory in directories.items():
        rows = trials_of(directory).set_index("trial")
        program = f"keep_weights={keep}" if keep != ORACLE else "early_stopping"
        weights = snapshots.load(directory, program)
        assert len(weights) >= 3
        for trial, params in weights.items():
            hidden, output = params["hidden_0"], params["output"]
            h = np.maximum(x @ np.float64(hidden["weight"]).T + hidden["bias"], 0)
            z = h @ np.float64(output["weight"]).T + output["bias"]
            loss = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), test.y]
            np.testing.assert_allclose(rows.loc[trial, "test/loss"], loss.mean(), rtol=1e-4)


def test_until_it_stops_a_trial_is_the_one_that_does_not(smoke, curves):
    rows = trials_of(smoke)
    whole = {row["restart"]: curves[row["trial"]].set_index("step")
             for row in rows[rows["group"] == ALL].to_dict("records")}  # fmt: skip
    for row in rows[rows["group"].isin(list(CRITERIA))].to_dict("records"):
        mine = curves[row["trial"]].set_index("step")
        theirs = whole[row["restart"]].loc[mine.index]
        for column in ("train/loss", "valid/loss"):
            np.testing.assert_allclose(mine[column], theirs[column], rtol=1e-5)


def stopped_by_hand(curve: pd.DataFrame, row: dict) -> int:
    """The evaluation (from 1) after which a row's criterion stops, in float64; or the last."""
    valid, train = (np.float64(curve[name]) for name in ("valid/loss", "train/loss"))
    rises, since, ends = 0, 0, [valid[4]]
    for i in range(len(valid)):
        loss = 100 * (valid[i] / valid[: i + 1].min() - 1)
        since = 0 if i == 0 or valid[i] < valid[:i].min() else since + 1
        stops = loss > row["protocol/gl"] or since >= row["protocol/patience"]
        if (i + 1) % 5 == 0:
            strip = train[i - 4 : i + 1]
            stops |= loss > row["protocol/pq"] * 1000 * (strip.mean() / strip.min() - 1)
            if i > 4:
                rises = rises + 1 if valid[i] > ends[-1] else 0
                ends.append(valid[i])
            stops |= rises >= row["protocol/up"]
        if stops:
            return i + 1
    return len(valid)


def test_criteria_stop_where_prechelt_says(smoke, curves):
    """The whole curves are those of the trials that are not stopped."""
    rows = trials_of(smoke)
    whole = {row["restart"]: curves[row["trial"]]
             for row in rows[rows["group"] == ALL].to_dict("records")}  # fmt: skip
    stopped = set()
    for row in rows[rows["group"].isin(list(CRITERIA))].to_dict("records"):
        assert row["steps"] == 10 * stopped_by_hand(whole[row["restart"]], row), row["point"]
        if row["steps"] < 300:
            stopped.add(row["group"])
    assert {"patience", "GL"} <= stopped


# The points


def test_the_table_has_every_criterion_between_the_ends():
    table = points()
    assert table[:2] == [
        {"group": "baseline", "keep_weights": LAST},
        {"group": ALL, "keep_weights": BEST},
    ]
    assert table[-1] == {"group": ORACLE, "keep_weights": ORACLE}
    assert table[2:-1] == [
        {"group": name, "keep_weights": BEST, field: threshold}
        for name, field in FIELDS.items()
        for threshold in CRITERIA[name]
    ]
    assert len(table) == 3 + 4 * 5
    assert all(list(thresholds) == sorted(thresholds) for thresholds in CRITERIA.values())
    assert points("--preset", "smoke") == table[:-1]


def test_axes_of_the_command_line_are_honoured():
    assert points("--gl", 1, 2, "--keep-weights", BEST) == [
        {"gl": gl, "keep_weights": BEST} for gl in (1.0, 2.0)
    ]
    assert points("--up", 3, 4, "--keep-weights", LAST, "--width", 8) == [
        {"up": up, "keep_weights": LAST, "width": 8} for up in (3.0, 4.0)
    ]
    for flag, values in [("learning-rate", (0.01, 0.1)), ("label-noise", (0.0, 0.5)),
                         ("train-size", (50, 100)), ("steps", (400, 800))]:  # fmt: skip
        field = flag.replace("-", "_")
        assert points(f"--{flag}", *values) == [
            p | {field: value} for p in points() for value in values
        ]


@pytest.mark.parametrize("typed", [["--gl", -1], ["--up", 0], ["--keep-weights", "worst"]])
def test_what_is_out_of_range_is_refused(typed, capsys):
    assert studies.main(["early_stopping", *map(str, typed), "--plan"]) == 2
    assert "error: " in capsys.readouterr().err


# The claims


DIFFERENCES = {
    "training-on-overfits": [
        ("train/loss", "baseline", ALL, NEGATIVE, {}),
        ("test/loss", "baseline", ALL, POSITIVE, {}),
    ],
    "early-stopping-generalizes": [
        ("test/loss", name, "baseline", NEGATIVE, {}) for name in CRITERIA
    ],
}
SLOWER = {"slower-is-better": ("test/loss", -1), "slower-takes-longer": ("steps", 1)}
NEARS = "early-stopping-nears-the-oracle"
OTHERS = {NEARS, "early-stopping-saves-steps"}


def test_every_claim_is_judged(smoke):
    assert {claim.id for claim in early_stopping.CLAIMS} == (
        DIFFERENCES.keys() | SLOWER.keys() | OTHERS
    )
    judged = judge_all(early_stopping.CLAIMS, Study(smoke))
    assert [judgement.claim.id for judgement in judged if not judgement.parts] == [NEARS]


@pytest.mark.parametrize("name", DIFFERENCES)
def test_differences_are_those_of_the_trials(smoke, name, monkeypatch):
    untrained(monkeypatch)
    expected = DIFFERENCES[name]
    studies.check_differences(early_stopping, name, Study(smoke), expected, "valid/loss", -1)


def test_what_is_missed_is_a_share_of_the_oracles_gain(tmp_path):
    unlimited = {f"protocol/{field}": np.inf for field in FIELDS.values()}
    study = made_up(tmp_path, [
        unlimited | {f"protocol/{name}" if name in FIELDS.values() else name: value
                     for name, value in point.items()}
        for point in points()
    ])  # fmt: skip
    rows = trials_of(study.directory)
    last, best = (by_the_others(rows, name, "test/loss", "valid/loss", -1)
                  for name in ("baseline", ORACLE))  # fmt: skip
    result = effects(early_stopping, NEARS, study)
    for name, effect in zip(CRITERIA, result, strict=True):
        mine = by_the_others(rows, name, "test/loss", "valid/loss", -1)
        np.testing.assert_allclose(effect.values, (mine - best) / (last - best).mean(), rtol=1e-9)
        assert effect.expected == (-np.inf, 0.1)


@pytest.mark.parametrize("name", SLOWER)
def test_the_slowest_threshold_is_compared_with_the_fastest(smoke, name, monkeypatch):
    untrained(monkeypatch)
    column, sign = SLOWER[name]
    rows = trials_of(smoke).sort_values("restart")
    result = effects(early_stopping, name, Study(smoke))
    for (criterion, thresholds), effect in zip(CRITERIA.items(), result, strict=True):
        mine = rows[rows["group"] == criterion]
        threshold_of = mine[f"protocol/{FIELDS[criterion]}"]
        fast, slow = (
            mine[np.isclose(threshold_of, threshold)]
            for threshold in (thresholds[0], thresholds[-1])
        )
        assert len(fast) == len(slow) == 3
        values = np.float64(slow[column]) - np.float64(fast[column])
        np.testing.assert_allclose(effect.values, sign * values, rtol=1e-9)
        assert effect.expected == POSITIVE
        assert criterion in effect.measured


def test_steps_are_counted_at_the_threshold_that_is_chosen(smoke, monkeypatch):
    untrained(monkeypatch)
    rows = trials_of(smoke)
    result = effects(early_stopping, "early-stopping-saves-steps", Study(smoke))
    for name, effect in zip(CRITERIA, result, strict=True):
        steps = by_the_others(rows, name, "steps", "valid/loss", -1)
        np.testing.assert_allclose(effect.values, steps / 300, rtol=1e-12)
        assert effect.expected == (-np.inf, 0.75)


def test_a_study_without_the_points_says_so(tmp_path, monkeypatch):
    typed = ["--gl", 1, 2, "--keep-weights", BEST, "--width", 2]
    typed += ["--steps", 4, "--eval-every", 2, "--restarts", 2]
    study = Study(launch(tmp_path / "run", *typed, report=True))
    untrained(monkeypatch)
    judged = judge_all(early_stopping.CLAIMS, study)
    assert not any(judgement.parts for judgement in judged)
    assert {judgement.verdict for judgement in judged} == {"inconclusive"}
    written = {path.name for path in (study.directory / "report").iterdir()}
    assert {"tradeoff.png", "saved.png"} <= written
    assert "complexity.png" not in written
    with pytest.raises(Missing):
        early_stopping.complexity_figure(study)


def test_thresholds_of_ones_own_are_lines_of_their_own(tmp_path):
    """A point that two criteria can stop, or none, belongs to none; nor one kept to the last."""
    off = {f"protocol/{field}": np.inf for field in FIELDS.values()}
    settings = [{"protocol/gl": 3.0}, {"protocol/gl": 1.0}, {}, {"protocol/up": 2.0},
                {"protocol/gl": 2.0, "protocol/up": 2.0}]  # fmt: skip
    settings = [off | {"keep_weights": BEST} | setting for setting in settings]
    settings += [settings[0] | {"keep_weights": LAST}]
    lines = early_stopping.criteria(made_up(tmp_path / "lines", settings))
    assert {name: [point.point for point in line] for name, line in lines.items()} == {
        "GL": ["1", "0"],
        "UP": ["3"],
    }
    with pytest.raises(Missing):
        early_stopping.saved_figure(made_up(tmp_path / "none", [settings[2], settings[4]]))


def test_the_figures_show_every_criterion(smoke):
    study = Study(smoke)
    with plot.style():
        drawn = {name: draw(study) for name, draw in early_stopping.FIGURES.items()}
        assert list(drawn) == ["tradeoff", "saved", "complexity"]
        (panel,) = [axes for axes in drawn["tradeoff"].axes if axes.has_data()]
        names = [text.get_text() for text in panel.get_legend().get_texts()]
        assert {*CRITERIA, "trained to the end", ALL} == set(names)
        (panel,) = drawn["saved"].axes
        rows = trials_of(smoke)
        steps = rows.loc[rows["group"].isin(list(CRITERIA)), "steps"].to_numpy()
        assert len(steps) == 60
        widths = [bar.get_width() for bar in panel.patches]
        assert len(widths) == 4
        assert widths[0] == 1
        np.testing.assert_allclose(widths[-1], steps.sum() / (64 * 300))  # two batches of 32
        assert min(widths) == widths[-1]
        (panel,) = drawn["complexity"].axes
        assert panel.get_title() == "keep_weights=last"
    for name in drawn:
        assert (smoke / "report" / f"{name}.png").exists()
