"""Splits are disjoint, stratified, seeded, exhaustive, and scaled without the test split."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy import stats

from ablax.data import Dataset, generated, load, split
from ablax.data.splits import fingerprint
from ablax.errors import UserError


def numbered(counts, *, test_counts=None):
    """A data set whose only feature is the row's number; `counts` examples of each class."""
    y = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    test = None
    if test_counts:
        labels = np.repeat(np.arange(len(counts)), test_counts).astype(np.int32)
        test = (1000 + np.arange(len(labels), dtype=np.float32)[:, None], labels)
    return Dataset(
        name="numbered",
        x=np.arange(len(y), dtype=np.float32)[:, None],
        y=y,
        problem="classification",
        source="",
        classes=tuple("abcdefghij"[: len(counts)]),
        test=test,
        scale_features="none",
    )


def regression(y, x=None):
    y = np.asarray(y, np.float32)
    x = np.arange(len(y), dtype=np.float32)[:, None] if x is None else x
    return Dataset(name="line", x=x, y=y, problem="regression", source="")


def rows(part):
    return part.x[:, 0].astype(int).tolist()


@pytest.mark.parametrize(
    ("counts", "sizes", "expected"),
    [
        ((50, 50, 50), {}, (96, 24, 30)),
        ((50, 50, 50), {"test_size": 0}, (120, 30, 0)),
        ((50, 50, 50), {"valid_size": 0}, (120, 0, 30)),
        ((50, 50, 50), {"train_size": 20}, (20, 24, 30)),
        ((90, 9, 3), {"train_size": 34, "valid_size": 34, "test_size": 34}, (34, 34, 34)),
        ((7, 11, 13), {"valid_size": 5}, (20, 5, 6)),
    ],
)
def test_classification_split(counts, sizes, expected):
    data = numbered(counts)
    parts = split(data, **sizes, seed=0)
    pools = np.array(counts)
    for part, size in [
        (parts.test, expected[2]),
        (parts.valid, expected[1]),
        (parts.train, expected[0]),
    ]:
        assert len(part.x) == len(part.y) == size
        assert all(data.y[row] == label for row, label in zip(rows(part), part.y, strict=True))
        drawn = np.bincount(part.y, minlength=len(counts))
        assert np.all(np.abs(drawn - pools * size / pools.sum()) < 1)
        pools = pools - drawn
    drawn = rows(parts.train) + rows(parts.valid) + rows(parts.test)
    assert len(set(drawn)) == len(drawn) == sum(expected)
    assert f"unused {sum(counts) - len(drawn)}" in parts.notes[-1]
    assert parts.target_scale == 1.0


