"""Penalties, the max-norm projection and measures of weights, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ablax.penalties import elastic_net, l1, l2, l2_norm, max_norm, share_below, weights

rng = np.random.default_rng(0)
PARAMS = {
    "conv": {"bias": rng.normal(size=4), "kernel": rng.normal(size=(3, 3, 2, 4))},
    "norm": {"bias": rng.normal(size=4), "scale": rng.normal(size=4)},
    "out": {"kernel": rng.normal(size=(4, 5))},
}
KERNELS = np.concatenate([PARAMS["conv"]["kernel"].ravel(), PARAMS["out"]["kernel"].ravel()])
BIASES = np.concatenate([PARAMS["conv"]["bias"], PARAMS["norm"]["bias"]])
PARAMS32 = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), PARAMS)
PENALTIES = {
    "l1": (l1, lambda w: np.abs(w).sum(), np.sign),
    "l2": (l2, lambda w: (w**2).sum(), lambda w: 2 * w),
    "elastic_net": (
        lambda p, **kw: elastic_net(p, 0.3, 0.2, **kw),
        lambda w: 0.3 * np.abs(w).sum() + 0.2 * (w**2).sum(),
        lambda w: 0.3 * np.sign(w) + 0.4 * w,
    ),
}
EVERY = pytest.mark.parametrize("name", PENALTIES)


@EVERY
def test_value_is_the_float64_reference(name):
    penalty, reference, _ = PENALTIES[name]
    np.testing.assert_allclose(penalty(PARAMS32), reference(KERNELS), rtol=1e-5)
    np.testing.assert_allclose(
        penalty(PARAMS32, include_bias=True),
        reference(np.concatenate([KERNELS, BIASES])),
        rtol=1e-5,
    )


@EVERY
def test_gradient_is_the_documented_one_and_zero_off_the_weights(name):
    penalty, _, derivative = PENALTIES[name]
    gradient = jax.grad(penalty)(PARAMS32)
    for layer in ("conv", "out"):
        expected = derivative(PARAMS[layer]["kernel"])
        np.testing.assert_allclose(gradient[layer]["kernel"], expected, rtol=1e-5)
    assert (gradient["conv"]["bias"] == 0).all()
    assert (gradient["norm"]["scale"] == 0).all()


@EVERY
def test_gradient_agrees_with_finite_differences(name):
    with jax.enable_x64(True):
        check_grads(PENALTIES[name][0], (jax.tree.map(jnp.asarray, PARAMS),), order=1)


@EVERY
def test_gradient_at_zero_is_zero(name):
    gradient = jax.grad(PENALTIES[name][0])(jnp.asarray([0.0, -0.0]))
    assert gradient.tolist() == [0, 0]


@EVERY
def test_no_weights_cost_nothing(name):
    value = PENALTIES[name][0]({"bias": jnp.ones(2)})
    assert (value, value.dtype) == (0, jnp.float32)


def test_traced_strengths_together_are_the_loop():
    strengths = jnp.asarray([[0.0, 0.0], [0.1, 0.0], [0.0, 0.2], [0.3, 0.4]])
    together = jax.jit(jax.vmap(lambda s: elastic_net(PARAMS32, s[0], s[1])))(strengths)
    alone = [elastic_net(PARAMS32, float(a), float(b)) for a, b in strengths]
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    assert together[0] == 0


def test_weights_are_chosen_by_the_last_key():
    params = {"bias": {"kernel": jnp.ones(1)}, "scale": (jnp.ones(2),), "a": {"bias": jnp.ones(3)}}
    assert [w.shape for w in weights(params)] == [(1,), (2,)]
    assert [w.shape for w in weights(jnp.ones(4))] == [(4,)]


def _unit_norms(kernel):
    return np.sqrt((np.asarray(kernel, float) ** 2).sum(axis=tuple(range(kernel.ndim - 1))))


@pytest.mark.parametrize("limit", [0.0, 0.5, 1.5, 3.0])
def test_max_norm_is_the_projection(limit):
    """The nearest point of the ball: same direction, norm cut at the limit."""
    projected = max_norm(PARAMS32, limit)
    for layer in ("conv", "out"):
        kernel = PARAMS[layer]["kernel"]
        norms = _unit_norms(kernel)
        expected = kernel * np.minimum(1, limit / norms)
        np.testing.assert_allclose(projected[layer]["kernel"], expected, rtol=1e-5, atol=1e-7)
        assert (_unit_norms(projected[layer]["kernel"]) <= limit * (1 + 1e-6)).all()


@pytest.mark.parametrize("limit", [0.0, 0.5])
def test_max_norm_leaves_biases_and_scales(limit):
    projected = max_norm(PARAMS32, limit)
    for layer, leaf in (("conv", "bias"), ("norm", "bias"), ("norm", "scale")):
        assert (projected[layer][leaf] == PARAMS32[layer][leaf]).all()


def test_max_norm_at_infinity_is_off_to_the_bit():
    params = {**PARAMS32, "odd": jnp.asarray([[-0.0, 1e30, np.inf, 1e-40]])}
    projected = jax.jit(max_norm)(params, jnp.float32(np.inf))
    for before, after in zip(jax.tree.leaves(params), jax.tree.leaves(projected), strict=True):
        assert np.asarray(before).tobytes() == np.asarray(after).tobytes()


def test_max_norm_inside_the_ball_is_off_to_the_bit():
    kernel = jnp.asarray([[0.3, 3.0], [0.4, 4.0]])
    projected = max_norm(kernel, 1.0)
    assert (projected[:, 0] == kernel[:, 0]).all()
    assert (projected[:, 1] != kernel[:, 1]).all()


@pytest.mark.parametrize("limit", [0.0, 1.0, np.inf])
def test_max_norm_of_zero_is_zero(limit):
    assert (max_norm(jnp.zeros((3, 2)), limit) == 0).all()


def test_max_norm_of_one_axis_is_one_unit():
    np.testing.assert_allclose(max_norm(jnp.asarray([3.0, 4.0]), 1.0), [0.6, 0.8], rtol=1e-6)


def test_traced_limits_together_are_the_loop():
    limits = jnp.asarray([0.1, 1.0, np.inf])
    together = jax.jit(jax.vmap(max_norm, in_axes=(None, 0)))(PARAMS32, limits)
    for i, limit in enumerate(limits):
        alone = max_norm(PARAMS32, float(limit))
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-6)


def test_measures_are_the_reference_and_float32():
    np.testing.assert_allclose(l2_norm(PARAMS32), np.sqrt((KERNELS**2).sum()), rtol=1e-6)
    np.testing.assert_allclose(
        share_below(PARAMS32, jnp.float32(0.5)), (np.abs(KERNELS) < 0.5).mean(), rtol=1e-6
    )
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), PARAMS32)
    assert l2_norm(half).dtype == share_below(half, 0.5).dtype == jnp.float32


def test_share_below_is_strict():
    assert share_below(jnp.asarray([0.5, -0.5, 0.25, 1.0]), 0.5) == 0.25
    assert share_below(jnp.zeros(4), 0.0) == 0
