"""A user's own axis crosses an experiment's table: no claim may take the point that comes first.

Of every experiment the table, crossed with an axis that it does not set, with made-up numbers. A
claim that looked up one of several points by their order would say something else when the points
come in another order.
"""

import importlib
import shutil

import numpy as np
import pandas as pd
import pytest

from ablax.report.claims import judge_all
from ablax.report.study import Study
from tests.experiments import studies
from tests.experiments.studies import made_up

LOGISTIC = ["gradient_apart", "product_and_sum", "underflows", "error_and_step"]
SOFTMAX = ["sigmoid_and_softmax", "in_order", "sum_of_p", "one_hot_spread"]
FOLLOWED = ["apart", "passed_at_most", "shrunk_a_layer", *(f"error_{i + 1}" for i in range(6))]
CROSSED: dict[str, tuple[str, list[str]]] = {
    "activations": ("--momentum 0.8 0.9", ["train/flat", "train/off", "train/zeros"]),
    "backpropagation": (
        "--width 4 8",
        ["worked_example", *(f"test/{name}" for name in FOLLOWED)],
    ),
    "capacity": ("--learning-rate 0.05 0.1", []),
    "descent": ("--steps 100 200", ["sum_and_update", "reached", "train/crossed"]),
    "dropout": ("--learning-rate 0.05 0.1", ["drop_spread", "top_share", "agreement"]),
    "early_stopping": ("--width 32 64", []),
    "escape": ("--learning-rate 0.05 0.1", ["train/solved"]),
    "logistic_regression": (
        "--sigma 0.5 1",
        ["from_optimum", "rises", *(f"train/{n}" for n in LOGISTIC),
         *(f"test/{n}" for n in SOFTMAX)],
    ),
    "optimization": ("--width 16 32", []),
    "random_restarts": (
        "--learning-rate 0.5 1",
        ["train/solved", "epochs", "gradient", "least_curvature"],
    ),
    "signals": (
        "--noise 0.3 0.5",
        ["train/mse", "valid/mse", "test/mse", "share_below_1e-3", "participation_ratio"],
    ),
}  # fmt: skip
"""{experiment: (an axis that its table does not set, the columns beside losses and accuracies)}"""
METRICS = {
    "signals": {"mse": "min"},
    "random_restarts": {"solved": "max"},
    "escape": {"solved": "max"},
}
FLAGS = ("train/solved", "train/crossed", "reached", "train/underflows")
"""Columns of zeros and ones."""


@pytest.fixture
def crossed(tmp_path):
    """name -> (its module, the crossed table, the same with all points but the first turned)."""

    def of(name: str):
        module = importlib.import_module(f"experiments.{name}")
        typed, columns = CROSSED[name]
        points = studies.points_of(module, name, *typed.split())
        defaults = vars(module.PRESETS["default"].config)
        points = [defaults | {"protocol/steps": 100, "protocol/eval_every": 10} | point
                  for point in points]  # fmt: skip
        for field in ("patience", "gl", "pq", "up"):
            points = [point | {f"protocol/{field}": point.get(field, np.inf)} for point in points]
        rng, n = np.random.default_rng(0), 4 * len(points)
        values = {column: rng.uniform(0.1, 1.0, n) for column in columns}
        values |= {
            column: rng.integers(0, 2, n).astype(float) for column in FLAGS if column in columns
        }
        values |= {"train/accuracy": rng.uniform(0.98, 1.0, n)}  # some fit
        values |= {"valid/solved": rng.uniform(size=n)}
        first = tmp_path / "first"
        metrics = METRICS.get(name, {"accuracy": "max", "loss": "min"})
        study = made_up(first, points, values, metrics=metrics, objective=None)
        curves = pd.DataFrame(
            [{"trial": trial, "step": step} for trial in study.trials["trial"] for step in (10, 20)]
        )
        names = ["train/loss", "valid/loss", *(f"train/gradient_{i}" for i in range(6))]
        for column in names:
            curves[column] = rng.uniform(0.001, 0.05, len(curves))
        curves.to_parquet(first / "curves.parquet")
        second = tmp_path / "second"
        shutil.copytree(first, second)
        rows = study.trials
        turned = pd.concat([rows.iloc[:4], rows.iloc[4:][::-1]])
        turned.to_parquet(second / "trials.parquet")
        return module, Study(first), Study(second)

    return of


def effects(module, study: Study) -> dict[str, list]:
    """{claim: its effects, in any order, without the names of points}."""
    return {
        judgement.claim.id: sorted(
            (part.interval.estimate, part.interval.low, part.expected) for part in judgement.parts
        )
        for judgement in judge_all(module.CLAIMS, study)
    }


@pytest.mark.parametrize("name", CROSSED)
def test_claims_do_not_depend_on_the_order_of_the_points(name, crossed):
    module, study, turned = crossed(name)
    assert list(study.settings)[1:] == list(turned.settings)[:0:-1]
    first, second = effects(module, study), effects(module, turned)
    assert sum(map(bool, first.values())) >= 0.6 * len(first), "most of the claims have points"
    for claim in first:
        np.testing.assert_allclose(
            np.array(first[claim], object)[..., :2].astype(float) if first[claim] else [],
            np.array(second[claim], object)[..., :2].astype(float) if second[claim] else [],
            rtol=1e-9,
            err_msg=claim,
        )
