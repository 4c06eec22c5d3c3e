"""Studies in run directories: what is missing is trained, and nothing twice."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from ablax.engine.engine import Engine, Finished
from ablax.engine.mesh import mesh_of
from ablax.errors import UserError
from ablax.metrics import Metric
from ablax.rundir import checkpoint
from ablax.rundir.checkpoint import Checkpoints
from ablax.rundir.store import Store, read_array, read_parquet
from ablax.study import run as launched
from ablax.study import snapshots
from ablax.study import train as study
from ablax.study.manifest import Origin
from ablax.study.plan import make_plan
from ablax.study.progress import Progress
from ablax.study.rewinding import compact_interrupted, rewind
from ablax.study.run import Run
from tests.toys import SHORT, Config, experiment, network, quadratic, scripted

RATES = (0.1, 0.4, 30.0, 3e38)
GRID = replace(SHORT, learning_rate=RATES, noise=0.5, patience=2.0)


COMPILED = {}


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    """Programs of equal text are compiled once for all these tests."""
    original = Engine._compile

    def remembered(self, name, function, *arguments):
        text, structure = function.lower(*arguments).as_text(), jax.tree.structure(arguments)
        key = (name, self.n_slots, self.mesh.size, structure, text)
        if key not in COMPILED:
            compiled = original(self, name, function, *arguments)
            COMPILED[key] = compiled, self.usage.memory_bytes[name]
        compiled, self.usage.memory_bytes[name] = COMPILED[key]
        self.usage.compile_seconds[name] = 0.0
        return compiled

    monkeypatch.setattr(Engine, "_compile", remembered)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """16 slots in all, so that small studies refill them."""
    monkeypatch.setattr(launched, "mesh_of", lambda: mesh_of(jax.devices()[:1]))


def plan_of(config=GRID, *, restarts=6, seed=0, name="toy", **changes):
    return make_plan(
        experiment(name=name, **changes), config, restarts=restarts, seed=seed, slots=16
    )


def train(directory, plan=None, keep="none", **options):
    return study.train(
        plan or plan_of(), directory, keep=keep, origin=Origin("the command"), **options
    )


def tables(directory):
    return {
        str(p.relative_to(directory)): p.read_bytes()
        for p in [
            *directory.glob("trials.parquet"),
            *directory.glob("curves.parquet"),
            *directory.glob("arrays/*"),
        ]
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of GRID that was never interrupted."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launched, "mesh_of", lambda: mesh_of(jax.devices()[:1]))
        result = train(directory)
    assert (result.trained, result.missing) == (24, 0)
    return directory


def test_the_tables_of_a_study(whole):
    trials, curves = (read_parquet(whole / f"{t}.parquet") for t in ("trials", "curves"))
    plan = plan_of()
    assert trials["trial"].tolist() == [t.id for t in plan.trials()]
    assert trials["restart"].tolist() == list(range(6)) * 4
    assert set(trials["status"]) == {"done", "stopped", "diverged"}
    columns = {"learning_rate", "noise", "l2", "dropout_rate", "width", "activation", "point",
               "fix", "group", "steps", "best_step", "norm", "protocol/steps",
               "protocol/eval_every", "protocol/patience", "protocol/min_delta"}  # fmt: skip
    columns |= {f"{split}/loss" for split in ("train", "valid", "test")}
    assert set(trials.columns) == columns | {"trial", "restart", "status"}
    assert set(curves.columns) == {"trial", "step", "train/loss", "valid/loss"}
    assert not curves.duplicated(["trial", "step"]).any()
    # A row of the table is the row of the curve at best_step.
    at_best = curves.merge(trials, left_on=["trial", "step"], right_on=["trial", "best_step"])
    assert len(at_best) == (trials["best_step"] > 0).sum() > 10
    np.testing.assert_allclose(at_best["valid/loss_x"], at_best["valid/loss_y"], rtol=1e-5)
    assert sorted(p.name for p in whole.iterdir()) == [
        "arrays", "curves.parquet", "study.json", "timings.parquet", "trials.parquet",
    ]  # fmt: skip


def test_arrays_are_of_their_trials(whole):
    trials = read_parquet(whole / "trials.parquet")
    points, outer = (read_array(whole / "arrays" / f"{n}.parquet") for n in ("point", "outer"))
    assert list(points) == list(outer) == trials["trial"].tolist()
    points, outer = (np.stack(list(arrays.values())) for arrays in (points, outer))
    assert points.shape == (24, 3)
    np.testing.assert_allclose((points.astype(float) ** 2).sum(1), trials["norm"], rtol=1e-5)
    np.testing.assert_array_equal(outer[:, :, 1], points)


def test_study_json_says_what_it_was(whole):
    said = json.loads((whole / "study.json").read_text())
    plan = plan_of()
    assert (said["experiment"], said["id"], said["trials"]) == ("toy", plan.id, 24)
    assert said["objective"] == {"name": "loss", "direction": "min"}
    assert said["provenance"]["command"] == "the command"
    (program,) = said["provenance"]["programs"].values()
    assert program["slots_per_device"] == 16
    assert (program["data"], program["version"]) == ("f", 1)
    assert program["identity"] == {"seed": 0, "version": 1, "fingerprint": "f"}
    assert program["statics"] == {"fix": "none", "width": 3, "activation": "relu"}
    assert said["significance"] == 0.05
    assert said["marks"] == []
    assert len(program["stablehlo"]) == 16


def test_equal_studies_are_equal_bytes(whole, tmp_path):
    train(tmp_path / "run")
    assert tables(tmp_path / "run") == tables(whole)
    assert set(tables(whole)) == {
        "trials.parquet", "curves.parquet", "arrays/point.parquet", "arrays/outer.parquet",
    }  # fmt: skip


def test_nothing_is_trained_twice(whole, monkeypatch):
    before = tables(whole)
    monkeypatch.setattr(launched, "Engine", None)  # would fail if it were used
    result = train(whole)
    assert (result.trained, result.missing) == (0, 0)
    assert tables(whole) == before


def test_a_larger_study_trains_only_what_is_missing(whole, tmp_path, monkeypatch):
    small = plan_of(replace(GRID, learning_rate=RATES[1:3]), restarts=3)
    assert train(tmp_path, small).trained == 6
    given = []
    original = Engine.run

    def spy(self, trials, *arguments, **keywords):
        given.append(len(trials.restart))
        return original(self, trials, *arguments, **keywords)

    monkeypatch.setattr(Engine, "run", spy)
    result = train(tmp_path)
    assert (result.trained, result.missing, sum(given)) == (18, 0, 18)
    assert tables(tmp_path) == tables(whole)


def test_programs_and_intervals_are_covered(tmp_path):
    """Two programs, each with three evaluation intervals, more trials than slots."""
    plan = plan_of(
        replace(GRID, width=(3, 4), eval_every=(7, 10, 30), learning_rate=(0.1, 30.0)), restarts=7
    )
    assert len(plan.programs) == 2
    assert train(tmp_path, plan).trained == 84
    trials, curves = (read_parquet(tmp_path / f"{t}.parquet") for t in ("trials", "curves"))
    assert trials["trial"].tolist() == [t.id for t in plan.trials()]
    every = curves.merge(trials, on="trial")
    assert (
        (every["step"] % every["protocol/eval_every"] == 0) | (every["step"] == every["steps"])
    ).all()


# Refused


def test_another_study_is_refused(whole, tmp_path):
    before = tables(whole)
    for other, message in [
        (plan_of(name="other"), "holds another study: the experiment 'toy'"),
        (plan_of(restarts=5), r"holds another study: 4 of its 24 finished trials"),
        (plan_of(replace(GRID, noise=0.1)), r"holds another study: 24 of its 24"),
    ]:
        with pytest.raises(UserError, match=message):
            train(whole, other)
    assert tables(whole) == before


def test_places_that_cannot_be_run_directories_are_refused(tmp_path):
    foreign, file = tmp_path / "foreign", tmp_path / "file"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    file.write_text("a file")
    for place, message in [
        (foreign, r"not empty and holds no study \(study.json is missing\)"),
        (file, "is a file; expected a directory"),
        (file / "below", "cannot be written: Not a directory"),
        (tmp_path / ("n" * 300), "cannot be written: File name too long"),
    ]:
        with pytest.raises(UserError, match=message):
            train(place)
    assert [p.name for p in foreign.iterdir()] == ["thesis.tex"]


def test_a_truncated_table_is_refused_before_anything_compiles(whole, tmp_path, monkeypatch):
    (tmp_path / "study.json").write_bytes((whole / "study.json").read_bytes())
    (tmp_path / "trials.parquet").write_bytes((whole / "trials.parquet").read_bytes()[:-9])
    monkeypatch.setattr(launched, "Engine", None)
    with pytest.raises(UserError, match=r"cannot read .*trials\.parquet"):
        train(tmp_path)


# Interrupted


@pytest.mark.parametrize("boundary", [1, 3, 5])
def test_ctrl_c_keeps_what_finished_and_the_next_launch_completes(
    whole, tmp_path, monkeypatch, boundary
):
    original, seen = Progress.advance, []
    before = signal.getsignal(
        signal.SIGINT
    )  # ignored, where a shell started this in the background

    def interrupt(self, **keywords):
        original(self, **keywords)
        seen.append(1)
        if len(seen) == boundary:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", interrupt)
        result = train(tmp_path)
    assert result.missing > 0
    assert result.trained + result.missing == 24
    assert signal.getsignal(signal.SIGINT) is before
    finished = Store(tmp_path).finished()
    assert len(finished) == result.trained
    if finished:
        assert set(read_parquet(tmp_path / "curves.parquet")["trial"]) <= finished
    result = train(tmp_path)
    assert result.missing == 0
    assert tables(tmp_path) == tables(whole)


@pytest.mark.parametrize("event", [1, 2, 4])
def test_a_crash_leaves_parts_that_the_next_launch_completes(whole, tmp_path, monkeypatch, event):
    """As kill −9: nothing after the crash runs, neither the compaction nor any clean-up."""
    calls = []
    original = Store.append

    def crash(self, table, rows):
        original(self, table, rows)
        calls.append(table)
        if len(calls) == event:
            (self.directory / "parts" / ".half.parquet.tmp").write_bytes(b"PAR1")
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", crash)
        patch.setattr(Store, "compact", lambda self, order, **k: None)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path)
    assert train(tmp_path).missing == 0
    assert tables(tmp_path) == tables(whole)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_crash_before_the_tables_are_compacted(whole, tmp_path, monkeypatch):
    """Every trial is finished, and yet the next launch has the tables to write."""
    with monkeypatch.context() as patch:
        patch.setattr(Store, "compact", lambda self, order, **k: None)
        train(tmp_path)
    assert train(tmp_path).trained == 0
    assert tables(tmp_path) == tables(whole)


@pytest.mark.parametrize("leftover", [".study.json.tmp", ".probe"])
def test_a_crash_in_the_first_moment_can_be_launched_again(tmp_path, leftover):
    (tmp_path / leftover).touch()
    study.prepare(tmp_path)


def test_a_full_disk_keeps_what_was_finished(whole, tmp_path, monkeypatch):
    original, calls = Store.append, []

    def full(self, table, rows):
        calls.append(table)
        if len(calls) > 2:
            raise UserError("cannot write parts/x: No space left on device")
        original(self, table, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", full)
        with pytest.raises(UserError, match="No space left"):
            train(tmp_path)
    assert 0 < len(Store(tmp_path).finished()) < 24
    train(tmp_path)
    assert tables(tmp_path) == tables(whole)


# Interrupted, with checkpoints

LONG = replace(GRID, steps=60, eval_every=5)  # about 20 boundaries
LIB = Path(launched.__file__).parents[2]


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """(a run of LONG that was never interrupted, its number of boundaries)."""
    directory = tmp_path_factory.mktemp("long") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launched, "mesh_of", lambda: mesh_of(jax.devices()[:1]))
        boundaries = counted(patch, Engine, "_read")
        assert train(directory, long_plan()).missing == 0
    assert len(boundaries) > 15
    return directory, len(boundaries)


def long_plan(**changes):
    return plan_of(LONG, restarts=8, **changes)


class Killed(BaseException):
    pass


def counted(patch, owner, name, *, at=0, then=None):
    """Calls of a function; after the call number `at`, `then()` is called once."""
    original, calls = getattr(owner, name), []

    def call(*arguments, **keywords):
        result = original(*arguments, **keywords)
        calls.append(name)
        if len(calls) == at:
            then()
        return result

    patch.setattr(owner, name, call)
    return calls


def kill():
    raise Killed


def killed(directory, owner, name, at, plan=None, **options):
    """As kill -9 after a call of a function: nothing of what follows is cleaned up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "compact", lambda *a, **k: None)
        patch.setattr(Checkpoints, "remove", Checkpoints.wait)
        counted(patch, owner, name, at=at, then=kill)
        with pytest.raises(Killed):
            train(directory, plan or long_plan(), checkpoint_minutes=0, **options)


