"""The algebra of claims: quantities of a study by restart, and what is expected of them."""

import math
import operator

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from ablax.errors import Missing
from ablax.report.claims import Claim, evidence_in_words, judge
from ablax.report.quantities import (
    NEGATIVE,
    POSITIVE,
    Effect,
    Expectation,
    column,
    quantities,
)
from ablax.report.statistics import mean_interval
from tests.report.runs import (
    BASE,
    POINTS,
    STRONG,
    WEAK,
    point,
    random_trials,
    series,
    trial,
    write,
)

INF, NAN = math.inf, math.nan
LOSS = column("test/loss", model="mlp")
STEPS = column("steps", model="mlp")
NORM = column("l2_norm", model="mlp")
SHORT = column("l2_norm", measured="norm")


@pytest.fixture
def rows():
    """The rows of trials.parquet: two strengths of L2 on one baseline, one on another."""
    return random_trials(restarts=5)


@pytest.fixture
def study(rows, tmp_path):
    return write(tmp_path, POINTS, rows)


def measured(quantity, study):
    """{name: values} of a quantity in a study."""
    effects = (quantity > 0).effects(study)
    assert len({effect.measured for effect in effects}) == len(effects)
    return {effect.measured: effect.values for effect in effects}


def numbers(quantity, study):
    """The values of a quantity that has one entry."""
    (values,) = measured(quantity, study).values()
    return values


def raw(rows, name, column):
    """The values of a point by restart, as its trials have them."""
    return {row["restart"]: row[column] for row in rows if row["point"] == name}


def chosen(rows, names, column):
    """At each restart the value of the point with the least mean validation loss of the others."""
    values = []
    for restart in sorted({row["restart"] for row in rows}):
        losses = {name: raw(rows, name, "valid/loss") for name in names}
        means = {n: np.mean([v for r, v in l.items() if r != restart]) for n, l in losses.items()}
        values.append(raw(rows, min(names, key=means.__getitem__), column)[restart])
    return np.array(values, float)


MLP_L2, EVERY_L2 = ["l2=0.1", "l2=1"], ["l2=0.1", "l2=1", "linear l2=0.1"]


# Columns


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["test/loss", "train/accuracy", "l2_norm", "steps"])
def test_of_several_points_the_other_restarts_choose(name, seed, tmp_path):
    """By validation, whatever the column is, among the points with the settings and no others."""
    rows = random_trials(restarts=6, seed=seed)
    study = write(tmp_path, POINTS, rows)
    for quantity, points in (
        (column(name, model="mlp")["L2"], MLP_L2),
        (column(name)["L2"], EVERY_L2),
        (column(name, model="linear")["L2"], ["linear l2=0.1"]),
        (column(name)["baseline"], ["base", "linear"]),
    ):
        np.testing.assert_array_equal(numbers(quantity, study), chosen(rows, points, name))


def test_a_choice_is_made_restart_by_restart(tmp_path):
    """Restart 0 alone makes WEAK look better: it may not choose for itself."""
    rows = series(WEAK, valid_loss=[0.1, 0.6, 0.6, 0.6], test_loss=[1.0, 2.0, 3.0, 4.0])
    rows += series(STRONG, valid_loss=[0.9, 0.5, 0.5, 0.5], test_loss=[10.0, 20.0, 30.0, 40.0])
    study = write(tmp_path, [WEAK, STRONG], rows)
    assert numbers(column("test/loss")["L2"], study).tolist() == [10.0, 2.0, 3.0, 4.0]


def test_a_choice_follows_the_direction_of_the_objective(tmp_path):
    rows = series(WEAK, valid_accuracy=[0.3] * 3, valid_loss=[0.1] * 3, test_loss=[1.0] * 3)
    rows += series(STRONG, valid_accuracy=[0.9] * 3, valid_loss=[0.9] * 3, test_loss=[2.0] * 3)
    for objective, value in ((("loss", "min"), 1.0), (("accuracy", "max"), 2.0)):
        named = dict(zip(("name", "direction"), objective, strict=True))
        study = write(tmp_path / objective[0], [WEAK, STRONG], rows, objective=named)
        assert numbers(column("test/loss")["L2"], study).tolist() == [value] * 3


