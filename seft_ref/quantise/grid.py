"""The grid of a quantised matrix: scales and zero points of groups of columns, and codes on them (QNT-001 to QNT-004).

    weight = (code - zero point) * scale          code = clamp(round(weight / scale) + zero point)

    int4, groups of 2 columns     codes  [ 7 . | . 3 ]     scales [ 0.5  2 ]     weights [ 3.5 . | . 6 ]

A position without a code (".") is pruned. A code that equals its zero point is a stored weight of 0.
"""

import re
from dataclasses import dataclass, replace
from itertools import pairwise

from jaxtyping import Float, Int, Int8

from seft_ref.arrays.library import Array, Dtype, array_namespace, device, mask_at, overflow_allowed, repeat_each
from seft_ref.errors import QuantiseError
from seft_ref.topology.csr import Topology, flat, from_flat

_PIECE = 1 << 20
"""The number of slots that are computed at a time, about."""
_TEXT = re.compile(r"int([48])(?::g([1-9][0-9]{0,9}))?(:asym)?")
_MOST_COLUMNS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid to round a matrix onto: bits of a code, columns of a group, whether zero points are 0 (QNT-001)."""

    bits: int
    """4 or 8"""
    group: int = 0
    """columns of a group; 0 if a whole row is one group"""
    symmetric: bool = True

    @property
    def lowest(self) -> int:
        """The smallest code."""
        return -(1 << (self.bits - 1))

    @property
    def highest(self) -> int:
        """The largest code."""
        return (1 << (self.bits - 1)) - 1

    def columns(self, n_in: int) -> int:
        """Return how many columns a group has in a matrix with rows of n_in columns.

        Raises:
            QuantiseError: QNT-001 if groups do not divide a row.
        """
        if self.group and n_in % self.group:
            raise QuantiseError(
                "QNT-001", f"a row of {n_in} columns has no whole number of groups of {self.group}; choose a divisor"
            )
        return self.group or max(n_in, 1)

    def __str__(self) -> str:
        """The text that `parse_grid` reads."""
        return f"int{self.bits}" + (f":g{self.group}" if self.group else "") + ("" if self.symmetric else ":asym")


def parse_grid(text: str) -> Grid:
    """Return the grid of a text: int4 or int8, then :gN for groups of N columns, then :asym for zero points.

    Raises:
        QuantiseError: QNT-001.
    """
    match = _TEXT.fullmatch(text)
    if not match or int(match[2] or 0) > _MOST_COLUMNS:
        raise QuantiseError(
            "QNT-001",
            f"grid {text[:40]!r} is unknown; write int4 or int8, then :g64 for groups of 64 columns, then :asym",
        )
    return Grid(int(match[1]), int(match[2] or 0), not match[3])


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """A matrix of codes on a grid (QNT-001)."""

    grid: Grid
    topology: Topology
    """the support B"""
    codes: Int8[Array, " nnz"]
    """int8, in slot order"""
    scales: Float[Array, "out groups"]
    """float32, above 0"""
    zeros: Int8[Array, "out groups"]
    """int8; 0 on a symmetric grid"""
    exact: bool = False
    """whether a run rounds the weights that it trains onto the grid in every step (QNT-011)"""

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.grid.bits

    @property
    def columns(self) -> int:
        """Columns of a group."""
        return self.grid.columns(self.topology.shape[1])

    @property
    def symmetric(self) -> bool:
        """Whether all zero points are 0."""
        return self.grid.symmetric

    def bare(self, scales: Float[Array, "out groups"], zeros: Int8[Array, "out groups"]) -> "Quantised":
        """Return the same grid without codes; `scales` and `zeros` are copies of its own, in another memory order."""
        xp = array_namespace(self.codes)
        nothing = from_flat(self.topology.shape, xp.zeros((0,), dtype=xp.int64, device=device(self.codes)))
        # a new array and no view, because a view would keep all codes in memory, or the file that they are mapped from
        none = xp.zeros((0,), dtype=xp.int8, device=device(self.codes))
        return replace(self, topology=nothing, codes=none, scales=scales, zeros=zeros)

    def at(self, topology: Topology, codes: Int8[Array, " n"]) -> "Quantised":
        """Return the given codes at the slots of a topology of the same shape, with the scales of this grid."""
        return replace(self, topology=topology, codes=codes)

    def holding(self, topology: Topology, values: Float[Array, " n"]) -> "Quantised":
        """Return values at the slots of a topology as codes, rounded with the scales of this grid (QNT-004)."""
        return self.at(topology, codes_of(values, *self.parts_at(topology), self.grid))

    def weights(self) -> Float[Array, " nnz"]:
        """Return the weights that the codes stand for, in slot order, float32 (QNT-002)."""
        return weights_of(self, array_namespace(self.scales).float32)

    def rows(self, first: int, last: int) -> "Quantised":
        """Return rows first to last as a matrix."""
        n_out, n_in = self.topology.shape
        if (first, last) == (0, n_out):
            return self
        indptr = self.topology.indptr[first : last + 1]
        begin, end = int(indptr[0]), int(indptr[-1])
        topology = Topology((last - first, n_in), indptr - indptr[0], self.topology.indices[begin:end])
        scales, zeros = self.scales[first:last, :], self.zeros[first:last, :]
        return replace(self, topology=topology, codes=self.codes[begin:end], scales=scales, zeros=zeros)

    def parts_at(self, topology: Topology) -> tuple[Float[Array, " n"], Int8[Array, " n"]]:
        """Return scale and zero point of each slot of a topology of the same shape."""
        xp = array_namespace(self.scales)
        group = groups_of(topology, self.grid)
        if not group.shape[0]:
            return xp.reshape(self.scales, (-1,))[:0], xp.reshape(self.zeros, (-1,))[:0]
        return xp.take(xp.reshape(self.scales, (-1,)), group), xp.take(xp.reshape(self.zeros, (-1,)), group)


def groups_of(topology: Topology, grid: Grid) -> Int[Array, " nnz"]:
    """Return for each slot the number of its group, counted row by row.

    Raises:
        QuantiseError: QNT-001 if groups do not divide a row.
    """
    n_in = topology.shape[1]
    size = grid.columns(n_in)
    xp, indptr = array_namespace(topology.indptr), topology.indptr
    rows = xp.arange(topology.shape[0], dtype=xp.int64, device=device(indptr))
    return repeat_each(rows, indptr[1:] - indptr[:-1]) * (n_in // size) + topology.indices // size


def weights_of(matrix: Quantised, dtype: Dtype) -> Float[Array, " nnz"]:
    """Return the weights that codes stand for, in slot order, each rounded once to dtype (QNT-002).

    A few rows are computed at a time, because a slot takes fifty bytes on the way.
    """
    n_out, n_pieces = matrix.topology.shape[0], max(1, matrix.topology.nnz // _PIECE)
    edges = [n_out * i // n_pieces for i in range(n_pieces + 1)]
    pieces = [matrix.rows(first, last) for first, last in pairwise(edges)]
    weights = [weights_at(piece.codes, *piece.parts_at(piece.topology), dtype) for piece in pieces]
    return weights[0] if n_pieces == 1 else array_namespace(matrix.codes).concat(weights)


def weights_at(codes: Array, scales: Array, zeros: Array, dtype: Dtype) -> Array:
    """Return (code - zero point) * scale entry by entry, rounded once to dtype (QNT-002)."""
    xp = array_namespace(codes, scales)
    steps = xp.astype(codes, xp.float64) - xp.astype(zeros, xp.float64)
    # steps have 9 bits and scales 24, so that their product is exact in binary64
    return xp.astype(steps * xp.astype(scales, xp.float64), dtype)


def nearest(weight: Float[Array, "out in"], topology: Topology, grid: Grid) -> Quantised:
    """Return a matrix with each stored weight rounded to the nearest code (QNT-003, QNT-004).

    weight   values outside the topology are ignored
    Raises   QuantiseError QNT-001 for a row that groups do not divide, QNT-003 for a weight that is not finite or
             needs a scale beyond float32
    """
    xp = array_namespace(weight)
    wide = only_stored(weight, topology)
    scales, zeros = scales_of(wide, grid, grid.columns(weight.shape[1]))
    bare = Quantised(grid, topology, xp.zeros((0,), dtype=xp.int8, device=device(weight)), scales, zeros)
    own, zero = bare.parts_at(topology)
    values = at_slots(wide, topology)
    # QNT-003.3: all weights of a group whose scale underflowed become 0
    codes = codes_of(
        xp.where(own > 0, values, xp.zeros_like(values)), xp.where(own > 0, own, xp.ones_like(own)), zero, grid
    )
    return replace(bare, codes=codes, scales=declared(scales))


def only_stored(weight: Float[Array, "out in"], topology: Topology) -> Float[Array, "out in"]:
    """Return the weights in binary64, 0 where nothing is stored."""
    xp = array_namespace(weight)
    stored = xp.reshape(mask_at(topology.numel, flat(topology)), weight.shape)
    return xp.astype(xp.where(stored, weight, xp.zeros_like(weight)), xp.float64)


def at_slots(matrix: Array, topology: Topology) -> Array:
    """Return the entries of a matrix, (out, in), at the slots of a topology, (nnz,)."""
    xp = array_namespace(matrix)
    entries = xp.reshape(matrix, (-1,))
    return xp.take(entries, flat(topology)) if topology.nnz else entries[:0]


@overflow_allowed()
def scales_of(weight: Float[Array, "out n"], grid: Grid, size: int) -> tuple[Array, Array]:
    """Return the scales of groups, float32 (out, groups), and their zero points, int8 (QNT-003).

    A group whose weights are all 0 gets the scale 0 here; `declared` replaces it.

    weight  binary64, 0 where nothing is stored; n is a multiple of size
    Raises  QuantiseError QNT-003 for a weight that is not finite, or a code beyond float32
    """
    xp = array_namespace(weight)
    n_out, n = weight.shape
    none = xp.zeros((n_out, n // size), dtype=xp.float64, device=device(weight))
    if not n_out or not n:
        return xp.astype(none, xp.float32), xp.astype(none, xp.int8)
    if not bool(xp.all(xp.isfinite(weight))):
        raise QuantiseError("QNT-003", "a weight is NaN or infinite; repair the model before it is quantised")
    groups = xp.reshape(weight, (n_out, n // size, size))
    low, high = xp.minimum(xp.min(groups, axis=2), none), xp.maximum(xp.max(groups, axis=2), none)
    wide = xp.maximum(-low, high) / grid.highest if grid.symmetric else (high - low) / (grid.highest - grid.lowest)
    scales = xp.astype(wide, xp.float32)
    # QNT-003.5: `farthest` is the magnitude of the weight of the code that is farthest from the zero point
    farthest = xp.astype(scales, xp.float64) * (-grid.lowest if grid.symmetric else grid.highest - grid.lowest)
    if not bool(xp.all(farthest <= xp.finfo(xp.float32).max)):
        raise QuantiseError("QNT-003", "a weight is near the largest of float32, and codes beyond; make it smaller")
    if grid.symmetric:
        return scales, xp.astype(none, xp.int8)
    divisor = xp.astype(xp.where(scales > 0, scales, xp.ones_like(scales)), xp.float64)
    zeros = xp.clip(xp.round(-low / divisor) + grid.lowest, grid.lowest, grid.highest)
    return scales, xp.astype(xp.where(scales > 0, zeros, none), xp.int8)


def declared(scales: Float[Array, "out groups"]) -> Float[Array, "out groups"]:
    """Return the scales with each 0 replaced by the largest scale of its row, or by 1 if that is 0 too (QNT-003.3)."""
    xp = array_namespace(scales)
    if not scales.shape[0] or not scales.shape[1]:
        return scales
    largest = xp.max(scales, axis=1, keepdims=True)
    largest = xp.where(largest > 0, largest, xp.ones_like(largest))
    return xp.where(scales > 0, scales, largest)


def codes_of(weight: Array, scales: Array, zeros: Array, grid: Grid) -> Int8[Array, "..."]:
    """Return the codes of weights, entry by entry (QNT-004)."""
    xp = array_namespace(weight, scales)
    return xp.astype(xp.clip(unclamped(weight, scales, zeros), grid.lowest, grid.highest), xp.int8)


@overflow_allowed()
def unclamped(weight: Array, scales: Array, zeros: Array) -> Float[Array, "..."]:
    """Return round(weight / scale) + zero point in binary64, ties to even, not clamped to the codes (QNT-004)."""
    xp = array_namespace(weight, scales)
    return xp.round(xp.astype(weight, xp.float64) / xp.astype(scales, xp.float64)) + xp.astype(zeros, xp.float64)
