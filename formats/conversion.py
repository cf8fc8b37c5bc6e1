"""From one format to another, in one call: `formats.convert`."""

import importlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from formats.digest import of_content
from formats.errors import CannotHold, FormatError
from formats.records import ANY, LIMIT, Checkpoint, Dense, to_dense
from formats.writer import SHARD_BYTES, write

__all__ = ["READ_BACK", "TO", "convert"]

USES = {
    "sparse": ("encoding", "compress", "shard_bytes", "dtype", "zeros"),
    "hf": ("shard_bytes", "dtype"),
    "delta": ("base", "encoding", "compress", "shard_bytes"),
    "torch-csr": ("dtype",),
    "peft": ("base",),
    "trl-delta": (),
    "scipy": ("dtype",),
    "binsparse": ("dtype",),
}
"""Targets, and which options each uses that not all do."""
TO = tuple(USES)
READ_BACK = {"sparse": "sparse", "hf": "hf", "delta": "sparse", "torch-csr": "torch"}
"""Targets that can be read back and compared, and what each is read as."""


def convert(
    source: str | os.PathLike[str] | Checkpoint,
    out: str | os.PathLike[str],
    to: str,
    *,
    source_format: str = "auto",
    base: str | os.PathLike[str] | None = None,
    encoding: str = "auto",
    compress: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    dtype: str | None = None,
    zeros: str | None = None,
    expand_quantised: bool = False,
    limit: int | None = None,
    verify: bool = False,
) -> list[str]:
    """Convert what is in `source` (12.11); without `dtype` every weight keeps its value.

    Config and tokenizer travel along. Options that a target does not use are refused, not passed over; see USES.

    Args:
        source: folder or file to read, or a checkpoint that is open. Where it came from cannot be told: the dense
            matrices of a model become sparse where that pays (FMT-122), unless `encoding` is ``"dense"``.
        out: folder or file to write, which must not exist.
        to: one of TO.
        source_format: name of a format, or ``"auto"`` to look what it is.
        base: the model that an adapter, a patch or a delta changes.
        encoding: as in `write`.
        compress: as in `write`.
        shard_bytes: as in `write`.
        dtype: ``"F16"``, ``"BF16"``, ``"F32"`` or ``"F64"`` to cast floats to; None keeps every bit.
        zeros: what is absent of a dense matrix: ``"any"``, as without it, all that equals zero; ``"positive"`` leaves
            −0.0 stored (FMT-127).
        expand_quantised: let the quantised tensors of a GGUF file become F32.
        limit: bytes that all tensors may take together once expanded (FMT-098).
        verify: read everything back and compare it bit for bit; for READ_BACK alone.

    Returns:
        Remarks, a sentence each: what was left out, since the target has no place for it (FMT-154).

    Raises:
        FormatError: FMT-084 for an unknown target and for options that do not go together, FMT-110 if `out` exists,
            FMT-094 if what was written reads back otherwise; CannotHold; every rule that the source breaks.
    """
    from formats.dialects.sources import detect, open_changes, open_source

    given: dict[str, tuple[object, object]] = {
        "base": (base, None),
        "encoding": (encoding, "auto"),
        "compress": (compress, None),
        "shard_bytes": (shard_bytes, SHARD_BYTES),
        "dtype": (dtype, None),
        "zeros": (zeros, None),
    }
    _check(to, given, verify=verify)
    if isinstance(source, Checkpoint):
        # Only this format has deltas. A model may come from any, so its dense matrices are looked at.
        named, kind = "the checkpoint", "checkpoint" if source.kind == "model" else "sparse"
        if source_format != "auto":
            raise FormatError("FMT-084", "source_format is for a path, and a checkpoint is given; leave it out")
    else:
        named, kind = str(source), detect(Path(source)) if source_format == "auto" else source_format
    if zeros is not None and kind == "sparse":
        raise FormatError(
            "FMT-084", f"zeros is for dense tensors, and {named} says itself what is absent; leave it out"
        )
    if expand_quantised and kind != "gguf":
        raise FormatError("FMT-084", f"expand_quantised is for GGUF files, and {named} is read as {kind}; leave it out")

    def opened() -> Checkpoint:
        if isinstance(source, Checkpoint):
            return source
        return open_source(source, kind, expand_quantised=expand_quantised, limit=limit)

    layout: dict[str, Any] = {"encoding": encoding, "compress": compress, "shard_bytes": shard_bytes}
    left_out: list[str] = []
    if to == "delta" and not isinstance(source, Checkpoint):
        found = open_changes(source, open_source(_needed(base, to), limit=limit), kind)
        write(out, found, **layout)
    elif to == "delta":
        raise FormatError("FMT-084", "a delta is made of an adapter's path, or of two models by `diff`")
    elif to in ("peft", "trl-delta"):
        found = opened()
        left_out = _write_changes(Path(out), to, found, base, limit)
    elif to == "sparse":
        found = _as_sparse(opened(), kind, encoding, dtype, zeros or ANY)
        write(out, found, **layout)
    else:
        found = opened()
        left_out = _write_foreign(Path(out), to, found, dtype, shard_bytes, limit)
    if verify:
        _compare(Path(out), to, found, dtype, limit)
    names = ", ".join(sorted(left_out))
    return [*([f"{to} has no place for {names}: left out"] if names else []), *found.remarks]


