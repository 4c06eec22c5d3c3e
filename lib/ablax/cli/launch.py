"""From flags to report: what every experiment's command does."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablax.cli import flags
from ablax.engine.mesh import cpu_devices_per_core, keep_compiled
from ablax.errors import UserError

if TYPE_CHECKING:
    from ablax.study.plan import Plan


@dataclass(frozen=True)
class Planned:
    """What a command asks for, and where it belongs."""

    asked: flags.Launch
    plan: Plan
    directory: Path


def planned(name: str, module: Any, arguments: list[str]) -> Planned:
    """The plan of a command; nothing is compiled yet."""
    cpu_devices_per_core()
    keep_compiled()
    asked = flags.parse(name, module, arguments)

    from ablax.study.plan import make_plan

    plan = make_plan(
        name,
        module,
        asked.config,
        restarts=asked.restarts,
        seed=asked.seed,
        slots=asked.slots,
        halving=asked.halving,
    )
    return Planned(asked, plan, asked.out or Path("runs") / f"{name}-{plan.id}")


def launch(name: str, module: Any, arguments: list[str]) -> int:
    """Plan, train and report one study; returns the exit status."""
    started = time.perf_counter()
    found = planned(name, module, arguments)
    asked, plan, directory = found.asked, found.plan, found.directory

    from ablax.engine import processes as hosts
    from ablax.study.manifest import command_line
    from ablax.study.plan import describe
    from ablax.study.train import train

    if hosts.first():
        print_plan(describe(plan))
    if asked.plan:
        return 0
    result = train(
        plan,
        directory,
        keep=asked.keep,
        command=command_line([name, *arguments]),
        checkpoint_minutes=asked.checkpoint_minutes,
        allow_changed=asked.allow_changed,
        retry=asked.retry == "diverged",
        slots=asked.slots,
    )
    if not hosts.first():
        return 130 if result.missing else 0
    if result.missing:
        print(
            f"stopped: {result.missing:,} trials are missing in {directory}; "
            "the same command goes on",
            file=sys.stderr,
        )
        return 130
    page, answers = write_report(directory, module)
    for answer in answers:
        print(f"best   {answer}")
    print(f"time   {time.perf_counter() - started:.1f} s, {result.trained:,} trials trained")
    print(f"report {page}")
    return 0


def write_report(directory: Path, module: Any) -> tuple[Path, list[str]]:
    """(path of report.html, the answer in a sentence for each baseline)."""
    from ablax.report import page
    from ablax.report import plot as figures
    from ablax.report.study import Table

    table = Table(directory)
    with figures.style():
        path = page.build(
            table,
            question=module.__doc__ or "",
            drawn=module.figures(table),
            claims=getattr(module, "CLAIMS", []),
        )
    return path, page.answers(table)


def rebuild(directories: Sequence[Path], load: Callable[[str], Any]) -> None:
    """The reports of run directories again, without training; the first against each other."""
    from ablax.study.admission import record_of, settle

    for directory in directories:
        record_of(directory)  # what is damaged is refused
        name = experiment_of(directory)
        try:
            settle(directory)
        except UserError as busy:  # the parts that are there serve as well
            print(f"{busy}\nthe report is of what has finished so far", file=sys.stderr)
        page, answers = write_report(directory, load(name))
        for answer in answers:
            print(f"best   {answer}")
        print(f"report {page}")
    if len(directories) > 1:
        from ablax.report import compare
        from ablax.report.study import Table

        first, *others = map(Table, directories)
        for other in others:
            page, text = compare.build(first, other)
            print(f"\nA = {first.directory}, B = {other.directory}\n\n{text}")
            print(f"comparison {page}")


def experiment_of(directory: Path) -> str:
    """The experiment whose study a run directory holds."""
    try:
        return json.loads((directory / "study.json").read_text())["experiment"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{directory} holds no readable study.json: {error}") from error


def print_plan(lines: dict[str, str]) -> None:
    width = max(map(len, lines))
    for label, text in lines.items():
        print(f"{label:<{width}}  {text}", flush=True)
