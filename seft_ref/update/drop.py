"""Drop: the weakest slots of a delta go."""

from collections.abc import Sequence

from jaxtyping import Int

from seft_ref.arrays.library import Array, array_namespace
from seft_ref.topology.csr import difference, flat, outside, union
from seft_ref.update.criteria import DROP, USE_DROP, Chance, Known
from seft_ref.update.delta import overlay
from seft_ref.update.parts import Part, on_support
from seft_ref.update.pools import Counts, Pools
from seft_ref.update.rules import Rule
from seft_ref.update.select import Boundary, selection


def drop(
    parts: Sequence[Part], pools: Pools, n: Counts, rule: Rule, chance: Chance
) -> tuple[list[Array], Boundary | None]:
    """Return the flat positions of each part that are dropped, ascending, and the boundary of their selection: those
    of the slots with the smallest scores, ties to the lower position (DROP-001, DROP-003).

    Raises:
        UpdateError: SEL-004 for a NaN or infinite score, SEL-005 if n exceeds the slots.
    """
    slots = [flat(part.delta.topology) for part in parts]
    scores = [_scores(part, rule, chance) for part in parts]
    found, boundary = pools.slots.select(scores, slots, n)
    return [array_namespace(at).take(at, chosen) for at, chosen in zip(slots, found, strict=True)], boundary


def replaced(
    part: Part, dropped: Int[Array, " n"], grown: Int[Array, " m"], pools: Pools, rule: Rule, chance: Chance
) -> Int[Array, " k"]:
    """Return which dropped positions leave or are cancelled: where fewer come than go, the strongest of those that do
    not come back stay, so that the delta keeps its size (GROW-006).
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
    known = Known(value=part.delta.values)
    if rule.drop == "change":
        known = Known(value=part.delta.values, origin=part.delta.kept["origin"])
    elif rule.drop == "fisher":
        square = on_support(part, part.evidence.square, flat(part.delta.topology))
        known = Known(value=part.delta.values, square=square)
    elif rule.drop == "weight":
        known = Known(weight=overlay(part.base, part.delta).under + part.delta.values)
    elif rule.drop == "random":
        known = Known(uniform=chance.scores(part.matrix, flat(part.delta.topology), USE_DROP))
    return DROP[rule.drop](known)
