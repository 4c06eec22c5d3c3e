"""Studies on other machines: a SLURM job, or all workers of a TPU pod."""

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ablax.checkout import CHECKOUT, LAUNCH
from ablax.cli.launchers.where import Where
from ablax.errors import UserError

SCRIPT = """\
#!/bin/bash
{options}

# One node sets the environment up before all of them need it, for what this node has: without
# ABLAX_PYTHON, JAX_PLATFORMS is what launch.sh chose for the machine that submitted.
[ -n "${{ABLAX_PYTHON:-}}" ] || unset JAX_PLATFORMS
{launch} list >/dev/null || exit

# Two minutes before the time limit the tasks are asked to stop. By
# scancel: srun turns a SIGTERM of its own into SIGKILL. SIGTERM is SLURM's, on preemption: the
# tasks get it too, and this script only waits for them.
trap 'scancel --signal=TERM "$SLURM_JOB_ID"' USR1
trap : TERM
{srun} &
step=$!
while kill -0 "$step" 2>/dev/null; do wait "$step"; done  # a signal ends a wait early
wait "$step"
status=$?

# 130: stopped, to be resumed by the same command; 143: a task that was not quick enough. A job that
# was cancelled is no longer running, and stays so.
case "$status" in
  130 | 143)
    if [ "$(squeue --noheader --job="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
      scontrol requeue "$SLURM_JOB_ID"
    fi
    ;;
esac
exit "$status"
"""


def script(where: Where, command: Sequence[str], launch: Sequence[str] = LAUNCH) -> str:
    """The batch script that runs the study on `where.nodes` nodes.

    One task a node: a process drives all devices of its node (as it does without SLURM), the
    host's work is done once a node, and jobs with and without GPUs differ by one line. The run
    directory must be on a file system that all nodes share.
    """
    options = {
        "job-name": f"ablax-{Path(command[0]).stem}",
        "nodes": where.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": where.cpus_per_task,
        "gpus-per-node": where.gpus_per_node,
        "time": where.time,
        "partition": where.partition,
        "account": where.account,
        "output": "%x-%j.out",
        "open-mode": "append",
        "requeue": "",
        "signal": "B:USR1@120",
    }
    lines = [
        f"#SBATCH --{name}" + (f"={value}" if value != "" else "")
        for name, value in options.items()
        if value is not None
    ]
    srun = ["srun", "--kill-on-bad-exit=1", "--wait=30"]
    if where.cpus_per_task is not None:
        srun.append(f"--cpus-per-task={where.cpus_per_task}")  # srun does not take the job's
    return SCRIPT.format(
        options="\n".join(lines),
        launch=shlex.join(launch),
        srun=shlex.join([*srun, *launch, *command]),
    )


def slurm(where: Where, command: Sequence[str]) -> int:
    """Submit the study from the working directory, to which its relative paths belong."""
    text = script(where, command)
    if where.dry_run:
        print(text, end="")
        return 0
    status = _run(["sbatch"], "--on slurm: expected a machine that submits to SLURM", text)
    if status:
        raise UserError(f"sbatch refused the job (status {status}); its own message is above")
    return 0


def tpu_command(where: Where, command: Sequence[str]) -> list[str]:
    """gcloud's ssh to all workers at once, each of which runs the same command.

    The repository lies in the same folder on every worker (`--remote-dir`; by default in the
    home directory, under the name it has here), and the run directory (`--out`) on a path that
    all of them share: a mounted bucket or NFS. Ctrl-C here ends the connection; the workers
    notice only when they print.
    """
    if CHECKOUT is None:
        raise UserError("--on tpu-pod: expected a checkout of Ablax, got an installed package")
    folder = where.remote_dir or f"~/{CHECKOUT.name}"
    # The remote shell expands a tilde only if it is unquoted up to its slash.
    home, rest = re.findall(r"^(~[\w.-]*/?)?(.*)$", folder)[0]
    study = shlex.join(["./launch.sh", *command])
    there = f"cd {home}{shlex.quote(rest)} && ABLAX_ACCELERATOR=tpu {study}"
    place = {"zone": where.zone, "project": where.project}
    return [
        *("gcloud", "compute", "tpus", "tpu-vm", "ssh", str(where.tpu)),
        *(f"--{name}={value}" for name, value in place.items() if value is not None),
        *("--worker=all", f"--command={there}"),
    ]


def tpu_pod(where: Where, command: Sequence[str]) -> int:
    """Run the study on all workers and wait for it; the status is gcloud's."""
    argv = tpu_command(where, command)
    if where.dry_run:
        print(shlex.join(argv))
        return 0
    return _run(argv, "--on tpu-pod: expected the Google Cloud CLI")


def _run(argv: Sequence[str], expected: str, text: str | None = None) -> int:
    sys.stdout.flush()
    try:
        return subprocess.run(argv, input=text, text=True, check=False).returncode
    except FileNotFoundError as error:
        raise UserError(f"{expected}, got no {argv[0]} on PATH") from error
    except KeyboardInterrupt:
        return 130
