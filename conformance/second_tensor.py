"""One tensor of a checkpoint file, for the second reader: what its entry implies, and its support (SPEC 12.4).

It follows chapter 12 of the specification and nothing else, to be read beside it; a rule's line names its clause.
"""

import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Sections = dict[str, tuple[str, list[int]]]  # role → dtype and shape, in order of roles (FMT-034)

# FMT-006, FMT-017
BITS = {"NONE": 0, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64, "F64": 64, "I64": 64, "U64": 64}
BITS |= dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
BITS |= dict.fromkeys(("I16", "U16", "F16", "BF16"), 16) | dict.fromkeys(("I32", "U32", "F32"), 32)

# Forms for `form`: strings by clause and pattern, and the objects of a tensor in the manifest (FMT-040, FMT-049)
DTYPE = ("FMT-006", "|".join(BITS))
DIGEST = ("FMT-047", "[0-9a-f]{64}")
ENCODING = ("FMT-045", "dense|bitmask|nm|csr|gap8|varint")
ENTRY = {"content_sha256": DIGEST, "dtype": DTYPE, "encoding": ENCODING, "nnz": int, "sections": dict, "shape": [int]}
PATTERN = {"axis": int, "m": int, "n": int}
SIZED = {"bytes": int, "sha256": DIGEST}


class Refused(Exception):
    """A file breaks the rule `clause` (FMT-097)."""

    def __init__(self, clause: str, message: str) -> None:
        super().__init__(f"{clause}: {message}")
        self.clause = clause


@dataclass(frozen=True)
class Tensor:
    """A tensor (FMT-002); `row_pointers` and `columns` are None exactly if the support is every position."""

    dtype: str
    shape: tuple[int, ...]
    row_pointers: Ints | None
    columns: Ints | None
    bits: bytes  # the section `values`, in row-major order of the positions; nothing for a mask
    content_sha256: str


def need(condition: object, clause: str, what: str) -> None:
    """Refuse by `clause` unless the condition holds."""
    if not condition:
        raise Refused(clause, ascii(what)[1:-1][:200])


def sha256(*pieces: bytes) -> str:
    """The digest as it is written (FMT-047)."""
    return hashlib.sha256(b"".join(pieces)).hexdigest()


