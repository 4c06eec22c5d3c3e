"""The checkout that this package is imported from, if it is not installed elsewhere."""

import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]
CHECKOUT = _ROOT if (_ROOT / "launch.sh").exists() else None
EXPERIMENTS = _ROOT / "experiments"
COMMAND = "./launch.sh" if CHECKOUT else "ablax"
"""The command as a user types it."""
LAUNCH = [str(_ROOT / "launch.sh")] if CHECKOUT else [sys.executable, "-m", "ablax"]
"""The same for another process."""
