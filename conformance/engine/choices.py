"""Choices of update rules in the engine: scores, pools, schedules, windows, optimizers, events."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from seft_ref.arrays.counter import STREAM_POSITIONS, choose, counter_key
from seft_ref.arrays.library import Array, array_namespace, device, from_numpy, to_numpy
from seft_ref.errors import ConfigError
from seft_ref.layers.linear import WeightGradient
from seft_ref.matrix.evidence import View, evidence
from seft_ref.matrix.window import Accumulated, FirstStepWindow, Window
from seft_ref.topology.csr import Topology, flat, from_flat, union
from seft_ref.train.settings import settings_of
from seft_ref.update.criteria import ADAPT, DROP, GROW, USE_DROP, USE_GROW, Chance, Known
from seft_ref.update.delta import Base, Delta, values_at
from seft_ref.update.evidence import finite_norm, refuse_infinite
from seft_ref.update.evolve import Event, Part, evolve
from seft_ref.update.optimizers import OPTIMIZERS, optimizer_named, shares_of
from seft_ref.update.presets import preset_named
from seft_ref.update.record import EventRecord, record_of
from seft_ref.update.rules import CHOICES, Rule
from seft_ref.update.schedule import Timetable, is_event, n_drop, spiel_phases
from seft_ref.update.select import largest, largest_selection, smallest_selection

Values = dict[str, Any]
_BOOLEAN = ("evolves", "regrow", "event_replaces_step")
_KEPT = {"age": "age", "m": "first_moment", "v": "second_moment", "u": "momentum", "origin": "origin"}


def _ints(values: Any) -> np.ndarray[Any, Any]:
    return np.array(list(values), dtype=np.int64)


def choices_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return choices as the engine takes them: the kit writes true and false as 1 and 0, patterns as lists."""
    found: dict[str, Any] = {key: bool(value) if key in _BOOLEAN else value for key, value in given.items()}
    if found.get("pattern") is not None:
        found["pattern"] = tuple(int(n) for n in found["pattern"])
    return found


def _rule(given: Mapping[str, Any]) -> Rule:
    return Rule(**{key: value for key, value in choices_of(given).items() if key in CHOICES})


def _finite(scores: Array) -> Array:
    refuse_infinite(scores)
    return scores


def _drop_scores(a: Values) -> Values:
    known = Known(value=a["values"], origin=a["origin"], square=a["square"], weight=a["weight"])
    if a["criterion"] == "random":
        known = Known(uniform=Chance(a["seed"], a["step"]).scores(a["matrix"], a["positions"], USE_DROP))
    return {"scores": _finite(DROP[a["criterion"]](known))}


def _grow_scores(a: Values) -> Values:
    positions = a["positions"]
    xp = array_namespace(positions)
    row, column = positions // max(a["in"], 1), positions % max(a["in"], 1)

    def at(name: str, where: Array) -> Array | None:
        return None if a[name] is None else xp.take(xp.reshape(a[name], (-1,)), where)

    known = Known(
        gradient=at("gradient", positions),
        absolute=at("absolute", positions),
        square=at("square", positions),
        inputs=at("inputs", column),
        row=at("row_moments", row),
        column=at("column_moments", column),
    )
    if a["criterion"] == "random":
        known = Known(uniform=Chance(a["seed"], a["step"]).scores(a["matrix"], positions, USE_GROW))
    return {"scores": _finite(GROW[a["criterion"]](known))}


def _adapt_scores(a: Values) -> Values:
    positions = a["positions"]
    xp = array_namespace(positions)
    inputs = None if a["inputs"] is None else xp.take(a["inputs"], positions % max(a["in"], 1))
    known = Known(weight=a["weight"], gradient=a["gradient"], inputs=inputs)
    if a["criterion"] == "random":
        known = Known(uniform=Chance(a["seed"], a["step"]).scores(a["matrix"], positions, a["use"]))
    return {"scores": _finite(ADAPT[a["criterion"]](known))}


