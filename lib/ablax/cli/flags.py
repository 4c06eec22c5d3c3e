"""Flags of an experiment: every field of its Config, and what belongs to the study."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import tyro

from ablax.checkout import COMMAND
from ablax.config import FieldSpec, Preset, field_specs, values
from ablax.errors import UserError, flag_of, unknown
from ablax.experiment import Experiment

T = TypeVar("T")


@dataclass(frozen=True)
class Launch:
    """The flags of an experiment's command.

    Attributes:
        unchanged_preset: the preset, if no flag changes what it trains.
    """

    config: Any
    unchanged_preset: str | None
    preset: str
    restarts: int
    seed: int
    out: Path | None
    plan: bool
    keep: Literal["none", "best", "all"]
    slots: int | None
    halving: int | None
    checkpoint_minutes: float
    retry: Literal["diverged"] | None
    allow_changed: bool


def parse(
    experiment: Experiment, typed: str, arguments: list[str], default_preset: str = "default"
) -> Launch:
    """Read the flags of one experiment.

    A field given on the command line, with one value or several, becomes an axis (a tuple);
    a field left alone keeps the preset's value. tyro refuses unknown flags and values of the
    wrong type with exit status 2.

    Raises:
        UserError: an unknown flag or preset, restarts < 1, a seed that is not a 32-bit
            integer, or slots that are no multiple of 16.
    """
    preset = _preset_name(arguments, default_preset)
    presets: Mapping[str, Preset] = experiment.presets
    if preset not in presets:
        raise unknown("preset", preset, presets)
    base = presets[preset].config
    types = get_type_hints(type(base))
    study = [
        ("preset", _flag(str, f"size of the study: {', '.join(presets)}"), preset),
        ("restarts", _flag(int, "random restarts of every point"), presets[preset].restarts),
        ("seed", _flag(int, "seed of the study"), 0),
        ("out", _flag(Path | None, "run directory; None: named by the study"), None),
        ("plan", _flag(bool, "print the plan and stop"), False),
        (
            "keep",
            _flag(Literal["none", "best", "all"], "whose selected snapshots to keep in params/"),
            experiment.keep,
        ),
        ("slots", _flag(int | None, "slots per device; None: chosen by rule"), None),
        (
            "halving",
            _flag(int | None, "train all to a rung, the best 1/N on to the next, and so on"),
            None,
        ),
        ("checkpoint_minutes", _flag(float, "minutes between two checkpoints"), 5.0),
        ("retry", _flag(Literal["diverged"] | None, "finished trials to train again"), None),
        (
            "allow_changed",
            _flag(bool, "go on although data, program, JAX or device have changed, and mark it"),
            False,
        ),
    ]
    fields = [
        (
            field,
            _flag(tuple[types[field], ...], _help(spec), types[field]),
            values(getattr(base, field)),
        )
        for field, spec in field_specs(base).items()
    ]
    flags = dataclasses.make_dataclass(
        "Flags",
        [(n, kind, dataclasses.field(default=default)) for n, kind, default in [*study, *fields]],
        frozen=True,
    )
    _refuse_unknown(arguments, [n for n, _, _ in [*study, *fields]])
    parsed = read(
        flags, typed, arguments, "\n\n".join((experiment.description, experiment.expected))
    )
    # tyro hands back the default object itself for a flag that was not given.
    axes = {
        field: getattr(parsed, field)
        for field, _, default in fields
        if getattr(parsed, field) is not default
    }
    config = dataclasses.replace(base, **axes)
    usual = (config, parsed.restarts, parsed.seed) == (base, presets[preset].restarts, 0)
    launch = Launch(
        config=config,
        unchanged_preset=preset if usual and parsed.halving is None else None,
        **{n: getattr(parsed, n) for n, _, _ in study},
    )
    _validate(launch)
    return launch


def read(kind: type[T], name: str, arguments: Sequence[str], description: str | None = None) -> T:
    """The flags of a command, as the dataclass that declares them."""
    return tyro.cli(
        kind,
        args=arguments,
        prog=f"{COMMAND} {name}",
        description=description,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _validate(launch: Launch) -> None:
    if launch.restarts < 1:
        raise UserError(f"--restarts: expected at least 1, got {launch.restarts}")
    if not 0 <= launch.seed < 2**32:
        raise UserError(f"--seed: expected an integer from 0 to 2**32 - 1, got {launch.seed}")
    if not launch.checkpoint_minutes >= 0:
        raise UserError(
            f"--checkpoint-minutes: expected at least 0, got {launch.checkpoint_minutes:g}"
        )
    if launch.slots is not None and (launch.slots < 16 or launch.slots % 16):
        raise UserError(f"--slots: expected a multiple of 16, got {launch.slots}")


def _refuse_unknown(arguments: list[str], names: list[str]) -> None:
    """Refuse unknown flags, with the nearest known one, and flags given twice."""
    flags = [flag_of(name) for name in names]
    parsed = [a.partition("=")[0].replace("_", "-") for a in arguments if a.startswith("--")]
    for flag in parsed:
        if flag not in [*flags, "--help"]:
            raise unknown("flag", flag, flags)
        if parsed.count(flag) > 1:
            raise UserError(f"{flag} is given {parsed.count(flag)} times; give all its values once")


def _preset_name(arguments: list[str], default: str) -> str:
    """The name of the preset, read before the other flags because it decides their defaults."""
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        if argument == "--preset":
            return following
        if argument.startswith("--preset="):
            return argument.removeprefix("--preset=")
    return default


def _flag(kind: Any, help: str, item: Any = None) -> Any:
    names = {int: "INT", int | None: "INT", float: "FLOAT"}
    metavar = names.get(item, "NAME") if item is not None else None
    return Annotated[kind, tyro.conf.arg(help=help, metavar=metavar and f"{metavar} [{metavar} …]")]


def _help(spec: FieldSpec) -> str:
    choices = f" ({', '.join(spec.choices)})" if spec.choices else ""
    bounds = {"≥": spec.low, ">": spec.above, "≤": spec.high, "<": spec.below}
    limits = [f"{sign} {bound:g}" for sign, bound in bounds.items() if bound is not None]
    return f"{spec.kind}: {spec.help}{choices}" + (f"; {', '.join(limits)}" if limits else "")
