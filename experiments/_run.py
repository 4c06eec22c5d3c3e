"""From flags to report: what every experiment's command does."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ablax import flags
from ablax.errors import UserError
from ablax.sweep.mesh import cpu_devices_per_core, keep_compiled


def launch(name: str, module: Any, arguments: list[str]) -> int:
    """Plan, train and report one study; returns the exit status."""
    started = time.perf_counter()
    cpu_devices_per_core()
    keep_compiled()
    asked = flags.parse(name, module, arguments)

    from ablax.sweep import hosts
    from ablax.sweep.plan import describe, make_plan
    from ablax.sweep.provenance import command_line
    from ablax.sweep.study import train

    plan = make_plan(
        name,
        module,
        asked.config,
        restarts=asked.restarts,
        seed=asked.seed,
        slots=asked.slots,
        halving=asked.halving,
    )
    if hosts.first():
        print_plan(describe(plan))
    if asked.plan:
        return 0
    directory = asked.out or Path("runs") / f"{name}-{plan.id}"
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
    page, answer = write_report(directory, module)
    print(f"best   {answer}")
    print(f"time   {time.perf_counter() - started:.1f} s, {result.trained:,} trials trained")
    print(f"report {page}")
    return 0


def write_report(directory: Path, module: Any) -> tuple[Path, str]:
    """(path of report.html, the answer in one sentence)."""
    from ablax.report import figures, page
    from ablax.report.tables import Table

    table = Table(directory)
    with figures.style():
        drawn = module.figures(table)
        path = page.build(
            table, question=module.__doc__ or "", drawn=drawn, claims=getattr(module, "CLAIMS", [])
        )
    return path, page.answer(table)


def rebuild(directory: Path, load: Callable[[str], Any]) -> None:
    """The report of a run directory again, without training."""
    from ablax.sweep.claim import settle

    try:
        name = json.loads((directory / "study.json").read_text())["experiment"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{directory} holds no readable study.json: {error}") from error
    try:
        settle(directory)
    except UserError as busy:  # the parts that are there serve as well
        print(f"{busy}\nthe report is of what has finished so far", file=sys.stderr)
    page, answer = write_report(directory, load(name))
    print(f"best   {answer}")
    print(f"report {page}")


def print_plan(lines: dict[str, str]) -> None:
    width = max(map(len, lines))
    for label, text in lines.items():
        print(f"{label:<{width}}  {text}", flush=True)