def _pools(a: Values) -> Values:
    select = largest_selection if a["largest"] else smallest_selection
    found = select(a["scores"], a["counts"], a["pools"])
    xp = array_namespace(a["ids"])
    near = found.boundary
    told = {"inside": near.inside, "outside": near.outside, "gap": near.gap} if near else {}
    dtype = to_numpy(a["scores"]).dtype
    answer = {name: np.array([told[name]] if told else [], dtype=dtype) for name in ("inside", "outside", "gap")}
    return answer | {"chosen": xp.take(a["ids"], found.indices)}


def _budgets(a: Values) -> Values:
    amounts = {"count": "slots", "rank": "rank"}
    settings = settings_of("seft", budget_by=a["by"], **{amounts.get(a["by"], "density"): a["amount"]})
    topologies = []
    for (n_out, n_in), stored in zip(a["shapes"], a["stored"], strict=True):
        # only the shape and the number of slots are looked at
        slots = np.broadcast_to(np.int32(0), (int(stored),))
        topologies.append(Topology((int(n_out), int(n_in)), _ints([0]), slots))
    return {"n": _ints(settings.delta_budgets(topologies))}


def _fraction(a: Values) -> Values:
    chosen = Rule(drop_schedule=a["drop_schedule"], first_event=a["first_event"], evolve_until=a["evolve_until"])
    settings_of("seft", drop_fraction=a["drop_fraction"])
    step = a["step"]
    # a period that puts the first event at the step, or before it
    every = step if a["first"] else 1
    return {"value": Timetable(chosen, a["steps"], every, 1, a["drop_fraction"]).fraction(step)}


def _spiel(a: Values) -> Values:
    phases = spiel_phases(a["steps"], a["period"], a["accumulate"])
    return {"at": _ints(p[0] for p in phases), "sums": _ints(p[1] for p in phases)}


def _periods(a: Values) -> Values:
    steps = a["steps"]
    return {"at": _ints(t for t in range(1, steps + 2) if is_event(t, steps, a["evolve_every"]))}


def _all_events(a: Values) -> Values:
    chosen = Rule(events=a["events"], evolve_until=a["evolve_until"])
    steps, every, window = a["steps"], a["evolve_every"], a["gradient_window"]
    settings_of("seft", events=a["events"], steps=steps, evolve_every=every, gradient_window=window)
    timetable = Timetable(chosen, steps, every, window, 0.2)
    found = [timetable.event_after(t) for t in range(1, steps + 1) if timetable.is_event(t)]
    if a["events"] == "phases" and a["evolve_until"] == 1.0:
        assert found == spiel_phases(steps, every, window), "two ways to say SCH-005"
    return {"at": _ints(f[0] for f in found if f), "sums": _ints(f[1] for f in found if f)}


def _initial(a: Values) -> Values:
    settings_of("spiel-ag", initial_positions=a["by"], initial_scope=a["scope"])
    base = Base(from_flat((a["out"], a["in"]), a["base"]), a["base_values"])
    xp = array_namespace(a["base"])
    everywhere = xp.arange(base.topology.numel, dtype=xp.int64, device=device(a["base"]))
    open_to = everywhere if a["scope"] == "anywhere" else a["base"]
    if a["by"] == "random":
        key = counter_key(a["seed"], STREAM_POSITIONS, a["matrix"])
        return {"positions": from_numpy(choose(key, to_numpy(open_to), a["n"]), open_to)}
    if a["by"] == "magnitude":
        scores = values_at(a["base"], a["base_values"], open_to)
    else:
        scores = xp.take(xp.reshape(a["gradient"], (-1,)), open_to)
    return {"positions": xp.take(open_to, largest(xp.abs(scores), a["n"]))}


def _preset(a: Values) -> Values:
    told = preset_named(a["name"])
    found = {name: getattr(Rule(), name) for name in CHOICES} | dict(told)
    return {"choices": sorted(f"{k}={v if isinstance(v, str) else format(float(v), 'g')}" for k, v in found.items())}


def _check(a: Values) -> Values:
    settings_of("seft", **choices_of(a["choices"]))
    return {"ok": 1}


