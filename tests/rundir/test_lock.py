"""One process at a time in a run directory, however the one before it ended."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from ablax.errors import UserError
from ablax.rundir import lock
from ablax.rundir.lock import locked

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(lock.__file__).parents[2])}

HOLD = """
    import sys
    from pathlib import Path
    from ablax.rundir.lock import locked

    with locked(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.readline()
"""

RACE = """
    import os, sys, time
    from pathlib import Path
    from ablax.errors import UserError
    from ablax.rundir.lock import locked

    directory, entered, refused = Path(sys.argv[1]), 0, 0
    end = time.monotonic() + 1.0
    sys.stdin.readline()
    while time.monotonic() < end or not entered:
        try:
            with locked(directory):
                inside = os.open(directory / "inside", os.O_CREAT | os.O_EXCL)  # or it raises
                time.sleep(0.0005)
                os.close(inside)
                os.unlink(directory / "inside")
                entered += 1
        except UserError:
            refused += 1
    print(entered, refused)
"""


def started(script, directory):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(directory)],
        env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@contextmanager
def holder(directory):
    """A process that holds the directory."""
    with started(HOLD, directory) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_is_told_which_one_holds_it(tmp_path):
    with holder(tmp_path) as process:
        message = (
            f"--out {tmp_path} is in use by process {process.pid} on {socket.gethostname()}; "
            "wait until it has ended, or choose another --out"
        )
        for _ in range(2):  # to be refused changes nothing
            with pytest.raises(UserError) as refused, locked(tmp_path):
                pytest.fail("two are inside")
            assert str(refused.value) == message
        process.communicate("\n")
        assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path):
        pass


def test_inside_it_says_who_and_after_it_nothing_is_left(tmp_path):
    with locked(tmp_path):
        record = json.loads((tmp_path / lock.NAME).read_text())
        assert record == {"pid": os.getpid(), "host": socket.gethostname()}
        with pytest.raises(UserError, match=f"process {os.getpid()} "), locked(tmp_path):
            pytest.fail("two are inside")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt, SystemExit])
def test_it_is_released_after_an_exception(tmp_path, error):
    with pytest.raises(error), locked(tmp_path):
        raise error
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path):
        pass


def test_what_a_killed_process_left_is_taken_over(tmp_path):
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        left = json.loads((tmp_path / lock.NAME).read_text())
        assert left["pid"] == process.pid
        with locked(tmp_path):
            assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", ["", "{", "null", "[]", '{"pid": 1}', "x" * 999])
def test_whatever_an_old_file_says_it_is_taken_over(tmp_path, left):
    (tmp_path / lock.NAME).write_text(left)
    with locked(tmp_path):
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("text", ["", "{", "null", '{"pid": 1}'])
def test_a_holder_that_has_not_yet_said_who_it_is_refuses_too(tmp_path, text):
    with (tmp_path / lock.NAME).open("a+") as stream:
        stream.write(text)
        stream.flush()
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="in use by another process;"), locked(tmp_path):
            pytest.fail("two are inside")


def test_of_eight_processes_one_at_a_time_is_inside(tmp_path):
    processes = [started(RACE, tmp_path) for _ in range(8)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    counts = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, "two were inside"
    entered, refused = (sum(int(count[i]) for count in counts) for i in (0, 1))
    assert entered > 50
    assert refused > 50
    assert list(tmp_path.iterdir()) == []


def test_of_eight_threads_one_at_a_time_is_inside(tmp_path):
    start, inside, most, entered, end = threading.Barrier(8), [], [], [], threading.Event()

    def work(number):
        start.wait()
        while not end.is_set():
            try:
                with locked(tmp_path):
                    inside.append(number)
                    most.append(len(inside))
                    inside.remove(number)
                    entered.append(number)
            except UserError:
                pass

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    threading.Event().wait(0.3)
    end.set()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(entered) > 20


def test_a_file_that_its_holder_removes_meanwhile_is_not_held(tmp_path, monkeypatch):
    """Opened here, then removed by its last holder, then made anew by a third: the third wins."""
    flock, calls = fcntl.flock, []
    path = tmp_path / lock.NAME

    def late(stream, operation):
        calls.append(1)
        if len(calls) == 1:  # between the open and the lock
            path.unlink()
            path.touch()
        flock(stream, operation)

    monkeypatch.setattr(lock.fcntl, "flock", late)
    with locked(tmp_path):
        assert len(calls) == 2
        with path.open() as stream, pytest.raises(BlockingIOError):
            flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held is the file that others see
    assert not path.exists()


def test_a_full_disk_is_one_message(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock.json, "dump", full)
    with pytest.raises(UserError, match="No space left"), locked(tmp_path):
        pass
