"""Refusals of the command line: one message, status 2, before anything compiles."""

import gzip
import json
import os
import shlex
import signal
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablax.cli.experiments import names
from ablax.cli.main import COMMANDS, START, main
from ablax.config import field_specs
from ablax.engine.engine import Engine
from ablax.errors import flag_of
from ablax.study.train import Result
from experiments.regularization import Config

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch.sh"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty working directory with a few bad files; reaching the engine is a failure."""

    def reached(*_, **__):
        raise AssertionError("the engine was reached")

    monkeypatch.setattr(Engine, "__init__", reached)
    monkeypatch.setenv("ABLAX_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = [
        f"{a:.3f},{b:.3f},{'red' if a + b > 0 else 'blue'},{a:.3f}"
        for a, b in rng.normal(size=(40, 2))
    ]
    header = "length,width,colour,size"
    Path("ok.csv").write_text("\n".join([header, *rows]))
    Path("holes.csv").write_text("\n".join([header, *rows[:20], "1.0,,red,2.0", *rows[20:]]))
    Path("ragged.csv").write_text("\n".join([header, *rows[:20], "1.0,red,2.0", *rows[20:]]))
    Path("short.csv").write_text("\n".join([header, *rows[:5]]))
    Path("empty.csv").touch()
    np.savez("other_names.npz", a=rng.normal(size=(20, 2)), b=np.arange(20))
    np.savez("holes.npz", X=np.full((20, 2), np.nan), y=np.arange(20) % 2)
    Path("no_zip.npz").write_text("not an archive")
    Path("file").write_text("of somebody")
    Path("foreign").mkdir()
    Path("foreign/thesis.txt").write_text("of somebody")
    study("another")
    study("unstated", without="significance")
    Path("damaged").mkdir()
    Path("damaged/study.json").write_text("{")
    return tmp_path


def study(directory: str, without: str = "") -> None:
    """A run directory that holds one finished trial of a study that nobody asks for."""
    Path(directory).mkdir()
    manifest = {"experiment": "regularization", "seed": 0, "points": [], "marks": []}
    manifest |= {"significance": 0.05}
    manifest |= {"rounds": {"name": "", "n": 1, "gives": None}}
    command = {"command": "./launch.sh regularization"}
    manifest |= {"provenance": command | {"conditions": {}, "programs": {}}}
    manifest.pop(without, None)
    Path(directory, "study.json").write_text(json.dumps(manifest))
    pd.DataFrame({"trial": ["0" * 16]}).to_parquet(Path(directory, "trials.parquet"))


def contents(directory: Path) -> dict[Path, bytes | None]:
    return {p: p.read_bytes() if p.is_file() else None for p in directory.rglob("*")}


