"""Dropout with a traced rate, cheap on a CPU and exact in expectation.

    y = x · m / p,   m = 1 with probability p, else 0;   p = 1 − rate

("inverted" dropout, Srivastava et al. 2014, section 10): E[y] = x, so nothing is rescaled
when the network is evaluated, and evaluation simply leaves dropout out.

Random bits are most of dropout's cost, so the mask is drawn from 16 of them per element: an
integer below k = round(p · 65536) keeps the element. 32 bits cost about a third more; 8 bits
would save a quarter, but their p is wrong by up to 1/512, which at rate 0.9 scales the
expectation by 1.016. What remains of that error at 16 bits is removed: x is divided by the
*realized* keep probability k/65536, so the expectation is x at every rate. The realized p
differs from the asked one by at most 2⁻¹⁷ (above rate 1 − 2⁻¹⁷, where k stays 1, by 2⁻¹⁶).

The bits come from the threefry hash in counter mode, all 64 of each block. `jax.random.bits`
keeps 16 of these 64, so that large arrays can be sharded, which one trial's mask never is.
Per step and lane, mask, scaling and gradient on 16 vmapped lanes of [64, 32], one CPU device:
3.6 µs (min of 40; 8.6 by `jax.random.bits`, 0.8 for the same loop without dropout).

>>> print(dropout(jax.random.key(0), jnp.ones((2, 4)), 0.5))
[[2. 2. 2. 0.]
 [0. 2. 0. 2.]]
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Float, Key, UInt16

Scalar = Float[Array, ""] | float

_LEVELS = 2**16


def keep_probability(rate: Scalar) -> Float[Array, ""]:
    """The realized keep probability k/65536, k = round((1 − rate) · 65536) and at least 1.

    Exact in float32; 1 at rate 0.

    >>> print(keep_probability(0.0), keep_probability(0.5), keep_probability(0.9) * 65536)
    1.0 0.5 6554.0
    """
    level = jnp.round((1.0 - jnp.asarray(rate, jnp.float32)) * _LEVELS)
    return jnp.maximum(level, 1.0) / _LEVELS


def _bits(key: Key[Array, ""], shape: tuple[int, ...]) -> UInt16[Array, "..."]:
    """Independent uniform 16-bit integers; both halves of every threefry word are used."""
    size = math.prod(shape)
    counter = jax.lax.iota(jnp.uint32, -(-size // 2))
    words = threefry_2x32(jax.random.key_data(key), counter)
    halves = jnp.concatenate([words, words >> 16]).astype(jnp.uint16)  # a cast keeps the low half
    return halves[:size].reshape(shape)


def dropout(key: Key[Array, ""], x: Float[Array, "*shape"], rate: Scalar) -> Float[Array, "*shape"]:
    """Zero each element with probability `rate` and divide the others by 1 − rate.

    (Exactly: by `keep_probability(rate)`, the probability with which they were kept.)

    Args:
        key: threefry (JAX's default). Use it for this mask alone: what else is derived from
            it would share its counters.
        x: any shape and float dtype, which the result keeps.
        rate: the probability of being *dropped*, in [0, 1); the course notes' p is the keep
            probability 1 − rate. Usually traced: a new rate compiles nothing. 0 returns x to
            the bit. The range is the caller's to check, before anything is compiled.

    >>> y = dropout(jax.random.key(0), jnp.ones(10_000), 0.75)
    >>> sorted(set(y.tolist())), round(float((y == 0).mean()), 2)
    ([0.0, 4.0], 0.75)
    """
    keep = keep_probability(rate)
    # k itself may be 65536, which 16 bits cannot hold; k − 1 always fits.
    last_kept = (keep * _LEVELS - 1.0).astype(jnp.uint16)
    # x / 1 is x but for subnormal numbers, which XLA flushes to 0.
    scaled = jnp.where(keep < 1.0, x / keep.astype(x.dtype), x)
    return jnp.where(_bits(key, x.shape) <= last_kept, scaled, 0.0)


def gaussian_noise(
    key: Key[Array, ""], x: Float[Array, "*shape"], rate: Scalar
) -> Float[Array, "*shape"]:
    """x · (1 + √(rate / (1 − rate)) ε) with ε standard normal: dropout's mean and variance.

    Nothing is ever zero. Arguments as for `dropout`; 0 returns x to the bit.

    Source: Srivastava et al. 2014, section 10.

    >>> y = gaussian_noise(jax.random.key(0), jnp.ones(100_000), 0.5)
    >>> round(float(y.mean()), 1), round(float(y.std()), 1)
    (1.0, 1.0)
    """
    rate = jnp.asarray(rate, x.dtype)
    deviation = jnp.sqrt(rate / (1.0 - rate))
    noisy = x * (1.0 + deviation * jax.random.normal(key, x.shape, x.dtype))
    return jnp.where(rate > 0, noisy, x)  # XLA flushes subnormal products to 0


NOISES: dict[str, Callable[..., Array]] = {"bernoulli": dropout, "gaussian": gaussian_noise}
"""Noise that multiplies a unit in training, by its distribution."""


def mean_gain(
    scores: Callable[..., Float[Array, "*b o"]],
    rate: Float[Array, ""] | float,
    key: Key[Array, ""],
    features: tuple[int, ...],
    *,
    examples: int = 256,
    draws: int = 64,
) -> Float[Array, ""]:
    """Slope of a network's mean score with dropout over its score without, at random inputs.

    Σ E[s_dropout]·s / Σ s², over standard normal inputs and all outputs: 1 where dividing by the
    keep probability keeps the mean (Srivastava et al. 2014, section 10), as it does exactly for one
    hidden layer.

    Args:
        scores: (x) -> scores without dropout; (x, rate, rngs={"dropout": key}) -> with it.
        rate: of dropout.
        key: of the inputs and of the masks.
        features: shape of one example.
        examples: random inputs.
        draws: masks that the mean is over.
    """
    key, masks = jax.random.split(key)
    x = jax.random.normal(key, (examples, *features))
    clean = jnp.asarray(scores(x))
    dropped = jax.lax.map(
        lambda mask: scores(x, rate, rngs={"dropout": mask}), jax.random.split(masks, draws)
    )
    return (dropped.mean(axis=0) * clean).sum() / jnp.square(clean).sum()


def agreement(
    scores: Callable[..., Any],
    rates: tuple[Scalar, ...],
    key: Key[Array, ""],
    features: tuple[int, ...],
    *,
    examples: int = 256,
    draws: int = 64,
) -> Float[Array, ""]:
    """Share of random inputs at which one pass predicts the class that dropped-out networks do.

    argmax s(x) = argmax Σₘ softmax(s(x; m)), over inputs uniform in [0, 1] and masks m: evaluation
    without dropout as the average of the networks that dropout trains (Srivastava et al. 2014,
    section 7.5). 1 at rate 0.

    Args:
        scores: (x) -> scores [examples, classes] without dropout; with it,
            (x, *rates, rngs={"dropout": key}) -> as many.
        rates: of dropout, in the order in which `scores` takes them.
        key: of the inputs and of the masks.
        features: shape of one example.
        examples: random inputs.
        draws: masks that the average is over; the examples share each.

    >>> def linear(x, rate=0.0, rngs=None):  # its mean over the masks is its one pass
    ...     return x if rngs is None else dropout(rngs["dropout"], x, rate)
    >>> for rate in (0.0, 0.1, 0.75):
    ...     print(f"{agreement(linear, (rate,), jax.random.key(0), (3,)):.2f}")
    1.00
    0.95
    0.79
    """
    keys = jax.random.split(key, draws + 1)
    x = jax.random.uniform(keys[0], (examples, *features))

    def dropped(mask: Array) -> Array:
        return jax.nn.softmax(jnp.asarray(scores(x, *rates, rngs={"dropout": mask})))

    average = jax.lax.map(dropped, keys[1:]).mean(axis=0)
    alone = jnp.asarray(scores(x))
    return (jnp.argmax(average, axis=-1) == jnp.argmax(alone, axis=-1)).mean()


def drop_spread(
    key: Key[Array, ""], rate: Scalar, *, units: int = 4096, masks: int = 500
) -> Float[Array, ""]:
    """Variance over units of how often each is dropped, over that of fair, independent draws.

    Var(nᵤ) / (M q (1 − q)), with nᵤ the number of M masks that drop unit u and q the realized
    probability: 1 up to chance if all units are treated alike (the binomial variance), more if
    some are dropped more often, less if they take turns. NaN at rate 0.

    Args:
        key: of the masks.
        rate: of dropout.
        units: in a mask; the variance over n of them is known to √(2/n), 2% for 4096.
        masks: M.

    >>> bool(abs(drop_spread(jax.random.key(0), 0.5) - 1) < 0.1)
    True
    """
    drops = dropout(key, jnp.ones((masks, units)), rate) == 0
    q = 1 - keep_probability(rate)
    return drops.sum(axis=0, dtype=jnp.float32).var(ddof=1) / (masks * q * (1 - q))
