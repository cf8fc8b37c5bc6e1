"""The commands of this checkout, installed or not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from seft_cli.app import run as seft

__all__ = ["seft"]
