"""The report: what its page says, and that every number leads to its trials."""

import html
import json
import re

import numpy as np
import pandas as pd
import pytest

from ablax.errors import UserError
from ablax.report import page, selection
from ablax.report import plot as figures
from ablax.report.ablation import ablation, ablation_frame, points_frame
from ablax.report.claims import Claim
from ablax.report.quantities import column, quantities
from ablax.report.study import Study
from ablax.report.tables import ablation_table, narrow, points_table
from tests.report.reading import Page, latex_rows, markdown_tables, written
from tests.report.runs import (
    BASE,
    LINEAR,
    POINTS,
    STRONG,
    WEAK,
    build,
    expecting,
    halved,
    point,
    random_trials,
    series,
    trial,
    write,
    write_curves,
)

EVIL = '<script>alert("1")</script> & 5% of $x_1 | {y} #1 ~^\\'
L2 = point("l2=0.1", "L2", l2=0.1)
CLAIM = Claim(
    "shrinks",
    "L2 shrinks.",
    "notes",
    quantities(lambda s: {"l2_norm: baseline − L2": s.differences("base", "l2=0.1", "l2_norm")})
    > 0,
    level=0.02,
)
FILES = ("report.html", "report.md")


def two_points(directory, restarts=3, **study):
    """L2 is more accurate by 0.1 at every restart, and its weights are smaller."""
    trials = [
        trial(
            p,
            r,
            test_accuracy=0.5 + 0.01 * r + (0.1 if p is L2 else 0),
            valid_loss=0.4 if p is L2 else 0.5,
            l2_norm=norm + 0.01 * r * r,
        )
        for p, norm in ((BASE, 2.0), (L2, 1.0))
        for r in range(restarts)
    ]
    return write(directory, [BASE, L2], trials, **study)


