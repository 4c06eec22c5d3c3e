"""Learning-rate schedules that are data: every value in them may be a traced scalar.

A schedule is a function step → value, as in optax: step counts from 0, the value is a
float32 scalar. Optax's own schedules branch in Python on their step counts and rates, so a
sweep over these would compile one program per value; here `jnp.where` decides, and a new
rate, period, warmup or horizon compiles nothing.

| name         | value at step n, t = n + 1      | n ≥ steps  | keyword arguments          |
|--------------|---------------------------------|------------|----------------------------|
| constant     | η₀                              | η₀         |                            |
| inverse_sqrt | η₀ / √(1 + n/τ); τ = 1: η₀ / √t | goes on    | `timescale` τ              |
| step_decay   | η₀ γ^⌊n/T⌋                      | goes on    | `decay_rate`, `decay_steps`|
| exponential  | η₀ γ^(n/T)                      | goes on    | `decay_rate`, `decay_steps`|
| linear       | η₀ (1 − (1 − e) n/steps)        | η₀ e       | `steps`, `end_fraction` e  |
| cosine       | η₀ (e + (1 − e)(1 + cos(π n/steps))/2) | η₀ e | `steps`, `end_fraction` e |

Training of N steps sees n = 0 … N − 1; what a schedule reaches at its horizon N it reaches
after the last step.

>>> import optax
>>> value = warmup(cosine(0.1, steps=100), warmup_steps=4)
>>> [round(float(value(n)), 3) for n in (0, 3, 4, 54, 104, 1000)]
[0.02, 0.08, 0.1, 0.05, 0.0, 0.0]
>>> tx = optax.sgd(value)  # anything that takes an optax schedule takes these
"""

import inspect
from collections.abc import Callable

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ablax.errors import unknown

Step = ArrayLike  # an integer scalar; optax's own type, so that its chains take our schedules
Count = Int[Array, ""] | Float[Array, ""] | int | float
Scalar = Float[Array, ""] | float
Schedule = Callable[[Step], Float[Array, ""]]


def _float(x: ArrayLike) -> Float[Array, ""]:
    return jnp.asarray(x).astype(jnp.float32)


def _count(x: ArrayLike) -> Int[Array, ""]:
    """A number of steps as int32: hparams arrive as float32, step counters as integers."""
    return jnp.asarray(x).astype(jnp.int32)


def _progress(step: Step, steps: Count) -> Float[Array, ""]:
    """The fraction n/steps of the horizon that is over, 1 at its end and beyond."""
    n, horizon = _count(step), jnp.maximum(_count(steps), 1)
    # XLA divides by a constant as a product with its reciprocal: 41 · (1/41) < 1. The end must
    # be the end whether the horizon is traced or not.
    return jnp.where(n >= horizon, 1.0, _float(n) / _float(horizon))


def constant(init: Scalar) -> Schedule:
    """η(n) = η₀.

    >>> float(constant(0.5)(7))
    0.5
    """
    return lambda step: _float(init)


def inverse_sqrt(init: Scalar, *, timescale: Scalar = 1.0) -> Schedule:
    """η(n) = η₀ / √(1 + n/τ): larger steps early, finer ones later.

    With τ = 1 this is η₀ / √t for the t-th step, t = n + 1 = 1, 2, …; a larger τ (in steps)
    begins the decay later. Has no horizon. τ = inf is exactly constant.

    Source: course notes, "Learning Rate Scheduling"; Robbins–Monro step sizes.

    >>> [round(float(inverse_sqrt(1.0)(n)), 4) for n in (0, 3, 99)]
    [1.0, 0.5, 0.1]
    """
    return lambda step: _float(init) / jnp.sqrt(1.0 + _float(step) / _float(timescale))


def step_decay(init: Scalar, *, decay_rate: Scalar, decay_steps: Count) -> Schedule:
    """η(n) = η₀ γ^⌊n/T⌋: multiplied by γ = `decay_rate` after every T = `decay_steps` steps.

    Has no horizon. γ = 1 is exactly constant; T is a whole number, at least 1.

    Source: He et al. 2016, "Deep residual learning" (γ = 0.1).

    >>> [round(float(step_decay(1.0, decay_rate=0.1, decay_steps=10)(n)), 4) for n in (9, 10, 29)]
    [1.0, 0.1, 0.01]
    """

    def value(step: Step) -> Float[Array, ""]:
        # Integer division: a rounded quotient would drop the rate a step late (see `_progress`).
        drops = _count(step) // jnp.maximum(_count(decay_steps), 1)
        return _float(init) * _float(decay_rate) ** _float(drops)

    return value


