"""./launch.sh bench sweep: trials per minute, Ablax beside three other ways to train them.

All sides train the same networks for the same number of steps on the same CPU in one run, in
turns; start-up and compilation are not counted. The work is that of `workload.py`: digits, a
64-32-10 ReLU network, minibatches of 64, SGD with momentum, L2 × restarts, no dropout.
"""

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from ablax.bench import costs, ours, sweep_tables
from ablax.bench.machine import available_cores, provenance
from ablax.bench.peers import PEERS, Processes, missing
from ablax.bench.side_by_side import against
from ablax.bench.sizes import FULL, QUICK
from ablax.bench.tables import publish
from ablax.bench.workload import BATCH_SIZE, L2, LEARNING_RATE, MOMENTUM, TRAIN_ROWS
from ablax.cli.flags import read
from ablax.engine.mesh import cpu_devices_per_core
from ablax.errors import UserError

Side = Literal["jax", "jax_loop", "torch", "sklearn"]
Part = Literal["segment", "busy", "slots", "widths", "growth"]


@dataclass(frozen=True)
class Flags:
    """Ablax beside one JAX trial at a time, PyTorch and scikit-learn, on this machine's CPU."""

    repeats: Annotated[int, tyro.conf.arg(help="times that all sides take their turn")] = 3
    peers: Annotated[tuple[Side, ...], tyro.conf.arg(help="whom to stand beside")] = (
        "jax",
        "jax_loop",
        "torch",
        "sklearn",
    )
    parts: Annotated[tuple[Part, ...], tyro.conf.arg(help="what else to measure")] = (
        "segment",
        "busy",
        "slots",
        "widths",
        "growth",
    )
    quick: Annotated[bool, tyro.conf.arg(help="tiny sizes, to see that it runs")] = False
    out: Annotated[Path, tyro.conf.arg(help="where to write the numbers")] = Path(
        "runs/bench-sweep.json"
    )


def main(arguments: list[str]) -> None:
    flags = read(Flags, "bench sweep", arguments)
    if flags.repeats < 1:
        raise UserError(f"--repeats: expected at least 1, got {flags.repeats}")
    jax.config.update("jax_platforms", "cpu")  # the peers' device
    cpu_devices_per_core()
    result = measure(flags)
    publish(result, sweep_tables.parts(result), flags.out)


def measure(flags: Flags) -> dict[str, Any]:
    """Everything that was asked for, as the JSON that is written."""
    sizes = QUICK if flags.quick else FULL
    splits = ours.digits()
    absent = {peer: why for peer in flags.peers if (why := missing(peer))}
    peers = [peer for peer in dict.fromkeys(flags.peers) if peer not in absent]
    work = (
        f"digits ({TRAIN_ROWS} training rows), ReLU, batch {BATCH_SIZE}, SGD, "
        f"rate {LEARNING_RATE:g}, momentum {MOMENTUM:g}, "
        f"L2 {' '.join(f'{l2:g}' for l2 in L2)} × restarts, no dropout, validated once, at the end"
    )
    result: dict[str, Any] = {
        **provenance(),
        "work": work,
        "names": {"ablax": "Ablax"} | {name: peer.words for name, peer in PEERS.items()},
        "absent": absent,
    }
    cores = available_cores()

    def trials(of_jax: int) -> dict[str, int]:
        # Turns of like length: a shared machine favours whoever computes in short bursts.
        return {
            peer: at_least(of_jax if peer.startswith("jax") else sizes.peer_trials, len(cores))
            for peer in peers
        }

    with contextlib.ExitStack() as stack:
        processes = {p: stack.enter_context(Processes(p, cores)) for p in peers}
        result["side_by_side"] = against(
            splits,
            ours.workload(splits, 32, sizes.epochs),
            processes,
            trials={"ablax": sizes.trials, **trials(sizes.jax_trials)},
            repeats=flags.repeats,
        )
        if "widths" in flags.parts:
            result["widths"] = [
                against(
                    splits,
                    ours.workload(splits, width, sizes.width_epochs),
                    processes,
                    trials={"ablax": sizes.width_trials, **trials(sizes.width_trials)},
                    repeats=flags.repeats,
                )
                for width in sizes.widths
            ]
    if "segment" in flags.parts:
        result["segment"] = costs.segment_over_bare(splits, sizes)
    if "busy" in flags.parts:
        result["busy"] = costs.busy(sizes)
    if "slots" in flags.parts:
        result["slots"] = costs.slots(splits, sizes)
    if "growth" in flags.parts:
        result["growth"] = costs.growth(sizes)
    result["targets"] = targets(result)
    return result | {"flags": {**asdict(flags), "out": str(flags.out)}, "sizes": asdict(sizes)}


def targets(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The numbers to reach, and whether they were."""
    sides = result["side_by_side"]["sides"]
    listed = [
        (f"trials per minute over {PEERS[peer].words}", "≥", least, sides[peer]["ratio"])
        for peer, least in {"torch": 12.0, "sklearn": 8.0, "jax": 1.8}.items()
        if peer in sides
    ]
    if "segment" in result:
        listed += [
            (f"segment over bare scan, {name}", "≤", limit, result["segment"][name]["over_bare"])
            for name, limit in {
                "without dropout": 1.3,
                "with dropout": 1.5,
            }.items()
            if name in result["segment"]
        ]
    if "busy" in result:
        share = result["busy"]["share_busy_until_queue_empty"]
        listed.append(("share of slots busy until the queue is empty", "≥", 0.9, share))
    return [
        {
            "what": what,
            "sign": sign,
            "target": target,
            "measured": got,
            "verdict": "met" if (got >= target if sign == "≥" else got <= target) else "missed",
        }
        for what, sign, target, got in listed
    ]


def at_least(n: int, cores: int) -> int:
    """n, or the next number that gives every core as many trials."""
    return -(-n // cores) * cores
