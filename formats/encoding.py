"""Turns tensors into sections and sections into tensors, in any encoding of SPEC.md 12.4.

A support is stored in one of the codes of `formats.encodings`. Its values follow in the section `values`, in row-major
order of their positions. To add an encoding, add a row to `CODES`; writer, reader and layout look it up there.
"""

import re
from collections.abc import Mapping
from math import prod

from formats import validate
from formats.container import BITS, DTYPES, NONE, dtype_name, section_bytes, spare_bits, unpack_bits
from formats.encodings import bitmask, csr, gaps, nm
from formats.encodings.code import Code, Plan, Rows
from formats.errors import FormatError
from formats.header import Entry
from formats.records import Array, Dense, Mask, Pattern, Supported, Tensor, rows_of, with_values

DENSE = "dense"

# FMT-081: of encodings that take equally many bytes, the first one here is chosen
CODES: dict[str, Code] = {code.name: code for code in (bitmask.CODE, nm.CODE, csr.CODE, gaps.GAP8, gaps.VARINT)}
NAMES = (DENSE, *CODES)

_GAPS = (gaps.GAP8.name, gaps.VARINT.name)
_NM = re.compile(r"nm:[1-9][0-9]?:[1-9][0-9]?(:[0-7])?")


def dtype_of(tensor: Tensor) -> str:
    """Return the name of a tensor's dtype, `NONE` for a mask."""
    return NONE if isinstance(tensor, Mask) else dtype_name(tensor.dtype)


# choosing ----------------------------------------------------------------------------------------


def check_option(option: str) -> None:
    """Verify that the value of the option `encoding` exists (FMT-084)."""
    if option not in ("auto", *NAMES) and not _NM.fullmatch(option):
        raise FormatError(
            "FMT-084", f"encoding {option!r} does not exist, expected auto, {', '.join(NAMES)} or nm:N:M:AXIS"
        )


def choose(tensor: Tensor, option: str, name: str) -> tuple[str, Pattern | None]:
    """Return the encoding that an option selects for a tensor, and the pattern if it is `nm` (FMT-081 to FMT-083).

    Args:
        tensor: the tensor, which `validate.check_record` has checked.
        option: the value of the option `encoding`, which `check_option` has checked.
        name: the tensor's name in messages.

    Raises:
        FormatError: FMT-082 if the support would be lost, FMT-017, FMT-051, FMT-056 or FMT-064 if the encoding
            cannot hold it.
    """
    if isinstance(tensor, Dense):
        return DENSE, None
    if option == "auto":
        best = DENSE if fits_dense(tensor) else ""
        least = 0 if best else -1
        for code in CODES.values() if not best else ():
            # gaps take at least one byte per slot, so they are not measured if another encoding takes no more than that
            if code.name in _GAPS and 0 <= least <= tensor.nnz:
                continue
            size = code.size(tensor)
            if size is not None and (least < 0 or size < least):
                best, least = code.name, size
        return best, nm.find(tensor) if best == nm.CODE.name else None
    if option == DENSE:
        if not fits_dense(tensor):
            raise FormatError(
                "FMT-082",
                f"{name!r} stores {tensor.nnz} of {prod(tensor.shape)} positions, and dense cannot tell which; "
                f"write it in another encoding, or pass Dense(to_dense(tensor)) if the support no longer matters",
            )
        return DENSE, None
    if option.startswith(nm.CODE.name):
        return nm.CODE.name, nm.parse(option, tensor, name)
    if CODES[option].size(tensor) is None:
        if option == bitmask.CODE.name:
            validate.check_has_columns(tensor.shape[-1], name)
        raise FormatError("FMT-056", f"{name!r} has {rows_of(tensor.shape)} rows, too many for {option}; use csr")
    return option, None


def pays(dtype: str, shape: tuple[int, ...], nnz: int) -> bool:
    """Return whether a tensor takes fewer bytes in bitmask or csr than in dense (FMT-122).

    Only these two are compared, because their sizes follow from the counts, without making a support.
    """
    rows, columns = rows_of(shape), shape[-1]
    index = bitmask.size_of(rows, columns) if columns else csr.size_of(rows, columns, nnz)
    index = min(index, csr.size_of(rows, columns, nnz))
    return index + section_bytes(dtype, (nnz,)) < section_bytes(dtype, shape)


