"""Checkpoints of a running study: the slots and what the host knows of them, as one item.

A checkpoint is an Orbax item that holds both and is committed by one rename, so that the two
cannot tear; a seal of checksums is written into it before that rename. It is written in the
background while the study trains on. The last two are kept: if the newest turns out to be
damaged, the one before still serves.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ablax.engine import processes
from ablax.errors import UserError

PLACE = "checkpoints"
MOST = 2
"""Checkpoints that stay, the one in writing included."""
SEAL = "seal.json"
UNSEALED = (SEAL, "_CHECKPOINT_METADATA")  # Orbax adds the time of the commit to the latter


class Checkpoint(NamedTuple):
    number: int
    arrays: dict[str, np.ndarray]
    host: dict[str, Any]


class Checkpoints:
    """Writes the checkpoints of one launch.

    Args:
        place: the folder of checkpoints.
        minutes: between two of them.
        number: of the first.

    Attributes:
        written: so far.
        seconds_waited: while they were copied, or while the one before was still in writing.
    """

    def __init__(self, place: Path, minutes: float, number: int):
        self.place, self.seconds, self.number = place, 60 * minutes, number
        self.written, self.seconds_waited = 0, 0.0
        self._last = time.monotonic()
        self._writer = None
        self._writing = place

    def due(self) -> bool:
        """True if it is time for the next checkpoint."""
        return time.monotonic() - self._last >= self.seconds

    def save(self, arrays: Mapping[str, Any], host: Mapping[str, Any]) -> None:
        """Copy the arrays, and write them in the background. Every process must call it.

        Raises:
            UserError: the checkpoint before this one could not be written.
        """
        import orbax.checkpoint as ocp

        started = time.perf_counter()
        self.wait()
        if self._writer is None:
            self._writer = ocp.AsyncCheckpointer(
                ocp.CompositeCheckpointHandler(),
                async_options=ocp.options.AsyncOptions(post_finalization_callback=self._seal),
            )
        self._writing = self.place / f"{self.number:06d}"
        item = ocp.args.Composite(
            slots=ocp.args.StandardSave(dict(arrays)),
            host=ocp.args.JsonSave({**host, "arrays": list(arrays)}),
        )
        try:
            self.place.mkdir(parents=True, exist_ok=True)
            self._writer.save(self._writing.absolute(), args=item)
        except Exception as error:
            raise _unwritten(self._writing, error) from error
        self.number += 1
        self.written += 1
        self.seconds_waited += time.perf_counter() - started
        self._last = time.monotonic()

    def wait(self) -> None:
        """Block until the pending checkpoint is written."""
        if self._writer is None:
            return
        try:
            self._writer.wait_until_finished()
        except Exception as error:
            raise _unwritten(self._writing, error) from error

    def close(self) -> None:
        """Stop writing; an error is not worth another one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def remove(self) -> None:
        """Remove all checkpoints: nothing is left to go on from."""
        self.wait()
        if processes.first():
            clear(self.place, after=None)

    def _seal(self) -> None:
        """Seal the checkpoint, in the first process, between its last write and its commit."""
        unnamed = self.place.glob(f"{self._writing.name}.orbax-checkpoint-tmp*")
        where = next(unnamed, self._writing)
        (where / SEAL).write_text(json.dumps(_checksums(where)))
        for older in numbered(self.place)[: -(MOST - 1)]:  # the one in writing is not among them
            shutil.rmtree(self.place / f"{older:06d}", ignore_errors=True)


def _unwritten(path: Path, error: Exception) -> Exception:
    """Error to raise instead: the layers below raise almost anything when a disk is full."""
    if processes.many() and not isinstance(error, OSError) and "OS error" not in str(error):
        return error  # not the disk: another process has died
    return UserError(
        f"cannot write the checkpoint {path}: {error}\n"
        "what the last checkpoint holds is kept: make room, then rerun the same command to resume"
    )


class Latest(NamedTuple):
    """The newest checkpoint that is whole, if any, and what is wrong with those after it."""

    number: int | None
    host: dict[str, Any]  # empty where there is none
    complaints: list[str]

    @property
    def holds(self) -> set[str]:
        """The trials that were in training."""
        return {trial for trial in self.host.get("holds", ()) if trial is not None}


def latest(place: Path) -> Latest:
    """Look at the checkpoints; costs as much as reading all their bytes."""
    number, complaints = newest(place)
    return Latest(number, {} if number is None else host_of(place, number), complaints)


def numbered(place: Path) -> list[int]:
    """The checkpoints that were committed, oldest first."""
    return sorted(int(path.name) for path in place.glob("*") if path.name.isdigit())


def newest(place: Path) -> tuple[int | None, list[str]]:
    """(the newest checkpoint that is whole, what is wrong with those after it)."""
    complaints = []
    for number in reversed(numbered(place)):
        if not (complaint := _damage(place / f"{number:06d}")):
            return number, complaints
        complaints.append(f"checkpoint {number} is damaged: {complaint}")
    return None, complaints


def _damage(path: Path) -> str:
    """Damage of a checkpoint in words; empty if it is intact."""
    try:
        sealed = json.loads((path / SEAL).read_text())
        if not isinstance(sealed, dict) or not sealed:
            raise ValueError("it names no files")
        sums = _checksums(path)
    except (OSError, ValueError) as error:
        return f"its seal cannot be read ({error})"
    wrong = sorted(name for name, checksum in sealed.items() if sums.get(name) != checksum)
    return f"{wrong[0]} is not what was written" if wrong else ""


def _checksums(path: Path) -> dict[str, str]:
    """{file: SHA-256} of everything below a folder that is sealed."""
    sums = {}
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.name not in UNSEALED:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256")
            sums[str(file.relative_to(path))] = digest.hexdigest()
    return sums


def _reader() -> Any:
    """Orbax's reader of our items, in this process alone."""
    import orbax.checkpoint as ocp

    options = ocp.CompositeOptions(multiprocessing_options=processes.alone())
    return ocp.Checkpointer(
        ocp.CompositeCheckpointHandler(composite_options=options),
        multiprocessing_options=processes.alone(),
    )


def host_of(place: Path, number: int) -> dict[str, Any]:
    """State of the host when a checkpoint was made."""
    import orbax.checkpoint as ocp

    path = (place / f"{number:06d}").absolute()
    with _reader() as reader:
        return reader.restore(path, args=ocp.args.Composite(host=ocp.args.JsonRestore())).host


def read(place: Path, number: int) -> Checkpoint:
    """A checkpoint, its arrays whole and as NumPy: it may have been made on other devices."""
    import orbax.checkpoint as ocp

    host = host_of(place, number)
    path = (place / f"{number:06d}").absolute()
    kinds = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in host["arrays"]}
    with _reader() as reader:
        item = ocp.args.Composite(slots=ocp.args.PyTreeRestore(restore_args=kinds))
        arrays = reader.restore(path, args=item).slots
    return Checkpoint(number, arrays, host)


def clear(place: Path, *, after: int | None) -> None:
    """Remove all but what is whole: everything after a checkpoint; None: all there is."""
    for path in place.glob("*"):
        if after is None or not path.name.isdigit() or int(path.name) > after:
            shutil.rmtree(path, ignore_errors=True)
    if after is None:
        shutil.rmtree(place, ignore_errors=True)
