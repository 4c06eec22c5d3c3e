"""The table of experiments/README.md: whatever it names is there."""

import importlib
import re
from pathlib import Path

import pytest

from ablax.cli.experiments import names

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "experiments" / "README.md").read_text()
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in TABLE.splitlines()
    if line.startswith("| ")
][1:]


def test_the_table_is_read():
    assert len(ROWS) > 40
    assert {len(row) for row in ROWS} == {5}


def named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("function", sorted({f for row in ROWS for f in named(row[2])}))
def test_every_function_is_there(function):
    module, _, name = function.rpartition(".")
    value = getattr(importlib.import_module(f"ablax.{module}"), name)
    assert callable(value) or isinstance(value, dict)


@pytest.mark.parametrize("test", sorted({t for row in ROWS for t in named(row[3])}))
def test_every_test_is_there(test):
    file, _, name = test.partition("::")
    folders = [ROOT / "tests", ROOT / "tests" / "experiments", ROOT / "lib" / "ablax"]
    files = [folder / file for folder in folders if (folder / file).is_file()]
    assert files, file
    assert not name or f"def {name}(" in files[0].read_text()


def test_every_row_has_a_function_a_test_and_an_experiment():
    for row in ROWS:
        assert named(row[2]), row
        assert named(row[3]), row
        assert named(row[4]), row
        assert set(named(row[4])) <= set(names()), row


def test_every_experiment_is_in_the_table():
    assert {name for row in ROWS for name in named(row[4])} == set(names())
