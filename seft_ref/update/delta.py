"""The state of one target matrix: a base that only shrinks, a delta that moves, and the weight they make together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int

from seft_ref.arrays.count import count
from seft_ref.arrays.library import Array, array_namespace, device, mask_at, spread, with_values
from seft_ref.arrays.sorted import merged, merged_at, seek, without
from seft_ref.topology.change import change, realign
from seft_ref.topology.csr import Topology, flat, from_flat

ADAMW_KEEPS = ("first_moment", "second_moment", "age")


@runtime_checkable
class Extent(Protocol):
    """The sizes from which a delta budget is computed; a topology, a base and `Stored` have them."""

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix."""

    @property
    def nnz(self) -> int:
        """Number of stored positions."""

    @property
    def numel(self) -> int:
        """Number of positions of the dense matrix."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The sizes of a matrix at load, which need not be in memory."""

    shape: tuple[int, int]
    nnz: int

    @property
    def numel(self) -> int:
        """Number of positions of the dense matrix."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """Pruned base weights: topology B and values b in slot order."""

    topology: Topology
    values: Float[Array, " nnz"]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix."""
        return self.topology.shape

    @property
    def nnz(self) -> int:
        """Number of stored weights."""
        return self.topology.nnz

    @property
    def numel(self) -> int:
        """Number of positions of the dense matrix."""
        return self.topology.numel

    @property
    def held_in(self) -> None:
        """None, because the values have the dtype of computation; a packed base may be 16-bit or codes (CKP-008)."""
        return None

    def open(self) -> "Base":
        """Return itself, because nothing is packed here."""
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Delta:
    """A sparse update of one matrix: topology η, values φ, and the state of the optimizer."""

    topology: Topology
    values: Float[Array, " d"]
    kept: Mapping[str, Array]
    """arrays in slot order, moved with the slots (CHG-002): first_moment, second_moment, momentum, origin in the
    dtype of the values; age, int32: optimizer steps that the slot has taken"""
    shared: Mapping[str, Array] = field(default_factory=dict)
    """arrays of the matrix that no event moves: SM3's rows (out,) and columns (in,)"""


def base_without(base: Base, positions: Int[Array, " n"]) -> tuple[Base, Int[Array, " m"]]:
    """Return the base without the sorted flat positions, and which of these it stored (DROP-004, ADPT-004)."""
    slots, present = base.topology.seek(positions)
    gone = slots[present]
    return Base(base.topology.without_slots(gone), without(base.values, gone)), positions[present]


def budget_by_numel(density: float, extent: Extent) -> int:
    """Return d_φ as a fraction of all positions, at most K (DLT-002)."""
    return min(count(density * extent.shape[0] * extent.shape[1]), extent.nnz)


def budget_by_nnz(density: float, extent: Extent) -> int:
    """Return d_φ as a fraction of the stored weights (DLT-002)."""
    return min(count(density * extent.nnz), extent.nnz)


