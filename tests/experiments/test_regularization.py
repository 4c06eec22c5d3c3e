"""The regularization study, end to end; nothing here may open a connection."""

import json
import os
import re
import socket
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ablax.cli import flags
from ablax.cli.main import main
from ablax.data import load, split
from ablax.engine.engine import Engine
from ablax.errors import Missing, UserError
from ablax.experiment import experiment_of
from ablax.report.claims import judge_all
from ablax.report.quantities import NEGATIVE, POSITIVE
from ablax.report.study import Study
from ablax.rundir.store import read_array
from ablax.study import snapshots
from ablax.study.plan import make_plan
from experiments import regularization
from experiments.regularization import Config, points
from tests.experiments import studies
from tests.experiments.studies import trial_of, trials_of

COLUMNS = (Path(__file__).parents[2] / "docs" / "run_directory.md").read_text()
QUICK = ["--steps", "40", "--eval-every", "10", "--width", "4"]
launch = partial(studies.launch, "regularization")
launch_and_report = partial(launch, report=True)


@pytest.fixture(autouse=True, scope="module")
def offline():
    """Promise 7: a study leaves the machine alone."""

    def refused(*_, **__):
        raise AssertionError("a connection was asked for")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refused)
        patch.setattr(socket.socket, "connect", refused)
        patch.setattr(socket.socket, "connect_ex", refused)
        yield


def results(directory: Path) -> dict[str, bytes]:
    """All files that no clock and no command line went into."""
    result = {str(p.relative_to(directory)): p for p in directory.rglob("*") if p.is_file()}
    with_times = {"timings.parquet", "study.json", "report/report.html"}
    return {name: path.read_bytes() for name, path in result.items() if name not in with_times}


@pytest.fixture(scope="module")
def trials(smoke):
    return trials_of(smoke)


def test_every_trial_of_the_plan_is_there_once(smoke, trials):
    manifest = json.loads((smoke / "study.json").read_text())
    assert manifest["restarts"] == regularization.PRESETS["smoke"].restarts
    assert len(trials) == manifest["trials"] == len(manifest["points"]) * manifest["restarts"]
    assert trials["trial"].is_unique
    assert not trials.duplicated(["point", "restart"]).any()
    assert (trials.groupby("point").size() == manifest["restarts"]).all()
    assert set(trials["status"]) <= {"done", "stopped", "diverged"}
    assert not (smoke / "parts").exists()


