"""Run directories: whole files or none, canonical order, equal bytes."""

import errno
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ablax.errors import UserError
from ablax.sweep import store as module
from ablax.sweep.store import Store, read_array, read_parquet, write_json, write_parquet

IDS = [f"trial{i}" for i in range(7)]


def labels(ids, prefix="point of"):
    """What the plan gives to `compact`: its trials in order, and their names."""
    return {i: {"point": f"{prefix} {i}"} for i in ids}


def trial_rows(ids):
    numbers = [IDS.index(i) for i in ids]
    return pd.DataFrame(
        {
            "trial": list(ids),
            "point": [f"point of {i}" for i in ids],
            "target": [None] * len(ids),
            "status": ["done" if n % 2 else "diverged" for n in numbers],
            "loss": np.array([np.nan if n == 3 else n / 3 for n in numbers], np.float32),
        }
    )


def curve_rows(ids):
    return pd.DataFrame(
        [(i, s, IDS.index(i) + s / 10) for s in (10, 20) for i in ids],
        columns=["trial", "step", "valid/loss"],
    ).astype({"step": np.int32, "valid/loss": np.float32})


def array_of(ids):
    return np.stack([np.full((2, 3), IDS.index(i), np.float32) + np.arange(3) for i in ids])


def fill(directory, chunks, *, order=IDS):
    store = Store(directory)
    for ids in chunks:
        store.append("curves", curve_rows(ids))
        store.append_array("first_layer", ids, array_of(ids))
        store.append("trials", trial_rows(ids))
    store.compact(labels(order))
    return contents(directory)


