"""How much should be dropped, and when does it pay: wide networks, few examples, or both?

Dropout at several rates in networks of several widths, on training sets of several sizes, against
the same network without. Is every unit dropped equally often? Does the network rely less on its
largest weights? Does evaluating without dropout predict, on random inputs, what the average over
many dropped-out networks predicts?

With preset paper instead the rows of Srivastava et al. 2014 on MNIST: Study 2 (activation, size,
max-norm), Study 9 (against other regularizers), Study 10 (Gaussian noise in Bernoulli's place).

Source: course notes, "Dropout"; Srivastava et al. 2014.

Command: ./launch.sh dropout                   (about a minute and a half on 2 CPU cores)
         ./launch.sh dropout --preset paper    (made for a GPU, not run yet)

Expected: dropout lowers the test loss at most widths and sizes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ablax as ax
from ablax import grid, penalties, plot
from ablax.nn.dropout import NOISES, dropout, keep_probability
from ablax.published import srivastava

RATES = [0.1, 0.25, 0.5, 0.75]
WIDTHS, SIZES = ("32", "128", "512"), (100, 300, 1000)
UNITS = 4096
"""Units whose drops are counted: a variance over so many is known to 2%."""
DRAWS = 64
"""Dropped-out networks that are averaged."""
MIDDLE = {"table": "rates", "hidden": "128", "train_size": 300}


class Config(ax.BaseConfig):
    table: str = ax.static("rates", "rates, or the paper's rows", choices=("rates", "srivastava"))
    shrink: int = ax.static(1, "what the paper's widths are divided by", low=1)
    dataset: str = ax.static("digits", "a data set of images", choices=ax.data.DATASETS)
    train_size: int = ax.static(300, "training examples", low=10)
    valid_size: int = ax.static(288, "validation examples", low=1)
    hidden: str = ax.static("128", "units of the hidden layers, such as 1024-1024-2048")
    activation: str = ax.static("relu", "of the hidden layers", choices=ax.nn.ACTIVATIONS)
    noise: str = ax.static("bernoulli", "what multiplies a unit in training", choices=NOISES)
    batch_size: int = ax.static(50, "rows of a minibatch", low=1)
    learning_rate: float = ax.hparam(0.1, "initial rate, decayed to 0 by a cosine", low=0)
    momentum: float = ax.hparam(0.9, "share of the last step that is kept", low=0, below=1)
    dropout_rate: float = ax.hparam(0.0, "probability that a hidden unit is off", low=0, below=1)
    input_dropout_rate: float = ax.hparam(0.0, "probability that a feature is off", low=0, below=1)
    l1: float = ax.hparam(0.0, "strength of the sum of absolute weights", low=0)
    l2: float = ax.hparam(0.0, "strength of the sum of squared weights", low=0)
    kl: float = ax.hparam(0.0, "strength of the sparsity penalty on the hidden units", low=0)
    max_norm: float = ax.hparam(np.inf, "bound of a unit's weight vector; inf is off", above=0)


HALF: Any = (0.0, 0.5)
SMALL = {"steps": 100, "eval_every": 20, "hidden": "16", "dropout_rate": HALF}
PRESETS = {
    "smoke": ax.Preset(Config(**SMALL), restarts=3),
    "default": ax.Preset(Config(steps=2000, eval_every=50, patience=10.0), restarts=16),
    "paper": ax.Preset(
        Config(
            table="srivastava",
            dataset="mnist",
            train_size=50_000,
            valid_size=10_000,
            steps=100_000,
            eval_every=1000,
            batch_size=100,
            learning_rate=0.02,
            momentum=0.95,
        ),
        restarts=5,
    ),
}


def points(config: Config) -> list[grid.Setting]:
    """The rates, the paper's rows or both; or, where what they set is given, the grid of that."""
    given = grid.axes(config)
    if "kl" in given and ax.values(config.table) != ("srivastava",):
        raise ax.UserError("--kl: the sparsity penalty belongs to --table srivastava")
    sizes = {name: given[name] for name in ("hidden", "train_size") if name in given}
    paper = [
        {"shrink": shrink, **row}
        for shrink in ax.values(config.shrink)
        for row in srivastava.srivastava(shrink)
    ]
    tables = {"rates": rates(sizes), "srivastava": paper}
    rows = grid.chain(*(tables[name] for name in ax.values(config.table)))
    own = {field for row in rows for field in row} - {*sizes, "table", "shrink"}
    if own & given.keys():
        return [
            {grid.GROUP: "dropout" if point.get("dropout_rate") else ax.BASELINE, **point}
            for point in grid.product(**given)
        ]
    others = {name: axis for name, axis in given.items() if name not in rows[0]}
    return grid.cross(rows, grid.product(**others))


