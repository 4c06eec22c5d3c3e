"""Drawing helpers of all figures: colours, axes, intervals, images and files."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ablax.errors import Missing
from ablax.report.statistics import Interval
from ablax.report.study import Chosen, Study
from ablax.rundir.store import replacing

# Okabe and Ito's palette, distinguishable with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

SPLITS = {"train": "training", "valid": "validation"}
"""The splits that have curves, in words."""

STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "savefig.facecolor": "white",
    "svg.hashsalt": "ablax",  # equal figures are equal bytes
}


@contextmanager
def style() -> Iterator[None]:
    """The look of every figure; figures made inside are closed at its end."""
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        try:
            yield
        finally:
            plt.close("all")


def captioned(figure: Figure, caption: str) -> Figure:
    """The figure with the sentence that the report prints below it."""
    figure.set_label(caption)
    return figure


def panels(
    n: int, *, width: float = 4.6, height: float = 3.6, columns: int | None = None, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure with n panels in a row, or in rows of some columns: (figure, [axes])."""
    columns = min(columns or n, n)
    rows = -(-n // columns)
    size = (width * columns, height * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    axes = list(grid.ravel())
    for ax in axes[n:]:
        ax.set_visible(False)
    return figure, axes[:n]


def error_interval(study: Study, point: str | Chosen) -> Interval:
    """The mean headline metric of the test split, an accuracy as an error: lower is better."""
    interval = study.interval(point, f"test/{study.headline.name}")
    if study.headline.name != "accuracy":
        return interval
    return replace(
        interval, estimate=1 - interval.estimate, low=1 - interval.high, high=1 - interval.low
    )


def error_label(study: Study) -> str:
    name = study.headline.name
    return "test error (share of examples)" if name == "accuracy" else f"test {name}"


def images(rows: Mapping[str, np.ndarray]) -> Figure:
    """Square images, a labelled row each; blue is negative, red positive, scaled by row."""
    n = max(len(pictures) for pictures in rows.values())
    figure, grid = plt.subplots(
        len(rows), n, figsize=(0.85 * n + 1.4, 0.9 * len(rows)), squeeze=False
    )
    for (label, pictures), axes in zip(rows.items(), grid, strict=True):
        limit = np.abs(pictures).max() or 1.0
        for ax in axes:
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
        for ax, picture in zip(axes, pictures, strict=False):
            ax.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes[0].set_ylabel(label, rotation=0, ha="right", va="center")
    return figure


def with_intervals(
    ax: Axes,
    x: Sequence[float] | np.ndarray,
    intervals: Sequence[Interval],
    *,
    label: str,
    number: int,
    line: str = "-",
) -> None:
    """A line through the means with their intervals as error bars; `number` picks the look."""
    mean = np.array([i.estimate for i in intervals])
    ends = np.array([[i.estimate - i.low, i.high - i.estimate] for i in intervals]).T
    ax.errorbar(
        x,
        mean,
        yerr=np.nan_to_num(ends),
        label=label,
        color=COLOURS[number % len(COLOURS)],
        marker=MARKERS[number % len(MARKERS)],
        markersize=4,
        capsize=2,
        linewidth=1.4,
        linestyle=line,
    )


Lines = Mapping[str, Mapping[float, Interval]]
"""{label: {x: interval}}: a line each."""


def interval_lines(axes: Axes, lines: Lines, **options: Any) -> None:
    """A line with error bars for each label, and the legend; options are those of `Axes.set`.

    Where the places of the ticks are given, there are no others.
    """
    for number, (label, points) in enumerate(lines.items()):
        with_intervals(axes, list(points), list(points.values()), label=label, number=number)
    axes.set(**options)
    locator = axes.xaxis.get_major_locator()
    whole = all(isinstance(x, int) for points in lines.values() for x in points)
    if whole and isinstance(locator, MaxNLocator):
        locator.set_params(integer=True)  # no tick at half a layer
    if "xticks" in options:
        axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    legend(axes)


def interval_panels(
    panels_: Mapping[str, Lines],
    caption: str,
    *,
    width: float = 5.0,
    columns: int | None = None,
    same: bool = False,
    sharey: bool = False,
    **options: Any,
) -> Figure:
    """A panel for each title, with `interval_lines` in it; options are those of `Axes.set`.

    The panels are in a row, or in rows of some columns.

    Args:
        panels_: {title: {label: {x: interval}}}.
        caption: the sentence below the figure.
        width: of a panel, in inches.
        columns: panels of a row; None: all of them.
        same: all panels have the same lines: one legend, beside them.
        sharey: one scale for all.
        options: what `Axes.set` takes.

    Raises:
        Missing: there is nothing to draw.
    """
    shown = {title: lines for title, lines in panels_.items() if any(lines.values())}
    if not shown:
        raise Missing(f"nothing to draw: {caption}")
    figure, axes = panels(len(shown), width=width, columns=columns, sharey=sharey)
    for panel, (title, lines) in zip(axes, shown.items(), strict=True):
        interval_lines(panel, {n: ps for n, ps in lines.items() if ps}, title=title, **options)
    if same:
        for old in filter(None, [panel.get_legend() for panel in axes]):
            old.remove()
        lines_and_labels = axes[0].get_legend_handles_labels()
        figure.legend(*lines_and_labels, loc="outside right upper", fontsize=8)
    return captioned(figure, caption)


def dots(ax: Axes, rows: Mapping[str, Interval]) -> None:
    """A row for each label: its estimate as a dot, with its interval; the first row on top.

    Of an infinite estimate there is an arrow, at the lower end of its interval: at least so much.
    """
    for place, interval in enumerate(rows.values()):
        if np.isposinf(interval.estimate):
            ax.plot(interval.low, place, ">", color="black")
            continue
        ends = [[interval.estimate - interval.low], [interval.high - interval.estimate]]
        look = {"ms": 4, "color": "black", "capsize": 3}
        ax.errorbar(interval.estimate, place, xerr=np.nan_to_num(ends), fmt="o", **look)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.invert_yaxis()


def shares(
    rows: Mapping[str, float], caption: str, *, width: float = 7.0, **options: Any
) -> Figure:
    """A bar with its percentage for each label, the first on top.

    Args:
        rows: {label: share of the whole}.
        caption: the sentence below the figure.
        width: of the figure, in inches.
        options: what `Axes.set` takes.
    """
    figure, (ax,) = panels(1, width=width, height=0.8 + 0.4 * len(rows))
    bars = ax.barh(list(rows), list(rows.values()), color=COLOURS[0])
    ax.bar_label(bars, fmt=lambda share: f" {share:.0%}")
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    ax.set(**options)
    return captioned(figure, caption)


def scatter(ax: Axes, groups: Mapping[Any, tuple[Any, Any]]) -> None:
    """A dot for every (x, y), of {label: (all x, all y)} in colour and form of its label."""
    for number, (label, (x, y)) in enumerate(groups.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        ax.scatter(x, y, s=9, alpha=0.4, color=colour, marker=marker, label=label)
    legend(ax)


def shaded(
    ax: Axes,
    x: Sequence[float] | np.ndarray,
    intervals: Sequence[Interval],
    *,
    number: int,
    alpha: float,
    **look: Any,
) -> None:
    """A line through the estimates in the middle of their intervals; `number` picks the colour."""
    colour = COLOURS[number]
    low, high = np.array([[i.low, i.high] for i in intervals]).reshape(-1, 2).T
    ax.plot(x, np.array([i.estimate for i in intervals]), color=colour, **look)
    ax.fill_between(x, low, high, color=colour, alpha=alpha, lw=0)


def band(ax: Axes, interval: Interval, *, label: str, colour: str = "0.4") -> None:
    """A horizontal line with its interval: the baseline."""
    ax.axhline(interval.estimate, color=colour, linestyle="--", linewidth=1.2, label=label)
    if np.isfinite([interval.low, interval.high]).all():
        ax.axhspan(interval.low, interval.high, color=colour, alpha=0.15, linewidth=0)


def legend(ax: Axes) -> None:
    """The legend, if anything is drawn that has a label."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8)


def save(figures: Mapping[str, Figure], directory: Path) -> None:
    """Every figure as PNG and SVG, under its name."""
    for name, figure in figures.items():
        _without_empty_logarithms(figure)
        for kind in ("png", "svg"):
            with replacing(directory / f"{name}.{kind}") as temporary:
                draw(figure, temporary, kind)
            figure.set_layout_engine("none")  # a layout takes as long as a drawing: once is enough


def draw(figure: Figure, path: Path, kind: str) -> None:
    """Write a figure as PNG or SVG; equal figures are equal bytes."""
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(path, format=kind, metadata=metadata)


def _without_empty_logarithms(figure: Figure) -> None:
    """Make a log axis linear where it has nothing to show: all diverged, or all 0."""
    for ax in figure.axes:
        if ax.get_xscale() == "log" and not np.isfinite(ax.dataLim.minposx):
            ax.set_xscale("linear")
        if ax.get_yscale() == "log" and not np.isfinite(ax.dataLim.minposy):
            ax.set_yscale("linear")