def _check(to: str, given: dict[str, tuple[object, object]], *, verify: bool) -> None:
    """Refuse a target that there is not, and options that it does not use (FMT-084)."""
    if to not in USES:
        raise FormatError("FMT-084", f"target {to!r} is unknown, expected one of {', '.join(TO)}")
    unused = [name for name, (value, default) in given.items() if value != default and name not in USES[to]]
    if unused:
        raise FormatError("FMT-084", f"{to} does not use {', '.join(unused)}; leave it out")
    if verify and to not in READ_BACK:
        raise FormatError("FMT-084", f"{', '.join(READ_BACK)} can be read back, and not {to}; leave it out")


def _needed(base: str | os.PathLike[str] | None, to: str) -> str | os.PathLike[str]:
    if base is None:
        raise FormatError("FMT-084", f"{to} needs a base, the model that is changed")
    return base


def _as_sparse(found: Checkpoint, kind: str, encoding: str, dtype: str | None, zeros: str) -> Checkpoint:
    """Return what is to be written: foreign tensors made sparse, those of this format as they are (FMT-161)."""
    from formats.dialects.sparsify import sparsified, with_cast

    if kind != "sparse":
        return sparsified(found, encoding, dtype, zeros)
    if dtype is not None and found.kind != "model":
        raise FormatError("FMT-084", f"dtype casts models; this is a {found.kind}")
    return with_cast(found, dtype)


def _write_changes(
    out: Path, to: str, found: Checkpoint, base: str | os.PathLike[str] | None, limit: int | None
) -> list[str]:
    """Write a delta as an adapter or a patch, which hold one operation only; return what they have no place for."""
    from formats.dialects.changes import Changes
    from formats.dialects.shira import write_shira
    from formats.dialects.sources import open_source
    from formats.dialects.trl_delta import write_trl_delta

    if found.delta is None:
        raise FormatError("FMT-084", f"{to} takes a delta; make one with `diff`, or convert an adapter")
    wanted: Literal["add", "replace"] = "add" if to == "peft" else "replace"
    others = sorted(name for name in found.tensors if not name.startswith(f"{wanted}:"))
    others += [f"{name} going" for name, (_, after) in found.delta.tensors.items() if after is None]
    if others:
        raise CannotHold("FMT-154", f"{to} holds {wanted} only, the delta has {others[0]!r}")
    tensors = {name.split(":", 1)[1]: found.tensors[name] for name in found.tensors}
    changes = Changes(wanted, tensors, found.attributes)  # type: ignore[arg-type]  # whole and remove are refused above
    if to == "peft":
        write_shira(out, changes, open_source(_needed(base, to), limit=limit).tensors)
    else:
        write_trl_delta(out, changes, {"target_sha256": found.delta.target_sha256})
    return [*found.attributes, *found.files]


def _write_foreign(
    out: Path, to: str, found: Checkpoint, dtype: str | None, shard_bytes: int, limit: int | None
) -> list[str]:
    """Write a model in another format; return what it has no place for."""
    from formats.dialects import hf
    from formats.dialects.sparsify import with_cast

    if found.delta is not None:
        raise CannotHold("FMT-154", f"{to} holds models, {found.kind} is none; apply the delta first")
    if to == "hf":
        hf.checkpoint_to_hf(out, found, dtype=dtype, shard_bytes=shard_bytes, limit=limit)
        return [*found.attributes]
    bare = replace(found, attributes={}, files={})
    if to == "torch-csr":
        _writer("torch_file", "write_torch_csr")(out, replace(with_cast(bare, dtype), attributes={}))
    elif to == "scipy":
        _writer("scipy_files", "write_scipy")(out, bare, dtype=dtype)
    else:
        _writer("binsparse", "write_binsparse")(out, bare, dtype=dtype)
    return [*found.attributes, *found.files]


def _writer(module: str, function: str) -> Callable[..., None]:
    """Return a writer whose library not every user has, and which is imported only now."""
    found: Callable[..., None] = getattr(importlib.import_module(f"formats.dialects.{module}"), function)
    return found


def _compare(out: Path, to: str, found: Checkpoint, dtype: str | None, limit: int | None) -> None:
    """Read what was written, and compare it with what it was made of, tensor by tensor."""
    from formats.dialects.checks import cast
    from formats.dialects.sources import open_source

    written = open_source(out, READ_BACK[to], limit=limit)
    if sorted(written.tensors) != sorted(found.tensors):
        raise FormatError("FMT-094", f"{out} does not have the tensors of its source")
    for name in sorted(found.tensors):
        wanted = found.tensors[name]
        if to == "hf":
            wanted = Dense(to_dense(wanted, limit=LIMIT if limit is None else limit))
        if to in ("hf", "torch-csr"):
            wanted = cast(wanted, dtype, name)
        if of_content(written.tensors[name]) != of_content(wanted):
            raise FormatError("FMT-094", f"{name!r} in {out} is not what was to be written")
