"""A study of some seconds for the tests that start processes, by its path.

A third of its trials diverges at once, so that slots are refilled; it keeps an array of each trial.
"""

import jax.numpy as jnp

import ablax as ax
from ablax import grid


class Config(ax.BaseConfig):
    learning_rate: float = ax.hparam(0.3, "constant rate", low=0)


RATES = (0.1, 0.5, 1e30)
PRESETS = {"default": ax.Preset(Config(learning_rate=RATES, steps=1000, eval_every=50), 24)}


def points(config: Config) -> list[grid.Setting]:
    return grid.product(**grid.axes(config))


def task(config: Config) -> ax.Task:
    def measure(params, trial):
        return {"weights": jnp.concatenate([w.ravel() for w in ax.penalties.weights(params)])}

    return ax.supervised(
        ax.nn.MLP((3,), n_outputs=2),
        ax.data.split(ax.data.load("xor_clouds"), seed=0),
        optimizer=ax.optimizers.of_trial("sgd"),
        batch_size=16,
        records=ax.Records(measure=measure),
    )
