"""Eigenvalues without LAPACK: against NumPy's in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ablax.analysis.spectrum import eigenvalues, lanczos, mean_of

# Each compiled once for every size.
solved = jax.jit(eigenvalues, static_argnames="sweeps")


@partial(jax.jit, static_argnames="k")
def tridiagonal(a, start, k):
    return lanczos(lambda v: a @ v, start, k)


@partial(jax.jit, static_argnames=("f", "steps", "probes"))
def estimated(f, a, key, steps, probes=4):
    return mean_of(f, lambda v: a @ v, len(a), key, steps=steps, probes=probes)


def single(a):
    return jnp.asarray(a, jnp.float32)


def random_symmetric(n, seed=0):
    a = np.random.default_rng(seed).normal(size=(n, n))
    return (a + a.T) / 2


def with_spectrum(values, seed=0):
    """A dense matrix with these eigenvalues."""
    values = np.asarray(values, float)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values),) * 2))
    return (q * values) @ q.T


def assert_spectrum(spectrum, a):
    """Ascending values near NumPy's, and orthonormal vectors that belong to them."""
    n, size = len(a), max(np.abs(a).max(), 1e-30)
    values, vectors = (np.asarray(part, np.float64) for part in spectrum)
    assert (values.shape, vectors.shape) == ((n,), (n, n))
    assert (np.diff(values) >= 0).all()
    tolerance = 2e-6 * n * size
    np.testing.assert_allclose(values, np.linalg.eigvalsh(a), rtol=0, atol=tolerance)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(n), atol=1e-5)
    # A v = λ v, which holds whatever basis of an eigenspace came out.
    np.testing.assert_allclose(a @ vectors, vectors * values, rtol=0, atol=3 * tolerance)


MATRICES = {
    **{f"{n} × {n}": random_symmetric(n) for n in (1, 2, 3, 4, 5, 8, 13, 21, 40)},
    "zero": np.zeros((5, 5)),
    "identity": 3 * np.eye(6),
    "diagonal, unsorted": np.diag([3.0, -1.0, 2.0, 0.0, -7.0]),
    "one of one": np.array([[-2.5]]),
    "no diagonal": np.ones((4, 4)) - np.eye(4),
    "all ones": np.ones((7, 7)),
    "repeated, dense": with_spectrum([1, 1, 1, 4, 4, -2, -2, -2]),
    "nearly repeated": with_spectrum([1, 1 + 1e-6, 1 - 1e-6, 2]),
    "of rank one": np.outer(np.arange(1, 9), np.arange(1, 9)) / 10,
    "ill-conditioned": with_spectrum(10.0 ** -np.arange(10)),
    "of far sizes": np.diag([1e6, 1.0, 1e-6]) + 1e-3 * random_symmetric(3),
    "equal diagonal": np.array([[1.0, 1e-4], [1e-4, 1.0]]),
    "negative": -with_spectrum([1, 2, 3, 4, 5]),
    "tiny": 1e-12 * random_symmetric(6),
    "huge": 1e12 * random_symmetric(6),
    "block": np.kron(np.eye(3), random_symmetric(4)),
    "second differences": 2 * np.eye(30) - np.eye(30, k=1) - np.eye(30, k=-1),
}


@pytest.mark.parametrize("name", MATRICES)
def test_values_and_vectors_are_numpys(name):
    a = MATRICES[name]
    assert_spectrum(solved(single(a)), np.asarray(single(a), np.float64))


def test_small_eigenvalues_of_a_graded_diagonal_are_kept():
    result = solved(single(np.diag([1e-6, 1e6, 1.0])))
    np.testing.assert_allclose(result.values, [1e-6, 1.0, 1e6], rtol=1e-6)


def test_vmapped_is_the_loop():
    many = np.stack([random_symmetric(7, seed) for seed in range(20)])
    many[3], many[4] = 0, np.eye(7)
    together = jax.jit(jax.vmap(eigenvalues))(single(many))
    for i, a in enumerate(many):
        values, vectors = together.values[i], together.vectors[i]
        assert_spectrum((values, vectors), np.asarray(single(a), np.float64))
        np.testing.assert_allclose(values, solved(single(a)).values, atol=1e-5)


def test_more_sweeps_change_nothing_and_one_is_too_few():
    a = single(random_symmetric(13))
    few, usual, many = (solved(a, sweeps=n).values for n in (1, 10, 20))
    np.testing.assert_allclose(usual, many, atol=1e-5)
    assert np.abs(few - many).max() > 1e-3


# What it is for


PROGRAMS = {
    "eigenvalues": lambda a: eigenvalues(a).values,
    "lanczos": lambda a: lanczos(lambda v: a @ v, jnp.ones(len(a)), 4),
    "mean_of": lambda a: mean_of(jnp.square, lambda v: a @ v, len(a), jax.random.key(0), steps=4),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("vmapped", [False, True])
def test_no_program_calls_lapack(name, vmapped):
    function = jax.vmap(PROGRAMS[name]) if vmapped else PROGRAMS[name]
    text = jax.jit(function).lower(jnp.ones((3, 6, 6)) if vmapped else jnp.ones((6, 6))).as_text()
    assert "lapack" not in text
    assert "custom_call" not in text


def test_what_is_avoided_would_be_seen():
    text = jax.jit(jnp.linalg.eigvalsh).lower(jnp.ones((6, 6))).as_text()
    assert "lapack" in text
    assert "custom_call" in text


# Lanczos


def krylov(a, k, seed=0):
    start = single(np.random.default_rng(seed + 1).normal(size=len(a)))
    return np.asarray(tridiagonal(single(a), start, k), np.float64)


def by_hand(a, start, k):
    """Qᵀ A Q for the orthonormal basis Q of the Krylov space, in float64."""
    columns = [start]
    for _ in range(k - 1):
        columns.append(a @ columns[-1])
        columns[-1] /= np.linalg.norm(columns[-1])
    q, _ = np.linalg.qr(np.stack(columns, axis=1))
    return q.T @ a @ q


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_matrix_is_the_operators_in_the_krylov_space(k):
    a = random_symmetric(12)
    start = np.random.default_rng(1).normal(size=12)
    t, expected = krylov(a, k), by_hand(a, start, k)
    assert t.shape == (k, k)
    np.testing.assert_array_equal(t, t.T)
    np.testing.assert_array_equal(t, np.triu(np.tril(t, 1), -1))
    np.testing.assert_allclose(np.diag(t), np.diag(expected), atol=1e-4)
    # Their signs are free; these are the positive ones.
    np.testing.assert_allclose(np.diag(t, 1), np.abs(np.diag(expected, 1)), atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 12, 25, 40])
