"""What the figures of all experiments share: colours, axes, bands and files."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablax.report.statistics import Interval, mean_interval
from ablax.report.tables import BASELINE, Table
from ablax.sweep.store import replacing

# Okabe and Ito's palette, distinguishable with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

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
    n: int, *, width: float = 4.6, height: float = 3.6, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure with n panels in a row: (figure, [axes])."""
    figure, axes = plt.subplots(1, n, figsize=(width * n, height), squeeze=False, **options)
    return figure, list(axes[0])


def strengths(table: Table, labels: Mapping[str, str]) -> Figure:
    """Test error (1 − accuracy, or the headline metric) against every strength that varies.

    A panel a strength and model, a line a method, the baseline as a band.

    Args:
        labels: {field: axis label} of the fields that are strengths.
    """
    rows = _lines(table, list(labels)) or {"": {}}
    fields = [f for f in labels if any(f in row for row in rows.values())] or [next(iter(labels))]
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
            _strength_panel(ax, table, field, row[field])
            ax.set(xlabel=labels[field], title=model)
        first = next(ax for ax in axes if ax.get_visible()) if row else axes[0]
        first.set_ylabel(error_label(table))
    return figure


def _lines(table: Table, fields: Sequence[str]) -> dict[str, dict[str, dict[str, list[str]]]]:
    """{model: {field: {method: its points}}}, wherever a method has the field at two values."""
    named = any(setting["group"] == BASELINE for setting in table.settings.values())
    rows: dict[str, dict[str, dict[str, list[str]]]] = {}
    for name, setting in table.settings.items():
        for field in fields:
            others = [f"{f}={setting[f]:g}" for f in fields if f != field and f in table.varying]
            method = setting["group"] if named else ", ".join(others) or field
            if np.isfinite(setting[field]):
                row = rows.setdefault(str(setting.get("model", "")), {})
                row.setdefault(field, {}).setdefault(method, []).append(name)
    for row in rows.values():
        for field, lines in row.items():
            row[field] = {
                method: members
                for method, members in lines.items()
                if len({table.settings[member][field] for member in members}) > 1
            }
    kept = {model: {f: lines for f, lines in row.items() if lines} for model, row in rows.items()}
    return {model: row for model, row in kept.items() if row}


def _strength_panel(ax: Axes, table: Table, field: str, lines: Mapping[str, list[str]]) -> None:
    strength = {p: table.settings[p][field] for members in lines.values() for p in members}
    positive = [value for value in strength.values() if value > 0]
    if positive and max(positive) / min(positive) >= 8:
        ax.set_xscale("symlog", linthresh=min(positive), linscale=0.5)
    for number, (method, members) in enumerate(lines.items()):
        ordered = sorted(members, key=strength.__getitem__)
        values = [error_interval(table, point) for point in ordered]
        x = [strength[point] for point in ordered]
        with_intervals(ax, x, values, label=method, number=number)
    baseline = table.baseline(next(iter(lines.values()))[-1])
    if baseline is not None:
        band(ax, error_interval(table, baseline), label="baseline")
    ax.legend(fontsize=8)


def error_interval(table: Table, point: str) -> Interval:
    """The headline metric of the test split as an error: lower is better."""
    interval = table.interval(point, f"test/{table.headline.name}")
    if table.headline.name != "accuracy":
        return interval
    return Interval(1 - interval.mean, 1 - interval.high, 1 - interval.low, interval.n)


def error_label(table: Table) -> str:
    name = table.headline.name
    return "test error (share of examples)" if name == "accuracy" else f"test {name}"


def complexity(ax: Axes, table: Table, point: str) -> None:
    """The model-complexity graph: loss against steps, one thin line a restart, means bold.

    The mean is drawn for as long as every restart is running.
    """
    curves = table.curves[table.curves["trial"].isin(table.of(point)["trial"])]
    name = table.objective.name
    for number, split in enumerate(("train", "valid")):
        if f"{split}/{name}" not in curves:
            continue
        wide = curves.pivot(index="step", columns="trial", values=f"{split}/{name}")
        ax.plot(wide.index, wide, color=COLOURS[number], alpha=0.15, linewidth=0.7)
        mean = wide.dropna().mean(axis=1)
        label = {"train": "training", "valid": "validation"}[split]
        ax.plot(mean.index, mean, color=COLOURS[number], linewidth=2, label=label)
    stop = mean_interval(table.values(point, "best_step").to_numpy(float))
    ax.axvline(stop.mean, color="black", linestyle=":", label=f"selected: step {stop.mean:.0f}")
    ax.set(title=point, xlabel="steps", ylabel=f"{name} (log scale)", yscale="log")
    ax.legend(fontsize=8)


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
    ax: Axes, x: Sequence[float], intervals: Sequence[Interval], *, label: str, number: int
) -> None:
    """A line through the means with their intervals as error bars; `number` picks the look."""
    mean = np.array([i.mean for i in intervals])
    ends = np.array([[i.mean - i.low, i.high - i.mean] for i in intervals]).T
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
    )


def band(ax: Axes, interval: Interval, *, label: str, colour: str = "0.4") -> None:
    """A horizontal line with its interval: the baseline."""
    ax.axhline(interval.mean, color=colour, linestyle="--", linewidth=1.2, label=label)
    if np.isfinite([interval.low, interval.high]).all():
        ax.axhspan(interval.low, interval.high, color=colour, alpha=0.15, linewidth=0)


def save(figures: Mapping[str, Figure], directory: Path) -> None:
    """Every figure as PNG and SVG, under its name."""
    for name, figure in figures.items():
        for kind in ("png", "svg"):
            with replacing(directory / f"{name}.{kind}") as temporary:
                metadata = {"Date": None} if kind == "svg" else {"Software": None}
                figure.savefig(temporary, format=kind, metadata=metadata)
