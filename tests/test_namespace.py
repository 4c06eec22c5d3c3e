"""`import ablax as ax`: every name of the stub is there, and nothing is imported before its use."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ablax as ax


def test_every_name_of_the_stub_is_what_its_module_defines():
    stub = ast.parse(Path(ax.__file__).with_suffix(".pyi").read_text())
    names = [a.name for node in stub.body if isinstance(node, ast.ImportFrom) for a in node.names]
    assert len(set(names)) == len(names) > 30
    assert set(names) == set(ax.__all__) == set(dir(ax))
    for name in names:
        assert getattr(ax, name) is not None
    assert ax.supervised.__module__ == "ablax.tasks.supervised"
    assert ax.grid.__name__ == "ablax.study.grid"


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'supervized'"):
        ax.supervized  # noqa: B018


def test_nothing_heavy_is_imported_before_its_use():
    code = (
        "import sys, ablax as ax\n"
        "heavy = {'jax', 'flax', 'optax', 'matplotlib', 'pandas', 'sklearn'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "ax.UserError\n"
        "assert not heavy & set(sys.modules)\n"
        "ax.nn.MLP\n"
        "assert 'flax' in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(ax.__file__).parents[1])
