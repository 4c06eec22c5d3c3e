"""The sweep algebra: plain dicts out of small functions, easy to print and to compare.

A point is a dict of the fields that it sets. The functions build lists of them; what is
ambiguous (a repeated key, an empty axis, zips of unequal length) is an error, because a
grid that is not what was meant is a wrong result.

>>> product(model=["linear", "mlp"], l2=[0.0, 0.1])  # doctest: +NORMALIZE_WHITESPACE
[{'model': 'linear', 'l2': 0.0}, {'model': 'linear', 'l2': 0.1},
 {'model': 'mlp', 'l2': 0.0}, {'model': 'mlp', 'l2': 0.1}]
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ablax.config import field_specs
from ablax.errors import UserError

Setting = dict[str, Any]

GROUP = "group"
"""The key under which `rows` writes the name of a row; no field may be called so."""


def product(**axes: Sequence[Any]) -> list[Setting]:
    """Every combination of the axes' values, the last axis fastest. No axes: one empty point."""
    _refuse_empty(axes)
    return [
        dict(zip(axes, combination, strict=True))
        for combination in itertools.product(*axes.values())
    ]


def zipped(**axes: Sequence[Any]) -> list[Setting]:
    """The axes' values in step with each other; all must have the same length.

    >>> zipped(width=[32, 64], l2=[0.1, 0.2])
    [{'width': 32, 'l2': 0.1}, {'width': 64, 'l2': 0.2}]
    """
    _refuse_empty(axes)
    lengths = {name: len(axis) for name, axis in axes.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"zipped axes must have equal lengths, got {lengths}")
    return [dict(zip(axes, row, strict=True)) for row in zip(*axes.values(), strict=True)]


def chain(*grids: Iterable[Setting]) -> list[Setting]:
    """One grid after the other."""
    return list(itertools.chain.from_iterable(grids))


def cross(left: Sequence[Setting], right: Sequence[Setting]) -> list[Setting]:
    """Every point of `left` with every point of `right`; a key in both is an error.

    >>> cross([{"l2": 0.1}], [{"width": 32}, {"width": 64}])
    [{'l2': 0.1, 'width': 32}, {'l2': 0.1, 'width': 64}]
    """
    combined = []
    for a, b in itertools.product(left, right):
        both = sorted(a.keys() & b.keys())
        if both:
            raise UserError(f"the axis {both[0]} is given twice")
        combined.append(a | b)
    return combined


def rows(baseline: Setting, changes: Mapping[str, Sequence[Setting]]) -> list[Setting]:
    """A paper's ablation table: the baseline, then the named changes, each over the baseline.

    A change is a list of points (one per strength); all of them carry the change's name.

    >>> for point in rows({"width": 32}, {"L2": product(l2=[0.1, 0.2])}):
    ...     print(point)
    {'group': 'baseline', 'width': 32}
    {'group': 'L2', 'width': 32, 'l2': 0.1}
    {'group': 'L2', 'width': 32, 'l2': 0.2}
    """
    table = [{GROUP: "baseline", **baseline}]
    for name, settings in changes.items():
        if not settings:
            raise UserError(f"the row {name!r} has no settings")
        table += [{GROUP: name, **baseline, **setting} for setting in settings]
    return table


def table(config: Any, rows: Sequence[Setting]) -> list[Setting]:
    """An experiment's table; or, where fields that its rows set are given, their grid instead.

    The Config's other axes multiply the table. A row that says how long it trains keeps that, and
    is there once.

    >>> from ablax.config import BaseConfig, hparam
    >>> class Config(BaseConfig):
    ...     l2: float = hparam(0.0, "strength")
    ...     noise: float = hparam(0.0, "deviation")
    >>> ROWS = rows({}, {"L2": product(l2=[0.1])})
    >>> table(Config(noise=(0.0, 1.0)), ROWS[1:])
    [{'group': 'L2', 'l2': 0.1, 'noise': 0.0}, {'group': 'L2', 'l2': 0.1, 'noise': 1.0}]
    >>> table(Config(l2=(0.0, 1.0)), ROWS)
    [{'l2': 0.0}, {'l2': 1.0}]
    """
    chosen = axes(config)
    fields = {field for row in rows for field in row}
    if (fields - {GROUP, "steps", "eval_every"}) & chosen.keys():
        return product(**chosen)
    points = [
        row | {field: value for field, value in setting.items() if field not in row}
        for row in rows
        for setting in product(**chosen)
    ]
    return [point for i, point in enumerate(points) if point not in points[:i]]


def axes(config: Any) -> dict[str, tuple]:
    """The fields of a Config that hold an axis (a tuple of values)."""
    return {
        name: value
        for name in field_specs(config)
        if isinstance(value := getattr(config, name), tuple)
    }


def _refuse_empty(axes: Mapping[str, Sequence[Any]]) -> None:
    for name, axis in axes.items():
        if len(axis) == 0:
            raise UserError(f"the axis {name} has no values")
