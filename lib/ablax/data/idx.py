"""Reader of idx files, the format of MNIST and of the sets that took its place.

A file is a magic number (two zero bytes, type 0x08 for unsigned bytes, the number of
dimensions), the dimensions as big-endian 32-bit integers, then the values, row-major
(Y. LeCun, yann.lecun.com/exdb/mnist). Whatever does not fit raises `UserError` with the
name of the file.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from ablax.data.dataset import Dataset
from ablax.data.directory import data_directory, missing
from ablax.errors import UserError

_GZIP_MAGIC = b"\x1f\x8b"
_CONTENTS = {3: "images", 1: "labels"}
_IMAGE_SHAPE = (28, 28)
# KMNIST is often passed on as its test split alone; half an MNIST is a broken download.
_USABLE_WITHOUT_TRAINING = frozenset({"kmnist"})


def load(name: str, folder: str, classes: tuple[str, ...]) -> Dataset:
    """The data set whose four idx files lie in `folder` of the data directory.

    x is float32 [n, 28, 28], grey values divided by 255. Where both training files are absent
    the test images serve as the whole set (the notes say so), if the folder has them.
    """
    place = data_directory() / folder
    test = _read_pair(place, "t10k", len(classes))
    train = _read_pair(place, "train", len(classes))
    if train is None and (test is None or name not in _USABLE_WITHOUT_TRAINING):
        raise missing(name, place / "train-images-idx3-ubyte.gz")
    if train is not None and test is None:
        raise missing(name, place / "t10k-images-idx3-ubyte.gz")
    notes = ()
    if train is None:
        train, test = test, None
        notes = (f"{name}: no training files in {place}; its test images serve as the whole set",)
    assert train is not None
    return Dataset(
        name=name,
        x=train[0],
        y=train[1],
        problem="classification",
        source=str(place),
        classes=classes,
        test=test,
        notes=notes,
        scale_features="none",
    )


def read(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array of one idx file, gzipped or not, which must have `dimensions` axes."""
    data = _contents(path)
    expected = bytes([0, 0, 8, dimensions])
    if data[:4] != expected:
        other = {bytes([0, 0, 8, axes]): kind for axes, kind in _CONTENTS.items()}.get(data[:4])
        hint = f", which is a file of {other}: are images and labels swapped?" if other else ""
        kind = _CONTENTS.get(dimensions, "values")
        raise UserError(
            f"{path}: expected idx magic number {expected.hex()} ({kind}), "
            f"got {data[:4].hex() or 'an empty file'}{hint}"
        )
    header = 4 + 4 * dimensions
    if len(data) < header:
        raise UserError(f"{path}: expected a header of {header} bytes, got {len(data)} bytes")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", dimensions, offset=4))
    if len(data) != header + math.prod(shape):
        fault = "truncated" if len(data) < header + math.prod(shape) else "trailing bytes"
        raise UserError(
            f"{path}: expected {header + math.prod(shape)} bytes for shape {shape}, "
            f"got {len(data)} ({fault})"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _read_pair(place: Path, part: str, n_classes: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Images scaled to [0, 1] and labels of one part, or None where it has neither file."""
    image_path = _find(place / f"{part}-images-idx3-ubyte.gz")
    label_path = _find(place / f"{part}-labels-idx1-ubyte.gz")
    if not image_path.is_file() and not label_path.is_file():
        return None
    images = read(image_path, 3)
    labels = read(label_path, 1)
    if images.shape[1:] != _IMAGE_SHAPE:
        raise UserError(f"{image_path}: expected 28x28 images, got shape {images.shape}")
    if len(images) != len(labels) or not len(images):
        raise UserError(
            f"{image_path} and {label_path.name}: expected as many images as labels, "
            f"at least one; got {len(images)} images and {len(labels)} labels"
        )
    if labels.max() >= n_classes:
        raise UserError(
            f"{label_path}: expected labels from 0 to {n_classes - 1}, got {labels.max()}"
        )
    return images.astype(np.float32) / np.float32(255), labels.astype(np.int32)


def _find(packed: Path) -> Path:
    """The gzipped file, or the unpacked one where only that exists."""
    unpacked = packed.with_suffix("")
    return unpacked if unpacked.is_file() and not packed.is_file() else packed


def _contents(path: Path) -> bytes:
    """The bytes of a file, unpacked if they are gzip whatever the file is called."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: expected a readable idx file: {error.strerror}") from error
    if not data.startswith(_GZIP_MAGIC):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}: expected a whole gzip file, got a damaged one: {error}"
        ) from error
