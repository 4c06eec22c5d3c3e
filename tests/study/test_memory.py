"""Devices whose memory is too small for the slots."""

from dataclasses import replace

import jax
import pytest

from ablax.engine.engine import Engine
from ablax.errors import UserError
from ablax.rundir.store import Store
from ablax.study import run as launched
from tests.study.launches import LONG, assert_close, long_plan, plan_of, record_of, tables, train


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
    errors = capsys.readouterr().err
    assert mark in errors
    assert ("resuming from checkpoint 8" in errors) == (at == 9 and minutes == 0)
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