def test_points_are_told_apart_by_any_field(rows, study):
    """Its values are numbers or names; of several points with one value validation chooses."""
    for by, value, points in [
        ("l2", 1.0, ["l2=1"]),
        ("l2", 1, ["l2=1"]),
        ("l2", 0.1, ["l2=0.1", "linear l2=0.1"]),
        ("l2", 0.0, ["base", "linear"]),
        ("model", "linear", ["linear", "linear l2=0.1"]),
        ("protocol/steps", 100, [of["name"] for of in POINTS]),
    ]:
        result = numbers(column("l2_norm", by=by)[value], study)
        np.testing.assert_array_equal(result, chosen(rows, points, "l2_norm"))


def test_settings_say_among_which_points(rows, study):
    """Those of the column and those of `at`, together; a later one wins; a column never changes."""
    plain = column("l2_norm", by="model")
    for where, name, points in [
        ({}, "mlp", ["base", "l2=0.1", "l2=1"]),
        ({"l2": 0.1}, "mlp", ["l2=0.1"]),
        ({"l2": 0.1}, "linear", ["linear l2=0.1"]),
        ({"group": "L2"}, "mlp", ["l2=0.1", "l2=1"]),
        ({"group": "L2", "l2": 1.0}, "mlp", ["l2=1"]),
    ]:
        expected = chosen(rows, points, "l2_norm")
        at = plain
        for field, value in where.items():
            at = at.at(**{field: value})
        for asked in (column("l2_norm", by="model", **where), plain.at(**where), at):
            np.testing.assert_array_equal(numbers(asked[name], study), expected)
        settings = "".join(f", {field}={value}" for field, value in where.items())
        assert list(measured(at[name], study)) == [f"l2_norm: {name}{settings}"]
    strong = NORM.at(l2=0.1).at(l2=1.0)
    np.testing.assert_array_equal(
        numbers(strong["L2"], study), numbers(NORM.at(l2=1.0)["L2"], study)
    )
    np.testing.assert_array_equal(numbers(NORM["L2"], study), chosen(rows, MLP_L2, "l2_norm"))


def test_at_keeps_what_else_a_column_is(study):
    shared = column("l2_norm", by="model", share=True, measured="norm").at(l2=0.0)["mlp"]
    (effect,) = (shared > 0).effects(study)
    assert effect.measured == "norm: mlp, l2=0.0"
    assert effect.share


def test_a_diverged_trial_counts_with_the_worst_in_a_claim_too(tmp_path):
    rows = series(BASE, test_loss=[0.5, 0.6, 0.9], test_accuracy=[0.5, 0.2, 0.4])
    rows += series(WEAK, test_loss=[0.1] * 3, test_accuracy=[0.9] * 3)
    rows[-1]["status"] = "diverged"
    study = write(tmp_path, [BASE, WEAK], rows)
    loss, accuracy = column("test/loss"), column("test/accuracy")
    assert numbers(loss["L2"], study) == pytest.approx([0.1, 0.1, 0.9])
    assert numbers(loss["L2"] - loss["baseline"], study) == pytest.approx([-0.4, -0.5, 0.0])
    assert numbers(accuracy["L2"], study) == pytest.approx([0.9, 0.9, 0.2])
    every = measured(loss.everywhere, study)
    assert every["test/loss, l2=0.1"] == pytest.approx([0.1, 0.1, 0.9])


# Arithmetic

OPERATORS = {"−": operator.sub, "+": operator.add, "·": operator.mul, "/": operator.truediv}


@pytest.mark.parametrize("sign", OPERATORS)
def test_quantities_are_joined_restart_by_restart(sign, rows, study):
    a, b = chosen(rows, MLP_L2, "test/loss"), chosen(rows, ["base"], "steps")
    join = OPERATORS[sign]
    np.testing.assert_array_equal(numbers(join(LOSS["L2"], STEPS["baseline"]), study), join(a, b))
    np.testing.assert_array_equal(numbers(join(STEPS["baseline"], LOSS["L2"]), study), join(b, a))
    (name,) = measured(join(LOSS["L2"], STEPS["baseline"]), study)
    assert name == f"test/loss: L2, model=mlp {sign} steps: baseline, model=mlp"


@pytest.mark.parametrize("number", [2, 0.25, -3.0, np.float32(0.5), np.int64(7)])
@pytest.mark.parametrize("sign", OPERATORS)
def test_a_number_is_the_same_at_every_restart(sign, number, rows, study):
    join = OPERATORS[sign]
    expected = join(chosen(rows, MLP_L2, "steps"), float(number))
    assert measured(join(STEPS["L2"], number), study) == {
        f"steps: L2, model=mlp {sign} {number:g}": pytest.approx(expected, rel=0, abs=0)
    }


