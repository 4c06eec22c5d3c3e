"""./launch.sh bench gpu: networks per second on a GPU, Ablax beside PyTorch.

Every side trains the networks of `gpu_ours.py` on the same device, in a process of its own: it
has the device's memory to itself, and when it fails or takes too long the others go on.
Start-up, compilation and warm-up are not counted. Without a GPU the same runs on the CPU, with
smaller sizes, and says so.
"""

import importlib
import multiprocessing
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from ablax.bench.gpu_ours import (
    BATCH_SIZE,
    CLASSES,
    FEATURES,
    WIDTH,
    Asked,
    flops_per_step,
    in_a_line,
)
from ablax.bench.machine import provenance
from ablax.bench.peers import missing
from ablax.bench.tables import Part, heading, pairs, publish, table, targets_table
from ablax.bench.workload import L2, LEARNING_RATE, MOMENTUM
from ablax.cli.flags import read
from ablax.errors import UserError


class Side(NamedTuple):
    words: str
    module: str  # of this folder; its function has the side's name
    limit: float  # seconds; all of them together are less than 9 minutes


SIDES = {
    "ablax": Side("Ablax", "gpu_ours", 300),
    "torch_loop": Side("PyTorch loop", "gpu_peers", 75),
    "torch_vmap": Side("PyTorch vmapped ensemble", "gpu_peers", 150),
}
NETWORKS_PER_SECOND = 100.0
OVER = {"torch_loop": 100.0, "torch_vmap": 5.0}
"""The numbers to reach on one H200."""


@dataclass(frozen=True)
class Flags:
    """Networks per second on a GPU: Ablax beside a PyTorch loop and PyTorch's vmapped ensemble."""

    sides: Annotated[
        tuple[Literal["ablax", "torch_loop", "torch_vmap"], ...],
        tyro.conf.arg(help="who takes part"),
    ] = ("ablax", "torch_loop", "torch_vmap")
    slots: Annotated[
        tuple[int, ...],
        tyro.conf.arg(help="slots per device to measure; by default 1 … 16384 (few on a CPU)"),
    ] = ()
    precision: Annotated[
        Literal["default", "highest"],
        tyro.conf.arg(help="of matrix products, for all sides: on a GPU default is TF32"),
    ] = "default"
    quick: Annotated[bool, tyro.conf.arg(help="tiny sizes, to see that it runs")] = False
    out: Annotated[Path, tyro.conf.arg(help="where to write the numbers")] = Path(
        "runs/bench-gpu.json"
    )


def main(arguments: list[str]) -> None:
    flags = read(Flags, "bench gpu", arguments)
    if any(slots < 1 for slots in flags.slots):
        raise UserError(f"--slots: expected at least 1, got {min(flags.slots)}")
    result = measure(flags)
    publish(result, parts(result), flags.out)


def measure(flags: Flags) -> dict[str, Any]:
    """Everything that was asked for, as the JSON that is written."""
    sides: dict[str, dict[str, Any]] = {}
    for side in dict.fromkeys(flags.sides):
        why = missing("torch") if side.startswith("torch") else None
        asked = Asked(flags.quick, flags.precision, flags.slots, SIDES[side].limit)
        sides[side] = {"failed": why} if why else apart(side, asked)
    compare(sides)
    setups = [side["setup"] for side in sides.values() if "setup" in side]
    first = setups[0] if setups else {}
    gpu = bool(setups) and all(setup["platform"] == "gpu" for setup in setups)
    return {
        **provenance(),
        "gpu": gpu,
        "device": device(first),
        "work": work(first),
        "not_counted": "start-up, compilation and warm-up; the data are on the device before",
        "flops_per_step": flops_per_step(),
        "names": {name: side.words for name, side in SIDES.items()},
        "sides": sides,
        "targets": targets(sides, judged=gpu and not flags.quick),
        "flags": {**asdict(flags), "out": str(flags.out)},
    }


def device(setup: dict[str, Any]) -> str:
    """Device of the first side that reported one; distinguishes a machine without a GPU."""
    platform = setup.get("platform", "gpu")
    note = "" if platform == "gpu" else f" (no GPU: this is a {platform.upper()})"
    return f"{setup.get('device', 'unknown')}{note}"


def work(setup: dict[str, Any]) -> str:
    """Work of every side, in a sentence."""
    if not setup:
        return "no side came as far as its data"
    sizes = setup["sizes"]
    return (
        f"{FEATURES}-{WIDTH}-{CLASSES} ReLU networks, {setup['data']}, {sizes['train_rows']:,} "
        f"rows, batch {BATCH_SIZE}, {sizes['epochs']} epochs of whole minibatches = "
        f"{setup['steps']:,} steps, SGD, rate {LEARNING_RATE:g}, momentum {MOMENTUM:g}, L2 "
        f"{' '.join(f'{l2:g}' for l2 in L2)} × restarts, validated once on "
        f"{sizes['valid_rows']:,} rows, at the end"
    )


def compare(sides: dict[str, dict[str, Any]]) -> None:
    """Add to every peer that trained on the same kind of device how often Ablax is as fast."""
    done = {name: side for name, side in sides.items() if "training" in side}
    ours = done.pop("ablax", None)
    for side in done.values():
        if ours and side["setup"]["platform"] == ours["setup"]["platform"]:
            rates = [s["training"]["networks_per_second"] for s in (ours, side)]
            side["ablax_over"] = rates[0] / rates[1]


