"""Configs: what is traced, what is static, and which values are refused."""

import dataclasses
import json
import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from ablax.config import (
    BaseConfig,
    as_traced,
    canonical,
    field_specs,
    hparam,
    protocol,
    static,
    validate,
)
from ablax.errors import UserError


class Config(BaseConfig):
    l2: float = hparam(0.0, "strength", low=0)
    momentum: float = hparam(0.9, "share", low=0, below=1)
    share: float = hparam(0.5, "of rows", low=0, high=1)
    patience_like: float = protocol(1.0, "evaluations", low=1)
    width: int = static(8, "units", low=1)
    activation: str = static("relu", "function", choices=("relu", "tanh"))
    size: int | None = static(None, "rows", low=1)


CHANGES = {
    "steps": 7,
    "eval_every": 3,
    "patience": 2.0,
    "min_delta": 0.5,
    "l2": 0.1,
    "momentum": 0.8,
    "share": 0.25,
    "patience_like": 3.0,
    "width": 16,
    "activation": "tanh",
    "size": 4,
    "fix": "init+split",
}


def test_every_field_is_covered():
    assert set(CHANGES) == set(field_specs(Config))


@pytest.mark.parametrize("name", CHANGES)
def test_statics_and_only_statics_change_the_structure(name):
    same = jax.tree.structure(Config()) == jax.tree.structure(
        replace(Config(), **{name: CHANGES[name]})
    )
    assert same == (field_specs(Config)[name].kind != "static")


@pytest.mark.parametrize("name", CHANGES)
def test_canonical_names_every_field(name):
    changed = replace(Config(), **{name: CHANGES[name]})
    assert canonical(changed) != canonical(Config())
    assert set(json.loads(canonical(changed))) == set(CHANGES)


def test_canonical_does_not_depend_on_how_a_number_was_typed():
    assert canonical(Config(l2=0)) == canonical(Config(l2=0.0))
    assert canonical(Config(l2=0.1)) == canonical(Config(l2=float(np.float32(0.1))))
    assert canonical(Config(patience=2)) == canonical(Config(patience=2.0))
    assert canonical(Config(patience=math.inf)) == canonical(Config())


def test_traced_leaves_have_one_dtype_per_field():
    for config in (Config(l2=0, patience=3), Config(l2=1e-4, patience=3.0)):
        traced = as_traced(config)
        assert {f: getattr(traced, f).dtype.name for f in ("steps", "eval_every", "l2")} == {
            "steps": "int32",
            "eval_every": "int32",
            "l2": "float32",
        }
        assert traced.patience.dtype == np.float32
        assert isinstance(traced.width, int)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"l2": -1e-3}, "--l2: expected a finite number and at least 0, got -0.001"),
        ({"l2": math.nan}, "--l2: expected a finite number and at least 0, got nan"),
        (
            {"momentum": 1.0},
            "--momentum: expected a finite number and at least 0 and below 1, got 1.0",
        ),
        ({"share": 1.5}, "--share: .*at most 1, got 1.5"),
        ({"steps": 0}, "--steps: .*at least 1 .*got 0"),
        ({"eval_every": 0}, "--eval-every: .*at least 1 .*got 0"),
        ({"patience": 0.5}, "--patience: .*at least 1, got 0.5"),
        ({"min_delta": -0.1}, "--min-delta"),
        ({"width": 0}, "--width: .*at least 1, got 0"),
        ({"size": 0}, "--size"),
        ({"activation": "rleu"}, "did you mean 'relu'.*relu, tanh"),
        ({"l2": ()}, "--l2: expected at least one value, got none"),
        ({"l2": (0.1, 0.2, 0.1)}, "--l2: the value 0.1 is repeated"),
        ({"l2": (0, 0.0)}, "repeated"),
        ({"l2": (0.1, -0.2)}, "--l2: .*got -0.2"),
        ({"width": (4, 4)}, "--width: the value 4 is repeated"),
    ],
)
def test_refused(changes, message):
    with pytest.raises(UserError, match=message):
        validate(replace(Config(), **changes))


@pytest.mark.parametrize(
    "changes",
    [{}, {"l2": (0.0, 1e-4)}, {"momentum": 0.0}, {"share": 1.0}, {"size": 3}, {"patience": 1}],
)
def test_accepted(changes):
    validate(replace(Config(), **changes))


@pytest.mark.parametrize("steps", [2**31, 10**12])
def test_steps_beyond_int32_are_refused(steps):
    with pytest.raises(UserError, match=r"--steps: .*at most"):
        validate(Config(steps=steps))


def test_a_field_must_say_its_kind():
    with pytest.raises(TypeError, match="width must be declared with hparam"):

        class _Wrong(BaseConfig):
            width: int = 3


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().l2 = 1.0  # type: ignore[misc]
