"""Every activation × every property; a new entry of ACTIVATIONS must bring its reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import special

from ablax.errors import UserError
from ablax.nn.activations import ACTIVATIONS, activation, log_softmax, sigmoid, softmax, step

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
REFERENCE = {
    "identity": lambda x: x,
    "step": lambda x: np.where(x >= 0, 1.0, 0.0),
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x >= 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "selu": lambda x: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x * special.expit(x),
    "softplus": lambda x: np.logaddexp(0, x),
}
DERIVATIVE = {
    "identity": np.ones_like,
    "step": np.zeros_like,
    "sigmoid": lambda x: special.expit(x) * (1 - special.expit(x)),
    "tanh": lambda x: 1 - np.tanh(x) ** 2,
    "relu": lambda x: np.where(x > 0, 1.0, 0.0),
    "leaky_relu": lambda x: np.where(x >= 0, 1.0, 0.01),
    "elu": lambda x: np.where(x > 0, 1.0, np.exp(np.minimum(x, 0))),
    "silu": lambda x: special.expit(x) * (1 + x * (1 - special.expit(x))),
    "softplus": special.expit,
}
EVERY = pytest.mark.parametrize("name", ACTIVATIONS)
X = np.concatenate([np.linspace(-8, 8, 161), [-1e4, -50.0, 50.0, 1e4]])  # 0 is among them


@EVERY
def test_value_is_the_float64_reference(name):
    x = X.astype(np.float32)
    expected = REFERENCE[name](x.astype(np.float64))
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(x)), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", DERIVATIVE)
def test_derivative_is_the_documented_one(name):
    x = X.astype(np.float32)
    gradient = jax.vmap(jax.grad(ACTIVATIONS[name]))(jnp.asarray(x))
    expected = DERIVATIVE[name](x.astype(np.float64))
    np.testing.assert_allclose(gradient, expected, rtol=2e-5, atol=2e-6)


@EVERY
def test_gradient_agrees_with_finite_differences(name):
    with jax.enable_x64(True):
        x = jnp.asarray([-3.0, -1.1, -0.2, 0.3, 0.9, 4.0])  # clear of the kinks at 0
        check_grads(ACTIVATIONS[name], (x,), order=1, modes=["fwd", "rev"])


@EVERY
def test_finite_with_finite_gradient_at_extremes(name):
    x = jnp.asarray([-1e4, -100.0, -0.0, 0.0, 100.0, 1e4])
    assert jnp.isfinite(ACTIVATIONS[name](x)).all()
    assert jnp.isfinite(jax.vmap(jax.grad(ACTIVATIONS[name]))(x)).all()


@EVERY
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_keeps_shape_and_dtype(name, dtype):
    y = ACTIVATIONS[name](jnp.ones((2, 3), dtype))
    assert (y.shape, y.dtype) == ((2, 3), dtype)


@EVERY
def test_jit_of_vmap_is_the_loop(name):
    x = jnp.linspace(-2, 2, 12).reshape(3, 4)
    together = jax.jit(jax.vmap(ACTIVATIONS[name]))(x)
    np.testing.assert_allclose(together, [ACTIVATIONS[name](row) for row in x], rtol=1e-6)


def test_step_is_one_on_the_line():
    assert step(jnp.asarray([-1e-30, -0.0, 0.0, 1e-30])).tolist() == [0, 1, 1, 1]


def test_sigmoid_of_the_notes_backpropagation_example():
    assert round(float(sigmoid(jnp.float32(-0.02))), 3) == 0.495


def test_softmax_and_log_softmax_are_scipys():
    z = np.array([[1.0, 2.0, -3.0], [1e4, -1e4, 9999.0], [0.0, 0.0, 0.0]])
    z32 = jnp.asarray(z, jnp.float32)
    np.testing.assert_allclose(softmax(z32), special.softmax(z, axis=-1), rtol=1e-6)
    np.testing.assert_allclose(log_softmax(z32), special.log_softmax(z, axis=-1), rtol=1e-6)
    np.testing.assert_allclose(softmax(z32).sum(-1), np.ones(3), rtol=1e-6)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="unknown activation 'rleu'; did you mean 'relu'"):
        activation("rleu")
