"""Curves against time: what methods reach in the same wall-clock time, by the clock of a study."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ablax.errors import Missing
from ablax.report.plot import SPLITS, captioned, legend, panels, shaded
from ablax.report.quantities import Name, Quantity
from ablax.report.selection import methods
from ablax.report.statistics import mean_interval
from ablax.report.study import Chosen, Study


def seconds_per_step(study: Study, point: str | Chosen) -> float:
    """Seconds that a step of one trial took in the program of a point, over all launches.

    A program trains many trials at once; its seconds are shared by the steps of all of them.

    Raises:
        Missing: no clock ran.
    """
    if study.timings.empty:
        raise Missing("no launch has ended")
    name = point if isinstance(point, str) else point.point
    programs = {
        program: entry["statics"]
        for program, entry in study.manifest["provenance"]["programs"].items()
        if entry["statics"].items() <= study.settings[name].items()
    }
    clock = study.timings
    timed = clock["program"].isin(list(programs)) & (clock["what"] == "seconds training")
    seconds = clock.loc[timed, "value"]
    if seconds.empty:
        raise Missing(f"the program of {name} was not timed")
    trained = [member for statics in programs.values() for member in study.among(**statics)]
    return float(seconds.sum() / sum(study.numbers(member, "steps").sum() for member in trained))


def curve(study: Study, point: str | Chosen, column: str) -> pd.DataFrame:
    """A column of curves.parquet as seconds × restarts; NaN where a trial had ended.

    Raises:
        Missing: no clock ran, or the study has no such curve.
    """
    values = _by_step(study, point, column)
    return values.set_axis(values.index * seconds_per_step(study, point))


def _by_step(study: Study, point: str | Chosen, column: str) -> pd.DataFrame:
    values = study.curve(point, column).astype(np.float64)
    if values.empty:
        raise Missing(f"the study has no curve of {column}")
    return values.set_axis(study.of(point)["restart"].to_numpy(), axis=1)


def at_equal_time(column: str, method: str, other: str) -> Quantity:
    """The difference of two methods in a column of curves.parquet after the same time.

    It is the time of the method that ends first, and each method is taken at its last evaluation
    until then.
    """
    name = Name(f"{column} after equal time", f"{method} − {other}")

    def read(study: Study) -> dict[Name, pd.Series]:
        points = methods(study)
        both = [curve(study, points[key], column) for key in (method, other)]
        time = min(values.index[-1] for values in both) * (1 + 1e-9)  # rounding is no lead
        last, last_other = (values[values.index <= time].iloc[-1] for values in both)
        return {name: last - last_other}

    return Quantity(name, read)


def curves(
    labels: Mapping[str, str], column: str, caption: str, *, examples: int
) -> Callable[[Study], Figure]:
    """The figure of a column of curves.parquet against epochs and against time, with intervals.

    Args:
        labels: {method: its label}, a line each; methods that the study lacks are left out.
        column: of curves.parquet.
        caption: the sentence below the figure.
        examples: those of an epoch.
    """
    split, metric = column.split("/")
    scale = "log" if metric == "loss" else "linear"

    def draw(study: Study) -> Figure:
        points = {key: point for key, point in methods(study).items() if key in labels}
        if not points:
            raise Missing(f"nothing to draw: {caption}")
        figure, axes = panels(2, width=5.2, sharey=True)
        for number, key in enumerate(key for key in labels if key in points):
            values = _by_step(study, points[key], column)
            means = [mean_interval(row) for row in values.to_numpy()]
            steps = values.index.to_numpy()
            epochs = steps * study.settings[points[key].point]["batch_size"] / examples
            milliseconds = 1e3 * (steps * seconds_per_step(study, points[key]))
            for ax, x in zip(axes, (epochs, milliseconds), strict=True):
                shaded(ax, x, means, number=number, alpha=0.2, label=labels[key])
        for ax, time in zip(axes, ("epochs", "milliseconds a network, in this study"), strict=True):
            ax.set(xscale="log", yscale=scale, xlabel=time, ylabel=f"{SPLITS[split]} {metric}")
        legend(axes[0])
        return captioned(figure, caption)

    return draw
