"""Training, validation and test examples of a data set, ready to be put on a device."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ablax.data.dataset import Dataset, Problem
from ablax.errors import UserError

_DEFAULT_SHARE = 0.2


class Split(NamedTuple):
    """Features x float32 [n, *features] and targets y [n], int32 labels or float32 values."""

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True, eq=False)
class Splits:
    """The three disjoint splits, and what a report needs to know about them.

    `target_scale` is what one unit of a regression target is worth in the target's own units
    (1.0 for classification). `fingerprint` names the bytes of all six arrays.
    """

    train: Split
    valid: Split
    test: Split
    problem: Problem
    classes: tuple[str, ...]
    fingerprint: str
    target_scale: float
    notes: tuple[str, ...]


def split(
    dataset: Dataset,
    *,
    train_size: int | None = None,
    valid_size: int | None = None,
    test_size: int | None = None,
    seed: int,
) -> Splits:
    """Split at random, in proportion to the classes, and scale by training statistics.

    Sizes count examples; None means: for the test split the official one, or else 20% of the
    examples; for validation 20% of the examples that are not test, whatever `train_size` is
    (so that training sets of several sizes are judged on the same examples, and the smaller
    ones lie within the larger, class counts permitting); for training all that are left.
    Validation and test may be 0. Each split has every class in proportion to what was left
    when it was drawn, in the order test, validation, training, to within one example.

    Features are shifted and scaled to mean 0 and standard deviation 1 over the training
    examples where the data set says "standardize" (a constant feature is only shifted), and
    so are regression targets. The same seed gives the same bytes.

    Raises `UserError` for sizes that do not fit and for a class without training example.

    >>> from ablax.data.bundled import iris
    >>> splits = split(iris(), test_size=30, seed=0)
    >>> [len(part.y) for part in (splits.train, splits.valid, splits.test)]
    [96, 24, 30]
    """
    if seed < 0:
        raise UserError(f"{dataset.name}: expected a seed of at least 0, got {seed}")
    rng = np.random.default_rng(seed)
    pool = _Pool(_strata(dataset, dataset.y), rng)
    n = len(dataset.y)
    sizes = _sizes(dataset, train_size, valid_size, test_size)
    test_rows = np.arange(0) if dataset.test else pool.draw(sizes["test"])
    valid_rows, train_rows = pool.draw(sizes["valid"]), pool.draw(sizes["train"])
    _check_classes(dataset, train_rows)

    train, valid, test = (
        Split(dataset.x[rows], dataset.y[rows]) for rows in (train_rows, valid_rows, test_rows)
    )
    if dataset.test:
        x, y = dataset.test
        rows = _Pool(_strata(dataset, y), rng).draw(sizes["test"])
        test = Split(x[rows], y[rows])
    unused = n - sum(len(rows) for rows in (train_rows, valid_rows, test_rows))
    parts, target_scale = _scaled(dataset, (train, valid, test))
    official = " (official)" if dataset.test else ""
    note = (
        f"split of {dataset.name} by seed {seed}: train {len(train.y)}, valid {len(valid.y)}, "
        f"test {len(test.y)}{official}, unused {unused}"
    )
    return Splits(
        *parts,
        problem=dataset.problem,
        classes=dataset.classes,
        fingerprint=fingerprint(array for part in parts for array in part),
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


class _Pool:
    """Rows that are drawn without replacement, in proportion to their strata.

    Each stratum is shuffled once and taken from the front, so that a larger draw extends a
    smaller one. (scikit-learn's splitter cannot do that, nor draw nothing or all.)
    """

    def __init__(self, strata: np.ndarray, rng: np.random.Generator) -> None:
        self._rng = rng
        self._left = [
            rng.permutation(np.flatnonzero(strata == stratum)) for stratum in np.unique(strata)
        ]
        self._ties = rng.permutation(len(self._left))

    def draw(self, size: int) -> np.ndarray:
        counts = _apportion(np.array([len(rows) for rows in self._left]), size, self._ties)
        drawn = [rows[:count] for rows, count in zip(self._left, counts, strict=True)]
        self._left = [rows[count:] for rows, count in zip(self._left, counts, strict=True)]
        return self._rng.permutation(np.concatenate(drawn))


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


def _check_classes(dataset: Dataset, train_rows: np.ndarray) -> None:
    if dataset.problem != "classification":
        return
    counts = np.bincount(dataset.y[train_rows], minlength=len(dataset.classes))
    absent = [name for name, count in zip(dataset.classes, counts, strict=True) if not count]
    if absent:
        raise UserError(
            f"{dataset.name}: expected every class among the {len(train_rows)} training examples, "
            f"got none of {', '.join(map(repr, absent))}; ask for more training examples"
        )


def _scaled(dataset: Dataset, parts: tuple[Split, Split, Split]) -> tuple[list[Split], float]:
    """Features and regression targets in units of their training standard deviation."""
    train = parts[0]
    mean, std = np.zeros(()), np.ones(())
    if dataset.scale_features == "standardize":
        mean, std = _statistics(train.x)
    target_mean, target_std = np.zeros(()), np.ones(())
    if dataset.problem == "regression":
        target_mean, target_std = _statistics(train.y)

    def scale(values: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
        return ((values - mean) / std).astype(np.float32)

    scaled = [
        Split(
            scale(part.x, mean, std) if dataset.scale_features == "standardize" else part.x,
            scale(part.y, target_mean, target_std) if dataset.problem == "regression" else part.y,
        )
        for part in parts
    ]
    return scaled, float(target_std)


def _statistics(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over examples; a constant counts as having deviation 1."""
    # float64 holds the sum of equal float32 values exactly, so a constant's deviation is 0.
    mean = values.mean(axis=0, dtype=np.float64)
    std = values.std(axis=0, dtype=np.float64)
    return mean, np.where(std > 0, std, 1.0)
