"""The study of random restarts: descent, epochs and curvature against NumPy; the claims."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from ablax.data.order import epoch_rows
from ablax.errors import Missing
from ablax.report.claims import judge_all
from ablax.report.quantities import NEGATIVE, POSITIVE
from ablax.report.study import Study
from ablax.rundir.store import read_array
from ablax.task import at_step
from ablax.tasks.supervised import examples
from experiments import random_restarts
from experiments.random_restarts import CLAIMS, Config
from tests.experiments import studies
from tests.experiments.studies import effects, task_of, trial_of, trials_of, untrained

launch = partial(studies.launch, "random_restarts")
points = partial(studies.points_of, random_restarts, "random_restarts")
X, Y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float), np.array([0, 1, 1, 0], float)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """All points of the default, few starts and not for long: for what claims compute."""
    table = points()
    for point in table:
        long = 800 if "steps" in point else 300
        point |= {"steps": long, "eval_every": 100}
    out = tmp_path_factory.mktemp("short") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random_restarts, "points", lambda config: table)
        return launch(out, "--preset", "smoke", "--restarts", 23)


# Descent, in NumPy and float64


def σ(z):
    return 1 / (1 + np.exp(-z))


def layers(w, hidden: int):
    """(b, W, c, v) of networks σ(v·σ(Wx + b) + c), given as vectors [..., parameters]."""
    b, W, c, v = np.split(w, np.cumsum([hidden, 2 * hidden, 1]), axis=-1)
    return b, W.reshape(*w.shape[:-1], hidden, 2), c, v


def outputs(w, hidden: int):
    b, W, c, v = layers(w, hidden)
    h = σ(X @ np.swapaxes(W, -1, -2) + b[..., None, :])
    return h, σ((h * v[..., None, :]).sum(axis=-1) + c)


def gradient(w, hidden: int, rows=(0, 1, 2, 3)):
    """The gradient of ½ Σ (y − ŷ)² over some rows, summed."""
    h, out = outputs(w, hidden)
    v = layers(w, hidden)[-1]
    d = (out - Y) * out * (1 - out) * np.isin(range(4), rows)
    back = d[..., None] * v[..., None, :] * h * (1 - h)
    parts = [back.sum(axis=-2), np.swapaxes(back, -1, -2) @ X, d.sum(axis=-1)[..., None],
             (d[..., None] * h).sum(axis=-2)]  # fmt: skip
    return np.concatenate([part.reshape(*w.shape[:-1], -1) for part in parts], axis=-1)


def solved(w, hidden: int):
    return (np.abs(outputs(w, hidden)[1] - Y) < 0.4).all(axis=-1)


def descend(w, n: int, *, hidden=3, rate=1.0, momentum=0.7, timescale=np.inf, rows=None):
    """[n + 1, …]: the weights before and after each of n updates."""
    v, path = np.zeros_like(w), [w]
    for i in range(n):
        chosen = range(4) if rows is None else rows[i]
        v = momentum * v - rate / np.sqrt(1 + i / timescale) * gradient(w, hidden, chosen)
        w = w + v
        path.append(w)
    return np.stack(path)


def start(config: Config, restart: int = 0) -> np.ndarray:
    task, trial = task_of(random_restarts, config), trial_of(config, restart)
    state = task.init(trial, task.view(trial, task.data))
    return np.float64(ravel_pytree(task.snapshot(state)["params"])[0])


def trained(config: Config, n: int, restart: int = 0):
    """(the weights before and after each of n updates, what the task measures at the end)."""
    task, trial = task_of(random_restarts, config), trial_of(config, restart)
    data = jax.tree.map(jnp.asarray, task.view(trial, task.data))

    def step(state, i):
        state, _ = task.step(state, at_step(trial, i), data)
        return state, ravel_pytree(task.snapshot(state)["params"])[0]

    begun = task.init(trial, data)
    end, path = jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(n, dtype=jnp.int32)))(begun)
    metrics = jax.jit(task.measure)(task.snapshot(end), at_step(trial, np.int32(n)))
    first = ravel_pytree(begun["inner"].params)[0]
    return np.float64(np.vstack([first[None], path])), metrics


def orders(config: Config, n: int) -> np.ndarray:
    """The rows of the truth table of n updates, as the epoch order gives them."""
    key, train = trial_of(config).rng("order"), task_of(random_restarts, config).data["train"]
    x, _ = examples(train)
    rows = np.array([epoch_rows(key, jnp.int32(i), config.batch_size, 4) for i in range(n)])
    return np.int32(np.array(x) @ [2, 1])[rows]


@pytest.mark.parametrize(
    ("fields", "formula"),
    [
        ({}, {}),
        ({"hidden": 2, "momentum": 0.0}, {"hidden": 2, "momentum": 0.0}),
        ({"hidden": 4, "momentum": 0.9, "learning_rate": 0.5},
         {"hidden": 4, "momentum": 0.9, "rate": 0.5}),
        ({"timescale": 5.0}, {"timescale": 5.0}),
    ],
)  # fmt: skip
def test_batch_descent_is_the_formula(fields, formula):
    """On the sum of the squared errors, momentum by its own rate, and a rate that decays."""
    path, _ = trained(Config(**fields), 60)
    expected = descend(path[0], 60, **formula)
    np.testing.assert_allclose(path, expected, rtol=0, atol=1e-5)
    assert np.abs(path[-1] - path[0]).max() > 0.1


def test_online_an_example_makes_an_update():
    """Every epoch has each example once, in an order of its own or in the first one's."""
    drawn = orders(Config(batch_size=1), 80)
    epochs = drawn.reshape(20, 4)
    assert (np.sort(epochs, axis=1) == range(4)).all()
    assert len({tuple(epoch) for epoch in epochs}) > 5
    paths = []
    for reshuffle, rows in [(1.0, epochs), (0.0, np.repeat(epochs[:1], 20, axis=0))]:
        path, _ = trained(Config(batch_size=1, reshuffle=reshuffle), 80)
        expected = descend(path[0], 80, rows=rows.reshape(80, 1))
        np.testing.assert_allclose(path, expected, rtol=0, atol=1e-5)
        paths.append(path)
    assert np.array_equal(paths[0][:5], paths[1][:5]), "the first epoch is the same"
    assert not np.allclose(paths[0][-1], paths[1][-1], atol=1e-3)