@pytest.mark.parametrize("test_size", [None, 0, 9])
def test_official_test_split_is_the_test_split(test_size):
    parts = split(numbered((30, 60), test_counts=(10, 20)), test_size=test_size, seed=0)
    drawn = rows(parts.test)
    size = 30 if test_size is None else test_size
    assert len(set(drawn)) == size
    assert all(row >= 1000 for row in drawn)
    assert np.bincount(parts.test.y, minlength=2).tolist() == [size // 3, 2 * size // 3]
    assert sorted(rows(parts.train) + rows(parts.valid)) == list(range(90))
    assert "(official)" in parts.notes[-1]


@pytest.mark.parametrize("name", ["iris", "diabetes", "digits"])
def test_same_seed_same_bytes(name):
    data = load(name)
    first = split(data, seed=1)
    np.random.seed(1)  # noqa: NPY002 (the global state must not matter)
    again, other = split(data, seed=1), split(data, seed=2)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    for one, two in zip(first.train, again.train, strict=True):
        assert one.tobytes() == two.tobytes()
    assert first.train.x.tobytes() != other.train.x.tobytes()


def test_a_split_is_not_in_the_order_of_the_file():
    labels = split(numbered((50, 50)), seed=0).train.y
    assert np.any(np.diff(labels) < 0)


def test_training_sets_of_several_sizes_share_the_rest_and_nest():
    data = numbered((100, 100))
    small, large = (split(data, train_size=size, seed=3) for size in (20, 80))
    assert rows(small.valid) == rows(large.valid)
    assert rows(small.test) == rows(large.test)
    assert set(rows(small.train)) < set(rows(large.train))


def test_features_are_standardized_by_all_that_is_not_test():
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(5, 3, 200), np.full(200, 0.1), rng.normal(0, 1e-3, 200)], axis=1)
    data = dataclasses.replace(
        numbered((100, 100)), x=x.astype(np.float32), scale_features="standardize"
    )
    raw = split(dataclasses.replace(data, scale_features="none"), seed=0)
    parts = split(data, seed=0)
    np.testing.assert_allclose(parts.pool.x.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(parts.pool.x.std(axis=0), [1, 0, 1], atol=1e-5)
    mean, std = raw.pool.x.mean(axis=0), raw.pool.x.std(axis=0)
    expected = (raw.test.x - mean)[:, [0, 2]] / std[[0, 2]]
    np.testing.assert_allclose(parts.test.x[:, [0, 2]], expected, atol=1e-4)
    assert np.all(np.abs(parts.test.x[:, 1]) < 1e-6)
    assert parts.train.x.dtype == np.float32


def test_regression_targets_are_in_units_of_their_deviation_over_the_pool():
    data = load("diabetes")
    parts = split(data, seed=0)
    assert parts.problem == "regression"
    np.testing.assert_allclose([parts.pool.y.mean(), parts.pool.y.std()], [0, 1], atol=1e-5)
    every = np.concatenate([parts.train.y, parts.valid.y, parts.test.y]) * parts.target_scale
    spread = np.sort(data.y) - data.y.min()
    np.testing.assert_allclose(np.sort(every) - every.min(), spread, atol=1e-3)
    assert abs(parts.test.y.mean()) > 1e-4  # scaled by the mean of the pool, not by its own


def test_constant_regression_target_keeps_its_unit():
    assert split(regression([2.0] * 20), seed=0).target_scale == 1.0


def test_the_truth_table_is_trained_on_whole():
    parts = split(generated.xor(), valid_size=0, seed=0)
    assert sorted(map(tuple, parts.train.x.tolist())) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert sorted(parts.test.x.tolist()) == sorted(parts.train.x.tolist())
    assert parts.valid.x.shape == (0, 2)


def test_fingerprint_sees_bytes_shapes_types_and_order():
    a, b = np.zeros(4, np.float32), np.ones(4, np.float32)
    prints = [
        fingerprint(arrays)
        for arrays in ([a], [b], [a, b], [b, a], [a.reshape(2, 2)], [a.astype(np.int32)])
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint([a.copy()]) == prints[0]
    assert len(prints[0]) == 16


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train_size": 150}, r"at most 120 \(150 examples less test 30\).*train 150 \+ valid 24"),
        ({"train_size": 100}, r"at most 120 .*train 100 \+ valid 24"),
        ({"valid_size": 120}, r"at least 1 in train, got train the rest \+ valid 120"),
        ({"test_size": 151}, r"at most 0 \(150 examples less test 151\)"),
        ({"train_size": 0}, "expected train_size to be a whole number of examples, at least 1"),
        ({"valid_size": -1}, "expected valid_size .* at least 0, got -1"),
        ({"test_size": 0.2}, "expected test_size .* got 0.2"),
        ({"train_size": 2}, "every class among the 2 training examples, got none of '[abc]'"),
        ({"seed": -1}, "expected a seed of at least 0, got -1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(UserError, match=f"^numbered: .*{message}"):
        split(numbered((50, 50, 50)), **{"seed": 0} | sizes)


def test_more_than_the_official_test_split_is_refused():
    with pytest.raises(UserError, match="at most 30, the official test split, got 31"):
        split(numbered((30, 60), test_counts=(10, 20)), test_size=31, seed=0)


# What restarts draw


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [((50, 50, 50), {}), ((7, 11, 113), {"train_size": 40}), ((20, 20), {"valid_size": 0})],
)
def test_a_draw_is_disjoint_and_in_proportion(counts, sizes):
    parts = split(numbered(counts), test_size=0, seed=0, **sizes)
    draws = [tuple(map(np.asarray, parts.draw(jax.random.key(key)))) for key in range(20)]
    for train, valid in draws:
        drawn = [*train.tolist(), *valid.tolist()]
        assert len(train) == parts.n_train
        assert len(valid) == parts.n_valid
        assert len(set(drawn)) == len(drawn)
        assert 0 <= min(drawn) <= max(drawn) < sum(counts)
        for rows, share in [(train, "train"), (valid, "valid")]:
            labels = np.bincount(parts.pool.y[rows], minlength=len(counts)).tolist()
            assert labels == [getattr(stratum, share) for stratum in parts.strata]
    if parts.n_train < sum(counts):
        assert len({tuple(sorted(train)) for train, _ in draws}) == 20


def test_every_example_is_drawn_equally_often():
    """Chi-square over 4,000 draws: of validation examples, and of pairs of them."""
    parts = split(numbered((30, 12)), test_size=0, valid_size=7, seed=0)
    keys = jax.random.split(jax.random.key(1), 4000)
    valid = np.asarray(jax.jit(jax.vmap(lambda key: parts.draw(key)[1]))(keys))
    inside = np.stack([np.bincount(rows, minlength=42) for rows in valid]).astype(float)
    for start, size, n, _ in parts.strata:
        drawn = inside[:, start : start + size]
        share = n / size
        # A row's indicators sum to n, so these are standardized with size − 1 free ones.
        z = (drawn.sum(0) - 4000 * share) / np.sqrt(4000 * share * (1 - share))
        assert stats.chi2.sf((z**2).sum() * (size - 1) / size, size - 1) > 1e-3
        pairs = (drawn.T @ drawn)[np.triu_indices(size, 1)]
        both = n * (n - 1) / (size * (size - 1))
        z = (pairs - 4000 * both) / np.sqrt(4000 * both * (1 - both))
        assert abs(z).max() < 4.5
        assert 0.7 < z.std() < 1.2


def test_a_draw_is_the_same_traced_and_vmapped():
    parts = split(load("iris"), seed=0)
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(parts.draw))(keys)
    for number, key in enumerate(keys):
        for one, many in zip(parts.draw(key), together, strict=True):
            np.testing.assert_array_equal(one, many[number])


def test_the_seed_of_the_splits_draws_their_own():
    parts = split(load("iris"), seed=5)
    rows = parts.draw(jax.random.key(5))
    for part, drawn in zip((parts.train, parts.valid), rows, strict=True):
        assert sorted(map(tuple, part.x)) == sorted(map(tuple, parts.pool.x[np.asarray(drawn)]))
