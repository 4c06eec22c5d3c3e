"""From flags to report: the command of an experiment."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ablax.cli import experiments, flags
from ablax.engine.mesh import cpu_devices_per_core, keep_compiled
from ablax.errors import UserError
from ablax.experiment import Experiment

if TYPE_CHECKING:
    from ablax.study.plan import Plan


@dataclass(frozen=True)
class Planned:
    """A command's plan, and the run directory that it belongs in."""

    asked: flags.Launch
    plan: Plan
    directory: Path


@dataclass(frozen=True)
class Launched:
    """Result of a command: its exit status and the directory of its study."""

    status: int
    directory: Path


def planned(experiment: Experiment, typed: str, arguments: list[str]) -> Planned:
    """The plan of a command; nothing is compiled yet.

    Args:
        experiment: that is launched.
        typed: its name or path, as the user typed it.
        arguments: its flags.
    """
    cpu_devices_per_core()
    keep_compiled()
    asked = flags.parse(experiment, typed, arguments)

    from ablax.study.plan import make_plan

    plan = make_plan(
        experiment,
        asked.config,
        restarts=asked.restarts,
        seed=asked.seed,
        slots=asked.slots,
        halving=asked.halving,
    )
    return Planned(asked, plan, asked.out or Path("runs") / f"{experiment.name}-{plan.id}")


def launch(experiment: Experiment, typed: str, arguments: list[str]) -> Launched:
    """Plan, train and report one study; arguments as for `planned`."""
    started = time.perf_counter()
    todo = planned(experiment, typed, arguments)
    asked, plan, directory = todo.asked, todo.plan, todo.directory

    from ablax.engine import processes
    from ablax.study.manifest import Origin
    from ablax.study.plan import describe
    from ablax.study.train import train

    if processes.first():
        print_plan(describe(plan))
    if asked.plan:
        return Launched(0, directory)
    result = train(
        plan,
        directory,
        keep=asked.keep,
        origin=Origin.of([typed, *arguments], asked.unchanged_preset),
        checkpoint_minutes=asked.checkpoint_minutes,
        allow_changed=asked.allow_changed,
        retry=asked.retry == "diverged",
        slots=asked.slots,
    )
    if not processes.first():
        return Launched(130 if result.missing else 0, directory)
    if result.missing:
        print(
            f"stopped: {result.missing:,} trials are missing in {directory}; "
            "rerun the same command to resume",
            file=sys.stderr,
        )
        return Launched(130, directory)
    page, answers = write_report(directory, experiment)
    for answer in answers:
        print(f"best   {answer}")
    print(f"time   {time.perf_counter() - started:.1f} s, {result.trained:,} trials trained")
    print(f"report {page}")
    return Launched(0, directory)


def write_report(directory: Path, experiment: Experiment) -> tuple[Path, list[str]]:
    """(path of report.html, the answer in a sentence for each baseline)."""
    from ablax.cli.remarks import remarks_on
    from ablax.report import page, plot
    from ablax.report.study import Study

    study = Study(directory)
    with plot.style():
        path = page.build(study, experiment, remarks_on(study))
    return path, page.answers(study)


def rebuild(directories: Sequence[Path]) -> None:
    """The reports of run directories again, without training; the first against each other."""
    from ablax.study.manifest import read_manifest
    from ablax.study.rewinding import compact_interrupted

    for directory in directories:
        read_manifest(directory)  # what is damaged is refused
        experiment = experiment_in(directory)
        try:
            compact_interrupted(directory)
        except UserError as busy:  # the parts that are there serve as well
            print(f"{busy}\nthe report covers the trials that have finished", file=sys.stderr)
        page, answers = write_report(directory, experiment)
        for answer in answers:
            print(f"best   {answer}")
        print(f"report {page}")
    if len(directories) > 1:
        from ablax.report import compare
        from ablax.report.study import Study

        first, *others = map(Study, directories)
        for other in others:
            page, text = compare.build(first, other)
            print(f"\nA = {first.directory}, B = {other.directory}\n\n{text}")
            print(f"comparison {page}")


def experiment_in(directory: Path) -> Experiment:
    """The experiment whose study a run directory holds; of a file of one's own, from that file."""
    from ablax.study.manifest import read_manifest

    study = read_manifest(directory)
    if study is None:
        raise UserError(f"{directory} holds no study: expected {directory / 'study.json'}")
    origin = study["provenance"]
    name = origin.get("file") or study["experiment"]
    return experiments.load(name, Path(origin.get("working_directory", "")))


def print_plan(lines: dict[str, str]) -> None:
    """Print labelled lines, their texts below each other."""
    width = max(map(len, lines))
    for label, text in lines.items():
        print(f"{label:<{width}}  {text}", flush=True)
