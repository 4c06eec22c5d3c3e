"""The study of thrown restarts: problems, centres and throws against NumPy; the claims."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from ablax.errors import Missing
from ablax.report import plot
from ablax.report.claims import judge_all
from ablax.report.quantities import POSITIVE
from ablax.report.study import Study
from ablax.study import snapshots
from ablax.task import at_step
from ablax.tasks.supervised import examples
from experiments import escape
from experiments.escape import BITS, CENTRES, CLAIMS, SIGMAS, Config
from tests.experiments import studies
from tests.experiments.studies import effects, made_up, task_of, trial_of, trials_of, untrained

launch = partial(studies.launch, "escape")
points = partial(studies.points_of, escape, "escape")


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The points of the claims, for a few steps; of the narrow networks the two shallowest."""
    table = [
        p | {"steps": 60, "eval_every": 30}
        for p in points()
        if p["group"] not in ("4 narrow layers", "8 narrow layers")
        and not p["group"].startswith("spirals")
    ]
    out = tmp_path_factory.mktemp("short") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(escape, "points", lambda config: table)
        return launch(out, "--restarts", 16)


# The problems


@pytest.mark.parametrize("bits", BITS)
def test_all_rows_of_a_parity_are_trained_on(bits):
    task = task_of(escape, Config(problem=f"parity-{bits}"))
    x, y = (np.array(part) for part in examples(task.data["train"]))
    assert sorted(map(tuple, x.tolist())) == sorted(itertools.product([-1, 1], repeat=bits))
    # With an even number of −1 the product is 1: odd parity is that of the bits that are set.
    np.testing.assert_array_equal(y == 1, x.prod(axis=1) * (-1) ** bits < 0)


# The centres

XOR = np.array(list(itertools.product([-1, 1], repeat=2)), float)
ODD = np.array([0, 1, 1, 0])


def logits(flat: np.ndarray, x: np.ndarray = XOR) -> np.ndarray:
    """Scores of a 2-2-1 network of tanh from (b, W by rows, c, v), the order of the flat vector."""
    b, W, c, v = flat[:2], flat[2:6].reshape(2, 2), flat[6], flat[7:]
    return np.tanh(x @ W.T + b) @ v + c


def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
    b, W, v = flat[:2], flat[2:6].reshape(2, 2), flat[7:]
    h = np.tanh(XOR @ W.T + b)
    z = h @ v + flat[6]
    loss = np.logaddexp(0, np.where(ODD, -z, z)).mean()
    d = (1 / (1 + np.exp(-z)) - ODD) / 4
    back = d[:, None] * v * (1 - h**2)
    return loss, np.concatenate([back.sum(0), (back.T @ XOR).ravel(), [d.sum()], h.T @ d])


def descend(flat: np.ndarray, n: int) -> np.ndarray:
    v = np.zeros_like(flat)
    for _ in range(n):
        v = 0.9 * v - 0.1 * loss_and_gradient(flat)[1]
        flat = flat + v
    return flat


def right(flat: np.ndarray) -> np.ndarray:
    return (logits(flat) > 0) == ODD


def test_the_solution_solves_and_the_trap_does_not():
    solution, trap = (np.array(CENTRES[name]) for name in ("solution", "trap"))
    assert right(solution).all()
    assert loss_and_gradient(solution)[0] < 0.05
    assert not right(trap).all()
    loss, slope = loss_and_gradient(trap)
    assert loss > 0.3
    assert np.linalg.norm(slope) < 0.02, "hardly a way down"
    assert right(descend(solution, 1000)).all()
    assert not right(descend(trap, 1000)).all(), "and none out of it"
    assert CENTRES["zero"] == [0.0] * 9
    assert len(solution) == len(trap) == 9


def start(config: Config, restart: int = 0) -> np.ndarray:
    task, trial = task_of(escape, config), trial_of(config, restart)
    state = task.init(trial, task.view(trial, task.data))
    return np.float64(ravel_pytree(state.params)[0])


def test_starts_are_thrown_by_the_same_numbers_at_every_sigma():
    thrown = []
    for restart in range(60):
        throws = [
            (start(Config(centre=centre, sigma=sigma), restart) - CENTRES[centre]) / sigma
            for centre, sigma in [("zero", 1.0), ("solution", 0.1), ("trap", 10.0)]
        ]
        np.testing.assert_allclose(throws[1], throws[0], atol=1e-4)
        np.testing.assert_allclose(throws[2], throws[0], atol=1e-4)
        thrown.append(throws[0])
    thrown = np.array(thrown)
    np.testing.assert_allclose(thrown.mean(axis=0), 0, atol=4 / np.sqrt(60))
    np.testing.assert_allclose(thrown.std(), 1, rtol=0.1)
    assert (thrown.std(axis=0) > 0.6).all(), "biases too"


