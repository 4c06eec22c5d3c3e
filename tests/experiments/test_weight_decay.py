"""The study of penalty and decay: one step by hand, who is paired with whom, the claims."""

from functools import partial

import jax
import numpy as np
import pytest

from ablax.data.order import epoch_rows
from ablax.errors import Missing
from ablax.report.claims import judge_all
from ablax.report.study import Study
from ablax.rundir.store import read_array
from ablax.study import snapshots
from ablax.task import at_step
from ablax.tasks.supervised import examples
from experiments import weight_decay
from experiments.weight_decay import RATES, SAME, STRENGTHS, Config, pairs
from tests.experiments import studies
from tests.experiments.studies import effects, made_up, task_of, trial_of, trials_of, untrained

launch = partial(studies.launch, "weight_decay")
points = partial(studies.points_of, weight_decay, "weight_decay")
RATE, STRENGTH = 0.05, 0.1


def stepped(n: int = 1, **fields):
    """(weights and biases before, after n steps, the first minibatch)."""
    config = Config(width=8, learning_rate=RATE, **fields)
    task, trial = task_of(weight_decay, config), trial_of(config)
    data = task.view(trial, {name: part for name, part in task.data.items() if name != "test"})
    before = state = task.init(trial, data)
    step = jax.jit(task.step)
    for i in range(n):
        state, _ = step(state, at_step(trial, np.int32(i)), data)
    n_train = len(data["train"].rows)
    batch = examples(data["train"], epoch_rows(data["order"], np.int32(0), 64, n_train))
    return *(jax.tree.map(np.float64, s.params) for s in (before, state)), batch


def gradient(params, x, y):
    """The gradient of the mean cross-entropy of a ReLU network of one hidden layer, in float64."""
    hidden, output = params["hidden_0"], params["output"]
    x, y = np.float64(x).reshape(len(x), -1), np.array(y)
    z = x @ hidden["weight"].T + hidden["bias"]
    h = np.maximum(z, 0)
    scores = h @ output["weight"].T + output["bias"]
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    d = (p / p.sum(axis=1, keepdims=True) - np.eye(10)[y]) / len(y)
    back = d @ output["weight"] * (z > 0)
    return {
        "hidden_0": {"weight": back.T @ x, "bias": back.sum(axis=0)},
        "output": {"weight": d.T @ h, "bias": d.sum(axis=0)},
    }


def by_hand(params, batch, update, *, penalty: float = 0.0, decay: float = 0.0):
    """One step: the update of gradient + 2λw, from w(1 − η·decay); biases are left out of both."""
    grads = gradient(params, *batch)

    def leaf(layer, kind):
        w, g = params[layer][kind], grads[layer][kind]
        of_weight = kind == "weight"
        return w * (1 - RATE * decay * of_weight) - update(g + 2 * penalty * w * of_weight)

    return {layer: {kind: leaf(layer, kind) for kind in params[layer]} for layer in params}


UPDATES = {  # of the first step
    "sgd": lambda g: RATE * g,
    "momentum": lambda g: RATE * g,
    "adam": lambda g: RATE * g / (np.abs(g) + 1e-8),
}


def close(a, b, tolerance: float) -> bool:
    near = jax.tree.map(lambda x, y: np.allclose(x, y, rtol=0, atol=tolerance), a, b)
    return all(jax.tree.leaves(near))


@pytest.mark.parametrize("optimizer", UPDATES)
def test_one_step_is_the_formula(optimizer):
    update = UPDATES[optimizer]
    # Where Adam divides a gradient near 0 by its size, float32 and float64 part.
    tolerance = 1e-6 if optimizer != "adam" else 1e-3
    for settings, strengths in [
        ({}, {}),
        ({"l2": STRENGTH}, {"penalty": STRENGTH}),
        ({"weight_decay": 2 * STRENGTH}, {"decay": 2 * STRENGTH}),
    ]:
        before, after, batch = stepped(optimizer=optimizer, **settings)
        assert close(after, by_hand(before, batch, update, **strengths), tolerance), settings
        assert not close(after, before, tolerance)


def ends(optimizer: str, n: int) -> tuple[dict, dict]:
    """(with the penalty λ, with the decay 2λ) after n steps."""
    penalty = stepped(n, optimizer=optimizer, l2=STRENGTH)[1]
    return penalty, stepped(n, optimizer=optimizer, weight_decay=2 * STRENGTH)[1]


