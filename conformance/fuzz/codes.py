"""Folders of integer codes by compressed-tensors, GPTQ and AWQ: inputs and mutations (FMT-172 to FMT-175).

The plain definition is `oracle.foreign_codes`.
"""

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from random import Random
from typing import Any

from conformance.fuzz import foreign_spoil, mutate
from conformance.fuzz.base_models import stored
from conformance.fuzz.foreign import Case
from conformance.fuzz.foreign_files import Folder, Piece, Stock, piece
from conformance.fuzz.strings import INTEGERS
from conformance.oracle import files_codes, foreign_codes
from conformance.oracle.files import BITS
from conformance.oracle.files_convert import expanded, packed
from conformance.oracle.files_deltas import cells
from formats.container import dtype_name, raw_bytes
from formats.dialects.int_codes import Quantised
from formats.dialects.int_folder import open_quantised
from formats.records import to_dense

CONFIG, INDEX, WHOLE = "config.json", "model.safetensors.index.json", "model.safetensors"
SCALES = ("F16", "BF16", "F32")
SOURCES = ("pack-quantized", "pack-quantized", "int-quantized", "gptq", "gptq_v2", "awq")
GPTQ_STEP = {2: 16, 3: 32, 4: 8, 8: 4}
"""By bits of a code, the number of rows and of columns of a matrix; its codes fill whole words."""


