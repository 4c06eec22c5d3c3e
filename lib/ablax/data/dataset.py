"""One data set as its loader returns it, before it is split."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Problem = Literal["classification", "regression"]
FeatureScale = Literal["standardize", "none"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples of one problem, in host memory.

    `x` is float32 [n, *features]. `y` is int32 [n], an index into `classes`, for
    classification, and float32 [n] in the target's own units for regression, where `classes`
    is empty. `test` is the publisher's test split, where there is one. `scale_features` says
    what `splits.split` does to the features: "standardize" (tables), or "none" where a
    constant has put them on a common scale already (images). `notes` are lines for the plan.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    problem: Problem
    source: str
    classes: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    test: tuple[np.ndarray, np.ndarray] | None = None
    notes: tuple[str, ...] = ()
    scale_features: FeatureScale = "standardize"

    def __post_init__(self) -> None:
        label = np.int32 if self.problem == "classification" else np.float32
        for x, y in [(self.x, self.y), *([self.test] if self.test else [])]:
            if len(x) != len(y) or x.dtype != np.float32 or y.dtype != label:
                raise ValueError(
                    f"{self.name}: expected float32 x and {label.__name__} y of equal length, "
                    f"got {x.dtype} {x.shape} and {y.dtype} {y.shape}"
                )
        if bool(self.classes) != (self.problem == "classification"):
            raise ValueError(f"{self.name}: {self.problem} with classes {self.classes}")