def exponential(init: Scalar, *, decay_rate: Scalar, decay_steps: Scalar) -> Schedule:
    """η(n) = η₀ γ^(n/T): `step_decay` without the stairs.

    Has no horizon; with T = `steps`, γ is the fraction left at the end. γ = 1 is exactly
    constant.

    >>> [round(float(exponential(1.0, decay_rate=0.01, decay_steps=10)(n)), 4) for n in (5, 10)]
    [0.1, 0.01]
    """
    return lambda step: _float(init) * _float(decay_rate) ** (_float(step) / _float(decay_steps))


def linear(init: Scalar, *, steps: Count, end_fraction: Scalar = 0.0) -> Schedule:
    """η(n) = η₀ (1 − (1 − e) n/N) for n < N = `steps`, and η₀ e from N on.

    e = `end_fraction`: 0 ends at zero, 1 is exactly constant.

    >>> [round(float(linear(1.0, steps=4)(n)), 4) for n in (0, 1, 4, 9)]
    [1.0, 0.75, 0.0, 0.0]
    """

    def value(step: Step) -> Float[Array, ""]:
        return _float(init) * (1.0 - (1.0 - _float(end_fraction)) * _progress(step, steps))

    return value


def cosine(init: Scalar, *, steps: Count, end_fraction: Scalar = 0.0) -> Schedule:
    """η(n) = η₀ (1 − (1 − e)(1 − cos(π n/N))/2) for n < N = `steps`, and η₀ e from N on.

    e = `end_fraction`: 0 ends at zero, 1 is exactly constant.

    Source: Loshchilov and Hutter 2017, "SGDR", one period.

    >>> [round(float(cosine(1.0, steps=4)(n)), 4) for n in (0, 1, 2, 4, 9)]
    [1.0, 0.8536, 0.5, 0.0, 0.0]
    """

    def value(step: Step) -> Float[Array, ""]:
        fallen = 0.5 * (1.0 - jnp.cos(jnp.pi * _progress(step, steps)))
        return _float(init) * (1.0 - (1.0 - _float(end_fraction)) * fallen)

    return value


def warmup(schedule: Schedule, warmup_steps: Count) -> Schedule:
    """A linear ramp over W = `warmup_steps` steps, and then the schedule from its beginning.

        n < W:  η(0) (n + 1) / (W + 1)        n ≥ W:  η(n − W)

    The first step is not wasted on a rate of zero, step W is the first at the full rate, and
    W = 0 is exactly off. The schedule is delayed by W: to end at N give it a horizon of N − W,
    as `schedule` does.

    >>> [round(float(warmup(constant(1.0), 3)(n)), 4) for n in (0, 1, 2, 3, 4)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def value(step: Step) -> Float[Array, ""]:
        n, width = _count(step), _count(warmup_steps)
        ramp = jnp.where(n < width, _float(n + 1) / _float(width + 1), 1.0)
        return schedule(jnp.maximum(n - width, 0)) * ramp

    return value


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "inverse_sqrt": inverse_sqrt,
    "step_decay": step_decay,
    "exponential": exponential,
    "linear": linear,
    "cosine": cosine,
}


def uses(name: str) -> frozenset[str]:
    """The keyword arguments that mean something to the named schedule.

    Raises:
        UserError: the name is not in `SCHEDULES`.

    >>> sorted(uses("step_decay"))
    ['decay_rate', 'decay_steps']
    """
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    parameters = inspect.signature(SCHEDULES[name]).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def schedule(
    name: str, init: Scalar, *, steps: Count, warmup_steps: Count = 0, **hparams: Scalar | Count
) -> Schedule:
    """The schedule of this name, after a warmup, ending at `steps`.

    One Config serves every schedule, so `hparams` may hold more than the named one uses
    (`uses` says what it does); a name that no schedule uses is a defect of the caller.

    Args:
        name: one of `SCHEDULES`; static.
        init: η₀, the rate before any decay.
        steps: the horizon of the whole run, warmup included.
        warmup_steps: see `warmup`; 0 is exactly off.
        **hparams: `timescale`, `decay_rate`, `decay_steps`, `end_fraction`, each a scalar.

    Raises:
        UserError: the name is not in `SCHEDULES`.
        TypeError: an hparam that no schedule uses, or one missing that this one needs.

    >>> rate = schedule("linear", 1.0, steps=10, warmup_steps=1, end_fraction=0.5, decay_rate=0.1)
    >>> [round(float(rate(n)), 4) for n in (0, 1, 10)]
    [0.5, 1.0, 0.5]
    """
    used = uses(name)
    stray = hparams.keys() - set().union(*map(uses, SCHEDULES))
    if stray:
        raise TypeError(f"no schedule uses {', '.join(sorted(stray))}")
    left = _count(steps) - _count(warmup_steps)
    known = {"steps": left, **hparams}
    family = SCHEDULES[name]
    return warmup(family(init, **{key: known[key] for key in used & known.keys()}), warmup_steps)
