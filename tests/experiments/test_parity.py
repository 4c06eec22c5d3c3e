"""The linear model against scikit-learn's: the same optimum, for three strengths at once.

Ours minimizes mean(loss) + λ Σw², scikit-learn's ½ Σw² + C Σ loss, which is 2nλ times ours
up to a constant where C = 1/(2nλ). Neither penalizes the bias, so both have one minimum.
"""

import dataclasses

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ablax import losses, optimizers, penalties
from ablax.config import BaseConfig, hparam
from ablax.data import load, split
from ablax.engine.engine import Engine
from ablax.engine.mesh import mesh_of
from ablax.engine.trials import take, trials_of
from ablax.nn.linear import Linear
from ablax.tasks.supervised import Regularization, supervised

INVERSE_STRENGTHS = (0.1, 1.0, 10.0)  # scikit-learn's C


class Config(BaseConfig):
    l2: float = hparam(0.0, "strength of the L2 penalty", low=0)


@pytest.fixture(scope="module")
def train():
    """(x, y) of the training split, and what Ablax is given: all of it in every step."""
    splits = split(load("breast_cancer"), seed=0)
    return np.float64(splits.train.x), splits.train.y, splits


def strength(c: float, n: int) -> float:
    return 1 / (2 * n * c)


def objective(w: np.ndarray, b: float, l2: float, x: np.ndarray, y: np.ndarray) -> float:
    """mean(loss) + λ Σw² in float64: what Ablax says that it minimizes."""
    margins = np.where(y > 0, 1, -1) * (x @ w + b)
    return np.logaddexp(0, -margins).mean() + l2 * np.sum(w**2)


@pytest.fixture(scope="module")
def ours(train):
    """{C: (w, b)}: three trials of one compiled program."""
    _, y, splits = train
    task = supervised(
        Linear(n_outputs=1, kernel_init="zeros"),
        splits,
        loss=losses.loss("sigmoid_binary_cross_entropy"),
        optimizer=lambda trial: optimizers.nesterov(0.2, momentum=0.98),
        batch_size=len(y),
        regularization=Regularization(
            penalty=lambda params, hparams: hparams.l2 * penalties.l2(params)
        ),
        resample=False,
    )
    task = dataclasses.replace(task, objective=None)  # the last weights, not the best on validation
    settings = [
        Config(l2=strength(c, len(y)), steps=8000, eval_every=2000) for c in INVERSE_STRENGTHS
    ]
    trials = trials_of(settings, [0] * len(settings), 0)
    runner = Engine(task, take(trials, 0), mesh_of(jax.devices()[:1]), 16, keep=True)
    (finished,) = [b.finished for b in runner.run(trials, 2000) if b.finished is not None]
    assert set(runner.usage.compile_seconds) == {"segment", "final"}, "one program"
    assert sorted(finished.index) == [0, 1, 2]
    output = finished.snapshots["output"]
    assert output["weight"].dtype == np.float32
    return {
        INVERSE_STRENGTHS[i]: (np.float64(w[0]), float(b[0]))
        for i, w, b in zip(finished.index, output["weight"], output["bias"], strict=True)
    }


@pytest.mark.parametrize("c", INVERSE_STRENGTHS)
def test_the_optimum_of_scikit_learn_is_reached(c, ours, train):
    x, y, _ = train
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=100_000).fit(x, y)
    w, b = ours[c]
    l2 = strength(c, len(y))
    ours_at, theirs_at = (
        objective(*weights, l2, x, y)
        for weights in ((w, b), (theirs.coef_[0], theirs.intercept_[0]))
    )
    assert abs(ours_at - theirs_at) < 1e-4
    np.testing.assert_allclose(w, theirs.coef_[0], rtol=0, atol=1e-2)
    np.testing.assert_allclose(b, theirs.intercept_[0], rtol=0, atol=1e-2)
    # The other strengths' optima are not within the tolerance: it tells them apart.
    others = [np.abs(ours[other][0] - theirs.coef_[0]).max() for other in ours if other != c]
    assert min(others) > 0.1


def test_accuracy_of_both_is_the_same(ours, train):
    x, y, splits = train
    for c, (w, b) in ours.items():
        theirs = LogisticRegression(C=c, tol=1e-10, max_iter=100_000).fit(x, y)
        labels = (splits.test.x @ w + b > 0).astype(int)
        assert np.mean(labels == splits.test.y) == theirs.score(splits.test.x, splits.test.y)
