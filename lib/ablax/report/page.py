"""The report: one HTML page that needs nothing else, and the same as Markdown, CSV and LaTeX."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from ablax.errors import Missing
from ablax.experiment import Experiment
from ablax.report import plot, selection, standard
from ablax.report.ablation import AblationRow, ablation, ablation_frame, points_frame
from ablax.report.claims import Judgement, Remarks, evidence_in_words, judge_all
from ablax.report.study import Chosen, Study
from ablax.report.tables import (
    Printed,
    ablation_table,
    diverged_in_words,
    latex,
    markdown,
    markdown_row,
    narrow,
    plain,
    points_table,
    show,
)
from ablax.rundir.store import replacing, write_json

TEMPLATES = Path(__file__).parent
MOST_ANSWERS = 6
"""Baselines that get a sentence each; of more, the best point of all gets one."""


MOST_TRIALS = 200
"""Trials that are listed of a row of a table: a browser shows no million."""


@dataclass(frozen=True)
class Evidence:
    """The trials behind the numbers of one row of a table; `anchor` is their place on the page."""

    anchor: str
    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def build(study: Study, experiment: Experiment, remarks: Remarks | None = None) -> Path:
    """Write report/ under the study's directory; return the path of report.html.

    Args:
        study: what the report is of.
        experiment: its figures stand beside those of every report, its claims are judged. A figure
            whose points the study lacks, or that shows nothing, is left out.
        remarks: on the verdicts of this study.
    """
    directory = study.directory / "report"
    rows = ablation(study)
    drawn = {**standard.figures(study, rows), **_drawn(experiment, study)}
    plot.save(drawn, directory)
    about = description(study, experiment)
    captions = {name: str(figure.get_label() or name) for name, figure in drawn.items()}
    tables = {"ablation": ablation_table(study, rows), "points": points_table(study)}
    frames = {"ablation": ablation_frame(study, rows), "points": points_frame(study)}
    judgements = judge_all(experiment.claims, study, remarks)
    overview = summary(study, rows)
    for name, printed in tables.items():
        write(directory / f"{name}.csv", frames[name].to_csv(index=False))
        write(directory / f"{name}.tex", latex(narrow(printed)))
    write(directory / "report.md", _markdown(study, about, overview, tables, judgements, captions))
    write_json(directory / "claims.json", [_plain(judgement) for judgement in judgements])
    page = render(
        "page.html",
        study=study,
        about=about,
        summary=overview,
        tables=tables,
        judgements=judgements,
        figures={name: inline(directory / f"{name}.png") for name in drawn},
        captions=captions,
        evidence=evidence(study, rows),
        timings=list(study.timings.itertuples(index=False, name=None)),
    )
    write(directory / "report.html", page)
    return directory / "report.html"


def _drawn(experiment: Experiment, study: Study) -> dict[str, Figure]:
    """The experiment's own figures, without those that this study has nothing for."""
    drawn = {}
    for name, draw in experiment.figures.items():
        try:
            figure = draw(study)
        except Missing:
            continue
        if any(axes.has_data() for axes in figure.axes):
            drawn[name] = figure
    return drawn


def description(study: Study, experiment: Experiment) -> list[str]:
    """The paragraphs about an experiment that are true of this study.

    The question and the source always are. The rest describes the default preset on its own data,
    and is left out where flags or another preset changed what was trained. The command is that of
    the study, which stands with its provenance.
    """
    question, *others = experiment.description.split("\n\n")
    others = [text for text in others if not text.startswith("Command:")]
    if study.manifest.get("preset") != "default":
        return [question, *(text for text in others if text.startswith("Source:"))]
    return [question, *others, *([experiment.expected] if experiment.expected else [])]


@dataclass(frozen=True)
class Summary:
    """The answer in a sentence or some, and what a reader must know before believing it."""

    answers: tuple[str, ...]
    warnings: tuple[str, ...]


def summary(study: Study, rows: Sequence[AblationRow]) -> Summary:
    warnings = []
    if missing := study.manifest["trials"] - study.n_finished:
        warnings.append(
            f"{missing} of {study.manifest['trials']} trials have not finished: this report covers "
            "the others. Rerun the same command to resume."
        )
    if max(row.n for row in rows) < 2:
        warnings.append(
            "One restart a point: there are no intervals, and no difference can be told from luck."
        )
    if "diverged" in set(study.trials["status"]):
        warnings.append(diverged_in_words(study))
    if marks := study.manifest.get("marks"):
        warnings += [f"Changed while the study lasted: {mark}." for mark in marks]
    if study.rungs:
        warnings.append(_rungs_in_words(study))
    return Summary(tuple(answers(study)), tuple(warnings))


