"""Tables 2, 9 and 10 of Srivastava et al. 2014 on MNIST: the rows of `dropout --preset paper`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ablax.errors import Missing
from ablax.report import plot, selection
from ablax.report.claims import Claim
from ablax.report.quantities import column
from ablax.report.study import Study
from ablax.study import grid

PUBLISHED = {
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
"""Test errors in percent of Srivastava et al. 2014."""
SPARSITY = 0.05
"""Share of the examples at which a hidden unit should be on, for the sparsity penalty."""
SOURCE = "Srivastava et al. 2014"


def srivastava(shrink: int) -> list[grid.Setting]:
    """The rows of Tables 9, 2 and 10, each at a few strengths: the paper chose them too."""

    def units(*widths: int) -> dict[str, str]:
        return {"hidden": "-".join(str(max(1, width // shrink)) for width in widths)}

    half = {"dropout_rate": 0.5, "input_dropout_rate": 0.2}
    nine, three, two = units(1024, 1024, 2048), units(1024, 1024, 1024), units(1024, 1024)
    ridge, bound = {"l2": [1e-5, 1e-4, 1e-3]}, {"max_norm": [1.0, 2.0, 4.0]}
    rows = {
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
        for name, (row, strengths) in rows.items()
        for strength in grid.product(**strengths)
    ]


def sparsity(layers: dict[str, jax.Array], hparams: Any) -> jax.Array:
    """Σ KL(ρ ‖ ρ̂) over the hidden units, with ρ̂ the mean of σ(h) over the minibatch.

    Study 9 does not say how a sparsity penalty is put on rectified units; σ(h) is the soft form
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
    methods = selection.methods(study)
    rows = {name: row for name, row in methods.items() if name in PUBLISHED}
    if not rows:
        raise Missing("the study has no row of the paper's tables")
    figure, (panel,) = plot.panels(1, width=7.0, height=1.0 + 0.4 * len(rows))
    plot.dots(panel, {name: plot.error_interval(study, row) for name, row in rows.items()})
    errors = [PUBLISHED[name] / 100 for name in rows]
    panel.plot(errors, range(len(rows)), "x", color=plot.COLOURS[1])
    panel.set(xlabel="test error: ours (dots), Srivastava et al. 2014 (crosses)")
    return plot.captioned(figure, "Beside the published numbers, row by row of the paper's tables.")


accuracy = column("test/accuracy")
CLAIMS = [
    Claim(
        "table-9-order",
        "Test errors fall in the order of Table 9.",
        SOURCE + ", Table 9",
        accuracy["9: max-norm"] > accuracy["9: L2"],
        accuracy["9: dropout + L2"] > accuracy["9: max-norm"],
        accuracy["9: dropout + max-norm"] > accuracy["9: dropout + L2"],
    ),
    Claim(
        "table-2-order",
        "Rectified units err less than logistic ones, and less still with max-norm.",
        SOURCE + ", Table 2",
        accuracy["2: dropout, ReLU"] > accuracy["2: dropout, logistic"],
        accuracy["2: dropout, ReLU, max-norm"] > accuracy["2: dropout, ReLU"],
    ),
    Claim(
        "gaussian-noise-serves-as-well",
        "Gaussian noise errs no more than Bernoulli noise.",
        SOURCE + ", Table 10",
        (accuracy["10: Gaussian"] - accuracy["10: Bernoulli"]).within(-0.001, np.inf),
    ),
]