def test_as_many_steps_as_dimensions_give_every_eigenvalue(n):
    a = random_symmetric(n)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(krylov(a, n)), np.linalg.eigvalsh(a), atol=1e-5 * max(n, 5)
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_extreme_eigenvalues_come_first(seed):
    a = with_spectrum([-20.0, *np.linspace(0, 1, 198), 30.0], seed)
    result = np.linalg.eigvalsh(krylov(a, 20, seed))
    np.testing.assert_allclose(result[[0, -1]], [-20, 30], rtol=1e-4)
    # No value of a subspace is outside the operator's range, and more steps reach further.
    assert result[0] >= -20 - 1e-3
    assert result[-1] <= 30 + 1e-3
    few = np.linalg.eigvalsh(krylov(a, 2, seed))
    assert few[-1] < result[-1]
    assert few[0] > result[0]


@pytest.mark.parametrize("k", [30, 60])
def test_values_far_above_the_others_do_not_spoil_what_follows(k):
    """Once they are found, float32 brings them back unless each vector is made orthogonal twice."""
    a = with_spectrum([*np.linspace(0, 1, 58), 1e3, 1e4])
    result = np.linalg.eigvalsh(krylov(a, k))
    assert result[0] > -0.01
    np.testing.assert_allclose(result[-3:], [1, 1e3, 1e4], rtol=1e-3)


def test_the_length_of_the_start_does_not_matter():
    a, start = single(random_symmetric(9)), single(np.arange(1, 10))
    first, again = (tridiagonal(a, scale * start, 5) for scale in (1.0, 1e-3))
    np.testing.assert_allclose(first, again, atol=1e-4)


def test_lanczos_vmapped_is_the_loop():
    many = np.stack([random_symmetric(8, seed) for seed in range(6)])
    starts = single(np.random.default_rng(9).normal(size=(6, 8)))
    together = jax.vmap(partial(tridiagonal, k=5))(single(many), starts)
    for i, a in enumerate(single(many)):
        np.testing.assert_allclose(together[i], tridiagonal(a, starts[i], 5), atol=1e-4)


# The mean of a function


FUNCTIONS = {
    "the value": (lambda x: x, lambda x: x),
    "its square": (jnp.square, np.square),
    "exp": (jnp.exp, np.exp),
    "1": (jnp.ones_like, np.ones_like),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_of_a_diagonal_operator_one_probe_is_exact(name):
    """Σ (±1)² f(λ): nothing is left to chance, and n steps leave nothing to the quadrature."""
    f, reference = FUNCTIONS[name]
    values = np.linspace(-1, 2, 25)
    a = single(np.diag(values))
    result = estimated(f, a, jax.random.key(3), steps=25, probes=1)
    np.testing.assert_allclose(result, reference(values).mean(), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "probes"), [("1", 1), ("the value", 6), ("its square", 1), ("exp", 6)]
)
def test_the_estimate_is_as_near_the_trace_as_so_many_random_signs_are(name, probes):
    """Its variance is 2 Σ_{i≠j} f(A)ᵢⱼ² / (probes n²), for Rademacher's signs."""
    f, reference = FUNCTIONS[name]
    n, keys = 20, 40
    values, vectors = np.linalg.eigh(random_symmetric(n) / np.sqrt(n))
    of_a = (vectors * reference(values)) @ vectors.T
    a = single((vectors * values) @ vectors.T)
    deviation = np.sqrt(2 * ((of_a**2).sum() - (np.diag(of_a) ** 2).sum()) / probes) / n
    result = [estimated(f, a, key, 8, probes) for key in jax.random.split(jax.random.key(0), keys)]
    errors = np.asarray(result, float) - np.trace(of_a) / n
    if name == "1":
        np.testing.assert_allclose(errors, 0, atol=1e-5)
        return
    assert abs(errors.mean()) < 4 * deviation / np.sqrt(keys)
    assert 0.6 < errors.std() / deviation < 1.5


def test_more_steps_than_dimensions_are_as_many_as_there_are():
    a = single(random_symmetric(4))
    few, many = (estimated(jnp.exp, a, jax.random.key(0), n) for n in (4, 40))
    assert few == many


def test_mean_of_vmapped_is_the_loop():
    many = single(np.stack([random_symmetric(8, seed) for seed in range(5)]))
    keys = jax.random.split(jax.random.key(1), 5)
    together = jax.vmap(lambda a, key: estimated(jnp.square, a, key, 8))(many, keys)
    alone = [estimated(jnp.square, a, key, 8) for a, key in zip(many, keys, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert len(set(together.tolist())) == 5
