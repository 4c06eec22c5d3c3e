"""Results of a bench: numbers as JSON, tables on the terminal and in Markdown.

docs/benchmarks.md shows that Markdown.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ablax.rundir.store import write_json

Part = str | Table


def publish(result: Mapping[str, Any], parts: Iterable[Part], numbers: Path) -> None:
    """Write the numbers to a JSON file and the tables beside it, and print the tables."""
    numbers.parent.mkdir(parents=True, exist_ok=True)
    write_json(numbers, result)  # before a table is made: no mistake in one loses the numbers
    parts, page = list(parts), numbers.with_name(f"{numbers.name.removesuffix('.json')}.md")
    page.write_text(markdown(parts))
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    for part in parts:
        console.print(part)
    console.print(f"written to {numbers} and {page}")


def markdown(parts: Iterable[Part]) -> str:
    return "\n\n".join(map(_in_markdown, parts)) + "\n"


def _in_markdown(part: Part) -> str:
    if isinstance(part, str):
        return "\n".join(f"- {line.strip()}" for line in part.strip().splitlines())
    cells = [list(column.cells) for column in part.columns]
    rows = [
        [str(column.header) for column in part.columns],
        ["---"] * len(cells),
        *zip(*cells, strict=True),
    ]
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return f"{part.title}:\n\n" + "\n".join(lines)


def heading(result: Mapping[str, Any]) -> str:
    """The machine, the versions and the command that numbers were measured with."""
    return (
        f"machine   {result['machine']}\nversions  {pairs(result['versions'])}\n"
        f"command   {result['command']}\n"
    )


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", min_width=len(title))
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    return table


def targets_table(targets: Sequence[Mapping[str, Any]]) -> Table:
    """The numbers to reach, and whether they were."""
    return table(
        "Targets",
        ["", "target", "measured", ""],
        [
            [t["what"], f"{t['sign']} {t['target']:g}", f"{t['measured']:.2f}", t["verdict"]]
            for t in targets
        ],
    )


def pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
