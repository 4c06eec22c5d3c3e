"""The tables of a run directory: Parquet, in parts while running, canonical at the end.

Every part is written to a temporary name and renamed, so that a crash leaves no half file.
Parts carry the trial's id; `compact` joins them, sorts them in the order of the plan and
rewrites each table once: equal studies are equal bytes, however they were flushed.

What a finished trial leaves (arrays, curves, its snapshot) is written before its row of the
table `trials`, by parts and by `compact` alike: a trial that has a row is complete.
"""

import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from flax.traverse_util import flatten_dict, unflatten_dict

from ablax.errors import UserError

TABLES = ("timings", "curves", "trials")  # trials last: a row there says that all else is whole


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path` if the block succeeds.

    Raises:
        UserError: the disk is full or the place cannot be written; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())  # or a power failure leaves the new name with old bytes
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, value: Any) -> None:
    """Standard JSON: infinities are written as "inf" and "-inf", NaN as null."""
    with replacing(path) as temporary:
        text = json.dumps(_standard(value), indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n")


def _standard(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _standard(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_standard(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def write_parquet(path: Path, table: pd.DataFrame | pa.Table) -> None:
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    # One type for text: which one pandas gives depends on where a column has been before.
    for i, field in enumerate(table.schema):
        if pa.types.is_large_string(field.type):
            text = table.column(i).cast(pa.string())
            table = table.set_column(i, field.with_type(pa.string()), text)
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def _number(path: Path) -> int:
    """Number of a part; -1 of any other file, such as one that a crash left half written."""
    number = path.stem.rpartition("-")[2]
    return int(number) if number.isdigit() and not path.name.startswith(".") else -1


def _labelled(rows: pd.DataFrame, order: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """The rows of trials with the labels of the plan, for those that it has."""
    labels = {}
    for name in next(iter(order.values()), {}):
        pairs = zip(rows["trial"], rows[name], strict=True)
        labels[name] = [order[t][name] if t in order else own for t, own in pairs]
    return rows.assign(**labels)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


class Store:
    """The parts and tables under one run directory.

    Attributes:
        position: number of the next part. It never falls, also where parts were compacted: a
            checkpoint remembers it, and `rewind` drops what was written after.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._parts = directory / "parts"
        self.position = self._following()

    def _following(self) -> int:
        return max(map(_number, self._parts.glob("*-*")), default=-1) + 1

    @property
    def has_parts(self) -> bool:
        """True if there are parts, or remains of them after a crash."""
        return self._parts.exists()

    def rewind(self, position: int) -> None:
        """Drop every part from this position on, but trees of trials whose rows are compacted."""
        later = [path for path in self._parts.glob("*-*") if _number(path) >= position]
        trees = [path for path in later if path.suffix == ".npz"]
        _remove(set(later) - set(trees))
        finished = self.finished()
        for path in trees:
            if not finished.issuperset(_read_tree(path)[0]):
                path.unlink()
        self.position = max(position, self._following())

    def append(self, table: str, rows: pd.DataFrame) -> None:
        """Write rows as a new part of a table."""
        write_parquet(self._parts / f"{table}-{self.position:06d}.parquet", rows)
        self.position += 1

    def append_tree(self, name: str, trials: Sequence[str], tree: Mapping[str, Any]) -> None:
        """Keep a nested dict of arrays, each with a leading axis over the trials."""
        flat: dict[str, Any] = dict(flatten_dict(tree, sep="/"))  # type: ignore[arg-type]
        named = {"trial": np.array(trials)} | {f"tree/{key}": v for key, v in flat.items()}
        path = self._parts / f"{name}-{self.position:06d}.npz"
        with replacing(path) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, allow_pickle=False, **named)
        self.position += 1

    def read_trees(self, name: str) -> Iterator[tuple[list[str], dict[str, Any]]]:
        """(trials, nested dict of arrays) of every part of that name, oldest first."""
        yield from map(_read_tree, self._parts_of(name))

    def append_array(self, name: str, trials: Sequence[str], values: np.ndarray) -> None:
        """Keep one array per trial; programs may differ in its shape."""
        size = int(np.prod(values.shape[1:]))
        offsets = pa.array(np.arange(len(values) + 1, dtype=np.int32) * size)
        part = pa.table(
            {
                "trial": pa.array(list(trials)),
                "shape": pa.array([list(values.shape[1:])] * len(values), pa.list_(pa.int32())),
                "value": pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1))),
            }
        )
        write_parquet(self._parts / f"arrays.{name}-{self.position:06d}.parquet", part)
        self.position += 1

    def finished(self) -> set[str]:
        """The ids of all finished trials, compacted or in parts."""
        return trials_in(self.read("trials"))

    def compact(self, order: Mapping[str, Mapping[str, str]], *, complete: bool = True) -> None:
        """Rewrite every table in canonical order and drop their parts.

        Args:
            order: {trial: its labels} of all trials of the plan, in its order. Rows of other
                trials, and curves of trials that did not finish, are left out (of other
                trials only if the study is complete: they may be of a later round). Labels are
                columns of trials.parquet that the plan gives anew: the same point may have
                another name in a larger grid.
            complete: nothing goes on from here; else parts with curves of trials that have
                not finished stay, for those that go on from a checkpoint.
        """
        finished = self.finished()
        others = [] if complete else sorted(finished - order.keys())
        rank = {trial: i for i, trial in enumerate([*order, *others]) if trial in finished}
        for name in self._array_names():
            self._compact_array(name, rank)
        for table in TABLES:
            rows = self.read(table)
            if "trial" in rows:
                rows = rows[rows["trial"].isin(rank)]
                key = ["_rank", "step"] if "step" in rows else ["_rank"]
                rows = (
                    rows.assign(_rank=[rank[trial] for trial in rows["trial"]])
                    .sort_values(key, kind="stable")
                    .drop(columns="_rank")
                )
            if table == "trials" and len(rows):
                rows = _labelled(rows, order)
            if len(rows.columns):
                write_parquet(self.directory / f"{table}.parquet", rows.reset_index(drop=True))
            parts = self._parts_of(table)
            if table == "curves" and not complete:
                parts = [path for path in parts if trials_in(read_parquet(path)) <= finished]
            _remove(parts)
        for name in self._array_names():
            _remove(self._parts_of(f"arrays.{name}"))
        if complete:
            shutil.rmtree(self._parts, ignore_errors=True)

    def has(self, name: str) -> bool:
        """True if there are parts of a table or tree."""
        return bool(self._parts_of(name))

    def drop(self, name: str) -> None:
        """Remove the parts of a table or tree."""
        _remove(self._parts_of(name))

    def check(self) -> None:
        """Look at the end of every file, where a truncated one shows.

        Raises:
            UserError: a file is not whole.
        """
        for path in [*self.directory.glob("*.parquet"), *self.directory.glob("arrays/*.parquet")]:
            _read_table(path, pq.read_metadata)

    def relabel(self, order: Mapping[str, Mapping[str, str]]) -> None:
        """Give the rows of finished trials the labels that the plan gives them now."""
        for path in self._files("trials", "trials"):
            rows = read_parquet(path)
            renamed = _labelled(rows, order)
            if not renamed.equals(rows):
                write_parquet(path, renamed)

    def forget(self, trials: set[str]) -> None:
        """Drop all rows of finished trials, so that these are trained again."""
        arrays = [path for name in self._array_names() for path in self._parts_of(f"arrays.{name}")]
        arrays += (self.directory / "arrays").glob("*.parquet")
        # First the rows that say that the others are complete.
        for path in [*self._files("trials", "trials"), *self._files("curves", "curves"), *arrays]:
            rows = _read_table(path)
            stays = [trial not in trials for trial in rows["trial"].to_pylist()]
            if not all(stays):
                write_parquet(path, rows.filter(pa.array(stays)))

    def _compact_array(self, name: str, rank: dict[str, int]) -> None:
        tables = [_read_table(path) for path in self._files(f"arrays.{name}", f"arrays/{name}")]
        joined = pa.concat_tables(tables)
        ranks = np.array([rank.get(trial, -1) for trial in joined["trial"].to_pylist()])
        keep = np.flatnonzero(ranks >= 0)
        keep = keep[np.unique(ranks[keep], return_index=True)[1]]
        ordered = joined.take(pa.array(keep)).combine_chunks()
        write_parquet(self.directory / "arrays" / f"{name}.parquet", ordered)

    def _array_names(self) -> list[str]:
        parts = {p.stem.rpartition("-")[0] for p in self._parts.glob("arrays.*.parquet")}
        return sorted(name.removeprefix("arrays.") for name in parts)

    def _files(self, part: str, whole: str) -> list[Path]:
        compacted = self.directory / f"{whole}.parquet"
        parts = self._parts_of(part)
        return [compacted, *parts] if compacted.exists() else parts

    def _parts_of(self, name: str) -> list[Path]:
        parts = [path for path in self._parts.glob("*-*") if _number(path) >= 0]
        return sorted(path for path in parts if path.stem.rpartition("-")[0] == name)

    def has_array(self, name: str) -> bool:
        """True if arrays are kept under that name, compacted or in parts."""
        return bool(self._files(f"arrays.{name}", f"arrays/{name}"))

    def read_arrays(self, name: str) -> dict[str, np.ndarray]:
        """{trial: array} of what the experiment keeps under that name, compacted or in parts.

        Raises:
            UserError: there is none.
        """
        files = self._files(f"arrays.{name}", f"arrays/{name}")
        if not files:
            raise UserError(f"{self.directory} holds no array {name!r}")
        return {trial: array for path in files for trial, array in read_array(path).items()}

    def read(self, table: str) -> pd.DataFrame:
        """A table, compacted or in parts; empty if there is neither.

        A crash while tables were compacted leaves rows twice: they are read once.
        """
        frames = [read_parquet(path) for path in self._files(table, table)]
        if not frames:
            return pd.DataFrame()
        rows = pd.concat(frames, ignore_index=True)
        key = [name for name in ("trial", "step") if name in rows]
        return rows.drop_duplicates(key, ignore_index=True) if key and len(frames) > 1 else rows


def trials_in(rows: pd.DataFrame) -> set[str]:
    """The ids of the trials of a table; of an empty one too, which may lack the column."""
    return set(map(str, rows["trial"])) if len(rows) else set()


def read_parquet(path: Path) -> pd.DataFrame:
    """A table of a run directory.

    Raises:
        UserError: the file is not there, or is not a whole Parquet file.
    """
    # As objects, integers that may be missing stay integers, however often they are rewritten.
    return _read_table(path).to_pandas(integer_object_nulls=True)


def _rows(path: Path) -> pa.Table:
    """A file's rows, without the search for further files that `pq.read_table` begins with."""
    with pq.ParquetFile(path) as file:
        return file.read()


def _read_table(path: Path, read: Callable[[Path], Any] = _rows) -> Any:
    try:
        return read(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def _read_tree(path: Path) -> tuple[list[str], dict[str, Any]]:
    try:
        # Opened here: of what is no archive, NumPy leaves the file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as part:
            flat = {key.removeprefix("tree/"): part[key] for key in part if key != "trial"}
            return part["trial"].tolist(), unflatten_dict(flat, sep="/")
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def read_array(path: Path) -> dict[str, np.ndarray]:
    """{trial: array} of a file in arrays/.

    Raises:
        UserError: the file is not there, or is not a whole Parquet file.
    """
    table = _read_table(path)
    columns = (table[name] for name in ("trial", "shape", "value"))
    return {
        trial.as_py(): np.asarray(value.values).reshape(shape.as_py())
        for trial, shape, value in zip(*columns, strict=True)
    }
