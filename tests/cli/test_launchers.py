"""Where a study runs: the launcher's flags, what it submits, and processes that die."""

import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import fields
from pathlib import Path

import pytest

from ablax.cli import main as command_line
from ablax.cli.experiments import load, names
from ablax.cli.launchers import cluster, local, submit
from ablax.cli.launchers.cluster import arguments, detected
from ablax.cli.launchers.local import Process, processes_of
from ablax.cli.launchers.where import Where, parse
from ablax.cli.main import main
from ablax.config import field_specs
from ablax.errors import flag_of
from tests.cli.clusters import MPI, PATHS, STEP

ROOT = Path(__file__).parents[2]
LAUNCH = shlex.quote(str(ROOT / "launch.sh"))


@pytest.fixture(autouse=True)
def place(outside_of_launchers):
    return outside_of_launchers


# The flags


PARSED = {
    "regularization": (Where(), "regularization"),
    "regularization --processes 2": (Where(processes=2), "regularization"),
    "--processes 2 --dry-run regularization": (Where(processes=2, dry_run=True), "regularization"),
    "regularization --l2 0 -1e-4 --processes=2 --restarts 3": (
        Where(processes=2),
        "regularization --l2 0 -1e-4 --restarts 3",
    ),
    "a --learning-rate -1e-3 -.5 -inf --out=--on -x - -5": (
        Where(),
        "a --learning-rate -1e-3 -.5 -inf --out=--on -x - -5",
    ),
    "a --proc 2 --nod 3 --dry": (Where(), "a --proc 2 --nod 3 --dry"),
    "a --out 'my runs' '' --on local": (Where(), "a --out 'my runs' ''"),
    "resume --on slurm runs/x": (Where(on="slurm"), "resume runs/x"),
    "a --on slurm --nodes 2 --gpus-per-node 4 --cpus-per-task 8 --time 1-12 --partition p -v "
    "--account q": (
        Where(
            on="slurm", nodes=2, gpus_per_node=4, cpus_per_task=8, time="1-12",
            partition="p", account="q",
        ),
        "a -v",
    ),
    "a --on tpu-pod --tpu t --zone z --project p --remote-dir '~/my code'": (
        Where(on="tpu-pod", tpu="t", zone="z", project="p", remote_dir="~/my code"),
        "a",
    ),
    "a --coordinator [::1]:80 --processes 3 --process-id 2": (
        Where(coordinator="[::1]:80", processes=3, process_id=2),
        "a",
    ),
}  # fmt: skip


@pytest.mark.parametrize("typed", PARSED)
def test_flags_stand_anywhere_and_the_rest_is_untouched(typed):
    where, rest = PARSED[typed]
    assert parse(shlex.split(typed)) == (where, shlex.split(rest))


