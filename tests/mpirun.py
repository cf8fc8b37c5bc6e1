"""Several Python processes that mpirun starts."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MPIRUN = shutil.which("mpirun", path=str(Path(sys.executable).parent)) or shutil.which("mpirun")
needs_mpi = pytest.mark.skipif(
    MPIRUN is None or importlib.util.find_spec("mpi4py") is None, reason="needs mpirun and mpi4py: the extra mpi"
)
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
"""Open MPI refuses root, and more processes than cores, unless it is told otherwise."""
HERE = Path(__file__).resolve().parents[1]


def together(n, command, *paths):
    """Run a Python command as n processes, which import from the given folders first; returns what subprocess does."""
    command = [MPIRUN, "-n", str(n), sys.executable, *map(str, command)]
    environment = os.environ | OPEN_MPI | {"PYTHONPATH": os.pathsep.join(map(str, (*paths, HERE)))}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
