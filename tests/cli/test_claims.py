"""./launch.sh claims: the ledger of every claim, with its evidence, of tiny experiments."""

import datetime
import json
import re
import signal
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import jax
import numpy as np
import pandas as pd
import pytest

from ablax.checkout import EXPERIMENTS
from ablax.cli import claims as _claims
from ablax.cli import experiments, remarks
from ablax.cli.main import main
from ablax.config import Preset
from ablax.engine.engine import Engine
from ablax.engine.mesh import mesh_of
from ablax.errors import UserError
from ablax.experiment import load_file
from ablax.report.claims import Claim, Verdict
from ablax.report.quantities import column, quantities
from ablax.study import grid
from ablax.study import run as launched
from ablax.study.progress import Progress
from tests.experiments.studies import untrained
from tests.report.reading import markdown_tables
from tests.toys import SHORT, experiment, quadratic

norm = column("norm")
CLAIMS = [
    Claim(
        "shrinks",
        "The penalty |x| → 0 shrinks.",
        "a book | page 3",
        norm["shrunk"] < norm["baseline"],
        level=0.01,
    ),
    Claim("grows", "The penalty grows.", "nobody", norm["shrunk"] > norm["baseline"]),
    Claim("lacks", "What is not there is larger.", "nobody", norm["gone"] > norm["baseline"]),
]


@quantities
def wave(study):
    """Values that add up to 0: nothing can be told."""
    return {"a wave | up; and down": np.array([-1.0, 1.0, -1.0, 1.0])}


def tiny(name: str, *claims: Claim, task=quadratic):
    """An experiment of two points, whose l2 shrinks what it trains."""
    return experiment(
        task,
        name=name,
        description="Does it shrink?",
        presets={"smoke": Preset(SHORT, 4), "default": Preset(SHORT, 5)},
        points=lambda config: grid.table(config, grid.rows({}, {"shrunk": [{"l2": 1.0}]})),
        claims=list(claims),
    )


def absent(config):
    raise UserError("mnist is not here; data fetch mnist brings it")


@dataclass
class Place:
    """A working directory, and the experiments there are."""

    directory: Path
    known: dict

    @property
    def ledger(self) -> Path:
        return _claims.LEDGER


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    known = {
        "first": tiny("first", *CLAIMS),
        "second": tiny("second", Claim("waves", "It waves.", "the sea", wave > 0)),
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_claims, "LEDGER", tmp_path / "experiments" / "CLAIMS.md")
    monkeypatch.setattr(experiments, "names", lambda: sorted(known))
    monkeypatch.setattr(experiments, "load", lambda name, folder=None: known[name])
    monkeypatch.setattr(remarks, "FILE", tmp_path / "experiments" / "REMARKS.toml")
    monkeypatch.setattr(launched, "mesh_of", lambda: mesh_of(jax.devices()[:1]))
    return Place(tmp_path, known)


@pytest.fixture
def claims(monkeypatch, capsys):
    """Run the command; (its exit status, what it printed, what it said on the other stream)."""

    def run(*typed: str):
        words = ["claims", *typed]
        monkeypatch.setattr(sys, "argv", ["experiments", *words])
        status = main(words)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def studies() -> list[Path]:
    return sorted(path for path in Path("runs").glob("*") if path.is_dir())


# Without --run


def test_before_any_study_it_says_what_is_missing(claims, place, monkeypatch):
    untrained(monkeypatch)
    status, out, _ = claims()
    assert status == 0
    assert "no study here of first, second: claims --run trains them" in out
    assert "4 claims: 4 without a study." in out
    assert all(f"[{claim.id}]" in out for claim in CLAIMS)
    assert not list(place.directory.rglob("*.*")), "nothing is written"


def test_the_recorded_ledger_is_pointed_at(claims, place):
    place.ledger.parent.mkdir()
    place.ledger.write_text("what was recorded")
    _, out, _ = claims("first")
    assert "no study here of first: claims --run trains them; CLAIMS.md has the recorded" in out
    assert place.ledger.read_text() == "what was recorded"


def test_the_recorded_ledger_knows_the_experiments_of_the_checkout_alone(claims, place):
    """The ledger has recorded nothing of a file of one's own."""
    place.ledger.parent.mkdir()
    place.ledger.write_text("what was recorded")
    place.known["own.py"] = tiny("own", *CLAIMS)
    for typed in (["own.py"], ["first", "own.py"]):
        _, out, _ = claims(*typed)
        assert "own: claims --run trains them" in out
        assert "CLAIMS.md" not in out


