"""A data set by its name, or from a user's own file."""

from pathlib import Path

from ablax.data.catalog import DATASETS
from ablax.data.dataset import Dataset
from ablax.data.own_data import load_csv, load_npz
from ablax.errors import UserError, unknown

_TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
_SUFFIXES = (*_TEXT_SUFFIXES, ".npz")


def load(
    name_or_path: str,
    *,
    target: str | int | None = None,
    problem: str = "auto",
    seed: int = 0,
) -> Dataset:
    """A named data set, or the table in a .csv, .tsv, .txt or .npz file.

    `target` names the column to predict in a text table; `problem` may overrule what the
    target looks like. `seed` is that of generated sets; the others do not use it.

    >>> load("iris").classes
    ('setosa', 'versicolor', 'virginica')

    Raises `UserError` for an unknown name, a bad file, or an argument that does not apply.
    """
    path = Path(name_or_path)
    suffix = path.suffix.lower()
    if suffix in _TEXT_SUFFIXES:
        return load_csv(path, target, problem)
    if target is not None:
        raise UserError(
            f"{name_or_path}: expected a target only for a {', '.join(_TEXT_SUFFIXES)} file, "
            f"got target {target!r}"
        )
    if suffix == ".npz":
        return load_npz(path, problem)
    if name_or_path in DATASETS:
        if problem != "auto":
            raise UserError(
                f"{name_or_path}: expected a problem only for a table of your own, got {problem!r}"
            )
        return DATASETS[name_or_path].load(seed)
    if suffix or len(path.parts) > 1:
        raise UserError(
            f"{name_or_path}: expected a file ending in {', '.join(_SUFFIXES)} or the name of a "
            f"data set: {', '.join(sorted(DATASETS))}"
        )
    raise unknown("data set", name_or_path, DATASETS)
