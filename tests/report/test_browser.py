"""The report's page in a browser: its tables sort, its links open lists of trials."""

import math
import re
import shutil
import subprocess

import pytest

from ablax.report.study import Study
from ablax.report.tables import points_table
from tests.report.runs import POINTS, build, point, random_trials, trial, write

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--virtual-time-budget=3000",
]
CLICK = """<script>
const orders = [], table = document.querySelectorAll("table.sortable")[NUMBER];
const order = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent).join("|");
const state = () => table.tHead.rows[0].cells[COLUMN].getAttribute("aria-sort");
for (let click = 0; click < 3; click++) {
  table.querySelectorAll("th button")[COLUMN].click();
  orders.push(state() + ": " + order());
}
document.title = orders.join(";");
</script>"""
ERRORS = (
    "<script>onerror = message => { document.documentElement.dataset.error = message; };</script>"
)


def opened(path, directory, *, script="", hash_=""):
    """The page as a browser holds it, with a script at its end; (its source, its title)."""
    text = path.read_text().replace("<head>", "<head>" + ERRORS, 1)
    copy = directory / "copy.html"
    copy.write_text(text.replace("</body>", script + "</body>"))
    command = ["chromium", *FLAGS, f"--user-data-dir={directory / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*command, f"{copy.as_uri()}{hash_}"], capture_output=True, timeout=60, check=True
    )
    dom = done.stdout.decode()
    assert "data-error" not in dom, "a script of the page failed"
    return dom, re.search("<title>(.*?)</title>", dom, re.DOTALL)[1]


needs_browser = pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")


@needs_browser
def test_a_click_on_a_head_sorts_by_its_column(tmp_path):
    """By number once up and once down, unknown ones last; text by its letters."""
    values = {"bee": 0.09, "ant": 0.1, "dog": None, "cat": -0.2, "eel": 1e-9}
    points = [point("base", "baseline")]
    points += [point(f"p{i}", name, l2=i + 1.0) for i, name in enumerate(values)]
    trials = [trial(points[0], 0, test_accuracy=0.5, l2_norm=math.nan)]
    for of, (_, value) in zip(points[1:], values.items(), strict=True):
        trials.append(trial(of, 0, test_accuracy=0.5, l2_norm=math.nan if value is None else value))
    path = build(write(tmp_path, points, trials))
    titles = points_table(Study(tmp_path)).titles
    script = CLICK.replace("NUMBER", "1")
    known, unknown = ["cat", "eel", "bee", "ant"], ["baseline", "dog"]
    up, down = known + unknown, known[::-1] + unknown
    _, title = opened(path, tmp_path, script=script.replace("COLUMN", str(titles.index("l2_norm"))))
    orders = [f"{way}ending: {'|'.join(names)}" for way, names in zip(
        ("asc", "desc", "asc"), (up, down, up), strict=True)]  # fmt: skip
    assert title.split(";") == orders
    _, title = opened(path, tmp_path, script=script.replace("COLUMN", "0"))
    names = ["ant", "baseline", "bee", "cat", "dog", "eel"]
    assert title.split(";")[:2] == [
        f"ascending: {'|'.join(names)}",
        f"descending: {'|'.join(names[::-1])}",
    ]


@needs_browser
def test_a_link_to_trials_opens_their_list(tmp_path):
    path = build(write(tmp_path, POINTS, random_trials()))
    script = """<script>
const open = () => [...document.querySelectorAll("details[open]")].map(list => list.id).join("|");
const before = open();
document.querySelector('a[href="#row-1"]').click();
setTimeout(() => { document.title = before + ";" + open(); }, 500);
</script>""".replace("const open", "const opened").replace("open()", "opened()")
    _, title = opened(path, tmp_path, script=script, hash_="#point-2")
    assert title == "point-2;row-1|point-2"
    _, title = opened(path, tmp_path, script="", hash_="#no-such-place")
    assert title == "toy"
