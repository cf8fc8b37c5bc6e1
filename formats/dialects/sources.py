"""Opens a path of any known format as a checkpoint, and detects which format it has.

checkpoint = open_source("Llama-pruned", "auto")      ->   Checkpoint, its tensors read on access
"""

import importlib
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from formats import delta, strict_json
from formats.dialects import coded
from formats.dialects.changes import CONFIG, Changes
from formats.dialects.checks import cast, check_cast
from formats.dialects.compressed_tensors import open_compressed_tensors, states_sparsity
from formats.dialects.hf import open_hf, refuse_packed
from formats.dialects.int_folder import open_quantised
from formats.dialects.lora import read_lora
from formats.dialects.seft_adapter import read_seft
from formats.dialects.shira import read_shira
from formats.dialects.spiel import read_spiel
from formats.dialects.stock import open_stock
from formats.dialects.super_tuning import read_super_tuning
from formats.dialects.trl_delta import read_trl_delta
from formats.dialects.version_index import is_version, refuse_version
from formats.dialects.weight_sync import read_weight_sync
from formats.errors import FormatError
from formats.index import advice_for, is_sparse, unlisted
from formats.lazy import Lazy
from formats.reader import open_checkpoint
from formats.records import LIMIT, Checkpoint, Sparse, Tensor
from formats.regular import open_regular, read_bounded
from formats.validate import MAX_FILE_BYTES, check_limit

ADAPTERS: dict[str, Callable[[Path, Mapping[str, Tensor]], Changes]] = {
    "spiel": read_spiel,
    "shira": read_shira,
    "super-tuning": read_super_tuning,
    "seft": read_seft,
    "lora": read_lora,
    "trl-delta": read_trl_delta,
    "weight-sync": read_weight_sync,
}
"""Format -> reader, of formats that change a base; they become deltas."""

_PEFT_TYPES = {"SFT": "spiel", "SHIRA": "shira", "SUPERTUNING": "super-tuning", "SEFT": "seft", "LORA": "lora"}


def open_source(
    path: str | os.PathLike[str],
    kind: str = "auto",
    *,
    expand_quantised: bool = False,
    keep_codes: bool = False,
    limit: int | None = None,
) -> Checkpoint:
    """Return the checkpoint of a path; if its format has digests, each tensor is compared with them on access.

    Args:
        path: a folder or a file.
        kind: name of a format, or ``"auto"`` to detect it.
        expand_quantised: expand the quantised tensors of a GGUF file to F32, which are refused otherwise, and the
            quantised matrices of a folder to floats (FMT-175), whose codes are copied unchanged otherwise.
        keep_codes: turn the quantised matrices of a folder or a GGUF file into codes of this format (QNT-010).
        limit: bytes that all tensors may take together once expanded (FMT-098). None means LIMIT for torch and SciPy
            files, and no limit here for the others.

    Raises:
        FormatError: the rule that is broken; FMT-084 for an adapter, which needs its base.
    """
    path = Path(path)
    kind = detect(path) if kind == "auto" else kind
    if kind in ADAPTERS:
        apply = f"make one: seft apply BASE {path} OUT"
        make = f"make a delta of it: seft convert {path} DELTA --to delta --base MODEL"
        advice = apply if kind == "weight-sync" else make
        raise FormatError("FMT-084", f"{path} changes a base and is no model; {advice}")
    openers = _openers(expand_quantised=expand_quantised, keep_codes=keep_codes, limit=limit)
    if kind not in openers:
        raise FormatError(
            "FMT-084", f"format {kind!r} does not exist, expected one of {', '.join([*openers, *ADAPTERS])}"
        )
    return openers[kind](path)


def open_changes(
    path: str | os.PathLike[str],
    base: Checkpoint,
    kind: str = "auto",
    dtype: str | None = None,
    *,
    limit: int | None = None,
) -> Checkpoint:
    """Return an adapter or a patch as a delta, which names the digests of its base and its target.

    Args:
        path: a folder or a file.
        base: the model that it changes.
        kind: name of a format, or ``"auto"`` to detect it.
        dtype: ``"F16"``, ``"BF16"``, ``"F32"`` or ``"F64"`` to cast amounts to (FMT-126); None keeps every bit.
        limit: bytes that the tensors of the base may take together once expanded (FMT-098); used for version folders,
            which expand what they change.

    Raises:
        FormatError: the rule that is broken; FMT-084 for a format that does not change a base, and for a cast of new
            values, which have the dtype of the base.
    """
    path = Path(path)
    kind = detect(path) if kind == "auto" else kind
    if kind not in ADAPTERS:
        raise FormatError(
            "FMT-084", f"{path} is {kind}, expected one of {', '.join(ADAPTERS)}; use diff for two models"
        )
    # only a version folder expands a sparse base, because it changes bytes and not positions
    reader = partial(read_weight_sync, limit=limit) if kind == "weight-sync" else ADAPTERS[kind]
    changes = reader(path, base.tensors)
    check_cast(dtype)
    if dtype is None:
        return delta.from_changes(base, changes.op, changes.tensors, changes.attributes, changes.removed)
    if changes.op != "add":
        raise FormatError("FMT-084", f"dtype casts amounts to add, and {path} holds new values; leave it out")
    amounts: Mapping[str, Sparse] = Lazy(changes.tensors, lambda name: cast(changes.positions_of(name), dtype, name))
    return delta.from_changes(base, changes.op, amounts, {**changes.attributes, "cast": dtype})