# What is typed, and what the message must say: what was expected, and what was got.
REFUSED = {
    # names
    "regularisation": ["'regularisation'", "did you mean 'regularization'?"],
    "--nope": ["unknown command or experiment '--nope'"],
    "regularization --restart 3": ["unknown flag '--restart'", "did you mean '--restarts'?"],
    "regularization --l3=1": ["unknown flag '--l3", "'--l"],
    "regularization --preset smok": ["unknown preset 'smok'", "did you mean 'smoke'?"],
    "regularization --preset=smok": ["unknown preset 'smok'"],
    "regularization --preset": ["unknown preset ''", "default, paper, smoke"],
    "regularization --dataset digit": ["unknown data set 'digit'", "did you mean 'digits'?"],
    "regularization --activation rleu": ["unknown activation 'rleu'", "did you mean 'relu'?"],
    "regularization --activation relu tnah": ["unknown activation 'tnah'", "'tanh'"],
    "regularization --init he_norml": ["unknown init 'he_norml'", "'he_normal'"],
    "regularization --model mpl": ["unknown model 'mpl'", "'mlp'"],
    "regularization --dataset ok.csv --target size --problem klassification": [
        "'klassification'",
        "'classification'",
    ],
    "regularization --fix ordr": ["unknown fix 'ordr'", "did you mean 'order'?"],
    "regularization --fix split+init": ["unknown fix 'split+init'", "init+split, none"],
    "regularization --split-seed 1": ["unknown flag '--split-seed'"],
    # numbers
    "regularization --learning-rate -0.1": ["--learning-rate", "at least 0", "-0.1"],
    "regularization --learning-rate nan": ["--learning-rate", "at least 0", "nan"],
    "regularization --learning-rate 0.1 nan": ["--learning-rate", "nan"],
    "regularization --l1 -1": ["--l1", "at least 0", "-1"],
    "regularization --l2 0 -1e-4": ["--l2", "at least 0", "-0.0001"],
    "regularization --max-norm -1": ["--max-norm", "0", "-1"],
    "regularization --momentum 1": ["--momentum", "below 1", "1.0"],
    "regularization --momentum -0.5": ["--momentum", "at least 0", "-0.5"],
    "regularization --dropout-rate 1": ["--dropout-rate", "below 1", "1.0"],
    "regularization --dropout-rate 1.5": ["--dropout-rate", "below 1", "1.5"],
    "regularization --dropout-rate 0 -0.1": ["--dropout-rate", "at least 0", "-0.1"],
    "regularization --dropout-rate nan": ["--dropout-rate", "nan"],
    "regularization --restarts 0": ["--restarts", "at least 1", "got 0"],
    "regularization --restarts -3": ["--restarts", "at least 1", "got -3"],
    "regularization --seed -1": ["--seed", "0 to 2**32 - 1", "-1"],
    "regularization --seed 4294967296": ["--seed", "0 to 2**32 - 1", "4294967296"],
    "regularization --slots 10": ["--slots", "multiple of 16", "10"],
    "regularization --slots 0": ["--slots", "multiple of 16", "got 0"],
    "regularization --width 0": ["--width", "at least 1", "got 0"],
    "regularization --depth -1": ["--depth", "at least 1", "-1"],
    "regularization --steps 0": ["--steps", "at least 1", "got 0"],
    "regularization --steps 99999999999": ["--steps", "at most", "99999999999"],
    "regularization --eval-every 0": ["--eval-every", "at least 1", "got 0"],
    "regularization --patience nan": ["--patience", "at least 1", "nan"],
    "regularization --min-delta -1": ["--min-delta", "at least 0", "-1"],
    "regularization --test-seed -1": ["--test-seed", "at least 0", "-1"],
    "regularization --batch-size 0": ["--batch-size", "at least 1", "got 0"],
    "regularization --batch-size 301": ["--batch-size", "at most the 300", "301"],
    "regularization --train-size 50 --batch-size 64": ["--batch-size", "at most the 50", "64"],
    "regularization --train-size 0": ["--train-size", "at least 1", "got 0"],
    "regularization --train-size 5000": ["at most 1438", "train 5000"],
    "regularization --train-size 5": ["every class", "the 5 training examples"],
    # axes
    "regularization --l2": ["--l2", "at least one value", "none"],
    "regularization --l2 --l1 0": ["--l2", "at least one value"],
    "regularization --l2 0 0": ["--l2", "repeated"],
    "regularization --l2 0 1e-4 1e-4": ["--l2", "0.0001", "repeated"],
    "regularization --l2 0 0.0": ["--l2", "repeated"],
    "regularization --width 8 8": ["--width", "repeated"],
    "regularization --dataset digits digits": ["--dataset", "repeated"],
    # combinations that mean nothing
    "regularization --model linear --dropout-rate 0.5": ["--dropout-rate", "linear"],
    "regularization --model linear mlp --dropout-rate 0 0.5": ["--dropout-rate", "linear"],
    "regularization --problem regression": ["problem", "table of your own", "'regression'"],
    "regularization --target size": ["target", "'size'"],
    # the run directory
    "regularization --out file": ["--out file", "expected a directory"],
    "regularization --out file/run": ["--out file/run", "cannot be written"],
    "regularization --out /proc/self/run": ["--out /proc/self/run", "cannot be written"],
    "regularization --out foreign": ["--out foreign", "holds no study", "study.json"],
    "regularization --out unstated": ["unstated", "study.json", "significance"],
    "regularization --out another": ["--out another", "another study", "choose another"],
    # a user's own table
    "regularization --dataset ok.csv": ["--target", "length, width, colour, size"],
    "regularization --dataset ok.csv --target colur": ["unknown column 'colur'", "'colour'"],
    "regularization --dataset ok.csv --target 4": ["0 to 3", "got 4"],
    "regularization --dataset ok.csv --target colour --problem regression": ["colour", "numbers"],
    "regularization --dataset ok.csv --target colour --train-size 100": ["at most 32", "100"],
    "regularization --dataset none.csv --target colour": ["none.csv", "No such file"],
    "regularization --dataset holes.csv --target colour": ["line 22", "column width", "1 missing"],
    "regularization --dataset ragged.csv --target colour": ["expected 4 cells", "got 3 in line 22"],
    "regularization --dataset short.csv --target colour": ["at least 10 rows", "got 5"],
    "regularization --dataset empty.csv --target colour": ["empty.csv", "empty file"],
    "regularization --dataset other_names.npz": ["X and y", "a, b"],
    "regularization --dataset holes.npz": ["finite", "20 rows", "index 0"],
    "regularization --dataset no_zip.npz": ["no_zip.npz", "readable .npz"],
    "regularization --dataset table.xlsx --target 0": ["table.xlsx", ".csv"],
    # data sets that are not there
    "regularization --dataset mnist": ["mnist", "data fetch mnist", "ABLAX_DATA"],
    "regularization --dataset fashion_mnist": ["fashion_mnist", "data fetch fashion_mnist"],
    # the other commands
    "list all": ["list takes no arguments"],
    "resume": ["resume DIR"],
    "resume foreign another": ["resume DIR"],
    "resume nowhere": ["nowhere", "study.json"],
    "resume file": ["file", "study.json"],
    "resume foreign": ["foreign", "study.json"],
    "resume damaged": ["damaged", "study.json"],
    "resume another": ["another study"],
    "resume unstated": ["unstated", "study.json", "significance"],
    "report": ["report DIR"],
    "report nowhere": ["nowhere", "study.json"],
    "report foreign": ["foreign", "study.json"],
    "report damaged": ["damaged", "study.json"],
    "report unstated": ["unstated", "study.json", "significance"],
    "gallery signals": ["gallery takes no arguments"],
    "claims signls": ["unknown command or experiment 'signls'", "'signals'"],
    "data": ["data list", "data fetch NAME"],
    "data remove mnist": ["data list", "data fetch NAME"],
    "data list --verfy": ["data list [--verify]"],
    "data fetch": ["data fetch NAME"],
    "data fetch mnits": ["unknown data set 'mnits'", "'mnist'"],
    "data fetch digits": ["digits needs no download"],
    "bench swep": ["unknown bench 'swep'", "'sweep'"],
    "bench sweep --repeats 0": ["--repeats", "at least 1", "got 0"],
}


