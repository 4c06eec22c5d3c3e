"""Run directories: whole files or none, canonical order, equal bytes."""

import errno
import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ablax.errors import UserError
from ablax.rundir import store as module
from ablax.rundir.lock import locked
from ablax.rundir.store import Store, read_array, read_parquet, write_json, write_parquet
from ablax.study.rewinding import compact_interrupted

IDS = [f"trial{i}" for i in range(7)]


def labels(ids, prefix="point of"):
    """The plan's trials in order, and their names, as `compact` gets them."""
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


# Rewound


def test_rewinding_drops_parts_and_numbers_on_from_there(tmp_path):
    store = Store(tmp_path)
    for ids in (IDS[:2], IDS[2:4]):
        store.append("curves", curve_rows(ids))
        store.append_array("first_layer", ids, array_of(ids))
        store.append("trials", trial_rows(ids))
    position = store.position
    before = contents(tmp_path)
    store.append("curves", curve_rows(IDS[4:]))
    store.append_array("first_layer", IDS[4:], array_of(IDS[4:]))
    store.append_array("second_layer", IDS[4:], array_of(IDS[4:]))
    store.append_tree("params.toy", IDS[4:], {"x": np.zeros(3)})
    store.append("trials", trial_rows(IDS[4:]))
    after = Store(tmp_path)
    assert after.position == store.position == position + 5
    after.rewind(position)
    assert contents(tmp_path) == before
    assert (after.position, Store(tmp_path).position) == (position, position)
    after.append("trials", trial_rows(IDS[4:5]))
    assert after.position == position + 1
    assert Store(tmp_path).finished() == set(IDS[:5])
    after.rewind(0)
    assert (Store(tmp_path).finished(), after.position) == (set(), 0)


def test_rewinding_leaves_what_was_compacted(tmp_path):
    fill(tmp_path, [IDS[:3]])
    before = contents(tmp_path)
    store = Store(tmp_path)
    store.append("trials", trial_rows(IDS[3:]))
    store.rewind(0)
    assert contents(tmp_path) == before


def test_rewinding_keeps_the_trees_of_compacted_trials_alone(tmp_path):
    """A snapshot is merged later than its row is compacted; without it the row would be lost."""
    store = Store(tmp_path)
    for ids in (IDS[:2], IDS[2:4], IDS[4:]):
        store.append_tree("params.toy", ids, {"x": array_of(ids)})
        store.append("trials", trial_rows(ids))
        if ids == IDS[2:4]:
            store.compact(labels(IDS), complete=False)
    assert [trials for trials, _ in store.read_trees("params.toy")] == [IDS[:2], IDS[2:4], IDS[4:]]
    store.rewind(1)
    assert [trials for trials, _ in Store(tmp_path).read_trees("params.toy")] == [
        IDS[:2], IDS[2:4],
    ]  # fmt: skip
    store.append_tree("params.other", IDS, {"x": array_of(IDS)})
    store.rewind(1)  # holds compacted trials, and others
    assert not store.has("params.other")


def test_what_comes_after_a_rewind_overwrites_no_tree(tmp_path):
    """A killed launch, `report`, and a launch from the checkpoint before: four snapshots."""
    store = Store(tmp_path)
    position = store.position
    for ids in (IDS[:1], IDS[1:2]):
        store.append_tree("params.toy", ids, {"x": array_of(ids)})
        store.append("trials", trial_rows(ids))
    store.compact(labels(IDS), complete=False)
    store.rewind(position)
    for ids in (IDS[2:3], IDS[3:4]):
        store.append_tree("params.toy", ids, {"x": array_of(ids)})
        store.append("trials", trial_rows(ids))
    result = sorted(trial for trials, _ in store.read_trees("params.toy") for trial in trials)
    assert result == IDS[:4]


# Trees

BITS = np.array([0x7FC0BEEF, 0x80000000, 0x7F800000, 1], np.uint32).view(np.float32)
TREE = {
    "hidden_0": {"weight": np.tile(BITS, (2, 3, 1)), "bias": np.zeros((2, 0), np.float32)},
    "counts": {"a": {"b": np.array([2**31 - 1, -1], np.int32)}},
    "key": np.array([[2**32 - 1, 0], [1, 2]], np.uint32),
    "mask": np.array([True, False]),
    "small": np.array([-128, 127], np.int8),
    "half": np.array([np.nan, -0.0], np.float16),
}


def leaves(tree, prefix=()):
    """{path: (dtype, shape, bytes)}."""
    result = {}
    for name, value in tree.items():
        path = (*prefix, name)
        if isinstance(value, dict):
            result |= leaves(value, path)
        else:
            result[path] = (value.dtype, value.shape, value.tobytes())
    return result


