"""Drop: take the slots with the smallest scores out of the delta (DROP-001)."""

from collections.abc import Sequence

from jaxtyping import Int

from seft_ref.arrays.library import Array, array_namespace
from seft_ref.topology.csr import difference, flat, outside, union
from seft_ref.update.criteria import DROP, USE_DROP, Chance, Known
from seft_ref.update.delta import values_at
from seft_ref.update.parts import Part, on_support
from seft_ref.update.pools import Counts, Pools
from seft_ref.update.rules import Rule
from seft_ref.update.select import Boundary, selection


def drop(
    parts: Sequence[Part], pools: Pools, n: Counts, rule: Rule, chance: Chance
) -> tuple[list[Array], Boundary | None]:
    """Return the flat positions that each part drops, ascending, and the boundary of the selection.

    The slots with the smallest scores are dropped, of equal scores the lower position (DROP-001, DROP-003).

    n  how many slots each pool drops (SCH-002)

    Raises:
        UpdateError: SEL-004 for a NaN or infinite score, SEL-005 if n exceeds the slots.
    """
    slots = [flat(part.delta.topology) for part in parts]
    scores = [_scores(part, rule, chance) for part in parts]
    selected, boundary = pools.slots.select(scores, slots, n)
    return [array_namespace(at).take(at, chosen) for at, chosen in zip(slots, selected, strict=True)], boundary


def replaced(
    part: Part, dropped: Int[Array, " n"], grown: Int[Array, " m"], pools: Pools, rule: Rule, chance: Chance
) -> Int[Array, " k"]:
    """Return the dropped positions that leave or are cancelled; the other dropped positions stay (GROW-006).

    If fewer new positions come than dropped positions stay away, only the weakest of those leave, so that the delta
    keeps its size.
    """
    slots = flat(part.delta.topology)
    back = dropped[~outside(dropped, grown)]
    away = difference(dropped, grown)
    fresh = grown.shape[0] - back.shape[0]
    n_leave = min(away.shape[0], max(0, fresh - (int(pools.delta_budgets[0][0]) - slots.shape[0])))
    scores = _scores(part, rule, chance)[~outside(slots, away)]
    chosen = selection(scores, n_leave).indices
    return union(back, array_namespace(away).take(away, chosen))


def _scores(part: Part, rule: Rule, chance: Chance) -> Array:
    """Return the score of every slot (DROP-003)."""
    operands = Known(value=part.delta.values)
    if rule.drop == "change":
        operands = Known(value=part.delta.values, origin=part.delta.kept["origin"])
    elif rule.drop == "fisher":
        square = on_support(part, part.evidence.square, flat(part.delta.topology))
        operands = Known(value=part.delta.values, square=square)
    elif rule.drop == "weight":
        under = values_at(flat(part.base.topology), part.base.values, flat(part.delta.topology))
        operands = Known(weight=under + part.delta.values)
    elif rule.drop == "random":
        operands = Known(uniform=chance.scores(part.matrix, flat(part.delta.topology), USE_DROP))
    return DROP[rule.drop](operands)