def test_only_the_experiments_that_are_named_are_judged(claims):
    _, out, _ = claims("second")
    assert "second:" in out
    assert "first" not in out


# With --run


def test_run_trains_what_is_missing_and_prints_the_evidence(claims):
    status, out, _ = claims("first", "--run", "--preset", "smoke")
    assert status == 0
    (directory,) = studies()
    record = json.loads((directory / "study.json").read_text())
    assert directory.name == f"first-{record['id']}"
    _, _, ledger = out.rpartition("\nfirst: ")
    assert f"study `{record['id']}`, 8 trials, 4 restarts, " in ledger
    verdicts = re.findall(r"(?m)^  (supported|refuted|inconclusive) +.*\[(\w+)\]$", ledger)
    assert verdicts == [("supported", "shrinks"), ("refuted", "grows"), ("inconclusive", "lacks")]
    rows = pd.read_parquet(directory / "trials.parquet").pivot(
        index="restart", columns="group", values="norm"
    )
    effect = (rows["shrunk"].astype(float) - rows["baseline"].astype(float)).mean()
    printed = re.findall(r"norm: shrunk − baseline = ([−-]?[\d.]+) ± ([\d.]+) \(expected ([<>]) 0\)"
                      r", n = 4", ledger)  # fmt: skip
    assert [sign for *_, sign in printed] == ["<", ">"]
    for value, *_ in printed:
        assert float(value.replace("−", "-")) == pytest.approx(effect, rel=0.2)
    assert float(printed[0][1]) > float(printed[1][1]), "a stricter level has a wider interval"
    assert "the study lacks the points" in ledger
    assert "3 claims: 1 supported, 1 refuted, 1 inconclusive." in ledger
    assert "no study here" not in out


def test_again_it_trains_nothing_and_says_the_same(claims, place, monkeypatch):
    _, first, _ = claims("first", "--run", "--preset", "smoke")
    untrained(monkeypatch)
    before = {path: path.read_bytes() for path in place.directory.rglob("*") if path.is_file()}
    status, again, _ = claims("first", "--run", "--preset", "smoke")
    assert status == 0
    _, _, ledger = first.rpartition("\nfirst: ")
    assert again.rpartition("\nfirst: ")[2] == ledger
    _, without, _ = claims("first", "--preset", "smoke")
    assert without.rpartition("\nfirst: ")[2] == ledger
    after = {path: path.read_bytes() for path in place.directory.rglob("*") if path.is_file()}
    assert after == before


def test_presets_are_studies_of_their_own(claims):
    claims("first", "--run", "--preset", "smoke")
    _, out, _ = claims("first")
    assert "no study here of first" in out


@pytest.fixture
def unfinished(place, claims, monkeypatch):
    """Ctrl-C in the second half: one program of two, of which one has finished."""
    place.known["first"] = tiny("first", *CLAIMS)
    points = [{"group": "baseline"}, {"group": "shrunk", "l2": 1.0}, {"group": "wide", "width": 4}]
    place.known["first"] = replace(place.known["first"], points=lambda config: points)
    original, seen = Progress.advance, []

    def advance(self, **keywords):
        original(self, **keywords)
        seen.append(1)
        if len(seen) == 5:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", advance)
        assert claims("first", "second", "--run", "--preset", "smoke")[0] == 130
    (directory,) = studies()
    assert directory.name.startswith("first-"), "the next experiment is not begun"
    return directory


def test_an_unfinished_study_is_marked(claims, unfinished, monkeypatch):
    untrained(monkeypatch)
    status, out, _ = claims("first", "--preset", "smoke")
    assert status == 0
    assert re.search(r"first: study `\w+` \(unfinished\), 12 trials", out)
    assert "[shrinks]" in out


def test_an_unfinished_study_is_completed_by_run(claims, unfinished):
    status, out, _ = claims("first", "--run", "--preset", "smoke")
    assert status == 0
    assert studies() == [unfinished]
    assert len(pd.read_parquet(unfinished / "trials.parquet")) == 12
    assert "(unfinished)" not in out.rpartition("\nfirst: ")[2]


def test_a_record_that_cannot_be_read_is_said(claims, capsys):
    """A record of an earlier version, say, states no level of significance."""
    claims("first", "--run", "--preset", "smoke")
    (directory,) = studies()
    record = json.loads((directory / "study.json").read_text())
    del record["significance"]
    (directory / "study.json").write_text(json.dumps(record))
    status, out, _ = claims("first", "second", "--preset", "smoke")
    assert status == 0
    assert "significance" in out
    status, out, _ = claims("first", "second", "--run", "--preset", "smoke")
    assert status == 2, "it is not trained over"
    assert "[waves]" in out
    assert json.loads((directory / "study.json").read_text()) == record


