"""Decides what an event drops, grows and prunes (chapter 8), from whole matrices; it changes no matrix.

    (decision,) = decide([part], rule, counts)

One call takes the matrices that are compared with each other: all of them with scope model, else one (EVT-009). Arrays
of a matrix are flat, and positions are flat and ascending.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seft_ports.pytorch.criteria import ADAPT, DROP, GROW, USE_ADAPT, USE_DROP, USE_END, USE_GROW, uniform
from seft_ports.pytorch.delta import among
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.pools import Pools, of_slots, of_weights
from seft_ports.pytorch.schedule import drop_count
from seft_ports.pytorch.select import smallest, smallest_of_pools
from seft_ports.pytorch.settings import Settings
from seft_ports.pytorch.split import all_true, local

__all__ = [
    "Decision",
    "Note",
    "Part",
    "check_evidence",
    "check_part",
    "check_sums",
    "decide",
    "decide_last",
    "drop",
    "drop_counts",
    "grow",
    "norm_of",
]

Note = Callable[[str, list[Tensor], list[Tensor], list[Tensor]], None]
"""A function that is called after every selection with its name and three lists, which have one entry per matrix: the
pool of each score, the scores, and the indices of the smallest scores, which were chosen."""


@dataclass(frozen=True, slots=True)
class Part:
    """A matrix before an event.

    weight      W, (out · in,)
    base        B as booleans, (out · in,)
    held        b at the slots, 0 off B, (n,)
    positions   η, (n,) int64
    values      φ, (n,)
    evidence    the evidence that the rule uses, by name: gradient, absolute, square and tokens, (out · in,); inputs and
                the accumulators column, (in,), and row, (out,); origin, (n,)
    budgets     K of each pool of weights, int64 (DLT-001)
    most        d_φ of each pool of slots, int64 (DLT-002)
    candidates  the only positions that may grow (GROW-006), or None
    matrix      the matrix index (MDL-007)
    """

    shape: tuple[int, int]
    weight: Tensor
    base: Tensor
    held: Tensor
    positions: Tensor
    values: Tensor
    evidence: Mapping[str, Tensor]
    budgets: Tensor
    most: Tensor
    candidates: Tensor | None = None
    matrix: int = 0

    def known(self, at: Tensor) -> "_Known":
        """Return the evidence at these positions, by the names of `criteria`; each is looked up on access."""
        return _Known(self, at)


class _Known(dict[str, Tensor]):
    def __init__(self, part: Part, at: Tensor) -> None:
        super().__init__()
        self._part, self._at = part, at

    def __missing__(self, name: str) -> Tensor:
        part, at, width = self._part, self._at, max(self._part.shape[1], 1)
        if name == "weight":
            return part.weight[at]
        if name in ("inputs", "column"):
            at = at % width
        elif name == "row":
            at = at // width
        return part.evidence[name][at]


@dataclass(frozen=True, slots=True)
class Decision:
    """The flat positions of a matrix, ascending, that an event changes.

    dropped  positions that lose their slot, unless they are grown too (GROW-003)
    grown    positions that get a slot, or keep it
    pruned   positions that leave the support, of base and delta
    left     positions that leave the base: the pruned ones there, and with `drops` weight the dropped ones
    """

    dropped: Tensor
    grown: Tensor
    pruned: Tensor
    left: Tensor


@dataclass(frozen=True, slots=True)
class _Moved:
    """A matrix after drop and grow: W, the support, η, the new slots in it, and the positions that left the base."""

    part: Part
    weight: Tensor
    support: Tensor
    occupied: Tensor
    new: Tensor
    left: Tensor


def drop_counts(parts: Sequence[Part], rule: Settings, fraction: float) -> Tensor:
    """Return how many slots each pool drops, (pools,) int64 (SCH-002)."""
    sizes = of_slots(rule, parts[0].shape).sizes([part.positions for part in parts])
    return sizes.new_tensor([drop_count(fraction, n) for n in sizes.tolist()])


EVENT_GRADIENT = (
    "the gradient of an event, or what is summed of it, has a NaN or infinite entry; lower the learning rate, clip "
    "gradients, or compute in a wider dtype"
)
"""The error message of EVT-005 for evidence that is not finite."""


def check_evidence(tensors: Iterable[Tensor]) -> None:
    """Raise SeftError (EVT-005) for evidence with a NaN or infinite entry."""
    # EVT-005
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise SeftError("EVT-005", EVENT_GRADIENT)


def check_sums(sums: Iterable[Tensor], step: int, *, everywhere: bool) -> None:
    """Raise SeftError (TRN-007) if a sum of the gradient window has a NaN or infinite entry.

    everywhere  whether all processes raise if one of them has such an entry
    """
    # TRN-007
    if not all_true([torch.isfinite(local(total)).all() for total in sums], everywhere=everywhere):
        raise SeftError(
            "TRN-007",
            f"step {step} made a sum of the gradient window NaN or infinite; the last saved state is valid: resume it "
            "with a lower learning rate or a wider dtype",
        )


def norm_of(gradient: Tensor) -> float:
    """Return the Euclidean norm of a gradient in binary64; infinite if it is too large (TRN-009)."""
    wide = gradient.double()
    largest = float(wide.abs().max()) if wide.numel() else 0.0
    # the gradient is scaled, so that no square over- or underflows
    return largest * float((wide / largest).norm()) if largest else 0.0


def decide(
    parts: Sequence[Part], rule: Settings, n_drop: Tensor, step: int = 0, note: Note | None = None
) -> list[Decision]:
    """Return the choices of drop, grow and adapt in each matrix (EVT-001).

    n_drop  how many slots each pool drops, int64
    step    the step that the event follows, for random scores (RNG-003)
    note    called after every selection
    """
    for part in parts:
        check_part(part, on_support=rule.grow_scope == "active")
    dropped = drop(parts, rule, n_drop, step, note)
    grown = grow(parts, rule, dropped, n_drop, step, note)
    if rule.candidates == "first-step":
        dropped = [_replaced(*one, rule, step) for one in zip(parts, dropped, grown, strict=True)]
    moved = [_move(*one, rule) for one in zip(parts, dropped, grown, strict=True)]
    pruned = [part.positions[:0] for part in parts]
    if rule.prunes:
        pruned = _prune(moved, rule, rule.counts, rule.exempt, (step, USE_ADAPT), note)
    return [
        Decision(gone, come, out, _union(m.left, out[m.part.base[out]]))
        for gone, come, out, m in zip(dropped, grown, pruned, moved, strict=True)
    ]


def decide_last(parts: Sequence[Part], rule: Settings, step: int = 0) -> list[Decision]:
    """Return the pruning of the pass after the last step; it exempts nothing (EVT-004).

    step  the last step, for random scores
    """
    still = []
    for part in parts:
        # GRD-009.2
        check_part(part, on_support=True)
        occupied, none = _mask(part, part.positions), _mask(part, part.positions[:0])
        still.append(_Moved(part, part.weight, part.base | occupied, occupied, none, part.positions[:0]))
    # EVT-004
    pruned = _prune(still, rule, "support", "none", (step, USE_END), None)
    return [Decision(m.left, m.left, out, out[m.part.base[out]]) for m, out in zip(still, pruned, strict=True)]


def check_part(part: Part, *, on_support: bool) -> None:
    """Raise SeftError (EVT-005) for evidence with a NaN or infinite entry where an event reads it.

    on_support  whether it reads gradients on the support alone (GRD-009)
    """
    off = ~(part.base | _mask(part, part.positions))
    # GRD-008
    unread = {"tokens": off}
    if on_support:
        unread |= dict.fromkeys(("gradient", "absolute", "square"), off)
    elif part.candidates is not None:
        # GRD-007
        unread |= dict.fromkeys(("gradient", "absolute", "square"), off & ~_mask(part, part.candidates))
    check_evidence(one.masked_fill(unread[name], 0) if name in unread else one for name, one in part.evidence.items())
    gradient = part.evidence.get("gradient")
    if gradient is not None and gradient.dtype == torch.float64 and "gradient" not in unread:
        # EVT-005.2: the norm of float32 is always finite
        check_evidence([torch.tensor(norm_of(gradient), dtype=torch.float64)])


def _mask(part: Part, positions: Tensor) -> Tensor:
    mask = torch.zeros_like(part.base)
    mask[positions] = True
    return mask


def _union(a: Tensor, b: Tensor) -> Tensor:
    """Return the positions of two sets that share none, ascending."""
    return torch.cat([a, b]).sort().values


def _tell(
    note: Note | None, name: str, pools: Pools, at: list[Tensor], scores: list[Tensor], chosen: list[Tensor]
) -> None:
    if note is not None:
        note(name, [pools.of(positions) for positions in at], scores, chosen)


# drop ----------------------------------------------------------------------------------------------


def _drop_scores(part: Part, rule: Settings, step: int) -> Tensor:
    # DROP-003
    evidence = part.known(part.positions)
    evidence["value"] = part.values
    if rule.drop == "change":
        evidence["origin"] = part.evidence["origin"]
    if rule.drop == "random":
        evidence["uniform"] = uniform(rule.seed, part.matrix, step, USE_DROP, part.positions)
    return DROP[rule.drop](evidence)


def drop(parts: Sequence[Part], rule: Settings, n: Tensor, step: int = 0, note: Note | None = None) -> list[Tensor]:
    """Return the positions with the smallest scores of each matrix (DROP-001)."""
    pools, at = of_slots(rule, parts[0].shape), [part.positions for part in parts]
    scores = [_drop_scores(part, rule, step) for part in parts]
    # DROP-001
    chosen = pools.smallest(scores, at, n)
    _tell(note, "drop", pools, at, scores, chosen)
    return [positions[leaving] for positions, leaving in zip(at, chosen, strict=True)]


def _replaced(part: Part, dropped: Tensor, grown: Tensor, rule: Settings, step: int) -> Tensor:
    """Return the positions that count as dropped: those grown again, and as many others as need slots (GROW-006)."""
    back = among(grown, dropped)
    away = dropped[~back]
    fresh = len(grown) - int(back.sum())
    # GROW-006
    n = min(len(away), max(0, fresh - (int(part.most) - len(part.positions))))
    scores = _drop_scores(part, rule, step)[among(away, part.positions)]
    return _union(dropped[back], away[smallest(scores, n)])


# grow ----------------------------------------------------------------------------------------------


def grow(
    parts: Sequence[Part],
    rule: Settings,
    dropped: Sequence[Tensor],
    n_drop: Tensor,
    step: int = 0,
    note: Note | None = None,
) -> list[Tensor]:
    """Return the candidates with the largest scores: as many as drop, and as many as the delta lacks (GROW-002)."""
    pools = of_slots(rule, parts[0].shape)
    at = [_candidates(part, gone, rule) for part, gone in zip(parts, dropped, strict=True)]
    scores = [_grow_scores(part, positions, rule, step) for part, positions in zip(parts, at, strict=True)]
    if rule.scope == "group":
        best = _best_of_groups(parts[0], at[0], scores[0], rule)
        at, scores = [at[0][best]], [scores[0][best]]
    # GROW-002
    most = torch.stack([part.most for part in parts]).sum(0)
    n_grow = (n_drop + most - pools.sizes([part.positions for part in parts])).clamp(min=0)
    # SEL-001: negation is exact
    scores = [-one for one in scores]
    chosen = pools.smallest(scores, at, torch.minimum(n_grow, pools.sizes(at)))
    _tell(note, "grow", pools, at, scores, chosen)
    return [positions[best] for positions, best in zip(at, chosen, strict=True)]


def _candidates(part: Part, dropped: Tensor, rule: Settings) -> Tensor:
    """Return the positions that may grow (GROW-001, GROW-005, GROW-006)."""
    open_to = ~_mask(part, part.positions)
    if rule.regrow:
        open_to[dropped] = True
    if rule.grow_scope == "active":
        open_to &= part.base
    if part.candidates is not None:
        open_to &= _mask(part, part.candidates)
    return torch.nonzero(open_to).flatten()


def _grow_scores(part: Part, at: Tensor, rule: Settings, step: int) -> Tensor:
    # GROW-004
    evidence = part.known(at)
    if rule.grow == "random":
        evidence["uniform"] = uniform(rule.seed, part.matrix, step, USE_GROW, at)
    return GROW[rule.grow](evidence)


def _best_of_groups(part: Part, at: Tensor, scores: Tensor, rule: Settings) -> Tensor:
    """Return the indices of the candidates that are among the K best of their group (GROW-007)."""
    groups = of_weights(rule, part.shape)
    # GROW-007
    return smallest_of_pools(-scores, groups.of(at), torch.minimum(part.budgets, groups.sizes([at])))


def _move(part: Part, dropped: Tensor, grown: Tensor, rule: Settings) -> _Moved:
    """Return a matrix after drop and grow (GROW-003, DROP-002, DROP-004)."""
    # GROW-003: a position that is both dropped and grown keeps its slot
    gone = dropped[~among(grown, dropped)]
    fresh = grown[~among(part.positions, grown)]
    weight, base = part.weight.clone(), part.base
    # DROP-002: the weight of a dropped slot becomes b
    weight[gone] = part.held[among(gone, part.positions)].to(weight.dtype)
    removed = gone[:0]
    if rule.drops == "weight":
        # DROP-004
        removed, base = gone[base[gone]], base.clone()
        base[removed] = False
        weight[removed] = 0
    occupied = _mask(part, part.positions)
    occupied[gone] = False
    occupied[fresh] = True
    return _Moved(part, weight, base | occupied, occupied, _mask(part, fresh), removed)


# adapt ---------------------------------------------------------------------------------------------


def _prune(
    moved: Sequence[_Moved], rule: Settings, counts: str, exempt: str, key: tuple[int, int], note: Note | None
) -> list[Tensor]:
    """Return the positions with the smallest scores that must go for every pool to fit (ADPT-001 to ADPT-003).

    key  step and use of random scores
    """
    pools = of_weights(rule, moved[0].part.shape)
    at, sizes = [], []
    for m in moved:
        # ADPT-006: with `values` zeros are neither counted nor pruned
        counted = m.support & (m.weight != 0) if counts == "values" else m.support
        sizes.append(pools.sizes([torch.nonzero(counted).flatten()]))
        # ADPT-003, ADPT-007
        spared = {"new": m.new, "slots": m.occupied, "none": None}[exempt]
        at.append(torch.nonzero(counted if spared is None else counted & ~spared).flatten())
    # ADPT-001
    budgets = torch.stack([m.part.budgets for m in moved]).sum(0)
    excess = (torch.stack(sizes).sum(0) - budgets).clamp(min=0)
    if not bool(excess.any()):
        return [positions[:0] for positions in at]
    if pools.width:
        at = [at[0][excess[pools.of(at[0])] > 0]]
    scores = [_adapt_scores(m, positions, rule, key) for m, positions in zip(moved, at, strict=True)]
    # ADPT-002
    chosen = pools.smallest(scores, at, excess)
    _tell(note, "adapt", pools, at, scores, chosen)
    return [positions[out] for positions, out in zip(at, chosen, strict=True)]


def _adapt_scores(m: _Moved, at: Tensor, rule: Settings, key: tuple[int, int]) -> Tensor:
    # ADPT-005
    evidence = m.part.known(at)
    evidence["weight"] = m.weight[at]
    if rule.adapt == "random":
        evidence["uniform"] = uniform(rule.seed, m.part.matrix, *key, at)
    return ADAPT[rule.adapt](evidence)
