"""How evenly weights share their norm: against NumPy in float64, at every size of the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ablax.penalties import participation_ratio, top_share

RNG = np.random.default_rng(0)
SAMPLES = {
    "normal": RNG.normal(size=(40, 25)),
    "heavy tails": RNG.standard_t(1.5, size=(40, 25)),
    "mostly zero": RNG.normal(size=(40, 25)) * (RNG.random((40, 25)) < 0.05),
    "one": RNG.normal(size=(1, 1)),
    "three": RNG.normal(size=(3, 1)),
}
SHARES = (0.01, 0.1, 0.5, 1.0)
EVERY = pytest.mark.parametrize("name", SAMPLES)


def participating(w: np.ndarray) -> float:
    squares = np.square(w, dtype=np.float64).ravel()
    return squares.sum() ** 2 / squares.size / (squares**2).sum()


def carried(w: np.ndarray, share: float) -> float:
    squares = np.sort(np.square(w, dtype=np.float64).ravel())[::-1]
    n = max(1, round(share * squares.size))
    return squares[:n].sum() / squares.sum()


def measures(params) -> np.ndarray:
    return np.array(
        [participation_ratio(params), *(top_share(params, share) for share in SHARES)], float
    )


def reference(w: np.ndarray) -> np.ndarray:
    return np.array([participating(w), *(carried(w, share) for share in SHARES)])


def kernel(w: np.ndarray) -> dict[str, jax.Array]:
    return {"kernel": jnp.asarray(w, jnp.float32)}


@EVERY
def test_value_is_the_float64_reference(name):
    np.testing.assert_allclose(measures(kernel(SAMPLES[name])), reference(SAMPLES[name]), rtol=1e-5)


@EVERY
def test_the_values_are_shares(name):
    n = SAMPLES[name].size
    ratio, *tops = measures(kernel(SAMPLES[name]))
    assert 1 / n * (1 - 1e-6) <= ratio <= 1 + 1e-6
    assert (np.diff(tops) > -1e-6).all()
    for share, top in zip(SHARES, tops, strict=True):
        assert max(1, round(share * n)) / n * (1 - 1e-5) <= top <= 1 + 1e-6


@pytest.mark.parametrize("factor", [-1.0, 2.0**-10, 1e-3, 1e3, 2.0**20])
@EVERY
def test_a_factor_on_all_weights_changes_nothing(name, factor):
    w = SAMPLES[name]
    np.testing.assert_allclose(measures(kernel(factor * w)), measures(kernel(w)), rtol=1e-5)


@pytest.mark.parametrize("size", [1e-18, 1e-19, 1e-20, 1e-30, 1e18, 1e19, 1e20, 1e30])
@EVERY
def test_squares_that_float32_does_not_hold_are_no_harm(name, size):
    """L1 and L2 leave weights of 1e-20, whose squares are 0 in float32."""
    w = np.clip(SAMPLES[name], -10, 10)
    np.testing.assert_allclose(measures(kernel(size * w)), reference(w), rtol=1e-5)


def test_tiny_weights_beside_usual_ones_count_as_zero():
    w = np.array([3.0, -1.0, 1e-20, 1e-30])
    np.testing.assert_allclose(measures(kernel(w)), reference(np.array([3.0, -1, 0, 0])), rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 10, 1000])
def test_weights_of_one_size_all_take_part(n):
    w = np.where(np.arange(n) % 2, 0.3, -0.3)
    assert participation_ratio(kernel(w)) == pytest.approx(1, rel=1e-6)
    for share in SHARES:
        expected = max(1, round(share * n)) / n
        assert top_share(kernel(w), share) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n", [1, 2, 10, 1000])
@pytest.mark.parametrize("value", [0.3, -1e-20, 1e20])
def test_one_weight_that_is_not_zero_carries_all(n, value):
    w = np.zeros(n)
    w[n // 2] = value
    assert participation_ratio(kernel(w)) == pytest.approx(1 / n, rel=1e-6)
    assert all(top_share(kernel(w), share) == 1 for share in SHARES)


def test_of_no_weight_but_zeros_there_is_nothing_to_share():
    assert np.isnan(measures(kernel(np.zeros(5)))).all()


@EVERY
def test_neither_order_nor_leaves_matter(name):
    w = SAMPLES[name]
    shuffled = RNG.permutation(w.ravel())
    np.testing.assert_allclose(measures(kernel(shuffled)), measures(kernel(w)), rtol=1e-6)
    half = w.size // 2
    layers = {"a": kernel(shuffled[half:]), "b": {"weight": jnp.asarray(shuffled[:half], "f4")}}
    np.testing.assert_allclose(measures(layers), measures(kernel(w)), rtol=1e-6)


def test_biases_and_scales_are_no_weights():
    params = kernel(SAMPLES["normal"])
    others = {"bias": jnp.full(7, 100.0), "scale": jnp.full(3, 100.0)}
    assert measures(params | others).tolist() == measures(params).tolist()


def test_measures_are_float32_and_the_same_under_jit_and_vmap():
    half = {"kernel": jnp.asarray(SAMPLES["normal"], jnp.bfloat16)}
    assert participation_ratio(half).dtype == top_share(half, 0.1).dtype == jnp.float32
    stacked = jnp.asarray(RNG.normal(size=(4, 50)), jnp.float32)
    for measure in (participation_ratio, lambda params: top_share(params, 0.1)):
        together = jax.jit(jax.vmap(measure))({"kernel": stacked})
        alone = [measure({"kernel": row}) for row in stacked]
        np.testing.assert_allclose(together, alone, rtol=1e-6)
