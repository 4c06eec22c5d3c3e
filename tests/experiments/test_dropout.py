"""The study of dropout: the paper's rows, drops counted, averages by hand, its claims."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from ablax.data import load, split
from ablax.errors import Missing, UserError
from ablax.nn.mlp import widths_of
from ablax.published import srivastava
from ablax.published.srivastava import PUBLISHED, SPARSITY, sparsity
from ablax.report.claims import judge_all
from ablax.report.quantities import NEGATIVE, POSITIVE
from ablax.report.study import Study
from ablax.study import snapshots
from experiments import dropout
from experiments.dropout import MIDDLE, RATES, WIDTHS, Config
from tests.experiments import studies
from tests.experiments.studies import effects, task_of, trial_of, trials_of, untrained

launch = partial(studies.launch, "dropout")
points = partial(studies.points_of, dropout, "dropout")
CLAIMS = dropout.CLAIMS
SIZES = (100, 300, 1000)


# The settings


def test_widths_are_read():
    assert widths_of("128") == (128,)
    assert widths_of("1024-1024-2048") == (1024, 1024, 2048)


@pytest.mark.parametrize("hidden", ["12-x", "", "-", "12-", "0", "8-0", "-8", "1.5", "8 8", "8,8"])
def test_what_are_no_widths_is_refused(hidden):
    with pytest.raises(UserError, match="expected widths such as 128"):
        widths_of(hidden)


def test_no_widths_end_the_command_with_one_message(capsys):
    assert studies.main(["dropout", "--preset", "smoke", "--hidden", "12-x", "--plan"]) == 2
    printed = capsys.readouterr()
    assert "--hidden: expected widths" in printed.err
    assert "12-x" in printed.err


def test_the_papers_rows_have_its_settings():
    rows = {}
    for row in srivastava.rows(1):
        rows.setdefault(row["group"], []).append(row)
    assert rows.keys() == PUBLISHED.keys() | {"10: Bernoulli", "10: Gaussian"}
    assert all(row["table"] == "srivastava" for some in rows.values() for row in some)
    for name, some in rows.items():
        dropped = "dropout" in name or name.startswith("10")
        for row in some:
            rates = row.get("dropout_rate", 0), row.get("input_dropout_rate", 0)
            assert rates == ((0.5, 0.2) if dropped else (0, 0)), name
            assert ("l2" in row) == ("L2" in name)
            assert ("l1" in row) == ("L1" in name)
            assert ("kl" in row) == ("KL" in name)
            assert ("max_norm" in row) == ("max-norm" in name or name.startswith("10"))
            assert row.get("activation", "relu") == ("sigmoid" if "logistic" in name else "relu")
            assert row.get("noise", "bernoulli") == ("gaussian" if "Gauss" in name else "bernoulli")
            if "8192" in name:
                hidden = "8192-8192"
            elif name.startswith("9"):
                hidden = "1024-1024-2048"
            else:
                hidden = "1024-1024-1024" if "2: dropout" in name else "1024-1024"
            assert row["hidden"] == hidden
    assert max(PUBLISHED, key=PUBLISHED.__getitem__) == "9: L2"
    assert PUBLISHED["9: dropout + max-norm"] == 1.05
    assert PUBLISHED["2: dropout, 2 × 8192, max-norm"] == 0.95


def test_shrinking_divides_the_widths_and_nothing_else():
    whole, small, tiny = (srivastava.rows(n) for n in (1, 16, 10_000))
    for a, b, c in zip(whole, small, tiny, strict=True):
        assert (a["shrink"], b["shrink"], c["shrink"]) == (1, 16, 10_000)
        same = {"hidden": 0, "shrink": 0}
        assert {**a, **same} == {**b, **same} == {**c, **same}
        assert widths_of(b["hidden"]) == tuple(width // 16 for width in widths_of(a["hidden"]))
        assert set(widths_of(c["hidden"])) == {1}


# What is measured


def test_sparsity_is_the_divergence_of_numpy():
    rng = np.random.default_rng(0)
    layers = {"hidden_0": rng.normal(size=(5, 30)), "hidden_1": rng.normal(-2, 1, size=(3, 30)),
              "output": rng.normal(size=(10, 30))}  # fmt: skip
    shares = np.concatenate(
        [(1 / (1 + np.exp(-layers[name]))).mean(axis=1) for name in ("hidden_0", "hidden_1")]
    )
    kl = SPARSITY * np.log(SPARSITY / shares) + (1 - SPARSITY) * np.log(
        (1 - SPARSITY) / (1 - shares)
    )
    traced = {name: jnp.asarray(h, jnp.float32) for name, h in layers.items()}
    for strength in (0.0, 1.0, 0.3):
        result = sparsity(traced, SimpleNamespace(kl=jnp.float32(strength)))
        np.testing.assert_allclose(result, strength * kl.sum(), rtol=1e-5)
    silent = {"hidden_0": jnp.full((2, 4), np.log(SPARSITY / (1 - SPARSITY)), jnp.float32)}
    np.testing.assert_allclose(sparsity(silent, SimpleNamespace(kl=jnp.float32(1))), 0, atol=1e-6)


def test_every_trial_is_there_once(smoke):
    rows = trials_of(smoke)
    assert sorted(zip(rows["dropout_rate"], rows["restart"], strict=True)) == [
        (rate, restart) for rate in (0.0, 0.5) for restart in range(3)
    ]
    assert set(rows["status"]) == {"done"}
    assert (rows["hidden"] == "16").all()
    assert (rows["best_step"] <= 100).all()
    dropped = rows["dropout_rate"] > 0
    assert (rows.loc[dropped, "drop_spread"].between(0.9, 1.1)).all()
    assert rows.loc[~dropped, "drop_spread"].isna().all(), "nothing is dropped"
    assert (rows.loc[~dropped, "agreement"] == 1).all()
    assert (rows.loc[dropped, "agreement"] < 1).all()


def scores(params, x, masks=None) -> np.ndarray:
    hidden, output = params["hidden_0"], params["output"]
    h = np.maximum(x @ np.float64(hidden["weight"]).T + hidden["bias"], 0)
    h = h if masks is None else h * masks
    return h @ np.float64(output["weight"]).T + output["bias"]


def test_numbers_are_those_of_the_weights_kept(smoke):
    rows, variables = trials_of(smoke).set_index("trial"), snapshots.load(smoke, "dropout")
    assert set(variables) == set(rows.index)
    test = split(load("digits"), train_size=300, valid_size=288, seed=0).test
    inputs = np.float64(test.x).reshape(len(test.x), -1)
    rng = np.random.default_rng(0)
    for trial, params in variables.items():
        row, z = rows.loc[trial], scores(params, inputs)
        loss = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), test.y]
        np.testing.assert_allclose(row["test/loss"], loss.mean(), rtol=1e-4)
        np.testing.assert_allclose(row["test/accuracy"], (z.argmax(1) == test.y).mean(), atol=3e-3)
        squares = np.sort(
            np.concatenate([np.float64(layer["weight"]).ravel() ** 2 for layer in params.values()])
        )
        n = round(0.1 * len(squares))
        np.testing.assert_allclose(row["top_share"], squares[-n:].sum() / squares.sum(), rtol=1e-4)
        # An average over networks of masks of our own, on inputs of our own.
        x = rng.uniform(size=(2000, 64))
        average = np.zeros((2000, 10))
        for _ in range(64):
            masks = (rng.uniform(size=(2000, 16)) >= row["dropout_rate"]) / (
                1 - row["dropout_rate"]
            )
            p = np.exp(scores(params, x, masks))
            average += p / p.sum(axis=1, keepdims=True)
        agreement = np.mean(average.argmax(axis=1) == scores(params, x).argmax(axis=1))
        # Inputs that share their masks, as theirs do, vary more together.
        np.testing.assert_allclose(row["agreement"], agreement, atol=0.12)


def stepped(**fields):
    """(the parameters before a step, after it, its loss)."""
    config = Config(hidden="6-5", train_size=60, batch_size=60, **fields)
    task, trial = task_of(dropout, config), trial_of(config)
    data = task.view(trial, {name: part for name, part in task.data.items() if name != "test"})
    state = task.init(trial, data)
    after, metrics = jax.jit(task.step)(state, trial, data)
    return state.params, after.params, float(metrics["loss"])


def same(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


@pytest.mark.parametrize("change", [{"dropout_rate": 0.5}, {"input_dropout_rate": 0.2},
                                    {"l1": 0.1}, {"l2": 0.1}, {"max_norm": 0.1},
                                    {"activation": "sigmoid"}])  # fmt: skip
def test_every_setting_of_a_row_does_something(change):
    assert not same(stepped(**change)[1], stepped()[1])


def test_the_sparsity_penalty_and_gaussian_noise_are_the_papers():
    paper = {"table": "srivastava"}
    assert not same(stepped(kl=1.0, **paper)[1], stepped(**paper)[1])
    noisy = {"dropout_rate": 0.5, **paper}
    assert stepped(noise="gaussian", **noisy)[2] != stepped(**noisy)[2]


def test_max_norm_bounds_every_unit():
    before, after, _ = stepped(max_norm=0.5)
    for layer, old in zip(after.values(), before.values(), strict=True):
        norms = np.linalg.norm(layer["weight"], axis=1)
        assert (norms <= 0.5 * (1 + 1e-5)).all()
        assert (np.linalg.norm(old["weight"], axis=1) > 0.5).any()


# The points


def test_the_table_has_every_rate_at_each_width_and_size():
    table = points()
    keys = [(width, 300) for width in WIDTHS]
    keys += [("128", size) for size in SIZES if size != 300]
    assert table == [
        {"table": "rates", "hidden": hidden, "train_size": size, **row}
        for hidden, size in keys
        for row in [
            {"group": "baseline"},
            *({"group": "dropout", "dropout_rate": rate} for rate in RATES),
        ]
    ]
    assert len(table) == 25


def test_the_other_presets_are_a_pair_and_the_papers_rows():
    pair = [{"hidden": "16", "dropout_rate": 0.0}, {"hidden": "16", "dropout_rate": 0.5}]
    assert [{k: p.get(k, "16") for k in ("hidden", "dropout_rate")}
            for p in points("--preset", "smoke")] == pair  # fmt: skip
    assert points("--preset", "paper") == srivastava.rows(1)
    config = dropout.PRESETS["paper"].config
    assert (config.dataset, config.train_size + config.valid_size) == ("mnist", 60_000)


def test_axes_of_the_command_line_are_honoured():
    assert points("--dropout-rate", 0, 0.3, "--hidden", 8, "4-4", "--l2", 0.1) == [
        {"group": "dropout" if rate else "baseline", "hidden": hidden, "dropout_rate": rate,
         "l2": 0.1}
        for hidden in ("8", "4-4")
        for rate in (0.0, 0.3)
    ]  # fmt: skip
    for flag, values in [("learning-rate", (0.1, 0.2)), ("max-norm", (1.0, 2.0)),
                         ("input-dropout-rate", (0.0, 0.2))]:  # fmt: skip
        crossed = [p | {flag.replace("-", "_"): value} for p in points() for value in values]
        assert points(f"--{flag}", *values) == crossed
    assert points("--table", "srivastava", "--shrink", 16, 64) == srivastava.rows(16, 64)
    assert points("--table", "rates", "srivastava") == points() + srivastava.rows(1)


# The claims


@pytest.fixture(scope="module")
def full(smoke):
    """The smoke table, as if all widths, sizes and rates of the default were in it."""
    table, rng = Study(smoke), np.random.default_rng(0)
    template = trials_of(smoke).query("dropout_rate == 0.5")
    keys = [(width, 300) for width in WIDTHS] + [("128", 100), ("128", 1000)]
    parts = []
    for hidden, size in keys:
        for rate in (0.0, *RATES):
            rows = template.copy()
            rows["hidden"], rows["train_size"], rows["dropout_rate"] = hidden, size, rate
            rows["group"] = "dropout" if rate else "baseline"
            rows["point"] = f"hidden={hidden} train_size={size} dropout_rate={rate}"
            rows["trial"] = [f"{hidden} {size} {rate} {n}" for n in range(3)]
            for column in ("test/loss", "valid/loss", "top_share", "agreement", "drop_spread"):
                rows[column] = rng.uniform(size=3)
            parts.append(rows)
    table.trials = pd.concat(parts, ignore_index=True)
    return table


def chosen(table, column: str, hidden: str, size: int, group: str) -> np.ndarray:
    rows = table.trials
    rows = rows[rows["table"] == "rates"]
    result = studies.by_the_others(
        rows, group, column, "valid/loss", -1, hidden=hidden, train_size=size
    )
    return result.to_numpy()


def gain(table, hidden: str, size: int) -> np.ndarray:
    without, dropped = (
        chosen(table, "test/loss", hidden, size, g) for g in ("baseline", "dropout")
    )
    return without - dropped


def test_gains_are_falls_of_the_test_loss(full, monkeypatch):
    untrained(monkeypatch)
    result = effects(dropout, "dropout-helps", full)
    keys = [("32", 300), ("128", 100), ("128", 300), ("128", 1000), ("512", 300)]
    for effect, key in zip(result, keys, strict=True):
        np.testing.assert_allclose(effect.values, gain(full, *key), rtol=1e-9)
        assert effect.expected == POSITIVE
        assert f"width {key[0]}, {key[1]} examples" in effect.measured


@pytest.mark.parametrize(
    ("name", "larger", "smaller"),
    [
        ("dropout-helps-wide-networks", ("512", 300), ("32", 300)),
        ("dropout-helps-few-examples", ("128", 100), ("128", 1000)),
    ],
)
def test_gains_are_compared(full, name, larger, smaller, monkeypatch):
    untrained(monkeypatch)
    (effect,) = effects(dropout, name, full)
    np.testing.assert_allclose(effect.values, gain(full, *larger) - gain(full, *smaller), rtol=1e-9)
    assert effect.expected == POSITIVE


def test_largest_weights_are_compared_at_every_width(full, monkeypatch):
    untrained(monkeypatch)
    result = effects(dropout, "largest-weights-dominate-less", full)
    for effect, hidden in zip(result, WIDTHS, strict=True):
        dropped, without = (chosen(full, "top_share", hidden, 300, g)
                            for g in ("dropout", "baseline"))  # fmt: skip
        np.testing.assert_allclose(effect.values, dropped - without, rtol=1e-9)
        assert effect.expected == NEGATIVE


@pytest.mark.parametrize(
    ("name", "column", "bounds"),
    [
        ("units-are-treated-alike", "drop_spread", (0.9, 1.1)),
        ("one-pass-is-the-average", "agreement", (0.9, 1.01)),
    ],
)
def test_columns_are_judged_at_every_rate_of_the_middle(full, name, column, bounds, monkeypatch):
    untrained(monkeypatch)
    rows = full.trials
    for field, value in MIDDLE.items():
        rows = rows[rows[field] == value]
    result = effects(dropout, name, full)
    for effect, rate in zip(result, RATES, strict=True):
        expected = rows[rows["dropout_rate"] == rate].sort_values("restart")[column]
        assert len(expected) == 3
        np.testing.assert_allclose(effect.values, expected, rtol=1e-9)
        assert effect.expected == bounds


BELOW = {  # the rows of the paper: the first errs less
    "table-9-order": [
        ("9: max-norm", "9: L2"),
        ("9: dropout + L2", "9: max-norm"),
        ("9: dropout + max-norm", "9: dropout + L2"),
    ],
    "table-2-order": [
        ("2: dropout, ReLU", "2: dropout, logistic"),
        ("2: dropout, ReLU, max-norm", "2: dropout, ReLU"),
    ],
    "gaussian-noise-serves-as-well": [("10: Gaussian", "10: Bernoulli")],
}
OURS = {"dropout-helps", "dropout-helps-wide-networks", "dropout-helps-few-examples",
        "units-are-treated-alike", "largest-weights-dominate-less",
        "one-pass-is-the-average"}  # fmt: skip


@pytest.fixture(scope="module")
def paper(smoke):
    """The smoke table, as if its points were the rows of the paper."""
    table, rng = Study(smoke), np.random.default_rng(1)
    template = trials_of(smoke).query("dropout_rate == 0.5")
    parts = []
    for number, row in enumerate(srivastava.rows(1)):
        rows = template.copy()
        for field, value in row.items():
            rows[field] = value
        rows["point"] = f"row {number}"
        rows["trial"] = [f"{number} {n}" for n in range(3)]
        rows["test/accuracy"], rows["valid/loss"] = rng.uniform(size=(2, 3))
        parts.append(rows)
    table.trials = pd.concat(parts, ignore_index=True)
    return table


@pytest.mark.parametrize("name", BELOW)
def test_rows_of_the_paper_are_compared_by_accuracy(paper, name, monkeypatch):
    untrained(monkeypatch)
    for effect, (first, second) in zip(effects(dropout, name, paper), BELOW[name], strict=True):
        better, worse = (
            studies.by_the_others(paper.trials, group, "test/accuracy", "valid/loss", -1).to_numpy()
            for group in (first, second)
        )
        np.testing.assert_allclose(effect.values, better - worse, rtol=1e-9)
        expected = (-0.001, np.inf) if name.startswith("gaussian") else POSITIVE
        assert effect.expected == expected
        assert effect.measured == f"test/accuracy: {first} − {second}"


def test_what_the_smoke_study_lacks_is_inconclusive(smoke):
    assert {claim.id for claim in CLAIMS} == OURS | BELOW.keys()
    judged = judge_all(CLAIMS, Study(smoke))
    assert {judgement.claim.id for judgement in judged if judgement.parts} == {"dropout-helps"}
    lacking = {judgement.verdict for judgement in judged if not judgement.parts}
    assert lacking == {"inconclusive"}
    with pytest.raises(Missing):
        effects(dropout, "units-are-treated-alike", Study(smoke))


FIVE = [("32", 300), ("128", 100), ("128", 300), ("128", 1000), ("512", 300)]


def test_the_figures_of_a_study_are_those_that_it_has_points_for(smoke):
    assert list(dropout.FIGURES) == ["rates", "gains", "published"]
    for name in ("rates", "gains"):
        assert any(panel.has_data() for panel in dropout.FIGURES[name](Study(smoke)).axes)
        assert (smoke / "report" / f"{name}.png").exists()
    with pytest.raises(Missing):
        dropout.FIGURES["published"](Study(smoke))
    assert not (smoke / "report" / "published.png").exists()


def test_a_study_of_the_papers_rows_alone_has_their_figure_alone(paper):
    for name in ("rates", "gains"):
        with pytest.raises(Missing):
            dropout.FIGURES[name](paper)
    (panel,) = srivastava.published_figure(paper).axes
    assert [label.get_text() for label in panel.get_yticklabels()] == list(PUBLISHED)
    (crosses,) = [line for line in panel.lines if line.get_marker() == "x"]
    np.testing.assert_allclose(crosses.get_xydata()[:, 0], np.divide(list(PUBLISHED.values()), 100))
    for dot, group in zip(panel.containers, PUBLISHED, strict=True):
        accuracy = studies.by_the_others(paper.trials, group, "test/accuracy", "valid/loss", -1)
        np.testing.assert_allclose(dot.lines[0].get_xydata()[:, 0], [1 - accuracy.mean()])


def test_networks_are_ordered_by_width_and_examples(full):
    assert dropout.networks(full) == FIVE


def test_rates_are_drawn_by_width_and_by_training_examples(full):
    (panel,) = dropout.rates_figure(full).axes
    labels = [f"width {hidden}, {size} examples" for hidden, size in FIVE]
    assert [line.get_label() for line in panel.containers] == labels
    for line, (hidden, size) in zip(panel.containers, FIVE, strict=True):
        rows = full.trials
        rows = rows[(rows["hidden"] == hidden) & (rows["train_size"] == size)]
        accuracy = rows.groupby("dropout_rate")["test/accuracy"].mean()
        np.testing.assert_allclose(line.lines[0].get_xydata()[:, 0], [0.0, *RATES])
        np.testing.assert_allclose(line.lines[0].get_xydata()[:, 1], accuracy, rtol=1e-9)


def test_other_networks_are_drawn_as_well(full):
    table, rows = Study(full.directory), full.trials.query("hidden == '128' and train_size == 100")
    table.trials = rows.assign(hidden="64")
    (panel,) = dropout.rates_figure(table).axes
    assert [line.get_label() for line in panel.containers] == ["width 64, 100 examples"]


def test_gains_are_drawn_at_every_width_and_size(full):
    (panel,) = dropout.gains_figure(full).axes
    labels = [label.get_text() for label in panel.get_yticklabels()]
    assert labels == [f"width {hidden}, {size} examples" for hidden, size in FIVE]
    for dot, key in zip(panel.containers, FIVE, strict=True):
        np.testing.assert_allclose(
            dot.lines[0].get_xydata()[:, 0], [gain(full, *key).mean()], rtol=1e-9
        )
