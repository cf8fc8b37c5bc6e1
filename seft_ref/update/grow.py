"""Grow: positions with the largest gradient come.

`snapshot_of` is the definition: it looks at a whole gradient. `gradients.snapshot` finds the same candidates
row block by row block. A rule sees only the snapshot.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int

from seft_ref.arrays import Array, array_namespace, device
from seft_ref.topology import difference, find, outside, union
from seft_ref.update.select import largest

GrowScope = Literal["anywhere", "active"]


@dataclass(frozen=True, slots=True, eq=False)
class GradientSnapshot:
    """What an event must know of the gradient of one matrix (EVT-002).

    candidates are the strongest positions outside η, enough of them that no growth needs another.
    """

    support: Int[Array, " s"]
    """flat positions of S = B ∪ η, ascending"""
    support_gradient: Float[Array, " s"]
    candidates: Int[Array, " c"]
    """flat positions outside η, ascending"""
    candidate_gradient: Float[Array, " c"]


def snapshot_of(
    gradient: Float[Array, "out in_"],
    base_positions: Int[Array, " b"],
    delta_positions: Int[Array, " d"],
    n: int,
    scope: GrowScope = "anywhere",
) -> GradientSnapshot:
    """Return the snapshot of a whole gradient: its values on S, and its n largest outside η (GROW-001, SEL-001).

    The definition: it holds a score for every position. n is capped by the number of candidates.
    """
    xp = array_namespace(gradient, base_positions)
    values = xp.reshape(gradient, (-1,))
    support = union(base_positions, delta_positions)
    everywhere = (
        xp.arange(values.shape[0], dtype=xp.int64, device=device(values)) if scope == "anywhere" else base_positions
    )
    outside = difference(everywhere, delta_positions)
    found = xp.take(values, outside)
    chosen = largest(xp.abs(found), min(n, outside.shape[0]))
    return GradientSnapshot(support, xp.take(values, support), xp.take(outside, chosen), xp.take(found, chosen))


def candidates_again(
    dropped: Int[Array, " k"], base_positions: Int[Array, " b"], scope: GrowScope = "anywhere"
) -> Int[Array, " m"]:
    """Return the dropped positions that may be grown at once: all, or those in B with scope active (GROW-001)."""
    return dropped if scope == "anywhere" else dropped[~outside(dropped, base_positions)]


def grow(snapshot: GradientSnapshot, dropped: Int[Array, " k"], n: int) -> Int[Array, " n"]:
    """Return the positions of the n largest |ḡ| among the candidates and the dropped positions, ascending
    (GROW-001, GROW-002).

    Shapes  dropped (k,) flat positions in S; result (min(n, candidates + k),)
    Raises  UpdateError SEL-004 for a NaN or infinite gradient
    """
    xp = array_namespace(snapshot.candidates, dropped)
    where, _ = find(snapshot.support, dropped)
    positions = xp.concat([snapshot.candidates, dropped])
    gradient = snapshot.candidate_gradient
    if dropped.shape[0]:
        gradient = xp.concat([gradient, xp.take(snapshot.support_gradient, where)])
    order = xp.argsort(positions)
    positions, gradient = xp.take(positions, order), xp.take(gradient, order)
    return xp.take(positions, largest(xp.abs(gradient), min(n, positions.shape[0])))
