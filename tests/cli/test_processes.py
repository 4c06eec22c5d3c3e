"""A study over two real processes: the same bytes, and what happens when one of them dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ablax.rundir.store import Store
from tests import small_study

LAUNCH = Path(__file__).parents[2] / "launch.sh"
STUDY = (small_study.__file__, "--slots", "16", "--keep", "best")
"""72 trials, a third of which diverge at once, in 16 slots a device: they are refilled."""


def launch(*command: str) -> subprocess.Popen:
    return subprocess.Popen(
        [str(LAUNCH), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"ABLAX_PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"},
    )


def ended(process: subprocess.Popen, status: int) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output
    return output


def results(directory: Path) -> dict[str, bytes]:
    names = ["trials.parquet", "curves.parquet", "arrays/weights.parquet"]
    return {name: (directory / name).read_bytes() for name in names}


def wait_for(process: subprocess.Popen, directory: Path, what: str) -> None:
    """Until the launch has left something new that matches."""
    before = set(directory.glob(what))
    deadline = time.monotonic() + 120
    while not set(directory.glob(what)) - before:
        assert process.poll() is None, process.stdout.read()
        if time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"no {what}: {process.communicate()[0]}")
        time.sleep(0.005)


def children(launcher: int) -> list[int]:
    path = Path(f"/proc/{launcher}/task/{launcher}/children")
    return [int(pid) for pid in path.read_text().split()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """By one process."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    ended(launch(*STUDY, "--out", str(directory)), 0)
    return directory


def test_two_processes_leave_the_same_bytes(whole, tmp_path):
    output = ended(launch(*STUDY, "--out", str(tmp_path / "run"), "--processes", "2"), 0)
    assert results(tmp_path / "run") == results(whole)
    assert output.count("restarts ") == 1, "one process speaks"
    assert len(Store(tmp_path / "run").finished()) == 72
    left = {"arrays", "curves.parquet", "params", "report", "study.json"}
    left |= {"timings.parquet", "trials.parquet"}
    for directory in (tmp_path / "run", whole):
        assert {path.name for path in directory.iterdir()} == left


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes by /proc")
def test_a_process_that_dies_ends_the_run_and_the_run_resumes(whole, tmp_path):
    """Killed after a checkpoint; then stopped by SIGTERM; then finished by one process."""
    directory = tmp_path / "run"
    command = (*STUDY, "--checkpoint-minutes", "0", "--out", str(directory), "--processes", "2")
    process = launch(*command)
    wait_for(process, directory, "checkpoints/000003")
    started = time.monotonic()
    os.kill(children(process.pid)[1], signal.SIGKILL)
    output = ended(process, 1)
    assert time.monotonic() - started < 30
    assert "process 1 of 2" in output
    assert "SIGKILL" in output
    assert "rerun the same command to resume" in output

    process = launch("resume", str(directory), "--processes", "2")
    wait_for(process, directory, "checkpoints/*[0-9]")
    process.send_signal(signal.SIGTERM)
    output = ended(process, 130)
    assert "resuming from checkpoint" in output
    finished = Store(directory).finished()
    assert 0 < len(finished) < 72

    output = ended(launch("resume", str(directory), "--checkpoint-minutes", "5"), 0)
    assert "resuming from checkpoint" in output
    assert results(directory) == results(whole)
    assert not (directory / "parts").exists()
    assert not (directory / "checkpoints").exists()


def test_every_process_leaves_with_the_users_error(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    process = launch(*STUDY, "--out", str(tmp_path), "--processes", "2")
    output = ended(process, 2)
    assert output.count("is not empty and holds no study") == 1
    assert "Traceback" not in output
