"""The commands of this checkout, installed or not, in any folder."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from seft_cli.app import run as seft

__all__ = ["seft"]

# some commands start parts of themselves as programs, which find the checkout here
os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], *filter(None, [os.environ.get("PYTHONPATH")])])
