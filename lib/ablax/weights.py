"""Which leaves of a parameter tree are weights, by the names that Flax's layers give them.

Penalties, weight decay and the scale of an initialization act on weights. Biases and the
gains of normalizations are few, set offsets and not complexity, and are left alone.
"""

from jax.tree_util import KeyPath, keystr, tree_map_with_path
from jaxtyping import PyTree

NOT_WEIGHTS = frozenset({"bias", "scale"})


def weight_mask(params: PyTree) -> PyTree:
    """A tree of bools like `params`: False for leaves named "bias" or "scale", else True.

    >>> import numpy as np
    >>> weight_mask({"output": {"kernel": np.ones((2, 2)), "bias": np.ones(2)}})
    {'output': {'bias': False, 'kernel': True}}
    """
    return tree_map_with_path(lambda path, leaf: is_weight(path), params)


def incoming_axes(path: KeyPath, ndim: int) -> tuple[int, ...]:
    """The axes of a weight that run over what leads to one unit.

    "weight" is [out, in], the layout of `Dense`; "kernel" and all else [..., in, out], Flax's.
    A weight of one axis is one unit's vector.

    >>> from jax.tree_util import DictKey
    >>> incoming_axes((DictKey("weight"),), 2), incoming_axes((DictKey("kernel"),), 4)
    ((1,), (0, 1, 2))
    """
    if ndim < 2:
        return tuple(range(ndim))
    of_dense = keystr(path[-1:], simple=True) == "weight"
    return tuple(range(1, ndim)) if of_dense else tuple(range(ndim - 1))


def is_weight(path: KeyPath) -> bool:
    """True if the leaf at this path is a weight; a bare array (of path ()) is one."""
    return keystr(path[-1:], simple=True) not in NOT_WEIGHTS
