"""`python -m benchmarks NAME` from anywhere: python tools/bench.py --help"""

import _checkout  # noqa: F401

from benchmarks.app import app
from seft_cli import console

if __name__ == "__main__":
    console.run_app(app)
