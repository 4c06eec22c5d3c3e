"""Drawing helpers: what a figure has in it."""

import numpy as np

from ablax.report import plot


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
