"""README and docs/ against the code: what they show runs, and what they name is there."""

import re
from pathlib import Path

import duckdb
import pandas as pd
import polars
import pytest

from ablax.cli.experiments import names
from ablax.cli.main import COMMANDS, main
from ablax.experiment import question_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in
         [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}  # fmt: skip
ALL = "\n".join(PAGES.values())
SOURCES = [*(ROOT / "lib").rglob("*.py"), *(ROOT / "experiments").glob("*.py"),
           *(ROOT / "tests").rglob("*.py")]  # fmt: skip


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 140


@pytest.fixture
def own(tmp_path):
    """The README's experiment, as a new user would save it: outside of the checkout."""
    (source,) = [block for block in blocks("python") if "import ablax as ax" in block]
    path = tmp_path / "elsewhere" / "own.py"
    path.parent.mkdir()
    path.write_text(source)
    return path


def test_the_experiment_of_the_readme_runs_reports_and_resumes(own, tmp_path, monkeypatch, capsys):
    source = own.read_text()
    assert sum(bool(line.strip()) for line in source.splitlines()) <= 60
    assert question_of(own).endswith("?")
    out = tmp_path / "run"
    monkeypatch.chdir(own.parent)
    typed = ["own.py", "--preset", "smoke", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["ablax", *typed])
    assert main(typed) == 0
    trials = pd.read_parquet(out / "trials.parquet")
    assert set(trials["width"]) == {8, 32}
    last = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[0] for line in last] == ["best", "time", "report"]
    figures = {path.stem for path in (out / "report").glob("*.png")}
    assert "learning_rate" in figures
    # From another folder it is found again by the path that study.json holds.
    monkeypatch.chdir(tmp_path)
    (out / "report" / "learning_rate.png").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "report" / "learning_rate.png").exists()
    assert main(["resume", str(out)]) == 0
    assert "0 trials trained" in capsys.readouterr().out
    assert main(["claims", str(own), "--preset", "smoke"]) == 0
    assert "[" in capsys.readouterr().out


def test_the_table_of_experiments_asks_what_they_ask():
    asked = dict(re.findall(r"^\| `\./launch\.sh (\w+)` \| (.*\?) \|", README, flags=re.MULTILINE))
    assert asked == {name: question_of(ROOT / "experiments" / f"{name}.py") for name in names()}


def test_commands_of_the_docs_are_commands():
    used = set(re.findall(r"\./launch\.sh ([a-z_]+)(?![\w/.])", ALL))
    assert used <= {*COMMANDS, *names(), "test"}
    assert set(names()) <= set(re.findall(r"\./launch\.sh ([a-z_]+)", README))


def test_a_study_opens_in_one_line(tmp_path, monkeypatch):
    """With pandas, polars and DuckDB, as the docs show it."""
    place = tmp_path / "runs" / "NAME"
    place.mkdir(parents=True)
    expected = pd.DataFrame({"trial": ["a", "b"], "restart": [0, 1], "test/loss": [0.5, 0.25]})
    expected.to_parquet(place / "trials.parquet")
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^\| (\w+) \| `(.*NAME/trials.*)` \|$", ALL, flags=re.MULTILINE)
    assert [name for name, _ in lines] == ["pandas", "polars", "DuckDB"]
    for _, line in lines:
        trials = eval(line, {"pd": pd, "pl": polars, "duckdb": duckdb})
        assert list(trials.columns) == list(expected.columns)
        assert list(trials["test/loss"]) == [0.5, 0.25]


@pytest.mark.parametrize("page", PAGES)
def test_pictures_and_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", PAGES[page])
    for link in links:
        if not link.startswith("http"):
            path = (ROOT / page).parent / link
            assert path.exists(), link
            assert path.suffix != ".png" or path.stat().st_size < 512_000


def test_modules_that_the_docs_name_are_there():
    result = re.findall(r"`((?:lib/ablax|tests|experiments)/[\w/.]+\.(?:py|md|toml))`", ALL)
    assert len(result) > 10
    for name in result:
        assert (ROOT / name).exists(), name


def test_a_promise_that_is_named_by_its_number_is_one_of_those_in_the_docs():
    promises = set(re.findall(r"^(\d+)\. ", PAGES["docs/architecture.md"], flags=re.MULTILINE))
    assert promises >= set("123456789")
    for path in SOURCES:
        for number in re.findall(r"[Pp]romise (\d+)", path.read_text()):
            assert number in promises, path


def test_every_room_of_the_library_is_in_the_architecture():
    rooms = {path.parent.name for path in (ROOT / "lib" / "ablax").glob("*/__init__.py")}
    modules = {path.name for path in (ROOT / "lib" / "ablax").glob("[!_]*.py")}
    text = PAGES["docs/architecture.md"]
    assert [name for name in sorted(rooms) if f"{name}/" not in text] == []
    assert [name for name in sorted(modules) if name.removesuffix(".py") not in text] == []