def terminated(directory, boundary, plan=None, number=signal.SIGTERM, **options):
    """As a signal at a boundary."""
    options = {"checkpoint_minutes": 0} | options
    with pytest.MonkeyPatch.context() as patch:
        counted(patch, Engine, "_read", at=boundary, then=lambda: signal.raise_signal(number))
        result = train(directory, plan or long_plan(), **options)
    assert result.missing > 0
    return result


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
    found = checkpoint.latest(tmp_path / checkpoint.PLACE)
    assert rewind(tmp_path, store, long_plan(), found) == (1, [])
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
    said = capsys.readouterr().err
    assert f"checkpoint {two} is damaged: " in said
    if torn == 1:
        assert f"resuming from checkpoint {one}" in said
    else:
        assert f"checkpoint {one} is damaged: " in said
        assert "no checkpoint can be used: trials that had not finished start anew" in said
        assert "going on" not in said
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


def assert_close(directory, whole):
    """Other slots may change last bits, and nothing else."""
    ours, theirs = (
        read_parquet(d / "trials.parquet").set_index("trial") for d in (directory, whole)
    )
    columns = ["status", "steps", "best_step"]
    assert ours[columns].equals(theirs[columns])
    np.testing.assert_allclose(ours["test/loss"], theirs["test/loss"], rtol=1e-3)
    assert set(tables(directory)) == set(tables(whole))


