"""Every loss × every property; a new entry of LOSSES must bring its case."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from scipy import special
from sklearn import metrics as sklearn_metrics

from ablax import losses
from ablax.errors import UserError
from ablax.losses import LOSSES, mean, reduce

rng = np.random.default_rng(0)
M = 8
SCORES_1 = rng.normal(size=(M, 1)) * 3
SCORES_3 = rng.normal(size=(M, 3)) * 3
BINARY = rng.integers(0, 2, M)
CLASSES = rng.integers(0, 3, M)
SIGNS = 2.0 * BINARY - 1


@dataclass
class Case:
    outputs: np.ndarray  # float64, of shape [M, O]
    targets: np.ndarray
    reference: Callable[[np.ndarray, np.ndarray], np.ndarray]  # in float64
    extremes: np.ndarray  # targets at outputs ±1e4, by row


def _bernoulli(z, y):
    return -(y * special.log_expit(z[:, 0]) + (1 - y) * special.log_expit(-z[:, 0]))


BOTH = np.array([1, 1, 0, 0])
CASES = {
    "sigmoid_binary_cross_entropy": Case(SCORES_1, BINARY, _bernoulli, BOTH),
    "softmax_cross_entropy": Case(
        SCORES_3,
        rng.dirichlet(np.ones(3), M),
        lambda z, y: -(y * special.log_softmax(z, axis=1)).sum(1),
        np.eye(3)[[0, 1, 2, 0]],
    ),
    "softmax_cross_entropy_with_integer_labels": Case(
        SCORES_3,
        CLASSES,
        lambda z, y: -special.log_softmax(z, axis=1)[np.arange(len(y)), y],
        np.array([0, 1, 2, 0]),
    ),
    "hinge_loss": Case(
        SCORES_1, SIGNS, lambda s, y: np.maximum(0, 1 - y * s[:, 0]), 2.0 * BOTH - 1
    ),
    "perceptron_loss": Case(
        SCORES_1, SIGNS, lambda s, y: np.maximum(0, -y * s[:, 0]), 2.0 * BOTH - 1
    ),
    "sse": Case(SCORES_3, SCORES_3[::-1], lambda p, y: ((y - p) ** 2).sum(1) / 2, np.zeros((4, 3))),
    "mse": Case(SCORES_3, SCORES_3[::-1], lambda p, y: ((y - p) ** 2).mean(1), np.zeros((4, 3))),
    "half_mse": Case(
        SCORES_3, SCORES_3[::-1], lambda p, y: ((y - p) ** 2).mean(1) / 2, np.zeros((4, 3))
    ),
}
EVERY = pytest.mark.parametrize("name", LOSSES)


def _arrays(case: Case) -> tuple[jax.Array, jax.Array]:
    whole = np.issubdtype(case.targets.dtype, np.integer)
    targets = jnp.asarray(case.targets, jnp.int32 if whole else jnp.float32)
    return jnp.asarray(case.outputs, jnp.float32), targets


def _extremes(case: Case) -> tuple[jax.Array, jax.Array]:
    """Outputs ±1e4 (several: of both signs in one row), right and wrong ones."""
    rows = [[1e4, -1e4, 0.0], [1e4, -1e4, 1e4], [-1e4, -1e4, -1e4], [-1e4, 1e4, 1e4]]
    outputs = np.array(rows)[:, : case.outputs.shape[1]]
    return _arrays(Case(outputs, case.extremes, case.reference, case.extremes))


@EVERY
def test_value_is_the_float64_reference(name):
    case = CASES[name]
    value = LOSSES[name](*_arrays(case))
    assert (value.shape, value.dtype) == ((M,), jnp.float32)
    expected = case.reference(case.outputs, case.targets)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


@EVERY
def test_gradient_agrees_with_finite_differences(name):
    case = CASES[name]
    with jax.enable_x64(True):
        targets = jnp.asarray(case.targets)
        check_grads(
            lambda outputs: LOSSES[name](outputs, targets), (jnp.asarray(case.outputs),), order=1
        )


@EVERY
def test_finite_and_right_at_extreme_outputs(name):
    outputs, targets = _extremes(CASES[name])
    value = LOSSES[name](outputs, targets)
    expected = CASES[name].reference(np.asarray(outputs, float), np.asarray(targets))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    gradient = jax.grad(lambda z: LOSSES[name](z, targets).sum())(outputs)
    assert jnp.isfinite(value).all()
    assert jnp.isfinite(gradient).all()


@EVERY
def test_an_example_does_not_depend_on_its_batch(name):
    outputs, targets = _arrays(CASES[name])
    alone = [LOSSES[name](outputs[i], targets[i]) for i in range(M)]
    together = jax.jit(jax.vmap(LOSSES[name]))(outputs, targets)
    np.testing.assert_allclose(LOSSES[name](outputs, targets), alone, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-7)


@EVERY
def test_padding_changes_neither_sum_nor_count_nor_gradient(name):
    outputs, targets = _arrays(CASES[name])

    def mean_padded(z, n):
        padded = jnp.concatenate([z, jnp.full_like(z[:1], 7.0).repeat(n, axis=0)])
        labels = jnp.concatenate([targets, targets[:1].repeat(n, axis=0)])
        return mean(LOSSES[name](padded, labels), jnp.arange(M + n) < M)

    plain = mean(LOSSES[name](outputs, targets))
    np.testing.assert_allclose(mean_padded(outputs, 5), plain, rtol=1e-6)
    np.testing.assert_allclose(
        jax.grad(mean_padded)(outputs, 5), jax.grad(mean_padded)(outputs, 0), rtol=1e-6
    )


@EVERY
def test_targets_that_do_not_fit_are_refused(name):
    outputs, targets = _arrays(CASES[name])
    with pytest.raises(UserError, match=r"expected .* got"):
        LOSSES[name](outputs, targets[:-1])


@EVERY
def test_a_perfect_prediction_costs_nothing(name):
    score = jnp.asarray([[1e4, -1e4, -1e4]], jnp.float32)
    cases = {
        "sigmoid_binary_cross_entropy": (score[:, :1], jnp.asarray([1])),
        "softmax_cross_entropy": (score, jnp.asarray([[1.0, 0.0, 0.0]])),
        "softmax_cross_entropy_with_integer_labels": (score, jnp.asarray([0])),
        "hinge_loss": (score[:, :1], jnp.asarray([1])),
        "perceptron_loss": (score[:, :1], jnp.asarray([1])),
    }
    outputs, targets = cases.get(name, (score, score))
    value, gradient = jax.value_and_grad(lambda z: LOSSES[name](z, targets).sum())(outputs)
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize(
    "name",
    [
        "sigmoid_binary_cross_entropy",
        "softmax_cross_entropy",
        "softmax_cross_entropy_with_integer_labels",
    ],
)
def test_cross_entropy_gradient_is_prediction_minus_target(name):
    outputs, targets = _arrays(CASES[name])
    gradient = jax.grad(lambda z: LOSSES[name](z, targets).sum())(outputs)
    prediction = jax.nn.softmax(outputs) if outputs.shape[1] > 1 else jax.nn.sigmoid(outputs)
    if name.endswith("integer_labels"):
        targets = jax.nn.one_hot(targets, 3)
    wanted = prediction - targets.reshape(outputs.shape).astype(jnp.float32)
    np.testing.assert_allclose(gradient, wanted, atol=1e-6)


# From probabilities.


def test_log_loss_is_the_reference_and_scikit_learns():
    p, y = special.expit(SCORES_1[:, 0]), BINARY
    value = losses.log_loss(jnp.asarray(p, jnp.float32), jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(value, -special.xlogy(y, p) - special.xlog1py(1 - y, -p), rtol=1e-5)
    np.testing.assert_allclose(mean(value), sklearn_metrics.log_loss(y, p), rtol=1e-5)


def test_log_loss_keeps_its_relative_precision_at_small_probabilities():
    value = losses.log_loss(jnp.float32(1e-12), jnp.float32(0))
    np.testing.assert_allclose(value, 1e-12, rtol=1e-5)


def test_log_loss_at_certainty():
    p, y = jnp.asarray([1.0, 0.0, 0.0, 1.0]), jnp.asarray([1.0, 0.0, 1.0, 0.0])
    value, gradient = jax.vmap(jax.value_and_grad(losses.log_loss))(p, y)
    assert value.tolist() == [0, 0, np.inf, np.inf]
    assert gradient.tolist() == [-1, 1, -np.inf, np.inf]


def test_cross_entropy_is_the_reference_and_scikit_learns():
    p, y = special.softmax(SCORES_3, axis=1), CLASSES
    p32 = jnp.asarray(p, jnp.float32)
    one_hot = losses.cross_entropy(p32, jax.nn.one_hot(y, 3))
    integer = losses.cross_entropy_with_integer_labels(p32, jnp.asarray(y))
    np.testing.assert_allclose(one_hot, -np.log(p[np.arange(M), y]), rtol=1e-5)
    np.testing.assert_allclose(integer, one_hot, rtol=1e-6)
    np.testing.assert_allclose(
        mean(one_hot), sklearn_metrics.log_loss(y, p, labels=[0, 1, 2]), rtol=1e-5
    )


def test_cross_entropy_at_certainty():
    p = jnp.asarray([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    y = jnp.asarray([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    value, gradient = jax.vmap(jax.value_and_grad(losses.cross_entropy))(p, y)
    assert value.tolist() == [0, np.inf]
    assert gradient.tolist() == [[-1, 0, 0], [0, -np.inf, 0]]
    value, gradient = jax.vmap(jax.value_and_grad(losses.cross_entropy_with_integer_labels))(
        p, jnp.asarray([0, 1])
    )
    assert value.tolist() == [0, np.inf]
    assert gradient[0].tolist() == [-1, 0, 0]


@pytest.mark.parametrize(
    "loss",
    [losses.cross_entropy_with_integer_labels, losses.softmax_cross_entropy_with_integer_labels],
)
def test_a_label_out_of_range_is_nan(loss):
    assert jnp.isnan(loss(jnp.full((1, 3), 1 / 3), jnp.asarray([3]))).all()


def test_integer_labels_have_optax_values_at_ordinary_scores():
    z, y = _arrays(CASES["softmax_cross_entropy_with_integer_labels"])
    np.testing.assert_allclose(
        losses.softmax_cross_entropy_with_integer_labels(z, y),
        optax.losses.softmax_cross_entropy_with_integer_labels(z, y),
        rtol=1e-5,
        atol=1e-6,
    )


def test_probability_losses_agree_with_their_score_forms():
    z, y = _arrays(CASES["sigmoid_binary_cross_entropy"])
    from_p = losses.log_loss(jax.nn.sigmoid(z[:, 0]), y.astype(jnp.float32))
    np.testing.assert_allclose(from_p, LOSSES["sigmoid_binary_cross_entropy"](z, y), rtol=1e-4)
    z, y = _arrays(CASES["softmax_cross_entropy"])
    from_p = losses.cross_entropy(jax.nn.softmax(z), y)
    np.testing.assert_allclose(from_p, LOSSES["softmax_cross_entropy"](z, y), rtol=1e-4)


def test_probability_gradients_agree_with_finite_differences():
    with jax.enable_x64(True):
        p = jnp.asarray(special.softmax(SCORES_3 / 4, axis=1))
        fine = {"order": 1, "eps": 1e-7}  # the default step is too coarse near p = 0
        for y in (jnp.eye(3)[CLASSES], jnp.asarray(CASES["softmax_cross_entropy"].targets)):
            check_grads(lambda p, y=y: losses.cross_entropy(p, y), (p,), **fine)
            check_grads(lambda p, y=y: losses.log_loss(p, y), (p,), **fine)
        check_grads(losses.log_likelihood, (p,), **fine)
        check_grads(losses.likelihood, (p,), **fine)


def test_likelihood_is_exp_of_the_sum_of_logs_is_the_product():
    p = np.array([[0.6, 0.2, 0.1, 0.7], [1.0, 0.5, 0.5, 1.0]])
    p32 = jnp.asarray(p, jnp.float32)
    np.testing.assert_allclose(losses.likelihood(p32), p.prod(axis=1), rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(losses.log_likelihood(p32)), p.prod(axis=1), rtol=1e-6)


def test_likelihood_of_the_impossible_is_zero_with_the_right_gradient():
    value, gradient = jax.value_and_grad(losses.likelihood)(jnp.asarray([0.0, 0.5, 0.5]))
    assert value == 0
    assert gradient.tolist() == [0.25, 0, 0]
    assert losses.log_likelihood(jnp.asarray([0.0, 0.5])) == -jnp.inf


# Squared errors, hinge and perceptron.


def test_squared_errors_relate_as_documented():
    p, y = _arrays(CASES["sse"])
    m, o = p.shape
    squares = ((np.asarray(y, float) - np.asarray(p, float)) ** 2).sum()
    np.testing.assert_allclose(reduce(losses.sse(p, y))[0], squares / 2, rtol=1e-6)
    np.testing.assert_allclose(mean(losses.mse(p, y)), squares / (m * o), rtol=1e-6)
    np.testing.assert_allclose(mean(losses.half_mse(p, y)), squares / (2 * m * o), rtol=1e-6)
    np.testing.assert_allclose(
        mean(losses.mse(p, y)), sklearn_metrics.mean_squared_error(y, p), rtol=1e-6
    )


def test_hinge_is_scikit_learns():
    s, y = _arrays(CASES["hinge_loss"])
    expected = sklearn_metrics.hinge_loss(SIGNS, SCORES_1[:, 0])
    np.testing.assert_allclose(mean(LOSSES["hinge_loss"](s, y)), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["hinge_loss", "perceptron_loss"])
def test_both_label_conventions_mean_the_same(name):
    s, _ = _arrays(CASES[name])
    from_signs = LOSSES[name](s, jnp.asarray(SIGNS, jnp.float32))
    from_bits = LOSSES[name](s, jnp.asarray(BINARY))
    assert (from_signs == from_bits).all()


def test_perceptron_loss_has_optax_values():
    s, y = jnp.asarray(SCORES_1[:, 0], jnp.float32), jnp.asarray(SIGNS, jnp.float32)
    np.testing.assert_array_equal(losses.perceptron_loss(s, y), optax.losses.perceptron_loss(s, y))


@pytest.mark.parametrize("label", [-1, 1])
@pytest.mark.parametrize("score", [-2.0, 0.0, 2.0])
def test_a_gradient_step_is_the_perceptron_rule(score, label):
    """The notes' rule, from ŷ = step(w·x + b): add αx if positive and missed, subtract if not."""
    x, rate = jnp.asarray([0.5, -1.0]), 0.1
    w, b = jnp.zeros(2), jnp.float32(score)
    grad_w, grad_b = jax.grad(
        lambda w, b: losses.perceptron_loss(w @ x + b, jnp.asarray(label)), argnums=(0, 1)
    )(w, b)
    direction = (label > 0) - (score >= 0)  # y − ŷ
    np.testing.assert_allclose(w - rate * grad_w, w + rate * direction * x)
    np.testing.assert_allclose(b - rate * grad_b, b + rate * direction)


