"""A user's own table, from a text file or from NumPy arrays.

What cannot be read without guessing is refused, by file, line and column. Text files are read
by `delimited.read`; this module decides what the columns mean.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ablax.data import delimited
from ablax.data.dataset import Dataset, Problem
from ablax.data.delimited import Column
from ablax.errors import UserError, unknown

_PROBLEMS = ("auto", "classification", "regression")
_FEWEST_ROWS = 10
_FEWEST_PER_CLASS = 3  # one for each split
_FEW_VALUES = 20  # as many whole numbers are still class labels, or codes
_MOST_CATEGORIES = 100
_SHOWN = 5
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "?"})
_TRUTH = {"false": 0.0, "true": 1.0}


class Target(NamedTuple):
    """Target y [n] as in `Dataset`, and how its kind was decided."""

    y: np.ndarray
    classes: tuple[str, ...]
    problem: Problem
    why: str


def load_csv(path: str | Path, target: str | int | None, problem: str = "auto") -> Dataset:
    """The table in a text file, with the column `target` to be predicted from all others.

    `target` is a name of the header or a position, from 0, or -1 for the last. Delimiter and
    header are detected as `delimited.read` says. Numbers stay as they are, true and false
    become 1 and 0, other text becomes one column of 0 and 1 per value, named like color=red.
    Columns of one value are dropped. `problem` "auto" means classification where the target is
    text, or whole numbers with at most 20 distinct values, and regression otherwise; the notes
    say what was decided.

    Raises `UserError`, with lines and columns, for anything else: missing and infinite values,
    fewer than 10 rows, a class of fewer than 3, a text column of more than 100 values, …
    """
    path = Path(path)
    _check_problem(problem)
    table = delimited.read(path)
    names = [column.name for column in table.columns]
    if target is None:
        raise UserError(
            f"{path}: expected --target with the column to predict; columns: {', '.join(names)}"
        )
    position = _position(path, target, names)
    _check_rows(path, len(table.columns[0].cells))
    _check_missing(path, table.columns)
    goal = _target(path, table.columns[position], problem)
    x, features, dropped = _features(
        path, [column for number, column in enumerate(table.columns) if number != position]
    )
    kind = (
        f"{path.name}: {len(x)} rows, {len(features)} features, "
        f"header {'yes' if table.header else 'no'}, delimiter {table.delimiter!r}"
    )
    return Dataset(
        name=path.name,
        x=x,
        y=goal.y,
        problem=goal.problem,
        source=str(path),
        classes=goal.classes,
        feature_names=features,
        notes=(
            kind,
            *_target_notes(names[position], goal),
            *([f"dropped columns of a single value: {_listed(dropped)}"] if dropped else []),
        ),
    )


def load_npz(path: str | Path, problem: str = "auto") -> Dataset:
    """The arrays X [n, *features] and y [n] of a .npz file, as `np.savez(path, X=X, y=y)` writes.

    X holds numbers or truth values; y also text. The problem is decided as for `load_csv`.
    Raises `UserError` for a damaged file, other names, other shapes, or values not finite.
    """
    path = Path(path)
    _check_problem(problem)
    x, y = _npz_arrays(path)
    if x.ndim < 2 or y.ndim != 1 or len(x) != len(y) or not x.size:
        raise UserError(
            f"{path}: expected X of shape [n, features, …] and y of shape [n], "
            f"got {x.shape} and {y.shape}"
        )
    if x.dtype.kind not in "biuf" or y.dtype.kind not in "biufU":
        raise UserError(
            f"{path}: expected numbers in X and numbers or text in y, got {x.dtype} and {y.dtype}"
        )
    _check_rows(path, len(y))
    x = _float32(x)
    bad = ~np.isfinite(x).reshape(len(x), -1).all(axis=1)
    if bad.any():
        raise UserError(
            f"{path}: expected finite numbers that fit float32 in X, got others in {bad.sum()} "
            f"rows, the first at index {bad.argmax()}"
        )
    cells = tuple(str(value) for value in y.tolist())
    column = Column("y", cells, tuple(f"index {number}" for number in range(len(y))))
    _check_missing(path, [column])
    goal = _target(path, column, problem)
    return Dataset(
        name=path.name,
        x=x,
        y=goal.y,
        problem=goal.problem,
        source=str(path),
        classes=goal.classes,
        notes=(
            f"{path.name}: {len(x)} rows, features of shape {x.shape[1:]}",
            *_target_notes("y", goal),
        ),
    )


def _npz_arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        # NumPy leaves a damaged file open where it opened it itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if sorted(archive.files) != ["X", "y"]:
                raise UserError(
                    f"{path}: expected arrays X and y and no others, got {_listed(archive.files)}"
                )
            return archive["X"], archive["y"]
    except UserError:
        raise
    except Exception as error:  # NumPy and zipfile document no list of what a bad file raises
        raise UserError(
            f"{path}: expected a readable .npz file of plain arrays X and y, got: {error}"
        ) from error


def _check_problem(problem: str) -> None:
    if problem not in _PROBLEMS:
        raise unknown("problem", problem, _PROBLEMS)


def _check_rows(path: Path, rows: int) -> None:
    if rows < _FEWEST_ROWS:
        raise UserError(f"{path}: expected at least {_FEWEST_ROWS} rows of data, got {rows}")


def _position(path: Path, target: str | int, names: list[str]) -> int:
    """Index of the target column, given by its name or else by its position."""
    if target in names:
        return names.index(str(target))
    try:
        position = int(target)
    except ValueError:
        raise UserError(f"{path}: {unknown('column', str(target), names)}") from None
    if not -1 <= position < len(names):
        raise UserError(
            f"{path}: expected target to be a position from 0 to {len(names) - 1}, -1 for the "
            f"last, or one of the columns {', '.join(names)}; got {target}"
        )
    return position % len(names)


def _check_missing(path: Path, columns: Sequence[Column]) -> None:
    # Row by row, so that the first few are those at the top of the file.
    missing = [
        f"{cell!r} in {place}, column {column.name}"
        for row, place in enumerate(columns[0].places)
        for column in columns
        if (cell := column.cells[row]).lower() in _MISSING
    ]
    if missing:
        raise UserError(
            f"{path}: expected a value in every cell, got {len(missing)} missing: "
            f"{_listed(missing)}; drop those rows or fill them in"
        )


def _target(path: Path, column: Column, problem: str) -> Target:
    numbers = _numbers(path, column)
    kind, why = _decide(numbers, problem)
    if kind == "classification":
        y, classes = _labels(path, column, numbers)
        return Target(y, classes, kind, why)
    if numbers is None:
        raise UserError(
            f"{path}: expected numbers in target {column.name} for regression, "
            f"got text such as {next(c for c in column.cells if not delimited.is_number(c))!r}"
        )
    y = _float32(numbers)
    if y.min() == y.max():
        raise UserError(
            f"{path}: expected target {column.name} to vary, got {column.cells[0]} in every row"
        )
    return Target(y, (), kind, why)


def _decide(numbers: np.ndarray | None, problem: str) -> tuple[Problem, str]:
    if problem == "classification" or problem == "regression":
        return problem, "it was asked for"
    if numbers is None:
        return "classification", "the target is text"
    distinct = len(np.unique(numbers))
    if not np.all(numbers == np.floor(numbers)):
        return "regression", "the target has fractions"
    if distinct > _FEW_VALUES:
        return "regression", f"the target has {distinct} distinct values"
    return "classification", f"the target has {distinct} distinct values, all whole numbers"


def _labels(
    path: Path, column: Column, numbers: np.ndarray | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """int32 labels and the sorted classes; 1 and 1.0 are one class."""
    values = np.array(column.cells) if numbers is None else numbers
    levels, y = np.unique(values, return_inverse=True)
    if len(levels) < 2:
        raise UserError(
            f"{path}: expected at least 2 classes in target {column.name}, "
            f"got only {column.cells[0]!r}"
        )
    classes = tuple(str(level) if numbers is None else f"{level:.15g}" for level in levels)
    rare = [
        f"{label!r} ({count})"
        for label, count in zip(classes, np.bincount(y), strict=True)
        if count < _FEWEST_PER_CLASS
    ]
    if rare:
        raise UserError(
            f"{path}: expected at least {_FEWEST_PER_CLASS} rows of each class of target "
            f"{column.name} (one for each split), got fewer of {_listed(rare)}"
        )
    return y.astype(np.int32), classes


def _target_notes(name: str, goal: Target) -> list[str]:
    notes = [f"target {name}: {goal.problem}, because {goal.why}"]
    if goal.classes:
        counts = zip(goal.classes, np.bincount(goal.y), strict=True)
        notes.append("classes: " + _listed([f"{label} ({count})" for label, count in counts]))
    return notes


def _features(
    path: Path, columns: Iterable[Column]
) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """float32 [n, features], their names, and the names of the columns that were dropped."""
    features: dict[str, np.ndarray] = {}
    dropped = []
    for column in columns:
        encoded = _encode(path, column)
        if all(values.min() == values.max() for values in encoded.values()):
            dropped.append(column.name)
            continue
        for name, values in encoded.items():
            if name in features:
                raise UserError(
                    f"{path}: expected distinct feature names, got {name!r} both as a column and "
                    f"as a value of a text column; rename the column"
                )
            features[name] = values
    if not features:
        raise UserError(
            f"{path}: expected a feature that varies, got only columns of a single value: "
            f"{_listed(dropped)}"
        )
    return np.stack(list(features.values()), axis=1), tuple(features), dropped


def _encode(path: Path, column: Column) -> dict[str, np.ndarray]:
    """One column of text as columns of float32 numbers, by feature name."""
    numbers = _numbers(path, column)
    if numbers is not None:
        return {column.name: _float32(numbers)}
    lower = [cell.lower() for cell in column.cells]
    if all(cell in _TRUTH for cell in lower):
        return {column.name: np.array([_TRUTH[cell] for cell in lower], np.float32)}
    if all(delimited.is_number(cell.replace(",", ".")) for cell in column.cells):
        comma = next(cell for cell in column.cells if "," in cell)
        raise UserError(
            f"{path}: expected decimal points in column {column.name}, got a comma in {comma!r}"
        )
    values, codes = np.unique(np.array(column.cells), return_inverse=True)
    words = [i for i, cell in enumerate(column.cells) if not delimited.is_number(cell)]
    if len(words) < len(codes) and len(values) > _FEW_VALUES:
        # One misprint must not turn a column of measurements into a hundred categories.
        places = _listed([f"{column.cells[i]!r} in {column.places[i]}" for i in words])
        raise UserError(
            f"{path}: expected column {column.name} to be all numbers or all text, got numbers "
            f"and {places}"
        )
    if len(values) > _MOST_CATEGORIES:
        raise UserError(
            f"{path}: expected numbers or at most {_MOST_CATEGORIES} distinct texts in column "
            f"{column.name}, got {len(values)} texts such as {str(values[0])!r}; drop the column "
            f"or encode it as numbers"
        )
    return {
        f"{column.name}={value}": (codes == code).astype(np.float32)
        for code, value in enumerate(values)
    }


def _numbers(path: Path, column: Column) -> np.ndarray | None:
    """float64 [n], or None unless every cell is a number; refused where float32 is infinite."""
    if not all(map(delimited.is_number, column.cells)):
        return None
    numbers = np.array([float(cell) for cell in column.cells])
    infinite = np.flatnonzero(~np.isfinite(_float32(numbers)))
    if len(infinite):
        places = _listed([f"{column.cells[i]!r} in {column.places[i]}" for i in infinite])
        raise UserError(
            f"{path}: expected finite numbers that fit float32 in column {column.name}, "
            f"got {places}"
        )
    return numbers


def _float32(values: np.ndarray) -> np.ndarray:
    """The numbers as float32; too large ones become infinite, which the callers refuse."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _listed(items: Sequence[str]) -> str:
    """The first few, and how many more.

    >>> _listed(list("abcdefg"))
    'a, b, c, d, e and 2 more'
    """
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
