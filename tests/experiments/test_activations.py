"""The study of activations in training: one step and what is watched, by hand; the claims."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from ablax.data.order import epoch_rows
from ablax.nn.activations import activation
from ablax.report.claims import judge_all
from ablax.report.quantities import NEGATIVE, POSITIVE
from ablax.report.study import Study
from ablax.study import snapshots
from ablax.task import at_step
from ablax.tasks.supervised import examples
from experiments import activations
from experiments.activations import CLAIMS, DEEP, GLOROT, HE, NAMES, RATES, STANDARD, Config, row
from tests.experiments import studies
from tests.experiments.studies import effects, made_up, task_of, trial_of, trials_of, untrained

launch = partial(studies.launch, "activations")
points = partial(studies.points_of, activations, "activations")


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The points that claims are about, of small networks and for a few steps."""
    table = [
        p | {"width": 6, "steps": 30, "eval_every": 15}
        for p in points()
        if p["activation"] in ("sigmoid", "tanh", "relu", "leaky_relu")
        and (p["activation"] != "leaky_relu" or "bias" in p)
        and p["learning_rate"] != 0.1
    ]
    out = tmp_path_factory.mktemp("short") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activations, "points", lambda config: table)
        return launch(out, "--restarts", 3)


def begun(config: Config, restart: int = 0):
    """(task, trial, the trial's data, its start)"""
    task, trial = task_of(activations, config), trial_of(config, restart)
    data = jax.tree.map(jnp.asarray, task.view(trial, task.data))
    return task, trial, data, task.init(trial, data)


def layers(params, depth: int) -> list[tuple]:
    """[(weights, biases)] from below."""
    names = [*(f"hidden_{i}" for i in range(depth)), "output"]
    return [(params[name]["weight"], params[name]["bias"]) for name in names]


def loss(pairs, f, x, y):
    """The mean cross-entropy of scores W f(… f(W x + b)) + b."""
    *hidden, (w, b) = pairs
    for weight, bias in hidden:
        x = f(x @ weight.T + bias[None])
    scores = x @ w.T + b[None]
    chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), y[:, None], axis=1)
    return -chosen.mean()


# Training


@pytest.mark.parametrize("name", ["sigmoid", "relu", "gelu"])
def test_a_step_and_what_is_watched_are_the_gradients(name):
    config = Config(activation=name, depth=3, width=8, steps=100)
    task, trial, data, state = begun(config)
    pairs = layers(state.params, 3)
    velocity = jax.tree.map(jnp.zeros_like, pairs)
    step, n_train = jax.jit(task.step), len(data["train"].rows)
    assert n_train == 1000
    slopes_of = jax.jit(jax.value_and_grad(lambda p, x, y: loss(p, activation(name), x, y)))
    for i in range(3):
        x, y = examples(data["train"], epoch_rows(data["order"], jnp.int32(i), 50, n_train))
        value, slopes = slopes_of(pairs, x.reshape(50, -1), y)
        rate = 0.1 * (1 + np.cos(np.pi * i / 100)) / 2
        velocity = jax.tree.map(lambda v, g: 0.9 * v - rate * g, velocity, slopes)  # noqa: B023
        pairs = jax.tree.map(jnp.add, pairs, velocity)
        state, metrics = step(state, at_step(trial, jnp.int32(i)), data)
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
        for layer, (slope, _) in enumerate(slopes):
            size = np.sqrt(np.square(np.float64(slope)).mean())
            np.testing.assert_allclose(metrics[f"gradient_{layer}"], size, rtol=1e-4)
        for result, expected in zip(jax.tree.leaves(layers(state.params, 3)),
                                   jax.tree.leaves(pairs), strict=True):  # fmt: skip
            np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)
    assert "gradient_4" not in metrics


def test_layers_are_told_from_below():
    """Also where there are more of them than one digit counts: gradient_10 is the output's."""
    config = Config(activation="tanh", depth=10, width=4)
    task, trial, data, state = begun(config)
    x, y = examples(data["train"], epoch_rows(data["order"], jnp.int32(0), 50, 1000))
    slopes = jax.grad(loss)(layers(state.params, 10), jnp.tanh, x.reshape(50, -1), y)
    metrics = jax.jit(task.step)(state, trial, data)[1]
    result = [float(metrics[f"gradient_{i}"]) for i in range(11)]
    expected = [np.sqrt(np.square(np.float64(w)).mean()) for w, _ in slopes]
    np.testing.assert_allclose(result, expected, rtol=1e-4)