def record_of(directory):
    """(marks of study.json, slots per device)."""
    said = json.loads((directory / "study.json").read_text())
    (program,) = said["provenance"]["programs"].values()
    return said["marks"], program["slots_per_device"]


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


def bits(directory):
    """{trial: (dtype, shape, bytes) of every leaf of its snapshot}."""
    return {
        trial: [(x.dtype, x.shape, x.tobytes()) for x in map(np.asarray, jax.tree.leaves(tree))]
        for trial, tree in snapshots.load(directory, "toy").items()
    }


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """{what was kept: a run of LONG that was never interrupted}."""
    place = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launched, "mesh_of", lambda: mesh_of(jax.devices()[:1]))
        for keep in ("all", "best"):
            train(place / keep, long_plan(), keep=keep)
    return {keep: place / keep for keep in ("all", "best")}


@pytest.mark.parametrize("how", ["killed early", "killed late", "terminated", "both"])
@pytest.mark.parametrize("keep", ["all", "best"])
def test_snapshots_survive_whatever_happens(kept, tmp_path, keep, how):
    if how in ("terminated", "both"):
        terminated(tmp_path, 10, keep=keep)
        assert snapshots.load(tmp_path, "toy")
    if how != "terminated":
        at = {"killed early": 7, "killed late": 16, "both": 4}[how]
        killed(tmp_path, Engine, "_read", at, keep=keep)
    assert train(tmp_path, long_plan(), keep=keep).missing == 0
    assert bits(tmp_path) == bits(kept[keep])
    assert tables(tmp_path) == tables(kept[keep])
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
def test_a_report_between_kill_and_resume_changes_nothing(long, kept, tmp_path, at):
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
    assert bits(tmp_path) == bits(kept["all"])


