"""One process of several: who started it, and how it finds the others."""

import os
import socket
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Literal

from ablax.cli.launchers.where import Where
from ablax.errors import UserError

HEARTBEAT = 20  # seconds without a sign of life after which a process counts as dead
MEETING = 60  # seconds that all processes have to find each other …
MEETING_OF_WORKERS = 300  # … and on a TPU pod, where each worker first sets up its environment

Cluster = Literal["openmpi", "slurm", "tpu"]


def detected(environ: Mapping[str, str]) -> Cluster | None:
    """Launcher that started this process as one of several, by its environment variables.

    >>> detected({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"})
    'openmpi'
    """
    # Open MPI first: inside of a SLURM job, mpirun's processes see the variables of both.
    if _number(environ, "OMPI_COMM_WORLD_SIZE") > 1 and "OMPI_COMM_WORLD_RANK" in environ:
        return "openmpi"
    # A batch script has SLURM_NTASKS and SLURM_PROCID as well, but only a step has a node list;
    # an interactive shell is a step of one task within a job of more.
    tasks = _number(environ, "SLURM_NTASKS")
    step = "SLURM_PROCID" in environ and "SLURM_STEP_NODELIST" in environ
    if step and min(tasks, _number(environ, "SLURM_STEP_NUM_TASKS", tasks)) > 1:
        return "slurm"
    if "tpu" not in environ.get("JAX_PLATFORMS", "tpu"):
        return None
    if _number(environ, "MEGASCALE_NUM_SLICES") > 1:
        return "tpu"
    workers = environ.get("TPU_PROCESS_ADDRESSES", environ.get("TPU_WORKER_HOSTNAMES"))
    if workers is not None:
        return "tpu" if "," in workers else None
    # On a TPU VM without these the cloud's metadata server knows the workers, and JAX asks it:
    # one worker is fine too. JAX sets the first variable where it found chips and its library.
    chips = "TPU_ML_PLATFORM" in environ and "TPU_SKIP_MDS_QUERY" not in environ
    return "tpu" if chips else None


def _number(environ: Mapping[str, str], name: str, default: int = 0) -> int:
    text = environ.get(name, "")
    return int(text) if text.isdecimal() else default


def arguments(where: Where, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Arguments for `jax.distributed.initialize`; None if this process is alone.

    Flags win over what is detected. JAX's own detection gives every process of SLURM and Open
    MPI one GPU; a process that has its node for itself takes all of them (an empty list
    restricts nothing).
    """
    if where.coordinator is not None:
        return {
            "coordinator_address": where.coordinator,
            "num_processes": where.processes,
            "process_id": where.process_id,
            "cluster_detection_method": "deactivate",
        }
    match detected(environ):
        case "slurm":
            nodes = _number(environ, "SLURM_STEP_NUM_NODES", 1)
            alone = nodes == _number(environ, "SLURM_NTASKS")
            return {
                "cluster_detection_method": "slurm",
                "local_device_ids": [] if alone else [_number(environ, "SLURM_LOCALID")],
            }
        case "openmpi":
            alone = _number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE", 2) == 1
            local = _number(environ, "OMPI_COMM_WORLD_LOCAL_RANK")
            options = {
                "num_processes": _number(environ, "OMPI_COMM_WORLD_SIZE"),
                "process_id": _number(environ, "OMPI_COMM_WORLD_RANK"),
                "local_device_ids": [] if alone else [local],
            }
            if "OMPI_MCA_orte_hnp_uri" in environ:
                return options | {"cluster_detection_method": "ompi"}
            if "JAX_COORDINATOR_ADDRESS" in environ:
                return options | {"cluster_detection_method": "deactivate"}
            raise UserError(
                "Open MPI 5 does not say where its first process is: expected `mpirun -x "
                "JAX_COORDINATOR_ADDRESS=HOST:PORT`, got no such variable"
            )
        case "tpu":
            return {}
    return None


def connect(where: Where) -> bool:
    """Meet the other processes, if there are any; must come before JAX starts its backends.

    Returns whether this process is one of several. Where they do not meet in time, it says so
    and exits with status 2.

    Raises:
        UserError: this machine cannot listen on the coordinator's port.
    """
    import jax  # on a TPU VM this sets variables that `detected` reads

    options = arguments(where, os.environ)
    if options is None:
        return False
    if options.get("process_id") == 0 and where.coordinator is not None:
        _refuse_taken_port(where.coordinator)
    # JAX's own service for preemption would swallow SIGTERM, by which a study is stopped.
    jax.config.update("jax_enable_preemption_service", False)
    seconds = MEETING if options else MEETING_OF_WORKERS
    alarm = threading.Timer(seconds, _nobody_came, [where, seconds])
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            **options,
            initialization_timeout=2 * seconds,  # then JAX aborts: the alarm says it better
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    finally:
        alarm.cancel()
    return True


def _refuse_taken_port(coordinator: str) -> None:
    """Refuse a port that is taken: JAX crashes the process where it cannot listen."""
    port = int(coordinator.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"--coordinator {coordinator}: expected a free port, got {error.strerror}"
            ) from error


def _nobody_came(where: Where, seconds: float) -> None:
    who, at = "the processes", ""
    if where.coordinator is not None:
        who = f"process {where.process_id} and the other {where.processes - 1}"
        at = f" at {where.coordinator}"
    _leave(
        2,
        f"error: {who} did not meet{at} within {seconds} s: expected all of them to be started, "
        "and the first one's port to be open to the others",
    )


@contextmanager
def member(where: Where) -> Iterator[None]:
    """Run the study as one of several processes, or alone.

    One process that fails must not wait for the others at JAX's exit, as they wait for it: it
    leaves at once, and its missing heartbeat ends them.
    """
    if not connect(where):
        yield
        return
    try:
        yield
    except UserError as error:
        _leave(2, f"error: {error}")
    except SystemExit as error:
        if error.code in (0, None):
            raise
        _leave(error.code if isinstance(error.code, int) else 1, "")
    except KeyboardInterrupt:
        _leave(130, "stopped; rerun the same command to resume")
    except BaseException:
        _leave(1, traceback.format_exc().rstrip())


def _leave(status: int, message: str) -> None:
    if message:
        print(message, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
