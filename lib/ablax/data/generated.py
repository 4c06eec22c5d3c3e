"""Data sets drawn from a formula: the same arguments give the same bytes.

All are classification with nearly equal classes. `n` counts examples, `noise` is a standard
deviation in the units of the features. A value outside its range raises `UserError`.
"""

import itertools

import numpy as np

from ablax.data.dataset import Dataset, FeatureScale
from ablax.errors import UserError


def xor(n: int | None = None, noise: float = 0.2, seed: int = 0) -> Dataset:
    """XOR: the four points of the truth table, or `n` points around them.

    Without `n` the table is the whole population, so it is its own test split, and
    `split(xor(), valid_size=0, seed=0)` trains on all of it.

    >>> xor().x.tolist(), xor().y.tolist()
    ([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 1, 1, 0])
    """
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    labels = np.array([0, 1, 1, 0], np.int32)
    if n is None:
        return _dataset("xor", corners, labels, "truth table", "none", test=(corners, labels))
    _check("xor_clouds", n=n, noise=noise, seed=seed, smallest=4)
    corner = np.arange(n) % 4
    x = corners[corner] + np.random.default_rng(seed).normal(0, noise, (n, 2))
    return _dataset("xor_clouds", x, labels[corner], f"n={n}, noise={noise}, seed={seed}", "none")


def parity(bits: int) -> Dataset:
    """The parity of `bits` bits, all 2^bits rows of its truth table: x [2^bits, bits] of ±1.

    Class 1 is odd parity: an odd number of bits is set (+1). The table is the whole population, so
    it is its own test split, as that of `xor`, which is the parity of two bits.

    >>> parity(2).x.tolist(), parity(2).y.tolist()
    ([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]], [0, 1, 1, 0])
    """
    if bits < 1:
        raise UserError(f"parity: expected at least 1 bit, got {bits}")
    x = np.array(list(itertools.product([-1, 1], repeat=bits)), np.float32)
    y = ((x > 0).sum(axis=1) % 2).astype(np.int32)
    return _dataset(f"parity-{bits}", x, y, "truth table", "none", test=(x, y))


def moons(n: int = 400, noise: float = 0.2, seed: int = 0) -> Dataset:
    """Two interleaved half circles of radius 1 (scikit-learn's make_moons): x [n, 2]."""
    from sklearn.datasets import make_moons

    _check("moons", n=n, noise=noise, seed=seed)
    x, y = make_moons(n, noise=noise, random_state=seed)
    return _dataset("moons", x, y, f"scikit-learn make_moons, n={n}, noise={noise}, seed={seed}")


def spirals(
    n: int = 400, noise: float = 0.05, arms: int = 2, turns: float = 1.0, seed: int = 0
) -> Dataset:
    """Spiral arms around the origin, one class an arm: x [n, 2].

    A point of arm a at t in (0, 1] lies at radius t and angle 2π(turns · t + a/arms); t is
    the square root of a uniform number, so that the outer windings are as dense as the inner.
    """
    _check("spirals", n=n, noise=noise, seed=seed, smallest=arms)
    if arms < 2:
        raise UserError(f"spirals: expected arms of at least 2, got {arms}")
    rng = np.random.default_rng(seed)
    y = np.arange(n) % arms
    t = np.sqrt(1 - rng.random(n))
    angle = 2 * np.pi * (turns * t + y / arms)
    x = np.stack([t * np.cos(angle), t * np.sin(angle)], axis=1) + rng.normal(0, noise, (n, 2))
    parameters = f"n={n}, noise={noise}, arms={arms}, turns={turns}, seed={seed}"
    return _dataset("spirals", x, y, parameters)


def blobs(
    n: int = 400, noise: float = 1.0, centers: int = 3, features: int = 2, seed: int = 0
) -> Dataset:
    """Gaussian clouds around random centres (scikit-learn's make_blobs): x [n, features]."""
    from sklearn.datasets import make_blobs

    _check("blobs", n=n, noise=noise, seed=seed, smallest=centers)
    if centers < 2 or features < 1:
        raise UserError(
            f"blobs: expected at least 2 centers and 1 feature, got {centers} and {features}"
        )
    x, y, *_ = make_blobs(
        n, n_features=features, centers=centers, cluster_std=noise, random_state=seed
    )
    parameters = f"n={n}, noise={noise}, centers={centers}, features={features}, seed={seed}"
    return _dataset("blobs", x, y, f"scikit-learn make_blobs, {parameters}")


def separable(n: int = 200, margin: float = 0.5, features: int = 2, seed: int = 0) -> Dataset:
    """Two clouds with a gap: a hyperplane through the origin has `margin` γ > 0 to each point.

    Normal points have their distance from a random unit normal w's plane increased by γ, on
    the side of their class: s · (x·w) ≥ γ with s = ±1, up to float32 rounding. A perceptron
    therefore makes at most (R/γ)² mistakes, R the largest norm (Novikoff 1962); the notes give
    that number. Features are not standardized, which would change the margin.
    """
    _check("separable", n=n, noise=0, seed=seed)
    if not 0 < margin < np.inf or features < 1:
        raise UserError(
            f"separable: expected margin > 0 and at least 1 feature, got {margin} and {features}"
        )
    rng = np.random.default_rng(seed)
    w = rng.normal(size=features)
    w /= np.linalg.norm(w)
    x = rng.normal(size=(n, features))
    y = np.arange(n) % 2
    distance = x @ w
    x += np.outer((2 * y - 1) * (np.abs(distance) + margin) - distance, w)
    radius = np.linalg.norm(x, axis=1).max()
    return _dataset(
        "separable",
        x,
        y,
        f"n={n}, margin={margin}, features={features}, seed={seed}",
        "none",
        notes=(
            f"margin {margin}: a perceptron makes at most {(radius / margin) ** 2:.0f} mistakes",
        ),
    )


def _check(name: str, *, n: int, noise: float, seed: int, smallest: int = 2) -> None:
    if n < smallest:
        raise UserError(f"{name}: expected n of at least {smallest}, got {n}")
    if not 0 <= noise < np.inf:
        raise UserError(f"{name}: expected a finite noise of at least 0, got {noise}")
    if not 0 <= seed < 2**32:
        raise UserError(f"{name}: expected a seed from 0 to 2**32 - 1, got {seed}")


def _dataset(
    name: str, x, y, parameters: str, scale_features: FeatureScale = "standardize", **more
) -> Dataset:
    return Dataset(
        name=name,
        x=np.asarray(x, np.float32),
        y=np.asarray(y, np.int32),
        problem="classification",
        source=f"generated: {parameters}",
        classes=tuple(str(label) for label in range(int(np.max(y)) + 1)),
        scale_features=scale_features,
        **more,
    )