def test_the_gain_scales_weights_and_the_bias_is_that_of_hidden_units():
    plain = begun(Config(width=40, depth=2))[3].params
    for gain, bias in [(STANDARD, 0.0), (HE, 0.0), (1.0, -2.0)]:
        params = begun(Config(width=40, depth=2, gain=gain, bias=bias))[3].params
        for name in ("hidden_0", "hidden_1", "output"):
            weight = params[name]["weight"]
            np.testing.assert_allclose(weight, gain * plain[name]["weight"], rtol=1e-6)
            shifted = 0.0 if name == "output" else bias
            assert (np.array(params[name]["bias"]) == shifted).all()
            variance = np.square(np.float64(weight)).mean() * weight.shape[1]
            np.testing.assert_allclose(variance, gain**2, rtol=0.15)
    np.testing.assert_allclose(
        [STANDARD**2, GLOROT**2, HE**2], [1 / 3, 1, 2], rtol=2e-3
    )  # fmt: skip


# What is measured of units

SLOPES = {"sigmoid": lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2,
          "relu": lambda z: np.float64(z > 0),
          "gelu": lambda z: norm.cdf(z) + z * norm.pdf(z)}  # fmt: skip
FUNCTIONS = {"sigmoid": lambda z: 1 / (1 + np.exp(-z)), "relu": lambda z: np.maximum(z, 0),
             "gelu": lambda z: z * norm.cdf(z)}  # fmt: skip


def units(params, name: str, depth: int, x: np.ndarray) -> dict[str, float]:
    """Shares of units and examples: where f is flat, where f is 0; units that are never on."""
    z, h = [], np.float64(x).reshape(len(x), -1)
    for weight, bias in layers(params, depth)[:-1]:
        z.append(h @ np.float64(weight).T + np.float64(bias))
        h = FUNCTIONS[name](z[-1])
    z = np.stack(z)
    return {
        "flat": (np.abs(SLOPES[name](z)) < 0.005).mean(),
        "off": (z < 0).all(axis=1).mean(),
        "zeros": (FUNCTIONS[name](z) == 0).mean(),
    }


def test_units_are_measured_on_every_split(smoke):
    rows = trials_of(smoke).set_index("trial")
    for name in ("sigmoid", "relu"):
        variables = snapshots.load(smoke, f"activation={name}")
        assert len(variables) == 3
        for trial, params in variables.items():
            task = task_of(activations, Config(activation=name, depth=2, width=8))
            recorded = rows.loc[trial]
            view = task.view(trial_of(Config(), recorded["restart"]), task.data)
            for part in ("train", "valid", "test"):
                x, _ = examples(view[part])
                for measure, share in units(params, name, 2, np.array(x)).items():
                    np.testing.assert_allclose(recorded[f"{part}/{measure}"], share, atol=2e-3)
    relu = rows[rows["activation"] == "relu"]
    assert (relu["train/zeros"] > 0.1).all()
    assert (rows.loc[rows["activation"] == "sigmoid", "train/zeros"] == 0).all()


def test_units_that_are_off_for_some_are_not_off():
    """With large weights sigmoids are flat; with a low bias units of ReLU are off for all.

    GELU is not flat where it falls.
    """
    low = {"bias": -2.0, "depth": 1}
    for name, fields in [("relu", low), ("gelu", low), ("sigmoid", {"gain": 30.0}),
                         ("sigmoid", {"bias": -7.0}), ("relu", {})]:  # fmt: skip
        config = Config(**{"activation": name, "depth": 2, "width": 16} | fields)
        task, trial, _, state = begun(config)
        metrics = jax.jit(partial(task.evaluate, split=task.data["test"]))(state.params, trial)
        expected = units(state.params, name, config.depth, np.array(task.data["test"].x))
        for measure, share in expected.items():
            total, count = metrics[measure]
            np.testing.assert_allclose(total / count, share, atol=2e-3)
        if fields:
            assert max(expected["off"], expected["flat"]) > 0.3
    assert 0.2 < expected["zeros"] < 0.8
    assert expected["off"] < 0.3


# The study and its points


def test_every_network_is_trained_once(smoke):
    rows = trials_of(smoke)
    assert len(rows) == rows["trial"].nunique() == 6
    assert set(rows["status"]) == {"done"}
    result = rows.groupby("activation")["restart"].apply(sorted).to_dict()
    assert result == {"relu": [0, 1, 2], "sigmoid": [0, 1, 2]}
    written = {path.name for path in (smoke / "report").iterdir()}
    assert {"gradients.png", "accuracy.png", "units.png"} <= written


