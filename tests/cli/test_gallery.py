"""./launch.sh gallery: the README's figures, from the studies that are said to draw them."""

import struct
from pathlib import Path

import jax
import pytest

from ablax.cli import experiments, flags
from ablax.cli import gallery as _gallery
from ablax.cli.experiments import load, names
from ablax.cli.gallery import PICTURES, Picture
from ablax.cli.launch import Launched
from ablax.config import Preset
from ablax.engine.engine import Engine
from ablax.engine.mesh import mesh_of
from ablax.study import grid
from ablax.study import run as launched
from tests.toys import SHORT, experiment

FOLDER = Path(__file__).parents[2] / "experiments" / "gallery"
PAGES = [FOLDER.parents[1] / "README.md", *(FOLDER.parents[1] / "docs").glob("*.md")]
README = "\n".join(page.read_text() for page in PAGES)
EVERY = pytest.mark.parametrize("name", PICTURES)
KIB = 1024


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_gallery, "FOLDER", tmp_path / "gallery")
    monkeypatch.setattr(launched, "mesh_of", lambda: mesh_of(jax.devices()[:1]))
    return experiment(
        description="Does it shrink?",
        presets={"smoke": Preset(SHORT, 2), "default": Preset(SHORT, 99)},
        points=lambda config: grid.table(config, grid.rows({}, {"shrunk": [{"l2": 1.0}]})),
    )


@pytest.mark.slow
def test_the_figures_of_the_studies_are_copied(rendered_figures, toy, capsys, monkeypatch):
    trained = []
    original = Engine.run

    def spy(self, trials, *arguments, **keywords):
        trained.append(len(trials.restart))
        return original(self, trials, *arguments, **keywords)

    monkeypatch.setattr(Engine, "run", spy)
    pictures = {
        "dots": Picture("toy --preset smoke", "restarts"),
        "lines": Picture("toy --preset smoke", "curves"),
        "others": Picture("toy --preset smoke --l2 0 0.5 2", "restarts"),
    }
    monkeypatch.setattr(experiments, "load", lambda name: {"toy": toy}[name])
    assert _gallery.main(pictures) == 0
    assert trained == [2 * 2, 3 * 2], "a study of two pictures is trained once"
    assert {path.name for path in Path("gallery").iterdir()} == {f"{n}.png" for n in pictures}
    smoke, grid_of_3 = sorted(Path("runs").iterdir(), key=lambda p: "l2=2" in
                              (p / "study.json").read_text())  # fmt: skip
    for name, source in [
        ("dots", smoke / "report" / "restarts.png"),
        ("lines", smoke / "report" / "curves.png"),
        ("others", grid_of_3 / "report" / "restarts.png"),
    ]:
        assert Path("gallery", f"{name}.png").read_bytes() == source.read_bytes(), name
        assert str(source) in capsys.readouterr().out or name != "dots"
    assert len({path.read_bytes() for path in Path("gallery").iterdir()}) == 3
    # Again: nothing is trained, and the pictures are the same to the byte.
    before = {path: path.read_bytes() for path in Path("gallery").iterdir()}
    assert _gallery.main(pictures) == 0
    assert trained == [4, 6]
    assert {path: path.read_bytes() for path in Path("gallery").iterdir()} == before


def test_a_study_that_is_stopped_copies_nothing(toy, monkeypatch):
    monkeypatch.setattr("ablax.cli.launch.launch", lambda *_: Launched(130, Path("runs")))
    monkeypatch.setattr(experiments, "load", lambda name: toy)
    assert _gallery.main({"dots": Picture("toy", "restarts")}) == 130
    assert not Path("gallery").exists()


@EVERY
def test_a_picture_names_an_experiment_and_flags_that_parse(name):
    experiment, *typed = PICTURES[name].command.split()
    assert experiment in names()
    chosen = load(experiment)
    asked = flags.parse(chosen, experiment, typed)
    assert asked.out is None, "the directory is named by the study"
    assert not asked.plan
    assert chosen.points(asked.config)


@EVERY
def test_a_picture_is_there_and_small(name):
    data = (FOLDER / f"{name}.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    assert min(width, height) >= 200
    assert len(data) <= 512 * KIB


def test_the_folder_holds_the_pictures_alone():
    assert {path.stem for path in FOLDER.iterdir()} == set(PICTURES)


@EVERY
def test_the_readme_shows_every_picture(name):
    assert f"experiments/gallery/{name}.png" in README
