"""Every family × every property, and each family against its equations in NumPy float64."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ablax import penalties
from ablax.errors import UserError
from ablax.optimizers import OPTIMIZERS, optimizer, uses
from ablax.schedules import cosine, step_decay
from ablax.weights import weight_mask

families = pytest.mark.parametrize("name", OPTIMIZERS)

# Per family: learning rate and hparams for a quadratic, and a learning rate for Rosenbrock's
# valley. The families that step by about η sign(g) reach a minimum only as η falls to zero, so
# all run under a cosine schedule.
QUADRATIC = {
    "sgd": (0.15, {}),
    "momentum": (0.05, {"momentum": 0.8}),
    "nesterov": (0.05, {"momentum": 0.8}),
    "rmsprop": (0.05, {"b2": 0.9}),
    "adam": (0.1, {"momentum": 0.9, "b2": 0.999}),
    "adamw": (0.1, {"momentum": 0.9, "b2": 0.999, "weight_decay": 0.0}),
}
ROSENBROCK = {
    "sgd": 2e-3,
    "momentum": 5e-4,
    "nesterov": 5e-4,
    "rmsprop": 5e-3,
    "adam": 3e-2,
    "adamw": 3e-2,
}

START = {"kernel": jnp.array([2.0, -1.0]), "bias": jnp.array([1.5])}


def quadratic(w):
    return 0.5 * (w["kernel"][0] ** 2 + 10.0 * w["kernel"][1] ** 2 + w["bias"][0] ** 2)


def rosenbrock(w):
    x, y = w["kernel"]
    return (1.0 - x) ** 2 + 100.0 * (y - x**2) ** 2 + w["bias"][0] ** 2


def train(loss, make, n_steps, w: Any = START) -> Any:
    """The trajectory's end and the state's: the chain is built anew in every traced step."""

    def step(carry, _):
        w, state = carry
        tx = make()
        updates, state = tx.update(jax.grad(loss)(w), state, w)
        return (optax.apply_updates(w, updates), state), None

    return jax.lax.scan(step, (w, make().init(w)), None, length=n_steps)[0]


def updates_of(tx, grads, w=None):
    """The updates for a given sequence of gradients [n, ...] at fixed parameters."""
    w = jax.tree.map(lambda g: jnp.zeros_like(g[0]), grads) if w is None else w

    def step(state, g):
        updates, state = tx.update(g, state, w)
        return state, updates

    return jax.jit(lambda: jax.lax.scan(step, tx.init(w), grads)[1])()


def some_grads(n=20, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "kernel": jnp.float32(rng.normal(size=(n, 2))),
        "bias": jnp.float32(rng.normal(size=(n, 1))),
    }


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x).view(np.uint32), np.asarray(y).view(np.uint32))


# --- the table: every family has every property ------------------------------------------------


def test_every_family_is_in_the_table():
    assert OPTIMIZERS.keys() == QUADRATIC.keys() == ROSENBROCK.keys()


@families
def test_converges_on_a_quadratic(name):
    rate, hparams = QUADRATIC[name]
    schedule = cosine(rate, steps=400)
    w, state = jax.jit(
        lambda: train(quadratic, lambda: optimizer(name, schedule, **hparams), 400)
    )()
    assert quadratic(w) < 1e-6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@families
def test_converges_on_rosenbrock(name):
    n_steps = 10_000
    schedule = cosine(ROSENBROCK[name], steps=n_steps)
    make = partial(optimizer, name, schedule, **QUADRATIC[name][1])
    start = {"kernel": jnp.array([-1.2, 1.0]), "bias": jnp.array([1.0])}
    w, state = jax.jit(lambda: train(rosenbrock, make, n_steps, start))()
    assert rosenbrock(w) < 1e-3
    np.testing.assert_allclose(w["kernel"], [1.0, 1.0], atol=0.05)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def every_hparam(name, n):
    """n settings of every hparam at once, none of them a default."""
    ranges = {
        "learning_rate": (0.01, 0.1),
        "momentum": (0.0, 0.9),
        "b2": (0.9, 0.99),
        "eps": (1e-8, 1e-3),
        "weight_decay": (0.0, 0.1),
        "clip_norm": (0.5, 5.0),
    }
    used = uses(name) | {"learning_rate"}
    return {key: jnp.linspace(*ends, n) for key, ends in ranges.items() if key in used}


@families
def test_values_are_traced_one_compile_and_vmap_equals_loop(name):
    n, compiles = 6, 0

    def end(hparams):
        nonlocal compiles
        compiles += 1
        return train(quadratic, lambda: optimizer(name, **hparams), 20)

    settings = every_hparam(name, n)
    one = jax.jit(end)
    loop = [one(jax.tree.map(lambda v, i=i: v[i], settings)) for i in range(n)]
    assert compiles == 1, f"{name} retraced for a new value"
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *loop)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        jax.jit(jax.vmap(end))(settings),
        stacked,
    )


@families
@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtypes_are_kept(name, scheduled, dtype):
    """By update and state: a state of another dtype at the second step breaks a scan."""
    dtypes = partial(jax.tree.map, lambda leaf: leaf.dtype)
    w = jax.tree.map(lambda leaf: leaf.astype(dtype), START)
    hparams: dict[str, Any] = {key: value[1] for key, value in every_hparam(name, 3).items()}
    if scheduled:
        hparams["learning_rate"] = cosine(hparams["learning_rate"], steps=10)
    tx = optimizer(name, **hparams)
    updates, state = tx.update(w, tx.init(w), w)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(updates))
    assert dtypes(state) == dtypes(tx.init(w))
    assert all(leaf.dtype in (dtype, jnp.int32) for leaf in jax.tree.leaves(state))


@families
def test_no_clipping_and_no_decay_are_exactly_inf_and_zero(name):
    """The same updates to the bit, with inf and 0 as traced values.

    Of given gradients: a trajectory with the code and one without it are two programs, in which
    XLA may fuse, and so round, gradient, update and w + u differently.
    """
    without_decay = "adam" if name == "adamw" else name
    plain = updates_of(optimizer(without_decay, 0.05), some_grads(), START)
    for family, key, off in (
        (without_decay, "clip_norm", np.inf),
        (name, "weight_decay", 0.0),
    ):
        unchanged, changed = (
            updates_of(optimizer(family, 0.05, **{key: jnp.float32(v)}), some_grads(), START)
            for v in (off, 0.5)
        )
        assert_same_bits(unchanged, plain)
        assert not np.allclose(changed["kernel"], plain["kernel"])


@families
def test_decay_is_decoupled_and_spares_the_bias(name):
    """Whatever the family and its state: −η λ w on weights, at the rate of the step."""
    n, grads = 6, some_grads(6)
    rate = step_decay(0.5, decay_rate=0.5, decay_steps=2)
    with_decay = updates_of(optimizer(name, rate, weight_decay=0.25), grads, START)
    without = updates_of(optimizer(name, rate, weight_decay=0.0), grads, START)
    rates = 0.5 * 0.5 ** (np.arange(n) // 2)
    expected = -0.25 * rates[:, None] * np.asarray(START["kernel"])
    np.testing.assert_allclose(
        with_decay["kernel"] - without["kernel"], expected, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_array_equal(with_decay["bias"], without["bias"])


@families
def test_clipping_comes_before_the_family(name):
    grads = some_grads()
    norms = np.sqrt(sum(np.square(np.float64(g)).sum(axis=1) for g in grads.values()))
    bound = float(np.median(norms))
    clipped = {
        key: jnp.float32(g * np.minimum(1.0, bound / norms)[:, None]) for key, g in grads.items()
    }
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        updates_of(optimizer(name, 0.1, clip_norm=bound), grads, START),
        updates_of(optimizer(name, 0.1), clipped, START),
    )


# --- the equations -----------------------------------------------------------------------------


@pytest.mark.parametrize("scheduled", [False, True])
def test_momentum_is_the_weighted_sum_of_the_past_steps(scheduled):
    """The notes' step(n) + β step(n−1) + β² step(n−2) + …, to the bit.

    Powers of two and small integers, so that float32 makes no rounding error at all.
    """
    n, beta, rate = 8, 0.5, 0.25
    grads = jnp.array([[3.0], [-1.0], [2.0], [5.0], [-4.0], [1.0], [0.0], [7.0]])
    rates = rate * 0.5 ** (np.arange(n) // 3) if scheduled else np.full(n, rate)
    learning_rate = step_decay(rate, decay_rate=0.5, decay_steps=3) if scheduled else rate
    steps = -rates[:, None] * np.asarray(grads, np.float64)
    expected = [sum(beta**k * steps[i - k] for k in range(i + 1)) for i in range(n)]
    updates = updates_of(optimizer("momentum", learning_rate, momentum=beta), grads)
    np.testing.assert_array_equal(updates, expected)


def test_nesterov_is_the_gradient_at_the_look_ahead_point():
    """v ← β v − η ∇L(θ + β v), θ ← θ + v (Sutskever et al.), seen at w = θ + β v.

    With a rate that changes: only a velocity gathered from steps agrees then.
    """
    n, beta = 30, 0.8
    rates = 0.05 * 0.5 ** (np.arange(n) // 10)
    curvature = np.array([1.0, 10.0])
    theta, v = np.array([2.0, -1.0]), np.zeros(2)
    for rate in rates:
        v = beta * v - rate * curvature * (theta + beta * v)
        theta = theta + v

    def make():
        rate = step_decay(0.05, decay_rate=0.5, decay_steps=10)
        return optimizer("nesterov", rate, momentum=beta)

    w, _ = train(quadratic, make, n)
    np.testing.assert_allclose(w["kernel"], theta + beta * v, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["momentum", "nesterov"])
def test_no_momentum_is_sgd(name):
    grads = some_grads()
    assert_same_bits(
        updates_of(optimizer(name, 0.1, momentum=jnp.float32(0.0)), grads),
        updates_of(optimizer("sgd", 0.1), grads),
    )


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw"])
def test_agrees_with_optax_at_a_constant_rate(name):
    reference = {
        "sgd": lambda: optax.sgd(0.1),
        "momentum": lambda: optax.sgd(0.1, momentum=0.9),
        "nesterov": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
        "rmsprop": lambda: optax.rmsprop(0.1, decay=0.9, eps_in_sqrt=False),
        "adam": lambda: optax.adam(0.1),
        "adamw": lambda: optax.adamw(0.1, weight_decay=0.01, mask=weight_mask),
    }[name]
    with jax.numpy_dtype_promotion("standard"):
        expected = updates_of(reference(), some_grads(), START)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        updates_of(optimizer(name, 0.1), some_grads(), START),
        expected,
    )


@pytest.mark.parametrize("eps", [1e-8, 0.1])
def test_rmsprop_equals_its_equations(eps):
    rho, rate, r, expected = np.float64(np.float32(0.75)), 0.1, 0.0, []
    grads = some_grads()["kernel"]
    for g in np.asarray(grads, np.float64):
        r = rho * r + (1 - rho) * g**2
        expected.append(-rate * g / (np.sqrt(r) + eps))
    updates = updates_of(optimizer("rmsprop", rate, b2=jnp.float32(rho), eps=eps), grads)
    np.testing.assert_allclose(updates, expected, rtol=1e-5)


@pytest.mark.parametrize("eps", [1e-8, 0.1])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adam_and_adamw_equal_their_equations(eps, weight_decay):
    # As float32 holds them: 1 − β₂ of a rounded β₂ is another number already in its 5th digit.
    b1, b2 = np.float64(np.float32(0.8)), np.float64(np.float32(0.99))
    rate, m, r, expected = 0.1, 0.0, 0.0, []
    grads, w = some_grads()["kernel"], np.array([2.0, -1.0])
    for t, g in enumerate(np.asarray(grads, np.float64), start=1):
        m = b1 * m + (1 - b1) * g
        r = b2 * r + (1 - b2) * g**2
        m_hat, r_hat = m / (1 - b1**t), r / (1 - b2**t)
        expected.append(-rate * m_hat / (np.sqrt(r_hat) + eps) - rate * weight_decay * w)
    tx = optimizer(
        "adamw",
        rate,
        momentum=jnp.float32(b1),
        b2=jnp.float32(b2),
        eps=eps,
        weight_decay=weight_decay,
    )
    updates = updates_of(tx, grads, jnp.float32(w))
    np.testing.assert_allclose(updates, expected, rtol=1e-4, atol=1e-6)


# --- clipping and the rest ---------------------------------------------------------------------


@pytest.mark.parametrize("extreme", [1e30, np.inf, np.nan])
def test_clipping_at_inf_is_off_even_where_the_norm_is_not_finite(extreme):
    grads = {"kernel": jnp.array([[extreme, 1.0]]), "bias": jnp.array([[2.0]])}
    updates = updates_of(optimizer("sgd", 1.0, clip_norm=jnp.float32(np.inf)), grads)
    np.testing.assert_array_equal(updates["kernel"], -grads["kernel"])
    np.testing.assert_array_equal(updates["bias"], -grads["bias"])


def test_a_gradient_inside_the_bound_is_untouched_and_zero_is_no_division():
    for grads in (some_grads(), jax.tree.map(jnp.zeros_like, some_grads())):
        assert_same_bits(
            updates_of(optimizer("sgd", 0.1, clip_norm=100.0), grads),
            updates_of(optimizer("sgd", 0.1), grads),
        )


def test_without_clipping_no_norm_is_computed():
    def update(**clipping):
        tx = optimizer("momentum", 0.1, **clipping)
        return str(jax.make_jaxpr(lambda g: tx.update(g, tx.init(g), g))(START))

    assert "sqrt" not in update()
    assert "sqrt" in update(clip_norm=1.0)


def test_adamw_is_adam_with_decay():
    tx = optimizer("adam", 0.1, weight_decay=0.01)
    assert_same_bits(
        updates_of(optimizer("adamw", 0.1), some_grads(), START),
        updates_of(tx, some_grads(), START),
    )


def test_decay_and_penalties_mean_the_same_weights():
    layers = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3), "scale": jnp.ones(3)}
    params = {"hidden_0": layers, "embed": {"embedding": jnp.ones((5, 2))}}
    mask = weight_mask(params)
    masked = [w for w, m in zip(jax.tree.leaves(params), jax.tree.leaves(mask), strict=True) if m]
    assert [w.shape for w in masked] == [w.shape for w in penalties.weights(params)]
    assert weight_mask(jnp.ones(3)) is True


def test_hparams_that_a_family_does_not_use_change_nothing():
    assert uses("sgd") == {"weight_decay", "clip_norm"}
    assert_same_bits(
        updates_of(optimizer("sgd", 0.1, momentum=0.9, b2=0.9, eps=1.0), some_grads()),
        updates_of(optimizer("sgd", 0.1), some_grads()),
    )


def test_an_unknown_name_lists_the_names():
    with pytest.raises(UserError, match=r"unknown optimizer 'adm'; did you mean 'adam'\?"):
        optimizer("adm", 0.1)
