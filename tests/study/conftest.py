"""Studies of these tests run on one device, and a task is compiled once for all of them."""

from collections.abc import Iterator

import jax
import pytest

from ablax.engine.engine import Engine
from ablax.engine.mesh import mesh_of
from ablax.engine.shapes import Solo
from ablax.study import plan
from ablax.study import run as launched
from tests.study.launches import counted, long_plan, train


@pytest.fixture(autouse=True, scope="module")
def _one_device() -> Iterator[None]:
    """16 slots in all, so that small studies refill them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launched, "mesh_of", lambda: mesh_of(jax.devices()[:1]))
        yield


PROGRAMS: dict[tuple, tuple] = {}
SOLOS: dict[tuple, tuple] = {}
"""Keyed by a task's id; the task is kept beside, so that no other one gets the same id."""


@pytest.fixture(autouse=True, scope="module")
def _compiled_once() -> Iterator[None]:
    """Plans and launches of the same task share its compiled programs and its trace."""
    compile = Engine._compile

    def compiled(self, name, function, *arguments):
        structure = jax.tree.structure(arguments)
        key = (name, id(self.task), self.n_slots, self.mesh.size, self.park, structure)
        if key not in PROGRAMS:
            program, usage = compile(self, name, function, *arguments), self.usage
            used = usage.compile_seconds[name], usage.memory_bytes[name]
            PROGRAMS[key] = program, used, self.task
        program, used, _ = PROGRAMS[key]
        self.usage.compile_seconds[name], self.usage.memory_bytes[name] = used
        return program

    def solo(task, example):
        key = id(task), jax.tree.structure(example)
        if key not in SOLOS:
            SOLOS[key] = Solo(task, example), task
        return SOLOS[key][0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_compile", compiled)
        patch.setattr(plan, "Solo", solo)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of GRID that was never interrupted."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    result = train(directory)
    assert (result.trained, result.missing) == (24, 0)
    return directory


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """(a run of LONG that was never interrupted, its number of boundaries)."""
    directory = tmp_path_factory.mktemp("long") / "run"
    with pytest.MonkeyPatch.context() as patch:
        boundaries = counted(patch, Engine, "_read")
        assert train(directory, long_plan()).missing == 0
    assert len(boundaries) > 15
    return directory, len(boundaries)
