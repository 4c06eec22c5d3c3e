"""The study of dense and sparse signals: its worlds, its optima, its claims."""

from functools import partial

import jax
import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import ElasticNet, Ridge

from ablax.errors import Missing
from ablax.report.claims import judge_all
from ablax.report.quantities import NEGATIVE, POSITIVE
from ablax.report.study import Study
from ablax.study import snapshots
from experiments import signals
from experiments.signals import DENSE, SPARSE, Config
from tests.experiments import studies
from tests.experiments.studies import effects, task_of, trial_of, trials_of, untrained

launch = partial(studies.launch, "signals")
points = partial(studies.points_of, signals, "signals")
SPLITS = ("train", "valid", "test")


def world(restart: int = 0, seed: int = 0, **fields) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{split: (x, y)} of one trial."""
    config = Config(**fields)
    task = task_of(signals, config)
    return jax.tree.map(np.array, task.view(trial_of(config, restart, seed), task.data))


def truth(part: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The coefficients, of examples without noise."""
    x, y = map(np.float64, part)
    return np.linalg.lstsq(x, y, rcond=None)[0]


def same(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


# The worlds


@pytest.mark.parametrize(("share", "count"), [(DENSE, 100), (SPARSE, 5), (0.29, 29), (0.57, 57)])
def test_the_true_coefficients_have_norm_1_and_so_many_features(share, count):
    for restart in range(2):
        drawn = world(restart, active=share, noise=0.0)
        betas = [truth(drawn[name]) for name in ("valid", "test")]
        np.testing.assert_allclose(betas[0], betas[1], atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(betas[1]), 1, rtol=1e-5)
        assert (np.abs(betas[1]) > 1e-5).sum() == count


def test_any_share_of_the_features_is_counted_exactly():
    for percent in (*range(1, 101, 3), 15):
        x, y = world(active=percent / 100, noise=0.0, valid_size=1)["test"]
        assert (np.abs(truth((x, y))) > 1e-5).sum() == percent, percent


def test_features_and_noise_are_as_stated():
    x, y = world(noise=0.5)["test"]
    assert x.shape == (2000, 100)
    np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=0.01)
    beta = truth(world(noise=0.0)["test"])
    noise = y - x @ beta
    np.testing.assert_allclose(noise.std(), 0.5, rtol=0.05)
    assert abs(np.corrcoef(noise, x @ beta)[0, 1]) < 0.07
    # Twice the noise is the same noise twice as large: levels are compared in pairs.
    louder = world(noise=1.0)["test"]
    assert np.array_equal(louder[0], x)
    np.testing.assert_allclose(louder[1] - x @ beta, 2 * noise, atol=1e-4)


def test_a_restart_draws_the_same_world_at_every_point():
    base = world(active=SPARSE)
    points_of_it = [{"l1": 0.3}, {"l2": 1.0}, {"l1": 0.1, "l2": 0.1}, {"learning_rate": 0.01}]
    for change in (*points_of_it, {"momentum": 0.0}, {"steps": 7}):
        assert same(world(active=SPARSE, **change), base), change
    dense = world(active=DENSE)
    for name in SPLITS:
        assert np.array_equal(dense[name][0], base[name][0])
        assert not np.array_equal(dense[name][1], base[name][1])


@pytest.mark.parametrize("other", [{"restart": 1}, {"seed": 1}])
def test_another_restart_or_seed_draws_another_world(other):
    for name in SPLITS:
        for mine, theirs in zip(world()[name], world(**other)[name], strict=True):
            assert np.mean(mine == theirs) < 1e-3
            assert abs(np.corrcoef(mine.ravel(), theirs.ravel())[0, 1]) < 4 / np.sqrt(mine.size)


@pytest.mark.parametrize("fix", ["split", "init+split", "order+split", "init+order+split"])
def test_a_tied_split_is_one_world(fix):
    assert same(world(0, fix=fix), world(1, fix=fix))
    assert same(world(0, fix=fix), world(0, fix="none")), "that of restart 0"
    assert not same(world(0, fix=fix), world(0, seed=1, fix=fix))


