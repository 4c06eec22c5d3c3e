"""The tables of the course that the notes are of: read by name, or refused with what to do."""

import numpy as np
import pytest

from ablax.data import load, split
from ablax.data.catalog import DATASETS, listing
from ablax.data.directory import data_directory
from ablax.errors import UserError

SETS = {
    # name: (file, shape, counts of the classes, names of the features)
    "perceptron": ("udacity-perceptron/data.csv", (100, 2), [50, 50], None),
    "student-admissions": (
        "udacity-student-admissions/student_data.csv",
        (400, 3),
        [273, 127],
        ("gre", "gpa", "rank"),
    ),
}
EVERY = pytest.mark.parametrize("name", SETS)


def path_of(name):
    path = data_directory() / SETS[name][0]
    if not path.is_file():
        pytest.skip(f"no {path}; set ABLAX_DATA")
    return path


def rows_of(path):
    """The numbers of the file, read without Ablax: a header is whatever is not a number."""
    lines = [line.split(",") for line in path.read_text().splitlines() if line.strip()]
    header = None if lines[0][0].lstrip("-").replace(".", "").isdigit() else lines.pop(0)
    return header, np.array(lines, np.float64)


@EVERY
def test_the_set_is_the_file(name):
    path = path_of(name)
    _, shape, counts, features = SETS[name]
    data = load(name)
    assert (data.name, data.problem) == (name, "classification")
    assert data.x.shape == shape
    assert (data.x.dtype, data.y.dtype) == (np.float32, np.int32)
    assert np.bincount(data.y).tolist() == counts
    assert data.classes == ("0", "1")
    header, rows = rows_of(path)
    target = header.index("admit") if header else rows.shape[1] - 1
    np.testing.assert_array_equal(data.y, rows[:, target])
    np.testing.assert_allclose(data.x, np.delete(rows, target, axis=1), rtol=1e-6)
    if features is not None:
        assert data.feature_names == features


@EVERY
def test_the_seed_does_not_matter(name):
    path_of(name)
    assert load(name, seed=0).x.tobytes() == load(name, seed=7).x.tobytes()


@EVERY
def test_it_can_be_split(name):
    path_of(name)
    splits = split(load(name), seed=0)
    assert len(splits.classes) == 2
    assert splits.n_train > splits.n_valid > 0


@EVERY
def test_the_file_has_the_checksum_of_the_table(name):
    path_of(name)
    row = next(row for row in listing(verify=True) if row.name == name)
    assert row.present == "yes"


@EVERY
def test_without_its_file_one_message_says_how_to_get_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ABLAX_DATA", str(tmp_path))
    with pytest.raises(UserError) as raised:
        load(name)
    message = str(raised.value)
    assert message.startswith(f"{name} is not in {tmp_path}: ")
    assert f"expected file {tmp_path / SETS[name][0]}" in message
    assert f"`./launch.sh data fetch {name}`" in message
    assert f"the folder that holds {SETS[name][0].split('/')[0]}/" in message
    row = next(row for row in listing() if row.name == name)
    assert row.present == "no"


@EVERY
def test_a_damaged_file_is_refused_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ABLAX_DATA", str(tmp_path))
    path = tmp_path / SETS[name][0]
    path.parent.mkdir()
    path.write_text("admit,gre\n1,2\n")
    with pytest.raises(UserError, match=path.name):
        load(name)
    row = next(row for row in listing(verify=True) if row.name == name)
    assert row.present == "corrupt"


@EVERY
def test_the_table_says_where_it_is_from(name):
    entry = DATASETS[name]
    (url,) = entry.urls
    (file,) = entry.files
    assert SETS[name][0] == f"{entry.folder}/{file}"
    assert url.startswith("https://")
    assert url.endswith("/")
    assert "MIT" in entry.licence
    assert entry.examples == str(SETS[name][1][0])