def rates(sizes: dict[str, Any]) -> list[grid.Setting]:
    """Every rate at each width and at each size of the training set; or at the given sizes."""
    pairs = [
        *grid.product(hidden=WIDTHS, train_size=[300]),
        *grid.product(hidden=["128"], train_size=[size for size in SIZES if size != 300]),
    ]
    dropped = grid.rows({}, {"dropout": grid.product(dropout_rate=RATES)})
    chosen = grid.cross([{"table": "rates"}], grid.product(**sizes) if sizes else pairs)
    return grid.cross(chosen, dropped)


def task(config: Config) -> ax.Task:
    sizes = {"train_size": config.train_size, "valid_size": config.valid_size}
    splits = ax.data.split(ax.data.load(config.dataset), **sizes, seed=0)
    if not splits.classes:
        raise ax.UserError(f"--dataset: expected one with classes, got {config.dataset}")
    model = ax.nn.MLP(
        ax.nn.widths_of(config.hidden), len(splits.classes), config.activation, noise=config.noise
    )
    shape = splits.pool.x.shape[1:]
    paper = config.table == "srivastava"

    def optimizer(trial):
        rate = ax.schedules.cosine(trial.hparams.learning_rate, steps=trial.steps)
        return ax.optimizers.momentum(rate, momentum=trial.hparams.momentum)

    def measure(params, trial):
        measures = {"top_share": penalties.top_share(params, 0.1)}
        if paper:
            return measures
        keys = jax.random.split(trial.rng("measure"), DRAWS + 1)
        x = jax.random.uniform(keys[0], (256, *shape))

        def dropped(key):
            rate = trial.hparams.dropout_rate, trial.hparams.input_dropout_rate
            scores = model.apply({"params": params}, x, *rate, rngs={"dropout": key})
            return jax.nn.softmax(jnp.asarray(scores))

        average = jax.lax.map(dropped, keys[1:]).mean(axis=0)
        alone = jnp.asarray(model.apply({"params": params}, x))
        same = jnp.argmax(average, axis=-1) == jnp.argmax(alone, axis=-1)
        return measures | {"agreement": same.mean(), "drop_spread": drop_spread(trial)}

    return ax.supervised(
        model,
        splits,
        loss=ax.losses.loss("softmax_cross_entropy_with_integer_labels"),
        metrics={ax.ACCURACY: ax.metrics.accuracy},
        optimizer=optimizer,
        batch_size=config.batch_size,
        regularization=ax.Regularization(
            penalty=lambda params, h: penalties.elastic_net(params, h.l1, h.l2),
            activity_penalty=srivastava.sparsity if paper else None,
            project=lambda params, h: penalties.max_norm(params, h.max_norm),
            dropout_rate=lambda h: (h.dropout_rate, h.input_dropout_rate),
        ),
        records=ax.Records(measure=measure),
    )


def drop_spread(trial: Any) -> jax.Array:
    """The variance over units of how often each is dropped, over that of fair independent draws."""
    rate, n = trial.hparams.dropout_rate, 500
    masks = dropout(trial.rng("drops"), jnp.ones((n, UNITS)), rate) == 0
    dropped = 1 - keep_probability(rate)
    return masks.sum(axis=0, dtype=jnp.float32).var(ddof=1) / (n * dropped * (1 - dropped))


def lines(study: ax.Study) -> dict[tuple[str, int], ax.selection.Points]:
    """{(width, training examples): {rate: point}}, narrow to wide and few to many."""
    settings = [study.settings[point] for point in study.among(table="rates")]
    sizes = {(setting["hidden"], setting["train_size"]) for setting in settings}
    return {
        (hidden, size): ax.selection.along(
            study, "dropout_rate", table="rates", hidden=hidden, train_size=size
        )
        for hidden, size in sorted(sizes, key=lambda k: (sum(ax.nn.widths_of(k[0])), k[1]))
    }


def rates_figure(study: ax.Study):
    """Test error against the dropout rate, by width and by the size of the training set."""
    families = {
        "width (300 examples)": {k[0]: k for k in lines(study) if k[1] == 300},
        "training examples (width 128)": {
            f"{k[1]} examples": k for k in lines(study) if k[0] == "128"
        },
    }
    if not any(families.values()):
        families = {"": {f"{k[1]} examples": k for k in lines(study)}}
    errors = {
        title: {
            label: {
                rate: plot.error_interval(study, point) for rate, point in lines(study)[key].items()
            }
            for label, key in keys.items()
        }
        for title, keys in families.items()
    }
    figure = plot.interval_panels(
        errors, "Test error against dropout rate, with 95% intervals.",
        xlabel="dropout rate", ylabel=plot.error_label(study), yscale="log",
    )  # fmt: skip
    for panel in figure.axes:
        panel.minorticks_off()
        low, high = panel.get_ylim()
        ticks = [tick for tick in (0.05, 0.07, 0.1, 0.15, 0.2, 0.3) if low < tick < high]
        panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    return figure