def test_every_column_is_documented(trials):
    """The first cells of the table in docs/; train/… stands for all columns of that split."""
    _, _, text = COLUMNS.partition("Columns of `trials.parquet`:")
    rows = [line for line in text.split("\n\n")[1].splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    metrics = next(row for row in rows if "`train/…`" in row)
    documented |= {
        f"{split}/{metric}"
        for split in ("train", "valid", "test")
        for metric in re.findall(r"`(\w+)`", metrics.split("|", 2)[2])
    }
    assert set(trials.columns) <= documented
    assert documented - set(trials.columns) <= {
        *("train/…", "valid/…", "test/…", "train/error", "valid/error", "test/error"),
    }


def test_the_columns_that_others_rely_on(trials):
    required = {"trial", "point", "restart", "status", "steps", "best_step"}
    required |= {f"{s}/{m}" for s in ("train", "valid", "test") for m in ("loss", "accuracy")}
    required |= {"l1", "l2", "dropout_rate", "max_norm", "learning_rate", "momentum", "model",
                 "width", "depth", "activation", "batch_size", "dataset"}  # fmt: skip
    assert required <= set(trials.columns)
    assert trials[sorted(required - {"max_norm"})].notna().all(axis=None)
    np.testing.assert_array_equal(trials["max_norm"].min(), 1.0)
    assert np.isinf(trials["max_norm"]).any()


def test_no_clock_is_in_what_must_be_equal(smoke, trials):
    """Equal studies are equal bytes: a clock's words may only be in timings.parquet."""
    curves = pd.read_parquet(smoke / "curves.parquet")
    assert set(curves.columns) == {"trial", "step", "train/loss", "valid/loss", "valid/accuracy"}
    for column in (*trials.columns, *curves.columns):
        assert not re.search(r"time|second|date|clock|duration|speed|rate_per", column)
    assert {"program", "what", "value"} == set(pd.read_parquet(smoke / "timings.parquet").columns)


def test_arrays_have_an_entry_per_trial(smoke, trials):
    for name, length in (("weight_histogram", 61), ("first_layer", 64)):
        array = read_array(smoke / "arrays" / f"{name}.parquet")
        assert list(array) == list(trials["trial"])
        assert {value.shape[-1] for value in array.values()} == {length}


def test_regularizers_do_what_they_are_for(trials):
    """Properties of a study of any length."""
    mean = trials.groupby("point").mean(numeric_only=True)
    for model in ("linear", "mlp"):
        base = mean.loc[f"model={model}"]
        assert mean.loc[f"model={model} l2=0.01", "l2_norm"] < 0.8 * base["l2_norm"]
        many = mean.loc[f"model={model} l1=0.001", "share_below_1e-3"]
        assert many > 10 * base["share_below_1e-3"]
        inside = trials[(trials["model"] == model) & (trials["max_norm"] == 1)]
        units = 10 if model == "linear" else 10 + 16
        assert (inside["l2_norm"] <= np.sqrt(units) + 1e-4).all()
    slow = mean["dropout_rate"] == 0.75  # a quarter of 16 units, for 200 steps
    assert (mean.loc[~slow, "test/accuracy"] > 0.8).all()
    assert (mean.loc[slow, "test/accuracy"] > 0.3).all(), "chance is 0.1"


def test_the_report_is_whole(smoke):
    report = smoke / "report"
    figures = {"restarts", "curves", "profiles", "best_of_k"}
    figures |= {"strength", "complexity", "weights", "first_layer"}
    expected = {"report.html", "report.md", "claims.json"}
    expected |= {f"{table}.{kind}" for table in ("ablation", "points") for kind in ("csv", "tex")}
    expected |= {f"{figure}.{kind}" for figure in figures for kind in ("png", "svg")}
    assert {path.name for path in report.iterdir()} == expected
    assert all(path.stat().st_size > 100 for path in report.iterdir())
    claims = json.loads((report / "claims.json").read_text())
    assert [claim["id"] for claim in claims] == [claim.id for claim in regularization.CLAIMS]
    assert {claim["verdict"] for claim in claims} <= {"supported", "refuted", "inconclusive"}
    csv = pd.read_csv(report / "points.csv")
    assert len(csv) == len(set(csv["point"])) == 42
    assert {"n", "diverged", "l2_norm", "share_below_1e-3", "steps", "test/loss"} <= set(csv)
    rows = pd.read_csv(report / "ablation.csv")
    assert Counter(rows["model"]) == {"linear": 1 + 4, "mlp": 1 + 6}
    assert set(rows["point"]) <= set(csv["point"])
    assert rows["baseline"].isna().sum() == 2


def test_the_page_needs_nothing_else(smoke):
    html = (smoke / "report" / "report.html").read_text()
    assert not re.search(r"<script [^>]|<link|<iframe|@import|url\((?!['\"]?data:)", html)
    assert not re.search(r"fetch\(|import\(|XMLHttp|WebSocket|EventSource|sendBeacon", html)
    assert "//" not in re.sub(r"(?m)^// .*$", "", html.partition("<script>")[2]), "no address"
    sources = re.findall(r"""(?:src|href|srcset)\s*=\s*["']([^"']{0,40})""", html)
    assert len(sources) >= 4
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html


def test_the_same_command_again_trains_nothing(smoke, capsys, monkeypatch):
    def trained(*_, **__):
        raise AssertionError("something was trained again")

    monkeypatch.setattr(Engine, "__init__", trained)
    before = {path: path.read_bytes() for path in smoke.rglob("*") if path.is_file()}
    launch_and_report(smoke, "--preset", "smoke", "--keep", "all")
    assert {path: path.read_bytes() for path in smoke.rglob("*") if path.is_file()} == before
    *bests, time, report = capsys.readouterr().out.splitlines()[-4:]
    for model, best in zip(("linear", "mlp"), bests, strict=True):
        assert re.fullmatch(
            rf"best   model={model}\b.*: test accuracy 0\.\d+ ± 0\.\d+"
            rf"(, [+−-]?\d\S* ± \S+ against model={model})? \(mean and 95% interval over 3 "
            r"restarts; selected by leave-one-out validation loss in [0-3]/3 restarts\)",
            best,
        )
    assert re.fullmatch(r"time   \d+\.\d s, 0 trials trained", time)
    assert report == f"report {smoke / 'report' / 'report.html'}"


@pytest.mark.slow
def test_a_halved_study_reports_its_last_round(smoke, trials, tmp_path, capsys):
    """42 points to step 40, 14 to step 80, … : see the plan; claims without points say so."""
    out = launch_and_report(tmp_path / "run", "--preset", "smoke", "--halving", "3")
    printed = capsys.readouterr().out
    rungs = "42 points to step 40, 14 points to step 80, 5 points to step 200"
    assert re.search(f"rounds +halving by 3 in 3 rounds: {rungs}", printed)
    rows = trials_of(out)
    assert rows.groupby("round").size().tolist() == [42 * 3, 14 * 3, 5 * 3]
    last = rows[rows["round"] == 2].set_index(["point", "restart"])
    full = trials.set_index(["point", "restart"]).loc[last.index]
    for name in ("status", "steps", "best_step", "valid/loss", "test/accuracy", "l2_norm"):
        assert last[name].tolist() == full[name].tolist(), name
    report = out / "report"
    csv = pd.read_csv(report / "points.csv")
    assert set(csv["point"]) == set(rows.loc[rows["round"] == 2, "point"])
    assert len(csv) == 5
    for name in ("report.html", "report.md"):
        assert "Successive halving: 42 points (126 trials)" in (report / name).read_text()
    assert {"complexity.png", "weights.png"} <= {p.name for p in report.iterdir()}
    assert not (report / "strength.png").exists(), "no line has two strengths left"
    claims = json.loads((report / "claims.json").read_text())
    lacking = [c for c in claims if not c["parts"]]
    assert lacking
    assert {c["verdict"] for c in lacking} == {"inconclusive"}
    n = (report / "report.md").read_text().count("| inconclusive | the study lacks the points")
    assert n == len(lacking)
    assert not (out / "parts").exists()


@pytest.mark.slow
def test_report_alone_writes_the_same_again(smoke, capsys):
    before = {path: path.read_bytes() for path in (smoke / "report").iterdir()}
    for path in before:
        path.unlink()
    assert main(["report", str(smoke)]) == 0
    assert {path: path.read_bytes() for path in (smoke / "report").iterdir()} == before
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["best", "best", "report"], "two baselines"


def test_the_default_study_is_as_large_as_promised():
    experiment = experiment_of(regularization)
    asked = flags.parse(experiment, "regularization", [])
    plan = make_plan(experiment, asked.config, restarts=asked.restarts, seed=asked.seed)
    assert len(plan.points) >= 16
    assert plan.restarts >= 16
    assert len(plan.trials()) == len(plan.points) * plan.restarts >= 256
    assert all(point.config.steps <= 2000 for point in plan.points)
    assert all(point.config.patience < 100 for point in plan.points), "early stopping is on"
    assert len(plan.programs) == 2, "one for the linear model, one for the mlp"
    count = Counter((p.config.model, p.group) for p in plan.points)
    methods = {"L1", "L2", "elastic net", "max-norm"}
    strong = {("linear", method) for method in methods}
    strong |= {("mlp", method) for method in methods | {"dropout", "dropout + max-norm"}}
    assert {row for row, n in count.items() if n >= 3} == strong
    assert {row for row, n in count.items() if n < 3} == {
        (m, "baseline") for m in ("linear", "mlp")
    }
    (note,) = {note for program in plan.programs for note in program.task.notes}
    train = int(re.findall(r"train (\d+)", note)[0])
    assert 200 <= train <= 400


def points_of(**axes: Any) -> list[dict[str, Any]]:
    return points(Config(**axes))


def test_strengths_that_are_given_replace_the_table():
    table = points_of()
    assert len(table) == 42
    assert points_of(model=("linear",)) == [p for p in table if p["model"] == "linear"]
    assert points_of(l2=(0.0, 1e-3), dropout_rate=(0.0, 0.5)) == [
        {"model": "mlp", "l2": l2, "dropout_rate": rate}
        for l2 in (0.0, 1e-3)
        for rate in (0.0, 0.5)
    ]
    assert points_of(l2=(0.5,)) == [{"model": "mlp", "l2": 0.5}]
    both = points_of(model=("linear", "mlp"), l1=(0.5,))
    assert both == [{"model": "linear", "l1": 0.5}, {"model": "mlp", "l1": 0.5}]


def test_a_linear_model_is_there_once_whatever_the_hidden_layers():
    wide = points_of(width=(8, 16))
    linear = [p for p in wide if p["model"] == "linear"]
    assert linear == [p | {"width": 8} for p in points_of(model=("linear",))]
    assert [p for p in wide if p["model"] == "mlp"] == [
        p | {"width": width} for p in points_of(model=("mlp",)) for width in (8, 16)
    ]


def test_what_a_linear_model_lacks_is_refused():
    with pytest.raises(UserError, match="--dropout-rate: the linear model"):
        points_of(model=("linear", "mlp"), dropout_rate=(0.0, 0.5))
    with pytest.raises(UserError, match="--depth: the linear model"):
        points_of(model=("linear",), depth=(1, 2))
    assert points_of(model=("linear",), dropout_rate=(0.0,)) == [
        {"model": "linear", "dropout_rate": 0.0}
    ]


def test_other_axes_multiply_the_points():
    crossed = points_of(learning_rate=(0.1, 0.2))
    assert crossed == [{**p, "learning_rate": r} for p in points_of() for r in (0.1, 0.2)]
    assert len(points_of(l2=(0.0, 1e-3), width=(8, 16))) == 4


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Tables of a user's own: classes and numbers as text, classes as arrays."""
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3))
    soil = rng.choice(["clay", "sand", "silt"], 120)
    kind = np.where(x[:, 0] + 0.1 * rng.normal(size=120) > 0, "tall", "short")
    # All targets differ by at least 1, so one unit can be found again in the scaled ones.
    price = 40 + 3 * np.argsort(np.argsort(x[:, 1] + (soil == "clay")))
    for name, target in (("kinds", kind), ("prices", price)):
        columns = {f"x{i}": x[:, i] for i in range(3)} | {"soil": soil, "target": target}
        pd.DataFrame(columns).to_csv(folder / f"{name}.csv", index=False)
    np.savez(folder / "kinds.npz", X=x, y=(kind == "tall").astype(int))
    return folder


