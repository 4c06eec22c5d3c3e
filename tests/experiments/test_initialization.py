"""The study of signals in untrained networks: both passes against NumPy; what claims compute."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ablax.report import selection
from ablax.report.claims import judge_all
from ablax.report.quantities import POSITIVE
from ablax.report.study import Study
from ablax.rundir.store import read_array
from experiments import initialization
from experiments.initialization import CLAIMS, GLOROT, HE, NAMES, SMALL, STANDARD, Config
from tests.experiments import studies
from tests.experiments.studies import effects, made_up, task_of, trial_of, trials_of, untrained

launch = partial(studies.launch, "initialization")
points = partial(studies.points_of, initialization, "initialization")


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The points that claims are about, of smaller networks."""
    small = {"depth": 4, "width": 24}
    jacobian = {"width": 24, "depth": 4, "jacobians": 2}
    table = [
        p | (jacobian if "jacobians" in p else small)
        for p in points()
        if p.get("activation", "tanh") in ("sigmoid", "tanh", "relu", "selu")
    ]
    out = tmp_path_factory.mktemp("short") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(initialization, "points", lambda config: table)
        return launch(out, "--restarts", 3)


# Both passes, in NumPy and float64

SELU, ALPHA = 1.0507009873554805, 1.6732632423543772
FUNCTIONS = {  # (f, f')
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: np.float64(z > 0)),
    "selu": (lambda z: SELU * np.where(z > 0, z, ALPHA * np.expm1(z)),
             lambda z: SELU * np.where(z > 0, 1, ALPHA * np.exp(z))),
}  # fmt: skip


def drawn(config: Config, restart: int = 0):
    """(inputs, weights of every layer, gradient above the last) as the task draws them."""
    n = config.width
    keys = jax.random.split(trial_of(config, restart).rng("init"), config.depth + 2)
    uniform = [jax.random.uniform(key, (n, n), minval=-1, maxval=1) for key in keys[2:]]
    x, last = (np.float64(jax.random.normal(key, (n, 64))) for key in keys[:2])
    weights = [np.float64(w) * np.sqrt(3 * config.variance / n) for w in uniform]
    return config.input_mean + config.input_scale * x, weights, last


def rms(a) -> float:
    return float(np.sqrt(np.square(a).mean()))


def passes(config: Config, restart: int = 0) -> dict:
    """Up and down: what each layer gives, and the gradient at what it gets before f."""
    f, slope = FUNCTIONS[config.activation]
    x, weights, g = drawn(config, restart)
    z, a = [], []
    for w in weights:
        z.append(w @ (a[-1] if a else x))
        a.append(f(z[-1]))
    gradients = []
    for w, at in zip(weights[::-1], z[::-1], strict=True):
        below = g * slope(at)
        gradients.insert(0, rms(below))
        g = w.T @ below
    between = [
        weights[i + 1] * slope(z[i][:, 0]) for i in range(config.jacobians)
    ]  # ∂z⁺/∂z = W⁺ diag f'(z) at the first input
    return {
        "activations": [rms(layer) for layer in a],
        "gradients": gradients,
        "mean": a[-1].mean(),
        "variance_at_end": a[-1].var(),
        "zeros": np.mean([(layer == 0).mean() for layer in a]),
        "jacobians": between,
    }


@cache
def compiled(config: Config):
    task = task_of(initialization, config)
    return task, jax.jit(task.init)


