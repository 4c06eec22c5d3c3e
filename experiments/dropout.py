"""How much should be dropped, and when does it pay: wide networks, few examples, or both?

Dropout at several rates in networks of several widths, on training sets of several sizes, against
the same network without; is every unit dropped equally often, does the network lean less on its
largest weights, and does evaluating without dropout say (of inputs drawn at random) what an average
over many dropped-out networks says?

With preset paper instead the rows of Srivastava et al. 2014 on MNIST: Study 2 (activation, size,
max-norm), Study 9 (against other regularizers), Study 10 (Gaussian noise in Bernoulli's place).

Source: course notes, "Dropout"; Srivastava et al. 2014.

Command: ./launch.sh dropout                   (about a minute and a half on 2 CPU cores)
         ./launch.sh dropout --preset paper    (made for a GPU, not run yet)

Expected: dropout lowers the test loss at most widths and sizes; of the paper's rows, in percent of
test errors: L2 1.62, max-norm 1.35, dropout + L2 1.25, dropout + max-norm 1.05.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ablax import losses, metrics, optimizers, penalties, schedules
from ablax.config import BaseConfig, Preset, hparam, static, values
from ablax.data import DATASETS, load, split
from ablax.errors import UserError
from ablax.metrics import ACCURACY
from ablax.nn.activations import ACTIVATIONS
from ablax.nn.dropout import NOISES, dropout, keep_probability
from ablax.nn.mlp import MLP, widths_of
from ablax.published import srivastava as _srivastava
from ablax.report import plot as draw
from ablax.report import selection
from ablax.report.claims import Claim, Test, between, every, within
from ablax.report.quantities import NEGATIVE, Effect
from ablax.report.statistics import mean_interval
from ablax.report.study import BASELINE, Chosen, Study
from ablax.study import grid
from ablax.task import Task
from ablax.tasks.supervised import Records, Regularization, supervised

RATES = [0.1, 0.25, 0.5, 0.75]
WIDTHS, SIZES = ("32", "128", "512"), (100, 300, 1000)
UNITS = 4096
"""Units whose drops are counted: a variance over so many is known to 2%."""
DRAWS = 64
"""Dropped-out networks that are averaged."""
MIDDLE = {"table": "rates", "hidden": "128", "train_size": 300}


class Config(BaseConfig):
    table: str = static("rates", "rates, or the paper's rows", choices=("rates", "srivastava"))
    shrink: int = static(1, "what the paper's widths are divided by", low=1)
    dataset: str = static("digits", "a data set of images", choices=DATASETS)
    train_size: int = static(300, "training examples", low=10)
    valid_size: int = static(288, "validation examples", low=1)
    hidden: str = static("128", "units of the hidden layers, such as 1024-1024-2048")
    activation: str = static("relu", "of the hidden layers", choices=ACTIVATIONS)
    noise: str = static("bernoulli", "what multiplies a unit in training", choices=NOISES)
    batch_size: int = static(50, "rows of a minibatch", low=1)
    learning_rate: float = hparam(0.1, "initial rate, decayed to 0 by a cosine", low=0)
    momentum: float = hparam(0.9, "share of the last step that is kept", low=0, below=1)
    dropout_rate: float = hparam(0.0, "probability that a hidden unit is off", low=0, below=1)
    input_dropout_rate: float = hparam(0.0, "probability that a feature is off", low=0, below=1)
    l1: float = hparam(0.0, "strength of the sum of absolute weights", low=0)
    l2: float = hparam(0.0, "strength of the sum of squared weights", low=0)
    kl: float = hparam(0.0, "strength of the sparsity penalty on the hidden units", low=0)
    max_norm: float = hparam(np.inf, "bound of a unit's weight vector; inf is off", above=0)


HALF: Any = (0.0, 0.5)
SMALL = {"steps": 100, "eval_every": 20, "hidden": "16", "dropout_rate": HALF}
PRESETS = {
    "smoke": Preset(Config(**SMALL), restarts=3),
    "default": Preset(Config(steps=2000, eval_every=50, patience=10.0), restarts=16),
    "paper": Preset(
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
    if "kl" in given and values(config.table) != ("srivastava",):
        raise UserError("--kl: the sparsity penalty belongs to --table srivastava")
    sizes = {name: given[name] for name in ("hidden", "train_size") if name in given}
    paper = [
        {"shrink": shrink, **row}
        for shrink in values(config.shrink)
        for row in _srivastava.srivastava(shrink)
    ]
    tables = {"rates": rates(sizes), "srivastava": paper}
    rows = grid.chain(*(tables[name] for name in values(config.table)))
    own = {field for row in rows for field in row} - {*sizes, "table", "shrink"}
    if own & given.keys():
        return [
            {grid.GROUP: "dropout" if point.get("dropout_rate") else BASELINE, **point}
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


def task(config: Config) -> Task:
    sizes = {"train_size": config.train_size, "valid_size": config.valid_size}
    splits = split(load(config.dataset), **sizes, seed=0)
    if not splits.classes:
        raise UserError(f"--dataset: expected one with classes, got {config.dataset}")
    model = MLP(
        widths_of(config.hidden), len(splits.classes), config.activation, noise=config.noise
    )
    shape = splits.pool.x.shape[1:]
    paper = config.table == "srivastava"

    def optimizer(trial):
        rate = schedules.cosine(trial.hparams.learning_rate, steps=trial.steps)
        return optimizers.momentum(rate, momentum=trial.hparams.momentum)

    def measure(params, trial):
        told = {"top_share": penalties.top_share(params, 0.1)}
        if paper:
            return told
        keys = jax.random.split(trial.rng("measure"), DRAWS + 1)
        x = jax.random.uniform(keys[0], (256, *shape))

        def dropped(key):
            rate = trial.hparams.dropout_rate, trial.hparams.input_dropout_rate
            scores = model.apply({"params": params}, x, *rate, rngs={"dropout": key})
            return jax.nn.softmax(jnp.asarray(scores))

        average = jax.lax.map(dropped, keys[1:]).mean(axis=0)
        alone = jnp.asarray(model.apply({"params": params}, x))
        same = jnp.argmax(average, axis=-1) == jnp.argmax(alone, axis=-1)
        return told | {"agreement": same.mean(), "drop_spread": drop_spread(trial)}

    return supervised(
        model,
        splits,
        loss=losses.loss("softmax_cross_entropy_with_integer_labels"),
        metrics={ACCURACY: metrics.accuracy},
        optimizer=optimizer,
        batch_size=config.batch_size,
        regularization=Regularization(
            penalty=lambda params, h: penalties.elastic_net(params, h.l1, h.l2),
            activity_penalty=_srivastava.sparsity if paper else None,
            project=lambda params, h: penalties.max_norm(params, h.max_norm),
            dropout_rate=lambda h: (h.dropout_rate, h.input_dropout_rate),
        ),
        records=Records(measure=measure),
    )


def drop_spread(trial: Any) -> jax.Array:
    """The variance over units of how often each is dropped, over that of fair independent draws."""
    rate, n = trial.hparams.dropout_rate, 500
    masks = dropout(trial.rng("drops"), jnp.ones((n, UNITS)), rate) == 0
    dropped = 1 - keep_probability(rate)
    return masks.sum(axis=0, dtype=jnp.float32).var(ddof=1) / (n * dropped * (1 - dropped))


def figures(table: Study) -> dict:
    drawn = {}
    if lines(table):
        drawn |= {"rates": rates_figure(table), "gains": gains_figure(table)}
    if any(setting["group"] in _srivastava.PUBLISHED for setting in table.settings.values()):
        drawn |= {"published": _srivastava.published_figure(table)}
    return drawn


def lines(table: Study) -> dict[tuple[str, int], dict[float, Chosen]]:
    """{(width, training examples): {rate: point}}, narrow to wide and few to many."""
    ours = (table.settings[point] for point in table.among(table="rates"))
    sizes = {(setting["hidden"], setting["train_size"]) for setting in ours}
    return {
        (hidden, size): selection.along(
            table, "dropout_rate", table="rates", hidden=hidden, train_size=size
        )
        for hidden, size in sorted(sizes, key=lambda key: (sum(widths_of(key[0])), key[1]))
    }


def rates_figure(table: Study):
    """Test error against the dropout rate, by width and by the size of the training set."""
    families = {
        "width (300 examples)": [key for key in lines(table) if key[1] == 300],
        "training examples (width 128)": [key for key in lines(table) if key[0] == "128"],
    }
    shown = {title: keys for title, keys in families.items() if keys}
    shown = shown or {"": list(lines(table))}
    figure, axes = draw.panels(len(shown), width=5.0)
    for ax, (title, keys) in zip(axes, shown.items(), strict=True):
        for number, key in enumerate(keys):
            points = lines(table)[key]
            values = [draw.error_interval(table, point) for point in points.values()]
            label = key[0] if title.startswith("width") else f"{key[1]} examples"
            draw.with_intervals(ax, list(points), values, label=label, number=number)
        ax.set(xlabel="dropout rate", ylabel=draw.error_label(table), yscale="log", title=title)
        ax.minorticks_off()
        ticks = [
            t for t in (0.05, 0.07, 0.1, 0.15, 0.2, 0.3) if ax.get_ylim()[0] < t < ax.get_ylim()[1]
        ]
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        draw.legend(ax)
    return draw.captioned(figure, "Test error against dropout rate, with 95% intervals.")


def gains(table: Study) -> dict[tuple[str, int], np.ndarray]:
    """{(width, training examples): the fall in test loss, by restart, at the best rate}."""
    found = {}
    for hidden, size in lines(table):
        methods = selection.methods(table, table="rates", hidden=hidden, train_size=size)
        if {"dropout", BASELINE} <= methods.keys():
            chosen = methods[BASELINE], methods["dropout"]
            found[hidden, size] = table.differences(*chosen, "test/loss")
    return found


def gains_figure(table: Study):
    """What dropout gains, over width and over the number of examples."""
    found = gains(table)
    figure, (ax,) = draw.panels(1, width=6.0)
    rows = {f"width {hidden}, {size} examples": values for (hidden, size), values in found.items()}
    draw.dots(ax, {label: mean_interval(values) for label, values in rows.items()})
    ax.axvline(0, color="0.4", linestyle="--")
    ax.set(xlabel="fall in test loss at the rate that validation chooses (nats)")
    return draw.captioned(figure, "What dropout gains, with 95% intervals.")


def helps(table: Study) -> list[Effect] | None:
    """The fall in test loss at every width and size."""
    return [
        Effect(values, f"fall in test loss, width {hidden}, {size} examples")
        for (hidden, size), values in gains(table).items()
    ] or None


def helps_more(larger: tuple[str, int], smaller: tuple[str, int], measured: str) -> Test:
    def test(table: Study) -> list[Effect] | None:
        found = gains(table)
        if not {larger, smaller} <= found.keys():
            return None
        return [Effect(found[larger] - found[smaller], f"fall in test loss: {measured}")]

    return test


NOTES = "course notes, Dropout"
SRIVASTAVA = "Srivastava et al. 2014"
CLAIMS = [
    Claim(
        "dropout-helps",
        "Dropout lowers the test loss at every width and size.",
        NOTES,
        helps,
        "At 100 examples the gain is within its interval; Srivastava et al. see none there either.",
    ),
    Claim(
        "dropout-helps-wide-networks",
        "The wider the network, the more dropout helps.",
        SRIVASTAVA + ", section 7.3",
        helps_more(("512", 300), ("32", 300), "512 − 32 units"),
        remark="A narrow network gains too, at a lower rate; validation chooses each its own.",
    ),
    Claim(
        "dropout-helps-few-examples",
        "The fewer the training examples, the more dropout helps.",
        SRIVASTAVA + ", section 7.4",
        helps_more(("128", 100), ("128", 1000), "100 − 1000 examples"),
        remark="At 100 examples dropout gains less than at 1,000; Srivastava et al. see the most "
        "at sizes between.",
    ),
    Claim(
        "units-are-treated-alike",
        "Over many steps every unit is dropped about equally often: no less evenly than by fair, "
        "independent draws.",
        NOTES,
        every(
            *(
                within(
                    "drop_spread",
                    "variance over units / fair variance",
                    (0.9, 1.1),
                    dropout_rate=rate,
                    **MIDDLE,
                )
                for rate in RATES
            )
        ),
    ),
    Claim(
        "largest-weights-dominate-less",
        "Dropout makes the network lean less on its largest weights, at every width.",
        NOTES,
        every(
            *(
                between(
                    "top_share",
                    "dropout",
                    BASELINE,
                    NEGATIVE,
                    table="rates",
                    hidden=hidden,
                    train_size=300,
                )
                for hidden in WIDTHS
            )
        ),
        remark="In the narrowest network it does, in the wider ones the largest weights contribute "
        "a little more.",
    ),
    Claim(
        "one-pass-is-the-average",
        "Evaluating without dropout predicts the class that an average over dropped-out networks "
        "predicts.",
        "course notes, Combined Approaches; " + SRIVASTAVA + ", section 7.5",
        every(
            *(
                within(
                    "agreement",
                    f"share of random inputs, {DRAWS} networks",
                    (0.9, 1.01),
                    dropout_rate=rate,
                    **MIDDLE,
                )
                for rate in RATES
            )
        ),
        remark="Up to half dropped it does; at three quarters the two part more often.",
    ),
    *_srivastava.CLAIMS,
]
