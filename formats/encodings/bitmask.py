"""bitmask: one bit for each position, each row padded to whole bytes (FMT-061).

[ 5 . 0 ]    mask = [0b101,
[ . 7 . ]            0b010]
"""

from collections.abc import Mapping

import numpy as np

from formats import validate
from formats.encodings.code import Code, Plan, Rows
from formats.header import Entry
from formats.records import Array, Mask, Pattern, Supported, rows_of


def plan(entry: Entry, name: str) -> Plan:
    """Return the section of the mask. FormatError FMT-064 without columns."""
    rows, columns = rows_of(entry.shape), entry.shape[-1]
    validate.check_has_columns(columns, name)
    return {"mask": ("U8", (rows, -(-columns // 8)))}


def size(support: Supported) -> int | None:
    """Return the bytes of the mask; None without columns (FMT-064)."""
    columns = support.shape[-1]
    return size_of(rows_of(support.shape), columns) if columns else None


def size_of(rows: int, columns: int) -> int:
    """Return the bytes of the mask."""
    return rows * -(-columns // 8)


def encode(support: Supported, _pattern: Pattern | None) -> dict[str, Array]:
    """Return the mask of a support, uint8 (rows, ceil(columns / 8))."""
    from formats import loops

    mask = np.empty((rows_of(support.shape), -(-support.shape[-1] // 8)), dtype=np.uint8)
    indptr, indices = support.indptr, support.indices
    loops.by_rows(len(mask), support.nnz, lambda a, b: loops.set_bits(indptr[a : b + 1], indices, mask[a:b]))
    return {"mask": mask}


def decode(entry: Entry, name: str, sections: Mapping[str, Array], rows: Rows) -> tuple[Mask, int]:
    """Return the support of some rows, and the number of slots before them, after counting the bits of all rows."""
    from formats import loops

    mask, columns = sections["mask"], entry.shape[-1]
    # FMT-063: bits are counted first, because no array of size nnz may be made before nnz is verified
    counts = validate.check_mask(mask, columns, entry.nnz, name)
    begin, end = rows
    indptr = np.zeros(end - begin + 1, dtype=np.int64)
    np.cumsum(counts[begin:end], out=indptr[1:])
    indices = np.empty(indptr[-1], dtype=np.int32)
    some = mask[begin:end]
    loops.by_rows(len(some), some.size, lambda a, b: loops.mask_columns(some[a:b], indices[indptr[a] : indptr[b]]))
    shape = entry.shape if end - begin == counts.size else (end - begin, columns)
    return Mask(shape, indptr, indices), int(counts[:begin].sum())


CODE = Code("bitmask", plan, size, encode, decode)