# The ledger


def table_in(text: str, name: str) -> list[list[str]]:
    """The cells of an experiment's rows in the Markdown; `|` in a cell is escaped."""
    _, _, rest = text.partition(f"\n## {name}\n")
    lines = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_all_claims_are_written_to_the_ledger(claims, place):
    status, out, _ = claims("--run")
    assert status == 0
    assert out.splitlines()[-1] == f"ledger {place.ledger}"
    text = place.ledger.read_text()
    today = datetime.date.today().isoformat()
    assert f"Written by `./launch.sh claims --run` on {today}" in text
    assert "4 claims: 1 supported, 1 refuted, 2 inconclusive." in text
    head, *rows = table_in(text, "first")
    assert head == ["claim", "verdict", "evidence", "level", "source"]
    assert [row[0] for row in rows] == [
        f"{c.sentence} (`{c.id}`)".replace("|", r"\|") for c in CLAIMS
    ]
    assert [row[1] for row in rows] == ["**supported**", "**refuted**", "**inconclusive**"]
    assert [row[3:] for row in rows] == [
        ["0.01", r"a book \| page 3"], ["0.05", "nobody"], ["0.05", "nobody"],
    ]  # fmt: skip
    assert r"a wave \| up" in text
    assert all(len(row) == 5 for name in ("first", "second") for row in table_in(text, name))
    for directory in studies():
        record = json.loads((directory / "study.json").read_text())
        kind = record["provenance"]["conditions"]["device kind"]
        devices = record["provenance"]["devices"]
        assert f"study `{record['id']}`, 10 trials, 5 restarts, {devices} × {kind}, jax " in text


def test_the_ledger_of_another_preset_is_not_the_committed_one(claims, place):
    status, out, _ = claims("--run", "--preset", "smoke")
    assert status == 0
    assert out.splitlines()[-1] == "ledger runs/CLAIMS-smoke.md"
    text = Path("runs/CLAIMS-smoke.md").read_text()
    assert "`./launch.sh claims --run --preset smoke`" in text
    assert not place.ledger.exists()


def test_of_some_experiments_no_ledger_is_written_unless_asked_for(claims, place):
    place.ledger.parent.mkdir()
    place.ledger.write_text("of all")
    claims("second", "--run")
    assert place.ledger.read_text() == "of all"
    assert not list(Path("runs").glob("*.md"))
    status, out, _ = claims("second", "--run", "--out", "some/where.md")
    assert status == 0
    assert out.splitlines()[-1] == "ledger some/where.md"
    text = Path("some/where.md").read_text()
    assert table_in(text, "second")
    assert "first" not in text
    assert place.ledger.read_text() == "of all"


def test_without_run_no_ledger_is_written(claims, place):
    claims("--out", "some/where.md")
    assert not Path("some").exists()
    assert not place.ledger.exists()


# Remarks


REMARK = "a norm has no sign | and |x| is one"


def remark(text: str) -> None:
    remarks.FILE.parent.mkdir(exist_ok=True)
    remarks.FILE.write_text(text)


def shown(directory: Path) -> list[list[str]]:
    """The lines below the effects of each claim in a report that is printed again."""
    assert main(["report", str(directory)]) == 0
    (table, *_) = markdown_tables((directory / "report" / "report.md").read_text())
    page = (directory / "report" / "report.html").read_text()
    evidence = [row[2].split("\n") for row in table[1:]]
    why = [[line for line in lines if line.startswith("Why: ")] for lines in evidence]
    assert page.count("Why: ") == sum(map(len, why))
    return why