@pytest.mark.parametrize("fix", ["init", "order", "init+order"])
def test_other_ties_leave_the_worlds_alone(fix):
    assert same(world(1, fix=fix), world(1))


def test_training_validation_and_test_are_draws_of_their_own():
    drawn = world()
    assert [len(drawn[name][1]) for name in SPLITS] == [80, 200, 2000]
    rows = np.concatenate([drawn[name][0] for name in SPLITS])
    assert len(np.unique(rows, axis=0)) == len(rows)
    beta = truth(world(noise=0.0)["test"])
    noise = {name: y - x @ beta for name, (x, y) in drawn.items()}
    for a, b in [("train", "valid"), ("train", "test"), ("valid", "test")]:
        n = min(len(noise[a]), len(noise[b]))
        assert abs(np.corrcoef(noise[a][:n], noise[b][:n])[0, 1]) < 4 / np.sqrt(n)


def test_training_sees_no_test_examples():
    config = Config()
    task = task_of(signals, config)
    assert set(task.view(trial_of(config), {})) == {"train", "valid"}
    assert same(task.view(trial_of(config), {})["train"], world()["train"])


# The optima


@pytest.fixture(scope="module")
def converged(tmp_path_factory):
    """Strengths by themselves and mixed, on both kinds of signal, trained to the end."""
    out = tmp_path_factory.mktemp("converged") / "run"
    typed = ["--l1", 0, 0.1, 0.4, "--l2", 0, 0.1, 1, "--noise", 0.5, "--steps", 3000]
    return launch(out, *typed, "--eval-every", 1000, "--restarts", 2, "--keep", "all")


def minimum(x, y, l1: float, l2: float) -> np.ndarray:
    """scikit-learn's minimum of mean((y − xw)²) + l1 Σ|w| + l2 Σw².

    Ridge minimizes Σ(y − xw)² + α Σw²: n times ours. ElasticNet (the lasso at ρ = 1) minimizes
    Σ(y − xw)²/2n + αρ Σ|w| + ½α(1 − ρ) Σw²: half of ours.
    """
    if l1 == 0:
        return Ridge(alpha=l2 * len(y), fit_intercept=False, tol=1e-10).fit(x, y).coef_
    alpha = l1 / 2 + l2
    net = ElasticNet(
        alpha=alpha, l1_ratio=l1 / 2 / alpha, fit_intercept=False, tol=1e-10, max_iter=100_000
    )
    return net.fit(x, y).coef_


def test_the_optima_of_scikit_learn_are_reached(converged):
    rows = trials_of(converged)
    variables = snapshots.load(converged, "signals")
    regularized = rows[(rows["l1"] > 0) | (rows["l2"] > 0)]
    assert len(regularized) == 2 * 8 * 2
    for row in regularized.to_dict("records"):
        fields = {name: row[name] for name in ("active", "noise", "l1", "l2")}
        parts = {
            name: tuple(map(np.float64, part))
            for name, part in world(row["restart"], **fields).items()
        }
        theirs = minimum(*parts["train"], row["l1"], row["l2"])
        tolerance = 1e-2 if row["l1"] else 1e-3  # a subgradient never quite arrives
        np.testing.assert_allclose(variables[row["trial"]]["weight"], theirs, atol=tolerance / 2)
        for name, (x, y) in parts.items():
            mse = np.mean((x @ theirs - y) ** 2)
            np.testing.assert_allclose(row[f"{name}/mse"], mse, rtol=tolerance, atol=2e-4)
        np.testing.assert_allclose(row["l2_norm"], np.linalg.norm(theirs), rtol=tolerance)
        squares = theirs**2
        ratio = squares.sum() ** 2 / (len(squares) * (squares**2).sum())
        np.testing.assert_allclose(row["participation_ratio"], ratio, rtol=2 * tolerance)
        share = (np.abs(theirs) < 1e-3).mean()  # of those at the edge, either may be right
        np.testing.assert_allclose(row["share_below_1e-3"], share, atol=0.05 if row["l1"] else 0.02)


