"""Linear separability of two classes and its margin, on the host in float64."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

_ROUNDING = 1e-9


class Margin(NamedTuple):
    """Radius R, margin γ and Novikoff's bound (R/γ)² of points (x, 1) and their best hyperplane.

    Attributes:
        radius: R, the largest norm of a point.
        margin: γ, the distance of the nearest point from the hyperplane.
        weights: (w, b) of the hyperplane, of length 1.
    """

    radius: float
    margin: float
    weights: np.ndarray

    @property
    def most_updates(self) -> float:
        """(R/γ)²: a perceptron that starts at 0 makes no more updates (Novikoff 1962)."""
        return (self.radius / self.margin) ** 2


def margin(x: np.ndarray, positive: np.ndarray) -> Margin | None:
    """The largest margin between two classes; None if no hyperplane separates them.

    min ‖w‖² subject to s (w·x + b) ≥ 1, s = ±1, over w and b together, since the perceptron
    learns its bias like a weight. Solved exactly, as a least distance problem by non-negative
    least squares (Lawson and Hanson 1974, chapter 23).

    Args:
        x: [n, features].
        positive: [n] booleans.

    >>> gap = margin(np.array([[-1.0], [3.0]]), np.array([False, True]))
    >>> round(gap.margin, 4), round(gap.radius**2, 4), round(gap.most_updates, 4)
    (1.4142, 10.0, 5.0)
    >>> margin(np.array([[0.0], [1.0], [2.0]]), np.array([True, False, True])) is None
    True
    """
    points = np.column_stack([np.asarray(x, np.float64), np.ones(len(x))])
    signed = points * np.where(positive, 1.0, -1.0)[:, None]
    # Rows of equal size keep the problem well conditioned.
    scale = np.linalg.norm(signed, axis=1).max()
    rows = np.vstack([signed.T / scale, np.ones(len(x))])
    goal = np.append(np.zeros(points.shape[1]), 1.0)
    solution, _ = nnls(rows, goal, maxiter=100 * len(x))
    residual = rows @ solution - goal
    if np.linalg.norm(residual) < _ROUNDING:
        return None
    weights = residual[:-1] / np.linalg.norm(residual[:-1])
    gap = float((signed @ weights).min())
    if gap < 0:
        weights, gap = -weights, float((signed @ -weights).min())
    return Margin(float(scale), gap, weights) if gap > 0 else None
