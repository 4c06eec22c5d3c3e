"""Where a result comes from: versions, device, commit, data, program."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from ablax.sweep import engine
from ablax.sweep.plan import Plan

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def provenance(plan: Plan, command: str) -> dict[str, Any]:
    """Everything that a stranger needs to repeat the study, or to see why it differs."""
    return {
        "command": command,
        "commit": commit(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": jax.default_backend(),
        "device": plan.device_kind,
        "devices": plan.devices,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "matmul_precision": getattr(jax.config, "jax_default_matmul_precision", None) or "default",
        "programs": {
            program.name: {
                "slots_per_device": program.slots_per_device,
                "data": program.task.fingerprint,
                "stablehlo": _program_hash(program, plan.seed),
            }
            for program in plan.programs
        },
    }


def _program_hash(program: Any, seed: int) -> str:
    example = engine.take(engine.trials_of([program.trials[0].point.config], [0], seed), 0)
    text = engine.solo_hlo(program.task, example)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def commit() -> str | None:
    """The commit of the code, with a + where the work tree differs; None outside of git."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def command_line() -> str:
    """The command that started this process, as a user would type it again."""
    import shlex

    return "./launch.sh " + shlex.join(sys.argv[1:])
