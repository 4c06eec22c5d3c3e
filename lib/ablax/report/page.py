"""The report: one HTML page that needs nothing else, and the same as Markdown, CSV and LaTeX."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from ablax.report import figures
from ablax.report.claims import Judgement, judge_all
from ablax.report.statistics import Interval
from ablax.report.tables import Table
from ablax.sweep.store import replacing, write_json

TEMPLATES = Path(__file__).parent


@dataclass(frozen=True)
class Column:
    """A column as the page, Markdown and LaTeX print it."""

    key: str
    title: str
    interval: bool = False


def build(table: Table, *, question: str, drawn: dict[str, Any], claims: Sequence[Any]) -> Path:
    """Write report/ under the study's directory; return the path of report.html.

    Args:
        question: what the experiment asks, in one or more sentences.
        drawn: {name: matplotlib figure}.
        claims: what to judge on the table.
    """
    directory = table.directory / "report"
    figures.save(drawn, directory)
    summary = table.summary()
    judgements = judge_all(claims, table)
    _write(directory / "table.csv", summary.to_csv(index=False))
    _write(directory / "table.tex", latex(table, summary))
    _write(directory / "report.md", markdown(table, summary, judgements, question, drawn))
    write_json(directory / "claims.json", [_plain(j) for j in judgements])
    page = (
        _environment()
        .get_template("page.html")
        .render(
            table=table,
            question=question.strip(),
            answer=answer(table),
            columns=columns(table, summary),
            rows=_rows(table, summary),
            comparisons=table.comparisons(),
            judgements=judgements,
            figures={name: _inline(directory / f"{name}.png") for name in drawn},
            captions={n: figure.get_label() or n.replace("_", " ") for n, figure in drawn.items()},
            marks=table.study.get("marks", []),
            rungs=rungs_in_words(table) if table.rungs else "",
            timings=list(table.timings.itertuples(index=False, name=None)),
            unfinished=table.study["trials"] - table.n_finished,
        )
    )
    _write(directory / "report.html", page)
    return directory / "report.html"


def answer(table: Table) -> str:
    """The best point, with its interval, in one sentence."""
    point = table.best()
    name = table.headline.name
    interval = table.interval(point, f"test/{name}")
    over = f"mean and 95% interval over {interval.n} restarts" if interval.n > 1 else "one restart"
    return (
        f"{point}: test {name} {show(interval)} "
        f"({over}; selected by validation {table.objective.name})"
    )


def rungs_in_words(table: Table) -> str:
    """What a halved study trained, and that only the last round is shown."""
    said = [f"{r.points} points ({r.trials} trials) to step {r.steps:,}" for r in table.rungs]
    return (
        f"Successive halving: {', then '.join(said)}. The table, the figures and the claims are of "
        "the points of the last round; the others stopped where they were dropped."
    )


def show(interval: Interval) -> str:
    """
    >>> show(Interval(0.94123, 0.93, 0.9525, 16))
    '0.941 ± 0.011'
    >>> show(Interval(1234.5, math.nan, math.nan, 1))
    '1234'
    """
    half = interval.half_width
    if not math.isfinite(half):
        return f"{interval.mean:.4g}"
    if half <= 1e-6 * abs(interval.mean):  # equal but for the rounding of float32
        return f"{interval.mean:.4g} ± 0"
    digits = max(0, min(6, 1 - math.floor(math.log10(half))))
    return f"{interval.mean:.{digits}f} ± {half:.{digits}f}"


def columns(table: Table, summary: pd.DataFrame) -> list[Column]:
    """What the printed table shows; table.csv has everything."""
    shown = [Column("group", "method")]
    shown += [Column(name, name) for name in table.varying]
    metrics = [f"{s}/{m}" for m in table.study["metrics"] for s in ("train", "test")]
    delta = f"Δ test/{table.headline.name}"
    for name in [*metrics, delta, *table.measures(), "steps"]:
        if name in summary:
            shown.append(Column(name, name, interval=True))
    return [*shown, Column("n", "n"), Column("diverged", "diverged")]


def _rows(table: Table, summary: pd.DataFrame) -> list[dict[str, Any]]:
    """Printed cells of every row, and whether the row is a row's selected strength."""
    selected = {table.selected(members) for members in table.groups().values()}
    shown, best = columns(table, summary), table.best()
    return [
        {
            "point": row["point"],
            "selected": row["point"] in selected,
            "best": row["point"] == best,
            "cells": [_cell(row, column) for column in shown],
        }
        for row in summary.to_dict("records")
    ]


