"""`python -m benchmarks gpu` from anywhere: python tools/check_gpu.py --help"""

import _checkout  # noqa: F401

from benchmarks.check_gpu import main
from seft_cli import console

if __name__ == "__main__":
    console.run(main)