def gains(study: ax.Study) -> dict[tuple[str, int], np.ndarray]:
    """{(width, training examples): the fall in test loss, by restart, at the best rate}."""
    falls = {}
    for hidden, size in lines(study):
        methods = ax.selection.methods(study, table="rates", hidden=hidden, train_size=size)
        if {"dropout", ax.BASELINE} <= methods.keys():
            pair = methods[ax.BASELINE], methods["dropout"]
            falls[hidden, size] = study.differences(*pair, "test/loss")
    return falls


def gains_figure(study: ax.Study):
    """Gain by dropout, over width and over the number of examples."""
    rows = {
        f"width {hidden}, {size} examples": ax.statistics.mean_interval(values)
        for (hidden, size), values in gains(study).items()
    }
    figure, (panel,) = plot.panels(1, width=6.0)
    plot.dots(panel, rows)
    panel.axvline(0, color="0.4", linestyle="--")
    panel.set(xlabel="fall in test loss at the rate selected by validation (nats)")
    return plot.captioned(figure, "Gain by dropout, with 95% intervals.")


def of_rates(draw):
    """The figure, for a study that has lines of rates."""

    def drawn(study: ax.Study):
        if not lines(study):
            raise ax.Missing("the study has no points of the table of rates")
        return draw(study)

    return drawn


FIGURES = {
    "rates": of_rates(rates_figure),
    "gains": of_rates(gains_figure),
    "published": srivastava.published_figure,
}


@ax.quantities
def falls(study: ax.Study):
    """The fall in test loss at every width and size."""
    return {
        f"fall in test loss, width {hidden}, {size} examples": values
        for (hidden, size), values in gains(study).items()
    }


def fall(hidden: str, size: int) -> ax.Quantity:
    """The fall in test loss at one width and size."""
    loss = ax.column("test/loss", table="rates", hidden=hidden, train_size=size)
    return (loss[ax.BASELINE] - loss["dropout"]).named(f"{hidden} units, {size} examples")


NOTES = "course notes, Dropout"
SRIVASTAVA = "Srivastava et al. 2014"
spread = ax.column("drop_spread", measured="variance over units / fair variance", **MIDDLE)
agreement = ax.column("agreement", measured=f"share of random inputs, {DRAWS} networks", **MIDDLE)
CLAIMS = [
    ax.Claim(
        "dropout-helps",
        "Dropout lowers the test loss at every width and size.",
        NOTES,
        falls > 0,
    ),
    ax.Claim(
        "dropout-helps-wide-networks",
        "The wider the network, the more dropout helps.",
        SRIVASTAVA + ", section 7.3",
        (fall("512", 300) - fall("32", 300)).named("fall in test loss: 512 − 32 units") > 0,
    ),
    ax.Claim(
        "dropout-helps-few-examples",
        "The fewer the training examples, the more dropout helps.",
        SRIVASTAVA + ", section 7.4",
        (fall("128", 100) - fall("128", 1000)).named("fall in test loss: 100 − 1000 examples") > 0,
    ),
    ax.Claim(
        "units-are-treated-alike",
        "Over many steps every unit is dropped about equally often: no less evenly than by fair, "
        "independent draws.",
        NOTES,
        *(spread.at(dropout_rate=rate).everywhere.within(0.9, 1.1) for rate in RATES),
    ),
    ax.Claim(
        "largest-weights-dominate-less",
        "Dropout makes the network rely less on its largest weights, at every width.",
        NOTES,
        *(
            top_share["dropout"] < top_share[ax.BASELINE]
            for top_share in (
                ax.column("top_share", table="rates", hidden=hidden, train_size=300)
                for hidden in WIDTHS
            )
        ),
    ),
    ax.Claim(
        "one-pass-is-the-average",
        "Evaluating without dropout predicts the class that an average over dropped-out networks "
        "predicts.",
        "course notes, Combined Approaches; " + SRIVASTAVA + ", section 7.5",
        *(agreement.at(dropout_rate=rate).everywhere.within(0.9, 1.01) for rate in RATES),
    ),
    *srivastava.CLAIMS,
]
