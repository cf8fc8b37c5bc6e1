"""Properties of the delta and of the update rule (chapters 8 and 9)."""

import math
from dataclasses import replace

from conformance.answers import answer
from conformance.answers.answer import ids, reals
from conformance.oracle import update
from conformance.oracle.update import State
from conformance.properties.draws import Draw
from conformance.properties.states import (
    adamw_case,
    asked,
    draw_event,
    draw_state,
    evolve_case,
    matrix_of,
    ties,
)
from conformance.properties.trial import Trial, property_of

_EVENT = ("a tie at the drop", "a regrown pair", "a pruned position", "a reactivated position", "a slot pruned",
          "an empty row", "a refill")  # fmt: skip


@property_of(
    "delta.effective",
    "DLT-003 TOP-004",
    "core",
    "delta.effective",
    sees=("a weight that cancels", "a slot off the base", "a stored zero of the other sign"),
)
def _effective(d: Draw, t: Trial) -> None:
    """Weights are b + φ on the slots and b, bit for bit, elsewhere; zeros stay stored."""
    shape = d.shape()
    state = draw_state(d, shape)
    w = update.effective(state.base, state.phi)
    t.saw("a weight that cancels", any(w[p] == 0 != state.phi[p] for p in state.phi))
    t.saw("a slot off the base", state.phi.keys() - state.base.keys())
    t.saw("a stored zero of the other sign", any(math.copysign(1, x) < 0 == x for x in state.base.values()))
    t.case("delta.effective", matrix_of(shape, state.base, state.phi), dtypes=(t.dtype,))


@property_of("delta.initial-random", "DLT-004 RNG-002", "core", "delta.initial_random", sees=("some chosen of more",))
def _initial_random(d: Draw, t: Trial) -> None:
    """Initial positions are those with the smallest draws, by flat position."""
    shape = d.shape()
    at, _ = d.mask(shape)
    n, seed, matrix = d.integer(0, len(at)), d.choice((0, 1, 2**64 - 1)), d.integer(0, 30)
    t.saw("some chosen of more", 0 < n < len(at))
    inputs = {"out": shape[0], "in": shape[1], "base": ids(at), "n": n, "seed": seed, "matrix": matrix}
    t.case("delta.initial_random", inputs)


@property_of(
    "delta.initial", "DLT-004 SEL-001", "rules", "delta.initial", sees=("gradient", "random", "magnitude", "a tie")
)
def _initial(d: Draw, t: Trial) -> None:
    """Initial positions are the best by gradient, draw or magnitude, in the base or anywhere."""
    shape = d.shape()
    size = shape[0] * shape[1]
    at, _ = d.mask(shape)
    base = dict(zip(at, d.levels(len(at), 2, 0.5), strict=True))
    by, scope = d.choice(("gradient", "random", "magnitude")), d.choice(("active", "anywhere"))
    open_to = at if scope == "active" else list(range(size))
    n, flat = d.integer(0, len(open_to)), d.levels(size, 2)
    scores = [-abs(flat[p] if by == "gradient" else base.get(p, 0.0)) for p in open_to]
    t.saw("a tie", by != "random" and ties(scores, n))
    t.saw(by)
    inputs = {"out": shape[0], "in": shape[1], "base": ids(at), "base_values": reals(base.values()), "n": n, "by": by}
    inputs |= {"scope": scope, "seed": 5, "matrix": 3, "gradient": reals(flat).reshape(shape)}
    t.case("delta.initial", inputs)


