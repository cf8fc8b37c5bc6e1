"""The layouts of a matrix in this kernel set: dense, column panels with values in 16, 32 or 64 bits, or `coded`."""

from dataclasses import dataclass, field
from typing import TypeAlias

import ml_dtypes
import numba
import numpy as np
from jaxtyping import Float, Int, UInt8

from seft_ref.arrays.library import Array, Dtype, NumpyArray
from seft_ref.errors import KernelError
from seft_ref.kernels import Packed
from seft_ref.kernels.checks import (
    check_alike,
    check_compact,
    check_matrix,
    check_places,
    check_shape,
    check_stored,
    check_values,
)
from seft_ref.kernels.cpu import panels, token
from seft_ref.kernels.cpu.coded import PackedCodes, clear_codes, pack_codes, places_of, store_codes, unpack_codes
from seft_ref.kernels.held import Coded, New, Stored, held_alike, stored_as
from seft_ref.kernels.split import as_own, live_part, with_live_part
from seft_ref.topology.csr import Topology, flat

_BITS = {np.dtype(ml_dtypes.bfloat16): np.dtype(np.uint16), np.dtype(np.float16): np.dtype(np.int16)}
"""The integer dtype that stores the bits of each 16-bit float, by which the loops tell them apart (`vectors`)."""
_HELD = {bits: dtype for dtype, bits in _BITS.items()}

PANELS_BELOW = 0.55
"""Share of stored positions below which panels are used; at larger shares BLAS is faster for both products."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedPanels:
    """A matrix as flat values, dense or in column panels (`panels` draws the layout)."""

    shape: tuple[int, int]
    values: Float[Array, " stored"]
    """Panel order, or row-major where the matrix is dense; the bits of 16-bit floats where it is compact."""
    index: UInt8[Array, " stored"] | None = None
    """uint8, column within the panel; None where the matrix is dense."""
    pointer: Int[Array, " rows"] | None = None
    """(panels * out + 1,): the first entry of each row of each panel, int32 if that suffices, else int64; None where
    the matrix is dense."""
    masks: list[NumpyArray] = field(default_factory=list)
    """One array (panels * out,), uint64, with a bit for each stored column, or none. Products with one token read it in
    place of `index`, and the first of them makes it, unless rows are short or the processor cannot spread numbers by
    masks. Products in bfloat16 (`tiles`) make it for rows of any length."""

    @property
    def held_in(self) -> Dtype | None:
        """The 16-bit dtype of a compact matrix, else None."""
        return _HELD.get(self.values.dtype)

    @property
    def dtype(self) -> Dtype:
        """Dtype of the products."""
        return self.values.dtype if self.held_in is None else np.dtype(np.float32)

    @property
    def opens(self) -> bool:
        """Whether `unpack` returns topology and values (KRN-017); a dense matrix does not keep its topology."""
        return self.index is not None

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays of the matrix."""
        return sum(a.nbytes for a in (self.values, self.index, self.pointer, *self.masks) if a is not None)

    def with_masks(self) -> NumpyArray | None:
        """Return the masks, which the first call makes, or None if products with one token read `index` instead."""
        assert self.pointer is not None
        n_rows = self.pointer.size - 1
        if not token.can_spread() or self.values.size < token.LONG * n_rows:
            return None
        return self.row_masks()

    def row_masks(self) -> NumpyArray:
        """Return the masks of a matrix in panels, which the first call makes."""
        assert self.pointer is not None
        if not self.masks:
            masks = np.empty(self.pointer.size - 1, dtype=np.uint64)
            token.fill_masks(self.index, self.pointer, masks)
            # assigned and not appended, because another thread may have made the masks meanwhile
            self.masks[:] = [masks]
        return self.masks[0]


PackedOnCpu: TypeAlias = PackedPanels | PackedCodes
"""A matrix in one of the layouts of this set."""
LAYOUTS: tuple[type[PackedOnCpu], ...] = (PackedPanels, PackedCodes)


def pack(topology: Topology, values: Float[Array, " nnz"], into: Packed | None = None) -> PackedPanels:
    """Return the layout in which the matrix of topology and values is multiplied (KRN-011).

    The result takes the memory of `into` if that is in panels, of the same shape and dtype, and no smaller. Do not use
    `into` again.

    Shapes  values (nnz,) in slot order
    Dtypes  values float32 or float64

    Raises:
        KernelError: KRN-009, KRN-010 if values do not fit the topology.
    """
    check_values(topology, values)
    check_numpy(values=values, indptr=topology.indptr, indices=topology.indices)
    donor = None if into is None else as_own(into, PackedPanels)
    if topology.nnz >= PANELS_BELOW * topology.numel:
        dense = np.zeros(topology.numel, dtype=values.dtype)
        dense[flat(topology)] = values
        return PackedPanels(topology.shape, dense)
    return _in_panels(topology, values, donor if donor is not None and _has_room(donor, topology, values) else None)