def test_starts_are_uniform_biases_too():
    starts = np.stack([start(Config(), restart) for restart in range(100)])
    assert starts.shape == (100, 13)
    assert -1 <= starts.min() < -0.98
    assert 0.98 < starts.max() < 1
    np.testing.assert_allclose(starts.mean(axis=0), 0, atol=4 * np.sqrt(1 / 3 / 100))
    np.testing.assert_allclose(starts.std(), np.sqrt(1 / 3), rtol=0.05)
    assert np.array_equal(start(Config(momentum=0.0, learning_rate=2.0)), starts[0])


@pytest.mark.parametrize("batch_size", [1, 4])
def test_epochs_count_four_examples_each(batch_size):
    """`epochs` is when all outputs are first near their targets, and stays that."""
    config = Config(batch_size=batch_size)
    path, metrics = trained(config, 2000)
    first = int(np.argmax(solved(path[1:], 3))) + 1
    assert solved(path[-1], 3)
    assert not solved(path[:first], 3).any()
    assert float(metrics["epochs"]) == first * batch_size / 4
    unsolved = trained(config, first - 1)[1]
    assert float(unsolved["epochs"]) < 0
    assert float(trained(config, first)[1]["epochs"]) == first * batch_size / 4


# The study


def test_every_start_is_trained_once(smoke):
    rows = trials_of(smoke)
    assert set(rows["status"]) <= {"done", "stopped"}
    result = rows.groupby("group")["restart"].apply(sorted).to_dict()
    assert result == {"baseline": list(range(64)), "momentum 0": list(range(64))}
    assert rows["trial"].nunique() == 128