COORDINATES = "--coordinator h:1 --processes 2 --process-id"
REFUSED = {
    "a --on slrum": ["unknown --on 'slrum'", "did you mean 'slurm'?"],
    "a --on": ["--on: expected a value, got none"],
    "a --processes": ["--processes: expected a value, got none"],
    "a --processes 0": ["--processes: expected a whole number of at least 1, got '0'"],
    "a --processes -2": ["at least 1, got '-2'"],
    "a --processes two": ["at least 1, got 'two'"],
    "a --processes 1.5": ["at least 1, got '1.5'"],
    "a --processes 2 --processes 3": ["--processes: expected once, got 2 times"],
    "a --dry-run --dry-run": ["--dry-run: expected once, got 2 times"],
    "a --dry-run=yes": ["--dry-run", "'yes'"],
    "a --process-id 0": ["together", "no --processes and no --coordinator"],
    "a --process-id 0 --processes 2": ["together", "got no --coordinator"],
    "a --coordinator h:1": ["together", "no --processes and no --process-id"],
    f"a {COORDINATES} 2": ["--process-id: expected 0 to 1", "got 2"],
    f"a {COORDINATES} -1": ["--process-id: expected a whole number of at least 0, got '-1'"],
    "a --coordinator h --processes 2 --process-id 0": ["expected HOST:PORT, got 'h'"],
    "a --coordinator :1 --processes 2 --process-id 0": ["expected HOST:PORT, got ':1'"],
    "a --coordinator h:0 --processes 2 --process-id 0": ["expected HOST:PORT, got 'h:0'"],
    "a --coordinator h:65536 --processes 2 --process-id 0": ["HOST:PORT, got 'h:65536'"],
    "a --nodes 2": ["--nodes: expected together with --on slurm, got --on local"],
    "a --on tpu-pod --tpu t --time 5": ["--time", "--on slurm, got --on tpu-pod"],
    "a --on slurm --nodes 0": ["--nodes", "at least 1, got '0'"],
    "a --on slurm --gpus-per-node 0": ["--gpus-per-node", "at least 1, got '0'"],
    "a --on slurm --cpus-per-task 0": ["--cpus-per-task", "at least 1, got '0'"],
    "a --on slurm --time soon": ["--time: expected MINUTES", "got 'soon'"],
    "a --on slurm --partition 'p\n#SBATCH --x'": ["--partition: expected a name"],
    "a --on slurm --account ''": ["--account: expected a name, got ''"],
    "a --on slurm --processes 2": ["--processes: expected together with --on local", "slurm"],
    "a --on slurm --zone z": ["--zone: expected together with --on tpu-pod, got --on slurm"],
    "a --tpu t": ["--tpu: expected together with --on tpu-pod, got --on local"],
    "a --on tpu-pod": ["--on tpu-pod: expected --tpu NAME too, got none"],
    "a --on tpu-pod --tpu --zone z": ["--tpu: expected a value, got none"],
    "a --on tpu-pod --tpu t --remote-dir ''": ["--remote-dir: expected a folder, got ''"],
    "list --processes 2": ["expected an experiment or resume", "got list"],
    "data list --dry-run": ["expected an experiment or resume", "got data"],
    # before anything is submitted or started
    "regularisation --on slurm": ["did you mean 'regularization'?"],
    "regularisation --processes 2": ["did you mean 'regularization'?"],
    "regularization --on slurm --restarts 0": ["--restarts", "at least 1, got 0"],
    "regularization --on tpu-pod --tpu t --l3 1": ["unknown flag '--l3'"],
    # a machine that has neither
    "regularization --on slurm": ["--on slurm: expected", "no sbatch on PATH"],
    "regularization --on tpu-pod --tpu t": ["Google Cloud CLI, got no gcloud on PATH"],
}


@pytest.mark.parametrize("typed", REFUSED)
def test_a_mistake_is_refused_in_one_line(typed, place, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(place))
    assert main(shlex.split(typed)) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert not [words for words in REFUSED[typed] if words not in line], line
    assert printed.out == ""


def test_no_experiment_has_a_field_of_a_launcher_flags_name():
    study = {"--preset", "--restarts", "--seed", "--out", "--plan", "--keep", "--slots"}
    ours = {flag_of(field.name) for field in fields(Where)}
    assert not ours & study
    for name in names():
        config = load(name).presets["default"].config
        assert not ours & {flag_of(field) for field in field_specs(config)}, name


def test_the_study_sees_and_records_its_own_command_only(monkeypatch):
    seen = []
    monkeypatch.setattr(command_line, "experiment", lambda *a: seen.append(a) or 0)
    assert main(["--on", "local", "regularization", "--processes", "1", "--l2", "0"]) == 0
    assert seen == [("regularization", ["--l2", "0"])]
    assert main(["regularization", "--l2", "0"]) == 0
    assert main(["resume", "--processes", "1"]) == 2, "still needs its directory"


# Dry runs, and submission by a fake sbatch or gcloud


