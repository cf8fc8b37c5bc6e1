"""Every broken rule of a sparse checkpoint: python tools/check.py PATH"""

from pathlib import Path
from typing import Annotated

import _cli
import typer

from formats.check import violations


def main(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Sparse checkpoint, folder or file.")],
) -> None:
    """Read all of a checkpoint, compare every digest, and list each broken rule with its clause; exit code 1 if any.

    A PATH that cannot be read at all ends with exit code 2.
    """
    if not path.exists():
        raise _cli.Refused(f"there is no {path}")
    count = 0
    for where, error in violations(path):
        count += 1
        print(f"{where}: {error}")
    if count:
        print(f"{path}: {count} {'rule is' if count == 1 else 'rules are'} broken")
        raise SystemExit(1)
    print(f"{path}: no rule is broken")


if __name__ == "__main__":
    _cli.run(main)