@pytest.mark.slow
def test_classes_of_a_users_own_table(tables, tmp_path, capsys):
    typed = ["--dataset", tables / "kinds.csv", "--target", "target", *QUICK]
    typed += ["--model", "linear", "--l2", "0", "1e-3", "--restarts", "2", "--batch-size", "16"]
    first = launch_and_report(tmp_path / "first", *typed)
    plan = capsys.readouterr().out
    assert "target target: classification, because the target is text" in plan
    assert "120 rows, 6 features" in plan
    result = trials_of(first)
    assert len(result) == 4
    assert result["test/accuracy"].to_numpy().min() > 0.7
    assert not (first / "report" / "first_layer.png").exists(), "6 features are no image"

    # Equal seeds are equal bytes; another seed is another study.
    second = launch_and_report(tmp_path / "second", *typed)
    assert results(first) == results(second)
    assert len(results(first)) > 8
    other = launch(tmp_path / "other", *typed, "--seed", "1")
    assert set(trials_of(other)["trial"]).isdisjoint(result["trial"])
    assert not np.intersect1d(trials_of(other)["valid/loss"], result["valid/loss"]).size


@pytest.mark.slow
def test_numbers_of_a_users_own_table(tables, tmp_path, capsys):
    """test/error is the mean absolute error in the target's own units: computed again here."""
    typed = ["--dataset", tables / "prices.csv", "--target", "4", *QUICK, "--keep", "all"]
    out = launch_and_report(
        tmp_path / "run", *typed, "--l2", "0", "--restarts", "2", "--batch-size", "16"
    )
    printed = capsys.readouterr().out
    assert "target target: regression, because the target has 120 distinct values" in printed
    assert "test error" in printed.splitlines()[-3]
    result = trials_of(out).set_index("trial")
    assert "test/accuracy" not in result

    splits = split(load(str(tables / "prices.csv"), target="target"), seed=0)
    everything = (splits.pool, splits.test)
    scaled = np.sort(np.concatenate([part.y for part in everything]).astype(np.float64))
    unit = 3 / np.diff(scaled).mean()  # of the target, in one of the network's outputs
    variables = snapshots.load(out, "regularization")
    assert set(variables) == set(result.index)
    x, y = splits.pool
    drawn = {}
    for trial, params in variables.items():
        hidden, output = (
            {k: np.float64(v) for k, v in params[layer].items()} for layer in ("hidden_0", "output")
        )
        row = result.loc[trial]
        rows = splits.draw(trial_of(Config(), row["restart"]).rng("split"))
        train, valid = map(np.array, rows)
        drawn[row["restart"]] = {"train": train, "valid": valid}
        parts = {name: (x[r], y[r]) for name, r in drawn[row["restart"]].items()}
        for name, (inputs, targets) in (parts | {"test": splits.test}).items():
            h = np.maximum(inputs @ hidden["weight"].T + hidden["bias"], 0)
            predicted = (h @ output["weight"].T + output["bias"])[:, 0]
            error = np.abs(predicted - targets).mean() * unit
            np.testing.assert_allclose(row[f"{name}/error"], error, rtol=1e-4)
            np.testing.assert_allclose(
                row[f"{name}/loss"], np.mean((predicted - targets) ** 2), rtol=1e-4
            )
    assert set(drawn[0]["train"]) != set(drawn[1]["train"]), "every restart draws its own"