@property_of(
    "update.drop",
    "DROP-001 SEL-002 SEL-004 SEL-005",
    "core",
    "update.drop",
    sees=("a tie at the drop", "a value that is not finite", "more than there are"),
)
def _drop(d: Draw, t: Trial) -> None:
    """The dropped positions are those with the smallest |φ|."""
    shape = d.shape()
    eta, _ = d.mask(shape)
    phi = dict(zip(eta, d.with_specials(d.levels(len(eta), d.integer(0, 2))), strict=True))
    n = d.integer(0, len(eta))
    inputs = {"out": shape[0], "in": shape[1], "delta": ids(phi)}
    if d.flag(6):
        n = len(eta) + 1
        t.saw("more than there are")
    elif phi and d.flag(6):
        phi[d.choice(eta)] = d.choice((math.nan, math.inf))
        t.saw("a value that is not finite")
    else:
        t.saw("a tie at the drop", ties([abs(x) for x in phi.values()], n))
    t.case("update.drop", inputs | {"delta_values": reals(phi.values()), "n": n})


@property_of(
    "update.grow",
    "GROW-001 GROW-002 SEL-001",
    "core",
    "update.grow",
    sees=("a tie at the boundary", "a dropped position that comes back", "more than there are candidates", "active"),
)
def _grow(d: Draw, t: Trial) -> None:
    """The grown positions are the candidates with the largest |ḡ|."""
    shape = d.shape()
    size = shape[0] * shape[1]
    state = draw_state(d, shape)
    eta = list(state.phi)
    out = [eta[i] for i in d.subset(len(eta))]
    flat, n, scope = d.levels(size, d.integer(0, 2)), d.integer(0, size + 2), d.choice(("all", "active"))
    inputs = {"out": shape[0], "in": shape[1], "base": ids(state.base), "delta": ids(eta), "dropped": ids(out)}
    inputs |= {"gradient": reals(flat).reshape(shape), "n": n, "scope": scope}
    grown = answer("update.grow", inputs).outputs["grown"].tolist()
    open_to = [p for p in range(size) if p not in set(eta) - set(out) and (scope == "all" or p in state.base)]
    t.saw("a tie at the boundary", ties([-abs(flat[p]) for p in open_to], n))
    t.saw("a dropped position that comes back", set(grown) & set(out))
    t.saw("more than there are candidates", n > len(open_to) > 0)
    t.saw("active", scope == "active" and len(grown) > 0)
    t.case("update.grow", inputs)


@property_of(
    "update.adapt", "ADPT-001 ADPT-002 EVT-004", "core", "update.adapt", sees=("a tie at the boundary", "nothing to do")
)
def _adapt(d: Draw, t: Trial) -> None:
    """The last pass prunes the excess with the smallest |ḡ · W|, nothing exempt."""
    shape = d.shape()
    state = draw_state(d, shape)
    gradient = d.levels(state.size, d.integer(0, 3))
    w = update.effective(state.base, state.phi)
    budget = max(0, len(w) - d.choice((0, 1, 3, 8, -1)))
    t.saw("a tie at the boundary", ties([abs(gradient[p] * w[p]) for p in w], len(w) - budget))
    t.saw("nothing to do", len(w) <= budget)
    inputs = matrix_of(shape, state.base, state.phi) | {"gradient": reals(gradient).reshape(shape), "budget": budget}
    t.case("update.adapt", inputs, dtypes=(t.dtype,))


@property_of(
    "update.evolve",
    "DROP-001 DROP-002 GROW-001 GROW-002 GROW-003 ADPT-001 ADPT-002 ADPT-003 ADPT-004 DLT-005 EVT-001 EVT-003 EVT-006"
    " CHG-002",
    "core",
    "update.evolve",
    sees=_EVENT,
)
def _evolve(d: Draw, t: Trial) -> None:
    """An event gives the same result as drop, grow and adapt of the oracle, also where scores are equal."""
    shape = d.shape()
    state = draw_state(d, shape)
    evolve_case(t, shape, state, draw_event(d, shape, state))


