"""Topologies: which entries of a matrix are stored, as canonical CSR index arrays.

    [ a . b ]      shape   (2, 3)
    [ . c . ]      indptr  [0, 2, 3]        row r owns slots indptr[r] .. indptr[r+1]
                   indices [0, 2, 1]        column of each slot
                   flat    [0, 2, 4]        row * 3 + column, strictly increasing

A topology says nothing about values: a stored zero belongs to it (TOP-004).
"""

from dataclasses import dataclass

from jaxtyping import Bool, Int

from seft_ref.arrays.library import (
    Array,
    array_namespace,
    device,
    from_numpy,
    is_numpy_array,
    mask_at,
    repeat_each,
    to_numpy,
)
from seft_ref.arrays.sorted import merged, positions_of_rows, seek, seek_in_rows, without
from seft_ref.errors import TopologyError


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """Stored positions of an (out, in) matrix, sorted by row and then column, without repeats (TOP-001, TOP-002).

    The constructor checks nothing: `formats` checks files, `from_flat` checks its positions, and the functions here
    make valid topologies from valid ones. `check` verifies every rule, for tests and ports. A matrix may be of any size
    (PRT-019).
    """

    shape: tuple[int, int]
    indptr: Int[Array, " out+1"]
    """int64, (out + 1,): row r owns slots indptr[r] to indptr[r + 1]."""
    indices: Int[Array, " nnz"]
    """int32, (nnz,): the column of each slot; int64 if there are more than 2³¹ columns."""

    @property
    def nnz(self) -> int:
        """Number of stored positions."""
        return int(self.indices.shape[0])

    @property
    def numel(self) -> int:
        """Number of positions of the dense matrix."""
        return self.shape[0] * self.shape[1]

    def positions(self, start: int, stop: int) -> Int[Array, " n"]:
        """Return the flat positions of the slots of rows start to stop, counted from row start (TOP-003), int64."""
        edges = self.indptr[start : stop + 1]
        return positions_of_rows(edges, self.indices[int(edges[0]) : int(edges[-1])], self.shape[1])

    def seek(self, positions: Int[Array, " m"]) -> tuple[Int[Array, " m"], Bool[Array, " m"]]:
        """Return for each of ascending flat positions how many slots lie before it, int64, and whether it is stored."""
        return seek_in_rows(self.indptr, self.indices, self.shape[1], positions)

    def positions_at(self, slots: Int[Array, " m"]) -> Int[Array, " m"]:
        """Return the flat positions of a few slots, without computing those of all (TOP-003), int64."""
        xp = array_namespace(self.indptr, slots)
        row = xp.astype(xp.searchsorted(self.indptr, slots, side="right"), xp.int64) - 1
        return row * self.shape[1] + xp.astype(xp.take(self.indices, slots), xp.int64)

    def seek_slots(self, slots: "Topology") -> tuple[Int[Array, " m"], Bool[Array, " m"]]:
        """Return the result of `seek` for the positions of another topology."""
        return self.seek(flat(slots))

    def without_slots(self, gone: Int[Array, " k"]) -> "Topology":
        """Return the topology without the ascending slots `gone`."""
        if not gone.shape[0]:
            return self
        xp = array_namespace(self.indptr, gone)
        before = xp.astype(xp.searchsorted(gone, self.indptr), xp.int64)
        return Topology(self.shape, self.indptr - before, without(self.indices, gone))

    def with_slots(self, extra: Int[Array, " k"], places: Int[Array, " k"]) -> "Topology":
        """Return the topology with the ascending flat positions `extra` added as the slots `places`."""
        if not extra.shape[0]:
            return self
        xp = array_namespace(self.indptr, extra)
        starts = xp.arange(self.shape[0] + 1, dtype=xp.int64, device=device(self.indptr)) * self.shape[1]
        before = xp.astype(xp.searchsorted(extra, starts), xp.int64)
        columns = xp.astype(extra % self.shape[1], self.indices.dtype)
        return Topology(self.shape, self.indptr + before, merged(self.indices, columns, places))


