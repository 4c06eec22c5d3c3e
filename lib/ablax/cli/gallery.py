"""./launch.sh gallery: draws the figures of README and docs/ again."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from ablax.checkout import EXPERIMENTS
from ablax.cli import experiments

FOLDER = EXPERIMENTS / "gallery"


@dataclass(frozen=True)
class Picture:
    """A figure of a study: which command trains it, and which of its figures it is."""

    command: str
    figure: str


PICTURES = {
    "regularization": Picture("regularization", "restarts"),
    "grid": Picture(
        "regularization --model mlp --l2 0 1e-4 3e-4 1e-3 3e-3 --dropout-rate 0 0.1 0.25 0.5",
        "heat_map",
    ),
    "profiles": Picture("regularization", "profiles"),
    "signals": Picture("signals", "overfitting"),
    "weight_decay": Picture("weight_decay", "distance"),
    "perceptron": Picture("perceptron", "way"),
    "capacity": Picture("capacity", "width"),
    "early_stopping": Picture("early_stopping", "tradeoff"),
    "descent": Picture("descent", "hump"),
    "random_restarts": Picture("random_restarts", "surface"),
    "escape": Picture("escape", "sigma"),
}
"""Each is experiments/gallery/NAME.png."""


def main(pictures: dict[str, Picture] = PICTURES) -> int:
    """Train what is missing of the studies, and copy their figures; the exit status."""
    from ablax.cli.launch import launch

    directories: dict[str, Path] = {}
    for name, picture in pictures.items():
        experiment, *flags = picture.command.split()
        if picture.command not in directories:
            launched = launch(experiments.load(experiment), experiment, flags)
            if launched.status:
                return launched.status
            directories[picture.command] = launched.directory
        FOLDER.mkdir(exist_ok=True)
        source = directories[picture.command] / "report" / f"{picture.figure}.png"
        shutil.copyfile(source, FOLDER / f"{name}.png")
        print(f"{FOLDER / name}.png  {source}")
    return 0
