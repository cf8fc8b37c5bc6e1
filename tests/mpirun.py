"""Run several Python processes under mpirun."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_checks import OPEN_MPI

MPIRUN = shutil.which("mpirun", path=str(Path(sys.executable).parent)) or shutil.which("mpirun")
needs_mpi = pytest.mark.skipif(
    MPIRUN is None or importlib.util.find_spec("mpi4py") is None, reason="needs mpirun and mpi4py: the extra mpi"
)
HERE = Path(__file__).resolve().parents[1]


def together(n, command, *paths):
    """Run a Python command as n processes, which import from `paths` first; return the result of `subprocess.run`."""
    command = [MPIRUN, "-n", str(n), sys.executable, *map(str, command)]
    environment = os.environ | OPEN_MPI | {"PYTHONPATH": os.pathsep.join(map(str, (*paths, HERE)))}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