def fits_dense(tensor: Tensor) -> bool:
    """Return whether `dense` can hold a tensor (FMT-060): it has values, and one at every position."""
    return not isinstance(tensor, Mask) and tensor.nnz == prod(tensor.shape)


# sections ----------------------------------------------------------------------------------------


def plan(entry: Entry, name: str) -> Plan:
    """Return the sections that a manifest entry implies, before compression, as role -> (dtype, shape).

    Raises:
        FormatError: FMT-045 for an unknown encoding, otherwise the rule that its shape or count breaks.
    """
    bits = BITS[entry.dtype]
    if entry.encoding == DENSE:
        if not bits:
            raise FormatError(
                "FMT-017", f"mask {name!r} is encoded as dense; a full mask takes bitmask or another code"
            )
        if entry.nnz != prod(entry.shape):
            raise FormatError(
                "FMT-046", f"dense tensor {name!r} has nnz {entry.nnz}, expected all {prod(entry.shape)} positions"
            )
        return {"values": _values_section(entry.dtype, entry.shape)}
    code = CODES.get(entry.encoding)
    if code is None:
        raise FormatError(
            "FMT-045", f"tensor {name!r} is encoded as {entry.encoding[:40]!r}, known are {', '.join(NAMES)}"
        )
    validate.check_sparse_shape(entry.shape, name)
    support = code.plan(entry, name)
    return {**support, "values": _values_section(entry.dtype, (entry.nnz,))} if bits else support


def _values_section(dtype: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    # FMT-071: packed values are stored as U8, because safetensors refuses a section that ends within a byte
    return (dtype, shape) if BITS[dtype] >= 8 else ("U8", (section_bytes(dtype, shape),))


def encode(tensor: Tensor, encoding: str, pattern: Pattern | None) -> dict[str, Array]:
    """Return the sections of a tensor in an encoding that `choose` returned."""
    if isinstance(tensor, Dense):
        return {"values": tensor.values}
    support = {} if encoding == DENSE else CODES[encoding].encode(tensor, pattern)
    if isinstance(tensor, Mask):
        return support
    return {**support, "values": tensor.values.reshape(tensor.shape) if encoding == DENSE else tensor.values}


def decode(entry: Entry, name: str, sections: Mapping[str, Array], support: Supported | None = None) -> Tensor:
    """Return the tensor that sections of the planned dtypes and shapes hold; values are views where possible.

    Args:
        entry: its entry in the manifest.
        name: its name in messages.
        sections: role -> section.
        support: what its sections hold beside the values, if that has been decoded before.

    Raises:
        FormatError: the broken rule of its encoding or dtype.
    """
    if entry.encoding == DENSE:
        return Dense(_values(entry, name, sections["values"], 0, entry.nnz).reshape(entry.shape))
    if support is None:
        support, _ = CODES[entry.encoding].decode(entry, name, sections, (0, rows_of(entry.shape)))
    if entry.dtype == NONE:
        return Mask(entry.shape, support.indptr, support.indices)
    return with_values(support, _values(entry, name, sections["values"], 0, entry.nnz))


def decode_rows(entry: Entry, name: str, sections: Mapping[str, Array], rows: Rows) -> Tensor:
    """Return rows (first, last + 1) of a tensor as a matrix, without reading the values of other rows."""
    first, last = rows
    columns = entry.shape[-1]
    if entry.encoding == DENSE:
        values = _values(entry, name, sections["values"].reshape(-1), first * columns, (last - first) * columns)
        return Dense(values.reshape(last - first, columns))
    mask, before = CODES[entry.encoding].decode(entry, name, sections, rows)
    mask = Mask((last - first, columns), mask.indptr, mask.indices)
    if entry.dtype == NONE:
        return mask
    return with_values(mask, _values(entry, name, sections["values"], before, mask.nnz))


def _values(entry: Entry, name: str, section: Array, first: int, count: int) -> Array:
    """Return values first to first + count - 1, (count,), after checking them (FMT-070, FMT-072)."""
    bits = BITS[entry.dtype]
    if bits < 8:
        validate.check_spare(spare_bits(section, bits, entry.nnz) if section.size else 0, name)
        return unpack_bits(section, bits, first, count).view(DTYPES[entry.dtype])
    values: Array = section.reshape(-1)[first : first + count]
    validate.check_bool(values, name)
    return values
