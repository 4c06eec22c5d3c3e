"""The machine, the versions and the command that numbers were measured with."""

import contextlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from ablax.study.manifest import command_line


def provenance() -> dict[str, Any]:
    return {"machine": machine(), "versions": versions(), "command": command_line()}


def available_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def machine() -> str:
    """The CPU by its name, and how many cores this process may use."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [s for s in info.read_text().splitlines() if s.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    return f"{name}, {len(available_cores())} cores, {platform.system()}"


def versions() -> dict[str, str]:
    packages = ("jax", "flax", "optax", "numpy", "scikit-learn", "torch")
    versions = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