def test_minus_turns_every_value_round(rows, study):
    expected = -chosen(rows, MLP_L2, "test/loss")
    assert measured(-LOSS["L2"], study) == {
        "−(test/loss: L2, model=mlp)": pytest.approx(expected, rel=0, abs=0)
    }
    each = measured(-NORM.everywhere, study)
    assert list(each) == [f"−(l2_norm, {name})" for name in ("base", "l2=0.1", "l2=1")]
    np.testing.assert_array_equal(each["−(l2_norm, l2=1)"], -chosen(rows, ["l2=1"], "l2_norm"))
    negated = -LOSS["L2"]
    np.testing.assert_array_equal(numbers(-negated, study), -expected)
    solved = quantities(lambda study: {"solved": np.array([True, False])})
    assert numbers(-solved, study).tolist() == [-1.0, 0.0]


def test_arithmetic_goes_on(rows, study):
    a, b = chosen(rows, MLP_L2, "test/loss"), chosen(rows, ["base"], "test/loss")
    steps = chosen(rows, MLP_L2, "steps")
    relative = (LOSS["L2"] - LOSS["baseline"]) / LOSS["baseline"]
    np.testing.assert_array_equal(numbers(relative, study), (a - b) / b)
    mixed = (LOSS["L2"] * 2 + STEPS["L2"] / 100) - (LOSS["baseline"] - 1)
    np.testing.assert_allclose(numbers(mixed, study), (2 * a + steps / 100) - (b - 1), rtol=1e-15)


def test_only_restarts_that_both_have_are_joined(tmp_path):
    """Restart r of one with restart r of the other, in whatever order they were written."""
    a, b = {0: 0.9, 1: 0.7, 2: 0.8, 5: 0.1}, {7: 0.9, 2: 0.5, 1: 0.6, 0: 0.5}
    rows = [trial(WEAK, r, test_loss=value) for r, value in a.items()]
    rows += [trial(BASE, r, test_loss=value) for r, value in b.items()]
    study = write(tmp_path, [BASE, WEAK], rows, trials=12)
    loss = column("test/loss")
    both = numbers(loss["L2"] - loss["baseline"], study)
    assert both == pytest.approx([0.4, 0.1, 0.3])
    np.testing.assert_array_equal(numbers(loss["baseline"] - loss["L2"], study), -both)
    assert numbers(loss["L2"] + loss["baseline"], study) == pytest.approx([1.4, 1.3, 1.3])
    assert numbers(loss["L2"], study) == pytest.approx([0.9, 0.7, 0.8, 0.1]), "alone it has all"
    (effect,) = (loss["L2"] > loss["baseline"]).effects(study)
    assert effect.interval(0.95) == mean_interval(np.asarray(both), 0.95)
    assert effect.interval(0.95).n == 3


def test_where_no_restart_is_shared_nothing_is_told(tmp_path):
    rows = [trial(WEAK, 0), trial(WEAK, 1), trial(BASE, 2), trial(BASE, 3)]
    study = write(tmp_path, [BASE, WEAK], rows, trials=8)
    loss = column("test/loss")
    claim = Claim("id", "A sentence.", "a source", loss["L2"] < loss["baseline"])
    result = judge(claim, study)
    assert result.verdict == "inconclusive"
    assert result.parts[0].interval.n == 0


def test_values_are_float64_whatever_the_column_is(tmp_path):
    rows = series(BASE, solved=[True, False, True], steps=[1, 2, 3])
    rows += series(WEAK, solved=[False, False, True], steps=[2, 2, 2])
    study = write(tmp_path, [BASE, WEAK], rows)
    solved, steps = column("solved"), column("steps")
    for quantity, values in [
        (solved["baseline"], [1, 0, 1]),
        (solved["baseline"] - solved["L2"], [1, 0, 0]),
        (steps["baseline"] / steps["L2"], [0.5, 1, 1.5]),
        (column("solved", l2=0.0).everywhere, [1, 0, 1]),
        (column("steps", l2=0.0).everywhere, [1, 2, 3]),
        (quantities(lambda study: {"yes": [True, True]}), [1, 1]),
    ]:
        result = numbers(quantity, study)
        assert result.dtype == np.float64
        assert result.tolist() == values


