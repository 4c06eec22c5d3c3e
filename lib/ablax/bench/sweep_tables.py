"""Tables of `bench sweep`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from ablax.bench.tables import Part, heading, table, targets_table


def parts(result: Mapping[str, Any]) -> Iterator[Part]:
    yield f"{heading(result)}work      {result['work']}\n"
    sides = result["side_by_side"]
    yield side_by_side(sides, result["names"], result["absent"])
    if "segment" in result:
        yield table(
            "A segment over a bare scan of the same shapes",
            ["", "µs per trial·step", "over bare"],
            [
                [name, f"{row['us_per_step']:.1f}", f"{row['over_bare']:.2f}"]
                for name, row in result["segment"].items()
            ],
        )
    if "busy" in result:
        busy = result["busy"]
        seconds = ", ".join(f"{n} 1 × {s:.1f} s" for n, s in busy["compile_seconds"].items())
        yield (
            f"Early stopping: {busy['trials']} trials, {busy['stopped_early']} stopped early, "
            f"median {busy['median_steps']:.0f} steps, on {busy['slots']} slots:\n"
            f"  slots busy until the queue is empty {busy['share_busy_until_queue_empty']:.1%}, "
            f"of all capacity lost to the drain {busy['share_lost_to_drain']:.1%}\n"
            f"  compiled: {seconds}; while training: {busy['compilations_while_training']}\n"
        )
    if "slots" in result:
        yield table(
            "Throughput against slots per device",
            ["slots per device", "µs per trial·step", "trials per minute", "compile s"],
            [
                [
                    f"{row['slots_per_device']}", f"{row['us_per_step']:.1f}",
                    f"{row['trials_per_minute']:,.0f}", f"{row['compile_seconds']:.1f}",
                ]
                for row in result["slots"]
            ],
        )  # fmt: skip
    if "widths" in result:
        yield widths(result["widths"], result["names"])
    if "growth" in result:
        yield table(
            "Trials of 4 steps: ms per trial, equal if the host's work grows linearly",
            ["trials", "engine", "whole study, compilation excluded"],
            [
                [f"{row['trials']:,}", *(_per_trial(row, side) for side in ("engine", "study"))]
                for row in result["growth"]
            ],
        )  # fmt: skip
    yield targets_table(result["targets"])


def side_by_side(part: Mapping[str, Any], names: Mapping[str, str], absent: Mapping) -> Table:
    rows = []
    for side, row in part["sides"].items():
        half = (row["high"] - row["low"]) / 2
        ablax = side == "ablax"
        rows.append(
            [
                names[side],
                f"{row['trials']}",
                f"{row['seconds']:.1f}",
                f"{row['trials_per_minute']:,.0f}",
                f"{row['us_per_step']:.1f}",
                f"{row['cpu_us_per_step']:.1f}",
                "" if ablax else _ratio(row),
                f"{row['valid_accuracy']:.4f} ± {half:.4f}",
                "" if ablax else "yes" if row["overlaps"] else "no",
            ]
        )
    rows += [[names[side], why, *[""] * 7] for side, why in absent.items()]
    return table(
        f"Width {part['width']}, {part['steps']} steps a trial, "
        f"{part['slots_per_device']} slots per device",
        [
            "", "n", "seconds", "trials per minute", "µs per trial·step", "CPU µs",
            "Ablax/peer (range)", "valid accuracy, 95%", "overlaps",
        ],
        rows,
    )  # fmt: skip


def widths(parts: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> Table:
    peers = [side for side in parts[0]["sides"] if side != "ablax"]
    return table(
        "Width of the hidden layer (a wide network gains less: alone it already fills a CPU)",
        ["width", "Ablax µs per trial·step", *(f"Ablax / {names[peer]} (range)" for peer in peers)],
        [
            [
                f"{part['width']}",
                f"{part['sides']['ablax']['us_per_step']:.1f}",
                *(_ratio(part["sides"][peer]) for peer in peers),
            ]
            for part in parts
        ],
    )


def _per_trial(row: Mapping[str, float], side: str) -> str:
    return f"{1e3 * row[side] / row['trials']:.3f}"


def _ratio(row: Mapping[str, float]) -> str:
    return f"{row['ratio']:.2f} ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})"
