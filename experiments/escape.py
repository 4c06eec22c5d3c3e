"""How far should a restart be thrown, and how many restarts does a harder problem need?

Restarts from N(w₀, σ²): around 0, around a network that solves XOR and around one that is stuck,
over σ. Then problems of growing dimension from starts of the usual size: the parity of two to five
bits, two spirals, and two half moons by networks three units wide and ever deeper.

Source: course notes, "Local Minima and Random Restart", Practical Considerations.

Command: ./launch.sh escape                    (about a minute on 2 CPU cores)

Expected: near a solution small σ succeeds and large σ does not, near a trap only σ of some size
does; every two further bits of parity need more restarts.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import ablax as ax
from ablax import grid, plot
from ablax.data import generated

LAYERS, ZERO, SOLUTION, TRAP = "layers", "zero", "solution", "trap"
CENTRES: dict[str, list[float]] = {
    LAYERS: [],  # each layer by the size of its inputs
    ZERO: [0.0] * 9,
    # Two 2-2-1 networks of tanh after training on XOR: W by rows, b; then w, c.
    SOLUTION: [-2.18, -2.30, -2.36, 2.36, 2.48, -2.48, 5.58, 6.02, 6.02],
    TRAP: [-2.94, -2.95, -1.56, -2.96, 1.54, -2.93, 0.05, -3.64, 3.69],
}
SIGMAS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
BITS = (2, 3, 4, 5)
DEPTHS = (1, 2, 4, 8)
PROBLEMS = {
    **{f"parity-{bits}": partial(generated.parity, bits) for bits in BITS},
    "spirals": partial(generated.spirals, n=200, noise=0.02, turns=2.0),
    "moons": partial(generated.moons, n=200, noise=0.1),
}


class Config(ax.BaseConfig):
    problem: str = ax.static("parity-2", "task to learn; parity-2 is XOR", choices=PROBLEMS)
    hidden: str = ax.static("2", "units of the hidden layers, such as 3-3-3")
    activation: str = ax.static("tanh", "of the hidden layers", choices=ax.nn.ACTIVATIONS)
    centre: str = ax.static(LAYERS, "w₀ of the starts N(w₀, σ²)", choices=CENTRES)
    sigma: float = ax.hparam(1.0, "σ; with centre layers the factor on LeCun's weights", above=0)
    learning_rate: float = ax.hparam(0.1, "constant rate", low=0)
    momentum: float = ax.hparam(0.9, "share of the last step that is kept", low=0, below=1)


PRESETS = {
    "smoke": ax.Preset(Config(steps=200, eval_every=50), 32),
    "default": ax.Preset(Config(steps=4000, eval_every=100), 256),
    "paper": ax.Preset(Config(steps=10_000, eval_every=100), 4096),
}


def points(config: Config) -> list[grid.Setting]:
    """Centres over σ, then problems; where training is short, a solution and a trap alone."""
    steps = max(ax.values(config.steps))
    quick = steps <= PRESETS["smoke"].config.steps
    rows = {
        f"σ around {centre}": grid.product(centre=[centre], sigma=SIGMAS, steps=[min(1000, steps)])
        for centre in ((SOLUTION, TRAP) if quick else (ZERO, SOLUTION, TRAP))
    }
    if not quick:
        rows |= {f"{n} bits": [{"problem": f"parity-{n}", "hidden": str(n)}] for n in BITS[1:]}
        rows |= {f"spirals, {h}": [{"problem": "spirals", "hidden": h}] for h in ("8", "16", "8-8")}
        for depth in DEPTHS:
            narrow = {"problem": "moons", "activation": "relu", "hidden": "-".join(["3"] * depth)}
            rows[f"{depth} narrow layers"] = [{**narrow, "steps": min(2000, steps)}]
    return grid.table(config, grid.rows({}, rows))


def task(config: Config) -> ax.Task:
    small = (config.problem, config.hidden, config.activation) == ("parity-2", "2", "tanh")
    if config.centre != LAYERS and not small:
        raise ax.UserError(
            f"--centre {config.centre}: expected parity-2 with 2 hidden units of tanh, got "
            f"{config.problem} with {config.hidden} of {config.activation}"
        )
    init = "he_normal" if config.activation == "relu" else "lecun_normal"
    splits = ax.data.split(PROBLEMS[config.problem](), valid_size=0, seed=0)
    usual = ax.supervised(
        ax.nn.MLP(ax.nn.widths_of(config.hidden), 1, config.activation, init),
        splits,
        loss=ax.losses.loss("sigmoid_binary_cross_entropy"),
        optimizer=ax.optimizers.of_trial("momentum"),
        batch_size=splits.n_train,
        initial=lambda params, hparams: ax.nn.scale_weights(params, hparams.sigma),
        resample=False,
    )

    def thrown(trial, data):
        """w₀ + ε with ε ~ N(0, σ²), biases too."""
        state = usual.init(trial, data)
        flat, unravel = ravel_pytree(state.params)
        noise = jax.random.normal(trial.rng("init"), flat.shape)
        start = jnp.asarray(CENTRES[config.centre]) + trial.hparams.sigma * noise
        return state._replace(params=unravel(start))

    def evaluate(params, trial, split):
        sums = usual.evaluate(params, trial, split)
        total, count = sums["accuracy"]
        return sums | ax.whole(solved=(total == count).astype(jnp.float32))

    return ax.validate_on_training(usual).replace(
        init=usual.init if config.centre == LAYERS else thrown,
        evaluate=evaluate,
        solved=lambda train: train["solved"] == 1,
        metrics=(ax.Metric("solved", "max"), ax.ACCURACY, ax.LOSS),
    )


def dimension_figure(study: ax.Study):
    """The number of restarts that each problem needs."""
    needed = {}
    for group, point in ax.selection.methods(study, centre=LAYERS).items():
        problem = "2 bits" if group == ax.BASELINE else group
        needed[problem] = ax.statistics.restarts_to_succeed(study.interval(point, "train/solved"))
    figure, (panel,) = plot.panels(1, width=6.4, height=1.2 + 0.32 * len(needed))
    plot.dots(panel, needed)
    panel.set(xscale="log", xlabel="restarts until failure has probability 1%")
    return plot.captioned(figure, "Restarts needed, with exact 95% intervals (arrows: at least).")


rate = ax.column("train/solved", measured="success rate")
by_sigma = ax.column("train/solved", by="sigma", measured="success rate")
around = {centre: by_sigma.at(centre=centre) for centre in (ZERO, SOLUTION, TRAP)}
best = ax.column("train/solved", by="centre", measured="success rate at the best σ")[ZERO]
by_problem = ax.column("train/solved", by="problem", measured="success rate", centre=LAYERS)
parity = [by_problem[f"parity-{bits}"] for bits in BITS]
narrow = [rate[f"{depth} narrow layers"] for depth in DEPTHS]

FIGURES = {
    "sigma": ax.charts.lines(
        {"": {f"centre: {centre}": column for centre, column in around.items()}},
        "Exploration against exploitation: how far a restart should be thrown.",
        xscale="log",
        xlabel="σ of the restarts",
        ylabel="success rate",
    ),
    "dimension": dimension_figure,
}

NOTES = "course notes, Practical Considerations of random restarts"
CLAIMS = [
    ax.Claim(
        "stay-near-a-solution",
        "Around a solution, restarts should be drawn close to it, not far from it.",
        NOTES,
        around[SOLUTION][0.1] > around[SOLUTION][10.0],
    ),
    ax.Claim(
        "go-far-from-a-trap",
        "Around a trap, restarts should be drawn far from it, not close to it.",
        NOTES,
        around[TRAP][3.0] > around[TRAP][0.1],
    ),
    ax.Claim(
        "too-far-is-lost",
        "Around zero there is a best σ: much smaller and much larger ones succeed less often.",
        NOTES,
        best > around[ZERO][SIGMAS[0]],
        best > around[ZERO][SIGMAS[-1]],
    ),
    ax.Claim(
        "dimension-needs-restarts",
        "Every further bit of parity needs more restarts, with as many hidden units as bits.",
        NOTES,
        *(few > more for few, more in itertools.pairwise(parity)),
    ),
    ax.Claim(
        "two-more-bits-need-restarts",
        "Every two further bits of parity need more restarts, with as many hidden units as bits.",
        NOTES,
        *(few > more for few, more in zip(parity, parity[2:], strict=False)),
    ),
    ax.Claim(
        "more-units-fewer-restarts-for-spirals",
        "Two spirals need fewer restarts with 16 hidden units than with 8, and fewer still in "
        "layers 8-8.",
        "our own question",
        rate["spirals, 16"] > rate["spirals, 8"],
        rate["spirals, 8-8"] > rate["spirals, 16"],
    ),
    ax.Claim(
        "narrow-and-deep-needs-restarts",
        "Narrow networks of rectified units need more restarts the deeper they are.",
        "our own question",
        *(shallow > deep for shallow, deep in itertools.pairwise(narrow)),
    ),
]
