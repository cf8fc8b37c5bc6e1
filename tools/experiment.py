"""`python -m experiments NAME` from anywhere: python tools/experiment.py --help"""

import _checkout  # noqa: F401

from experiments.app import main
from seft_cli import console

if __name__ == "__main__":
    console.run(main)
