"""A plain definition of folders of integer codes, in Python integers (FMT-172 to FMT-175).

It is simple and slow; `codes.py` makes the inputs.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any

from conformance.fuzz.foreign_files import Piece, Refused, Tree, need, parsed, read_stock
from conformance.oracle.files import BITS

LIBRARY = (None, "compressed-tensors", "sparseml")
DESCRIPTIONS = ("quantization_config", "compression_config")
OWN = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
SOURCES = {"pack-quantized": "pack-quantized", "int-quantized": "int-quantized", "naive-quantized": "int-quantized"}
SCALES, WHOLE = ("F16", "BF16", "F32"), ("I32", "I64")
TELLING = {
    "library": {"weight_packed", "weight_scale", "weight_shape", "weight_zero_point"},
    "programs": {"qweight", "qzeros", "scales"},
}
ACTIVATIONS = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")
AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)

Grid = list[list[int]]


@dataclass(frozen=True)
class Scheme:
    """The quantisation that a description states for a group of matrices."""

    source: str
    bits: int | None
    strategy: str
    size: int | None = None
    symmetric: bool = False
    ordered: bool = True


@dataclass
class Matrix:
    """A matrix whose parts fit each other."""

    codes: Grid
    """rows of signed codes"""
    scales: list[list[bytes]]
    """the bytes of each scale, by row and group"""
    dtype: str
    zeros: Grid | None
    of_column: list[int]
    bits: int
    used: set[str]
    mask: Grid | None = None


# files -------------------------------------------------------------------------------------------


def tensors_of(tree: Tree) -> dict[str, Piece]:
    """Return the tensors of a Hugging Face folder (FMT-120)."""
    need("delta_encoding" not in str(tree.get("model.safetensors.index.json")), "FMT-168.10")
    if tree.get("model.safetensors") is not None:
        return read_stock(tree["model.safetensors"])[1]
    weight_map = parsed(tree["model.safetensors.index.json"] or b"")["weight_map"]
    pieces: dict[str, Piece] = {}
    for file_name in sorted(set(weight_map.values())):
        need(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,242}\.safetensors", file_name), "a file of the folder")
        own = read_stock(tree[file_name])[1]
        need(set(own) == {name for name, of in weight_map.items() if of == file_name}, "index and file alike")
        pieces |= own
    return pieces


def described(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the descriptions of a quantisation at any depth of a configuration (FMT-128.2)."""
    for inner in value if isinstance(value, list) else ():
        yield from described(inner)
    for key, inner in value.items() if isinstance(value, dict) else ():
        if key in DESCRIPTIONS and isinstance(inner, dict) and quantises(inner):
            yield inner
        else:
            yield from described(inner)


def quantises(description: dict[str, Any]) -> bool:
    """Return whether a description describes a quantisation, and not only sparsity."""
    if description.get("quant_method") not in LIBRARY:
        return bool(description)
    return any(description.get(part) for part in ("config_groups", "kv_cache_scheme", "transform_config"))


