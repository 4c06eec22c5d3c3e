"""Functions that draw the FIGURES of an experiment, beside the figures of every report."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablax.errors import Missing
from ablax.report import selection
from ablax.report.plot import (
    COLOURS,
    SPLITS,
    band,
    captioned,
    error_interval,
    error_label,
    interval_panels,
    legend,
    panels,
    plt,
    with_intervals,
)
from ablax.report.plot import dots as plot_dots
from ablax.report.quantities import Column, Quantity
from ablax.report.statistics import mean_interval
from ablax.report.study import BASELINE, Chosen, Study


def lines(
    panels_: Mapping[str, Mapping[str, Column]], caption: str, **options: Any
) -> Callable[[Study], Figure]:
    """The figure of columns against the field that they are by, with their intervals.

    Args:
        panels_: {title: {label: column}}: a panel each, with a line for every column.
        caption: the sentence below the figure.
        options: of `plot.interval_panels`: the width of a panel, and what `Axes.set` takes.

    A figure of the success rate against σ, a line for each centre:

        lines({"": {c: column("train/solved", by="sigma", centre=c) for c in CENTRES}}, "…")
    """

    def draw(study: Study) -> Figure:
        drawn = {
            title: {label: column.intervals(study) for label, column in columns.items()}
            for title, columns in panels_.items()
        }
        return interval_panels(drawn, caption, **options)

    return draw


def dots(
    panels_: Mapping[str, Column], caption: str, *, width: float = 6.4, **options: Any
) -> Callable[[Study], Figure]:
    """The figure of a column by method: a dot with its interval for each; arguments as `lines`."""

    def draw(study: Study) -> Figure:
        drawn = {title: column.intervals(study) for title, column in panels_.items()}
        drawn = {title: rows for title, rows in drawn.items() if rows}
        if not drawn:
            raise Missing(f"nothing to draw: {caption}")
        height = 1.2 + 0.27 * max(map(len, drawn.values()))
        figure, axes = panels(len(drawn), width=width, height=height)
        for ax, (title, rows) in zip(axes, drawn.items(), strict=True):
            plot_dots(ax, {str(value): interval for value, interval in rows.items()})
            ax.set(title=title, **options)
        return captioned(figure, caption)

    return draw


def effects(
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
        measured = (quantity > 0).effects(study)
        rows = {e.measured.removeprefix(prefix): e.interval(0.95) for e in measured}
        figure, (ax,) = panels(1, width=width, height=1.2 + 0.27 * len(rows))
        plot_dots(ax, rows)
        ax.axvline(0, color="0.4", linestyle="--")
        ax.set(**options)
        return captioned(figure, caption)

    return draw


def strengths(labels: Mapping[str, str]) -> Callable[[Study], Figure]:
    """The figure of test error (1 − accuracy, or the headline metric) against every strength.

    One panel per strength and model, one line per method, the baseline as a band.

    Args:
        labels: {field: axis label} of the fields that are strengths.
    """

    def draw(study: Study) -> Figure:
        rows = _lines(study, list(labels))
        if not rows:
            raise Missing("no strength has two values")
        fields = [field for field in labels if any(field in row for row in rows.values())]
        figure, grid = plt.subplots(
            len(rows),
            len(fields),
            figsize=(3.6 * len(fields), 3.2 * len(rows)),
            squeeze=False,
        )
        for (model, row), axes in zip(rows.items(), grid, strict=True):
            for field, ax in zip(fields, axes, strict=True):
                if field not in row:
                    ax.set_visible(False)
                    continue
                _strength_panel(ax, study, field, row[field])
                ax.set(xlabel=labels[field], title=model)
            next(ax for ax in axes if ax.get_visible()).set_ylabel(error_label(study))
        return captioned(
            figure, "Test error against strength: means over restarts with 95% intervals."
        )

    return draw


def _lines(study: Study, fields: Sequence[str]) -> dict[str, dict[str, dict[str, list[str]]]]:
    """{model: {field: {method: its points}}}, wherever a method has the field at two values."""
    named = any(setting["group"] == BASELINE for setting in study.settings.values())
    rows: dict[str, dict[str, dict[str, list[str]]]] = {}
    for name, setting in study.settings.items():
        for field in fields:
            others = [f"{f}={setting[f]:g}" for f in fields if f != field and f in study.varying]
            method = setting["group"] if named else ", ".join(others) or field
            if np.isfinite(setting[field]):
                row = rows.setdefault(str(setting.get("model", "")), {})
                row.setdefault(field, {}).setdefault(method, []).append(name)
    for row in rows.values():
        for field, lines in row.items():
            row[field] = {
                method: members
                for method, members in lines.items()
                if len({study.settings[member][field] for member in members}) > 1
            }
    some = {model: {f: lines for f, lines in row.items() if lines} for model, row in rows.items()}
    return {model: row for model, row in some.items() if row}


def _strength_panel(ax: Axes, study: Study, field: str, lines: Mapping[str, list[str]]) -> None:
    strength = {p: study.settings[p][field] for members in lines.values() for p in members}
    positive = [value for value in strength.values() if value > 0]
    if positive and max(positive) / min(positive) >= 8:
        ax.set_xscale("symlog", linthresh=min(positive), linscale=0.5)
    for number, (method, members) in enumerate(lines.items()):
        ordered = sorted(members, key=strength.__getitem__)
        values = [error_interval(study, point) for point in ordered]
        x = [strength[point] for point in ordered]
        with_intervals(ax, x, values, label=method, number=number)
    baseline = study.baseline(next(iter(lines.values()))[-1])
    if baseline is not None:
        band(ax, error_interval(study, baseline), label="baseline")
    legend(ax)


def complexity(ax: Axes, study: Study, point: str | Chosen, metric: str | None = None) -> None:
    """The model-complexity graph: loss against steps, one thin line per restart, means bold.

    The mean is drawn for as long as every restart is running.

    Args:
        metric: what is drawn; None: what selection looks at.
    """
    name = metric or study.objective.name
    for number, (split, label) in enumerate(SPLITS.items()):
        if f"{split}/{name}" not in study.curves:
            continue
        wide = study.curve(point, f"{split}/{name}")
        ax.plot(wide.index, wide, color=COLOURS[number], alpha=0.15, linewidth=0.7)
        mean = wide.dropna().mean(axis=1)
        ax.plot(mean.index, mean, color=COLOURS[number], linewidth=2, label=label)
    stop = mean_interval(study.numbers(point, "best_step")).estimate
    ax.axvline(stop, color="black", linestyle=":", label=f"selected: step {stop:.0f}")
    title = point if isinstance(point, str) else point.point
    ax.set(title=title, xlabel="steps", ylabel=f"{name} (log scale)")
    if any(np.nanmax(line.get_ydata(), initial=0.0) > 0 for line in ax.lines[:-1]):
        ax.set_yscale("log")
    legend(ax)


def complexity_graph(study: Study) -> Figure:
    """The model-complexity graph of the best point and of its baseline."""
    best = selection.best(study).point
    points = [point for point in (study.baseline(best), best) if point]
    figure, axes = panels(len(points), sharey=True)
    for ax, point in zip(axes, points, strict=True):
        complexity(ax, study, point)
    return captioned(
        figure,
        "The model-complexity graph: loss against steps, one thin line per restart. Dotted: the "
        "mean step at which validation was best, where early stopping takes the weights.",
    )
