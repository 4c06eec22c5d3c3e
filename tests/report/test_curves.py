"""Curves by restart: logarithms, ends and ratios, of trials that ran on and that diverged."""

import numpy as np
import pandas as pd
import pytest

from ablax.errors import Missing
from ablax.report import curves, plot
from ablax.report.curves import LogRatio
from tests.experiments.studies import made_up

POWERS = np.random.default_rng(0).random((3, 2, 2, 4))  # point, restart, column, evaluation


@pytest.fixture
def study(tmp_path):
    """Points 0 to 2 ("tanh", "relu", "elu") of two restarts, with the columns a and b."""
    names = ("tanh", "relu", "elu")
    study = made_up(tmp_path, [{"group": name, "width": 4} for name in names], restarts=2)
    study.curves = pd.DataFrame(
        {"trial": f"{point}/{restart}", "step": 10 * (n + 1)}
        | {f"train/{name}": 10.0 ** -POWERS[point, restart, i, n] for i, name in enumerate("ab")}
        for point in range(3)
        for restart in range(2)
        for n in range(4)
    )
    return study


def test_logarithms_are_restarts_times_evaluations(study):
    study.curves.loc[0, "train/a"] = 0.0
    rows = curves.log10(study, "0", "train/a")
    assert rows.index.tolist() == [0, 1]
    expected = -POWERS[0, :, 0]
    expected[0, 0] = -30
    np.testing.assert_allclose(rows, expected, rtol=1e-12)


def test_restarts_that_diverge_have_the_ends_that_they_reached():
    """One at once, one after the first evaluation, at a step of its own."""
    nan = np.nan
    rows = np.array([[1.0, nan, 2.0], [nan, nan, nan], [3.0, 4.0, nan], [np.inf, 5.0, 6.0]])
    first, last = curves.ends(pd.DataFrame(rows))
    assert first.tolist() == [1, 3, 5]
    assert last.tolist() == [2, 4, 6]


def test_restarts_that_all_diverge_at_once_have_no_ends():
    first, last = curves.ends(pd.DataFrame(index=range(3)))
    assert first.size == last.size == 0


def test_a_ratio_is_the_mean_of_its_logarithms(study):
    ratio = LogRatio("train/a", "train/b", "log10(a / b)")
    expected = (POWERS[:, :, 1] - POWERS[:, :, 0]).mean(axis=-1)
    for point, name in enumerate(("tanh", "relu", "elu")):
        ((label, values),) = ratio[name].read(study).items()
        assert str(label) == f"log10(a / b): {name}"
        np.testing.assert_allclose(values, expected[point], rtol=1e-9)
    (effect,) = (ratio["relu"] > ratio["tanh"]).effects(study)
    assert effect.measured == "log10(a / b): relu − tanh"
    np.testing.assert_allclose(effect.values, expected[1] - expected[0], rtol=1e-9)
    with pytest.raises(Missing):
        ratio["gelu"].read(study)


def test_a_ratio_of_a_restart_without_evaluations_is_nan(study):
    study.curves = study.curves[study.curves["trial"] != "1/0"]
    (values,) = LogRatio("train/a", "train/b", "")["relu"].read(study).values()
    assert np.isnan(values).tolist() == [True, False]


def test_the_first_and_the_last_evaluation_are_drawn_column_by_column(study):
    points = {"relu": "1", "tanh": "0"}
    with plot.style():
        figure = curves.first_and_last(study, points, ["train/a", "train/b"], "It.", xlabel="layer")
        assert figure.get_label() == "It."
        assert len(figure.axes) == 2
        for panel, when in zip(figure.axes, (0, 3), strict=True):
            assert panel.get_xlabel() == "layer"
            lines = {line.get_label(): line.lines[0].get_xydata() for line in panel.containers}
            assert list(lines) == list(points)
            for label, point in points.items():
                means = -POWERS[int(point), :, :, when].mean(axis=0)
                np.testing.assert_allclose(lines[label], list(enumerate(means, start=1)))
        assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
