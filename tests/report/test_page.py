"""The report's pages: what they print, and that they are whole in their own languages."""

import json
import math
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from ablax.report import figures, page
from ablax.report.claims import Claim, Evidence
from ablax.report.statistics import Interval
from tests.report.runs import SPLITS, halved, point, trial, write

EVIL = '<script>alert("1")</script> & 5% of $x_1 | {y} #1 ~^\\'
BASE, L2 = point("base", "baseline"), point("l2=0.1", "L2", l2=0.1)
CLAIM = Claim(
    "shrinks",
    "L2 shrinks.",
    "notes",
    lambda t: Evidence(t.difference("base", "l2=0.1", "l2_norm"), "norms"),
)


def two_points(directory, restarts=3, **study):
    trials = [
        trial(
            p,
            r,
            test_accuracy=0.5 + 0.01 * r + (0.1 if p is L2 else 0),
            l2_norm=norm + 0.01 * r * r,
        )
        for p, norm in ((BASE, 2.0), (L2, 1.0))
        for r in range(restarts)
    ]
    return write(directory, [BASE, L2], trials, **study)


def build(table, claims=(CLAIM,)):
    with figures.style():
        figure, (ax,) = figures.panels(1)
        ax.plot([1, 2])
        return page.build(table, question="Does it help?", drawn={"one": figure}, claims=claims)


@pytest.mark.parametrize(
    ("mean", "half", "n", "shown"),
    [
        (0.94123, 0.0112, 16, "0.941 ± 0.011"),
        (0.94123, 0.00112, 16, "0.9412 ± 0.0011"),
        (12345.6, 234.6, 3, "12346 ± 235"),
        (1.5, 2.5, 2, "1.5 ± 2.5"),
        (0.0, 0.05, 2, "0.000 ± 0.050"),
        (200.0, 0.0, 3, "200 ± 0"),
        (0.9081, 0.0, 3, "0.9081 ± 0"),
        (0.5, math.nan, 1, "0.5"),
        (1234.5, math.nan, 1, "1234"),
        (math.nan, math.nan, 3, "nan"),
    ],
)
def test_show_prints_two_digits_of_the_interval(mean, half, n, shown):
    assert page.show(Interval(mean, mean - half, mean + half, n)) == shown


