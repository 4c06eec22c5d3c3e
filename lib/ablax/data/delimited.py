"""Reader of delimited text: finds the delimiter and the header, and keeps the line numbers.

The csv module of Python splits the rows: pandas' reader fills short rows, renames repeated
columns and loses the line numbers, which a message to the user is made of.
"""

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ablax.errors import UserError

# Between equals the first wins: commas occur within the cells of the other formats.
_DELIMITERS = ("\t", ";", "|", ",")
_SNIFFED_ROWS = 50
# Python's float() also takes underscores and digits of other scripts, which are text here.
_NUMBER = re.compile(
    r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?|[-+]?(inf|infinity)|nan", re.IGNORECASE | re.ASCII
)


@dataclass(frozen=True)
class Column:
    """The cells of a column as text, without surrounding blanks, and where each of them is."""

    name: str
    cells: tuple[str, ...]
    places: tuple[str, ...]  # such as "line 4"


@dataclass(frozen=True)
class Delimited:
    """The columns of a file, and what was found out about it."""

    columns: tuple[Column, ...]
    header: bool
    delimiter: str


def read(path: Path) -> Delimited:
    """The cells of a text file in UTF-8, delimited by comma, semicolon, tab or bar.

    The delimiter is the one that cuts the first rows into equally many cells, at least two;
    where several do, the comma comes last. Cells may be quoted with double quotes. The file
    has a header if the cells of its first row are all non-numeric, non-empty and distinct (so
    a file of text alone is taken to have one); columns without a header are named column0,
    column1, … Blank lines are skipped.

    Raises `UserError` for unequal rows, unclosed quotes, one column, repeated column names, and
    a first row that is neither a header nor data like the rows below it.
    """
    text = _text(path)
    try:
        delimiter = _delimiter(text)
        lines, rows = _rows(text, delimiter)
    except csv.Error as error:
        raise UserError(f"{path}: expected cells with balanced double quotes: {error}") from error
    if not rows:
        raise UserError(f"{path}: expected rows of data, got an empty file")
    width = len(rows[0])
    if width < 2:
        raise UserError(
            f"{path}: expected at least 2 columns, delimited by comma, semicolon, tab or |, "
            f"got one in line {lines[0]}: {rows[0][0][:40]!r}"
        )
    for line, row in zip(lines, rows, strict=True):
        if len(row) != width:
            raise UserError(
                f"{path}: expected {width} cells (delimiter {delimiter!r}) as in line {lines[0]}, "
                f"got {len(row)} in line {line}"
            )
    header = _has_header(path, lines[0], rows)
    names = rows[0] if header else [f"column{number}" for number in range(width)]
    first = int(header)
    places = tuple(f"line {line}" for line in lines[first:])
    cells = zip(*rows[first:], strict=True) if rows[first:] else [()] * width
    columns = tuple(
        Column(name, tuple(column), places) for name, column in zip(names, cells, strict=True)
    )
    return Delimited(columns, header, delimiter)


def is_number(cell: str) -> bool:
    """True if a cell is a decimal number, infinities and NaN included.

    >>> [is_number(cell) for cell in ("1", "-.5e3", "inf", "1_000", "1,5", "")]
    [True, True, True, False, False, False]
    """
    return _NUMBER.fullmatch(cell) is not None


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: expected a readable text file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: expected text in UTF-8, got byte 0x{error.object[error.start]:02x} at "
            f"offset {error.start}"
        ) from error
    if "\0" in text:
        raise UserError(f"{path}: expected text, got a binary file (it has zero bytes)")
    return text


def _delimiter(text: str) -> str:
    """The candidate that cuts the most of the first rows into equally many cells.

    >>> _delimiter("1,5;2\\n2,5;3\\n")
    ';'
    """
    lines = [line for line in text.split("\n", _SNIFFED_ROWS)[:_SNIFFED_ROWS] if line.strip()]

    def agreement(delimiter: str) -> int:
        widths = Counter(len(row) for row in csv.reader(lines, delimiter=delimiter))
        return max((rows for width, rows in widths.items() if width > 1), default=0)

    return max(_DELIMITERS, key=agreement)


def _rows(text: str, delimiter: str) -> tuple[list[int], list[list[str]]]:
    """The rows that are not blank, and the line where each of them begins."""
    lines, rows = [], []
    begin = 1
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                lines.append(begin)
                rows.append([cell.strip() for cell in row])
            begin = reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(f"{error}, in the row that begins in line {begin}") from error
    return lines, rows


def _has_header(path: Path, line: int, rows: list[list[str]]) -> bool:
    """Decide, by the rule of `read`, if the first row is a header; refuse what may be either."""
    first, below = rows[0], rows[1:]
    wordy = all(cell and not is_number(cell) for cell in first)
    repeated = [name for name, count in Counter(first).items() if count > 1]
    if wordy and not repeated:
        return True
    # A word above numbers is a column's name, so a row with one is meant as a header.
    named = [
        cell
        for cell, column in zip(first, zip(*below, strict=True), strict=False)
        if cell.strip("?") and not is_number(cell) and all(map(is_number, column))
    ]
    if not named:
        return False
    if wordy:
        raise UserError(f"{path}: expected distinct column names, got {repeated[0]!r} twice")
    odd = next(cell for cell in first if not cell or is_number(cell))
    raise UserError(
        f"{path}: expected line {line} to be data, or a header of non-empty, non-numeric names; "
        f"got {named[0]!r} above numbers, but also {odd!r}"
    )
