"""Figures of quantities: a dot for each entry, where its restarts' mean is."""

import numpy as np
import pytest

from ablax.errors import Missing
from ablax.report import charts, plot
from ablax.report.quantities import column, quantities
from tests.experiments.studies import made_up


@pytest.fixture
def study(tmp_path):
    return made_up(tmp_path, [{"group": "baseline", "l2": 0.0}, {"group": "L2", "l2": 0.1}])


def test_each_entry_has_its_mean_and_interval_beside_zero(study):
    loss = column("test/loss")

    @quantities
    def falls(study):
        values = study.values("0", "test/loss") - study.values("1", "test/loss")
        return {"fall of L2": values, "fall of twice": 2 * values, "other": values + 1}

    figure = charts.effects(falls, "The caption.", prefix="fall of ", xlabel="nats")(study)
    (panel,) = figure.axes
    assert figure.get_label() == "The caption."
    assert panel.get_xlabel() == "nats"
    assert [label.get_text() for label in panel.get_yticklabels()] == ["L2", "twice", "other"]
    mean = (study.numbers("0", "test/loss") - study.numbers("1", "test/loss")).mean()
    drawn = [dot.lines[0].get_xydata()[0] for dot in panel.containers]
    np.testing.assert_allclose(drawn, [(mean, 0), (2 * mean, 1), (mean + 1, 2)])
    (zero,) = [line for line in panel.lines if line.get_linestyle() == "--"]
    assert list(zero.get_xdata()) == [0, 0]
    (panel,) = charts.effects(loss["baseline"] - loss["L2"], "")(study).axes
    (dot,) = panel.containers
    interval = study.difference("0", "1", "test/loss")
    ends = dot.lines[2][0].get_segments()[0][:, 0]
    np.testing.assert_allclose(ends, [interval.low, interval.high])


def test_nothing_to_draw_is_missing(study):
    for quantity in (column("test/loss")["dropout"], quantities(lambda study: {})):
        with plot.style(), pytest.raises(Missing):
            charts.effects(quantity, "")(study)
