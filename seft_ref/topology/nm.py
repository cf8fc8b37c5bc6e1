"""N:M topologies: at most N of every M consecutive columns are stored, held as one bit mask a group.

    [ a . . b | . c d . ]    pattern (2, 4)    masks  [0b1001, 0b0110]      bit j: column j of the group

The positions of a 2:4 matrix take half a byte a stored weight here, and four in CSR. Row pointers and columns are
computed when they are read, so that this class can stand wherever a Topology can.
"""

from jaxtyping import Bool, Int

from seft_ref.arrays.library import Array, array_namespace, device
from seft_ref.arrays.sorted import merged, seek, without
from seft_ref.errors import TopologyError
from seft_ref.topology.csr import Topology, flat, from_flat

_WIDEST = 62
"""Largest M for which the sum of a group's bits fits an int64"""


class NMTopology(Topology):
    """Stored positions of an (out, in) matrix under an N:M pattern (TOP-005)."""

    __slots__ = ("_nnz", "masks", "pattern")

    pattern: tuple[int, int]
    masks: Int[Array, "out groups"]
    """one mask a group, in the smallest unsigned dtype that has M bits"""
    _nnz: int

    def __init__(self, shape: tuple[int, int], pattern: tuple[int, int], masks: Array, nnz: int) -> None:
        for name, value in (("shape", shape), ("pattern", pattern), ("masks", masks), ("_nnz", nnz)):
            object.__setattr__(self, name, value)  # the class is frozen, so assignment would fail

    def __reduce__(self) -> tuple[type["NMTopology"], tuple[object, ...]]:
        return NMTopology, (self.shape, self.pattern, self.masks, self._nnz)

    @property
    def nnz(self) -> int:
        """Number of stored positions."""
        return self._nnz

    @property
    def indptr(self) -> Int[Array, " out+1"]:
        """int64, (out + 1,): row pointers (TOP-001). Each access reads all groups, so keep it out of loops."""
        xp = array_namespace(self.masks)
        starts = xp.arange(self.shape[0] + 1, dtype=xp.int64, device=device(self.masks)) * self.shape[1]
        return xp.astype(xp.searchsorted(self.positions(0, self.shape[0]), starts), xp.int64)

    @property
    def indices(self) -> Int[Array, " nnz"]:
        """int32, (nnz,): the column of each slot (TOP-002). Each access reads all groups, so keep it out of loops."""
        xp = array_namespace(self.masks)
        return xp.astype(self.positions(0, self.shape[0]) % max(self.shape[1], 1), xp.int32)

    def positions(self, start: int, stop: int) -> Int[Array, " n"]:
        """Return the flat positions of the slots of rows start to stop, counted from row start (TOP-003), int64."""
        xp = array_namespace(self.masks)
        masks = self.masks[start:stop, :]
        # a loop over the columns of a group, because one operation over all M bits takes six times as long
        present = xp.stack([(masks & (1 << j)) != 0 for j in range(self.pattern[1])], axis=2)
        return xp.astype(xp.nonzero(xp.reshape(present, (-1,)))[0], xp.int64)

    def seek(self, positions: Int[Array, " m"]) -> tuple[Int[Array, " m"], Bool[Array, " m"]]:
        """Return for each of ascending flat positions how many slots lie before it, int64, and whether it is stored."""
        return seek(flat(self), positions)

    def positions_at(self, slots: Int[Array, " m"]) -> Int[Array, " m"]:
        """Return the flat positions of a few slots (TOP-003), int64; all groups are read for them."""
        return array_namespace(slots).take(flat(self), slots)

    def without_slots(self, gone: Int[Array, " k"]) -> Topology:
        """Return, as CSR, the topology without the ascending slots `gone`."""
        return from_flat(self.shape, without(flat(self), gone))

    def with_slots(self, extra: Int[Array, " k"], places: Int[Array, " k"]) -> Topology:
        """Return, as CSR, the topology with the ascending flat positions `extra` added as the slots `places`."""
        return from_flat(self.shape, merged(flat(self), extra, places))

    @property
    def nbytes(self) -> int:
        """Bytes of the masks."""
        xp = array_namespace(self.masks)
        return self.masks.shape[0] * self.masks.shape[1] * xp.iinfo(self.masks.dtype).bits // 8


def grouped(topology: Topology, pattern: tuple[int, int]) -> NMTopology:
    """Return a topology with its groups as bit masks (TOP-005).

    Raises:
        TopologyError: TOP-005 if M does not divide the rows, is above 62, or a group stores more than N.
    """
    if isinstance(topology, NMTopology) and topology.pattern == pattern:
        return topology
    n_keep, width = pattern
    n_out, n_in = topology.shape
    if not 0 < n_keep <= width <= _WIDEST or n_in % width:
        raise TopologyError(
            "TOP-005", f"a {n_out}x{n_in} matrix has no groups of {n_keep}:{width}; M must divide {n_in}, 62 at most"
        )
    positions = flat(topology)
    xp = array_namespace(positions)
    on_device = device(positions)
    n_groups = n_out * (n_in // width)
    edges = xp.arange(n_groups + 1, dtype=xp.int64, device=on_device) * width
    edges = xp.astype(xp.searchsorted(positions, edges), xp.int64)
    most = int(xp.max(edges[1:] - edges[:-1])) if n_groups else 0
    if most > n_keep:
        raise TopologyError("TOP-005", f"a group of {width} stores {most}, {n_keep}:{width} allows {n_keep}")
    bits = xp.bitwise_left_shift(xp.ones_like(positions), positions % width)
    # a mask is the sum of the bits of its group; differences of the running sum are right even if it wraps around
    running = xp.concat([xp.zeros((1,), dtype=xp.int64, device=on_device), xp.cumulative_sum(bits)])
    masks = xp.take(running, edges[1:]) - xp.take(running, edges[:-1])
    kind = next(k for k, size in ((xp.uint8, 8), (xp.uint16, 16), (xp.uint32, 32), (xp.uint64, 64)) if width <= size)
    return NMTopology(
        topology.shape, pattern, xp.reshape(xp.astype(masks, kind), (n_out, n_in // width)), int(positions.shape[0])
    )
