"""Reports of studies that are not what one hoped for: unfinished, diverged, with one restart."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from ablax.report.ablation import ablation, ablation_frame
from ablax.report.claims import Claim
from ablax.report.page import summary
from ablax.report.quantities import column
from ablax.report.study import Study
from tests.report.reading import Page, latex_rows, markdown_tables, written
from tests.report.runs import BASE, NOTHING, POINTS, build, random_trials, trial, write

NORM = column("l2_norm", model="mlp")
CLAIM = Claim("a", "b.", "c", NORM["L2"] > NORM["baseline"])


def rows_left(missing, restarts=4):
    """Random trials of all points, without those of which `missing` is true."""
    return [row for row in random_trials(restarts=restarts) if not missing(row)]


def half(directory):
    rng = np.random.default_rng(3)
    return write(directory, POINTS, rows_left(lambda row: rng.random() < 0.5), trials=20)


def without(*names):
    def study(directory):
        return write(directory, POINTS, rows_left(lambda row: row["point"] in names), trials=20)

    return study


def one_restart(directory):
    return write(directory, POINTS, random_trials(restarts=1))


def two_restarts(directory):
    return write(directory, POINTS, random_trials(restarts=2))


def all_diverged(directory, **values):
    trials = [trial(p, r, status="diverged", **values) for p in POINTS for r in range(3)]
    return write(directory, POINTS, trials)


def all_diverged_at_once(directory):
    return all_diverged(directory, **NOTHING)


def one_baseline_diverged(directory):
    trials = random_trials()
    for row in trials[:4]:
        row |= {"status": "diverged", **NOTHING}
    return write(directory, POINTS, trials)


def all_equal(directory):
    return write(directory, POINTS, [trial(p, r) for p in POINTS for r in range(3)])


def single_point(directory):
    return write(directory, [BASE], random_trials([BASE]))


def single_trial(directory):
    return write(directory, [BASE], [trial(BASE, 0)])


def single_trial_diverged(directory):
    return write(directory, [BASE], [trial(BASE, 0, status="diverged", **NOTHING)])


def empty_curves(directory):
    two_restarts(directory)
    pd.DataFrame({"trial": [], "step": [], "valid/loss": []}).to_parquet(
        directory / "curves.parquet"
    )
    return Study(directory)


def without_metric(name):
    """A metric that is NaN everywhere, though nothing diverged."""

    def study(directory):
        return write(directory, POINTS, [{**row, name: math.nan} for row in random_trials()])

    return study


def without_validation(directory):
    trials = [
        {name: value for name, value in row.items() if not name.startswith("valid/")}
        for row in random_trials()
    ]
    return write(directory, POINTS, trials, objective=None)


def measure_of_some(directory):
    """A measure that only one model has."""
    trials = [
        row | {"dropout_gain": 1.0 + 0.01 * row["restart"] if row["model"] == "mlp" else math.nan}
        for row in random_trials()
    ]
    return write(directory, POINTS, trials)


UNFINISHED = "trials have not finished"
ONE = "One restart a point"
DIVERGED = "Every trial diverged"
SOME = "such a trial counts with the worst value"


@pytest.mark.parametrize(
    ("study", "messages"),
    [
        pytest.param(half, [UNFINISHED], id="half of the trials"),
        pytest.param(without("l2=1"), [UNFINISHED], id="a strength missing"),
        pytest.param(without("base"), [UNFINISHED], id="a baseline missing"),
        pytest.param(without("base", "linear"), [UNFINISHED], id="all baselines missing"),
        pytest.param(without("l2=0.1", "l2=1", "linear l2=0.1"), [UNFINISHED], id="only baselines"),
        pytest.param(one_restart, [ONE], id="one restart"),
        pytest.param(two_restarts, [], id="two restarts"),
        pytest.param(all_diverged, [DIVERGED], id="all diverged"),
        pytest.param(all_diverged_at_once, [DIVERGED], id="all diverged at once"),
        pytest.param(one_baseline_diverged, [SOME], id="a baseline diverged"),
        pytest.param(all_equal, [], id="all equal"),
        pytest.param(single_point, [], id="one point"),
        pytest.param(single_trial, [ONE], id="one trial"),
        pytest.param(single_trial_diverged, [ONE, DIVERGED], id="one trial, diverged"),
        pytest.param(empty_curves, [], id="no curves"),
        pytest.param(without_metric("test/accuracy"), [], id="no headline metric"),
        pytest.param(without_metric("valid/loss"), [], id="no objective"),
        pytest.param(without_metric("l2_norm"), [], id="no measure"),
        pytest.param(without_validation, [], id="no validation"),
        pytest.param(measure_of_some, [], id="a measure of some points"),
    ],
)
def test_a_study_that_lacks_something_has_a_report_that_says_so(study, messages, tmp_path):
    """Whole in every language, with finite text; a warning of any library is an error here."""
    table = study(tmp_path)
    page_ = Page(build(table, claims=[CLAIM]).read_text())
    warnings = summary(table, ablation(table)).warnings
    assert len(warnings) == len(messages)
    for words, warning in zip(messages, warnings, strict=True):
        assert words in warning
        assert warning in page_.text
    assert not re.search(r"\bnan\b", page_.text)
    first, second = page_.sortable
    assert len(second.rows) == 1 + len(table.settings)
    assert len(first.rows) == 1 + len(table.groups())
    assert len(page_.details) == len(first.rows) + len(second.rows) - 2
    markdown = written(tmp_path, "report.md")
    assert not re.search(r"\bnan\b", markdown)
    assert len(markdown_tables(markdown)) == 3
    for name, listing in (("ablation", first), ("points", second)):
        rows = latex_rows(written(tmp_path, f"{name}.tex"))
        assert len(rows) == len(listing.rows)
        assert len({len(row) for row in rows}) == 1
        assert len(pd.read_csv(tmp_path / "report" / f"{name}.csv")) == len(listing.rows) - 1
    json.loads(written(tmp_path, "claims.json"))


def test_what_a_broken_study_lacks_is_left_open(tmp_path):
    """No interval, no p-value and no verdict is made up."""
    for study in (one_restart, all_diverged_at_once, without("base", "linear")):
        table = study(tmp_path / study.__name__)
        build(table, claims=[CLAIM])
        frame = ablation_frame(table, ablation(table))
        assert not frame.get("significant", pd.Series(False)).fillna(False).any()
        assert frame.get("p", pd.Series(dtype=float)).dropna().empty or study is without
        (claim,) = json.loads(written(table.directory, "claims.json"))
        assert claim["verdict"] == "inconclusive"
