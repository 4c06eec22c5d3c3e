"""Shares of units and sizes of gradients: NumPy's in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from ablax.analysis.units import gradient_sizes, shares
from ablax.nn import MLP

FUNCTIONS = {  # (f, f')
    "sigmoid": (expit, lambda z: expit(z) * (1 - expit(z))),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: np.float64(z > 0)),
    "gelu": (lambda z: z * norm.cdf(z), lambda z: norm.cdf(z) + z * norm.pdf(z)),
}


def drawn(widths: tuple[int, ...], scale: float, shift: float):
    """(parameters, examples): rows, columns and layers are all unlike."""
    rng = np.random.default_rng(0)
    sizes = [5, *widths, 3]
    names = [*(f"hidden_{i}" for i in range(len(widths))), "output"]
    params = {
        name: {"weight": scale * rng.normal(size=(n, m)), "bias": shift + rng.normal(size=n)}
        for name, m, n in zip(names, sizes[:-1], sizes[1:], strict=True)
    }
    return params, rng.normal(size=(11, 5))


@pytest.mark.parametrize("widths", [(8,), (8, 8, 8)])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (3.0, -4.0), (0.3, 1.0)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_shares_are_those_of_numpy(name, scale, shift, widths):
    """GELU's slope is near 0 where it turns: there flat and off are two things.

    Far below 0 single precision rounds GELU to 0, which is then counted.
    """
    f, slope = FUNCTIONS[name]
    params, x = drawn(widths, scale, shift)
    h, z = x, []
    for layer in list(params.values())[:-1]:
        z.append(h @ layer["weight"].T + layer["bias"])
        h = f(z[-1])
    z = np.stack(z)  # [layers, examples, units]
    expected = {
        "flat": (np.abs(slope(z)) < 0.05).mean(),
        "off": (z < 0).all(axis=1).mean(),
        "zeros": (f(z) == 0).mean(),
    }
    single = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), params)
    measured = shares(MLP(widths, 3, name), single, jnp.asarray(x, jnp.float32), 0.05)
    assert list(measured) == list(expected)
    if name == "gelu":
        assert (z < -6).mean() <= measured["zeros"] <= (z < -4).mean()
        expected.pop("zeros")
    for key, value in expected.items():
        atol = 2.5 / z.size  # one number in hundreds may lie at a bound
        np.testing.assert_allclose(measured[key], value, atol=atol, err_msg=key)


def test_a_slope_is_flat_below_the_bound_and_a_unit_off_below_0_only():
    one = {"weight": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
    params, model = {"hidden_0": one, "output": one}, MLP((1,), 1, "relu")
    at_zero = shares(model, params, jnp.zeros((4, 1)), 0.005)
    assert (at_zero["off"], at_zero["zeros"]) == (0, 1)
    for bound, flat in [(1.0, 0.0), (1.001, 1.0)]:
        assert shares(model, params, jnp.ones((4, 1)), bound)["flat"] == flat


def test_gradient_sizes_are_root_mean_squares_from_below():
    """Also where there are more layers than one digit counts, which JAX sorts as words."""
    params, _ = drawn((4, 7, *[3] * 10), 2.0, 0.0)
    gradient = jax.tree.map(jnp.asarray, params)
    assert list(gradient)[:3] == ["hidden_0", "hidden_1", "hidden_10"]
    sizes = gradient_sizes(gradient)
    assert list(sizes) == [f"gradient_{i}" for i in range(13)]
    expected = [np.sqrt(np.square(layer["weight"]).mean()) for layer in params.values()]
    np.testing.assert_allclose(list(sizes.values()), expected, rtol=1e-6)
