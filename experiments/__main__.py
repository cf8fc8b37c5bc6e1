"""python -m experiments NAME."""

from experiments.app import main
from seft_cli import console

if __name__ == "__main__":
    console.run(main, "python -m experiments")
