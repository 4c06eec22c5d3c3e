"""Training, validation and test examples of a data set, ready to be put on a device.

The test split is drawn once, or is the official one. What is left is the pool, out of which
every restart may draw training and validation examples of its own: so that what a study says
holds for more than one lucky split (Bouthillier et al. 2021, "Accounting for variance in
machine learning benchmarks").
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from ablax.data.dataset import Dataset, Problem
from ablax.data.order import shuffled
from ablax.errors import UserError

_DEFAULT_SHARE = 0.2


class Split(NamedTuple):
    """Features x float32 [n, *features] and targets y [n], int32 labels or float32 values."""

    x: np.ndarray
    y: np.ndarray


class Subset(NamedTuple):
    """The `rows` of x and y: what a trial draws of a pool that all trials share."""

    x: np.ndarray
    y: np.ndarray
    rows: Int[Array, " n"]


class Stratum(NamedTuple):
    """Consecutive rows of the pool (those of a class), and how many of them each split gets."""

    start: int
    size: int
    valid: int
    train: int


@dataclass(frozen=True, eq=False)
class Splits:
    """The pool and the test split, and what a report needs to know about them.

    Attributes:
        pool: the examples that are not test, stratum by stratum.
        test: examples that are not in the pool (but where both are the whole population).
        strata: the classes of the pool; one stratum for a regression.
        seed: that drew the test split.
        target_scale: what one unit of a regression target is worth in the target's own units
            (1.0 for classification).
        fingerprint: names the bytes of all four arrays, and the strata.
    """

    pool: Split
    test: Split
    strata: tuple[Stratum, ...]
    seed: int
    problem: Problem
    classes: tuple[str, ...]
    fingerprint: str
    target_scale: float
    notes: tuple[str, ...]

    @property
    def n_train(self) -> int:
        return sum(stratum.train for stratum in self.strata)

    @property
    def n_valid(self) -> int:
        return sum(stratum.valid for stratum in self.strata)

    def draw(self, key: Key[Array, ""]) -> tuple[Int[Array, " train"], Int[Array, " valid"]]:
        """(training rows, validation rows) of the pool: disjoint, at random, without replacement.

        As many of each stratum as it says, stratum by stratum. In each the validation rows are
        the first of a random order and the training rows the next, so that with the same key a
        smaller training set lies within a larger one.
        """
        start, size, valid, train = np.array(self.strata).T
        drawn = valid + train
        number = np.repeat(np.arange(len(drawn)), drawn)
        position = np.concatenate([np.arange(n) for n in drawn])
        rows = shuffled(key, number, position, size[number]) + jnp.int32(start[number])
        for_valid = position < valid[number]
        return rows[np.flatnonzero(~for_valid)], rows[np.flatnonzero(for_valid)]

    @cached_property
    def _drawn(self) -> tuple[Split, Split]:
        rng = np.random.default_rng(self.seed)
        train, valid = map(np.array, self.draw(jax.random.key(self.seed)))
        valid, train = rng.permutation(valid), rng.permutation(train)  # from class by class
        x, y = self.pool
        return Split(x[train], y[train]), Split(x[valid], y[valid])

    @property
    def train(self) -> Split:
        """The training examples that `seed` draws: one split for all restarts."""
        return self._drawn[0]

    @property
    def valid(self) -> Split:
        """The validation examples that `seed` draws: one split for all restarts."""
        return self._drawn[1]


def split(
    dataset: Dataset,
    *,
    train_size: int | None = None,
    valid_size: int | None = None,
    test_size: int | None = None,
    seed: int,
) -> Splits:
    """Set the test split aside at random, in proportion to the classes, and scale by the rest.

    Sizes count examples; None means: for the test split the official one, or else 20% of the
    examples; for validation 20% of the examples that are not test, whatever `train_size` is
    (so that training sets of several sizes are judged on the same examples); for training all
    that are left. Validation and test may be 0. Each split has every class in proportion to
    what was left when it was drawn, in the order test, validation, training, to within one
    example.

    Features are shifted and scaled to mean 0 and standard deviation 1 over the pool, which is
    all that is not test, where the data set says "standardize" (a constant feature is only
    shifted), and so are regression targets. The same seed gives the same bytes.

    Raises `UserError` for sizes that do not fit and for a class without training example.

    >>> from ablax.data.bundled import iris
    >>> splits = split(iris(), test_size=30, seed=0)
    >>> [len(part.y) for part in (splits.train, splits.valid, splits.test)]
    [96, 24, 30]
    """
    if seed < 0:
        raise UserError(f"{dataset.name}: expected a seed of at least 0, got {seed}")
    rng = np.random.default_rng(seed)
    sizes = _sizes(dataset, train_size, valid_size, test_size)
    left = _Strata(_strata(dataset, dataset.y), rng)
    if dataset.test:
        x, y = dataset.test
        rows = _Strata(_strata(dataset, y), rng).draw(sizes["test"])
        test = Split(x[rows], y[rows])
    else:
        rows = left.draw(sizes["test"])
        test = Split(dataset.x[rows], dataset.y[rows])
    strata = left.apportioned(sizes["valid"], sizes["train"])
    _check_classes(dataset, strata)
    rows = left.rows()
    pool, test, target_scale = _scaled(dataset, Split(dataset.x[rows], dataset.y[rows]), test)
    official = " (official)" if dataset.test else f" (by seed {seed})"
    unused = len(pool.y) - sizes["train"] - sizes["valid"]
    note = (
        f"split of {dataset.name}: train {sizes['train']}, valid {sizes['valid']}, "
        f"test {len(test.y)}{official}, unused {unused}"
    )
    return Splits(
        pool,
        test,
        strata,
        seed,
        problem=dataset.problem,
        classes=dataset.classes,
        fingerprint=fingerprint([*pool, *test, np.array(strata)]),
        target_scale=target_scale,
        notes=(*dataset.notes, note),
    )


def fingerprint(arrays: Iterable[np.ndarray]) -> str:
    """16 hexadecimal digits that name the arrays' dtypes, shapes and bytes, in order.

    >>> fingerprint([np.zeros(2)]) == fingerprint([np.zeros((2, 1))])
    False
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


