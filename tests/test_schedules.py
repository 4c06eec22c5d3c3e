"""Every schedule against a closed form and, where optax has it, against optax."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ablax import schedules
from ablax.errors import UserError
from ablax.schedules import SCHEDULES, schedule, uses, warmup

STEPS = 12
NS = np.arange(STEPS + 6)
HPARAMS = {"timescale": 3.0, "decay_rate": 0.4, "decay_steps": 5.0, "end_fraction": 0.25}

# The equations of the module's table, in NumPy float64: (n, steps, η₀, hparams) → η(n).
CLOSED_FORMS = {
    "constant": lambda n, N, init, h: init + 0.0 * n,
    "inverse_sqrt": lambda n, N, init, h: init / np.sqrt(1 + n / h["timescale"]),
    "step_decay": lambda n, N, init, h: init * h["decay_rate"] ** np.floor(n / h["decay_steps"]),
    "exponential": lambda n, N, init, h: init * h["decay_rate"] ** (n / h["decay_steps"]),
    "linear": lambda n, N, init, h: init * (1 - (1 - h["end_fraction"]) * np.minimum(n / N, 1)),
    "cosine": lambda n, N, init, h: (
        init
        * (
            h["end_fraction"]
            + (1 - h["end_fraction"]) * (1 + np.cos(np.pi * np.minimum(n / N, 1))) / 2
        )
    ),
}

# The same in optax, with Python numbers.
OPTAX = {
    "constant": lambda init, h: optax.constant_schedule(init),
    "step_decay": lambda init, h: optax.exponential_decay(
        init, int(h["decay_steps"]), h["decay_rate"], staircase=True
    ),
    "exponential": lambda init, h: optax.exponential_decay(
        init, int(h["decay_steps"]), h["decay_rate"]
    ),
    "linear": lambda init, h: optax.linear_schedule(init, init * h["end_fraction"], STEPS),
    "cosine": lambda init, h: optax.cosine_decay_schedule(init, STEPS, h["end_fraction"]),
}

names = pytest.mark.parametrize("name", SCHEDULES)


def curve(value, ns: Any = NS):
    return np.array([value(jnp.int32(n)) for n in ns])


@names
def test_equals_the_closed_form_before_at_and_beyond_the_horizon(name):
    value = schedule(name, 0.3, steps=STEPS, **HPARAMS)
    expected = CLOSED_FORMS[name](NS.astype(np.float64), STEPS, 0.3, HPARAMS)
    np.testing.assert_allclose(curve(value), expected, rtol=3e-6)


@pytest.mark.parametrize("name", OPTAX)
def test_equals_optax(name):
    with jax.numpy_dtype_promotion("standard"):
        expected = curve(OPTAX[name](0.3, HPARAMS))
    actual = curve(schedule(name, 0.3, steps=STEPS, **HPARAMS))
    np.testing.assert_allclose(actual, expected, rtol=3e-6)


@names
def test_is_a_float32_scalar_of_any_kind_of_step(name):
    value = schedule(name, 0.3, steps=STEPS, **HPARAMS)
    for step in (3, np.int32(3), jnp.int32(3)):
        assert value(step).shape == ()
        assert value(step).dtype == jnp.float32
        assert value(step) == value(3)


@names
def test_values_are_traced_one_compile_and_vmap_equals_loop(name):
    compiles = 0

    def rate(step, init, steps, warmup_steps, hparams):
        nonlocal compiles
        compiles += 1
        return schedule(name, init, steps=steps, warmup_steps=warmup_steps, **hparams)(step)

    n = 8
    args = (
        jnp.arange(n, dtype=jnp.int32) * 2,
        jnp.linspace(0.1, 1.0, n),
        jnp.arange(4, 4 + n, dtype=jnp.int32),
        jnp.array([0.0, 1.0, 2.0, 3.0] * 2),
        {key: value * jnp.linspace(0.5, 1.2, n) for key, value in HPARAMS.items()},
    )
    one = jax.jit(rate)
    loop = [one(*jax.tree.map(lambda x, i=i: x[i], args)) for i in range(n)]
    assert compiles == 1, f"{name} retraced for a new value"
    np.testing.assert_allclose(jax.vmap(rate)(*args), loop, rtol=1e-6)


@names
def test_starts_at_init(name):
    assert schedule(name, 0.3, steps=STEPS, **HPARAMS)(0) == jnp.float32(0.3)


@pytest.mark.parametrize(
    ("name", "off"),
    [
        ("inverse_sqrt", {"timescale": np.inf}),
        ("step_decay", {"decay_rate": 1.0, "decay_steps": 3}),
        ("exponential", {"decay_rate": 1.0, "decay_steps": 3}),
        ("linear", {"end_fraction": 1.0}),
        ("cosine", {"end_fraction": 1.0}),
    ],
)
def test_off_is_exactly_constant(name, off):
    assert (curve(schedule(name, 0.3, steps=STEPS, **off)) == np.float32(0.3)).all()


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 7, 41, 1000])
def test_the_end_is_the_end(name, steps):
    """41 · (1/41) < 1 in float32: a static horizon must not stop just short of the end."""
    value = jax.jit(schedule(name, 0.3, steps=steps, end_fraction=0.0))
    assert value(steps) == 0.0
    assert value(steps + 100) == 0.0
    assert value(steps - 1) > 0.0


def test_step_decay_drops_at_the_step_and_not_beside_it():
    period = 41
    value = jax.jit(schedules.step_decay(1.0, decay_rate=0.5, decay_steps=period))
    ns = np.arange(0, 20 * period)
    np.testing.assert_array_equal(
        jax.vmap(value)(jnp.asarray(ns, jnp.int32)), 0.5 ** (ns // period)
    )


def test_inverse_sqrt_is_the_notes_formula():
    t = np.arange(1, 101)
    actual = [schedules.inverse_sqrt(0.3)(step) for step in t - 1]
    np.testing.assert_allclose(actual, 0.3 / np.sqrt(t), rtol=1e-6)


@pytest.mark.parametrize("width", [1, 4])
def test_warmup_then_cosine_equals_optax(width):
    """Optax's total counts the warmup too, and its ramp begins at a given value."""
    peak = 0.3
    with jax.numpy_dtype_promotion("standard"):
        expected = curve(optax.warmup_cosine_decay_schedule(peak / (width + 1), peak, width, STEPS))
    actual = curve(schedule("cosine", peak, steps=STEPS, warmup_steps=width))
    np.testing.assert_allclose(actual, expected, rtol=3e-6, atol=1e-8)