@pytest.mark.parametrize("typed", REFUSED)
def test_a_mistake_is_refused_in_one_line(typed, place, capsys):
    before = contents(place)
    assert main(shlex.split(typed)) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert not [words for words in REFUSED[typed] if words not in line], line
    assert "Traceback" not in printed.out
    assert contents(place) == before


# What tyro refuses itself, in a box.
OF_THE_WRONG_TYPE = {
    "regularization --restarts 1.5": ["--restarts", "1.5"],
    "regularization --restarts 2 3": ["3"],
    "regularization --width 3.5": ["--width", "3.5"],
    "regularization --train-size all": ["--train-size", "all"],
    "regularization --l2 much": ["--l2", "much"],
    "regularization --keep some": ["some", "none", "best", "all"],
    "regularization --seed": ["--seed"],
    "regularization smoke": ["smoke"],
    "regularization -x": ["-x"],
    "bench sweep --repeat 3": ["--repeat"],
    "bench sweep --peers tensorflow": ["tensorflow", "torch"],
}


@pytest.mark.parametrize("typed", OF_THE_WRONG_TYPE)
def test_a_value_of_the_wrong_type_is_refused(typed, place, capsys):
    before = contents(place)
    with pytest.raises(SystemExit) as exit:
        main(shlex.split(typed))
    assert exit.value.code == 2
    printed = capsys.readouterr()
    assert not [words for words in OF_THE_WRONG_TYPE[typed] if words not in printed.err]
    assert "Traceback" not in printed.err
    assert contents(place) == before


