"""Quantised models: codes that are rounded, kept or read, and what is made of them (chapter 19, FMT-178, FMT-180).

Every matrix here has its support, scales in F32, and zero points only on an asymmetric grid.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import numpy as np

from conformance.oracle import files_codes, quantise
from conformance.oracle.files import Tensor
from conformance.oracle.files_codes import Codes, gptq, int8, pack_quantized, scale, stored, weights
from conformance.oracle.files_convert import dense
from conformance.oracle.files_deltas import cells, number, rounded, tensor
from conformance.oracle.select_pools import RefusedError

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Model:
    """A quantised model.

    Attributes:
        grid: the grid of all its matrices.
        matrices: name of a weight -> its codes.
        others: tensors that belong to no matrix.
        beside: name of a weight -> the weights beside its codes, where there are some.
    """

    grid: str
    matrices: dict[str, Codes]
    others: dict[str, Tensor]
    beside: dict[str, Tensor] = field(default_factory=dict)

    def parts(self) -> dict[str, tuple[dict[str, Tensor], dict[str, str]]]:
        """Return the tensors of each matrix, and the names of its parts by role (QNT-009)."""
        return {name: _parts(name, m) for name, m in self.matrices.items()}

    def options(self) -> tuple[int, int | None, bool]:
        """Return what the grid names: bits, columns of a group or None, and whether there are zero points (QNT-001)."""
        bits, *options = self.grid.removeprefix("int").split(":")
        size = next((int(option[1:]) for option in options if option.startswith("g")), None)
        return int(bits), size, "asym" in options

    def zeros(self) -> int:
        """Return how many stored weights are 0 (FMT-178.4)."""
        return sum(m.codes[r][c] == m.zero(r, m.groups[c]) for m in self.matrices.values() for r, c in m.support or ())

    def packed(self) -> dict[str, Tensor]:
        """Return the tensors of `pack-quantized` (FMT-178)."""
        return self._written(pack_quantized)

    def for_gptq(self) -> dict[str, Tensor]:
        """Return the tensors of GPTQ (FMT-180)."""
        return self._written(lambda m: gptq(m, less=int(m.zeros is None)))

    def _written(self, write: Any) -> dict[str, Tensor]:
        made = dict(self.others)
        for name, m in self.matrices.items():
            made |= files_codes.named(name.removesuffix(".weight"), write(_everywhere(m)))
        return made

    def beyond_f16(self) -> int:
        """Return how many scales are no numbers of F16 (FMT-180.4)."""
        scales = np.array([scale(m, r, g) for m in self.matrices.values() for r, g in _groups(m)])
        with np.errstate(over="ignore"):
            return int((scales.astype(np.float16) != scales).sum())

    def expanded(self) -> dict[str, Tensor]:
        """Return the tensors of the model without codes (QNT-002, QNT-006.3, QNT-008.2, QNT-009.5)."""
        wide = any(t.dtype == "F64" for t in (*self.others.values(), *self.beside.values()))
        made, dtype = dict(self.others), "F64" if wide else "F32"
        for name, m in self.matrices.items():
            at = cells(weights(_in_f64(m) if wide else m))
            if name in self.beside:
                update = self.beside[name]
                at |= {p: rounded(dtype, number(update.dtype, raw)) for p, raw in cells(update).items()}
            made[name] = tensor(dtype, m.shape, at)
        return made


def _groups(m: Codes) -> list[tuple[int, int]]:
    return [(r, g) for r, row in enumerate(m.scales) for g in range(len(row))]


def _pattern(value: float, code: str = "<f") -> int:
    return int.from_bytes(struct.pack(code, value), "little")


def _in_f64(m: Codes) -> Codes:
    scales = [[_pattern(scale(m, r, g), "<d") for g in range(len(row))] for r, row in enumerate(m.scales)]
    return replace(m, dtype="F64", scales=scales)


def _everywhere(m: Codes) -> Codes:
    """Return a matrix with the zero point as the code of every position that is not stored (FMT-178)."""
    at = set(m.support or ())
    rows = [[x if (r, c) in at else m.zero(r, m.groups[c]) for c, x in enumerate(row)] for r, row in enumerate(m.codes)]
    return replace(m, codes=rows)


def _parts(name: str, m: Codes) -> tuple[dict[str, Tensor], dict[str, str]]:
    assert m.support is not None
    codes = bytes(m.codes[r][c] % 256 for r, c in m.support)
    scales = dense("F32", (len(m.scales), len(m.scales[0])), [one for row in m.scales for one in row])
    own = {"scale": scales} | ({} if m.zeros is None else {"zero_point": int8(m.zeros)})
    tensors = {f"{name}.{role}": t for role, t in own.items()}
    return {name: Tensor("I8", m.shape, codes, m.support)} | tensors, {role: f"{name}.{role}" for role in own}


def _fits(m: Codes, *, asymmetric: bool) -> bool:
    """Return whether the scales of a matrix are above 0 and keep every code within float32 (QNT-003.5)."""
    reach = 2 * m.half - 1 if asymmetric else m.half
    return all(0 < scale(m, r, g) < inf and scale(m, r, g) * reach <= _LARGEST for r, g in _groups(m))


def on_grid(matrices: Mapping[str, Codes], others: dict[str, Tensor]) -> Model:
    """Return the matrices of a foreign folder as a quantised model (QNT-010).

    Raises:
        RefusedError: QNT-010.
    """
    asymmetric = any(zero for m in matrices.values() for row in m.zeros or () for zero in row)
    made = {name: _widened(m, asymmetric=asymmetric) for name, m in matrices.items()}
    bits = {m.bits for m in made.values()}
    sizes = {len(m.groups) // len(m.scales[0]) for m in made.values()}
    several = any(len(m.scales[0]) > 1 for m in made.values())
    odd = bits not in ({4}, {8}) or (several and len(sizes) > 1)
    for name, m in made.items():
        size = len(m.groups) // len(m.scales[0])
        odd |= m.groups != [c // size for c in range(m.shape[1])] or not _fits(m, asymmetric=asymmetric)
        odd |= any(f"{name}.{role}" in others for role in ("scale", "zero_point", "update"))
    if odd:
        msg = "QNT-010: matrices that are on no grid"
        raise RefusedError(msg)
    grid = f"int{bits.pop()}{f':g{sizes.pop()}' if several else ''}{':asym' if asymmetric else ''}"
    return Model(grid, made, others)


def _widened(m: Codes, *, asymmetric: bool) -> Codes:
    """Return a matrix with its support and scales of F32; one of 0 becomes the largest of its row, or 1 (QNT-010.3)."""
    support = stored(m)
    numbers = [[scale(m, r, g) for g in range(len(row))] for r, row in enumerate(m.scales)]
    used = {(r, m.groups[c]) for r, c in support}
    # a scale of 0 that a stored position needs stays 0, and is refused
    rows = [
        [x or ((r, g) not in used and (max(row) or 1.0)) for g, x in enumerate(row)] for r, row in enumerate(numbers)
    ]
    zeros = (m.zeros or [[0] * len(row) for row in rows]) if asymmetric else None
    return replace(m, dtype="F32", scales=[[_pattern(x) for x in row] for row in rows], zeros=zeros, support=support)


def read(tensors: Mapping[str, Tensor], scales: Mapping[str, dict[str, str]], grid: str) -> Model:
    """Return the quantised model of a checkpoint (QNT-009).

    Raises:
        RefusedError: QNT-009 or QNT-001; parts do not fit each other or the grid.
    """
    others, matrices = dict(tensors), {}
    beside: dict[str, Tensor] = {}
    for name, roles in scales.items():
        w, parts = others.pop(name), {role: others.pop(part) for role, part in roles.items()}
        update = parts.pop("update", None)
        matrices[name] = _read(w, parts, grid)
        if update is not None:
            _need(update.dtype in ("F32", "F64") and update.shape == w.shape)
            beside |= {name: update} if update.nnz else {}
    return Model(grid, matrices, others, beside)


def _need(holds: object) -> None:
    if not holds:
        msg = "QNT-009 QNT-001: parts that do not fit"
        raise RefusedError(msg)


def _read(w: Tensor, parts: dict[str, Tensor], grid: str) -> Codes:
    try:
        like, symmetric = quantise.empty(grid, (w.shape[0], w.shape[1]))
    except RefusedError as error:
        msg = f"QNT-009 {error}"
        raise RefusedError(msg) from error
    shape = (w.shape[0], w.shape[1] // like.columns)
    _need(w.dtype == "I8" and parts.keys() == {"scale"} | (set() if symmetric else {"zero_point"}))
    _need(all(t.shape == shape and t.support is None for t in parts.values()))
    _need(parts["scale"].dtype == "F32" and (symmetric or parts["zero_point"].dtype == "I8"))
    like.codes = {p: raw[0] - 256 * (raw[0] > 127) for p, raw in cells(w).items()}
    like.scales = np.frombuffer(parts["scale"].bits, np.float32).astype(np.float64).reshape(shape).tolist()
    if not symmetric:
        like.zeros = np.frombuffer(parts["zero_point"].bits, np.int8).reshape(shape).tolist()
    _need(all(like.low <= x <= like.high for row in ([*like.codes.values()], *like.zeros) for x in row))
    made = _from(like, symmetric=symmetric)
    _need(_fits(made, asymmetric=not symmetric))
    return made


def _from(coded: quantise.Coded, *, symmetric: bool) -> Codes:
    """Return a matrix of `quantise` row by row."""
    rows, columns = coded.shape
    codes = [[coded.codes.get(r * columns + c, 0) for c in range(columns)] for r in range(rows)]
    scales, zeros = [[_pattern(x) for x in row] for row in coded.scales], None if symmetric else coded.zeros
    groups, support = [c // coded.columns for c in range(columns)], tuple(divmod(p, columns) for p in coded.codes)
    return Codes(coded.high.bit_length() + 1, codes, "F32", scales, zeros, groups, support)


def nearest(tensors: Mapping[str, Tensor], targets: list[str], grid: str) -> Model:
    """Return a pruned model whose targets are rounded to nearest (QNT-003, QNT-004, QNT-009)."""
    matrices = {}
    for name in targets:
        w = tensors[name]
        at, whole = {p: number(w.dtype, raw) for p, raw in cells(w).items()}, np.zeros(w.shape)
        whole.reshape(-1)[list(at)] = list(at.values())
        matrices[name] = _from(quantise.nearest(whole, list(at), grid), symmetric=not grid.endswith(":asym"))
    return Model(grid, matrices, {name: t for name, t in tensors.items() if name not in matrices})


def gguf_blocks(kind: str, raw: bytes) -> dict[str, list[Any]]:
    """Return what Q4_0 or Q8_0 blocks become as codes, byte by byte (QNT-010.4)."""
    size = 18 if kind == "Q4_0" else 34
    made: dict[str, list[Any]] = {"positions": [], "codes": [], "scales": [], "zeros": []}
    for block in range(len(raw) // size):
        raw_scale, rest = raw[block * size :][:2], raw[block * size + 2 :][: size - 2]
        (scale,) = struct.unpack("<e", raw_scale)
        if kind == "Q8_0":
            codes = [byte - 256 * (byte > 127) for byte in rest]
        else:
            codes = [byte % 16 - 8 for byte in rest] + [byte // 16 - 8 for byte in rest]
        turned = kind == "Q4_0" and scale < 0
        for i, code in enumerate(codes):
            if code and scale:
                made["positions"].append(32 * block + i)
                made["codes"].append(-code - 1 if turned else code)
        made["scales"].append(-scale if turned else scale + 0.0)
        made["zeros"].append(-1 if turned else 0)
    return made
