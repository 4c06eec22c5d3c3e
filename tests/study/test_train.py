"""Studies in run directories: what is missing is trained, and nothing twice."""

import dataclasses
import json
import signal
from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest

from ablax.engine.engine import Engine, Finished
from ablax.engine.mesh import mesh_of
from ablax.errors import UserError
from ablax.metrics import Metric
from ablax.rundir.checkpoint import Checkpoints
from ablax.rundir.store import Store, read_array, read_parquet
from ablax.study import run as launched
from ablax.study import snapshots
from ablax.study import train as study
from ablax.study.progress import Progress
from tests.study.launches import GRID, RATES, bits, killed, plan_of, tables, terminated, train
from tests.toys import SHORT, Config, network, quadratic, scripted


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
    manifest = json.loads((whole / "study.json").read_text())
    plan = plan_of()
    assert (manifest["experiment"], manifest["id"], manifest["trials"]) == ("toy", plan.id, 24)
    assert manifest["objective"] == {"name": "loss", "direction": "min"}
    assert manifest["provenance"]["command"] == "the command"
    (program,) = manifest["provenance"]["programs"].values()
    assert program["slots_per_device"] == 16
    assert (program["data"], program["version"]) == ("f", 1)
    assert program["identity"] == {"seed": 0, "version": 1, "fingerprint": "f"}
    assert program["statics"] == {"fix": "none", "width": 3, "activation": "relu"}
    assert manifest["significance"] == 0.05
    assert manifest["marks"] == []
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
    sizes = []
    original = Engine.run

    def spy(self, trials, *arguments, **keywords):
        sizes.append(len(trials.restart))
        return original(self, trials, *arguments, **keywords)

    monkeypatch.setattr(Engine, "run", spy)
    result = train(tmp_path)
    assert (result.trained, result.missing, sum(sizes)) == (18, 0, 18)
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


@pytest.mark.parametrize(("owner", "name", "at"), [(Checkpoints, "save", 2), (Store, "append", 3)])
def test_killed_between_two_checkpoints_the_next_launch_gives_the_same_bytes(
    whole, tmp_path, owner, name, at
):
    """Other moments, and more than one: test_resume.py."""
    killed(tmp_path, owner, name, at, plan_of())
    assert (tmp_path / "checkpoints").exists()
    assert train(tmp_path).missing == 0
    assert tables(tmp_path) == tables(whole)


def test_a_signal_leaves_a_checkpoint_that_the_next_launch_resumes(whole, tmp_path, capsys):
    assert 0 < terminated(tmp_path, 3, plan_of(), checkpoint_minutes=60).trained < 24
    assert train(tmp_path).missing == 0
    assert "resuming from checkpoint 1" in capsys.readouterr().err
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
    result = {}
    for trial, params in snapshots.load(directory, name).items():
        hidden, output = params["hidden_0"], params["output"]
        h = np.maximum(test.x @ hidden["weight"].T + hidden["bias"], 0)
        scores = h @ output["weight"].T + output["bias"]
        result[trial] = np.mean(scores.argmax(1) == test.y)
    return result


def test_all_snapshots_give_the_accuracies_of_the_table(tmp_path):
    train(tmp_path, nets_plan(), keep="all")
    trials = read_parquet(tmp_path / "trials.parquet").set_index("trial")
    result = accuracy_of(tmp_path)
    assert set(result) == set(trials.index)
    assert len(set(result.values())) > 3
    for trial, accuracy in result.items():
        np.testing.assert_allclose(accuracy, trials.loc[trial, "test/accuracy"], rtol=1e-5)


def test_best_snapshots_are_those_of_each_points_best_restart(whole, tmp_path):
    train(tmp_path, keep="best")
    assert tables(tmp_path) == tables(whole), "keeping snapshots changes no result"
    trials = read_parquet(tmp_path / "trials.parquet")
    best = trials.loc[trials.groupby("point")["valid/loss"].idxmin()].set_index("trial")
    snapshot_of = snapshots.load(tmp_path, "toy")
    assert set(snapshot_of) == set(best.index)
    for trial, variables in snapshot_of.items():
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
    snapshot_bits = []
    for devices in (1, 2):
        monkeypatch.setattr(launched, "mesh_of", lambda n=devices: mesh_of(jax.devices()[:n]))
        plan = plan_of(replace(SHORT, steps=40), restarts=24, task=lambda config: task)
        train(tmp_path / f"{devices}", plan, keep="best")
        snapshot_bits.append(bits(tmp_path / f"{devices}"))
    assert snapshot_bits[0] == snapshot_bits[1]
    (first,) = (trial.id for trial in plan.trials() if trial.restart == 0)
    assert list(snapshots.load(tmp_path / "1", "toy")) == [first]
