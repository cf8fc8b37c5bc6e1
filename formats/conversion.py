"""Converts a checkpoint from one format to another in one call: `formats.convert`."""

import importlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from formats import atomic
from formats.digest import of_content
from formats.errors import CannotHold, FormatError
from formats.lazy import watched
from formats.reader import checkpoint_of, open_checkpoint
from formats.records import ANY, LIMIT, Checkpoint, Dense, Sparse, to_dense
from formats.writer import SHARD_BYTES, write

__all__ = ["READ_BACK", "TO", "convert"]

USES = {
    "sparse": ("encoding", "compress", "shard_bytes", "dtype", "zeros"),
    "hf": ("shard_bytes", "dtype"),
    "delta": ("base", "encoding", "compress", "shard_bytes", "dtype"),
    "compressed-tensors": ("shard_bytes",),
    "gptq": ("shard_bytes",),
    "torch-csr": ("dtype",),
    "peft": ("base",),
    "super-tuning": ("base",),
    "seft": ("base",),
    "trl-delta": (),
    "weight-sync": ("base", "encoding", "checksum"),
    "scipy": ("dtype",),
    "binsparse": ("dtype",),
}
"""Target -> the options of `convert` that it uses; options that do not depend on the target are left out."""
TO = tuple(USES)
CODED = ("compressed-tensors", "gptq")
"""Targets that take the codes of this format as codes (QNT-009.4)."""
APPLY_FIRST = "apply the delta first: seft apply BASE DELTA OUT"
OF_RUN = "seft."
"""How names of attributes begin that describe the run that made a model, and nothing of the model."""
READ_BACK = {"sparse": "sparse", "hf": "hf", "delta": "sparse", "torch-csr": "torch"}
"""Target that can be read back and compared -> the format that it is read as."""


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
    checksum: str | None = None,
    expand_quantised: bool = False,
    keep_codes: bool = False,
    limit: int | None = None,
    verify: bool = False,
    progress: Callable[[str, int], None] | None = None,
) -> list[str]:
    """Convert a folder, a file or an open checkpoint (12.11); without `dtype` every weight keeps its value.

    Companions, such as configuration and tokenizer, are kept where the target has a place for them. Options that the
    target does not use are refused; see USES.

    Args:
        source: folder or file to read, or an open checkpoint. Because an open model may come from any format, its
            dense matrices become sparse where that saves bytes (FMT-122), unless `encoding` is ``"dense"``.
        out: folder or file to write, which must not exist.
        to: one of TO.
        source_format: name of a format, or ``"auto"`` to detect it.
        base: the model that an adapter, a patch or a delta changes.
        encoding: as in `write`; for a version folder ``"xor"``, the default, or ``"overwrite"``.
        compress: as in `write`.
        shard_bytes: as in `write`.
        dtype: floats are cast to it: ``"F16"``, ``"BF16"``, ``"F32"`` or ``"F64"``; for a delta only the amounts that
            an adapter adds are cast. None keeps every bit.
        zeros: which entries of a dense matrix are absent (FMT-127): with ``"any"``, the default, those that equal zero;
            with ``"positive"`` those without a set bit, so that −0.0 is stored.
        checksum: for a version folder: ``"xxh3-128"``, the default, ``"blake3"`` or ``"adler32"``.
        expand_quantised: expand quantised tensors: those of a GGUF file to F32, those of a folder to floats (FMT-175),
            and codes of this format to weights (QNT-009.5).
        keep_codes: turn the quantised matrices of a folder or a GGUF file into codes of this format (QNT-010); only
            for ``"sparse"``.
        limit: bytes that all tensors may take together once expanded (FMT-098).
        verify: read everything back and compare it bit for bit; only for the targets of `READ_BACK`.
        progress: called with a tensor's name and the number of tensors, when the tensor is first read. For a delta
            it is called when the changes of the tensor are computed, after both models were read. If it raises, the
            conversion ends and nothing is written.

    Returns:
        Remarks for the user, one sentence each: that names were left out, for which the target has no place (FMT-154),
        that a model has no tensors, and the remarks of reader and writer.

    Raises:
        FormatError: FMT-084 for an unknown target and for options that do not go together, FMT-110 if `out` exists,
            FMT-094 if the written files read back differently; CannotHold; a rule that the source breaks.
    """
    from formats.dialects import coded
    from formats.dialects.sources import detect, open_changes, open_source

    options: dict[str, tuple[object, object]] = {
        "base": (base, None),
        "encoding": (encoding, "auto"),
        "compress": (compress, None),
        "shard_bytes": (shard_bytes, SHARD_BYTES),
        "dtype": (dtype, None),
        "zeros": (zeros, None),
        "checksum": (checksum, None),
    }
    _check(to, options, verify=verify)
    atomic.refuse_existing(Path(out))
    if isinstance(source, Checkpoint):
        # a model may come from any format, so its dense matrices may become sparse; other kinds come from this format
        source_name, kind = "the checkpoint", "checkpoint" if source.kind == "model" else "sparse"
        if source_format != "auto":
            raise FormatError("FMT-084", "source_format is for a path, and a checkpoint is given; leave it out")
    else:
        source_name, kind = str(source), detect(Path(source)) if source_format == "auto" else source_format
    if zeros is not None and kind == "sparse":
        raise FormatError(
            "FMT-084", f"zeros is for dense tensors, and {source_name} says itself what is absent; leave it out"
        )
    if keep_codes:
        _check_kept(source, kind, to, dtype, expand=expand_quantised)
        write_kind = "sparse"
    else:
        _check_codes(source, kind, to, dtype, expand=expand_quantised, detected=source_format == "auto")
        write_kind = kind

    def opened() -> Checkpoint:
        if isinstance(source, Checkpoint):
            return _watched(coded.expanded(source) if expand_quantised else source, progress)
        how = {"expand_quantised": expand_quantised, "keep_codes": keep_codes}
        return _watched(open_source(source, kind, **how, limit=limit), progress)

    write_options: dict[str, Any] = {"encoding": encoding, "compress": compress, "shard_bytes": shard_bytes}
    left_out: list[str] = []
    remarks: list[str] = []
    if to == "delta" and not isinstance(source, Checkpoint):
        changes = open_changes(source, open_source(_needed(base, to), limit=limit), kind, dtype, limit=limit)
        checkpoint = _watched(changes, progress)
        write(out, checkpoint, **write_options)
    elif to == "delta":
        raise FormatError("FMT-084", "a delta is made of an adapter's path, or of two models by `diff`")
    elif to in ("peft", "super-tuning", "seft", "trl-delta", "weight-sync"):
        checkpoint = opened()
        sync_options = {"encoding": None if encoding == "auto" else encoding, "checksum": checksum}
        left_out = _write_changes(Path(out), to, checkpoint, base, limit, sync_options)
    elif to == "sparse":
        checkpoint = _as_sparse(opened(), write_kind, encoding, dtype, zeros or ANY)
        write(out, checkpoint, **write_options)
    else:
        checkpoint = opened()
        left_out, remarks = _write_foreign(Path(out), to, checkpoint, dtype, shard_bytes, limit)
    if verify:
        _compare(Path(out), to, checkpoint, dtype, limit)
    names = ", ".join(sorted(left_out))
    lost = [f"{to} has no place for {names}: left out"] if names else []
    return [*lost, *_of_nothing(checkpoint, source_name), *remarks, *checkpoint.remarks]


