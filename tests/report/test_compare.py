"""Two studies side by side: paired by restart where they share a seed, else not."""

import numpy as np
import pytest
from scipy import stats

from ablax.errors import UserError
from ablax.report import compare, selection
from tests.report.reading import Page, latex_rows, markdown_tables
from tests.report.runs import BASE, POINTS, STRONG, WEAK, random_trials, series, write

EVIL = '<script>alert("1")</script> & 5% of $x_1 | {y}'


def studies(directory, seeds=(0, 0), restarts=(6, 6), **changes):
    """Two studies of the same points, measured at random."""
    return [
        write(
            directory / name,
            POINTS,
            random_trials(restarts=n, seed=10 + number),
            **({"seed": seed, "id": name} | (changes if number else {})),
        )
        for number, (name, seed, n) in enumerate(zip("ab", seeds, restarts, strict=True))
    ]


def accuracy(table, point):
    return table.values(point, "test/accuracy").to_numpy()


def test_the_best_of_each_and_every_point_of_both_are_compared(tmp_path):
    a, b = studies(tmp_path)
    rows = compare.compare(a, b)
    bests = f"best: {selection.best(a).point} → {selection.best(b).point}"
    assert [row.name for row in rows] == [bests, *(p["name"] for p in POINTS)]
    expected = accuracy(b, selection.best(b)).mean() - accuracy(a, selection.best(a)).mean()
    assert rows[0].difference.estimate == pytest.approx(expected)


def test_restarts_of_one_seed_are_paired(tmp_path):
    a, b = studies(tmp_path)
    for row in compare.compare(a, b)[1:]:
        x, y = accuracy(a, row.name), accuracy(b, row.name)
        assert (row.a.estimate, row.b.estimate) == pytest.approx((x.mean(), y.mean()))
        expected = stats.ttest_rel(y, x).confidence_interval()
        np.testing.assert_allclose([row.difference.low, row.difference.high], expected)
        assert (row.difference.method, row.difference.n) == ("t", 6)
        flipped = stats.permutation_test(
            (y - x,), np.mean, permutation_type="samples", n_resamples=np.inf
        )
        assert row.p == pytest.approx(flipped.pvalue)


def test_only_restarts_of_both_are_paired(tmp_path):
    """Restart r of one with restart r of the other, in whatever order they were written."""
    a = write(tmp_path / "a", [BASE], series(BASE, test_accuracy=[0.1, 0.2, None, 0.4, 0.5]))
    trials = series(BASE, test_accuracy=[0.9, None, 0.7, 0.8, 0.5])[::-1]
    b = write(tmp_path / "b", [BASE], trials)
    for row in compare.compare(a, b):
        assert row.difference.n == 3
        assert row.difference.estimate == pytest.approx((0.8 + 0.4 + 0.0) / 3)


@pytest.mark.parametrize("restarts", [(6, 6), (4, 9), (9, 4)])
def test_restarts_of_two_seeds_are_not_paired(restarts, tmp_path):
    a, b = studies(tmp_path, (0, 1), restarts)
    assert not compare.paired(a, b)
    for row in compare.compare(a, b)[1:]:
        x, y = accuracy(a, row.name), accuracy(b, row.name)
        expected = stats.ttest_ind(y, x, equal_var=False)
        assert row.difference.estimate == pytest.approx(y.mean() - x.mean())
        ends = [row.difference.low, row.difference.high]
        np.testing.assert_allclose(ends, expected.confidence_interval())
        assert row.p == pytest.approx(expected.pvalue)
        assert (row.difference.method, row.difference.n) == ("Welch", min(restarts))


@pytest.mark.parametrize(("seed", "how"), [(0, "paired by restart"), (1, "Welch's")])
def test_the_table_says_how_and_corrects_for_its_rows(seed, how, tmp_path):
    a, _ = studies(tmp_path, restarts=(12, 12))
    better = random_trials(restarts=12, seed=11)
    for row in better[:12]:  # those of one point
        row["test/accuracy"] += 2
    b = write(tmp_path / "b", POINTS, better, seed=seed)
    printed = compare.comparison_table(a, b)
    assert how in printed.caption
    assert f"Holm-corrected over {1 + len(POINTS)} rows, bold where p ≤ 0.05" in printed.caption
    rows = compare.compare(a, b)
    order = np.argsort([row.p for row in rows], kind="stable")
    least = 0.0
    for rank, place in enumerate(order):
        least = max(least, rows[place].p * (len(rows) - rank))
        cell = printed.rows[place].cells[4]
        assert cell.sort == pytest.approx(min(1.0, least))
        assert cell.bold == (least <= 0.05)
    assert {line.cells[0].text for line in printed.rows if line.cells[0].bold} >= {"base"}
    assert not all(line.cells[0].bold for line in printed.rows)
    assert [line.cells[5].text for line in printed.rows] == ["12"] * len(rows)


def test_a_difference_is_of_the_second_from_the_first(tmp_path):
    a = write(tmp_path / "a", [BASE], series(BASE, test_accuracy=[0.5] * 3))
    b = write(tmp_path / "b", [BASE], series(BASE, test_accuracy=[0.75] * 3))
    (line, _) = compare.comparison_table(a, b).rows
    assert [cell.text for cell in line.cells[1:4]] == ["0.5 ± 0", "0.75 ± 0", "+0.25 ± 0"]


