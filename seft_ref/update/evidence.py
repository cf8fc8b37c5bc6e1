"""The evidence of one matrix: the scores and gradient statistics that an event reads (chapter 6).

`seft_ref.matrix.evidence` computes it, a block of rows at a time. Arrays on the support S = B ∪ η are in order of flat
position.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float, Int

from seft_ref.arrays.library import Array, array_namespace, binary64, overflow_allowed
from seft_ref.errors import UpdateError

_ROW = 256
"""Squares that are summed in float32 before the sum goes on in binary64; the rounding stays below 1e-5."""
_PIECE = 15 << 10
"""Numbers that are widened to binary64 at once, few enough to stay in cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """The scores of growth, and the other statistics that the rule asks for; None where it does not.

    The candidates are the strongest positions outside η. There are enough of them for any growth of the event.
    """

    slots: Int[Array, " d"]
    """flat positions of η, ascending; empty if nothing grows any more"""
    scores: Float[Array, " d"]
    """growth scores on η, because a dropped position may be grown again"""
    candidates: Int[Array, " c"]
    """flat positions outside η, ascending"""
    candidate_scores: Float[Array, " c"]
    gradient: Float[Array, " s"] | None = None
    """ḡ on the support, loss per unit of weight, if the rule reads it there"""
    gradient_norm: float | None = None
    """norm of ḡ over all positions, binary64 (TRN-009)"""
    absolute: Float[Array, " s"] | None = None
    """mean |g| on the support"""
    square: Float[Array, " s"] | None = None
    """mean g² on the support"""
    tokens: Float[Array, " s"] | None = None
    """sum of the squared gradients of single tokens, mean over steps, on the support (GRD-008)"""
    candidate_gradient: Float[Array, " c"] | None = None
    candidate_square: Float[Array, " c"] | None = None
    inputs: Float[Array, " in_"] | None = None
    """h, mean square of the layer's inputs (GRD-006)"""
    steps: int = 1
    """A, the steps of the window"""
    again: Int[Array, " a"] | None = None
    """positions of η that may be grown again if they are dropped; None for all (GROW-006)"""


def refuse_infinite(values: Array) -> None:
    """Refuse evidence with a NaN or infinite entry by raising UpdateError EVT-005."""
    xp = array_namespace(values)
    if not bool(xp.all(xp.isfinite(values))):
        raise _refusal()


def finite_norm(values: Float[Array, " n"]) -> float:
    """Return the Euclidean norm, within a relative 1e-5 even where squares over- or underflow the dtype (TRN-009).

    Raises:
        UpdateError: EVT-005 if an entry is NaN or infinite, or the norm too large for binary64.
    """
    xp = array_namespace(values)
    if not values.shape[0]:
        return 0.0
    if values.dtype == xp.float32:
        n = values.shape[0] // _ROW * _ROW
        in_rows = xp.reshape(values[:n], (-1, _ROW))
        rest = binary64(values[n:])
        with overflow_allowed():
            total = float(binary64(xp.vecdot(in_rows, in_rows)).sum()) + float(rest @ rest)
        # no square has overflowed in this range, and squares that underflowed are too small to matter
        if values.shape[0] * 2.0**-100 < total < math.inf:
            return math.sqrt(total)
    largest = max(float(xp.max(values)), -float(xp.min(values)))
    if largest == 0:
        return 0.0
    n, total = values.shape[0], 0.0
    for start in range(0, n if math.isfinite(largest) else 0, _PIECE):
        piece = binary64(values[start : min(start + _PIECE, n)]) / largest
        total += float(piece @ piece)
    norm = largest * math.sqrt(total)
    if not math.isfinite(norm):
        raise _refusal()
    return norm


def _refusal() -> UpdateError:
    return UpdateError("EVT-005", "the gradient of this event holds NaN or infinity; lower the learning rate or clip")