def test_a_remark_is_on_the_study_whose_id_it_names_and_on_no_other(claims):
    """In the ledger on the terminal, in the one that is written, and in the report."""
    claims("first", "--run", "--preset", "smoke")
    (smoke,) = studies()
    _, plain, _ = claims("first", "--preset", "smoke")
    claims("first", "--run")
    (default,) = set(studies()) - {smoke}
    ids = {path: path.name.removeprefix("first-") for path in (smoke, default)}
    assert shown(smoke) == shown(default) == [[], [], []], "there is no file of remarks"
    remark(
        f"[first.{ids[smoke]}]\nshrinks.supported = '{REMARK}'\nshrinks.refuted = 'no'\n"
        f"lacks.inconclusive = 'it does.'\nwaves.inconclusive = 'not here'\n"
        f"[first.0000]\ngrows.refuted = 'of no study'\n"
        f"[second.{ids[default]}]\ngrows.refuted = 'of another'\n"
    )
    _, out, _ = claims("first", "--preset", "smoke")
    lines = out[out.index("first: study") :].splitlines()
    assert [line.strip() for line in lines if "Why: " in line] == [
        f"Why: {REMARK}", "Why: it does.",
    ]  # fmt: skip
    above = {lines[i - 2] for i, line in enumerate(lines) if "Why: " in line}
    assert [line.split()[-1] for line in sorted(above)] == ["[lacks]", "[shrinks]"]
    assert [line for line in lines if "Why: " not in line] == plain.splitlines()[1:]
    _, out, _ = claims("first")
    assert "Why: " not in out
    assert shown(smoke) == [[f"Why: {REMARK}"], [], ["Why: it does."]]
    assert shown(default) == [[], [], []]
    claims("first", "--run", "--preset", "smoke", "--out", "smoke.md")
    claims("first", "--run", "--out", "default.md")
    (table,) = markdown_tables(Path("smoke.md").read_text())
    assert [row[2].split("\n")[-1] for row in table[1::2]] == [f"Why: {REMARK}", "Why: it does."]
    assert Path("smoke.md").read_text().count("Why: ") == 2
    assert "Why: " not in Path("default.md").read_text()


def test_a_remark_is_in_the_report_of_the_launch_itself(claims):
    claims("second", "--run", "--preset", "smoke")
    (directory,) = studies()
    remark(
        f"[second.{directory.name.removeprefix('second-')}]\nwaves.inconclusive = 'a sum of 0'\n"
    )
    assert "Why: " not in (directory / "report" / "report.md").read_text()
    assert main(["second", "--preset", "smoke"]) == 0
    assert "Why: a sum of 0" in (directory / "report" / "report.md").read_text()


def test_the_remarks_of_the_checkout_are_on_claims_that_there_are():
    """A remark on a misspelt experiment, claim or verdict would never be shown."""
    written = tomllib.loads((EXPERIMENTS / "REMARKS.toml").read_text())
    assert written
    for name, by_study in written.items():
        known = {claim.id for claim in load_file(EXPERIMENTS / f"{name}.py").claims}
        for study, texts in by_study.items():
            assert re.fullmatch("[0-9a-f]{16}", study), (name, study)
            assert texts.keys() <= known, (name, study)
            for by_verdict in texts.values():
                assert by_verdict.keys() <= set(get_args(Verdict)), (name, study)
                assert all(text.endswith(".") for text in by_verdict.values()), (name, study)


# What is not there, and what is mistyped


def test_a_missing_data_set_is_no_reason_to_judge_nothing_else(claims, place):
    place.known["first"] = tiny("first", *CLAIMS, task=absent)
    status, out, _ = claims("--preset", "smoke")
    assert status == 0
    assert "first: mnist is not here; data fetch mnist brings it" in out
    status, out, _ = claims("--run", "--preset", "smoke")
    assert status == 2
    assert "first: mnist is not here; data fetch mnist brings it" in out
    assert re.search(r"inconclusive +It waves\.", out)
    assert "4 claims: 1 inconclusive, 3 without a study." in out
    text = Path("runs/CLAIMS-smoke.md").read_text()
    assert "mnist is not here" in text
    assert [row[0] for row in table_in(text, "second")[1:]] == ["It waves. (`waves`)"]
    # The counts of the ledger are those of its rows.
    rows = sum(len(table_in(text, name)) - 1 for name in ("first", "second"))
    assert f"{rows} claims: 1 inconclusive, {rows - 1} without a study." in text


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["frist"], ["'frist'", "did you mean 'first'?"]),
        (["first", "sceond", "--run"], ["'sceond'", "did you mean 'second'?"]),
        (["--preset", "smok"], ["unknown preset 'smok'", "did you mean 'smoke'?"]),
        (["first", "--run", "--preset", "smok"], ["unknown preset 'smok'"]),
    ],
)
def test_a_mistake_is_refused_in_one_line(typed, message, claims, place, monkeypatch):
    monkeypatch.setattr(Engine, "__init__", None)
    status, out, err = claims(*typed)
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert all(words in line for words in message), line
    assert not list(place.directory.iterdir())


@pytest.mark.parametrize("typed", [["--rnu"], ["--run", "--restarts", "3"], ["--run", "first"]])
def test_an_unknown_flag_is_refused(typed, claims, place, capsys):
    with pytest.raises(SystemExit) as exit:
        claims(*typed)
    assert exit.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert any(word in printed.err for word in typed)
    assert not list(place.directory.iterdir())