@dataclass
class Shape:
    """The shape and the quantisation of a random matrix."""

    source: str
    out: int
    columns: int
    bits: int
    strategy: str
    size: int | None
    symmetric: bool
    listed: bool
    """whether the group of each column is listed"""

    @property
    def groups(self) -> int:
        """The number of groups in a row."""
        return -(-self.columns // self.size) if self.strategy == "group" and self.size else 1


class Codes:
    """The reader of folders of integer codes, as `foreign.Reader`."""

    def grow(self, chance: Random) -> Folder:
        """Return a valid folder of one or two quantised matrices and other tensors."""
        shape = _shape(chance)
        modules = chance.sample(("a", "b", "layers.0.q_proj"), chance.choice((1, 1, 2)))
        pieces = [part for module in modules for part in _parts(chance, module, shape)]
        pieces += [piece(chance, "norm.weight", "F16", 3)] if chance.random() < 0.5 else []
        pieces += [piece(chance, f"{modules[0]}.input_scale", "F32", 1)] if chance.random() < 0.1 else []
        chance.shuffle(pieces)
        description = _description(chance, shape)
        config: dict[str, Any] = {"model_type": "llama", "rope_theta": 1e4}
        texts: dict[str, Any] = {CONFIG: config}
        own = {"awq": "quant_config.json", "gptq": "quantize_config.json"}.get(shape.source)
        if own and chance.random() < 0.15:
            texts[own] = description
        else:
            config[chance.choice(("quantization_config", "compression_config"))] = description
        if shape.source == "int-quantized" and chance.random() < 0.3:
            pieces = [
                part
                for one in pieces
                for part in (_masked(chance, one) if one.name.endswith(".weight") and one.dtype == "I8" else [one])
            ]
            config["sparsity_config"] = {"format": "sparse-bitmask"}
        if chance.random() < 0.8:
            return Folder(texts, {WHOLE: Stock(pieces, {"format": "pt"})})
        names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
        shards = {name: Stock(pieces[i::2]) for i, name in enumerate(names)}
        texts[INDEX] = {"weight_map": {one.name: name for name, stock in shards.items() for one in stock.pieces}}
        return Folder(texts, shards)

    def case(self, chance: Random, draft: Folder, *, valid: bool) -> Case:
        """Return a folder as a case, mutated unless `valid`."""
        if not valid:
            foreign_spoil.spoil(chance, draft, OWN)
        return Case({"model": foreign_spoil.pack(draft)}, valid=valid)

    def read(self, case: Case, place: Path) -> Any:
        """Return the matrices as codes, all tensors expanded, attributes and configuration."""
        del case
        folder = open_quantised(place / "model")
        matrices = {name: folder.matrices[name] for name in folder.matrices}
        model = folder.checkpoint()
        tensors = {name: model.tensors[name] for name in model.tensors}
        others = {name: t for name, t in tensors.items() if name not in matrices}
        assert model.attributes["expanded"] == sorted(matrices)
        return {
            "matrices": {name: _plain(one) | {"cells": stored(tensors[name])} for name, one in matrices.items()},
            "dtypes": {name: dtype_name(one.dtype) for name, one in matrices.items()},
            "others": {name: _whole(t) for name, t in others.items()},
            "source": model.attributes["source"],
            "config": model.files[CONFIG].decode() if CONFIG in model.files else "null\n",
        }

    def define(self, case: Case) -> Any:
        """Return the same as `read`, from the text of FMT-172 to FMT-175 alone."""
        folder = foreign_codes.read(case.folders["model"])
        return {
            "matrices": {name: _numbers(m) for name, m in folder.matrices.items()},
            "dtypes": {name: m.dtype for name, m in folder.matrices.items()},
            "others": {name: (t.dtype, t.shape, expanded(t, None).bits) for name, t in folder.others.items()},
            "source": folder.source,
            "config": json.dumps(folder.config, indent=2) + "\n",
        }


READER = Codes()


def _plain(one: Quantised) -> dict[str, Any]:
    """Return a matrix as plain lists and bytes."""
    return {
        "codes": one.codes.tolist(),
        "scales": one.scales.tobytes(),
        "zeros": None if one.zeros is None else one.zeros.tolist(),
        "groups": one.group_of_column.tolist(),
        "mask": one.mask.reshape(-1).astype(int).tolist(),
    }


def _numbers(m: files_codes.Codes) -> dict[str, Any]:
    """Return a matrix of the definition as `_plain`, and the bytes of its weights by position."""
    at, (rows, columns) = {*files_codes.stored(m)}, m.shape
    return {
        "codes": m.codes,
        "scales": packed(m.dtype, [one for row in m.scales for one in row]),
        "zeros": m.zeros,
        "groups": m.groups,
        "mask": [int((r, c) in at) for r in range(rows) for c in range(columns)],
        "cells": cells(files_codes.weights(m)),
    }


def _whole(tensor: Any) -> tuple[str, tuple[int, ...], bytes]:
    # expanded, because a tensor that has a bitmask and is no codes stays sparse (FMT-150.7)
    return dtype_name(tensor.dtype), tensor.shape, bytes(raw_bytes(to_dense(tensor)))


# valid inputs ------------------------------------------------------------------------------------


def _shape(chance: Random) -> Shape:
    source = chance.choice(SOURCES)
    strategy, listed = chance.choice(("channel", "group", "group")), chance.random() < 0.4
    if source == "awq":
        columns, out, bits = chance.choice((4, 6, 8)), 8, 4
    elif source.startswith("gptq"):
        bits = chance.choices((2, 3, 4, 8), (1, 0.3, 3, 3))[0]
        out = columns = GPTQ_STEP[bits]
    else:
        strategy = chance.choice(("tensor", strategy))
        out, columns, bits = chance.randint(1, 5), chance.randint(1, 9), _bits(chance)
    size = chance.choice([s for s in range(1, columns + 1) if columns % s == 0])
    symmetric = chance.random() < 0.5
    if source == "pack-quantized" and not _tells(columns, bits):
        # readers refuse these shapes, because the number of words does not show how the codes are packed
        bits = chance.choice((1, 2, 4, 8))
    return Shape(source, out, columns, bits, strategy, size, symmetric, listed and source != "awq")


def _bits(chance: Random) -> int:
    return chance.choices((1, 2, 3, 4, 5, 6, 7, 8), (2, 3, 2, 6, 2, 2, 2, 4))[0]


def _tells(columns: int, bits: int) -> bool:
    """Return whether the number of words in a row shows how codes are packed, or both packings are equal."""
    return 32 % bits == 0 or -(-columns * bits // 32) != -(-columns // (32 // bits))


def _parts(chance: Random, module: str, shape: Shape) -> list[Piece]:
    """Return the tensors of a quantised matrix."""
    if shape.source in ("pack-quantized", "int-quantized"):
        return _library(chance, module, shape)
    per, groups, out = 32 // shape.bits, shape.groups, shape.out
    down, across = -(-shape.columns * shape.bits // 32), -(-out * shape.bits // 32)
    zeros = [_word(chance, shape, per) for _ in range(groups * across)]
    parts = [Piece(f"{module}.qzeros", "I32", [groups, across], struct.pack(f"<{len(zeros)}I", *zeros))]
    qweight = (shape.columns, out // 8) if shape.source == "awq" else (down, out)
    parts += [piece(chance, f"{module}.qweight", "I32", *qweight), _scales(chance, f"{module}.scales", groups, out)]
    if shape.listed:
        of_column = [chance.randrange(groups) for _ in range(shape.columns)]
        parts.append(Piece(f"{module}.g_idx", "I32", [shape.columns], struct.pack(f"<{shape.columns}i", *of_column)))
    return parts


def _word(chance: Random, shape: Shape, per: int) -> int:
    """Return a random word of zero points; in `gptq` none has all its bits set, because readers refuse that."""
    if shape.source != "gptq":
        return chance.getrandbits(32)
    if shape.bits == 3:
        # codes straddle words here; the mask allows no two adjacent ones, so no code has all its bits set
        return 0x55555555 & chance.getrandbits(32)
    return sum(chance.randrange((1 << shape.bits) - 1) << i * shape.bits for i in range(per))


def _library(chance: Random, module: str, shape: Shape) -> list[Piece]:
    out, columns, bits, groups = shape.out, shape.columns, shape.bits, shape.groups
    straddling, half = chance.random() < 0.5, 1 << bits - 1
    across, down = (-(-n * bits // 32) if straddling else -(-n // (32 // bits)) for n in (columns, out))
    packed = shape.source == "pack-quantized"
    if packed:
        stated = Piece(f"{module}.weight_shape", "I64", [2], struct.pack("<2q", out, columns))
        parts = [piece(chance, f"{module}.weight_packed", "I32", out, across), stated]
    else:
        codes = bytes(chance.randint(-half, half - 1) % 256 for _ in range(out * columns))
        parts = [Piece(f"{module}.weight", "I8", [out, columns], codes)]
    alone = shape.strategy == "tensor"
    scales = _scales(chance, f"{module}.weight_scale", *((1, 1) if alone else (out, groups)))
    scales.shape = chance.choice(([], [1], [1, 1])) if alone else scales.shape
    parts.append(scales)
    if not shape.symmetric and packed and not alone:
        parts.append(piece(chance, f"{module}.weight_zero_point", "I32", down, groups))
    elif not shape.symmetric:
        zeros = bytes(chance.randint(-half, half - 1) % 256 for _ in range(prod(scales.shape)))
        parts.append(Piece(f"{module}.weight_zero_point", "I8", [*scales.shape], zeros))
    if shape.listed and shape.strategy == "group":
        of_column = [chance.randrange(groups) for _ in range(columns)]
        parts.append(Piece(f"{module}.weight_g_idx", "I64", [columns], struct.pack(f"<{columns}q", *of_column)))
    return parts


def _scales(chance: Random, name: str, *shape: int) -> Piece:
    """Return scales between -2 and 2, some of them 0."""
    dtype = chance.choice(SCALES)
    values = [chance.choice((0.0, 1.0, chance.uniform(-2, 2), chance.uniform(-2, 2))) for _ in range(prod(shape))]
    if dtype == "BF16":
        return Piece(name, dtype, [*shape], b"".join(struct.pack("<f", v)[2:] for v in values))
    return Piece(name, dtype, [*shape], struct.pack(f"<{len(values)}{'e' if dtype == 'F16' else 'f'}", *values))


def _description(chance: Random, shape: Shape) -> dict[str, Any]:
    """Return the description of a quantisation in a configuration."""
    size = shape.size if shape.strategy == "group" else -1
    if shape.source == "awq":
        return {"quant_method": "awq", "bits": 4, "group_size": size, "version": chance.choice(("gemm", "GEMM"))}
    if shape.source.startswith("gptq"):
        layout = chance.choice(("checkpoint_format", "format"))
        description = {"quant_method": "gptq", "bits": shape.bits, "group_size": size, "desc_act": shape.listed}
        return description | {layout: shape.source}
    weights: dict[str, Any] = {"num_bits": shape.bits, "type": "int", "strategy": shape.strategy}
    weights |= {"group_size": size if shape.strategy == "group" else None, "symmetric": shape.symmetric}
    group = {"targets": ["Linear"], "weights": weights}
    return {"quant_method": "compressed-tensors", "format": shape.source, "config_groups": {"group_0": group}}


def _masked(chance: Random, one: Piece) -> list[Piece]:
    """Return about half of the values of an I8 matrix as bitmask, packed values, shape and row offsets (FMT-150)."""
    rows, columns = one.shape
    width, mask, kept = -(-columns // 8), bytearray(rows * -(-columns // 8)), bytearray()
    for at, byte in enumerate(one.data):
        if chance.random() < 0.5:
            mask[at // columns * width + at % columns // 8] |= 1 << at % columns % 8
            kept.append(byte)
    module = one.name.removesuffix(".weight")
    return [
        Piece(f"{module}.bitmask", "U8", [rows, width], bytes(mask)),
        Piece(f"{module}.compressed", "I8", [len(kept)], bytes(kept)),
        Piece(f"{module}.shape", "I64", [2], struct.pack("<2q", rows, columns)),
        piece(chance, f"{module}.row_offsets", "I64", rows),
    ]


# mutations ---------------------------------------------------------------------------------------

_WORDS: dict[str, tuple[Any, ...]] = {
    "quant_method": ("gptq", "awq", "compressed-tensors", None, "sparseml", "fp8", "x"),
    "bits": (2, 3, 4, 8, 1, 5, 0, -1, "4", 4.0, True, 2**70),
    "w_bit": (4, 8),
    "num_bits": (1, 2, 3, 4, 5, 6, 7, 8, 0, 9, None, True),
    "group_size": (-1, 1, 2, 3, 4, 7, 8, 16, 0, 2**31, 2**31 - 1, None, True, 1.0),
    "strategy": ("tensor", "channel", "group", "token", "block", None, ""),
    "symmetric": (True, False, None, 1),
    "format": ("pack-quantized", "int-quantized", "naive-quantized", "gptq", "gptq_v2", "marlin", "dense", None, []),
    "checkpoint_format": ("gptq", "gptq_v2", "gemm", None),
    "version": ("gemm", "gemv", "GEMM", None, 1),
    "desc_act": (True, False, None, 0, "x"),
    "dynamic": ({}, {"a": {}}, [1]),
    "type": ("int", "float", None),
    "targets": (["Linear"], ["a"], ["b", "a"], [], "Linear", None, [["a"]]),
    "kv_cache_scheme": (None, {}, {"a": 1}),
    "sparsity_config": ({"format": "dense"}, {"format": "sparse-bitmask"}, {"format": ""}, {"format": None}, {}),
    "is_marlin_format": (True, False),
}


def _option(chance: Random, folder: Folder) -> None:
    """Change an option of the quantisation, or add one at a random level."""
    key, places = chance.choice(sorted(_WORDS)), [folder.texts]
    for text in folder.texts.values():
        places += [value for _, value in mutate.walk(text) if isinstance(value, dict)]
    having = [place for place in places if key in place]
    chance.choice(having or places[1:])[key] = chance.choice(_WORDS[key])


def _second(chance: Random, folder: Folder) -> None:
    """Add a second description of a quantisation, or a second group, equal to the first or different."""
    config = folder.texts[CONFIG]
    key = chance.choice(("quantization_config", "compression_config"))
    one = config.get("quantization_config") or config.get("compression_config")
    copy = json.loads(json.dumps(one))
    groups = copy.get("config_groups")
    if groups and chance.random() < 0.6:
        group = json.loads(json.dumps(groups["group_0"]))
        group["weights"][chance.choice(("num_bits", "strategy", "symmetric"))] = chance.choice((4, 8, "channel", True))
        group["targets"] = chance.choice((["Linear"], ["a"], ["layers.0.q_proj"]))
        groups["group_1"] = group
        config[key] = copy
    elif chance.random() < 0.5:
        config["text_config"] = {key: copy}
    else:
        config[key] = copy | {"bits": 8}


def _number(chance: Random, folder: Folder) -> None:
    """Change one number of a part: a code, a shape, a group, a scale."""
    one = chance.choice([p for p in folder.pieces() if p.data])
    width = max(BITS.get(one.dtype, 8) // 8, 1)
    at = chance.randrange(max(len(one.data) // width, 1)) * width
    number = chance.choice((*INTEGERS, -1, -2, 5, 6, 9)) % 2**64
    raw = chance.choice(
        (number.to_bytes(8, "little")[:width], b"\xff" * width, b"\x00\x7c"[-width:].rjust(width, b"\0"))
    )
    one.data = one.data[:at] + raw + one.data[at + width :]


def _move(chance: Random, folder: Folder) -> None:
    """Give a tensor the name of another part, or add a copy of it under such a name."""
    stock = chance.choice([stock for stock in folder.files.values() if stock.pieces])
    one = chance.choice(stock.pieces)
    module, _, _ = one.name.rpartition(".")
    part = chance.choice(_NAMES)
    if chance.random() < 0.5:
        one.name = f"{module}.{part}"
    else:
        stock.pieces.append(Piece(f"{module}.{part}", one.dtype, [*one.shape], one.data))


_NAMES = (
    *("weight", "weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx", "weight_shape"),
    *("qweight", "qzeros", "scales", "g_idx", "bias", "input_scale", "weight_global_scale"),
    *("bitmask", "compressed", "shape"),
)


def _refit(chance: Random, folder: Folder) -> None:
    """Give a tensor another shape or dtype, with bytes that fit."""
    foreign_spoil.refit(chance, chance.choice([*folder.pieces()]))


OWN: foreign_spoil.Weighted = ((_option, 28), (_second, 6), (_number, 14), (_move, 8), (_refit, 10))