def budget_by_count(slots: int, total: int, extent: Extent) -> int:
    """Return a matrix's share of `slots` slots, in proportion to its positions among `total`, at most K (DLT-002)."""
    return min(slots * extent.numel // total, extent.nnz)


def budget_by_rank(rank: int, extent: Extent) -> int:
    """Return the number of parameters of a LoRA adapter of that rank, at most K (DLT-002)."""
    return min(rank * (extent.shape[0] + extent.shape[1]), extent.nnz)


def new_delta(
    shape: tuple[int, int],
    positions: Int[Array, " d"],
    like: Float[Array, "..."],
    keeps: tuple[str, ...] = ADAMW_KEEPS,
    shares: Mapping[str, int] | None = None,
) -> Delta:
    """Return a delta of zeros at sorted flat positions, in the dtype and on the device of `like` (DLT-005).

    keeps   names of the arrays in slot order: the optimizer's, and "origin" where drop scores by change
    shares  names and lengths of the arrays of the whole matrix, such as SM3's
    """
    xp = array_namespace(positions, like)
    target_device = device(like)
    return Delta(
        from_flat(shape, positions),
        xp.zeros(positions.shape, dtype=like.dtype, device=target_device),
        {
            name: xp.zeros(positions.shape, dtype=xp.int32 if name == "age" else like.dtype, device=target_device)
            for name in keeps
        },
        {name: xp.zeros((length,), dtype=like.dtype, device=target_device) for name, length in (shares or {}).items()},
    )


def move_delta(delta: Delta, positions: Int[Array, " n"], seeds: Mapping[str, Array] | None = None) -> Delta:
    """Return the delta moved to other sorted flat positions (CHG-002, DLT-005, DLT-006).

    A slot that stays keeps its value and its optimizer state; a new one starts from zero or from its seeds.

    seeds  by name, one entry for each new slot in order of position
    """
    moved = change(delta.topology, from_flat(delta.topology.shape, positions))
    xp = array_namespace(moved.source)
    slot_state = {name: realign(array, moved) for name, array in delta.kept.items()}
    if seeds:
        (new,) = xp.nonzero(moved.source < 0)
        n = moved.source.shape[0]
        fresh = mask_at(n, new)
        for name, values in seeds.items():
            slot_state[name] = xp.where(
                fresh, spread(xp.astype(values, slot_state[name].dtype), new, n), slot_state[name]
            )
    return Delta(moved.new, realign(delta.values, moved), slot_state, delta.shared)


@dataclass(frozen=True, slots=True, eq=False)
class Overlay:
    """A delta over its base: the support S = B ∪ η and the weight b + φ on it, rounded once (DLT-003)."""

    weight: Float[Array, " s"]
    """in order of position"""
    slots: Int[Array, " d"]
    """index of each slot of η in the support"""
    inside: Bool[Array, " d"]
    """which slots the base stores"""
    under: Float[Array, " d"]
    """base values under the slots, 0 where the base stores nothing"""
    base: Topology
    """B"""
    extra: Int[Array, " e"]
    """flat positions of η outside B"""
    places: Int[Array, " e"]
    """index in the support of each position of `extra`"""

    def positions(self) -> Int[Array, " s"]:
        """Return the flat positions of the support, ascending."""
        return merged(flat(self.base), self.extra, self.places)

    def positions_at(self, indices: Int[Array, " k"]) -> Int[Array, " k"]:
        """Return the flat positions of these entries of the support, without computing those of all entries."""
        if not self.extra.shape[0]:
            return self.base.positions_at(indices)
        return merged_at(flat(self.base), self.extra, self.places, indices)


def overlay(base: Base, delta: Delta) -> Overlay:
    """Return the support S = B ∪ η and the weight on it, with a single look-up of η in B (DLT-003)."""
    xp = array_namespace(base.values, delta.values)
    eta = flat(delta.topology)
    before, inside = base.topology.seek_slots(delta.topology)
    new = xp.astype(~inside, xp.int64)
    slots = before + xp.cumulative_sum(new) - new
    extra, places = eta[~inside], slots[~inside]
    under = values_where(base.values, before, inside)
    # DLT-003: off the slots the base is copied and not added to 0, because −0.0 + 0 would be +0.0
    weight = merged(base.values, under[~inside], places)
    weight = with_values(weight if extra.shape[0] else xp.asarray(weight, copy=True), slots, under + delta.values)
    return Overlay(weight, slots, inside, under, base.topology, extra, places)


def support_topology(base: Base, over: Overlay) -> Topology:
    """Return the support S = B ∪ η as a topology; `over` is `overlay(base, delta)`."""
    return base.topology.with_slots(over.extra, over.places)


def effective(base: Base, delta: Delta) -> tuple[Topology, Float[Array, " s"]]:
    """Return the support S = B ∪ η and the weight b + φ on it, rounded once (DLT-003).

    Shapes  values (nnz of the union,)
    Dtypes  that of the base values
    """
    over = overlay(base, delta)
    return support_topology(base, over), over.weight


def values_at(stored: Int[Array, " m"], values: Float[Array, " m"], positions: Int[Array, " n"]) -> Float[Array, " n"]:
    """Return the values stored at sorted flat positions, 0 where nothing is stored."""
    return values_where(values, *seek(stored, positions))


def values_where(
    values: Float[Array, " m"], indices: Int[Array, " n"], present: Bool[Array, " n"]
) -> Float[Array, " n"]:
    """Return the values at the indices that are present, 0 for the others."""
    xp = array_namespace(values, indices)
    zeros = xp.zeros(indices.shape, dtype=values.dtype, device=device(values))
    if not values.shape[0]:
        return zeros
    return xp.where(present, xp.take(values, xp.where(present, indices, xp.zeros_like(indices))), zeros)