SCRIPT = f"""\
#!/bin/bash
#SBATCH --job-name=ablax-regularization
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=4
#SBATCH --time=01:30:00
#SBATCH --partition=gpu
#SBATCH --account=lab
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120

# One node sets the environment up before all of them need it, for what this node has: without
# ABLAX_PYTHON, JAX_PLATFORMS is what launch.sh chose for the machine that submitted.
[ -n "${{ABLAX_PYTHON:-}}" ] || unset JAX_PLATFORMS
{LAUNCH} list >/dev/null || exit

# Two minutes before the time limit the tasks are asked to stop. By
# scancel: srun turns a SIGTERM of its own into SIGKILL. SIGTERM is SLURM's, on preemption: the
# tasks get it too, and this script only waits for them.
trap 'scancel --signal=TERM "$SLURM_JOB_ID"' USR1
trap : TERM
srun --kill-on-bad-exit=1 --wait=30 --cpus-per-task=8 {LAUNCH} regularization --out 'my runs' &
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
SLURM = (
    "regularization --on slurm --nodes 2 --gpus-per-node 4 --cpus-per-task 8 --time 01:30:00 "
    "--partition gpu --account lab --out 'my runs'"
)
TPU = "regularization --on tpu-pod --tpu pod --zone z --project p --out '/mnt/my runs'"


def fake(place: Path, name: str, body: str) -> None:
    (place / name).write_text(f"#!/bin/bash\n{body}\n")
    (place / name).chmod(0o755)


def test_dry_run_of_slurm_is_the_script(capsys):
    assert main([*shlex.split(SLURM), "--dry-run"]) == 0
    assert capsys.readouterr().out == SCRIPT


def test_a_job_without_gpus_asks_for_none(capsys):
    assert main(["regularization", "--on", "slurm", "--dry-run"]) == 0
    options = re.findall(r"^#SBATCH --([\w-]+)", capsys.readouterr().out, re.M)
    assert options == [
        *("job-name", "nodes", "ntasks-per-node", "output", "open-mode", "requeue", "signal"),
    ]


@pytest.mark.parametrize(
    ("typed", "folder"),
    [
        ("", f"~/{ROOT.name}"),
        ("--remote-dir /srv/ablax", "/srv/ablax"),
        ("--remote-dir '~/my code'", "~/'my code'"),
        ("--remote-dir '~me/my code'", "~me/'my code'"),
    ],
)
def test_dry_run_of_a_tpu_pod_is_the_command(typed, folder, capsys):
    assert main([*shlex.split(f"{TPU} {typed}"), "--dry-run"]) == 0
    assert shlex.split(capsys.readouterr().out) == [
        *("gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=z", "--project=p"),
        "--worker=all",
        f"--command=cd {folder} && ABLAX_ACCELERATOR=tpu ./launch.sh regularization "
        "--out '/mnt/my runs'",
    ]


def test_dry_run_on_this_machine(monkeypatch, capsys):
    python = f"{shlex.quote(sys.executable)} -m ablax regularization --l2 0"
    assert main(shlex.split("regularization --l2 0 --dry-run")) == 0
    assert capsys.readouterr().out == f"{python}\n"
    assert main(shlex.split(f"regularization --l2 0 --dry-run {COORDINATES} 1")) == 0
    assert capsys.readouterr().out == f"{python} {COORDINATES} 1\n"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(local, "_free_port", lambda: 4321)
    assert main(shlex.split("regularization --l2 0 --dry-run --processes 3")) == 0
    assert capsys.readouterr().out == "".join(
        f"env JAX_NUM_CPU_DEVICES=2 JAX_COORDINATOR_BIND_ADDRESS=127.0.0.1:4321 "
        f"JAX_LOCAL_DEVICE_IDS={i} {python} --coordinator 127.0.0.1:4321 --processes 3 "
        f"--process-id {i}\n"
        for i in range(3)
    )


def test_what_the_user_set_in_the_environment_stays():
    chosen = {"JAX_NUM_CPU_DEVICES": "5", "JAX_LOCAL_DEVICE_IDS": "0,1"}
    for process in processes_of(Where(processes=64), ["a"], chosen):
        assert list(process.environ) == ["JAX_COORDINATOR_BIND_ADDRESS"]
    (first, *_) = processes_of(Where(processes=64), ["a"], {})
    assert first.environ["JAX_NUM_CPU_DEVICES"] == "1", "never none"


def test_sbatch_gets_the_script_on_stdin(place, monkeypatch, capfd):
    fake(place, "sbatch", 'echo "$#" >argv; cat >stdin; echo Submitted batch job 7')
    monkeypatch.setenv("PATH", str(place), prepend=os.pathsep)
    assert main(shlex.split(SLURM)) == 0
    assert ((place / "argv").read_text(), (place / "stdin").read_text()) == ("0\n", SCRIPT)
    assert capfd.readouterr().out == "Submitted batch job 7\n"
    fake(place, "sbatch", "cat >/dev/null; echo 'invalid partition' >&2; exit 1")
    assert main(shlex.split(SLURM)) == 2
    assert "invalid partition\nerror: sbatch refused the job (status 1)" in capfd.readouterr().err


def test_gcloud_gets_one_command_for_all_workers(place, monkeypatch):
    fake(place, "gcloud", 'printf "%s\\n" "$@" >argv; exit 7')
    monkeypatch.setenv("PATH", str(place), prepend=os.pathsep)
    assert main(shlex.split(TPU)) == 7
    where, command = parse(shlex.split(TPU))
    assert (place / "argv").read_text().splitlines() == submit.tpu_command(where, command)[1:]


def batch(place: Path, srun: str, state: str = "RUNNING") -> subprocess.Popen:
    """The batch script, started by a SLURM that only writes down what it is asked for."""
    for name in ("scancel", "scontrol"):
        fake(place, name, f'echo {name} "$@" >>asked')
    fake(place, "squeue", f"echo {state}")
    fake(place, "launch.sh", 'echo "launch.sh $* JAX_PLATFORMS=${JAX_PLATFORMS-unset}" >>asked')
    fake(place, "srun", f'echo srun "${{@:1:2}}" "${{@:4}}" >>asked\n{srun}')
    text = submit.script(Where(on="slurm"), ["regularization"], [str(place / "launch.sh")])
    (place / "job.sh").write_text(text)
    subprocess.run(["bash", "-n", "job.sh"], check=True, capture_output=True)
    environ = {k: v for k, v in os.environ.items() if k != "ABLAX_PYTHON"}
    path = f"{place}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", "job.sh"],
        env=environ | {"PATH": path, "SLURM_JOB_ID": "7", "JAX_PLATFORMS": "cpu"},
        start_new_session=True,
    )


ASKED = [
    "launch.sh list JAX_PLATFORMS=unset",
    "srun --kill-on-bad-exit=1 --wait=30 regularization",
]


@pytest.mark.parametrize(
    ("status", "state", "requeued"),
    [
        (0, "RUNNING", False),
        (1, "RUNNING", False),
        (2, "RUNNING", False),
        (130, "RUNNING", True),
        (143, "RUNNING", True),
        (130, "COMPLETING", False),
    ],
)
def test_a_job_that_was_stopped_goes_back_into_the_queue(status, state, requeued, place):
    job = batch(place, f"exit {status}", state)
    assert job.wait(20) == status
    asked = (place / "asked").read_text().splitlines()
    assert asked == [*ASKED, *(["scontrol requeue 7"] if requeued else [])]


def test_the_time_limit_stops_the_tasks_and_requeues(place):
    job = batch(place, "until [ -e stop ]; do sleep 0.05; done; exit 130")
    fake(place, "scancel", 'echo scancel "$@" >>asked; touch stop')
    wait_for(lambda: "srun" in (place / "asked").read_text() if (place / "asked").exists() else 0)
    time.sleep(0.2)  # from srun's first line to the script's wait
    job.send_signal(signal.SIGTERM)  # SLURM's own, on preemption: waits
    time.sleep(0.3)
    assert job.poll() is None
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 130
    asked = (place / "asked").read_text().splitlines()
    assert asked == [*ASKED, "scancel --signal=TERM 7", "scontrol requeue 7"]


# Who started this process


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        (STEP, "slurm"),
        ({k: v for k, v in STEP.items() if k != "SLURM_STEP_NUM_TASKS"}, "slurm"),
        (STEP | {"SLURM_NTASKS": "1"}, None),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1"}, None),  # an interactive shell in a job of two
        ({k: v for k, v in STEP.items() if "STEP" not in k}, None),  # a batch script
        ({k: v for k, v in STEP.items() if k != "SLURM_PROCID"}, None),
        (STEP | {"SLURM_NTASKS": "many"}, None),
        (MPI, "openmpi"),
        (STEP | MPI, "openmpi"),  # mpirun in a job
        (MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, "tpu"),
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1"}, "tpu"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "2"}, "tpu"),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "tpu,cpu"}, "tpu"),
        ({"TPU_ML_PLATFORM": "JAX"}, "tpu"),  # a TPU VM: its metadata server knows the rest
        ({"TPU_ML_PLATFORM": "JAX", "TPU_SKIP_MDS_QUERY": "1"}, None),
        ({"TPU_SKIP_MDS_QUERY": "1"}, None),  # what JAX sets where there is no TPU
    ],
)
def test_detection(environ, expected):
    assert detected(environ) == expected


def test_what_jax_is_told():
    slurm = {"cluster_detection_method": "slurm"}
    assert arguments(Where(), {}) is None
    assert arguments(Where(), STEP) == slurm | {"local_device_ids": []}, "all of its node"
    shared = STEP | {"SLURM_STEP_NUM_NODES": "1", "SLURM_LOCALID": "1"}
    assert arguments(Where(), shared) == slurm | {"local_device_ids": [1]}
    mpi = {"num_processes": 2, "process_id": 1, "local_device_ids": [1]}
    with_uri = MPI | {"OMPI_MCA_orte_hnp_uri": "0.0;tcp://127.0.0.1:1"}
    assert arguments(Where(), with_uri) == mpi | {"cluster_detection_method": "ompi"}
    with_address = MPI | {"JAX_COORDINATOR_ADDRESS": "h:1", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}
    assert arguments(Where(), with_address) == mpi | {
        "local_device_ids": [],
        "cluster_detection_method": "deactivate",
    }
    assert arguments(Where(), {"TPU_WORKER_HOSTNAMES": "a,b"}) == {}
    flags = Where(coordinator="h:1", processes=3, process_id=2)
    for environ in ({}, STEP, MPI):
        assert arguments(flags, environ) == {
            "coordinator_address": "h:1",
            "num_processes": 3,
            "process_id": 2,
            "cluster_detection_method": "deactivate",
        }


def test_open_mpi_5_must_be_told_where_its_first_process_is(monkeypatch, capsys):
    for name, value in MPI.items():
        monkeypatch.setenv(name, value)
    assert main(["regularization", "--plan"]) == 2
    assert "mpirun -x JAX_COORDINATOR_ADDRESS=HOST:PORT" in capsys.readouterr().err


# Real processes


def wait_for(condition, seconds: float = 20.0):
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)
    return value


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def pretend(*bodies: str) -> list[Process]:
    """A study of so many processes, each a few lines of Python."""
    head = "import os, signal, sys, time\n"
    return [Process((sys.executable, "-c", head + textwrap.dedent(body))) for body in bodies]


def run(*bodies: str) -> tuple[int, float]:
    started = time.monotonic()
    status = local.run(pretend(*bodies), grace=0.5, kill_after=0.5)
    return status, time.monotonic() - started


def test_the_first_process_speaks_for_all(capfd):
    bodies = [f"print('out {i}'); print('err {i}', file=sys.stderr)" for i in range(3)]
    assert run(*bodies)[0] == 0
    assert capfd.readouterr() == ("out 0\n", "err 0\n")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_run(victim, capfd):
    bodies = ["time.sleep(60)", "time.sleep(60)"]
    bodies[victim] = "print('last words', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)"
    status, seconds = run(*bodies)
    assert (status, seconds < 10) == (1, True)
    *before, line = capfd.readouterr().err.splitlines()
    assert line == (
        f"error: process {victim} of 2 (the first is 0) was killed by SIGKILL, and the others were "
        "ended. The run directory keeps everything up to the last checkpoint; rerun "
        "the same command to resume."
    )
    assert "".join(before).endswith("last words")
    assert local.GRACE + local.KILL_AFTER + cluster.HEARTBEAT / 4 < 30


@pytest.mark.parametrize(
    ("noticed", "died", "message"),
    [
        ("sys.exit(1)", "time.sleep(0.2); os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
        ("time.sleep(0.2); os.abort()", "sys.exit(3)", "ended with status 3"),
    ],
)
def test_the_message_names_who_died_and_not_who_noticed(noticed, died, message, capfd):
    assert run(noticed, died)[0] == 1
    assert f"process 1 of 2 (the first is 0) {message}" in capfd.readouterr().err


def test_a_process_that_ignores_sigterm_is_killed(place, capfd):
    stubborn = f"""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open({str(place / "pid")!r}, "w").write(str(os.getpid()))
        time.sleep(60)
    """
    waits = f"""
        while not os.path.exists({str(place / "pid")!r}): time.sleep(0.05)
        time.sleep(0.2)
        sys.exit(3)
    """
    status, seconds = run(stubborn, waits)
    assert (status, seconds < 10) == (1, True)
    assert "process 1 of 2 (the first is 0) ended with status 3" in capfd.readouterr().err
    assert not alive(int((place / "pid").read_text()))


def test_the_others_have_time_to_end_by_themselves(capfd):
    status, _ = run("time.sleep(0.3); print('said why'); sys.exit(2)", "sys.exit(3)")
    assert status == 2
    assert capfd.readouterr() == ("said why\n", "")


@pytest.mark.parametrize("status", [2, 130])
def test_a_mistake_and_a_stop_keep_their_status(status, capfd):
    leave = f"print('error: 1', file=sys.stderr); sys.exit({status})"
    assert run(leave, leave)[0] == status
    assert capfd.readouterr().err == "error: 1\n", "once, and without the message of a death"
    # Only the second one knows of it: then its words are shown.
    assert run("time.sleep(60)", leave)[0] == status
    assert capfd.readouterr().err == "process 1 said:\n  error: 1\n"


def test_only_the_end_of_much_stderr_is_shown(capfd):
    run("time.sleep(60)", "[print('line', i, file=sys.stderr) for i in range(99)]; sys.exit(1)")
    shown = capfd.readouterr().err.splitlines()
    assert shown[:2] == ["process 1 said:", f"  line {99 - local.LAST_LINES}"]


def launcher(place: Path, *bodies: str) -> subprocess.Popen:
    """A launcher in a process of its own, with children that write their ids into files."""
    head = "open('pid{}.tmp', 'w').write(str(os.getpid())); os.rename('pid{}.tmp', 'pid{}')\n"
    bodies = tuple(
        textwrap.dedent(body) + head.replace("{}", str(i)) + "time.sleep(60)"
        for i, body in enumerate(bodies)
    )
    code = (
        "import sys\nfrom ablax.cli.launchers.local import Process, run\n"
        f"sys.exit(run({pretend(*bodies)!r}, grace=0.5, kill_after=0.5))"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": PATHS},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: all(read(place / f"pid{i}") for i in range(len(bodies))))
    return started


STOPS = """
signal.signal(signal.SIGALRM, lambda *_: sys.exit(130))
signal.signal(signal.{0}, lambda *_: (open('got', 'a').write('{0} '), signal.alarm(1)))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_reaches_every_process_once(name, place):
    started = launcher(place, STOPS.format(name), STOPS.format(name))
    os.killpg(started.pid, getattr(signal, name))  # as a terminal does, to the whole group
    _, err = started.communicate(timeout=20)
    assert (started.returncode, err) == (130, "")
    assert (place / "got").read_text().split() == [name, name]


def test_a_signal_before_the_study_listens_is_no_death(place):
    started = launcher(place, "", "")
    started.send_signal(signal.SIGTERM)
    _, err = started.communicate(timeout=20)
    assert (started.returncode, err) == (128 + signal.SIGTERM, "")


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_no_process_outlives_a_killed_launcher(place):
    started = launcher(place, "", "")
    pids = [int(read(place / f"pid{i}")) for i in range(2)]
    assert all(map(alive, pids))
    started.kill()
    started.communicate(timeout=20)
    wait_for(lambda: not any(map(alive, pids)))
