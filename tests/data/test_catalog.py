"""The table of data sets: listing, and downloads from file:// addresses."""

import dataclasses
import hashlib

import pytest

from ablax.data import catalog
from ablax.data.catalog import DATASETS, fetch, listing
from ablax.data.directory import data_directory
from ablax.errors import UserError

CONTENT = {"a.gz": b"first", "b.gz": b"second"}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A data set called `toy`, with its publisher's folder on this disk."""
    folder = tmp_path / "server"
    folder.mkdir()
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    entry = catalog.Entry(
        load=DATASETS["mnist"].load,
        description="",
        examples="",
        licence="",
        home="",
        folder="toys",
        urls=(f"{folder.as_uri()}/",),
        files={name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()},
    )
    monkeypatch.setitem(catalog.DATASETS, "toy", entry)
    return folder


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "data"


def presence(directory, **options):
    return next(row.present for row in listing(directory, **options) if row.name == "toy")


def test_fetch_downloads_what_is_missing(server, directory):
    assert presence(directory) == "no"
    paths = fetch("toy", directory)
    assert {path.name: path.read_bytes() for path in paths} == CONTENT
    assert sorted(path.name for path in (directory / "toys").iterdir()) == sorted(CONTENT)
    assert presence(directory, verify=True) == "yes"
    (server / "a.gz").unlink()  # not asked for again
    assert fetch("toy", directory) == paths


def test_a_damaged_file_is_seen_and_fetched_again(server, directory):
    first, second = fetch("toy", directory)
    second.unlink()
    assert presence(directory) == "partly"
    first.write_bytes(b"damaged")
    assert presence(directory, verify=True) == "corrupt"
    fetch("toy", directory)
    assert first.read_bytes() == CONTENT["a.gz"]
    assert presence(directory, verify=True) == "yes"


def test_unpacked_files_are_present(server, directory):
    (directory / "toys").mkdir(parents=True)
    (directory / "toys" / "a").write_bytes(b"")
    (directory / "toys" / "b").write_bytes(b"")
    assert presence(directory, verify=True) == "yes"


def test_other_bytes_than_expected_leave_no_file(server, directory):
    (server / "b.gz").write_bytes(b"other")
    with pytest.raises(UserError, match=r"b\.gz: expected a file with sha256 .* got sha256"):
        fetch("toy", directory)
    assert [path.name for path in (directory / "toys").iterdir()] == ["a.gz"]


def test_no_answer_leaves_no_file(server, directory):
    (server / "a.gz").unlink()
    with pytest.raises(UserError, match=r"a\.gz: expected a file .* No such file"):
        fetch("toy", directory)
    assert not list((directory / "toys").iterdir())


def test_the_second_address_is_tried(server, directory, monkeypatch):
    entry = DATASETS["toy"]
    urls = (f"{server.as_uri()}/nowhere/", *entry.urls)
    monkeypatch.setitem(DATASETS, "toy", dataclasses.replace(entry, urls=urls))
    assert len(fetch("toy", directory)) == 2


def test_a_folder_that_cannot_be_written_is_refused(server, directory):
    directory.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="toy: expected to write into"):
        fetch("toy", directory)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits", "digits needs no download: its source is scikit-learn"),
        ("moons", "moons needs no download: its source is generated"),
        ("minst", "unknown data set 'minst'; did you mean 'mnist'"),
    ],
)
def test_fetch_refuses(name, message, directory):
    with pytest.raises(UserError, match=message):
        fetch(name, directory)


def test_listing_names_every_set_with_its_source(directory):
    rows = {row.name: row for row in listing(directory)}
    assert list(rows) == sorted(DATASETS)
    assert rows["iris"].present == "yes"
    assert rows["mnist"].present == "no"
    assert all(
        row.description and row.examples and row.licence and row.home for row in rows.values()
    )
    assert all(len(sha256) == 64 for row in rows.values() for _, sha256 in row.files)
    downloaded = ["fashion_mnist", "kmnist", "mnist", "perceptron", "student-admissions"]
    assert [name for name, row in rows.items() if row.files] == downloaded


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_real_files_have_the_checksums_of_the_table(name):
    if not (data_directory() / DATASETS[name].folder).is_dir():
        pytest.skip(f"{data_directory()} has no {DATASETS[name].folder}; set ABLAX_DATA")
    row = next(row for row in listing(verify=True) if row.name == name)
    assert row.present in ("yes", "partly")
