"""study.json: the plan of a study and where its results come from; written and read here."""

import functools
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax

from ablax.checkout import COMMAND
from ablax.errors import UserError
from ablax.rundir.directory import STUDY
from ablax.study.plan import Identity, Plan, describe
from ablax.study.recorder import settings

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


Manifest = dict[str, Any]
"""study.json as a dict."""


@dataclass(frozen=True)
class Origin:
    """The command that launched a study.

    Attributes:
        command: as a user would type it again.
        file: of an experiment of one's own, relative to the working directory; None otherwise.
        preset: the preset that it trains, unless flags changed what is trained.
    """

    command: str = ""
    file: str | None = None
    preset: str | None = None
    working_directory: str = ""

    @classmethod
    def of(cls, arguments: Sequence[str], preset: str | None = None) -> "Origin":
        """The origin of a study that this process launches with these arguments."""
        file = arguments[0] if arguments and arguments[0].endswith(".py") else None
        return cls(command_line(arguments), file, preset, os.getcwd())


def manifest_of(plan: Plan, origin: Origin, *, slots: dict[str, int], marks: list[str]) -> Manifest:
    """Return what study.json holds.

    Args:
        plan: what is trained.
        origin: the command that started it.
        slots: {program: slots per device}.
        marks: what has changed during the study.
    """
    objective = plan.programs[0].task.objective
    return {
        "experiment": plan.experiment,
        "preset": origin.preset,
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
        "provenance": provenance(plan, origin, slots),
    }


def provenance(plan: Plan, origin: Origin, slots: dict[str, int]) -> dict[str, Any]:
    """Everything that a stranger needs to repeat the study, or to see why it differs.

    Args:
        plan: what is trained.
        origin: the command that started it.
        slots: {program: slots per device}.
    """
    return {
        "command": origin.command,
        "file": origin.file,
        "working_directory": origin.working_directory,
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
    """Conditions that must not change during a study, besides its programs."""
    return {
        "JAX version": importlib.metadata.version("jax"),
        "device kind": plan.device_kind,
    }


def matmul_precision() -> str:
    """How exact matrix products are: what JAX was told, and what its default means here."""
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    if precision is not None:
        return str(precision)
    meant = {
        "cpu": "float32",
        "gpu": "may be TF32 on GPUs that have it",
        "tpu": "bfloat16 products",
    }
    return f"default ({meant.get(jax.default_backend(), 'chosen by the backend')})"


@functools.cache
def commit() -> str | None:
    """The commit of the code, with a + where the work tree differs; None outside of git.

    Read once: the process runs the code that it started with.
    """
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
    return shlex.join([COMMAND, *(sys.argv[1:] if arguments is None else arguments)])


def read_manifest(directory: Path) -> Manifest | None:
    """study.json; None if there is none yet.

    Raises:
        UserError: it is not what a launch writes.
    """
    path = directory / STUDY
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text())
        _ = manifest["experiment"], manifest["seed"], manifest["points"], manifest["rounds"]["name"]
        _ = manifest["significance"]
        _ = list(manifest["marks"])
        _ = dict(manifest["provenance"]["conditions"])
        for entry in manifest["provenance"]["programs"].values():
            _ = Identity(**entry["identity"]), dict(entry["statics"])
            _ = entry["data"], entry["version"], entry["stablehlo"], entry["slots_per_device"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{directory} holds no readable study: {path}: {error}") from error
    return manifest