def read(table, **changes):
    return Page(build(table, **changes).read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(table, its page) of a study with everything: baselines, strengths, curves, divergence."""
    directory = tmp_path_factory.mktemp("whole")
    trials = random_trials(restarts=5)
    trials[7]["status"] = trials[11]["status"] = "diverged"
    write(directory, POINTS, trials, marks=["JAX version: 0.1, now 0.2"])
    write_curves(directory, trials)
    norms = [column("l2_norm", model=model) for model in ("mlp", "linear")]
    both = [norm["L2"] > norm["baseline"] for norm in norms]
    claim = Claim("norms", "They differ.", "notes", *both, level=0.1)
    table = Study(directory)
    return table, Page(build(table, claims=[CLAIM, claim]).read_text())


# What the page says, in which order


def test_the_page_says_what_came_out(tmp_path):
    page_ = read(two_points(tmp_path), claims=[CLAIM])
    assert "Does it help?" in page_.text
    assert "l2=0.1: test accuracy 0.610 ± 0.025, +0.1 ± 0 against base" in page_.text
    assert "supported" in page_.text
    assert "./launch.sh toy" in page_.text
    assert "not finished" not in page_.text


def test_the_summary_comes_first(whole):
    """Question, answers, what to know before believing them and one figure; provenance last."""
    table, page_ = whole
    summary = page.summary(table, ablation(table))
    order = [
        "<h1>toy</h1>",
        "Does it help?",
        summary.answers[0],
        "now 0.2",
        "<img",
        "What theory says",
        "L2 shrinks.",
        "<h2>Ablation",
        "<h2>Every point",
        "<h2>Figures",
        "<h2>Plan",
        "<h2>Provenance",
        "<h2>Trials",
    ]
    places = [page_.source.index(words.replace("'", "&#39;")) for words in order]
    assert places == sorted(places)
    first = page_.source[: page_.source.index("What theory says")]
    assert first.count("<img") == 1
    assert "Every restart as a dot" in first


def test_the_page_needs_nothing_else(whole):
    _, page_ = whole
    assert page_.outside() == []
    images = [a for tag, a in page_.tags if tag == "img"]
    assert len(images) == 4
    assert all(image["alt"] for image in images), "also for those who do not see them"


def test_figures_of_the_experiment_are_beside_those_of_every_report(tmp_path):
    table = two_points(tmp_path)

    def mine(study):
        figure, (ax,) = figures.panels(1)
        ax.plot([1, 2])
        return figures.captioned(figure, "A figure & its caption.")

    path = build(table, figures={"mine": mine})
    assert "A figure & its caption." in Page(path.read_text()).text
    assert path.read_text().count("<img") == 4
    assert "![A figure & its caption.](mine.png)" in written(tmp_path, "report.md")
    for kind in ("png", "svg"):
        assert (tmp_path / "report" / f"mine.{kind}").stat().st_size > 100


def test_a_figure_that_shows_nothing_is_left_out(tmp_path):
    table = two_points(tmp_path)

    def empty(study):
        figure, (left, _) = figures.panels(2)
        left.set(xlabel="nothing of this", ylabel="is in the study")
        return figure

    def half(study):
        figure, (_, ax) = figures.panels(2)
        ax.scatter([1], [1])
        return figure

    drawn = {"empty": empty, "half": half}
    drawn["picture"] = lambda study: figures.images({"a": np.ones((1, 2, 2))})
    path = build(table, figures=drawn)
    assert {"half.png", "picture.png"} <= {p.name for p in path.parent.iterdir()}
    assert not (path.parent / "empty.png").exists()
    assert "empty" not in (path.parent / "report.md").read_text()


def line_of(name):
    """A figure whose caption is its name."""

    def draw(study):
        figure, (panel,) = figures.panels(1)
        panel.plot([1, 2])
        return figures.captioned(figure, f"The {name} one.")

    return draw


LACKING = {
    "its array": lambda study: study.array("weights"),
    "its point": lambda study: study.values("gone", "l2_norm"),
    "its column": lambda study: study.largest("gone"),
    "its method": lambda study: selection.methods(study)["gone"],
    "its lines": lambda study: figures.interval_panels({}, "Nothing."),
}


@pytest.mark.parametrize("lacking", LACKING.values(), ids=list(LACKING))
def test_a_figure_whose_points_are_missing_is_left_out(lacking, tmp_path):
    """And it alone: those before and after it are drawn, and named."""
    study = two_points(tmp_path)
    drawn = {"first": line_of("first"), "lacking": lacking, "last": line_of("last")}
    path = build(study, [CLAIM], figures=drawn)
    own = {"first.png", "first.svg", "last.png", "last.svg"}
    files = {file.name for file in path.parent.iterdir()}
    standard = {file.name for file in build(two_points(tmp_path / "0"), [CLAIM]).parent.iterdir()}
    assert files == standard | own
    for file in FILES:
        text = written(tmp_path, file)
        assert text.index("The first one.") < text.index("The last one.")
        assert "lacking" not in text
        assert "L2 shrinks." in text, "the rest of the report is there"


@pytest.mark.parametrize(
    "error", [KeyError("depth"), LookupError("depth"), IndexError("depth"), UserError("depth")]
)
def test_a_mistake_in_a_figure_is_not_a_figure_without_points(error, tmp_path):
    def draw(study):
        raise error

    with pytest.raises(type(error), match="depth"):
        build(two_points(tmp_path), figures={"first": line_of("first"), "wrong": draw})


def test_a_figure_is_drawn_from_the_study_of_the_report(tmp_path):
    study, seen = two_points(tmp_path), []
    build(study, figures={"mine": lambda study: seen.append(study) or line_of("own")(study)})
    assert seen == [study]


# The paragraphs about the experiment

SOURCE = "Source: a book, page 3."
DESCRIPTION = "\n\n".join(
    ["Does it help?", "Ten points of\ntwo lines.", SOURCE, "Command: ./launch.sh toy", "It helps."]
)
EXPECTED = "Expected: accuracy 0.61 with & 0.51 without."
WHOLE = ["Does it help?", "Ten points of\ntwo lines.", SOURCE, "It helps.", EXPECTED]


def about(study, description=DESCRIPTION, expected=EXPECTED):
    """The paragraphs about the experiment on its page and in its Markdown, which are the same."""
    build(study, question=description, expected=expected)
    text = written(study.directory, "report.md").removeprefix("# toy\n\n")
    markdown = text[: text.index("\n\n**")].split("\n\n")
    source = written(study.directory, "report.html")
    source = source[source.index("</h1>") : source.index('<p class="answer">')]
    paragraphs = re.findall(r"<p[^>]*>(.*?)</p>", source, re.DOTALL)
    assert [html.unescape(paragraph) for paragraph in paragraphs] == markdown
    return markdown


def test_the_default_study_is_described_with_what_is_expected_of_it(tmp_path):
    assert about(two_points(tmp_path, preset="default")) == WHOLE


@pytest.mark.parametrize("study", [{"preset": None}, {"preset": "smoke"}, {"preset": "paper"}, {}])
def test_of_another_study_the_question_and_the_source_alone_are_true(study, tmp_path):
    """Flags, or another preset, made it another: neither its sizes nor its numbers are these."""
    assert about(two_points(tmp_path, **study)) == ["Does it help?", SOURCE]


@pytest.mark.parametrize("preset", ["default", "smoke"])
def test_a_description_of_a_line_is_the_question(preset, tmp_path):
    study = two_points(tmp_path, preset=preset)
    assert about(study, "Does it help?", "") == ["Does it help?"]


def test_a_source_is_a_paragraph_that_says_so(tmp_path):
    """Several are all found; a paragraph that has the word elsewhere is none."""
    text = "Source: is it one?\n\nThe Source: no.\n\nSource: a.\n\nSources are.\n\nSource: b."
    shown = about(two_points(tmp_path, preset="smoke"), text)
    assert shown == ["Source: is it one?", "Source: a.", "Source: b."]


def test_a_remark_is_shown_with_its_claim(tmp_path):
    """On the page and in Markdown; without it neither knows of one."""
    remark = "the largest weights | have & no <bound>"
    other = Claim("other", "Another.", "notes", expecting([1.0, 1.1], "other"))
    study = two_points(tmp_path)
    for remarks in (None, {}, {"grows": {"supported": remark}}):
        build(study, [CLAIM, other], remarks=remarks)
        assert not any("Why:" in written(tmp_path, file) for file in FILES)
    verdict_and_another = {"supported": remark, "refuted": "no"}
    remarks = {"shrinks": verdict_and_another, "grows": {"supported": "no", "refuted": "no"}}
    page_ = read(study, claims=[CLAIM, other], remarks=remarks)
    shown = next(t for t in page_.tables if t.texts()[0][0] == "claim").texts()
    assert [row[2].split("\n")[1:] for row in shown[1:]] == [[f"Why: {remark}"], []]
    (claims, *_) = markdown_tables(written(tmp_path, "report.md"))
    assert [row[2].split("\n")[1:] for row in claims[1:]] == [[f"Why: {remark}"], []]


# The rest of the page


def test_the_plan_the_provenance_and_the_times_are_on_the_page(tmp_path):
    table = two_points(tmp_path)
    pd.DataFrame({"program": ["toy"], "what": ["compile"], "value": [1.5]}).to_parquet(
        tmp_path / "timings.parquet"
    )
    text = read(Study(table.directory)).text
    for words in ("made up", "./launch.sh toy", "slots_per_device 16", "toy: compile", "1.5"):
        assert words in text


def test_every_claim_is_shown_with_its_level_and_its_evidence(whole):
    table, page_ = whole
    shown = next(t for t in page_.tables if t.texts()[0][0] == "claim").texts()
    assert shown[0] == ["claim", "verdict", "evidence", "level", "source"]
    assert [(row[0], row[3], row[4]) for row in shown[1:]] == [
        ("L2 shrinks.", "0.02", "notes"),
        ("They differ.", "0.1", "notes"),
    ]
    assert all(row[1] in ("supported", "refuted", "inconclusive") for row in shown[1:])
    assert shown[1][2].startswith("l2_norm: baseline − L2 = ")
    lines = shown[2][2].split("\n")
    assert len(lines) == 2, "a line for each effect"
    assert all(line.startswith("l2_norm: L2 − baseline") for line in lines)
    claims = json.loads(written(table.directory, "claims.json"))
    assert [(c["verdict"], c["level"]) for c in claims] == [
        (row[1], float(row[3])) for row in shown[1:]
    ]
    (tables, *_) = markdown_tables(written(table.directory, "report.md"))
    assert tables[1:] == [row[:3] for row in shown[1:]]


# Answers


def test_the_answer_is_the_best_of_every_baseline(tmp_path):
    trials = [
        row
        for of, loss in ((BASE, 0.5), (WEAK, 0.4), (STRONG, 0.6), (LINEAR, 0.2))
        for row in series(of, valid_loss=[loss] * 3, test_accuracy=[0.5, 0.6, 0.7])
    ]
    table = write(tmp_path, [BASE, WEAK, STRONG, LINEAR], trials)
    first, second = page.answers(table)
    assert first.startswith("l2=0.1: test accuracy 0.60 ± 0.25, 0 ± 0 against base")
    assert "selected by leave-one-out validation loss in 3/3 restarts" in first
    assert second.startswith("linear: test accuracy 0.60 ± 0.25 (mean and 95% interval over 3")


@pytest.mark.parametrize(("n", "answers"), [(1, 1), (page.MOST_ANSWERS, page.MOST_ANSWERS), (9, 1)])
def test_a_page_does_not_begin_with_a_list_of_answers(n, answers, tmp_path):
    points = [point(f"b{i}", "baseline", model=f"{i}") for i in range(n)]
    table = write(tmp_path, points, random_trials(points, restarts=2))
    assert len(page.answers(table)) == answers


def test_one_restart_is_said_to_be_one(tmp_path):
    (answer,) = page.answers(two_points(tmp_path, restarts=1))
    sentence = "l2=0.1: test accuracy 0.6, +0.1 against base"
    assert answer == f"{sentence} (one restart; selected by its validation loss)"


def test_a_gain_is_said_to_be_of_fewer_restarts_where_the_baseline_lacks_some(tmp_path):
    trials = series(BASE, valid_loss=[0.5, 0.5, None], test_accuracy=[0.5, 0.5, None])
    trials += series(L2, valid_loss=[0.1] * 3, test_accuracy=[0.6, 0.6, 0.9])
    (answer,) = page.answers(write(tmp_path, [BASE, L2], trials, trials=6))
    assert "+0.1 ± 0 against base at the 2 restarts that both have" in answer
    (whole,) = page.answers(two_points(tmp_path / "whole"))
    assert "both have" not in whole


def test_the_answer_counts_the_restarts_of_its_interval(tmp_path):
    trials = series(BASE, valid_loss=[0.5] * 4, test_accuracy=[0.5] * 4)
    trials += series(L2, valid_loss=[0.1, 0.1, None, None], test_accuracy=[0.6, 0.7, None, None])
    (answer,) = page.answers(write(tmp_path, [BASE, L2], trials, trials=8))
    assert "0.6 ± 0.6" in answer or "0.65 ± 0.64" in answer
    assert "over 2 restarts" in answer


# Every number leads to the trials that it is made of


def cells_of(listing):
    """{title: its cell} of every row of a table of the page."""
    titles = [cell.text for cell in listing.rows[0]]
    return [dict(zip(titles, row, strict=True)) for row in listing.rows[1:]]


def test_every_id_is_there_once(whole):
    _, page_ = whole
    assert len(set(page_.ids)) == len(page_.ids)
    links = [a["href"] for tag, a in page_.tags if tag == "a"]
    assert links
    assert {link.removeprefix("#") for link in links} <= set(page_.ids)


def test_every_number_links_to_its_trials(whole):
    """All but settings, which are not made of trials."""
    table, page_ = whole
    for listing in page_.sortable:
        for row in cells_of(listing):
            for title, cell in row.items():
                if re.match(r"[+−]?[\d∞]", cell.text) and title not in (*table.varying, "setting"):
                    assert cell.link.startswith("#"), title


def test_a_list_of_trials_is_exactly_what_the_number_is_made_of(whole):
    """Ids, restarts and status of the point; of a choice, of what stands for it at each restart."""
    table, page_ = whole
    status = dict(zip(table.trials["trial"], table.trials["status"], strict=True))
    raw = dict(zip(table.trials["trial"], table.trials["test/accuracy"], strict=True))
    ablation_, points = page_.sortable
    assert len(cells_of(ablation_)) == len(ablation(table)) == 4
    expected = [
        [f"{name}/{restart}" for restart, name in row.chosen.by_restart.items()]
        for row in ablation(table)
    ]
    assert len({name.split("/")[0] for name in expected[1]}) > 1, "of two strengths"
    expected += [[f"{name}/{r}" for r in range(5)] for name in table.settings]
    for row, trials in zip([*cells_of(ablation_), *cells_of(points)], expected, strict=True):
        links = {cell.link for cell in row.values()} - {""}
        (anchor,) = links
        listed = cells_of(page_.details[anchor.removeprefix("#")])
        assert [cells["trial"].text for cells in listed] == trials
        for cells in listed:
            name = cells["trial"].text
            assert cells["point"].text == name.rpartition("/")[0]
            assert cells["restart"].text == name.rpartition("/")[2]
            assert cells["status"].text == status[name]
            assert float(cells["test/accuracy"].text) == pytest.approx(raw[name], rel=1e-5)
        values = [table.scored.set_index("trial")["test/accuracy"][name] for name in trials]
        title = "test accuracy" if "test accuracy" in row else "test/accuracy"
        assert float(row[title].attributes["data-sort"]) == pytest.approx(np.mean(values))
        assert row["n"].text == str(len(trials))
        assert row["diverged"].text == str([status[name] for name in trials].count("diverged"))


def test_the_page_prints_the_tables_cell_by_cell(whole):
    table, page_ = whole
    printed = [ablation_table(table, ablation(table)), points_table(table)]
    for listing, expected in zip(page_.sortable, printed, strict=True):
        assert listing.texts() == [
            list(expected.titles),
            *([cell.text for cell in line.cells] for line in expected.rows),
        ]
        assert expected.caption in page_.text
        for row, line in zip(listing.rows[1:], expected.rows, strict=True):
            assert [("strong" in cell.tags) for cell in row] == [cell.bold for cell in line.cells]
        marks = [mark.replace("rule", "").strip() for mark in listing.marks[1:]]
        assert marks == [line.mark for line in expected.rows]


def test_every_column_can_be_sorted_by_a_button(whole):
    _, page_ = whole
    assert len(page_.sortable) == 2
    for listing in page_.sortable:
        assert all(cell.tags == ["button"] for cell in listing.rows[0])
        assert all(cell.attributes == {"scope": "col"} for cell in listing.rows[0])


# What a reader must know before believing it


def warnings_of(table):
    return page.summary(table, ablation(table)).warnings


@pytest.mark.parametrize(
    ("study", "message"),
    [
        (lambda d: two_points(d, trials=10), "4 of 10 trials have not finished"),
        (lambda d: two_points(d, restarts=1), "One restart a point: there are no intervals"),
        (
            lambda d: write(
                d, [BASE], [trial(BASE, 0, status="diverged"), *random_trials([BASE])[1:]]
            ),
            "1 of 4 trials diverged; such a trial counts with the worst value",
        ),
        (
            lambda d: write(d, [BASE], [trial(BASE, r, status="diverged") for r in (0, 1)]),
            "Every trial diverged",
        ),
        (lambda d: two_points(d, marks=[EVIL]), f"Changed while the study lasted: {EVIL}."),
        (
            lambda d: halved(d, [[BASE, L2, STRONG], [BASE, L2], [L2]]),
            "Successive halving: 3 points (6 trials) to step 10, then 2 points (4 trials) to step "
            "30, then 1 points (2 trials) to step 90. The tables, the figures and the claims are "
            "of the points of the last round; the others stopped where they were dropped.",
        ),
    ],
    ids=["unfinished", "one restart", "diverged", "all diverged", "marks", "halving"],
)
def test_the_report_says_what_is_wrong_with_it(study, message, tmp_path):
    table = study(tmp_path)
    (warning,) = warnings_of(table)
    assert warning.startswith(message)
    page_ = read(table)
    place = page_.text.index(" ".join(message.split()))
    assert place < page_.text.index("Ablation"), "before any table"
    shown = [a for tag, a in page_.tags if tag == "p" and a.get("class") == "refuted"]
    assert len(shown) == 1
    assert message in written(tmp_path, "report.md")


def test_a_study_without_fault_warns_of_nothing(tmp_path):
    for study in ({}, {"marks": []}):
        table = two_points(tmp_path, **study)
        assert warnings_of(table) == ()
        build(table)
        for file in FILES:
            text = written(tmp_path, file)
            assert not re.search('not finished|Changed while|halving|refuted"|diverged;', text)


def test_everything_that_is_wrong_is_said(tmp_path):
    table = halved(tmp_path, [[BASE, L2]], trials=9, marks=["a", "b"], restarts=1)
    assert [warning.split()[0] for warning in warnings_of(table)] == [
        *("7", "One", "Changed", "Changed", "Successive"),
    ]


def test_a_halved_study_is_reported_by_its_last_round(tmp_path):
    other = point("max_norm=1", "max-norm", max_norm=1.0)
    build(halved(tmp_path, [[BASE, L2, other], [BASE, L2], [L2]]))
    for file in ("report.md", "ablation.tex", "points.tex", "ablation.csv", "points.csv"):
        assert "max-norm" not in written(tmp_path, file)
    for file in ("ablation.csv", "points.csv"):
        assert pd.read_csv(tmp_path / "report" / file)["point"].tolist() == ["l2=0.1"]


# Names that are markup


@pytest.mark.parametrize("file", FILES)
def test_what_a_user_named_is_never_markup(file, tmp_path):
    evil = point(EVIL, EVIL, l2=0.1, model=EVIL)
    trials = [trial(p, r, **{EVIL: 0.1 * r}) for p in (BASE, evil) for r in range(2)]
    claim = Claim("c", EVIL, EVIL, expecting([1.0, 2.0, 3.0], EVIL))
    table = write(tmp_path, [BASE, evil], trials, plan={EVIL: EVIL}, experiment=EVIL)
    table.manifest["provenance"]["command"] = EVIL
    page_ = read(table, claims=[claim], question=EVIL)
    if file == "report.html":
        assert [tag for tag, _ in page_.tags].count("script") == 1, "the page's own"
        assert page_.text.count(EVIL) > 10
        return
    for listing in markdown_tables(written(tmp_path, file)):
        assert len({len(row) for row in listing}) == 1
        assert not [cell for row in listing for cell in row if "html_inline" in cell]
    claims, rows, points = markdown_tables(written(tmp_path, file))
    assert claims[1][0] == rows[2][0] == points[2][0] == EVIL


# What is written beside the page


def test_the_files_of_a_report(whole):
    table, _ = whole
    pictures = ("restarts", "curves", "profiles", "best_of_k")
    assert {path.name for path in (table.directory / "report").iterdir()} == {
        *("report.html", "report.md", "claims.json"),
        *("ablation.csv", "ablation.tex", "points.csv", "points.tex"),
        *(f"{name}.{kind}" for name in pictures for kind in ("png", "svg")),
    }


def test_markdown_holds_the_same_tables_and_names_the_figures(whole):
    table, page_ = whole
    text = written(table.directory, "report.md")
    assert text.startswith("# toy\n\nDoes it help?\n\n**")
    _, *tables = markdown_tables(text)
    for listing, result in zip(page_.sortable, tables, strict=True):
        plain = [[re.sub("</?b>", "", cell) for cell in row] for row in result]
        assert plain == listing.texts()
    for name in ("restarts", "curves", "profiles", "best_of_k"):
        assert f"]({name}.png)" in text
    for printed in (ablation_table(table, ablation(table)), points_table(table)):
        assert printed.caption in text


def test_csv_and_latex_hold_the_same_tables(whole):
    table, _ = whole
    rows = ablation(table)
    frames = {"ablation": ablation_frame(table, rows), "points": points_frame(table)}
    printed = ablation_table(table, rows), points_table(table)
    for (name, frame), wide in zip(frames.items(), printed, strict=True):
        csv = pd.read_csv(table.directory / "report" / f"{name}.csv")
        pd.testing.assert_frame_equal(csv, frame, check_dtype=False, rtol=1e-12)
        result = latex_rows(written(table.directory, f"{name}.tex"))
        expected = narrow(wide)
        assert [[re.sub("</?b>", "", cell) for cell in cells] for cells in result] == [
            list(expected.titles),
            *([cell.text for cell in line.cells] for line in expected.rows),
        ]


def test_claims_json_is_json_whatever_was_measured(tmp_path):
    """One restart has no interval; NaN and infinity are no JSON."""
    build(two_points(tmp_path, restarts=1), claims=[CLAIM])

    def refused(constant):
        raise AssertionError(f"{constant} is not JSON")

    (claim,) = json.loads(written(tmp_path, "claims.json"), parse_constant=refused)
    assert (claim["id"], claim["verdict"], claim["level"]) == ("shrinks", "inconclusive", 0.02)
    (part,) = claim["parts"]
    assert part["effect"] == pytest.approx(1.0)
    assert (part["low"], part["high"], part["n"]) == (None, None, 1)
    assert part["expected"] == [0.0, "inf"]


def test_equal_studies_have_equal_reports(rendered_figures, tmp_path):
    """Every byte of every file; also of a second report of the same directory."""
    result = []
    for name in ("a", "b", "b"):
        trials = random_trials([BASE, L2], restarts=3)
        write(tmp_path / name, [BASE, L2], trials)
        write_curves(tmp_path / name, trials)
        build(Study(tmp_path / name), claims=[CLAIM])
        result.append({p.name: p.read_bytes() for p in (tmp_path / name / "report").iterdir()})
    assert result[0] == result[1] == result[2]