def spell(value: Any) -> str:
    """The canonical text (FMT-028); Python orders strings by scalar values, which is the order of their UTF-8 bytes."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def form(value: Any, wanted: Any, what: str) -> None:
    """FMT-041, FMT-040: a type, (clause, pattern), [form of items], {key: form, ...} or {(clause, pattern): form}."""
    kind = wanted if isinstance(wanted, type) else str if isinstance(wanted, tuple) else type(wanted)
    need(isinstance(value, kind) and (kind is not int or type(value) is int), "FMT-041", f"{what} has the wrong type")
    need(kind is not int or value >= 0, "FMT-041", f"{what} is negative")
    if isinstance(wanted, tuple):
        need(re.fullmatch(wanted[1].encode(), value.encode()), wanted[0], f"{what}: {value}")
    elif isinstance(wanted, list):
        for item in value:
            form(item, wanted[0], what)
    elif isinstance(wanted, dict):
        free = next((key for key in wanted if isinstance(key, tuple)), None)
        need(free or value.keys() == wanted.keys(), "FMT-040", f"{what} has a key too many or too few")
        for key, item in value.items():
            form(key, free or str, what)
            form(item, wanted[free or key], f"{what} {key}")


def implied(name: str, e: dict[str, Any]) -> Sections:
    """The sections that the entry of a tensor implies, after all that can be wrong with the entry."""
    form(e, ENTRY | ({"pattern": PATTERN} if e.get("encoding") == "nm" else {}), name)
    for role, section in e["sections"].items():
        need(
            not isinstance(section, dict) or "codec" not in section,
            "FMT-050",
            f"{name} uses zstd, which is not required",
        )
        form(section, SIZED, f"{name} {role}")
    shape, n, bits, dense = e["shape"], e["nnz"], BITS[e["dtype"]], e["encoding"] == "dense"
    need(len(shape) <= 8 and math.prod(d or 1 for d in shape) < 2**53, "FMT-007", f"{name}: shape")
    need(n == math.prod(shape) if dense else n <= math.prod(shape), "FMT-046", f"{name}: nnz is {n}")
    need(bits or not dense, "FMT-017", f"{name} is a dense mask")
    need(dense or shape, "FMT-008", f"{name} has no dimension")
    sections = {} if dense else _support_sections(name, e, math.prod(shape[:-1]), shape[-1])
    if bits:  # FMT-071
        sections["values"] = ("U8", [-(-n * bits // 8)]) if bits < 8 else (e["dtype"], shape if dense else [n])
    need(e["sections"].keys() == sections.keys(), "FMT-031", f"{name}: roles")
    for role, (dtype, extent) in sections.items():
        need(e["sections"][role]["bytes"] == BITS[dtype] * math.prod(extent) // 8, "FMT-049", f"{name} {role}: bytes")
    return sections


def _support_sections(name: str, e: dict[str, Any], rows: int, columns: int) -> Sections:
    need(max(rows, columns) < 2**31, "FMT-008", f"{name}: rows or columns")
    n, shape, numel = e["nnz"], e["shape"], math.prod(e["shape"])
    if e["encoding"] == "bitmask":
        need(columns, "FMT-064", f"{name} has no columns")
        return {"mask": ("U8", [rows, -(-columns // 8)])}
    if e["encoding"] == "csr":  # FMT-065
        row_ptr = ("U32" if n < 2**32 else "U64", [rows + 1])
        return {"col_idx": ("U16" if columns <= 65536 else "U32", [n]), "row_ptr": row_ptr}
    if e["encoding"] == "nm":
        axis, m, k = e["pattern"]["axis"], e["pattern"]["m"], e["pattern"]["n"]
        need(axis < len(shape) and 2 <= m <= 64 and 1 <= k < m, "FMT-051", f"{name}: axis, m or n")
        need(numel and shape[axis] % m == 0 and n * m == numel * k, "FMT-051", f"{name}: the pattern does not fit")
        groups = columns // m if axis == len(shape) - 1 else columns  # FMT-052: G, then Q and ⌈G·b/8⌉
        return {"ranks": ("U8", [numel // m // groups, -(-groups * (math.comb(m, k) - 1).bit_length() // 8)])}
    need(rows <= 2**20, "FMT-056", f"{name} has {rows} rows")
    size = e["sections"].get("gaps", {"bytes": n})["bytes"]
    most = n + numel // 255 if e["encoding"] == "gap8" else 8 * n
    need(n <= size <= most, "FMT-057", f"{name}: {size} bytes of gaps")
    return {"gaps": ("U8", [size])}


def _bitmask(name: str, e: dict[str, Any], mask: Bytes) -> Ints:
    columns = e["shape"][-1]
    need(int(np.bitwise_count(mask).sum(dtype=np.int64)) == e["nnz"], "FMT-063", f"{name}: 1 bits are not nnz")
    bits = np.unpackbits(mask, axis=1, bitorder="little")  # FMT-061
    need(not bits[:, columns:].any(), "FMT-062", f"{name}: a bit past the last column is 1")
    return np.flatnonzero(bits[:, :columns])


def _nm(name: str, e: dict[str, Any], ranks: Bytes) -> Ints:
    axis, m, n = e["pattern"]["axis"], e["pattern"]["m"], e["pattern"]["n"]
    b, groups = (math.comb(m, n) - 1).bit_length(), math.prod(e["shape"]) // m
    bits, used = np.unpackbits(ranks, axis=1, bitorder="little"), groups // len(ranks) * b
    need(not bits[:, used:].any(), "FMT-072", f"{name}: a bit past the last rank is 1")
    rank = np.zeros(groups, np.uint64)
    for i in range(b):
        rank |= bits[:, i:used:b].astype(np.uint64).ravel() << np.uint64(i)
    need((rank < math.comb(m, n)).all(), "FMT-053", f"{name}: a rank is not below C(m, n)")
    # FMT-052: packed row after packed row, groups are in row-major order of the array [before, axis / m, after]
    after = math.prod(e["shape"][axis + 1 :])
    group = np.arange(groups)
    first = group // after * (m * after) + group % after
    flat = np.empty((groups, n), np.int64)
    for k in range(n, 0, -1):  # the k-th offset is the largest p with C(p, k) within what is left of the rank
        binomials = np.array([math.comb(p, k) for p in range(m)], np.uint64)
        offset = np.searchsorted(binomials, rank, side="right") - 1
        rank -= binomials[offset]
        flat[:, k - 1] = first + offset * after
    return np.sort(flat, axis=None)


def _csr(name: str, e: dict[str, Any], row_ptr: npt.NDArray[Any], col_idx: npt.NDArray[Any]) -> Ints:
    columns = e["shape"][-1]
    need(row_ptr[0] == 0 and row_ptr[-1] == e["nnz"], "FMT-066", f"{name}: row_ptr does not go from 0 to nnz")
    need((row_ptr[1:] >= row_ptr[:-1]).all(), "FMT-067", f"{name}: row_ptr decreases")
    need((col_idx < columns).all(), "FMT-068", f"{name}: a column is out of range")
    pointers = row_ptr.astype(np.int64)
    row = np.repeat(np.arange(len(pointers) - 1), pointers[1:] - pointers[:-1])
    flat = row * columns + col_idx.astype(np.int64)
    need((flat[1:] > flat[:-1]).all(), "FMT-069", f"{name}: columns of a row do not increase")
    return flat


def _gaps(name: str, e: dict[str, Any], gaps: Bytes) -> Ints:
    final = gaps < (255 if e["encoding"] == "gap8" else 128)
    need(np.count_nonzero(final) == e["nnz"] and final[-1:].all(), "FMT-058", f"{name}: gaps are not nnz gaps")
    last = np.flatnonzero(final)
    if e["encoding"] == "gap8":  # FMT-054
        gap = np.diff(np.cumsum(gaps, dtype=np.int64)[last], prepend=0)
    else:
        length, gap = np.diff(last, prepend=-1), np.zeros(len(last), np.int64)
        need(
            (length <= 8).all() and not ((length > 1) & (gaps[last] == 0)).any(),
            "FMT-073",
            f"{name}: spelling of a gap",
        )
        for i in range(8):  # FMT-055, from the last byte, the most significant, to the first
            gap = np.where(i < length, gap << 7 | gaps[np.maximum(last - i, 0)] & 127, gap)
    flat = np.cumsum(gap + 1) - 1
    # FMT-059: numel and gaps are below 2^57, so that a sum is noticed as too large long before one could wrap at 2^63
    need((flat < math.prod(e["shape"])).all(), "FMT-059", f"{name}: a gap leads out of the tensor")
    return flat


def _support(name: str, e: dict[str, Any], sections: Sections, parts: dict[str, Bytes]) -> Ints:
    """The positions of the support, flat and increasing, after the rules of the encoding."""
    shaped = {
        role: parts[role].view(f"<u{BITS[d] // 8}").reshape(s) for role, (d, s) in sections.items() if role != "values"
    }
    if e["encoding"] == "bitmask":
        return _bitmask(name, e, shaped["mask"])
    if e["encoding"] == "nm":
        return _nm(name, e, shaped["ranks"])
    if e["encoding"] == "csr":
        return _csr(name, e, shaped["row_ptr"], shaped["col_idx"])
    return _gaps(name, e, shaped["gaps"])


def read_tensor(name: str, e: dict[str, Any], sections: Sections, parts: dict[str, Bytes]) -> Tensor:
    """The tensor of an entry, verified; `parts` holds role → bytes of its sections."""
    for role, section in e["sections"].items():
        need(sha256(parts[role].tobytes()) == section["sha256"], "FMT-090", f"{name} {role}: digest")
    values, shape, rest = parts.get("values", np.empty(0, np.uint8)), e["shape"], e["nnz"] * BITS[e["dtype"]] % 8
    need(e["dtype"] != "BOOL" or not (values > 1).any(), "FMT-070", f"{name}: a BOOL is neither 0 nor 1")
    need(not rest or values[-1] >> rest == 0, "FMT-072", f"{name}: a bit past the last value is 1")
    flat = None if e["encoding"] == "dense" else _support(name, e, sections, parts)
    pointers, columns = None, None
    pieces = [spell({key: e[key] for key in ("dtype", "nnz", "shape")}).encode(), b"\n"]  # FMT-091
    if flat is not None and e["nnz"] < math.prod(shape):
        row, columns = np.divmod(flat, shape[-1])
        pointers = np.cumsum(np.bincount(row + 1, minlength=math.prod(shape[:-1]) + 1), dtype=np.int64)
        pieces.append(pointers.astype("<u4" if e["nnz"] < 2**32 else "<u8").tobytes())  # FMT-065
        pieces.append(columns.astype("<u2" if shape[-1] <= 65536 else "<u4").tobytes())
    bits = values.tobytes()
    need(sha256(*pieces, bits) == e["content_sha256"], "FMT-091", f"{name}: content digest")
    return Tensor(e["dtype"], tuple(shape), pointers, columns, bits, e["content_sha256"])


def positions(tensor: Tensor) -> Ints:
    """The flat positions of the support, increasing."""
    if tensor.row_pointers is None or tensor.columns is None:
        return np.arange(math.prod(tensor.shape), dtype=np.int64)
    row = np.repeat(np.arange(len(tensor.row_pointers) - 1), np.diff(tensor.row_pointers))
    return row * tensor.shape[-1] + tensor.columns


def dense(tensor: Tensor, limit: int = 2**36) -> Bytes:
    """The bytes of the dense expansion, zero outside the support (FMT-002), of a mask its positions as BOOL."""
    bits = BITS[tensor.dtype] or 8
    if bits < 8:
        raise ValueError("values smaller than a byte have no bytes of their own")
    need(math.prod(tensor.shape) * bits // 8 <= limit, "FMT-098", "the dense tensor is larger than the limit")
    out = np.zeros((math.prod(tensor.shape), bits // 8), np.uint8)
    is_mask = tensor.dtype == "NONE"
    out[positions(tensor)] = 1 if is_mask else np.frombuffer(tensor.bits, np.uint8).reshape(-1, bits // 8)
    return out.ravel()
