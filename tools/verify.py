"""Judge our engine, or a port, clause by clause against SPEC.md; --help names every option and subcommand.

python tools/verify.py [--only GLOB] [--report DIR]
python tools/verify.py --port "./my_port" [--expect seft-expect.toml]
python tools/verify.py list --cases
"""

import os
import sys
from pathlib import Path

# numba and OpenBLAS keep their threads spinning against each other unless told so before they are loaded
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from conformance.command import main

if __name__ == "__main__":
    raise SystemExit(main())