def test_layers_are_scaled_by_sigma_without_their_biases():
    plain, large = (start(Config(sigma=sigma, hidden="3-4")) for sigma in (1.0, 5.0))
    np.testing.assert_allclose(large, 5 * plain, rtol=1e-5)
    network = start(Config(hidden="40"))
    assert (network[:40] == 0).all()
    np.testing.assert_allclose(np.square(network[40:120]).mean(), 1 / 2, rtol=0.3)
    relu = start(Config(hidden="40", activation="relu"))
    np.testing.assert_allclose(np.abs(relu), np.sqrt(2) * np.abs(network), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("centre", ["layers", "trap"])
def test_descent_is_the_formula(centre):
    config = Config(centre=centre)
    task, trial = task_of(escape, config), trial_of(config)
    data = jax.tree.map(jnp.asarray, task.view(trial, task.data))
    state = task.init(trial, data)
    first = np.float64(ravel_pytree(state.params)[0])

    def step(state, i):
        return task.step(state, at_step(trial, i), data)[0], None

    end, _ = jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(50, dtype=jnp.int32)))(state)
    expected = descend(first, 50)
    np.testing.assert_allclose(ravel_pytree(end.params)[0], expected, rtol=0, atol=1e-4)
    assert np.abs(expected - first).max() > 0.05


# The study


def test_every_start_is_trained_once(smoke):
    rows = trials_of(smoke)
    assert len(rows) == rows["trial"].nunique() == 13 * 32
    assert set(rows["status"]) <= {"done", "stopped"}
    counted = rows.groupby("point")["restart"].apply(sorted)
    assert len(counted) == 13
    assert all(restarts == list(range(32)) for restarts in counted)
    written = {path.name for path in (smoke / "report").iterdir()}
    assert {"sigma.png", "dimension.png"} <= written


def test_solved_is_right_on_all_rows(smoke):
    rows = trials_of(smoke).set_index("trial")
    seen = set()
    for centre in ("layers", "solution", "trap"):
        for trial, params in snapshots.load(smoke, f"centre={centre}").items():
            ends = np.float64(ravel_pytree(params)[0])
            row, correct = rows.loc[trial], right(ends)
            seen.add((correct.sum() == 4, row["steps"] < 200))
            for split in ("train", "valid", "test"):
                assert row[f"{split}/solved"] == correct.all()
                assert row[f"{split}/accuracy"] == correct.mean()
            np.testing.assert_allclose(
                row["train/loss"], loss_and_gradient(ends)[0], rtol=1e-3, atol=1e-6
            )
            assert row["status"] == ("stopped" if row["steps"] < 200 else row["status"])
            assert row["steps"] == 200 or correct.all(), "only a solved one stops"
    assert {(True, True), (False, False)} <= seen


# The points