def answers(study: Study) -> list[str]:
    """The best point with its interval, and its gain over its baseline: of each baseline."""
    bests = selection.bests(study)
    choices = list(bests.values()) if len(bests) <= MOST_ANSWERS else [selection.best(study)]
    return [_answer(study, choice) for choice in choices]


def _answer(study: Study, best: Chosen) -> str:
    name = study.headline.name
    interval = study.interval(best, f"test/{name}")
    n = interval.n
    if math.isnan(interval.estimate):
        return f"{best.point}: every trial diverged"
    sentence = f"{best.point}: test {name} {show(interval)}"
    baseline = study.baseline(best.point)
    if baseline is not None:
        difference = study.difference(best, baseline, f"test/{name}")
        sign = "+" if difference.estimate > 0 else ""
        sentence += f", {sign}{show(difference)} against {baseline}"
        sentence += f" at the {difference.n} restarts that both have" if difference.n < n else ""
    if n < 2:
        return f"{sentence} (one restart; selected by its validation {study.objective.name})"
    sentence += f" (mean and 95% interval over {n} restarts"
    if len(study.settings) > 1:
        sentence += (
            f"; selected by leave-one-out validation {study.objective.name} in "
            f"{best.agreeing}/{n} restarts"
        )
    return f"{sentence})"


def _rungs_in_words(study: Study) -> str:
    """Sentence on the rounds of a halved study, of which only the last is shown."""
    rungs = [f"{r.points} points ({r.trials} trials) to step {r.steps:,}" for r in study.rungs]
    return (
        f"Successive halving: {', then '.join(rungs)}. The tables, the figures and the claims are "
        "of the points of the last round; the others stopped where they were dropped."
    )


def evidence(study: Study, rows: Sequence[AblationRow]) -> list[Evidence]:
    """The trials behind every row of both tables: ids, seeds, status and result."""
    lists = [(f"row-{i}", row.group, row.trials) for i, row in enumerate(rows)]
    lists += [(f"point-{i}", point, study.of(point)) for i, point in enumerate(study.settings)]
    metric = f"test/{study.headline.name}"
    columns = ("trial", "point", "restart", "status", "steps", metric)
    raw = study.trials.set_index("trial")[metric]  # not as ranked: as measured
    behind = []
    for anchor, title, trials in lists:
        cells = [
            (*(str(row[c]) for c in columns[:-1]), f"{raw[row['trial']]:.6g}")
            for row in trials.head(MOST_TRIALS).to_dict("records")
        ]
        if len(trials) > MOST_TRIALS:
            title += f": the first {MOST_TRIALS} of {len(trials):,} (all are in trials.parquet)"
        behind.append(Evidence(anchor, title, columns, cells))
    return behind


def _markdown(
    study: Study,
    about: Sequence[str],
    overview: Summary,
    tables: Mapping[str, Printed],
    judgements: Sequence[Judgement],
    captions: Mapping[str, str],
) -> str:
    blocks = [
        f"# {study.manifest['experiment']}",
        *about,
        *(f"**{answer}**" for answer in overview.answers),
    ]
    blocks += overview.warnings
    if judgements:
        lines = ["| claim | verdict | evidence |", "|---|---|---|"]
        for j in judgements:
            words = "<br>".join(map(plain, evidence_in_words(j)))
            lines.append(markdown_row([plain(j.claim.sentence), j.verdict, words]))
        blocks.append("\n".join(lines))
    for printed in tables.values():
        blocks += [markdown(printed).rstrip(), printed.caption]
    blocks += [f"![{caption}]({name}.png)\n\n{caption}" for name, caption in captions.items()]
    return "\n\n".join(blocks) + "\n"


def _plain(judgement: Judgement) -> dict[str, Any]:
    return {
        "id": judgement.claim.id,
        "sentence": judgement.claim.sentence,
        "source": judgement.claim.source,
        "verdict": judgement.verdict,
        "level": judgement.claim.level,
        "parts": [
            {
                "measured": part.measured,
                "expected": list(part.expected),
                "effect": part.interval.estimate,
                "low": part.interval.low,
                "high": part.interval.high,
                "n": part.interval.n,
            }
            for part in judgement.parts
        ],
    }


def inline(path: Path) -> str:
    """A PNG as what an <img> needs to be self-contained."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def render(template: str, **values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["words"] = evidence_in_words
    return environment.get_template(template).render(**values)


def write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)
