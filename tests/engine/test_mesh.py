"""Slots per device: a deterministic rule, multiples of 16; what is kept of compiling."""

import platform
from pathlib import Path

import jax
import pytest

from ablax.engine import mesh
from ablax.engine.mesh import AXIS, LANES, mesh_of, sharded, slots_per_device


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("trials", [1, 16, 127, 128, 1000, 12345, 10**6])
@pytest.mark.parametrize("memory", [None, 1, 10**6, 10**9])
def test_slots_are_multiples_of_16_within_an_eighth_and_memory(trials, devices, memory):
    slots = slots_per_device(trials, devices, 1000, memory)
    assert slots % LANES == 0
    assert slots >= LANES
    if slots > LANES:
        assert slots * 8 * devices <= trials
        assert memory is None or slots * 1000 <= memory / 2
    assert slots_per_device(trials, devices, 1000, memory) == slots


def test_more_trials_never_get_fewer_slots():
    slots = [slots_per_device(n, 2, 1000) for n in range(1, 3000, 7)]
    assert slots == sorted(slots)
    assert max(slots) > LANES


def test_a_slot_of_no_bytes():
    assert slots_per_device(1000, 1, 0, 10**9) == 112


@pytest.mark.parametrize("n", [1, 2, 8])
def test_mesh_has_one_axis_over_the_devices_that_it_gets(n):
    mesh = mesh_of(jax.devices()[:n])
    assert mesh.axis_names == (AXIS,)
    assert mesh.size == n
    assert sharded(mesh).shard_shape((16 * n, 3)) == (16, 3)
    assert mesh_of().size == jax.device_count() == 8


@pytest.fixture
def no_cache():
    """JAX as it is where nobody has said where compiled programs are kept."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_compiled_programs_are_kept_in_the_users_cache(no_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mesh.keep_compiled()
    place = Path(jax.config.values["jax_compilation_cache_dir"])
    assert place.parent == tmp_path / "ablax" / "compiled"
    assert place.name.startswith(platform.machine()), "machines share a home, but not their code"


def test_a_cache_that_was_chosen_stays(no_cache, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    mesh.keep_compiled()
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path)


@pytest.mark.parametrize(("chosen", "seconds"), [(None, 0.2), ("0", 0.0)])
def test_the_compile_time_worth_keeping_may_be_chosen(no_cache, monkeypatch, chosen, seconds):
    name = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
    monkeypatch.delenv(name, raising=False)
    if chosen is not None:
        monkeypatch.setenv(name, chosen)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    mesh.keep_compiled()
    assert jax.config.values["jax_persistent_cache_min_compile_time_secs"] == seconds


def test_the_device_kind_of_a_processor_says_its_vector_instructions():
    assert mesh.device_kind().startswith("cpu")
    assert set(mesh.device_kind().split()[1:]) == set(mesh.instruction_sets())