def idx(dimensions: tuple[int, ...], values: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{len(dimensions)}I", 0, 0, 8, len(dimensions), *dimensions)
    return header + values.astype(np.uint8).tobytes()


@pytest.fixture
def mnist(place):
    """The four files of a very small MNIST, under $ABLAX_DATA."""
    folder = place / "data" / "mnist"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, n in (("train", 60), ("t10k", 30)):
        images = idx((n, 28, 28), rng.integers(0, 256, (n, 28, 28)))
        labels = idx((n,), np.arange(n) % 10)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return folder


def mnist_study(capsys) -> tuple[int, str, str]:
    sizes = ["--train-size", "40", "--batch-size", "8"]
    status = main(["regularization", "--dataset", "mnist", "--plan", *sizes])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_whole_idx_files_are_taken(mnist, capsys):
    status, out, err = mnist_study(capsys)
    assert (status, err) == (0, "")
    assert "split of mnist: train 40, valid 12, test 30 (official), unused 8" in out


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def half_of_the_archive(folder):
    (folder / IMAGES).write_bytes((folder / IMAGES).read_bytes()[:2000])


def half_of_the_values(folder):
    values = gzip.decompress((folder / IMAGES).read_bytes())
    (folder / IMAGES).write_bytes(gzip.compress(values[:2000]))


def swapped(folder):
    images, labels = (folder / IMAGES).read_bytes(), (folder / LABELS).read_bytes()
    (folder / IMAGES).write_bytes(labels)
    (folder / LABELS).write_bytes(images)


def another_magic(folder):
    (folder / LABELS).write_bytes(gzip.compress(b"\0\0\x0d\1" + bytes(100)))


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (half_of_the_archive, IMAGES, "gzip"),
        (half_of_the_values, IMAGES, "expected 47056 bytes for shape (60, 28, 28), got 2000"),
        (swapped, IMAGES, "swapped?"),
        (another_magic, LABELS, "got 00000d01"),
        (lambda folder: (folder / LABELS).unlink(), LABELS, "No such file"),
        (lambda folder: (folder / IMAGES).write_bytes(b""), IMAGES, "empty file"),
    ],
)
def test_damaged_idx_files_are_refused_by_name(damage, file, message, mnist, place, capsys):
    damage(mnist)
    before = contents(place)
    status, out, err = mnist_study(capsys)
    (line,) = err.splitlines()
    assert (status, out) == (2, "")
    assert str(mnist / file) in line
    assert message in line
    assert contents(place) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_directory_without_permission_is_refused(place, capsys):
    (place / "locked").mkdir(mode=0o500)
    assert main(["regularization", "--out", "locked/run"]) == 2
    assert "cannot be written: Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("typed", [[], ["-h"], ["--help"], ["help"]])
def test_without_a_command_it_says_what_there_is(typed, capsys):
    assert main(typed) == 0
    assert capsys.readouterr().out.strip() == START.strip()