def test_trees_come_back_nested_and_with_their_bits(tmp_path):
    store = Store(tmp_path)
    store.append_tree("params.toy", IDS[:2], TREE)
    store.append("trials", trial_rows(IDS[:2]))
    store.append_tree("params.toy-2", IDS[2:4], {"trial": TREE["key"]})
    store.append_tree("params.toy", IDS[4:6], TREE)
    first, second = Store(tmp_path).read_trees("params.toy")
    assert (first[0], second[0]) == (IDS[:2], IDS[4:6])
    assert leaves(first[1]) == leaves(second[1]) == leaves(TREE)
    ((ids, tree),) = Store(tmp_path).read_trees("params.toy-2")
    assert (ids, leaves(tree)) == (IDS[2:4], leaves({"trial": TREE["key"]}))
    assert list(Store(tmp_path).read_trees("absent")) == []
    store.drop("params.toy")
    assert not store.has("params.toy")
    assert store.has("params.toy-2")
    assert store.finished() == set(IDS[:2])


def test_trees_are_never_pickled(tmp_path):
    objects = {"x": np.array([{"a": 1}, None], object)}
    with pytest.raises(ValueError, match="allow_pickle"):
        Store(tmp_path).append_tree("params.toy", IDS[:2], objects)
    place = tmp_path / "parts" / "params.toy-000000.npz"
    np.savez(place, trial=np.array(IDS[:2]), **{"tree/x": objects["x"]})
    with pytest.raises(UserError, match="allow_pickle"):
        list(Store(tmp_path).read_trees("params.toy"))


def test_a_full_disk_leaves_no_half_tree(tmp_path, monkeypatch):
    store = Store(tmp_path)
    monkeypatch.setattr(module.np, "savez", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*npz: No space left"):
        store.append_tree("params.toy", IDS[:1], {"x": np.zeros((1, 2))})
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


# Forgotten


@pytest.mark.parametrize("compacted", [[], IDS[:4], IDS])
def test_forgotten_trials_are_trained_again(tmp_path, compacted):
    whole = fill(tmp_path / "whole", [IDS])
    fill(tmp_path / "run", [compacted] if compacted else [])
    store = Store(tmp_path / "run")
    later = [i for i in IDS if i not in compacted]
    if later:
        store.append("curves", curve_rows(later))
        store.append_array("first_layer", later, array_of(later))
        store.append("trials", trial_rows(later))
    store.forget({IDS[0], IDS[5], "unknown"})
    assert store.finished() == set(IDS) - {IDS[0], IDS[5]}
    assert fill(tmp_path / "run", [[IDS[5], IDS[0]]]) == whole


def test_what_a_forgotten_trial_left_before_gives_way_to_the_new(tmp_path):
    """After --retry --allow-changed the trial has another trajectory."""
    store = Store(tmp_path)
    for shift in (100, 0):
        store.append("curves", curve_rows(IDS).assign(**{"valid/loss": np.float32(shift)}))
        store.append_array("first_layer", IDS, array_of(IDS) + shift)
        store.append("trials", trial_rows(IDS))
        store.compact(labels(IDS))
        if shift:
            store.forget(set(IDS))
    assert set(read_parquet(tmp_path / "curves.parquet")["valid/loss"]) == {0.0}
    arrays = read_array(tmp_path / "arrays" / "first_layer.parquet")
    np.testing.assert_array_equal(list(arrays.values()), array_of(IDS))


# Compacted while trials go on


def going_on(directory):
    """A store in which the curves of two trials are half written."""
    store = Store(directory)
    store.append("curves", curve_rows(IDS[:3]))
    store.append_array("first_layer", IDS[:2], array_of(IDS[:2]))
    store.append_tree("states.toy", IDS[:2], {"x": array_of(IDS[:2])})
    store.append("trials", trial_rows(IDS[:2]))
    rows = curve_rows(IDS[2:4])
    store.append("curves", rows[rows["step"] == 10])
    return store


def complete(store):
    """The rows that the trials that went on leave."""
    rows = curve_rows(IDS[2:])
    ahead = (rows["step"] == 20) | rows["trial"].isin(IDS[4:])
    store.append("curves", rows[ahead])
    store.append_array("first_layer", IDS[2:], array_of(IDS[2:]))
    store.append("trials", trial_rows(IDS[2:]))
    store.compact(labels(IDS))
    return contents(store.directory)


def test_an_unfinished_study_is_compacted_and_still_goes_on(tmp_path):
    whole = fill(tmp_path / "whole", [IDS])
    assert complete(going_on(tmp_path / "uninterrupted")) == whole
    store = going_on(tmp_path / "interrupted")
    position = store.position
    for _ in range(2):
        store.compact(labels(IDS), complete=False)
        assert read_parquet(store.directory / "trials.parquet")["trial"].tolist() == IDS[:2]
        assert set(read_parquet(store.directory / "curves.parquet")["trial"]) == set(IDS[:2])
        assert sorted(p.name for p in (store.directory / "parts").iterdir()) == [
            "curves-000000.parquet", "curves-000004.parquet", "states.toy-000002.npz",
        ]  # fmt: skip
    assert store.has_parts
    again = Store(store.directory)
    assert again.position <= position == store.position  # the checkpoint knows it
    again.rewind(position)
    assert complete(again) == whole
    assert not again.has_parts


# Cut off within a compaction


class Killed(BaseException):
    pass


@contextmanager
def killed_at(count):
    """Ends, as kill -9 would, at the `count`-th file that is replaced or removed."""
    calls = []

    def counted(original):
        def call(*arguments, **keywords):
            calls.append(1)
            if len(calls) == count:
                raise Killed
            if len(calls) > count:
                raise AssertionError("something ran after it was killed")
            return original(*arguments, **keywords)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.os, "replace", counted(os.replace))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        patch.setattr(module.shutil, "rmtree", counted(module.shutil.rmtree))
        try:
            yield calls
        except Killed:
            calls.append("killed")


