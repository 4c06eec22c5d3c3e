"""Curves against time: seconds are shared by steps, methods compared after the same time."""

import numpy as np
import pandas as pd
import pytest

from ablax.errors import Missing
from ablax.report import clock, plot
from ablax.report.selection import methods
from tests.report.runs import point, trial, write

SLOW, FAST = point("slow", "slow", batch_size=10), point("fast", "fast", batch_size=2)
STRONG = point("strong", "slow", batch_size=10, l2=0.5)
POINTS = [SLOW, FAST, STRONG]
STEPS = {"slow": (4, 8), "fast": (10, 20, 30), "strong": (4, 8)}
"""Where the trials of each point are evaluated."""


def program(batch_size: int) -> dict:
    return {"statics": {"model": "mlp", "batch_size": batch_size}}


def loss(name: str, restart: int, step: int) -> float:
    return {"slow": 1.0, "fast": 2.0, "strong": 3.0}[name] + 0.1 * restart + 10 / step


@pytest.fixture
def study(tmp_path):
    """A step of batch 10 takes 2 seconds, one of batch 2 a second; validation prefers `slow`."""
    rows = [
        trial(of, r, steps=STEPS[of["name"]][-1], valid_loss={"strong": 9.0}.get(of["name"], 1.0))
        for of in POINTS
        for r in range(3)
    ]
    seconds = [  # 6 trials of 8 steps in two launches, and 3 of 30
        ("ten", "seconds training", 90.0),
        ("ten", "seconds training", 6.0),
        ("ten", "seconds compiling segment", 99.0),
        ("two", "seconds training", 90.0),
        ("other", "seconds training", 99.0),
    ]
    curves = [
        {
            "trial": row["trial"],
            "step": step,
            "train/loss": loss(row["point"], row["restart"], step),
        }
        for row in rows
        for step in STEPS[row["point"]]
    ]
    pd.DataFrame(curves).to_parquet(tmp_path / "curves.parquet")
    programs = {"ten": program(10), "two": program(2), "other": program(3)}
    provenance = {"command": "", "commit": None, "versions": {}, "programs": programs}
    table = write(tmp_path, POINTS, rows, provenance=provenance)
    table.timings = pd.DataFrame(seconds, columns=["program", "what", "value"])
    return table


def test_the_seconds_of_a_program_are_shared_by_the_steps_of_its_trials(study):
    assert clock.seconds_per_step(study, "slow") == pytest.approx(96 / (6 * 8))
    assert clock.seconds_per_step(study, "strong") == pytest.approx(2.0)
    assert clock.seconds_per_step(study, methods(study)["fast"]) == pytest.approx(1.0)


def test_without_a_clock_there_are_no_seconds(study):
    study.timings = study.timings[study.timings["program"] == "ten"]
    with pytest.raises(Missing, match="fast was not timed"):
        clock.seconds_per_step(study, "fast")
    study.timings = study.timings.iloc[:0]
    with pytest.raises(Missing, match="no launch"):
        clock.seconds_per_step(study, "slow")


def test_a_curve_is_by_seconds_and_restarts(study):
    values = clock.curve(study, methods(study)["slow"], "train/loss")
    assert values.index.tolist() == [8.0, 16.0]
    assert values.columns.tolist() == [0, 1, 2]
    expected = [[loss("slow", r, step) for r in range(3)] for step in (4, 8)]
    np.testing.assert_allclose(values, expected)


@pytest.mark.parametrize(
    ("slow_seconds", "slow_step", "fast_step"),
    [
        (96.0, 8, 10),  # 16 seconds: the fast one has been evaluated at 10
        (48 * 2.5, 8, 20),  # 20 seconds: exactly an evaluation
        (48 * 5.0, 4, 30),  # 30 seconds of the fast one, at half of which the slow one is at 4
    ],
)
def test_methods_are_compared_after_the_time_that_both_have_had(
    slow_seconds, slow_step, fast_step, study
):
    study.timings = pd.DataFrame(
        [("ten", "seconds training", slow_seconds), ("two", "seconds training", 90.0)],
        columns=["program", "what", "value"],
    )
    (effect,) = (clock.at_equal_time("train/loss", "slow", "fast") < 0).effects(study)
    expected = [loss("slow", r, slow_step) - loss("fast", r, fast_step) for r in range(3)]
    np.testing.assert_allclose(effect.values, expected)
    assert effect.measured == "train/loss after equal time: slow − fast"


def test_curves_are_drawn_against_epochs_and_time(study):
    draw = clock.curves(
        {"fast": "batches of 2", "absent": "never", "slow": "batches of 10"},
        "train/loss", "caption", examples=20,
    )  # fmt: skip
    with plot.style():
        epochs, time = draw(study).axes
        assert epochs.get_legend_handles_labels()[1] == ["batches of 2", "batches of 10"]
        for panel, xs in [(epochs, ([1, 2, 3], [2, 4])), (time, ([1e4, 2e4, 3e4], [8e3, 16e3]))]:
            assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
            assert panel.get_ylabel() == "training loss"
            for line, x, name in zip(panel.lines, xs, ("fast", "slow"), strict=True):
                means = [loss(name, 1, step) for step in STEPS[name]]
                np.testing.assert_allclose(line.get_xydata(), np.column_stack([x, means]))
    with pytest.raises(Missing, match="caption"):
        clock.curves({"absent": "never"}, "train/loss", "caption", examples=20)(study)


def test_a_study_without_curves_has_none_in_time(study):
    study.curves = study.curves.iloc[:0]
    with pytest.raises(Missing, match="no curve"):
        clock.curve(study, "slow", "train/loss")
