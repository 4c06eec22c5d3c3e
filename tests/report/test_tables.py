"""Tables as they are printed: the same cells, whole in Markdown, in LaTeX and in what they say."""

import math
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from ablax.report.ablation import ablation
from ablax.report.compare import comparison_table
from ablax.report.statistics import Interval
from ablax.report.tables import (
    Cell,
    Printed,
    TableRow,
    ablation_table,
    interval_cell,
    latex,
    markdown,
    more_restarts,
    narrow,
    points_table,
    show,
    show_p,
)
from tests.report.reading import latex_rows, markdown_tables
from tests.report.runs import (
    BASE,
    LINEAR,
    POINTS,
    STRONG,
    WEAK,
    halved,
    point,
    random_trials,
    series,
    write,
)

NAN = math.nan


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
        (0.9081, 1e-9, 3, "0.9081 ± 0"),
        (0.0, 0.0, 3, "0 ± 0"),
        (0.5, NAN, 1, "0.5"),
        (1234.5, NAN, 1, "1234"),
        (NAN, NAN, 3, "–"),
    ],
)
def test_show_prints_two_digits_of_the_interval(mean, half, n, shown):
    assert show(Interval(mean, mean - half, mean + half, n)) == shown


@pytest.mark.parametrize("size", 10.0 ** np.arange(-12, 13, 3))
def test_what_is_shown_is_the_value_however_small_or_large(size):
    text = show(Interval(3 * size, 2 * size, 4 * size, 16))
    assert [float(word) for word in text.split(" ± ")] == pytest.approx([3 * size, size], rel=0.01)


@pytest.mark.parametrize("method", ["BCa", "percentile", "exact"])
def test_intervals_that_are_not_symmetric_show_their_ends(method):
    assert show(Interval(0.9, 0.87, 0.91, 16, method)) == "0.900 [0.870, 0.910]"


def test_ends_are_shown_of_small_values_too():
    assert "±" not in show(Interval(9e-6, 1e-6, 9.5e-6, 16, "BCa"))


@pytest.mark.parametrize(
    ("p", "shown"),
    [(0.0321, "0.032"), (2e-5, "< 0.0001"), (1e-4, "0.0001"), (1.0, "1"), (NAN, "–")],
)
def test_p_values(p, shown):
    assert show_p(p) == shown


@pytest.mark.parametrize(
    ("estimate", "signed", "shown"),
    [
        (0.25, True, "+0.25 ± 0.10"),
        (0.25, False, "0.25 ± 0.10"),
        (-0.25, True, "−0.25 ± 0.10"),
        (0.0, True, "0.00 ± 0.10"),
        (NAN, True, "–"),
    ],
)
def test_differences_carry_their_sign(estimate, signed, shown):
    cell = interval_cell(Interval(estimate, estimate - 0.1, estimate + 0.1, 4), signed=signed)
    assert cell.text == shown
    np.testing.assert_equal(cell.sort, estimate)


# Markdown and LaTeX hold what the cells say

NAMES = [
    *"|_%&#${}~^\\<>`*[]!",
    "± Δ − ∞ – λ",
    "a|b",
    "a\\|b",
    "\\|",
    "ends with \\",
    "50% of $x_1$ & {y} #1 ~ ^2",
    '<script>alert("1")</script>',
    "&amp; &#35;",
    "*stars* and **more**",
    "_under_ and share_below_1e-3",
    "~~gone~~",
    "`code`",
    "[link](#x) ![image](y)",
    "\\input{secrets}",
    "[2]",
    "[-3pt] after a rule",
    "* first",
    "- first",
]


def of_cells(*texts, bold=False):
    cells = tuple(Cell(text, bold=bold) for text in texts)
    return Printed(tuple(texts), (TableRow(cells, rule=True), TableRow(cells)), "")