def test_all_ends_are_those_of_the_formula(smoke):
    rows, weights = trials_of(smoke), read_array(smoke / "arrays" / "weights.parquet")
    starts = np.stack([start(Config(), restart) for restart in range(64)])
    for momentum in (0.7, 0.0):
        chosen = rows[np.isclose(rows["momentum"], momentum)].sort_values("restart")
        path = descend(starts, 500, momentum=momentum)
        near = solved(path, 3)
        last = chosen["steps"].to_numpy()
        ends = path[last, range(64)]
        variables = np.stack([weights[trial] for trial in chosen["trial"]])
        np.testing.assert_allclose(variables, ends, rtol=0, atol=1e-3)
        reached = [np.flatnonzero(near[: n + 1, i]) for i, n in enumerate(last)]
        expected = np.array([some[0] if len(some) else -1 for some in reached])
        np.testing.assert_array_equal(np.maximum(chosen["epochs"], -1), expected)
        np.testing.assert_array_equal(chosen["train/solved"], near[last, range(64)])
        assert (chosen["train/solved"] == 0).any()
        assert (chosen["train/solved"] == 1).any()
        sse = 0.5 * np.square(outputs(ends, 3)[1] - Y).sum(axis=-1)
        for split in ("train", "valid", "test"):
            np.testing.assert_allclose(chosen[f"{split}/sse"], sse, rtol=1e-3)


def test_a_start_stops_at_the_evaluation_after_it_is_solved(smoke):
    rows = trials_of(smoke)
    won = rows[rows["train/solved"] == 1]
    assert (won["steps"] == 100 * np.ceil(won["epochs"] / 100)).all()
    assert (rows.loc[rows["train/solved"] == 0, "steps"] == 500).all()


def test_gradient_and_curvature_are_those_of_the_ends(short):
    rows, weights = trials_of(short), read_array(short / "arrays" / "weights.parquet")
    checked = set()
    for row in rows.groupby("hidden").head(8).to_dict("records"):
        w, hidden = np.float64(weights[row["trial"]]), row["hidden"]
        checked.add(hidden)
        np.testing.assert_allclose(
            row["gradient"], np.linalg.norm(gradient(w, hidden)), rtol=1e-3, atol=1e-6
        )
        moved = 1e-5 * np.eye(len(w))
        hessian = (gradient(w + moved, hidden) - gradient(w - moved, hidden)) / 2e-5
        values = np.linalg.eigvalsh((hessian + hessian.T) / 2)
        result = [row["least_curvature"], row["largest_curvature"]]
        np.testing.assert_allclose(result, values[[0, -1]], rtol=1e-3, atol=3e-6)
    assert checked == {2, 3, 4}


# The points


def test_the_table_changes_one_thing_or_the_network_too():
    table = points()
    assert table[0] == {"group": "baseline"}
    assert {p["group"]: {k: v for k, v in p.items() if k != "group"} for p in table[1:]} == {
        "momentum 0": {"momentum": 0.0},
        "momentum 0.9": {"momentum": 0.9},
        "momentum 0.99": {"momentum": 0.99},
        "decaying rate": {"timescale": 100.0},
        "2-2-1": {"hidden": 2},
        "2-2-1, momentum 0": {"hidden": 2, "momentum": 0.0},
        "2-2-1, momentum 0.9": {"hidden": 2, "momentum": 0.9},
        "2-2-1, decaying rate": {"hidden": 2, "timescale": 100.0},
        "2-4-1": {"hidden": 4},
        "online": {"batch_size": 1, "steps": 40_000, "eval_every": 1000},
        "online, one order": {
            "batch_size": 1, "steps": 40_000, "eval_every": 1000, "reshuffle": 0.0,
        },
    }  # fmt: skip
    assert points("--preset", "paper") == table
    assert points("--restarts", 3) == table
    default = random_restarts.PRESETS["default"]
    assert (default.config.steps, default.restarts) == (10_000, 10_000)


AXES = {"hidden": (2, 5), "batch_size": (1, 4), "learning_rate": (0.5, 2.0),
        "momentum": (0.1, 0.2), "reshuffle": (0.0, 1.0), "timescale": (5.0, np.inf),
        "steps": (10, 20), "eval_every": (5, 10), "patience": (2.0, 3.0),
        "min_delta": (0.0, 0.1), "fix": ("init", "order")}  # fmt: skip