def contents(directory):
    """{relative path: bytes} of all files below."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*.*")}


def test_equal_rows_are_equal_bytes_however_flushed(tmp_path):
    whole = fill(tmp_path / "whole", [IDS])
    assert set(whole) == {"trials.parquet", "curves.parquet", "arrays/first_layer.parquet"}
    assert fill(tmp_path / "one", [[i] for i in reversed(IDS)]) == whole
    assert fill(tmp_path / "two", [IDS[4:], IDS[:4]]) == whole
    assert fill(tmp_path / "again", [IDS[4:], IDS[:4], IDS[2:5]]) == whole  # trained twice
    fill(tmp_path / "late", [IDS[::2]])
    assert fill(tmp_path / "late", [IDS[1::2]]) == whole  # two launches
    trials = read_parquet(tmp_path / "whole" / "trials.parquet")
    assert trials["trial"].tolist() == IDS


def test_order_is_that_of_the_plan(tmp_path):
    order = [IDS[i] for i in (3, 1, 6, 0, 2, 5, 4)]
    fill(tmp_path, [IDS[:3], IDS[3:]], order=order)
    assert read_parquet(tmp_path / "trials.parquet")["trial"].tolist() == order
    curves = read_parquet(tmp_path / "curves.parquet")
    assert list(zip(curves["trial"], curves["step"], strict=True)) == [
        (i, s) for i in order for s in (10, 20)
    ]
    arrays = read_array(tmp_path / "arrays" / "first_layer.parquet")
    assert list(arrays) == order
    np.testing.assert_array_equal(list(arrays.values()), array_of(order))


def test_labels_are_those_of_the_last_plan(tmp_path):
    fill(tmp_path, [IDS[:3]])
    store = Store(tmp_path)
    store.append("trials", trial_rows(IDS[3:]))
    store.compact(labels(IDS[::-1], "renamed"))
    trials = read_parquet(tmp_path / "trials.parquet")
    assert trials["point"].tolist() == [f"renamed {i}" for i in IDS[::-1]]


def test_unfinished_curves_and_foreign_trials_are_dropped(tmp_path):
    store = Store(tmp_path)
    store.append("curves", curve_rows(IDS))
    store.append("trials", trial_rows(IDS[:3]))
    store.compact(labels(IDS[1:]))
    assert read_parquet(tmp_path / "trials.parquet")["trial"].tolist() == IDS[1:3]
    assert set(read_parquet(tmp_path / "curves.parquet")["trial"]) == set(IDS[1:3])


def test_parts_and_leftovers_of_a_crash_are_read(tmp_path):
    fill(tmp_path, [IDS[:2]])
    store = Store(tmp_path)
    store.append("curves", curve_rows(IDS[2:4]))
    store.append_array("first_layer", IDS[2:4], array_of(IDS[2:4]))
    store.append("trials", trial_rows(IDS[2:4]))
    (tmp_path / "parts" / ".trials-000009.parquet.tmp").write_bytes(b"half")
    (tmp_path / ".trials.parquet.tmp").write_bytes(b"PAR1half")
    after = Store(tmp_path)
    assert after.finished() == set(IDS[:4])
    after.append("trials", trial_rows(IDS[4:5]))  # takes nobody's name
    assert Store(tmp_path).finished() == set(IDS[:5])
    fill(tmp_path, [IDS[5:]])
    assert read_parquet(tmp_path / "trials.parquet")["trial"].tolist() == IDS


def test_a_crash_within_the_compaction_loses_nothing(tmp_path, monkeypatch):
    """After trials.parquet is rewritten and before its parts are gone."""
    whole = fill(tmp_path / "whole", [IDS[:3], IDS[3:]])
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", lambda *a, **k: None)
        fill(tmp_path / "crashed", [IDS[:3], IDS[3:]])
    assert Store(tmp_path / "crashed").finished() == set(IDS)
    Store(tmp_path / "crashed").compact(labels(IDS))
    assert contents(tmp_path / "crashed") == whole


def test_appending_after_parts_were_partly_removed_overwrites_none(tmp_path):
    for ids in ([IDS[0]], [IDS[1]], [IDS[2]]):
        Store(tmp_path).append("trials", trial_rows(ids))
    next((tmp_path / "parts").glob("trials-000000*")).unlink()
    Store(tmp_path).append("trials", trial_rows([IDS[3]]))
    assert Store(tmp_path).finished() == set(IDS[1:4])


def full_disk(*arguments, **keywords):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", ["replace", "write_table", "half"])
@pytest.mark.parametrize("during", ["append", "compact"])
def test_a_full_disk_is_one_message_and_loses_nothing(tmp_path, monkeypatch, place, during):
    def half(table, path):
        Path(path).write_bytes(b"PAR1")
        full_disk()

    store = Store(tmp_path)
    store.append("trials", trial_rows(IDS[:3]))
    store.compact(labels(IDS))
    store.append("trials", trial_rows(IDS[3:5]))
    with monkeypatch.context() as patch:
        if place == "replace":
            patch.setattr(module.os, "replace", full_disk)
        else:
            patch.setattr(module.pq, "write_table", half if place == "half" else full_disk)
        act = {
            "append": lambda: store.append("trials", trial_rows(IDS[5:])),
            "compact": lambda: store.compact(labels(IDS)),
        }[during]
        with pytest.raises(UserError, match=r"cannot write .*parquet: No space left"):
            act()
    assert not list(tmp_path.rglob("*.tmp"))
    assert Store(tmp_path).finished() == set(IDS[:5])
    assert read_parquet(tmp_path / "trials.parquet")["trial"].tolist() == IDS[:3]


@pytest.mark.parametrize("write", [write_json, write_parquet])
def test_a_place_that_cannot_be_written_is_one_message(tmp_path, write):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(UserError, match="cannot write"):
        write(tmp_path / "file" / "below" / "table.parquet", pd.DataFrame({"a": [1]}))
    assert (tmp_path / "file").read_text() == "a file"


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "absent"])
def test_a_broken_table_is_one_message(tmp_path, damage):
    path = tmp_path / "trials.parquet"
    write_parquet(path, trial_rows(IDS))
    if damage == "absent":
        path.unlink()
    else:
        size = {"truncated": 100, "empty": 0, "garbage": 0}[damage]
        path.write_bytes(path.read_bytes()[:size] + (b"x" * 50 if damage == "garbage" else b""))
    with pytest.raises(UserError, match=r"cannot read .*trials\.parquet"):
        read_parquet(path)


def test_a_broken_array_is_one_message(tmp_path):
    fill(tmp_path, [IDS])
    path = tmp_path / "arrays" / "first_layer.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"cannot read .*first_layer\.parquet"):
        read_array(path)


@pytest.mark.parametrize("names", [["share-below", "share"], ["a", "a-b", "a-000001"]])
def test_names_of_arrays_do_not_mix(tmp_path, names):
    store = Store(tmp_path)
    for ids in (IDS[:3], IDS[3:]):
        store.append("trials", trial_rows(ids))
        for number, name in enumerate(names):
            store.append_array(name, ids, array_of(ids) + 100 * number)
    store.compact(labels(IDS))
    for number, name in enumerate(names):
        arrays = read_array(tmp_path / "arrays" / f"{name}.parquet")
        assert list(arrays) == IDS
        np.testing.assert_array_equal(list(arrays.values()), array_of(IDS) + 100 * number)
    assert len(list((tmp_path / "arrays").iterdir())) == len(names)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, bool])
@pytest.mark.parametrize("shape", [(4,), (2, 3), (1, 2, 2)])
def test_arrays_come_back_with_their_shape_and_bits(tmp_path, dtype, shape):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 5, (7, *shape)).astype(dtype)
    if dtype == np.float32:
        values.flat[:3] = np.nan, -0.0, np.inf
    store = Store(tmp_path)
    store.append("trials", trial_rows(IDS))
    store.append_array("a", IDS[4:], values[4:])
    store.append_array("a", IDS[:4], values[:4])
    store.compact(labels(IDS))
    arrays = read_array(tmp_path / "arrays" / "a.parquet")
    assert list(arrays) == IDS
    back = np.stack(list(arrays.values()))
    assert back.dtype == dtype
    assert back.tobytes() == values.tobytes()


def test_programs_may_differ_in_an_arrays_shape(tmp_path):
    store = Store(tmp_path)
    store.append("trials", trial_rows(IDS))
    store.append_array("a", IDS[3:], np.ones((4, 5), np.float32))
    store.append_array("a", IDS[:3], np.zeros((3, 2, 2), np.float32))
    store.compact(labels(IDS))
    shapes = [a.shape for a in read_array(tmp_path / "arrays" / "a.parquet").values()]
    assert shapes == [(2, 2)] * 3 + [(5,)] * 4


def test_nothing_finished_is_nothing_written(tmp_path):
    store = Store(tmp_path)
    assert store.finished() == set()
    store.append("curves", curve_rows(IDS))
    store.compact(labels(IDS))
    assert Store(tmp_path).finished() == set()
    assert not (tmp_path / "trials.parquet").exists()


def test_a_column_of_none_joins_one_of_numbers(tmp_path):
    """Two programs: one that sets an optional static and one that does not."""
    store = Store(tmp_path)
    store.append("trials", trial_rows(IDS[:3]).assign(target=None))
    store.append("trials", trial_rows(IDS[3:]).assign(target=300))
    store.compact(labels(IDS))
    target = read_parquet(tmp_path / "trials.parquet")["target"]
    assert target.isna().tolist() == [True] * 3 + [False] * 4
    assert target[3:].tolist() == [300] * 4


def test_parquet_carries_no_pandas_metadata(tmp_path):
    write_parquet(tmp_path / "t.parquet", trial_rows(IDS))
    assert not pq.read_schema(tmp_path / "t.parquet").metadata