@pytest.mark.parametrize("bold", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_markdown_says_what_the_cells_say(name, bold):
    """As its own rules read it: a cell can neither end early nor become markup."""
    (table,) = markdown_tables(markdown(of_cells(name, "x", bold=bold)))
    cells = [f"<b>{name}</b>", "<b>x</b>"] if bold else [name, "x"]
    assert table == [[name, "x"], cells, cells]


@pytest.mark.parametrize("bold", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_latex_prints_what_the_cells_say(name, bold):
    cells = [f"<b>{name}</b>", "<b>x</b>"] if bold else [name, "x"]
    assert latex_rows(latex(of_cells(name, "x", bold=bold))) == [[name, "x"], cells, cells]


@pytest.mark.parametrize(
    ("text", "tex"),
    [
        ("0.5 ± 0.1", r"0.5 $\pm$ 0.1"),
        ("Δ −3", r"$\Delta$ $-$3"),
        ("∞", r"$\infty$"),
        ("–", "--"),
        ("< 0.0001", "$<$ 0.0001"),
    ],
)
def test_latex_has_signs_of_its_own(text, tex):
    assert f"\n{tex} \\\\" in latex(of_cells(text))


def test_latex_is_a_booktabs_tabular(tmp_path):
    table = write(tmp_path, POINTS, random_trials())
    printed = narrow(ablation_table(table, ablation(table)))
    body = latex(printed).splitlines()
    assert body[:3] == [
        r"% \usepackage{booktabs}",
        r"\begin{tabular}{llrrrrr}",
        r"\toprule",
    ]
    assert body[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert body[4] == r"\midrule", "under the head"
    assert body.count(r"\midrule") == 2, "and above every further baseline"
    assert {len(cells) for cells in latex_rows(latex(printed))} == {len(printed.titles)}
    assert latex(printed).isascii()


def compiled(directory, *tables):
    """Typeset tables; (exit status, the end of what TeX said)."""
    text = "\n\n".join(tables)
    (directory / "paper.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n\\tiny\n"
        f"{text}\n\\end{{document}}\n"
    )
    command = ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error"]
    done = subprocess.run(
        [*command, "paper.tex"], cwd=directory, capture_output=True, timeout=60, check=False
    )
    return done.returncode, done.stdout.decode(errors="replace")[-2000:]


needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")


@needs_latex
def test_tables_of_a_study_compile(tmp_path):
    """As realistic as the default study: infinities, unknown numbers, significant rows."""
    trials = random_trials(restarts=6)
    trials += series(point("none", "max-norm", max_norm=2.0), test_accuracy=[0.9], l2_norm=[1e-9])
    points = [*POINTS, point("none", "max-norm", max_norm=2.0)]
    table = write(tmp_path, points, trials, significance=0.9)
    rows = ablation(table)
    status, log = compiled(tmp_path, latex(ablation_table(table, rows)), latex(points_table(table)))
    assert status == 0, log


@needs_latex
def test_the_comparison_of_two_studies_compiles(tmp_path):
    a, b = (
        write(tmp_path / name, POINTS, random_trials(seed=seed), id=name)
        for seed, name in enumerate("ab")
    )
    status, log = compiled(tmp_path, latex(comparison_table(a, b)))
    assert status == 0, log


@needs_latex
def test_hostile_names_compile(tmp_path):
    points = [BASE]
    points += [point(f"p{i}", f"{name} é", l2=i + 1.0) for i, name in enumerate(NAMES)]
    points += [point(f"q{i}", name, model=name) for i, name in enumerate(NAMES)]
    table = write(tmp_path, points, random_trials(points, restarts=1))
    printed = (ablation_table(table, ablation(table)), points_table(table))
    tex = [latex(replace(one, rows=one.rows[i : i + 30])) for one in printed for i in (0, 30, 60)]
    status, log = compiled(tmp_path, *tex, latex(of_cells(*NAMES, bold=True)))
    assert status == 0, log


# What the tables print


def columns(printed):
    """{title: the texts under it}."""
    return {
        title: [line.cells[i].text for line in printed.rows]
        for i, title in enumerate(printed.titles)
    }


@pytest.fixture
def settled(tmp_path):
    """A method that is surely better, one that is not, and a second baseline."""
    noise = np.array([0.01, -0.02, 0.03, -0.01, 0.02, 0.01, -0.03, 0.02])
    trials = series(BASE, test_accuracy=[0.5] * 8, valid_loss=[0.5] * 8)
    trials += series(WEAK, test_accuracy=0.7 + noise, valid_loss=[0.4] * 8)
    trials += series(STRONG, test_accuracy=0.9 + noise, valid_loss=[0.6] * 8)
    dropout = point("dropout", "dropout", dropout_rate=0.5)
    points = [{"dropout_rate": 0.0, **p} for p in (BASE, WEAK, STRONG)]
    trials = [{"dropout_rate": 0.0, **row} for row in trials]
    trials += series(dropout, test_accuracy=0.49 + noise, valid_loss=[0.7] * 8)
    return write(tmp_path, [*points, dropout], trials)


def test_the_ablation_table_leads_with_each_baseline_and_what_changes_it(settled):
    result = columns(ablation_table(settled, ablation(settled)))
    assert result["method"] == ["baseline", "L2", "dropout"]
    assert result["setting"][:2] == ["base", "l2=0.1"]
    assert result["test accuracy"][0] == "0.5 ± 0"
    assert result["test accuracy"][1].startswith("0.704 ± 0.0")
    assert result["Δ test accuracy"][1].startswith("+0.204 ± 0.0")
    assert result["Δ test accuracy"][2].startswith("−0.006 ± 0.0")
    assert result["p (Holm)"][:2] == ["", "0.016"]
    assert result["better at"] == ["", "100%", "50%"]
    assert result["n"] == ["8"] * 3
    assert result["diverged"] == ["0"] * 3
    assert result["more restarts"][:2] == ["", ""], "nothing where it is settled"
    assert int(result["more restarts"][2].replace(",", "")) > 10


def test_a_setting_is_what_its_baseline_does_not_set(tmp_path):
    points = [
        point("model=mlp", "baseline"),
        point("model=mlp l2=0.1", "L2", l2=0.1),
        point("model=linear", "baseline", model="linear"),
        point("model=linear l2=0.1", "L2", model="linear", l2=0.1),
    ]
    table = write(tmp_path, points, random_trials(points))
    result = columns(ablation_table(table, ablation(table)))
    assert result["setting"] == ["model=mlp", "l2=0.1", "model=linear", "l2=0.1"]


def test_a_paper_gets_the_columns_that_it_has_room_for(settled):
    printed = ablation_table(settled, ablation(settled))
    short = narrow(printed)
    assert short.titles == (
        *("method", "setting", "test accuracy", "Δ test accuracy", "p (Holm)", "n", "diverged"),
    )
    assert columns(short) == {title: columns(printed)[title] for title in short.titles}
    assert [(line.mark, line.rule) for line in short.rows] == [
        (line.mark, line.rule) for line in printed.rows
    ]


def test_bold_is_exactly_what_is_significant(settled):
    """p (Holm) ≤ the level of the study, in every language."""
    for level, bold in ((0.01, set()), (0.05, {"L2"}), (1.0, {"L2", "dropout"})):
        settled.significance = level
        rows = ablation(settled)
        printed = ablation_table(settled, rows)
        for row, line in zip(rows, printed.rows, strict=True):
            assert row.significant(level) == (row.group in bold)
            titles = {
                title for title, cell in zip(printed.titles, line.cells, strict=True) if cell.bold
            }
            expected = {"method", "Δ test accuracy", "p (Holm)"} if row.group in bold else set()
            assert titles == expected
        for text in (latex_rows(latex(printed)), markdown_tables(markdown(printed))[0]):
            assert {cells[0].strip("</b>") for cells in text if cells[0].startswith("<b>")} == bold


def test_exactly_the_level_is_significant(tmp_path):
    """8 restarts that all agree have p = 2⁻⁷."""
    trials = series(BASE, test_accuracy=[0.5] * 8) + series(WEAK, test_accuracy=[0.7] * 8)
    table = write(tmp_path, [BASE, WEAK], trials, significance=2**-7)
    assert ablation_table(table, ablation(table)).rows[1].cells[0].bold


@pytest.mark.parametrize(
    ("restarts_needed", "shown"),
    [(NAN, ""), (math.inf, "no measured difference"), (25.0, "21"), (12_004.0, "12,000")],
)
def test_more_restarts_are_beyond_those_there_are(restarts_needed, shown, tmp_path):
    table = write(tmp_path, [BASE, WEAK], random_trials([BASE, WEAK]))
    baseline, row = ablation(table)
    assert more_restarts(baseline) == ""
    assert (
        more_restarts(replace(row, versus=replace(row.versus, restarts_needed=restarts_needed)))
        == shown
    )


def test_every_number_can_be_sorted_by(settled):
    for printed in (ablation_table(settled, ablation(settled)), points_table(settled)):
        for line in printed.rows:
            for title, cell in zip(printed.titles, line.cells, strict=True):
                if re.match(r"[+−]?[\d∞]", cell.text):
                    assert cell.sort is not None, title
                if re.fullmatch(r"[\d,]+", cell.text):
                    assert float(cell.text.replace(",", "")) == pytest.approx(cell.sort), title


def test_the_points_table_has_every_metric_and_measure_of_every_point(tmp_path):
    table = write(tmp_path, POINTS, random_trials())
    printed = points_table(table)
    metrics = [f"{s}/{m}" for m in ("accuracy", "loss") for s in ("train", "valid", "test")]
    assert printed.titles == (
        *("method", "model", "l2", *metrics, "l2_norm", "steps"),
        *("Δ test/accuracy", "n", "diverged"),
    )
    result = columns(printed)
    assert result["l2"] == ["0", "0.1", "1", "0", "0.1"]
    assert [bool(text) for text in result["Δ test/accuracy"]] == [False, True, True, False, True]
    for place, name in enumerate(table.settings):
        for column in (*metrics, "l2_norm", "steps"):
            assert result[column][place] == interval_cell(table.interval(name, column)).text


def test_an_infinite_setting_is_printed_as_one(tmp_path):
    points = [BASE, point("max_norm=2", "max-norm", max_norm=2.0)]
    printed = points_table(write(tmp_path, points, random_trials(points)))
    assert columns(printed)["max_norm"] == ["∞", "2"]
    assert [line.cells[1].sort for line in printed.rows] == [math.inf, 2.0]


def test_what_validation_selects_is_marked(settled):
    marks = [line.mark for line in points_table(settled).rows]
    assert marks == ["selected", "best", "", "selected"]
    assert [line.mark for line in ablation_table(settled, ablation(settled)).rows] == [
        *("", "best", ""),
    ]


# What the caption of the ablation table says


def caption(table):
    return ablation_table(table, ablation(table)).caption


def test_the_caption_says_what_was_corrected_and_at_which_level(tmp_path):
    table = write(tmp_path, POINTS, random_trials(), significance=0.01)
    assert "Holm-corrected over 2 rows; bold where p ≤ 0.01" in caption(table)
    one = write(tmp_path / "one", [BASE, WEAK], random_trials([BASE, WEAK]))
    assert "Holm" not in caption(one), "one comparison needs no correction"
    assert "bold where p ≤ 0.05" in caption(one)


def test_the_caption_says_where_strengths_come_from(tmp_path):
    trials = series(BASE, valid_loss=[0.9] * 4)
    trials += series(WEAK, valid_loss=[0.1, 0.6, 0.6, 0.6])
    trials += series(STRONG, valid_loss=[0.9, 0.5, 0.5, 0.5])
    table = write(tmp_path, [BASE, WEAK, STRONG], trials)
    assert "at the strength that the other restarts choose" in caption(table)
    assert "another strength for some restarts of L2 (1 of 4)." in caption(table)
    single = write(tmp_path / "1", POINTS, random_trials(restarts=1))
    assert "is chosen by validation loss of its one restart." in caption(single)
    fixed = write(tmp_path / "2", [BASE, WEAK], random_trials([BASE, WEAK]))
    assert "strength" not in caption(fixed), "nothing was chosen"


@pytest.mark.parametrize(
    ("diverged", "sentence"),
    [
        (0, "No trial diverged."),
        (2, "2 of 6 trials diverged; such a trial counts with the worst value of any that did not"),
        (6, "Every trial diverged: there is nothing to compare."),
    ],
)
def test_the_caption_says_what_became_of_divergence(diverged, sentence, tmp_path):
    trials = random_trials([BASE, WEAK], restarts=3)
    for row in trials[:diverged]:
        row["status"] = "diverged"
    assert sentence in caption(write(tmp_path, [BASE, WEAK], trials))


def test_the_caption_names_rows_whose_bootstrap_is_another(tmp_path):
    trials = series(BASE, test_accuracy=[0.5] * 4)
    trials += series(LINEAR, test_accuracy=[0.1, 0.25, 0.3, 0.9])
    text = caption(write(tmp_path, [BASE, LINEAR], trials))
    assert "BCa is undefined for the interquartile mean of baseline: percentile." in text


def test_the_caption_counts_rows_that_are_too_many_to_name(tmp_path):
    trials = [row for of in POINTS for row in series(of, test_accuracy=[0.5] * 4)]
    text = caption(write(tmp_path, POINTS, trials))
    assert "BCa is undefined for the median of 4 of 4 rows: percentile." in text


def test_a_halved_study_prints_its_last_round_alone(tmp_path):
    table = halved(tmp_path, [POINTS, [BASE, WEAK]])
    assert columns(points_table(table))["method"] == ["baseline", "L2"]
    assert columns(ablation_table(table, ablation(table)))["n"] == ["2", "2"]


def test_the_caption_says_of_a_metric_that_is_not_finite(tmp_path):
    """It counts as failed without the status of a diverged trial."""
    trials = random_trials([BASE, WEAK], restarts=3)
    trials[4]["test/accuracy"] = NAN
    text = caption(write(tmp_path, [BASE, WEAK], trials))
    assert "0 of 6 trials diverged, and test accuracy of 1 is not finite; such a trial" in text
