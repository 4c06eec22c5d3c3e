"""Experiments by name, of the checkout, or by the path of a file of one's own."""

from pathlib import Path

from ablax.checkout import CHECKOUT, EXPERIMENTS
from ablax.errors import unknown
from ablax.experiment import Experiment, load_file


def names() -> list[str]:
    """The experiments of the checkout."""
    return sorted(file.stem for file in EXPERIMENTS.glob("[!_]*.py")) if CHECKOUT else []


def is_file(name: str) -> bool:
    """True for what names a file of one's own, and no experiment of the checkout."""
    return name.endswith(".py")


def load(name: str, folder: Path = Path()) -> Experiment:
    """An experiment by its name, or by the path of its file, which may be relative to a folder.

    Raises:
        UserError: there is none.
    """
    if is_file(name):
        return load_file(folder / name)
    if name not in names():
        raise unknown("experiment", name, names())
    return load_file(EXPERIMENTS / f"{name}.py")