def test_the_table_has_networks_of_two_depths_at_three_rates():
    table = points()
    assert len(table) == (3 * 3 + 4) * 2 * 3 + 2 * 3
    groups: dict[str, list] = {}
    for point in table:
        groups.setdefault(point["group"], []).append(point)
    for group, some in groups.items():
        assert [p["learning_rate"] for p in some] == list(RATES) == [0.03, 0.1, 0.3]
        assert len({tuple(v for k, v in p.items() if k != "learning_rate") for p in some}) == 1
        point = some[0]
        if "off at first" in group:
            assert (point["depth"], point["bias"]) == (1, -2.0)
            assert group == f"{point['activation']}, off at first"
            continue
        words = {"standard": 0.577, "Glorot": 1.0, "He": 1.414}
        name, depth, weights = group.split(", ")
        assert (point["activation"], f"{point['depth']} layers") == (name, depth)
        assert point["gain"] == words[weights]
        assert "bias" not in point
    assert groups.keys() >= set(OFF)
    for name in NAMES:
        gains = {p["gain"] for p in table if p["activation"] == name and "gain" in p}
        he = {"leaky_relu", "gelu"}
        alone = {HE} if name in he else {GLOROT}
        assert gains == ({STANDARD, GLOROT, HE} if name in NAMES[:3] else alone)
    assert points("--restarts", 2) == table
    assert points("--preset", "smoke") == [{"activation": name} for name in ("sigmoid", "relu")]


AXES = {"activation": ("elu", "relu"), "depth": (2, 3), "width": (4, 8), "batch_size": (10, 20),
        "gain": (0.5, 1.0), "bias": (0.0, 1.0), "learning_rate": (0.5, 2.0),
        "momentum": (0.0, 0.5), "steps": (10, 20), "eval_every": (5, 10), "patience": (2.0, 3.0),
        "min_delta": (0.0, 0.1), "fix": ("init", "order")}  # fmt: skip


def test_every_field_is_an_axis():
    """Its values, and no others, each with the same rest of the table."""
    studies.check_axes(activations, points, AXES)


# The claims


def test_the_tiny_study_can_be_judged(smoke, monkeypatch):
    untrained(monkeypatch)
    judged = judge_all(CLAIMS, Study(smoke))
    assert not any(judgement.parts for judgement in judged)
    assert {judgement.verdict for judgement in judged} == {"inconclusive"}


LOSS, ACCURACY = "train/loss", "test/accuracy"
OFF = [f"{name}, off at first" for name in ("leaky_relu", "relu")]
DIFFERENCES = {
    "tanh-trains-faster-than-sigmoid": [
        (LOSS, f"tanh, {n} layers, Glorot", f"sigmoid, {n} layers, Glorot", NEGATIVE, {})
        for n in (2, 6)
    ],
    "relu-trains-better-at-no-cost": [
        (LOSS, "relu, 6 layers, He", "sigmoid, 6 layers, Glorot", NEGATIVE, {}),
        (ACCURACY, "relu, 2 layers, He", "sigmoid, 2 layers, Glorot", (-0.01, 1.0), {}),
        (ACCURACY, "relu, 6 layers, He", "sigmoid, 6 layers, Glorot", (-0.01, 1.0), {}),
    ],
    "glorot-table-1": [
        (ACCURACY, "tanh, 6 layers, standard", "sigmoid, 6 layers, standard", POSITIVE, {}),
        (ACCURACY, "tanh, 6 layers, Glorot", "tanh, 6 layers, standard", POSITIVE, {}),
    ],
    "leaky-relu-revives": [
        ("train/off", *OFF, NEGATIVE, {}),
        (ACCURACY, *OFF, POSITIVE, {}),
    ],
}
OTHERS = {"gradients-vanish-in-training", "relu-is-sparse", "large-rates-cost-units"}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_differences_are_those_of_the_trials(short, name, monkeypatch):
    untrained(monkeypatch)
    table = Study(short)
    studies.check_differences(activations, name, table, DIFFERENCES[name], "valid/loss", -1)


def test_every_claim_is_tested_here(short, monkeypatch):
    untrained(monkeypatch)
    assert {claim.id for claim in CLAIMS} == DIFFERENCES.keys() | OTHERS
    assert all(judgement.parts for judgement in judge_all(CLAIMS, Study(short)))