def test_halving_stopped_where_all_snapshots_of_a_program_are_superseded(tmp_path):
    """One of two programs goes on as a whole, and nothing of its second round has finished."""
    config = replace(SHORT, steps=40, eval_every=5, width=(3, 4))
    plan = make_plan(experiment(), config, restarts=2, seed=0, slots=16, halving=2)
    terminated(tmp_path, 12, plan, keep="best", checkpoint_minutes=60)
    assert train(tmp_path, plan, keep="best").missing == 0


# Memory


def full_with(monkeypatch, per_device, at, message="RESOURCE_EXHAUSTED: out of memory"):
    """With so many slots the device is full once: at a segment, or (0) while it compiles."""
    original, calls = Engine._compile, []

    def compile(self, name, function, *arguments):
        compiled = original(self, name, function, *arguments)
        if name != "segment" or self.per_device != per_device:
            return compiled

        def segment(*arguments):
            calls.append(name)
            if len(calls) == at:
                raise jax.errors.JaxRuntimeError(message)
            return compiled(*arguments)

        if at == 0:
            raise jax.errors.JaxRuntimeError(message)
        return segment

    monkeypatch.setattr(Engine, "_compile", compile)
    return calls


@pytest.mark.parametrize(("at", "minutes"), [(0, 0), (1, 0), (9, 0), (9, 60)])
def test_a_full_device_gets_half_of_the_slots(long, tmp_path, monkeypatch, capsys, at, minutes):
    full_with(monkeypatch, 32, at)
    plan = replace(long_plan(), programs=tuple(
        replace(p, slots_per_device=32) for p in long_plan().programs
    ))  # fmt: skip
    result = train(tmp_path, plan, checkpoint_minutes=minutes)
    assert (result.trained, result.missing) == (32, 0)
    mark = "out of memory with 32 slots per device of toy: 16 from then on"
    assert record_of(tmp_path) == ([mark], 16)
    said = capsys.readouterr().err
    assert mark in said
    assert ("resuming from checkpoint 8" in said) == (at == 9 and minutes == 0)
    assert_close(tmp_path, long[0])


