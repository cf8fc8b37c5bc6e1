"""The operations `update.event` and `event.ratios` as calls into the engine (chapter 8)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.engine.update import KEPT, choices_of
from conformance.engine.values import Values, ints
from seft_ref.arrays.library import Array, array_namespace, from_numpy, to_numpy
from seft_ref.matrix.evidence import View, evidence
from seft_ref.matrix.window import AnyWindow, FirstStepWindow, opened
from seft_ref.topology.csr import flat, from_flat, union
from seft_ref.update.criteria import Chance
from seft_ref.update.delta import Base, Delta
from seft_ref.update.evolve import Event, Part, evolve
from seft_ref.update.optimizers import OPTIMIZERS
from seft_ref.update.pools import pools_of, together
from seft_ref.update.record import EventRecord, record_of
from seft_ref.update.rules import CHOICES, Rule
from seft_ref.update.schedule import n_drop


def _rule(choices: Mapping[str, Any]) -> Rule:
    return Rule(**{key: value for key, value in choices_of(choices).items() if key in CHOICES})


def _seen(part: Values, base: Base, delta: Delta, rule: Rule) -> AnyWindow:
    """Return a gradient window whose means are those that the case gives for a part."""
    window = opened(base, delta.topology, rule.asks(), on_support=rule.only_on_support)
    support = union(flat(base.topology), flat(delta.topology))
    xp = array_namespace(support)

    def at(name: str, positions: Array) -> Array:
        return xp.take(xp.reshape(part[name], (-1,)), positions)

    first = FirstStepWindow.of(0, window, part["candidates"]) if rule.candidates == "first-step" else None
    window = window if first is None else first.window
    kept = None if window.kept_at is None else flat(window.kept_at())
    # a window takes only the sums that its rule asks for
    sums: Values = {n: part[n] if kept is None else at(n, kept) for n in window.of_gradients}
    if "tokens" in window.asked:
        sums["tokens"] = at("tokens", support)
    if "inputs" in window.asked:
        sums |= {"input_squares": part["inputs"], "n_inputs": 1}
    window = replace(window, settled_steps=1, **sums)
    return window if first is None else replace(first, window=window)


def _events(a: Values) -> list[Any]:
    """Return for every part its number in the case, the engine's `Part`, and its `Event`."""
    rule = _rule(a["rule"])
    names = ("beta1", "beta2", "momentum")
    views, steps = [], []
    for entry in a["parts"]:
        kind = OPTIMIZERS[entry["optimizer"]]
        xp = array_namespace(entry["base"])
        shape = (entry["out"], entry["in"])
        kept = {name: entry[short] for short, name in KEPT.items() if entry.get(short) is not None}
        if "age" in kept:
            kept["age"] = xp.astype(kept["age"], xp.int32)
        base = Base(from_flat(shape, entry["base"]), entry["base_values"])
        shared = {"rows": entry["row_moments"], "columns": entry["column_moments"]}
        delta = Delta(from_flat(shape, entry["delta"]), entry["delta_values"], kept, shared)
        views.append(View(_seen(entry, base, delta, rule), base, delta, entry["matrix"]))
        optimizer = kind(**{n: a["rule"][n] for n in names if n in kind.__dataclass_fields__})
        steps.append(entry["steps"])
    fraction = 1.0 if rule.first_event == "all" and a["parts"][0]["first"] else a["fraction"]
    chance = Chance(a["seed"], a["step"])
    pattern = None if a["pattern"] is None else (int(a["pattern"][0]), int(a["pattern"][1]))
    events: list[Any] = []
    for numbers in together(rule, range(len(views))):
        budgets, delta_budgets = ([a["parts"][i][name] for i in numbers] for name in ("budget", "delta_budget"))
        looked = [views[i] for i in numbers]
        pools = pools_of(rule, looked[0].base.shape, budgets, delta_budgets, pattern)
        at = [flat(view.delta.topology) for view in looked]
        slots = pools.slots.sizes(at)
        drops = from_numpy(ints(n_drop(fraction, n) for n in to_numpy(slots).tolist()), slots)
        facts = evidence(looked, rule, pools.growth(drops, at), pools=pools, chance=chance)
        facts = [replace(e, steps=steps[i]) for e, i in zip(facts, numbers, strict=True)]
        parts = [Part(view.base, view.delta, e, view.matrix) for view, e in zip(looked, facts, strict=True)]
        seeds = getattr(optimizer, "seeds", None)
        results = evolve(parts, pools, n_drop=drops, rule=rule, chance=chance, seeds=seeds)
        events += list(zip(numbers, parts, results, strict=True))
    return events


def _record(a: Values, number: int, part: Part, event: Event) -> EventRecord:
    entry = a["parts"][number]
    xp = array_namespace(entry["base"])
    stored = union(entry["base"], entry["lost"])
    gone = from_numpy(np.setdiff1d(to_numpy(stored), to_numpy(flat(event.base.topology))), entry["base"])
    return record_of(part, event, int(xp.sum(entry["budget"])), int(xp.sum(entry["delta_budget"])), gone)


def _ratios(a: Values) -> Values:
    records = [_record(a, *one) for one in _events(a)]
    return {name: [getattr(r, name) for r in records] for name in ("churn", "overlap", "gradient_norm")}


def _event(a: Values) -> Values:
    """Return the outputs of `update.event`, each a list with one entry per part."""
    events = _events(a)
    answer: Values = {"base": [flat(e.base.topology) for _, _, e in events]}
    answer |= {"base_values": [e.base.values for _, _, e in events]}
    answer |= {"delta": [flat(e.delta.topology) for _, _, e in events]}
    answer |= {"delta_values": [e.delta.values for _, _, e in events]}
    for short, name in KEPT.items():
        answer[short] = [e.delta.kept.get(name) for _, _, e in events]
    for name in ("dropped", "grown", "cancelled", "pruned"):
        answer[name] = [getattr(e, name) for _, _, e in events]
    answer["records"] = []
    for number, part, event in events:
        record = _record(a, number, part, event)
        dtype = to_numpy(a["parts"][number]["base_values"]).dtype
        near = {
            name: np.array([] if b is None else [b.inside, b.outside], dtype=dtype)
            for name, b in record.boundaries.items()
        }
        answer["records"].append({name: getattr(record, name) for name in record.COUNTS} | near)
    return answer


OPERATIONS: dict[str, Any] = {
    "update.event": _event,
    "event.ratios": _ratios,
}
