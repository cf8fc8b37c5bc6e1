"""``python -m conformance``: the same command as tools/verify.py."""

import os

# numba and OpenBLAS keep their threads spinning against each other unless told so before they are loaded
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

from conformance.command.app import main

if __name__ == "__main__":
    raise SystemExit(main())
