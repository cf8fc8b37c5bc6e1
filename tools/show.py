"""What is in a checkpoint: python tools/show.py PATH"""

from pathlib import Path
from typing import Annotated

import _cli
import typer
from rich.table import Table

import formats
from formats.convert.hf import open_hf
from seft_ref.checkpoint import is_sparse


def main(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="Sparse checkpoint (folder or file) or Hugging Face folder."),
    ],
) -> None:
    """Print tensors, encodings, support, sparsity, bytes and digests of a checkpoint, without reading the tensors."""
    if path.is_dir() and not is_sparse(path):
        _show_hf(path)
        return
    with formats.open(path) as reader:
        table = Table(title=f"{path}: {reader.kind}, format {reader.spec}")
        for heading, side in (
            ("tensor", "left"),
            ("dtype", "left"),
            ("shape", "left"),
            ("encoding", "left"),
            ("support", "right"),
            ("sparsity", "right"),
            ("bytes", "right"),
            ("content", "left"),
        ):
            table.add_column(heading, justify=side, no_wrap=True)  # type: ignore[arg-type]
        support = numel = size = 0
        for name in reader.names():
            info = reader.info(name)
            table.add_row(
                name,
                str(info.dtype),
                _by(info.shape),
                info.encoding,
                f"{info.nnz:,}",
                f"{1 - info.nnz / max(info.numel, 1):.4f}",
                f"{info.nbytes:,}",
                info.content_sha256[:12],
            )
            support, numel, size = support + info.nnz, numel + info.numel, size + info.nbytes
        table.add_section()
        table.add_row(
            f"{len(reader.names())} tensors",
            "",
            "",
            "",
            f"{support:,}",
            f"{1 - support / max(numel, 1):.4f}",
            f"{size:,}",
            "",
        )
        _cli.wide.print(table)
        _cli.wide.print(f"digest of the whole: {reader.root_sha256}")
        for alias, target in sorted(reader.tied.items()):
            _cli.wide.print(f"{alias} is {target}")
        for key, value in sorted(reader.attributes.items()):
            _cli.wide.print(f"{key}: {value}")
        if reader.files:
            _cli.wide.print("files: " + ", ".join(sorted(reader.files)))


def _show_hf(path: Path) -> None:
    with open_hf(path) as source:
        table = Table(title=f"{path}: Hugging Face folder")
        for heading in ("tensor", "dtype", "shape"):
            table.add_column(heading, no_wrap=True)
        for name in source:
            section = source.section(name)
            table.add_row(name, section.dtype, _by(section.shape))
        _cli.wide.print(table)
        _cli.wide.print("files: " + ", ".join(sorted(source.files)))


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


if __name__ == "__main__":
    _cli.run(main)
