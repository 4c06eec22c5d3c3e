"""`bench sweep` trains everybody equally and writes what it prints. No timing is asserted."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ablax.bench import sweep_tables
from ablax.bench.tables import markdown
from ablax.bench.workload import L2, pairs
from ablax.cli.main import main

ROOT = Path(__file__).parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: JAX's devices are set before it starts."""
    return subprocess.run(
        [sys.executable, "-m", "experiments", "bench", "sweep", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'lib'}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "sweep.json"
    done = bench(
        *("--quick", "--repeats", "2", "--out", str(out)),
        *("--peers", "jax", "sklearn", "--parts", "segment", "busy", "growth"),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert out.with_suffix(".md").read_text() == markdown(sweep_tables.parts(result))
    return result, done.stdout


def test_every_side_trains_what_the_table_says(quick):
    result, printed = quick
    sides = result["side_by_side"]["sides"]
    assert list(sides) == ["ablax", "jax", "sklearn"]
    for side in sides.values():
        assert side["trials"] >= 2 * 8
        assert side["trials_per_minute"] == pytest.approx(60 * side["trials"] / side["seconds"])
        assert side["low"] <= side["valid_accuracy"] <= side["high"] <= 1
        assert side["valid_accuracy"] > 0.85  # all of them learn, in six epochs
        assert side["ratio_low"] <= side["ratio"] <= side["ratio_high"]
    assert sides["ablax"]["ratio"] == 1
    assert result["side_by_side"]["steps"] == 6 * 16
    assert "scikit-learn MLPClassifier" in printed


def test_the_parts_are_measured(quick):
    result, _ = quick
    assert result["segment"]["bare"]["over_bare"] == 1
    assert set(result["segment"]) == {"bare", "without dropout"}
    assert [row["trials"] for row in result["growth"]] == [128]
    busy = result["busy"]
    assert 0 <= busy["share_lost_to_drain"] <= 1
    assert list(busy["compile_seconds"]) == ["segment", "final"]


def test_nothing_is_compiled_while_training(quick):
    result, _ = quick
    assert result["busy"]["compilations_before"] >= 2
    assert result["busy"]["compilations_while_training"] == 0


def test_every_target_has_a_verdict(quick):
    result, printed = quick
    assert len(result["targets"]) == 4
    for target in result["targets"]:
        sign = {"≥": 1, "≤": -1}[target["sign"]]
        met = sign * target["measured"] >= sign * target["target"]
        assert target["verdict"] == ("met" if met else "missed")
        assert target["what"] in printed


def test_the_page_has_every_table_of_the_terminal(quick):
    result, _ = quick
    page = markdown(sweep_tables.parts(result))
    for side in result["side_by_side"]["sides"].values():
        assert f"| {side['trials_per_minute']:,.0f} |" in page
    for lines in (block.splitlines() for block in page.split("\n\n") if block.startswith("|")):
        assert len({line.count(" | ") for line in lines}) == 1, "a row lacks a cell"


def test_the_json_says_where_it_comes_from(quick):
    result, _ = quick
    assert "cores" in result["machine"]
    assert {"python", "jax", "scikit-learn"} <= set(result["versions"])
    assert result["command"].startswith("./launch.sh bench sweep --quick")


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_pytorch_takes_part_at_every_width(tmp_path):
    out = tmp_path / "sweep.json"
    done = bench(
        *("--quick", "--repeats", "1", "--out", str(out)),
        *("--peers", "torch", "--parts", "slots", "widths"),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["side_by_side"]["sides"]["torch"]["valid_accuracy"] > 0.85
    assert [row["slots_per_device"] for row in result["slots"]] == [16]
    assert [list(part["sides"]) for part in result["widths"]] == [["ablax", "torch"]]


def test_a_missing_library_is_a_row(monkeypatch):
    from ablax.bench import peers

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert peers.missing("torch") == "not installed (pip install ablax[bench])"


def test_bad_flags_are_refused(capsys):
    assert main(["bench", "sweep", "--repeats", "0"]) == 2
    assert "--repeats: expected at least 1, got 0" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["bench", "sweep", "--peers", "tensorflow"])


def test_every_strength_is_trained_equally_often():
    strengths, counts = np.unique([l2 for l2, _ in pairs(24)], return_counts=True)
    assert strengths.tolist() == sorted(L2)
    assert counts.tolist() == [6] * 4
    assert len(set(pairs(24) + pairs(24, first_restart=6))) == 48
