"""Curves by restart: their logarithms, and where they begin and end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ablax.report.plot import interval_panels
from ablax.report.quantities import Name, Quantity, Reading
from ablax.report.selection import methods
from ablax.report.statistics import mean_interval
from ablax.report.study import Chosen, Study

LEAST = 1e-30
"""The number that stands for 0 where a logarithm is taken."""


def log10(study: Study, point: str | Chosen, column: str) -> pd.DataFrame:
    """log10 of a column of curves.parquet, as restarts × evaluations.

    NaN where a trial had ended; a value of 0 counts as `LEAST`.
    """
    values = study.curve(point, column).to_numpy(np.float64).T
    return pd.DataFrame(np.log10(np.maximum(values, LEAST)), study.of(point)["restart"].to_numpy())


def ends(rows: pd.DataFrame) -> list[np.ndarray]:
    """[the first finite value of each row, the last of them], of rows that have one.

    >>> ends(pd.DataFrame([[1.0, 2.0, np.nan], [np.inf, 3.0, 4.0], [np.nan] * 3]))
    [array([1., 3.]), array([2., 4.])]
    """
    finite = rows.where(np.isfinite(rows)).dropna(how="all")
    first_and_last = finite.bfill(axis=1).iloc[:, :1], finite.ffill(axis=1).iloc[:, -1:]
    return [end.to_numpy().ravel() for end in first_and_last]


@dataclass(frozen=True)
class LogRatio:
    """Mean over a trial's evaluations of log10(a / b), a and b columns of curves.parquet.

    `ratio[method]` is a quantity, by restart, of what validation chooses of the method. NaN at a
    restart that has no evaluation.

    Attributes:
        numerator: a.
        denominator: b.
        measured: the ratio's name in the evidence.
    """

    numerator: str
    denominator: str
    measured: str

    def __getitem__(self, method: str) -> Quantity:
        name = Name(self.measured, method)

        def read(study: Study) -> Reading:
            point = methods(study)[method]
            logs = log10(study, point, self.numerator) - log10(study, point, self.denominator)
            return {name: logs.mean(axis=1)}

        return Quantity(name, read)


def first_and_last(
    study: Study,
    points: Mapping[str, Chosen],
    columns: Sequence[str],
    caption: str,
    **options: Any,
) -> Figure:
    """Draw log10 of columns of curves.parquet at the first evaluation and at the last one.

    Two panels on one scale: one line per point, the columns side by side as 1, 2, …; the mean over
    the restarts, with its interval. Of a restart that diverges, what it reached.

    Args:
        points: {label: point}.
        columns: such as the same quantity of one layer after another.
        caption: the sentence below the figure.
        options: of `plot.interval_panels`.
    """
    titles = ("first evaluation", "last evaluation")
    drawn: dict[str, dict[str, dict[float, Any]]] = {t: {n: {} for n in points} for t in titles}
    for label, point in points.items():
        for place, column in enumerate(columns, start=1):
            for title, values in zip(titles, ends(log10(study, point, column)), strict=True):
                drawn[title][label][place] = mean_interval(values)
    return interval_panels(drawn, caption, same=True, sharey=True, **options)
