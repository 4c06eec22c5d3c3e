"""The figures of every report."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablax.report import selection
from ablax.report.ablation import AblationRow
from ablax.report.plot import (
    COLOURS,
    MARKERS,
    SPLITS,
    captioned,
    legend,
    panels,
    shaded,
)
from ablax.report.statistics import best_of_k, bootstrap_interval, mean_interval, share_interval
from ablax.report.study import Study

MOST_ROWS = 60
"""Rows that a figure of restarts can carry."""
MOST_LINES = 6
"""Lines that a panel can carry before nobody tells them apart."""


def figures(study: Study, rows: Sequence[AblationRow]) -> dict[str, Figure]:
    """The figures of every report, by name; the first one sums the study up."""
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
