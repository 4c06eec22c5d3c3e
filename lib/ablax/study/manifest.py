"""Where a result comes from: versions, device, commit, data, program."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from ablax.study.plan import Plan, describe
from ablax.study.recorder import settings

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def record(plan: Plan, command: str, *, slots: dict[str, int], marks: list[str]) -> dict[str, Any]:
    """What study.json says.

    Args:
        plan: what is trained.
        command: that started it.
        slots: {program: slots per device}.
        marks: what has changed during the study.
    """
    objective = plan.programs[0].task.objective
    return {
        "experiment": plan.experiment,
        "id": plan.id,
        "seed": plan.seed,
        "restarts": plan.restarts,
        "trials": plan.rounds.size,
        "rounds": {
            "name": plan.rounds.name,
            "n": plan.rounds.n,
            "gives": plan.rounds.gives,
        },
        "points": [{"name": p.name, "group": p.group, **settings(p.config)} for p in plan.points],
        "plan": describe(plan),
        "objective": objective and asdict(objective),
        "metrics": {m.name: m.direction for p in plan.programs for m in p.task.metrics},
        "significance": plan.significance,
        "marks": marks,
        "provenance": provenance(plan, command, slots),
    }


def provenance(plan: Plan, command: str, slots: dict[str, int]) -> dict[str, Any]:
    """Everything that a stranger needs to repeat the study, or to see why it differs.

    Args:
        plan: what is trained.
        command: that started it.
        slots: {program: slots per device}.
    """
    return {
        "command": command,
        "commit": commit(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "conditions": conditions(plan),
        "platform": jax.default_backend(),
        "devices": plan.devices,
        "processes": jax.process_count(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "matmul_precision": matmul_precision(),
        "programs": {
            program.name: {
                "statics": program.statics,
                "identity": asdict(program.identity),
                "slots_per_device": slots[program.name],
                "data": program.task.fingerprint,
                "version": program.task.version,
                "stablehlo": program.stablehlo,
            }
            for program in plan.programs
        },
    }


def conditions(plan: Plan) -> dict[str, str]:
    """What must not change while a study lasts, besides its programs."""
    return {
        "JAX version": importlib.metadata.version("jax"),
        "device kind": plan.device_kind,
    }


def matmul_precision() -> str:
    """How exact matrix products are: what JAX was told, and what its default means here."""
    told = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    if told is not None:
        return str(told)
    meant = {
        "cpu": "float32",
        "gpu": "may be TF32 on GPUs that have it",
        "tpu": "bfloat16 products",
    }
    return f"default ({meant.get(jax.default_backend(), 'chosen by the backend')})"


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


def command_line(arguments: Sequence[str] | None = None) -> str:
    """A command as a user would type it again; without arguments, that of this process."""
    return shlex.join(["./launch.sh", *(sys.argv[1:] if arguments is None else arguments)])
