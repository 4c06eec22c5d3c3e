"""What the README shows runs, and what it documents is what there is."""

import re
from pathlib import Path

import pandas as pd
import pytest

import experiments
from experiments.__main__ import main, summary

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """The README's experiment, as a new user would save it."""
    (source,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
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
    from experiments.__main__ import COMMANDS, names

    used = set(re.findall(r"\./launch\.sh ([a-z_]+)", README))
    assert used <= {*COMMANDS, *names(), "test", "width"}
    assert set(names()) <= used
