"""Launches that were killed, stopped or damaged: the next one comes to the same bytes."""

import signal
from dataclasses import replace

import jax
import pytest

from ablax.engine.engine import Engine
from ablax.engine.mesh import mesh_of
from ablax.rundir import checkpoint
from ablax.rundir.checkpoint import Checkpoints
from ablax.rundir.store import Store, read_parquet
from ablax.study import run as launched
from ablax.study import snapshots
from ablax.study.plan import make_plan
from ablax.study.rewinding import compact_interrupted, rewind
from ablax.study.run import Run
from tests.study.launches import (
    GRID,
    RATES,
    Killed,
    assert_close,
    bits,
    counted,
    killed,
    long_plan,
    plan_of,
    record_of,
    tables,
    terminated,
    train,
)
from tests.toys import SHORT, experiment

EVENTS = {
    "a part": (Store, "append"),
    "an array": (Store, "append_array"),
    "a checkpoint": (Checkpoints, "save"),
    "a boundary": (Engine, "_read"),
    "a measurement": (Engine, "flush"),
    "a record": (Run, "write_manifest"),
}


@pytest.mark.parametrize(
    ("event", "at"),
    [
        ("a record", 1), ("a boundary", 1), ("a checkpoint", 1), ("a part", 1), ("an array", 1),
        ("a part", 4), ("a measurement", 5), ("a checkpoint", 6), ("a part", 12), ("an array", 6),
        ("a boundary", 14), ("a checkpoint", 16),
    ],
)  # fmt: skip
def test_killed_at_any_moment_the_next_launch_gives_the_same_bytes(
    long, tmp_path, monkeypatch, event, at
):
    whole, boundaries = long
    killed(tmp_path, *EVENTS[event], at)
    again = counted(monkeypatch, Engine, "_read")
    result = train(tmp_path, long_plan())
    assert result.missing == 0
    assert tables(tmp_path) == tables(whole)
    if (event, at) in (("a boundary", 14), ("a checkpoint", 16)):
        assert len(again) <= boundaries - at + 2, "it went on from the checkpoint, not from 0"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in whole.iterdir())


def test_what_came_after_the_checkpoint_is_rewound(tmp_path):
    """Only the fourth boundary has one: what is written later is no part of the next launch."""
    with pytest.MonkeyPatch.context() as patch:
        calls = []
        patch.setattr(Checkpoints, "due", lambda self: calls.append("due") or len(calls) == 4)
        killed(tmp_path, Engine, "_read", 12)
    store, place = Store(tmp_path), tmp_path / "checkpoints"
    position, before = checkpoint.host_of(place, 1)["position"], store.finished()
    assert 0 < position < store.position
    result = checkpoint.latest(tmp_path / checkpoint.PLACE)
    assert rewind(tmp_path, store, long_plan(), result) == (1, [])
    assert Store(tmp_path).position == store.position == position
    assert store.finished() < before


def test_killed_again_and_again_it_comes_to_the_same_end(long, tmp_path):
    """Each launch makes a few boundaries of its own."""
    whole, _ = long
    for event, at in [("a boundary", 4), ("a part", 3), ("a checkpoint", 4), ("a boundary", 5)]:
        killed(tmp_path, *EVENTS[event], at)
    assert train(tmp_path, long_plan()).missing == 0
    assert tables(tmp_path) == tables(whole)


@pytest.mark.parametrize(
    ("number", "boundary"),
    [(signal.SIGTERM, 1), (signal.SIGTERM, 7), (signal.SIGINT, 8), (signal.SIGTERM, 14)],
)
def test_a_signal_leaves_a_checkpoint_and_compacted_tables(
    long, tmp_path, capsys, boundary, number
):
    """Also where no checkpoint was due for a long time."""
    whole, boundaries = long
    before = signal.getsignal(number)
    result = terminated(tmp_path, boundary, number=number, checkpoint_minutes=60)
    assert signal.getsignal(number) is before
    assert checkpoint.numbered(tmp_path / "checkpoints") == [1]
    rows, curves = Store(tmp_path).read("trials"), Store(tmp_path).read("curves")
    assert len(rows) == result.trained
    assert not list((tmp_path / "parts").glob("trials*"))
    if len(rows):
        expected = read_parquet(whole / "trials.parquet").set_index("trial")
        assert rows.set_index("trial").equals(expected.loc[rows["trial"]])
        whole_curves = set(read_parquet(whole / "curves.parquet")["trial"])
        assert set(rows["trial"]) & whole_curves <= set(curves["trial"])
    with pytest.MonkeyPatch.context() as patch:
        again = counted(patch, Engine, "_read")
        assert train(tmp_path, long_plan()).missing == 0
    assert len(again) <= boundaries - boundary + 2
    assert tables(tmp_path) == tables(whole)
    assert "resuming from checkpoint 1" in capsys.readouterr().err


