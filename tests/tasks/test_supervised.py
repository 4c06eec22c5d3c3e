"""The seam: random numbers by name, evaluation in chunks, and the usual task."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ablax.data.order import epoch_rows
from ablax.data.splits import Split, Subset
from ablax.engine.shapes import training_data
from ablax.engine.trials import take, trials_of
from ablax.task import Trial, _stable_hash, means
from ablax.tasks.supervised import CHUNK, in_chunks
from tests.toys import SHORT, network


def trial_of(seed=0, restart=0, step=0, **changes):
    trial = take(trials_of([dataclasses.replace(SHORT, **changes)], [restart], seed), 0)
    return dataclasses.replace(jax.tree.map(jnp.asarray, trial), step=jnp.int32(step))


def words(key):
    return tuple(jax.random.key_data(key).tolist())


# Randomness


def test_keys_depend_on_seed_restart_name_and_step():
    variants = [
        trial_of().rng("init"),
        trial_of(seed=1).rng("init"),
        trial_of(restart=1).rng("init"),
        trial_of().rng("order"),
        trial_of().rng("init", 0),
        trial_of().rng("init", 1),
        trial_of().rng("init", 2),
        trial_of(seed=1, restart=1).rng("init"),
    ]
    assert len(set(map(words, variants))) == len(variants)


def test_keys_depend_on_nothing_else():
    base = words(trial_of().rng("init"))
    assert words(trial_of(step=9).rng("init")) == base
    assert words(trial_of(l2=0.5, learning_rate=3.0, width=7, steps=99).rng("init")) == base


def test_keys_are_the_same_traced_and_vmapped():
    plain = [words(trial_of(seed=2**32 - 1, restart=r).rng("a", 5)) for r in range(4)]
    trials = trials_of([SHORT] * 4, range(4), 2**32 - 1)
    traced = jax.jit(
        jax.vmap(lambda trial, step: jax.random.key_data(trial.rng("a", step)), (0, None))
    )(trials, jnp.int32(5))
    assert list(map(tuple, traced.tolist())) == plain


def test_streams_are_pinned():
    """If these change, every stored result has other random numbers: raise tasks' versions."""
    assert _stable_hash("init") == 1571423045
    assert _stable_hash("order") != _stable_hash("init")
    assert words(trial_of(seed=3, restart=2).rng("init", 7)) == (2638073371, 637176872)