def _of_nothing(checkpoint: Checkpoint, source_name: str) -> list[str]:
    """Return a remark on a model without tensors, such as a GGUF file of a vocabulary."""
    return [] if checkpoint.tensors or checkpoint.kind != "model" else [f"{source_name} holds no tensors"]


def _watched(checkpoint: Checkpoint, progress: Callable[[str, int], None] | None) -> Checkpoint:
    """Return the checkpoint; with `progress`, a copy that calls it when each tensor is read for the first time."""
    return checkpoint if progress is None else replace(checkpoint, tensors=watched(checkpoint.tensors, progress))


def _check(to: str, options: dict[str, tuple[object, object]], *, verify: bool) -> None:
    """Refuse an unknown target, and options that the target does not use (FMT-084)."""
    if to not in USES:
        raise FormatError("FMT-084", f"target {to!r} is unknown, expected one of {', '.join(TO)}")
    unused = [name for name, (value, default) in options.items() if value != default and name not in USES[to]]
    if unused:
        raise FormatError("FMT-084", f"{to} does not use {', '.join(unused)}; leave it out")
    if verify and to not in READ_BACK:
        raise FormatError("FMT-084", f"{', '.join(READ_BACK)} can be read back, and not {to}; leave it out")


def _check_codes(
    source: str | os.PathLike[str] | Checkpoint, kind: str, to: str, dtype: str | None, *, expand: bool, detected: bool
) -> None:
    """Refuse codes if no option decides their treatment (FMT-175), and expanding where there are none (FMT-084)."""
    from formats.dialects.int_folder import codes_in

    if isinstance(source, Checkpoint):
        _check_own_codes(source, "the checkpoint", to, dtype, expand=expand)
        return
    if kind == "sparse":
        with open_checkpoint(source) as reader:
            _check_own_codes(checkpoint_of(reader), str(source), to, dtype, expand=expand)
        return
    name = codes_in(Path(source)) if kind in ("hf", "compressed-tensors") else None
    if expand and kind != "gguf" and name is None:
        raise FormatError(
            "FMT-084",
            "expand_quantised, or --expand-quantised, is for GGUF files and folders of quantised matrices; "
            f"{source} is read as {kind} and holds none, so leave it out",
        )
    if name is not None and detected and not expand and to != "delta":
        raise FormatError(
            "FMT-175",
            f"{source} holds quantised matrices, the first is {name!r}; pass expand_quantised=True, or "
            f"--expand-quantised, to make floats of them, keep_codes=True, or --to sparse --keep-codes, to keep them, "
            f"or --from {kind} to carry them as they are",
        )
    if name is not None and dtype is not None and not expand:
        raise FormatError(
            "FMT-128", f"a cast to {dtype} would change the scales of {name!r}, whose codes are carried; leave it out"
        )


