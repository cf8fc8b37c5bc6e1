"""Convert checkpoints, and make and apply deltas between them.

seft convert SRC DST --to sparse|hf|delta|torch-csr|peft|trl-delta|scipy|binsparse
seft diff  BASE TARGET DELTA
seft apply BASE DELTA [DELTA ...] OUT
"""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

import formats
from formats import delta
from formats.dialects import hf
from formats.dialects.changes import Changes
from formats.dialects.checks import cast
from formats.dialects.shira import write_shira
from formats.dialects.sources import detect, open_changes, open_source
from formats.dialects.sparsify import sparsified, with_cast
from formats.dialects.trl_delta import write_trl_delta
from formats.digest import of_content
from formats.errors import CannotHold
from formats.index import is_sparse
from formats.records import ANY
from seft_cli import console
from seft_cli.input import MaxBytes, limit_of, require_input, size_of
from seft_cli.output import require_absent

Encoding = Annotated[
    str | None,
    typer.Option(help="auto (fewest bytes), dense, bitmask, csr, gap8, varint, nm, nm:N:M or nm:N:M:AXIS [auto]."),
]
Compress = Annotated[str | None, typer.Option(help="zstd: smaller files that are expanded when they are read.")]
ShardSize = Annotated[str | None, typer.Option(help="Bytes of tensors in one file, such as 500MB [5GB].")]
Verify = Annotated[bool, typer.Option("--verify", help="Read everything back and compare it bit for bit.")]
READ_BACK = {"sparse": "sparse", "hf": "hf", "delta": "sparse", "torch-csr": "torch"}
"""Targets that --verify can compare, and what each is read as."""
USES = {
    "sparse": ("--encoding", "--compress", "--shard-size", "--dtype", "--zeros"),
    "hf": ("--shard-size", "--dtype"),
    "delta": ("--base", "--encoding", "--compress", "--shard-size"),
    "torch-csr": ("--dtype",),
    "peft": ("--base",),
    "trl-delta": (),
    "scipy": ("--dtype",),
    "binsparse": ("--dtype",),
}
"""Targets, and which options each uses that not all do."""
TO = tuple(USES)


