"""./launch.sh claims: every claim of every experiment, its verdict and its evidence."""

import datetime
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import tyro

from ablax.checkout import COMMAND, EXPERIMENTS
from ablax.cli import experiments as all_experiments
from ablax.cli.flags import read
from ablax.errors import UserError, unknown
from ablax.experiment import Experiment

LEDGER = EXPERIMENTS / "CLAIMS.md"


@dataclass(frozen=True)
class Flags:
    """Judge every claim on the studies that are here; with --run, train those that are not."""

    preset: Annotated[str, tyro.conf.arg(help="size of the studies")] = "default"
    run: Annotated[bool, tyro.conf.arg(help="train whatever is missing, write the ledger")] = False
    out: Annotated[
        Path | None,
        tyro.conf.arg(help="the ledger; None: experiments/CLAIMS.md, of other presets in runs/"),
    ] = None


@dataclass(frozen=True)
class Entry:
    """The claims of one experiment and what its study says of them.

    Attributes:
        name: of the experiment.
        directory: of its study.
        claims: that it declares.
        study: None if there is none.
        why: there is none.
    """

    name: str
    directory: Path
    claims: Sequence[Any]
    study: Any
    why: str = ""

    @cached_property
    def judgements(self) -> list[Any]:
        from ablax.cli.remarks import remarks_on
        from ablax.report.claims import judge_all

        if self.study is None:
            return []
        return judge_all(self.claims, self.study, remarks_on(self.study))


def main(experiments: Mapping[str, Experiment], arguments: list[str], *, everything: bool) -> int:
    """Print the ledger of some experiments; the exit status.

    Args:
        experiments: by name, as it was typed.
        arguments: flags.
        everything: these are all experiments: only then the ledger is written, unless `--out`
            says where to.
    """
    flags = read(Flags, "claims", arguments)
    for experiment in experiments.values():
        if flags.preset not in experiment.presets:
            raise unknown("preset", flags.preset, experiment.presets)
    entries = []
    for typed, experiment in experiments.items():
        if not experiment.claims:
            continue
        entry, status = _entry(experiment, typed, flags)
        if status == 130:
            return status
        entries.append(entry)
    print(text(entries))
    if flags.run and (everything or flags.out):
        path = flags.out or _ledger(flags.preset)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(markdown(entries, flags.preset))
        print(f"ledger {path}")
    missing = [entry.name for entry in entries if entry.study is None]
    if missing and not flags.run:
        known = LEDGER.exists() and set(missing) <= set(all_experiments.names())
        recorded = f"; {LEDGER.name} has the recorded verdicts" if known else ""
        print(f"no study here of {', '.join(missing)}: claims --run trains them{recorded}")
    return 2 if missing and flags.run else 0


def _ledger(preset: str) -> Path:
    return LEDGER if preset == "default" else Path("runs") / f"CLAIMS-{preset}.md"


def _entry(experiment: Experiment, typed: str, flags: Flags) -> tuple[Entry, int]:
    """(what is known of an experiment's claims, the exit status of training what was missing)."""
    from ablax.cli.launch import launch, planned
    from ablax.report.study import Study

    command = ["--preset", flags.preset]
    name, claims = experiment.name, experiment.claims
    try:
        directory = planned(experiment, typed, command).directory
        if flags.run and not _complete(directory):
            print(f"\n{name}", file=sys.stderr)
            if status := launch(experiment, typed, command).status:
                return Entry(name, directory, claims, None, "stopped"), status
        study = Study(directory) if (directory / "study.json").exists() else None
        return Entry(name, directory, claims, study, "not trained"), 0
    except UserError as error:  # a data set that is not there is no reason to judge nothing else
        return Entry(name, Path("runs"), claims, None, str(error)), 0


def _complete(directory: Path) -> bool:
    from ablax.report.study import Study

    if not (directory / "study.json").exists():
        return False
    try:
        study = Study(directory)
    except UserError:
        return False
    return study.n_finished == study.manifest["trials"]


def text(entries: Sequence[Entry]) -> str:
    """The ledger for a terminal."""
    from ablax.report.claims import evidence_in_words

    lines = []
    for entry in entries:
        lines += ["", f"{entry.name}: {_study(entry)}"]
        for judgement in entry.judgements:
            claim = judgement.claim
            lines.append(f"  {judgement.verdict:<13} {claim.sentence} [{claim.id}]")
            lines += [f"{'':<16}{line}" for line in evidence_in_words(judgement)]
        if entry.study is None:
            lines += [f"  {'–':<13} {claim.sentence} [{claim.id}]" for claim in entry.claims]
    return "\n".join([*lines, "", _count(entries)])


def markdown(entries: Sequence[Entry], preset: str) -> str:
    """The ledger as it is committed."""
    from ablax.report.claims import evidence_in_words
    from ablax.report.tables import markdown_row, plain

    date = datetime.date.today().isoformat()
    again = f"{COMMAND} claims --run" + (f" --preset {preset}" if preset != "default" else "")
    lines = [
        "# Claims",
        "",
        f"Written by `{again}` on {date}; not edited by hand. {_count(entries)}",
        "",
        "A claim is supported if the interval of every effect, of confidence 1 − level, lies where "
        "the claim expects it; refuted if one lies outside; else inconclusive. Effects are means "
        "over n restarts, written mean ± half-width with the interval of Student's t; a share of "
        "restarts, written with its two ends, has the exact binomial interval. A remark "
        "explains the verdict beside it, as this study came out, and no other.",
    ]
    for entry in entries:
        lines += ["", f"## {entry.name}", "", _study(entry) + ".", ""]
        lines += ["| claim | verdict | evidence | level | source |", "|---|---|---|---|---|"]
        for judgement in entry.judgements:
            claim = judgement.claim
            cells = (
                f"{plain(claim.sentence)} (`{claim.id}`)",
                f"**{judgement.verdict}**",
                "<br>".join(map(plain, evidence_in_words(judgement))),
                f"{claim.level:g}",
                plain(claim.source),
            )
            lines.append(markdown_row(cells))
        if entry.study is None:
            for claim in entry.claims:
                cells = (f"{plain(claim.sentence)} (`{claim.id}`)", "–", "", f"{claim.level:g}")
                lines.append(markdown_row([*cells, plain(claim.source)]))
    return "\n".join(lines) + "\n"


def _study(entry: Entry) -> str:
    """Which study the evidence is from, and on what it was trained."""
    if entry.study is None:
        return entry.why
    manifest = entry.study.manifest
    provenance = manifest["provenance"]
    finished = "" if entry.study.n_finished == manifest["trials"] else " (unfinished)"
    versions = ", ".join(f"{p} {provenance['versions'][p]}" for p in ("jax", "flax", "optax"))
    sizes = f"{manifest['trials']:,} trials, {manifest['restarts']} restarts"
    device = f"{provenance['devices']} × {provenance['conditions']['device kind']}"
    return f"study `{manifest['id']}`{finished}, {sizes}, {device}, {versions}"


def _count(entries: Sequence[Entry]) -> str:
    verdicts = Counter(judgement.verdict for entry in entries for judgement in entry.judgements)
    waiting = sum(len(entry.claims) for entry in entries if entry.study is None)
    counts = [f"{n} {verdict}" for verdict, n in verdicts.items()]
    counts += [f"{waiting} without a study"] if waiting else []
    total = sum(len(entry.claims) for entry in entries)
    return f"{total} claim{'s' if total != 1 else ''}: {', '.join(counts)}."
