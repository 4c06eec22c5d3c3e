"""How far should a restart be thrown, and how many restarts does a harder problem need?

Restarts from N(w₀, σ²): around 0, around a network that solves XOR and around one that is stuck,
over σ. Then problems of growing dimension from starts of the usual size: the parity of two to five
bits, two spirals, and two half moons by networks three units wide and ever deeper.

Source: course notes, "Local Minima and Random Restart", Practical Considerations.

Command: ./launch.sh escape                    (about a minute on 2 CPU cores)

Expected: near a solution small σ succeeds and large σ does not, near a trap only σ of some size
does; every two further bits of parity need more restarts.
"""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import ablax as ax
from ablax import grid, plot
from ablax.data import generated
from ablax.report.statistics import Interval

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


def parity(bits: int) -> ax.data.Dataset:
    """All rows of `bits` bits, as ±1, and the parity of each: odd if an odd number is set."""
    x = np.array(list(itertools.product([-1, 1], repeat=bits)), np.float32)
    y = ((x > 0).sum(axis=1) % 2).astype(np.int32)
    kind = {"problem": "classification", "classes": ("even", "odd"), "scale_features": "none"}
    return ax.data.Dataset(f"parity-{bits}", x, y, source="truth table", test=(x, y), **kind)


PROBLEMS = {
    **{f"parity-{bits}": partial(parity, bits) for bits in BITS},
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
        moons = {"problem": ["moons"], "activation": ["relu"]}
        for depth in DEPTHS:
            narrow = {"hidden": ["-".join(["3"] * depth)], "steps": [min(2000, steps)]}
            rows[f"{depth} narrow layers"] = grid.product(**moons, **narrow)
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

    def optimizer(trial):
        return ax.optimizers.momentum(trial.hparams.learning_rate, momentum=trial.hparams.momentum)

    usual = ax.supervised(
        ax.nn.MLP(ax.nn.widths_of(config.hidden), 1, config.activation, init),
        splits,
        loss=ax.losses.loss("sigmoid_binary_cross_entropy"),
        metrics={ax.ACCURACY: ax.metrics.accuracy},
        optimizer=optimizer,
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
        return sums | {"solved": ((total == count).astype(jnp.float32), jnp.float32(1))}

    return dataclasses.replace(
        usual,
        view=lambda trial, data: {**usual.view(trial, data), "valid": data["train"]},
        init=usual.init if config.centre == LAYERS else thrown,
        evaluate=evaluate,
        objective=None,
        solved=lambda train: train["solved"] == 1,
        metrics=(ax.Metric("solved", "max"), ax.ACCURACY, ax.LOSS),
    )


def sigma_figure(study: ax.Study):
    """The success rate against σ, by the centre around which restarts are thrown."""
    lines = {}
    for centre in (ZERO, SOLUTION, TRAP):
        line = ax.selection.along(study, "sigma", centre=centre)
        label = f"around {'a ' if centre != ZERO else ''}{centre}"
        lines[label] = {sigma: study.interval(p, "train/solved") for sigma, p in line.items()}
    caption = "Exploration against exploitation: how far a restart should be thrown."
    options = {"xscale": "log", "xlabel": "σ of the restarts", "ylabel": "success rate"}
    return plot.interval_panels({"": lines}, caption, width=6.0, **options)


def problem_of(group: str) -> str:
    """The name of a group's problem; that of the baseline is XOR."""
    return "2 bits" if group == ax.BASELINE else group


def needed(rate: Interval, failure: float = 0.01) -> tuple[float, float, float]:
    """Restarts that all fail with this probability: by the success rate and the ends of it."""

    def restarts(p: float) -> float:
        return float(np.log(failure) / np.log1p(-p)) if 0 < p < 1 else (1.0 if p else np.inf)

    return restarts(rate.estimate), restarts(rate.high), restarts(rate.low)


def dimension_figure(study: ax.Study):
    """The number of restarts that each problem needs."""
    problems = ax.selection.methods(study, centre=LAYERS)
    figure, (panel,) = plot.panels(1, width=6.4, height=1.2 + 0.32 * len(problems))
    for place, point in enumerate(problems.values()):
        middle, low, high = needed(study.interval(point, "train/solved"))
        if np.isfinite([middle, high]).all():
            ends = [[max(middle - low, 0)], [max(high - middle, 0)]]
            panel.errorbar(middle, place, xerr=ends, fmt="o", ms=4, color="black", capsize=3)
        else:
            panel.plot(max(low, 1), place, ">", color="black")
    panel.set_yticks(range(len(problems)), list(map(problem_of, problems)))
    panel.invert_yaxis()
    panel.set(xscale="log", xlabel="restarts until failure has probability 1%")
    return plot.captioned(
        figure, "How many restarts a problem needs, with exact 95% intervals (arrows: at least)."
    )


FIGURES = {"sigma": sigma_figure, "dimension": dimension_figure}


def easier(easy: str, hard: str) -> ax.Quantity:
    """The difference of the success rates of two groups that start from centre layers."""
    solved = ax.column("train/solved", centre=LAYERS)
    name = f"success rate: {problem_of(easy)} − {problem_of(hard)}"
    return (solved[easy] - solved[hard]).named(name)


def around(centre: str, better: float, worse: float) -> ax.Quantity:
    """The difference of the success rates at two σ around a centre."""
    solved = ax.column("train/solved", by="sigma", centre=centre)
    name = f"success rate around a {centre}: σ = {better:g} − σ = {worse:g}"
    return (solved[better] - solved[worse]).named(name)


@ax.quantities
def best_over_ends(study: ax.Study):
    """Around zero, the success rate at the best σ less that at the smallest and the largest."""
    line = ax.selection.along(study, "sigma", centre=ZERO)
    if len(line) < 3:
        raise ax.Missing("fewer than three σ around zero")
    best = ax.selection.chosen(study, study.among(centre=ZERO))
    return {
        f"success rate around {ZERO}: best σ − σ = {end:g}": study.differences(
            best, line[end], "train/solved"
        )
        for end in (min(line), max(line))
    }


NOTES = "course notes, Practical Considerations of random restarts"
OURS = "our own question"
PARITY = [ax.BASELINE, *(f"{n} bits" for n in BITS[1:])]
NARROW = [f"{n} narrow layers" for n in DEPTHS]
CLAIMS = [
    ax.Claim(
        "stay-near-a-solution",
        "Around a solution restarts should be thrown a little way, not far.",
        NOTES,
        around(SOLUTION, 0.1, 10.0) > 0,
    ),
    ax.Claim(
        "go-far-from-a-trap",
        "Around a trap restarts should be thrown far, not a little way.",
        NOTES,
        around(TRAP, 3.0, 0.1) > 0,
    ),
    ax.Claim(
        "too-far-is-lost",
        "Around zero there is a best σ: much smaller and much larger ones succeed less often.",
        NOTES,
        best_over_ends > 0,
    ),
    ax.Claim(
        "dimension-needs-restarts",
        "Every further bit of parity needs more restarts.",
        NOTES,
        *(easier(few, more) > 0 for few, more in itertools.pairwise(PARITY)),
    ),
    ax.Claim(
        "two-more-bits-need-restarts",
        "Every two further bits of parity need more restarts.",
        NOTES,
        *(easier(few, more) > 0 for few, more in zip(PARITY, PARITY[2:], strict=False)),
    ),
    ax.Claim(
        "more-units-fewer-restarts-for-spirals",
        "The more units, and the more layers of as many, the fewer restarts do the spirals need.",
        OURS,
        easier("spirals, 16", "spirals, 8") > 0,
        easier("spirals, 8-8", "spirals, 16") > 0,
    ),
    ax.Claim(
        "narrow-and-deep-needs-restarts",
        "Narrow networks of rectified units need more restarts the deeper they are.",
        OURS,
        *(easier(shallow, deep) > 0 for shallow, deep in itertools.pairwise(NARROW)),
    ),
]
