"""The run directory itself: its files' names, and whether a place can be one."""

from pathlib import Path

from ablax.errors import UserError
from ablax.rundir import lock

STUDY = "study.json"
PROBE = ".probe"
LEFTOVERS = (PROBE, f".{STUDY}.tmp", lock.NAME)  # of a crash in a launch's first moment


def prepare(directory: Path) -> None:
    """Refuse a place that cannot be a run directory; make it if it is not there."""
    try:
        if directory.exists() and not directory.is_dir():
            raise UserError(f"--out {directory} is a file; expected a directory")
        if (
            directory.exists()
            and not (directory / STUDY).exists()
            and any(path.name not in LEFTOVERS for path in directory.iterdir())
        ):
            raise UserError(
                f"--out {directory} is not empty and holds no study ({STUDY} is missing); "
                "expected a new or empty directory, or one of this study"
            )
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / PROBE
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out {directory} cannot be written: {error.strerror}") from error
