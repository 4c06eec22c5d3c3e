"""The linear model, and how its weights start."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ablax.errors import UserError
from ablax.nn.initializers import INITIALIZERS, initializer, scale_weights
from ablax.nn.linear import Linear

N_IN, N_OUT = 300, 200

VARIANCES = {
    "zeros": 0.0,
    "normal": 1.0,
    "glorot_uniform": 2 / (N_IN + N_OUT),
    "glorot_normal": 2 / (N_IN + N_OUT),
    "he_uniform": 2 / N_IN,
    "he_normal": 2 / N_IN,
    "lecun_uniform": 1 / N_IN,
    "lecun_normal": 1 / N_IN,
}


def test_forward_is_x_times_w_plus_b():
    rng = np.random.default_rng(0)
    x, w, b = rng.normal(size=(7, 2, 3)), rng.normal(size=(6, 4)), rng.normal(size=4)
    params = {"output": {"weight": jnp.float32(w).T, "bias": jnp.float32(b)}}
    z: Any = Linear(n_outputs=4).apply({"params": params}, jnp.float32(x))
    np.testing.assert_allclose(z, x.reshape(7, 6) @ w + b, rtol=1e-5, atol=1e-5)


def test_starts_unbiased_and_reproducibly():
    def init(seed) -> Any:
        return Linear(3).init(jax.random.key(seed), jnp.ones((1, 5)))["params"]["output"]

    np.testing.assert_array_equal(init(0)["bias"], np.zeros(3))
    np.testing.assert_array_equal(init(0)["weight"], init(0)["weight"])
    assert (init(0)["weight"] != init(1)["weight"]).all()


def test_no_examples_are_no_scores():
    variables = Linear(3).init(jax.random.key(0), jnp.ones((1, 5)))
    z: Any = Linear(3).apply(variables, jnp.ones((0, 5)))
    assert z.shape == (0, 3)


def test_every_initializer_has_a_variance_here():
    assert VARIANCES.keys() == INITIALIZERS.keys()


@pytest.mark.parametrize("name", INITIALIZERS)
def test_weights_have_mean_zero_and_the_variance_of_the_formula(name):
    w = np.asarray(initializer(name)(jax.random.key(0), (N_IN, N_OUT), jnp.float32), np.float64)
    variance = VARIANCES[name]
    # Of n draws the mean has standard error σ/√n, and the mean of squares at most σ²√(2/n)
    # (kurtosis at most the normal's). Five of them: a false alarm in a million.
    assert abs(w.mean()) <= 5 * np.sqrt(variance / w.size)
    assert abs((w**2).mean() - variance) <= 5 * variance * np.sqrt(2 / w.size)


@pytest.mark.parametrize("name", [name for name in INITIALIZERS if name.endswith("_uniform")])
def test_uniform_weights_fill_their_interval(name):
    w = initializer(name)(jax.random.key(0), (N_IN, N_OUT), jnp.float32)
    bound = np.sqrt(3 * VARIANCES[name])
    assert 0.99 * bound < np.abs(w).max() <= bound * (1 + 1e-6)


def test_scale_multiplies_weights_and_nothing_else():
    params = {
        "hidden_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
        "norm": {"scale": jnp.ones(3), "bias": jnp.ones(3)},
        "embed": {"embedding": jnp.ones((5, 2))},
    }
    scaled = jax.jit(scale_weights)(params, 0.25)
    assert jax.tree.map(lambda w: float(w.mean()), scaled) == {
        "hidden_0": {"kernel": 0.25, "bias": 1.0},
        "norm": {"scale": 1.0, "bias": 1.0},
        "embed": {"embedding": 0.25},
    }


def test_scaled_standard_normal_is_normal_of_that_scale():
    model = Linear(N_OUT, kernel_init="normal")
    params = model.init(jax.random.key(0), jnp.ones((1, N_IN)))["params"]
    sigmas = jnp.array([0.0, 0.01, 1.0])
    kernels = jax.vmap(lambda sigma: scale_weights(params, sigma))(sigmas)["output"]["weight"]
    np.testing.assert_allclose(kernels.std(axis=(1, 2)), sigmas, rtol=0.02)
    np.testing.assert_array_equal(kernels[2], params["output"]["weight"])


def test_an_unknown_initializer_lists_the_names():
    with pytest.raises(UserError, match="unknown initializer 'he_norml'; did you mean 'he_normal'"):
        Linear(3, kernel_init="he_norml").init(jax.random.key(0), jnp.ones((1, 5)))