def test_list_and_data_list(capsys):
    assert main(["list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == names()
    assert all(line.endswith("?") for line in listed), "an experiment is a question"
    assert main(["data", "list"]) == 0
    out = capsys.readouterr().out
    present = {line.split()[0]: line.split()[1] for line in out.splitlines()[1:] if line[0] != " "}
    assert (present["digits"], present["mnist"]) == ("yes", "no")


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["regularization", "--help"])
    assert exit.value.code == 0
    out = capsys.readouterr().out
    study = ("preset", "restarts", "seed", "out", "plan", "keep", "slots")
    fields = (flag_of(name) for name in field_specs(Config))
    assert not [flag for flag in (*map(flag_of, study), *fields) if f" {flag} " not in out]


def test_the_plan_compiles_and_writes_nothing(place, capsys):
    before = contents(place)
    assert main(["regularization", "--plan", "--l2", "0", "1e-3", "--width", "8", "16"]) == 0
    out = capsys.readouterr().out
    assert contents(place) == before
    plan = dict(line.split("  ", 1) for line in out.splitlines())
    assert plan["trials"].strip() == "64"
    assert {"program width=8", "program width=16", "traced", "static", "data"} <= set(plan)


def test_an_experiment_needs_no_flags(capsys):
    """The README's first command: everything up to the engine, which is out of order here."""
    with pytest.raises(AssertionError, match="the engine was reached"):
        main(["regularization"])
    (out,) = Path("runs").iterdir()
    assert out.name.startswith("regularization-")
    manifest = json.loads((out / "study.json").read_text())
    assert manifest["trials"] == 672


def test_flags_of_the_launch_reach_training(monkeypatch, capsys):
    seen = {}

    def train(plan, directory, **options):
        seen.update(options)
        return Result(trained=1, missing=2, seconds=3.0)

    monkeypatch.setattr("ablax.study.train.train", train)
    options = {"keep": "best", "retry": "diverged", "slots": "32", "checkpoint-minutes": "5"}
    typed = [word for flag, value in options.items() for word in (f"--{flag}", value)]
    assert main(["regularization", "--allow-changed", *typed]) == 130
    assert "2 trials are missing" in capsys.readouterr().err
    assert (seen["keep"], seen["retry"], seen["slots"]) == ("best", True, 32)
    assert (seen["checkpoint_minutes"], seen["allow_changed"]) == (5.0, True)
    assert main(["regularization"]) == 130
    assert (seen["keep"], seen["retry"], seen["slots"]) == ("none", False, None)
    assert seen["allow_changed"] is False


def run(*command: object, **environment: str | None) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ABLAX_")}
    changed = {k: v for k, v in environment.items() if v is not None}
    return subprocess.run(
        [str(word) for word in command],
        env=inherited | changed, text=True, capture_output=True, timeout=120, check=False,
    )  # fmt: skip


slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("regularisation", "did you mean 'regularization'?"),
        slow("regularization --learning-rate nan --out run", "--learning-rate: expected"),
        slow("regularization --out file", "--out file is a file"),
        slow("regularization --l2 much", "--l2"),
    ],
)
def test_exit_status_of_the_process(typed, message, place):
    before = contents(place)
    path = os.pathsep.join(map(str, (ROOT / "lib", ROOT)))
    done = run(sys.executable, "-m", "experiments", *typed.split(), PYTHONPATH=path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(place) == before


def test_launch_with_a_python_of_its_own():
    """From a working directory that is not the repository's (see `place`)."""
    done = run(LAUNCH, "list", ABLAX_PYTHON=sys.executable)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == names()
    done = run(LAUNCH, ABLAX_PYTHON=sys.executable)
    assert (done.returncode, done.stdout.strip()) == (0, START.strip())
    done = run(LAUNCH, "regularisation", ABLAX_PYTHON=sys.executable)
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'regularization'?" in done.stderr
    assert all(f"./launch.sh {command} " in START for command in COMMANDS if command != "data")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ABLAX_PYTHON", "/no/such/python", "ABLAX_PYTHON: /no/such/python cannot be run"),
        ("ABLAX_ACCELERATOR", "gpu", "ABLAX_ACCELERATOR: expected cpu, cuda or tpu, got gpu"),
    ],
)
def test_launch_refuses_a_wrong_environment(variable, value, message):
    before = (ROOT / ".venv").exists()
    done = run(LAUNCH, "list", **{variable: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {message}\n"
    assert (ROOT / ".venv").exists() == before


def test_a_reader_that_has_seen_enough_is_no_traceback():
    """As `./launch.sh list | head -1`: the pipe is closed before all is written."""
    reader, writer = os.pipe()
    os.close(reader)
    path = os.pathsep.join(map(str, (ROOT / "lib", ROOT)))
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "list"],
        stdout=writer, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_ctrl_c_outside_of_training_is_no_traceback(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "report", interrupted)
    assert main(["report", "somewhere"]) == 130
    assert capsys.readouterr().err == "stopped; rerun the same command to resume\n"
