"""Thread settings. Import this before NumPy, because libraries read the settings when they load."""

import os

from conformance.threads import NAMES as NAMES
from conformance.threads import PASSIVE as PASSIVE

_NEIGHBOURS = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") or os.environ.get("MPI_LOCALNRANKS") or "1"
if _NEIGHBOURS.isdigit() and int(_NEIGHBOURS) > 1:
    # processes that mpirun started on this machine share its cores
    for _name in NAMES:
        os.environ.setdefault(_name, str(max(1, (os.cpu_count() or 1) // int(_NEIGHBOURS))))
