"""Encodings: which sections a tensor becomes, and what must hold when they become a tensor again.

    [ 5 . 0 ]    dense    (only if no position is absent)
    [ . 7 . ]    bitmask  mask = [0b101, 0b010]                        values = [5, 0, 7]
                 csr      row_ptr = [0, 2, 3]   col_idx = [0, 2, 1]    values = [5, 0, 7]

A new encoding is one more row of `ENCODINGS`; writer, reader and layout ask the table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from formats import validate
from formats.container import dtype_name, pad_length, section_bytes
from formats.errors import SupportWouldBeLost, UnknownEncoding, UnknownOption, WrongCount
from formats.header import Entry
from formats.records import Array, Dense, Sparse, Tensor, flat, row_blocks

Plan: TypeAlias = dict[str, tuple[str, tuple[int, ...]]]
"""Role -> dtype and shape of the section."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """One way to store a tensor."""

    name: str
    plan: Callable[[Entry, str], Plan]
    """Entry and tensor name -> the sections they imply; raises if the encoding cannot hold such a tensor."""
    encode: Callable[[Tensor], dict[str, Array]]
    """A tensor that `fits` -> its sections."""
    decode: Callable[[Entry, str, Mapping[str, Array]], Tensor]
    """Sections of the planned dtypes and shapes -> the tensor; raises on any broken rule."""
    fits: Callable[[Tensor], bool]
    """Tells whether the encoding keeps support and values of a tensor."""

    def size(self, entry: Entry) -> int:
        """Return the bytes that the sections of a tensor take, pads not counted."""
        return sum(section_bytes(dtype, shape) for dtype, shape in self.plan(entry, "").values())

    def padded_size(self, tensor: Tensor) -> int:
        """Return the bytes that the sections of a tensor take, with their pads."""
        sizes = [section_bytes(dtype, shape) for dtype, shape in self.plan(_outline(tensor), "").values()]
        return sum(n + pad_length(n) for n in sizes)


def _outline(tensor: Tensor) -> Entry:
    """Return an entry that tells only what sizes depend on."""
    return Entry(dtype_name(tensor.dtype), tensor.shape, "", tensor.nnz, "", {})


def choose(tensor: Tensor, wanted: str, name: str) -> Encoding:
    """Return the encoding for a tensor (FMT-081 to FMT-083).

    Args:
        tensor: a checked tensor.
        wanted: ``"auto"`` or the name of an encoding, which is meant for sparse tensors only.
        name: the tensor's name in messages.

    Raises:
        SupportWouldBeLost: FMT-082.
        NoColumns: FMT-064.
    """
    if isinstance(tensor, Dense):
        return ENCODINGS["dense"]
    if wanted == "auto":
        # FMT-081: min keeps the first of equals, and the table stands in tie order
        entry = _outline(tensor)
        return min((e for e in ENCODINGS.values() if e.fits(tensor)), key=lambda e: e.size(entry))
    if wanted == "dense" and not ENCODINGS["dense"].fits(tensor):
        # FMT-082
        raise SupportWouldBeLost(
            f"{name!r} stores {tensor.nnz} of {prod(tensor.shape)} positions, and dense cannot tell which; "
            f"write it as bitmask or csr, or pass Dense(to_dense(tensor)) if the support no longer matters"
        )
    if wanted == "bitmask":
        validate.check_has_columns(tensor.shape[1], name)
    return ENCODINGS[wanted]


def pays(dtype: str, shape: tuple[int, ...], nnz: int) -> bool:
    """Tell whether a matrix takes fewer bytes in some sparse encoding than in dense (FMT-081)."""
    entry = Entry(dtype, shape, "", nnz, "", {})
    sparse = [e for e in ENCODINGS.values() if e.name != "dense" and (e.name != "bitmask" or shape[1])]
    return min(e.size(entry) for e in sparse) < section_bytes(dtype, shape)


def check_option(wanted: str) -> None:
    """Verify that an encoding asked for exists (FMT-084)."""
    if wanted != "auto" and wanted not in ENCODINGS:
        raise UnknownOption(f"encoding {wanted!r} does not exist, expected auto, {', '.join(ENCODINGS)}")


def plan(entry: Entry, name: str) -> Plan:
    """Return the sections that a manifest entry implies.

    Raises:
        FormatError: FMT-045 for an unknown encoding, otherwise the rule that its shape or count breaks.
    """
    encoding = ENCODINGS.get(entry.encoding)
    # FMT-045
    if encoding is None:
        raise UnknownEncoding(
            f"tensor {name!r} is encoded as {entry.encoding[:40]!r}, known are {', '.join(ENCODINGS)}"
        )
    return encoding.plan(entry, name)


# dense -------------------------------------------------------------------------------------------


def _plan_dense(entry: Entry, name: str) -> Plan:
    # FMT-046
    if entry.nnz != prod(entry.shape):
        raise WrongCount(f"dense tensor {name!r} has nnz {entry.nnz}, expected all {prod(entry.shape)} positions")
    return {"values": (entry.dtype, entry.shape)}


def _encode_dense(tensor: Tensor) -> dict[str, Array]:
    return {"values": tensor.values.reshape(tensor.shape)}


def _decode_dense(_entry: Entry, name: str, sections: Mapping[str, Array]) -> Tensor:
    validate.check_bool(sections["values"], name)
    return Dense(sections["values"])


def _fits_dense(tensor: Tensor) -> bool:
    return tensor.nnz == prod(tensor.shape)


# bitmask -----------------------------------------------------------------------------------------


def _plan_bitmask(entry: Entry, name: str) -> Plan:
    validate.check_sparse_shape(entry.shape, name)
    rows, columns = entry.shape
    validate.check_has_columns(columns, name)
    return {"mask": ("U8", (rows, -(-columns // 8))), "values": (entry.dtype, (entry.nnz,))}


def _encode_bitmask(tensor: Tensor) -> dict[str, Array]:
    assert isinstance(tensor, Sparse)
    rows, columns = tensor.shape
    mask = np.empty((rows, -(-columns // 8)), dtype=np.uint8)
    for first, last in row_blocks(rows, columns):
        present = np.zeros((last - first) * columns, dtype=np.bool_)
        present[flat(tensor, first, last)] = True
        mask[first:last] = np.packbits(present.reshape(last - first, columns), axis=1, bitorder="little")
    return {"mask": mask, "values": tensor.values}


def _decode_bitmask(entry: Entry, name: str, sections: Mapping[str, Array]) -> Tensor:
    mask, values = sections["mask"], sections["values"]
    rows, columns = entry.shape
    # the counts are checked before anything of the size of the support is made
    counts = validate.check_mask(mask, columns, entry.nnz, name)
    validate.check_bool(values, name)
    indptr = np.zeros(rows + 1, dtype=np.int64)
    np.cumsum(counts, out=indptr[1:])
    indices = np.empty(entry.nnz, dtype=np.int32)
    for first, last in row_blocks(rows, columns):
        present = np.unpackbits(mask[first:last], axis=1, count=columns, bitorder="little")
        indices[indptr[first] : indptr[last]] = np.flatnonzero(present) % columns
    return Sparse((rows, columns), indptr, indices, values)


def _fits_bitmask(tensor: Tensor) -> bool:
    return isinstance(tensor, Sparse) and tensor.shape[1] > 0


# csr ---------------------------------------------------------------------------------------------


def _plan_csr(entry: Entry, name: str) -> Plan:
    validate.check_sparse_shape(entry.shape, name)
    rows, columns = entry.shape
    # FMT-065: the smallest widths that hold every legal value
    return {
        "col_idx": ("U16" if columns <= 2**16 else "U32", (entry.nnz,)),
        "row_ptr": ("U32" if entry.nnz < 2**32 else "U64", (rows + 1,)),
        "values": (entry.dtype, (entry.nnz,)),
    }


def _encode_csr(tensor: Tensor) -> dict[str, Array]:
    assert isinstance(tensor, Sparse)
    return {**csr_support(tensor), "values": tensor.values}


def csr_support(tensor: Sparse) -> dict[str, NDArray[np.unsignedinteger]]:
    """Return row pointers and columns in the dtypes of a csr file (FMT-065)."""
    return {
        "col_idx": tensor.indices.astype(np.uint16 if tensor.shape[1] <= 2**16 else np.uint32),
        "row_ptr": tensor.indptr.astype(np.uint32 if tensor.nnz < 2**32 else np.uint64),
    }


def _decode_csr(entry: Entry, name: str, sections: Mapping[str, Array]) -> Tensor:
    row_ptr, col_idx, values = sections["row_ptr"], sections["col_idx"], sections["values"]
    validate.check_row_ptr(row_ptr, entry.nnz, name)
    indptr = row_ptr.astype(np.int64)
    validate.check_columns(indptr, col_idx, entry.shape[1], name)
    validate.check_bool(values, name)
    return Sparse((entry.shape[0], entry.shape[1]), indptr, col_idx.astype(np.int32), values)


def _fits_csr(tensor: Tensor) -> bool:
    return isinstance(tensor, Sparse)


# FMT-081: the order settles ties
ENCODINGS: dict[str, Encoding] = {
    e.name: e
    for e in (
        Encoding("dense", _plan_dense, _encode_dense, _decode_dense, _fits_dense),
        Encoding("bitmask", _plan_bitmask, _encode_bitmask, _decode_bitmask, _fits_bitmask),
        Encoding("csr", _plan_csr, _encode_csr, _decode_csr, _fits_csr),
    )
}
