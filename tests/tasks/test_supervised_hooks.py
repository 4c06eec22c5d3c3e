"""The options of `supervised` beside the loss, against the step written out."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ablax import losses, optimizers
from ablax.data import load, split
from ablax.data.generated import blobs
from ablax.data.noise import relabelled
from ablax.data.order import epoch_rows
from ablax.engine.shapes import training_data
from ablax.engine.trials import take, trials_of
from ablax.errors import UserError
from ablax.nn.mlp import MLP
from ablax.tasks.supervised import Records, Regularization, examples, supervised
from tests.toys import SHORT, engine_of, run

RATE, L2 = 0.2, 0.3
SPLITS = split(blobs(n=200, noise=2.0), train_size=100, seed=0)
HIDDEN, OUTPUT = "hidden_0", "output"


def task_of(model=None, **changes):
    return supervised(
        model or MLP((4,), len(SPLITS.classes), "tanh"),
        SPLITS,
        loss=losses.loss("softmax_cross_entropy_with_integer_labels"),
        optimizer=lambda trial: optimizers.momentum(trial.hparams.learning_rate, momentum=0.0),
        batch_size=16,
        **grouped(changes),
    )


def grouped(changes):
    """The keywords of `supervised`, from those of its groups."""
    parts = {"regularization": Regularization, "records": Records}
    for name, part in parts.items():
        fields = {f.name for f in dataclasses.fields(part)} & changes.keys()
        changes[name] = part(**{field: changes.pop(field) for field in fields})
    return changes


def trial_of(**changes):
    setting = dataclasses.replace(SHORT, **{"learning_rate": RATE, "l2": L2} | changes)
    return jax.tree.map(jnp.asarray, take(trials_of([setting], [0], 0), 0))


def one_step(task, **changes):
    """(params before, params after, metrics, the minibatch)."""
    trial = trial_of(**changes)
    view = task.view(trial, training_data(task))
    state = task.init(trial, view)
    after, metrics = jax.jit(task.step)(state, trial, view)
    rows = view["train"].rows[epoch_rows(trial.rng("order"), jnp.int32(0), 16, 100)]
    return state.params, after.params, metrics, (view["train"].x[rows], view["train"].y[rows])


def sums(params, x):
    """The outputs of each layer of the network, [units, batch], before its activation."""
    first = params[HIDDEN]["weight"] @ x.T + params[HIDDEN]["bias"][:, None]
    last = params[OUTPUT]["weight"] @ jnp.tanh(first) + params[OUTPUT]["bias"][:, None]
    return {HIDDEN: first, OUTPUT: last}


def loss_of(params, x, y):
    scores = sums(params, x)[OUTPUT].T
    return -jax.nn.log_softmax(scores)[jnp.arange(len(y)), y].mean()


def assert_close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), a, b)


def squares(params, hparams):
    return hparams.l2 * sum(jnp.sum(p["weight"] ** 2) for p in params.values())


# watch


def watched(gradient, params):
    return {
        "slope": jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient))),
        "first": gradient[HIDDEN]["weight"][0, 0],
        "size": sum(jnp.sum(w**2) for w in jax.tree.leaves(params)),
    }


@pytest.mark.parametrize("penalty", [None, squares])
def test_watch_sees_the_gradient_of_the_step_and_the_parameters_before_it(penalty):
    before, after, metrics, (x, y) = one_step(task_of(watch=watched, penalty=penalty))

    def objective(params):
        added = 0.0 if penalty is None else penalty(params, trial_of().hparams)
        return loss_of(params, x, y) + added

    gradient = jax.jit(jax.grad(objective))(before)
    expected = {"loss": loss_of(before, x, y), **watched(gradient, before)}
    assert_close(metrics, expected)
    assert_close(after, jax.tree.map(lambda p, g: p - RATE * g, before, gradient))


def test_watching_changes_no_parameter():
    plain, seen = (one_step(task_of(**options)) for options in ({}, {"watch": watched}))
    assert set(plain[2]) == {"loss"}
    assert set(seen[2]) == {"loss", "slope", "first", "size"}
    assert_close(plain[1], seen[1])


def test_the_curve_has_the_mean_of_each_segment():
    runner = engine_of(task_of(watch=watched))
    fine, coarse = (run(runner, [SHORT], [0], interval=n)[0].curve for n in (1, 10))
    every = dict(fine)
    assert len(every) == 30
    for step, means in coarse:
        assert {"train/slope", "train/first", "train/size", "train/loss"} <= set(means)
        for name in ("train/slope", "train/size", "train/loss"):
            parts = [every[s][name] for s in range(step - 9, step + 1)]
            np.testing.assert_allclose(means[name], np.mean(parts), rtol=1e-4)


# activity_penalty


def activity(layers, hparams):
    return (
        hparams.l2 * jnp.abs(layers[HIDDEN]).mean()
        + 0.1 * hparams.l2 * jnp.square(layers[OUTPUT]).mean()
    )


@pytest.mark.parametrize("penalty", [None, squares])
def test_an_activity_penalty_is_of_what_the_layers_give_before_their_activation(penalty):
    before, after, metrics, (x, y) = one_step(task_of(activity_penalty=activity, penalty=penalty))
    hparams = trial_of().hparams

    def objective(params):
        added = 0.0 if penalty is None else penalty(params, hparams)
        return loss_of(params, x, y) + activity(sums(params, x), hparams) + added

    gradient = jax.jit(jax.grad(objective))(before)
    plain = jax.jit(jax.grad(loss_of))(before, x, y)
    distance = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), gradient, plain)
    assert max(jax.tree.leaves(distance)) > 1e-2, "the penalty must be seen in the gradient"
    assert_close(after, jax.tree.map(lambda p, g: p - RATE * g, before, gradient))
    # The loss that is reported is without any penalty.
    assert_close(metrics, {"loss": loss_of(before, x, y)})


def test_the_layers_are_the_models_submodules():
    seen = {}

    def look(layers, hparams):
        seen.update({name: value.shape for name, value in layers.items()})
        return jnp.float32(0)

    one_step(task_of(MLP((4, 6), len(SPLITS.classes)), activity_penalty=look))
    assert set(seen) == {"hidden_0", "hidden_1", "output"}
    assert [int(np.prod(shape)) for shape in seen.values()] == [
        16 * units for units in (4, 6, len(SPLITS.classes))
    ]


def test_an_activity_penalty_of_zero_changes_nothing():
    dropped = {"dropout_rate": lambda h: h.dropout_rate}
    for options, changes in (({}, {}), (dropped, {"dropout_rate": 0.5})):
        _, plain, loss, _ = one_step(task_of(**options), l2=0.0, **changes)
        _, off, again, _ = one_step(
            task_of(activity_penalty=activity, **options), l2=0.0, **changes
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), plain, off
        )
        np.testing.assert_allclose(loss["loss"], again["loss"], rtol=1e-6)


def test_an_activity_penalty_sees_the_layers_as_dropout_leaves_them():
    """Those of the loss: what is dropped after the hidden layer, the output layer has not got."""
    seen = {}

    def look(layers, hparams):
        jax.debug.callback(lambda values: seen.update(jax.tree.map(np.asarray, values)), layers)
        return jnp.float32(0)

    dropping = task_of(activity_penalty=look, dropout_rate=lambda h: h.dropout_rate)
    before, *_, (x, _) = one_step(dropping, dropout_rate=0.9)
    jax.effects_barrier()
    whole = sums(before, x)
    np.testing.assert_allclose(seen[HIDDEN], whole[HIDDEN], rtol=1e-4, atol=1e-5)
    assert np.abs(seen[OUTPUT] - whole[OUTPUT]).max() > 0.1


# dropout_rate


class Told(nn.Module):
    """Scores that say which rates the model was given, and that it got a key for them."""

    n_outputs: int

    @nn.compact
    def __call__(self, x, first=None, second=None, third=None):
        weight = self.param("weight", nn.initializers.ones, (self.n_outputs,))
        scores = jnp.ones((len(x), 1)) * weight[None]
        if first is not None:
            self.make_rng("dropout")
        rates = [0.0 if rate is None else rate for rate in (first, second, third)]
        factor = 1.0 + rates[0] + 10.0 * rates[1] + 100.0 * rates[2]
        return scores * factor * jnp.arange(self.n_outputs, dtype=jnp.float32)[None]


@pytest.mark.parametrize(
    ("rates", "factor"),
    [
        (None, 1.0),
        (lambda h: h.dropout_rate, 1.5),
        (lambda h: (h.dropout_rate,), 1.5),
        (lambda h: (h.dropout_rate, h.l2), 1.5 + 10 * L2),
        (lambda h: (h.l2, h.dropout_rate), 1.0 + L2 + 5),
        (lambda h: (jnp.float32(0), h.l2, h.dropout_rate), 1.0 + 10 * L2 + 50),
    ],
)
def test_the_model_gets_the_rates_in_their_order(rates, factor):
    model = Told(len(SPLITS.classes))
    *_, metrics, (_, y) = one_step(task_of(model, dropout_rate=rates), dropout_rate=0.5)
    scores = factor * np.arange(len(SPLITS.classes))
    expected = np.mean(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[y])
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_evaluation_is_without_any_rate():
    model = Told(len(SPLITS.classes))
    losses_ = []
    for rates in (None, lambda h: (h.dropout_rate, h.l2)):
        task = task_of(model, dropout_rate=rates)
        trial = trial_of(dropout_rate=0.5)
        view = task.view(trial, training_data(task))
        total, _ = task.evaluate(task.init(trial, view).params, trial, view["valid"])["loss"]
        losses_.append(float(total))
    assert losses_[0] == losses_[1]


def test_a_network_trains_with_both_its_rates():
    """Off is off: rates of 0 are the step without dropout; either alone makes another step."""
    task = task_of(dropout_rate=lambda h: (h.dropout_rate, h.l2))
    plain = one_step(task_of())[1]
    off, units, features = (
        one_step(task, dropout_rate=d, l2=i)[1] for d, i in ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5))
    )
    assert_close(plain, off)
    for other in (units, features):
        assert np.abs(other[HIDDEN]["weight"] - plain[HIDDEN]["weight"]).max() > 1e-3


# label_noise


def labels(task, **changes):
    """The labels of the training split, as a trial sees them, and all that it sees."""
    trial = trial_of(**changes)
    seen = task.view(trial, training_data(task))
    return np.asarray(examples(seen["train"])[1]), seen, trial


@pytest.mark.parametrize("resample", [True, False])
def test_a_share_of_the_training_labels_is_drawn_anew(resample):
    plain, seen, _ = labels(task_of(resample=resample))
    noisy = task_of(resample=resample, label_noise=lambda hparams: hparams.l2)
    drawn, watched, trial = labels(noisy, l2=0.5)
    pool = relabelled(trial.rng("noise"), seen["train"].y, 0.5, len(SPLITS.classes))
    expected = pool[seen["train"].rows] if resample else pool
    np.testing.assert_array_equal(drawn, expected)
    assert 10 < (drawn != plain).sum() < 60
    np.testing.assert_array_equal(*(examples(s["valid"])[1] for s in (seen, watched)))
    np.testing.assert_array_equal(labels(noisy, l2=0.0)[0], plain)


def test_the_step_learns_the_labels_that_were_drawn():
    task = task_of(label_noise=lambda hparams: hparams.l2)
    before, after, metrics, (x, y) = one_step(task, l2=1.0)
    assert_close(metrics, {"loss": loss_of(before, x, y)})
    gradient = jax.jit(jax.grad(loss_of))(before, x, y)
    assert_close(after, jax.tree.map(lambda p, g: p - RATE * g, before, gradient))
    assert not np.array_equal(y, one_step(task, l2=0.0)[3][1])


def test_numbers_are_no_labels():
    regression = split(load("diabetes"), seed=0)
    with pytest.raises(UserError, match="classes"):
        supervised(
            MLP((4,), 1),
            regression,
            loss=losses.loss("mse"),
            optimizer=lambda trial: optimizers.sgd(0.1),
            batch_size=8,
            regularization=Regularization(label_noise=lambda hparams: hparams.l2),
        )
