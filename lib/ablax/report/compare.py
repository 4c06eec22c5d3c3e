"""Two studies side by side: what differs between them, and what that changes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablax.errors import UserError
from ablax.report import selection
from ablax.report.page import render, write
from ablax.report.statistics import (
    Interval,
    holm,
    mean_interval,
    sign_flip_test,
    unpaired_difference,
    welch_test,
)
from ablax.report.study import Chosen, Study, differences
from ablax.report.tables import Cell, Printed, TableRow, interval_cell, latex, markdown, show_p


@dataclass(frozen=True)
class Compared:
    """A point that both studies have, or what validation chooses in each.

    Attributes:
        name: of the point.
        a, b: means on the test split.
        difference: b − a.
        p: that it is 0.
    """

    name: str
    a: Interval
    b: Interval
    difference: Interval
    p: float


def compare(a: Study, b: Study) -> list[Compared]:
    """The best of each study, then every point that both have.

    Restarts of one seed share their random numbers, so they are paired (t interval, sign-flip
    test). Of two seeds they are not (Welch's interval and test).

    Raises:
        UserError: the studies do not measure the same.
    """
    if a.headline != b.headline:
        raise UserError(
            f"{a.directory} leads with {a.headline.name} and {b.directory} with "
            f"{b.headline.name}; expected studies that measure the same"
        )
    best_a, best_b = selection.best(a), selection.best(b)
    rows = [_compared(f"best: {best_a.point} → {best_b.point}", a, best_a, b, best_b)]
    both = [point for point in a.settings if point in b.settings]
    return rows + [_compared(point, a, point, b, point) for point in both]


def paired(a: Study, b: Study) -> bool:
    return a.manifest["seed"] == b.manifest["seed"]


def _compared(name: str, a: Study, first: str | Chosen, b: Study, second: str | Chosen) -> Compared:
    column = f"test/{a.headline.name}"
    x, y = a.values(first, column), b.values(second, column)
    means = mean_interval(x.to_numpy(float)), mean_interval(y.to_numpy(float))
    if paired(a, b):
        rows = differences(y, x)
        return Compared(name, *means, mean_interval(rows), sign_flip_test(rows))
    x, y = x.to_numpy(float), y.to_numpy(float)
    return Compared(name, *means, unpaired_difference(y, x), welch_test(y, x))


def differing(a: Study, b: Study) -> dict[str, tuple[Any, Any]]:
    """{what: (in a, in b)} of all that study.json says differently of how they were made."""
    described = [
        t.manifest["plan"]
        | t.manifest["provenance"]["versions"]
        | {name: t.manifest["provenance"].get(name) for name in ("commit", "command")}
        for t in (a, b)
    ]
    x, y = described
    names = dict.fromkeys([*x, *y])
    return {n: (x.get(n, "–"), y.get(n, "–")) for n in names if x.get(n) != y.get(n)}


def comparison_table(a: Study, b: Study) -> Printed:
    rows = compare(a, b)
    corrected = holm([row.p for row in rows])
    name = f"test {a.headline.name}"
    lines = []
    for row, p in zip(rows, corrected, strict=True):
        bold = bool(p <= a.significance)
        cells = (
            Cell(row.name, bold=bold),
            interval_cell(row.a),
            interval_cell(row.b),
            interval_cell(row.difference, bold=bold, signed=True),
            Cell(show_p(p), float(p), bold=bold),
            Cell(str(row.difference.n), row.difference.n),
        )
        lines.append(TableRow(cells))
    how = (
        "paired by restart (one seed): t intervals, sign-flip tests"
        if paired(a, b)
        else "of two seeds, so unpaired: Welch's intervals and tests"
    )
    caption = (
        f"B − A, {how}; p Holm-corrected over {len(rows)} rows, bold where p ≤ {a.significance:g}."
    )
    titles = ("point", f"A: {name}", f"B: {name}", "B − A", "p (Holm)", "n")
    return Printed(titles, tuple(lines), caption)


def build(a: Study, b: Study) -> tuple[Path, str]:
    """Write the comparison under b's report; return (path of the page, the table as Markdown)."""
    directory = b.directory / "report" / f"against-{a.manifest.get('id') or a.directory.name}"
    printed, changed = comparison_table(a, b), differing(a, b)
    page = render("compare.html", a=a, b=b, table=printed, changed=changed)
    write(directory / "comparison.html", page)
    write(directory / "comparison.tex", latex(printed))
    write(directory / "comparison.md", f"{markdown(printed)}\n{printed.caption}\n")
    return directory / "comparison.html", markdown(printed)
