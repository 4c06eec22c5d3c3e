"""Readers of what reports write: pages, Markdown and LaTeX, back into what they say."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from markdown_it import MarkdownIt

VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})


@dataclass
class Cell:
    """A cell of a table of a page: its words, the attributes of its tags, and where it links."""

    attributes: dict[str, str | None]
    text: str = ""
    tags: list[str] = field(default_factory=list)
    link: str = ""


@dataclass
class Listing:
    """A table, and the <details> that it lies in."""

    attributes: dict[str, str | None]
    within: str
    rows: list[list[Cell]] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)  # the class of every row

    def texts(self) -> list[list[str]]:
        return [[cell.text.strip() for cell in row] for row in self.rows]


class Page(HTMLParser):
    """The content of a page, in order; every tag must be closed in order.

    Attributes:
        tags: (name, attributes) of all that opened.
        words: its text without scripts and styles.
        tables: in order.
        details: {id of a <details>: its table}.
    """

    def __init__(self, text: str):
        super().__init__()
        self.source = text
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.tables: list[Listing] = []
        self._details = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "details":
            self._details = attributes["id"] or ""
        elif tag == "table":
            self.tables.append(Listing(attributes, self._details))
        elif tag == "tr":
            self.tables[-1].rows.append([])
            self.tables[-1].marks.append(attributes.get("class") or "")
        elif tag in ("td", "th"):
            self.tables[-1].rows[-1].append(Cell(attributes))
        elif tag == "br" and self._in_cell():
            self._cell().text += "\n"
        elif self._in_cell():
            self._cell().tags.append(tag)
            self._cell().link = attributes.get("href") or self._cell().link

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "details":
            self._details = ""

    def handle_data(self, data):
        if "script" in self.open or "style" in self.open:
            return
        self.words.append(data)
        if self._in_cell():
            self._cell().text += data

    def _in_cell(self) -> bool:
        return "td" in self.open or "th" in self.open

    def _cell(self) -> Cell:
        return self.tables[-1].rows[-1][-1]

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    @property
    def details(self) -> dict[str, Listing]:
        return {table.within: table for table in self.tables if table.within}

    @property
    def sortable(self) -> list[Listing]:
        return [table for table in self.tables if table.attributes.get("class") == "sortable"]

    @property
    def ids(self) -> list[str]:
        return [a["id"] for _, a in self.tags if a.get("id")]

    def outside(self) -> list[str]:
        """Addresses that a browser would fetch, or go to, to show the page."""
        tags = [tag for tag, _ in self.tags if tag in ("link", "iframe", "object", "embed")]
        named = ("src", "srcset", "poster", "data", "action", "href")
        places = [a[name] or "" for _, a in self.tags for name in named if name in a]
        away = [place for place in places if not place.startswith(("#", "data:image/png;base64,"))]
        return tags + away + re.findall(r"https?:|@import|url\(", self.source)


MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def written(directory: Path, file: str) -> str:
    """The text of a file of a report."""
    return (directory / "report" / file).read_text()


def markdown_tables(text: str) -> list[list[list[str]]]:
    """The tables of a Markdown text: the words of every cell, with <b> around what is bold.

    A <br> is a new line; other markup than these two shows as its kind in brackets.
    """
    tables: list[list[list[str]]] = []
    for token in MARKDOWN.parse(text):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and token.level > 3:
            marks = {"strong_open": "<b>", "strong_close": "</b>"}
            words = [
                "\n"
                if child.content == "<br>"
                else child.content
                if child.type == "text"
                else marks.get(child.type, f"[{child.type}]")
                for child in token.children or ()
            ]
            tables[-1][-1].append("".join(words))
    return tables


TEX = {
    r"\textbackslash": "\\",
    r"\textasciitilde": "~",
    r"\textasciicircum": "^",
    r"\textbar": "|",
    r"\textless": "<",
    r"\textgreater": ">",
    "$<$": "<",
    "$>$": ">",
    "$|$": "|",
    r"$\pm$": "±",
    r"$\Delta$": "Δ",
    r"$\lambda$": "λ",
    r"$\infty$": "∞",
    r"$\to$": "→",
    r"$\rightarrow$": "→",
    "$-$": "−",
    "--": "–",
    **{"\\" + character: character for character in "_%&#${}"},
}
_PLAIN = re.compile(r"[^\\_%&#${}~^<>|]")


def untex(text: str) -> str:
    """The text that LaTeX prints of a cell; a character that TeX reads must not be bare."""
    printed, rest = "", text
    while rest:
        known = max((name for name in TEX if rest.startswith(name)), key=len, default="")
        if known:
            printed, rest = printed + TEX[known], rest.removeprefix(known)
        elif rest[0] in "{}":
            rest = rest[1:]
        else:
            assert _PLAIN.match(rest), f"{rest[0]!r} is bare in {text!r}"
            printed, rest = printed + rest[0], rest[1:]
    return printed


def latex_rows(text: str) -> list[list[str]]:
    r"""The cells of a tabular as LaTeX prints them, with <b> around what is in \textbf."""
    rows = []
    for line in text.splitlines():
        if line.endswith(r" \\"):
            assert line[0] not in "[*", (
                f"{line!r}: read as an argument of what ended the row before"
            )
            cells = re.split(r"(?<!\\) & ", line.removesuffix(r" \\"))
            rows.append([_bold(cell) for cell in cells])
    return rows


def _bold(cell: str) -> str:
    inner = re.fullmatch(r"\\textbf\{(.*)\}", cell.strip())
    return f"<b>{untex(inner[1])}</b>" if inner else untex(cell.strip())
