"""Convert between Hugging Face folders and sparse checkpoints: python tools/convert.py SRC DST --to sparse|hf"""

from pathlib import Path
from typing import Annotated

import _cli
import typer

import formats.convert.hf as hf
from seft_ref.checkpoint import is_sparse


def main(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder to read.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write; must not exist.")],
    to: Annotated[str, typer.Option(help="sparse or hf.")],
    encoding: Annotated[str, typer.Option(help="For sparse: auto (fewest bytes), bitmask, csr or dense.")] = "auto",
    dtype: Annotated[
        str | None, typer.Option(help="Cast floats to F16, BF16, F32 or F64; default: keep every bit.")
    ] = None,
) -> None:
    """Convert the model in SRC; without --dtype every weight keeps its bits. Config and tokenizer travel along."""
    _cli.require_absent(destination)
    if not source.is_dir():
        raise _cli.Refused(f"there is no folder {source}")
    if to == "sparse":
        if is_sparse(source):
            raise _cli.Refused(f"{source} is a sparse checkpoint already")
        hf.to_sparse(source, destination, encoding=encoding, dtype=dtype)
    elif to == "hf":
        if not is_sparse(source):
            raise _cli.Refused(f"{source} is not a sparse checkpoint")
        hf.to_hf(source, destination, dtype=dtype)
    else:
        raise _cli.Refused(f"--to {to} is unknown; choose sparse or hf")
    _cli.out.print(f"{destination}: {sum(f.stat().st_size for f in destination.iterdir()):,} bytes")


if __name__ == "__main__":
    _cli.run(main)