def measured(config: Config, restart: int = 0) -> dict:
    (task, init), trial = compiled(config), trial_of(config, restart)
    state = init(trial, {})
    metrics = jax.tree.map(np.float64, dict(task.measure(state, trial)))
    total, count = task.evaluate(state, trial, None)["log_gradient"]
    return metrics | {"log_gradient": float(total) / float(count)}


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_both_passes_are_the_formula(activation):
    for fields in ({}, {"variance": HE, "input_mean": 0.5, "input_scale": 1.5}):
        config = Config(activation=activation, depth=5, width=24, **fields)
        expected, result = passes(config), measured(config)
        for name in ("activations", "gradients"):
            assert len(result[name]) == 5
            np.testing.assert_allclose(result[name], expected[name], rtol=2e-5)
        for name in ("mean", "variance_at_end", "zeros"):
            np.testing.assert_allclose(result[name], expected[name], rtol=2e-4, atol=1e-5)
        ratio = np.log10(expected["gradients"][0] / expected["gradients"][-1])
        np.testing.assert_allclose(result["log_gradient"], ratio, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_that_of_jax():
    """Gradients of Σ g·a at each z, through the network written out, not the task's own slopes."""
    config = Config(depth=3, width=16)
    x, weights, last = (jax.tree.map(jnp.float32, part) for part in drawn(config))

    def above(nudges):
        a = x
        for w, nudge in zip(weights, nudges, strict=True):
            a = jnp.tanh(w @ a + nudge)
        return (a * last).sum()

    slopes = jax.grad(above)([jnp.zeros_like(x)] * 3)
    np.testing.assert_allclose(measured(config)["gradients"], list(map(rms, slopes)), rtol=2e-5)


@pytest.mark.parametrize("variance", [STANDARD, GLOROT, HE])
def test_weights_have_the_variance_that_is_stated(variance):
    """The first layer shows it: n·Var(w) = E[z²] / E[x²]."""
    config = Config(activation="identity", depth=2, width=64, variance=variance)
    result = [measured(config, restart)["activations"][0] ** 2 for restart in range(8)]
    np.testing.assert_allclose(np.mean(result), variance, rtol=0.05)
    _, weights, _ = drawn(config)
    largest = np.abs(weights).max()
    np.testing.assert_allclose(largest, np.sqrt(3 * variance / 64), rtol=1e-2)
    if variance == STANDARD:
        assert largest <= 1 / np.sqrt(64)


def test_the_mean_singular_value_is_numpys():
    """Lanczos's quadrature takes random probes: to a few percent over 24 of them."""
    for variance, scale in [(STANDARD, SMALL), (GLOROT, 1.0)]:
        config = Config(
            width=40, depth=4, jacobians=2, variance=variance, input_scale=scale
        )  # fmt: skip
        values = [
            (
                np.linalg.svd(jacobian, compute_uv=False).mean(),
                measured(config, r)["singular_value"],
            )
            for r in range(6)
            for jacobian in [np.stack(passes(config, r)["jacobians"])]
        ]
        expected, result = np.transpose(values)
        np.testing.assert_allclose(result, expected, rtol=0.25)
        np.testing.assert_allclose(result.mean(), expected.mean(), rtol=0.04)
    assert "singular_value" not in measured(Config(width=8, depth=2))


def test_selu_ends_at_mean_0_and_variance_1():
    f, _ = FUNCTIONS["selu"]
    points, weights = np.polynomial.hermite_e.hermegauss(200)
    weights = weights / weights.sum()
    mean = (weights * f(points)).sum()
    np.testing.assert_allclose([mean, (weights * f(points) ** 2).sum() - mean**2], [0, 1],
                               atol=2e-3)  # fmt: skip
    for moved in ({}, {"input_mean": 0.5, "input_scale": 1.5}):
        wide = Config(activation="selu", width=256, depth=20, **moved)
        result = measured(wide)
        np.testing.assert_allclose(result["mean"], 0, atol=0.1)
        np.testing.assert_allclose(result["variance_at_end"], 1, atol=0.25)


# The study


def test_every_network_is_measured_once(smoke):
    rows = trials_of(smoke)
    assert len(rows) == rows["trial"].nunique() == 8
    assert set(rows["status"]) == {"done"}
    result = rows.groupby("activation")["restart"].apply(sorted).to_dict()
    assert result == {"tanh": [0, 1, 2, 3], "selu": [0, 1, 2, 3]}
    assert (smoke / "report" / "layers.png").exists()


def test_rows_and_arrays_are_those_of_the_passes(smoke):
    arrays = {
        name: read_array(smoke / "arrays" / f"{name}.parquet")
        for name in ("activations", "gradients")
    }
    for row in trials_of(smoke).to_dict("records"):
        config = Config(activation=row["activation"], depth=6, width=32)
        expected = passes(config, row["restart"])
        for name, of_trials in arrays.items():
            np.testing.assert_allclose(of_trials[row["trial"]], expected[name], rtol=1e-4)
        for name in ("mean", "variance_at_end", "zeros"):
            np.testing.assert_allclose(row[name], expected[name], rtol=1e-3, atol=1e-5)
        ratio = np.log10(expected["gradients"][0] / expected["gradients"][-1])
        for split in ("train", "valid", "test"):
            np.testing.assert_allclose(row[f"{split}/log_gradient"], ratio, rtol=1e-3, atol=1e-5)


# The points


def test_the_table_has_every_activation_with_every_variance():
    table = points()
    assert table[0] == {"group": "baseline"}
    pairs = {(p["activation"], p["variance"]) for p in table if "variance" in p and
             "activation" in p}  # fmt: skip
    assert len(NAMES) == 7
    assert pairs | {("tanh", 1.0)} == {(name, v) for name in NAMES for v in (1 / 3, 1.0, 2.0)}
    assert len(table) == 1 + 20 + 1 + 4
    (moved,) = [p for p in table if "input_mean" in p]
    assert (moved["activation"], moved["input_mean"], moved["input_scale"]) == ("selu", 0.5, 1.5)
    jacobians = [p for p in table if "jacobians" in p]
    assert {(p["variance"], p["input_scale"]) for p in jacobians} == {
        (v, scale) for v in (1 / 3, 1.0) for scale in (0.3, 1.0)
    }
    assert points("--restarts", 2) == table
    assert points("--preset", "smoke") == [{"activation": name} for name in ("tanh", "selu")]


AXES = {"activation": ("elu", "relu"), "depth": (2, 3), "width": (4, 8), "jacobians": (0, 1),
        "variance": (0.5, 1.0), "input_mean": (0.0, 1.0), "input_scale": (0.5, 2.0),
        "steps": (1, 2), "eval_every": (1, 2), "patience": (2.0, 3.0), "min_delta": (0.0, 0.1),
        "fix": ("init", "order")}  # fmt: skip


def test_every_field_is_an_axis():
    """Its values, and no others, each with the same rest of the table."""
    studies.check_axes(initialization, points, AXES)


# The claims


def test_the_tiny_study_can_be_judged(smoke, monkeypatch):
    untrained(monkeypatch)
    judged = judge_all(CLAIMS, Study(smoke))
    assert not any(judgement.parts for judgement in judged)
    assert {judgement.verdict for judgement in judged} == {"inconclusive"}


def column(rows, name: str, **where) -> np.ndarray:
    for field, value in where.items():
        same = rows[field] == value if isinstance(value, str) else np.isclose(rows[field], value)
        rows = rows[same]
    assert len(rows) == 3
    return rows.sort_values("restart")[name].to_numpy(np.float64)


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("gradients-vanish", {"sigmoid": GLOROT, "tanh": GLOROT, "relu": HE}),
        ("gradients-vanish-at-equal-weights", {"sigmoid": 1.0, "tanh": 1.0, "relu": 1.0}),
    ],
)
def test_more_of_the_gradient_reaches_the_first_layer(short, name, at):
    rows = trials_of(short)
    rows = rows[(rows["jacobians"] == 0) & (rows["input_mean"] == 0)]
    result = effects(initialization, name, Study(short))
    for effect, (first, second) in zip(
        result, [("tanh", "sigmoid"), ("relu", "tanh")], strict=True
    ):
        a, b = (
            column(rows, "test/log_gradient", activation=f, variance=at[f])
            for f in (first, second)
        )  # fmt: skip
        np.testing.assert_allclose(effect.values, a - b, rtol=1e-6)
        assert effect.expected == POSITIVE
    assert (result[0].values > 0).all()