class Reader(HTMLParser):
    """The words of a page, its tags, and whether those that opened were closed in order."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_says_what_came_out(tmp_path):
    table = two_points(tmp_path)
    html = build(table).read_text()
    read = Reader(html)
    text = " ".join(" ".join(read.words).split())
    assert "Does it help?" in text
    assert page.answer(table) in text
    assert "supported" in text
    assert "0.610 ± 0.025" in text, "mean of 0.6, 0.61, 0.62"
    assert "./launch.sh toy" in text
    assert "not finished" not in text
    assert read.tags.count("img") == 1
    assert not {"script", "link", "iframe"} & set(read.tags)
    assert re.findall(r'src="([^,]+),', html) == ["data:image/png;base64"]


def test_an_unfinished_study_says_so(tmp_path):
    table = two_points(tmp_path, trials=10)
    build(table)
    for file in ("report.html", "report.md"):
        text = (tmp_path / "report" / file).read_text()
        assert re.search(r"\b4\b[^.]{0,40}trials|trials[^.]{0,40}\b4\b", text), file
    finished = two_points(tmp_path / "whole")
    build(finished)
    assert "still missing" not in (tmp_path / "whole" / "report" / "report.html").read_text()


def test_what_a_user_named_is_never_markup(tmp_path):
    evil = point(EVIL, EVIL, l2=0.1, model=EVIL)
    trials = [trial(p, r, **{EVIL: 0.1 * r}) for p in (BASE, evil) for r in range(2)]
    claim = Claim("c", EVIL, EVIL, lambda t: Evidence(t.interval("base", "l2_norm"), EVIL))
    table = write(tmp_path, [BASE, evil], trials, plan={EVIL: EVIL}, experiment=EVIL)
    table.study["provenance"]["command"] = EVIL
    html = build(table, claims=(claim,)).read_text()
    read = Reader(html)
    assert "script" not in read.tags
    assert EVIL in "".join(read.words)


def tex_cells(table) -> list[list[str]]:
    text = page.latex(table, table.summary())
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    return [re.split(r"(?<!\\)&", line.removesuffix(r"\\")) for line in lines]


def test_latex_is_a_booktabs_table(tmp_path):
    table = two_points(tmp_path)
    text = page.latex(table, table.summary())
    body = text.splitlines()
    assert re.fullmatch(r"\\begin\{tabular\}\{[lrc]+\}", body[0])
    assert body[-1] == r"\end{tabular}"
    assert body[1] == r"\toprule"
    assert body[-2] == r"\bottomrule"
    assert text.count(r"\midrule") == 2, "one under the head, one between methods"
    n = len(re.findall(r"[lrc]", body[0].rpartition("{")[2]))
    assert {len(cells) for cells in tex_cells(table)} == {n}
    assert r"0.610 $\pm$ 0.025" in text
    assert r"l2\_norm" in text


def test_latex_escapes_what_tex_reads(tmp_path):
    evil = point("evil", EVIL, l2=0.1)
    table = write(tmp_path, [BASE, evil], [trial(p, 0) for p in (BASE, evil)])
    text = page.latex(table, table.summary())
    plain = re.sub(r"\\begin\{tabular\}\{l+\}|\\end\{tabular\}|\$\\(pm|Delta|lambda)\$", "", text)
    plain = re.sub(r"\\text\w+(\{\})?|\\[a-z]+rule|\\\\$", "", plain, flags=re.MULTILINE)
    assert not re.search(r"(?<!\\)[_%#${}~^]", plain), plain
    assert text.isascii()


def markdown_tables(text: str) -> list[list[str]]:
    blocks = [block.splitlines() for block in text.split("\n\n")]
    return [lines for lines in blocks if lines[0].startswith("|")]


def test_markdown_tables_are_rectangular(tmp_path):
    build(two_points(tmp_path))
    tables = markdown_tables((tmp_path / "report" / "report.md").read_text())
    assert len(tables) >= 2
    for lines in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
        assert set(lines[1]) <= set("|-: ")
    assert "![" in (tmp_path / "report" / "report.md").read_text()


def test_a_bar_does_not_break_a_markdown_table(tmp_path):
    evil = point("evil", "a|b", l2=0.1)
    build(write(tmp_path, [BASE, evil], [trial(p, 0) for p in (BASE, evil)]), claims=())
    for lines in markdown_tables((tmp_path / "report" / "report.md").read_text()):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_csv_is_the_summary(tmp_path):
    table = two_points(tmp_path)
    build(table)
    written = pd.read_csv(tmp_path / "report" / "table.csv")
    pd.testing.assert_frame_equal(written, table.summary(), check_dtype=False, rtol=1e-12)


def test_claims_json_is_json_whatever_was_measured(tmp_path):
    """One restart has no interval; NaN is no JSON."""
    build(two_points(tmp_path, restarts=1))

    def refused(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / "report" / "claims.json").read_text()
    (claim,) = json.loads(text, parse_constant=refused)
    assert (claim["id"], claim["verdict"]) == ("shrinks", "inconclusive")
    assert claim["effect"][0] == pytest.approx(1.0)
    assert claim["effect"][1:] == [None, None, 1]


def test_a_study_where_everything_diverged_has_a_report(tmp_path):
    nothing = {f"{s}/{m}": math.nan for s in SPLITS for m in ("accuracy", "loss")}
    trials = [trial(p, r, status="diverged", **nothing) for p in (BASE, L2) for r in range(2)]
    Reader(build(write(tmp_path, [BASE, L2], trials)).read_text())


def test_equal_studies_have_equal_reports(tmp_path):
    for name in ("a", "b"):
        build(two_points(tmp_path / name))
    first, second = (
        {p.name: p.read_bytes() for p in (tmp_path / name / "report").iterdir()}
        for name in ("a", "b")
    )
    assert first == second
    assert {"one.png", "one.svg"} <= set(first)


HALVED = (
    "Successive halving: 3 points (6 trials) to step 10, then 2 points (4 trials) to step 30, then "
    "1 points (2 trials) to step 90. The table, the figures and the claims are of the points of "
    "the last round; the others stopped where they were dropped."
)


def test_a_halved_study_says_what_it_dropped(tmp_path):
    other = point("max_norm=1", "max-norm", max_norm=1.0)
    table = halved(tmp_path, [[BASE, L2, other], [BASE, L2], [L2]])
    assert page.rungs_in_words(table) == HALVED
    read = Reader(build(table, claims=()).read_text())
    html = " ".join("".join(read.words).split())
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert HALVED in html
    assert HALVED in markdown
    assert "not finished" not in html + markdown
    for text in (markdown, (tmp_path / "report" / "table.tex").read_text()):
        assert "max-norm" not in text
    assert list(pd.read_csv(tmp_path / "report" / "table.csv")["point"]) == ["l2=0.1"]
    build(two_points(tmp_path / "whole"))
    for name in ("report.html", "report.md"):
        assert "halving" not in (tmp_path / "whole" / "report" / name).read_text()


def test_a_halved_study_that_is_not_finished_says_both(tmp_path):
    build(halved(tmp_path, [[BASE, L2]], trials=9), claims=())
    for file in ("report.html", "report.md"):
        text = (tmp_path / "report" / file).read_text()
        assert "5 of 9 trials have not finished" in text
        assert "Successive halving: 2 points (4 trials) to step 10." in text


def test_what_changed_while_the_study_lasted_is_said(tmp_path):
    marks = ["JAX version: 0.1, now 0.2 (from 12 finished trials on)", EVIL]
    html = build(two_points(tmp_path, marks=marks)).read_text()
    read = Reader(html)
    assert "Changed while the study lasted" in html
    assert "script" not in read.tags
    assert all(mark in read.words for mark in marks)
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert "Changed while the study lasted:\n\n" in markdown
    assert all(f"\n- {mark}\n" in markdown for mark in marks)
    for name, study in (("none", {"marks": []}), ("old", {})):
        build(two_points(tmp_path / name, **study))
        for file in ("report.html", "report.md"):
            assert "Changed while" not in (tmp_path / name / "report" / file).read_text()
