"""What an event must know of one matrix: its evidence (chapter 6).

`evidence_of` is the definition: it scores every position. `gradients.evidence` finds the same row block by row
block. An event sees only the evidence.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float, Int

from seft_ref.arrays import Array, array_namespace, device
from seft_ref.errors import UpdateError
from seft_ref.topology import difference, union
from seft_ref.update.criteria import GROW, Known
from seft_ref.update.rules import GrowScope
from seft_ref.update.select import largest


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Scores of growth and what else the rule asks for; candidates are the strongest positions outside η, enough of
    them that no growth needs another.
    """

    support: Int[Array, " s"]
    """flat positions of S = B ∪ η, ascending"""
    slots: Int[Array, " d"]
    """flat positions of η, ascending"""
    scores: Float[Array, " d"]
    """of growth, on η: a position that is dropped may be grown again"""
    candidates: Int[Array, " c"]
    """flat positions outside η, ascending"""
    candidate_scores: Float[Array, " c"]
    gradient: Float[Array, " s"] | None = None
    """ḡ on the support, loss per unit of weight, if the rule looks at it there"""
    gradient_norm: float | None = None
    """of ḡ over all positions (TRN-009)"""
    square: Float[Array, " s"] | None = None
    """mean g² on the support"""
    candidate_gradient: Float[Array, " c"] | None = None
    candidate_square: Float[Array, " c"] | None = None
    inputs: Float[Array, " in_"] | None = None
    """h, mean square of the layer's inputs (GRD-006)"""
    steps: int = 1
    """A, the steps of the window"""
    again: Int[Array, " a"] | None = None
    """positions of η that may be grown again if they are dropped; None for all (GROW-006)"""


def evidence_of(
    gradient: Float[Array, "out in_"],
    base_positions: Int[Array, " b"],
    delta_positions: Int[Array, " d"],
    n: int,
    scope: GrowScope = "anywhere",
) -> Evidence:
    """Return the evidence of a whole gradient: its values on S, and its n largest outside η (GROW-001, SEL-001).

    n is capped by the number of candidates.
    """
    xp = array_namespace(gradient, base_positions)
    values = xp.reshape(gradient, (-1,))
    support = union(base_positions, delta_positions)
    everywhere = (
        xp.arange(values.shape[0], dtype=xp.int64, device=device(values)) if scope == "anywhere" else base_positions
    )
    outside = difference(everywhere, delta_positions)
    found = xp.take(values, outside)
    score = GROW["gradient"]
    chosen = largest(score(Known(gradient=found)), min(n, outside.shape[0]))
    at_support, at_candidates = xp.take(values, support), xp.take(found, chosen)
    return Evidence(
        support,
        delta_positions,
        score(Known(gradient=xp.take(values, delta_positions))),
        xp.take(outside, chosen),
        score(Known(gradient=at_candidates)),
        gradient=at_support,
        gradient_norm=math.sqrt(float(xp.vecdot(values, values))),
        candidate_gradient=at_candidates,
    )


def refuse_infinite(values: Array) -> None:
    """Refuse evidence that is not finite (EVT-005)."""
    xp = array_namespace(values)
    if not bool(xp.all(xp.isfinite(values))):
        raise UpdateError(
            "EVT-005", "the gradient of this event holds NaN or infinity; lower the learning rate or clip"
        )