def main(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder or file to read.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder or file to write; must not exist.")],
    to: Annotated[str, typer.Option(help=", ".join(TO) + ".")],
    source_format: Annotated[
        str,
        typer.Option(
            "--from", help="auto, sparse, hf, compressed-tensors, spiel, shira, lora, trl-delta, torch, scipy or gguf."
        ),
    ] = "auto",
    base: Annotated[
        Path | None, typer.Option(help="The model that an adapter, a patch or a delta changes (for delta, peft).")
    ] = None,
    encoding: Encoding = None,
    compress: Compress = None,
    shard_size: ShardSize = None,
    dtype: Annotated[
        str | None, typer.Option(help="Cast floats to F16, BF16, F32 or F64; default: keep every bit.")
    ] = None,
    zeros: Annotated[
        str | None,
        typer.Option(
            help="Absent of a dense matrix: any (all that equals 0; -0.0 returns as +0.0), positive (not -0.0) [any]."
        ),
    ] = None,
    *,
    max_bytes: MaxBytes = None,
    expand_quantised: Annotated[
        bool, typer.Option("--expand-quantised", help="Let quantised tensors of a GGUF file become F32.")
    ] = False,
    verify: Verify = False,
) -> None:
    """Convert what is in SRC; without --dtype every weight keeps its value. Config and tokenizer travel along.

    Two more commands: convert.py diff BASE TARGET DELTA, and convert.py apply BASE DELTA [DELTA ...] OUT.
    """
    require_absent(destination)
    require_input(source)
    shard_bytes = _shard_bytes(shard_size)
    limit = limit_of(max_bytes, source, *([base] if base is not None else []))
    if to not in TO:
        raise console.Refused(f"--to {to} is unknown; choose {', '.join(TO)}")
    if verify and to not in READ_BACK:
        raise console.Refused(f"--verify reads back {', '.join(READ_BACK)}, and not {to}; leave it out")
    given = {"--base": base, "--encoding": encoding, "--compress": compress, "--zeros": zeros}
    console.refuse_unused(f"--to {to}", USES[to], given | {"--shard-size": shard_size, "--dtype": dtype})
    kind = detect(source) if source_format == "auto" else source_format
    if zeros is not None and kind == "sparse":
        raise console.Refused(f"--zeros is for dense tensors, and {source} says itself what is absent; leave it out")
    if expand_quantised and kind != "gguf":
        raise console.Refused(f"--expand-quantised is for GGUF files, and {source} is read as {kind}; leave it out")
    encoding = encoding or "auto"
    if to == "delta":
        found = open_changes(source, open_source(_needed(base, to), limit=limit), kind)
        formats.write(destination, found, encoding=encoding, compress=compress, shard_bytes=shard_bytes)
    elif to in ("peft", "trl-delta"):
        found = open_source(source, kind, limit=limit)
        _write_changes(destination, to, found, base, limit)
    else:
        found = open_source(source, kind, expand_quantised=expand_quantised, limit=limit)
        if to == "sparse":
            found = _as_sparse(found, kind, encoding, dtype, zeros or ANY)
            formats.write(destination, found, encoding=encoding, compress=compress, shard_bytes=shard_bytes)
        else:
            _write_foreign(destination, to, found, dtype, shard_bytes, limit)
    if verify:
        compare(destination, to, found, dtype, limit)
    _tell(found.remarks)
    _report(destination)


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
    before, after = (open_source(path, limit=limit) for path in (base, target))
    found = delta.diff(before, after, op)
    shard_bytes = _shard_bytes(shard_size)
    formats.write(destination, found, encoding=encoding or "auto", compress=compress, shard_bytes=shard_bytes)
    if verify:
        result = delta.apply(before, [open_source(destination, "sparse")])
        for name in result.tensors:
            result.tensors[name]
    _tell(found.remarks)
    _report(destination)


def apply(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="Model that the first delta starts from.")],
    paths: Annotated[
        list[Path], typer.Argument(metavar="DELTA... OUT", help="Deltas in order, and the folder to write.")
    ],
    encoding: Encoding = None,
    compress: Compress = None,
    shard_size: ShardSize = None,
    max_bytes: MaxBytes = None,
) -> None:
    """Apply deltas to BASE, and write the result in the format of BASE. The whole chain is checked first."""
    if len(paths) < 2:
        raise console.Refused("name at least one delta, and the folder to write")
    *steps, destination = paths
    require_absent(destination)
    limit = limit_of(max_bytes, *(require_input(path) for path in (base, *steps)))
    if not is_sparse(base):
        console.refuse_unused(f"a result like {base}", (), {"--encoding": encoding, "--compress": compress})
    found = open_source(base, limit=limit)
    result = delta.apply(found, [open_source(path, "sparse", limit=limit) for path in steps])
    shard_bytes = _shard_bytes(shard_size)
    if is_sparse(base):
        formats.write(destination, result, encoding=encoding or "auto", compress=compress, shard_bytes=shard_bytes)
    else:
        hf.checkpoint_to_hf(destination, result, shard_bytes=shard_bytes, limit=limit)
        _tell_left_out("hf", result.attributes)
    _tell(result.remarks)
    _report(destination)


# parts -------------------------------------------------------------------------------------------


def _shard_bytes(text: str | None) -> int:
    """Return the bytes that --shard-size means, 5GB without one."""
    return size_of("--shard-size", "5GB" if text is None else text)


def _needed(base: Path | None, to: str) -> Path:
    if base is None:
        raise console.Refused(f"--to {to} needs --base, the model that is changed")
    return require_input(base)


def _as_sparse(
    found: formats.Checkpoint, kind: str, encoding: str, dtype: str | None, zeros: str
) -> formats.Checkpoint:
    """Return what is to be written: foreign tensors made sparse, those of this format as they are (FMT-161)."""
    if kind != "sparse":
        return sparsified(found, encoding, dtype, zeros)
    if dtype is not None and found.kind != "model":
        raise console.Refused(f"--dtype casts models; this is a {found.kind}")
    return with_cast(found, dtype)


