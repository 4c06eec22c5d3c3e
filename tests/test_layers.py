"""Which module may import which, and that files are only ever read as data."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIB = sorted((ROOT / "lib" / "ablax").rglob("*.py"))
SOURCES = [*LIB, *sorted((ROOT / "experiments").rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import, wherever it stands."""
    result = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            result |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return result


def below(names: set[str], *packages: str) -> set[str]:
    return {n for n in names for p in packages if n == p or n.startswith(f"{p}.")}


def folder(name: str) -> list[Path]:
    return [path for path in LIB if name in path.relative_to(ROOT / "lib" / "ablax").parts]


def test_the_folders_are_where_this_file_looks_for_them():
    assert len(LIB) > 40
    assert all(folder(name) for name in ("nn", "data", "engine", "study", "report"))


@pytest.mark.parametrize("path", LIB, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_knows_no_experiment(path):
    assert not below(imports(path), "experiments", "tests")


@pytest.mark.parametrize("path", [*folder("nn"), *folder("data")], ids=lambda path: path.name)
def test_models_and_data_know_nothing_of_trials(path):
    assert not below(imports(path), "ablax.task", "ablax.engine", "ablax.study", "ablax.report")


@pytest.mark.parametrize("path", folder("report"), ids=lambda path: path.name)
def test_nothing_in_report_can_train(path):
    trains = {"run", "train", "plan"}
    names = (f"ablax.study.{name}" for name in trains)
    assert not below(imports(path), "jax", "ablax.engine", *names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_unpickled(path):
    """Loading a pickle runs whatever is in it."""
    assert not below(imports(path), "pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal")
    text = path.read_text()
    assert "read_pickle" not in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert keywords.get("allow_pickle") == "False", ast.unparse(node)