def test_a_device_that_is_full_at_the_fewest_slots_is_one_message(long, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        full_with(patch, 16, 12)
        message = (
            r"out of memory with 16 slots per device of toy \(RESOURCE_EXHAUSTED: out of memory\); "
            "what is finished is kept; the program needs more memory"
        )
        with pytest.raises(UserError, match=message):
            train(tmp_path, long_plan(), checkpoint_minutes=0)
    assert 0 < len(Store(tmp_path).finished()) < 32
    assert train(tmp_path, long_plan()).missing == 0
    assert tables(tmp_path) == tables(long[0])


def test_another_error_of_the_device_is_not_taken_for_a_full_one(tmp_path, monkeypatch):
    full_with(monkeypatch, 32, 2, "INTERNAL: a defect of ours")
    plan = plan_of(LONG, restarts=1)
    plan = replace(plan, programs=(replace(plan.programs[0], slots_per_device=32),))
    with pytest.raises(jax.errors.JaxRuntimeError, match="a defect of ours"):
        train(tmp_path, plan)


def test_slots_that_the_memory_does_not_hold_are_fewer_and_marked(tmp_path, monkeypatch, capsys):
    """By what the compiled program says that it needs."""
    small = plan_of(restarts=1)
    plan = replace(small, programs=(replace(small.programs[0], slots_per_device=48),))
    needs = []
    monkeypatch.setattr(launched, "memory_per_device", lambda: needs[0] if needs else None)
    train(tmp_path / "enough", plan)
    assert record_of(tmp_path / "enough") == ([], 48)
    runner = engine_of_48(monkeypatch)
    needs.append(runner.bytes_per_device)  # half of it may be used, which is 24 slots: 16
    train(tmp_path / "small", plan)
    mark = f"slots per device of toy: 48 need {needs[0]:,} bytes, now 16"
    assert record_of(tmp_path / "small") == ([mark], 16)
    assert mark in capsys.readouterr().err
    before = record_of(tmp_path / "small")
    larger = plan_of(restarts=2)
    train(tmp_path / "small", replace(larger, programs=(
        replace(larger.programs[0], slots_per_device=48),
    )))  # fmt: skip
    assert record_of(tmp_path / "small") == before, "the next launch keeps to it"


def engine_of_48(monkeypatch):
    program = plan_of(restarts=1).programs[0]
    return Engine(program.task, program.example, launched.mesh_of(), 48)


# Really killed, and a disk that is really full

CHILD = """
    import os, resource, signal, sys, traceback
    from pathlib import Path
    import conftest  # strict JAX, eight devices
    from ablax.errors import UserError
    from ablax.study import train as study
    from ablax.rundir.checkpoint import Checkpoints
    from ablax.rundir.store import Store
    from tests.study import test_train as toys

    def die_at(owner, name, at):
        original, calls = getattr(owner, name), []
        def call(*arguments, **keywords):
            calls.append(name)
            if len(calls) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **keywords)
        setattr(owner, name, call)

    for argument in sys.argv[2:]:
        if os.fork():
            _, status = os.wait()
            ended = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            print(argument, ended, flush=True)
            continue
        toys.launched.mesh_of = lambda: toys.mesh_of(toys.jax.devices()[:1])
        what, _, number = argument.partition("=")
        if what == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(number), int(number)))
        else:
            owner = {"seal": Checkpoints, "rename": os}[what]
            die_at(owner, {"seal": "_seal", "rename": "replace"}[what], int(number))
        try:
            toys.train(Path(sys.argv[1]) / argument, toys.long_plan(), checkpoint_minutes=0)
        except UserError as error:
            print(str(error).replace(chr(10), " "), flush=True)
            os._exit(2)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
"""


@pytest.fixture(scope="module")
def children(tmp_path_factory):
    """(where they worked, what they said): launches that were killed, or had a full disk."""
    place = tmp_path_factory.mktemp("children")
    arguments = ["seal=5", "rename=9", "limit=6000", "limit=100"]
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(place), *arguments],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": f"{LIB}{os.pathsep}."},
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    return place, process.stdout.splitlines(), process.stderr