def _optimizer(a: Values) -> Values:
    kind = OPTIMIZERS.get(a["kind"])
    if kind is None:
        raise ConfigError("OPT-001", f"unknown optimizer {a['kind']}")
    xp = array_namespace(a["values"])
    optimizer = optimizer_named(a["kind"], {n: a[n] for n in kind.__dataclass_fields__})
    names = {short: name for short, name in _KEPT.items() if name in kind.keeps}
    kept = {name: a[short] for short, name in names.items()}
    if "age" in kept:
        kept["age"] = xp.astype(kept["age"], xp.int32)
    shape = (a["out"], a["in"])
    shared = {name: a[name] for name in shares_of(optimizer, shape)}
    new = optimizer.step(Delta(from_flat(shape, a["positions"]), a["values"], kept, shared), a["gradient"], a["lr"])
    answer: Values = dict.fromkeys(("m", "v", "u", "age", "rows", "columns"))
    answer |= {short: new.kept[name] for short, name in names.items()}
    return answer | {"values": new.values} | dict(new.shared)


def _window(a: Values) -> Values:
    asked = frozenset({"gradient", "absolute", "square", "inputs"})
    shape = (a["out"], a["in"])
    window = Window(shape, asked)
    for number, (dys, xs) in enumerate(zip(a["dy"], a["x"], strict=True)):
        if number:
            window = window.settled()
        for dy, x in zip(dys, xs, strict=True):
            window = window.plus(WeightGradient(dy, x))
    known = window.rows(0, a["out"])
    return {n: getattr(known, n) for n in ("gradient", "absolute", "square")} | {"inputs": window.inputs()}


def _first_step(a: Values) -> Values:
    shape = (a["out"], a["in"])
    like = a["gradients"][0]
    if a["n"] > a["out"] * a["in"]:
        largest(array_namespace(like).reshape(like, (-1,)), a["n"])
    nothing = from_numpy(_ints([]), like)
    window = FirstStepWindow(a["n"], nothing, Window(shape))
    for gradient in a["gradients"]:
        xp = array_namespace(gradient)
        if window.positions is None:
            window = replace(window, first=Window(shape, latest=Accumulated(shape, (), gradient)))
        else:
            window = replace(window, latest=xp.take(xp.reshape(gradient, (-1,)), window.positions))
        window = window.settled()
    xp = array_namespace(like)
    zeros = xp.zeros((0,), dtype=like.dtype, device=device(like))
    empty = from_flat(shape, nothing)
    (seen,) = evidence([View(window, Base(empty, zeros), Delta(empty, zeros, {}))], Rule(candidates="first-step"), 0)
    return {"candidates": seen.candidates, "gradient": seen.candidate_gradient, "square": seen.candidate_square}


def _seen(part: Values, base: Base, delta: Delta, rule: Rule) -> Window | FirstStepWindow:
    """Return a window whose means are those of the case."""
    shape = (part["out"], part["in"])
    if rule.candidates == "all":
        # a window holds what its rule asks for, and nothing else
        asked = rule.asks()
        sums = {n: part[n] for n in ("gradient", "absolute", "square") if n in asked}
        h = part["inputs"] if "inputs" in asked else None
        return Window(shape, asked, 1, **sums, input_squares=h, n_inputs=1)
    support = union(flat(base.topology), flat(delta.topology))
    positions = union(part["candidates"], support)
    xp = array_namespace(positions)
    gradient, square = (xp.take(xp.reshape(part[n], (-1,)), positions) for n in ("gradient", "square"))
    first = Window(shape)
    return FirstStepWindow(0, support, first, 1, part["candidates"], positions, gradient=gradient, square=square)


