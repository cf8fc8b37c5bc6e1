"""The rules of the engine: counts, schedules, scores, drop, grow, adapt, presets, optimizers (chapters 7 to 9)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.engine.values import GROWN_FROM, Values, ints, read_topology, zeros_at
from seft_ref.arrays.library import Array, array_namespace, device, from_numpy, int64_like, to_numpy
from seft_ref.arrays.rng import STREAM_POSITIONS, choose, counter_key
from seft_ref.errors import ConfigError
from seft_ref.matrix.evidence import View, evidence
from seft_ref.matrix.window import GRADIENT_ONLY, Window, opened
from seft_ref.topology.csr import Topology, flat, from_flat, full
from seft_ref.train.settings import settings_of
from seft_ref.update.criteria import ADAPT, DROP, GROW, USE_DROP, USE_GROW, Chance, Known
from seft_ref.update.delta import Base, Delta, budget_by_numel, effective, values_at
from seft_ref.update.drop import drop
from seft_ref.update.evidence import refuse_infinite
from seft_ref.update.evolve import Part, evolve, final_adapt
from seft_ref.update.grow import grow
from seft_ref.update.optimizers import OPTIMIZERS, AdamW, clip_factor, optimizer_named, shares_of
from seft_ref.update.pools import Pools
from seft_ref.update.presets import preset_named
from seft_ref.update.rules import CHOICES, ON_SUPPORT, Rule
from seft_ref.update.schedule import Timetable, drop_fraction_at, is_event, learning_rate_at, n_drop, spiel_phases
from seft_ref.update.select import largest


def _budget(a: Values) -> Values:
    whole = Topology((a["out"], a["in"]), ints([0]), np.broadcast_to(np.int32(0), (a["stored"],)))
    return {"n": budget_by_numel(a["density"], whole)}


def _state(a: Values) -> tuple[Base, Delta]:
    xp = array_namespace(a["base_values"])
    zeros = xp.zeros_like(a["delta_values"])
    age = a.get("age")
    if age is None:
        age = xp.zeros(zeros.shape, dtype=xp.int32, device=device(zeros))
    delta = Delta(
        read_topology(a, "delta"),
        a["delta_values"],
        {
            "first_moment": a.get("m", zeros),
            "second_moment": a.get("v", zeros),
            "age": xp.astype(age, xp.int32),
        },
    )
    return Base(read_topology(a, "base"), a["base_values"]), delta


def _effective(a: Values) -> Values:
    support, weights = effective(*_state(a))
    return {"support": flat(support), "weights": weights}


def _initial_random(a: Values) -> Values:
    key = counter_key(a["seed"], STREAM_POSITIONS, a["matrix"])
    return {"positions": choose(key, to_numpy(a["base"]), a["n"])}


def _drop(a: Values) -> Values:
    delta = Delta(read_topology(a, "delta"), a["delta_values"], {})
    base = Base(read_topology(a | {"base": a["delta"][:0]}, "base"), a["delta_values"][:0])
    (facts,) = evidence([View(None, base, delta)], Rule(adapts="end"), None)
    (dropped,), _ = drop([Part(base, delta, facts)], Pools(), int64_like([a["n"]], a["delta"]), Rule(), Chance(0, 0))
    return {"dropped": dropped}


def _one_pool(a: Values, budget: int, delta_budget: int) -> Pools:
    """Return pools with one pool, the whole matrix, and its budgets K and d_φ."""
    return Pools(budgets=(int64_like([budget], a["base"]),), delta_budgets=(int64_like([delta_budget], a["base"]),))


def _window(a: Values, base: Base, delta: Delta, *, on_support: bool) -> Window:
    """Return a window of one step with the gradient of a case, which the event reads in blocks of rows."""
    window = opened(base, delta.topology, GRADIENT_ONLY, on_support=on_support)
    gradient = a["gradient"]
    if window.kept_at is not None:
        xp = array_namespace(gradient)
        gradient = xp.take(xp.reshape(gradient, (-1,)), flat(window.kept_at()))
    return replace(window, settled_steps=1, gradient=gradient)


def _grow(a: Values) -> Values:
    rule = Rule(grow_scope=GROWN_FROM[a["scope"]], adapts="end")  # type: ignore[arg-type]
    base = Base(read_topology(a, "base"), zeros_at(a["base"], a["gradient"]))
    delta = Delta(read_topology(a, "delta"), zeros_at(a["delta"], a["gradient"]), {})
    n_drop = int(a["dropped"].shape[0])
    # with this d_φ exactly n positions grow, because grow chooses n_drop + (d_φ − |η|)
    pools = _one_pool(a, base.topology.nnz, a["n"] - n_drop + delta.topology.nnz)
    window = _window(a, base, delta, on_support=rule.only_on_support)
    (facts,) = evidence([View(window, base, delta)], rule, int64_like([a["n"]], a["base"]))
    dropped = int64_like([n_drop], a["base"])
    (grown,), _ = grow([Part(base, delta, facts)], pools, [a["dropped"]], dropped, rule)
    return {"grown": grown}


def _adapt(a: Values) -> Values:
    base, delta = _state(a)
    (facts,) = evidence([View(_window(a, base, delta, on_support=True), base, delta)], Rule(), None)
    (event,) = final_adapt([Part(base, delta, facts)], _one_pool(a, a["budget"], delta.topology.nnz))
    return {"pruned": event.pruned}


def _evolve(a: Values) -> Values:
    base, delta = _state(a)
    pools, n_drop = _one_pool(a, a["budget"], a["delta_budget"]), int64_like([a["n_drop"]], a["base"])
    rule = Rule(grow_scope=GROWN_FROM[a["scope"]], adapts="always" if a["adapts"] else "end")  # type: ignore[arg-type]
    grows = pools.growth(n_drop, [flat(delta.topology)])
    window = _window(a, base, delta, on_support=rule.only_on_support)
    (facts,) = evidence([View(window, base, delta)], rule, grows)
    (event,) = evolve([Part(base, delta, facts)], pools, n_drop=n_drop, rule=rule)
    return after(event.base, event.delta)


def after(base: Base, delta: Delta) -> Values:
    """Return the outputs of `update.evolve`: base, delta, and their sum on the support."""
    support, weights = effective(base, delta)
    return {
        "base": flat(base.topology),
        "base_values": base.values,
        "delta": flat(delta.topology),
        "delta_values": delta.values,
        "m": delta.kept["first_moment"],
        "v": delta.kept["second_moment"],
        "age": delta.kept["age"],
        "support": flat(support),
        "weights": weights,
    }


def _adamw(a: Values) -> Values:
    xp = array_namespace(a["values"])
    n = a["values"].shape[0]
    slots = full((1, n), a["values"])
    kept = {"first_moment": a["m"], "second_moment": a["v"], "age": xp.astype(a["age"], xp.int32)}
    delta = Delta(slots, a["values"], kept)
    hyper = {k: a[k] for k in ("beta1", "beta2", "eps", "weight_decay") if a[k] is not None}
    new = AdamW(**hyper).step(delta, a["gradient"], a["lr"])
    named = {"m": "first_moment", "v": "second_moment", "age": "age"}
    return {"values": new.values} | {short: new.kept[name] for short, name in named.items()}


_BOOLEAN = ("evolves", "regrow", "event_replaces_step")
KEPT = {"age": "age", "m": "first_moment", "v": "second_moment", "u": "momentum", "origin": "origin"}


def choices_of(kit_choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return choices as the engine takes them: the kit writes true and false as 1 and 0, patterns as lists."""
    choices: dict[str, Any] = {key: bool(value) if key in _BOOLEAN else value for key, value in kit_choices.items()}
    if choices.get("pattern") is not None:
        choices["pattern"] = tuple(int(n) for n in choices["pattern"])
    return choices


