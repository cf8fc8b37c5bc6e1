"""An event over all matrices: what each shows, what the rules answer, and the targets after it (chapter 8)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Int

from seft_ref.arrays.library import Array, array_namespace, int64_like, to_numpy
from seft_ref.kernels import KernelSet, Packed
from seft_ref.matrix.bases import AnyBase, PackedBase
from seft_ref.matrix.evidence import View, evidence
from seft_ref.matrix.target import Target, place
from seft_ref.matrix.window import AnyWindow
from seft_ref.topology.csr import flat, per_pool, slots_per_row, union
from seft_ref.topology.groups import in_groups
from seft_ref.train.settings import TrainSettings
from seft_ref.update.criteria import Chance
from seft_ref.update.delta import Base, Delta, effective
from seft_ref.update.evidence import Evidence
from seft_ref.update.evolve import Event, Part, evolve, final_adapt
from seft_ref.update.optimizers import Sm3
from seft_ref.update.record import EventRecord, record_of
from seft_ref.update.rules import Rule
from seft_ref.update.schedule import n_drop

__all__ = ["adapt_last", "evolve_all", "over_budget"]


def evolve_all(
    targets: Mapping[str, Target],
    kept: Mapping[str, AnyWindow],
    step: int,
    settings: TrainSettings,
    kernels: KernelSet,
) -> tuple[dict[str, Target], dict[str, Packed], dict[str, EventRecord]]:
    """Return the targets after the event of a step, their packed weights, and what happened to each (EVT-001).

    A matrix is looked at, changed and packed before the next, unless all are one pool.
    """
    names = list(targets)
    pools = [names] if settings.rule.scope == "model" else [[name] for name in names]
    after: dict[str, Target] = {}
    packed: dict[str, Packed] = {}
    records: dict[str, EventRecord] = {}
    for pool in pools:
        # in a function of its own, that nothing of it is held when the next begins
        for name, (target, weight, record) in _evolve_pool(targets, pool, kept, step, settings, kernels).items():
            after[name], packed[name], records[name] = target, weight, record
    return after, packed, records


def _evolve_pool(
    targets: Mapping[str, Target],
    pool: Sequence[str],
    kept: Mapping[str, AnyWindow],
    step: int,
    settings: TrainSettings,
    kernels: KernelSet,
) -> dict[str, tuple[Target, Packed, EventRecord]]:
    """Return the targets of one pool after an event, their packed weights, and what happened to each."""
    numbers = {name: i for i, name in enumerate(targets)}
    held = [replace(targets[name], base=targets[name].base.open()) for name in pool]
    budgets = [_budget(target, settings) for target in held]
    views = [
        View(kept.get(name), t.base.open(), t.delta, numbers[name], k if settings.rule.scope == "group" else None)
        for name, t, k in zip(pool, held, budgets, strict=True)
    ]
    drops, grows = _counts(held, settings.timetable().fraction(step), settings)
    chance = Chance(settings.seed, step)
    pattern = settings.pattern if settings.rule.scope == "group" else None
    seen = evidence(views, settings.rule, grows, chance=chance, pattern=pattern, kernels=kernels)
    parts = [_part(t, e, k, numbers[name], settings) for name, t, e, k in zip(pool, held, seen, budgets, strict=True)]
    seeds = None if isinstance(settings.optimizer, Sm3) else settings.optimizer.seeds
    events = evolve(parts, n_drop=drops, rule=settings.rule, chance=chance, pattern=pattern, seeds=seeds)
    moved, records = [], []
    for name, before, part, event in zip(pool, held, parts, events, strict=True):
        grouped = None if isinstance(targets[name].base, PackedBase) else settings.pattern
        base, lost = _base_after(before, event, grouped)
        moved.append((base, event.delta, lost))
        records.append(record_of(part, event, before.budget, before.delta_budget, lost))
    del views, held, seen, parts, events, before, part, event, base  # before what is packed takes as much
    found = {}
    for name, (opened, delta, lost), record in zip(pool, moved, records, strict=True):
        target = targets[name]
        # the state before the event is spent
        memory = {"spent": target.base.packed} if isinstance(target.base, PackedBase) else {}
        base, packed, where, under = place(opened, delta, kernels, target.base.held_in, **memory)
        found[name] = replace(target, base=base, delta=delta, where=where, under=under, lost=lost), packed, record
    return found


def over_budget(targets: Mapping[str, Target], settings: TrainSettings) -> list[str]:
    """Return the names of the matrices that the end of a run prunes once more (EVT-004, EVT-008)."""
    rule, names = settings.rule, list(targets)
    if rule.adapts == "never":
        return []
    sizes = {name: target.support_size() for name, target in targets.items()}
    if rule.scope == "model":
        return names if sum(sizes.values()) > sum(target.budget for target in targets.values()) else []
    return [name for name in names if _is_over(targets[name], sizes[name], settings)]


def adapt_last(
    targets: Mapping[str, Target], over: Sequence[str], kept: Mapping[str, AnyWindow], settings: TrainSettings
) -> dict[str, tuple[Base, Delta]]:
    """Return base and delta of the matrices named, pruned to their budgets (EVT-004)."""
    names = list(targets)
    parts = []
    # growth does not happen any more: nothing is scored
    at_end = Rule(adapt=settings.rule.adapt)
    for name in over:
        target, matrix = replace(targets[name], base=targets[name].base.open()), names.index(name)
        (seen,) = evidence([View(kept.get(name), target.base.open(), target.delta, matrix)], at_end, None)
        parts.append(_part(target, seen, _budget(target, settings), matrix, settings))
    chance = Chance(settings.seed, settings.steps)
    events = final_adapt(parts, rule=settings.rule, chance=chance, pattern=settings.pattern)
    return {name: (event.base, event.delta) for name, event in zip(over, events, strict=True)}


def _is_over(target: Target, size: int, settings: TrainSettings) -> bool:
    """Tell whether a matrix, or one of its rows, holds more than its budget."""
    if settings.rule.scope != "row":
        return size > target.budget
    xp = array_namespace(target.row_budget)
    return bool(xp.any(slots_per_row(effective(target.base.open(), target.delta)[0]) > target.row_budget))


def _counts(held: Sequence[Target], fraction: float, settings: TrainSettings) -> tuple[Any, Any]:
    """Return how many slots a pool drops (SCH-002), and how many positions it grows at most (GROW-002)."""
    if settings.rule.scope != "row":
        slots = sum(target.delta.topology.nnz for target in held)
        drops = n_drop(fraction, slots)
        return drops, max(0, drops + sum(target.delta_budget for target in held) - slots)
    (target,) = held
    per_row = slots_per_row(target.delta.topology)
    xp = array_namespace(per_row)
    drops = int64_like([n_drop(fraction, n) for n in to_numpy(per_row).tolist()], per_row)
    grows = drops + target.row_delta_budget - per_row
    return drops, xp.where(grows > 0, grows, xp.zeros_like(grows))


def _part(target: Target, seen: Evidence, budget: Any, matrix: int, settings: TrainSettings) -> Part:
    """Return a target as an event sees it."""
    delta_budget = target.row_delta_budget if settings.rule.scope == "row" else target.delta_budget
    return Part(target.base.open(), target.delta, seen, budget, delta_budget, matrix)


def _budget(target: Target, settings: TrainSettings) -> Any:
    """Return K of a matrix, of its rows or of its groups: what each stored at load (DLT-001)."""
    if settings.rule.scope == "row":
        return target.row_budget
    if settings.rule.scope != "group":
        return target.budget
    assert settings.pattern is not None, "scope group needs a pattern"
    at_load = union(flat(target.base.topology), target.lost)
    width = settings.pattern[1]
    return per_pool(at_load, width, target.base.topology.numel // width)


def _base_after(target: Target, event: Event, pattern: tuple[int, int] | None) -> tuple[AnyBase, Int[Array, " n"]]:
    """Return the base after an event and what it has lost since load; an N:M base stays in its groups (TOP-005)."""
    if not event.left.shape[0]:
        return target.base, target.lost
    base = event.base if pattern is None else replace(event.base, topology=in_groups(event.base.topology, pattern))
    return base, union(target.lost, event.left)
