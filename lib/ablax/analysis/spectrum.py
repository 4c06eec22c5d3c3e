"""Eigenvalues of symmetric matrices and operators, in operations that every device has.

`jnp.linalg.eigh` and `svd` call LAPACK on a CPU, whose batched form deadlocks when several devices
of one process are in it at once (jax 0.10.2, 640 matrices of 13 × 13 on two devices): a vmapped,
sharded program must not use them. What is here is slower and only for small matrices, or for
operators of which a few dozen products are enough.

Sources: Golub and Van Loan, Matrix Computations (2013), sections 8.5 (Jacobi) and 10.1 (Lanczos);
Golub and Meurant 1994 for the quadrature.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key


class Spectrum(NamedTuple):
    """Eigenvalues in ascending order; column i of `vectors` belongs to value i."""

    values: Float[Array, " n"]
    vectors: Float[Array, "n n"]


def eigenvalues(matrix: Float[Array, "n n"], sweeps: int = 10) -> Spectrum:
    """Eigenvalues of a small symmetric matrix, by Jacobi's rotations.

    Each sweep sets every off-diagonal pair to 0 once; they converge quadratically, and ten sweeps
    leave nothing above rounding for n up to a hundred.

    >>> spectrum = eigenvalues(jnp.array([[2.0, 1.0], [1.0, 2.0]]))
    >>> print(spectrum.values.round(4))
    [1. 3.]
    """
    n = len(matrix)
    if n == 1:
        return Spectrum(matrix[0], jnp.ones_like(matrix))
    size = jnp.abs(matrix).max()  # so that no square over- or underflows
    size = jnp.where(size > 0, size, 1.0)
    pairs = jnp.asarray(np.stack(np.triu_indices(n, 1)), jnp.int32)

    def rotate(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        a, v = state
        p, q = pairs[:, i % pairs.shape[1]]
        off, gap = a[p, q], a[q, q] - a[p, p]
        # tan of the angle, the smaller root of t² + t·gap/off − 1 = 0, without dividing by off.
        t = 2 * off * jnp.where(gap < 0, -1.0, 1.0)
        t = t / jnp.maximum(jnp.abs(gap) + jnp.sqrt(gap**2 + 4 * off**2), 1e-30)
        c = 1 / jnp.sqrt(1 + t**2)
        s = t * c
        rows = jnp.stack([c * a[p] - s * a[q], s * a[p] + c * a[q]])
        a = a.at[p].set(rows[0]).at[q].set(rows[1])
        columns = c * a[:, p] - s * a[:, q], s * a[:, p] + c * a[:, q]
        a = a.at[:, p].set(columns[0]).at[:, q].set(columns[1])
        turned = c * v[:, p] - s * v[:, q], s * v[:, p] + c * v[:, q]
        return a, v.at[:, p].set(turned[0]).at[:, q].set(turned[1])

    start = matrix / size, jnp.eye(n, dtype=matrix.dtype)
    a, v = jax.lax.fori_loop(0, sweeps * pairs.shape[1], rotate, start)
    order = jnp.argsort(jnp.diagonal(a))
    return Spectrum(size * jnp.diagonal(a)[order], v[:, order])


Carry = tuple[Array, Array, Array]


def lanczos(
    product: Callable[[Float[Array, " n"]], Float[Array, " n"]],
    start: Float[Array, " n"],
    steps: int,
) -> Float[Array, "k k"]:
    """The tridiagonal matrix of a symmetric operator in the Krylov space of `start`.

    Its eigenvalues come near the operator's, the extreme ones first. Where that space has fewer
    than k dimensions, the rows and columns beyond them are 0.

    Args:
        product: v -> A v.
        start: any vector that is not 0.
        steps: k, at most n.

    >>> a = jnp.diag(jnp.array([1.0, 2.0, 5.0]))
    >>> print(eigenvalues(lanczos(lambda v: a @ v, jnp.ones(3), 3)).values.round(3))
    [1. 2. 5.]
    """
    n = len(start)

    def step(state: Carry, i: Array) -> tuple[Carry, tuple[Array, Array]]:
        basis, v, size = state
        basis = basis.at[i].set(v)
        w = product(v)
        size = jnp.maximum(size, jnp.linalg.norm(w))  # of the operator, as far as it is seen
        alpha = w @ v
        for _ in range(2):  # once is not orthogonal enough in float32
            w = w - basis.T @ (basis @ w)
        length = jnp.linalg.norm(w)
        left = length > 1e-5 * size  # else only rounding is
        following = jnp.where(left, w / jnp.where(left, length, 1.0), 0.0)
        return (basis, following, size), (alpha, jnp.where(left, length, 0.0))

    first = start / jnp.linalg.norm(start)
    state = jnp.zeros((steps, n)), first, jnp.float32(0)
    _, (alphas, betas) = jax.lax.scan(step, state, jnp.arange(steps, dtype=jnp.int32))
    return jnp.diag(alphas) + jnp.diag(betas[:-1], 1) + jnp.diag(betas[:-1], -1)


def mean_of(
    f: Callable[[Array], Array],
    product: Callable[[Float[Array, " n"]], Float[Array, " n"]],
    n: int,
    key: Key[Array, ""],
    *,
    steps: int = 40,
    probes: int = 4,
) -> Float[Array, ""]:
    """The mean of f over the eigenvalues of a symmetric operator, estimated: tr f(A) / n.

    Gauss quadrature from `steps` Lanczos steps, averaged over random probes of ±1. Unbiased but for
    the quadrature; one estimate of four probes is off by some percent at n of some hundreds.

    >>> a = jnp.diag(jnp.linspace(0.0, 1.0, 300))
    >>> mean = mean_of(jnp.square, lambda v: a @ v, 300, jax.random.key(0))
    >>> abs(float(mean) - 1 / 3) < 0.03
    True
    """

    def probe(key: Array) -> Array:
        signs = jax.random.rademacher(key, (n,), jnp.float32)
        eigen = eigenvalues(lanczos(product, signs, min(steps, n)))
        weights = jnp.square(eigen.vectors[0])
        return jnp.where(weights > 0, f(eigen.values) * weights, 0.0).sum()

    return jax.lax.map(probe, jax.random.split(key, probes)).mean()