@pytest.mark.slow
def test_arrays_of_a_users_own(tables, tmp_path):
    typed = ["--dataset", tables / "kinds.npz", *QUICK, "--model", "linear"]
    out = launch_and_report(
        tmp_path / "run", *typed, "--l2", "0", "--restarts", "2", "--batch-size", "16"
    )
    assert trials_of(out)["test/accuracy"].to_numpy().min() > 0.7
    assert (out / "report" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_official_images(name, tmp_path):
    folder = Path(os.environ.get("ABLAX_DATA", "none")) / name.replace("_", "-")
    if not (folder / "t10k-images-idx3-ubyte.gz").exists():
        pytest.skip(f"$ABLAX_DATA has no {folder.name}")
    out = launch_and_report(tmp_path / "run", "--dataset", name, "--model", "linear", "--l2", "0",
                 "--steps", "60", "--restarts", "1", "--learning-rate", "0.01")  # fmt: skip
    (row,) = trials_of(out).to_dict("records")
    assert row["test/accuracy"] > 0.5
    assert "train 300" in (out / "study.json").read_text()
    assert (out / "report" / "first_layer.png").exists(), "784 features are 28 by 28 images"


# The claims

MLP = {"model": "mlp"}
ZEROS, RATIO = "share_below_1e-3", "participation_ratio"
DIFFERENCES = {
    "l1-is-sparse": [
        (ZEROS, "L1", "baseline", POSITIVE, MLP),
        (ZEROS, "L1", "L2", POSITIVE, MLP),
        (ZEROS, "L2", "baseline", (-0.05, 0.05), MLP),
    ],
    "l2-is-even": [
        ("l2_norm", "L2", "baseline", NEGATIVE, MLP),
        (RATIO, "L2", "baseline", POSITIVE, MLP),
        (RATIO, "L2", "L1", POSITIVE, MLP),
    ],
    "dropout-evens-out": [("top_share", "dropout", "baseline", NEGATIVE, MLP)],
    "max-norm-helps-dropout": [
        ("test/accuracy", "dropout + max-norm", "dropout", POSITIVE, MLP),
        ("test/accuracy", "dropout + max-norm", "max-norm", POSITIVE, MLP),
    ],
    **{
        f"{name}-generalizes": [("test/loss", method, "baseline", NEGATIVE, MLP)]
        for name, method in [
            ("l1", "L1"),
            ("l2", "L2"),
            ("elastic-net", "elastic net"),
            ("dropout", "dropout"),
            ("max-norm", "max-norm"),
            ("dropout-and-max-norm", "dropout + max-norm"),
        ]
    },
}


def test_every_claim_is_tested_here():
    claims = {claim.id for claim in regularization.CLAIMS}
    assert claims == DIFFERENCES.keys() | {"dropout-keeps-the-mean"}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_differences_are_those_of_the_trials(smoke, name, monkeypatch):
    studies.untrained(monkeypatch)
    expected = DIFFERENCES[name]
    studies.check_differences(regularization, name, Study(smoke), expected, "valid/loss", -1)


def test_the_gain_is_judged_at_every_rate(smoke, trials, monkeypatch):
    studies.untrained(monkeypatch)
    result = studies.effects(regularization, "dropout-keeps-the-mean", Study(smoke))
    assert len(result) == 4
    for rate, effect in zip((0.1, 0.25, 0.5, 0.75), result, strict=True):
        rows = trials[(trials["group"] == "dropout") & (trials["dropout_rate"] == rate)]
        expected = rows.sort_values("restart")["dropout_gain"].to_numpy(np.float64) - 1
        np.testing.assert_allclose(effect.values, expected, rtol=1e-12)
        assert effect.expected == (-0.02, 0.02)


def test_without_dropout_the_mean_is_kept(trials):
    gains = trials.loc[(trials["model"] == "mlp") & (trials["dropout_rate"] == 0), "dropout_gain"]
    assert len(gains) == 3 * (1 + 4 * 4)
    np.testing.assert_allclose(gains, 1, rtol=5e-7, err_msg="1, but for a sum of float32")
    assert trials.loc[trials["model"] == "linear", "dropout_gain"].isna().all()
    dropped = trials.loc[trials["dropout_rate"] > 0, "dropout_gain"]
    assert (np.abs(dropped - 1) > 1e-6).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "possible"),
    [
        (["--l2", "0", "1e-3"], set()),
        (["--model", "linear"], set()),
        (["--depth", "2"], set(DIFFERENCES)),
    ],
)
def test_a_study_without_the_points_says_so(typed, possible, tmp_path, monkeypatch):
    quick = ["--steps", "4", "--eval-every", "2", "--width", "4", "--restarts", "2"]
    table = Study(launch(tmp_path / "run", *typed, *quick))
    studies.untrained(monkeypatch)
    judged = judge_all(regularization.CLAIMS, table)
    assert {judgement.claim.id for judgement in judged if judgement.parts} == possible
    assert {j.verdict for j in judged if not j.parts} == {"inconclusive"}
    for judgement in judged:
        if not judgement.parts:
            with pytest.raises(Missing):
                judgement.claim.effects(table)


@pytest.mark.slow
def test_measures_are_those_of_the_snapshots(tmp_path):
    typed = ["--l1", "0", "1e-3", "--dropout-rate", "0", "0.5", "--restarts", "2", *QUICK]
    out = launch(tmp_path / "run", *typed, "--keep", "all")
    rows = trials_of(out).set_index("trial")
    variables = snapshots.load(out, "regularization")
    assert set(variables) == set(rows.index)
    for trial, params in variables.items():
        layers = [np.float64(params[layer]["weight"]).ravel() for layer in ("hidden_0", "output")]
        squares = np.sort(np.concatenate(layers) ** 2)[::-1]
        n = len(squares)
        assert n == 64 * 4 + 4 * 10
        expected = {
            "l2_norm": np.sqrt(squares.sum()),
            "share_below_1e-3": (squares < 1e-6).mean(),
            "participation_ratio": squares.sum() ** 2 / (n * (squares**2).sum()),
            "top_share": squares[: round(0.1 * n)].sum() / squares.sum(),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(rows.loc[trial, name], value, rtol=1e-5, err_msg=name)