def timeless(directory):
    """Every file but the clock's; a half removed folder of parts does not count either."""
    return {k: v for k, v in contents(directory).items() if "timings" not in k}


@pytest.mark.parametrize("whole", [True, False])
def test_a_compaction_killed_at_any_file_is_made_good_by_the_next(tmp_path, whole):
    """At every replace, unlink and rmtree: what is read meanwhile lacks no finished trial."""

    def begun(directory):
        fill(directory, [IDS[:1]])
        store = going_on(directory)
        store.append("timings", pd.DataFrame({"program": ["toy"], "value": [1.0]}))
        if whole:
            rows = curve_rows(IDS[2:])
            store.append("curves", rows)
            store.append_array("first_layer", IDS[2:], array_of(IDS[2:]))
            store.append("trials", trial_rows(IDS[2:]))
        return store

    expected = begun(tmp_path / "expected")
    finished = expected.finished()
    expected.compact(labels(IDS), complete=whole)
    count = 0
    while True:
        count += 1
        store = begun(tmp_path / str(count))
        with killed_at(count) as calls:
            store.compact(labels(IDS), complete=whole)
        after = Store(store.directory)
        assert after.finished() == finished
        curves = after.read("curves")
        assert finished <= set(curves["trial"])
        rows = read_parquet(store.directory / "trials.parquet")
        arrays = read_array(store.directory / "arrays" / "first_layer.parquet")
        assert set(rows["trial"]) <= set(arrays), "a row there says that all else is whole"
        compacted = read_parquet(store.directory / "curves.parquet")
        assert set(rows["trial"]) <= set(compacted["trial"])
        after.compact(labels(IDS), complete=False)
        after.compact(labels(IDS), complete=whole)
        assert timeless(store.directory) == timeless(expected.directory), count
        if "killed" not in calls:
            break
    assert count >= 8


# Settled without a plan


def study_json(directory):
    points = [{"name": f"point of {i}"} for i in reversed(IDS)]
    record = {"experiment": "toy", "seed": 0, "points": points, "marks": []}
    record |= {"significance": 0.05}
    record |= {"rounds": {"name": ""}, "provenance": {"conditions": {}, "programs": {}}}
    write_json(directory / "study.json", record)


def with_restarts(ids):
    return trial_rows(ids).assign(restart=np.int32(0), group="a group")


def test_what_a_killed_launch_left_is_settled_in_the_order_of_the_plan(tmp_path):
    """The points of study.json are the other way around than the trials came."""
    study_json(tmp_path)
    store = Store(tmp_path)
    for ids in (IDS[2:4], IDS[:2], IDS[4:5]):
        store.append("curves", curve_rows(ids))
        store.append_array("first_layer", ids, array_of(ids))
        store.append("trials", with_restarts(ids))
    store.append("curves", curve_rows(IDS[5:]))
    compact_interrupted(tmp_path)
    order = IDS[4::-1]
    settled = contents(tmp_path)
    trials = read_parquet(tmp_path / "trials.parquet")
    assert trials["trial"].tolist() == order
    assert trials["point"].tolist() == [f"point of {i}" for i in order]
    assert set(trials["group"]) == {"a group"}
    assert read_parquet(tmp_path / "curves.parquet")["trial"].tolist() == [
        i for i in order for _ in (10, 20)
    ]
    assert list(read_array(tmp_path / "arrays" / "first_layer.parquet")) == order
    assert [p.name for p in (tmp_path / "parts").iterdir()] == ["curves-000009.parquet"]
    compact_interrupted(tmp_path)
    assert contents(tmp_path) == settled
    assert not (tmp_path / ".lock").exists()