def _finite(scores: Array) -> Array:
    refuse_infinite(scores)
    return scores


def _drop_scores(a: Values) -> Values:
    operands = Known(value=a["values"], origin=a["origin"], square=a["square"], weight=a["weight"])
    if a["criterion"] == "random":
        operands = Known(uniform=Chance(a["seed"], a["step"]).scores(a["matrix"], a["positions"], USE_DROP))
    return {"scores": _finite(DROP[a["criterion"]](operands))}


def _grow_scores(a: Values) -> Values:
    positions = a["positions"]
    xp = array_namespace(positions)
    row, column = positions // max(a["in"], 1), positions % max(a["in"], 1)

    def at(name: str, indices: Array) -> Array | None:
        return None if a[name] is None else xp.take(xp.reshape(a[name], (-1,)), indices)

    operands = Known(
        gradient=at("gradient", positions),
        absolute=at("absolute", positions),
        square=at("square", positions),
        inputs=at("inputs", column),
        row=at("row_moments", row),
        column=at("column_moments", column),
    )
    if a["criterion"] == "random":
        operands = Known(uniform=Chance(a["seed"], a["step"]).scores(a["matrix"], positions, USE_GROW))
    return {"scores": _finite(GROW[a["criterion"]](operands))}


def _adapt_scores(a: Values) -> Values:
    positions = a["positions"]
    xp = array_namespace(positions)
    inputs = None if a["inputs"] is None else xp.take(a["inputs"], positions % max(a["in"], 1))
    operands = Known(weight=a["weight"], inputs=inputs, **{name: a[name] for name in sorted(set(ON_SUPPORT.values()))})
    if a["criterion"] == "random":
        operands = Known(uniform=Chance(a["seed"], a["step"]).scores(a["matrix"], positions, a["use"]))
    return {"scores": _finite(ADAPT[a["criterion"]](operands))}