class _Strata:
    """Rows by stratum, each shuffled, of which the first are drawn for the test split.

    (scikit-learn's splitter cannot draw nothing, or all.)
    """

    def __init__(self, strata: np.ndarray, rng: np.random.Generator) -> None:
        self._rng = rng
        self._left = [
            rng.permutation(np.flatnonzero(strata == stratum)) for stratum in np.unique(strata)
        ]
        self._ties = rng.permutation(len(self._left))

    def draw(self, size: int) -> np.ndarray:
        counts = _apportion(self._sizes(), size, self._ties)
        drawn = [rows[:count] for rows, count in zip(self._left, counts, strict=True)]
        self._left = [rows[count:] for rows, count in zip(self._left, counts, strict=True)]
        return self._rng.permutation(np.concatenate(drawn))

    def apportioned(self, valid: int, train: int) -> tuple[Stratum, ...]:
        """How many rows of each stratum the validation and the training split get."""
        sizes = self._sizes()
        of_valid = _apportion(sizes, valid, self._ties)
        of_train = _apportion(sizes - of_valid, train, self._ties)
        starts = np.cumsum(sizes) - sizes
        columns = (starts, sizes, of_valid, of_train)
        return tuple(Stratum(*map(int, row)) for row in zip(*columns, strict=True))

    def rows(self) -> np.ndarray:
        """Rows that are in no split, stratum by stratum."""
        return np.concatenate(self._left)

    def _sizes(self) -> np.ndarray:
        return np.array([len(rows) for rows in self._left])