class Located(Topology):
    """A topology that keeps what it has computed, because an event asks for the same again and again.

    It keeps its flat positions, 8 bytes a slot, once they were asked for, and the last answer of `seek_slots`.
    """

    __slots__ = ("_positions", "_sought")

    _positions: Int[Array, " nnz"] | None
    _sought: tuple[Topology, tuple[Int[Array, " m"], Bool[Array, " m"]]] | None

    def __init__(self, topology: Topology, positions: Int[Array, " nnz"] | None = None) -> None:
        """Take a topology, and its flat positions if they are known."""
        super().__init__(topology.shape, topology.indptr, topology.indices)
        self._keep("_positions", positions)
        self._keep("_sought", None)

    def _keep(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the class is frozen, so assignment would fail

    def plain(self) -> Topology:
        """Return the topology without what it keeps."""
        return Topology(self.shape, self.indptr, self.indices)

    def positions(self, start: int, stop: int) -> Int[Array, " n"]:
        """Return the flat positions of the slots of rows start to stop, counted from row start (TOP-003), int64."""
        if (start, stop) == (0, self.shape[0]):
            if self._positions is None:
                self._keep("_positions", super().positions(start, stop))
            return self._positions
        if self._positions is None:
            return super().positions(start, stop)
        return self._positions[int(self.indptr[start]) : int(self.indptr[stop])] - start * self.shape[1]

    def seek(self, positions: Int[Array, " m"]) -> tuple[Int[Array, " m"], Bool[Array, " m"]]:
        """Return for each of ascending flat positions how many slots lie before it, int64, and whether it is stored."""
        # on the host rows are searched faster than positions; elsewhere the kept positions save making them again
        return super().seek(positions) if is_numpy_array(self.indptr) else seek(flat(self), positions)

    def seek_slots(self, slots: Topology) -> tuple[Int[Array, " m"], Bool[Array, " m"]]:
        """Return the result of `seek` for the positions of another topology."""
        if self._sought is None or self._sought[0] is not slots:
            self._keep("_sought", (slots, super().seek_slots(slots)))
        assert self._sought is not None
        return self._sought[1]

    def without_slots(self, gone: Int[Array, " k"]) -> Topology:
        """Return the topology without the ascending slots `gone`."""
        if not gone.shape[0]:
            return self
        positions = None if self._positions is None else without(self._positions, gone)
        return Located(self.plain().without_slots(gone), positions)

    def with_slots(self, extra: Int[Array, " k"], places: Int[Array, " k"]) -> Topology:
        """Return the topology with the ascending flat positions `extra` added as the slots `places`."""
        return self.plain().with_slots(extra, places)


def rows(topology: Topology) -> Int[Array, " nnz"]:
    """Return the row of each slot, int64."""
    per_row = slots_per_row(topology)
    xp = array_namespace(per_row)
    return repeat_each(xp.arange(topology.shape[0], dtype=xp.int64, device=device(per_row)), per_row)


def slots_per_row(topology: Topology) -> Int[Array, " out"]:
    """Return how many positions each row stores, int64."""
    indptr = topology.indptr
    return indptr[1:] - indptr[:-1]


def per_pool(positions: Int[Array, " n"], width: int, n_pools: int) -> Int[Array, " pools"]:
    """Return how many of the sorted flat positions lie in each of n_pools pools of `width` consecutive positions."""
    xp = array_namespace(positions)
    edges = xp.arange(n_pools + 1, dtype=xp.int64, device=device(positions)) * width
    edges = xp.astype(xp.searchsorted(positions, edges), xp.int64)
    return edges[1:] - edges[:-1]


def flat(topology: Topology) -> Int[Array, " nnz"]:
    """Return row * in + column of each slot, int64, strictly increasing (TOP-003)."""
    return topology.positions(0, topology.shape[0])


def from_flat(shape: tuple[int, int], positions: Int[Array, " nnz"]) -> Topology:
    """Return the topology of strictly increasing flat positions (TOP-003).

    Raises:
        TopologyError: TOP-003 if a position is out of range, repeated or out of order.
    """
    xp = array_namespace(positions)
    n_out, n_in = shape
    positions = xp.astype(positions, xp.int64)
    if positions.shape[0]:
        first, last = int(positions[0]), int(positions[-1])
        if first < 0 or last >= n_out * n_in:
            raise TopologyError(
                "TOP-003", f"flat positions run from {first} to {last}, outside a {n_out}x{n_in} matrix"
            )
        if not bool(xp.all(positions[1:] > positions[:-1])):
            raise TopologyError("TOP-003", "flat positions are not strictly increasing; sort them and remove repeats")
    row_starts = xp.arange(n_out + 1, dtype=xp.int64, device=device(positions)) * n_in
    indptr = xp.astype(xp.searchsorted(positions, row_starts), xp.int64)
    columns = xp.int32 if n_in <= 2**31 else xp.int64
    return Topology(shape, indptr, xp.astype(positions % max(n_in, 1), columns))


def full(shape: tuple[int, int], like: Array) -> Topology:
    """Return the topology that stores every position, in the library and on the device of `like`."""
    xp = array_namespace(like)
    n_out, n_in = shape
    return from_flat(shape, xp.arange(n_out * n_in, dtype=xp.int64, device=device(like)))


def placed_like(topology: Topology, like: Array) -> Topology:
    """Return a topology of NumPy arrays in the library and on the device of `like` (TOP-001, TOP-002)."""
    return Topology(topology.shape, from_numpy(topology.indptr, like), from_numpy(topology.indices, like))


def as_numpy(topology: Topology) -> Topology:
    """Return a topology with NumPy arrays, copied from its device if need be (TOP-001, TOP-002)."""
    return Topology(topology.shape, to_numpy(topology.indptr), to_numpy(topology.indices))


def check(topology: Topology) -> None:
    """Verify that a topology is canonical.

    Raises:
        TopologyError: TOP-001 for the row pointers, TOP-002 for the columns; the first offence is named.
    """
    xp = array_namespace(topology.indptr, topology.indices)
    n_out, n_in = topology.shape
    indptr, indices = topology.indptr, topology.indices
    if tuple(indptr.shape) != (n_out + 1,):
        raise TopologyError(
            "TOP-001",
            f"indptr has shape {tuple(indptr.shape)}, a matrix of {n_out} rows needs ({n_out + 1},)",
        )
    if int(indptr[0]) != 0 or int(indptr[-1]) != topology.nnz:
        raise TopologyError(
            "TOP-001", f"indptr runs from {int(indptr[0])} to {int(indptr[-1])}, expected 0 to {topology.nnz}"
        )
    if not bool(xp.all(indptr[1:] >= indptr[:-1])):
        raise TopologyError("TOP-001", "indptr decreases")
    if not topology.nnz:
        return
    lowest, highest = int(xp.min(indices)), int(xp.max(indices))
    if lowest < 0 or highest >= n_in:
        raise TopologyError("TOP-002", f"columns run from {lowest} to {highest}, outside 0 to {n_in - 1}")
    positions = flat(topology)
    in_order = positions[1:] > positions[:-1]
    if not bool(xp.all(in_order)):
        slot = int(xp.argmin(xp.astype(in_order, xp.int8))) + 1
        raise TopologyError(
            "TOP-002",
            f"slot {slot} is at flat {int(positions[slot])}, not after slot {slot - 1} at "
            f"{int(positions[slot - 1])}: columns of a row must strictly increase",
        )


def find(sorted_positions: Int[Array, " n"], queries: Int[Array, " m"]) -> tuple[Int[Array, " m"], Bool[Array, " m"]]:
    """Return for each query its index in the sorted positions (0 where absent), and whether it is among them."""
    before, present = seek(sorted_positions, queries)
    xp = array_namespace(before)
    return xp.where(present, before, xp.zeros_like(before)), present


def union(a: Int[Array, " n"], b: Int[Array, " m"]) -> Int[Array, " nm"]:
    """Return the sorted union of two sorted position arrays without repeats."""
    extra = difference(b, a)
    return merged(a, extra, places_among(a, extra))


def places_among(a: Int[Array, " n"], extra: Int[Array, " m"]) -> Int[Array, " m"]:
    """Return the index of each position of extra in the union with a; both are sorted and disjoint."""
    xp = array_namespace(a, extra)
    before = xp.arange(extra.shape[0], dtype=xp.int64, device=device(extra))
    return seek(a, extra)[0] + before


def difference(a: Int[Array, " n"], b: Int[Array, " m"]) -> Int[Array, " k"]:
    """Return the positions of sorted a that are not in sorted b, ascending."""
    # look up the shorter of the two in the longer, because each look-up is a search
    if b.shape[0] < a.shape[0]:
        slots, present = find(a, b)
        return without(a, slots[present])
    _, present = find(b, a)
    return a[~present]


def outside(a: Int[Array, " n"], b: Int[Array, " m"]) -> Bool[Array, " n"]:
    """Return for each position of sorted a whether it is not in sorted b."""
    if b.shape[0] < a.shape[0]:
        slots, present = find(a, b)
        return ~mask_at(a.shape[0], slots[present])
    _, present = find(b, a)
    return ~present
