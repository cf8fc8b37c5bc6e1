"""Reads sparse checkpoints of the library compressed-tensors 0.3 to 0.14 (FMT-150).

    [ 5 . . ]      X.bitmask      01 04         of each row ceil(C / 8) bytes, column 0 in the lowest bit
    [ . . 7 ]      X.compressed   5 7           the values, row by row
                   X.shape        2 3
                   X.row_offsets  0 1           of sparse-bitmask only; not read, because the bitmask says the same

The tensor is called X.weight; in checkpoints of 0.8.1 and older, whose X ends in ".weight", it is called X.
"""

import json
import os
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from formats import validate
from formats.dialects.hf import CONFIG, HfFolder, open_hf
from formats.dialects.quantised import DESCRIPTIONS, LIBRARY, quantises
from formats.errors import FormatError
from formats.lazy import Lazy
from formats.records import Array, Checkpoint, Dense, Sparse, Tensor, row_blocks, rows_of
from formats.strict_json import MAX_FOREIGN_DEPTH, depth, unique_keys

Json: TypeAlias = dict[str, Any]

BITMASK = "sparse-bitmask"
TWO_OF_FOUR = "sparse-24-bitmask"
DENSE = frozenset({"dense", "dense-sparsity"})
"""Formats that only state how many weights are zero; the weights themselves are stored as dense tensors."""

PARTS = {
    BITMASK: frozenset({"bitmask", "compressed", "row_offsets", "shape"}),
    TWO_OF_FOUR: frozenset({"bitmask", "compressed", "shape"}),
}
"""Format -> the endings of the names that a packed tensor consists of."""

UNPACKED = (None, "dense", "int-quantized", "float-quantized", "naive-quantized")
"""Quantisations that keep one number for each weight, under the name of the weight."""

SPARSITY = "sparsity_config"


def open_compressed_tensors(folder: str | os.PathLike[str]) -> Checkpoint:
    """Return a folder of compressed-tensors 0.3 to 0.14 as a checkpoint; its tensors are made on access.

    A packed tensor becomes a `Sparse` of its stated shape, whose support is its bitmask and whose values keep every
    bit, zeros included. Every other tensor is a `Dense` view of the file. Companions are those of FMT-123, except that
    config.json loses its description of sparsity and keeps that of quantisation (FMT-158).

    Args:
        folder: a Hugging Face folder whose config.json states a sparsity format.

    Raises:
        FormatError: FMT-150 for names, dtypes, shapes and formats, and on access for the bits of a bitmask; FMT-120 and
            FMT-121 as `open_hf`.
    """
    source = open_hf(folder)
    config, kind = _read_config(source.files.get(CONFIG), Path(folder).name)
    packed = {p.name: p for p in _groups(source, kind)}
    parts = {f"{p.prefix}.{part}" for p in packed.values() for part in PARTS[p.kind]}

    def make(name: str) -> Tensor:
        if name not in packed:
            return source[name]
        prefix = packed[name].prefix
        return _unpack(packed[name], *(source[f"{prefix}.{part}"].values for part in ("bitmask", "compressed")))

    def outline(name: str) -> Tensor:
        if name not in packed:
            return source[name]
        dtype = source[f"{packed[name].prefix}.compressed"].dtype
        return Dense(np.broadcast_to(np.zeros((), dtype=dtype), packed[name].shape))

    names = packed.keys() | source.keys() - parts
    files = Lazy(source.files, lambda name: config if name == CONFIG else source.files[name])
    return replace(source.checkpoint(), tensors=Lazy(names, make, outline), files=files)


def states_sparsity(config: Json) -> bool:
    """Return whether a config.json describes how its tensors are packed, in any of the places of FMT-150."""
    places = (config, *(config.get(key) for key in DESCRIPTIONS))
    described = (place.get(SPARSITY) for place in places if isinstance(place, dict))
    return any(isinstance(sparsity, dict) and sparsity.get("format") for sparsity in described)


def sparsity_formats(config: Json) -> set[str]:
    """Return the sparsity formats that a config.json states, at any depth of its objects (FMT-158.2)."""
    stated: set[str] = set()
    _without_sparsity(config, stated, [])
    return stated


@dataclass(frozen=True, slots=True)
class _Packed:
    """A packed tensor whose sections have been found to have the right dtypes and shapes."""

    name: str
    prefix: str
    kind: str
    shape: tuple[int, ...]


