"""Choosing among points so that no restart is judged by a choice that it had a part in."""

import numpy as np
from jaxtyping import Bool, Float, Int


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
