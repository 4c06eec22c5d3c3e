"""The multilayer perceptron: its formula first, then what must leave it unchanged."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ablax.errors import UserError
from ablax.nn.linear import Linear
from ablax.nn.mlp import MLP

X = jax.random.normal(jax.random.key(7), (6, 5))


def variables_of(model, seed=0, x=X):
    """Initial weights, with biases that are not zero."""
    keys = iter(jax.random.split(jax.random.key(seed + 100), 100))
    return jax.tree.map(
        lambda w: w + 0.1 * jax.random.normal(next(keys), w.shape),
        model.init(jax.random.key(seed), x),
    )


def scores(model, variables, x=X) -> Any:
    return model.apply(variables, x)


def scores_in_training(model, variables, rate, seed=0, x=X) -> Any:
    return model.apply(variables, x, rate, rngs={"dropout": jax.random.key(seed)})


@pytest.mark.parametrize("widths", [(), (4,), (8, 3, 7)])
@pytest.mark.parametrize(
    ("activation", "f"), [("relu", lambda a: np.maximum(a, 0)), ("tanh", np.tanh)]
)
def test_forward_equals_numpy_in_float64(widths, activation, f):
    model = MLP(widths, n_outputs=3, activation=activation)
    variables = variables_of(model)
    layers = jax.tree.map(lambda w: np.asarray(w, np.float64), variables["params"])
    h = np.asarray(X, np.float64)
    for i in range(len(widths)):
        h = f(h @ layers[f"hidden_{i}"]["weight"].T + layers[f"hidden_{i}"]["bias"])
    expected = h @ layers["output"]["weight"].T + layers["output"]["bias"]
    np.testing.assert_allclose(scores(model, variables, X), expected, rtol=1e-5, atol=1e-5)


def test_depth_zero_is_linear():
    mlp, linear = MLP((), 3, kernel_init="he_normal"), Linear(3, kernel_init="he_normal")
    of_mlp, of_linear = (model.init(jax.random.key(0), X) for model in (mlp, linear))
    jax.tree.map(np.testing.assert_array_equal, of_mlp, of_linear)
    np.testing.assert_array_equal(scores(mlp, of_linear, X), scores(linear, of_linear, X))


def test_order_of_hidden_units_does_not_matter():
    model = MLP((8, 4), 3, activation="tanh")
    variables = variables_of(model)
    order = np.random.default_rng(0).permutation(8)
    assert (order != np.arange(8)).any()
    first, second = variables["params"]["hidden_0"], variables["params"]["hidden_1"]
    permuted = variables["params"] | {
        "hidden_0": {"weight": first["weight"][order], "bias": first["bias"][order]},
        "hidden_1": {"weight": second["weight"][:, order], "bias": second["bias"]},
    }
    np.testing.assert_allclose(
        scores(model, {"params": permuted}, X), scores(model, variables, X), rtol=1e-5, atol=1e-6
    )


def test_an_example_does_not_see_its_neighbours():
    model = MLP((8,), 3)
    variables = variables_of(model)
    i = 2
    others = 100.0 * jax.random.normal(jax.random.key(9), X.shape)
    elsewhere = others.at[-1].set(X[i])
    z = scores(model, variables, X)
    np.testing.assert_allclose(scores(model, variables, others.at[i].set(X[i]))[i], z[i], rtol=1e-6)
    np.testing.assert_allclose(scores(model, variables, elsewhere)[-1], z[i], rtol=1e-5, atol=1e-6)


def test_features_of_any_shape_are_flattened():
    model = MLP((8,), 3)
    images = jax.random.normal(jax.random.key(1), (4, 2, 3, 5))
    variables = variables_of(model, x=images)
    np.testing.assert_array_equal(
        scores(model, variables, images), scores(model, variables, images.reshape(4, 30))
    )


def test_vmap_over_parameters_equals_loop():
    model = MLP((8,), 3)
    all_variables = [variables_of(model, seed) for seed in range(4)]
    stacked = jax.tree.map(lambda *ws: jnp.stack(ws), *all_variables)
    together = jax.vmap(lambda v: scores(model, v))(stacked)
    alone = jnp.stack([scores(model, variables, X) for variables in all_variables])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)


def test_dropout_at_rate_zero_is_exactly_off():
    model = MLP((8, 4), 3)
    variables = variables_of(model)
    # Not jitted: with dropout it is another program, which may be fused and rounded otherwise.
    plain = model.apply(variables, X)
    zero = scores_in_training(model, variables, jnp.float32(0.0))
    np.testing.assert_array_equal(np.asarray(zero).view(np.uint32), np.asarray(plain).view("u4"))


def test_no_dropout_compiles_no_random_numbers():
    model = MLP((8, 4), 3)
    variables = variables_of(model)
    off = jax.make_jaxpr(model.apply)(variables, X)
    on = jax.make_jaxpr(lambda x: scores_in_training(model, variables, 0.5, x=x))(X)
    assert "threefry" not in str(off)
    assert "threefry" in str(on)


def test_dropout_depends_on_its_key_and_differs_between_layers():
    model = MLP((64,), 1)
    variables = variables_of(model)
    first, again, other = (scores_in_training(model, variables, 0.5, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()

    # Identity layers hand on what survived: were one mask used twice, 1/2 would survive, not 1/4.
    n = 64
    identity = {"weight": jnp.eye(n), "bias": jnp.zeros(n)}
    two_layers = {"params": dict.fromkeys(("hidden_0", "hidden_1", "output"), identity)}
    z = scores_in_training(MLP((n, n), n), two_layers, 0.5, x=jnp.ones((32, n)))
    assert abs((z != 0).mean() - 0.25) < 0.03


def test_dropout_rate_is_traced():
    model = MLP((8,), 3)
    variables = variables_of(model)
    compiles = 0

    @jax.jit
    def at_rate(rate):
        nonlocal compiles
        compiles += 1
        return scores_in_training(model, variables, rate)

    outputs = [at_rate(jnp.float32(rate)) for rate in (0.0, 0.2, 0.8)]
    assert compiles == 1
    assert not np.allclose(outputs[0], outputs[2])


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="unknown activation 'rleu'"):
        MLP((8,), 3, activation="rleu").init(jax.random.key(0), X)
    with pytest.raises(UserError, match="unknown initializer 'orthogonal'"):
        MLP((8,), 3, kernel_init="orthogonal").init(jax.random.key(0), X)
