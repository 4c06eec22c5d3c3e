"""The fields of an experiment that runs on any data set, named or a user's own."""

from ablax.config import BaseConfig, static
from ablax.data.catalog import DATASETS
from ablax.data.loading import load
from ablax.data.splits import Splits, split

FEW = 300
"""Training examples of a named data set, where it has as many: so few that there is overfitting."""


class DataConfig(BaseConfig):
    """A Config whose first fields say which data are trained on.

    class Config(ax.DataConfig):
        l2: float = ax.hparam(0.0, "strength of the L2 penalty", low=0)

    def task(config):
        splits = config.splits()
    """

    dataset: str = static("digits", "a data set's name, or a file: .csv (with --target) or .npz")
    target: str | None = static(None, "target column of a .csv: its name, or its position from 0")
    problem: str = static(
        "auto", "what the target is", choices=("auto", "classification", "regression")
    )
    train_size: int | None = static(
        None, "training rows; None: 300 of a named data set that has them, else all left", low=1
    )
    valid_size: int | None = static(
        None, "validation rows; None: a fifth of what is not test, at most 1000", low=1
    )
    test_seed: int = static(0, "seed of the test split, if there is no official one", low=0)

    def splits(self) -> Splits:
        """The data set, split.

        Raises:
            UserError: there is no such data set, or it cannot be split so.
        """
        data = load(self.dataset, target=self.target, problem=self.problem)
        left = len(data.y) if data.test else round(0.8 * len(data.y))  # what is not test
        valid_size = self.valid_size or min(round(0.2 * left), 1000)
        enough = self.dataset in DATASETS and left - valid_size >= FEW
        train_size = self.train_size or (FEW if enough else None)
        return split(data, train_size=train_size, valid_size=valid_size, seed=self.test_seed)