def _apportion(counts: np.ndarray, size: int, ties: np.ndarray) -> np.ndarray:
    """How many of `size` each of `counts` gets: its quota, rounded by largest remainder.

    >>> _apportion(np.array([50, 30, 20]), 9, ties=np.arange(3))
    array([4, 3, 2])
    """
    if not size:
        return np.zeros_like(counts)
    whole, remainder = np.divmod(counts * size, counts.sum())
    winners = np.lexsort((ties, -remainder))[: size - whole.sum()]
    whole[winners] += 1
    return whole


def _strata(dataset: Dataset, y: np.ndarray) -> np.ndarray:
    return y if dataset.problem == "classification" else np.zeros(len(y), np.int32)


def _sizes(
    dataset: Dataset, train_size: int | None, valid_size: int | None, test_size: int | None
) -> dict[str, int]:
    """The three sizes, defaults filled in; refused where they do not fit."""
    n = len(dataset.y)
    for word, size, smallest in [
        ("train", train_size, 1),
        ("valid", valid_size, 0),
        ("test", test_size, 0),
    ]:
        if size is not None and (not isinstance(size, int) or size < smallest):
            raise UserError(
                f"{dataset.name}: expected {word}_size to be a whole number of examples, "
                f"at least {smallest}, got {size!r}"
            )
    if dataset.test:
        official = len(dataset.test[1])
        test = official if test_size is None else test_size
        if test > official:
            raise UserError(
                f"{dataset.name}: expected test_size of at most {official}, the official test "
                f"split, got {test}"
            )
        left, origin = n, f"{n} examples outside the official test split"
    else:
        test = round(_DEFAULT_SHARE * n) if test_size is None else test_size
        left, origin = n - test, f"{n} examples less test {test}"
    valid = round(_DEFAULT_SHARE * max(left, 0)) if valid_size is None else valid_size
    train = left - valid if train_size is None else train_size
    if train < 1 or train + valid > left:
        raise UserError(
            f"{dataset.name}: expected train + valid of at most {max(left, 0)} ({origin}) with at "
            f"least 1 in train, got train {train if train_size is not None else 'the rest'} + "
            f"valid {valid}"
        )
    return {"train": train, "valid": valid, "test": test}


def _check_classes(dataset: Dataset, strata: tuple[Stratum, ...]) -> None:
    if dataset.problem != "classification":
        return
    present = {int(label) for label in np.unique(dataset.y)}
    counts = dict.fromkeys(range(len(dataset.classes)), 0)
    counts |= {label: s.train for label, s in zip(sorted(present), strata, strict=True)}
    absent = [name for label, name in enumerate(dataset.classes) if not counts[label]]
    if absent:
        raise UserError(
            f"{dataset.name}: expected every class among the {sum(counts.values())} training "
            f"examples, got none of {', '.join(map(repr, absent))}; ask for more training examples"
        )


def _scaled(dataset: Dataset, pool: Split, test: Split) -> tuple[Split, Split, float]:
    """Features and regression targets in units of their standard deviation over the pool."""
    mean, std = np.zeros(()), np.ones(())
    if dataset.scale_features == "standardize":
        mean, std = _mean_and_deviation(pool.x)
    target_mean, target_std = np.zeros(()), np.ones(())
    if dataset.problem == "regression":
        target_mean, target_std = _mean_and_deviation(pool.y)

    def scale(values: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
        return ((values - mean) / std).astype(np.float32)

    def scaled(part: Split) -> Split:
        x = scale(part.x, mean, std) if dataset.scale_features == "standardize" else part.x
        regression = dataset.problem == "regression"
        return Split(x, scale(part.y, target_mean, target_std) if regression else part.y)

    return scaled(pool), scaled(test), float(target_std)


def _mean_and_deviation(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over examples; a constant counts as having deviation 1."""
    # float64 holds the sum of equal float32 values exactly, so a constant's deviation is 0.
    mean = values.mean(axis=0, dtype=np.float64)
    std = values.std(axis=0, dtype=np.float64)
    return mean, np.where(std > 0, std, 1.0)
