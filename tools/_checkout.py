"""Makes the commands of this checkout importable from any folder, whether it is installed or not."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from seft_cli.app import run as seft

__all__ = ["seft"]

# some commands start parts of themselves as processes, which find the checkout by PYTHONPATH
os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], *filter(None, [os.environ.get("PYTHONPATH")])])