def _check_kept(
    source: str | os.PathLike[str] | Checkpoint, kind: str, to: str, dtype: str | None, *, expand: bool
) -> None:
    """Refuse `keep_codes` for a source without codes, and together with options that would change codes (QNT-010)."""
    from formats.dialects.int_folder import codes_in

    folder = not isinstance(source, Checkpoint) and kind in ("hf", "compressed-tensors") and codes_in(Path(source))
    if not (folder or kind == "gguf") or to != "sparse" or expand or dtype is not None:
        raise FormatError(
            "FMT-084",
            "keep_codes, or --keep-codes, makes a sparse checkpoint of a folder of GPTQ, AWQ or compressed-tensors "
            "codes, or of a GGUF file, without a cast and without --expand-quantised",
        )


def _check_own_codes(checkpoint: Checkpoint, source: str, to: str, dtype: str | None, *, expand: bool) -> None:
    """Refuse a target that would take codes of this format for weights (QNT-009.4), and to expand without codes."""
    from formats.dialects.coded import is_coded

    has_codes = is_coded(checkpoint) or bool(checkpoint.delta and checkpoint.delta.scales)
    if expand and not is_coded(checkpoint):
        raise FormatError(
            "FMT-084",
            f"expand_quantised, or --expand-quantised, is for quantised models, and {source} is none; leave it out",
        )
    if not has_codes or expand:
        return
    if to not in ("sparse", *CODED):
        advice = APPLY_FIRST if checkpoint.delta else "pass expand_quantised=True, or --expand-quantised"
        raise FormatError("QNT-009", f"{source} is quantised, and {to} would take its codes for weights; {advice}")
    if dtype is not None:
        raise FormatError(
            "QNT-009", f"{source} is quantised, and its codes cannot be cast to {dtype}; expand them first"
        )


