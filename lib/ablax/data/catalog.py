"""All named data sets: where they come from, whether they are here, how to get them.

Downloads happen in `fetch` alone, which only `./launch.sh data fetch NAME` calls.
"""

import hashlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ablax.data import bundled, generated, idx
from ablax.data.dataset import Dataset
from ablax.data.directory import data_directory, missing
from ablax.data.own_data import load_csv
from ablax.errors import UserError, unknown

_TIMEOUT_SECONDS = 60
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One named data set.

    `load` takes the seed, which only generated sets use. A set that must be downloaded has a
    `folder` in the data directory, the sha256 of each of its `files`, and `urls`: folders of
    the same files, the publisher's first.
    """

    load: Callable[[int], Dataset]
    description: str
    examples: str
    licence: str
    home: str
    folder: str = ""
    urls: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)


class Listing(NamedTuple):
    """An entry of `./launch.sh data list`."""

    name: str
    description: str
    examples: str
    licence: str
    home: str
    files: tuple[tuple[str, str], ...]  # name, sha256
    present: str  # yes, no, partly (some files are missing) or corrupt (a checksum differs)


def listing(directory: Path | None = None, *, verify: bool = False) -> list[Listing]:
    """An entry per data set, by name; `verify` reads the files and compares their checksums."""
    place = directory or data_directory()
    return [
        Listing(
            name,
            entry.description,
            entry.examples,
            entry.licence,
            entry.home,
            tuple(entry.files.items()),
            _presence(entry, place, verify=verify),
        )
        for name, entry in sorted(DATASETS.items())
    ]


def fetch(name: str, directory: Path | None = None) -> list[Path]:
    """Download a data set's missing or damaged files; returns the paths of all its files.

    A file gets its name only after its checksum was right, so a broken download leaves none.
    Raises `UserError` when nothing is to be downloaded, no address answers, or a file differs.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    entry = DATASETS[name]
    if not entry.files:
        raise UserError(f"{name} needs no download: its source is {entry.home}")
    folder = (directory or data_directory()) / entry.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, sha256 in entry.files.items():
            if not (folder / file).is_file() or _sha256(folder / file) != sha256:
                _download(entry.urls, folder / file, sha256)
    except OSError as error:
        raise UserError(f"{name}: expected to write into {folder}, got: {error}") from error
    return [folder / file for file in entry.files]


def _presence(entry: Entry, place: Path, *, verify: bool) -> str:
    """Presence of a data set: yes, no, partly or corrupt; unpacked files have no checksum."""
    if not entry.files:
        return "yes"
    folder = place / entry.folder
    packed = {file: (folder / file).is_file() for file in entry.files}
    there = [here or (folder / file).with_suffix("").is_file() for file, here in packed.items()]
    if verify and any(
        _sha256(folder / file) != entry.files[file] for file, here in packed.items() if here
    ):
        return "corrupt"
    return "yes" if all(there) else "partly" if any(there) else "no"


def _download(urls: tuple[str, ...], path: Path, sha256: str) -> None:
    """Try each address in turn until one gives the bytes that were expected."""
    faults = []
    for url in urls:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                fault = _copy(url + path.name, file) or ""
            got = _sha256(Path(temporary))
            if not fault and got == sha256:
                os.replace(temporary, path)
                path.chmod(0o644)  # mkstemp's files are readable by their owner alone
                return
            faults.append(f"{url + path.name}: {fault or f'got sha256 {got}'}")
        finally:
            Path(temporary).unlink(missing_ok=True)
    raise UserError(f"{path}: expected a file with sha256 {sha256}; {'; '.join(faults)}")


