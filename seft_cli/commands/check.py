"""Every broken rule of a sparse checkpoint: seft check PATH [--json]"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import formats
from formats.check import violations
from formats.dialects.sources import detect
from formats.errors import FormatError
from formats.index import is_sparse, unlisted
from seft_cli import console
from seft_cli.input import MaxBytes, limit_of, require_input, tell_leftovers

_ADVICE = {
    "hf": "a Hugging Face folder; seft convert {} DST --to sparse reads it strictly",
    "compressed-tensors": "a folder of compressed-tensors; seft convert {} DST --to sparse reads it strictly",
    "weight-sync": "a version folder; seft apply BASE {} OUT compares its checksums",
    "scipy": "a folder of SciPy matrices; seft convert {} DST --to sparse reads it strictly",
}
"""Format that is no sparse checkpoint -> its name and the command that checks it; the rest changes a base."""

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
    if path.is_dir() and not is_sparse(path):
        raise console.Refused(_advice(path))
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
        if names := _unlisted(path):
            remark = f"the checkpoint does not list {', '.join(names)}"
            console.err.print(f"{remark}; seft convert and seft apply leave it out")
    if broken:
        raise SystemExit(1)


def _unlisted(path: Path) -> list[str]:
    """Return the files of a folder that its checkpoint does not list."""
    if not path.is_dir():
        return []
    with formats.open(path) as reader:
        return unlisted(path, reader.files)


def _looks_sparse(path: Path) -> bool:
    """Return whether a path looks like a checkpoint; False if it cannot be read or no longer exists."""
    try:
        return is_sparse(path)
    except (OSError, FormatError):
        return False


def _advice(path: Path) -> str:
    """Return a message about a folder that is no sparse checkpoint: what it is, and which command checks it."""
    try:
        kind = detect(path)
    except FormatError:
        if checkpoints := sorted(inner for inner in path.iterdir() if _looks_sparse(inner)):
            return f"{path} is no checkpoint but holds {len(checkpoints)}; name one, such as {checkpoints[-1]}"
        return f"{path} holds no checkpoint; name a folder or file that seft convert wrote"
    what = _ADVICE.get(kind, f"of the format {kind}; seft convert {{}} DST --to delta --base MODEL reads it strictly")
    return f"{path} is {what.format(path)}"