def _cell(row: dict[Any, Any], column: Column) -> str:
    value = row[column.key]
    if column.interval:
        if value != value and not isinstance(row.get("baseline"), str):
            return ""  # a baseline has no difference to itself
        interval = Interval(value, row[f"{column.key} low"], row[f"{column.key} high"], row["n"])
        return show(interval)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def markdown(
    table: Table,
    summary: pd.DataFrame,
    judgements: Sequence[Judgement],
    question: str,
    drawn: dict[str, Any],
) -> str:
    shown = columns(table, summary)
    lines = [f"# {table.study['experiment']}", "", question.strip(), "", f"**{answer(table)}**", ""]
    if missing := table.study["trials"] - table.n_finished:
        lines += [f"{missing} of {table.study['trials']} trials have not finished.", ""]
    if marks := table.study.get("marks"):
        lines += ["Changed while the study lasted:", "", *(f"- {mark}" for mark in marks), ""]
    if table.rungs:
        lines += [rungs_in_words(table), ""]
    lines += [f"![{figure.get_label() or name}]({name}.png)" for name, figure in drawn.items()]
    lines += ["", _markdown_row([c.title for c in shown]), "|" + "---|" * len(shown)]
    for row in _rows(table, summary):
        cells = [f"**{row['cells'][0]}**" if row["selected"] else row["cells"][0]]
        lines.append(_markdown_row([*cells, *row["cells"][1:]]))
    lines += ["", CAPTION, "", "| claim | verdict | evidence |", "|---|---|---|"]
    for j in judgements:
        lines.append(_markdown_row([j.claim.sentence, j.verdict, evidence(j)]))
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


CAPTION = (
    "Means over restarts with 95% intervals (Student's t). Δ: paired difference to the baseline, "
    "restart by restart. Metrics are those of the snapshot that was best on validation; diverged "
    "trials are counted, and enter with the snapshot selected before they diverged. Marked rows: "
    "the strength of each method that validation selected."
)


def evidence(judgement: Judgement) -> str:
    """The effect behind a verdict, in words."""
    if judgement.evidence is None:
        return "the study lacks the points"
    effect = judgement.evidence.effect
    return f"{judgement.evidence.measured} = {show(effect)}, n = {effect.n}"


def latex(table: Table, summary: pd.DataFrame) -> str:
    r"""The table for a paper; needs \usepackage{booktabs}."""
    shown = columns(table, summary)
    lines = [
        r"\begin{tabular}{" + "l" * len(shown) + "}",
        r"\toprule",
        " & ".join(_tex(c.title) for c in shown) + r" \\",
    ]
    groups = {point: key for key, members in table.groups().items() for point in members}
    previous = None
    for row in _rows(table, summary):
        if groups[row["point"]] != previous:
            lines.append(r"\midrule")
        previous = groups[row["point"]]
        lines.append(" & ".join(_tex(cell) for cell in row["cells"]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _tex(text: str) -> str:
    """
    >>> print(_tex("share_below ± 5%"))
    share\\_below $\\pm$ 5\\%
    """
    return text.translate(_TEX)


_TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "Δ": r"$\Delta$",
        "λ": r"$\lambda$",
        "−": "$-$",
        **{character: "\\" + character for character in "_%&#${}"},
    }
)


def _plain(judgement: Judgement) -> dict[str, Any]:
    effect = judgement.evidence.effect if judgement.evidence else None
    return {
        "id": judgement.claim.id,
        "sentence": judgement.claim.sentence,
        "source": judgement.claim.source,
        "verdict": judgement.verdict,
        "evidence": evidence(judgement),
        "effect": None if effect is None else [effect.mean, effect.low, effect.high, effect.n],
    }


def _inline(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["show"] = show
    environment.filters["evidence"] = evidence
    environment.globals["caption"] = CAPTION
    return environment


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)