def _unpack(packed: _Packed, mask: NDArray[np.uint8], values: Array) -> Sparse:
    """Return a tensor after comparing its bitmask with its values.

    Args:
        packed: its name, format and shape.
        mask: (*shape[:-1], ceil(C / 8)).
        values: (nnz,), or (R, C / 2) for two of four; the result has a view of them, with every bit unchanged.
    """
    rows, columns = rows_of(packed.shape), packed.shape[-1]
    mask, values = mask.reshape(rows, -(-columns // 8)), values.reshape(-1)
    tail = columns % 8
    if tail and (mask[:, -1] >> tail).any():
        _refuse(packed.name, f"its bitmask has a bit set past column {columns - 1}")
    indptr = np.zeros(rows + 1, dtype=np.int64)
    np.cumsum(np.bitwise_count(mask).sum(axis=1, dtype=np.int64), out=indptr[1:])
    if indptr[-1] != values.size:
        _refuse(packed.name, f"its bitmask has {indptr[-1]} bits set for {values.size} values, expected one for each")
    indices = np.empty(values.size, dtype=np.int32)
    # two rows at a time if rows are no multiple of four, because then four neighbours may lie in two rows
    step = 2 if packed.kind == TWO_OF_FOUR and columns % 4 else 1
    for pair, end in row_blocks(rows // step, columns * step):
        first, last = pair * step, end * step
        present = np.unpackbits(mask[first:last], axis=1, count=columns, bitorder="little")
        if packed.kind == TWO_OF_FOUR and (present.reshape(-1, 4).sum(axis=1) != 2).any():
            _refuse(packed.name, f"rows {first} to {last - 1} of its bitmask do not set two of every four positions")
        indices[indptr[first] : indptr[last]] = np.flatnonzero(present) % columns
    return Sparse(packed.shape, indptr, indices, values)


def _groups(source: HfFolder, kind: str) -> list[_Packed]:
    """Return the packed tensors of a folder, after comparing names, dtypes and shapes of all of their parts."""
    groups: dict[str, set[str]] = {}
    for name in source:
        prefix, dot, part = name.rpartition(".")
        if dot and part in PARTS[BITMASK]:
            groups.setdefault(prefix, set()).add(part)
    # versions up to 0.8.1 pack a tensor under its own name, later ones under that name without ".weight"
    own_names = any(prefix.endswith(".weight") for prefix in groups)
    tensors = []
    for prefix, parts in groups.items():
        name = prefix if own_names else f"{prefix}.weight"
        if kind in DENSE:
            _refuse(name, f"{prefix}.{min(parts)} is a part of a packed tensor, {CONFIG} says that all are {kind!r}")
        if parts != PARTS[kind]:
            _refuse(name, f"it has the parts {sorted(parts)}, expected {sorted(PARTS[kind])} for {kind!r}")
        if name in source:
            _refuse(name, f"it is there as it is and as the parts {prefix}.*, expected one of the two")
        tensors.append(_Packed(name, prefix, kind, _shape(source, prefix, name, kind)))
    return tensors


def _shape(source: HfFolder, prefix: str, name: str, kind: str) -> tuple[int, ...]:
    """Return the shape of a packed tensor, after verifying that the file holds the bitmask and values of that shape."""
    stated = source.section(f"{prefix}.shape")
    one_each = (1,) if kind == TWO_OF_FOUR else ()
    rank = stated.shape[0] if stated.shape else 0
    ranks = (2,) if kind == TWO_OF_FOUR else range(1, validate.MAX_RANK + 1)
    if stated.dtype != "I64" or stated.shape[1:] != one_each or rank not in ranks:
        expected = "I64 of shape [2, 1]" if kind == TWO_OF_FOUR else f"I64 of shape [rank], rank 1 to {max(ranks)}"
        _refuse(name, f"its shape is stored as {stated.dtype} of shape {list(stated.shape)}, expected {expected}")
    shape = tuple(int(d) for d in source[f"{prefix}.shape"].values.reshape(-1))
    try:
        validate.check_shape(shape, name)
    except FormatError as error:
        raise FormatError("FMT-150", f"{name!r} cannot be read: {error}") from error
    rows, columns = rows_of(shape), shape[-1]
    # a shape without columns is refused, because empty rows take no bytes in a file, but memory in a reader
    if not columns or max(rows, columns) > validate.MAX_SPARSE_DIM:
        _refuse(name, f"its shape is {list(shape)}, expected 1 to 2^31 - 1 columns and at most 2^31 - 1 rows")
    mask, values = (source.section(f"{prefix}.{part}") for part in ("bitmask", "compressed"))
    packed = (*shape[:-1], -(-columns // 8))
    if mask.dtype != "U8" or mask.shape != packed:
        _refuse(
            name,
            f"its bitmask is {mask.dtype} of shape {list(mask.shape)}, expected U8 of shape {list(packed)} "
            f"for the stated shape {list(shape)}",
        )
    if kind == BITMASK and len(values.shape) != 1:
        _refuse(name, f"its values have shape {list(values.shape)}, expected one dimension")
    if kind == TWO_OF_FOUR and (columns % 2 or prod(shape) % 4 or values.shape != (rows, columns // 2)):
        _refuse(name, f"its values have shape {list(values.shape)}, expected two of every four of {list(shape)}")
    return shape


def _read_config(data: bytes | None, folder: str) -> tuple[bytes, str]:
    """Return config.json without its description of sparsity, and the format that the description states.

    Numbers keep their value, but their spelling may change.
    """
    if data is None:
        raise FormatError(
            "FMT-150", f"{folder!r} has no {CONFIG} of at most {validate.MAX_FILE_BYTES} bytes to say what it is"
        )
    stated: set[str] = set()
    quantisations: list[Json] = []
    try:
        config = json.loads(data.decode(), object_pairs_hook=unique_keys)
        if not isinstance(config, dict):
            raise FormatError("FMT-150", f"{CONFIG} is a {type(config).__name__}, expected an object")
        if depth(config) > MAX_FOREIGN_DEPTH:
            raise FormatError("FMT-150", f"{CONFIG} is nested deeper than {MAX_FOREIGN_DEPTH} levels")
        text = json.dumps(_without_sparsity(config, stated, quantisations), indent=2) + "\n"
    except (ValueError, RecursionError) as error:
        raise FormatError("FMT-150", f"{CONFIG} is not JSON that can be read: {error}") from error
    if len(stated) != 1:
        raise FormatError(
            "FMT-150",
            f"{CONFIG} states the sparsity formats {sorted(stated)}, expected one; a folder whose tensors are not "
            "packed is converted with --from hf",
        )
    kind = stated.pop()
    if kind not in PARTS and kind not in DENSE:
        _refuse_format(kind)
    for description in quantisations if kind in PARTS else ():
        _check_quantisation(description)
    return text.encode(), kind


def _without_sparsity(config: Json, stated: set[str], quantisations: list[Json]) -> Json:
    """Return an object of config.json without descriptions of sparsity at any depth.

    Their formats are added to stated, and descriptions that may hold a quantisation to quantisations.

    A description that holds no quantisation is removed, because loaders that find one look for packed tensors.
    """
    cleaned: Json = {}
    for key, value in config.items():
        if key == SPARSITY and isinstance(value, dict) and isinstance(value.get("format"), str):
            # compressed-tensors 0.3 puts it on the outer level
            stated.add(value["format"])
        elif not isinstance(value, dict):
            cleaned[key] = value
        elif key not in DESCRIPTIONS or value.get("quant_method") not in LIBRARY:
            cleaned[key] = _without_sparsity(value, stated, quantisations)
        else:
            quantisations.append(value)
            rest = _without_sparsity(value, stated, quantisations)
            rest.pop(SPARSITY, None)
            if quantises(rest):
                cleaned[key] = rest
    return cleaned


def _check_quantisation(description: Json) -> None:
    """Verify that a quantisation, if there is one, stores one number for each weight, beside a bitmask."""
    groups = description.get("config_groups")
    inner = groups.values() if isinstance(groups, dict) else ()
    for part in (description, *(group for group in inner if isinstance(group, dict))):
        if part.get("format") not in UNPACKED:
            _refuse_format(part["format"])


def _refuse_format(kind: object) -> NoReturn:
    raise FormatError(
        "FMT-150",
        f"{CONFIG} states the format {kind!r}, expected one of {', '.join(sorted(PARTS.keys() | DENSE))} and no packed "
        "quantisation; write the model that it was made from as dense safetensors and convert that",
    )


def _refuse(name: str, what: str) -> NoReturn:
    raise FormatError("FMT-150", f"{name!r} cannot be read: {what}")
