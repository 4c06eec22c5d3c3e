"""The launcher's flags: where a study runs, never what it is."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NoReturn

from ablax.errors import UserError, flag_of, unknown

PLACES = ("local", "slurm", "tpu-pod")
LOWEST = {"processes": 1, "process_id": 0, "nodes": 1, "gpus_per_node": 1, "cpus_per_task": 1}
OWNED = {
    "local": ("processes", "coordinator", "process_id"),
    "slurm": ("nodes", "gpus_per_node", "cpus_per_task", "time", "partition", "account"),
    "tpu-pod": ("tpu", "zone", "project", "remote_dir"),
}
TIME = r"\d+|\d+(:\d+){1,2}|\d+-\d+(:\d+){0,2}"


@dataclass(frozen=True)
class Where:
    """Values of the launcher's flags; None leaves the choice to the cluster."""

    on: str = "local"
    dry_run: bool = False
    processes: int = 1
    coordinator: str | None = None
    process_id: int | None = None
    nodes: int = 1
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    tpu: str | None = None
    zone: str | None = None
    project: str | None = None
    remote_dir: str | None = None


def parse(arguments: Sequence[str]) -> tuple[Where, list[str]]:
    """(where, the other arguments in their order); the flags may stand anywhere.

    >>> where, rest = parse(["--processes", "2", "regularization", "--l2", "-1e-3", "--dry-run"])
    >>> where.processes, where.dry_run, rest
    (2, True, ['regularization', '--l2', '-1e-3'])

    Raises:
        UserError: a value out of range, a flag given twice, or flags that do not belong together.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    for field in fields(Where):
        # Values stay text and are collected, so that what is refused is said in our own words.
        if field.name == "dry_run":
            parser.add_argument(flag_of(field.name), action="append_const", const=True)
        else:
            parser.add_argument(flag_of(field.name), action="append")
    parsed, rest = parser.parse_known_args(arguments)
    chosen = {}
    for name, values in vars(parsed).items():
        if values is None:
            continue
        if len(values) > 1:
            raise UserError(f"{flag_of(name)}: expected once, got {len(values)} times")
        chosen[name] = _value(name, values[0])
    where = Where(**chosen)
    _validate(where, set(chosen))
    return where, rest


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        reason = message.removeprefix("argument ")
        raise UserError(reason.replace("expected one argument", "expected a value, got none"))


def _value(name: str, text: str | bool) -> str | int | bool:
    if isinstance(text, bool):
        return text
    if name == "on":
        if text not in PLACES:
            raise unknown("--on", text, PLACES)
    elif name in LOWEST:
        if not re.fullmatch(r"[+-]?\d+", text) or int(text) < LOWEST[name]:
            _refuse(name, f"a whole number of at least {LOWEST[name]}", text)
        return int(text)
    elif name == "coordinator":
        port = re.fullmatch(r"\S+:(\d+)", text)
        if not port or not 0 < int(port[1]) < 2**16:
            _refuse(name, "HOST:PORT", text)
    elif name == "time":
        if not re.fullmatch(TIME, text):
            _refuse(name, "MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS", text)
    elif name == "remote_dir":
        if not text.strip():
            _refuse(name, "a folder", text)
    elif not re.fullmatch(r"\w\S*", text):  # a blank or line break would end a line of the script
        _refuse(name, "a name", text)
    return text


def _refuse(name: str, expected: str, got: str) -> NoReturn:
    raise UserError(f"{flag_of(name)}: expected {expected}, got {got!r}")


def _validate(where: Where, chosen: set[str]) -> None:
    for place, names in OWNED.items():
        wrong = [name for name in names if name in chosen]
        if place != where.on and wrong:
            hint = " (one process a node or worker elsewhere)" if place == "local" else ""
            raise UserError(
                f"{flag_of(wrong[0])}: expected together with --on {place}{hint}, "
                f"got --on {where.on}"
            )
    if where.on == "tpu-pod" and where.tpu is None:
        raise UserError("--on tpu-pod: expected --tpu NAME too, got none")
    if chosen & {"coordinator", "process_id"}:
        absent = [flag_of(name) for name in OWNED["local"] if name not in chosen]
        if absent:
            raise UserError(
                "expected --coordinator HOST:PORT, --processes N and --process-id I together, "
                f"got no {' and no '.join(absent)}"
            )
    if where.process_id is not None and where.process_id >= where.processes:
        raise UserError(
            f"--process-id: expected 0 to {where.processes - 1}, as --processes is "
            f"{where.processes}, got {where.process_id}"
        )