# Reduction.


def test_reduce_ignores_whatever_is_masked():
    values = jnp.asarray([1.0, 2.0, np.nan, np.inf])
    total, count = reduce(values, jnp.asarray([True, True, False, False]))
    assert (total, count) == (3, 2)
    gradient = jax.grad(lambda v: reduce(v, jnp.asarray([True, True, False, False]))[0])(values)
    assert gradient.tolist() == [1, 1, 0, 0]


def test_reduce_adds_up_over_chunks():
    values, mask = jnp.arange(12.0), jnp.arange(12) % 5 > 0
    whole = reduce(values, mask)
    parts = [reduce(values[i : i + 5], mask[i : i + 5]) for i in (0, 5, 10)]
    assert (sum(p[0] for p in parts), sum(p[1] for p in parts)) == whole


def test_a_mask_of_leading_axes_masks_whole_examples():
    total, count = reduce(jnp.ones((3, 4)), jnp.asarray([True, False, True]))
    assert (total, count) == (8, 8)


def test_a_mask_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"expected a mask of shape \(3, 4\)"):
        reduce(jnp.ones((3, 4)), jnp.ones((3, 1), bool))


def test_reduce_counts_beyond_what_bfloat16_holds():
    total, count = reduce(jnp.ones(1000, jnp.bfloat16))
    assert (total, count, total.dtype, count.dtype) == (1000, 1000, jnp.float32, jnp.float32)


def test_mean_of_nothing_is_nan():
    assert jnp.isnan(mean(jnp.ones(3), jnp.zeros(3, bool)))


def test_align_refuses_to_broadcast():
    with pytest.raises(UserError, match=r"\(4, 3\).*got \(4,\)"):
        losses.align(jnp.zeros((4, 3)), jnp.zeros(4))


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="unknown loss 'hinge_los'; did you mean 'hinge_loss'"):
        losses.loss("hinge_los")