def _write_changes(destination: Path, to: str, found: formats.Checkpoint, base: Path | None, limit: int) -> None:
    """Write a delta as an adapter or a patch, which hold one operation only."""
    if found.delta is None:
        raise console.Refused(f"--to {to} takes a delta; make one with convert.py diff, or convert an adapter")
    wanted = "add" if to == "peft" else "replace"
    others = sorted(name for name in found.tensors if not name.startswith(f"{wanted}:"))
    others += [f"{name} going" for name, (_, after) in found.delta.tensors.items() if after is None]
    if others:
        raise CannotHold("FMT-154", f"{to} holds {wanted} only, the delta has {others[0]!r}")
    tensors = {name.split(":", 1)[1]: found.tensors[name] for name in found.tensors}
    changes = Changes(wanted, tensors, found.attributes)  # type: ignore[arg-type]  # whole and remove are refused above
    if to == "peft":
        write_shira(destination, changes, open_source(_needed(base, to), limit=limit).tensors)
    else:
        write_trl_delta(destination, changes, {"target_sha256": found.delta.target_sha256})
    _tell_left_out(to, found.attributes, found.files)


def _write_foreign(
    destination: Path, to: str, found: formats.Checkpoint, dtype: str | None, shard_bytes: int, limit: int
) -> None:
    if found.delta is not None:
        raise CannotHold("FMT-154", f"{to} holds models, {found.kind} is none; apply the delta first")
    left_out = (found.attributes, {} if to == "hf" else found.files)
    if to != "hf":
        found = replace(found, attributes={}, files={})
    if to == "hf":
        hf.checkpoint_to_hf(destination, found, dtype=dtype, shard_bytes=shard_bytes, limit=limit)
    elif to == "torch-csr":
        if dtype is not None:
            found = replace(with_cast(found, dtype), attributes={})
        _writer("torch_file", "write_torch_csr")(destination, found)
    elif to == "scipy":
        _writer("scipy_files", "write_scipy")(destination, found, dtype=dtype)
    else:
        _writer("binsparse", "write_binsparse")(destination, found, dtype=dtype)
    _tell_left_out(to, *left_out)


def _tell_left_out(to: str, *parts: Iterable[str]) -> None:
    """Name the attributes and companions that a target has no place for (FMT-154)."""
    names = ", ".join(sorted(name for part in parts for name in part))
    _tell([f"{to} has no place for {names}: left out"] if names else [])


def _tell(remarks: Iterable[str]) -> None:
    """Print remarks of a conversion, one a line."""
    for remark in remarks:
        console.err.print(remark)


def _writer(module: str, function: str) -> Callable[..., None]:
    """Return a writer whose library not every user has, and which is imported only now."""
    found: Callable[..., None] = getattr(importlib.import_module(f"formats.dialects.{module}"), function)
    return found


def compare(destination: Path, to: str, found: formats.Checkpoint, dtype: str | None, limit: int) -> None:
    """Read what was written, and compare it with what it was made of, tensor by tensor."""
    written = open_source(destination, READ_BACK[to], limit=limit)
    if sorted(written.tensors) != sorted(found.tensors):
        raise console.Refused(f"{destination} does not have the tensors of its source")
    for name in sorted(found.tensors):
        wanted = found.tensors[name]
        if to == "hf":
            wanted = formats.Dense(formats.to_dense(wanted, limit=limit))
        if to in ("hf", "torch-csr"):
            wanted = cast(wanted, dtype, name)
        if of_content(written.tensors[name]) != of_content(wanted):
            raise console.Refused(f"{name!r} in {destination} is not what was to be written")


def _report(destination: Path) -> None:
    files = destination.iterdir() if destination.is_dir() else [destination]
    console.out.print(f"{destination}: {sum(f.stat().st_size for f in files):,} bytes")
