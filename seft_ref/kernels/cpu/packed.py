"""How this kernel set holds a matrix: dense, or in column panels of values in 32, 64 or 16 bits."""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Float, Int, UInt8

from seft_ref.arrays.library import Array
from seft_ref.errors import KernelError
from seft_ref.kernels.checks import (
    check_compact,
    check_matrix,
    check_new_values,
    check_places,
    check_shape,
    check_values,
)
from seft_ref.kernels.cpu import panels
from seft_ref.kernels.split import Split
from seft_ref.topology.csr import Topology, flat

_BITS = {np.dtype(ml_dtypes.bfloat16): np.dtype(np.uint16), np.dtype(np.float16): np.dtype(np.int16)}
"""16-bit floats, and the integers that tell the loops which of them they read (`vectors`)."""
_HELD = {bits: dtype for dtype, bits in _BITS.items()}

PANELS_BELOW = 0.55
"""Share of stored positions from which a forward and a backward product cost less through BLAS."""


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A matrix as flat values, dense or in column panels (`panels` draws the layout)."""

    shape: tuple[int, int]
    values: Float[Array, " stored"]
    """Panel order, or row-major where the matrix is dense; the bits of 16-bit floats where it is compact."""
    index: UInt8[Array, " stored"] | None = None
    """uint8, column within the panel; None where the matrix is dense."""
    pointer: Int[Array, " rows"] | None = None
    """(panels * out + 1,): where each row of each panel starts, int32 where that holds them, else int64; None where
    the matrix is dense."""

    @property
    def held_in(self) -> Any:
        """The 16-bit dtype of a compact matrix, else None."""
        return _HELD.get(self.values.dtype)

    @property
    def dtype(self) -> Any:
        """Dtype that is computed in."""
        return self.values.dtype if self.held_in is None else np.dtype(np.float32)

    @property
    def opens(self) -> bool:
        """Whether `unpack` tells topology and values (KRN-017): a dense matrix forgets what was stored."""
        return self.index is not None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(a.nbytes for a in (self.values, self.index, self.pointer) if a is not None)


def pack(topology: Topology, values: Float[Array, " nnz"], into: Packed | None = None) -> Packed:
    """Return the layout in which the matrix of topology and values is multiplied (KRN-011).

    A matrix of that shape and dtype, in panels that store as much or more, gives its memory: `into` is not used again.

    Shapes  values (nnz,) in slot order
    Dtypes  values float32 or float64

    Raises:
        KernelError: KRN-009, KRN-010 if values do not fit the topology.
    """
    check_values(topology, values)
    check_numpy(values=values, indices=topology.indices)
    if topology.nnz >= PANELS_BELOW * topology.numel:
        dense = np.zeros(topology.numel, dtype=values.dtype)
        dense[flat(topology)] = values
        return Packed(topology.shape, dense)
    return _in_panels(topology, values, into if into is not None and _has_room(into, topology, values) else None)


def _has_room(into: Packed, topology: Topology, values: Any) -> bool:
    alike = into.index is not None and into.shape == topology.shape and into.values.dtype == values.dtype
    return alike and into.values.size >= topology.nnz and into.values.flags.writeable


def _in_panels(topology: Topology, values: Any, into: Packed | None = None) -> Packed:
    n_out, n_in = topology.shape
    n_panels = -(-n_in // panels.WIDTH)
    offsets = np.int32 if topology.nnz <= np.iinfo(np.int32).max else np.int64
    pointer: Any
    if into is None:
        pointer = np.empty(n_panels * n_out + 1, dtype=offsets)
        index, ordered = np.empty(topology.nnz, dtype=np.uint8), np.empty_like(values)
    else:
        assert into.index is not None
        pointer, index, ordered = into.pointer, into.index[: topology.nnz], into.values[: topology.nnz]
    place = np.empty(topology.nnz, dtype=offsets)
    panels.fill_panels(topology.indptr, topology.indices, pointer, index, place)
    ordered[place] = values
    return Packed(topology.shape, ordered, index, pointer)


def compact(topology: Topology, values: Any, into: Packed | None = None) -> Packed:
    """Return the matrix of topology and 16-bit values, held in 16 bits and computed with as float32 (KRN-015).

    A compact matrix of that shape and dtype that stores as much or more gives its memory: `into` is not used again.

    Shapes  values (nnz,) in slot order
    Dtypes  values bfloat16 or float16

    Raises:
        KernelError: KRN-009, KRN-010 if values do not fit the topology or are no 16-bit floats.
    """
    check_compact(topology, values)
    check_numpy(values=values, indices=topology.indices)
    if into is not None and (into.shape != topology.shape or into.values.size < topology.nnz):
        raise KernelError(
            "KRN-009", f"a matrix {into.shape} of {into.values.size} values has no room for {topology.nnz}"
        )
    if into is not None and into.held_in != values.dtype:
        raise KernelError(
            "KRN-010", f"values are {values.dtype}, the memory that they are to take holds {into.held_in}"
        )
    return _in_panels(topology, values.view(_BITS[values.dtype]), into)


def unpack(packed: Packed) -> tuple[Topology, Any]:
    """Return the topology of a matrix that opens and its values in slot order, 16-bit ones of a compact matrix
    (KRN-015, KRN-017).
    """
    n_out, n_in = packed.shape
    assert packed.index is not None, "a dense matrix does not tell what it stores"
    indptr = np.empty(n_out + 1, dtype=np.int64)
    indices = np.empty(packed.index.size, dtype=np.int32)
    values = np.empty_like(packed.values)
    panels.open_panels(packed.values, packed.index, packed.pointer, n_in, indptr, indices, values)
    return Topology(packed.shape, indptr, indices), values if packed.held_in is None else values.view(packed.held_in)


def clear(packed: Packed, where: Int[Array, " m"]) -> Packed:
    """Return a matrix with zeros at `where` that shares everything but its values (KRN-016).

    Raises:
        KernelError: KRN-012 if a place is out of range.
    """
    check_places("where", where, packed.values.shape[0])
    values = packed.values.copy()
    values[where] = 0
    return Packed(packed.shape, values, packed.index, packed.pointer)


def pack_dense(weight: Float[Array, "out in"]) -> Packed:
    """Return a matrix of which every position is stored; it shares weight's memory (KRN-011).

    Raises:
        KernelError: KRN-009, KRN-010 if weight is not a contiguous float matrix.
    """
    check_matrix("weight", weight)
    check_numpy(weight=weight)
    return Packed((weight.shape[0], weight.shape[1]), weight.reshape(-1))


def locate(packed: Packed | Split, topology: Topology, slots: Int[Array, " m"]) -> Int[Array, " m"]:
    """Return where the values of CSR slots lie in packed; topology is the one that was packed (KRN-012).

    Raises:
        KernelError: KRN-012 if a slot is out of range, KRN-009 if the topology has another shape.
    """
    if isinstance(packed, Split):
        return locate(packed.live, topology, slots)
    check_shape(packed.shape, topology)
    check_places("slots", slots, topology.nnz)
    indptr, indices = topology.indptr, topology.indices
    row = np.searchsorted(indptr, slots, side="right") - 1
    if packed.index is None:
        return row * topology.shape[1] + indices[slots]
    where = np.empty_like(slots)
    panels.find_places(indptr, indices, packed.pointer, slots, row, where)
    return where


def store(packed: Any, where: Int[Array, " m"], values: Float[Array, " m"]) -> Any:
    """Return packed with values at `where`, in the same memory (KRN-012); packed is not to be used again.

    Raises:
        KernelError: KRN-012 if a place is out of range, KRN-009, KRN-010 if values do not fit.
    """
    if isinstance(packed, Split):
        return Split(packed.frozen, store(packed.live, where, values))
    check_new_values(where, values, packed.values)
    # Memory of a mapped file may be read-only; a donation may be declined.
    stored = packed.values if packed.values.flags.writeable else packed.values.copy()
    stored[where] = values
    return Packed(packed.shape, stored, packed.index, packed.pointer)


def check_numpy(**arrays: Any) -> None:
    """Refuse what compiled loops cannot walk: KRN-010 for no NumPy array, KRN-009 for one that is not contiguous."""
    for name, a in arrays.items():
        if not isinstance(a, np.ndarray):
            raise KernelError("KRN-010", f"{name} is a {type(a).__name__}; this kernel set takes NumPy arrays")
        if not a.flags.c_contiguous:
            raise KernelError("KRN-009", f"{name} of shape {a.shape} is not contiguous in row-major order")