def test_restarts_are_settled_in_their_order(tmp_path):
    study_json(tmp_path)
    rows = with_restarts(IDS[:4]).assign(
        point=["point of trial6", "point of trial5"] * 2, restart=np.int32([1, 1, 0, 0])
    )
    Store(tmp_path).append("trials", rows)
    compact_interrupted(tmp_path)
    trials = read_parquet(tmp_path / "trials.parquet")
    assert trials["trial"].tolist() == [IDS[i] for i in (2, 0, 3, 1)]


def test_a_directory_at_work_is_not_settled(tmp_path):
    study_json(tmp_path)
    Store(tmp_path).append("trials", with_restarts(IDS))
    before = contents(tmp_path)
    with locked(tmp_path), pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        compact_interrupted(tmp_path)
    assert contents(tmp_path) == before


def test_where_there_is_nothing_to_settle_nothing_happens(tmp_path):
    compact_interrupted(tmp_path)
    study_json(tmp_path)
    fill(tmp_path, [IDS])
    before = contents(tmp_path)
    with locked(tmp_path):  # it does not even ask
        compact_interrupted(tmp_path)
    Store(tmp_path).append("curves", curve_rows(IDS[:1]))
    (tmp_path / "trials.parquet").unlink()
    compact_interrupted(tmp_path)  # curves alone
    assert contents(tmp_path).keys() - before.keys() == {"parts/curves-000000.parquet"}


# What a crash, a truncation or a second rewrite must not change


def test_rows_that_a_crash_left_twice_are_read_once(tmp_path):
    store = Store(tmp_path)
    for ids in (IDS[:3], IDS[1:5]):
        store.append("curves", curve_rows(ids))
        store.append("trials", trial_rows(ids))
    assert store.read("trials")["trial"].tolist() == IDS[:5]
    curves = store.read("curves")
    assert len(curves) == 10
    assert not curves.duplicated(["trial", "step"]).any()


def test_integers_that_may_be_missing_stay_integers_however_often_rewritten(tmp_path):
    store = Store(tmp_path)
    for size, trial in ((None, IDS[0]), (5, IDS[1])):
        store.append("trials", pd.DataFrame({"trial": [trial], "point": ["p"], "size": [size]}))
    written = []
    for _ in range(3):
        store.compact(labels(IDS[:2]))
        written.append((tmp_path / "trials.parquet").read_bytes())
    assert str(pq.read_schema(tmp_path / "trials.parquet").field("size").type) == "int64"
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("name", ["arrays/first_layer.parquet", "curves.parquet"])
def test_a_truncated_file_is_seen_before_anything_is_trained(tmp_path, name):
    fill(tmp_path, [IDS])
    path = tmp_path / name
    Store(tmp_path).check()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=f"cannot read .*{path.name}"):
        Store(tmp_path).check()


def test_a_truncated_tree_is_one_message(tmp_path):
    store = Store(tmp_path)
    store.append_tree("params.toy", IDS[:1], {"value": np.ones(1)})
    (path,) = (tmp_path / "parts").glob("params.toy-*")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"cannot read .*params\.toy"):
        list(store.read_trees("params.toy"))
    with pytest.raises(UserError, match=r"cannot read .*params\.toy"):
        store.rewind(0)


def test_rows_take_the_names_of_the_plan(tmp_path):
    fill(tmp_path, [IDS[:2]])
    store = Store(tmp_path)
    store.append("trials", trial_rows(IDS[2:4]))
    before = (tmp_path / "trials.parquet").read_bytes()
    store.relabel(labels(IDS))
    assert (tmp_path / "trials.parquet").read_bytes() == before, "nothing to rename"
    store.relabel(labels(IDS[1:3], "renamed"))
    names = store.read("trials").set_index("trial")["point"].to_dict()
    assert names == {
        IDS[0]: f"point of {IDS[0]}",
        IDS[1]: f"renamed {IDS[1]}",
        IDS[2]: f"renamed {IDS[2]}",
        IDS[3]: f"point of {IDS[3]}",
    }
