"""The sparse state of one matrix: base, delta and budgets, and where the delta lies in the packed weight."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float, Int

from seft_ref.arrays.finite import refuse_spoilt, refuse_unstorable
from seft_ref.arrays.library import Array, array_namespace
from seft_ref.kernels import KernelSet, Packed
from seft_ref.kernels.held import Held, as_multiplied
from seft_ref.matrix.bases import AnyBase, compacted, merged
from seft_ref.model.weights import Weights, matrix_of, with_matrices
from seft_ref.update.delta import Delta

__all__ = ["Target", "check_targets", "place", "refresh"]


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """The sparse state of one matrix, and where its delta lies in the packed weight."""

    base: AnyBase
    delta: Delta
    budget: int
    """K, the stored weights at load (DLT-001)"""
    delta_budget: int
    """d_φ, the most slots of the delta (DLT-002)"""
    where: Int[Array, " d"]
    """places of the slots in the packed weight (KRN-012)"""
    under: Float[Array, " d"]
    """base values under the slots, 0 where the base has none"""
    lost: Int[Array, " n"]
    """flat positions that were stored at load and have left the base, ascending"""
    row_budget: Int[Array, " out"] | None = None
    """K of each row, with scope row"""
    row_delta_budget: Int[Array, " out"] | None = None
    """slots of each row at the start, with scope row (EVT-009)"""

    def support_size(self) -> int:
        """Return |S|, S = B ∪ η."""
        base = self.base.open()
        _, present = base.topology.seek_slots(self.delta.topology)
        xp = array_namespace(present)
        return base.nnz + self.delta.topology.nnz - int(xp.sum(xp.astype(present, xp.int64)))


def place(
    base: AnyBase,
    delta: Delta,
    kernels: KernelSet,
    held_in: Held | None = None,
    beside: Int[Array, " n"] | None = None,
    **memory: Packed,
) -> tuple[AnyBase, Packed, Int[Array, " d"], Float[Array, " d"]]:
    """Pack the effective weight of a matrix; return its base, the packed weight, and `where` and `under` of a Target.

    The returned base is stored in the packed weight if the kernel set can unpack it (DLT-003).

    held_in  16-bit dtype or codes in which the base is stored; None for the dtype of computation (CKP-008)
    beside   flat positions of base weights that no code represents exactly; None if there are none
    memory   `loaded` or `spent`, which `merged` and `compacted` explain
    """
    if held_in is None:
        return merged(base.open(), delta, kernels, **memory)
    return compacted(base.open(), delta, held_in, kernels, beside=beside, **memory)


def refresh(weights: Weights, targets: Mapping[str, Target], kernels: KernelSet) -> Weights:
    """Return the weights after storing base plus delta, rounded once, at every slot of every target (DLT-003).

    In a run that stays on a grid, the stored values are rounded onto it (QNT-011).
    """
    packed = {}
    for name, target in targets.items():
        values = as_multiplied(target.under + target.delta.values, target.base.held_in, target.delta.topology)
        packed[name] = kernels.store(matrix_of(weights, name), target.where, values)
    return with_matrices(weights, packed)


def check_targets(targets: Mapping[str, Target], step: int, limits: Mapping[str, float]) -> None:
    """Refuse targets that a step has left with NaN, infinity, or a weight too large for the dtype of its file.

    limits  name of a matrix -> the smallest magnitude that the dtype of its file rounds to infinity
    Raises  UpdateError TRN-007, CheckpointError CKP-010
    """
    for name, target in targets.items():
        delta = target.delta
        effective_values = target.under + delta.values
        refuse_spoilt(step, name, {"values": delta.values, "weights": effective_values, **delta.kept, **delta.shared})
        # the slots suffice, because no other weight changes
        if name in limits:
            refuse_unstorable(step, name, effective_values, limits[name])