def _needed(base: str | os.PathLike[str] | None, to: str) -> str | os.PathLike[str]:
    if base is None:
        raise FormatError("FMT-084", f"{to} needs a base, the model that is changed; on a command line --base MODEL")
    return base


def _as_sparse(checkpoint: Checkpoint, kind: str, encoding: str, dtype: str | None, zeros: str) -> Checkpoint:
    """Return the checkpoint to write: foreign tensors made sparse, those of this format as they are (FMT-161)."""
    from formats.dialects.sparsify import sparsified, with_cast

    if kind != "sparse":
        return sparsified(checkpoint, encoding, dtype, zeros)
    if dtype is not None and checkpoint.kind != "model":
        raise FormatError("FMT-084", f"dtype casts models; this is a {checkpoint.kind}")
    return with_cast(checkpoint, dtype)


def _write_changes(
    out: Path,
    to: str,
    checkpoint: Checkpoint,
    base: str | os.PathLike[str] | None,
    limit: int | None,
    sync_options: dict[str, str | None],
) -> list[str]:
    """Write a delta as an adapter (`add` only), a patch (`replace` only) or a version folder.

    Args:
        out: the folder or file to write.
        to: ``"peft"``, ``"super-tuning"``, ``"seft"``, ``"trl-delta"`` or ``"weight-sync"``.
        checkpoint: the delta.
        base: the model that it changes.
        limit: as in `convert`.
        sync_options: options of `write_weight_sync`, None for those that were not given.

    Returns:
        The names that are left out.
    """
    from formats import delta
    from formats.dialects.changes import Changes, listed
    from formats.dialects.seft_adapter import write_seft
    from formats.dialects.shira import write_shira
    from formats.dialects.sources import open_source
    from formats.dialects.super_tuning import write_super_tuning
    from formats.dialects.trl_delta import write_trl_delta
    from formats.dialects.weight_sync import write_weight_sync

    if checkpoint.delta is None:
        raise FormatError("FMT-084", f"{to} takes a delta; make one with `diff`, or convert an adapter")
    left_out = [*named_attributes(checkpoint), *checkpoint.files]
    if to == "trl-delta":  # it is written without a base, so that nothing tells whether ties and scales are its own
        described = checkpoint.delta
        left_out += [what for what, has in (("ties", described.tied), ("scales", described.scales)) if has]
        if not checkpoint.tensors:
            raise CannotHold("FMT-154", f"{to} holds values only, and the delta changes none")
        before = after = Checkpoint("model", {})
    else:
        before = open_source(_needed(base, to), limit=limit)
        after = delta.apply(before, [checkpoint])  # raises FMT-137 if `before` is not the base of the delta
    if (before.tied, before.scales) != (after.tied, after.scales):
        raise CannotHold("FMT-154", f"{to} holds values only, and the delta changes ties or scales of its base")
    if to == "weight-sync":
        chosen = {option: value for option, value in sync_options.items() if value is not None}
        write_weight_sync(out, before, after, limit=limit, **chosen)
        return left_out
    if to == "seft":
        write_seft(out, checkpoint, before.tensors)
        return left_out
    write_adapter = {"peft": write_shira, "super-tuning": write_super_tuning}.get(to)
    operation: Literal["add", "replace"] = "add" if write_adapter else "replace"
    others = sorted(name for name in checkpoint.tensors if not name.startswith(f"{operation}:"))
    others += [f"{name} going" for name, (_, after) in checkpoint.delta.tensors.items() if after is None]
    if others:
        other_way = "; use --to seft, or seft diff --op add where the sums are exact" if write_adapter else ""
        raise CannotHold("FMT-154", f"{to} holds {operation} only, the delta has {others[0]!r}{other_way}")
    # the delta stores no masks here, because remove and whole are refused above
    stored = {name.split(":", 1)[1]: cast("Dense | Sparse", checkpoint.tensors[name]) for name in checkpoint.tensors}
    changes = Changes(operation, {name: listed(tensor) for name, tensor in stored.items()}, checkpoint.attributes)
    if write_adapter:
        write_adapter(out, changes, before.tensors)
    else:
        write_trl_delta(out, changes, {"target_sha256": checkpoint.delta.target_sha256})
    return left_out


