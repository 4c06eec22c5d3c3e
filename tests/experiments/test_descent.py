"""The study of two weights: ways and surfaces against NumPy; who gets over the hump; the claims."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ablax.data import load, split
from ablax.errors import Missing
from ablax.report import plot
from ablax.report.claims import judge_all
from ablax.report.quantities import NEGATIVE
from ablax.report.study import Study
from ablax.rundir.store import read_array
from ablax.task import at_step
from experiments import descent
from experiments.descent import CLAIMS, HUMP, STEPS, VALLEY, Config
from tests.experiments import studies
from tests.experiments.studies import effects, task_of, trial_of, trials_of, untrained

launch = partial(studies.launch, "descent")
points = partial(studies.points_of, descent, "descent")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """All points of the default, as long as these are."""
    out = tmp_path_factory.mktemp("full") / "run"
    return launch(out, "--restarts", 12)


# The surfaces, in NumPy and float64


def hump(w):
    return 0.25 * (w[..., 0] ** 2 - 1) ** 2 - 0.2 * w[..., 0] + 0.5 * w[..., 1] ** 2 + 0.35


def hump_slope(w):
    return np.stack([w[..., 0] ** 3 - w[..., 0] - 0.2, w[..., 1]], axis=-1)


def tumours() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{split: (x, y)} of two measurements, standardized by the training examples."""
    whole = load("breast_cancer")
    columns = [whole.feature_names.index(name) for name in ("mean radius", "mean concave points")]
    splits = split(whole, seed=0)
    parts = {"train": splits.train, "valid": splits.valid, "test": splits.test}
    return {name: (np.float64(p.x)[:, columns], np.float64(p.y)) for name, p in parts.items()}


def predictions(w, x):
    return 1 / (1 + np.exp(-(x @ w)))


def valley(w, x, y):
    return 0.5 * np.square(y - predictions(w, x)).mean()


def valley_slope(w, x, y):
    p = predictions(w, x)
    return x.T @ ((p - y) * p * (1 - p)) / len(y)


def walk(w, gradient, n: int, *, kind="momentum", rate: float, momentum: float) -> np.ndarray:
    v, r, path = np.zeros(2), np.zeros(2), [w]
    for i in range(1, n + 1):
        g = gradient(w)
        if kind == "adam":
            v, r = momentum * v + (1 - momentum) * g, 0.999 * r + 0.001 * g**2
            mean, square = v / (1 - momentum**i), r / (1 - 0.999**i)
            w = w - rate * mean / (np.sqrt(square) + 1e-8)
        else:
            v = momentum * v - rate * g
            w = w + (momentum * v - rate * g if kind == "nesterov" else v)
        path.append(w)
    return np.stack(path)


