"""Settings of an experiment: what is traced, what is static, what may be swept.

A `Config` is a frozen dataclass registered as a pytree. Each field says its kind once:

* `hparam`: a scalar that is data to the compiled program; a new value never recompiles.
* `protocol`: how long a trial runs and how it is watched (steps, patience, …); data as well.
* `static`: whatever changes shapes or the program; one program per combination.

hparams and protocol are the pytree's leaves and statics are part of its structure, so two
Configs of equal tree structure are the same program:

>>> import jax
>>> class Config(BaseConfig):
...     l2: float = hparam(0.0, "strength of the L2 penalty", low=0.0)
...     width: int = static(32, "units of the hidden layer", low=1)
>>> structure = jax.tree.structure
>>> structure(Config(l2=0.0)) == structure(Config(l2=0.1))
True
>>> structure(Config(width=32)) == structure(Config(width=64))
False

A field holds one value, or a tuple: then it is an axis of the sweep (`study.grid.axes`).
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, dataclass_transform

import jax
import numpy as np

from ablax.errors import UserError, flag_of, unknown

FLOAT32_MAX = float(np.finfo(np.float32).max)
Kind = Literal["hparam", "protocol", "static"]


@dataclass(frozen=True)
class FieldSpec:
    """Kind of a field and the values that it may take; stored in the field's metadata."""

    kind: Kind
    help: str
    low: float | None = None
    high: float | None = None
    below: float | None = None
    above: float | None = None
    choices: tuple[str, ...] | None = None
    infinite: bool = False  # inf is the value for off


def _field(default: Any, spec: FieldSpec) -> Any:
    return dataclasses.field(default=default, metadata={"spec": spec})


def hparam(
    default: float,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    below: float | None = None,
    above: float | None = None,
) -> Any:
    """A traced scalar with low ≤ value ≤ high and above < value < below, where given.

    inf is a value only where it is the default: there it means off.
    """
    off = math.isinf(default)
    return _field(default, FieldSpec("hparam", help, low, high, below, above, infinite=off))


def protocol(
    default: float, help: str, *, low: float | None = None, high: float | None = None
) -> Any:
    """A traced scalar that says how a trial is run, and with it what its result is."""
    off = math.isinf(default)
    return _field(default, FieldSpec("protocol", help, low, high, infinite=off))


def static(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    choices: Iterable[str] | None = None,
) -> Any:
    """A value that changes shapes or the program; `choices` closes the set of names."""
    return _field(
        default, FieldSpec("static", help, low, choices=None if choices is None else tuple(choices))
    )


def field_specs(cls: Any) -> dict[str, FieldSpec]:
    """Return every field of a Config (class or instance) with its spec, as declared."""
    try:
        return {field.name: field.metadata["spec"] for field in dataclasses.fields(cls)}
    except KeyError:
        names = [f.name for f in dataclasses.fields(cls) if "spec" not in f.metadata]
        raise TypeError(
            f"{names[0]} must be declared with hparam(), protocol() or static()"
        ) from None


STREAMS = ("init", "order", "split")
"""The random streams that a restart varies and that may be tied."""
TIED = tuple("+".join(tied) for n in (1, 2, 3) for tied in itertools.combinations(STREAMS, n))