@pytest.mark.parametrize("argument", ["seal=5", "rename=9"])
def test_a_process_that_is_really_killed_loses_nothing(long, children, argument):
    """In the background, before a checkpoint is sealed; and between two files."""
    place, said, errors = children
    assert f"{argument} -9" in said, errors
    directory = place / argument
    assert (directory / ".lock").exists()
    if argument == "seal=5":
        assert list((directory / "checkpoints").glob("*tmp*"))
    assert train(directory, long_plan()).missing == 0
    assert tables(directory) == tables(long[0])
    assert not list(directory.rglob("*tmp*"))


@pytest.mark.parametrize("argument", ["limit=6000", "limit=100"])
def test_a_disk_that_is_really_full_loses_nothing(long, children, argument):
    """No file may be larger than so many bytes."""
    place, said, errors = children
    assert f"{argument} 2" in said, errors
    message = said[said.index(f"{argument} 2") - 1]
    assert message.startswith("cannot write "), message
    directory = place / argument
    assert train(directory, long_plan()).missing == 0
    assert tables(directory) == tables(long[0])


def test_a_study_in_which_every_trial_diverges_at_once(tmp_path):
    train(tmp_path, plan_of(replace(SHORT, learning_rate=3e38), restarts=3))
    trials = read_parquet(tmp_path / "trials.parquet")
    assert trials["status"].tolist() == ["diverged"] * 3
    assert np.isfinite(trials["test/loss"]).all()


def test_the_report_of_a_refilled_study_says_how_busy_the_slots_were(whole):
    clocks = read_parquet(whole / "timings.parquet").set_index("what")["value"]
    assert 0 < clocks["share busy while trials wait"] <= 1
    assert clocks["segments"] > 3
    assert clocks["seconds compiling segment"] > 0


# Snapshots


NETS = replace(
    SHORT, learning_rate=(0.05, 0.3), dropout_rate=(0.0, 0.5), steps=40, patience=3.0, width=4
)


def nets_plan(config=NETS, restarts=5):
    return plan_of(config, restarts=restarts, task=network)


