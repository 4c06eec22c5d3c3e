"""Several processes on this machine: start them, pass SIGTERM on, and let none outlive another."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from ablax.cli.launchers.where import Where
from ablax.errors import flag_of
from ablax.interrupts import handled

GRACE = 5.0  # seconds in which the others may end by themselves after one has died
KILL_AFTER = 10.0  # seconds between SIGTERM and SIGKILL
POLL = 0.02
LAST_LINES = 20
USER_ERROR, STOPPED = 2, 130

# Linux kills the process when its parent dies, also by SIGKILL, and execv keeps that promise.
# (Not subprocess's preexec_fn: it is not safe beside threads.) Elsewhere a killed launcher leaves
# its processes running.
GUARD = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit(1)
os.execvp(command[0], command)
"""


@dataclass(frozen=True)
class Process:
    """A command, and what is added to the environment for it."""

    command: tuple[str, ...]
    environ: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        added = [f"{name}={value}" for name, value in self.environ.items()]
        return shlex.join([*(["env", *added] if added else []), *self.command])


def processes_of(
    where: Where,
    command: Sequence[str],
    environ: Mapping[str, str],
    prefix: Sequence[str] = (sys.executable, "-m", "ablax"),
) -> list[Process]:
    """The processes that run the study on this machine.

    They divide the cores (`JAX_NUM_CPU_DEVICES`) or, where JAX finds GPUs, take one each: one
    process alone already drives all of them. Only this machine can reach their coordinator.
    """
    if where.processes == 1 or where.coordinator is not None:
        names = ("coordinator", "processes", "process_id") if where.coordinator else ()
        flags = [word for name in names for word in (flag_of(name), str(getattr(where, name)))]
        return [Process((*prefix, *command, *flags))]
    n = where.processes
    address = f"127.0.0.1:{_free_port()}"
    flags = ["--coordinator", address, "--processes", str(n), "--process-id"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    shared = {
        "JAX_NUM_CPU_DEVICES": str(max(1, (cores or 1) // n)),
        "JAX_COORDINATOR_BIND_ADDRESS": address,
    }
    processes = []
    for i in range(n):
        wanted = shared | {"JAX_LOCAL_DEVICE_IDS": str(i)}
        added = {name: value for name, value in wanted.items() if name not in environ}
        processes.append(Process((*prefix, *command, *flags, str(i)), added))
    return processes


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class _Child:
    """A running process; `status` is None until it ended by itself, or of a forwarded signal."""

    number: int
    popen: subprocess.Popen
    errors: IO[str] | None
    status: int | None = None


def run(
    processes: Sequence[Process], *, grace: float = GRACE, kill_after: float = KILL_AFTER
) -> int:
    """Run all processes to their end; returns the exit status.

    The first one speaks for all: what the others print is dropped, and the end of their stderr
    is shown only if it is they who fail first. If one dies, the others, which wait for it, are
    ended within `grace + kill_after` seconds. A user's error (2) and a study that was stopped
    and can go on (130) keep their status.
    """
    with ExitStack() as stack:
        children: list[_Child] = []
        stack.callback(_kill, children)
        forwarded = stack.enter_context(_forwarding(children))
        for number, process in enumerate(processes):
            errors = stack.enter_context(tempfile.TemporaryFile("w+")) if number else None
            children.append(_Child(number, _popen(process, errors), errors))
        first = _until_one_fails(children)
        if first is None:
            return 0
        _end_others(children, grace, kill_after)
        for status in (USER_ERROR, STOPPED):
            if status in (first.status, children[0].status):
                if children[0].status != status:
                    _show_errors(first)
                return status
        if forwarded and first.status == -forwarded[-1]:
            return 128 + forwarded[-1]  # stopped before it could say so itself
        dead = _cause(children, first)
        _show_errors(dead)
        print(
            f"error: process {dead.number} of {len(children)} (the first is 0) "
            f"{_how(dead)}, and the others were ended. The run directory keeps everything up to "
            "the last checkpoint; rerun the same command to resume.",
            file=sys.stderr,
        )
        return 1


def _popen(process: Process, errors: IO[str] | None) -> subprocess.Popen:
    # A session of its own: Ctrl-C in a terminal reaches the launcher alone, which forwards it.
    guarded = [sys.executable, "-I", "-S", "-c", GUARD, str(os.getpid()), *process.command]
    return subprocess.Popen(
        guarded,
        env=os.environ | process.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if errors else None,
        stderr=errors,
        start_new_session=True,
    )


@contextmanager
def _forwarding(children: list[_Child]) -> Iterator[list[int]]:
    """Pass SIGINT and SIGTERM on to every child; yields the signals passed on so far."""
    forwarded: list[int] = []

    def forward(number: int, frame: Any) -> None:
        forwarded.append(number)
        _signal(children, number)

    with handled(forward):
        yield forwarded


def _signal(children: Sequence[_Child], number: int) -> None:
    for child in children:
        if child.popen.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                child.popen.send_signal(number)


def _running(children: Sequence[_Child]) -> list[_Child]:
    """Those that still run; notes the status of those that do not."""
    for child in children:
        child.status = child.popen.poll()
    return [child for child in children if child.status is None]


def _until_one_fails(children: Sequence[_Child]) -> _Child | None:
    while True:
        running = _running(children)
        failed = [child for child in children if child.status]
        if failed or not running:
            return failed[-1] if failed else None  # of several, not the one that spoke already
        time.sleep(POLL)


def _cause(children: Sequence[_Child], first: _Child) -> _Child:
    """Process that died first; the others only notice, by an exception or by JAX's abort.

    They can be quicker: the system takes a moment to clear up after a large process.
    """
    own = [child for child in children if (child.status or 0) < 0]
    return next((child for child in own if child.status != -signal.SIGABRT), first)


def _end_others(children: Sequence[_Child], grace: float, kill_after: float) -> None:
    """Wait, SIGTERM, wait, SIGKILL. What ends by these signals has no status of its own."""
    if _wait(children, grace):
        rest = _running(children)
        for number, seconds in ((signal.SIGTERM, kill_after), (signal.SIGKILL, None)):
            _signal(rest, number)
            _wait(rest, seconds)
        for child in rest:
            child.status = None


def _wait(children: Sequence[_Child], seconds: float | None) -> bool:
    """True if some processes still run after so many seconds."""
    until = None if seconds is None else time.monotonic() + seconds
    while _running(children):
        if until is not None and time.monotonic() > until:
            return True
        time.sleep(POLL)
    return False


def _kill(children: Sequence[_Child]) -> None:
    _signal(children, signal.SIGKILL)
    for child in children:
        child.popen.wait()


def _show_errors(child: _Child) -> None:
    if child.errors is None:
        return
    child.errors.seek(0)
    lines = child.errors.read().splitlines()[-LAST_LINES:]
    if lines:
        print(f"process {child.number} said:", *lines, sep="\n  ", file=sys.stderr)


def _how(child: _Child) -> str:
    status = child.status or 0
    if status > 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