@dataclass_transform(frozen_default=True, kw_only_default=True)
class _Declared:
    """Makes every subclass a frozen, keyword-only dataclass, registered as a pytree."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclass(frozen=True, kw_only=True)(cls)
        specs = field_specs(cls)
        jax.tree_util.register_dataclass(
            cls,
            data_fields=[name for name, spec in specs.items() if spec.kind != "static"],
            meta_fields=[name for name, spec in specs.items() if spec.kind == "static"],
        )


class BaseConfig(_Declared):
    """The protocol that every trial has, and the random streams that its restarts vary.

    A subclass adds an experiment's own fields; declaring it makes it a dataclass and a pytree.
    """

    steps: int = protocol(2000, "training steps at most", low=1, high=10**9)
    eval_every: int = protocol(50, "steps between two evaluations (a segment)", low=1, high=10**9)
    patience: float = protocol(
        math.inf, "stop after this many evaluations without improvement; inf is off", low=1
    )
    min_delta: float = protocol(0.0, "an improvement must exceed this", low=0)
    fix: str = static("none", "random streams that all restarts share", choices=("none", *TIED))


@dataclass(frozen=True)
class Preset:
    """A named size of an experiment: its settings and how many restarts each point gets."""

    config: Any
    restarts: int


def values(field: Any) -> tuple:
    """The values of a field: one, or those of its axis.

    >>> values(0.1), values((0.1, 0.2))
    ((0.1,), (0.1, 0.2))
    """
    return field if isinstance(field, tuple) else (field,)


def validate(config: Any) -> None:
    """Refuse a Config with a value outside its field's range, or an axis that is none.

    Raises:
        UserError: empty axis, repeated value, NaN, out of range, or a name outside the
            field's choices.
    """
    for name, spec in field_specs(config).items():
        several = values(getattr(config, name))
        flag = flag_of(name)
        if not several:
            raise UserError(f"{flag}: expected at least one value, got none")
        repeated = [value for i, value in enumerate(several) if value in several[:i]]
        if repeated:
            raise UserError(f"{flag}: the value {repeated[0]} is repeated; each may be given once")
        for value in several:
            _validate_value(flag, value, spec)


def _validate_value(flag: str, value: Any, spec: FieldSpec) -> None:
    if spec.choices is not None and value not in spec.choices:
        raise unknown(flag.removeprefix("--"), str(value), spec.choices)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    # The compiled program sees float32, in which 0.99999999999 is 1 and 1e39 is inf.
    traced = spec.kind != "static"
    with np.errstate(over="ignore"):
        seen = float(np.float32(value)) if traced else value
    bounds = list(_bounds(spec))
    if math.isnan(seen) or not all(holds(seen) for _, holds in bounds):
        expected = " and ".join(text for text, _ in bounds) or "a number or inf"
        raise UserError(f"{flag}: expected {expected}, got {value}")


def _bounds(spec: FieldSpec) -> Iterator[tuple[str, Any]]:
    if not spec.infinite:
        yield "a finite number", math.isfinite
    low, high, below, above = spec.low, spec.high, spec.below, spec.above
    if low is not None:
        yield f"at least {low:g}", lambda value: value >= low
    if above is not None:
        yield f"above {above:g}", lambda value: value > above
    if high is not None:
        yield f"at most {high:g}", lambda value: value <= high
    if below is not None:
        yield f"below {below:g}", lambda value: value < below


class Traced:
    """Stands for an hparam or protocol value where only statics may be read.

    A task is built once for all points of a program. Were it to read `config.l2`, every point
    would silently train with the first one's value; this refuses any use of it.
    """

    def __init__(self, name: str):
        self._name = name

    def _refuse(self, *_: Any) -> Any:
        raise TypeError(
            f"{self._name} is data to the compiled program, and differs between the trials that "
            f"share this task: read trial.hparams.{self._name} inside of the task's functions"
        )

    __float__ = __int__ = __index__ = __bool__ = __array__ = __jax_array__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _refuse
    __rtruediv__ = __pow__ = __rpow__ = __neg__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __iter__ = __len__ = __format__ = _refuse


def statics_of(config: Any) -> Any:
    """The Config with its traced values hidden: what a task may be built from.

    >>> class Config(BaseConfig):
    ...     l2: float = hparam(0.0, "strength")
    >>> statics_of(Config()).l2 * 2
    Traceback (most recent call last):
    TypeError: l2 is data to the compiled program, and differs between the trials that
    share this task: read trial.hparams.l2 inside of the task's functions
    """
    specs = field_specs(config).items()
    return dataclasses.replace(
        config, **{name: Traced(name) for name, spec in specs if spec.kind != "static"}
    )


def as_traced(config: Any) -> Any:
    """The Config with NumPy scalars for leaves: float32, and int32 for integer protocol.

    One dtype per field whatever was typed (`--l2 0` and `--l2 1e-4`), so that a value can
    never change the program.
    """
    integers = {"steps", "eval_every"}
    changes = {
        # Adding 0 makes 0 of −0, which would name another trial.
        name: (np.int32 if name in integers else np.float32)(getattr(config, name) + 0)
        for name, spec in field_specs(config).items()
        if spec.kind != "static"
    }
    return dataclasses.replace(config, **changes)


def canonical(config: Any) -> str:
    """The Config as canonical JSON: what its trials' identity is made of.

    Numbers appear as the traced program sees them (float32), so `0.1` and `0.10000000149`
    name the same trial.
    """
    traced = as_traced(config)
    fields = {name: getattr(traced, name) for name in sorted(field_specs(config))}
    return json.dumps(
        {name: v.item() if isinstance(v, np.generic) else v for name, v in fields.items()},
        sort_keys=True,
    )
