"""Slots per device: a deterministic rule, multiples of 16."""

import jax
import pytest

from ablax.sweep.mesh import AXIS, LANES, mesh_of, sharded, slots_per_device


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
def test_mesh_has_one_axis_over_the_devices_given(n):
    mesh = mesh_of(jax.devices()[:n])
    assert mesh.axis_names == (AXIS,)
    assert mesh.size == n
    assert sharded(mesh).shard_shape((16 * n, 3)) == (16, 3)
    assert mesh_of().size == jax.device_count() == 8
