"""Drawing helpers: what a figure has in it."""

import numpy as np

from ablax.report import plot
from ablax.report.statistics import Interval


def test_a_scatter_has_the_dots_of_every_label_in_its_own_look():
    """More labels than colours: they come again, and none is left out."""
    labels = [f"method {i}" for i in range(len(plot.COLOURS) + 2)]
    groups = {name: (np.arange(3.0) + i, np.arange(3.0) ** 2) for i, name in enumerate(labels)}
    with plot.style():
        _, (axes,) = plot.panels(1)
        plot.scatter(axes, groups)
        assert [text.get_text() for text in axes.get_legend().get_texts()] == labels
        for dots, (label, (x, y)) in zip(axes.collections, groups.items(), strict=True):
            assert dots.get_label() == label
            np.testing.assert_array_equal(dots.get_offsets(), np.column_stack([x, y]))
        looks = [tuple(dots.get_facecolor()[0]) for dots in axes.collections]
    assert len(set(looks)) == len(plot.COLOURS)
    assert looks[:2] == looks[-2:]


def test_shares_are_bars_with_their_percentages_from_the_top():
    rows = {"all": 1.0, "half": 0.5, "a little": 0.014}
    with plot.style():
        figure = plot.shares(rows, "The caption.", xlabel="share of the steps")
        (axes,) = figure.axes
        assert figure.get_label() == "The caption."
        assert axes.get_xlabel() == "share of the steps"
        assert [label.get_text() for label in axes.get_yticklabels()] == list(rows)
        assert [bar.get_width() for bar in axes.patches] == list(rows.values())
        assert [text.get_text() for text in axes.texts] == [" 100%", " 50%", " 1%"]
        assert axes.yaxis_inverted()


def lines_of(*labels: str) -> dict:
    return {label: {x: Interval(x + i, x + i - 1, x + i + 1, 4) for x in (0.03, 0.1, 0.3)}
            for i, label in enumerate(labels)}  # fmt: skip


def test_panels_of_the_same_lines_have_one_legend_and_one_scale():
    drawn = {"above": lines_of("a", "b"), "below": lines_of("a", "b", "c")}
    with plot.style():
        apart = plot.interval_panels(drawn, "")
        assert all(panel.get_legend() for panel in apart.axes)
        assert not apart.legends
        first, second = apart.axes
        assert first.get_ylim() != second.get_ylim()
        together = plot.interval_panels({"above": drawn["below"]} | drawn, "", same=True)
        assert not any(panel.get_legend() for panel in together.axes)
        (legend,) = together.legends
        assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
        first, second = plot.interval_panels(drawn, "", sharey=True).axes
        assert first.get_ylim() == second.get_ylim()


def test_ticks_that_are_given_are_the_only_ones():
    """On a logarithmic axis of one decade Matplotlib would label smaller ones as well."""
    rates = (0.03, 0.1, 0.3)
    options = {"xscale": "log", "xticks": rates, "xticklabels": rates}
    with plot.style():
        figure = plot.interval_panels({"": lines_of("a")}, "", **options)
        figure.canvas.draw()
        (panel,) = figure.axes
        shown = [tick.label1 for tick in panel.xaxis.get_minor_ticks() if tick.label1.get_visible()]
        assert not [label for label in shown if label.get_text()]
        assert [label.get_text() for label in panel.get_xticklabels()] == ["0.03", "0.1", "0.3"]