def test_with_sgd_the_penalty_is_the_decay_however_long():
    assert close(*ends("sgd", 1), 1e-6)
    assert close(*ends("sgd", 20), 1e-5)
    without = stepped(20, optimizer="sgd")[1]
    assert not close(ends("sgd", 20)[0], without, 1e-2), "it does something"


def test_with_momentum_they_part_at_the_second_step():
    assert close(*ends("momentum", 1), 1e-6)
    assert not close(*ends("momentum", 2), 1e-4)


def test_with_adam_they_part_at_once():
    assert not close(*ends("adam", 1), 1e-3)


# Who is paired with whom


@pytest.fixture
def table_of(tmp_path):
    defaults = {"optimizer": "sgd", "width": 32, "batch_size": 64, "learning_rate": 0.1,
                "fix": "none", "l2": 0.0, "weight_decay": 0.0}  # fmt: skip
    return lambda settings: made_up(tmp_path, [defaults | s for s in settings])


def apart(table: Study, a: str, b: str) -> set[str]:
    """The settings in which two points differ."""
    ours, theirs = table.settings[a], table.settings[b]
    return {name for name in ours | theirs if ours.get(name) != theirs.get(name)}


def test_the_table_pairs_every_strength_once(table_of):
    for optimizer in RATES:
        table = table_of(points())
        result = pairs(table, optimizer)
        for strength, (penalty, decay) in zip(STRENGTHS, result, strict=True):
            assert apart(table, penalty, decay) == {"group", "l2", "weight_decay"}
            assert table.settings[penalty]["optimizer"] == optimizer
            assert table.settings[penalty]["l2"] == strength
            assert table.settings[decay]["weight_decay"] == 2 * strength


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["--l2", 0, 1e-3, "--weight-decay", 0, 2e-3, 4e-3], [(1e-3, 2e-3)]),
        (["--l2", 0, 1e-3, 2e-3, "--weight-decay", 0, 4e-3], [(2e-3, 4e-3)]),
        (["--l2", 1e-3, "--weight-decay", 2e-3], []),
        (["--l2", 0, 1e-3, "--weight-decay", 0, 1e-3], []),
        (["--l2", 0, 1e-3], []),
        (["--weight-decay", 0, 1e-3], []),
    ],
)
def test_a_grid_of_ones_own_pairs_what_matches(typed, expected, table_of):
    table = table_of(points(*typed, "--optimizer", "sgd"))
    result = pairs(table, "sgd")
    settings = table.settings
    assert [(settings[a]["l2"], settings[b]["weight_decay"]) for a, b in result] == expected
    for a, b in result:
        assert table.settings[a]["weight_decay"] == table.settings[b]["l2"] == 0
    assert not pairs(table, "adam")


@pytest.mark.parametrize("typed", [["--width", 4, 8], ["--batch-size", 32, 64],
                                   ["--learning-rate", 0.05, 0.1]])  # fmt: skip
def test_pairs_differ_in_nothing_else(typed, table_of):
    """Another axis multiplies the table: a penalty is compared with the decay of its own width."""
    table = table_of(points("--optimizer", "sgd", *typed))
    result = pairs(table, "sgd")
    assert len(result) == 2 * len(STRENGTHS)
    for a, b in result:
        assert apart(table, a, b) == {"group", "l2", "weight_decay"}


# The points


def test_each_optimizer_has_the_table_at_its_own_rate():
    table = points()
    assert len(table) == 3 * (1 + 2 * len(STRENGTHS))
    assert {p["optimizer"]: p["learning_rate"] for p in table} == RATES
    one = [p for p in table if p["optimizer"] == "adam"]
    assert points("--optimizer", "adam") == one


def test_axes_of_the_command_line_are_honoured():
    assert points("--optimizer", "adam", "sgd", "--l2", 0.5, "--learning-rate", 0.1, 0.2) == [
        {"optimizer": optimizer, "learning_rate": rate, "l2": 0.5}
        for optimizer in ("adam", "sgd")
        for rate in (0.1, 0.2)
    ]
    crossed = points("--width", 4, 8, "--optimizer", "sgd")
    assert crossed == [p | {"width": w} for p in points("--optimizer", "sgd") for w in (4, 8)]
    assert points("--l2", 0, 1, "--weight-decay", 3, "--optimizer", "sgd") == [
        {"optimizer": "sgd", "learning_rate": 0.1, "l2": l2, "weight_decay": 3.0}
        for l2 in (0.0, 1.0)
    ]


