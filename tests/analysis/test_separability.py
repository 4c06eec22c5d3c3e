"""The largest margin: against scikit-learn's, and against what a perceptron does with it."""

import numpy as np
import pytest
from scipy.stats import ortho_group
from sklearn.svm import SVC

from ablax.analysis.separability import margin
from ablax.data import generated

SETS = [(20, 2, 0.5, 0), (200, 2, 0.5, 1), (300, 5, 0.01, 2), (100, 1, 3.0, 3), (500, 10, 0.2, 4)]
EVERY = pytest.mark.parametrize(("n", "features", "gap", "seed"), SETS)


def separable(n, features, gap, seed):
    data = generated.separable(n, margin=gap, features=features, seed=seed)
    return data.x.astype(np.float64), data.y == 1


def augmented(x):
    return np.column_stack([x, np.ones(len(x))])


def signs(positive):
    return np.where(positive, 1.0, -1.0)


@EVERY
def test_the_margin_is_that_of_a_hard_margin_classifier_through_the_origin(n, features, gap, seed):
    """With every point (x, 1) and its negative, scikit-learn's own intercept has to be 0."""
    x, positive = separable(n, features, gap, seed)
    points = augmented(x)
    classifier = SVC(kernel="linear", C=1e10, tol=1e-8)
    classifier.fit(np.vstack([points, -points]), np.concatenate([positive, ~positive]))
    w = classifier.coef_[0] / np.linalg.norm(classifier.coef_)
    result = margin(x, positive)
    np.testing.assert_allclose(result.margin, (points @ w * signs(positive)).min(), rtol=1e-4)
    np.testing.assert_allclose(result.weights, w, atol=2e-3)


@EVERY
def test_the_margin_is_the_distance_of_the_nearest_point(n, features, gap, seed):
    x, positive = separable(n, features, gap, seed)
    result = margin(x, positive)
    np.testing.assert_allclose(np.linalg.norm(result.weights), 1)
    distances = augmented(x) @ result.weights * signs(positive)
    np.testing.assert_allclose(result.margin, distances.min())
    np.testing.assert_allclose(result.radius, np.sqrt((x**2).sum(1).max() + 1))
    assert result.most_updates == (result.radius / result.margin) ** 2


@EVERY
def test_it_is_at_least_the_margin_that_the_set_was_made_with(n, features, gap, seed):
    """Which a hyperplane through the origin of the plane has: the bias can only help."""
    assert margin(*separable(n, features, gap, seed)).margin >= gap * (1 - 1e-6)


def test_no_other_hyperplane_has_a_larger_margin():
    x, positive = separable(60, 2, 0.3, 5)
    result = margin(x, positive)
    tried = np.random.default_rng(0).normal(size=(20_000, 3))
    tried = np.vstack([tried, result.weights + 1e-3 * tried])
    tried /= np.linalg.norm(tried, axis=1)[:, None]
    margins = (augmented(x) @ tried.T * signs(positive)[:, None]).min(0)
    assert margins.max() <= result.margin
    assert margins.max() > 0.99 * result.margin


@pytest.mark.parametrize(
    ("x", "positive", "expected"),
    [
        ([[-1.0], [3.0]], [0, 1], 2**0.5),  # x = −1 and x = 3 are at ½√2·|x − 1| + …
        ([[1.0], [-1.0]], [1, 0], 1.0),  # (1, 1) and −(−1, 1): the first axis
        ([[0.0, 2.0], [0.0, -2.0]], [1, 0], 2.0),
        ([[3.0, 4.0]], [1], 26**0.5),  # a point alone: all of its length
        ([[3.0, 4.0]], [0], 26**0.5),
        ([[5.0], [6.0], [7.0]], [1, 1, 1], 26**0.5),  # one class: the nearest point's length
    ],
)
def test_margins_that_are_known(x, positive, expected):
    result = margin(np.array(x), np.array(positive, bool))
    np.testing.assert_allclose(result.margin, expected, rtol=1e-9)


