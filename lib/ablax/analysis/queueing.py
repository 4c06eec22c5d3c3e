"""The cost of a queue of trials that take different numbers of steps, on a number of slots."""

import numpy as np
from jaxtyping import Float

TO_THE_END = "every trial to the end"


def capacity(steps: Float[np.ndarray, " trials"], slots: int, most: float) -> dict[str, float]:
    """Steps of all slots together that a queue of trials costs, as shares of no stopping at all.

    With n trials of tᵢ steps, S slots and B = ⌈n / S⌉ batches, in units of B · S · most:

        every trial to the end                               B · S · most
        stopped, but waiting for the slowest of its batch    S · Σ over batches of max tᵢ
        stopped, slots refilled at once                      S · (when the last slot is free)
        steps that train                                     Σ tᵢ

    Args:
        steps: tᵢ, in the order of the queue: the next goes where a slot is free first.
        slots: S, trained at once.
        most: steps of a trial that is not stopped.

    >>> for name, share in capacity(np.array([1.0, 4.0, 2.0, 1.0]), slots=2, most=4).items():
    ...     print(f"{share:.3f} {name}")
    1.000 every trial to the end
    0.750 stopped, but waiting for the slowest of its batch
    0.500 stopped, slots refilled at once
    0.500 steps that train
    """
    free = np.zeros(slots)
    for n in steps:
        free[np.argmin(free)] += n
    batches = [steps[i : i + slots] for i in range(0, len(steps), slots)]
    costs = {
        TO_THE_END: len(batches) * slots * most,
        "stopped, but waiting for the slowest of its batch": sum(slots * b.max() for b in batches),
        "stopped, slots refilled at once": slots * free.max(),
        "steps that train": steps.sum(),
    }
    return {name: float(n / costs[TO_THE_END]) for name, n in costs.items()}
