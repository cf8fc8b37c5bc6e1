"""The layouts of a matrix in the GPU set: dense, by rows and columns, in groups of a pattern, or by rows in 16 bits."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from jaxtyping import Float, Int

from seft_ref.arrays.library import Array, Dtype, Namespace
from seft_ref.topology.csr import Topology, flat
from seft_ref.topology.nm import NMTopology

INDEX_BYTES = 12
"""Bytes that a weight takes by rows and columns besides its value: its column, its row and its slot, 4 each."""
LOOKED_FOR = ((2, 4), (4, 8))
"""N:M patterns that are tried on a matrix without a declared pattern; it is stored in groups if it keeps one."""
_MOST_SLOTS = 1 << 32

BITS = {np.dtype(ml_dtypes.bfloat16): "bfloat16", np.dtype(np.float16): "float16"}
"""The name of each 16-bit float in the names of its kernels."""


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """The stored positions column by column, which the transposed product reads."""

    pointer: Int[Array, " in+1"]
    """int64: the first entry of each column"""
    row: Int[Array, " nnz"]
    """int32: the row of each entry"""
    slot: Int[Array, " nnz"]
    """uint32: the slot of each entry, so that both products read the same values"""


@dataclass(frozen=True, slots=True, eq=False)
class Grouped:
    """The positions of a matrix stored in groups: n entries for every m columns."""

    n: int
    m: int
    position: Int[Array, " entries"]
    """uint8: the column of an entry within its group; unused entries are zeros at column 0"""


@dataclass(frozen=True, slots=True, eq=False)
class PackedOnDevice:
    """A matrix as flat values in one of four layouts."""

    shape: tuple[int, int]
    values: Float[Array, " stored"]
    """in slot order by rows, row-major if dense, n for each group if in groups; uint16 bits if compact"""
    topology: Topology | None = None
    """int64 row pointers and int32 columns, of the two layouts by rows; else None"""
    columns: Columns | None = None
    grouped: Grouped | None = None
    held_in: Dtype | None = None
    """the 16-bit dtype of a compact matrix, else None"""

    @property
    def dtype(self) -> Dtype:
        """Dtype of the products."""
        return self.values.dtype if self.held_in is None else np.dtype(np.float32)

    @property
    def opens(self) -> bool:
        """Whether `unpack` returns topology and values (KRN-017); dense matrices and groups keep no topology."""
        return self.topology is not None

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays of the matrix, on the device."""
        arrays = [self.values]
        if self.topology is not None:
            arrays += [self.topology.indptr, self.topology.indices]
        if self.columns is not None:
            arrays += [self.columns.pointer, self.columns.row, self.columns.slot]
        if self.grouped is not None:
            arrays += [self.grouped.position]
        return sum(int(a.nbytes) for a in arrays)


def packed(xp: Namespace, topology: Topology, values: Array) -> PackedOnDevice:
    """Return the matrix of a topology and its values (nnz,) in the layout that suits it.

    That is in groups if the topology keeps a pattern, dense if that takes no more memory than rows and columns, else by
    rows and columns.
    """
    positions = flat(topology)
    pattern = _pattern_of(topology, positions)
    if pattern is not None:
        return _in_groups(xp, topology.shape, positions, values, *pattern)
    # dense if that is no larger, because cuBLAS multiplies dense matrices
    if topology.numel * values.itemsize <= topology.nnz * (values.itemsize + INDEX_BYTES):
        dense = xp.zeros(topology.numel, dtype=values.dtype)
        dense[positions] = values
        return PackedOnDevice(topology.shape, dense)
    return by_rows_and_columns(xp, topology, values)


def by_rows_and_columns(xp: Namespace, topology: Topology, values: Array) -> PackedOnDevice:
    """Return the matrix in CSR, with its slots column by column for the transposed product."""
    assert topology.nnz < _MOST_SLOTS, "slots are counted in 32 bits"
    by_rows = as_rows(xp, topology)
    order = xp.argsort(by_rows.indices, kind="stable")
    pointer = xp.searchsorted(by_rows.indices[order], xp.arange(topology.shape[1] + 1, dtype=np.int32))
    slots = xp.arange(topology.nnz, dtype=np.int64)
    row = xp.searchsorted(by_rows.indptr, slots, side="right") - 1
    columns = Columns(pointer.astype(np.int64), row[order].astype(np.int32), order.astype(np.uint32))
    return PackedOnDevice(topology.shape, xp.array(values), by_rows, columns)


def as_rows(xp: Namespace, topology: Topology) -> Topology:
    """Return the topology with the dtypes and the contiguous arrays that kernels read."""
    pointer, index = topology.indptr, topology.indices
    return Topology(
        topology.shape,
        xp.ascontiguousarray(pointer.astype(np.int64, copy=False)),
        xp.ascontiguousarray(index.astype(np.int32, copy=False)),
    )


def _pattern_of(topology: Topology, positions: Array) -> tuple[int, int] | None:
    """Return an N:M pattern that the topology keeps and fills at least half, else None.

    A pattern that is filled less would take more memory than CSR.
    """
    for n, m in (topology.pattern,) if isinstance(topology, NMTopology) else LOOKED_FOR:
        n_entries = topology.numel // m * n
        if topology.shape[1] % m or not n_entries <= 2 * topology.nnz <= 2 * n_entries or not topology.nnz:
            continue
        groups = positions // m
        # positions ascend, so a group stores more than n exactly if some entry and the n-th after it lie in that group
        if not bool((groups[n:] == groups[:-n]).any()):
            return n, m
    return None


def _in_groups(
    xp: Namespace, shape: tuple[int, int], positions: Array, values: Array, n: int, m: int
) -> PackedOnDevice:
    n_entries = shape[0] * shape[1] // m * n
    places = places_in_groups(xp, positions, xp.arange(positions.shape[0], dtype=np.int64), n, m)
    stored, position = xp.zeros(n_entries, dtype=values.dtype), xp.zeros(n_entries, dtype=np.uint8)
    stored[places] = values
    position[places] = (positions % m).astype(np.uint8)
    return PackedOnDevice(shape, stored, grouped=Grouped(n, m, position))


def places_in_groups(xp: Namespace, positions: Array, slots: Array, n: int, m: int) -> Array:
    """Return the places of slots in the layout by groups: each group has n places, taken in the order of its slots."""
    group = positions[slots] // m
    return group * n + (slots - xp.searchsorted(positions, group * m))
