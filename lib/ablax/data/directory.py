"""Where downloaded data sets are kept."""

import os
from pathlib import Path

from ablax.checkout import COMMAND
from ablax.errors import UserError


def data_directory() -> Path:
    """The folder of the downloaded data sets: $ABLAX_DATA, or ~/.cache/ablax."""
    return Path(os.environ.get("ABLAX_DATA") or "~/.cache/ablax").expanduser()


def missing(name: str, expected: Path) -> UserError:
    """The error for a data set whose file `expected` does not exist."""
    return UserError(
        f"{name} is not in {expected.parent.parent}: expected file {expected}; "
        f"`{COMMAND} data fetch {name}` downloads it, or set ABLAX_DATA to the folder that "
        f"holds {expected.parent.name}/"
    )
