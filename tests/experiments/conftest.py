"""The smoke study of every experiment, trained once for all tests and both workers."""

import fcntl
from pathlib import Path

import pytest

from tests.experiments.studies import launch


@pytest.fixture(scope="session")
def smoke_study(tmp_path_factory):
    """{experiment: run directory of its smoke study}, as a function; for reading only."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base  # of all workers

    def study(name: str) -> Path:
        directory = shared / "smoke" / name
        directory.parent.mkdir(exist_ok=True)
        with (directory.parent / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (directory / "report" / "report.html").exists():
                launch(name, directory, "--preset", "smoke", "--keep", "all")
        return directory

    return study


@pytest.fixture(scope="module")
def smoke(request, smoke_study):
    """Run directory of the smoke study of the experiment that the file is about."""
    return smoke_study(request.module.__name__.rpartition("test_")[2])
