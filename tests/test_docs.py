"""What the README shows runs, and what it documents is what there is."""

import re
from pathlib import Path

import duckdb
import pandas as pd
import polars
import pytest

import experiments
from ablax.cli.main import main
from ablax.report.page import summary

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """The README's experiment, as a new user would save it."""
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (source,) = [block for block in blocks if "BaseConfig" in block]
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "width.py").write_text(source)
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(folder)])
    return source


def test_the_experiment_of_the_readme_runs(experiment, tmp_path, capsys):
    assert len(experiment.splitlines()) < 100
    assert summary("width").endswith("?")
    out = tmp_path / "run"
    assert main(["width", "--preset", "smoke", "--out", str(out)]) == 0
    trials = pd.read_parquet(out / "trials.parquet")
    assert len(trials) == 2 * 2 * 2 * 2
    assert set(trials["width"]) == {8, 32}
    assert (out / "report" / "learning_rate.png").exists()
    last = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[0] for line in last] == ["best", "time", "report"]


def test_commands_of_the_readme_are_commands():
    from ablax.cli.experiments import names
    from ablax.cli.main import COMMANDS

    used = set(re.findall(r"\./launch\.sh ([a-z_]+)", README))
    assert used <= {*COMMANDS, *names(), "test", "width"}
    assert set(names()) <= used


def test_a_study_opens_in_one_line(tmp_path, monkeypatch):
    """With pandas, polars and DuckDB, as the README shows it."""
    place = tmp_path / "runs" / "NAME"
    place.mkdir(parents=True)
    expected = pd.DataFrame({"trial": ["a", "b"], "restart": [0, 1], "test/loss": [0.5, 0.25]})
    expected.to_parquet(place / "trials.parquet")
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^\| (\w+) \| `(.*NAME/trials.*)` \|$", README, flags=re.MULTILINE)
    assert [name for name, _ in lines] == ["pandas", "polars", "DuckDB"]
    for _, line in lines:
        trials = eval(line, {"pd": pd, "pl": polars, "duckdb": duckdb})
        assert list(trials.columns) == list(expected.columns)
        assert list(trials["test/loss"]) == [0.5, 0.25]


def test_pictures_of_the_readme_are_there():
    pictures = re.findall(r"!\[[^\]]+\]\((experiments/gallery/[^)]+)\)", README)
    assert len(pictures) >= 4
    for picture in pictures:
        assert (Path(__file__).parents[1] / picture).stat().st_size < 512_000