@names
def test_no_warmup_is_exactly_off(name):
    values = {"steps": STEPS, **HPARAMS}
    value = SCHEDULES[name](0.3, **{key: values[key] for key in uses(name)})
    np.testing.assert_array_equal(curve(warmup(value, 0)), curve(value))


def test_warmup_rises_to_the_rate_and_then_starts_the_schedule():
    value = curve(warmup(schedules.linear(1.0, steps=4), 3), range(8))
    np.testing.assert_allclose(value, [0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0], rtol=1e-6)


@pytest.mark.parametrize("steps", [0, 2, 3])
@names
def test_a_warmup_as_long_as_the_run_stays_finite(name, steps):
    value = curve(schedule(name, 0.3, steps=steps, warmup_steps=3, **HPARAMS))
    assert np.isfinite(value).all()
    assert value[3] == np.float32(0.3)


def test_an_unknown_name_lists_the_names():
    with pytest.raises(UserError, match=r"unknown schedule 'cosin'; did you mean 'cosine'\?"):
        schedule("cosin", 0.1, steps=10)


def test_an_unknown_hparam_is_refused():
    with pytest.raises(TypeError, match="no schedule uses decay_rat"):
        schedule("constant", 0.1, steps=10, decay_rat=0.5)
    with pytest.raises(TypeError, match="decay_steps"):
        schedule("step_decay", 0.1, steps=10, decay_rate=0.5)
