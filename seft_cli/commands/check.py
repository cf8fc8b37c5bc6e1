"""Every broken rule of a sparse checkpoint: seft check PATH [--json]"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from formats.check import violations
from formats.index import is_sparse
from seft_cli import console
from seft_cli.input import MaxBytes, limit_of, require_input, tell_leftovers

SCHEMA = "seft.check/1"
"""The name of the --json object in docs/reference/json.md."""


def main(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Sparse checkpoint, folder or file.")],
    *,
    max_bytes: MaxBytes = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Read all of a checkpoint, compare every digest, and list each broken rule with its clause; exit code 1 if any.

    A PATH that cannot be read at all ends with exit code 2.
    """
    require_input(path)
    if (path / "model.safetensors").is_file() and not is_sparse(path):
        raise console.Refused(f"{path} is a Hugging Face folder; seft convert {path} DST --to sparse reads it strictly")
    tell_leftovers(path)
    broken: list[dict[str, Any]] = []
    for place, error in violations(path, limit=limit_of(max_bytes, path)):
        broken.append({"where": place, "clause": error.clause, "message": str(error)})
        if not as_json:
            console.say(f"{place}: {error}")
    if as_json:
        print(json.dumps({"schema": SCHEMA, "path": str(path), "broken": broken}, indent=1))
    elif broken:
        console.say(f"{path}: {len(broken)} {'rule is' if len(broken) == 1 else 'rules are'} broken")
    else:
        console.say(f"{path}: no rule is broken")
    if broken:
        raise SystemExit(1)
