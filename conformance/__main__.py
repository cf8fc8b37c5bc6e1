"""``python -m conformance``: the same command as tools/verify.py."""

from conformance import threads as threads  # before all that loads NumPy
from conformance.command.app import main

if __name__ == "__main__":
    raise SystemExit(main())