def test_without_a_penalty_the_training_examples_are_fitted(converged):
    """80 examples of 100 features: interpolated, and the last weights are what counts."""
    assert task_of(signals, Config()).objective is None
    rows = trials_of(converged).query("l1 == 0 and l2 == 0")
    assert len(rows) == 4
    assert (rows["train/mse"] < 1e-6).all()
    assert (rows["test/mse"] > 0.5).all()


# Ties, end to end


def test_fixed_splits_make_all_restarts_alike(tmp_path):
    typed = ["--preset", "smoke", "--restarts", 3, "--active", 1, "--l2", 0.1]
    out = launch(tmp_path / "run", *typed, "--fix", "split", "init+order", "--steps", 20,
                 "--eval-every", 10)  # fmt: skip
    rows = trials_of(out)
    tied = rows.groupby("fix")[["train/mse", "valid/mse", "test/mse", "l2_norm"]].nunique()
    assert tied.loc["split"].tolist() == [1] * 4
    assert tied.loc["init+order"].tolist() == [3] * 4


# The points


def test_the_table_has_both_signals_and_three_methods():
    table = points()
    assert len(table) == 2 * (1 + 3 * len(signals.STRENGTHS))
    assert {p["active"] for p in table} == {DENSE, SPARSE}
    for row in table:
        l1, l2 = row.get("l1", 0), row.get("l2", 0)
        assert {"baseline": l1 == l2 == 0, "L1": l1 > l2 == 0, "L2": l2 > l1 == 0,
                "elastic net": l1 == l2 > 0}[row["group"]]  # fmt: skip
    assert points("--preset", "smoke") == table


def test_axes_of_the_command_line_are_honoured():
    assert points("--active", 0.2) == [p | {"active": 0.2} for p in points()[::2]]
    assert points("--l2", 0, 0.5, "--active", 1) == [
        {"l2": 0.0, "active": 1.0},
        {"l2": 0.5, "active": 1.0},
    ]
    crossed = points("--l1", 0.1, "--l2", 0.2, 0.3, "--noise", 0, 1, "--active", 0.5)
    assert crossed == [
        {"l1": 0.1, "l2": l2, "active": 0.5, "noise": noise}
        for noise in (0.0, 1.0)
        for l2 in (0.2, 0.3)
    ]
    assert len(points("--features", 10, 20)) == 2 * len(points())


# The claims


ZEROS, RATIO = "share_below_1e-3", "participation_ratio"
AT = {"dense": {"active": DENSE}, "sparse": {"active": SPARSE}}
DIFFERENCES = {
    "l2-wins-on-dense-signals": [("test/mse", "L2", "L1", NEGATIVE, AT["dense"])],
    "l1-wins-on-sparse-signals": [("test/mse", "L1", "L2", NEGATIVE, AT["sparse"])],
    "l1-selects-features": [
        (ZEROS, "L1", "L2", POSITIVE, AT["dense"]),
        (ZEROS, "L1", "L2", POSITIVE, AT["sparse"]),
        (ZEROS, "L2", "baseline", (-0.05, 0.05), AT["dense"]),
        (ZEROS, "L2", "baseline", (-0.05, 0.05), AT["sparse"]),
    ],
    "l2-spreads-coefficients": [(RATIO, "L2", "L1", POSITIVE, at) for at in AT.values()],
    "elastic-net-is-between-in-sparsity": [
        (ZEROS, "L1", "elastic net", POSITIVE, AT["sparse"]),
        (ZEROS, "elastic net", "L2", POSITIVE, AT["sparse"]),
    ],
    "elastic-net-is-between-in-error": [
        ("test/mse", "L1", "elastic net", POSITIVE, AT["dense"]),
        ("test/mse", "elastic net", "L2", POSITIVE, AT["dense"]),
        ("test/mse", "L2", "elastic net", POSITIVE, AT["sparse"]),
        ("test/mse", "elastic net", "L1", POSITIVE, AT["sparse"]),
    ],
}
OTHERS = {"elastic-net-mixes", "large-coefficients-overfit"}


def test_every_claim_is_tested_here():
    assert {claim.id for claim in signals.CLAIMS} == DIFFERENCES.keys() | OTHERS


@pytest.mark.parametrize("name", DIFFERENCES)
def test_differences_are_those_of_the_trials(smoke, name, monkeypatch):
    untrained(monkeypatch)
    studies.check_differences(signals, name, Study(smoke), DIFFERENCES[name], "valid/mse", -1)


