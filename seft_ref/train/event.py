"""An event over all matrices of a run: collect evidence, apply the rules, pack the new weights (chapter 8)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from jaxtyping import Float, Int

from seft_ref.arrays.library import Array, array_namespace, int64_like, to_numpy
from seft_ref.kernels import KernelSet, Packed
from seft_ref.matrix.bases import AnyBase, PackedBase, beside_of, with_moved_slots
from seft_ref.matrix.evidence import View, evidence
from seft_ref.matrix.target import Target, place
from seft_ref.matrix.window import AnyWindow
from seft_ref.topology.csr import flat, per_pool, union
from seft_ref.topology.groups import in_groups
from seft_ref.train.settings import TrainSettings
from seft_ref.update.criteria import Chance
from seft_ref.update.delta import Base, Delta
from seft_ref.update.evolve import Event, Part, evolve, final_adapt
from seft_ref.update.optimizers import Sm3
from seft_ref.update.pools import Counts, Pools, pools_of, together
from seft_ref.update.record import EventRecord, record_of
from seft_ref.update.rules import Rule
from seft_ref.update.schedule import n_drop

__all__ = ["adapt_last", "evolve_all", "over_budget"]


def evolve_all(
    targets: dict[str, Target],
    windows: dict[str, AnyWindow],
    step: int,
    settings: TrainSettings,
    kernels: KernelSet,
) -> tuple[dict[str, Target], dict[str, Packed], dict[str, EventRecord]]:
    """Return the targets after the event of a step, their packed weights and their records (EVT-001).

    One matrix is finished before the next, to save memory, unless all matrices are one pool. For the same reason
    `targets` and `windows` are emptied.
    """
    numbers = {name: i for i, name in enumerate(targets)}
    after: dict[str, Target] = {}
    packed: dict[str, Packed] = {}
    records: dict[str, EventRecord] = {}
    for names in together(settings.rule, list(targets)):
        pool = {name: targets.pop(name) for name in names}
        summed = {name: windows.pop(name) for name in names if name in windows}
        # a separate function, so that its arrays are freed before the next matrices are looked at
        for name, (target, weight, record) in _evolve_pool(pool, summed, numbers, step, settings, kernels).items():
            after[name], packed[name], records[name] = target, weight, record
    return after, packed, records


def _evolve_pool(
    targets: Mapping[str, Target],
    windows: Mapping[str, AnyWindow],
    numbers: Mapping[str, int],
    step: int,
    settings: TrainSettings,
    kernels: KernelSet,
) -> dict[str, tuple[Target, Packed, EventRecord]]:
    """Return targets after an event that compares them, with their packed weights and records.

    numbers  the number of each matrix of the model
    """
    names = list(targets)
    pool = [replace(targets[name], base=targets[name].base.open()) for name in names]
    pools = _pools(pool, settings)
    views = [
        View(windows.get(name), t.base.open(), t.delta, numbers[name]) for name, t in zip(names, pool, strict=True)
    ]
    drops, grows = _counts(pool, pools, settings.timetable().fraction(step))
    chance = Chance(settings.seed, step)
    gathered = evidence(views, settings.rule, grows, pools=pools, chance=chance, kernels=kernels)
    parts = [Part(view.base, view.delta, e, view.matrix) for view, e in zip(views, gathered, strict=True)]
    seeds = None if isinstance(settings.optimizer, Sm3) else settings.optimizer.seeds
    events = evolve(parts, pools, n_drop=drops, rule=settings.rule, chance=chance, seeds=seeds)
    moved, records = [], []
    for name, before, part, event in zip(names, pool, parts, events, strict=True):
        grouped = None if isinstance(targets[name].base, PackedBase) else settings.pattern
        base, lost = _base_after(before, event, grouped)
        moved.append((base, event.delta, lost))
        records.append(record_of(part, event, before.budget, before.delta_budget, lost))
    # free these first, because packing takes as much memory again
    del views, pools, pool, gathered, parts, events, before, part, event, base
    finished = {}
    for name, (opened, delta, lost), record in zip(names, moved, records, strict=True):
        target = targets[name]
        base, packed, places, under = _placed(target.base, opened, delta, kernels)
        finished[name] = replace(target, base=base, delta=delta, where=places, under=under, lost=lost), packed, record
    return finished


def _placed(
    before: AnyBase, opened: AnyBase, delta: Delta, kernels: KernelSet
) -> tuple[AnyBase, Packed, Int[Array, " d"], Float[Array, " d"]]:
    """Return what `place` returns for the base and the delta after an event; it takes the memory of `before`."""
    # the memory may be taken, because the state before the event is not used again
    memory = {}
    if isinstance(before, PackedBase):
        moved = with_moved_slots(before, opened.open(), delta)
        if moved is not None:
            return moved
        memory = {"spent": before.packed}
    return place(opened, delta, kernels, before.held_in, beside_of(before), **memory)


def over_budget(targets: Mapping[str, Target], settings: TrainSettings) -> list[str]:
    """Return the names of the matrices that the pass after the last step prunes (EVT-004, EVT-008)."""
    if settings.rule.adapts == "never":
        return []
    lists = together(settings.rule, list(targets))
    return [name for names in lists if _is_over([targets[n] for n in names], settings) for name in names]


def adapt_last(
    targets: Mapping[str, Target],
    over: Sequence[str],
    windows: Mapping[str, AnyWindow],
    settings: TrainSettings,
    step: int,
    kernels: KernelSet,
) -> dict[str, tuple[Base, Delta]]:
    """Return base and delta of the matrices `over`, pruned to their budgets after the last step (EVT-004)."""
    numbers = {name: i for i, name in enumerate(targets)}
    # of the rule only `adapt` matters, because nothing grows any more
    at_end = Rule(adapt=settings.rule.adapt)
    chance = Chance(settings.seed, step)
    adapted: dict[str, tuple[Base, Delta]] = {}
    for names in together(settings.rule, over):
        pruned = [targets[name] for name in names]
        views = [View(windows.get(n), t.base.open(), t.delta, numbers[n]) for n, t in zip(names, pruned, strict=True)]
        gathered = evidence(views, at_end, None, kernels=kernels)
        parts = [Part(view.base, view.delta, e, view.matrix) for view, e in zip(views, gathered, strict=True)]
        events = final_adapt(parts, _pools(pruned, settings), rule=settings.rule, chance=chance)
        adapted |= {name: (event.base, event.delta) for name, event in zip(names, events, strict=True)}
    return adapted


def _is_over(targets: Sequence[Target], settings: TrainSettings) -> bool:
    """Return whether a pool of matrices that are compared with each other has more weights than its budget."""
    pools = _pools(targets, settings)
    # for one pool count the support without building it, because only its size is needed
    if pools.weights.is_one:
        sizes = [int64_like([target.support_size()], target.lost) for target in targets]
    else:
        sizes = [pools.weights.sizes([union(flat(t.base.topology), flat(t.delta.topology))]) for t in targets]
    return bool(array_namespace(*sizes).any(pools.excess(sizes) > 0))


def _counts(targets: Sequence[Target], pools: Pools, fraction: float) -> tuple[Counts, Counts]:
    """Return how many slots each pool drops (SCH-002), and how many positions it grows at most (GROW-002)."""
    at = [flat(target.delta.topology) for target in targets]
    slots = pools.slots.sizes(at)
    drops = int64_like([n_drop(fraction, n) for n in to_numpy(slots).tolist()], slots)
    return drops, pools.growth(drops, at)


def _pools(targets: Sequence[Target], settings: TrainSettings) -> Pools:
    """Return the pools of targets that are compared with each other (EVT-009)."""
    rule = settings.rule
    deltas = [t.row_delta_budget if rule.by_row else int64_like([t.delta_budget], t.lost) for t in targets]
    budgets = [_budget(target, settings) for target in targets]
    return pools_of(rule, targets[0].base.shape, budgets, deltas, settings.pattern)


def _budget(target: Target, settings: TrainSettings) -> Counts:
    """Return K of a matrix, of its rows or of its groups: the number of weights stored at load (DLT-001)."""
    if settings.rule.by_row:
        return target.row_budget
    if not settings.rule.by_group:
        return int64_like([target.budget], target.lost)
    assert settings.pattern is not None, "scope group needs a pattern"
    at_load = union(flat(target.base.topology), target.lost)
    width = settings.pattern[1]
    return per_pool(at_load, width, target.base.numel // width)


def _base_after(target: Target, event: Event, pattern: tuple[int, int] | None) -> tuple[AnyBase, Int[Array, " n"]]:
    """Return the base after an event and the positions lost since load; with a pattern it stays in groups (TOP-005)."""
    if not event.left.shape[0]:
        return target.base, target.lost
    base = event.base if pattern is None else replace(event.base, topology=in_groups(event.base.topology, pattern))
    return base, union(target.lost, event.left)