def _openers(*, expand_quantised: bool, keep_codes: bool, limit: int | None) -> dict[str, Callable[[Path], Checkpoint]]:
    def sparse(path: Path) -> Checkpoint:
        refuse_version(path)
        reader = open_checkpoint(path)
        check_limit(reader.memory_bytes, limit, str(path))
        checkpoint = delta.verified(reader)
        if path.is_dir() and (names := unlisted(path, checkpoint.files)):
            # FMT-154: a file that the checkpoint does not list is no part of it
            remark = f"left out, because the checkpoint does not list it: {', '.join(names)}"
            checkpoint = replace(checkpoint, remarks=(*checkpoint.remarks, remark))
        if not expand_quantised:
            return checkpoint
        check_limit(sum(8 * reader.info(name).nnz for name in reader.scales), limit, str(path))
        return coded.expanded(checkpoint)

    def folder(path: Path, as_it_is: Callable[[Path], Checkpoint]) -> Checkpoint:
        if keep_codes:
            return open_quantised(path).codes()
        return open_quantised(path).checkpoint(limit) if expand_quantised else as_it_is(path)

    whole = LIMIT if limit is None else limit
    return {
        "sparse": sparse,
        "hf": partial(folder, as_it_is=_plain),
        "compressed-tensors": partial(folder, as_it_is=open_compressed_tensors),
        "torch": partial(_optional, "torch_file", "read_torch", limit=whole),
        "scipy": partial(_optional, "scipy_files", "read_scipy", limit=whole),
        "gguf": partial(_optional, "gguf_codes", "open_gguf_codes", limit=limit)
        if keep_codes
        else partial(_optional, "gguf_file", "open_gguf", expand_quantised=expand_quantised, limit=limit),
    }


def _plain(path: Path) -> Checkpoint:
    """Open a Hugging Face folder, after verifying that its tensors are no parts of packed ones (FMT-150)."""
    folder = open_hf(path)
    refuse_packed(folder.keys())
    return folder.checkpoint()


def _optional(module: str, function: str, path: Path, **options: bool | int | None) -> Checkpoint:
    """Call a converter, imported only now, because its library is an optional dependency."""
    checkpoint: Checkpoint = getattr(importlib.import_module(f"formats.dialects.{module}"), function)(path, **options)
    return checkpoint


def detect(path: Path) -> str:
    """Return the name of the format of a path.

    Raises:
        FormatError: FMT-084 if no format is recognised.
        OSError: if the path is not there.
    """
    kind = _of_folder(path) if path.is_dir() else _of_file(path)
    if kind is None:
        if path.suffix == ".safetensors" and path.is_file():
            raise FormatError(
                "FMT-084", f"{path} is a file of a model; give its folder {path.parent}, which has the rest"
            )
        if (path / CONFIG).is_file():
            stated, known = str(_json(path / CONFIG).get("peft_type")), " or ".join(sorted(_PEFT_TYPES))
            raise FormatError(
                "FMT-084",
                f"{path / CONFIG} states the peft_type {stated:.80}, expected {known}; fetch a damaged one again",
            )
        advice = advice_for(path) or f"{path} is in no format that is read; if it is in one, name it with --from"
        raise FormatError("FMT-084", advice)
    return kind


def _of_folder(path: Path) -> str | None:
    if is_sparse(path):
        return "sparse"
    if (path / CONFIG).is_file():
        return _PEFT_TYPES.get(str(_json(path / CONFIG).get("peft_type")))
    if is_version(path):
        return "weight-sync"
    if (path / "config.json").is_file() and states_sparsity(_json(path / "config.json")):
        return "compressed-tensors"
    if (path / "model.safetensors").is_file() or (path / "model.safetensors.index.json").is_file():
        return "hf"
    if any(path.glob("*.npz")):
        return "scipy"
    return "trl-delta" if any(_is_patch(file) for file in sorted(path.glob("*.safetensors"))[:1]) else None


def _of_file(path: Path) -> str | None:
    with open_regular(path) as file:
        magic = file.read(4)
    if magic == b"GGUF":
        return "gguf"
    if zipfile.is_zipfile(path):
        return "torch"
    if is_sparse(path):
        return "sparse"
    return "trl-delta" if _is_patch(path) else None


def _is_patch(path: Path) -> bool:
    try:
        _, sections = open_stock(path)
    except FormatError:
        return False
    return bool(sections) and all(name.endswith((".indices", ".values", ".idx", ".val")) for name in sections)


def _json(path: Path) -> dict[str, strict_json.JSON]:
    # FMT-096: a configuration is a companion, so it may have at most the size of one
    data = read_bounded(path, MAX_FILE_BYTES)
    if data is None:
        raise FormatError("FMT-084", f"{path} has more than {MAX_FILE_BYTES} bytes, which no configuration has")
    return strict_json.foreign_object(data)