def _events(a: Values) -> list[Any]:
    """Return of every part its number, the part as the engine has it, and its event."""
    rule, parts = _rule(a["rule"]), []
    names = ("beta1", "beta2", "momentum")
    views, steps = [], []
    for given in a["parts"]:
        kind = OPTIMIZERS[given["optimizer"]]
        xp = array_namespace(given["base"])
        shape = (given["out"], given["in"])
        kept = {name: given[short] for short, name in _KEPT.items() if given.get(short) is not None}
        if "age" in kept:
            kept["age"] = xp.astype(kept["age"], xp.int32)
        base = Base(from_flat(shape, given["base"]), given["base_values"])
        shared = {"rows": given["row_moments"], "columns": given["column_moments"]}
        delta = Delta(from_flat(shape, given["delta"]), given["delta_values"], kept, shared)
        groups = given["budget"] if rule.scope == "group" else None
        views.append(View(_seen(given, base, delta, rule), base, delta, given["matrix"], groups))
        optimizer = kind(**{n: a["rule"][n] for n in names if n in kind.__dataclass_fields__})
        steps.append(given["steps"])
    fraction = 1.0 if rule.first_event == "all" and a["parts"][0]["first"] else a["fraction"]
    chance = Chance(a["seed"], a["step"])
    pattern = None if a["pattern"] is None else (int(a["pattern"][0]), int(a["pattern"][1]))
    pools = [list(range(len(views)))] if rule.scope == "model" else [[i] for i in range(len(views))]
    by_row = rule.scope == "row"
    events: list[Any] = []
    for pool in pools:
        budgets = [a["parts"][i]["delta_budget"] for i in pool]
        if by_row:
            topology = views[pool[0]].delta.topology
            slots = topology.indptr[1:] - topology.indptr[:-1]
            drops: Any = from_numpy(_ints(n_drop(fraction, int(n)) for n in slots), slots)
            grows: Any = drops + budgets[0] - slots
        else:
            slots = sum(views[i].delta.topology.nnz for i in pool)
            drops = n_drop(fraction, slots)
            grows = max(0, drops + sum(int(b[0]) for b in budgets) - slots)
        seen = evidence([views[i] for i in pool], rule, grows, chance=chance, pattern=pattern)
        seen = [replace(e, steps=steps[i]) for e, i in zip(seen, pool, strict=True)]
        parts = [
            Part(
                views[i].base,
                views[i].delta,
                e,
                a["parts"][i]["budget"] if rule.scope in ("row", "group") else int(a["parts"][i]["budget"][0]),
                a["parts"][i]["delta_budget"] if by_row else int(a["parts"][i]["delta_budget"][0]),
                views[i].matrix,
            )
            for e, i in zip(seen, pool, strict=True)
        ]
        seeds = getattr(optimizer, "seeds", None)
        found = evolve(parts, n_drop=drops, rule=rule, chance=chance, pattern=pattern, seeds=seeds)
        events += list(zip(pool, parts, found, strict=True))
    return events


def _record(a: Values, number: int, part: Part, event: Event) -> EventRecord:
    given = a["parts"][number]
    xp = array_namespace(given["base"])
    stored = union(given["base"], given["lost"])
    gone = from_numpy(np.setdiff1d(to_numpy(stored), to_numpy(flat(event.base.topology))), given["base"])
    return record_of(part, event, int(xp.sum(given["budget"])), int(xp.sum(given["delta_budget"])), gone)


def _ratios(a: Values) -> Values:
    records = [_record(a, *one) for one in _events(a)]
    return {name: [getattr(r, name) for r in records] for name in ("churn", "overlap", "gradient_norm")}


def _event(a: Values) -> Values:
    """Return the outputs of an event, one entry a part."""
    events = _events(a)
    answer: Values = {"base": [flat(e.base.topology) for _, _, e in events]}
    answer |= {"base_values": [e.base.values for _, _, e in events]}
    answer |= {"delta": [flat(e.delta.topology) for _, _, e in events]}
    answer |= {"delta_values": [e.delta.values for _, _, e in events]}
    for short, name in _KEPT.items():
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
    "gradient.norm": lambda a: {"norm": finite_norm(array_namespace(a["gradient"]).reshape(a["gradient"], (-1,)))},
    "score.drop": _drop_scores,
    "score.grow": _grow_scores,
    "score.adapt": _adapt_scores,
    "select.pools": _pools,
    "count.budgets": _budgets,
    "schedule.drops": _fraction,
    "schedule.events": _periods,
    "schedule.spiel": _spiel,
    "schedule.all_events": _all_events,
    "delta.initial": _initial,
    "preset.rule": _preset,
    "rule.check": _check,
    "optimizer.step": _optimizer,
    "window.evidence": _window,
    "window.candidates": _first_step,
    "update.event": _event,
    "event.ratios": _ratios,
}
