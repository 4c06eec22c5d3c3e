"""The work that every side of the bench does.

Digits, a 64-width-10 ReLU network, minibatches of 64, SGD with momentum 0.9 at a constant
rate, several strengths of L2 (weights only) times random restarts, a new order of the rows in
every epoch, no dropout, no early stopping. 1,024 of the 1,150 training rows are used, so that
an epoch is 16 whole minibatches for everybody and scikit-learn's penalty, which it divides by
the size of the minibatch, is constant. All start from Glorot-uniform weights, the only start
that scikit-learn has (its biases start uniform too, the others' at zero).
"""

from dataclasses import dataclass

import numpy as np

TRAIN_ROWS = 1024
BATCH_SIZE = 64
LEARNING_RATE = 0.1
MOMENTUM = 0.9
L2 = (1e-5, 1e-4, 1e-3, 3e-3)
STEPS_PER_EPOCH = TRAIN_ROWS // BATCH_SIZE


@dataclass(frozen=True)
class Workload:
    """A network, how long it is trained, and on what: float32 rows of 64, int32 labels."""

    width: int
    epochs: int
    train_x: np.ndarray
    train_y: np.ndarray
    valid_x: np.ndarray
    valid_y: np.ndarray

    @property
    def steps(self) -> int:
        return self.epochs * STEPS_PER_EPOCH


Pair = tuple[float, int]
"""(strength of L2, restart): one trial."""


def pairs(n: int, first_restart: int = 0) -> list[Pair]:
    """n trials: every strength equally often.

    >>> pairs(5)
    [(1e-05, 0), (0.0001, 0), (0.001, 0), (0.003, 0), (1e-05, 1)]
    """
    return [(L2[i % len(L2)], first_restart + i // len(L2)) for i in range(n)]


@dataclass(frozen=True)
class Measured:
    """Measurement of one side in one repeat."""

    trials: int
    seconds: float  # trials / seconds is its throughput
    cpu_seconds: float  # of all its threads: hardly touched by what else the machine does
    accuracies: list[float]  # on the validation split, after the last step