WITHIN = {  # (column, bounds, where) of every effect
    "half-of-relu-is-zero": [
        ("zeros", (0.45, 0.55), {"activation": "relu", "variance": v})
        for v in (STANDARD, GLOROT, HE)
    ],
    "jacobian-standard": [
        ("singular_value", (0.45, 0.55),
         {"group": "Jacobian", "variance": STANDARD, "input_scale": SMALL})
    ],
    "jacobian-normalized": [
        ("singular_value", (0.75, 0.85),
         {"group": "Jacobian", "variance": 1.0, "input_scale": SMALL})
    ],
    "selu-normalizes-itself": [
        (name, bounds, {"activation": "selu", "variance": 1.0, "input_mean": mean})
        for mean in (0.0, 0.5)
        for name, bounds in [("mean", (-0.1, 0.1)), ("variance_at_end", (0.8, 1.2))]
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", WITHIN)
def test_values_are_those_of_the_right_points(short, name):
    rows, result = trials_of(short), effects(initialization, name, Study(short))
    for effect, (measure, bounds, where) in zip(result, WITHIN[name], strict=True):
        np.testing.assert_allclose(effect.values, column(rows, measure, **where), rtol=1e-6)
        assert effect.expected == bounds


def test_every_claim_is_tested_here(short, monkeypatch):
    untrained(monkeypatch)
    gradients = {"gradients-vanish", "gradients-vanish-at-equal-weights"}
    assert {claim.id for claim in CLAIMS} == WITHIN.keys() | gradients
    assert all(judgement.parts for judgement in judge_all(CLAIMS, Study(short)))


def test_the_figure_has_a_panel_for_each_variance_and_direction(short):
    study = Study(short)
    assert list(initialization.FIGURES) == ["layers"]
    panels = [panel for panel in initialization.layers_figure(study).axes if panel.has_data()]
    assert len(panels) == 2 * 3
    arrays, rows = study.array("gradients"), trials_of(short)
    for panel, variance in zip(panels[3:], (STANDARD, GLOROT, HE), strict=True):
        lines = {line.get_label(): line.get_ydata() for line in panel.lines}
        assert {"sigmoid", "tanh", "relu", "selu"} <= lines.keys()
        same = np.isclose(rows["variance"], variance) & (rows["activation"] == "relu")
        each = np.log(np.stack([arrays[trial] for trial in rows.loc[same, "trial"]]))
        np.testing.assert_allclose(lines["relu"], np.exp(each.mean(axis=0)), rtol=1e-4)


def test_a_line_has_the_layers_of_one_depth_whatever_restarts_choose(tmp_path):
    """Where a study has two depths, some restarts choose the one, some the other."""
    defaults = vars(initialization.PRESETS["default"].config)
    depths = [defaults | {"group": "tanh", "depth": depth} for depth in (4, 5)]
    objective = {"name": "loss", "direction": "min"}
    study = made_up(tmp_path, depths, restarts=4, objective=objective)
    (chosen,) = selection.along(study, "activation").values()
    assert len(set(chosen.by_restart.values())) == 2
    rows = study.trials
    layers = {trial: np.ones(n) for trial, n in zip(rows["trial"], rows["depth"], strict=True)}
    study.array = lambda name: layers
    panels = initialization.layers_figure(study).axes
    lengths = {len(line.get_xdata()) for panel in panels for line in panel.lines}
    assert lengths == {study.settings[chosen.point]["depth"]}