@property_of(
    "update.refuses",
    "EVT-005 SEL-004",
    "core",
    "update.evolve",
    sees=("NaN", "infinity"),
)
def _refuses(d: Draw, t: Trial) -> None:
    """Evidence that is not finite is refused."""
    shape = d.shape()
    state = draw_state(d, shape)
    event = draw_event(d, shape, state)
    bad = d.choice((math.nan, math.inf, -math.inf))
    # GRD-009: with growth on the base alone an event reads the gradient on the support
    support = sorted(state.base.keys() | state.phi.keys())
    event = event if support else replace(event, scope="all")
    at = d.choice(support) if event.scope == "active" else d.integer(0, state.size - 1)
    event.gradient.reshape(-1)[at] = bad
    t.saw("NaN" if math.isnan(bad) else "infinity")
    t.case("update.evolve", asked(shape, state, event))


@property_of(
    "update.pattern",
    "EVT-007 GROW-001 TOP-005",
    "nm",
    "update.evolve",
    sees=("a tie at the drop", "a regrown pair", "a full group"),
)
def _pattern(d: Draw, t: Trial) -> None:
    """If slots grow inside the base only, a pattern has at most N of every M columns after an event."""
    n, m = d.choice(((2, 4), (1, 2), (1, 4), (4, 8)))
    shape = (d.choice((1, 2, 3, 5)), m * d.integer(1, 3))
    at = d.pattern(shape, n, m)
    state = draw_state(d, shape, at, inside=True)
    event = replace(draw_event(d, shape, state, scope="active"), budget=len(at))
    event = replace(event, delta_budget=min(event.delta_budget, len(at)))
    outputs = evolve_case(t, shape, state, event)
    t.saw("a full group", any(sum(p // m == g for p in at) == n for g in range(state.size // m)))
    if outputs is None:
        return
    support = [int(p) for p in outputs["support"]]
    assert all(sum(p // m == g for p in support) <= n for g in range(state.size // m)), "the oracle broke the pattern"


@property_of(
    "adamw.step",
    "OPT-001 OPT-002 OPT-003 OPT-005 NUM-002",
    "core",
    "adamw.step",
    sees=("ages of every size", "a slot without gradient", "weight decay"),
)
def _adamw(d: Draw, t: Trial) -> None:
    """A step of AdamW follows the written formula at every slot, each with its own age."""
    n = d.length(33)
    m, v = d.levels(n, 8), [abs(x) for x in d.levels(n, 8)]
    age = [d.choice((0, 1, 2, 10, 100, 5000)) for _ in range(n)]
    at = range(n)
    phi = d.levels(n, 8)
    moments = {"m": dict(zip(at, m, strict=True)), "v": dict(zip(at, v, strict=True))}
    state = State(n, {}, dict(zip(at, phi, strict=True)), **moments, age=dict(zip(at, age, strict=True)))
    hyper: dict[str, float] = {}
    if d.flag():
        hyper["weight_decay"] = d.integer(0, 4) / 8
    if d.flag():
        hyper |= {"beta1": d.integer(0, 15) / 16, "beta2": d.integer(0, 15) / 16, "eps": 2.0 ** -d.integer(1, 26)}
    g = d.levels(n, 8, 2.0 ** -d.integer(0, 12))
    t.saw("ages of every size", len(set(age)) > 2)
    t.saw("a slot without gradient", 0.0 in g)
    t.saw("weight decay", hyper.get("weight_decay") and any(phi))
    adamw_case(t, state, g, 2.0 ** -d.integer(2, 12), hyper)


@property_of("adamw.clip", "OPT-004", "core", "adamw.clip", sees=("no clipping", "a norm below", "a norm above"))
def _clip(d: Draw, t: Trial) -> None:
    """Gradients are scaled down to the norm, never up."""
    norm, top = d.integer(0, 4096) / 256, d.choice((0.0, 1.0, 0.5, 8.0))
    t.saw("no clipping", top == 0)
    t.saw("a norm below", top and norm < top)
    t.saw("a norm above", top and norm > top)
    t.case("adamw.clip", {"norm": norm, "max_norm": top})