def accuracy_of(directory, name="toy"):
    """{trial: test accuracy of its snapshot in params/}, by plain NumPy."""
    test = network(Config(width=4)).data["test"]
    found = {}
    for trial, params in snapshots.load(directory, name).items():
        hidden, output = params["hidden_0"], params["output"]
        h = np.maximum(test.x @ hidden["weight"].T + hidden["bias"], 0)
        scores = h @ output["weight"].T + output["bias"]
        found[trial] = np.mean(scores.argmax(1) == test.y)
    return found


def test_all_snapshots_give_the_accuracies_of_the_table(tmp_path):
    train(tmp_path, nets_plan(), keep="all")
    trials = read_parquet(tmp_path / "trials.parquet").set_index("trial")
    found = accuracy_of(tmp_path)
    assert set(found) == set(trials.index)
    assert len(set(found.values())) > 3
    for trial, accuracy in found.items():
        np.testing.assert_allclose(accuracy, trials.loc[trial, "test/accuracy"], rtol=1e-5)


def test_best_snapshots_are_those_of_each_points_best_restart(whole, tmp_path):
    train(tmp_path, keep="best")
    assert tables(tmp_path) == tables(whole), "keeping snapshots changes no result"
    trials = read_parquet(tmp_path / "trials.parquet")
    best = trials.loc[trials.groupby("point")["valid/loss"].idxmin()].set_index("trial")
    kept = snapshots.load(tmp_path, "toy")
    assert set(kept) == set(best.index)
    for trial, variables in kept.items():
        loss = 0.5 * np.sum((variables["x"] - 1.1) ** 2)
        np.testing.assert_allclose(loss, best.loc[trial, "test/loss"], rtol=1e-4)


def test_no_snapshots_no_params(whole):
    assert not (whole / "params").exists()


@pytest.mark.parametrize("keep", ["all", "best"])
def test_a_second_launch_keeps_the_first_ones_snapshots(tmp_path, keep):
    for restarts in (2, 4):
        train(tmp_path, plan_of(restarts=restarts), keep=keep)
    expected = {t.id for t in plan_of(restarts=4).trials()}
    if keep == "best":
        trials = read_parquet(tmp_path / "trials.parquet")
        expected = set(trials.loc[trials.groupby("point")["valid/loss"].idxmin(), "trial"])
    assert set(snapshots.load(tmp_path, "toy")) == expected


def test_best_follows_the_declared_direction(tmp_path):
    task = dataclasses.replace(quadratic(), objective=Metric("loss", "max"))
    plan = plan_of(restarts=3, task=lambda config: task)
    collected = snapshots.Snapshots("best", Store(tmp_path), plan.programs[0])
    trials = [t for t in plan.trials() if t.point == plan.points[0]]
    values = np.array([1.0, np.nan, 5.0])
    finished = Finished(
        np.arange(3), np.full(3, 2), np.full(3, 30), np.full(3, 30),
        {"valid/loss": values}, {"x": np.arange(3)}, None,
    )  # fmt: skip
    collected.add(trials, finished)
    collected.merge({trial.id: trial.point.name for trial in trials})
    assert snapshots.load(tmp_path, "toy") == {trials[2].id: {"x": 2}}


def test_tables_open_in_pandas(whole):
    assert len(pd.read_parquet(whole / "trials.parquet")) == 24


def test_of_equally_good_restarts_the_first_is_kept_whichever_finished_first(tmp_path, monkeypatch):
    """Restart 20 reaches the best score in fewer steps, and on two devices finishes first."""
    curves = np.zeros((24, 41))
    curves[:, 10:] = 0.5
    curves[0, 30:], curves[20, 20:] = 1.0, 1.0
    task = scripted(curves, Metric("score", "max"), solved=lambda valid: valid["score"] == 1.0)
    kept = []
    for devices in (1, 2):
        monkeypatch.setattr(launched, "mesh_of", lambda n=devices: mesh_of(jax.devices()[:n]))
        plan = plan_of(replace(SHORT, steps=40), restarts=24, task=lambda config: task)
        train(tmp_path / f"{devices}", plan, keep="best")
        kept.append(bits(tmp_path / f"{devices}"))
    assert kept[0] == kept[1]
    (first,) = (trial.id for trial in plan.trials() if trial.restart == 0)
    assert list(snapshots.load(tmp_path / "1", "toy")) == [first]