def test_every_field_is_an_axis():
    """Its values, and no others, each with the same rest of the table."""
    studies.check_axes(random_restarts, points, AXES, ("steps", "eval_every"))


def test_a_batch_above_the_truth_table_is_refused(capsys):
    assert studies.main(["random_restarts", "--batch-size", "5", "--plan"]) == 2
    assert "--batch-size" in capsys.readouterr().err


# The claims


def column(rows, group: str, name: str) -> np.ndarray:
    return rows[rows["group"] == group].sort_values("restart")[name].to_numpy(np.float64)


def test_the_tiny_study_can_be_judged(smoke, monkeypatch):
    untrained(monkeypatch)
    judged = judge_all(CLAIMS, Study(smoke))
    assert {j.claim.id for j in judged if j.parts} == {"batch-solves-99-percent"}
    assert {j.verdict for j in judged if not j.parts} == {"inconclusive"}
    share = column(trials_of(smoke), "baseline", "train/solved").mean()
    np.testing.assert_allclose(judged[0].parts[0].interval.estimate, share)


SHARES = {"batch-solves-99-percent": ("baseline", (0.98, 1.0)),
          "online-solves-96-percent": ("online", (0.94, 0.98))}  # fmt: skip
MORE = {
    "more-units-fewer-traps": [("2-4-1", "baseline"), ("baseline", "2-2-1")],
    "momentum-escapes": [("momentum 0.9", "momentum 0"), ("momentum 0.99", "momentum 0"),
                         ("2-2-1, momentum 0.9", "2-2-1, momentum 0")],
    "decay-escapes": [("decaying rate", "baseline"), ("2-2-1, decaying rate", "2-2-1")],
}  # fmt: skip
STUCK = {
    "stuck-where-the-gradient-is-small": lambda rows: rows["gradient"] < 1e-3,
    "stuck-in-minima": lambda rows: rows["least_curvature"] > 0,
}
OTHERS = {"few-restarts-suffice", "momentum-is-faster"}


def test_every_claim_is_tested_here(short, monkeypatch):
    untrained(monkeypatch)
    assert {c.id for c in CLAIMS} == SHARES.keys() | MORE.keys() | STUCK.keys() | OTHERS
    rows = trials_of(short)
    assert len(rows) == rows["trial"].nunique() == 12 * 23
    assert all(judgement.parts for judgement in judge_all(CLAIMS, Study(short)))


@pytest.mark.parametrize("name", SHARES)
def test_shares_are_of_the_starts(short, name):
    group, bounds = SHARES[name]
    (effect,) = effects(random_restarts, name, Study(short))
    np.testing.assert_array_equal(effect.values, column(trials_of(short), group, "train/solved"))
    assert effect.expected == bounds
    assert effect.share
    assert 0 < effect.values.mean() < 1


@pytest.mark.parametrize("name", MORE)
def test_pairs_of_settings_are_compared_start_by_start(short, name):
    result = effects(random_restarts, name, Study(short))
    rows = trials_of(short)
    for effect, (a, b) in zip(result, MORE[name], strict=True):
        values = column(rows, a, "train/solved") - column(rows, b, "train/solved")
        np.testing.assert_array_equal(effect.values, values)
        assert effect.expected == POSITIVE
    assert any(effect.values.any() for effect in result)


@pytest.mark.parametrize("name", STUCK)
def test_only_unsolved_starts_are_stuck(short, name):
    result = effects(random_restarts, name, Study(short))
    rows = trials_of(short)
    for effect, group in zip(result, ("baseline", "2-2-1"), strict=True):
        lost = rows[(rows["group"] == group) & (rows["train/solved"] == 0)]
        assert 0 < len(lost) < 23
        expected = STUCK[name](lost.sort_values("restart"))
        np.testing.assert_array_equal(effect.values, expected.astype(float))
        assert effect.share
        assert effect.expected == (0.9, np.inf)


