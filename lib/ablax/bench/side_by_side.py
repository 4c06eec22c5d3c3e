"""Ablax and the peers in one run, in turns, at the same work."""

import statistics
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ablax.bench import ours
from ablax.bench.peers import Processes
from ablax.bench.workload import Measured, Pair, Workload, pairs
from ablax.data.splits import Splits
from ablax.engine.mesh import slots_per_device
from ablax.report.statistics import mean_interval


def slots_by_rule(trials: int) -> int:
    """The slots per device that a study of so many trials would get."""
    return slots_per_device(trials, jax.device_count(), bytes_per_slot=1)


def rates(workload: Workload, measured: Measured) -> dict[str, float]:
    return {
        "trials": measured.trials,
        "seconds": measured.seconds,
        "trials_per_minute": 60 * measured.trials / measured.seconds,
        "us_per_step": measured.seconds / measured.trials / workload.steps * 1e6,
        "cpu_us_per_step": measured.cpu_seconds / measured.trials / workload.steps * 1e6,
    }


def restart_means(run: Measured) -> np.ndarray:
    """The accuracy of each restart, over the strengths of L2: these are independent."""
    restarts = [restart for _, restart in pairs(run.trials)]
    return np.bincount(restarts, weights=run.accuracies) / np.bincount(restarts)


def against(
    splits: Splits,
    workload: Workload,
    processes: Mapping[str, Processes],
    *,
    trials: Mapping[str, int],
    repeats: int,
) -> dict[str, Any]:
    """Ablax and the peers in turns, other restarts in every repeat.

    A side's row has the totals of all repeats; a ratio is the median of the repeats' ratios.
    """
    for process in processes.values():
        process.prepare(workload)
    per_device = slots_by_rule(trials["ablax"])
    runner = ours.engine_of(ours.task(splits, workload.width), per_device, steps=workload.steps)
    ours.train(runner, pairs(runner.n_slots), steps=ours.INTERVAL)  # warm-up

    def train(side: str, chosen: list[Pair]) -> Measured:
        if side == "ablax":
            return ours.train(runner, chosen, steps=workload.steps)
        return processes[side].train(chosen)

    measured: dict[str, list[Measured]] = {side: [] for side in ("ablax", *processes)}
    for repeat in range(repeats):
        order = list(measured)
        for side in order[repeat % len(order) :] + order[: repeat % len(order)]:
            n = trials[side]
            measured[side].append(train(side, pairs(n, first_restart=repeat * n)))
    sides = {}
    for side, runs in measured.items():
        whole = Measured(
            sum(r.trials for r in runs),
            sum(r.seconds for r in runs),
            sum(r.cpu_seconds for r in runs),
            [],
        )
        interval = mean_interval(np.concatenate([restart_means(run) for run in runs]))
        ratios = [
            rates(workload, ablax)["trials_per_minute"] / rates(workload, run)["trials_per_minute"]
            for ablax, run in zip(measured["ablax"], runs, strict=True)
        ]
        sides[side] = {
            **rates(workload, whole),
            "valid_accuracy": interval.estimate,
            "low": interval.low,
            "high": interval.high,
            "ratio": statistics.median(ratios),
            "ratio_low": min(ratios),
            "ratio_high": max(ratios),
        }
    for side in sides.values():
        side["overlaps"] = bool(
            side["low"] <= sides["ablax"]["high"] and sides["ablax"]["low"] <= side["high"]
        )
    return {
        "width": workload.width,
        "steps": workload.steps,
        "slots_per_device": per_device,
        "sides": sides,
    }
