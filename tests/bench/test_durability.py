"""The benches of durability and scale, in small: they run, and see what they look for."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from ablax.bench import kill, scale
from ablax.bench.tables import markdown
from ablax.errors import UserError
from tests import small_study


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A study of 24 trials, killed in three phases by SIGKILL, and one that was not."""
    out = tmp_path_factory.mktemp("kill")
    flags = kill.Flags(kills=3, restarts=8, steps=10_000, checkpoint_seconds=0.2, out=out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kill, "STUDY", (small_study.__file__, "--keep", "best"))
        return kill.measure(flags), out


def test_a_study_that_is_killed_again_and_again_leaves_the_same_bytes(killed):
    result, _ = killed
    assert result["differing"] == []
    assert result["equal"]
    asked = ["compile", "segment", "report"]
    for actual, phase in zip(result["kills"], asked, strict=True):
        assert actual["phase"] in (phase, "ended")
    assert sum(k["phase"] != "ended" for k in result["kills"]) >= 1
    page = markdown(kill.parts(result))
    kills = [k for k in result["kills"] if k["phase"] != "ended"]
    assert f"{len(kills)} kills in 3 launches; tables, arrays and snapshots are equal, byte" in page


def test_differences_are_seen(killed, tmp_path):
    _, out = killed
    shutil.copytree(out / "whole", tmp_path / "whole")
    shutil.copytree(out / "killed", tmp_path / "other")
    assert kill.differences(tmp_path / "whole", tmp_path / "other") == []
    for name in ("trials.parquet", "curves.parquet", "arrays/weights.parquet"):
        path = tmp_path / "other" / name
        content = path.read_bytes()
        path.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
        assert kill.differences(tmp_path / "whole", tmp_path / "other") == [name]
        path.write_bytes(content)
    (tmp_path / "other" / "parts").mkdir()
    assert kill.differences(tmp_path / "whole", tmp_path / "other") == ["parts is left over"]
    shutil.rmtree(tmp_path / "other" / "params")
    with pytest.raises(UserError, match="cannot read"):
        kill.differences(tmp_path / "whole", tmp_path / "other")


def test_every_phase_has_its_turn():
    phases = [kill._phase(i, 25) for i in range(25)]
    assert {p: phases.count(p) for p in kill.PHASES} == dict.fromkeys(kill.PHASES, 5)
    assert phases[-5:] == ["report"] * 5, "a study reports when all is trained"


@pytest.mark.parametrize("bench", [kill, scale])
@pytest.mark.parametrize("flags", [["--kills", "0"], ["--trials", "0"]])
def test_bad_flags_are_refused(bench, flags):
    with pytest.raises((UserError, SystemExit)):
        bench.main(flags)


def test_many_tiny_trials_are_all_there(tmp_path, monkeypatch):
    out = tmp_path / "run"
    scale.main(["--trials", "500", "--steps", "200", "--out", str(out)])
    result = json.loads((tmp_path / "run.json").read_text())
    assert result["rows"] == {"trials": 500, "curves": 2500}
    trials = pd.read_parquet(out / "trials.parquet")
    assert trials["restart"].tolist() == list(range(500))
    assert 0.5 < result["share_solved"] < 1, "some restarts of 2-3-1 are stuck, most are not"
    assert result["share_solved"] == np.mean(trials["train/accuracy"] == 1)
    assert max(result["peak_bytes_of_each_half"]) == result["peak_bytes"] > 0