def test_restarts_share_initial_weights_across_points():
    task = network()
    data = training_data(task)

    def weights(**changes):
        return jax.tree.leaves(task.init(trial_of(**changes), data).params)

    for a, b in zip(weights(restart=2), weights(restart=2, l2=0.3, dropout_rate=0.5), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(weights(restart=2)[-1], weights(restart=3)[-1])


@pytest.mark.parametrize("fix", [None, "init", "order", "split", "init+split"])
def test_restarts_vary_the_streams_that_are_not_tied(fix):
    """Initial weights, order, split and dropout all vary, but for those of --fix."""
    names = ("init", "order", "split", "dropout")
    trials = [trial_of(restart=r, **({"fix": fix} if fix else {})) for r in (0, 3)]
    same = {name for name in names if words(trials[0].rng(name)) == words(trials[1].rng(name))}
    assert same == set((fix or "").split("+")) - {""}


def test_restarts_draw_splits_of_their_own():
    task = network()

    def drawn(**changes):
        view = task.view(trial_of(**changes), training_data(task))
        return [np.asarray(view[name].rows).tolist() for name in ("train", "valid")]

    assert drawn(restart=1) == drawn(restart=1, l2=0.5)
    assert drawn(restart=1) != drawn(restart=2)
    assert drawn(restart=1, fix="split") == drawn(restart=2, fix="split") == drawn(restart=0)
    alike = network(resample=False)
    assert set(alike.data) == {"train", "valid", "test"}
    assert jax.tree.structure(alike.view(trial_of(), alike.data)["train"]) == jax.tree.structure(
        alike.data["train"]
    )


def test_a_trial_reads_no_example_but_those_it_drew():
    """NaN in every other row of the pool changes no number; one in a row of its own does."""
    task = network()
    trial = trial_of(restart=2)
    view = task.view(trial, training_data(task))
    mine = np.concatenate([view["train"].rows, view["valid"].rows])
    others = np.setdiff1d(np.arange(len(task.data["pool"].x)), mine)
    assert len(others) > 10

    def outcome(rows):
        x = np.array(task.data["pool"].x)
        x[rows] = np.nan
        view = task.view(trial, {"pool": task.data["pool"]._replace(x=jnp.asarray(x))})
        state = task.init(trial, view)
        step = jax.jit(task.step)
        for number in range(7):  # an epoch
            state, _ = step(state, dataclasses.replace(trial, step=jnp.int32(number)), view)
        params = np.concatenate([w.ravel() for w in jax.tree.leaves(state.params)])
        return params, means(task.evaluate(state.params, trial, view["valid"]))["loss"]

    params, loss = outcome([])
    blind, same = outcome(others)
    np.testing.assert_array_equal(params, blind)
    assert loss == same
    assert np.isnan(outcome(np.asarray(view["train"].rows)[:1])[0]).any()
    assert np.isnan(outcome(np.asarray(view["valid"].rows)[:1])[1])


# Evaluation in chunks


def sums(x, y, mask):
    products = jnp.where(mask, x[:, 0] * y, 0.0)
    return {"xy": (products.sum(), mask.sum().astype(jnp.float32))}


@pytest.mark.parametrize("n", [1, 6, 7, 8, 13, 14, 15, 50])
def test_chunks_of_some_rows_are_those_rows(n):
    rng = np.random.default_rng(n)
    x = jnp.asarray(rng.integers(-9, 9, (60, 2)).astype(np.float32))
    y = jnp.asarray(rng.integers(-9, 9, 60).astype(np.float32))
    rows = jnp.asarray(rng.permutation(60)[:n])
    expected = in_chunks(sums, Split(x[rows], y[rows]))["xy"]
    for chunk in (7, 100):
        assert in_chunks(sums, Subset(x, y, rows), chunk=chunk)["xy"] == expected


@pytest.mark.parametrize("n", [1, 6, 7, 8, 13, 14, 15, 50])
def test_chunks_change_nothing(n):
    rng = np.random.default_rng(n)
    # Small integers: sums in any order are exact, so equality can be asked for.
    part = Split(
        rng.integers(-9, 9, (n, 2)).astype(np.float32), rng.integers(-9, 9, n).astype(np.float32)
    )
    part = jax.tree.map(jnp.asarray, part)
    total, count = in_chunks(sums, part, chunk=7)["xy"]
    assert count == n
    assert total == np.sum(np.asarray(part.x)[:, 0] * np.asarray(part.y))
    assert in_chunks(sums, part)["xy"] == (total, count)


def test_padding_is_masked_and_made_of_rows():
    """The padding of the last chunk is finite data, and its mask is False, exactly."""
    seen = []

    def record(x, y, mask):
        jax.debug.callback(lambda *a: seen.append(jax.tree.map(np.asarray, a)), x, y, mask)
        return sums(x, y, mask)

    part = Split(jnp.arange(10.0)[:, None], jnp.arange(10.0))
    jax.block_until_ready(in_chunks(record, part, chunk=4))
    jax.effects_barrier()
    seen.sort(key=lambda chunk: chunk[1][0])
    assert [chunk[2].tolist() for chunk in seen] == [
        [True] * 4,
        [True] * 4,
        [True] * 2 + [False] * 2,
    ]
    assert seen[2][1].tolist() == [8.0, 9.0, 9.0, 9.0]


def test_chunked_network_evaluation_is_that_of_the_whole():
    task = network()
    trial = trial_of()
    params = task.init(trial, task.data).params
    x = jnp.tile(task.data["pool"].x, (30, 1))[: CHUNK + 500]
    y = jnp.tile(task.data["pool"].y, 30)[: CHUNK + 500]
    large = means(task.evaluate(params, trial, Split(x, y)))
    parts = [
        task.evaluate(params, trial, Split(x[rows], y[rows]))
        for rows in (slice(0, CHUNK), slice(CHUNK, None))
    ]
    for name in ("loss", "accuracy"):
        total, count = (sum(p[name][i] for p in parts) for i in (0, 1))
        assert count == CHUNK + 500
        np.testing.assert_allclose(large[name], total / count, rtol=1e-5)


def test_means_of_nothing_are_nan():
    assert np.isnan(means({"a": (jnp.float32(0), jnp.float32(0))})["a"])
    assert means({"a": (jnp.float32(6), jnp.float32(4))})["a"] == 1.5


# supervised()


def test_one_step_is_gradient_descent_on_loss_plus_penalty():
    """Against the update written out, with momentum's first step equal to plain descent."""
    task = network()
    trial = trial_of(l2=0.1, learning_rate=0.2)
    view = task.view(trial, training_data(task))
    state = task.init(trial, view)
    after, metrics = jax.jit(task.step)(state, trial, view)
    rows = view["train"].rows[epoch_rows(trial.rng("order"), jnp.int32(0), 16, 100)]
    x, y = task.data["pool"].x[rows], task.data["pool"].y[rows]

    def loss(params):
        first, last = params["hidden_0"], params["output"]
        hidden = jax.nn.relu(x @ first["weight"].T + first["bias"][None])
        scores = hidden @ last["weight"].T + last["bias"][None]
        return -jax.nn.log_softmax(scores)[jnp.arange(16), y].mean()

    def penalized(params):
        return loss(params) + 0.1 * sum(jnp.sum(p["weight"] ** 2) for p in params.values())

    np.testing.assert_allclose(metrics["loss"], loss(state.params), rtol=1e-5)
    grads = jax.jit(jax.grad(penalized))(state.params)
    expected = jax.tree.map(lambda p, g: p - 0.2 * g, state.params, grads)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), after.params, expected
    )


def test_project_and_initial_are_applied():
    task = network(
        initial=lambda params, h: jax.tree.map(lambda w: w * 0.0 + h.noise, params),
        project=lambda params, h: jax.tree.map(lambda w: jnp.minimum(w, 0.25), params),
    )
    trial = trial_of(noise=0.5)
    view = task.view(trial, task.data)
    state = task.init(trial, view)
    assert {float(w.max()) for w in jax.tree.leaves(state.params)} == {0.5}
    after, _ = jax.jit(task.step)(state, trial, view)
    assert max(float(w.max()) for w in jax.tree.leaves(after.params)) <= 0.25


def test_a_trial_is_a_pytree_of_scalars():
    trial = trial_of()
    assert isinstance(trial, Trial)
    assert {leaf.shape for leaf in jax.tree.leaves(trial)} == {()}
