"""csr: where each row begins, and the column of each slot (FMT-065).

[ 5 . 0 ]    row_ptr = [0, 2, 3]
[ . 7 . ]    col_idx = [0, 2, 1]
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from formats import validate
from formats.encodings.code import Code, Plan, Rows
from formats.header import Entry
from formats.records import Array, Mask, Pattern, Supported, rows_of


def plan(entry: Entry, _name: str) -> Plan:
    """Return the sections of a support, in the widths of FMT-065."""
    return {
        "col_idx": ("U16" if entry.shape[-1] <= 2**16 else "U32", (entry.nnz,)),
        "row_ptr": ("U32" if entry.nnz < 2**32 else "U64", (rows_of(entry.shape) + 1,)),
    }


def size(support: Supported) -> int | None:
    """Return the bytes of row pointers and columns."""
    return size_of(rows_of(support.shape), support.shape[-1], support.nnz)


def size_of(rows: int, columns: int, nnz: int) -> int:
    """Return the bytes of row pointers and columns."""
    column, pointer = (2 if columns <= 2**16 else 4), (4 if nnz < 2**32 else 8)
    return nnz * column + (rows + 1) * pointer


def encode(support: Supported, _pattern: Pattern | None = None) -> dict[str, Array]:
    """Return row pointers and columns."""
    columns: NDArray[np.unsignedinteger] = support.indices.astype(
        np.uint16 if support.shape[-1] <= 2**16 else np.uint32
    )
    return {"col_idx": columns, "row_ptr": support.indptr.astype(np.uint32 if support.nnz < 2**32 else np.uint64)}


def decode(entry: Entry, name: str, sections: Mapping[str, Array], rows: Rows) -> tuple[Mask, int]:
    """Return the support of some rows, and the number of slots before them, without reading columns of other rows."""
    row_ptr, columns = sections["row_ptr"], entry.shape[-1]
    validate.check_row_ptr(row_ptr, entry.nnz, name)
    first, last = rows
    lo, hi = int(row_ptr[first]), int(row_ptr[last])
    indptr = row_ptr[first : last + 1].astype(np.int64) - lo
    col_idx = sections["col_idx"][lo:hi]
    validate.check_columns(indptr, col_idx, columns, name)
    shape = entry.shape if rows == (0, row_ptr.size - 1) else (last - first, columns)
    return Mask(shape, indptr, col_idx.astype(np.int32)), lo


CODE = Code("csr", plan, size, encode, decode)
