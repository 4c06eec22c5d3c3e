"""The cost of a queue, against the clock of one that is run step by step."""

import numpy as np
import pytest

from ablax.analysis.queueing import capacity


def queued(steps: list[int], slots: int) -> int:
    """Steps until the last of a queue has ended, one by one."""
    waiting, running, clock = list(steps), [], 0
    while waiting or running:
        while waiting and len(running) < slots:
            running.append(waiting.pop(0))
        running = [left - 1 for left in running if left > 1]
        clock += 1
    return clock


@pytest.mark.parametrize("slots", [1, 3, 8])
@pytest.mark.parametrize("n", [1, 7, 24])
def test_a_queue_costs_as_much_as_step_by_step(slots, n):
    rng, most = np.random.default_rng(slots), 30.0
    steps = rng.integers(1, 30, n).astype(float)
    costs = capacity(steps, slots, most)
    batches = [steps[i : i + slots] for i in range(0, n, slots)]
    everything = len(batches) * slots * most  # of all slots, idle ones too
    clock = queued(steps.astype(int).tolist(), slots)
    expected = {
        "every trial to the end": 1.0,
        "stopped, but waiting for the slowest of its batch": (
            slots * sum(map(max, batches)) / everything
        ),
        "stopped, slots refilled at once": clock * slots / everything,
        "steps that train": steps.sum() / everything,
    }
    assert list(costs) == list(expected)
    np.testing.assert_allclose(list(costs.values()), list(expected.values()))


def test_what_is_never_stopped_costs_everything():
    costs = capacity(np.full(8, 5.0), slots=4, most=5.0)
    assert set(costs.values()) == {1.0}
