"""Optimizers as optax chains whose every scalar may be traced; only the family is static.

With step s = −η ∇L(w), the families of `OPTIMIZERS` update w ← w + u:

| name     | u                                              | uses                      |
|----------|------------------------------------------------|---------------------------|
| sgd      | s                                              |                           |
| momentum | v ← β v + s;  u = v                            | `momentum` β              |
| nesterov | v ← β v + s;  u = β v + s                      | `momentum` β              |
| rmsprop  | r ← ρ r + (1 − ρ) g²;  u = −η g / (√r + ε)     | `b2` ρ, `eps` ε           |
| adam     | u = −η m̂ / (√r̂ + ε), m̂ and r̂ bias-corrected    | `momentum` β₁, `b2`, `eps`|
| adamw    | adam − η λ w                                   | the same; λ defaults 0.01 |

Batch, minibatch and stochastic gradient descent are all `sgd`: they differ in the batch that
∇L is taken over. `optimizer` puts clipping before a family and weight decay after it.

The learning rate multiplies the gradient *before* it enters the velocity, so under a schedule
the update is exactly the notes' step(n) + β step(n−1) + β² step(n−2) + …, each step at the
rate of its own time (Polyak's and Sutskever's form). Optax and PyTorch multiply afterwards:
the same at a constant rate, but a decaying one then also shrinks what was already gathered.

A max-norm constraint is not here: it is `params = max_norm(optax.apply_updates(params, u),
limit)`. As an update, w + (Π(w + u) − w) rounds to something else than Π(w + u): the bound
would not hold to the bit, and a limit of inf would not be exactly off.

>>> import jax, jax.numpy as jnp
>>> @jax.jit  # one program for every rate and β: the chain is built of traced scalars
... def descend(w, learning_rate, beta):
...     tx = optimizer("momentum", learning_rate, momentum=beta)
...     state = tx.init(w)
...     for _ in range(3):
...         updates, state = tx.update(2 * w, state, w)  # ∇ w² = 2w
...         w = optax.apply_updates(w, updates)
...     return w
>>> round(float(descend(jnp.array(1.0), 0.1, 0.0)), 4), round(float(descend(1.0, 0.1, 0.5)), 4)
(0.512, 0.302)
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from ablax.errors import unknown
from ablax.schedules import Schedule, schedule
from ablax.weights import weight_mask

Scalar = Float[Array, ""] | float
# A rate: a number, or a schedule (step → number) that then is counted inside the state.
LearningRate = Scalar | Schedule


def sgd(learning_rate: LearningRate) -> optax.GradientTransformation:
    """u = s = −η ∇L(w): gradient descent, on whatever batch ∇L was taken over.

    >>> updates, _ = sgd(0.1).update(jnp.array(2.0), sgd(0.1).init(jnp.array(1.0)))
    >>> round(float(updates), 4)
    -0.2
    """
    return _same_dtypes(optax.scale_by_learning_rate(learning_rate))


def momentum(
    learning_rate: LearningRate, *, momentum: Scalar = 0.9
) -> optax.GradientTransformation:
    """v ← β v + s, u = v (heavy ball): u = s(n) + β s(n−1) + β² s(n−2) + …

    β = `momentum` in [0, 1); 0 is exactly sgd.

    Sources: Polyak 1964; course notes, "Momentum".

    >>> tx = momentum(1.0, momentum=0.5)
    >>> state = tx.init(jnp.array(0.0))
    >>> for _ in range(3):
    ...     updates, state = tx.update(jnp.array(1.0), state)
    ...     print(float(updates))
    -1.0
    -1.5
    -1.75
    """
    step = optax.scale_by_learning_rate(learning_rate)
    return _same_dtypes(optax.chain(step, optax.trace(momentum)))


def nesterov(
    learning_rate: LearningRate, *, momentum: Scalar = 0.9
) -> optax.GradientTransformation:
    """v ← β v + s, u = β v + s: the gradient as if taken where the velocity leads.

    β = `momentum` in [0, 1); 0 is exactly sgd. w is the look-ahead point of Nesterov's method.

    Source: Sutskever et al. 2013, "On the importance of initialization and momentum".

    >>> tx = nesterov(1.0, momentum=0.5)
    >>> updates, _ = tx.update(jnp.array(1.0), tx.init(jnp.array(0.0)))
    >>> float(updates)
    -1.5
    """
    step = optax.scale_by_learning_rate(learning_rate)
    return _same_dtypes(optax.chain(step, optax.trace(momentum, nesterov=True)))


def rmsprop(
    learning_rate: LearningRate, *, b2: Scalar = 0.9, eps: Scalar = 1e-8
) -> optax.GradientTransformation:
    """r ← ρ r + (1 − ρ) g², u = −η g / (√r + ε), from r = 0, without bias correction.

    ρ = `b2` in [0, 1). The first update is −η sign(g) / √(1 − ρ).

    Source: Hinton, "Neural networks for machine learning", lecture 6e.

    >>> tx = rmsprop(0.1, b2=0.75)
    >>> updates, _ = tx.update(jnp.array(3.0), tx.init(jnp.array(0.0)))
    >>> round(float(updates), 4)
    -0.2
    """
    scale = optax.scale_by_rms(decay=b2, eps=eps, eps_in_sqrt=False)
    return _same_dtypes(optax.chain(scale, optax.scale_by_learning_rate(learning_rate)))


def adam(
    learning_rate: LearningRate,
    *,
    momentum: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
) -> optax.GradientTransformation:
    """m ← β₁ m + (1 − β₁) g, r ← β₂ r + (1 − β₂) g², u = −η m̂ / (√r̂ + ε).

    At the t-th step m̂ = m / (1 − β₁^t) and r̂ = r / (1 − β₂^t). β₁ = `momentum`, β₂ = `b2`,
    both in [0, 1).

    Source: Kingma and Ba 2015, "Adam", algorithm 1.

    >>> tx = adam(0.1)
    >>> updates, _ = tx.update(jnp.array(3.0), tx.init(jnp.array(0.0)))
    >>> round(float(updates), 4)  # the first is −η sign(g)
    -0.1
    """
    scale = optax.scale_by_adam(b1=momentum, b2=b2, eps=eps)
    return _same_dtypes(optax.chain(scale, optax.scale_by_learning_rate(learning_rate)))


def adamw(
    learning_rate: LearningRate,
    *,
    momentum: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.01,
) -> optax.GradientTransformation:
    """`adam`, and w ← w − η λ w for weights beside it; λ = `weight_decay`, 0 is exactly adam.

    Source: Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm 2
    with its schedule multiplier η_t and its α joined in one rate η, as everyone has since.

    >>> tx = adamw(0.1, weight_decay=0.5)
    >>> w = {"kernel": jnp.array(2.0)}
    >>> updates, _ = tx.update({"kernel": jnp.array(3.0)}, tx.init(w), w)
    >>> round(float(updates["kernel"]), 4)  # −η sign(g) − η λ w
    -0.2
    """
    return optax.chain(
        adam(learning_rate, momentum=momentum, b2=b2, eps=eps),
        add_weight_decay(learning_rate, weight_decay),
    )


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": sgd,
    "momentum": momentum,
    "nesterov": nesterov,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": adamw,
}


def uses(name: str) -> frozenset[str]:
    """The hparams of `optimizer`, beside the learning rate, that the named family heeds.

    Raises:
        UserError: the name is not in `OPTIMIZERS`.

    >>> sorted(uses("nesterov"))
    ['clip_norm', 'momentum', 'weight_decay']
    """
    return _keywords(name) | {"weight_decay", "clip_norm"}


def _keywords(name: str) -> frozenset[str]:
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    parameters = inspect.signature(OPTIMIZERS[name]).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def optimizer(
    name: str,
    learning_rate: LearningRate,
    *,
    momentum: Scalar | None = None,
    b2: Scalar | None = None,
    eps: Scalar | None = None,
    weight_decay: Scalar | None = None,
    clip_norm: Scalar | None = None,
) -> optax.GradientTransformation:
    """Clipping, then the named family, then decoupled weight decay: one optax chain.

    Every scalar may be traced; None is static: the family's default, or no code at all. One
    Config serves every family, so an hparam that the named one does not use is ignored:
    `uses` says which, for whoever plans a sweep.

    Args:
        name: one of `OPTIMIZERS`; static.
        learning_rate: η, or a schedule step → η, counted in the state.
        momentum: β, or Adam's β₁, in [0, 1).
        b2: the decay ρ or β₂ of the squared gradient, in [0, 1).
        eps: ε of the denominator.
        weight_decay: λ of w ← w + u − η λ w, for every family; weights only, never a bias or
            a normalization's scale. 0 leaves u the same to the bit. (Loshchilov and Hutter 2019.
            The L2 penalty is another thing wherever u is not −η g.)
        clip_norm: bound c of the gradient's global norm, see `clip_by_global_norm`; inf is
            exactly off.

    Raises:
        UserError: the name is not in `OPTIMIZERS`.

    >>> w = {"kernel": jnp.array([1.0]), "bias": jnp.array([1.0])}
    >>> tx = optimizer("sgd", 0.5, weight_decay=0.1)
    >>> updates, _ = tx.update(jax.tree.map(jnp.zeros_like, w), tx.init(w), w)
    >>> print(updates["kernel"], updates["bias"])
    [-0.05] [-0.]
    """
    keywords = _keywords(name)
    options = {"momentum": momentum, "b2": b2, "eps": eps, "weight_decay": weight_decay}
    options = {k: v for k, v in options.items() if v is not None and k in keywords}
    chain = [OPTIMIZERS[name](learning_rate, **options)]
    if clip_norm is not None:
        chain.insert(0, clip_by_global_norm(clip_norm))
    if weight_decay is not None and "weight_decay" not in keywords:
        chain.append(add_weight_decay(learning_rate, weight_decay))
    return optax.chain(*chain) if len(chain) > 1 else chain[0]


def of_trial(name: str, decay: str = "constant") -> Callable[[Any], optax.GradientTransformation]:
    """Return trial → the named optimizer at the hparams of the trial.

    The learning rate is `trial.hparams.learning_rate`, under a schedule over the trial's steps;
    momentum and weight decay are the trial's where its Config has such fields.

    Args:
        name: one of `OPTIMIZERS`.
        decay: the schedule of the learning rate: "constant", "linear" or "cosine", to 0.

    >>> from types import SimpleNamespace
    >>> trial = SimpleNamespace(steps=10, hparams=SimpleNamespace(learning_rate=0.1, momentum=0.5))
    >>> tx = of_trial("momentum", "cosine")(trial)
    >>> updates, _ = tx.update(jnp.array(1.0), tx.init(jnp.array(0.0)))
    >>> round(float(updates), 4)
    -0.1
    """

    def chain(trial: Any) -> optax.GradientTransformation:
        fields = ("momentum", "weight_decay")
        scalars = {f: getattr(trial.hparams, f) for f in fields if hasattr(trial.hparams, f)}
        rate = trial.hparams.learning_rate
        if decay != "constant":
            rate = schedule(decay, rate, steps=trial.steps)
        return optimizer(name, rate, **scalars)

    return chain


def clip_by_global_norm(bound: Scalar) -> optax.GradientTransformation:
    """g ← g · min(1, c / ‖g‖), ‖·‖ the Euclidean norm over the whole tree, in float32.

    c = inf changes no bit, also where ‖g‖ overflows to inf or is NaN (optax's returns NaN
    there: inf is not below inf). With a finite c a norm that overflows gives g = 0.

    Source: Pascanu et al. 2013, "On the difficulty of training recurrent neural networks".

    >>> tx = clip_by_global_norm(1.0)
    >>> grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    >>> clipped, _ = tx.update(grads, tx.init(grads))
    >>> print(clipped["a"], clipped["b"])
    [0.6] [0.8]
    """

    def update(grads: PyTree, params: PyTree | None) -> PyTree:
        del params
        squares = [jnp.sum(jnp.square(g.astype(jnp.float32))) for g in jax.tree.leaves(grads)]
        norm = jnp.sqrt(sum(squares, start=jnp.float32(0.0)))
        factor = jnp.where(norm > bound, bound / norm, 1.0)
        return jax.tree.map(lambda g: g * factor, grads)

    return _same_dtypes(optax.stateless(update))


def add_weight_decay(
    learning_rate: LearningRate, weight_decay: Scalar
) -> optax.GradientTransformation:
    """u ← u − η λ w for weights, u for the rest: decoupled from gradient and velocity.

    Raises:
        ValueError: from `update`, if called without params.
    """
    if callable(learning_rate):
        coefficient = lambda step: -learning_rate(step) * weight_decay  # noqa: E731
    else:
        coefficient = -learning_rate * weight_decay
    return _same_dtypes(optax.add_decayed_weights(coefficient, mask=weight_mask))


def _same_dtypes(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """tx under standard dtype promotion, its updates and state in the dtypes they came in.

    Optax mixes Python numbers, int32 counts and float32 and so needs standard promotion. A
    float32 hparam would then turn bfloat16 velocities to float32 from the first step to the
    second, which a scan refuses: hence the casts, which do nothing in float32.
    """

    def init(params: optax.Params) -> optax.OptState:
        with jax.numpy_dtype_promotion("standard"):
            return tx.init(params)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"):
            new_updates, new_state = tx.update(updates, state, params)
        return optax.tree.cast_like(new_updates, updates), optax.tree.cast_like(new_state, state)

    return optax.GradientTransformation(init, update)
