"""The audit: what it compares, and that it sees what it looks for."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from ablax.cli import audit as _audit
from ablax.cli.audit import Finding, deviation
from ablax.config import Preset
from ablax.errors import UserError
from tests.toys import SHORT, experiment, network

GRID = replace(
    SHORT, learning_rate=(0.05, 0.3, 1e30), dropout_rate=(0.0, 0.5), steps=40, patience=3.0, width=4
)
TOY = experiment(network, presets={"smoke": Preset(GRID, 3)})


@pytest.fixture
def audited(monkeypatch):
    """Findings instead of a printed table; one process, because a toy is no experiment."""
    shown = []
    monkeypatch.setattr(_audit, "show", lambda name, plan, findings: shown.extend(findings))
    monkeypatch.setattr(_audit, "mesh_of", lambda devices: _mesh(devices or jax.devices()[:2]))
    return shown


def _mesh(devices):
    from ablax.engine.mesh import mesh_of

    return mesh_of(devices[:2])


@pytest.mark.slow
def test_a_sound_program_keeps_every_promise(audited):
    assert _audit.main(TOY, "toy", ["--processes", "1"]) == 0
    promised = {f.what: f for f in audited if f.promised}
    assert len(promised) == 6
    assert all(f.words == "bit-equal" for f in promised.values())
    assert [f.deviation < 1e-3 for f in audited if not f.promised] == [True] * 3
    assert any(f.deviation > 0 for f in audited), "the dropped-out network without vmap differs"


@pytest.mark.slow
def test_broken_promises_are_a_failure(audited, monkeypatch):
    """One bit of one number, in two of the comparisons."""

    def one_bit_off(measured):
        def changed(self):
            numbers = measured(self)
            name = next(name for name in numbers[0] if name.startswith("snapshot"))
            value = numbers[0][name].copy()
            value.view(np.uint32).ravel()[0] ^= 1
            numbers[0][name] = value
            return numbers

        return changed

    for broken in ("alone", "resumed"):
        monkeypatch.setattr(_audit.Audit, broken, one_bit_off(getattr(_audit.Audit, broken)))
    assert _audit.main(TOY, "toy", ["--processes", "1", "--trials", "2"]) == 1
    wrong = [f for f in audited if f.broken]
    assert [f.what for f in wrong] == ["each alone among empty slots", "interrupted and resumed"]
    for finding in wrong:
        assert 0 < finding.deviation < 1e-5
        assert "largest deviation" in finding.words


def test_deviation_tells_bits_apart():
    a = {"x": np.array([1.0, np.nan, -0.0], np.float32)}
    assert deviation([a], [{"x": a["x"].copy()}]) == 0
    assert deviation([a], [{"x": np.array([1.0, np.nan, 0.0], np.float32)}]) > 0
    assert deviation([a], [{"x": np.array([1.5, np.nan, -0.0], np.float32)}]) == 0.5
    assert deviation([a], [{"x": np.array([1.0, 0.0, -0.0], np.float32)}]) == np.inf
    assert deviation([a], [{"x": a["x"][:2]}]) == np.inf
    assert deviation([{"s": np.array(["a"])}], [{"s": np.array(["b"])}]) == np.inf


def test_what_cannot_be_checked_is_no_failure():
    finding = Finding("toy", "on one device", True, None, "there is one device")
    assert not finding.broken
    assert finding.words == "not checked: there is one device"
    assert Finding("toy", "alone", True, 1e-7).broken
    assert not Finding("toy", "solo", False, 1e-7).broken


@pytest.mark.parametrize("flags", [["--preset", "none"], ["--trials", "0"]])
def test_bad_flags_are_refused(flags):
    with pytest.raises(UserError, match=f"{flags[0]}: expected"):
        _audit.main(TOY, "toy", flags)
