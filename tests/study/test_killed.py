"""Processes that are really killed, and a disk that is really full."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import ablax
from tests.study.launches import long_plan, tables, train

LIB = Path(ablax.__file__).parents[1]

CHILD = """
    import os, resource, signal, sys, traceback
    from pathlib import Path
    import conftest  # strict JAX, eight devices
    import jax
    from ablax.engine.mesh import mesh_of
    from ablax.study import run as launched
    from ablax.errors import UserError
    from ablax.rundir.checkpoint import Checkpoints
    from ablax.rundir.store import Store
    from tests.study import launches as toys

    def die_at(owner, name, at):
        original, calls = getattr(owner, name), []
        def call(*arguments, **keywords):
            calls.append(name)
            if len(calls) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **keywords)
        setattr(owner, name, call)

    for argument in sys.argv[2:]:
        if os.fork():
            _, status = os.wait()
            ended = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            print(argument, ended, flush=True)
            continue
        launched.mesh_of = lambda: mesh_of(jax.devices()[:1])
        what, _, number = argument.partition("=")
        if what == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(number), int(number)))
        else:
            owner = {"seal": Checkpoints, "rename": os}[what]
            die_at(owner, {"seal": "_seal", "rename": "replace"}[what], int(number))
        try:
            toys.train(Path(sys.argv[1]) / argument, toys.long_plan(), checkpoint_minutes=0)
        except UserError as error:
            print(str(error).replace(chr(10), " "), flush=True)
            os._exit(2)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
"""


@pytest.fixture(scope="module")
def children(tmp_path_factory):
    """(where they worked, what they said): launches that were killed, or had a full disk."""
    place = tmp_path_factory.mktemp("children")
    arguments = ["seal=5", "rename=9", "limit=6000", "limit=100"]
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(place), *arguments],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": f"{LIB}{os.pathsep}."},
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    return place, process.stdout.splitlines(), process.stderr


@pytest.mark.parametrize("argument", ["seal=5", "rename=9"])
def test_a_process_that_is_really_killed_loses_nothing(long, children, argument):
    """In the background, before a checkpoint is sealed; and between two files."""
    place, output, errors = children
    assert f"{argument} -9" in output, errors
    directory = place / argument
    assert (directory / ".lock").exists()
    if argument == "seal=5":
        assert list((directory / "checkpoints").glob("*tmp*"))
    assert train(directory, long_plan()).missing == 0
    assert tables(directory) == tables(long[0])
    assert not list(directory.rglob("*tmp*"))


@pytest.mark.parametrize("argument", ["limit=6000", "limit=100"])
def test_a_disk_that_is_really_full_loses_nothing(long, children, argument):
    """No file may be larger than so many bytes."""
    place, output, errors = children
    assert f"{argument} 2" in output, errors
    message = output[output.index(f"{argument} 2") - 1]
    assert message.startswith("cannot write "), message
    directory = place / argument
    assert train(directory, long_plan()).missing == 0
    assert tables(directory) == tables(long[0])
