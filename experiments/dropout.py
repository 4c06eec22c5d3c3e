"""How much should be dropped, and when does it pay: wide networks, few examples, or both?

Dropout at several rates in networks of several widths, on training sets of several sizes, against
the same network without. Is every unit dropped equally often? Does the network rely less on its
largest weights? Does evaluating without dropout predict, on random inputs, what the average over
many dropped-out networks predicts?

With preset paper instead the rows of Srivastava et al. 2014 on MNIST: Table 2 (activation, size,
max-norm), Table 9 (against other regularizers), Table 10 (Gaussian noise in Bernoulli's place).

Source: course notes, "Dropout"; Srivastava et al. 2014.

Command: ./launch.sh dropout                   (about a minute and a half on 2 CPU cores)
         ./launch.sh dropout --preset paper    (made for a GPU, not run yet)

Expected: dropout lowers the test loss at most widths and sizes.
"""

from functools import partial
from typing import Any

import numpy as np

import ablax as ax
from ablax import grid, penalties
from ablax.nn import dropout
from ablax.published import srivastava

RATES, WIDTHS = [0.1, 0.25, 0.5, 0.75], ["32", "128", "512"]
DRAWS = 64  # dropped-out networks that are averaged
MIDDLE = {"table": "rates", "hidden": "128", "train_size": 300}


class Config(ax.BaseConfig):
    table: str = ax.static("rates", "rates, or the paper's rows", choices=("rates", "srivastava"))
    shrink: int = ax.static(1, "what the paper's widths are divided by", low=1)
    dataset: str = ax.static("digits", "a data set of images", choices=ax.data.DATASETS)
    train_size: int = ax.static(300, "training examples", low=10)
    valid_size: int = ax.static(288, "validation examples", low=1)
    hidden: str = ax.static("128", "units of the hidden layers, such as 1024-1024-2048")
    activation: str = ax.static("relu", "of the hidden layers", choices=ax.nn.ACTIVATIONS)
    noise: str = ax.static("bernoulli", "factor of a unit in training", choices=dropout.NOISES)
    batch_size: int = ax.static(50, "rows of a minibatch", low=1)
    learning_rate: float = ax.hparam(0.1, "initial rate, decayed to 0 by a cosine", low=0)
    momentum: float = ax.hparam(0.9, "share of the last step that is kept", low=0, below=1)
    dropout_rate: float = ax.hparam(0.0, "probability that a hidden unit is off", low=0, below=1)
    input_dropout_rate: float = ax.hparam(0.0, "probability that a feature is off", low=0, below=1)
    l1: float = ax.hparam(0.0, "strength of the sum of absolute weights", low=0)
    l2: float = ax.hparam(0.0, "strength of the sum of squared weights", low=0)
    kl: float = ax.hparam(0.0, "strength of the sparsity penalty on the hidden units", low=0)
    max_norm: float = ax.hparam(np.inf, "bound of a unit's weight vector; inf is off", above=0)


HALF: Any = (0.0, 0.5)  # an axis
PRESETS = {
    "smoke": ax.Preset(Config(steps=100, eval_every=20, hidden="16", dropout_rate=HALF), 3),
    "default": ax.Preset(Config(steps=2000, eval_every=50, patience=10.0), 16),
    "paper": ax.Preset(Config(table="srivastava", **srivastava.TRAINING), 5),
}


NETWORKS = grid.product(table=["rates"], hidden=WIDTHS, train_size=[300])
NETWORKS += grid.product(table=["rates"], hidden=["128"], train_size=[100, 1000])
ROWS = grid.rows({}, {"dropout": grid.product(dropout_rate=RATES)})


def points(config: Config) -> list[grid.Setting]:
    """The rates, the paper's rows or both; or, where fields that they set are given, their grid."""
    axes = grid.axes(config)
    if "kl" in axes and ax.values(config.table) != ("srivastava",):
        raise ax.UserError("--kl: the sparsity penalty belongs to --table srivastava")
    sizes = {name: axes[name] for name in ("hidden", "train_size") if name in axes}
    networks = grid.product(table=["rates"], **sizes) if sizes else NETWORKS
    paper = srivastava.rows(*ax.values(config.shrink))
    tables = {"rates": grid.cross(networks, ROWS), "srivastava": paper}
    rows = grid.chain(*(tables[name] for name in ax.values(config.table)))
    own = {field for row in rows for field in row} - {*sizes, "table", "shrink"}
    if own & axes.keys():
        return [
            {grid.GROUP: "dropout" if point.get("dropout_rate") else ax.BASELINE, **point}
            for point in grid.product(**axes)
        ]
    others = {name: axis for name, axis in axes.items() if name not in rows[0]}
    return grid.cross(rows, grid.product(**others))


