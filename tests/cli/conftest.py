"""Fixtures shared by the tests of processes and of their launchers."""

import os
import sys

import pytest


@pytest.fixture
def outside_of_launchers(tmp_path, monkeypatch):
    """An empty working directory, a copy of sys.argv, and no launcher around the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["experiments", "typed"])
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "TPU_", "JAX_")) and name != "JAX_PLATFORMS":
            monkeypatch.delenv(name)
    return tmp_path
