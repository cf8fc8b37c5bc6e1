"""Merges an update into a quantised matrix: as weights beside the codes, or as new codes (QNT-006, QNT-007)."""

from dataclasses import dataclass, replace

from jaxtyping import Bool, Float

from seft_ref.arrays.library import Array, array_namespace
from seft_ref.errors import QuantiseError
from seft_ref.quantise.grid import Quantised, codes_of, unclamped, weights_at
from seft_ref.topology.csr import Topology, find, flat

GRID_EXACT = "grid-exact"
MODES = ("beside", "grid", GRID_EXACT)
"""Where an update goes: beside the codes, into them at the end, or into them in every step."""


def check_merge(merge: str) -> None:
    """Refuse an unknown mode.

    Raises:
        QuantiseError: QNT-006.
    """
    if merge not in MODES:
        raise QuantiseError("QNT-006", f"merge is {merge!r}; choose one of {', '.join(MODES)}")


@dataclass(frozen=True, slots=True)
class Counts:
    """How many weights an update changed, and how many of these a grid lost or clamped (QNT-007.4)."""

    changed: int = 0
    """positions whose weight differs from that of their code, or that had no code"""
    vanished: int = 0
    """changed positions whose code is the same as before"""
    saturated: int = 0
    """changed positions whose weight lies beyond the range of the codes"""

    def __str__(self) -> str:
        """The counts in words."""
        if not self.vanished and not self.saturated:
            return f"{self.changed:,} weights are not those of the codes"
        lost = f"{self.vanished:,} have the code of before, {self.saturated:,} were beyond the codes"
        return f"{self.changed:,} weights rounded into the grid: {lost}"

    def __add__(self, other: "Counts") -> "Counts":
        """Return the counts of two matrices together."""
        return Counts(self.changed + other.changed, self.vanished + other.vanished, self.saturated + other.saturated)


def beside(
    matrix: Quantised, support: Topology, values: Float[Array, " n"]
) -> tuple[Quantised, Bool[Array, " n"], Counts]:
    """Return the codes that stay stored, for each slot of the support whether its weight stands beside them, and counts
    (QNT-006).

    values  the effective weights, (n,) in slot order of the support, in the dtype of computation
    Raises  QuantiseError QNT-006 for a weight that is not finite
    """
    xp = array_namespace(values)
    if not bool(xp.all(xp.isfinite(values))):
        raise QuantiseError("QNT-006", "an effective weight is NaN or infinite; lower the learning rate and train anew")
    codes, coded = _codes_at(matrix, support)
    stand_for = weights_at(codes, *matrix.parts_at(support), values.dtype)
    # −0.0 differs from every code, because no code stands for it and weights are compared bit for bit
    differs = ~coded | (stand_for != values) | ((values == 0) & xp.signbit(values))
    _, stays = find(flat(support), flat(matrix.topology))
    remaining_codes = replace(
        matrix,
        topology=matrix.topology.without_slots(xp.nonzero(~stays)[0]),
        codes=matrix.codes[stays],
    )
    return remaining_codes, differs, Counts(_sum(differs))


def in_grid(matrix: Quantised, support: Topology, values: Float[Array, " n"]) -> tuple[Quantised, Counts]:
    """Return codes of the effective weights on their support, with the same scales and zero points, and counts
    (QNT-007).

    values  as for `beside`
    """
    xp = array_namespace(values)
    _, differs, counts = beside(matrix, support, values)
    before, _ = _codes_at(matrix, support)
    scales, zeros = matrix.parts_at(support)
    codes = xp.where(differs, codes_of(values, scales, zeros, matrix.grid), before)
    free = unclamped(values, scales, zeros)
    beyond = (free < matrix.grid.lowest) | (free > matrix.grid.highest)
    counts = replace(counts, vanished=_sum(differs & (codes == before)), saturated=_sum(differs & beyond))
    return replace(matrix, topology=support, codes=codes), counts


def _codes_at(matrix: Quantised, support: Topology) -> tuple[Array, Bool[Array, " n"]]:
    """Return the code at each slot of a support, or the zero point where there is none, and whether there is a code."""
    xp = array_namespace(matrix.codes)
    _, zeros = matrix.parts_at(support)
    indices, coded = find(flat(matrix.topology), flat(support))
    if not matrix.codes.shape[0] or not support.nnz:
        return zeros, coded
    return xp.where(coded, xp.take(matrix.codes, indices), zeros), coded


def _sum(mask: Bool[Array, " n"]) -> int:
    xp = array_namespace(mask)
    return int(xp.sum(xp.astype(mask, xp.int64)))