# Names


def gap(study):
    return {"gap": study.values("base", "l2_norm")}


@pytest.mark.parametrize(
    ("quantity", "name"),
    [
        # A column of a point.
        (column("steps")["L2"], "steps: L2"),
        (LOSS["L2"], "test/loss: L2, model=mlp"),
        (column("test/loss", model="mlp", l2=1.0)["L2"], "test/loss: L2, model=mlp, l2=1.0"),
        (column("test/loss", measured="loss")["L2"], "loss: L2"),
        (column("steps", by="model")["mlp"], "steps: mlp"),
        (column("steps", by="l2")[0.1], "steps: l2 0.1"),
        (column("steps", by="l2")[1.0], "steps: l2 1"),
        (column("steps", by="protocol/steps")[100], "steps: steps 100"),
        # A difference names once what the two share.
        (LOSS["L2"] - LOSS["baseline"], "test/loss: L2 − baseline, model=mlp"),
        (column("steps")["L2"] - column("steps")["baseline"], "steps: L2 − baseline"),
        (column("steps", by="l2")[1.0] - column("steps", by="l2")[0.1], "steps: l2 1 − l2 0.1"),
        (LOSS["L2"] / LOSS["baseline"], "test/loss: L2 / baseline, model=mlp"),
        (SHORT["L2"] - SHORT["baseline"], "norm: L2 − baseline"),
        # What they do not share is named with each.
        (LOSS["L2"] - STEPS["L2"], "test/loss: L2, model=mlp − steps: L2, model=mlp"),
        (
            LOSS["L2"] - LOSS.at(l2=0.0)["baseline"],
            "test/loss: L2, model=mlp − test/loss: baseline, model=mlp, l2=0.0",
        ),
        (
            column("steps", model="mlp")["L2"] - column("steps", model="linear")["L2"],
            "steps: L2, model=mlp − steps: L2, model=linear",
        ),
        (LOSS["L2"] - quantities(gap), "test/loss: L2, model=mlp − gap"),
        # Joined ones keep their brackets in others.
        (
            (LOSS["L2"] - LOSS["baseline"]) - (LOSS.at(l2=1.0)["L2"] - LOSS["baseline"]),
            "(test/loss: L2 − baseline, model=mlp) − "
            "(test/loss: L2, model=mlp, l2=1.0 − test/loss: baseline, model=mlp)",
        ),
        (
            (STEPS["L2"] - STEPS["baseline"]) - STEPS["baseline"],
            "(steps: L2 − baseline, model=mlp) − steps: baseline, model=mlp",
        ),
        (
            STEPS["baseline"] - (STEPS["L2"] - STEPS["baseline"]),
            "steps: baseline, model=mlp − (steps: L2 − baseline, model=mlp)",
        ),
        ((STEPS["L2"] - STEPS["baseline"]) / 10, "(steps: L2 − baseline, model=mlp) / 10"),
        (STEPS["L2"] / 10 - STEPS["L2"], "(steps: L2, model=mlp / 10) − steps: L2, model=mlp"),
        (STEPS["L2"] * 2 + 1, "(steps: L2, model=mlp · 2) + 1"),
        # Others.
        (quantities(gap), "gap"),
        (quantities(gap) - 1, "gap − 1"),
        (-(LOSS["L2"] - LOSS["baseline"]), "−(test/loss: L2 − baseline, model=mlp)"),
        ((LOSS["L2"] - LOSS["baseline"]).named("gain"), "gain"),
        ((LOSS["L2"] - LOSS["baseline"]).named("gain") - 1, "gain − 1"),
        (LOSS["L2"].named("here") - LOSS["L2"].named("there"), "here − there"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_quantity_is_named_by_what_it_is_made_of(quantity, name, study):
    """In the evidence and, before there is a study, when it is printed."""
    assert list(measured(quantity, study)) == [name]
    assert repr(quantity > 0) == f"{name} (expected > 0)"


def test_a_name_changes_nothing_else(tmp_path):
    rows = series(BASE, solved=[1.0, 0.0, 1.0])
    study = write(tmp_path, [BASE], rows)
    for share in (False, True):
        plain = column("solved", share=share, l2=0.0)["baseline"]
        ((first,), (second,)) = ((q > 0.5).effects(study) for q in (plain, plain.named("rate")))
        assert (second.measured, second.share) == ("rate", share)
        np.testing.assert_array_equal(first.values, second.values)
        assert plain.named("rate").fields == plain.fields == {"l2"}


# Expectations


@pytest.mark.parametrize(
    ("expected", "bounds", "turned"),
    [
        (LOSS["L2"] > LOSS["baseline"], POSITIVE, False),
        (LOSS["L2"] < LOSS["baseline"], NEGATIVE, False),
        (LOSS["baseline"] > LOSS["L2"], POSITIVE, True),
        (LOSS["baseline"] < LOSS["L2"], NEGATIVE, True),
        (LOSS["L2"] - LOSS["baseline"] > 0, POSITIVE, False),
        (LOSS["L2"] - LOSS["baseline"] < 0, NEGATIVE, False),
        (LOSS["L2"] - LOSS["baseline"] > -0.5, (-0.5, INF), False),
        (LOSS["L2"] - LOSS["baseline"] < 0.5, (-INF, 0.5), False),
        (0.5 < LOSS["L2"] - LOSS["baseline"], (0.5, INF), False),  # noqa: SIM300
        (0.5 > LOSS["L2"] - LOSS["baseline"], (-INF, 0.5), False),  # noqa: SIM300
        ((LOSS["L2"] - LOSS["baseline"]).within(0.05), (-0.05, 0.05), False),
        ((LOSS["L2"] - LOSS["baseline"]).within(0.1, 0.2), (0.1, 0.2), False),
        ((LOSS["L2"] - LOSS["baseline"]).within(-0.2, 0.0), (-0.2, 0.0), False),
        (Expectation(LOSS["L2"] - LOSS["baseline"], (1.0, 2.0)), (1.0, 2.0), False),
    ],
    ids=repr,
)
def test_a_comparison_expects_where_the_mean_lies(expected, bounds, turned, rows, study):
    """The difference of two quantities is the first − the second, whichever is larger."""
    (effect,) = expected.effects(study)
    assert effect.expected == bounds
    difference = chosen(rows, MLP_L2, "test/loss") - chosen(rows, ["base"], "test/loss")
    np.testing.assert_array_equal(effect.values, -difference if turned else difference)
    methods = "baseline − L2" if turned else "L2 − baseline"
    assert effect.measured == f"test/loss: {methods}, model=mlp"


def test_an_expectation_has_a_verdict_once_there_is_a_study(tmp_path):
    rows = series(BASE, l2_norm=[1.0, 1.1, 0.9, 1.0]) + series(WEAK, l2_norm=[0.5, 0.6, 0.5, 0.4])
    study = write(tmp_path, [BASE, WEAK], rows)
    norm = column("l2_norm")
    for expected, verdict in [
        (norm["L2"] < norm["baseline"], "supported"),
        (norm["baseline"] < norm["L2"], "refuted"),
        (norm["L2"] > norm["baseline"], "refuted"),
        ((norm["L2"] - norm["baseline"]).within(0.1), "refuted"),
        ((norm["L2"] - norm["baseline"]).within(-0.8, -0.2), "supported"),
        ((norm["L2"] - norm["baseline"]).within(-0.5, 0), "inconclusive"),
        (norm["L2"] / norm["baseline"] < 0.75, "supported"),
        (norm["L2"] > 0.9, "refuted"),
        (0.9 > norm["L2"], "supported"),  # noqa: SIM300
    ]:
        result = judge(Claim("id", "A sentence.", "a source", expected), study)
        assert result.verdict == verdict, expected
        (line,) = evidence_in_words(result)
        name, bounds = repr(expected).split(" (expected")
        assert line.startswith(f"{name} = ")
        assert line.endswith(f" (expected{bounds}, n = 4")


def test_an_expectation_is_neither_true_nor_false():
    """So that a chain, of which Python would silently keep the last link alone, is refused."""
    a, b, c = LOSS["L1"], LOSS["L2"], LOSS["baseline"]
    for chain in (
        lambda: a < b < c,
        lambda: a > b > c,
        lambda: 0 < a < 1,
        lambda: a < b > 0,
        lambda: (a < b) and (b < c),
        lambda: a < b or b < c,
        lambda: not a < b,
        lambda: 1 if a < b else 2,
        lambda: sorted([a, b, c]),
        lambda: max(a, b),
    ):
        with pytest.raises(TypeError, match="neither true nor false"):
            chain()


# Every point by itself


def test_everywhere_is_an_effect_of_every_point_with_these_settings(rows, study):
    names = [of["name"] for of in POINTS]
    for asked, points in [
        (column("l2_norm"), names),
        (NORM, ["base", "l2=0.1", "l2=1"]),
        (NORM.at(l2=0.1), ["l2=0.1"]),
        (column("l2_norm", by="l2", model="linear"), ["linear", "linear l2=0.1"]),
        (column("l2_norm", group="L2"), EVERY_L2),
    ]:
        result = measured(asked.everywhere, study)
        assert list(result) == [f"l2_norm, {name}" for name in points]
        for name, values in zip(points, result.values(), strict=True):
            assert values.tolist() == list(raw(rows, name, "l2_norm").values()), "nothing is chosen"
    assert list(measured(column("l2_norm", measured="norm", l2=1.0).everywhere, study)) == [
        "norm, l2=1"
    ]


def test_bounds_hold_at_every_point(tmp_path):
    values = {"base": [0.1, 0.2, 0.1], "l2=0.1": [0.8, 0.82, 0.81], "l2=1": [0.7, 0.5, 0.6]}
    points = [BASE, WEAK, STRONG]
    rows = [row for of in points for row in series(of, l2_norm=values[of["name"]])]
    study = write(tmp_path, points, rows)
    claim = Claim("id", "A sentence.", "a source", column("l2_norm").everywhere.within(0.5, 1.0))
    result = judge(claim, study)
    assert [part.verdict for part in result.parts] == ["refuted", "supported", "inconclusive"]
    assert {part.expected for part in result.parts} == {(0.5, 1.0)}
    assert result.verdict == "refuted"


def test_everywhere_leaves_points_without_the_column_out(tmp_path):
    """Points of another program may not measure it; what is missing at one restart is missing."""
    other, half = point("other", "other", model="linear"), point("half", "half", l1=0.5)
    rows = [*series(BASE, angle=[1.0, 2.0]), trial(other, 0), trial(other, 1)]
    rows += series(half, angle=[1.0, NAN])
    study = write(tmp_path, [BASE, other, half], rows)
    (effect,) = column("angle").everywhere.within(0.0, 9.0).effects(study)
    assert (effect.measured, effect.expected) == ("angle, base", (0.0, 9.0))
    assert effect.values.tolist() == [1.0, 2.0]
    assert effect.values.dtype == np.float64
    for where in ({"model": "linear"}, {"l1": 0.5}):
        with pytest.raises(Missing):
            column("angle", **where).everywhere.within(9).effects(study)


def test_arithmetic_is_of_every_point_too(rows, study):
    names = ["base", "l2=0.1", "l2=1"]
    norm, loss = ({n: chosen(rows, [n], c) for n in names} for c in ("l2_norm", "test/loss"))
    result = measured(NORM.everywhere / 2 - LOSS.everywhere, study)
    assert list(result) == [f"(l2_norm, {name} / 2) − test/loss, {name}" for name in names]
    for values, name in zip(result.values(), names, strict=True):
        np.testing.assert_array_equal(values, norm[name] / 2 - loss[name])
    again = measured((NORM.everywhere + LOSS.everywhere) - NORM.everywhere, study)
    turned = measured(-NORM.everywhere + LOSS.everywhere, study)
    for name, first, second in zip(names, again.values(), turned.values(), strict=True):
        np.testing.assert_array_equal(first, norm[name] + loss[name] - norm[name])
        np.testing.assert_array_equal(second, loss[name] - norm[name])


def test_points_are_joined_with_themselves_alone(tmp_path):
    """Each column is there at one of two points: there is no point at which both are."""
    rows = series(BASE, angle=[1.0, 2.0], size=[NAN, NAN])
    rows += series(WEAK, angle=[NAN, NAN], size=[3.0, 4.0])
    rows += series(STRONG, angle=[5.0, 6.0], size=[7.0, 8.0])
    study = write(tmp_path, [BASE, WEAK, STRONG], rows)
    angle, size = column("angle"), column("size")
    for wrong in (
        angle.everywhere - size.everywhere,
        angle.everywhere / 2 - size.everywhere * 3,
        (-angle.everywhere) + size.everywhere,
        (angle.everywhere + angle.everywhere) - size.everywhere,
        angle.everywhere - angle.at(l2=0.0).everywhere,
    ):
        with pytest.raises(Missing, match="not of the same points"):
            (wrong > 0).effects(study)
    (only,) = measured(angle.at(l2=1.0).everywhere - size.at(l2=1.0).everywhere, study).values()
    assert only.tolist() == [-2.0, -2.0]


# What the study lacks


@pytest.mark.parametrize(
    "quantity",
    [
        LOSS["L3"],
        LOSS["L2"] - LOSS["L3"],
        LOSS["L3"] - LOSS["L2"],
        LOSS["L3"] / 2,
        -LOSS["L3"],
        LOSS["L3"].named("loss of L3"),
        column("no_such_column", model="mlp")["L2"],
        column("no_such_column", model="mlp").everywhere,
        column("test/loss", model="none")["L2"],
        LOSS.at(l2=7.0)["L2"],
        LOSS.at(model="linear", l2=1.0)["L2"],
        column("test/loss", by="l2")[7.0],
        column("test/loss", by="l2", model="linear")[1.0],
        column("test/loss", model="none").everywhere,
        column("test/loss", model="linear", l2=1.0).everywhere,
        column("test/loss", model="none").everywhere - 1,
        -column("test/loss", model="none").everywhere,
        column("test/loss", model="none").everywhere.named("loss of none"),
        quantities(lambda study: {}),
        quantities(lambda study: {}) - 1,
        quantities(lambda study: {}).named("nothing"),
        quantities(lambda study: {}) - quantities(lambda study: {}),
        quantities(lambda study: {"loss of L3": study.values("L3", "test/loss")}),
    ],
    ids=lambda quantity: str(quantity.name),
)
def test_a_study_without_the_points_is_missing_something(quantity, study):
    for expected in (quantity > 0, quantity < LOSS["L2"], LOSS["L2"] > quantity):
        with pytest.raises(Missing):
            expected.effects(study)
    claim = Claim("id", "A sentence.", "a source", LOSS["L2"] > 0, quantity > 0)
    result = judge(claim, study)
    assert (result.verdict, result.parts) == ("inconclusive", ())


def test_a_point_that_has_not_finished_is_missing(tmp_path):
    rows = random_trials([BASE, WEAK])
    study = write(tmp_path, POINTS, rows, trials=20)
    norm = column("l2_norm", by="l2", model="mlp")
    np.testing.assert_array_equal(numbers(norm[0.1], study), chosen(rows, ["l2=0.1"], "l2_norm"))
    with pytest.raises(Missing, match=r"1\.0"):
        (norm[1.0] > norm[0.1]).effects(study)


# Functions of the study


def test_a_function_of_the_study_makes_quantities(rows, study):
    """Several effects, or what is no column; also as a decorator."""

    @quantities
    def norm_by_strength(study):
        return {f"norm, {p}": study.values(p, "l2_norm") for p in study.among(group="L2")}

    result = measured(norm_by_strength, study)
    assert list(result) == [f"norm, {name}" for name in EVERY_L2]
    for name, values in zip(EVERY_L2, result.values(), strict=True):
        np.testing.assert_array_equal(values, chosen(rows, [name], "l2_norm"))
    assert repr(norm_by_strength > 0.5) == "norm by strength (expected > 0.5)"
    scaled = measured(norm_by_strength * 2 - norm_by_strength, study)
    assert list(scaled) == [f"(norm, {name} · 2) − norm, {name}" for name in EVERY_L2]
    for values, once in zip(scaled.values(), result.values(), strict=True):
        np.testing.assert_allclose(values, once)
    assert not any(effect.share for effect in (norm_by_strength > 0).effects(study))


def test_a_function_is_asked_once_there_is_a_study_and_about_that_one(rows, tmp_path):
    asked = []

    @quantities
    def norm(study):
        asked.append(study)
        return {"norm": study.values("base", "l2_norm")}

    expected = norm / 2 > 0.5
    assert asked == []
    studies = [write(tmp_path / f"{n}", POINTS, rows[: 5 * n]) for n in (1, 2)]
    for study in studies:
        (effect,) = expected.effects(study)
        assert len(effect.values) == 5
    assert asked == studies


@pytest.mark.parametrize("kind", [np.asarray, pd.Series, list])
def test_values_of_a_function_are_of_any_kind(kind, rows, study):
    """By restart where they say which; else in the order of the restarts."""
    values = [0.5, 1.5, 2.5, 3.5, 4.5]
    mine = quantities(lambda study: {"mine": kind(values)})
    np.testing.assert_array_equal(numbers(mine, study), values)
    norm = chosen(rows, ["base"], "l2_norm")
    np.testing.assert_array_equal(numbers(NORM["baseline"] - mine, study), norm - values)
    some = quantities(lambda study: {"some": pd.Series([10.0, 20.0], index=[3, 1])})
    np.testing.assert_array_equal(
        np.sort(numbers(some - NORM["baseline"], study)), np.sort([10 - norm[3], 20 - norm[1]])
    )


# Shares

COUNTS = [(0, 1), (1, 1), (0, 4), (4, 4), (3, 4), (19, 20), (50, 100)]


def bits(successes, n):
    values = np.zeros(n)
    values[np.random.default_rng(n).permutation(n)[:successes]] = 1
    return values


@pytest.mark.parametrize(("successes", "n"), COUNTS)
def test_a_quantity_that_is_a_share_has_the_exact_interval(successes, n, tmp_path):
    """Only if it says so; of a column, at one point or at every, and of a function."""
    values = bits(successes, n)
    study = write(tmp_path, [BASE], series(BASE, solved=values))
    for level in (0.95, 0.99):
        ends = binomtest(successes, n).proportion_ci(level, method="exact")
        exact = (successes / n, ends.low, ends.high)
        for asked in (
            column("solved", share=True)["baseline"],
            column("solved", share=True).everywhere,
            column("solved", by="l2", share=True)[0.0],
            quantities(lambda study: {"solved": values}, share=True),
        ):
            (effect,) = asked.within(0.0, 1.0).effects(study)
            assert effect.share
            result = effect.interval(level)
            assert (result.estimate, result.low, result.high) == pytest.approx(exact)
            assert (result.n, result.method) == (n, "exact")
        for asked in (column("solved")["baseline"], quantities(lambda study: {"solved": values})):
            (effect,) = (asked > 0.5).effects(study)
            assert not effect.share
            np.testing.assert_equal(
                vars(effect.interval(level)), vars(mean_interval(values, level))
            )


def test_what_is_computed_from_shares_is_none(tmp_path):
    """A difference of zeros and ones may be −1, which no binomial count is."""
    rows = series(BASE, solved=bits(3, 8)) + series(WEAK, solved=bits(6, 8))
    study = write(tmp_path, [BASE, WEAK], rows)
    solved = column("solved", share=True)
    for quantity in (
        solved["L2"] - solved["baseline"],
        solved["L2"] - 0.5,
        solved["L2"] / 2,
        -solved["L2"],
        solved.everywhere - 1,
    ):
        assert not any(effect.share for effect in (quantity > 0).effects(study))
    (effect,) = (solved["L2"] > solved["baseline"]).effects(study)
    assert effect.interval(0.95) == mean_interval(bits(6, 8) - bits(3, 8), 0.95)


# Fields, which a claim is checked for before anything is trained


@pytest.mark.parametrize(
    ("quantity", "fields"),
    [
        (column("loss")["L2"], set()),
        (LOSS["L2"], {"model"}),
        (column("loss", by="l2")[0.1], {"l2"}),
        (column("loss", by="l2", group="L2", model="mlp")[0.1], {"l2", "model"}),
        (LOSS.at(width=8)["L2"], {"model", "width"}),
        (LOSS.at(width=8).everywhere, {"model", "width"}),
        (LOSS["L2"] - column("loss", by="l2")[0.1], {"model", "l2"}),
        (LOSS["L2"] / 2 + column("loss", by="depth")[1] * 3, {"model", "depth"}),
        (-LOSS["L2"], {"model"}),
        (LOSS["L2"].named("loss"), {"model"}),
        (column("loss", by="protocol/steps")[100], {"protocol/steps"}),
        (quantities(gap), set()),
    ],
    ids=lambda value: str(value.name) if hasattr(value, "name") else "",
)
def test_a_quantity_knows_the_fields_that_it_looks_points_up_by(quantity, fields):
    assert quantity.fields == fields
    other = column("loss", by="init")["zeros"]
    claim = Claim("id", "A sentence.", "a source", quantity > 0, other < quantity, other > 1)
    assert claim.fields == fields | {"init"}


def test_an_effect_expects_more_than_zero_unless_it_says_otherwise():
    effect = Effect(np.array([1.0, 2.0]), "what")
    assert (effect.expected, effect.share) == (POSITIVE, False)
    assert effect.interval(0.9) == mean_interval(effect.values, 0.9)
