"""Tables as they are printed: the same cells as Markdown, LaTeX and HTML."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ablax.report import selection
from ablax.report.ablation import AblationRow
from ablax.report.statistics import Interval
from ablax.report.study import Study


@dataclass(frozen=True)
class Cell:
    """A cell as printed.

    Attributes:
        text: what it says.
        sort: what its column is sorted by; None: the text.
        link: where its evidence is: the id of an anchor of the page.
        bold: significant.
    """

    text: str
    sort: float | None = None
    link: str = ""
    bold: bool = False


@dataclass(frozen=True)
class TableRow:
    """A row of a table; `mark` is its look on the page, `rule` a line above it."""

    cells: tuple[Cell, ...]
    mark: str = ""
    rule: bool = False


@dataclass(frozen=True)
class Printed:
    titles: tuple[str, ...]
    rows: tuple[TableRow, ...]
    caption: str


def show(interval: Interval) -> str:
    """
    >>> show(Interval(0.94123, 0.93, 0.9525, 16))
    '0.941 ± 0.011'
    >>> show(Interval(0.9, 0.87, 0.91, 16, "BCa"))
    '0.900 [0.870, 0.910]'
    >>> show(Interval(1.5e-6, 0.5e-6, 2.5e-6, 16))
    '1.5e-06 ± 1.0e-06'
    >>> show(Interval(1234.5, math.nan, math.nan, 1))
    '1234'
    """
    if math.isnan(interval.estimate):
        return "–"
    half = interval.half_width
    if not math.isfinite(half):
        return f"{interval.estimate:.4g}"
    if half <= 1e-6 * abs(interval.estimate):  # equal but for the rounding of float32
        return f"{interval.estimate:.4g} ± 0"
    digits = f".{max(0, min(6, 1 - math.floor(math.log10(half))))}f"
    if max(half, abs(interval.estimate)) < 1e-4:
        digits = ".1e"
    estimate, *ends = (f"{x:{digits}}" for x in (interval.estimate, interval.low, interval.high))
    if interval.method in ("t", "Welch"):
        return f"{estimate} ± {half:{digits}}"
    return f"{estimate} [{', '.join(ends)}]"


def show_p(p: float) -> str:
    """
    >>> show_p(0.0321), show_p(0.00002), show_p(math.nan), show_p(1.0)
    ('0.032', '< 0.0001', '–', '1')
    """
    if math.isnan(p):
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def more_restarts(row: AblationRow) -> str:
    """How many restarts a row that is not significant lacks: "" of one that is."""
    lacking = _lacking(row)
    if lacking is None:
        return ""
    return "no measured difference" if math.isinf(lacking) else f"{int(lacking):,}"


def _lacking(row: AblationRow) -> float | None:
    if row.versus is None or math.isnan(row.versus.restarts_needed):
        return None
    return max(1.0, row.versus.restarts_needed - row.n)


def ablation_table(study: Study, rows: Sequence[AblationRow]) -> Printed:
    """The table of a paper: each baseline, one change a row, what it changes and how surely."""
    name = f"test {study.headline.name}"
    titles = (
        "method",
        "setting",
        name,
        f"Δ {name}",
        "p (Holm)",
        "better at",
        "effect size",
        "median",
        "interquartile mean",
        "n",
        "diverged",
        "more restarts",
    )
    best = {choice.point for choice in selection.bests(study).values()}
    lines = []
    for number, row in enumerate(rows):
        link, bold = f"row-{number}", row.significant(study.significance)
        cells = [
            Cell(row.group, bold=bold),
            Cell(_setting(row)),
            interval_cell(row.mean, link),
        ]
        if (versus := row.versus) is None:
            cells += [Cell("")] * 4
        else:
            share = f"{versus.improvement.estimate:.0%}" if versus.improvement.known else "–"
            cells += [
                interval_cell(versus.difference, link, bold=bold, signed=True),
                Cell(show_p(versus.p_corrected), versus.p_corrected, link, bold),
                Cell(share, versus.improvement.estimate, link),
                _number(versus.effect_size, link),
            ]
        cells += [
            interval_cell(row.median, link),
            interval_cell(row.interquartile_mean, link),
            Cell(str(row.n), row.n, link),
            Cell(str(row.diverged), row.diverged, link),
            Cell(more_restarts(row), _lacking(row), link),
        ]
        mark = "best" if row.chosen.point in best else ""
        lines.append(TableRow(tuple(cells), mark, rule=versus is None))
    return Printed(titles, tuple(lines), ablation_caption(study, rows))


def points_table(study: Study) -> Printed:
    """Every point by itself: settings, every metric and measure."""
    headline = f"test/{study.headline.name}"
    columns = [*study.metrics, *study.measures(), "steps"]
    titles = ("method", *study.varying, *columns, f"Δ {headline}", "n", "diverged")
    chosen = {selection.selected(study, members) for members in study.groups().values()}
    best = {choice.point for choice in selection.bests(study).values()}
    previous, lines = None, []
    groups = {point: key for key, members in study.groups().items() for point in members}
    for number, (point, setting) in enumerate(study.settings.items()):
        link = f"point-{number}"
        statuses = list(study.of(point)["status"])
        baseline = study.baseline(point)
        versus = Cell("")
        if baseline is not None:
            difference = study.difference(point, baseline, headline)
            versus = interval_cell(difference, link, signed=True)
        cells = (
            Cell(setting["group"]),
            *(_setting_cell(setting[field]) for field in study.varying),
            *(interval_cell(study.interval(point, column), link) for column in columns),
            versus,
            Cell(str(len(statuses)), len(statuses), link),
            Cell(str(statuses.count("diverged")), statuses.count("diverged"), link),
        )
        mark = "best" if point in best else "selected" if point in chosen else ""
        lines.append(TableRow(cells, mark, rule=groups[point] != previous))
        previous = groups[point]
    return Printed(titles, tuple(lines), POINTS_CAPTION)


def ablation_caption(study: Study, rows: Sequence[AblationRow]) -> str:
    """Caption: the statistics, the selection of strengths, and the treatment of diverged trials."""
    name, selects = study.headline.name, any(len(g) > 1 for g in study.groups().values())
    compared = sum(row.versus is not None for row in rows)
    n = max((row.n for row in rows), default=0)
    sentences = [
        f"Means over restarts of test {name} with 95% intervals (Student's t; median and "
        "interquartile mean: seeded BCa bootstrap).",
        "Δ: paired difference to the baseline, restart by restart. p: sign-flip test"
        + (f", Holm-corrected over {compared} rows" if compared > 1 else "")
        + f"; bold where p ≤ {study.significance:g}, the level stated before the run. Better at: "
        "share of restarts at which the row beats the baseline. Effect size: Hedges' g of the "
        "differences. More restarts: what would show such a difference as significant with "
        "probability 0.8.",
    ]
    by = study.objective.name
    if selects and n < 2:
        sentences.append(
            f"The strength of each method is chosen by validation {by} of its one restart."
        )
    elif selects:
        switched = [row for row in rows if row.chosen.agreeing < len(row.chosen.by_restart)]
        changes = ", ".join(
            f"{row.group} ({len(row.chosen.by_restart) - row.chosen.agreeing} of {row.n})"
            for row in switched
        )
        sentences.append(
            f"The strength of each method is chosen by mean validation {by}; the number of a "
            "restart is at the strength that the other restarts choose, so that no restart is "
            "judged by a choice it had a part in."
        )
        if changes:
            sentences.append(
                f"The other restarts choose another strength for some restarts of {changes}."
            )
    for what, intervals in [
        ("median", [row.median for row in rows]),
        ("interquartile mean", [row.interquartile_mean for row in rows]),
    ]:
        plain = [r.group for r, i in zip(rows, intervals, strict=True) if i.method == "percentile"]
        of = ", ".join(plain) if len(plain) <= 3 else f"{len(plain)} of {len(rows)} rows"
        if plain:
            sentences.append(f"BCa is undefined for the {what} of {of}: percentile.")
    return " ".join([*sentences, diverged_in_words(study)])


def diverged_in_words(study: Study) -> str:
    """Sentence on the treatment of diverged trials."""
    lost = (study.trials["status"] == "diverged").to_numpy()
    headline = study.trials[f"test/{study.headline.name}"].to_numpy(np.float64)
    diverged, broken = int(lost.sum()), int((~np.isfinite(headline) & ~lost).sum())
    if diverged == len(study.trials):
        return "Every trial diverged: there is nothing to compare."
    if not diverged + broken:
        return "No trial diverged."
    sentence = f"{diverged} of {len(lost)} trials diverged"
    if broken:
        sentence += f", and test {study.headline.name} of {broken} is not finite"
    return (
        f"{sentence}; such a trial counts with the worst value of any that did not "
        "(worst rank), and its measures are those of the snapshot selected before. A point of "
        "which every trial diverged has no numbers, and is never chosen."
    )


POINTS_CAPTION = (
    "Every point by itself: means over its restarts with 95% intervals (Student's t), of the "
    "snapshot that was best on validation. Δ as above, but of this very point and not corrected. "
    "Marked: the strength of each method that validation selects, and the best of all."
)


def _setting(row: AblationRow) -> str:
    """Settings of a row's point that its baseline does not have."""
    point = row.chosen.point
    if point in ("baseline", row.group):
        return ""
    shared = row.versus.baseline.split(" ") if row.versus else []
    return " ".join(word for word in point.split(" ") if word not in shared)


