"""python -m benchmarks NAME."""

from benchmarks.app import app
from seft_cli import console

if __name__ == "__main__":
    console.run_app(app, "python -m benchmarks")
