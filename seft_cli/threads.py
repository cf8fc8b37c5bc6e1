"""Thread settings, which libraries read when they are loaded: imported before NumPy."""

import os

from conformance.threads import PASSIVE as PASSIVE

NAMES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Where libraries read how many threads to use."""

_NEIGHBOURS = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") or os.environ.get("MPI_LOCALNRANKS") or "1"
if _NEIGHBOURS.isdigit() and int(_NEIGHBOURS) > 1:
    # processes that mpirun started on this machine share its cores
    for _name in NAMES:
        os.environ.setdefault(_name, str(max(1, (os.cpu_count() or 1) // int(_NEIGHBOURS))))