def test_the_table_throws_and_grows():
    table = points()
    assert table[0] == {"group": "baseline"}
    assert SIGMAS == (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    thrown = {(p["centre"], p["sigma"]) for p in table if "centre" in p}
    assert thrown == set(itertools.product(("zero", "solution", "trap"), SIGMAS))
    others = {p["group"]: p for p in table if "problem" in p}
    assert len(table) == 1 + 18 + len(others)
    for bits in (3, 4, 5):
        point = others.pop(f"{bits} bits")
        assert (point["problem"], point["hidden"]) == (f"parity-{bits}", str(bits))
    for hidden in ("8", "16", "8-8"):
        assert others.pop(f"spirals, {hidden}")["hidden"] == hidden
    for depth in (1, 2, 4, 8):
        point = others.pop(f"{depth} narrow layers")
        assert len(set(point["hidden"].split("-"))) == 1
        assert len(point["hidden"].split("-")) == depth
        assert (point["problem"], point["activation"]) == ("moons", "relu")
    assert not others
    assert points("--restarts", 2) == table
    quick = points("--preset", "smoke")
    assert [p["group"] for p in quick] == [
        "baseline", *["σ around solution"] * 6, *["σ around trap"] * 6,
    ]  # fmt: skip
    assert {p.get("steps", 200) for p in quick} == {200}


AXES = {"problem": ("parity-3", "moons"), "hidden": ("2", "3-3"), "activation": ("relu", "tanh"),
        "centre": ("zero", "trap"), "sigma": (0.5, 2.0), "learning_rate": (0.5, 2.0),
        "momentum": (0.0, 0.5), "steps": (10, 20), "eval_every": (5, 10), "patience": (2.0, 3.0),
        "min_delta": (0.0, 0.1), "fix": ("init", "order")}  # fmt: skip


def test_every_field_is_an_axis():
    """Its values, and no others, each with the same rest of the table."""
    studies.check_axes(escape, points, AXES, ("steps", "eval_every"))


# The claims


def test_the_tiny_study_can_be_judged(smoke, monkeypatch):
    untrained(monkeypatch)
    judged = judge_all(CLAIMS, Study(smoke))
    possible = {"stay-near-a-solution", "go-far-from-a-trap"}
    assert {judgement.claim.id for judgement in judged if judgement.parts} == possible
    assert {j.verdict for j in judged if not j.parts} == {"inconclusive"}


THROWN = {  # (centre, σ of more, σ of fewer)
    "stay-near-a-solution": [("solution", 0.1, 10.0)],
    "go-far-from-a-trap": [("trap", 3.0, 0.1)],
}
GROUPS = {
    "dimension-needs-restarts": [("baseline", "3 bits"), ("3 bits", "4 bits"),
                                 ("4 bits", "5 bits")],
    "two-more-bits-need-restarts": [("baseline", "4 bits"), ("3 bits", "5 bits")],
    "more-units-fewer-restarts-for-spirals": [("spirals, 16", "spirals, 8"),
                                              ("spirals, 8-8", "spirals, 16")],
    "narrow-and-deep-needs-restarts": [(f"{n} narrow layers", f"{2 * n} narrow layers")
                                       for n in (1, 2, 4)],
}  # fmt: skip
BEST = "too-far-is-lost"


def solved(rows) -> np.ndarray:
    return rows.sort_values("restart")["train/solved"].to_numpy(np.float64)


@pytest.mark.parametrize("name", THROWN)
def test_two_throws_around_a_centre_are_compared(short, name):
    rows, result = trials_of(short), effects(escape, name, Study(short))
    for effect, (centre, more, fewer) in zip(result, THROWN[name], strict=True):
        a, b = (
            solved(rows[(rows["centre"] == centre) & np.isclose(rows["sigma"], sigma)])
            for sigma in (more, fewer)
        )
        assert len(a) == 16
        np.testing.assert_array_equal(effect.values, a - b)
        assert effect.expected == POSITIVE


@pytest.mark.parametrize("name", GROUPS)
def test_shares_of_solved_starts_are_compared(name, tmp_path):
    points_ = [p for p in points() if p.get("centre", "layers") == "layers"]
    points_ = [{"centre": "layers", "problem": "parity-2"} | point for point in points_]
    solved_ = np.random.default_rng(0).integers(0, 2, 16 * len(points_)).astype(float)
    study = made_up(tmp_path, points_, {"train/solved": solved_}, restarts=16)
    rows, result = study.trials, effects(escape, name, study)
    for effect, (more, fewer) in zip(result, GROUPS[name], strict=True):
        a, b = (solved(rows[rows["group"] == group]) for group in (more, fewer))
        np.testing.assert_array_equal(effect.values, a - b)
        assert effect.expected == POSITIVE


def test_every_claim_is_tested_here(short, monkeypatch):
    untrained(monkeypatch)
    assert {claim.id for claim in CLAIMS} == THROWN.keys() | GROUPS.keys() | {BEST}
    judged = judge_all(CLAIMS, Study(short))
    lacking = {"narrow-and-deep-needs-restarts", "more-units-fewer-restarts-for-spirals"}
    assert {j.claim.id for j in judged if not j.parts} == lacking, "some points are missing"


def test_the_best_sigma_is_what_the_other_restarts_choose(tmp_path):
    """And is compared with the smallest and the largest."""
    sigmas = (1.0, 0.03, 10.0, 0.1)
    points_ = [{"centre": "zero", "sigma": sigma} for sigma in sigmas]
    solved_ = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 1]], float)
    columns = {"train/solved": solved_.ravel(), "valid/solved": np.repeat([0.5, 0.1, 0.2, 0.9], 4)}
    study = made_up(tmp_path, points_, columns, metrics={"solved": "max"}, objective=None)
    result = effects(escape, BEST, study)
    for effect, end in zip(result, (1, 2), strict=True):
        assert effect.expected == POSITIVE
        np.testing.assert_array_equal(effect.values, solved_[3] - solved_[end])
    assert len(result) == 2
    two = {"train/solved": solved_[:2].ravel()}
    with pytest.raises(Missing):
        effects(escape, BEST, made_up(tmp_path / "two", points_[:2], two))


def test_figures_show_every_centre_and_problem(short):
    study = Study(short)
    with plot.style():
        drawn = {name: draw(study) for name, draw in escape.FIGURES.items()}
        assert list(drawn) == ["sigma", "dimension"]
        (panel,) = [panel for panel in drawn["sigma"].axes if panel.has_data()]
        labels = ["centre: zero", "centre: solution", "centre: trap"]
        assert panel.get_legend_handles_labels()[1] == labels
        (panel,) = [panel for panel in drawn["dimension"].axes if panel.has_data()]
        shown = [text.get_text() for text in panel.get_yticklabels()]
        assert shown == [*(f"{n} bits" for n in BITS), "1 narrow layers", "2 narrow layers"]
        rows = trials_of(short)
        for bars in panel.containers:
            ((needed, place),) = bars.lines[0].get_xydata()
            group = shown[int(place)].replace("2 bits", "baseline")
            rate = solved(rows[rows["group"] == group]).mean()
            np.testing.assert_allclose(max(1 - rate, 0.01) ** needed, 0.01, rtol=1e-6)
        assert panel.containers


def test_a_study_without_a_centre_has_no_figure_of_sigma(tmp_path):
    with pytest.raises(Missing):
        escape.FIGURES["sigma"](made_up(tmp_path, [{"centre": "layers", "sigma": 1.0}]))