def task(config: Config) -> ax.Task:
    sizes = {"train_size": config.train_size, "valid_size": config.valid_size}
    splits = ax.data.split(ax.data.load(config.dataset), **sizes, seed=0)
    if not splits.classes:
        raise ax.UserError(f"--dataset: expected one with classes, got {config.dataset}")
    widths, classes = ax.nn.widths_of(config.hidden), len(splits.classes)
    model = ax.nn.MLP(widths, classes, config.activation, noise=config.noise)
    shape = splits.pool.x.shape[1:]
    paper = config.table == "srivastava"

    def measure(params, trial):
        top_share = {"top_share": penalties.top_share(params, 0.1)}
        if paper:
            return top_share
        scores: Any = partial(model.apply, {"params": params})
        rates = trial.hparams.dropout_rate, trial.hparams.input_dropout_rate
        return top_share | {
            "agreement": dropout.agreement(scores, rates, trial.rng("measure"), shape, draws=DRAWS),
            "drop_spread": dropout.drop_spread(trial.rng("drops"), trial.hparams.dropout_rate),
        }

    return ax.supervised(
        model,
        splits,
        optimizer=ax.optimizers.of_trial("momentum", "cosine"),
        batch_size=config.batch_size,
        regularization=srivastava.regularization(sparse=paper),
        records=ax.Records(measure=measure),
    )


def networks(study: ax.Study) -> list[tuple[str, int]]:
    """(width, training examples) of the networks, narrow to wide and few to many."""
    settings = [study.settings[point] for point in study.among(table="rates")]
    pairs = {(setting["hidden"], setting["train_size"]) for setting in settings}
    return sorted(pairs, key=lambda pair: (sum(ax.nn.widths_of(pair[0])), pair[1]))


def rates_figure(study: ax.Study):
    """Test accuracy against the dropout rate, by width and by the size of the training set."""
    accuracy = ax.column("test/accuracy", "dropout_rate", table="rates")
    lines = {
        f"width {hidden}, {size} examples": accuracy.at(hidden=hidden, train_size=size)
        for hidden, size in networks(study)
    }
    caption = "Test accuracy against dropout rate, with 95% intervals."
    axes = {"xlabel": "dropout rate", "ylabel": "test accuracy", "xlim": (-0.03, 1.03)}
    return ax.charts.lines({"": lines}, caption, width=9.0, **axes)(study)


def fall(hidden: str, size: int) -> ax.Quantity:
    """The fall in test loss by dropout at one width and number of training examples."""
    loss = ax.column("test/loss", table="rates", hidden=hidden, train_size=size)
    name = f"fall in test loss, width {hidden}, {size} examples"
    return (loss[ax.BASELINE] - loss["dropout"]).named(name)


@ax.quantities
def falls(study: ax.Study):
    """The fall in test loss by dropout at every width and number of training examples."""
    readings = [fall(*network).read(study) for network in networks(study)]
    return {str(name): values for reading in readings for name, values in reading.items()}


gain = "fall in test loss at the rate selected by validation (nats)"
gains_figure = ax.charts.effects(
    falls, "Gain by dropout, with 95% intervals.", prefix="fall in test loss, ", xlabel=gain
)
FIGURES = {"rates": rates_figure, "gains": gains_figure, "published": srivastava.published_figure}

NOTES = "course notes, Dropout"
spread = ax.column("drop_spread", measured="variance over units / fair variance", **MIDDLE)
agreement = ax.column("agreement", measured=f"share of random inputs, {DRAWS} networks", **MIDDLE)
top_shares = [ax.column("top_share", table="rates", hidden=h, train_size=300) for h in WIDTHS]
CLAIMS = [
    ax.Claim(
        "dropout-helps", "Dropout lowers the test loss at every width and size.", NOTES, falls > 0
    ),
    ax.Claim(
        "dropout-helps-wide-networks",
        "Dropout helps a network of 512 hidden units more than one of 32.",
        srivastava.SOURCE + ", section 7.3",
        (fall("512", 300) - fall("32", 300)).named("fall in test loss: 512 − 32 units") > 0,
    ),
    ax.Claim(
        "dropout-helps-few-examples",
        "Dropout helps more with 100 training examples than with 1,000.",
        "our own question",
        (fall("128", 100) - fall("128", 1000)).named("fall in test loss: 100 − 1000 examples") > 0,
    ),
    ax.Claim(
        "units-are-treated-alike",
        "Over many masks every unit is dropped about equally often: as evenly as by fair, "
        "independent draws.",
        NOTES,
        *(spread.at(dropout_rate=rate).everywhere.within(0.9, 1.1) for rate in RATES),
    ),
    ax.Claim(
        "largest-weights-dominate-less",
        "Dropout lowers the share of Σw² that the largest tenth of the weights holds, at every "
        "width.",
        NOTES,
        *(top["dropout"] < top[ax.BASELINE] for top in top_shares),
    ),
    ax.Claim(
        "one-pass-is-the-average",
        "On more than nine in ten random inputs, at every dropout rate, evaluating without dropout "
        "predicts the class that the average over dropped-out networks predicts.",
        f"course notes, Combined Approaches; {srivastava.SOURCE}, section 7.5",
        *(agreement.at(dropout_rate=rate).everywhere.within(0.9, 1.01) for rate in RATES),
    ),
    *srivastava.CLAIMS,
]
