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

from contextlib import suppress
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
UNITS = 4096  # whose drops are counted: a variance over so many is known to 2%
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


HALF: Any = (0.0, 0.5)  # an axis
PAPER: dict[str, Any] = {
    **{"table": "srivastava", "dataset": "mnist", "train_size": 50_000, "valid_size": 10_000},
    **{"steps": 100_000, "eval_every": 1000},
    **{"batch_size": 100, "learning_rate": 0.02, "momentum": 0.95},
}
PRESETS = {
    "smoke": ax.Preset(Config(steps=100, eval_every=20, hidden="16", dropout_rate=HALF), 3),
    "default": ax.Preset(Config(steps=2000, eval_every=50, patience=10.0), 16),
    "paper": ax.Preset(Config(**PAPER), 5),
}


def points(config: Config) -> list[grid.Setting]:
    """The rates, the paper's rows or both; or, where fields that they set are given, their grid."""
    axes = grid.axes(config)
    if "kl" in axes and ax.values(config.table) != ("srivastava",):
        raise ax.UserError("--kl: the sparsity penalty belongs to --table srivastava")
    sizes = {name: axes[name] for name in ("hidden", "train_size") if name in axes}
    shrinks = ax.values(config.shrink)
    tables = {
        "rates": rates(sizes),
        "srivastava": [{"shrink": k, **row} for k in shrinks for row in srivastava.rows(k)],
    }
    rows = grid.chain(*(tables[name] for name in ax.values(config.table)))
    own = {field for row in rows for field in row} - {*sizes, "table", "shrink"}
    if own & axes.keys():
        return [
            {grid.GROUP: "dropout" if point.get("dropout_rate") else ax.BASELINE, **point}
            for point in grid.product(**axes)
        ]
    others = {name: axis for name, axis in axes.items() if name not in rows[0]}
    return grid.cross(rows, grid.product(**others))


def rates(sizes: dict[str, Any]) -> list[grid.Setting]:
    """Every rate at each width and at each size of the training set; or at the sizes given."""
    pairs = [
        *grid.product(hidden=WIDTHS, train_size=[300]),
        *grid.product(hidden=["128"], train_size=[size for size in SIZES if size != 300]),
    ]
    networks = grid.cross([{"table": "rates"}], grid.product(**sizes) if sizes else pairs)
    return grid.cross(networks, grid.rows({}, {"dropout": grid.product(dropout_rate=RATES)}))


def task(config: Config) -> ax.Task:
    sizes = {"train_size": config.train_size, "valid_size": config.valid_size}
    splits = ax.data.split(ax.data.load(config.dataset), **sizes, seed=0)
    if not splits.classes:
        raise ax.UserError(f"--dataset: expected one with classes, got {config.dataset}")
    widths, classes = ax.nn.widths_of(config.hidden), len(splits.classes)
    model = ax.nn.MLP(widths, classes, config.activation, noise=config.noise)
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


def lines(study: ax.Study) -> dict[tuple[str, int], dict[float, ax.Chosen]]:
    """{(width, training examples): {rate: point}}, narrow to wide and few to many."""
    settings = [study.settings[point] for point in study.among(table="rates")]
    keys = {(setting["hidden"], setting["train_size"]) for setting in settings}
    curves = {}
    for hidden, size in sorted(keys, key=lambda key: (sum(ax.nn.widths_of(key[0])), key[1])):
        network = {"table": "rates", "hidden": hidden, "train_size": size}
        curves[hidden, size] = ax.selection.along(study, "dropout_rate", **network)
    return curves


def rates_figure(study: ax.Study):
    """Test error against the dropout rate, by width and by the size of the training set."""
    widths, sizes, others = {}, {}, {}
    for (hidden, size), rates in lines(study).items():
        line = {rate: plot.error_interval(study, point) for rate, point in rates.items()}
        if size == 300:
            widths[hidden] = line
        if hidden == "128":
            sizes[f"{size} examples"] = line
        if size != 300 and hidden != "128":
            others[f"width {hidden}, {size} examples"] = line
    panels = {"width (300 examples)": widths, "training examples (width 128)": sizes, "": others}
    caption = "Test error against dropout rate, with 95% intervals."
    figure = plot.interval_panels(panels, caption, xlabel="dropout rate", yscale="log")
    for panel in figure.axes:
        panel.minorticks_off()
        low, high = panel.get_ylim()
        ticks = [tick for tick in (0.05, 0.07, 0.1, 0.15, 0.2, 0.3) if low < tick < high]
        panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.set(ylabel=plot.error_label(study))
    return figure


def fall(hidden: str, size: int) -> ax.Quantity:
    """The fall in test loss by dropout at one width and number of training examples."""
    loss = ax.column("test/loss", table="rates", hidden=hidden, train_size=size)
    return loss[ax.BASELINE] - loss["dropout"]


@ax.quantities
def falls(study: ax.Study):
    """The fall in test loss by dropout at every width and number of training examples."""
    values = {}
    for hidden, size in lines(study):
        with suppress(ax.Missing):
            name = f"fall in test loss, width {hidden}, {size} examples"
            (values[name],) = fall(hidden, size).read(study).values()
    return values


def gains_figure(study: ax.Study):
    """Gain by dropout, over width and over the number of examples."""
    values = {str(name).partition(", ")[2]: v for name, v in falls.read(study).items()}
    if not values:
        raise ax.Missing("no network was trained with and without dropout")
    figure, (panel,) = plot.panels(1, width=6.0)
    plot.dots(panel, {n: ax.statistics.mean_interval(v.to_numpy()) for n, v in values.items()})
    panel.axvline(0, color="0.4", linestyle="--")
    panel.set(xlabel="fall in test loss at the rate selected by validation (nats)")
    return plot.captioned(figure, "Gain by dropout, with 95% intervals.")


FIGURES = {"rates": rates_figure, "gains": gains_figure, "published": srivastava.published_figure}

NOTES = "course notes, Dropout"
SRIVASTAVA = "Srivastava et al. 2014"
spread = ax.column("drop_spread", measured="variance over units / fair variance", **MIDDLE)
agreement = ax.column("agreement", measured=f"share of random inputs, {DRAWS} networks", **MIDDLE)
top_shares = [ax.column("top_share", table="rates", hidden=h, train_size=300) for h in WIDTHS]
CLAIMS = [
    ax.Claim(
        "dropout-helps", "Dropout lowers the test loss at every width and size.", NOTES, falls > 0
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
        *(top["dropout"] < top[ax.BASELINE] for top in top_shares),
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
