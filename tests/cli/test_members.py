"""Processes of JAX that meet, or do not: started by flags and by clusters."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from ablax.cli.launchers import local
from ablax.cli.main import main
from tests.cli.clusters import MPI, PATHS, STEP

pytestmark = pytest.mark.usefixtures("outside_of_launchers")

CONNECT = """
import os, signal, sys, time
import jax
from ablax.errors import UserError
from ablax.cli.launchers import (cluster, parse)
from ablax.cli.launchers.cluster import member

cluster.MEETING = int(os.environ.get("MEETING", 60))
where, (then,) = parse(sys.argv[1:])
with member(where):
    print(jax.process_count(), jax.device_count(), jax.local_device_count(), end=" ")
    print(jax.config.values["jax_cuda_visible_devices"], flush=True)
    match then:
        case "terminate": signal.raise_signal(signal.SIGTERM)
        case "refuse": raise UserError("what was wrong")
        case "fail": raise ArithmeticError
        case "exit": sys.exit(2)
        case "interrupt": raise KeyboardInterrupt
        case "wait": time.sleep(60)
"""


def member(then: str, *flags: str, **environ: str) -> subprocess.Popen:
    fixed = {"PYTHONPATH": PATHS, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "3"}
    return subprocess.Popen(
        [sys.executable, "-c", CONNECT, then, *flags],
        env=os.environ | fixed | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def two_members(*then: str) -> list[subprocess.Popen]:
    at = f"--coordinator=127.0.0.1:{local._free_port()}"
    return [member(t, at, "--processes=2", f"--process-id={i}") for i, t in enumerate(then)]


def ended(process: subprocess.Popen, seconds: float = 30.0) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, out, err


def test_two_processes_started_by_flags_are_one_mesh():
    two = two_members("end", "end")
    assert [ended(process)[:2] for process in two] == [(0, "2 6 3 all\n")] * 2


@pytest.mark.parametrize(
    ("by", "gpus"),
    [
        (STEP | {"SLURM_STEP_NODELIST": "127.0.0.1"}, "all"),
        (MPI | {"OMPI_MCA_orte_hnp_uri": "4096.0;tcp://127.0.0.1:1"}, "1"),
    ],
)
def test_two_processes_of_a_cluster_are_one_mesh(by, gpus):
    by = by | {"JAX_COORDINATOR_PORT": str(local._free_port())}
    rank = "SLURM_PROCID" if "SLURM_PROCID" in by else "OMPI_COMM_WORLD_RANK"
    two = [member("end", **(by | {rank: str(i)})) for i in range(2)]
    assert [ended(process)[:2] for process in two] == [(0, f"2 6 3 {gpus}\n")] * 2


def test_sigterm_is_left_to_the_study():
    waits, stops = two_members("wait", "terminate")
    try:
        assert ended(stops, 20)[0] == -signal.SIGTERM
    finally:
        waits.kill()
        waits.communicate()


@pytest.mark.parametrize(
    ("then", "status", "message"),
    [
        ("refuse", 2, "error: what was wrong"),
        ("fail", 1, "ArithmeticError"),
        ("exit", 2, ""),
        ("interrupt", 130, "stopped; rerun the same command to resume"),
    ],
)
def test_a_process_that_fails_does_not_wait_for_the_others(then, status, message):
    waits, fails = two_members("wait", then)
    try:
        left, _, err = ended(fails, 20)
        assert (left, err.splitlines()[-1:]) == (status, [message] if message else [])
    finally:
        waits.kill()
        waits.communicate()


@pytest.mark.parametrize("number", [0, 1])
def test_processes_that_do_not_meet_say_so(number):
    at = f"127.0.0.1:{local._free_port()}"
    flags = (f"--coordinator={at}", "--processes=2", f"--process-id={number}")
    status, out, err = ended(member("end", *flags, MEETING="2"))
    assert (status, out) == (2, "")
    assert err == (
        f"error: process {number} and the other 1 did not meet at {at} within 2 s: expected all "
        "of them to be started, and the first one's port to be open to the others\n"
    )


def test_a_port_that_is_taken_is_refused(capsys):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = ["--coordinator", at, "--processes", "2", "--process-id", "0"]
        assert main(["regularization", *flags]) == 2
    expected = f"error: --coordinator {at}: expected a free port, got Address already in use\n"
    assert capsys.readouterr().err == expected
