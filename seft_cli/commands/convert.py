"""Convert checkpoints, and make and apply deltas between them.

seft convert SRC DST --to sparse|hf|delta|compressed-tensors|gptq|torch-csr|peft|super-tuning|seft|trl-delta
                          |weight-sync|scipy|binsparse
seft diff  BASE TARGET DELTA
seft apply BASE DELTA|VERSION [...] OUT
"""

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

import formats
from formats import delta
from formats.conversion import TO, USES, named_attributes
from formats.dialects import hf
from formats.dialects.coded import is_coded
from formats.dialects.sources import open_source
from formats.dialects.version_index import is_version
from formats.dialects.weight_sync import apply_weight_sync
from formats.errors import FormatError
from formats.index import is_sparse
from formats.records import Checkpoint
from seft_cli import console
from seft_cli.input import MaxBytes, limit_of, require_input, size_of
from seft_cli.interrupt import writing
from seft_cli.output import require_absent

_ENCODINGS = "auto (fewest bytes), dense, bitmask, csr, gap8, varint, nm, nm:N:M or nm:N:M:AXIS [auto]"
Encoding = Annotated[str | None, typer.Option(help=f"{_ENCODINGS}.")]
Compress = Annotated[
    str | None, typer.Option(help="zstd: smaller sections, expanded when they are read; file: one packed file (.zst).")
]
ShardSize = Annotated[str | None, typer.Option(help="Bytes of tensors in one file, such as 500MB [5GB].")]
Verify = Annotated[bool, typer.Option("--verify", help="Read everything back and compare it bit for bit.")]
_OPTIONS = {"shard_bytes": "--shard-size"}
"""Arguments of `formats.convert` whose command-line option has another name."""


def main(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder or file to read.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder or file to write; must not exist.")],
    to: Annotated[str, typer.Option(help=", ".join(TO) + ".")],
    source_format: Annotated[
        str,
        typer.Option(
            "--from",
            help="auto, sparse, hf, compressed-tensors, spiel, shira, super-tuning, seft, lora, trl-delta, "
            "weight-sync, torch, scipy or gguf.",
        ),
    ] = "auto",
    base: Annotated[
        Path | None,
        typer.Option(
            help="The model that an adapter, a patch or a delta changes (for delta, peft, super-tuning, seft, "
            "weight-sync)."
        ),
    ] = None,
    encoding: Annotated[str | None, typer.Option(help=f"{_ENCODINGS}; of weight-sync xor or overwrite [xor].")] = None,
    compress: Compress = None,
    shard_size: ShardSize = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Cast floats (of a delta: amounts to add) to F16, BF16, F32 or F64; default: keep every bit."
        ),
    ] = None,
    zeros: Annotated[
        str | None,
        typer.Option(
            help="Zeros of a dense matrix that are not stored: any (-0.0 returns as +0.0), or positive, not -0.0 [any]."
        ),
    ] = None,
    checksum: Annotated[
        str | None, typer.Option(help="Of a version folder (weight-sync): xxh3-128, blake3, adler32 [xxh3-128].")
    ] = None,
    *,
    max_bytes: MaxBytes = None,
    threads: console.Threads = None,
    expand_quantised: Annotated[
        bool,
        typer.Option(
            "--expand-quantised",
            help="Turn codes into floats: of this format, GGUF, and folders of GPTQ, AWQ or compressed-tensors.",
        ),
    ] = False,
    keep_codes: Annotated[
        bool,
        typer.Option(
            "--keep-codes",
            help="Keep the codes of GGUF, and of folders of GPTQ, AWQ or compressed-tensors, as codes of this format.",
        ),
    ] = False,
    verify: Verify = False,
) -> None:
    """Convert what is in SRC; without --dtype every weight keeps its value. Config and tokenizer travel along.

    See also: seft diff BASE TARGET DELTA, and seft apply BASE DELTA [DELTA ...] OUT.
    """
    require_absent(destination)
    require_input(source)
    shard_bytes = _shard_bytes(shard_size)
    limit = limit_of(max_bytes, source, *([require_input(base)] if base is not None else []))
    if to in USES:
        choices = {
            "base": base,
            "encoding": encoding,
            "compress": compress,
            "zeros": zeros,
            "dtype": dtype,
            "checksum": checksum,
        }
        used = [_OPTIONS.get(name, f"--{name}") for name in USES[to]]
        options = {f"--{name}": value for name, value in choices.items()} | {"--shard-size": shard_size}
        console.refuse_unused(f"--to {to}", used, options)
    with writing(destination), console.progress("converting", gone=True) as advance:
        remarks = formats.convert(
            source,
            destination,
            to,
            source_format=source_format,
            base=base,
            encoding=encoding or "auto",
            compress=compress,
            shard_bytes=shard_bytes,
            dtype=dtype,
            zeros=zeros,
            checksum=checksum,
            expand_quantised=expand_quantised,
            keep_codes=keep_codes,
            limit=limit,
            verify=verify,
            progress=lambda name, total: advance(name.removeprefix("model.layers."), total=total),
        )
    _tell(remarks)
    _report(destination, source)
    if verify:
        console.out.print("read back: every bit is as it was to be written")