SQUARE = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
CLOUD = np.random.default_rng(0).normal(size=(100, 3))
INSEPARABLE = {
    "exclusive or": (SQUARE, [0, 1, 1, 0]),
    "exclusive or, centred": (2 * SQUARE - 1, [0, 1, 1, 0]),
    "one between two": ([[0.0], [1.0], [2.0]], [1, 0, 1]),
    "a point of both classes": ([[1.0, 2.0], [1.0, 2.0], [5.0, 0.0]], [0, 1, 1]),
    "overlapping clouds": (CLOUD + np.arange(100)[:, None] % 2 * 0.5, np.arange(100) % 2),
    "random labels": (CLOUD, np.random.default_rng(1).integers(0, 2, 100)),
    "far from the origin": (SQUARE + 1000, [0, 1, 1, 0]),
    "xor clouds": (generated.xor(200).x, generated.xor(200).y),
    "moons": (generated.moons().x, generated.moons().y),
}


@pytest.mark.parametrize("name", INSEPARABLE)
def test_what_no_hyperplane_separates_has_no_margin(name):
    x, positive = INSEPARABLE[name]
    assert margin(np.asarray(x), np.asarray(positive, bool)) is None


@pytest.mark.parametrize("logic", [(0, 0, 0, 1), (0, 1, 1, 1), (1, 1, 1, 0), (1, 0, 1, 0)])
def test_logic_gates_other_than_exclusive_or_have_one(logic):
    assert margin(SQUARE, np.array(logic, bool)).margin > 0.2


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6])
def test_a_narrow_gap_is_found(gap):
    x = np.array([[1.0 + gap, 3.0], [1.0 - gap, 3.0], [4.0, -2.0], [-4.0, -1.0]])
    result = margin(x, np.array([True, False, True, False]))
    # The plane x₀ = 1 has the normal (1, 0, −1)/√2.
    assert gap / 2**0.5 <= result.margin <= gap * 1.001


# What leaves it unchanged


CHANGES = {
    "another order": lambda x, p: (x[::-1], p[::-1]),
    "every point twice": lambda x, p: (np.vstack([x, x]), np.append(p, p)),
    "the classes swapped": lambda x, p: (x, ~p),
    "turned about the origin": lambda x, p: (x @ ortho_group.rvs(3, random_state=0), p),
    "a feature that is 0": lambda x, p: (np.column_stack([x, np.zeros(len(x))]), p),
    "float32": lambda x, p: (x.astype(np.float32), p),
}


@pytest.mark.parametrize("name", CHANGES)
def test_margin_and_bound_do_not_change_with(name):
    x, positive = separable(80, 3, 0.2, 6)
    before, after = margin(x, positive), margin(*CHANGES[name](x, positive))
    for field in ("margin", "radius", "most_updates"):
        np.testing.assert_allclose(getattr(after, field), getattr(before, field), rtol=1e-6)


def test_scaling_changes_the_bound_for_the_bias_stays_1():
    """(c x, 1) is not a multiple of (x, 1): only where all is far from 0 does c drop out."""
    x, positive = separable(80, 3, 0.2, 6)
    bounds = [margin(c * x, positive).most_updates for c in (0.01, 1.0, 1e4, 1e6)]
    assert bounds[0] > 100 * bounds[1]
    np.testing.assert_allclose(bounds[2], bounds[3], rtol=1e-3)


def test_fewer_points_have_no_smaller_margin():
    x, positive = separable(80, 3, 0.2, 6)
    margins = [margin(x[:n], positive[:n]).margin for n in (80, 40, 20, 10, 5)]
    assert margins == sorted(margins)
    assert margins[0] < margins[-1]


# Novikoff


def updates(x, positive, rng):
    """Those of a perceptron that starts at 0, until it makes none in a pass."""
    signed, w, n = augmented(x) * signs(positive)[:, None], np.zeros(x.shape[1] + 1), 0
    while True:
        before = n
        for row in signed[rng.permutation(len(x))]:
            if row @ w <= 0:
                w, n = w + row, n + 1
        if n == before:
            return n


@pytest.mark.parametrize(("n", "features", "gap", "seed"), [*SETS[:2], SETS[3], (40, 3, 0.1, 7)])
def test_a_perceptron_makes_no_more_updates(n, features, gap, seed):
    x, positive = separable(n, features, gap, seed)
    bound = margin(x, positive).most_updates
    counts = [updates(x, positive, np.random.default_rng(order)) for order in range(20)]
    assert 1 <= max(counts) <= bound


def test_the_bound_is_reached():
    """By orthogonal points of one length, each of which has to be learnt: (R/γ)² = n."""
    # (x, 1) of these two are orthogonal: x₁·x₂ = −1.
    x, positive = np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([True, False])
    result = margin(x, positive)
    np.testing.assert_allclose(result.most_updates, 2)
    assert updates(x, positive, np.random.default_rng(0)) == 2