def test_studies_that_do_not_measure_the_same_are_refused(tmp_path):
    a, b = studies(tmp_path, metrics={"loss": "min", "accuracy": "max"})
    with pytest.raises(UserError, match=r"leads with accuracy and .* with loss"):
        compare.compare(a, b)
    with pytest.raises(UserError, match="measure the same"):
        compare.build(a, b)


def test_points_of_one_study_alone_are_left_out(tmp_path):
    a = write(tmp_path / "a", [BASE, WEAK], random_trials([BASE, WEAK]))
    b = write(tmp_path / "b", [STRONG, BASE], random_trials([STRONG, BASE]), trials=99)
    assert [row.name for row in compare.compare(a, b)[1:]] == ["base"]
    c = write(tmp_path / "c", [STRONG], random_trials([STRONG]))
    (best,) = compare.compare(a, c)
    assert best.name.startswith("best: ")


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("values", [[0.5], [0.5] * 3, [0.5, 0.7, 0.6]])
def test_what_a_few_restarts_cannot_say_is_left_open(values, seed, tmp_path):
    """One restart, all equal, or equal on one side alone: a page, and no made-up p-value."""
    n = len(values)
    a = write(tmp_path / "a", [BASE], series(BASE, test_accuracy=[0.5] * n))
    b = write(tmp_path / "b", [BASE], series(BASE, test_accuracy=values), seed=seed)
    page, text = compare.build(a, b)
    Page(page.read_text())
    assert "nan" not in text
    for row in compare.compare(a, b):
        assert row.difference.known == (n > 1)
        assert np.isnan(row.p) or 0 < row.p <= 1


def test_diverged_studies_can_be_compared(tmp_path):
    a, b = studies(tmp_path)
    dead = [dict(row, status="diverged") for row in random_trials()]
    c = write(tmp_path / "c", POINTS, dead)
    for first, second in ((a, c), (c, b), (c, c)):
        page, text = compare.build(first, second)
        assert "nan" not in text
        Page(page.read_text())


def test_what_differs_is_listed(tmp_path):
    provenance = {
        "command": "./launch.sh toy --l2 1",
        "commit": "abc",
        "versions": {"jax": "0.1", "flax": "9"},
        "programs": {},
    }
    changes = {"plan": {"points": "5", "data": EVIL}, "provenance": provenance}
    a, b = studies(tmp_path, **changes)
    assert compare.differing(a, a) == {}
    assert compare.differing(a, b) == {
        "data": ("made up", EVIL),
        "jax": ("0.0", "0.1"),
        "flax": ("–", "9"),
        "commit": (None, "abc"),
        "command": ("./launch.sh toy", "./launch.sh toy --l2 1"),
    }
    page, _ = compare.build(a, b)
    read = Page(page.read_text())
    (changed,) = [table for table in read.tables if table not in read.sortable]
    assert changed.texts()[0] == ["", "A", "B"]
    listed = {what: (x, y) for what, x, y in changed.texts()[1:]}
    assert listed["data"] == ("made up", EVIL)
    assert listed["command"] == ("./launch.sh toy", "./launch.sh toy --l2 1")
    assert "Nothing that study.json says." not in read.text


def test_where_nothing_differs_the_page_says_so(tmp_path):
    page, _ = compare.build(*studies(tmp_path))
    assert "Nothing that study.json says." in Page(page.read_text()).text


def test_the_page_needs_nothing_else_and_says_what_the_table_says(tmp_path):
    a, b = studies(tmp_path)
    path, text = compare.build(a, b)
    assert path == b.directory / "report" / "against-a" / "comparison.html"
    page = Page(path.read_text())
    assert page.outside() == []
    printed = compare.comparison_table(a, b)
    cells = [list(printed.titles), *([c.text for c in line.cells] for line in printed.rows)]
    (table,) = page.sortable
    assert table.texts() == cells
    for words in (str(a.directory), str(b.directory), printed.caption):
        assert words in page.text
    (written,) = markdown_tables(path.with_name("comparison.md").read_text())
    plain = [[cell.replace("<b>", "").replace("</b>", "") for cell in row] for row in written]
    assert plain == cells
    assert printed.caption in path.with_name("comparison.md").read_text()
    assert markdown_tables(text) == [written]
    assert len(latex_rows(path.with_name("comparison.tex").read_text())) == len(cells)


def test_what_a_user_named_is_never_markup(tmp_path):
    points = [{**BASE, "name": EVIL}]
    a, b = (
        write(tmp_path / name, points, random_trials(points, seed=seed), experiment=EVIL)
        for seed, name in enumerate("ab")
    )
    page = Page(compare.build(a, b)[0].read_text())
    assert [tag for tag, _ in page.tags].count("script") == 1, "that of the page itself"
    assert EVIL in page.text


def test_equal_studies_have_equal_comparisons(tmp_path):
    result = []
    for _ in range(2):
        path, _ = compare.build(*studies(tmp_path))
        result.append({file.name: file.read_bytes() for file in path.parent.iterdir()})
    assert result[0] == result[1]
    assert set(result[0]) == {"comparison.html", "comparison.md", "comparison.tex"}


def test_a_comparison_is_written_beside_the_second_study_alone(tmp_path):
    a, b = studies(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    compare.build(a, b)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before.items() <= after.items()
    assert {path.parent for path in after.keys() - before} == {b.directory / "report/against-a"}