def test_first_hidden_layer_against_last_over_training(short):
    rows, curves = trials_of(short), pd.read_parquet(short / "curves.parquet")

    def ratios(name: str, gain: float) -> np.ndarray:
        group = row(name, DEEP, gain)
        chosen = studies.by_the_others(rows, group, "learning_rate", "valid/loss", -1)
        result = []
        for restart, rate in chosen.items():
            here = (rows["group"] == group) & (rows["restart"] == restart)
            (trial,) = rows.loc[here & np.isclose(rows["learning_rate"], rate), "trial"]
            curve = np.log10(curves[curves["trial"] == trial].filter(like="gradient").dropna())
            assert len(curve) == 2
            result.append((curve["train/gradient_0"] - curve["train/gradient_5"]).mean())
        return np.array(result, np.float64)

    result = effects(activations, "gradients-vanish-in-training", Study(short))
    own = {"sigmoid": GLOROT, "tanh": GLOROT, "relu": HE}
    for effect, (a, b) in zip(result, [("tanh", "sigmoid"), ("relu", "tanh")], strict=True):
        np.testing.assert_allclose(
            effect.values, ratios(a, own[a]) - ratios(b, own[b]), rtol=1e-4, atol=1e-6
        )
        assert effect.expected == POSITIVE
        assert effect.measured.endswith(f": {row(a, DEEP)} − {row(b, DEEP)}")
    assert (result[0].values > 0).all()


def test_zeros_are_those_of_trained_relu(short):
    rows = trials_of(short)
    result = effects(activations, "relu-is-sparse", Study(short))
    for effect, depth in zip(result, (2, 6), strict=True):
        group = f"relu, {depth} layers, He"
        expected = studies.by_the_others(rows, group, "train/zeros", "valid/loss", -1)
        np.testing.assert_allclose(effect.values, expected.to_numpy(), rtol=1e-6)
        assert effect.expected == (0.4, 0.6)
        assert effect.measured.endswith(f", {depth} layers")


def test_units_are_counted_at_the_largest_and_the_smallest_rate(short):
    rows, result = trials_of(short), effects(activations, "large-rates-cost-units", Study(short))
    expected = [
        ("tanh", 1.0, "train/flat", "near 0, tanh"),
        ("relu", 1.414, "train/off", "off, ReLU"),
    ]
    for effect, (name, gain, column, words) in zip(result, expected, strict=True):
        here = (rows["activation"] == name) & (rows["depth"] == 2) & np.isclose(rows["gain"], gain)
        ours = rows[here].sort_values("restart")
        high, low = (ours.loc[np.isclose(ours["learning_rate"], rate), column].to_numpy(np.float64)
                     for rate in (0.3, 0.03))  # fmt: skip
        assert len(high) == len(low) == 3
        np.testing.assert_allclose(effect.values, high - low, rtol=1e-9)
        assert effect.expected == POSITIVE
        assert effect.measured.endswith(f"{words}: rate 0.3 − rate 0.03")


# Figures


