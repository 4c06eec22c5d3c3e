"""The order in which the rows of an epoch are visited, without storing it.

A stored permutation costs memory and a sort per trial and epoch. Here the row at a position
is computed from the position: a keyed Feistel network is a bijection whatever its round
function, and needs only integer arithmetic on the positions of one minibatch.

The network works on pairs of digits, row = left · b + right with left < a and right < b,
adding a hash of one digit to the other modulo a or b (the generalized Feistel cipher of
J. Black and P. Rogaway, Ciphers with arbitrary finite domains, CT-RSA 2002). a and b are
chosen so that a · b is n or hardly more; a value that lands at n or above is sent through
the network again until it is below n (their cycle walking), which keeps the bijection.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, UInt32

_GOLDEN = 0x9E3779B9  # 2³² divided by the golden ratio: spreads consecutive numbers
_MAX_ROWS = 2**30


def epoch_rows(
    key: Key[Array, ""], step: Int[Array, ""], batch_size: int, n: int
) -> Int[Array, "{batch_size}"]:
    """The int32 rows of minibatch `step`: each of `n` rows exactly once per epoch.

    Position p = step · batch_size + i belongs to epoch p // n and is its (p mod n)-th row.
    A batch may thus straddle epochs, and no row is dropped where `batch_size` does not divide
    `n`. Exact for every step below 2³¹; epochs count modulo 2³². A batch of all rows is in
    natural order, because its sum does not depend on the order.

    >>> key = jax.random.key(0)
    >>> rows = [epoch_rows(key, jnp.int32(step), 2, 6) for step in range(3)]
    >>> sorted(jnp.concatenate(rows).tolist())
    [0, 1, 2, 3, 4, 5]

    Raises `ValueError` unless n · batch_size < 2³² and n ≤ 2³⁰.
    """
    if batch_size < 1 or n < 1 or n > _MAX_ROWS or n * batch_size >= 2**32:
        raise ValueError(
            f"expected batch_size >= 1, 1 <= n <= 2**30 and n * batch_size < 2**32, "
            f"got batch_size {batch_size} and n {n}"
        )
    if batch_size == n:
        return jnp.arange(n, dtype=jnp.int32)
    # n steps are batch_size epochs exactly, so the remainder keeps the product below 2³².
    cycle, step_in_cycle = jnp.divmod(step.astype(jnp.uint32), jnp.uint32(n))
    start = step_in_cycle * jnp.uint32(batch_size) + jnp.arange(batch_size, dtype=jnp.uint32)
    epoch = cycle * jnp.uint32(batch_size) + start // jnp.uint32(n)
    words = _epoch_words(jax.random.key_data(key), epoch)
    rows = permute(words, start % jnp.uint32(n), n)
    # The rows are below n already. The remainder is for the compiler: an operation that XLA
    # holds for expensive is not fused into the gather that uses it, where all of the above
    # would be computed anew for every feature of a row (a quarter of a small network's step).
    # By a power of two it would be a cheap mask, so then it is by the next number.
    power_of_two = n & (n - 1) == 0
    return (rows % jnp.uint32(n + power_of_two)).astype(jnp.int32)


def shuffled(
    key: Key[Array, ""], numbers: np.ndarray, positions: np.ndarray, n: np.ndarray
) -> Int[Array, " rows"]:
    """The int32 rows at some positions of random orders: of order `numbers`, of `n` rows, each.

    All three are as long as the result, and known when the program is compiled.

    >>> numbers, positions = np.repeat([0, 1], [4, 2]), np.array([0, 1, 2, 3, 0, 1])
    >>> rows = shuffled(jax.random.key(0), numbers, positions, np.repeat([4, 2], [4, 2]))
    >>> sorted(rows[:4].tolist()), sorted(rows[4:].tolist())
    ([0, 1, 2, 3], [0, 1])
    """
    words = _epoch_words(jax.random.key_data(key), jnp.asarray(numbers, jnp.uint32))
    return permute(words, jnp.asarray(positions, jnp.uint32), np.asarray(n)).astype(jnp.int32)


def permute(
    words: Sequence[UInt32[Array, "..."]],
    positions: UInt32[Array, "..."],
    n: int | np.ndarray,
) -> UInt32[Array, "..."]:
    """The row at each of the `positions` < n of the permutation that two key `words` name.

    A bijection on [0, n) for any words. Words and n are scalars, or one per position.

    >>> words = jnp.uint32(7), jnp.uint32(8)
    >>> sorted(permute(words, jnp.arange(5, dtype=jnp.uint32), 5).tolist())
    [0, 1, 2, 3, 4]
    """
    sizes = [_radices(int(size)) for size in np.ravel(n)]
    radices = np.array(sizes).reshape(*np.shape(n), 2).T
    rounds = _rounds(int(np.min(n, initial=_MAX_ROWS)))
    size = jnp.asarray(n, jnp.uint32)
    rows = _network(words, positions, radices, rounds)
    if np.all(radices[0] * radices[1] == n):
        return rows
    return jax.lax.while_loop(
        lambda rows: jnp.any(rows >= size),
        lambda rows: jnp.where(rows < size, rows, _network(words, rows, radices, rounds)),
        rows,
    )


def _network(
    words: Sequence[UInt32[Array, "..."]],
    values: UInt32[Array, "..."],
    radices: np.ndarray,
    rounds: int,
) -> UInt32[Array, "..."]:
    a, b = (jnp.asarray(radix, jnp.uint32) for radix in radices)
    left, right = values // b, values % b
    for number in range(0, rounds, 2):
        left = _add(left, right, _round_word(words[0], number), a)
        right = _add(right, left, _round_word(words[1], number + 1), b)
    return left * b + right


def _rounds(n: int) -> int:
    """How many rounds make the order pass chi-square tests of pairs of rows.

    With 100,000 epochs, 8 rounds pass from n = 100 on; the tiny digits of a small n need more
    (at n = 5, where all 120 orders were counted, 12 rounds fail and 16 pass).
    """
    return 8 if n >= 100 else 16


@functools.cache
def _radices(n: int) -> tuple[int, int]:
    """Two numbers of like size whose product is n or the least more (lopsided ones mix badly).

    >>> _radices(300), _radices(5), _radices(1797)
    ((15, 20), (3, 2), (31, 58))
    """
    if n < 3:
        return 1, n
    root = math.isqrt(n - 1) + 1
    candidates = range(root, max(2, root * 2 // 3) - 1, -1)
    return min(((a, -(-n // a)) for a in candidates), key=math.prod)


@jax.jit  # traced once, and not in every round of every order
def _add(digit, other, word, radix) -> UInt32[Array, "..."]:
    """(digit + hash of the other digit) mod radix, without a division."""
    high = _mix((other * jnp.uint32(_GOLDEN)) ^ word) >> jnp.uint32(16)
    # high · radix < 2³², since radix < 2¹⁶; its bias is at most radix / 2¹⁶.
    total = digit + ((high * radix) >> jnp.uint32(16))
    return jnp.where(total < radix, total, total - radix)


def _round_word(word, number: int) -> UInt32[Array, "..."]:
    return word + jnp.uint32((_GOLDEN * (number + 1)) % 2**32)


def _epoch_words(key_words, epoch) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    """Two hash words of (key, epoch), of the epoch's shape."""
    first = _mix(key_words[0] + epoch * jnp.uint32(_GOLDEN))
    return first, _mix(key_words[1] ^ first)


def _mix(x) -> UInt32[Array, "..."]:
    """A bijective 32-bit hash (two multiplications; constants of C. Wellons, hash-prospector)."""
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> jnp.uint32(15))) * jnp.uint32(0x735A2D97)
    return x ^ (x >> jnp.uint32(15))
