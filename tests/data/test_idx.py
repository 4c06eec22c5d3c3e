"""The idx reader: the real files, and every way in which a file can be wrong."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from ablax.data import idx, load
from ablax.data.directory import data_directory
from ablax.errors import UserError

TEN = tuple("0123456789")


def encode(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


IMAGES = np.arange(3 * 28 * 28).reshape(3, 28, 28) % 256
LABELS = np.array([0, 9, 4])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data directory with a whole, tiny MNIST."""
    monkeypatch.setenv("ABLAX_DATA", str(tmp_path))
    place = tmp_path / "mnist"
    place.mkdir()
    for part in ("train", "t10k"):
        (place / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(encode(IMAGES)))
        (place / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(encode(LABELS)))
    return place


def test_data_directory(monkeypatch):
    monkeypatch.setenv("ABLAX_DATA", "~/sets")
    assert data_directory() == Path.home() / "sets"
    monkeypatch.setenv("ABLAX_DATA", "")
    assert data_directory() == Path.home() / ".cache" / "ablax"


def test_reads_values_and_scales_them(folder):
    data = load("mnist")
    np.testing.assert_array_equal(data.x, (IMAGES / 255).astype(np.float32))
    np.testing.assert_array_equal(data.y, LABELS)
    assert data.test is not None
    assert data.test[0].shape == (3, 28, 28)
    assert data.scale_features == "none"


def test_reads_unpacked_files_and_packed_ones_without_their_suffix(folder):
    packed = folder / "train-images-idx3-ubyte.gz"
    (folder / "train-images-idx3-ubyte").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    (folder / "train-labels-idx1-ubyte.gz").rename(folder / "train-labels-idx1-ubyte")
    np.testing.assert_array_equal(load("mnist").y, LABELS)


IMAGE_BYTES, LABEL_BYTES = encode(IMAGES), encode(LABELS)
BAD = {
    "empty": ("images", b"", "magic number 00000803 .images., got an empty file"),
    "other magic": ("images", b"\x89PNG" + bytes(99), "got 89504e47"),
    "swapped images": ("images", LABEL_BYTES, "file of labels: are images and labels swapped"),
    "swapped labels": ("labels", IMAGE_BYTES, "file of images: are images and labels swapped"),
    "half header": ("images", IMAGE_BYTES[:9], "expected a header of 16 bytes, got 9"),
    "truncated": ("images", IMAGE_BYTES[:-5], r"expected 2368 bytes .* got 2363 \(truncated\)"),
    "trailing": ("images", IMAGE_BYTES + b"x", r"expected 2368 .* got 2369 \(trailing bytes\)"),
    "other size": ("images", encode(np.zeros((3, 8, 8))), "expected 28x28 images"),
    "fewer labels": ("labels", encode(LABELS[:2]), "got 3 images and 2 labels"),
    "label too large": ("labels", encode(LABELS + 1), "expected labels from 0 to 9, got 10"),
    "truncated gzip": ("images", gzip.compress(IMAGE_BYTES)[:-9], "damaged"),
    "short gzip": ("labels", b"\x1f\x8b", "damaged"),
    "flipped gzip": ("images", gzip.compress(IMAGE_BYTES)[:-8] + bytes(8), "damaged"),
    "garbled gzip": ("images", gzip.compress(IMAGE_BYTES)[:12] + bytes([255] * 60), "damaged"),
    "trailing gzip": ("images", gzip.compress(IMAGE_BYTES) + b"junk", "damaged"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("part", ["train", "t10k"])
def test_bad_files_are_refused_by_name(folder, case, part):
    kind, content, message = BAD[case]
    axes = {"images": 3, "labels": 1}[kind]
    (folder / f"{part}-{kind}-idx{axes}-ubyte.gz").write_bytes(content)
    with pytest.raises(UserError, match=f"{part}-{kind}-idx{axes}-ubyte(?s:.*){message}"):
        load("mnist")


def test_no_images_are_refused(folder):
    for kind, axes, array in (("images", 3, IMAGES[:0]), ("labels", 1, LABELS[:0])):
        (folder / f"train-{kind}-idx{axes}-ubyte.gz").write_bytes(encode(array))
    with pytest.raises(UserError, match="at least one; got 0 images"):
        load("mnist")


def test_missing_data_set_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLAX_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"data fetch fashion_mnist` downloads .* fashion-mnist/"):
        load("fashion_mnist")


@pytest.mark.parametrize("part", ["train", "t10k"])
def test_half_a_data_set_is_missing(folder, part):
    (folder / f"{part}-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match=f"{part}-labels-idx1-ubyte.gz: expected a readable"):
        load("mnist")
    (folder / f"{part}-images-idx3-ubyte.gz").unlink()
    with pytest.raises(UserError, match=f"mnist is not in .*{part}-images-idx3-ubyte.gz"):
        load("mnist")


def test_kmnist_may_be_its_test_split(folder):
    for file in folder.glob("train-*"):
        file.unlink()
    folder.rename(folder.parent / "kmnist")
    data = load("kmnist")
    assert (len(data.x), data.test) == (3, None)
    assert "its test images serve as the whole set" in data.notes[0]


def test_a_file_of_other_dimensions_is_refused(folder):
    with pytest.raises(UserError, match=r"magic number 00000804 \(values\)"):
        idx.read(folder / "train-images-idx3-ubyte.gz", 4)


REAL = {
    "mnist": ("mnist", 60_000, 5923, 980),
    "fashion_mnist": ("fashion-mnist", 60_000, 6000, 1000),
    "kmnist": ("kmnist", 10_000, 1000, None),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files(name):
    folder, count, of_class_0, of_class_0_in_test = REAL[name]
    place = data_directory() / folder
    if not (place / "t10k-images-idx3-ubyte.gz").is_file():
        pytest.skip(f"{place} has no files; set ABLAX_DATA")
    if name == "kmnist" and (place / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip("the whole KMNIST is here; the numbers are those of its test split")
    data = load(name)
    assert data.x.shape == (count, 28, 28)
    assert (float(data.x.min()), float(data.x.max())) == (0.0, 1.0)
    assert len(data.classes) == 10
    assert np.bincount(data.y)[0] == of_class_0
    if of_class_0_in_test:
        assert data.test is not None
        assert data.test[0].shape == (10_000, 28, 28)
        assert np.bincount(data.test[1])[0] == of_class_0_in_test
