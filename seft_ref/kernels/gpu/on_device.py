"""The functions of the GPU set, for any machine that launches the kernels of gpu.cu (`launch.Machine`)."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from seft_ref.arrays.library import Array
from seft_ref.errors import KernelError
from seft_ref.kernels import Packed
from seft_ref.kernels.checks import (
    check_alike,
    check_compact,
    check_factors,
    check_matrix,
    check_places,
    check_shape,
    check_stored,
    check_values,
    check_vector,
)
from seft_ref.kernels.gpu import packed as layouts
from seft_ref.kernels.gpu.launch import EACH, LANES, ROWS, RUN, THREADS, Argument, Machine
from seft_ref.kernels.gpu.packed import BITS, PackedOnDevice
from seft_ref.kernels.held import Stored, stored_as
from seft_ref.kernels.split import as_own, live_part, multiply_parts, split
from seft_ref.topology.csr import Topology, flat
from seft_ref.topology.nm import NMTopology

FEW = 16
"""Most tokens for which the threads of a warp share a row, instead of taking tokens of their own; not measured."""
TILE_ROWS = 512
"""Rows of a compact matrix that are made dense at once for the transposed product, and rows of a gradient that cuBLAS
computes at once; not measured.
"""
SAMPLE_BELOW = 0.2
"""Share of stored positions from which `sample` computes tiles of rows by cuBLAS and picks entries; not measured."""


class OnDevice:
    """A kernel set on the arrays of one machine; the functions of the set are its methods."""

    LAYERS = "plain"
    """The layer set that goes with this set (LYR-018)."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.split = split

    def pack(self, topology: Topology, values: Float[Array, " nnz"], into: Packed | None = None) -> PackedOnDevice:
        """Return the layout in which the matrix of topology and values is multiplied (KRN-011); `into` is not used.

        Shapes  values (nnz,) in slot order
        Dtypes  values float32 or float64

        Raises:
            KernelError: KRN-009, KRN-010 if values do not fit the topology.
        """
        check_values(topology, values)
        self._check(values=values)
        self._own_topology(topology)
        return layouts.packed(self.machine.xp, topology, values)

    def pack_dense(self, weight: Float[Array, "out in"]) -> PackedOnDevice:
        """Return a matrix in which every position is stored; it shares weight's memory (KRN-011).

        Raises:
            KernelError: KRN-009, KRN-010 if weight is not a contiguous float matrix.
        """
        check_matrix("weight", weight)
        self._check(weight=weight)
        return PackedOnDevice((weight.shape[0], weight.shape[1]), weight.reshape(-1))

    def compact(self, topology: Topology, values: Stored, into: Packed | None = None) -> PackedOnDevice:
        """Return the matrix of topology and 16-bit values, which keeps 16 bits and computes in float32 (KRN-015).

        `into` is not used.

        Shapes  values (nnz,) in slot order
        Dtypes  values bfloat16 or float16, a NumPy array

        Raises:
            KernelError: KRN-009, KRN-010 if values do not fit the topology or are no 16-bit floats, KRN-018 for codes.
        """
        check_compact(topology, values, codes=False)
        assert isinstance(values, np.ndarray), "check_compact refuses what is neither"
        self._own_topology(topology)
        xp = self.machine.xp
        bits = xp.array(values.view(np.uint16))
        return PackedOnDevice(topology.shape, bits, layouts.as_rows(xp, topology), held_in=values.dtype)

    def unpack(self, packed: Packed) -> tuple[Topology, Float[Array, " nnz"]]:
        """Return topology and values of a matrix that opens, in slot order (KRN-017).

        The values of a compact matrix are 16-bit floats in a NumPy array (KRN-015).
        """
        own = as_own(packed, PackedOnDevice)
        if own.topology is None:
            raise KernelError("KRN-017", "this layout does not tell what it stores; ask `opens` first")
        # copies, because the caller may write into them (KRN-017.2)
        topology = Topology(own.topology.shape, own.topology.indptr.copy(), own.topology.indices.copy())
        if own.held_in is None:
            return topology, own.values.copy()
        return topology, np.array(self.machine.to_host(own.values)).view(own.held_in)

    def clear(self, packed: Packed, where: Int[Array, " m"]) -> PackedOnDevice:
        """Return a matrix with zeros at `where`, which shares everything but its values with packed (KRN-016).

        Raises:
            KernelError: KRN-012 if a place is out of range.
        """
        own = as_own(packed, PackedOnDevice)
        check_places("where", where, own.values.shape[0])
        self._own(where=where)
        values = own.values.copy()
        values[where] = 0
        return PackedOnDevice(own.shape, values, own.topology, held_in=own.held_in)

    def locate(self, packed: Packed, topology: Topology, slots: Int[Array, " m"]) -> Int[Array, " m"]:
        """Return the places (m,), int64, of CSR slots in packed; topology is the one that was packed (KRN-012).

        Raises:
            KernelError: KRN-012 if a slot is out of range, KRN-009 if the topology has another shape.
        """
        live = live_part(packed, PackedOnDevice)
        check_shape(packed.shape, topology)
        check_places("slots", slots, topology.nnz)
        self._own(slots=slots)
        if live.topology is not None or not slots.shape[0]:
            return slots
        positions = flat(topology)
        if live.grouped is None:
            return positions[slots]
        return layouts.places_in_groups(self.machine.xp, positions, slots, live.grouped.n, live.grouped.m)

    def store(self, packed: Packed, where: Int[Array, " m"], values: Float[Array, " m"]) -> Packed:
        """Return packed with values at `where`, in the same memory (KRN-012); do not use packed again.

        Raises:
            KernelError: KRN-012 if a place is out of range, KRN-009, KRN-010 if values do not fit.
        """
        live = live_part(packed, PackedOnDevice)
        check_stored(where, values, live.values, live.held_in)
        self._own(where=where, values=values)
        live.values[where] = self.machine.xp.asarray(stored_as(values, live.held_in, live.values.dtype))
        return packed

    def matmul(self, x: Float[Array, "n in"], packed: Packed) -> Float[Array, "n out"]:
        """Return y = x Wᵀ (KRN-001).

        Shapes  x (n, in), y (n, out), both with one token a row
        Dtypes  the packed matrix's

        Raises:
            KernelError: KRN-009, KRN-010 if x does not fit the matrix.
        """
        check_matrix("x", x, packed.shape[1])
        self._check(x=x)
        return multiply_parts(self._multiply_rows, x, packed, PackedOnDevice)

    def _multiply_rows(self, x: Array, packed: PackedOnDevice) -> Array:
        self._own_packed("x", x, packed)
        n_out, n_in = packed.shape
        if packed.grouped is not None:
            g = packed.grouped
            return self._multiply("group", x, n_out, (packed.values, g.position), (n_in // g.m, g.n, g.m))
        if packed.topology is None:
            return x @ packed.values.reshape(packed.shape).T
        rows = (packed.values, packed.topology.indptr, packed.topology.indices, None)
        return self._multiply("csr", x, n_out, rows, (), BITS.get(packed.held_in))

    def matmul_transposed(self, dy: Float[Array, "n out"], packed: Packed) -> Float[Array, "n in"]:
        """Return dx = dy W (KRN-002).

        Shapes  dy (n, out), dx (n, in), both with one token a row
        Dtypes  the packed matrix's

        Raises:
            KernelError: KRN-009, KRN-010 if dy does not fit the matrix.
        """
        check_matrix("dy", dy, packed.shape[0])
        self._check(dy=dy)
        return multiply_parts(self._multiply_columns, dy, packed, PackedOnDevice)

    def _multiply_columns(self, dy: Array, packed: PackedOnDevice) -> Array:
        self._own_packed("dy", dy, packed)
        n_out, n_in = packed.shape
        if packed.held_in is not None:
            return self._by_tiles(dy, packed)
        if packed.grouped is not None:
            g = packed.grouped
            return self._many(
                f"group_transposed_{dy.dtype}",
                dy,
                n_in,
                lambda dyt, dxt: (packed.values, g.position, dyt, dxt, n_out, n_in // g.m, g.n, g.m, dy.shape[0]),
            )
        if packed.columns is None:
            return dy @ packed.values.reshape(packed.shape)
        c = packed.columns
        return self._multiply("csr", dy, n_in, (packed.values, c.pointer, c.row, c.slot), ())

    def sample(self, dy: Float[Array, "n out"], x: Float[Array, "n in"], topology: Topology) -> Float[Array, " nnz"]:
        """Return dyᵀ x at the stored positions, in slot order, without storing all of dyᵀ x (KRN-003).

        Shapes  dy (n, out), x (n, in), result (nnz,)
        Dtypes  float32 or float64, one for all

        Raises:
            KernelError: KRN-009, KRN-010 if the factors do not fit the topology or each other.
        """
        check_factors(dy, x, topology)
        self._check(dy=dy, x=x)
        self._own_topology(topology)
        xp = self.machine.xp
        n_slots, (n_out, n_in) = topology.nnz, topology.shape
        if not n_slots or not x.shape[0]:
            return xp.zeros(n_slots, dtype=x.dtype)
        if n_slots >= SAMPLE_BELOW * topology.numel:
            tiles = range(0, n_out, TILE_ROWS)
            stops = [min(first + TILE_ROWS, n_out) for first in tiles]
            return xp.concatenate(
                [
                    (dy[:, first:stop].T @ x).reshape(-1)[topology.positions(first, stop)]
                    for first, stop in zip(tiles, stops, strict=True)
                ]
            )
        rows, dvalues = layouts.as_rows(xp, topology), xp.empty(n_slots, dtype=x.dtype)
        self.machine.run(
            f"sample_{x.dtype}",
            (-(-n_slots // THREADS), 1),
            *(rows.indptr, rows.indices, dy, x, dvalues, n_slots, n_out, n_in, x.shape[0]),
        )
        return dvalues

    def exceeding(self, values: Float[Array, " n"], least: float) -> Int[Array, " m"]:
        """Return the ascending indices of the entries with |value| > least, NaN and infinity included (KRN-014).

        Raises:
            KernelError: KRN-009, KRN-010 if values are not a contiguous float vector.
        """
        check_vector("values", values)
        self._check(values=values)
        xp, n = self.machine.xp, values.shape[0]
        n_blocks = -(-n // (THREADS * RUN))
        if not n:
            return xp.empty(0, dtype=np.int64)
        counts = xp.empty(n_blocks, dtype=np.int64)
        self.machine.run(f"exceeding_count_{values.dtype}", (n_blocks, 1), values, least, n, counts)
        sums = xp.cumsum(counts)
        indices = xp.empty(int(sums[-1]), dtype=np.int64)
        if indices.shape[0]:
            self.machine.run(f"exceeding_write_{values.dtype}", (n_blocks, 1), values, least, n, sums, indices)
        return indices

    def _check(self, **arrays: Array) -> None:
        """Refuse arrays that kernels cannot read: KRN-010 if of another machine, KRN-009 if not contiguous."""
        self._own(**arrays)
        for name, a in arrays.items():
            if not a.flags.c_contiguous:
                raise KernelError("KRN-009", f"{name} of shape {a.shape} is not contiguous in row-major order")

    def _own(self, **arrays: Array) -> None:
        """Refuse arrays of another library, or on another device than the current one (KRN-010)."""
        for name, a in arrays.items():
            if not self.machine.owns(a):
                raise KernelError(
                    "KRN-010",
                    f"{name} is a {type(a).__name__} on {getattr(a, 'device', 'no device')}; this kernel set takes "
                    f"arrays of {self.machine.xp.__name__} on its current device",
                )

    def _own_topology(self, topology: Topology) -> None:
        """Refuse a topology whose arrays are of another machine (KRN-010); an N:M topology has masks only."""
        if isinstance(topology, NMTopology):
            self._own(masks=topology.masks)
        else:
            self._own(indptr=topology.indptr, indices=topology.indices)

    def _own_packed(self, name: str, a: Array, packed: PackedOnDevice) -> None:
        """Refuse a matrix on another device, and an operand `a` that has another dtype than its products (KRN-010)."""
        self._own(packed=packed.values)
        check_alike(name, a, "the packed matrix", self.machine.xp.empty(0, dtype=packed.dtype))

    def _multiply(
        self,
        layout: str,
        src: Array,
        n_result: int,
        stored: tuple[Array | None, ...],
        more: tuple[int, ...],
        stored_dtype: str | None = None,
    ) -> Array:
        """Return (n, n_result), the product of src and a transposed matrix, by the kernels for few or many tokens.

        layout        first part of the kernels' names
        stored        first arguments of the kernels: the arrays of the matrix
        more          integer arguments of the kernels behind the number of rows
        stored_dtype  name of the 16-bit dtype of the values; None if they have the dtype of src
        """
        n, name = src.shape[0], stored_dtype or str(src.dtype)
        if n > FEW:
            return self._many(
                f"{layout}_product_{name}",
                src,
                n_result,
                lambda src_last, result_last: (*stored, src_last, result_last, n_result, *more, n),
            )
        result = self.machine.xp.empty((n, n_result), dtype=src.dtype)
        width = () if layout == "group" else (src.shape[1],)
        if result.size:
            self.machine.run(
                f"{layout}_few_{name}", (-(-n_result // ROWS), n), *stored, src, result, n_result, *more, *width
            )
        return result

    def _many(
        self, name: str, src: Array, n_result: int, arguments: Callable[[Array, Array], tuple[Argument, ...]]
    ) -> Array:
        """Return (n, n_result), the result of a kernel that reads and writes activations as (features, tokens)."""
        xp, n = self.machine.xp, src.shape[0]
        result = xp.empty((n_result, n), dtype=src.dtype)
        if result.size:
            grid = (-(-n_result // ROWS), -(-n // (LANES * EACH)))
            self.machine.run(name, grid, *arguments(xp.ascontiguousarray(src.T), result))
        return xp.ascontiguousarray(result.T)

    def _by_tiles(self, dy: Array, packed: PackedOnDevice) -> Array:
        """Return dy W for a compact matrix by making some rows dense at a time, because it is not stored by columns."""
        assert packed.topology is not None
        xp, (n_out, n_in) = self.machine.xp, packed.shape
        dx = xp.zeros((dy.shape[0], n_in), dtype=dy.dtype)
        for first in range(0, n_out, TILE_ROWS):
            stop = min(first + TILE_ROWS, n_out)
            tile = xp.zeros((stop - first, n_in), dtype=dy.dtype)
            self.machine.run(
                f"expand_{BITS[packed.held_in]}",
                (stop - first, 1),
                *(packed.values, packed.topology.indptr, packed.topology.indices, first, n_in, tile),
            )
            dx += dy[:, first:stop] @ tile
        return dx