def test_one_of_five_starts_is_enough(short):
    won = column(trials_of(short), "2-2-1", "train/solved")
    (effect,) = effects(random_restarts, "few-restarts-suffice", Study(short))
    expected = [won[5 * i : 5 * i + 5].any() for i in range(4)]  # 23 starts are four fives
    np.testing.assert_array_equal(effect.values, np.float64(expected))
    assert effect.share
    assert effect.expected == (0.99, np.inf)


def test_only_what_both_solve_is_timed(short):
    rows = trials_of(short)
    a, b = (column(rows, group, "epochs") for group in ("momentum 0.9", "momentum 0"))
    (effect,) = effects(random_restarts, "momentum-is-faster", Study(short))
    both = (a >= 0) & (b >= 0)
    np.testing.assert_array_equal(effect.values, (a - b)[both])
    assert effect.expected == NEGATIVE


# The figures


def test_figures_are_written(smoke):
    written = {path.name for path in (smoke / "report").iterdir()}
    assert {f"{name}.png" for name in ("solved", "epochs", "surface")} <= written


def test_the_line_of_epochs_ends_at_the_share_that_is_solved(short):
    study = Study(short)
    (panel,) = random_restarts.epochs_figure(study).axes
    rows = trials_of(short)
    lines = {line.get_label(): line for line in panel.lines}
    for group in [setting["group"] for setting in study.settings.values()][:5]:
        at = np.sort(column(rows, group, "epochs"))
        at = at[at >= 0]
        np.testing.assert_array_equal(lines[group].get_xdata(), at)
        if len(at):
            np.testing.assert_allclose(lines[group].get_ydata()[-1], len(at) / 23)


def test_success_rates_are_drawn_beside_those_published(short):
    study, rows = Study(short), trials_of(short)
    rates = rows.groupby("group", sort=False)["train/solved"].mean()
    left, right = random_restarts.solved_figure(study).axes
    names = [text.get_text() for text in left.get_yticklabels()]
    assert names == list(rates.index)
    crosses = {(line.get_xdata()[0], names[line.get_ydata()[0]])
               for line in left.lines if line.get_marker() == "x"}  # fmt: skip
    assert crosses == {(0.99, "baseline"), (0.96, "online")}
    lines = {line.get_label(): line.get_ydata() for line in right.lines}
    assert list(lines) == names[:7]
    for name, line in lines.items():
        np.testing.assert_allclose(line, (1 - rates[name]) ** np.arange(1, 11))


def test_the_plane_goes_through_two_solutions_and_a_trap(smoke):
    """Its corners are ends of the first point; with networks of two units it would be theirs."""
    study, rows, weights = Study(smoke), trials_of(smoke), Study(smoke).array("weights")
    figure = random_restarts.surface_figure(study)
    assert figure.get_label().endswith("three ends of baseline.")
    assert [text.get_text() for text in figure.axes[0].texts] == ["solved", "solved", "stuck"]
    mine = rows[rows["group"] == "baseline"].sort_values("restart")
    for solved, place in ((1, 0), (1, 1), (0, 0)):
        trial = mine.loc[mine["train/solved"] == solved, "trial"].iloc[place]
        error = 0.5 * np.square(outputs(np.float64(weights[trial]), 3)[1] - Y).sum()
        np.testing.assert_allclose(random_restarts.error_of(3, weights[trial]), error, rtol=1e-4)


def test_a_study_of_ones_own_is_reported(tmp_path, monkeypatch):
    quick = ["--steps", 4, "--eval-every", 2, "--restarts", 2]
    own = ["--learning-rate", 0.5, 2, "--momentum", 0.5]  # rows of the table set the momentum
    out = launch(tmp_path / "run", *own, "--fix", "init", *quick, report=True)
    assert (out / "report" / "report.html").exists()
    untrained(monkeypatch)
    judged = judge_all(CLAIMS, Study(out))
    assert all(not j.parts and j.verdict == "inconclusive" for j in judged)
    rows = trials_of(out)
    assert rows.groupby("learning_rate")["train/sse"].nunique().tolist() == [1, 1]
    assert rows["train/sse"].nunique() == 2
    assert not (out / "report" / "surface.png").exists()
    with pytest.raises(Missing):
        random_restarts.surface_figure(Study(out))
