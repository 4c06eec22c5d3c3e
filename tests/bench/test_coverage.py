"""`bench coverage`, in small: it draws what it says, and counts what it should."""

import json
import math

import numpy as np
import pytest
from scipy import integrate, stats

from ablax.bench import BENCHES, coverage
from ablax.bench.tables import markdown
from ablax.cli.main import main as launch
from ablax.errors import UserError

RNG = np.random.default_rng


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The bench twice, with the same flags."""
    place = tmp_path_factory.mktemp("coverage")
    results = []
    for name in ("a.json", "b.json"):
        coverage.main(["--quick", "--out", str(place / name)])
        results.append(json.loads((place / name).read_text()))
    return results


def test_the_same_flags_give_the_same_figures(quick):
    first, second = quick
    assert first["coverage"] == second["coverage"]
    assert first["errors"] == second["errors"]
    flags = coverage.Flags(simulations=20, resamples=99, quick=True, seed=1)
    assert coverage.measure(flags)["coverage"] != first["coverage"]


def test_quick_figures_are_sane(quick):
    result, _ = quick
    assert "coverage" in BENCHES
    assert result["flags"]["simulations"] == 50
    for figures in (result["coverage"], result["errors"]):
        for row, cells in figures.items():
            assert cells.keys() == coverage.POPULATIONS.keys(), row
            assert all(0 <= c["low"] <= c["share"] <= c["high"] <= 1 for c in cells.values())
    for row in ("mean, t", "median, BCa", "interquartile mean, BCa", "paired mean difference, t"):
        assert all(cell["share"] > 0.8 for cell in result["coverage"][row].values()), row
    exact = result["coverage"]["probability of improvement, exact"].values()
    assert all(cell["high"] > 0.95 for cell in exact)
    for name in coverage.POPULATIONS:
        alone, several, corrected = (cells[name]["share"] for cells in result["errors"].values())
        assert max(alone, corrected) <= several
        assert corrected < 0.2


def test_the_table_has_every_cell_and_what_is_amiss_is_listed(quick):
    lines = markdown(coverage.parts(quick[0])).splitlines()
    table = [line for line in lines if line.startswith("|")]
    rows = len(quick[0]["coverage"]) + len(quick[0]["errors"])
    assert len(table) == 2 + rows
    assert {line.count("|") for line in table} == {2 + len(coverage.POPULATIONS)}
    assert any(line.startswith("| covers: mean, t | ") for line in table)
    listed = [line for line in lines if line.startswith("- mean, t, ")]
    cells = quick[0]["coverage"]["mean, t"].values()
    assert len(listed) == sum(not 0.93 <= cell["share"] <= 0.97 for cell in cells)


def test_truths_are_those_of_the_normal_population():
    result = coverage.truths(coverage.POPULATIONS["normal"], 16, 2, RNG(0))
    best, _ = integrate.quad(lambda x: x * 4 * stats.norm.pdf(x) * stats.norm.cdf(x) ** 3, -9, 9)
    expected = {
        "mean, t": 0.0,
        "median, BCa": 0.0,
        "interquartile mean, BCa": 0.0,
        coverage.BEST: best,
        "paired mean difference, t": 0.5,
        "probability of improvement, exact": stats.norm.cdf(0.5 / math.sqrt(2)),
    }
    for row, value in expected.items():
        np.testing.assert_allclose(result[row], value, atol=0.005, err_msg=row)
    assert 0.85 * best < result[coverage.BEST_MEASURED] < result[coverage.BEST]


@pytest.mark.parametrize("name", coverage.POPULATIONS)
def test_samples_have_the_truth_that_is_asked_for(name):
    population = coverage.POPULATIONS[name]
    result = coverage.truths(population, 8, 1, RNG(0))
    a, b = population.pair(RNG(1), 200_000)
    sample = population.sample(RNG(2), 200_000)
    spread = sample.std()
    assert abs(sample.mean() - result["mean, t"]) < 0.02 * spread
    assert abs(np.median(sample) - result["median, BCa"]) < 0.02 * spread
    assert abs((a - b).mean() - result["paired mean difference, t"]) < 0.02 * spread
    assert abs(result["paired mean difference, t"] - spread / 2) < 0.1 * spread
    won = (np.sign(a - b).mean() + 1) / 2
    assert abs(won - result["probability of improvement, exact"]) < 0.01
    assert abs(stats.spearmanr(a, b).statistic - 0.5) < 0.1, "they share half of what varies"


def test_pairs_of_accuracies_can_tie():
    a, b = coverage.POPULATIONS["accuracy, 95% of 360"].pair(RNG(0), 10_000)
    assert 0.03 < (a == b).mean() < 0.1


@pytest.mark.parametrize("name", coverage.POPULATIONS)
def test_differences_under_the_null_are_zero_on_average_and_share_a_part(name):
    result = coverage.POPULATIONS[name].null_differences(RNG(0), 100_000)
    assert result.shape == (coverage.ROWS, 100_000)
    assert (np.abs(result.mean(1)) < 0.03 * result.std(1)).all()
    assert abs(stats.spearmanr(result[0], result[1]).statistic - 0.5) < 0.1
    skewness = stats.skew(result[0])
    if name.startswith("lognormal"):
        assert skewness > 1
    if name in ("normal", "accuracy, 95% of 360"):
        assert abs(skewness) < 0.2


@pytest.mark.parametrize(
    "flags",
    [["--simulations", "0"], ["--n", "1"], ["--resamples", "0"], ["--seed", "-1"]],
)
def test_flags_out_of_range_are_refused(flags, tmp_path):
    out = tmp_path / "coverage.json"
    with pytest.raises(UserError, match=f"{flags[0]}: expected at least"):
        coverage.main([*flags, "--out", str(out)])
    assert launch(["bench", "coverage", *flags]) == 2
    assert not out.exists()


@pytest.mark.parametrize("flags", [["--kills", "3"], ["--n", "many"], ["--quick", "yes"]])
def test_flags_that_are_unknown_end_with_status_2(flags, capsys):
    with pytest.raises(SystemExit) as exit:
        launch(["bench", "coverage", *flags])
    assert exit.value.code == 2
    assert flags[0] in capsys.readouterr().err or flags[1] == "yes"
