"""The names that an experiment's module may export, with their defaults; read here alone.

| name           | meaning                                                                     |
|----------------|-----------------------------------------------------------------------------|
| `Config`       | the settings: a subclass of `BaseConfig`                                    |
| `PRESETS`      | {name: `Preset`}; "default" is the one that runs without flags              |
| `points`       | (config) -> the settings of the study's points, as `grid` makes them        |
| `task`         | (config) -> the `Task` of a program's trials; may read statics only         |
| `FIGURES`      | {name: study -> matplotlib Figure}, beside those of every report; default {} |
| `CLAIMS`       | statements to judge; default ()                                             |
| `KEEP`         | whose snapshots to keep: "none", "best" or "all"; default "none"            |
| `SIGNIFICANCE` | level at which the table calls a difference significant; default 0.05       |

The docstring is the experiment's description: its first line is the question, a paragraph that
starts with "Expected:" says what the default preset on its own data is expected to print.
"""

import ast
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from ablax.errors import UserError, unknown

SIGNIFICANCE = 0.05
REQUIRED = ("Config", "PRESETS", "points", "task")


@dataclass(frozen=True)
class Experiment:
    """One experiment, as its module declares it.

    Attributes:
        name: of its file; part of its trials' identity.
        file: where it was loaded from; None: made by hand.
        description: the docstring without what is expected.
        expected: the paragraph of the docstring about the default preset; "" without one.
    """

    name: str
    points: Callable[[Any], list[dict[str, Any]]]
    task: Callable[[Any], Any]
    presets: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    claims: Sequence[Any] = ()
    keep: Literal["none", "best", "all"] = "none"
    significance: float = SIGNIFICANCE
    description: str = ""
    expected: str = ""
    file: Path | None = None


def experiment_of(module: Any, name: str | None = None, file: Path | None = None) -> Experiment:
    """Read what a module exports.

    Raises:
        UserError: it lacks a name that an experiment must export, or a claim names a field that
            its Config lacks.
    """
    name = str(name or module.__name__.rpartition(".")[2])
    lacking = [required for required in REQUIRED if not hasattr(module, required)]
    if lacking:
        raise UserError(
            f"{file or name} is no experiment: expected it to define {', '.join(REQUIRED)}, "
            f"got no {' and no '.join(lacking)}"
        )
    _check_claims(module, name)
    paragraphs = (module.__doc__ or "").strip().split("\n\n")
    expected = [text for text in paragraphs if text.startswith("Expected:")]
    return Experiment(
        name=name,
        points=module.points,
        task=module.task,
        presets=module.PRESETS,
        figures=getattr(module, "FIGURES", {}),
        claims=getattr(module, "CLAIMS", ()),
        keep=getattr(module, "KEEP", "none"),
        significance=getattr(module, "SIGNIFICANCE", SIGNIFICANCE),
        description="\n\n".join(text for text in paragraphs if text not in expected),
        expected="\n\n".join(expected),
        file=file,
    )


def _check_claims(module: Any, name: str) -> None:
    """Refuse a claim that names a field which the Config lacks: before training, not after."""
    from ablax.config import field_specs

    specs = field_specs(module.Config).items()
    known = {f"protocol/{n}" if spec.kind == "protocol" else n for n, spec in specs}
    for claim in getattr(module, "CLAIMS", ()):
        for wrong in sorted(claim.fields - known):
            raise unknown(f"field in the claim {claim.id!r} of {name}", wrong, known)


def load_file(path: Path) -> Experiment:
    """The experiment in a file, wherever it lies.

    Raises:
        UserError: there is no such file, or it is no experiment.
    """
    path = path.absolute()
    if not path.is_file():
        raise UserError(f"{path}: expected the file of an experiment, got no file")
    # Under this name a class's annotations are looked up; the experiments of the package
    # `experiments` are the same modules, whoever imports them first.
    parent = path.parent
    package = f"{parent.name}." if (parent / "__init__.py").exists() else "ablax_experiment_"
    name = package + path.stem
    module = sys.modules.get(name)
    if module is None or getattr(module, "__file__", None) != str(path):
        module = _execute(name, path)
    return experiment_of(module, path.stem, path)


def _execute(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def question_of(path: Path) -> str:
    """First line of an experiment's docstring, read without importing it."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