def _budgets(a: Values) -> Values:
    amounts = {"count": "slots", "rank": "rank"}
    settings = settings_of("seft", budget_by=a["by"], **{amounts.get(a["by"], "density"): a["amount"]})
    topologies = []
    for (n_out, n_in), stored in zip(a["shapes"], a["stored"], strict=True):
        # only the shape and the number of column indices are read, so the indices may be zeros
        slots = np.broadcast_to(np.int32(0), (int(stored),))
        topologies.append(Topology((int(n_out), int(n_in)), ints([0]), slots))
    return {"n": ints(settings.delta_budgets(topologies))}


def _fraction(a: Values) -> Values:
    chosen = Rule(drop_schedule=a["drop_schedule"], first_event=a["first_event"], evolve_until=a["evolve_until"])
    settings_of("seft", drop_fraction=a["drop_fraction"])
    step = a["step"]
    # with evolve_every = step the first event is at this step, with evolve_every = 1 it is earlier
    every = step if a["first"] else 1
    return {"value": Timetable(chosen, a["steps"], every, 1, a["drop_fraction"]).fraction(step)}


def _spiel(a: Values) -> Values:
    phases = spiel_phases(a["steps"], a["period"], a["accumulate"])
    return {"at": ints(p[0] for p in phases), "sums": ints(p[1] for p in phases)}


def _periods(a: Values) -> Values:
    steps = a["steps"]
    return {"at": ints(t for t in range(1, steps + 2) if is_event(t, steps, a["evolve_every"]))}


def _all_events(a: Values) -> Values:
    chosen = Rule(events=a["events"], evolve_until=a["evolve_until"])
    steps, every, window = a["steps"], a["evolve_every"], a["gradient_window"]
    settings_of("seft", events=a["events"], steps=steps, evolve_every=every, gradient_window=window)
    timetable = Timetable(chosen, steps, every, window, 0.2)
    pairs = [timetable.event_after(t) for t in range(1, steps + 1) if timetable.is_event(t)]
    if a["events"] == "phases" and a["evolve_until"] == 1.0:
        assert pairs == spiel_phases(steps, every, window), "two ways to say SCH-005"
    return {"at": ints(f[0] for f in pairs if f), "sums": ints(f[1] for f in pairs if f)}


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
    preset = preset_named(a["name"])
    choices = {name: getattr(Rule(), name) for name in CHOICES} | dict(preset)
    return {"choices": sorted(f"{k}={v if isinstance(v, str) else format(float(v), 'g')}" for k, v in choices.items())}


def _check(a: Values) -> Values:
    settings_of("sensitivity", **choices_of(a["choices"]))
    return {"ok": 1}


def _optimizer(a: Values) -> Values:
    kind = OPTIMIZERS.get(a["kind"])
    if kind is None:
        raise ConfigError("OPT-001", f"unknown optimizer {a['kind']}")
    xp = array_namespace(a["values"])
    optimizer = optimizer_named(a["kind"], {n: a[n] for n in kind.__dataclass_fields__ if a.get(n) is not None})
    names = {short: name for short, name in KEPT.items() if name in kind.keeps}
    kept = {name: a[short] for short, name in names.items()}
    if "age" in kept:
        kept["age"] = xp.astype(kept["age"], xp.int32)
    shape = (a["out"], a["in"])
    shared = {name: a[name] for name in shares_of(optimizer, shape)}
    new = optimizer.step(Delta(from_flat(shape, a["positions"]), a["values"], kept, shared), a["gradient"], a["lr"])
    answer: Values = dict.fromkeys(("m", "v", "u", "age", "rows", "columns"))
    answer |= {short: new.kept[name] for short, name in names.items()}
    return answer | {"values": new.values} | dict(new.shared)


OPERATIONS: dict[str, Any] = {
    "count.budget": _budget,
    "count.drop": lambda a: {"n": n_drop(drop_fraction_at(a["step"], a["steps"], a["drop_fraction"]), a["slots"])},
    "schedule.fraction": lambda a: {"value": drop_fraction_at(a["step"], a["steps"], a["drop_fraction"])},
    "schedule.learning_rate": lambda a: {
        "value": learning_rate_at(a["step"], a["steps"], a["lr"], a["warmup"], a["kind"])
    },
    "delta.effective": _effective,
    "delta.initial_random": _initial_random,
    "update.drop": _drop,
    "update.grow": _grow,
    "update.adapt": _adapt,
    "update.evolve": _evolve,
    "adamw.step": _adamw,
    "adamw.clip": lambda a: {"factor": clip_factor(a["norm"] ** 2, a["max_norm"])},
    "score.drop": _drop_scores,
    "score.grow": _grow_scores,
    "score.adapt": _adapt_scores,
    "count.budgets": _budgets,
    "schedule.drops": _fraction,
    "schedule.events": _periods,
    "schedule.spiel": _spiel,
    "schedule.all_events": _all_events,
    "delta.initial": _initial,
    "preset.rule": _preset,
    "rule.check": _check,
    "optimizer.step": _optimizer,
}