def targets(sides: dict[str, dict[str, Any]], *, judged: bool) -> list[dict[str, Any]]:
    """The numbers to reach, and whether they were; judged on a GPU, at full size."""
    listed = [
        (f"networks per second over {SIDES[peer].words}", least, sides[peer]["ablax_over"])
        for peer, least in OVER.items()
        if "ablax_over" in sides.get(peer, {})
    ]
    if "training" in sides.get("ablax", {}):
        rate = sides["ablax"]["training"]["networks_per_second"]
        listed.insert(0, ("networks per second", NETWORKS_PER_SECOND, rate))

    def verdict(got: float, least: float) -> str:
        return "not judged" if not judged else "met" if got >= least else "missed"

    return [
        {
            "what": what,
            "sign": "≥",
            "target": least,
            "measured": got,
            "verdict": verdict(got, least),
        }
        for what, least, got in listed
    ]


def apart(side: str, asked: Asked) -> dict[str, Any]:
    """Result of a side that ran in its own process, and its failure, if it failed."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(sender, side, asked), daemon=True)
    process.start()
    sender.close()
    until = time.perf_counter() + asked.limit
    parts: dict[str, Any] = {}
    try:
        while receiver.poll(max(until - time.perf_counter(), 0)):
            name, value = receiver.recv()
            parts[name] = value
        parts["failed"] = f"stopped after {asked.limit:g} s"
    except EOFError:
        process.join(timeout=10)
        if process.exitcode:
            parts["failed"] = f"its process died with status {process.exitcode}"
    finally:
        process.kill()
        process.join()
    return parts


def serve(sender: Connection, side: str, asked: Asked) -> None:
    """The process of a side: hand over every part as it comes, or else the error."""
    try:
        module = importlib.import_module(f"ablax.bench.{SIDES[side].module}")
        getattr(module, side)(asked, lambda name, value: sender.send((name, value)))
    except Exception as error:
        traceback.print_exc()
        sender.send(("failed", in_a_line(error)))


def parts(result: dict[str, Any]) -> Iterator[Part]:
    """Everything that was measured, targets last."""
    names, sides = result["names"], result["sides"]
    lines = [
        f"device    {result['device']}",
        f"work      {result['work']}",
        f"not counted: {result['not_counted']}",
    ]
    for name, side in sides.items():
        if "setup" in side:
            stated = {k: _number(v) for k, v in side["setup"]["precision"].items()}
            lines.append(f"precision {names[name]}: {pairs(stated)}")
    yield heading(result) + "\n".join(lines) + "\n"
    yield _trainings(sides, names)
    for name, side in sides.items():
        if "slots" in side or "ensembles" in side:
            yield _curve(names[name], side)
    yield targets_table(result["targets"])


def _trainings(sides: dict[str, dict[str, Any]], names: dict[str, str]) -> Any:
    rows = []
    for name, side in sides.items():
        if "training" in side:
            done = side["training"]
            ran, steps = done["steps_run"], side["setup"]["steps"]
            accuracies = (done["valid_accuracy"] or {}).values()
            rows.append(
                [
                    names[name],
                    f"{done['networks']:,}",
                    f"{done['seconds']:.2f}",
                    f"{done['networks_per_second']:.3g}",
                    "all" if ran == steps else f"{ran:,} of {steps:,}, extrapolated",
                    f"{side['ablax_over']:.1f}" if "ablax_over" in side else "",
                    " ".join(f"{accuracy:.4f}" for accuracy in accuracies),
                ]
            )
        if "failed" in side:
            rows.append([names[name], "", "", "", side["failed"], "", ""])
    columns = ["", "n", "seconds", "networks/s", "steps", "Ablax is faster by", "accuracy by L2"]
    return table("Whole trainings", columns, rows)


def _curve(name: str, side: dict[str, Any]) -> Any:
    """Networks at once against throughput; Ablax's has the share of the device's products."""
    rows = []
    for row in side.get("slots", side.get("ensembles", [])):
        if "failed" in row:
            rows.append([f"{row['networks']:,}", row["failed"], "", "", "", ""])
            continue
        rate = row.get("flops_per_second", row["steps_per_second"] * flops_per_step())
        share = row.get("share_of_matrix_products")
        rows.append(
            [
                f"{row['networks']:,}",
                f"{1e6 * row['seconds_per_step'] / row['networks']:.2f}",
                f"{row['steps_per_second']:,.0f}",
                f"{row['networks_per_second']:.3g}",
                f"{rate / 1e12:.3g}",
                "" if share is None else f"{share:.1%}",
            ]
        )
    title = f"{name}: networks at once against throughput"
    if "matrix_products" in side:
        peak = side["matrix_products"]
        n = peak["size"]
        title += f"; one product of {n}×{n}: {peak['flops_per_second'] / 1e12:.3g} TFLOP/s"
    columns = ["networks", "µs per network·step", "steps/s", "networks/s", "TFLOP/s", "of that"]
    return table(title, columns, rows)


def _number(value: Any) -> str:
    return f"{value:.1e}" if isinstance(value, float) else str(value)