def test_mixtures_are_compared_at_equal_strength(smoke, monkeypatch):
    untrained(monkeypatch)
    rows = trials_of(smoke).query("active == 0.05")

    def zeros(l1: float, l2: float) -> np.ndarray:
        here = rows[np.isclose(rows["l1"], l1) & np.isclose(rows["l2"], l2)]
        assert len(here) == 4
        return here.sort_values("restart")[ZEROS].to_numpy(np.float64)

    expected = []
    for strength in (0.03, 0.1, 0.3, 1.0):
        l1, mixed, l2 = zeros(strength, 0), zeros(strength / 2, strength / 2), zeros(0, strength)
        expected += [l1 - mixed, mixed - l2]
    result = effects(signals, "elastic-net-mixes", Study(smoke))
    for effect, values in zip(result, expected, strict=True):
        np.testing.assert_allclose(effect.values, values, rtol=1e-12)
        assert effect.expected == POSITIVE


def test_the_rank_correlation_is_scipys(smoke, monkeypatch):
    untrained(monkeypatch)
    rows = trials_of(smoke)
    result = effects(signals, "large-coefficients-overfit", Study(smoke))
    assert len(result) == 2
    for share, effect in zip((SPARSE, DENSE), result, strict=True):
        assert f"{share:.0%} of" in effect.measured
        assert effect.expected == POSITIVE
        expected = [
            stats.spearmanr(some["l2_norm"], some["test/mse"] - some["train/mse"]).statistic
            for _, some in rows[rows["active"] == share].groupby("restart")
        ]
        assert len(expected) == 4
        np.testing.assert_allclose(effect.values, expected, rtol=1e-9)


GRIDS = {  # of a user's own, and the claims that their points allow
    "one strength": (["--l2", 0.1, "--active", 1], set()),
    "one strength, three signals": (["--l2", 0.1, "--active", 1, 0.5, 0.05], set()),
    "strengths of L2": (["--l2", 0, 0.1, 1, "--active", 1], {"large-coefficients-overfit"}),
    "another signal": (["--active", 0.3], {"large-coefficients-overfit"}),
}


@pytest.mark.parametrize("grid", GRIDS)
def test_a_study_without_the_points_says_so(grid, tmp_path, monkeypatch):
    typed, possible = GRIDS[grid]
    quick = ["--steps", 4, "--eval-every", 2, "--restarts", 2]
    table = Study(launch(tmp_path / "run", *typed, *quick))
    untrained(monkeypatch)
    judged = judge_all(signals.CLAIMS, table)
    assert {judgement.claim.id for judgement in judged if judgement.parts} == possible
    lacking = [judgement for judgement in judged if not judgement.parts]
    assert {judgement.verdict for judgement in lacking} == {"inconclusive"}
    for judgement in lacking:
        with pytest.raises(Missing):
            judgement.claim.effects(table)


def test_a_share_above_all_features_is_refused(capsys):
    assert signals.PRESETS["smoke"].config.active == (DENSE, SPARSE)
    assert studies.main(["signals", "--active", "1.5", "--plan"]) == 2
    assert "--active" in capsys.readouterr().err


def test_a_grid_of_more_points_than_colours_is_drawn(tmp_path):
    typed = ["--l2", *(n / 10 for n in range(12)), "--active", 1, "--steps", 2, "--eval-every", 1]
    out = launch(tmp_path / "run", *typed, "--restarts", 1, report=True)
    assert (out / "report" / "overfitting.png").exists()


def test_the_figure_has_a_panel_for_every_signal(smoke):
    assert list(signals.FIGURES) == ["overfitting"]
    figure = signals.FIGURES["overfitting"](Study(smoke))
    drawn = [axes for axes in figure.axes if axes.has_data()]
    titles = [axes.get_title() for axes in drawn]
    assert titles == [f"{share}% of features active" for share in (5, 100)]
    dots = sum(len(c.get_offsets()) for axes in drawn for c in axes.collections)
    assert dots == len(trials_of(smoke)), "a dot a trial"
