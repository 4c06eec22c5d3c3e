"""One process at a time in a run directory."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ablax.errors import UserError

NAME = ".lock"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the run directory while the block runs.

    The kernel holds the lock, not the file: it is gone with the process that took it, however
    that ended, so that what a dead one left behind is taken over.

    Raises:
        UserError: another process holds it; says which.
    """
    path = directory / NAME
    try:
        stream = _hold(path)
    except OSError as error:  # such as a file system without locks
        raise UserError(f"--out {directory} cannot be locked: {error.strerror}") from error
    try:
        _say_who(stream, directory)
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # still held, so that nobody else can be about to use this file
        with suppress(OSError):
            stream.close()


def _say_who(stream: IO[str], directory: Path) -> None:
    try:
        stream.seek(0)
        stream.truncate()
        json.dump({"pid": os.getpid(), "host": socket.gethostname()}, stream)
        stream.flush()
    except OSError as error:
        raise UserError(f"--out {directory} cannot be written: {error.strerror}") from error


def _hold(path: Path) -> IO[str]:
    while True:
        stream = path.open("a+")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = _holder(stream.read())
            stream.close()
            raise UserError(
                f"--out {path.parent} is in use by {holder}; wait until it has ended, "
                "or choose another --out"
            ) from None
        # Its last holder may have removed the file after it was opened here.
        with suppress(OSError):
            if os.fstat(stream.fileno()).st_ino == path.stat().st_ino:
                return stream
        stream.close()


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"  # which has not yet said who it is
