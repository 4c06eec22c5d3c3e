"""Figures of quantities: what claims are about, each as a dot with its interval."""

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from ablax.report.plot import captioned, panels
from ablax.report.plot import dots as plot_dots
from ablax.report.quantities import Quantity
from ablax.report.study import Study


def dots(
    quantity: Quantity, caption: str, *, prefix: str = "", width: float = 6.4, **options: Any
) -> Callable[[Study], Figure]:
    """Return the figure of a quantity: a dot with its 95% interval for each entry, beside 0.

    The figure raises `Missing` where the study has no entry, as the quantity itself does.

    Args:
        quantity: by restart, such as a difference that is above 0 if a method helps.
        caption: the sentence below the figure.
        prefix: beginning of the entries' names that their labels leave out.
        width: of the figure, in inches.
        options: what `Axes.set` takes.
    """

    def draw(study: Study) -> Figure:
        effects = (quantity > 0).effects(study)
        rows = {e.measured.removeprefix(prefix): e.interval(0.95) for e in effects}
        figure, (ax,) = panels(1, width=width, height=1.2 + 0.27 * len(rows))
        plot_dots(ax, rows)
        ax.axvline(0, color="0.4", linestyle="--")
        ax.set(**options)
        return captioned(figure, caption)

    return draw