def _write_foreign(
    out: Path, to: str, checkpoint: Checkpoint, dtype: str | None, shard_bytes: int, limit: int | None
) -> tuple[list[str], list[str]]:
    """Write a model in a foreign format; return names of attributes and files that are left out, and remarks."""
    from formats.dialects import hf
    from formats.dialects.sparsify import with_cast

    if checkpoint.delta is not None:
        raise CannotHold("FMT-154", f"{to} holds models, and the source is a delta; {APPLY_FIRST}")
    if to == "hf":
        hf.checkpoint_to_hf(out, checkpoint, dtype=dtype, shard_bytes=shard_bytes, limit=limit)
        return named_attributes(checkpoint), []
    if to in CODED:
        from formats.dialects import bitmasks, coded, coded_folder

        names = [name for name in named_attributes(checkpoint) if name != f"attribute {coded.ATTRIBUTE}"]
        if to == "compressed-tensors" and not checkpoint.scales:
            lost = bitmasks.write_bitmasks(out, checkpoint, shard_bytes=shard_bytes, limit=limit)
            return [*names, *lost], [bitmasks.READERS]
        lost, remarks = coded_folder.write_coded(out, checkpoint, to, shard_bytes=shard_bytes, limit=limit)
        return [*names, *lost], remarks
    bare = replace(checkpoint, attributes={}, files={})
    if to == "torch-csr":
        _writer("torch_file", "write_torch_csr")(out, replace(with_cast(bare, dtype), attributes={}))
    elif to == "scipy":
        _writer("scipy_files", "write_scipy")(out, bare, dtype=dtype)
    else:
        _writer("binsparse", "write_binsparse")(out, bare, dtype=dtype)
    return [*named_attributes(checkpoint), *checkpoint.files], []


def named_attributes(checkpoint: Checkpoint) -> list[str]:
    """Return the attributes whose loss a remark has to name, as it lists them (FMT-154.4, FMT-154.5)."""
    return [f"attribute {name}" for name in checkpoint.attributes if not name.startswith(OF_RUN)]


def _writer(module: str, function: str) -> Callable[..., None]:
    """Return a writer, imported only now, because its library is an optional dependency."""
    writer: Callable[..., None] = getattr(importlib.import_module(f"formats.dialects.{module}"), function)
    return writer


def _compare(out: Path, to: str, checkpoint: Checkpoint, dtype: str | None, limit: int | None) -> None:
    """Read the result back, and compare each tensor with the one that was to be written (FMT-094)."""
    from formats.dialects import checks
    from formats.dialects.sources import open_source

    written = open_source(out, READ_BACK[to], limit=limit)
    if sorted(written.tensors) != sorted(checkpoint.tensors):
        raise FormatError("FMT-094", f"{out} does not have the tensors of its source")
    for name in sorted(checkpoint.tensors):
        expected = checkpoint.tensors[name]
        if to == "hf":
            expected = Dense(to_dense(expected, limit=LIMIT if limit is None else limit))
        if to in ("hf", "torch-csr"):
            expected = checks.cast(expected, dtype, name)
        if of_content(written.tensors[name]) != of_content(expected):
            raise FormatError("FMT-094", f"{name!r} in {out} is not what was to be written")