def test_units_are_drawn_by_learning_rate_and_depth(tmp_path):
    """Each activation with the weights made for it; what is flat above, what is off below."""
    rates = (0.3, 0.03)
    settings = [six_layers("relu", gain) | {"depth": depth, "learning_rate": rate}
                for gain in (HE, STANDARD) for depth in (2, 6) for rate in rates]  # fmt: skip
    shares = np.random.default_rng(0).random((2, 4 * len(settings)))
    columns = dict(zip(("train/flat", "train/off"), shares, strict=True))
    table = made_up(tmp_path, settings, columns)
    axes = activations.FIGURES["units"](table).axes
    for place, panel in enumerate(axes):
        (line,) = [dots.lines[0].get_xydata() for dots in panel.containers]
        first = 2 * (place % 2)  # of the depth
        mean = shares[place // 2].reshape(-1, 4).mean(axis=1)[first : first + 2]
        np.testing.assert_allclose(line, [(0.03, mean[1]), (0.3, mean[0])])
        share = ("slopes below 0.005", "units never above 0")[place // 2]
        assert panel.get_title() == f"{share}, {(2, 6)[place % 2]} hidden layers"


def six_layers(name: str, gain: float) -> dict:
    settings = {"activation": name, "depth": 6, "gain": gain, "bias": 0.0}
    return {"group": row(name, 6, gain)} | settings


def test_gradients_are_drawn_at_the_start_and_at_the_end(tmp_path):
    """Gradients at the weights made for each activation, as logarithms; one that is 0 is finite."""
    settings = [six_layers(name, gain) for name in ("tanh", "relu") for gain in (GLOROT, HE)]
    table = made_up(tmp_path, settings, restarts=2)
    powers = np.random.default_rng(0).random((8, 3, 6))
    steps = [{"trial": f"{i // 2}/{i % 2}", "step": step, "at": (i, n)}
             for i in range(8) for n, step in enumerate((5, 10, 15))]  # fmt: skip
    columns = {f"train/gradient_{layer}": powers[..., layer].ravel() for layer in range(6)}
    table.curves = pd.DataFrame(steps).assign(**{k: 10.0**-v for k, v in columns.items()})
    table.curves.loc[0, "train/gradient_0"] = 0.0
    powers[0, 0, 0] = 30
    for panel, when in zip(activations.gradients_figure(table).axes, (0, 2), strict=True):
        lines = {line.get_label(): line.lines[0] for line in panel.containers}
        assert list(lines) == ["tanh", "relu"]
        for name, trials in [("tanh", [0, 1]), ("relu", [6, 7])]:
            assert lines[name].get_xdata().tolist() == [1, 2, 3, 4, 5, 6]
            expected = -powers[trials, when].mean(axis=0)
            np.testing.assert_allclose(lines[name].get_ydata(), expected, rtol=1e-9)


def test_accuracies_are_drawn_in_rows_for_every_size_of_weights(tmp_path):
    settings = [six_layers("tanh", STANDARD), six_layers("relu", HE), six_layers("gelu", HE)]
    settings += [six_layers("relu", HE) | {"group": "relu, off at first", "depth": 1, "bias": -2.0}]
    table = made_up(tmp_path, settings)
    (panel,) = activations.FIGURES["accuracy"](table).axes
    assert panel.get_title() == "6 hidden layers"
    names = [label.get_text() for label in panel.get_yticklabels()]
    assert names == ["tanh, 6 layers, standard", "relu, 6 layers, He", "gelu, 6 layers, He"]
    drawn = [dot.lines[0].get_xydata()[0] for dot in panel.containers]
    means = [table.numbers(str(i), "test/accuracy").mean() for i in range(3)]
    np.testing.assert_allclose(drawn, list(zip(means, range(3), strict=True)), rtol=1e-12)


def test_a_study_of_ones_own_activations_is_drawn(smoke):
    """There each has the gain that the study has, whether or not it was made for it."""
    (panel, _) = activations.gradients_figure(Study(smoke)).axes
    assert [line.get_label() for line in panel.containers] == ["sigmoid", "relu"]
    (panel,) = activations.FIGURES["accuracy"](Study(smoke)).axes
    names = [label.get_text() for label in panel.get_yticklabels()]
    assert names == ["activation=sigmoid", "activation=relu"]
    assert len(panel.containers) == 2


def test_a_diverged_restart_leaves_the_ratios_of_the_others(tmp_path):
    gains = {"sigmoid": GLOROT, "tanh": GLOROT, "relu": HE}
    table = made_up(tmp_path, [six_layers(*own) for own in gains.items()], restarts=3)
    logs = {"0/0": [1], "0/1": [0, 2], "0/2": [7, 8],
            "1/0": [5, 4], "1/1": [3, 2], "1/2": [],
            "2/0": [9], "2/1": [2, 6], "2/2": [1, 1]}  # fmt: skip
    rows = [{"trial": trial, "step": 10 * n if len(result) > 1 else 7,
             **{f"train/gradient_{i}": 10.0 ** (log if i == 0 else 0) for i in range(6)}}
            for trial, result in logs.items() for n, log in enumerate(result)]  # fmt: skip
    table.curves = pd.DataFrame(rows)
    tanh, relu = effects(activations, "gradients-vanish-in-training", table)
    np.testing.assert_allclose(tanh.values, [4.5 - 1, 2.5 - 1, np.nan], rtol=1e-12)
    np.testing.assert_allclose(relu.values, [9 - 4.5, 4 - 2.5, np.nan], rtol=1e-12)
    for draw in (activations.gradients_figure, activations.FIGURES["accuracy"]):
        assert any(panel.has_data() for panel in draw(table).axes)


def test_figures_show_what_the_study_has(short):
    figures = {name: draw(Study(short)) for name, draw in activations.FIGURES.items()}
    assert list(figures) == ["gradients", "accuracy", "units"]
    assert all(any(panel.has_data() for panel in figure.axes) for figure in figures.values())
    titles = [panel.get_title() for panel in figures["accuracy"].axes]
    assert titles == ["2 hidden layers", "6 hidden layers"]
    names = figures["gradients"].axes[0].get_legend_handles_labels()[1]
    assert set(names) == {"sigmoid", "tanh", "relu"}