def _copy(url: str, file) -> str | None:
    """Write what `url` gives into `file`; says what went wrong, if anything did."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"got {error}"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _idx_files(train_images: str, train_labels: str, t10k_images: str, t10k_labels: str):
    return {
        "train-images-idx3-ubyte.gz": train_images,
        "train-labels-idx1-ubyte.gz": train_labels,
        "t10k-images-idx3-ubyte.gz": t10k_images,
        "t10k-labels-idx1-ubyte.gz": t10k_labels,
    }


def _udacity(folder: str, file: str, target: str | int, sha256: str, **about: str) -> Entry:
    """A table of the course that the notes are of."""
    place = "https://raw.githubusercontent.com/udacity/deep-learning-v2-pytorch/master"

    def read(seed: int) -> Dataset:
        name = folder.removeprefix("udacity-")
        path = data_directory() / folder / file
        if not path.is_file():
            raise missing(name, path)
        return replace(load_csv(path, target), name=name)

    return Entry(
        read,
        licence="MIT (Udacity's repository)",
        home="github.com/udacity/deep-learning-v2-pytorch, intro-neural-networks",
        folder=folder,
        urls=(f"{place}/intro-neural-networks/{about.pop('path')}/",),
        files={file: sha256},
        **about,
    )


def _bundled(load: Callable[[], Dataset], description: str, examples: str) -> Entry:
    home = "scikit-learn, sklearn.datasets (installed with Ablax)"
    return Entry(lambda seed: load(), description, examples, "UCI sets, see scikit-learn", home)


def _generated(load: Callable[..., Dataset], description: str, examples: str) -> Entry:
    home = "generated from the seed"
    return Entry(lambda seed: load(seed=seed), description, examples, "none needed", home)


_DIGITS = tuple("0123456789")
_CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_HIRAGANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
_SEVENTY_THOUSAND = "60,000 train, 10,000 test"

DATASETS: dict[str, Entry] = {
    "digits": _bundled(bundled.digits, "8x8 handwritten digits", "1,797"),
    "iris": _bundled(bundled.iris, "three species of iris, 4 lengths", "150"),
    "wine": _bundled(bundled.wine, "three cultivars of wine, 13 measurements", "178"),
    "breast_cancer": _bundled(
        bundled.breast_cancer, "malignant or benign, 30 measurements of cell nuclei", "569"
    ),
    "diabetes": _bundled(
        bundled.diabetes, "progression after a year, 10 measurements (regression)", "442"
    ),
    "xor": _generated(generated.xor, "the truth table of XOR", "4"),
    "xor_clouds": _generated(
        partial(generated.xor, 400), "normal clouds around the points of xor", "400"
    ),
    "moons": _generated(generated.moons, "two interleaved half circles", "400"),
    "spirals": _generated(generated.spirals, "two interleaved spiral arms", "400"),
    "blobs": _generated(generated.blobs, "three normal clouds", "400"),
    "separable": _generated(generated.separable, "two clouds with a margin of 0.5", "200"),
    "perceptron": _udacity(
        "udacity-perceptron",
        "data.csv",
        -1,
        "f0662ef7f84149a54f36566c02bd22719350e02849dbc39f784611323edae0e9",
        path="gradient-descent",
        description="two overlapping clouds of points in the plane",
        examples="100",
    ),
    "student-admissions": _udacity(
        "udacity-student-admissions",
        "student_data.csv",
        "admit",
        "2f5dcda0e455631215709575cc2eede4e5fb4e94cda9c37dab54e26d79dcf8c2",
        path="student-admissions",
        description="admitted or not, from two test scores and the rank of the school",
        examples="400",
    ),
    "mnist": Entry(
        lambda seed: idx.load("mnist", "mnist", _DIGITS),
        description="28x28 handwritten digits",
        examples=_SEVENTY_THOUSAND,
        licence="none stated by the publisher; CC BY-SA 3.0 is usually given",
        home="yann.lecun.com/exdb/mnist (Y. LeCun, C. Cortes, C. Burges)",
        folder="mnist",
        # The publisher's own page no longer serves the files; these are exact copies.
        urls=(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        files=_idx_files(
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion_mnist": Entry(
        lambda seed: idx.load("fashion_mnist", "fashion-mnist", _CLOTHES),
        description="28x28 images of ten kinds of clothing",
        examples=_SEVENTY_THOUSAND,
        licence="MIT",
        home="github.com/zalandoresearch/fashion-mnist (Zalando Research)",
        folder="fashion-mnist",
        urls=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        files=_idx_files(
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    "kmnist": Entry(
        lambda seed: idx.load("kmnist", "kmnist", _HIRAGANA),
        description="28x28 images of ten hiragana in cursive script",
        examples=_SEVENTY_THOUSAND,
        licence="CC BY-SA 4.0",
        home="codh.rois.ac.jp/kmnist (ROIS-DS Center for Open Data in the Humanities)",
        folder="kmnist",
        urls=("https://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        files=_idx_files(
            "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        ),
    ),
}