def tear(directory, number):
    """Half of the largest file of a checkpoint is gone."""
    files = (directory / "checkpoints" / f"{number:06d}").rglob("*")
    largest = max((p for p in files if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


@pytest.mark.parametrize("how", ["killed", "terminated"])
@pytest.mark.parametrize("torn", [1, 2])
def test_torn_checkpoints_are_said_and_cost_only_time(long, tmp_path, capsys, how, torn):
    if how == "killed":
        killed(tmp_path, Engine, "_read", 14)
    else:
        terminated(tmp_path, 14)
    one, two = checkpoint.numbered(tmp_path / "checkpoints")
    for number in (two, one)[:torn]:
        tear(tmp_path, number)
    capsys.readouterr()
    assert train(tmp_path, long_plan()).missing == 0
    errors = capsys.readouterr().err
    assert f"checkpoint {two} is damaged: " in errors
    if torn == 1:
        assert f"resuming from checkpoint {one}" in errors
    else:
        assert f"checkpoint {one} is damaged: " in errors
        assert "no checkpoint can be used: trials that had not finished start anew" in errors
        assert "going on" not in errors
    assert tables(tmp_path) == tables(long[0])


def test_after_a_torn_checkpoint_it_may_be_killed_again(long, tmp_path):
    """The damaged one lies beside those that are written after it."""
    killed(tmp_path, Engine, "_read", 12)
    tear(tmp_path, checkpoint.numbered(tmp_path / "checkpoints")[-1])
    killed(tmp_path, Checkpoints, "save", 1)
    killed(tmp_path, Engine, "_read", 3)
    assert train(tmp_path, long_plan()).missing == 0
    assert tables(tmp_path) == tables(long[0])


@pytest.mark.parametrize("devices", [(1, 2, 8), (8, 1)])
def test_another_number_of_devices_goes_on_to_the_same_bytes(long, tmp_path, monkeypatch, devices):
    boundaries = {1: 6, 2: 2, 8: 3}
    for count in devices:
        monkeypatch.setattr(launched, "mesh_of", lambda n=count: mesh_of(jax.devices()[:n]))
        if count == devices[-1]:
            assert train(tmp_path, long_plan()).missing == 0
        else:
            terminated(tmp_path, boundaries[count])
    assert tables(tmp_path) == tables(long[0])


@pytest.mark.parametrize("slots", [(16, 32), (32, 16)])
def test_other_slots_go_on_and_are_marked(long, tmp_path, slots):
    first, then = slots
    plan = replace(long_plan(), programs=tuple(
        replace(p, slots_per_device=first) for p in long_plan().programs
    ))  # fmt: skip
    done = terminated(tmp_path, 8, plan).trained
    assert train(tmp_path, plan, slots=then).missing == 0
    mark = f"slots per device: {first}, now {then} (from {done} finished trials on)"
    assert record_of(tmp_path) == ([mark], then)
    assert_close(tmp_path, long[0])


@pytest.fixture(scope="module")
def with_snapshots(tmp_path_factory):
    """{--keep: a run of LONG that was never interrupted}."""
    place = tmp_path_factory.mktemp("with_snapshots")
    for keep in ("all", "best"):
        train(place / keep, long_plan(), keep=keep)
    return {keep: place / keep for keep in ("all", "best")}


@pytest.mark.parametrize("how", ["killed early", "killed late", "terminated", "both"])
@pytest.mark.parametrize("keep", ["all", "best"])
def test_snapshots_survive_whatever_happens(with_snapshots, tmp_path, keep, how):
    if how in ("terminated", "both"):
        terminated(tmp_path, 10, keep=keep)
        assert snapshots.load(tmp_path, "toy")
    if how != "terminated":
        at = {"killed early": 7, "killed late": 16, "both": 4}[how]
        killed(tmp_path, Engine, "_read", at, keep=keep)
    assert train(tmp_path, long_plan(), keep=keep).missing == 0
    assert bits(tmp_path) == bits(with_snapshots[keep])
    assert tables(tmp_path) == tables(with_snapshots[keep])
    assert not (tmp_path / "parts").exists()
    assert [p.name for p in (tmp_path / "params").iterdir()] == ["toy"]


@pytest.mark.parametrize("cut", ["before", "between", "after"])
def test_a_merge_of_snapshots_killed_at_its_renames_is_made_good(tmp_path, monkeypatch, cut):
    """The new folder is whole; the old one is there, is gone, or has been replaced."""
    small = plan_of(replace(GRID, learning_rate=RATES[:2]), restarts=2)
    train(tmp_path / "run", small, keep="all")
    train(tmp_path / "whole", small, keep="all")
    train(tmp_path / "whole", keep="all")

    def settle(place):
        new = snapshots._new(place)
        if not new.exists():
            return
        if cut in ("between", "after"):
            snapshots.shutil.rmtree(place)
        if cut == "after":
            new.rename(place)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "_complete_replacement", settle)
        with pytest.raises(Killed):
            train(tmp_path / "run", keep="all")
    assert train(tmp_path / "run", keep="all").trained == 0
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")
    assert tables(tmp_path / "run") == tables(tmp_path / "whole")


@pytest.mark.parametrize("at", [5, 11, 17])
def test_a_report_between_kill_and_resume_changes_nothing(long, with_snapshots, tmp_path, at):
    """It brings the tables in order, so that trials past the checkpoint count as finished."""
    with pytest.MonkeyPatch.context() as patch:  # only the third checkpoint is ever written
        calls = []
        patch.setattr(Checkpoints, "due", lambda self: calls.append("due") or len(calls) == 3)
        killed(tmp_path, Engine, "_read", at, keep="all")
    finished = Store(tmp_path).finished()
    compact_interrupted(tmp_path)
    assert set(read_parquet(tmp_path / "trials.parquet")["trial"]) == finished
    assert train(tmp_path, long_plan(), keep="all").missing == 0
    assert tables(tmp_path) == tables(long[0])
    assert bits(tmp_path) == bits(with_snapshots["all"])


def test_halving_stopped_where_all_snapshots_of_a_program_are_superseded(tmp_path):
    """One of two programs goes on as a whole, and nothing of its second round has finished."""
    config = replace(SHORT, steps=40, eval_every=5, width=(3, 4))
    plan = make_plan(experiment(), config, restarts=2, seed=0, slots=16, halving=2)
    terminated(tmp_path, 12, plan, keep="best", checkpoint_minutes=60)
    assert train(tmp_path, plan, keep="best").missing == 0
