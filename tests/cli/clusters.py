"""Environment variables of processes: what finds the package, and what clusters set."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join(map(str, (ROOT / "lib", ROOT)))
"""The PYTHONPATH of a process that runs the checkout."""

# Of the second of two processes.

STEP = {
    "SLURM_JOB_ID": "9",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