def _has_room(into: PackedPanels, topology: Topology, values: NumpyArray) -> bool:
    alike = into.index is not None and into.shape == topology.shape and into.values.dtype == values.dtype
    return alike and into.values.size >= topology.nnz and into.values.flags.writeable


def _in_panels(topology: Topology, values: NumpyArray, into: PackedPanels | None = None) -> PackedPanels:
    n_out, n_in = topology.shape
    n_panels = -(-n_in // panels.WIDTH)
    offsets = np.int32 if topology.nnz <= np.iinfo(np.int32).max else np.int64
    pointer: Int[Array, " rows"]
    if into is None:
        pointer = np.zeros(n_panels * n_out + 1, dtype=offsets)
        index, ordered = np.empty(topology.nnz, dtype=np.uint8), np.empty_like(values)
    else:
        assert into.index is not None
        pointer, index, ordered = into.pointer, into.index[: topology.nnz], into.values[: topology.nnz]
        pointer[:] = 0
    indptr, indices = topology.indptr, topology.indices
    tasks, workers = -(-n_out // panels.PACK_ROWS), numba.get_num_threads()
    panels.run(panels.count_task, (indptr, indices, pointer, n_out), tasks, workers)
    np.cumsum(pointer, dtype=offsets, out=pointer)
    arrays = (indptr, indices, values, pointer, index, ordered, indptr[:-1].copy())
    panels.run(panels.fill_task, (*arrays, n_out, n_panels), tasks, workers)
    return PackedPanels(topology.shape, ordered, index, pointer)


def compact(topology: Topology, values: Stored, into: Packed | None = None) -> PackedOnCpu:
    """Return the matrix of topology and 16-bit values or codes, which computes in float32 (KRN-015, KRN-018).

    The result takes the memory of `into`, a compact matrix of the same shape and dtype or grid that is no smaller. Do
    not use `into` again, nor a matrix that shares memory with it, as those of `clear` do.

    Shapes  values (nnz,) in slot order
    Dtypes  values bfloat16 or float16, or codes

    Raises:
        KernelError: KRN-009, KRN-010 if values do not fit the topology or `into`, or are neither 16-bit floats nor
        codes; KRN-018 for groups that the set does not take.
    """
    check_compact(topology, values)
    if isinstance(values, Coded):
        spent = None if into is None else as_own(into, PackedCodes)
        if spent is not None and spent.shape != topology.shape:
            raise KernelError("KRN-009", f"a matrix {spent.shape} gives no memory to one {topology.shape}")
        if spent is not None and not held_alike(spent.held_in, values):
            raise KernelError("KRN-010", "the codes that give their memory are on another grid")
        return pack_codes(topology, values, spent)
    check_numpy(values=values, indptr=topology.indptr, indices=topology.indices)
    donor = None if into is None else as_own(into, PackedPanels)
    if donor is not None and (donor.shape != topology.shape or donor.values.size < topology.nnz):
        raise KernelError(
            "KRN-009", f"a matrix {donor.shape} of {donor.values.size} values has no room for {topology.nnz}"
        )
    if donor is not None and donor.held_in != values.dtype:
        raise KernelError(
            "KRN-010", f"values are {values.dtype}, the memory that they are to take holds {donor.held_in}"
        )
    return _in_panels(topology, values.view(_BITS[values.dtype]), donor)


def unpack(packed: Packed) -> tuple[Topology, Float[Array, " nnz"] | Stored]:
    """Return topology and values of a matrix that opens, in slot order (KRN-017).

    The values of a compact matrix are 16-bit floats or codes (KRN-015, KRN-018).
    """
    if isinstance(packed, PackedCodes):
        return unpack_codes(packed)
    own, (n_out, n_in) = as_own(packed, PackedPanels), packed.shape
    if own.index is None:
        raise KernelError("KRN-017", "a dense matrix does not tell what it stores; ask `opens` first")
    assert own.pointer is not None
    n_panels = -(-n_in // panels.WIDTH)
    indptr = np.zeros(n_out + 1, dtype=np.int64)
    np.cumsum(np.diff(own.pointer).reshape(n_panels, n_out).sum(axis=0), out=indptr[1:])
    indices, values = np.empty(own.index.size, dtype=np.int32), np.empty_like(own.values)
    arrays = (own.values, own.index, own.pointer, indices, values, indptr[:-1].copy())
    tasks = -(-n_out // panels.PACK_ROWS)
    panels.run(panels.open_task, (*arrays, n_out, n_panels), tasks, numba.get_num_threads())
    return Topology(own.shape, indptr, indices), values if own.held_in is None else values.view(own.held_in)


def clear(packed: Packed, where: Int[Array, " m"]) -> PackedOnCpu:
    """Return a matrix with zeros at `where`, which shares everything but its values with packed (KRN-016).

    Raises:
        KernelError: KRN-012 if a place is out of range.
    """
    if isinstance(packed, PackedCodes):
        return clear_codes(packed, where)
    own = as_own(packed, PackedPanels)
    check_places("where", where, own.values.shape[0])
    values = own.values.copy()
    values[where] = 0
    return PackedPanels(own.shape, values, own.index, own.pointer, own.masks)


def pack_dense(weight: Float[Array, "out in"]) -> PackedPanels:
    """Return a matrix in which every position is stored; it shares weight's memory (KRN-011).

    Raises:
        KernelError: KRN-009, KRN-010 if weight is not a contiguous float matrix.
    """
    check_matrix("weight", weight)
    check_numpy(weight=weight)
    return PackedPanels((weight.shape[0], weight.shape[1]), weight.reshape(-1))


def locate(packed: Packed, topology: Topology, slots: Int[Array, " m"]) -> Int[Array, " m"]:
    """Return the places (m,), int64, of CSR slots in packed; topology is the one that was packed (KRN-012).

    Raises:
        KernelError: KRN-012 if a slot is out of range, KRN-009 if the topology has another shape.
    """
    live = live_part(packed, LAYOUTS)
    check_shape(packed.shape, topology)
    check_places("slots", slots, topology.nnz)
    if isinstance(live, PackedCodes):
        return places_of(topology, slots)
    live = as_own(live, PackedPanels)
    indptr, indices = topology.indptr, topology.indices
    row = np.searchsorted(indptr, slots, side="right") - 1
    if live.index is None:
        return row * topology.shape[1] + indices[slots]
    places = np.empty_like(slots)
    panels.find_places(indptr, indices, live.pointer, slots, row, places)
    return places


def store(packed: Packed, where: Int[Array, " m"], values: New) -> Packed:
    """Return packed with values, or with codes if it holds codes, at `where`, in the same memory (KRN-012, KRN-018).

    Do not use packed again.

    Raises:
        KernelError: KRN-012 if a place is out of range, KRN-009, KRN-010, KRN-018 if values do not fit.
    """
    return with_live_part(packed, store_into(live_part(packed, LAYOUTS), where, values))


def store_into(own: PackedOnCpu, places: Int[Array, " m"], values: New) -> PackedOnCpu:
    """Do the work of `store` for a matrix of this set that is not split; raises the same errors."""
    if isinstance(own, PackedCodes):
        return store_codes(own, places, values)
    into = as_own(own, PackedPanels)
    check_stored(places, values, into.values, into.held_in)
    # copied if it is read-only, as the memory of a mapped file may be
    stored = into.values if into.values.flags.writeable else into.values.copy()
    stored[places] = stored_as(values, into.held_in, stored.dtype)
    return PackedPanels(into.shape, stored, into.index, into.pointer, into.masks)


def check_operand(name: str, a: Array, n_columns: int, packed: Packed) -> None:
    """Refuse an array that cannot be multiplied with the matrix: KRN-009 for shape, KRN-010 for dtype or library."""
    check_matrix(name, a, n_columns)
    check_numpy(**{name: a})
    check_alike(name, a, "the packed matrix", np.empty(0, dtype=packed.dtype))


def check_numpy(**arrays: Array) -> None:
    """Refuse arrays that compiled loops cannot read: KRN-010 if not of NumPy, KRN-009 if not contiguous."""
    for name, a in arrays.items():
        if not isinstance(a, np.ndarray):
            raise KernelError("KRN-010", f"{name} is a {type(a).__name__}; this kernel set takes NumPy arrays")
        if not a.flags.c_contiguous:
            raise KernelError("KRN-009", f"{name} of shape {a.shape} is not contiguous in row-major order")