def diff(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="Model that the delta starts from.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Model that it leads to.")],
    destination: Annotated[Path, typer.Argument(metavar="DELTA", help="Folder to write; must not exist.")],
    op: Annotated[
        str, typer.Option(help="replace: new values; add: differences, only where sums are exact.")
    ] = "replace",
    encoding: Encoding = None,
    compress: Compress = None,
    shard_size: ShardSize = None,
    *,
    max_bytes: MaxBytes = None,
    verify: Verify = False,
) -> None:
    """Write the sparse delta that leads from BASE to TARGET, sparse checkpoints or Hugging Face folders."""
    require_absent(destination)
    limit = limit_of(max_bytes, require_input(base), require_input(target))
    with writing(destination):
        before, after = (open_source(path, limit=limit) for path in (base, target))
        change = delta.diff(before, after, op)
        shard_bytes = _shard_bytes(shard_size)
        formats.write(destination, change, encoding=encoding or "auto", compress=compress, shard_bytes=shard_bytes)
        if verify:
            result = delta.apply(before, [open_source(destination, "sparse")])
            for name in result.tensors:
                result.tensors[name]
    _tell(change.remarks)
    if is_sparse(target) and not is_sparse(base):
        _tell(
            [f"{base} is dense, so the delta says of every position that it goes or stays; convert it to sparse first"]
        )
    if is_sparse(base) and not is_sparse(target):
        _tell([f"{target} is dense, so the delta stores its zeros; convert it with --to sparse first"])
    _report(destination, target)
    if verify:
        console.out.print(f"applied to {base}: every bit is that of {target}")


def apply(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="Model that the first delta starts from.")],
    # hidden, because the list of arguments would show a type of Python; the usage and the first lines name both
    paths: Annotated[list[Path], typer.Argument(metavar="DELTA... OUT", hidden=True)],
    encoding: Encoding = None,
    compress: Compress = None,
    shard_size: ShardSize = None,
    max_bytes: MaxBytes = None,
) -> None:
    """Apply each DELTA in order, or version folder of slime and SGLang, to BASE, and write the result to OUT.

    OUT must not exist, and has the format of BASE. The whole chain is checked first.
    """
    if len(paths) < 2:
        raise console.Refused("name at least one delta, and the folder to write")
    *steps, destination = paths
    require_absent(destination)
    limit = limit_of(max_bytes, *(require_input(path) for path in (base, *steps)))
    if not is_sparse(base):
        console.refuse_unused(f"a result like {base}", (), {"--encoding": encoding, "--compress": compress})
    with writing(destination):
        start = open_source(base, limit=limit)
        result = start
        for of_versions, run in groupby(steps, is_version):
            if of_versions:
                result = apply_weight_sync(result, run, limit=limit)
            else:
                result = delta.apply(result, [_delta(path, limit) for path in run])
        shard_bytes = _shard_bytes(shard_size)
        if not is_sparse(base) and is_coded(result):
            raise FormatError(
                "QNT-009", f"the result is quantised, and {base} has a format that would take its codes for weights"
            )
        if is_sparse(base):
            formats.write(destination, result, encoding=encoding or "auto", compress=compress, shard_bytes=shard_bytes)
        else:
            hf.checkpoint_to_hf(destination, result, shard_bytes=shard_bytes, limit=limit)
            if names := ", ".join(sorted(named_attributes(result))):
                _tell([f"hf has no place for {names}: left out"])
    _tell(result.remarks)
    _report(destination, base)


def _delta(path: Path, limit: int | None) -> Checkpoint:
    """Return one delta of a chain; its errors name its path."""
    try:
        return open_source(path, "sparse", limit=limit)
    except FormatError as error:
        raise FormatError(error.clause, f"{path}: {error.message}") from error


# parts -------------------------------------------------------------------------------------------


def _shard_bytes(text: str | None) -> int:
    """Return --shard-size in bytes, 5 GB if it was not given."""
    return size_of("--shard-size", "5GB" if text is None else text)


def _tell(remarks: Iterable[str]) -> None:
    """Print the remarks of a conversion on stderr, one per line."""
    for remark in remarks:
        console.err.print(remark)


def _report(destination: Path, source: Path) -> None:
    """Print the size of the destination, and its ratio to the size of the source."""
    written, read = _bytes_of(destination), _bytes_of(source)
    console.out.print(f"{destination}: {written:,} bytes, {100 * written / read:.0f} % of {source}")


def _bytes_of(path: Path) -> int:
    """Return the bytes of a file, or of the files that lie in a folder itself; a dangling link has none."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