def without_descriptions(value: Any) -> Any:
    """Return a configuration without its descriptions of a quantisation (FMT-175.4)."""
    if isinstance(value, list):
        return [without_descriptions(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    stays = {k: v for k, v in value.items() if not (k in DESCRIPTIONS and isinstance(v, dict) and quantises(v))}
    return {key: without_descriptions(inner) for key, inner in stays.items()}


def without_sparsity(value: Any, formats: set[str]) -> Any:
    """Return a configuration without its descriptions of sparsity, whose formats are added to `formats` (FMT-158)."""
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, inner in value.items():
        if key == "sparsity_config" and isinstance(inner, dict) and isinstance(inner.get("format"), str):
            formats.add(inner["format"])
            continue
        rest = without_sparsity(inner, formats)
        if key in DESCRIPTIONS and isinstance(inner, dict) and inner.get("quant_method") in LIBRARY:
            rest.pop("sparsity_config", None)
            if not quantises(rest):
                continue
        kept[key] = rest
    return kept


# schemes -----------------------------------------------------------------------------------------


def whole(entries: dict[str, Any], key: str, allowed: tuple[int, ...]) -> int:
    """Return an integer of a description, which must be one of `allowed`."""
    need(type(entries[key]) is int and entries[key] in allowed, key)
    return int(entries[key])


def group_size(entries: dict[str, Any], key: str) -> int | None:
    """Return the number of columns in a group, None for −1."""
    size = entries[key]
    need(type(size) is int and (size == -1 or 1 <= size < 2**31), key)
    return None if size == -1 else int(size)


def schemes_of(description: dict[str, Any]) -> list[tuple[list[str], Scheme]]:
    """Return targets and scheme of each group of a description."""
    method = description.get("quant_method")
    if method == "gptq":
        layout = description.get("checkpoint_format") or description.get("format") or "gptq"
        need(layout in ("gptq", "gptq_v2") and not description.get("is_marlin_format"), "a layout")
        if description.get("dynamic"):
            return [([], Scheme(layout, None, "group"))]
        bits, size = whole(description, "bits", (2, 3, 4, 8)), group_size(description, "group_size")
        ordered = not description.get("desc_act")
        return [([], Scheme(layout, bits, "group" if size else "channel", size, ordered=ordered))]
    if method == "awq":
        need(
            str(description.get("version") or description.get("checkpoint_format") or "gemm").lower() == "gemm", "gemm"
        )
        bits_key, size_key = ("w_bit", "q_group_size") if "w_bit" in description else ("bits", "group_size")
        bits, size = whole(description, bits_key, (4,)), group_size(description, size_key)
        return [([], Scheme("awq", bits, "group" if size else "channel", size))]
    need(method in LIBRARY, "a method")
    need(not description.get("transform_config") and not description.get("kv_cache_scheme"), "nothing else")
    return [
        ([str(target) for target in group["targets"]], _of_weights(group["weights"], group, description))
        for group in description["config_groups"].values()
        if isinstance(group, dict) and group.get("weights") is not None
    ]


def _of_weights(weights: dict[str, Any], group: dict[str, Any], description: dict[str, Any]) -> Scheme:
    stated: Any = group.get("format") or description.get("format")
    need(isinstance(group["targets"], list) and stated in SOURCES and weights.get("type", "int") == "int", "a format")
    bits = whole({"num_bits": 8} | weights, "num_bits", (1, 2, 3, 4, 5, 6, 7, 8))
    size = None if weights.get("group_size") is None else group_size(weights, "group_size")
    implied = "tensor" if weights.get("group_size") is None else "group" if size else "channel"
    strategy = weights.get("strategy") or implied
    need(strategy in ("tensor", "channel") or (strategy == "group" and size), "a strategy")
    need(isinstance(weights.get("symmetric", True), bool), "symmetric")
    own = size if strategy == "group" else None
    return Scheme(SOURCES[stated], bits, strategy, own, weights.get("symmetric", True))


# numbers -----------------------------------------------------------------------------------------


def integers(piece: Piece) -> list[int]:
    """Return the integers of a part, row-major."""
    code = {"I8": "b", "I32": "i", "I64": "q"}[piece.dtype]
    return list(struct.unpack(f"<{len(piece.data) * 8 // BITS[piece.dtype]}{code}", piece.data))


def grid(values: list[Any], rows: int, columns: int) -> list[list[Any]]:
    """Return row-major values as rows."""
    return [values[r * columns : (r + 1) * columns] for r in range(rows)]


def turned(rows: list[list[Any]], columns: int) -> list[list[Any]]:
    """Return the transpose of rows that have `columns` columns each."""
    return [[row[c] for row in rows] for c in range(columns)]


def unpacked(words: list[int], n: int, bits: int, *, straddling: bool) -> list[int]:
    """Return n unsigned codes of a row of words (FMT-173)."""
    unsigned = [word % 2**32 for word in words]
    if straddling:
        stream = sum(word << 32 * i for i, word in enumerate(unsigned))
        return [stream >> i * bits & (1 << bits) - 1 for i in range(n)]
    per = 32 // bits
    return [unsigned[i // per] >> i % per * bits & (1 << bits) - 1 for i in range(n)]


def number(dtype: str, raw: bytes) -> float:
    """Return the value of the bytes of a scale."""
    code = "<e" if dtype == "F16" else "<f"
    return float(struct.unpack(code, b"\0\0" + raw if dtype == "BF16" else raw)[0])


def rounded(dtype: str, value: float) -> bytes:
    """Return a value rounded once, to nearest, ties to even (FMT-173.6).

    Raises:
        Refused: the value is beyond the range of the dtype.
    """
    try:
        if dtype != "BF16":
            return struct.pack("<e" if dtype == "F16" else "<f", value)
        # exact in F32, because the factors are a scale of 8 bits and a code of 9
        word = struct.unpack("<I", struct.pack("<f", value))[0]
    except OverflowError as error:
        raise Refused("a weight that its dtype holds") from error
    upper = (word + 0x7FFF + (word >> 16 & 1)) >> 16
    need(upper & 0x7F80 != 0x7F80, "a weight that its dtype holds")
    return struct.pack("<H", upper)


def _in_bits(rows: Grid, bits: int) -> bool:
    return all(-(1 << bits - 1) <= code < 1 << bits - 1 for row in rows for code in row)


def numbers_of(matrix: Matrix) -> dict[str, Any]:
    """Return codes, scales, zero points, groups, mask and weights of a matrix, after checks (FMT-173, FMT-174)."""
    codes, zeros = matrix.codes, matrix.zeros
    scales = [[number(matrix.dtype, raw) for raw in row] for row in matrix.scales]
    need(all(isfinite(s) for row in scales for s in row), "finite scales")
    need(all(0 <= g < len(scales[0]) for g in matrix.of_column), "groups with scales")
    need(_in_bits(codes, matrix.bits) and _in_bits(zeros or [], matrix.bits), "codes of so many bits")
    mask: list[int] = []
    cells: dict[int, bytes] = {}
    for r, row in enumerate(codes):
        for c, code in enumerate(row):
            g = matrix.of_column[c]
            steps, scale = code - (zeros[r][g] if zeros else 0), scales[r][g]
            kept = matrix.mask[r][c] if matrix.mask else int(steps != 0 and scale != 0)
            if kept:
                cells[len(mask)] = rounded(matrix.dtype, steps * scale + 0.0)  # a weight of 0 is +0.0
            elif matrix.mask is None:
                cells[len(mask)] = bytes(BITS[matrix.dtype] // 8)
            mask.append(kept)
    raw = b"".join(raw for row in matrix.scales for raw in row)
    return {"codes": codes, "scales": raw, "zeros": zeros, "groups": matrix.of_column, "mask": mask, "cells": cells}
