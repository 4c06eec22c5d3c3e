"""The smoke study of every experiment, trained once for all tests and both workers."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ablax.engine.engine import Engine
from tests.experiments.studies import launch


@contextmanager
def compiled_programs() -> Iterator[list[str]]:
    """The text of every program that the engines of a study compile."""
    texts: list[str] = []
    original = Engine.__init__

    def noted(self, *arguments, **options):
        original(self, *arguments, **options)
        texts.extend(program.as_text() for program in (self._segment, self._final))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "__init__", noted)
        yield texts


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
                with compiled_programs() as texts:
                    launch(name, directory, "--preset", "smoke", "--keep", "all", report=True)
                Path(f"{directory}.hlo").write_text("\n".join(texts))
        return directory

    return study


@pytest.fixture(scope="module")
def smoke(request, smoke_study):
    """Run directory of the smoke study of the experiment that the file is about."""
    return smoke_study(request.module.__name__.rpartition("test_")[2])
