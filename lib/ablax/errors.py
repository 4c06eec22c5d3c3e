"""Mistakes of a user, each reported in one message.

Everything that a user can get wrong raises `UserError` before anything is compiled; the
command line prints its message without a traceback and exits with status 2. Every other
exception is a defect of ours and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what was asked for: says what was expected and what was got."""


class Missing(LookupError):
    """A study lacks a point, a column or an array that a claim or a figure is about.

    Raised wherever such a thing is looked up, and caught once where claims are judged and once
    around each figure: a user's own grid need not have what the experiment's table has.
    """


def unknown(kind: str, got: str, allowed: Iterable[str]) -> UserError:
    """The error for a name outside a closed set, with the nearest name and all names.

    >>> print(unknown("activation", "rleu", ["relu", "tanh"]))
    unknown activation 'rleu'; did you mean 'relu'? Expected one of: relu, tanh
    """
    names = sorted(allowed)
    near = difflib.get_close_matches(got, names, n=1)
    near = near or [name for name in names if got and name.startswith(got)]
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return UserError(f"unknown {kind} {got!r}{hint} Expected one of: {', '.join(names)}")


def flag_of(name: str) -> str:
    """The flag of a field, as messages name it.

    >>> flag_of("dropout_rate")
    '--dropout-rate'
    """
    return "--" + name.replace("_", "-")
