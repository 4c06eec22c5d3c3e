"""Where a study runs: in this process, in several on this machine, on SLURM, on a TPU pod.

`parse` takes the launcher's flags out of the command line; the experiment never sees them.
Then either `start` hands the command to processes elsewhere (`local`, `submit`), or this
process runs the study itself, inside of `member`, which connects it to its fellows if it has
any (`cluster`).
"""

import os
from collections.abc import Sequence

from ablax.cli.launchers import local, submit
from ablax.cli.launchers.cluster import member
from ablax.cli.launchers.where import Where, parse

__all__ = ["Where", "member", "parse", "start", "starts_others"]


def starts_others(where: Where) -> bool:
    """True if this process only starts those that run the study."""
    several_here = where.processes > 1 and where.coordinator is None
    return where.on != "local" or where.dry_run or several_here


def start(where: Where, command: Sequence[str]) -> int:
    """Start `command`, the study's own arguments, where it belongs; returns the exit status."""
    if where.on == "slurm":
        return submit.slurm(where, command)
    if where.on == "tpu-pod":
        return submit.tpu_pod(where, command)
    processes = local.processes_of(where, command, os.environ)
    if where.dry_run:
        for process in processes:
            print(process)
        return 0
    return local.run(processes)
