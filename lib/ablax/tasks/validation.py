"""Tasks that validate on another split: on the training examples, or (an oracle) on the test split.

An oracle selects its weights on the test split, which nobody can do: it bounds what any rule that
selects by validation could reach. The engine keeps the test split from training under its name, so
the oracle is given it under another, and only to evaluate.
"""

from typing import Any, NamedTuple

from jaxtyping import PyTree

from ablax.metrics import Metric
from ablax.task import Sums, Task, Trial


class Peeking(NamedTuple):
    """The oracle's validation split, and the test examples that it looks at."""

    valid: Any
    peeked: Any


def validate_on_training(task: Task) -> Task:
    """Return the task with its training examples for validation, and no objective.

    For studies of descent rather than of generalization: curves and choices between points are of
    the training examples, and the parameters that count are the last.
    """

    def view(trial: Trial, data: Any) -> dict[str, Any]:
        parts = task.view(trial, data)
        return {**parts, "valid": parts["train"]}

    return task.replace(view=view, objective=None)


def oracle(task: Task, metric: Metric) -> Task:
    """Return the task with a metric of its test split as the objective.

    Trained, and evaluated on every split, as before. At each evaluation the metric of the test
    split is there as well, among those of the validation split as "peeked_" and its name.

    Args:
        task: with a validation and a test split, called "valid" in its view and "test".
        metric: one of those that the task evaluates.
    """
    peeked = Metric(f"peeked_{metric.name}", metric.direction)

    def view(trial: Trial, data: Any) -> dict[str, Any]:
        parts = task.view(trial, data)
        return {**parts, "valid": Peeking(parts["valid"], data["peeked"])}

    def evaluate(variables: PyTree, trial: Trial, split: Any) -> Sums:
        if not isinstance(split, Peeking):
            return task.evaluate(variables, trial, split)
        seen = task.evaluate(variables, trial, split.peeked)[metric.name]
        return task.evaluate(variables, trial, split.valid) | {peeked.name: seen}

    data = {**task.data, "peeked": task.data["test"]}
    return task.replace(data=data, view=view, evaluate=evaluate, objective=peeked)
