"""Quantities of a study, by restart, and what is expected of them: the algebra of claims.

A `Quantity` is a number for every restart, read from a study once there is one. `column` makes one
of a column of trials.parquet, `quantities` of a function. They subtract, add, multiply and divide
restart by restart; comparing two of them, or one with a number, gives an `Expectation`:

    zeros = column("share_below_1e-3", model="mlp")
    zeros["L1"] > zeros["baseline"]                        the mean of L1 − baseline is above 0
    (zeros["L2"] - zeros["baseline"]).within(0.05)         it lies between −0.05 and 0.05
    column("steps")["GL"] / 2000 < 0.75

>>> zeros = column("zeros", model="mlp")
>>> zeros["L2"] < zeros["L1"]
zeros: L2 − L1, model=mlp (expected < 0)
>>> zeros["L2"] < zeros["elastic net"] < zeros["L1"]
Traceback (most recent call last):
TypeError: an expectation is neither true nor false before there is a study; write a < b < c as
two expectations, a < b and b < c
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ablax.errors import Missing
from ablax.report.selection import along
from ablax.report.statistics import Interval, mean_interval, share_interval
from ablax.report.study import Study

Bounds = tuple[float, float]
POSITIVE: Bounds = (0.0, math.inf)
NEGATIVE: Bounds = (-math.inf, 0.0)


@dataclass(frozen=True)
class Effect:
    """A measured quantity and where it should lie.

    Attributes:
        values: one a restart; their mean is the effect.
        measured: name of the quantity.
        expected: where the mean lies if the claim is true.
        share: the values are 0 or 1, so that their mean is a share of the restarts, whose
            interval is the exact one. Else it is Student's t.
    """

    values: np.ndarray
    measured: str
    expected: Bounds = POSITIVE
    share: bool = False

    def interval(self, level: float) -> Interval:
        """Interval of the mean, of this confidence level."""
        if not self.share:
            return mean_interval(self.values, level)
        return share_interval(float(np.sum(self.values)), len(self.values), level)


class Name(NamedTuple):
    """The name of a quantity: what is measured, of which points, under which settings."""

    what: str
    of: str = ""
    where: str = ""
    joined: bool = False  # of two others
    point: str = ""  # that these numbers are of, where there are some for each point

    def __str__(self) -> str:
        return (f"{self.what}: {self.of}" if self.of else self.what) + self.where


Values = pd.Series | np.ndarray
Reading = dict[Name, pd.Series]
"""{name: values by restart}; most quantities have one entry, some one a point."""


@dataclass(frozen=True, eq=False)
class Quantity:
    """Numbers by restart, read from a study.

    Attributes:
        name: of the numbers.
        read: study -> {name: values by restart}; may raise `Missing`.
        share: the numbers are 0 or 1.
        fields: of the Config, by which points are looked up.
    """

    name: Name
    read: Callable[[Study], Reading]
    share: bool = False
    fields: frozenset[str] = frozenset()

    def named(self, what: str) -> Quantity:
        """The same numbers, those of one entry, under another name."""
        name = Name(what)

        def read(study: Study) -> Reading:
            reading = self.read(study)
            if not reading:
                raise Missing(f"the study has no point for {self.name}")
            (values,) = reading.values()
            return {name: values}

        return Quantity(name, read, self.share, self.fields)

    def __sub__(self, other: Quantity | float) -> Quantity:
        return self._with(other, "−", lambda a, b: a - b)

    def __add__(self, other: Quantity | float) -> Quantity:
        return self._with(other, "+", lambda a, b: a + b)

    def __mul__(self, other: Quantity | float) -> Quantity:
        return self._with(other, "·", lambda a, b: a * b)

    def __truediv__(self, other: Quantity | float) -> Quantity:
        return self._with(other, "/", lambda a, b: a / b)

    def __neg__(self) -> Quantity:
        def read(study: Study) -> Reading:
            return {Name(f"−({n})", point=n.point): v * -1.0 for n, v in self.read(study).items()}

        return Quantity(Name(f"−({self.name})"), read, fields=self.fields)

    def __gt__(self, other: Quantity | float) -> Expectation:
        if isinstance(other, Quantity):
            return Expectation(self - other, POSITIVE)
        return Expectation(self, (other, math.inf))

    def __lt__(self, other: Quantity | float) -> Expectation:
        if isinstance(other, Quantity):
            return Expectation(self - other, NEGATIVE)
        return Expectation(self, (-math.inf, other))

    def within(self, low: float, high: float | None = None) -> Expectation:
        """Expect low < mean < high; with one number, a mean of that size at most: ±low."""
        return Expectation(self, (-low, low) if high is None else (low, high))

    def _with(
        self, other: Quantity | float, sign: str, join: Callable[[Any, Any], Any]
    ) -> Quantity:
        if not isinstance(other, Quantity):
            number = float(other)

            def with_number(name: Name) -> Name:
                text = f"{_bracketed(name)} {sign} {number:g}"
                return Name(text, joined=True, point=name.point)

            def scaled(study: Study) -> Reading:
                return {with_number(n): join(v, number) for n, v in self.read(study).items()}

            return Quantity(with_number(self.name), scaled, fields=self.fields)

        def read(study: Study) -> Reading:
            mine, theirs = self.read(study), other.read(study)
            if [name.point for name in mine] != [name.point for name in theirs]:
                raise Missing(f"{self.name} and {other.name} are not of the same points")
            return {
                _joined(a, sign, b): _by_restart(join, mine[a], theirs[b])
                for a, b in zip(mine, theirs, strict=True)
            }

        fields = self.fields | other.fields
        return Quantity(_joined(self.name, sign, other.name), read, fields=fields)


def _joined(a: Name, sign: str, b: Name) -> Name:
    """The name of a and b joined: what they share is named once.

    >>> l1, l2 = (Name("loss", method, ", depth=2") for method in ("L1", "L2"))
    >>> print(_joined(l1, "−", l2))
    loss: L1 − L2, depth=2
    >>> print(_joined(_joined(l1, "−", l2), "/", Name("steps")))
    (loss: L1 − L2, depth=2) / steps
    """
    if a.of and b.of and (a.what, a.where) == (b.what, b.where) and not (a.joined or b.joined):
        return Name(a.what, f"{a.of} {sign} {b.of}", a.where, joined=True)
    return Name(f"{_bracketed(a)} {sign} {_bracketed(b)}", joined=True, point=a.point)


def _bracketed(name: Name) -> str:
    """A name as a part of another: a difference of differences keeps its brackets."""
    return f"({name})" if name.joined else str(name)


def _by_restart(join: Callable[[Any, Any], Any], a: pd.Series, b: pd.Series) -> pd.Series:
    """a and b joined at each restart that both have."""
    both = pd.concat([a, b], axis=1, join="inner").astype(np.float64)
    return join(both.iloc[:, 0], both.iloc[:, 1])


@dataclass(frozen=True, eq=False)
class Expectation:
    """A quantity and the bounds of its mean: what a claim is made of."""

    quantity: Quantity
    bounds: Bounds

    def effects(self, study: Study) -> list[Effect]:
        """The quantity as this study measured it.

        Raises:
            Missing: the study lacks the points.
        """
        reading = self.quantity.read(study)
        if not reading:
            raise Missing(f"the study has no point for {self.quantity.name}")
        share = self.quantity.share
        return [
            Effect(values.to_numpy(np.float64), str(name), self.bounds, share)
            for name, values in reading.items()
        ]

    def __bool__(self) -> bool:
        raise TypeError(
            "an expectation is neither true nor false before there is a study; write a < b < c as "
            "two expectations, a < b and b < c"
        )

    def __repr__(self) -> str:
        return f"{self.quantity.name}{bounds_in_words(self.bounds)}"


@dataclass(frozen=True)
class Column:
    """A column of trials.parquet, among points with some settings: `column[value]`, a quantity.

    Attributes:
        name: of the column.
        by: the field that tells the points apart; "group": the method.
        share: the column is 0 or 1 in every trial.
        measured: its name in the evidence; by default the column's own.
        where: settings of the points.
    """

    name: str
    by: str = "group"
    share: bool = False
    measured: str = ""
    where: Mapping[str, Any] | None = None

    def at(self, **where: Any) -> Column:
        """The column among points that have these settings as well."""
        return replace(self, where={**(self.where or {}), **where})

    def __getitem__(self, value: Any) -> Quantity:
        """The numbers of the points with this value; of several, validation chooses."""
        where = dict(self.where or {})
        settings = "".join(f", {field}={setting}" for field, setting in where.items())
        number = isinstance(value, int | float)
        of = f"{self.by.removeprefix('protocol/')} {value:g}" if number else str(value)
        name = Name(self.measured or self.name, of, settings)

        def read(study: Study) -> Reading:
            return {name: study.values(along(study, self.by, **where)[value], self.name)}

        return Quantity(name, read, self.share, self._fields)

    def intervals(self, study: Study) -> dict[Any, Interval]:
        """{value of the field: the interval of the mean}, from low to high: a line of a figure."""
        points = along(study, self.by, **(self.where or {}))
        return {value: study.interval(point, self.name) for value, point in points.items()}

    @property
    def _fields(self) -> frozenset[str]:
        return frozenset(name for name in (self.by, *(self.where or ())) if name != "group")

    @property
    def everywhere(self) -> Quantity:
        """The numbers of every point with the settings; points without a value are left out."""

        what = self.measured or self.name

        def read(study: Study) -> Reading:
            values = {p: study.values(p, self.name) for p in study.among(**(self.where or {}))}
            complete = {p: v for p, v in values.items() if not v.isna().any()}
            return {Name(f"{what}, {p}", point=p): v for p, v in complete.items()}

        return Quantity(Name(what), read, self.share, self._fields)


def column(
    name: str, by: str = "group", *, share: bool = False, measured: str = "", **where: Any
) -> Column:
    """A column of trials.parquet, by method or by another field; arguments as for `Column`."""
    return Column(name, by, share, measured, where)


def quantities(read: Callable[[Study], Mapping[str, Values]], *, share: bool = False) -> Quantity:
    """The quantities that a function reads from a study: {name: values by restart}.

    For what is not a column: the function may raise `Missing`, or return nothing where the study
    lacks the points. Also a decorator:

        @quantities
        def gain(study):
            return {p: study.values(p, "dropout_gain") - 1 for p in study.among(group="dropout")}

        gain.within(0.02)
    """

    def named(study: Study) -> Reading:
        return {Name(name): pd.Series(values) for name, values in read(study).items()}

    return Quantity(Name(read.__name__.replace("_", " ")), named, share)


def bounds_in_words(bounds: Bounds) -> str:
    """
    >>> bounds_in_words(POSITIVE), bounds_in_words((-0.01, 0.01))
    (' (expected > 0)', ' (expected in ±0.01)')
    """
    low, high = bounds
    if math.isinf(high):
        return f" (expected > {low:g})"
    if math.isinf(low):
        return f" (expected < {high:g})"
    return f" (expected in ±{high:g})" if low == -high else f" (expected in {low:g} to {high:g})"
