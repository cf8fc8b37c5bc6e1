"""``python -m conformance``: the same command as tools/verify.py."""

from conformance import threads as threads  # imported first, because libraries read the settings when NumPy is loaded
from conformance.command.app import main

if __name__ == "__main__":
    raise SystemExit(main())