# The claims


def test_what_is_kept_are_the_last_weights(smoke):
    rows = trials_of(smoke)
    assert (rows["best_step"] == rows["steps"]).all()
    assert task_of(weight_decay, Config()).objective is None, "nothing else is selected by"
    arrays = read_array(smoke / "arrays" / "weights.parquet")
    for optimizer in RATES:
        variables = snapshots.load(smoke, f"optimizer={optimizer}")
        for trial, params in variables.items():
            layers = [params["hidden_0"]["weight"].ravel(), params["output"]["weight"].ravel()]
            np.testing.assert_array_equal(arrays[trial], np.concatenate(layers))


@pytest.mark.parametrize(
    ("optimizer", "bounds"),
    [("sgd", (-SAME, SAME)), ("momentum", (SAME, np.inf)), ("adam", (SAME, np.inf))],
)
def test_distances_are_those_of_the_arrays(smoke, optimizer, bounds, monkeypatch):
    untrained(monkeypatch)
    rows = trials_of(smoke)
    rows = rows[rows["optimizer"] == optimizer].sort_values("restart")
    arrays = read_array(smoke / "arrays" / "weights.parquet")
    name = f"penalty-is-{'' if optimizer == 'sgd' else 'not-'}decay-for-{optimizer}"
    result = effects(weight_decay, name, Study(smoke))
    assert len(result) == len(STRENGTHS) == 3
    for strength, effect in zip(STRENGTHS, result, strict=True):
        ours, theirs = (
            np.stack([np.float64(arrays[trial]) for trial in rows.loc[chosen, "trial"]])
            for chosen in (np.isclose(rows["l2"], strength),
                           np.isclose(rows["weight_decay"], 2 * strength))
        )  # fmt: skip
        assert len(ours) == len(theirs) == 3
        expected = np.sqrt(((ours - theirs) ** 2).sum(axis=1) / (theirs**2).sum(axis=1))
        np.testing.assert_allclose(effect.values, expected, rtol=1e-4)
        assert effect.expected == bounds
        assert f"optimizer={optimizer} " in effect.measured
        assert effect.measured.endswith(f"l2={strength:g}")
    if optimizer == "sgd":
        assert max(effect.values.max() for effect in result) < SAME


def lines_of(study: Study) -> list[str]:
    """Labels of the figure's lines."""
    assert list(weight_decay.FIGURES) == ["distance"]
    figure = weight_decay.FIGURES["distance"](study)
    (panel,) = [axes for axes in figure.axes if axes.has_data()]
    return [text.get_text() for text in panel.get_legend().get_texts()]


@pytest.mark.parametrize(
    ("typed", "possible"),
    [
        (["--optimizer", "sgd"], {"penalty-is-decay-for-sgd"}),
        (["--optimizer", "adam", "--l2", 0, 1e-3], set()),
        (["--optimizer", "momentum", "--l2", 0, 1e-3, "--weight-decay", 0, 2e-3],
         {"penalty-is-not-decay-for-momentum"}),
        (["--optimizer", "sgd", "--width", 2, 4], {"penalty-is-decay-for-sgd"}),
    ],
)  # fmt: skip
def test_a_study_without_the_points_says_so(typed, possible, tmp_path, monkeypatch):
    quick = ["--width", 4] if "--width" not in typed else []
    quick += ["--steps", 20, "--eval-every", 10, "--restarts", 2]
    table = Study(launch(tmp_path / "run", *typed, *quick))
    untrained(monkeypatch)
    judged = judge_all(weight_decay.CLAIMS, table)
    assert {judgement.claim.id for judgement in judged if judgement.parts} == possible
    for claim in weight_decay.CLAIMS:
        if claim.id not in possible:
            with pytest.raises(Missing):
                claim.effects(table)
    if "penalty-is-decay-for-sgd" in possible:
        assert judged[0].verdict == "supported"
    if possible:
        assert lines_of(table) == [name.rpartition("-")[2] for name in possible]
    else:
        with pytest.raises(Missing):
            lines_of(table)


def test_the_figure_has_a_line_for_every_optimizer(smoke):
    assert lines_of(Study(smoke)) == list(RATES)
