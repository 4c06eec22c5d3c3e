"""Choosing among the points of a study, by validation alone.

Where a restart needs a chosen point, the other restarts choose it, so that no restart is judged by
a choice that it had a part in.

>>> Points({"L2": "l2=0.1"})["L1"]
Traceback (most recent call last):
ablax.errors.Missing: no point of the study has 'L1'
"""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from ablax.errors import Missing
from ablax.report.study import Chosen, Study


class Points(dict[Any, Chosen]):
    """{value of a field: the point chosen among those with it}; `Missing` where there is none."""

    def __missing__(self, value: Any) -> Chosen:
        raise Missing(f"no point of the study has {value!r}")


def methods(study: Study, **where: Any) -> Points:
    """{method: what validation chooses of it}, among the points with these settings.

    Of a method on several baselines (axes that cross the table), of all of them together.
    """
    return _choices(study, "group", where)


def along(study: Study, field: str, **where: Any) -> Points:
    """{value of a field: what validation chooses of the points with it}, from low to high.

    Among the points with these settings: where other axes cross the line, one of each value
    is chosen, as in `methods`. The field "group" has the methods, in the order of the table.
    """
    choices = _choices(study, field, where)
    return choices if field == "group" else Points(sorted(choices.items()))


def _choices(study: Study, field: str, where: dict[str, Any]) -> Points:
    members: dict[Any, list[str]] = {}
    for point in study.among(**where):
        members.setdefault(study.settings[point][field], []).append(point)
    return Points({value: chosen(study, points) for value, points in members.items()})


def best(study: Study) -> Chosen:
    """The best of all points on the validation split: what a user would take."""
    return chosen(study, list(study.settings))


def bests(study: Study) -> dict[str, Chosen]:
    """{baseline: the best of what is compared with it, and of itself}."""
    families: dict[str, list[str]] = {}
    for (baseline, _), points in study.groups().items():
        families.setdefault(baseline, []).extend(points)
    return {baseline: chosen(study, points) for baseline, points in families.items()}


def selected(study: Study, points: Sequence[str]) -> str:
    """The point with the best mean objective on the validation split."""
    return chosen(study, points).point


def chosen(study: Study, points: Sequence[str]) -> Chosen:
    """The choice among some points by their mean objective on the validation split."""
    known = _CHOICES.setdefault(study, {})
    key = tuple(points)
    if key not in known:
        known[key] = _choose(study, key)
    return known[key]


_CHOICES: WeakKeyDictionary[Study, dict[tuple[str, ...], Chosen]] = WeakKeyDictionary()
_MERITS: WeakKeyDictionary[Study, tuple[pd.DataFrame, np.ndarray]] = WeakKeyDictionary()


def _choose(study: Study, points: Sequence[str]) -> Chosen:
    if f"valid/{study.objective.name}" not in study.trials:  # nothing to choose by
        finished = sorted(set(study.trials.loc[study.trials["point"].isin(points), "restart"]))
        return Chosen(points[0], dict.fromkeys(finished, points[0]))
    if study not in _MERITS:
        _MERITS[study] = _merits(study)
    frame, failed = _MERITS[study]
    every, place = frame.to_numpy(), frame.columns.get_indexer(list(points))
    # The worst of each restart, over all points of the study.
    worst = np.where(np.isnan(every), np.inf, every).min(axis=1)
    whole, others = leave_one_out(every[:, place], failed[:, place], worst)
    finished = np.flatnonzero((~np.isnan(every) | failed)[:, place].any(axis=1))
    by_restart = {int(frame.index[i]): points[int(others[i])] for i in finished}
    return Chosen(points[whole], by_restart)


def _merits(study: Study) -> tuple[pd.DataFrame, np.ndarray]:
    """(objective on validation, more is better, NaN of trials that failed; which failed)."""
    name, sign = f"valid/{study.objective.name}", study.objective.sign
    values = sign * study.trials[name].to_numpy(np.float64)
    failed = (study.trials["status"] == "diverged").to_numpy() | ~np.isfinite(values)
    each = study.trials.assign(_merit=np.where(failed, np.nan, values), _failed=failed)
    wide = each.pivot(index="restart", columns="point", values=["_merit", "_failed"])
    merits = pd.DataFrame(wide["_merit"][list(study.settings)].astype(np.float64))
    return merits, pd.DataFrame(wide["_failed"][list(study.settings)]).eq(True).to_numpy()


def leave_one_out(
    merits: Float[np.ndarray, "restarts points"],
    failed: Bool[np.ndarray, "restarts points"],
    worst: Float[np.ndarray, " restarts"],
) -> tuple[int, Int[np.ndarray, " restarts"]]:
    """(the point that all restarts choose, for each restart the one that the others choose).

    The point of the best mean is chosen, the first of equals. A failed trial counts as the worst
    of those who choose (worst rank), a point without any merit is chosen last. Where no other
    restart says anything, as with a single one, a restart chooses for itself.

    Args:
        merits: more is better; NaN where a trial failed or has not finished.
        failed: which trials failed.
        worst: the least merit of each restart; inf where it has none.

    >>> merits = np.array([[0.9, 0.1], [0.3, 0.4], [0.3, 0.4]])
    >>> leave_one_out(merits, np.isnan(merits), merits.min(axis=1))
    (0, array([1, 0, 0]))
    """
    has = ~np.isnan(merits)
    total = np.where(has, merits, 0.0)
    others = _mean(_without(total), _without(has), _without(failed), _without(worst, np.minimum))
    silent = (others == -np.inf).all(axis=1)
    own = np.where(has, merits, -np.inf)
    chosen = np.where(silent[:, None], own, others).argmax(axis=1)
    whole = _mean(total.sum(0), has.sum(0), failed.sum(0), worst.min(initial=np.inf))
    return int(whole.argmax()), chosen


def _mean(total: np.ndarray, n: np.ndarray, failed: np.ndarray, worst: np.ndarray) -> np.ndarray:
    """The mean of n merits and as many of the worst as failed; −inf if none is known."""
    worst = np.asarray(worst)[..., None]
    lost = np.where(failed > 0, failed * np.where(np.isinf(worst), 0.0, worst), 0.0)
    return np.where(n > 0, (total + lost) / np.maximum(n + failed, 1), -np.inf)


def _without(rows: np.ndarray, join: np.ufunc = np.add) -> np.ndarray:
    """For each row what `join` makes of all the others: no bit of it is of the row itself."""
    rows = np.asarray(rows, np.float64)
    nothing = np.full_like(rows[:1], 0.0 if join is np.add else np.inf)
    before = np.concatenate([nothing, join.accumulate(rows)[:-1]])
    after = np.concatenate([join.accumulate(rows[::-1])[::-1][1:], nothing])
    return join(before, after)
