"""Tables of a paper as a sweep: 2, 9 and 10 of Srivastava et al. 2014 on MNIST."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ablax import penalties
from ablax.errors import Missing
from ablax.report import plot, selection
from ablax.report.claims import Claim
from ablax.report.quantities import column
from ablax.report.study import Study
from ablax.study import grid
from ablax.tasks.supervised import Regularization

PUBLISHED = {  # test errors in percent
    "9: L2": 1.62,
    "9: L2 + L1": 1.60,
    "9: L2 + KL": 1.55,
    "9: max-norm": 1.35,
    "9: dropout + L2": 1.25,
    "9: dropout + max-norm": 1.05,
    "2: standard": 1.60,
    "2: dropout, logistic": 1.35,
    "2: dropout, ReLU": 1.25,
    "2: dropout, ReLU, max-norm": 1.06,
    "2: dropout, 2 × 8192, max-norm": 0.95,
}
TRAINING: dict[str, Any] = {
    **{"dataset": "mnist", "train_size": 50_000, "valid_size": 10_000},
    **{"steps": 100_000, "eval_every": 1000},
    **{"batch_size": 100, "learning_rate": 0.02, "momentum": 0.95},
}
"""Data and training of every row."""
SPARSITY = 0.05
"""Share of the examples at which a hidden unit should be on, for the sparsity penalty."""


def rows(*shrinks: int) -> list[grid.Setting]:
    """The rows of Tables 9, 2 and 10, each at a few strengths: the paper chose them too.

    Args:
        shrinks: numbers that divide the widths of all layers: the rows for each of them.
    """
    return [{"shrink": shrink, **row} for shrink in shrinks for row in _rows(shrink)]


def _rows(shrink: int) -> list[grid.Setting]:
    def units(*widths: int) -> dict[str, str]:
        return {"hidden": "-".join(str(max(1, width // shrink)) for width in widths)}

    half = {"dropout_rate": 0.5, "input_dropout_rate": 0.2}
    nine, three, two = units(1024, 1024, 2048), units(1024, 1024, 1024), units(1024, 1024)
    ridge, bound = {"l2": [1e-5, 1e-4, 1e-3]}, {"max_norm": [1.0, 2.0, 4.0]}
    changes = {
        "9: L2": (nine, ridge),
        "9: L2 + L1": (nine, {"l2": [1e-5, 1e-4], "l1": [1e-5, 1e-4]}),
        "9: L2 + KL": (nine, {"l2": [1e-5, 1e-4], "kl": [1e-3, 1e-2]}),
        "9: max-norm": (nine, bound),
        "9: dropout + L2": (nine | half, {"l2": [1e-6, 1e-5, 1e-4]}),
        "9: dropout + max-norm": (nine | half, bound),
        "2: standard": (two, {}),
        "2: dropout, logistic": (three | half | {"activation": "sigmoid"}, {}),
        "2: dropout, ReLU": (three | half, {}),
        "2: dropout, ReLU, max-norm": (three | half, bound),
        "2: dropout, 2 × 8192, max-norm": (half | units(8192, 8192), {"max_norm": [2.0]}),
        "10: Bernoulli": (two | half, bound),
        "10: Gaussian": (two | half | {"noise": "gaussian"}, bound),
    }
    return [
        {grid.GROUP: name, "table": "srivastava", **row, **strength}
        for name, (row, strengths) in changes.items()
        for strength in grid.product(**strengths)
    ]


def regularization(*, sparse: bool) -> Regularization:
    """All that the rows differ in, at the strengths of a trial's hparams.

    The L1, L2 and KL penalties (fields `l1`, `l2` and `kl`), the bound on the weight vector of a
    unit (`max_norm`), and dropout of units and of features (`dropout_rate`, `input_dropout_rate`).

    Args:
        sparse: with the KL penalty; without, nothing of it is computed.
    """
    return Regularization(
        penalty=lambda params, h: penalties.elastic_net(params, h.l1, h.l2),
        activity_penalty=sparsity if sparse else None,
        project=lambda params, h: penalties.max_norm(params, h.max_norm),
        dropout_rate=lambda h: (h.dropout_rate, h.input_dropout_rate),
    )


def sparsity(layers: dict[str, Array], hparams: Any) -> Float[Array, ""]:
    """Σ KL(ρ ‖ ρ̂) over the hidden units, with ρ̂ the mean of σ(h) over the minibatch.

    Table 9 does not say how a sparsity penalty is put on rectified units; σ(h) is the soft form
    of "the unit is on".
    """
    hidden = [h for name, h in layers.items() if name != "output"]  # [units, batch]
    on = [jax.nn.sigmoid(h).mean(axis=-1) for h in hidden]
    shares = jnp.clip(jnp.concatenate(on), 1e-6, 1 - 1e-6)
    kl = SPARSITY * jnp.log(SPARSITY / shares)
    kl += (1 - SPARSITY) * jnp.log((1 - SPARSITY) / (1 - shares))
    return hparams.kl * kl.sum()


def published_figure(study: Study):
    """Our test errors beside the paper's."""
    chosen = {name: row for name, row in selection.methods(study).items() if name in PUBLISHED}
    if not chosen:
        raise Missing("the study has no row of the paper's tables")
    figure, (panel,) = plot.panels(1, width=7.0, height=1.0 + 0.4 * len(chosen))
    plot.dots(panel, {name: plot.error_interval(study, row) for name, row in chosen.items()})
    errors = [PUBLISHED[name] / 100 for name in chosen]
    panel.plot(errors, range(len(chosen)), "x", color=plot.COLOURS[1])
    panel.set(xlabel="test error: ours (dots), Srivastava et al. 2014 (crosses)")
    return plot.captioned(figure, "Beside the published numbers, row by row of the paper's tables.")


SOURCE = "Srivastava et al. 2014"
accuracy = column("test/accuracy")
CLAIMS = [
    Claim(
        "table-9-order",
        "Test errors fall in the order of Table 9: L2, max-norm, dropout + L2, dropout + max-norm.",
        f"{SOURCE}, Table 9",
        accuracy["9: max-norm"] > accuracy["9: L2"],
        accuracy["9: dropout + L2"] > accuracy["9: max-norm"],
        accuracy["9: dropout + max-norm"] > accuracy["9: dropout + L2"],
    ),
    Claim(
        "table-2-order",
        "With dropout, rectified units err less than logistic ones, and less still with max-norm.",
        f"{SOURCE}, Table 2",
        accuracy["2: dropout, ReLU"] > accuracy["2: dropout, logistic"],
        accuracy["2: dropout, ReLU, max-norm"] > accuracy["2: dropout, ReLU"],
    ),
    Claim(
        "gaussian-noise-serves-as-well",
        "Networks whose units are multiplied by Gaussian noise err no more than with dropout.",
        f"{SOURCE}, Table 10",
        accuracy["10: Gaussian"] - accuracy["10: Bernoulli"] > -0.001,
    ),
]