def _setting_cell(value: Any) -> Cell:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Cell(str(value))
    return Cell("∞" if math.isinf(value) else f"{value:g}", float(value))


def interval_cell(
    interval: Interval, link: str = "", *, bold: bool = False, signed: bool = False
) -> Cell:
    """An interval as a cell; `signed` puts a + before what is above 0."""
    sign = "+" if signed and interval.estimate > 0 else ""
    return Cell(sign + show(interval).replace("-", "−"), interval.estimate, link, bold)


def _number(value: float, link: str) -> Cell:
    if math.isnan(value):
        return Cell("–")
    return Cell(f"{value:.2f}".replace("-", "−").replace("inf", "∞"), value, link)


def narrow(printed: Printed) -> Printed:
    """The columns that a paper has room for."""
    columns = [i for i, title in enumerate(printed.titles) if title not in ONLY_ON_THE_PAGE]
    titles = tuple(printed.titles[i] for i in columns)
    lines = [replace(line, cells=tuple(line.cells[i] for i in columns)) for line in printed.rows]
    return Printed(titles, tuple(lines), printed.caption)


ONLY_ON_THE_PAGE = {"better at", "effect size", "median", "interquartile mean", "more restarts"}


def markdown(printed: Printed) -> str:
    """The table as Markdown."""
    lines = [markdown_row(map(plain, printed.titles)), "|" + "---|" * len(printed.titles)]
    for line in printed.rows:
        texts = [(plain(cell.text), cell.bold and cell.text) for cell in line.cells]
        lines.append(markdown_row(f"**{text}**" if bold else text for text, bold in texts))
    return "\n".join(lines) + "\n"


def markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def plain(text: str) -> str:
    r"""Text as Markdown that reads as just that, also in the cell of a table.

    >>> print(plain("share_below *a|b*"))
    share_below \*a\|b\*
    """
    return _MARKUP.sub(r"\\\g<0>", text)


# An underscore within a word is no markup.
_MARKUP = re.compile(r"[\\`*<\[\]|~&]|(?<![^\W_])_|_(?![^\W_])")


def latex(printed: Printed) -> str:
    r"""The table for a paper, a tabular; needs \usepackage{booktabs}."""
    columns = zip(*(line.cells for line in printed.rows), strict=True)
    sides = ["r" if any(c.sort is not None for c in column) else "l" for column in columns]
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{tabular}{" + "".join(sides) + "}",
        r"\toprule",
        "{}" + " & ".join(map(_tex, printed.titles)) + r" \\",
    ]
    for line in printed.rows:
        if line.rule:
            lines.append(r"\midrule")
        cells = [rf"\textbf{{{_tex(c.text)}}}" if c.bold else _tex(c.text) for c in line.cells]
        # A bracket or a star would be read as an argument of what ended the row before.
        guard = "{}" if cells[0].startswith(("[", "*")) else ""
        lines.append(guard + " & ".join(cells) + r" \\")
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
        "|": "$|$",
        "→": r"$\to$",
        "<": "$<$",
        ">": "$>$",
        "±": r"$\pm$",
        "Δ": r"$\Delta$",
        "λ": r"$\lambda$",
        "∞": r"$\infty$",
        "–": "--",
        "−": "$-$",
        **{character: "\\" + character for character in "_%&#${}"},
    }
)