def test_the_slope_has_two_hollows_and_a_hump_between():
    at = np.linspace(-2, 2, 400_001)
    height = hump(np.stack([at, np.zeros_like(at)], axis=-1))
    inner = height[1:-1]
    hollows = at[1:-1][(inner < height[:-2]) & (inner < height[2:])]
    crests = at[1:-1][(inner > height[:-2]) & (inner > height[2:])]
    np.testing.assert_allclose(hollows, [-0.879, 1.088], atol=1e-3)
    np.testing.assert_allclose(crests, [-0.209], atol=1e-3)
    lower, higher = (hump(np.array([w, 0.0])) for w in hollows[::-1])
    assert lower < higher < hump(np.array([crests[0], 0.0]))
    # What counts as beyond the hump is beyond its crest, and before the deeper hollow.
    assert crests[0] <= descent.CREST < hollows[1]
    for w in np.random.default_rng(0).normal(size=(20, 2)) * 2:
        result = jax.value_and_grad(descent.hump)(jnp.asarray(w, jnp.float32))
        np.testing.assert_allclose(result[0], hump(w), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(result[1], hump_slope(w), rtol=1e-5, atol=1e-5)


def test_the_valley_is_the_mean_squared_error_of_one_unit():
    x, y = tumours()["train"]
    assert np.corrcoef(x.T)[0, 1] > 0.7, "strongly correlated"
    single = [jnp.asarray(part, jnp.float32) for part in (x, y)]
    for w in np.random.default_rng(0).normal(size=(10, 2)) * 2:
        result = jax.value_and_grad(descent.squared_errors)(jnp.asarray(w, jnp.float32), *single)
        np.testing.assert_allclose(result[0], valley(w, x, y), rtol=1e-5)
        np.testing.assert_allclose(result[1], valley_slope(w, x, y), rtol=1e-4, atol=1e-7)


# The ways


def test_ways_are_those_of_the_formula(full):
    rows, paths = trials_of(full), read_array(full / "arrays" / "path.parquet")
    x, y = tumours()["train"]
    assert set(rows["status"]) == {"done"}
    for row in rows[rows["restart"] < 4].to_dict("records"):
        path = np.float64(paths[row["trial"]]).reshape(-1, 2)
        assert path.shape == (STEPS + 1, 2)
        slope = hump_slope if row["surface"] == HUMP else lambda w: valley_slope(w, x, y)
        expected = walk(path[0], slope, STEPS, kind=row["optimizer"], rate=row["learning_rate"],
                        momentum=row["momentum"])  # fmt: skip
        # At momentum 0.99 a difference in the last bit grows from hollow to hollow.
        tolerance = 1e-2 if row["momentum"] > 0.95 else 1e-3
        np.testing.assert_allclose(path, expected, rtol=0, atol=tolerance, err_msg=row["point"])
        assert np.ptp(path, axis=0).max() > 0.1


def test_ends_are_measured_on_every_split(full):
    rows, paths = trials_of(full), read_array(full / "arrays" / "path.parquet")
    for row in rows.to_dict("records"):
        path = np.float64(paths[row["trial"]]).reshape(-1, 2)
        for name, part in tumours().items():
            expected = hump(path[-1]) if row["surface"] == HUMP else valley(path[-1], *part)
            np.testing.assert_allclose(row[f"{name}/loss"], expected, rtol=1e-4, atol=1e-6)
            assert row[f"{name}/crossed"] == (path[-1, 0] > 0)
        assert row["reached"] == (path[:, 0] > 0).any()
    over = rows[rows["surface"] == HUMP]
    assert set(over["reached"]) == set(over["test/crossed"]) == {0, 1}
    assert (over["reached"] > over["test/crossed"]).any(), "some come back"


def test_restarts_start_around_the_same_place(full):
    rows, paths = trials_of(full), read_array(full / "arrays" / "path.parquet")
    for surface, centre in [(VALLEY, (-1.0, 3.0)), (HUMP, (-2.4, 1.0))]:
        chosen = rows[rows["surface"] == surface]
        begun = {
            restart: {tuple(paths[trial].reshape(-1, 2)[0]) for trial in some["trial"]}
            for restart, some in chosen.groupby("restart")
        }
        assert [len(result) for result in begun.values()] == [1] * 12, "the same at every point"
        starts = np.array([result.pop() for result in begun.values()])
        assert len(np.unique(starts, axis=0)) == 12
        np.testing.assert_allclose(starts.mean(axis=0), centre, atol=4 * 0.3 / np.sqrt(12))
        np.testing.assert_allclose(starts.std(), np.std(centre), rtol=0.3)
        assert 0.15 < (starts - centre).std() < 0.5


def test_a_way_that_ends_early_stays_where_it_ended(smoke):
    paths = read_array(smoke / "arrays" / "path.parquet")
    for path in paths.values():
        way = path.reshape(-1, 2)
        assert (way[41:] == way[40]).all()
        assert (way[40] != way[39]).any()


@pytest.mark.parametrize("surface", [VALLEY, HUMP])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("optimizer", ["momentum", "nesterov"])
def test_the_update_of_momentum_is_the_sum_of_past_steps(optimizer, momentum, surface):
    """update(n) = step(n) + β step(n−1) + β² step(n−2) + …, at all 200 steps; not Nesterov's."""
    rate = 0.02 if surface == HUMP else 1.0
    config = Config(surface=surface, optimizer=optimizer, momentum=momentum, learning_rate=rate)
    task, trial = task_of(descent, config), trial_of(config)
    data = jax.tree.map(jnp.asarray, task.data)

    def step(state, i):
        after, _ = task.step(state, at_step(trial, i), data)
        return after, (after["w"] - state["w"], after["summed"])

    start, numbers = task.init(trial, data), jnp.arange(STEPS, dtype=jnp.int32)
    state, (updates, recorded) = jax.jit(lambda s: jax.lax.scan(step, s, numbers))(start)
    path = np.float64(state["path"])
    x, y = tumours()["train"]
    steps = [-rate * (hump_slope(w) if surface == HUMP else valley_slope(w, x, y)) for w in path]
    sums = np.stack([
        sum(momentum**k * steps[n - k] for k in range(n + 1)) for n in range(STEPS)
    ])  # fmt: skip
    apart = np.abs(np.float64(updates) - sums).max()
    np.testing.assert_allclose(recorded, sums, rtol=0, atol=1e-5)
    if optimizer == "momentum" or momentum == 0:
        assert apart < 1e-5
    else:
        assert apart > 1e-3


# The points


METHODS = {
    "baseline": {},
    "momentum 0.5": {"momentum": 0.5},
    "momentum 0.9": {"momentum": 0.9},
    "momentum 0.99": {"momentum": 0.99, "learning_rate": 0.01},
    "nesterov 0.9": {"optimizer": "nesterov", "momentum": 0.9},
    "adam": {"optimizer": "adam", "momentum": 0.9, "learning_rate": 0.05},
}


def test_the_table_has_every_method_on_both_surfaces():
    table = points()
    assert table == [
        {"group": name, "surface": surface, "learning_rate": rate} | method
        for surface, rate in [(VALLEY, 1.0), (HUMP, 0.02)]
        for name, method in METHODS.items()
    ]
    assert points("--preset", "paper") == table
    few = [p for p in table if p["group"] in list(METHODS)[:3]]
    assert points("--preset", "smoke") == few


AXES = {"surface": (HUMP, VALLEY), "optimizer": ("adam", "sgd"), "learning_rate": (0.1, 0.2),
        "momentum": (0.1, 0.2), "steps": (10, 20), "eval_every": (5, 10), "patience": (2.0, 3.0),
        "min_delta": (0.0, 0.1), "fix": ("init", "order")}  # fmt: skip


def test_every_field_is_an_axis():
    """Its values, and no others, each with the same rest of the table."""
    studies.check_axes(descent, points, AXES)


# The claims


def column(rows, surface: str, group: str, name: str) -> np.ndarray:
    chosen = rows[(rows["surface"] == surface) & (rows["group"] == group)]
    return chosen.sort_values("restart")[name].to_numpy(np.float64)


def test_every_start_is_trained_once(smoke):
    rows = trials_of(smoke)
    assert len(rows) == rows["trial"].nunique() == 18
    assert set(rows["status"]) == {"done"}
    counted = rows.groupby(["surface", "group"])["restart"].apply(sorted)
    assert len(counted) == 6
    assert all(restarts == [0, 1, 2] for restarts in counted)


def test_the_tiny_study_can_be_judged(smoke, monkeypatch):
    untrained(monkeypatch)
    judged = judge_all(CLAIMS, Study(smoke))
    assert [len(judgement.parts) for judgement in judged] == [2, 0, 2], "0.99 is missing"


def test_only_what_is_reported_is_measured(full):
    assert not {"sum_and_update", "summed", "apart"} & set(trials_of(full))
    assert {path.stem for path in (full / "arrays").iterdir()} == {"path"}


def test_crossing_is_counted_of_the_way_and_staying_of_its_end(full):
    rows, table = trials_of(full), Study(full)
    result = effects(descent, "momentum-crosses-the-hump", table)
    bounds = [("momentum 0.9", (0.9, np.inf)), ("baseline", (-np.inf, 0.1))]
    for effect, (group, expected) in zip(result, bounds, strict=True):
        np.testing.assert_array_equal(effect.values, column(rows, HUMP, group, "reached"))
        assert effect.expected == expected
        assert effect.share
    assert result[0].values.mean() > result[1].values.mean()
    result = effects(descent, "momentum-stays-in-the-deeper-minimum", table)
    for stays, group in zip(result, ("momentum 0.9", "momentum 0.99"), strict=True):
        np.testing.assert_array_equal(stays.values, column(rows, HUMP, group, "train/crossed"))
        assert stays.share
        assert stays.expected == (0.9, np.inf)


def test_what_is_left_of_the_error_in_the_valley_is_compared(full):
    rows = trials_of(full)
    result = effects(descent, "momentum-is-faster-in-a-valley", Study(full))
    for effect, group in zip(result, ("momentum 0.5", "momentum 0.9"), strict=True):
        left, plain = (column(rows, VALLEY, g, "train/loss") for g in (group, "baseline"))
        np.testing.assert_allclose(effect.values, left - plain, rtol=1e-12)
        assert effect.expected == NEGATIVE
        assert len(effect.values) == 12


def test_every_claim_is_tested_here(full, monkeypatch):
    untrained(monkeypatch)
    assert [c.id for c in CLAIMS] == [
        "momentum-crosses-the-hump",
        "momentum-stays-in-the-deeper-minimum",
        "momentum-is-faster-in-a-valley",
    ]
    assert all(judgement.parts for judgement in judge_all(CLAIMS, Study(full)))


def test_a_study_of_ones_own_is_reported(tmp_path, monkeypatch):
    typed = ["--surface", VALLEY, "--momentum", 0, 0.9]
    quick = ["--steps", 4, "--eval-every", 2, "--restarts", 2]
    out = launch(tmp_path / "run", *typed, *quick, report=True)
    untrained(monkeypatch)
    judged = judge_all(CLAIMS, Study(out))
    assert not any(judgement.parts for judgement in judged)
    assert {judgement.verdict for judgement in judged} == {"inconclusive"}
    written = {path.name for path in (out / "report").iterdir()}
    assert "valley.png" in written
    assert "hump.png" not in written
    with pytest.raises(Missing):
        descent.FIGURES[HUMP](Study(out))


def test_a_panel_for_every_method(smoke, full):
    written = {path.name for path in (smoke / "report").iterdir()}
    assert {"valley.png", "hump.png"} <= written
    paths = read_array(full / "arrays" / "path.parquet")
    assert list(descent.FIGURES) == [VALLEY, HUMP]
    rows = trials_of(full)
    for surface, draw in descent.FIGURES.items():
        with plot.style():
            panels = [panel for panel in draw(Study(full)).axes if panel.has_data()]
        assert [panel.get_title() for panel in panels] == ["plain descent", *list(METHODS)[1:]]
        here = rows[(rows["surface"] == surface) & (rows["restart"] == 0)]
        first = here.set_index("group")["trial"]
        for panel, group in zip(panels, METHODS, strict=True):
            way = paths[first[group]].reshape(-1, 2)
            np.testing.assert_array_equal(panel.lines[0].get_xydata(), way)
