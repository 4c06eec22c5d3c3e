"""Named data sets: bundled, generated, and found by `load`."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import sklearn.datasets

from ablax.data import Dataset, bundled, generated, load, split
from ablax.errors import UserError

BUNDLED = {
    "digits": ((1797, 8, 8), 10),
    "iris": ((150, 4), 3),
    "wine": ((178, 13), 3),
    "breast_cancer": ((569, 30), 2),
    "diabetes": ((442, 10), 0),
}
GENERATED = {
    "xor_clouds": lambda **kw: generated.xor(**({"n": 40} | kw)),
    "moons": generated.moons,
    "spirals": generated.spirals,
    "blobs": generated.blobs,
    "separable": generated.separable,
}


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_sets_are_those_of_sklearn(name):
    shape, classes = BUNDLED[name]
    data = load(name)
    loader = getattr(sklearn.datasets, f"load_{name}")
    bunch = loader(scaled=False) if name == "diabetes" else loader()
    assert (data.name, data.x.shape, len(data.classes)) == (name, shape, classes)
    scale = 16 if name == "digits" else 1
    np.testing.assert_allclose(data.x.reshape(len(data.x), -1), bunch.data / scale, rtol=1e-6)
    np.testing.assert_array_equal(data.y, bunch.target)
    assert data.feature_names == (() if name == "digits" else tuple(bunch.feature_names))
    assert data.scale_features == ("none" if name == "digits" else "standardize")


def test_class_names_fit_their_labels():
    assert bundled.breast_cancer().classes == ("malignant", "benign")
    assert np.bincount(bundled.breast_cancer().y).tolist() == [212, 357]
    assert bundled.diabetes().problem == "regression"


@pytest.mark.parametrize("name", GENERATED)
def test_generated_sets_are_seeded(name):
    make = GENERATED[name]
    first = make(seed=3)
    np.random.seed(2)  # noqa: NPY002 (the global state must not matter)
    again, other = make(seed=3), make(seed=4)
    assert first.x.tobytes() == again.x.tobytes()
    assert first.y.tobytes() == again.y.tobytes()
    assert first.x.tobytes() != other.x.tobytes()
    assert first.x.dtype == np.float32
    assert len(make(n=30).y) == 30
    counts = np.bincount(first.y)
    assert len(counts) == len(first.classes)
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("name", ["xor_clouds", "moons", "spirals", "blobs"])
def test_noise_is_used(name):
    make = GENERATED[name]
    assert make(noise=0.5, seed=0).x.tobytes() != make(noise=0.01, seed=0).x.tobytes()


def test_xor_clouds_surround_the_truth_table():
    data = generated.xor(400, noise=0.05)
    nearest = np.rint(data.x).astype(int)
    np.testing.assert_array_equal(nearest[:, 0] ^ nearest[:, 1], data.y)


@pytest.mark.parametrize("bits", [1, 2, 3, 5])
def test_parity_is_odd_where_an_odd_number_of_bits_is_set(bits):
    data = generated.parity(bits)
    numbers = range(2**bits)
    rows = [[2 * int(digit) - 1 for digit in f"{number:0{bits}b}"] for number in numbers]
    np.testing.assert_array_equal(data.x, rows)
    np.testing.assert_array_equal(data.y, [number.bit_count() % 2 for number in numbers])
    np.testing.assert_array_equal(data.test[0], data.x)
    np.testing.assert_array_equal(data.test[1], data.y)
    assert (data.name, data.scale_features) == (f"parity-{bits}", "none")


def test_the_parity_of_two_bits_is_xor():
    xor, parity = generated.xor(), generated.parity(2)
    np.testing.assert_array_equal((parity.x + 1) / 2, xor.x)
    np.testing.assert_array_equal(parity.y, xor.y)


def test_spirals_have_arms_at_their_angles():
    arms, turns = 3, 0.7
    data = generated.spirals(60, noise=0, arms=arms, turns=turns)
    t = np.linalg.norm(data.x, axis=1)
    turn = np.arctan2(data.x[:, 1], data.x[:, 0]) / (2 * np.pi)
    off = turn - turns * t - data.y / arms
    np.testing.assert_allclose(off, np.rint(off), atol=1e-5)


@pytest.mark.parametrize(("margin", "features", "seed"), [(0.5, 2, 0), (0.01, 5, 1), (3.0, 1, 2)])
def test_separable_clouds_keep_their_margin(margin, features, seed):
    data = generated.separable(300, margin=margin, features=features, seed=seed)
    w = np.random.default_rng(seed).normal(size=features)
    distance = data.x @ (w / np.linalg.norm(w)) * (2 * data.y - 1)
    assert margin * (1 - 1e-5) <= distance.min() < margin + 0.1
    assert data.scale_features == "none"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: generated.xor(3), "expected n of at least 4, got 3"),
        (lambda: generated.moons(n=1), "expected n of at least 2, got 1"),
        (lambda: generated.moons(noise=-0.1), "expected a finite noise of at least 0, got -0.1"),
        (lambda: generated.blobs(noise=float("nan")), "expected a finite noise"),
        (lambda: generated.blobs(seed=-1), "expected a seed from 0"),
        (lambda: generated.blobs(centers=1), "expected at least 2 centers"),
        (lambda: generated.spirals(arms=1), "expected arms of at least 2, got 1"),
        (lambda: generated.spirals(n=2, arms=3), "expected n of at least 3, got 2"),
        (lambda: generated.separable(margin=0), "expected margin > 0"),
        (lambda: generated.parity(0), "expected at least 1 bit, got 0"),
    ],
)
def test_generated_sets_refuse(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_load_passes_the_seed_on():
    assert load("moons", seed=5).x.tobytes() == generated.moons(seed=5).x.tobytes()
    assert load("xor").x.shape == (4, 2)
    assert load("xor_clouds").x.shape == (400, 2)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mnits", {}, "unknown data set 'mnits'; did you mean 'mnist'"),
        ("digits", {"target": "0"}, "digits: expected a target only for a .csv"),
        ("digits", {"problem": "regression"}, "digits: expected a problem only for a table"),
        ("some.xlsx", {}, "some.xlsx: expected a file ending in .csv, .tsv, .txt, .npz"),
        ("some/where", {}, "some/where: expected a file ending in"),
        ("gone.csv", {"target": "y"}, "gone.csv: expected a readable text file: No such file"),
        ("gone.npz", {}, "gone.npz: expected a readable .npz file"),
        ("gone.npz", {"target": "y"}, "gone.npz: expected a target only for"),
    ],
)
def test_load_refuses(name, arguments, message):
    with pytest.raises(UserError, match=message):
        load(name, **arguments)


@pytest.mark.parametrize(
    "fields",
    [
        {"x": np.zeros((3, 2))},
        {"y": np.zeros(3, np.float32)},
        {"y": np.zeros(2, np.int32)},
        {"classes": ()},
        {"test": (np.zeros((1, 2), np.float32), np.zeros(1))},
    ],
)
def test_dataset_checks_its_arrays(fields):
    good = {
        "name": "d",
        "x": np.zeros((3, 2), np.float32),
        "y": np.zeros(3, np.int32),
        "problem": "classification",
        "source": "",
        "classes": ("a",),
    }
    Dataset(**good)
    with pytest.raises(ValueError, match=r"^d: "):
        Dataset(**good | fields)


def test_importing_the_package_is_cheap():
    code = "import sys, ablax.data; print({'sklearn', 'pandas'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2] / "lib",
    )
    assert done.stdout.strip() == "set()"


def test_a_split_is_a_pytree_of_arrays():
    assert len(jax.tree.leaves(split(load("iris"), seed=0).train)) == 2
