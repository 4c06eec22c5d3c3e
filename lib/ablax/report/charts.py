"""Charts of a study.

`standard` are those of every report; an experiment adds its own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablax.errors import Missing
from ablax.report import selection
from ablax.report.ablation import AblationRow
from ablax.report.plot import (
    COLOURS,
    MARKERS,
    band,
    captioned,
    error_interval,
    error_label,
    interval_panels,
    legend,
    panels,
    plt,
    shaded,
    with_intervals,
)
from ablax.report.plot import dots as plot_dots
from ablax.report.quantities import Column
from ablax.report.statistics import best_of_k, bootstrap_interval, mean_interval, share_interval
from ablax.report.study import BASELINE, Chosen, Study

SPLITS = {"train": "training", "valid": "validation"}
"""Those that curves are of, in words."""
MOST_ROWS = 60
"""Rows that a chart of restarts can carry."""
MOST_LINES = 6
"""Lines that a panel can carry before nobody tells them apart."""


def standard(study: Study, rows: Sequence[AblationRow]) -> dict[str, Figure]:
    """The charts of every report, by name; the first one sums the study up."""
    drawn = {"restarts": strips(study, rows)}
    if (map_ := heat_map(study)) is not None:
        drawn["heat_map"] = map_
    if (curves := learning_curves(study)) is not None:
        drawn["curves"] = curves
    if max(row.n for row in rows) > 1:
        drawn["profiles"] = profiles(study, rows)
        if f"valid/{study.objective.name}" in study.trials:
            drawn["best_of_k"] = budget(study, rows)
    return drawn


def strips(study: Study, rows: Sequence[AblationRow]) -> Figure:
    """Every restart of every row of the ablation table, under its mean and interval."""
    column, rows = f"test/{study.headline.name}", rows[:MOST_ROWS]
    several = len({_family(row) for row in rows}) > 1
    figure, (ax,) = panels(1, width=7.2, height=1.2 + 0.34 * len(rows))
    labels = []
    for place, row in enumerate(rows):
        values = study.numbers(row.chosen, column)
        bold = row.significant(study.significance)
        colour = "0.35" if row.versus is None else COLOURS[0]
        # The same values always lie in the same places: in the order of the restarts.
        spread = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(1)
        ax.plot(values, place + spread[: len(values)], ".", color=colour, alpha=0.35, ms=5)
        if row.mean.known:
            ends = [[row.mean.estimate - row.mean.low], [row.mean.high - row.mean.estimate]]
            ax.errorbar(row.mean.estimate, place, xerr=ends, color="black", capsize=3, lw=1.6)
        face = "black" if bold or row.versus is None else "white"
        ax.plot(row.mean.estimate, place, "o", color="black", markerfacecolor=face, ms=6)
        if row.versus is None and place:
            ax.axhline(place - 0.5, color="0.7", lw=0.8)
        labels.append(f"{row.group} ({_family(row)})" if several else row.group)
    ax.set(yticks=range(len(rows)), yticklabels=labels, xlabel=f"test {study.headline.name}")
    ax.set_ylim(len(rows) - 0.5, -0.5)
    return captioned(
        figure,
        "Every restart as a dot, its row's mean and 95% interval in black; filled where the row "
        f"differs from its baseline at the corrected level {study.significance:g}."
        + (f" The first {MOST_ROWS} rows of the table." if len(rows) == MOST_ROWS else ""),
    )


def profiles(study: Study, rows: Sequence[AblationRow]) -> Figure:
    """Performance profiles: the share of restarts that are at least as good as a threshold.

    Source: Dolan and Moré 2002; with bands, Agarwal et al. 2021.
    """
    column, sign = f"test/{study.headline.name}", study.headline.sign
    figure, grid = _by_baseline(study, rows)
    for ax, (_, shown) in zip(grid, _leading(study, rows).items(), strict=True):
        for number, row in enumerate(shown):
            values = np.sort(study.numbers(row.chosen, column))
            n = len(values)
            if not n:
                continue
            thresholds = np.unique(values[np.linspace(0, n - 1, min(n, 500)).astype(int)])
            as_good = [int((sign * values >= sign * threshold).sum()) for threshold in thresholds]
            share = np.array(as_good) / n
            ends = [share_interval(count, n) for count in as_good]
            look = {"color": COLOURS[number], "linewidth": 1.6 if row.versus else 2.4}
            where = "pre" if sign > 0 else "post"
            ax.step(thresholds, share, where=where, label=row.group, **look)
            low, high = np.array([[i.low, i.high] for i in ends]).T
            ax.fill_between(
                thresholds, low, high, step=where, color=look["color"], alpha=0.08, lw=0
            )
        direction = "≥" if sign > 0 else "≤"
        ax.set(
            xlabel=f"threshold τ of test {study.headline.name}",
            ylabel=f"share of restarts with {study.headline.name} {direction} τ",
            ylim=(-0.02, 1.02),
        )
        legend(ax)
    return captioned(
        figure,
        "Performance profiles: a curve above another is better at every threshold where it is. "
        "Bands: exact 95% intervals of the share, point by point.",
    )


def budget(study: Study, rows: Sequence[AblationRow]) -> Figure:
    """Expected best of k restarts, the best by validation, against k."""
    column, sign = f"valid/{study.objective.name}", study.objective.sign
    figure, grid = _by_baseline(study, rows)
    for ax, (_, shown) in zip(grid, _leading(study, rows).items(), strict=True):
        for number, row in enumerate(shown):
            values = study.numbers(row.chosen, column)
            if not len(values):
                continue
            ks = np.unique(np.geomspace(1, len(values), 12).round().astype(int))
            intervals = []
            for k in ks:
                interval = bootstrap_interval(
                    sign * values, lambda x, axis=-1, k=k: best_of_k(x, k, axis), resamples=999
                )
                intervals.append(interval if sign > 0 else interval.negated())
            look = {"marker": MARKERS[number], "ms": 4, "label": row.group}
            shaded(ax, ks, intervals, number=number, alpha=0.1, **look)
        ax.set(
            xscale="log",
            xlabel="restarts k (log scale)",
            ylabel=f"expected best validation {study.objective.name}",
        )
        ax.set_xticks(ticks := [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= max(r.n for r in rows)])
        ax.set_xticklabels(map(str, ticks))
        ax.minorticks_off()
        legend(ax)
    caption = (
        f"What k restarts buy: the expected validation {study.objective.name} of the best of k, "
        "with bootstrap bands, meant to be 95% but too narrow (about 80% at 16 restarts)."
    )
    if "fix" not in study.trials or not study.trials["fix"].str.contains("split").all():
        caption += (
            " Each restart is validated on a split of its own, so part of the gain is the luck of "
            "an easy one; --fix split compares restarts on one split."
        )
    return captioned(figure, caption)


def _family(row: AblationRow) -> str:
    """The baseline that a row is compared with, or is."""
    return row.versus.baseline if row.versus else row.chosen.point


def _leading(study: Study, rows: Sequence[AblationRow]) -> dict[str, list[AblationRow]]:
    """{baseline: its row and the best of those compared with it}, few enough to tell apart."""
    families: dict[str, list[AblationRow]] = {}
    for row in rows:
        families.setdefault(_family(row), []).append(row)
    merit = {id(row): study.headline.sign * row.mean.estimate for row in rows}
    for baseline, members in families.items():
        ranked = sorted(members, key=lambda r: (r.versus is not None, -merit[id(r)]))
        families[baseline] = ranked[:MOST_LINES]
    return dict(list(families.items())[:3])


def _by_baseline(study: Study, rows: Sequence[AblationRow]) -> tuple[Figure, list[Axes]]:
    """A panel for each baseline, under its name."""
    baselines = list(_leading(study, rows))
    figure, axes = panels(len(baselines), width=5.0)
    for ax, baseline in zip(axes, baselines, strict=True):
        if len(baselines) > 1:
            ax.set_title(baseline)
    return figure, axes


def learning_curves(study: Study) -> Figure | None:
    """Validation objective against steps, of the best point and its baseline, with bands.

    None where there is no line to draw, as where a restart ends at its first evaluation.
    """
    name = study.objective.name
    best = selection.best(study).point
    points = [point for point in dict.fromkeys((study.baseline(best), best)) if point]
    splits = [split for split in SPLITS if f"{split}/{name}" in study.curves]
    lines = {(s, p): _curve(study, p, f"{s}/{name}") for s in splits for p in points}
    if max((len(steps) for steps, _ in lines.values()), default=0) < 2:
        return None
    figure, axes = panels(len(splits), width=5.0)
    for ax, split in zip(axes, splits, strict=True):
        for number, point in enumerate(points):
            steps, intervals = lines[split, point]
            shaded(ax, steps, intervals, number=number, alpha=0.2, label=point)
        ys = np.concatenate([line.get_ydata() for line in ax.lines])
        log = name == "loss" and len(ys) > 0 and ys.min() > 0
        ax.set(xlabel="steps", ylabel=f"{SPLITS[split]} {name}" + (" (log scale)" if log else ""))
        ax.set_yscale("log" if log else "linear")
        legend(ax)
    return captioned(
        figure,
        "Learning curves: mean over restarts with 95% intervals, as far as every restart ran.",
    )


def _curve(study: Study, point: str, column: str):
    """(steps, the interval over restarts at each), for as long as every restart is running."""
    wide = study.curve(point, column).dropna()
    return wide.index.to_numpy(), [mean_interval(row) for row in wide.to_numpy(np.float64)]


def heat_map(study: Study) -> Figure | None:
    """The grid of two traced axes, if the study has one: the mean of each cell, and its n."""
    axes = _grid(study)
    if axes is None:
        return None
    (first, rows), (second, columns), cells = axes
    column = f"test/{study.headline.name}"
    values = np.full((len(rows), len(columns)), np.nan)
    for (i, j), point in cells.items():
        values[i, j] = study.interval(point, column).estimate
    if np.isnan(values).all():
        return None
    figure, (ax,) = panels(1, width=1.8 + 0.9 * len(columns), height=1.6 + 0.55 * len(rows))
    palette = "cividis" if study.headline.sign > 0 else "cividis_r"
    image = ax.imshow(values, cmap=palette, aspect="auto", origin="lower")
    ax.grid(False)
    middle = np.nanmean([np.nanmin(values), np.nanmax(values)])
    bright = values > middle if study.headline.sign > 0 else values < middle
    best = selection.best(study).point
    for (i, j), point in cells.items():
        star = "*" if point == best else ""
        colour = "black" if bright[i, j] else "white"
        ax.text(j, i, f"{values[i, j]:.4g}{star}", ha="center", va="center", color=colour, size=8)
    ax.set(
        xticks=range(len(columns)),
        xticklabels=[f"{value:g}" for value in columns],
        yticks=range(len(rows)),
        yticklabels=[f"{value:g}" for value in rows],
        xlabel=second,
        ylabel=first,
    )
    figure.colorbar(image, ax=ax, label=f"test {study.headline.name}, mean over restarts")
    return captioned(
        figure,
        f"Mean test {study.headline.name} over the grid of {first} and {second}; * marks what "
        "validation selects.",
    )


def _grid(study: Study):
    """((field, its values), (field, its values), {(i, j): point}) of a full grid of two hparams."""
    protocol = [field for field in study.varying if field.startswith("protocol/")]
    fields = [field for field in study.varying if field not in protocol]
    numeric = [f for f in fields if all(isinstance(s[f], float) for s in study.settings.values())]
    if len(fields) != 2 or len(numeric) != 2 or protocol:
        return None
    axes = [sorted({setting[field] for setting in study.settings.values()}) for field in fields]
    cells = {
        (axes[0].index(setting[fields[0]]), axes[1].index(setting[fields[1]])): point
        for point, setting in study.settings.items()
    }
    if min(map(len, axes)) < 2 or len(cells) != len(axes[0]) * len(axes[1]):
        return None
    return (fields[0], axes[0]), (fields[1], axes[1]), cells


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


def strengths(labels: Mapping[str, str]) -> Callable[[Study], Figure]:
    """The figure of test error (1 − accuracy, or the headline metric) against every strength.

    A panel a strength and model, a line a method, the baseline as a band.

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
    kept = {model: {f: lines for f, lines in row.items() if lines} for model, row in rows.items()}
    return {model: row for model, row in kept.items() if row}


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
    """The model-complexity graph: loss against steps, one thin line a restart, means bold.

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
        "The model-complexity graph: loss against steps, a thin line a restart. The dotted line "
        "is the mean step at which validation was best: where early stopping takes the weights.",
    )
